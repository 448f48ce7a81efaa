//! The dashboard and the Stats API: one listener, recognised callers, strict headers.
//!
//! A request passes: metrics → compression → headers → route → who asks (`access`) → what is asked (`stats`, `sites`)
//! or a file of the dashboard (`dashboard`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use tower_http::compression::CompressionLayer;
use tracing::error;

mod access;
pub mod admin;
mod audit;
mod batches;
mod dashboard;
mod gateways;
mod json;
mod ledger;
mod site_keys;
mod sites;
mod stats;

use crate::{
    control::{Control, ControlError},
    live::Live,
    metrics::{Metrics, RequestLabels, RouteLabels},
    secret::SecretHash,
    store::{Store, StoreError},
};
pub use admin::Readiness;

/// A question or a site in JSON is far smaller; a report's filters can be long.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The dashboard loads nothing from elsewhere; its charting library sets inline styles.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What the routes work with.
pub struct Dashboard {
    /// Sites, keys, sessions.
    pub control: Arc<Control>,
    /// What reports read.
    pub store: Store,
    /// The last minutes.
    pub live: Arc<Live>,
    /// What central tells about itself.
    pub metrics: Metrics,
    /// Whether everything is up.
    pub readiness: Readiness,
    /// Of the key for all sites, if there is one.
    pub api_key: Option<SecretHash>,
    /// The dashboard as people reach it, without a slash at its end.
    pub public_url: String,
    /// A gateway as browsers reach it, without a slash at its end.
    pub gateway_url: String,
    /// Held while an audit is made.
    pub auditing: tokio::sync::Mutex<()>,
    /// Site → the minute of its first event, once there is one: it is asked for with every list of sites.
    pub first_events: Mutex<HashMap<String, u32>>,
}

/// The routes of `listen`.
pub fn router(dashboard: Arc<Dashboard>) -> Router {
    let api = Router::new()
        .route("/query", post(stats::query))
        .route("/live", get(stats::live))
        .route("/ledger", get(ledger::ledger))
        .route("/batches", get(batches::list))
        .route("/audit", get(audit::audit))
        .route("/gateways", get(gateways::list))
        .route("/gateways/{id}/retire", post(gateways::retire))
        .route("/sites", get(sites::list).post(sites::put))
        .route("/sites/{site}/keys", get(site_keys::list).post(site_keys::create))
        .route("/sites/{site}/keys/{id}", delete(site_keys::delete))
        .route("/sign-in-links", post(access::create_link))
        .route("/me", get(access::me))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is no such route; see /api/v2/query") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this route takes another method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    Router::new()
        .nest("/api/v2", api)
        // What only looks at a link, a chat's preview say, must not use it up.
        .route("/sign-in", get(access::sign_in).head(|| async { StatusCode::METHOD_NOT_ALLOWED }))
        .route("/sign-out", post(access::sign_out))
        .merge(admin::health(dashboard.readiness.clone()))
        .fallback(dashboard::file)
        .layer(middleware::map_response(add_headers))
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn_with_state(dashboard.clone(), measure))
        .with_state(dashboard)
}

/// What a client is told when a request fails. What central keeps to itself is in the log.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message }))).into_response()
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        error!(%error, "control data failed a request");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "central cannot use its control data now; its log says why")
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        error!(%error, "store failed a request");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "central cannot use its store now; its log says why")
    }
}

async fn add_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY"); // for browsers that do not know frame-ancestors
    set(header::REFERRER_POLICY, "no-referrer"); // a sign-in token is in a URL once
    // Files of the dashboard say otherwise before they come here.
    set(header::CACHE_CONTROL, "no-store");
    response
}

async fn measure(
    State(dashboard): State<Arc<Dashboard>>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = route.map_or_else(|| "file".to_owned(), |path| path.as_str().to_owned());
    let began = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let metrics = &dashboard.metrics;
    let seconds = began.elapsed().as_secs_f64();
    metrics.http_seconds.get_or_create(&RouteLabels { route: route.clone() }).observe(seconds);
    metrics.http_requests.get_or_create(&RequestLabels { route, status }).inc();
    response
}
