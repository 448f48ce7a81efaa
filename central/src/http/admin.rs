//! Health for whoever runs central, on every listener; the figures on the admin address alone.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::{StatusCode, header};
use prometheus_client::registry::Registry;

/// Whether central answers what it is for.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// `/live` and `/ready`, for any listener.
pub fn health<S: Clone + Send + Sync + 'static>(readiness: Readiness) -> Router<S> {
    let ready = move || async move {
        if readiness.get() {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n")
        }
    };
    Router::new().route("/live", get(|| async { "live\n" })).route("/ready", get(ready))
}

/// The routes of `admin`.
pub fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Arc::new(registry)).merge(health(readiness))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    let status = match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
