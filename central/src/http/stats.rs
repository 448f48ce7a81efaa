//! The Stats API: reports from the store, and the live figures.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::{Query, State},
};
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Dashboard, Problem, access::Caller, json::JsonBody};
use crate::{
    control::{
        access::Principal,
        sites::{Raw, Site},
    },
    live::minute_text,
    query::{self, QueryError, SiteRef},
};

/// The longest that a caller waits for a report. The slowest one measured, a raw filter over a year of a large site,
/// takes half a second.
const REPORT_TIMEOUT: Duration = Duration::from_secs(60);

/// `POST /api/v2/query`
pub async fn query(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    JsonBody(body): JsonBody<Value>,
) -> Result<Json<Value>, Problem> {
    let Some(name) = body.get("site_id").and_then(Value::as_str) else {
        return Err(Problem::invalid("site_id is missing; it is the name of a site, a string"));
    };
    let site = find_site(&dashboard, &principal, name)?;
    let site = SiteRef { name: site.name, timezone: site.timezone, raw: site.raw == Raw::Central };
    let published = dashboard.control.published().borrow().clone();
    let answer = query::answer(&dashboard.store, &site, &body, &published.retired, Timestamp::now());
    match timeout(REPORT_TIMEOUT, answer).await {
        Ok(answer) => Ok(Json(answer?)),
        Err(_) => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the report took more than {} s; ask for a shorter period", REPORT_TIMEOUT.as_secs()),
        )),
    }
}

/// Of [`live`].
#[derive(Deserialize)]
pub struct OfSite {
    #[serde(default)]
    site_id: String,
}

/// `GET /api/v2/live?site_id=S`
pub async fn live(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    Query(OfSite { site_id }): Query<OfSite>,
) -> Result<Json<Value>, Problem> {
    if site_id.is_empty() {
        return Err(Problem::invalid("site_id is missing; ask /api/v2/live?site_id=NAME"));
    }
    let site = find_site(&dashboard, &principal, &site_id)?;
    let now = dashboard.live.of_site(&site.name, Timestamp::now(), Instant::now()).await?;
    let minutes: Vec<Value> = now
        .minutes
        .iter()
        .map(|m| json!({ "minute": minute_text(m.minute), "pageviews": m.pageviews, "events": m.events }))
        .collect();
    Ok(Json(json!({ "current_visitors": now.current_visitors, "minutes": minutes })))
}

/// Whoever may see only one site is not told which others there are.
pub(super) fn find_site(dashboard: &Dashboard, principal: &Principal, name: &str) -> Result<Site, Problem> {
    if !principal.may_see(name) {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            format!("site {name:?} is not there, or this API key is not for it"),
        ));
    }
    dashboard.control.site(name).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, format!("site {name:?} is not there; POST /api/v2/sites makes it"))
    })
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Invalid(message) | QueryError::NeedsRaw(message) => Self::invalid(message),
            QueryError::Store(error) => error.into(),
        }
    }
}
