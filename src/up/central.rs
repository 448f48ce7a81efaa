//! What `up` asks of central once it runs: sites, their snippets, a sign-in link.

use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::api::{Api, ApiError};
use crate::up::site::Site;

const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Central's API, with the key for all sites.
pub struct Central {
    api: Api,
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
    timezone: Option<&'a str>,
}

#[derive(Deserialize)]
struct SignInLink {
    url: String,
}

impl Central {
    /// The central at `url`, asked with `key`.
    pub fn try_new(url: String, key: String) -> Result<Self, ApiError> {
        Ok(Self { api: Api::try_new(url, key, ANSWER_WAIT)? })
    }

    /// Every site there is.
    pub async fn sites(&self) -> Result<Vec<KnownSite>, ApiError> {
        let sites: KnownSites = self.api.ask(self.api.request(Method::GET, "/api/v2/sites")).await?;
        Ok(sites.sites)
    }

    /// Makes the site, or gives an existing one these origins. A timezone that was not named stays as it is.
    pub async fn make_site(&self, site: &Site) -> Result<KnownSite, ApiError> {
        let body = NewSite { site_id: &site.name, origins: &site.origins, timezone: site.timezone.as_deref() };
        self.api.ask(self.api.request(Method::POST, "/api/v2/sites").json(&body)).await
    }

    /// A link that signs one person in, once.
    pub async fn sign_in_link(&self) -> Result<String, ApiError> {
        let link: SignInLink = self.api.ask(self.api.request(Method::POST, "/api/v2/sign-in-links")).await?;
        Ok(link.url)
    }
}
