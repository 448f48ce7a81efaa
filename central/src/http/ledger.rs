//! What became of what was sent, over days.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{Dashboard, Problem, access::Caller, stats::find_site};
use crate::query::{days::Days, ledger};

/// A site over days, both included, UTC: `?site_id=S&from=2026-11-20&to=2026-11-22`. Without `to` until today, without
/// `from` 30 days.
#[derive(Deserialize)]
pub struct OverDays {
    #[serde(default)]
    pub(super) site_id: String,
    from: Option<String>,
    to: Option<String>,
}

impl OverDays {
    pub(super) fn days(&self, now: Timestamp) -> Result<Days, Problem> {
        Ok(Days::try_new(self.from.as_deref(), self.to.as_deref(), now)?)
    }
}

/// `GET /api/v2/ledger?site_id=S[&from=DAY&to=DAY]`
pub async fn ledger(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    Query(over): Query<OverDays>,
) -> Result<Json<Value>, Problem> {
    let site = find_site(&dashboard, &principal, &over.site_id)?;
    let now = Timestamp::now();
    let raw_from_ms = dashboard.control.raw_whole_from_ms(&site.name);
    Ok(Json(ledger::answer(&dashboard.store, &site.name, raw_from_ms, over.days(now)?, now).await?))
}
