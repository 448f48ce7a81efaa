//! What a request may ask for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use tower_http::compression::CompressionLayer;

use crate::door::Door;
use crate::{agent_files, post, websocket};

/// The routes of one core.
pub fn router(door: Arc<Door>) -> Router {
    let files = Router::new()
        .route(
            "/{file}",
            get(|Path(file): Path<String>, headers: HeaderMap| async move { agent_files::serve(&file, &headers) }),
        )
        .layer(CompressionLayer::new());
    Router::new()
        .route("/v1/stream", get(websocket::upgrade).connect(websocket::upgrade))
        .route("/v1/batch", axum::routing::post(post::batch).options(post::preflight))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .with_state(door)
        .merge(files)
}

async fn ready(State(door): State<Arc<Door>>) -> Response {
    if door.ready.load(Ordering::Relaxed) {
        "ready\n".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: redis is away or not approved by an aggregator, or the clock is off\n",
        )
            .into_response()
    }
}
