//! Which user agents are programs: a kept list of crawlers, and the words by which the others give themselves away.

use std::borrow::Cow;

// Over bytes: what the lists look for is ASCII, and sets that know of Unicode are several times as large.
use regex::bytes::{RegexSet, RegexSetBuilder};
use serde::Deserialize;

const CRAWLERS: &str = include_str!("../../user-agents/node_modules/crawler-user-agents/crawler-user-agents.json");

/// What the list does not hold by name. Case does not matter.
///
/// "bot" spares the phones of the brand Cubot. In-app browsers name their app (`Instagram 330.0`, `FBAN/FBIOS`) and are
/// people; HTTP libraries name themselves first.
const GENERIC: [&str; 9] = [
    r"(?:^|[^u])bot|(?:^|[^c])ubot",
    r"crawl|spider|scrape|scan(?:ner|ning)|archiver",
    r"headless|phantomjs|selenium|puppeteer|playwright|webdriver|lighthouse|ptst/",
    r"preview|prerender|validator|uptime|pingdom|statuscake|monitoring|healthcheck|health-check|kube-probe",
    r"^(?:curl|wget|httpie|lwp|libwww|aria2|axel|node|k6/)",
    r"python|aiohttp|httpx|urllib|scrapy|mechanize|libwww-perl|perl/|php/|guzzle|ruby|faraday|typhoeus",
    r"go-http-client|fasthttp|java/|jakarta|apache-httpclient|okhttp/|reactor-netty|unirest|restsharp|winhttp|reqwest|hyper/",
    r"node-fetch|undici|axios|superagent|got \(|deno/|bun/|postman|insomnia|jmeter|locust|apachebench|siege/|vegeta",
    r"https?://|^\W*$",
];

/// The compiled lists.
pub struct Bots {
    crawlers: RegexSet,
    generic: RegexSet,
}

/// A list that was embedded at build cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BotsError {
    /// The file is not what it was.
    #[error("the embedded list of crawlers is not the JSON it should be (run `make build`): {0}")]
    List(#[from] serde_json::Error),
    /// A pattern does not compile.
    #[error("a pattern of the embedded list of crawlers does not compile: {0}")]
    Pattern(#[from] regex::Error),
}

#[derive(Deserialize)]
struct Crawler<'a> {
    #[serde(borrow)]
    pattern: Cow<'a, str>,
}

impl Bots {
    /// Compiles the lists: once a process.
    pub fn try_new() -> Result<Self, BotsError> {
        let crawlers: Vec<Crawler> = serde_json::from_str(CRAWLERS)?;
        Ok(Self {
            crawlers: RegexSetBuilder::new(crawlers.iter().map(|crawler| &crawler.pattern))
                .unicode(false)
                .size_limit(64 << 20)
                .build()?,
            generic: RegexSetBuilder::new(GENERIC).unicode(false).case_insensitive(true).build()?,
        })
    }

    /// Whether this user agent is a program's. An empty one is: every browser says who it is.
    pub fn is_bot(&self, user_agent: &str) -> bool {
        let user_agent = user_agent.as_bytes();
        self.generic.is_match(user_agent) || self.crawlers.is_match(user_agent)
    }
}

#[cfg(test)]
mod tests;
