//! The counted batches of a site, for whoever sent them and wants to compare.

use std::{io, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use http::header;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::error;

use super::{Dashboard, Problem, access::Caller, stats::find_site};
use crate::query::batches;

/// Pages that wait for the reader; behind a full queue the store is not asked.
const PAGES_MAX: usize = 2;

/// A site and when its batches arrived: from the first instant up to, not including, the second. RFC 3339.
#[derive(Deserialize)]
pub struct Arrived {
    #[serde(default)]
    site_id: String,
    from: Option<String>,
    to: Option<String>,
}

/// `GET /api/v2/batches?site_id=S[&from=INSTANT&to=INSTANT]`: a line of JSON a batch, by sid and seq.
pub async fn list(
    State(dashboard): State<Arc<Dashboard>>,
    Caller(principal): Caller,
    Query(arrived): Query<Arrived>,
) -> Result<Response, Problem> {
    let site = find_site(&dashboard, &principal, &arrived.site_id)?.name;
    let (from_ms, to_ms) = (millisecond("from", arrived.from, 0)?, millisecond("to", arrived.to, u64::MAX)?);
    let (first, mut after) = batches::page(&dashboard.store, &site, from_ms, to_ms, None).await?;
    let (pages, body) = mpsc::channel::<io::Result<Bytes>>(PAGES_MAX);
    tokio::spawn(async move {
        let mut rows = first;
        while pages.send(Ok(lines(&rows))).await.is_ok() {
            let Some(cursor) = after else { return };
            (rows, after) = match batches::page(&dashboard.store, &site, from_ms, to_ms, Some(&cursor)).await {
                Ok(page) => page,
                Err(error) => {
                    error!(%error, "store failed a list of batches");
                    // The reader must not take a part for the whole: the body breaks off.
                    let _ = pages.send(Err(io::Error::other("the store failed"))).await;
                    return;
                }
            };
        }
    });
    let body = Body::from_stream(ReceiverStream::new(body));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn lines(rows: &[Value]) -> Bytes {
    rows.iter().map(|row| format!("{row}\n")).collect::<String>().into()
}

fn millisecond(field: &str, text: Option<String>, default: u64) -> Result<u64, Problem> {
    let Some(text) = text else { return Ok(default) };
    let instant = text.parse::<Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    instant.ok_or_else(|| {
        Problem::invalid(format!("`{field}` is {text:?}; it is an instant such as 2026-11-22T12:00:00Z"))
    })
}
