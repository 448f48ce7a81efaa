//! What a user agent string says about the visitor's device.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;
use ua_parser::{os, user_agent};

use crate::ingest::bots::{Bots, BotsError};

const REGEXES: &str = include_str!("../../user-agents/node_modules/uap-core/regexes.yaml");

/// Bytes of a user agent that are looked at. Browsers send at most about 300; what apps append behind is theirs.
const USER_AGENT_BYTES_MAX: usize = 512;
/// Shards of the cache: enough that the cores of one machine seldom meet at a lock held for a map look-up.
const SHARDS: usize = 16;
/// Entries of one generation of a shard. 2 × 16 × 512 entries of about 400 bytes are 6.5 MB at most, and hold what a busy
/// gateway sees: the few thousand strings that make up nearly all traffic.
const GENERATION_ENTRIES_MAX: usize = 512;

/// What is known of a device. Empty means unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// "Chrome", "Safari", "Firefox", …
    pub browser: String,
    /// Major version.
    pub browser_version: String,
    /// "Windows", "macOS", "iOS", "Android", "Linux", "ChromeOS", …
    pub os: String,
    /// Major version.
    pub os_version: String,
    /// The kind of device.
    pub device: Device,
    /// The user agent is a program's: its events are not counted.
    pub bot: bool,
}

/// The kind of device a page is read on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// Also televisions, consoles and whatever does not say.
    #[default]
    Desktop,
    /// A phone.
    Mobile,
    /// An iPad says so up to iPadOS 12; later ones call themselves a Mac and count as Desktop.
    Tablet,
}

/// Looks up user agents. Made once a process and shared by its cores: it holds some 18 MB of compiled patterns
/// (`cargo test -p gateway compiling -- --nocapture`).
pub struct Agents {
    browsers: user_agent::Extractor<'static>,
    systems: os::Extractor<'static>,
    bots: Bots,
    cache: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

/// The lists that were embedded at build cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    /// The file is not what it was.
    #[error("the embedded list of user agents is not the YAML it should be (run `make build`): {0}")]
    List(#[from] serde_yaml_ng::Error),
    /// A pattern does not compile.
    #[error("a pattern of the embedded list of user agents does not compile: {0}")]
    Pattern(#[from] ua_parser::Error),
    /// The patterns cannot be searched for together.
    #[error("the patterns of the embedded list of user agents cannot be compiled together: {0}")]
    Patterns(#[from] ua_parser::BuildError),
    /// The list of crawlers.
    #[error(transparent)]
    Bots(#[from] BotsError),
}

/// The two lists in use. The third, of device models, is larger than both and says nothing that is counted.
#[derive(Deserialize)]
struct Lists {
    user_agent_parsers: Vec<user_agent::Parser<'static>>,
    os_parsers: Vec<os::Parser<'static>>,
}

impl Agents {
    /// Compiles the lists.
    pub fn try_new() -> Result<Self, AgentsError> {
        let wanted = REGEXES.split_once("\ndevice_parsers:").map_or(REGEXES, |(wanted, _)| wanted);
        let lists: Lists = serde_yaml_ng::from_str(wanted)?;
        Ok(Self {
            browsers: user_agent::Builder::new().push_all(lists.user_agent_parsers)?.build()?,
            systems: os::Builder::new().push_all(lists.os_parsers).map_err(ua_parser::Error::from)?.build()?,
            bots: Bots::try_new()?,
            cache: Default::default(),
            hasher: RandomState::new(),
        })
    }

    /// What this user agent says. The same strings come again and again, so answers are kept.
    pub fn look_up(&self, user_agent: &str) -> Arc<DeviceInfo> {
        let user_agent = &user_agent[..user_agent.floor_char_boundary(USER_AGENT_BYTES_MAX)];
        let shard = &self.cache[self.hasher.hash_one(user_agent) as usize % SHARDS];
        // A panic while the lock was held would have left the map whole: it has no invariant of ours.
        let lock = || shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(user_agent) {
            return known;
        }
        let info = Arc::new(self.parse(user_agent)); // without the lock: it takes a hundred times as long as a hit
        lock().insert(user_agent, Arc::clone(&info));
        info
    }

    fn parse(&self, user_agent: &str) -> DeviceInfo {
        let browser = self.browsers.extract(user_agent).unwrap_or_default();
        let system = self.systems.extract(user_agent).unwrap_or_default();
        let os = os_name(&system.os).to_owned();
        DeviceInfo {
            browser: browser_name(&browser.family).to_owned(),
            browser_version: browser.major.unwrap_or_default().to_owned(),
            device: device(user_agent, &os),
            os_version: system.major.unwrap_or_default().into_owned(),
            os,
            bot: self.bots.is_bot(user_agent),
        }
    }
}

impl Device {
    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Desktop => "Desktop",
            Self::Mobile => "Mobile",
            Self::Tablet => "Tablet",
        }
    }
}

/// Two generations: a hit in the old one moves to the young one, and when the young one is full the old one is forgotten. What
/// is asked for again stays, with no list to keep in order.
#[derive(Default)]
struct Shard {
    young: HashMap<Box<str>, Arc<DeviceInfo>>,
    old: HashMap<Box<str>, Arc<DeviceInfo>>,
}

impl Shard {
    fn get(&mut self, user_agent: &str) -> Option<Arc<DeviceInfo>> {
        if let Some(info) = self.young.get(user_agent) {
            return Some(Arc::clone(info));
        }
        let (key, info) = self.old.remove_entry(user_agent)?;
        self.keep(key, Arc::clone(&info));
        Some(info)
    }

    fn insert(&mut self, user_agent: &str, info: Arc<DeviceInfo>) {
        self.keep(user_agent.into(), info);
    }

    fn keep(&mut self, key: Box<str>, info: Arc<DeviceInfo>) {
        if self.young.len() >= GENERATION_ENTRIES_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, info);
    }
}

/// The name people use, whatever the device the browser runs on.
fn browser_name(family: &str) -> &str {
    match family {
        "Chrome Mobile" | "Chrome Mobile iOS" | "Chrome Mobile WebView" | "HeadlessChrome" => "Chrome",
        "Mobile Safari" | "Mobile Safari UI/WKWebView" => "Safari",
        "Firefox Mobile" | "Firefox iOS" | "Firefox Focus" => "Firefox",
        "Edge Mobile" | "Edge Webview2" | "Edge iOS" => "Edge",
        "Opera Mobile" | "Opera Mini" | "Opera Touch" | "Opera GX" | "Opera Coast" => "Opera",
        "Samsung Internet" | "Samsung Internet Mobile" => "Samsung Internet",
        "IE" | "IE Mobile" => "Internet Explorer",
        "DuckDuckGo Mobile" => "DuckDuckGo",
        "Yandex Browser" | "YandexBrowser" => "Yandex Browser",
        "Amazon Silk" => "Silk",
        "QQ Browser Mobile" => "QQ Browser",
        "Brave Mobile" => "Brave",
        "Android" => "Android Browser",
        "Google" => "Google App",
        other => other,
    }
}

/// The name people use. All that is a Linux for the desk is Linux: reports are not about distributions.
fn os_name(os: &str) -> &str {
    match os {
        "Mac OS X" | "Mac OS" => "macOS",
        "Chrome OS" => "ChromeOS",
        "Ubuntu" | "Debian" | "Fedora" | "Red Hat" | "CentOS" | "SUSE" | "Arch Linux" | "Gentoo" | "Linux Mint"
        | "Mint" | "Kubuntu" | "Slackware" | "Mageia" | "Mandriva" | "PCLinuxOS" => "Linux",
        "KAIOS" => "KaiOS",
        other => other,
    }
}

fn device(user_agent: &str, os: &str) -> Device {
    let says = |word: &str| user_agent.contains(word);
    let any = |words: &[&str]| words.iter().any(|word| says(word));
    if any(&["TV", "BRAVIA", "CrKey", "AFT", "PlayStation", "Xbox", "Nintendo"]) {
        Device::Desktop
    } else if any(&["iPad", "Kindle", "Silk/", "PlayBook"]) || (says("Tablet") && !says("Tablet PC")) {
        Device::Tablet
    } else if any(&["Mobi", "iPhone", "iPod", "Opera Mini", "BlackBerry", "Windows Phone"]) {
        Device::Mobile
    } else if os == "Android" {
        Device::Tablet // a phone's Android says "Mobile", a tablet's does not
    } else if os == "iOS" {
        Device::Mobile
    } else {
        Device::Desktop
    }
}

#[cfg(test)]
pub(crate) mod tests;
