//! The gateways, for whoever runs them.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Dashboard, Problem,
    access::{Caller, KeyHolder, of_all_sites},
};
use crate::{
    control::gateways::Retirement,
    query::audit::{self, Position},
};

/// `GET /api/v2/gateways`: `{gateways: [{id, region, registered_at, entered_at, retired_at, last_batch_at,
/// shards: [{gateway, shard, accepted, raw}]}]}`; `accepted` and `raw` are the last records of its log that flushes and raw rows have brought up.
pub async fn list(State(dashboard): State<Arc<Dashboard>>, Caller(principal): Caller) -> Result<Json<Value>, Problem> {
    of_all_sites(&principal, "see or retire gateways")?;
    let positions = audit::reach(&dashboard.store, &BTreeSet::new()).await?.positions;
    let arrivals = audit::last_arrivals(&dashboard.store).await?;
    let gateways = dashboard.control.all_gateways().await?;
    let text = |at: Timestamp| at.to_string();
    let gateways = gateways.into_iter().map(|gateway| {
        let shards = positions.iter().filter(|position| position.gateway == gateway.id).map(Position::json);
        json!({
            "id": gateway.id,
            "region": gateway.region,
            "registered_at": text(gateway.registered),
            "entered_at": gateway.entered.map(text),
            "retired_at": gateway.retired.map(text),
            "last_batch_at": arrivals.get(&gateway.id).and_then(|&ms| Timestamp::from_millisecond(ms as i64).ok()).map(text),
            "shards": shards.collect::<Vec<Value>>(),
        })
    });
    Ok(Json(json!({ "gateways": gateways.collect::<Vec<Value>>() })))
}

/// `POST /api/v2/gateways/ID/retire`: `{id, warnings: [text]}`. For a key alone, and one of all sites: nothing brings a
/// retired gateway back.
pub async fn retire(
    State(dashboard): State<Arc<Dashboard>>,
    KeyHolder(principal): KeyHolder,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    of_all_sites(&principal, "see or retire gateways")?;
    let id = id.to_ascii_lowercase();
    let known = dashboard.control.all_gateways().await?;
    let region = known.iter().find(|gateway| gateway.id == id).map(|gateway| gateway.region.clone());
    let warnings = match region {
        Some(region) => warnings(&dashboard, &region, &id).await?,
        None => Vec::new(),
    };
    match dashboard.control.retire_gateway(&id, Timestamp::now()).await? {
        Retirement::Retired => Ok(Json(json!({ "id": id, "warnings": warnings }))),
        Retirement::Before => Err(Problem::new(StatusCode::CONFLICT, format!("gateway {id} was retired before"))),
        Retirement::Unknown => Err(Problem::new(
            StatusCode::NOT_FOUND,
            format!("gateway {id:?} is not known here; GET /api/v2/gateways lists those that are"),
        )),
    }
}

/// What its log held, as far as it told, that is not with central.
async fn warnings(dashboard: &Dashboard, region: &str, id: &str) -> Result<Vec<String>, Problem> {
    let mut warnings = Vec::new();
    let positions = audit::reach(&dashboard.store, &BTreeSet::new()).await?.positions;
    let positions: Vec<_> = positions.into_iter().filter(|position| position.gateway == id).collect();
    for position in positions.iter().filter(|position| position.raw < position.accepted) {
        let (first, last) = (position.raw + 1, position.accepted);
        warnings.push(format!(
            "records {first} to {last} of shard {} are counted, but their raw rows never came: filters over raw events will \
             lack them, and should Redis be lost nothing tells that they were counted",
            position.shard
        ));
    }
    for (shard, durable) in dashboard.control.durable_of(region, id).await? {
        let accepted = positions.iter().find(|of| of.shard == shard).map_or(0, |of| of.accepted);
        if durable > accepted {
            warnings.push(format!(
                "records {} to {durable} of shard {shard} are in Redis only; the next flush brings them",
                accepted + 1
            ));
        }
    }
    Ok(warnings)
}
