//! The sources that have a name of their own.

use std::{collections::HashMap, sync::LazyLock};

/// What kind of place visitors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Search,
    Social,
    Video,
    Shopping,
    Email,
    Ai,
    /// A place with a name, and no channel of its own.
    Other,
}

pub struct Known {
    pub name: &'static str,
    pub group: Group,
    /// Hosts, their subdomains with them, and ids of Android apps. `google.` stands for `google.` under any country.
    hosts: &'static [&'static str],
    /// What links are tagged with, besides the name itself in lower case.
    tags: &'static [&'static str],
}

/// The source that this host belongs to: the most specific entry, so that `mail.google.com` is not the search.
pub fn by_host(host: &str) -> Option<&'static Known> {
    let suffixes = std::iter::successors(Some(host), |rest| rest.split_once('.').map(|(_, rest)| rest));
    suffixes.into_iter().find_map(|suffix| HOSTS.get(suffix).or_else(|| HOSTS.get(any_country(suffix)?)).copied())
}

/// The source that a link's `utm_source`, `source` or `ref` names: by name, by tag or by host.
pub fn by_tag(tag: &str) -> Option<&'static Known> {
    let tag = tag.to_lowercase();
    TAGS.get(tag.as_str()).copied().or_else(|| by_host(&tag))
}

/// `google.` of `google.co.uk`; nothing of `google.example.org`, which is somebody's.
fn any_country(host: &str) -> Option<&str> {
    let dot = host.find('.')?;
    let ending = &host[dot + 1..];
    let is_country = match ending.split_once('.') {
        None => true,
        Some((second, country)) => second.len() <= 3 && country.len() == 2,
    };
    is_country.then_some(&host[..=dot])
}

static HOSTS: LazyLock<HashMap<&str, &Known>> =
    LazyLock::new(|| KNOWN.iter().flat_map(|known| known.hosts.iter().map(move |&host| (host, known))).collect());

static TAGS: LazyLock<HashMap<String, &Known>> = LazyLock::new(|| {
    let tags = |known: &'static Known| known.tags.iter().map(move |tag| ((*tag).to_owned(), known));
    KNOWN.iter().flat_map(|known| tags(known).chain([(known.name.to_lowercase(), known)])).collect()
});

const fn known(
    name: &'static str,
    group: Group,
    hosts: &'static [&'static str],
    tags: &'static [&'static str],
) -> Known {
    Known { name, group, hosts, tags }
}

static KNOWN: &[Known] = &[
    known(
        "Google",
        Group::Search,
        &["google.", "com.google.android.googlequicksearchbox", "com.google.android.gms"],
        &["adwords", "googleads", "google-ads", "google_ads"],
    ),
    known("Bing", Group::Search, &["bing.com", "com.microsoft.bing"], &["bingads", "bing-ads"]),
    known("DuckDuckGo", Group::Search, &["duckduckgo.com", "ddg.gg", "com.duckduckgo.mobile.android"], &["ddg"]),
    known("Yahoo!", Group::Search, &["yahoo.", "search.yahoo.co.jp"], &["yahoo"]),
    known("Baidu", Group::Search, &["baidu.com"], &[]),
    known("Yandex", Group::Search, &["yandex.", "ya.ru", "ru.yandex.searchplugin"], &[]),
    known("Ecosia", Group::Search, &["ecosia.org", "com.ecosia.android"], &[]),
    known("Brave Search", Group::Search, &["search.brave.com"], &["brave"]),
    known("Startpage", Group::Search, &["startpage.com"], &[]),
    known("Qwant", Group::Search, &["qwant.com"], &[]),
    known("Kagi", Group::Search, &["kagi.com"], &[]),
    known("Mojeek", Group::Search, &["mojeek.com"], &[]),
    known("Naver", Group::Search, &["search.naver.com", "naver.com"], &[]),
    known("Daum", Group::Search, &["search.daum.net"], &[]),
    known("Seznam", Group::Search, &["seznam.cz"], &[]),
    known("Sogou", Group::Search, &["sogou.com"], &[]),
    known("AOL", Group::Search, &["search.aol.com", "aol.com"], &[]),
    known("Swisscows", Group::Search, &["swisscows.com"], &[]),
    known(
        "Facebook",
        Group::Social,
        &["facebook.com", "fb.com", "fb.me", "com.facebook.katana", "com.facebook.lite"],
        &["fb", "facebook-ads", "facebook_ads", "meta"],
    ),
    known("Messenger", Group::Social, &["messenger.com", "com.facebook.orca"], &[]),
    known("Instagram", Group::Social, &["instagram.com", "com.instagram.android"], &["ig", "insta"]),
    known("Threads", Group::Social, &["threads.net", "threads.com", "com.instagram.barcelona"], &[]),
    known("X", Group::Social, &["twitter.com", "x.com", "t.co", "com.twitter.android"], &["twitter"]),
    known("Bluesky", Group::Social, &["bsky.app", "xyz.blueskyweb.app"], &["bsky"]),
    known(
        "Mastodon",
        Group::Social,
        &["mastodon.social", "mstdn.social", "fosstodon.org", "hachyderm.io", "org.joinmastodon.android"],
        &[],
    ),
    known("LinkedIn", Group::Social, &["linkedin.com", "lnkd.in", "com.linkedin.android"], &["li"]),
    known("Reddit", Group::Social, &["reddit.com", "redd.it", "com.reddit.frontpage"], &[]),
    known("Hacker News", Group::Social, &["news.ycombinator.com"], &["hn", "hackernews", "hacker-news"]),
    known("Lobsters", Group::Social, &["lobste.rs"], &[]),
    known("Pinterest", Group::Social, &["pinterest.", "pin.it", "com.pinterest"], &[]),
    known("Tumblr", Group::Social, &["tumblr.com"], &[]),
    known("Quora", Group::Social, &["quora.com"], &[]),
    known("VK", Group::Social, &["vk.com", "vk.ru", "com.vkontakte.android"], &["vkontakte"]),
    known("Weibo", Group::Social, &["weibo.com", "weibo.cn"], &[]),
    known("WeChat", Group::Social, &["weixin.qq.com", "com.tencent.mm"], &[]),
    known("WhatsApp", Group::Social, &["whatsapp.com", "wa.me", "com.whatsapp"], &[]),
    known(
        "Telegram",
        Group::Social,
        &["telegram.org", "t.me", "telegram.me", "org.telegram.messenger", "org.telegram.messenger.web"],
        &[],
    ),
    known("Snapchat", Group::Social, &["snapchat.com", "com.snapchat.android"], &[]),
    known("Discord", Group::Social, &["discord.com", "discordapp.com", "com.discord"], &[]),
    known("LINE", Group::Social, &["line.me"], &[]),
    known("Product Hunt", Group::Social, &["producthunt.com"], &["producthunt"]),
    known("Stack Overflow", Group::Other, &["stackoverflow.com"], &["stackoverflow"]),
    known("GitHub", Group::Other, &["github.com"], &[]),
    known("GitLab", Group::Other, &["gitlab.com"], &[]),
    known("Wikipedia", Group::Other, &["wikipedia.org"], &[]),
    known("Medium", Group::Other, &["medium.com"], &[]),
    known("Slack", Group::Other, &["slack.com", "com.slack"], &[]),
    known("Notion", Group::Other, &["notion.so", "notion.site"], &[]),
    known("Google News", Group::Other, &["news.google.com", "com.google.android.apps.magazines"], &[]),
    known("YouTube", Group::Video, &["youtube.com", "youtu.be", "com.google.android.youtube"], &["yt"]),
    known("TikTok", Group::Video, &["tiktok.com", "com.zhiliaoapp.musically"], &["tiktok-ads"]),
    known("Vimeo", Group::Video, &["vimeo.com"], &[]),
    known("Twitch", Group::Video, &["twitch.tv"], &[]),
    known("Dailymotion", Group::Video, &["dailymotion.com"], &[]),
    known("Bilibili", Group::Video, &["bilibili.com"], &[]),
    known("Amazon", Group::Shopping, &["amazon."], &[]),
    known("eBay", Group::Shopping, &["ebay."], &[]),
    known("Etsy", Group::Shopping, &["etsy.com"], &[]),
    known("AliExpress", Group::Shopping, &["aliexpress.com"], &[]),
    known("Google Shopping", Group::Shopping, &["shopping.google.com"], &[]),
    known("Gmail", Group::Email, &["mail.google.com", "com.google.android.gm"], &[]),
    known(
        "Outlook",
        Group::Email,
        &["outlook.live.com", "outlook.office.com", "outlook.office365.com", "com.microsoft.office.outlook"],
        &[],
    ),
    known("Yahoo! Mail", Group::Email, &["mail.yahoo.com"], &[]),
    known("Proton Mail", Group::Email, &["mail.proton.me"], &[]),
    known("Mailchimp", Group::Email, &["mailchi.mp", "list-manage.com"], &[]),
    known("Substack", Group::Email, &["substack.com"], &[]),
    known("ChatGPT", Group::Ai, &["chatgpt.com", "chat.openai.com", "com.openai.chatgpt"], &["openai"]),
    known("Perplexity", Group::Ai, &["perplexity.ai", "ai.perplexity.app.android"], &[]),
    known("Claude", Group::Ai, &["claude.ai", "com.anthropic.claude"], &[]),
    known("Gemini", Group::Ai, &["gemini.google.com", "bard.google.com", "com.google.android.apps.bard"], &[]),
    known("Copilot", Group::Ai, &["copilot.microsoft.com", "copilot.com", "com.microsoft.copilot"], &[]),
    known("Mistral", Group::Ai, &["chat.mistral.ai"], &[]),
    known("DeepSeek", Group::Ai, &["chat.deepseek.com"], &[]),
    known("Grok", Group::Ai, &["grok.com"], &[]),
    known("Meta AI", Group::Ai, &["meta.ai"], &[]),
    known("You.com", Group::Ai, &["you.com"], &[]),
    known("Phind", Group::Ai, &["phind.com"], &[]),
];
