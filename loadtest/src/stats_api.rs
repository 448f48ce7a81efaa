//! The reports that the audit asks for.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One query may take this long: reports answer in milliseconds, a central that is starting may need seconds.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// A list of a million batches is 150 MB.
const LIST_TIMEOUT: Duration = Duration::from_secs(120);
/// Central's own limit for one answer. A site with more pages than this lacks those with the fewest pageviews.
const ROWS_MAX: usize = 100_000;

/// Central's Stats API for one site.
pub struct StatsApi {
    http: reqwest::Client,
    base: String,
    key: String,
    site: String,
}

/// What central says it has counted for a site, over all time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pageviews.
    pub pageviews: u64,
    /// All events, pageviews included.
    pub events: u64,
    /// Visits.
    pub visits: u64,
    /// Visitors.
    pub visitors: u64,
    /// Pageviews by page.
    pub pages: BTreeMap<String, u64>,
    /// Events by name; one of the names is `pageview`.
    pub names: BTreeMap<String, u64>,
}

/// A batch as central lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Its sid.
    pub sid: [u8; 16],
    /// Its number.
    pub seq: u32,
    /// Its events that are counted.
    pub events: u64,
    /// Its events that are dropped.
    pub dropped: u64,
}

/// What became of a site's events, over the days that central answers for without being asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Events counted.
    pub counted: u64,
    /// Events dropped by gateways.
    pub dropped: u64,
    /// Events that agents reported as given up.
    pub given_up: u64,
    /// Transmissions of batches that had been taken before.
    pub duplicates: u64,
}

impl Ledger {
    /// What has been added since.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            counted: self.counted.saturating_sub(before.counted),
            dropped: self.dropped.saturating_sub(before.dropped),
            given_up: self.given_up.saturating_sub(before.given_up),
            duplicates: self.duplicates.saturating_sub(before.duplicates),
        }
    }
}

/// Central did not answer a query.
#[derive(Debug, thiserror::Error)]
pub enum StatsApiError {
    /// No answer.
    #[error("central does not answer at {base}: {source}; is it running, and is --central its address?")]
    Unreachable {
        /// Its address.
        base: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The key is not one of central's.
    #[error("central refuses the API key: {0}; give --api-key-file the file `api-key` in its data folder")]
    WrongKey(String),
    /// The site is not one of central's, or the key may not see it.
    #[error("central has no site {site} for this key: {message}; make it with `tideline up --site` or name another")]
    UnknownSite {
        /// The site.
        site: String,
        /// Central's words.
        message: String,
    },
    /// Something else.
    #[error("central answered {status} to a query: {message}")]
    Refused {
        /// HTTP's status.
        status: u16,
        /// Central's words.
        message: String,
    },
    /// Not a Stats API answer.
    #[error("central's answer is not one of the Stats API: {0}")]
    Malformed(String),
}

impl StatsApi {
    /// The API at `base`, such as `http://127.0.0.1:8000`.
    pub fn new(base: &str, key: String, site: &str) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        Self { http: reqwest::Client::new(), base, key, site: site.to_owned() }
    }

    /// Everything counted so far.
    pub async fn counts(&self) -> Result<Counts, StatsApiError> {
        // Two queries: events are counted by event, visits by visit, and no report needs to join them.
        let [pageviews, events] = self.query(["pageviews", "events"]).await?;
        let [visits, visitors] = self.query(["visits", "visitors"]).await?;
        let pages = self.by("event:page", "pageviews").await?;
        let names = self.by("event:name", "events").await?;
        Ok(Counts { pageviews, events, visits, visitors, pages, names })
    }

    /// Visitors seen in the last minutes, flushed or not.
    pub async fn current_visitors(&self) -> Result<u64, StatsApiError> {
        #[derive(Deserialize)]
        struct Live {
            current_visitors: u64,
        }
        let request = self.http.get(format!("{}/api/v2/live", self.base)).query(&[("site_id", &self.site)]);
        let answer = self.send(request).await?;
        let live: Live = serde_json::from_value(answer).map_err(|error| StatsApiError::Malformed(error.to_string()))?;
        Ok(live.current_visitors)
    }

    /// Every batch of the site that arrived since then, by the region's clock, Unix ms.
    pub async fn batches(&self, since_ms: u64) -> Result<Vec<Counted>, StatsApiError> {
        #[derive(Deserialize)]
        struct Row {
            sid: String,
            seq: u32,
            events: u64,
            dropped: u64,
            arrived_ms: u64,
        }
        let malformed = |error: &dyn std::fmt::Display| StatsApiError::Malformed(error.to_string());
        let request = self.http.get(format!("{}/api/v2/batches", self.base)).query(&[("site_id", &self.site)]);
        let text = self.text(request, LIST_TIMEOUT).await?;
        let mut batches = Vec::new();
        for line in text.lines() {
            let row: Row = serde_json::from_str(line).map_err(|error| malformed(&error))?;
            if row.arrived_ms >= since_ms {
                let sid = u128::from_str_radix(&row.sid, 16).map_err(|error| malformed(&error))?.to_be_bytes();
                batches.push(Counted { sid, seq: row.seq, events: row.events, dropped: row.dropped });
            }
        }
        Ok(batches)
    }

    /// The site's ledger.
    pub async fn ledger(&self) -> Result<Ledger, StatsApiError> {
        let request = self.http.get(format!("{}/api/v2/ledger", self.base)).query(&[("site_id", &self.site)]);
        let answer = self.send(request).await?;
        let read = |field: &Value| field.as_u64().ok_or_else(|| StatsApiError::Malformed(answer.to_string()));
        Ok(Ledger {
            counted: read(&answer["counted"])?,
            dropped: read(&answer["dropped"]["events"])?,
            given_up: read(&answer["given_up"]["events"])?,
            duplicates: read(&answer["duplicates"])?,
        })
    }

    async fn query<const N: usize>(&self, metrics: [&str; N]) -> Result<[u64; N], StatsApiError> {
        let body = json!({ "site_id": self.site, "metrics": metrics.as_slice(), "date_range": "all" });
        let answer = self.ask(&body).await?;
        metrics_of(&answer).ok_or_else(|| StatsApiError::Malformed(answer.to_string()))
    }

    async fn by(&self, dimension: &str, metric: &str) -> Result<BTreeMap<String, u64>, StatsApiError> {
        let body = json!({
            "site_id": self.site,
            "metrics": [metric],
            "dimensions": [dimension],
            "date_range": "all",
            "pagination": { "limit": ROWS_MAX },
        });
        let answer = self.ask(&body).await?;
        rows_of(&answer).ok_or_else(|| StatsApiError::Malformed(answer.to_string()))
    }

    async fn ask(&self, question: &Value) -> Result<Value, StatsApiError> {
        self.send(self.http.post(format!("{}/api/v2/query", self.base)).json(question)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, StatsApiError> {
        let text = self.text(request, QUERY_TIMEOUT).await?;
        serde_json::from_str(&text).map_err(|error| StatsApiError::Malformed(error.to_string()))
    }

    async fn text(&self, request: reqwest::RequestBuilder, timeout: Duration) -> Result<String, StatsApiError> {
        let unreachable = |source| StatsApiError::Unreachable { base: self.base.clone(), source };
        let response = request.bearer_auth(&self.key).timeout(timeout).send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(unreachable)?;
        if status == 200 {
            return Ok(text);
        }
        let message = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|body| body.get("error")?.as_str().map(str::to_owned))
            .unwrap_or(text);
        Err(match status {
            401 => StatsApiError::WrongKey(message),
            403 | 404 => StatsApiError::UnknownSite { site: self.site.clone(), message },
            _ => StatsApiError::Refused { status, message },
        })
    }
}

/// The metrics of an answer without dimensions. No row, or a null, is nothing counted.
fn metrics_of<const N: usize>(answer: &Value) -> Option<[u64; N]> {
    let Some(row) = answer.get("results")?.as_array()?.first() else { return Some([0; N]) };
    let metrics = row.get("metrics")?.as_array()?;
    let mut counts = [0; N];
    for (count, metric) in counts.iter_mut().zip(metrics) {
        *count = if metric.is_null() { 0 } else { metric.as_u64()? };
    }
    (metrics.len() == N).then_some(counts)
}

/// The only metric of each row, by the row's only dimension.
fn rows_of(answer: &Value) -> Option<BTreeMap<String, u64>> {
    let row = |row: &Value| {
        let [dimension] = row.get("dimensions")?.as_array()?.as_slice() else { return None };
        let [metric] = row.get("metrics")?.as_array()?.as_slice() else { return None };
        Some((dimension.as_str()?.to_owned(), metric.as_u64()?))
    };
    answer.get("results")?.as_array()?.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_from_an_answer_without_dimensions() {
        let answer = |results: Value| json!({ "results": results, "meta": {}, "query": {} });
        assert_eq!(metrics_of(&answer(json!([{ "metrics": [7, 9], "dimensions": [] }]))), Some([7, 9]));
        assert_eq!(metrics_of(&answer(json!([{ "metrics": [7, null], "dimensions": [] }]))), Some([7, 0]));
        assert_eq!(metrics_of::<2>(&answer(json!([]))), Some([0, 0]));
        assert_eq!(metrics_of::<2>(&answer(json!([{ "metrics": [7] }]))), None);
        assert_eq!(metrics_of::<1>(&answer(json!([{ "metrics": [-1] }]))), None);
        assert_eq!(metrics_of::<1>(&json!({ "error": "no" })), None);
    }

    #[test]
    fn rows_are_read_from_an_answer_with_one_dimension() {
        let answer = |results: Value| json!({ "results": results, "meta": {}, "query": {} });
        let rows = json!([{ "metrics": [7], "dimensions": ["/"] }, { "metrics": [2], "dimensions": ["/a"] }]);
        assert_eq!(rows_of(&answer(rows)), Some(BTreeMap::from([("/".to_owned(), 7), ("/a".to_owned(), 2)])));
        assert_eq!(rows_of(&answer(json!([]))), Some(BTreeMap::new()));
        assert_eq!(rows_of(&answer(json!([{ "metrics": [7], "dimensions": [] }]))), None);
        assert_eq!(rows_of(&answer(json!([{ "metrics": [null], "dimensions": ["/"] }]))), None);
    }
}
