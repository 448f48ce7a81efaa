//! Central, wired: what is opened, in which order, and how it ends.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::Config,
    control::{Control, ControlError},
    folder::{DataFolder, FolderError},
    http::{self, Dashboard, Readiness},
    live::Live,
    metrics::Metrics,
    secret::{SecretFileError, SecretHash},
    store::{Store, StoreConfig, StoreError},
    uplink::{Central, DiskBooks},
};

/// Central cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{field}: cannot listen on {address}: {source}; stop what uses this address or set another `{field}`")]
    Listen { field: &'static str, address: SocketAddr, source: io::Error },
    #[error("address_file {path} cannot be written: {source}; name a file in a folder that this user may write")]
    AddressFile { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} ended although nobody asked it to")]
    Ended(&'static str),
}

/// How often what has expired is looked for: salts, sessions, links.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(600);

/// After `stop`, connections that are still open get this long. An accepted flush takes a fraction of a second.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs central until `stop`, then drains.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    let token = SecretHash::of_file("uplink_token_file", &config.uplink_token_file)?;
    let api_key = config.api_key_file.as_deref().map(|path| SecretHash::of_file("api_key_file", path)).transpose()?;
    let folder = DataFolder::open(&config.data)?;
    let http = bind("listen", config.listen).await?;
    let uplink = bind("uplink", config.uplink).await?;
    let admin = bind("admin", config.admin).await?;
    if let Some(path) = &config.address_file {
        let write = write_addresses(path, &http, &uplink, &admin);
        write.map_err(|source| Error::AddressFile { path: path.clone(), source })?;
    }

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let readiness = Readiness::default();
    let closing = stop.child_token(); // also when one of the servers fails
    let mut servers = Servers::default();
    servers.serve("admin", admin, http::admin::router(registry, readiness.clone()), &closing);

    let control = Arc::new(Control::open(folder.path()).await?);
    control.renew_salts(Timestamp::now()).await?;
    let store = Store::open(StoreConfig {
        path: folder.path().join("clickhouse"),
        libchdb: config.clickhouse.libchdb,
        memory_max_bytes: config.clickhouse.memory_max_bytes,
    })
    .await?;
    let live = Arc::new(Live::new(store.clone()));
    let dashboard = Arc::new(Dashboard {
        control: control.clone(),
        store: store.clone(),
        live: live.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        api_key,
        public_url: public_url(config.public_url, &http),
        gateway_url: without_slash(config.gateway_url),
        auditing: tokio::sync::Mutex::default(),
        first_events: Mutex::new(HashMap::new()),
    });
    let uplink_address = uplink.local_addr().unwrap_or(config.uplink);
    let books = Arc::new(DiskBooks { control: control.clone(), store: store.clone(), live });
    let central = Central::new(books, metrics, Some(folder.path().to_owned()));
    servers.receive(Arc::new(central), token, uplink, &closing);
    let http_address = http.local_addr().unwrap_or(config.listen);
    servers.serve("http", http, http::router(dashboard), &closing);
    let housekeeping = tokio::spawn(keep_house(control.clone(), closing.clone()));
    readiness.set(true);
    info!(listen = %http_address, uplink = %uplink_address, "central is ready");

    let outcome = tokio::select! {
        biased; // the servers end by the same stop
        () = stop.cancelled() => Ok(()),
        failed = servers.ended() => Err(failed),
    };
    readiness.set(false);
    closing.cancel();
    servers.drain().await;
    housekeeping.abort();
    store.close().await;
    control.close().await;
    info!("central has stopped");
    outcome
}

async fn bind(field: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { field, address, source })
}

/// Whoever reads the file finds it whole or not at all.
fn write_addresses(path: &Path, http: &TcpListener, uplink: &TcpListener, admin: &TcpListener) -> io::Result<()> {
    let text = json!({
        "listen": http.local_addr()?.to_string(),
        "uplink": uplink.local_addr()?.to_string(),
        "admin": admin.local_addr()?.to_string(),
    })
    .to_string();
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    std::fs::write(&unfinished, text)?;
    std::fs::rename(&unfinished, path)
}

fn public_url(configured: Option<String>, http: &TcpListener) -> String {
    configured.map(without_slash).unwrap_or_else(|| match http.local_addr() {
        Ok(address) => format!("http://{address}"),
        Err(_) => String::new(), // links are then paths, which still say what to open
    })
}

fn without_slash(url: String) -> String {
    url.trim_end_matches('/').to_owned()
}

/// The tasks that answer on a socket each. None of them ends before it is told to, unless it failed.
#[derive(Default)]
struct Servers(JoinSet<&'static str>);

impl Servers {
    fn serve(&mut self, name: &'static str, listener: TcpListener, router: Router, stop: &CancellationToken) {
        let stop = stop.clone();
        self.0.spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
                warn!(%error, name, "server failed");
            }
            name
        });
    }

    fn receive(&mut self, central: Arc<Central>, token: SecretHash, listener: TcpListener, stop: &CancellationToken) {
        let stop = stop.clone();
        self.0.spawn(async move {
            if let Err(error) = central.serve(listener, token, stop).await {
                warn!(%error, name = "uplink", "server failed");
            }
            "uplink"
        });
    }

    async fn ended(&mut self) -> Error {
        match self.0.join_next().await {
            Some(Ok(name)) => Error::Ended(name),
            _ => Error::Ended("a server"),
        }
    }

    async fn drain(&mut self) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if timeout(DRAIN_TIMEOUT, all).await.is_err() {
            warn!(open = self.0.len(), "servers did not drain in time");
            self.0.shutdown().await;
        }
    }
}

async fn keep_house(control: Arc<Control>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = Timestamp::now();
        if let Err(error) = control.renew_salts(now).await {
            warn!(%error, "salts were not renewed");
        }
        if let Err(error) = control.forget_expired(now).await {
            warn!(%error, "expired sessions were not deleted");
        }
    }
}
