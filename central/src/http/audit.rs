//! Whether all that central keeps tells one story.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Query, State},
};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

use super::{Dashboard, Problem, access::Caller, ledger::OverDays, stats::find_site};
use crate::query::audit;

/// An audit keeps the engine busy, so there is one at a time; who asks meanwhile waits this long.
const TURN_WAIT: Duration = Duration::from_secs(60);

/// `GET /api/v2/audit?site_id=S[&from=DAY&to=DAY]`
pub async fn audit(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    Query(over): Query<OverDays>,
) -> Result<Json<Value>, Problem> {
    let site = find_site(&dashboard, &principal, &over.site_id)?;
    let days = over.days(Timestamp::now())?;
    let _turn = turn(&dashboard.auditing, TURN_WAIT).await?;
    let Dashboard { store, control, .. } = &*dashboard;
    let published = control.published();
    let look = || {
        let published = published.borrow().clone();
        async move { audit::reach(store, &published.retired).await }
    };
    Ok(Json(audit::answer(store, &site.name, days, control.raw_whole_from_ms(&site.name), look).await?))
}

async fn turn(auditing: &Mutex<()>, wait: Duration) -> Result<MutexGuard<'_, ()>, Problem> {
    timeout(wait, auditing.lock()).await.map_err(|_| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "another audit is being made, and there is one at a time; ask again",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_audit_is_made_at_a_time() {
        let auditing = Mutex::new(());
        let first = turn(&auditing, TURN_WAIT).await.unwrap();
        let second = turn(&auditing, Duration::from_millis(1)).await.unwrap_err();
        assert!(second.status == StatusCode::SERVICE_UNAVAILABLE && second.message.contains("one at a time"));
        let (third, ()) = tokio::join!(turn(&auditing, TURN_WAIT), async { drop(first) });
        assert!(third.is_ok(), "who waits has the next turn");
    }
}
