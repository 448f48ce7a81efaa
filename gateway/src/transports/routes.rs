//! What a request may ask for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tonic::Status;
use tower_http::compression::CompressionLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::door::{Door, Peer};
use crate::transports::{agent_files, grpc, post, websocket};

const NO_SNIFFING: HeaderValue = HeaderValue::from_static("nosniff");
/// A gateway serves no page: what a browser is made to open as one may load nothing, run nothing and be framed by nobody.
const NO_PAGE: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");

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
        .with_state(Arc::clone(&door))
        .merge(files)
        .merge(grpc::router(Arc::clone(&door)))
        .layer(middleware::from_fn_with_state(door, judge))
        .layer(SetResponseHeaderLayer::if_not_present(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFFING))
        .layer(SetResponseHeaderLayer::if_not_present(header::CONTENT_SECURITY_POLICY, NO_PAGE))
        .layer(SetResponseHeaderLayer::if_not_present(header::REFERRER_POLICY, NO_REFERRER))
}

/// What a rule blocks gets no further, whatever it asks for.
async fn judge(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let Err(blocked) = door.judge(Peer::of(&request), &request) else { return next.run(request).await };
    let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
    if content_type.starts_with(b"application/grpc") {
        // Its clients would take a text for a frame.
        return Status::permission_denied(blocked.to_string()).into_http();
    }
    (StatusCode::FORBIDDEN, format!("{blocked}\n")).into_response()
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

#[cfg(test)]
mod tests;
