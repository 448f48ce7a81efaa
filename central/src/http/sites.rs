//! The sites, as the dashboard and an operator see them.

use std::sync::{Arc, PoisonError};

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Dashboard, Problem,
    access::{Caller, of_all_sites},
    json::JsonBody,
};
use crate::{
    control::{
        rules::{NewRules, Rules},
        sites::{Raw, Site, SiteChange, SiteError},
    },
    live::minute_text,
};

/// `GET /api/v2/sites`
pub async fn list(State(dashboard): State<Arc<Dashboard>>, Caller(principal): Caller) -> Result<Json<Value>, Problem> {
    let published = dashboard.control.published().borrow().clone();
    let mut sites = Vec::new();
    for site in published.sites.values().filter(|site| principal.may_see(&site.name)) {
        sites.push(described(&dashboard, site).await?);
    }
    Ok(Json(json!({ "sites": sites })))
}

/// What [`put`] takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSite {
    site_id: String,
    origins: Vec<String>,
    /// Without it a site keeps what it has; a new one gets UTC.
    timezone: Option<String>,
    /// `central` or `none`; without it a site keeps what it has, a new one gets `central`.
    raw: Option<Raw>,
    /// Without them a site keeps what it has, a new one gets the defaults.
    rules: Option<NewRules>,
    /// Whose batches gateways limit together. Without it a site keeps what it has; "" is no tenant, as a new site has none.
    tenant: Option<String>,
    /// Whoever presents none of the site's keys is turned away. Without it a site keeps what it has; a new one has no keys, and `false`.
    key_required: Option<bool>,
}

/// `POST /api/v2/sites`
pub async fn put(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    JsonBody(new): JsonBody<NewSite>,
) -> Result<Json<Value>, Problem> {
    of_all_sites(&principal, "change sites")?;
    let invalid = |error: SiteError| Problem::invalid(error.to_string());
    let mut change = SiteChange::try_new(&new.site_id, &new.origins, new.timezone.as_deref()).map_err(invalid)?;
    if let Some(tenant) = new.tenant {
        change = change.of_tenant(&tenant).map_err(invalid)?;
    }
    change.rules = new.rules.map(Rules::try_new).transpose().map_err(|error| Problem::invalid(error.to_string()))?;
    (change.raw, change.key_required) = (new.raw, new.key_required);
    let Some(site) = dashboard.control.put_site(&change, Timestamp::now()).await? else {
        return Err(Problem::invalid(format!(
            "key_required needs a key, or nobody could send anything: make one by POST /api/v2/sites/{}/keys first",
            change.name.replace('/', "%2F")
        )));
    };
    Ok(Json(described(&dashboard, &site).await?))
}

async fn described(dashboard: &Dashboard, site: &Site) -> Result<Value, Problem> {
    // A site's name needs no escaping: it has no character that means something in HTML.
    // A key is not known any more once it was shown.
    let key = if site.key_required { " data-key=\"KEY\"" } else { "" };
    let (gateway, name) = (&dashboard.gateway_url, &site.name);
    let snippet = format!("<script defer src=\"{gateway}/tideline.js\" data-site=\"{name}\"{key}></script>");
    let first_event = first_event_minute(dashboard, &site.name).await?;
    Ok(json!({
        "site_id": site.name,
        "timezone": site.timezone,
        "origins": site.origins,
        "raw": site.raw,
        "rules": site.rules,
        "tenant": site.tenant,
        "key_required": site.key_required,
        "snippet": snippet,
        "first_event_at": first_event.map(minute_text),
    }))
}

async fn first_event_minute(dashboard: &Dashboard, site: &str) -> Result<Option<u32>, Problem> {
    // The map is whole whatever panicked beside it: it changes by one insert.
    let remembered = || dashboard.first_events.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(minute) = remembered().get(site) {
        return Ok(Some(*minute));
    }
    let minute = dashboard.store.first_event_minute(site).await?;
    if let Some(minute) = minute {
        remembered().insert(site.to_owned(), minute);
    }
    Ok(minute)
}
