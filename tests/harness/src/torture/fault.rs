//! The faults, and how each is inflicted.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;

use crate::process::Process;
use crate::region::{READY_MAX, Region};
use crate::strace::Death;

/// How long a process may take to come to its fatal call.
const DEATH_MAX: Duration = Duration::from_secs(6);
/// Longer than every timeout between two roles: the longest is a minute, for central's answer to a flush.
const LONG_PAUSE: Duration = Duration::from_secs(130);

/// What can be done to a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
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
    /// SIGSTOP for two minutes, of a gateway or of Redis. Not in [`FAULTS`]: it would be most of the run.
    PauseLong,
    /// kill -9 of a gateway at one of its log's system calls.
    GatewayAtCall,
    /// The same of central, while it stores.
    CentralAtCall,
}

/// Every kind once. They are inflicted in rounds, each round in an order of its own.
pub const FAULTS: [Fault; 10] = [
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

impl Fault {
    /// What it is called while nobody knows yet how it went.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillGateway => "gateway killed",
            Self::KillAggregator => "aggregator killed",
            Self::KillCentral => "central killed",
            Self::KillRedis => "redis killed",
            Self::KillTwo => "two processes killed at once",
            Self::RestartGateway => "gateway restarted by SIGTERM",
            Self::PauseGateway => "gateway paused",
            Self::PauseRedis => "redis paused",
            Self::PauseLong => "a process paused for two minutes",
            Self::GatewayAtCall => "gateway killed at a system call",
            Self::CentralAtCall => "central killed at a system call",
        }
    }

    /// Does it, and starts again what died. Says what was done.
    pub async fn inflict(self, region: &mut Region, random: &mut SmallRng) -> Result<String, String> {
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
                Ok(self.name().into())
            }
            Self::KillAggregator => {
                region.aggregator.process.kill();
                tokio::time::sleep(pause).await;
                region.aggregator.process.start();
                Ok(self.name().into())
            }
            Self::KillCentral => {
                region.central.process.kill();
                tokio::time::sleep(pause).await;
                region.central.process.start();
                Ok(self.name().into())
            }
            Self::KillRedis => {
                region.redis.process.kill();
                tokio::time::sleep(pause / 2).await;
                region.redis.start().await;
                Ok(self.name().into())
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
                Ok(self.name().into())
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
                Ok(self.name().into())
            }
            Self::PauseGateway => {
                let process = &region.gateways[gateway].process;
                process.signal(Signal::STOP);
                tokio::time::sleep(pause).await;
                process.signal(Signal::CONT);
                Ok(self.name().into())
            }
            Self::PauseRedis => {
                region.redis.process.signal(Signal::STOP);
                tokio::time::sleep(pause).await;
                region.redis.process.signal(Signal::CONT);
                Ok(self.name().into())
            }
            Self::PauseLong => {
                let process = match random.random_bool(0.5) {
                    true => &region.gateways[gateway].process,
                    false => &region.redis.process,
                };
                process.signal(Signal::STOP);
                tokio::time::sleep(LONG_PAUSE).await;
                process.signal(Signal::CONT);
                Ok(format!("{} paused for {} s", process.name(), LONG_PAUSE.as_secs()))
            }
            Self::GatewayAtCall => die_at_a_call("gateway", &mut region.gateways[gateway].process, random).await,
            Self::CentralAtCall => die_at_a_call("central", &mut region.central.process, random).await,
        }
    }
}

/// It dies by its own call, or, for one that it makes rarely, by a kill while strace watches it. Any other end is a failure.
async fn die_at_a_call(name: &str, process: &mut Process, random: &mut SmallRng) -> Result<String, String> {
    let call = CALLS.choose(random).expect("there are calls");
    // Sockets and wake-ups are written to as well.
    let nth_max = if *call == "write" { 400 } else { 40 };
    let death = Death { call, nth: random.random_range(1..nth_max) };
    process.kill();
    process.start_under(&death.wrapper(None));
    // It may die while it starts, or under load.
    let begun = Instant::now();
    while process.runs() && begun.elapsed() < DEATH_MAX {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let what = match process.ended() {
        Some(status) if status.signal() == Some(9) => format!("{name} killed at {call}"),
        Some(status) => {
            let words = process.last_words(20);
            return Err(format!("a {name} that was to die at {call} ended with {status}\n{words}"));
        }
        None if process.is_traced() => format!("{name} killed after strace"),
        None => return Err(format!("strace does not watch a {name} that was to die at {call}")),
    };
    process.kill();
    process.start();
    Ok(what)
}
