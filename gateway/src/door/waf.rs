//! Rules of the operator's over requests: what is only counted, and what is turned away, whatever it asks for.
//!
//! They come from a [`WatchedFile`], [`rules`] reads them, [`condition`] and [`rate`] judge a request by one. The file is looked at
//! again every few seconds: another one takes effect whole, a wrong one not at all.

mod condition;
mod rate;
mod rules;

use std::cell::OnceCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{HeaderMap, Method, header};

use crate::ingest::geo::Geo;
use crate::metrics::Metrics;
use crate::watched_file::WatchedFile;
pub use rules::Wrong;
use rules::{Mode, Rules};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// 1,000 rules in some detail.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The rules in force, and the file they come from.
pub struct Waf {
    rules: RwLock<Arc<Rules>>,
    file: Option<WatchedFile>,
    geo: Option<Arc<Geo>>,
    metrics: Arc<Metrics>,
}

/// What a rule can ask of a request.
pub struct Asked<'a> {
    /// Whose request it is, behind every trusted proxy.
    pub address: IpAddr,
    /// `CONNECT` for WebTransport and for a WebSocket over HTTP/2.
    pub method: &'a Method,
    /// As it was sent: nothing is decoded.
    pub path: &'a str,
    /// All of them.
    pub headers: &'a HeaderMap,
    country: OnceCell<String>,
}

/// A rule turns the request away. Its text is all that the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("blocked by rule {rule}")]
pub struct Blocked {
    /// The rule's name.
    pub rule: Arc<str>,
}

/// A file of rules that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the rules in {}: {wrong}", file.display())]
pub struct BadRules {
    /// As the setting `waf_rules` names it.
    pub file: PathBuf,
    /// Why.
    pub wrong: Wrong,
}

impl<'a> Asked<'a> {
    /// A request, by its parts.
    pub fn new(address: IpAddr, method: &'a Method, path: &'a str, headers: &'a HeaderMap) -> Self {
        Self { address, method, path, headers, country: OnceCell::new() }
    }

    /// Without the header it is empty.
    fn user_agent(&self) -> &[u8] {
        self.headers.get(header::USER_AGENT).map_or(&[], |value| value.as_bytes())
    }

    /// Looked up when the first rule asks for it. Empty is unknown.
    fn country(&self, geo: Option<&Geo>) -> &str {
        self.country.get_or_init(|| geo.map(|geo| geo.look_up(self.address).country).unwrap_or_default())
    }
}

impl Waf {
    /// With the rules of this file; without a file everybody passes.
    pub fn try_new(file: Option<&Path>, geo: Option<Arc<Geo>>, metrics: Arc<Metrics>) -> Result<Self, BadRules> {
        let waf = Self {
            rules: RwLock::default(),
            file: file.map(|path| WatchedFile::new(path, FILE_BYTES_MAX)),
            geo,
            metrics,
        };
        waf.look()?;
        Ok(waf)
    }

    /// Whether the request may go on. The first blocking rule that hits ends it; rules that observe are counted on the way there.
    pub fn judge(&self, asked: &Asked<'_>) -> Result<(), Blocked> {
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        for rule in rules.all.iter().filter(|rule| rule.hits(asked, self.geo.as_deref())) {
            rule.hit.inc();
            let mode = rule.mode.label();
            tracing::debug!(rule = &*rule.name, mode, address = %asked.address, path = asked.path, "a rule hit a request");
            if rule.mode == Mode::Block {
                return Err(Blocked { rule: Arc::clone(&rule.name) });
            }
        }
        Ok(())
    }

    /// Takes the file again whenever it has changed, for as long as this runs. A file that cannot be used changes nothing.
    pub async fn follow(self: Arc<Self>) {
        while self.file.is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
            let waf = Arc::clone(&self);
            // The core that this runs on has other work than waiting for a disk.
            let looked = tokio::task::spawn_blocking(move || {
                let unremembered = waf.rules.read().unwrap_or_else(PoisonError::into_inner).forget_idle();
                waf.metrics.waf_unremembered.inc_by(unremembered);
                waf.look()
            });
            match looked.await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(rules))) => tracing::info!(rules, "the changed rules are in force"),
                Ok(Err(error)) => {
                    self.metrics.waf_reload_failures.inc();
                    tracing::warn!(%error, "the changed rules cannot be used; the last ones stay in force");
                }
                Err(error) => tracing::error!(%error, "the rules could not be looked at"),
            }
        }
    }

    /// Puts the file's rules in force if it has changed since it was last read, and says how many they are.
    fn look(&self) -> Result<Option<usize>, BadRules> {
        let Some((file, changed)) = self.file.as_ref().and_then(|file| Some((file, file.changed()?))) else {
            return Ok(None);
        };
        let rules = changed.map_err(Wrong::from).and_then(|text| Rules::parse(&text, self.geo.is_some()));
        let mut rules = rules.map_err(|wrong| BadRules { file: file.path().to_owned(), wrong })?;
        rules.count_with(&self.metrics);
        let count = rules.all.len();
        let mut in_force = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *in_force, Arc::new(rules));
        in_force.forget_counts(&before, &self.metrics);
        Ok(Some(count))
    }
}

#[cfg(test)]
mod tests;
