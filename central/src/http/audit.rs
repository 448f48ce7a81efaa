//! Whether all that central keeps tells one story.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Dashboard, Problem, access::Caller, ledger::OverDays, stats::find_site};
use crate::{control::sites::Raw, query::audit};

/// A flush that is accepted meanwhile moves what is compared; one comes every ten seconds.
const TRIES: u32 = 4;

/// `GET /api/v2/audit?site_id=S[&from=DAY&to=DAY]`
pub async fn audit(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    Query(over): Query<OverDays>,
) -> Result<Json<Value>, Problem> {
    let site = find_site(&dashboard, &principal, &over.site_id)?;
    let days = over.days(Timestamp::now())?;
    if site.raw == Raw::None {
        let reason =
            "it keeps no raw rows (raw = \"none\"), so there is nothing that its rollups could be compared with";
        let (from, to) = days.texts();
        return Ok(Json(json!({
            "site_id": site.name, "from": from, "to": to, "timezone": "UTC", "state": "skipped", "reason": reason,
        })));
    }
    let mut before = reach(&dashboard).await?;
    for _ in 1..TRIES {
        let answer = audit::answer(&dashboard.store, &site.name, days, &before).await?;
        let after = reach(&dashboard).await?;
        if answer["state"] != "different" || after == before {
            return Ok(Json(answer));
        }
        before = after;
    }
    Ok(Json(audit::answer(&dashboard.store, &site.name, days, &before).await?))
}

async fn reach(dashboard: &Dashboard) -> Result<Vec<audit::Position>, Problem> {
    let published = dashboard.control.published().borrow().clone();
    Ok(audit::positions(&dashboard.store, &published.retired).await?)
}
