//! A gateway from its settings to its end, wired in one place.

mod enter;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use http::HeaderValue;
use prometheus_client::registry::Registry;
use proto::dial::{Dial, DialError, Dialer};
use regional_redis::Shard;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use enter::{Entered, Surroundings, enter};

use crate::admin::{self, Admin};
use crate::clock::Clock;
use crate::config::{Config, Limits};
use crate::delivery::apply::{Applier, ApplyError, Elsewhere, Start};
use crate::delivery::folder::{Folder, FolderError, write_durably};
use crate::delivery::log::{Log, LogError, Opened};
use crate::door::address::TrustedProxies;
use crate::door::capacity::Capacity;
use crate::door::crowd::Crowd;
use crate::door::overload::Overload;
use crate::door::sites::Sites;
use crate::door::throttle::Throttles;
use crate::door::waf::{BadRules, Waf};
use crate::door::{Door, ROOM_KIB};
use crate::ingest::Ingest;
use crate::ingest::cardinality::Cardinality;
use crate::ingest::data_centres::{BadList, DataCentres};
use crate::ingest::geo::{Geo, GeoError};
use crate::ingest::in_flight::InFlight;
use crate::ingest::user_agent::{Agents, AgentsError};
use crate::metrics::Metrics;
use crate::transports::listen::{self, BindError, Ports, Secure};
use crate::transports::quic;
use crate::transports::tls::{Certificates, TlsError};

/// The one shard there is so far.
const SHARD: Shard = Shard(0);
/// Batches between the sessions and the log. Full: the sessions wait.
const LOG_QUEUE: usize = 8 * 1024;
/// Committed groups between the log and Redis. Full: the log waits.
const APPLY_QUEUE: usize = 16;
const RETRY: Duration = Duration::from_millis(200);
/// A core looks for answers, which other threads bring, after so many tasks, and for sockets that are ready after so many. By the
/// runtime's own 31 and 61 a flood that always has something to read would let through one answer in 31 turns, and pages wait a second.
const ANSWERS_EVERY: u32 = 2;
const SOCKETS_EVERY: u32 = 16;
/// Records that Redis has not counted by then are in the log: the next start applies them.
const DRAIN_MAX: Duration = Duration::from_secs(10);
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Why a gateway does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting.
    #[error("the gateway's configuration is wrong: {0}")]
    Config(String),
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The way into Redis.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The way to central.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The database of places.
    #[error(transparent)]
    Geo(#[from] GeoError),
    /// The rules over requests.
    #[error(transparent)]
    Rules(#[from] BadRules),
    /// The list of data centres cannot be used.
    #[error(transparent)]
    DataCentres(#[from] BadList),
    /// The lists of user agents.
    #[error(transparent)]
    Agents(#[from] AgentsError),
    /// The address file.
    #[error("the address file {} cannot be written: {source}", path.display())]
    AddressFile {
        /// Where.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A thread.
    #[error("a thread could not be started, or died: {0}")]
    Thread(io::Error),
}

/// Runs a gateway until `stop`, then drains it: sessions first, then the log, then what is left to apply. `limits` are those of
/// `config`, and later ones for whoever connects, and whatever is sent, from then on.
pub async fn run(config: Config, limits: watch::Receiver<Limits>, stop: CancellationToken) -> Result<(), Error> {
    if let Some(problem) = config.problem() {
        return Err(Error::Config(problem));
    }
    let cores = if config.cores > 0 { config.cores } else { thread::available_parallelism().map_or(1, |n| n.get()) };
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let ready = Arc::new(AtomicBool::new(false));
    let overload = Arc::new(Overload::default());
    let dial: Arc<dyn Dial> = Arc::new(Dialer::with_token_file(&config.uplink, &config.uplink_token_file)?);
    let capacity = Arc::new(Capacity::new(config.when_redis_is_away));
    let mut folder = Folder::open(&config.data)?;
    let geo = config.geo_database.as_deref().map(Geo::try_open).transpose()?.map(Arc::new);
    let waf = Arc::new(Waf::try_new(config.waf_rules.as_deref(), geo.clone(), Arc::clone(&metrics))?);
    let _following_rules = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&waf).follow()));
    let data_centres = Arc::new(DataCentres::try_new(config.data_centres.as_deref())?);
    let _following_data_centres =
        AbortOnDropHandle::new(tokio::spawn(Arc::clone(&data_centres).follow(Arc::clone(&metrics))));
    let ingest = Arc::new(Ingest {
        sites: Sites::default(),
        clock: Clock::new(),
        in_flight: InFlight::default(),
        data_centres: Arc::clone(&data_centres),
        cardinality: Cardinality::new(&config.limits),
        agents: Arc::new(Agents::try_new()?),
        geo,
    });
    let serving = CancellationToken::new();
    let _ends_with_this = serving.clone().drop_guard();
    let Bound { address: bound, tls: bound_tls, ports, quic, certificates } = bind(&config, &limits, cores, &serving)?;
    let health = Admin { registry: Arc::new(registry), ready: Arc::clone(&ready), overload: Arc::clone(&overload) };
    let admin = serve_admin(&config, (bound, bound_tls), health).await?;

    let (mut opened, mut opened_as) = (Log::open(&folder.log(SHARD), folder.id(), SHARD)?, folder.id());
    let around = Surroundings { config: &config, dial, ingest: &ingest, metrics: &metrics, stop: &stop };
    let Some(mut entered) = enter(&around, &folder, &opened).await? else {
        return Ok(()); // stopped before Redis and central were there
    };
    while entered.ahead {
        let elsewhere = tokio::select! {
            elsewhere = entered.session.runs_elsewhere(folder.id()) => elsewhere,
            () = stop.cancelled() => return Ok(()),
        };
        drop(entered);
        match elsewhere {
            // Its id is not given up: of two folders the one whose gateway runs is the newer.
            Ok(Elsewhere::Runs) => folder.become_another()?,
            Ok(Elsewhere::Nobody) => folder.become_new()?,
            Ok(Elsewhere::Unknown) => tracing::warn!("redis was lost meanwhile; it is asked again once it counts"),
            Err(error) => tracing::warn!(%error, "redis lost; whether this gateway runs elsewhere is asked again"),
        }
        if opened_as != folder.id() {
            tracing::warn!(id = %folder.id(), "the data folder is older than its id; it is a new gateway now");
            (opened, opened_as) = (Log::open(&folder.log(SHARD), folder.id(), SHARD)?, folder.id());
        }
        let Some(again) = enter(&around, &folder, &opened).await? else { return Ok(()) };
        entered = again;
    }
    let Entered { entrance, mut session, uplinked, trimming, .. } = entered;
    if !folder.entered() {
        let mut central = entrance.central.clone();
        tokio::select! {
            () = central.enter() => folder.has_entered()?,
            () = stop.cancelled() => return Ok(()),
        }
    }
    if let Some(retired) = folder.retires() {
        match session.retire(retired).await {
            Ok(true) if entrance.central.answered() => folder.has_retired()?,
            Ok(_) => tracing::warn!(%retired, "the replaced id is not retired yet; the next start tries again"),
            Err(error) => {
                tracing::warn!(%error, %retired, "the replaced id is not retired yet; the next start tries again")
            }
        }
    }

    // From the log to Redis.
    let Opened { log, reader, last, .. } = opened;
    let (submit, submissions) = mpsc::channel(LOG_QUEUE);
    let (commit, groups) = mpsc::channel(APPLY_QUEUE);
    let (log_metrics, log_capacity, log_folder) = (Arc::clone(&metrics), Arc::clone(&capacity), folder.log(SHARD));
    let writer = thread::Builder::new()
        .name("log".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.map_err(|source| LogError::Io { path: log_folder, source })?;
            runtime.block_on(log.run(submissions, &commit, &log_metrics, &log_capacity))
        })
        .map_err(Error::Thread)?;
    let start = Start {
        entrance: Arc::clone(&entrance),
        reader,
        last,
        groups,
        capacity: Arc::clone(&capacity),
        stop: stop.clone(),
    };
    let applier = Applier::new(start, &session, Arc::clone(&ingest), Arc::clone(&metrics), Arc::clone(&ready));
    let mut applying = AbortOnDropHandle::new(tokio::spawn(applier.run(session)));
    let delivery = Arc::clone(&entrance.delivery);

    // From the page to the log.
    let _following_files = certificates.map(|certificates| AbortOnDropHandle::new(tokio::spawn(certificates.follow())));
    let room = Arc::new(Semaphore::new(ROOM_KIB as usize));
    let throttles = Arc::new(Throttles::new(&config.limits));
    let forgetful = Arc::clone(&throttles);
    let _forgetting = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            forgetful.forget_idle();
        }
    }));
    let clock_of = Arc::clone(&ingest);
    let now_ms = move || clock_of.clock.now_ms();
    let looking = Arc::clone(&overload).look(ingest.in_flight.clone(), now_ms, Arc::clone(&metrics));
    let _looking = AbortOnDropHandle::new(tokio::spawn(looking));
    let trusted_proxies = TrustedProxies::new(config.trusted_proxies.clone());
    let crowd = Crowd::new(&config.limits, trusted_proxies.clone());
    let limiting = limit(limits.clone(), Arc::clone(&throttles), crowd.clone(), Arc::clone(&ingest));
    let _limiting = AbortOnDropHandle::new(tokio::spawn(limiting));
    let door = |stop: &CancellationToken| Door {
        ingest: Arc::clone(&ingest),
        log: submit.clone(),
        room: Arc::clone(&room),
        capacity: Arc::clone(&capacity),
        throttles: Arc::clone(&throttles),
        overload: Arc::clone(&overload),
        crowd: crowd.clone(),
        waf: Arc::clone(&waf),
        limits: limits.clone(),
        trusted_proxies: trusted_proxies.clone(),
        forwarded_header: config.forwarded_header,
        proxy_protocol: config.proxy_protocol,
        region: config.region.clone(),
        metrics: Arc::clone(&metrics),
        ready: Arc::clone(&ready),
        sessions: TaskTracker::new(),
        stop: stop.clone(),
    };
    let mut served = serve_cores(ports, || door(&serving))?;
    served.extend(quic);
    drop(submit);
    let secure = bound_tls.map(tracing::field::display);
    tracing::info!(address = %bound, tls = secure, admin = %admin, gateway = %folder.id(), cores, "gateway ready");

    let early = tokio::select! {
        biased;
        ended = &mut applying => Some(ended),
        () = stop.cancelled() => None,
    };
    ready.store(false, Ordering::Relaxed);
    if early.is_none() {
        // Whoever balances between gateways sees it, and sends its next agent elsewhere.
        tokio::time::sleep(Duration::from_secs(config.leave_after_s)).await;
    }
    // A log or Redis that cannot go on ends the gateway; its sessions end first, so that nothing is acknowledged any more.
    serving.cancel();
    join(served).await?;
    let written = tokio::task::spawn_blocking(move || writer.join());
    if let Some(ended) = early {
        finished(tokio::time::timeout(DRAIN_MAX, written).await)?;
        return ended.map_err(|error| Error::Thread(io::Error::other(error)))?.map_err(Error::Apply);
    }
    match tokio::time::timeout(DRAIN_MAX, &mut applying).await {
        Ok(ended) => ended.map_err(|error| Error::Thread(io::Error::other(error)))??,
        Err(_) => {
            tracing::warn!("redis did not take the last records; they are in the log, and the next start applies them")
        }
    }
    drop(applying); // its end of the queue closes, so that the log's writer cannot wait on it
    finished(tokio::time::timeout(DRAIN_MAX, written).await)?;
    drop((uplinked, trimming));
    delivery.keep()?;
    tracing::info!("gateway drained");
    Ok(())
}

/// Passes on what changes; the rest is read where a connection begins.
async fn limit(mut limits: watch::Receiver<Limits>, throttles: Arc<Throttles>, crowd: Crowd, ingest: Arc<Ingest>) {
    while limits.changed().await.is_ok() {
        let limits = limits.borrow_and_update().clone();
        throttles.limit(&limits);
        crowd.limit(&limits);
        ingest.cardinality.limit(&limits);
    }
}

async fn serve_admin(
    config: &Config,
    (listen, tls): (SocketAddr, Option<SocketAddr>),
    state: Admin,
) -> Result<SocketAddr, Error> {
    let failed = |source| BindError { address: config.admin, setting: "`admin`", source };
    let listener = tokio::net::TcpListener::bind(config.admin).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, admin::router(state)).await {
            tracing::error!(%error, "the admin address is not served any more");
        }
    });
    if let Some(path) = &config.address_file {
        let text = serde_json::json!({ "listen": listen, "tls": tls, "admin": bound }).to_string();
        write_durably(path, text.as_bytes()).map_err(|source| Error::AddressFile { path: path.clone(), source })?;
    }
    Ok(bound)
}

/// What is listened on, with nobody served yet.
struct Bound {
    address: SocketAddr,
    tls: Option<SocketAddr>,
    /// One a core.
    ports: Vec<Ports>,
    quic: Option<thread::JoinHandle<io::Result<()>>>,
    certificates: Option<Arc<Certificates>>,
}

fn bind(
    config: &Config,
    limits: &watch::Receiver<Limits>,
    cores: usize,
    serving: &CancellationToken,
) -> Result<Bound, Error> {
    let (address, listeners) = listen::bind(config.listen, "`listen`", cores)?;
    let plain = listeners.into_iter().map(|plain| Ports { plain, tls: None, quic: None });
    let mut bound = Bound { address, tls: None, ports: plain.collect(), quic: None, certificates: None };
    let Some(tls) = &config.tls else { return Ok(bound) };
    let certificates = Certificates::open(&tls.certificate, &tls.key)?;
    let acceptor = certificates.acceptor()?;
    let (address, listeners, socket) = match tls.http3 {
        true => listen::bind_with_udp(tls.listen, "`tls.listen`", cores).map(|(a, l, socket)| (a, l, Some(socket)))?,
        false => listen::bind(tls.listen, "`tls.listen`", cores).map(|(a, l)| (a, l, None))?,
    };
    let alt_svc = socket.as_ref().map(|_| alt_svc(tls.http3_public_port.unwrap_or(address.port())));
    for (ports, listener) in bound.ports.iter_mut().zip(listeners) {
        ports.tls = Some(Secure { listener, acceptor: acceptor.clone(), alt_svc: alt_svc.clone() });
    }
    if let Some(socket) = socket {
        let serving =
            quic::start(socket, certificates.quic()?, limits.clone(), cores, serving.clone()).map_err(Error::Thread)?;
        for (ports, connections) in bound.ports.iter_mut().zip(serving.cores) {
            ports.quic = Some(connections);
        }
        bound.quic = Some(serving.thread);
    }
    (bound.tls, bound.certificates) = (Some(address), Some(certificates));
    Ok(bound)
}

/// HTTP/3 on this port of the same host, for a day.
fn alt_svc(port: u16) -> HeaderValue {
    HeaderValue::try_from(format!("h3=\":{port}\"; ma=86400")).expect("digits and quotes")
}

/// A thread and a runtime for each core.
fn serve_cores(ports: Vec<Ports>, door: impl Fn() -> Door) -> Result<Vec<thread::JoinHandle<io::Result<()>>>, Error> {
    let serve = |(core, ports): (usize, Ports)| {
        let door = Arc::new(door());
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .global_queue_interval(ANSWERS_EVERY)
                .event_interval(SOCKETS_EVERY)
                .build()?;
            runtime.block_on(listen::serve(ports, door))
        };
        thread::Builder::new().name(format!("core-{core}")).spawn(body).map_err(Error::Thread)
    };
    ports.into_iter().enumerate().map(serve).collect()
}

async fn join(threads: Vec<thread::JoinHandle<io::Result<()>>>) -> Result<(), Error> {
    for thread in threads {
        let joined = tokio::task::spawn_blocking(move || thread.join())
            .await
            .map_err(|error| Error::Thread(io::Error::other(error)))?;
        joined.map_err(|_| Error::Thread(io::Error::other("a core panicked")))?.map_err(Error::Thread)?;
    }
    Ok(())
}

type Written =
    Result<Result<thread::Result<Result<(), LogError>>, tokio::task::JoinError>, tokio::time::error::Elapsed>;

fn finished(written: Written) -> Result<(), Error> {
    match written {
        Ok(Ok(Ok(result))) => Ok(result?),
        Ok(_) => Err(Error::Thread(io::Error::other("the log's writer panicked"))),
        Err(_) => Err(Error::Thread(io::Error::other("the log's writer did not end"))),
    }
}
