//! What `up` asks of central once it runs: sites, their snippets, a sign-in link.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::up::site::Site;

const ANSWER_WAIT: Duration = Duration::from_secs(10);
const DEFAULT_TIMEZONE: &str = "UTC";

/// Central's API, with the key for all sites.
pub struct Central {
    url: String,
    key: String,
    client: reqwest::Client,
}

/// A site as central knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct KnownSite {
    pub site_id: String,
    pub timezone: String,
    pub snippet: String,
}

#[derive(Deserialize)]
struct KnownSites {
    sites: Vec<KnownSite>,
}

#[derive(Serialize)]
struct NewSite<'a> {
    site_id: &'a str,
    origins: &'a [String],
    timezone: &'a str,
}

#[derive(Deserialize)]
struct SignInLink {
    url: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Why central did not do what it was asked.
#[derive(Debug, Error)]
pub enum CentralError {
    /// No answer, or one that is not what the API promises.
    #[error("central does not answer as expected: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// It says no, and why.
    #[error("central refuses: {0}")]
    Refused(String),
}

impl Central {
    /// The central at `url`, asked with `key`.
    pub fn try_new(url: String, key: String) -> Result<Self, CentralError> {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WAIT).build()?;
        Ok(Self { url, key, client })
    }

    /// Every site there is.
    pub async fn sites(&self) -> Result<Vec<KnownSite>, CentralError> {
        let sites: KnownSites = self.ask(self.client.get(format!("{}/api/v2/sites", self.url))).await?;
        Ok(sites.sites)
    }

    /// Makes the site, or gives an existing one these origins. A timezone that was not named stays as it is.
    pub async fn make_site(&self, site: &Site, known: &[KnownSite]) -> Result<KnownSite, CentralError> {
        let same = known.iter().find(|known| known.site_id == site.name);
        let timezone = site.timezone.as_deref().or(same.map(|same| same.timezone.as_str()));
        let body =
            NewSite { site_id: &site.name, origins: &site.origins, timezone: timezone.unwrap_or(DEFAULT_TIMEZONE) };
        self.ask(self.client.post(format!("{}/api/v2/sites", self.url)).json(&body)).await
    }

    /// A link that signs one person in, once.
    pub async fn sign_in_link(&self) -> Result<String, CentralError> {
        let link: SignInLink = self.ask(self.client.post(format!("{}/api/v2/sign-in-links", self.url))).await?;
        Ok(link.url)
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, request: reqwest::RequestBuilder) -> Result<T, CentralError> {
        let answer = request.bearer_auth(&self.key).send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.json().await?);
        }
        let reason = answer.json::<Refusal>().await.map(|refusal| refusal.error);
        Err(CentralError::Refused(reason.unwrap_or_else(|_| status.to_string())))
    }
}
