//! The keys of a site, for whoever runs it. A `/` in the site's name is `%2F` in these paths.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Dashboard, Problem,
    access::{Caller, of_all_sites},
};
use crate::control::site_keys::{Deletion, NewKey, SITE_KEYS_MAX, SiteKey};

/// `GET /api/v2/sites/{site}/keys`: `{keys: [{id, created_at}], key_required}`; the id is the key's beginning.
pub async fn list(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    Path(site): Path<String>,
) -> Result<Json<Value>, Problem> {
    of_all_sites(&principal, "see or change the keys of sites")?;
    let site = dashboard.control.site(&site).ok_or_else(|| unknown_site(&site))?;
    let key = |key: &SiteKey| json!({ "id": key.id, "created_at": key.created.to_string() });
    let keys: Vec<_> = site.keys.iter().map(key).collect();
    Ok(Json(json!({ "keys": keys, "key_required": site.key_required })))
}

/// `POST /api/v2/sites/{site}/keys`: `{id, key, created_at}`. It is the only time that the key is shown.
pub async fn create(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    Path(site): Path<String>,
) -> Result<Json<Value>, Problem> {
    of_all_sites(&principal, "see or change the keys of sites")?;
    // As it is kept: to the millisecond.
    let now = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or(Timestamp::UNIX_EPOCH);
    match dashboard.control.create_site_key(&site, now).await? {
        NewKey::Made(key, id) => Ok(Json(json!({ "id": id, "key": key.reveal(), "created_at": now.to_string() }))),
        NewKey::TooMany => Err(Problem::new(
            StatusCode::CONFLICT,
            format!(
                "site {site:?} has {SITE_KEYS_MAX} keys, as many as a site may have; delete one that is in no use any more"
            ),
        )),
        NewKey::UnknownSite => Err(unknown_site(&site)),
    }
}

/// `DELETE /api/v2/sites/{site}/keys/{id}`
pub async fn delete(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    Path((site, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    of_all_sites(&principal, "see or change the keys of sites")?;
    if dashboard.control.site(&site).is_none() {
        return Err(unknown_site(&site));
    }
    match dashboard.control.delete_site_key(&site, &id).await? {
        Deletion::Deleted => Ok(Json(json!({ "id": id }))),
        Deletion::Last => Err(Problem::new(
            StatusCode::CONFLICT,
            format!(
                "{id} is the only key of site {site:?}, which requires one; make another first, or let key_required be false"
            ),
        )),
        Deletion::Unknown => Err(Problem::new(
            StatusCode::NOT_FOUND,
            format!("site {site:?} has no key {id:?}; an id is the first characters of a key, as GET lists them"),
        )),
    }
}

fn unknown_site(site: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("site {site:?} is not known here; GET /api/v2/sites lists those that are"),
    )
}
