//! One fault after another on a region under load, and the audit at the end.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde::Serialize;

use crate::audit;
use crate::load::{Load, Plan};
use crate::region::{READY_MAX, Region};
use crate::strace::Death;

/// Batches that must be acknowledged between two faults: the region works again.
const PROGRESS: u64 = 30;
/// From the end of a fault to those batches: a restart of everything on a slow machine.
const PROGRESS_MAX: Duration = Duration::from_secs(120);
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Torture {
    /// How many faults, or pairs of them.
    #[arg(long, default_value_t = 200)]
    pub cycles: u32,
    /// Of the order of faults; the interleaving within the processes is never the same.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Gateways.
    #[arg(long, default_value_t = 2)]
    pub gateways: usize,
    /// Pages at once.
    #[arg(long, default_value_t = 30)]
    pub agents: u32,
    /// Where to write the figures as JSON.
    #[arg(long, value_name = "OUT")]
    pub json: Option<PathBuf>,
}

/// What can be done to a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillGateway,
    KillAggregator,
    KillCentral,
    KillRedis,
    /// kill -9 of two different processes at once.
    KillTwo,
    /// SIGTERM and a new start.
    RestartGateway,
    /// SIGSTOP for a few seconds, as a suspended machine.
    PauseGateway,
    PauseRedis,
    /// kill -9 of a gateway at one of its log's system calls.
    GatewayAtCall,
    /// The same of central, while it stores.
    CentralAtCall,
}

/// Every kind once. They are inflicted in rounds, each round in an order of its own.
const FAULTS: [Fault; 10] = [
    Fault::KillGateway,
    Fault::KillAggregator,
    Fault::KillCentral,
    Fault::KillRedis,
    Fault::KillTwo,
    Fault::RestartGateway,
    Fault::PauseGateway,
    Fault::PauseRedis,
    Fault::GatewayAtCall,
    Fault::CentralAtCall,
];

/// What a log, a data folder or a store asks of the kernel.
const CALLS: [&str; 7] = ["pwrite64", "write", "fdatasync", "fsync", "rename", "unlink", "fallocate"];

/// The outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Faults, or pairs.
    pub cycles: u32,
    /// How often each kind.
    pub faults: std::collections::BTreeMap<String, u32>,
    /// Events in batches that were numbered.
    pub sent: u64,
    /// Events in batches that were acknowledged.
    pub acknowledged: u64,
    /// Events counted, by the rollups.
    pub counted: u64,
    /// Batches that Redis recognised.
    pub duplicates: u64,
    /// Transmissions beyond the first of each batch.
    pub repeats: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// `sent - counted`.
    pub difference: i64,
    /// The longest time from a fault's end until the region worked again, seconds.
    pub longest_recovery_s: f64,
    /// The whole run, seconds.
    pub took_s: f64,
}

impl Torture {
    /// Runs all cycles; a line each on stderr.
    pub async fn run(&self) -> Result<Outcome, String> {
        let began = Instant::now();
        let mut random = SmallRng::seed_from_u64(self.seed);
        let mut region = Region::start(self.gateways).await;
        let plan = Plan { agents: self.agents, ..Default::default() };
        let load = Load::start(plan, region.doors());
        let mut faults = std::collections::BTreeMap::<String, u32>::new();
        let mut longest = Duration::ZERO;
        let mut round = Vec::new();
        load.more(PROGRESS, PROGRESS_MAX).await?;
        for cycle in 1..=self.cycles {
            if round.is_empty() {
                round.extend(FAULTS);
                round.shuffle(&mut random);
            }
            let fault = round.pop().expect("a round is not empty");
            let what = fault.inflict(&mut region, &mut random).await?;
            *faults.entry(what.clone()).or_default() += 1;
            let healed =
                region_works(&mut region, &load).await.map_err(|why| format!("cycle {cycle}, {what}: {why}"))?;
            longest = longest.max(healed);
            let acknowledged = load.acknowledged();
            let took = began.elapsed().as_secs();
            eprintln!(
                "{cycle}/{} {took} s: {what}, works again after {:.1} s; {acknowledged} batches acknowledged",
                self.cycles,
                healed.as_secs_f64()
            );
        }
        let sent = load.finish(DRAIN_MAX).await.map_err(|why| format!("{why}\n{}", region.words()))?;
        let audited = audit::exactly(&region, &sent).await?;
        let events = sent.events();
        Ok(Outcome {
            cycles: self.cycles,
            faults,
            sent: events,
            acknowledged: sent.acknowledged * u64::from(plan.events),
            counted: audited.counted,
            duplicates: audited.duplicates,
            repeats: sent.transmissions - sent.batches.len() as u64,
            reconnects: sent.reconnects,
            difference: events as i64 - audited.counted as i64,
            longest_recovery_s: longest.as_secs_f64(),
            took_s: began.elapsed().as_secs_f64(),
        })
    }
}

/// Waits until everything is ready and batches are acknowledged; says how long that took.
async fn region_works(region: &mut Region, load: &Load) -> Result<Duration, String> {
    let since = Instant::now();
    region.all_ready().await;
    load.more(PROGRESS, PROGRESS_MAX).await.map_err(|why| format!("{why}\n{}", region.words()))?;
    Ok(since.elapsed())
}

impl Fault {
    /// Does it, and starts again what died. Says what was done.
    async fn inflict(self, region: &mut Region, random: &mut SmallRng) -> Result<String, String> {
        // A fault meets work that is half done, never a region that has just come to rest.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        let gateway = random.random_range(0..region.gateways.len());
        let pause = Duration::from_millis(random.random_range(500..4000));
        match self {
            Self::KillGateway => {
                let process = &mut region.gateways[gateway].process;
                process.kill();
                tokio::time::sleep(pause / 4).await;
                process.start();
                Ok("gateway killed".into())
            }
            Self::KillAggregator => {
                region.aggregator.process.kill();
                tokio::time::sleep(pause).await;
                region.aggregator.process.start();
                Ok("aggregator killed".into())
            }
            Self::KillCentral => {
                region.central.process.kill();
                tokio::time::sleep(pause).await;
                region.central.process.start();
                Ok("central killed".into())
            }
            Self::KillRedis => {
                region.redis.process.kill();
                tokio::time::sleep(pause / 2).await;
                region.redis.start().await;
                Ok("redis killed".into())
            }
            Self::KillTwo => {
                // Redis and one of the others, or central and a gateway: the pairs that hold each other's state.
                let mut two = [0, 1, 2, 3];
                let first = random.random_range(0..4);
                two.swap(0, first);
                let second = random.random_range(1..4);
                two.swap(1, second);
                for role in &two[..2] {
                    match role {
                        0 => region.redis.process.kill(),
                        1 => region.aggregator.process.kill(),
                        2 => region.central.process.kill(),
                        _ => region.gateways[gateway].process.kill(),
                    }
                }
                tokio::time::sleep(pause / 2).await;
                for role in &two[..2] {
                    match role {
                        0 => region.redis.start().await,
                        1 => region.aggregator.process.start(),
                        2 => region.central.process.start(),
                        _ => region.gateways[gateway].process.start(),
                    }
                }
                Ok("two processes killed at once".into())
            }
            Self::RestartGateway => {
                let process = &mut region.gateways[gateway].process;
                let status = process.stop(READY_MAX).await;
                if !status.success() {
                    return Err(format!(
                        "a gateway that was asked to stop ended with {status}\n{}",
                        process.last_words(20)
                    ));
                }
                process.start();
                Ok("gateway restarted by SIGTERM".into())
            }
            Self::PauseGateway => {
                let process = &region.gateways[gateway].process;
                process.signal(Signal::STOP);
                tokio::time::sleep(pause).await;
                process.signal(Signal::CONT);
                Ok("gateway paused".into())
            }
            Self::PauseRedis => {
                region.redis.process.signal(Signal::STOP);
                tokio::time::sleep(pause).await;
                region.redis.process.signal(Signal::CONT);
                Ok("redis paused".into())
            }
            Self::GatewayAtCall | Self::CentralAtCall => {
                let call = CALLS.choose(random).expect("there are calls");
                // Sockets and wake-ups are written to as well.
                let nth_max = if *call == "write" { 400 } else { 40 };
                let death = Death { call, nth: random.random_range(1..nth_max) };
                let role =
                    if self == Self::GatewayAtCall { &mut region.gateways[gateway] } else { &mut region.central };
                role.process.kill();
                role.process.start_under(&death.wrapper(None));
                // It may die while it starts, under load, or, for a call it makes rarely, not at all.
                let begun = Instant::now();
                while role.process.runs() && begun.elapsed() < Duration::from_secs(6) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let died = role.process.ended().is_some();
                role.process.kill();
                role.process.start();
                let name = if self == Self::GatewayAtCall { "gateway" } else { "central" };
                Ok(if died { format!("{name} killed at {call}") } else { format!("{name} killed after strace") })
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(["what", "how many"]);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("cycles", self.cycles.to_string());
        for (fault, times) in &self.faults {
            row(&format!("fault: {fault}"), times.to_string());
        }
        row("events sent", self.sent.to_string());
        row("events acknowledged", self.acknowledged.to_string());
        row("events counted", self.counted.to_string());
        row("transmissions beyond the first", self.repeats.to_string());
        row("duplicates suppressed", self.duplicates.to_string());
        row("connections made again", self.reconnects.to_string());
        row("longest time until it worked again, s", format!("{:.1}", self.longest_recovery_s));
        row("whole run, s", format!("{:.0}", self.took_s));
        row("difference", self.difference.to_string());
        write!(f, "{table}")
    }
}
