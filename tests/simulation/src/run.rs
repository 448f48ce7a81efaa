//! One run: everything starts, faults by the seed, healing, and then the oracle.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aggregator::{Central, Leader, Readiness};
use gateway::capacity::WhenRedisIsAway;
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{Device, Noted};
use crate::central::{MemoryBooks, Uplink};
use crate::door::Doors;
use crate::gateway::{self as process, REGION, Seen, Surroundings};
use crate::network::{Network, Weather};
use crate::oracle;
use crate::redis::{Redis, Server, Store};
use crate::time::World;

const MINUTE_MS: u64 = 60_000;
/// By then everything must be where it belongs once nothing goes wrong any more, virtual time.
const HEALED_WITHIN: Duration = Duration::from_secs(30 * 60);
/// 2026-11-22T12:00:00Z.
const NOON_MS: u64 = 1_795_348_800_000;
const GATEWAYS: usize = 3;
const DEVICES: u64 = 6;

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// A rule to leave out.
    pub without: Option<String>,
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
    let thread = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        crate::entropy::seed(plan.seed);
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

struct Simulation {
    random: StdRng,
    world: World,
    redis: Arc<Mutex<Redis>>,
    /// An older state of Redis, as a backup has it.
    redis_backup: Option<Store>,
    books: Arc<MemoryBooks>,
    uplink: Arc<Uplink>,
    doors: Doors,
    networks: Vec<Network>,
    folders: tempfile::TempDir,
    gateways: Vec<Option<GatewayProcess>>,
    /// When those that are down come back.
    back: Vec<Instant>,
    policy: WhenRedisIsAway,
    /// Older folders of gateways.
    copies: Vec<Option<PathBuf>>,
    leaders: Vec<AbortOnDropHandle<()>>,
    alarms: Vec<String>,
}

async fn simulate(plan: Plan) -> Report {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let world = World::new(NOON_MS + random.random_range(0..24 * 60) * MINUTE_MS);
    let redis = Arc::new(Mutex::new(Redis::default()));
    let patches = crate::rules::patches(plan.without.as_deref());
    for (from, to) in patches {
        redis.lock().unwrap_or_else(PoisonError::into_inner).patch(from, to);
    }
    let books = Arc::new(MemoryBooks::new(world.clone(), random.random(), plan.without.clone()));
    // 0: pages, 1: the aggregator, then a network for each gateway.
    let networks: Vec<_> = (0..2 + GATEWAYS).map(|_| Network::new(random.random())).collect();
    let uplink = Arc::new(Uplink::new(books.clone(), networks[1].clone()));
    uplink.start();
    let noted = Noted::default();
    let doors = Doors::new(GATEWAYS, networks[0].clone());
    let policy = *[WhenRedisIsAway::Refuse, WhenRedisIsAway::StoreAndForward].choose(&mut random).expect("two");
    let folders = tempfile::Builder::new().prefix("simulation-").tempdir_in(memory_folder()).expect("a folder");
    let mut simulation = Simulation {
        world: world.clone(),
        redis,
        redis_backup: None,
        books: books.clone(),
        uplink,
        doors: doors.clone(),
        networks,
        folders,
        gateways: (0..GATEWAYS).map(|_| None).collect(),
        back: vec![Instant::now(); GATEWAYS],
        policy,
        copies: vec![None; GATEWAYS],
        leaders: Vec::new(),
        alarms: Vec::new(),
        random,
    };
    simulation.lead();
    let pace_ms = *[2_000, 10_000, 60_000].choose(&mut simulation.random).expect("three");
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let long = number % 2 == 1;
        let device = Device::new(number, plan.seed, world.clone(), doors.clone(), noted.clone(), long, pace_ms);
        devices.push(AbortOnDropHandle::new(tokio::spawn(device.run())));
    }

    let faults = simulation.chaos().await;
    noted.heal();
    simulation.heal();
    let healing = Instant::now();
    let mut calm = 0;
    // Twice in a row, so that nothing was on its way.
    while calm < 2 && healing.elapsed() < HEALED_WITHIN {
        sleep(Duration::from_secs(5)).await;
        simulation.tend();
        let shipped = simulation.gateways.iter().flatten().all(|gateway| gateway.seen.is_shipped());
        let all_up = simulation.gateways.iter().all(Option::is_some);
        calm = if noted.is_settled() && shipped && all_up { calm + 1 } else { 0 };
    }
    let mut wrong = std::mem::take(&mut simulation.alarms);
    if calm < 2 {
        let positions: Vec<_> = simulation.gateways.iter().flatten().map(|it| it.seen.position()).collect();
        wrong.push(format!("not drained: pages settled {}, gateways {positions:?}", noted.is_settled()));
    }
    wrong.extend(oracle::violations(&noted, &books));
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
    /// Faults, for as long as the seed says.
    async fn chaos(&mut self) -> u64 {
        let lasts_ms = MINUTE_MS
            * *[5, 10, 20, 200].choose_weighted(&mut self.random, |m| if *m > 100 { 1 } else { 6 }).expect("four");
        let ends = Instant::now() + Duration::from_millis(lasts_ms);
        let delay_ms = *[20, 300, 3000].choose(&mut self.random).expect("three");
        let loss = *[0.0, 0.002, 0.02].choose(&mut self.random).expect("three");
        for network in &self.networks {
            network.set(Weather { delay_ms, loss });
        }
        self.books.fail(*[0.0, 0.05, 0.3].choose(&mut self.random).expect("three"));
        // Each seed has faults of its own.
        let weights: Vec<u32> = (0..11).map(|_| *[0, 1, 3].choose(&mut self.random).expect("three")).collect();
        let pause_ms = *[5_000, 20_000, 60_000].choose(&mut self.random).expect("three");
        let mut faults = 0;
        while Instant::now() < ends {
            sleep(Duration::from_millis(self.random.random_range(500..pause_ms))).await;
            self.tend();
            if self.random.random_bool(0.3) {
                let durable = self.redis().history()[0].clone();
                self.redis_backup = Some(durable);
            }
            let Ok(fault) =
                (0..weights.len()).collect::<Vec<_>>().choose_weighted(&mut self.random, |at| weights[*at]).copied()
            else {
                continue;
            };
            faults += 1;
            self.fault(fault);
        }
        faults
    }

    fn fault(&mut self, which: usize) {
        let gateway = self.random.random_range(0..GATEWAYS);
        let seconds = self.random.random_range(1..90);
        let short = Duration::from_secs(seconds);
        match which {
            0 | 1 => self.kill(gateway, short),
            2 => self.networks[2 + gateway].silence(short),
            3 => self.networks[1].silence(short),
            4 => self.lose_folder(gateway),
            5 => {
                let history = self.redis().history().to_vec();
                let state = history.choose(&mut self.random).cloned();
                self.trace("redis falls back to a state since its barrier");
                self.redis().restart(state);
            }
            6 => {
                if let Some(backup) = self.redis_backup.clone() {
                    self.trace("redis is restored from an older backup");
                    self.redis().restart(Some(backup));
                }
            }
            7 => {
                if self.random.random_bool(0.3) {
                    self.trace("redis is lost");
                    self.redis().restart(None);
                }
            }
            8 => {
                self.trace("another aggregator starts");
                self.lead();
                if self.random.random_bool(0.7) {
                    drop(self.leaders.remove(0));
                }
            }
            9 => {
                self.trace("central is killed");
                self.uplink.kill();
            }
            _ => {
                let ahead_ms = *[0, 0, 1_500, 86_400_000, -86_400_000].choose(&mut self.random).expect("five");
                self.trace(&format!("the clock of redis is {ahead_ms} ms ahead"));
                self.world.set_redis_ahead(ahead_ms);
            }
        }
    }

    /// Starts what is down and may come back, and notes who ended by himself.
    fn tend(&mut self) {
        self.uplink.start();
        if self.leaders.is_empty() || self.leaders.iter().all(AbortOnDropHandle::is_finished) {
            self.leaders.clear();
            self.lead();
        }
        for number in 0..GATEWAYS {
            if self.gateways[number].as_ref().is_some_and(|gateway| gateway.task.is_finished())
                && let Some(ended) = self.gateways[number].take()
            {
                self.doors.set(number, None);
                let why = futures_util::FutureExt::now_or_never(ended.task);
                self.trace(&format!("gateway {number} has ended: {why:?}"));
                if let Some(Ok(Err(why))) = why {
                    if why.contains("begins at") || why.contains("panic") {
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
        for network in &self.networks {
            network.set(Weather { delay_ms: 5, loss: 0.0 });
        }
        self.books.fail(0.0);
        self.world.set_redis_ahead(0);
        self.back = vec![Instant::now(); GATEWAYS];
        self.leaders.clear();
        self.tend();
    }

    fn redis(&self) -> std::sync::MutexGuard<'_, Redis> {
        self.redis.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, gateway: usize) -> PathBuf {
        self.folders.path().join(format!("gateway-{gateway}"))
    }

    fn server(&self, network: usize) -> regional_redis::Server {
        let server = Server::new(self.redis.clone(), self.networks[network].clone());
        regional_redis::Server::Other(Arc::new(server.with_time(self.world.clone())))
    }

    fn start(&mut self, number: usize) {
        let ahead_ms = if self.random.random_bool(0.2) { self.random.random_range(-5_000..5_000) } else { 0 };
        let with = Surroundings {
            number,
            folder: self.folder(number),
            redis: self.server(2 + number),
            dial: self.uplink.clone(),
            doors: self.doors.clone(),
            world: self.world.clone(),
            ahead_ms,
            policy: self.policy,
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

    /// Emptied, or as an older copy has it. Nothing is promised for what had not left it.
    fn lose_folder(&mut self, number: usize) {
        let shipped = self.gateways[number].as_ref().is_some_and(|gateway| gateway.seen.is_shipped());
        if !shipped {
            return self.copy_folder(number);
        }
        let id = self.gateways[number].as_ref().and_then(|gateway| gateway.seen.id());
        self.kill(number, Duration::from_secs(20));
        // It could be removed before the process is quite gone: its tasks end at their next step, and take nothing any more.
        let folder = self.folder(number);
        let _ =
            std::fs::rename(&folder, self.folders.path().join(format!("lost-{number}-{}", self.world.elapsed_ms())));
        match (self.copies[number].take(), id) {
            (Some(copy), id) => {
                self.trace(&format!("gateway {number} has its folder from an older copy"));
                // The copy may be of a gateway before this one, which then is lost and never comes back by itself.
                let of_copy = std::fs::read_to_string(copy.join("id")).unwrap_or_default();
                if let Some(lost) = id.filter(|id| !of_copy.starts_with(&id.to_string())) {
                    self.trace(&format!("{lost} is retired"));
                    self.books.retire(&lost);
                }
                let _ = std::fs::rename(copy, folder);
            }
            (None, Some(id)) => {
                self.trace(&format!("gateway {number} has lost its folder; {id} is retired"));
                self.books.retire(&id);
            }
            _ => {}
        }
    }

    fn copy_folder(&mut self, number: usize) {
        if self.gateways[number].is_none() && self.folder(number).is_dir() {
            let copy = self.folders.path().join(format!("copy-{number}-{}", self.world.elapsed_ms()));
            if process::copy_folder(&self.folder(number), &copy).is_ok() {
                self.copies[number] = Some(copy);
            }
        }
    }

    fn lead(&mut self) {
        let config = aggregator::Config { region: REGION.into(), ..aggregator::Config::default() };
        let leader = Leader {
            config,
            server: self.server(1),
            central: Central::new(self.uplink.clone()),
            metrics: aggregator::Metrics::new(&mut Registry::default()),
            readiness: Readiness::default(),
        };
        let leading = async move {
            if let Err(error) = leader.run(CancellationToken::new()).await {
                tracing::warn!(%error, "aggregator has ended");
            }
        };
        self.leaders.push(AbortOnDropHandle::new(tokio::spawn(leading)));
    }

    fn trace(&self, what: &str) {
        tracing::info!(at_s = self.world.elapsed_ms() / 1000, "{what}");
    }
}
