//! The aggregator, wired: what is opened, in which order, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use proto::dial::{DialError, Dialer};
use regional_redis::LinkError;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::lead::Leader;
use crate::metrics::Metrics;
use crate::uplink::Central;

/// After `stop`: a last cut, its flush and the acknowledgement. What does not leave in time stays in Redis.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// The aggregator cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("the aggregator's configuration is wrong: {0}")]
    Config(String),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("admin: cannot listen on {address}: {source}; stop what uses this address or set another `admin`")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(
        "address_file {path} cannot be written: {source}; name a file in a folder that this user may write",
        path = path.display()
    )]
    AddressFile { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Redis(LinkError),
    #[error("the admin server ended although nobody asked it to: {0}")]
    Admin(io::Error),
}

/// Runs the aggregator until `stop`; then it cuts and forwards once more.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    if let Some(problem) = config.problem() {
        return Err(Error::Config(problem));
    }
    let central = Central::new(Arc::new(Dialer::with_token_file(&config.uplink, &config.uplink_token_file)?));
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let readiness = Readiness::default();

    let listen_error = |source| Error::Listen { address: config.admin, source };
    let admin = TcpListener::bind(config.admin).await.map_err(listen_error)?;
    let address = admin.local_addr().map_err(listen_error)?;
    if let Some(path) = &config.address_file {
        let write = write_address(path, address);
        write.map_err(|source| Error::AddressFile { path: path.clone(), source })?;
    }
    info!(admin = %address, region = config.region, shard = config.shard, "aggregator has started");

    let server = config.redis.as_str().into();
    let leader = Leader { config, server, central, metrics, readiness: readiness.clone() };
    let outcome = tokio::select! {
        biased;
        outcome = leader.run(stop.clone()) => outcome,
        error = serve(admin, router(registry, readiness)) => Err(Error::Admin(error)),
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN_MAX).await } => {
            warn!("the last flush did not leave in time: it stays in redis and is sent after the next start");
            Ok(())
        }
    };
    info!("aggregator has stopped");
    outcome
}

/// Whether this process leads its shard, and if not, why.
#[derive(Clone)]
pub struct Readiness(Arc<Mutex<Option<String>>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some("starting".into()))))
    }
}

impl Readiness {
    /// Redis is approved, and the stream to central is up.
    pub fn ready(&self) {
        self.set(None);
    }

    /// Says what is missing.
    pub fn not_ready(&self, reason: &str) {
        self.set(Some(reason.to_owned()));
    }

    fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Why not, if it is not ready.
    pub fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whole or not at all: whoever waits for the file may read it at any time.
fn write_address(path: &Path, admin: SocketAddr) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, serde_json::json!({ "admin": admin }).to_string())?;
    std::fs::rename(new, path)
}

async fn serve(listener: TcpListener, router: Router) -> io::Error {
    match axum::serve(listener, router).await {
        Ok(()) => io::Error::other("it stopped accepting"),
        Err(error) => error,
    }
}

fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/live", get(async || "ok\n"))
        .route("/ready", get(ready).with_state(readiness))
        .route("/metrics", get(tell_metrics).with_state(Arc::new(registry)))
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.reason() {
        None => (StatusCode::OK, "ok\n".into()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn tell_metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
