//! `/live`, `/ready` and `/metrics`, on an address of their own that the public does not reach.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use prometheus_client::registry::Registry;

use crate::door::overload::Overload;

use std::sync::atomic::{AtomicBool, Ordering};

/// What they show.
#[derive(Clone)]
pub struct Admin {
    /// Every metric.
    pub registry: Arc<Registry>,
    /// Redis counts for this gateway.
    pub ready: Arc<AtomicBool>,
    /// Newcomers are turned away.
    pub overload: Arc<Overload>,
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    let (status, text) = match admin.ready.load(Ordering::Relaxed) {
        true if admin.overload.sheds() => (StatusCode::SERVICE_UNAVAILABLE, "overloaded: send newcomers elsewhere\n"),
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    };
    (status, text).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
