//! One run: everything starts, faults by the seed, healing, and then the oracle.

pub mod faults;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aggregator::{Central, Leader, Readiness};
use gateway::door::capacity::WhenRedisIsAway;
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{Device, Habits, Noted};
use crate::central::{MemoryBooks, Process, Uplink};
use crate::door::Doors;
use crate::gateway::{self as process, Copied, REGION, Seen, Surroundings};
use crate::network::{Network, Weather};
use crate::oracle;
use crate::redis::{Redis, Server, Store};
use crate::rules::Kept;
use crate::time::World;
use faults::Only;

const MINUTE_MS: u64 = 60_000;
/// By then everything must be where it belongs once nothing goes wrong any more, virtual time.
const HEALED_WITHIN: Duration = Duration::from_secs(30 * 60);
/// 2026-11-22T12:00:00Z.
const NOON_MS: u64 = 1_795_348_800_000;
const GATEWAYS: usize = 3;
/// A machine more: a gateway runs on it when somebody has copied the folder of one there.
const MACHINES: usize = GATEWAYS + 1;
/// At once, paused ones among them.
const AGGREGATORS_MAX: usize = 4;
const DEVICES: u64 = 6;
/// Rules that only the gateway itself can leave out.
const GATEWAYS_OWN: [&str; 6] = ["1-void", "2-fold", "4-copy", "4-emptied", "4-waited", "8-again"];

/// How long a run has faults, and what its pages and faults do meanwhile.
struct Lasts {
    /// Of this many runs together.
    weight: u32,
    minutes: u64,
    /// Between two events of a device, about.
    paces_ms: &'static [u64],
    /// Between two faults, at most.
    pauses_ms: &'static [u64],
}

/// Most runs are short and crowded. Bitmaps go and logs are trimmed after hours; the acceptance of what a device kept is over
/// after a day.
const LASTS: [Lasts; 5] = [
    Lasts { weight: 150, minutes: 5, paces_ms: &[2_000, 10_000, 60_000], pauses_ms: &[5_000, 20_000, 60_000] },
    Lasts { weight: 150, minutes: 10, paces_ms: &[2_000, 10_000, 60_000], pauses_ms: &[5_000, 20_000, 60_000] },
    Lasts { weight: 100, minutes: 20, paces_ms: &[2_000, 10_000, 60_000], pauses_ms: &[5_000, 20_000, 60_000] },
    Lasts { weight: 15, minutes: 300, paces_ms: &[60_000, 300_000], pauses_ms: &[60_000, 600_000] },
    Lasts { weight: 2, minutes: 30 * 60, paces_ms: &[60_000, 300_000], pauses_ms: &[600_000, 1_800_000] },
];

impl Lasts {
    fn of(seed: u64) -> &'static Self {
        let mut random = StdRng::seed_from_u64(!seed);
        LASTS.choose_weighted(&mut random, |lasts| lasts.weight).expect("some")
    }
}

/// How long the run of this seed has faults.
pub fn minutes(seed: u64) -> u64 {
    Lasts::of(seed).minutes
}

/// What to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// The protocol's rules, or all but one.
    pub rules: Kept,
    /// Faults other than those of the seed.
    pub only: Only,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Of the run.
    pub seed: u64,
    /// What was wrong; nothing, if all was well.
    pub wrong: Vec<String>,
    /// Made by pages.
    pub events: u64,
    /// By central.
    pub counted: u64,
    /// Virtual.
    pub seconds: u64,
    /// Lives of the shard's Redis.
    pub epochs: u64,
    /// What went wrong on purpose.
    pub faults: u64,
}

/// Runs it, on a thread of its own.
pub fn run(plan: Plan) -> Report {
    warm_up();
    on_a_thread(plan)
}

/// Whichever run comes first makes the product's statics, which takes some of its chance: so that it is none that counts.
pub fn warm_up() {
    static FIRST: std::sync::Once = std::sync::Once::new();
    FIRST.call_once(|| drop(on_a_thread(Plan::default())));
}

fn on_a_thread(plan: Plan) -> Report {
    let thread = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        crate::entropy::seed(plan.seed);
        for rule in GATEWAYS_OWN.into_iter().filter(|rule| !plan.rules.holds(rule)) {
            gateway::controls::leave_out(rule);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without input and output needs nothing");
        runtime.block_on(simulate(plan))
    });
    let joined = thread.map(std::thread::JoinHandle::join);
    match joined {
        Ok(Ok(report)) => report,
        Ok(Err(panic)) => {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Report { wrong: vec![format!("panic: {}", message.unwrap_or_default())], ..Report::default() }
        }
        Err(error) => Report { wrong: vec![error.to_string()], ..Report::default() },
    }
}

struct GatewayProcess {
    task: JoinHandle<Result<(), String>>,
    killed: CancellationToken,
    seen: Seen,
}

/// A process that leads, or would.
struct Aggregator {
    task: AbortOnDropHandle<()>,
    /// Between it and everyone.
    network: Network,
}

struct Simulation {
    random: StdRng,
    world: World,
    redis: Arc<Mutex<Redis>>,
    /// An older state of Redis, as a backup has it.
    redis_backup: Option<Store>,
    books: Arc<MemoryBooks>,
    central: Arc<Process>,
    doors: Doors,
    /// The pages', then central's to all gateways, then one of each gateway to Redis.
    networks: Vec<Network>,
    weather: Weather,
    folders: tempfile::TempDir,
    gateways: Vec<Option<GatewayProcess>>,
    /// When those that are down come back.
    back: Vec<Instant>,
    policy: WhenRedisIsAway,
    /// Older folders of gateways.
    copies: Vec<Option<PathBuf>>,
    /// Ids of gateways whose folder was restored from one of them, or copied to another machine: only they may pass for copies.
    copied: Copied,
    /// So do some of its faults.
    lasts_hours: bool,
    /// Visits may have expired, or been kept too long: one may be split.
    clocks_jumped: bool,
    leaders: Vec<Aggregator>,
    alarms: Vec<String>,
    rules: Kept,
}

async fn simulate(plan: Plan) -> Report {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let world = World::new(NOON_MS + random.random_range(0..24 * 60) * MINUTE_MS);
    let redis = Arc::new(Mutex::new(Redis::new(plan.rules)));
    let books = Arc::new(MemoryBooks::new(world.clone(), random.random(), plan.rules));
    let networks: Vec<_> = (0..2 + MACHINES).map(|_| Network::new(random.random())).collect();
    let central = Arc::new(Process::new(books.clone(), redis.clone(), plan.rules));
    central.start();
    let noted = Noted::default();
    let doors = Doors::new(MACHINES, networks[0].clone(), plan.rules);
    let policy = *[WhenRedisIsAway::Refuse, WhenRedisIsAway::StoreAndForward].choose(&mut random).expect("two");
    let folders = tempfile::Builder::new().prefix("simulation-").tempdir_in(memory_folder()).expect("a folder");
    let mut simulation = Simulation {
        world: world.clone(),
        redis,
        redis_backup: None,
        books: books.clone(),
        central,
        doors: doors.clone(),
        networks,
        weather: Weather::default(),
        folders,
        gateways: (0..MACHINES).map(|_| None).collect(),
        back: vec![Instant::now(); MACHINES],
        policy,
        copies: vec![None; MACHINES],
        copied: Copied::default(),
        lasts_hours: false,
        clocks_jumped: false,
        leaders: Vec::new(),
        alarms: Vec::new(),
        rules: plan.rules,
        random,
    };
    simulation.lead();
    let lasts = Lasts::of(plan.seed);
    simulation.lasts_hours = lasts.minutes > 60;
    let pace_ms = *lasts.paces_ms.choose(&mut simulation.random).expect("some");
    let habits = Habits { pace_ms, offline_ms: lasts.minutes.max(120) * MINUTE_MS * 9 / 10, rules: plan.rules };
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let device = Device::new(number, plan.seed, world.clone(), doors.clone(), noted.clone(), &habits);
        devices.push(AbortOnDropHandle::new(tokio::spawn(device.run())));
    }

    let faults = simulation.chaos(lasts, plan.only).await;
    noted.heal();
    simulation.heal();
    let healing = Instant::now();
    let mut calm = 0;
    // Twice in a row, so that nothing was on its way.
    while calm < 2 && healing.elapsed() < HEALED_WITHIN {
        sleep(Duration::from_secs(5)).await;
        simulation.tend();
        let shipped = simulation.gateways.iter().flatten().all(|gateway| gateway.seen.is_shipped());
        let all_up = simulation.machines().all(|number| simulation.gateways[number].is_some());
        calm = if noted.is_settled() && shipped && all_up { calm + 1 } else { 0 };
    }
    let mut wrong = std::mem::take(&mut simulation.alarms);
    if calm < 2 {
        let positions: Vec<_> = simulation.gateways.iter().flatten().map(|it| it.seen.position()).collect();
        wrong.push(format!("not drained: pages settled {}, gateways {positions:?}", noted.is_settled()));
    }
    wrong.extend(oracle::violations(&noted, &books));
    if world.elapsed_ms() < 60 * MINUTE_MS && !simulation.clocks_jumped {
        wrong.extend(oracle::split_visits(&books));
    }
    Report {
        seed: plan.seed,
        wrong,
        events: noted.look().contents.len() as u64,
        counted: oracle::counted(&books),
        seconds: world.elapsed_ms() / 1000,
        epochs: books.kept().epoch(),
        faults,
    }
}

/// Where files cost no disk.
fn memory_folder() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

impl Simulation {
    /// Starts what is down and may come back, and notes who ended by himself.
    fn tend(&mut self) {
        self.central.start();
        if self.leaders.iter().all(|leader| leader.task.is_finished()) {
            self.leaders.clear();
            self.lead();
        }
        for number in self.machines() {
            if self.gateways[number].as_ref().is_some_and(|gateway| gateway.task.is_finished())
                && let Some(ended) = self.gateways[number].take()
            {
                ended.killed.cancel(); // its sessions end with it
                self.doors.set(number, None);
                let why = futures_util::FutureExt::now_or_never(ended.task);
                self.trace(&format!("gateway {number} has ended: {why:?}"));
                if let Some(Ok(Err(why))) = why {
                    let id = ended.seen.id().unwrap_or_default();
                    let another = why.contains("another process counts") && !self.copied.contains(&id);
                    if another
                        || ["begins at", "panic", "damaged", "passes for a copy"]
                            .iter()
                            .any(|alarm| why.contains(alarm))
                    {
                        self.alarms.push(why);
                    } else if why.contains("was retired") {
                        let _ = std::fs::remove_dir_all(self.folder(number));
                    }
                }
                self.back[number] = Instant::now() + Duration::from_secs(5);
            }
            if self.gateways[number].is_none() && Instant::now() >= self.back[number] {
                self.start(number);
            }
        }
    }

    fn heal(&mut self) {
        self.trace("healing");
        self.weather = Weather { delay_ms: 5, ..Weather::default() };
        for network in &self.networks {
            network.set(self.weather);
            network.end_silence();
        }
        if self.lasts_hours {
            self.central.kill(); // or its streams would wait for the end of a silence that is over
        }
        self.books.fail(0.0);
        self.world.set_redis_ahead(0);
        self.world.set_region_ahead(0);
        self.back = vec![Instant::now(); MACHINES];
        self.leaders.clear();
        self.tend();
    }

    fn redis(&self) -> std::sync::MutexGuard<'_, Redis> {
        self.redis.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where gateways run.
    fn machines(&self) -> std::ops::Range<usize> {
        if self.folder(GATEWAYS).is_dir() { 0..MACHINES } else { 0..GATEWAYS }
    }

    fn folder(&self, gateway: usize) -> PathBuf {
        self.folders.path().join(format!("gateway-{gateway}"))
    }

    fn server(&self, network: &Network) -> Server {
        Server::new(self.redis.clone(), network.clone()).with_time(self.world.clone())
    }

    fn uplink(&self, network: &Network) -> Arc<Uplink> {
        Arc::new(Uplink { central: self.central.clone(), network: network.clone() })
    }

    fn start(&mut self, number: usize) {
        let ahead_ms = if self.random.random_bool(0.2) { self.random.random_range(-5_000..5_000) } else { 0 };
        let with = Surroundings {
            number,
            folder: self.folder(number),
            redis: regional_redis::Server::Other(Arc::new(
                self.server(&self.networks[2 + number]).with_connections_that_survive(!self.rules.holds("4-anew")),
            )),
            dial: self.uplink(&self.networks[1]),
            doors: self.doors.clone(),
            world: self.world.clone(),
            ahead_ms,
            policy: self.policy,
            copied: self.copied.clone(),
            rules: self.rules,
        };
        let (seen, killed) = (Seen::default(), CancellationToken::new());
        let running = process::run(with, seen.clone(), killed.clone());
        let until = killed.clone();
        let task = tokio::spawn(async move { until.run_until_cancelled_owned(running).await.unwrap_or(Ok(())) });
        self.gateways[number] = Some(GatewayProcess { task, killed, seen });
    }

    fn kill(&mut self, number: usize, away: Duration) {
        if let Some(gateway) = self.gateways[number].take() {
            self.trace(&format!("gateway {number} is killed for {} s", away.as_secs()));
            gateway.killed.cancel();
            gateway.task.abort();
            self.doors.set(number, None);
            self.back[number] = Instant::now() + away;
        }
    }

    /// One more aggregator; of too many the oldest goes.
    fn lead(&mut self) {
        if self.leaders.len() == AGGREGATORS_MAX {
            drop(self.leaders.remove(0));
        }
        let network = Network::new(self.random.random());
        network.set(self.weather);
        let config = aggregator::Config { region: REGION.into(), ..aggregator::Config::default() };
        let leader = Leader {
            config,
            server: regional_redis::Server::Other(Arc::new(self.server(&network))),
            central: Central::new(self.uplink(&network)),
            metrics: aggregator::Metrics::new(&mut Registry::default()),
            readiness: Readiness::default(),
        };
        let leading = async move {
            if let Err(error) = leader.run(CancellationToken::new()).await {
                tracing::warn!(%error, "aggregator has ended");
            }
        };
        self.leaders.push(Aggregator { task: AbortOnDropHandle::new(tokio::spawn(leading)), network });
    }

    fn trace(&self, what: &str) {
        tracing::info!(at_s = self.world.elapsed_ms() / 1000, "{what}");
    }
}
