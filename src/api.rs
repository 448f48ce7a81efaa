//! Central's API, asked with a key.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Where central is, and the key for it: what every command that asks it takes.
#[derive(clap::Args, Debug)]
pub struct Access {
    /// Central, as its dashboard is reached
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: Url,
    /// A file that holds an API key; `tideline up` writes one
    #[arg(long, value_name = "FILE", default_value = "./data/api-key")]
    key_file: PathBuf,
}

/// Central's API.
pub struct Api {
    url: String,
    key: String,
    client: reqwest::Client,
}

/// Why central did not do what it was asked.
#[derive(Debug, Error)]
pub enum ApiError {
    /// No answer, or one that is not what the API promises.
    #[error("central does not answer as expected: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// It says no, and why.
    #[error("central refuses: {0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Access {
    /// The API that these name, whose answers may take this long.
    pub fn open(&self, answer_wait: Duration) -> anyhow::Result<Api> {
        let key = std::fs::read_to_string(&self.key_file).with_context(|| {
            format!("cannot read the API key in {}; name it with --key-file", self.key_file.display())
        })?;
        Ok(Api::try_new(self.url.as_str().trim_end_matches('/').to_owned(), key.trim().to_owned(), answer_wait)?)
    }
}

impl Api {
    /// Central at `url`, asked with `key`.
    pub fn try_new(url: String, key: String, answer_wait: Duration) -> Result<Self, ApiError> {
        let client = reqwest::Client::builder().no_proxy().timeout(answer_wait).build()?;
        Ok(Self { url, key, client })
    }

    /// A request of a path such as `/api/v2/sites`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// Sends a request and reads the answer.
    pub async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ApiError> {
        let answer = request.bearer_auth(&self.key).send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.json().await?);
        }
        let reason = answer.json::<Refusal>().await.map(|refusal| refusal.error);
        Err(ApiError::Refused(reason.unwrap_or_else(|_| status.to_string())))
    }
}
