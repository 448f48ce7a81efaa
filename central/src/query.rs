//! Answers reports in the shape of Plausible's Stats API v2.
//!
//! The way of a question: `parse` makes a [`question::Question`] of the body, strictly; `period` finds the instants and
//! time buckets it is about, in the site's timezone; `plan` decides which tables answer, or that none does; `sql` and
//! `filters` write one statement; `response` gives its rows their shape, and `freshness` says what raw events lack.
//!
//! Beside reports: [`ledger`] tells what became of everything that was sent, over [`days`]; [`audit`] compares all that is
//! kept; [`batches`] lists what was counted.

pub mod audit;
pub mod batches;
pub mod days;
mod filters;
mod freshness;
pub mod ledger;
mod parse;
mod period;
mod plan;
mod question;
mod response;
mod sql;

use std::collections::BTreeSet;

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use crate::store::{Store, StoreError, number};

use period::Period;
use plan::Plan;
use question::{Dates, Metric, Named};
use response::Beside;

/// ClickHouse's code for a regular expression that it cannot compile.
const CANNOT_COMPILE_REGEXP: u32 = 427;

/// The site that a question is about, as control data knows it.
#[derive(Debug, Clone)]
pub struct SiteRef {
    /// Its name; the question's `site_id`.
    pub name: String,
    /// IANA name of the timezone that its days are counted in.
    pub timezone: String,
    /// Whether its raw events come to central.
    pub raw: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The question is wrong; the message says what would be right.
    #[error("{0}")]
    Invalid(String),
    /// The question is right but needs raw events, which the site does not send to central.
    #[error("{0}")]
    NeedsRaw(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Answers the body of `POST /api/v2/query` for a site, as of `now`. `retired`: gateways that nothing waits for.
pub async fn answer(
    store: &Store,
    site: &SiteRef,
    body: &Value,
    retired: &BTreeSet<String>,
    now: Timestamp,
) -> Result<Value, QueryError> {
    let question = parse::question(body, &site.name)?;
    let timezone = TimeZone::get(&site.timezone).map_err(|_| {
        QueryError::Invalid(format!("the site's timezone {:?} is not an IANA timezone such as \"UTC\"", site.timezone))
    })?;
    let first_event_minute = match question.dates {
        Dates::Named(Named::All) => store.first_event_minute(&site.name).await?,
        _ => None,
    };
    let period = Period::resolve(&question.dates, timezone, now, first_event_minute)?;
    let plan = Plan::of(question, period)?;
    if plan.needs_raw() && !site.raw {
        return Err(QueryError::NeedsRaw(format!(
            "this needs raw events, and site {:?} keeps none (raw = \"none\"); ask for one thing at a time: pages, names of \
             events, or what visits have",
            site.name
        )));
    }
    let all_visitors = match plan.question.metrics.contains(&Metric::Percentage) {
        true => {
            total(&store.rows(sql::results(&site.name, &plan.of_all_visitors()?, 0)).await.map_err(regex_or_store)?)?
        }
        false => 0,
    };
    let rows = store.rows(sql::results(&site.name, &plan, all_visitors)).await.map_err(regex_or_store)?;
    let mut beside = Beside::default();
    if plan.question.include.total_rows {
        beside.total_rows = Some(total(&store.rows(sql::total(&site.name, &plan)).await?)?);
    }
    if plan.needs_raw() {
        beside.raw = Some(freshness::of(store, &site.name, &plan.period, retired).await?);
    }
    Ok(response::build(&site.name, &plan, rows, beside))
}

fn total(rows: &[Vec<Value>]) -> Result<u64, StoreError> {
    rows.first().map_or(Ok(0), |row| number(row, 0))
}

/// Only the engine can tell whether a pattern is one: that error is the asker's.
fn regex_or_store(error: StoreError) -> QueryError {
    match error {
        StoreError::Engine { code: CANNOT_COMPILE_REGEXP, .. } => {
            QueryError::Invalid("a pattern of `matches` is not a regular expression; the syntax is RE2's".to_owned())
        }
        error => QueryError::Store(error),
    }
}
