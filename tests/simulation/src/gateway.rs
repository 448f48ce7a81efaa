//! A gateway without sockets and threads: the real folder, log, applier, outcomes, shipper, trimmer and uplink, wired as its
//! service wires them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use gateway::clock::{Clock, Machine};
use gateway::config::Limits;
use gateway::delivery::apply::{Applier, Elsewhere, Entrance, Entry, Session, Start};
use gateway::delivery::folder::Folder;
use gateway::delivery::log::{Allowed, Log, Opened, Reader, Trimmer};
use gateway::delivery::processes::Processes;
use gateway::delivery::progress::Delivery;
use gateway::delivery::raw::Shipper;
use gateway::delivery::trim::Trimming;
use gateway::delivery::uplink::{self, Uplink};
use gateway::door::address::{ForwardedHeader, TrustedProxies};
use gateway::door::capacity::{Capacity, WhenRedisIsAway};
use gateway::door::crowd::Crowd;
use gateway::door::sites::Sites;
use gateway::door::throttle::Throttles;
use gateway::door::waf::Waf;
use gateway::door::{Door, ROOM_KIB};
use gateway::ingest::Ingest;
use gateway::ingest::cardinality::Cardinality;
use gateway::ingest::in_flight::InFlight;
use gateway::ingest::user_agent::Agents;
use gateway::metrics::Metrics;
use prometheus_client::registry::Registry;
use proto::dial::Dial;
use proto::uplink::{GatewayHello, ShardLsn};
use regional_redis::{Lsn, Server, Shard};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::door::{Doors, Place};
use crate::rules::Kept;
use crate::time::World;

/// The region of everyone.
pub const REGION: &str = "here";
const SHARD: Shard = Shard(0);
/// So that segments fill up, and are trimmed.
const SEGMENT_BYTES: u64 = 8 * 1024;
const RETRY: Duration = Duration::from_millis(200);

/// What a gateway runs in.
#[derive(Clone)]
pub struct Surroundings {
    /// Which of the doors is its.
    pub number: usize,
    /// Its data folder.
    pub folder: PathBuf,
    /// The region's Redis.
    pub redis: Server,
    /// Central.
    pub dial: Arc<dyn Dial>,
    /// Where pages find it.
    pub doors: Doors,
    /// The time.
    pub world: World,
    /// The machine's clocks are so much ahead, ms.
    pub ahead_ms: i64,
    /// While Redis is away.
    pub policy: WhenRedisIsAway,
    /// Who may pass for a copy.
    pub copied: Copied,
    /// Of the protocol.
    pub rules: Kept,
}

/// Ids of gateways of which there is, or was, another folder.
#[derive(Clone, Default)]
pub struct Copied(Arc<Mutex<BTreeSet<String>>>);

impl Copied {
    /// There is another one.
    pub fn insert(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }

    /// Whether there is.
    pub fn contains(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

/// What can be seen of a gateway from outside.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Option<View>>>);

struct View {
    id: String,
    log: PathBuf,
    first_last: u64,
    metrics: Arc<Metrics>,
    delivery: Arc<Delivery>,
}

impl Seen {
    /// The id of its folder.
    pub fn id(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|view| view.id.clone())
    }

    /// Where its log is.
    pub fn log(&self) -> Option<PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|view| view.log.clone())
    }

    /// Central has everything that it has logged, also as raw rows.
    pub fn is_shipped(&self) -> bool {
        let view = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        view.as_ref().is_some_and(|View { first_last, metrics, delivery, .. }| {
            let last = first_last + metrics.log_records.get();
            let allowed = delivery.allowed();
            allowed.accepted.0 >= last && allowed.shipped.0 >= last
        })
    }

    /// Last record, and how far it has come.
    pub fn position(&self) -> String {
        let view = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        view.as_ref().map_or_else(String::new, |View { id, first_last, metrics, delivery, .. }| {
            format!("{} last {} {:?}", &id[..8], first_last + metrics.log_records.get(), delivery.allowed())
        })
    }
}

#[derive(Debug)]
struct Clocks(World, i64);

impl Machine for Clocks {
    fn steady_ms(&self) -> u64 {
        self.0.elapsed_ms()
    }

    fn wall_ms(&self) -> u64 {
        self.0.region_ms().saturating_add_signed(self.1)
    }
}

/// One process, until `killed`: what it has started ends with it.
pub async fn run(with: Surroundings, seen: Seen, killed: CancellationToken) -> Result<(), String> {
    let metrics = Arc::new(Metrics::new(&mut Registry::default()));
    let ready = Arc::new(AtomicBool::new(false));
    let capacity = Arc::new(Capacity::new(with.policy));
    let mut folder = Folder::open(&with.folder).map_err(|error| error.to_string())?;
    let ingest = Arc::new(Ingest {
        sites: Sites::default(),
        clock: Clock::with(Clocks(with.world.clone(), with.ahead_ms)),
        in_flight: InFlight::default(),
        data_centres: Arc::default(),
        cardinality: Cardinality::new(&Limits::default()),
        agents: agents(),
        geo: None,
    });
    let mut opened = open(&folder)?;
    let mut entered = enter(&with, &folder, &opened, &ingest, &metrics).await?;
    while entered.ahead && with.rules.holds("4-id") {
        let elsewhere = entered.session.runs_elsewhere(folder.id()).await;
        if matches!(elsewhere, Ok(Elsewhere::Runs | Elsewhere::Nobody))
            && !with.copied.contains(&folder.id().to_string())
        {
            return Err(format!("gateway {} passes for a copy, and is none", folder.id()));
        }
        drop(entered);
        let another = match elsewhere {
            Ok(Elsewhere::Runs) => folder.become_another(),
            Ok(Elsewhere::Nobody) => folder.become_new(),
            Ok(Elsewhere::Unknown) | Err(_) => Ok(()),
        };
        another.map_err(|error| error.to_string())?;
        tracing::info!(gateway = with.number, ?elsewhere, id = %folder.id(), "the folder may be older than its id");
        opened = open(&folder)?;
        entered = enter(&with, &folder, &opened, &ingest, &metrics).await?;
    }
    if entered.ahead {
        entered.session.applied = opened.last; // as if the log were what Redis knows
    }
    let Entered { entrance, mut session, uplinked, .. } = entered;
    if !folder.entered() {
        entrance.central.clone().enter().await;
        folder.has_entered().map_err(|error| error.to_string())?;
    }
    if let Some(retired) = folder.retires()
        && matches!(session.retire(retired).await, Ok(true))
        && entrance.central.answered()
    {
        folder.has_retired().map_err(|error| error.to_string())?;
    }
    *seen.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(View {
        id: folder.id().to_string(),
        log: folder.log(SHARD),
        first_last: opened.last.0,
        metrics: metrics.clone(),
        delivery: entrance.delivery.clone(),
    });

    let Opened { log, reader, last, .. } = opened;
    let (submit, submissions) = mpsc::channel(8 * 1024);
    let (commit, groups) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let start =
        Start { entrance: entrance.clone(), reader, last, groups, capacity: capacity.clone(), stop: stop.clone() };
    let applier = Applier::new(start, &session, ingest.clone(), metrics.clone(), ready.clone());
    let mut applying = AbortOnDropHandle::new(tokio::spawn(applier.run(session)));
    let trimming = Trimming::new(folder.log(SHARD), entrance.delivery.clone(), metrics.clone());
    let trimming = AbortOnDropHandle::new(tokio::spawn(trimming.run()));
    let without = without(&with, folder.log(SHARD), entrance.delivery.clone());
    let without = AbortOnDropHandle::new(tokio::spawn(without));
    let door = Door {
        ingest,
        log: submit,
        room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
        capacity: capacity.clone(),
        throttles: Arc::new(Throttles::new(&Limits::default())),
        overload: Arc::default(),
        crowd: Crowd::new(&Limits::default(), TrustedProxies::default()),
        waf: Arc::new(Waf::try_new(None, None, metrics.clone()).map_err(|error| error.to_string())?),
        limits: watch::channel(Limits::default()).1,
        trusted_proxies: TrustedProxies::default(),
        forwarded_header: ForwardedHeader::default(),
        proxy_protocol: false,
        region: REGION.into(),
        metrics: metrics.clone(),
        ready,
        sessions: TaskTracker::new(),
        stop,
    };
    with.doors.set(with.number, Some(Place { door: Arc::new(door), killed }));
    let ended = tokio::select! {
        biased;
        ended = log.run(submissions, &commit, &metrics, &capacity) => ended.map_err(|error| error.to_string()),
        ended = &mut applying => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        },
    };
    with.doors.set(with.number, None);
    drop((uplinked, trimming, without));
    ended
}

/// The lists of user agents, compiled once: that takes longer than most runs.
fn agents() -> Arc<Agents> {
    static AGENTS: OnceLock<Arc<Agents>> = OnceLock::new();
    // On a thread without a seed: which run comes first must not matter.
    let compile = || std::thread::spawn(|| Agents::try_new().expect("the lists are embedded")).join();
    AGENTS.get_or_init(|| Arc::new(compile().expect("it does not panic"))).clone()
}

fn open(folder: &Folder) -> Result<Opened, String> {
    Log::open_with_segments(&folder.log(SHARD), folder.id(), SHARD, SEGMENT_BYTES).map_err(|error| error.to_string())
}

struct Entered {
    entrance: Arc<Entrance>,
    session: Session,
    ahead: bool,
    uplinked: AbortOnDropHandle<()>,
}

async fn enter(
    with: &Surroundings,
    folder: &Folder,
    opened: &Opened,
    ingest: &Arc<Ingest>,
    metrics: &Arc<Metrics>,
) -> Result<Entered, String> {
    let log = folder.log(SHARD);
    let delivery = Delivery::open(&log, folder.id(), SHARD, opened.first).map_err(|error| error.to_string())?;
    let delivery = Arc::new(delivery);
    let processes = Processes::open(&log, opened.last).map_err(|error| error.to_string())?;
    let hello = GatewayHello {
        region: REGION.into(),
        gateway: folder.id().to_string(),
        last: vec![ShardLsn { shard: SHARD.0, lsn: opened.last.0 }],
        retires: folder.retires().map(|id| id.to_string()).unwrap_or_default(),
        entered: folder.entered(),
    };
    let reader = Reader::new(&log);
    let shipper = Shipper::new(SHARD, delivery.clone(), reader, ingest.clone(), metrics.clone());
    let uplink = Uplink {
        dial: with.dial.clone(),
        ingest: ingest.clone(),
        cache: folder.configuration(),
        shipper,
        metrics: metrics.clone(),
    };
    let wait_for_central = if uplink.restore() { Duration::from_secs(2) } else { Duration::MAX };
    let (mut central, asked) = uplink::central(SHARD, hello);
    let uplinked = AbortOnDropHandle::new(tokio::spawn(uplink.run(asked)));
    let _ = tokio::time::timeout(wait_for_central, central.known()).await;
    let (redis, gateway, ingest) = (with.redis.clone(), folder.id(), ingest.clone());
    let entrance = Arc::new(Entrance { shard: SHARD, redis, gateway, log, delivery, processes, ingest, central });
    loop {
        let (session, older) = match entrance.enter(opened.last).await.map_err(|error| error.to_string())? {
            Entry::Counts(session) => (session, false),
            Entry::Older(session) => (session, true),
            Entry::NotYet(why) => {
                tracing::debug!(gateway = with.number, %why, "not yet");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let ahead = older || entrance.central.highest() > opened.last;
        return Ok(Entered { entrance, session, ahead, uplinked });
    }
}

/// What a gateway does that lacks a rule about when records leave or go.
fn without(with: &Surroundings, log: PathBuf, delivery: Arc<Delivery>) -> impl Future<Output = ()> + use<> {
    let (rules, world, ahead_ms) = (with.rules, with.world.clone(), with.ahead_ms);
    async move {
        let mut trimmer = Trimmer::new(&log);
        let all = ["8-durable", "9-trim", "9-covered", "9-acked", "9-acceptance", "9-all"];
        while !all.iter().all(|rule| rules.holds(rule)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if !rules.holds("8-durable") {
                delivery.durable(delivery.logged());
                continue;
            }
            let mut allowed = delivery.allowed();
            if !rules.holds("9-trim") {
                let logged = delivery.logged();
                allowed = Allowed { accepted: logged, shipped: logged, watermark_ms: u64::MAX };
            }
            if !rules.holds("9-covered") {
                allowed.accepted = delivery.logged();
            }
            if !rules.holds("9-acked") {
                allowed.shipped = delivery.logged();
            }
            if !rules.holds("9-acceptance") {
                allowed.watermark_ms = u64::MAX;
            }
            if !rules.holds("9-all") {
                allowed.watermark_ms = world.region_ms().saturating_add_signed(ahead_ms);
            }
            if trimmer.trim(allowed).is_ok_and(|gone| gone > 0) {
                let _ = delivery.trim(first_segment(&log));
            }
        }
    }
}

/// The record that the oldest segment begins with, as its name says.
fn first_segment(log: &Path) -> Lsn {
    let names = std::fs::read_dir(log).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let firsts = names.filter_map(|name| name.to_str()?.strip_suffix(".log")?.parse().ok());
    Lsn(firsts.min().unwrap_or(1))
}

/// Copies a folder of a gateway that is down.
pub fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &to)?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}
