//! Hostile traffic on a gateway that well-behaved pages use: what they notice of it, and what the gateway keeps for it.
//!
//! Attackers are a process of their own ([`flood`]) on half of the cores, which computes there while nobody else has anything to do:
//! theirs would be other machines. They come from addresses of 127.66.0.0/15, which no proxy vouches for; the pages come through one.
//! One [`Kind`] after another, each in a file with its relatives.

pub mod flood;
mod garbage;
mod http1;
mod http2;
mod kind;
mod outcome;
mod quic;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::audit;
use crate::load::{Load, Plan};
use crate::region::Region;
use crate::tls;
use flood::{Flooded, Target};
pub use kind::Kind;
pub use outcome::{Measured, Memory, Outcome, Phase, Round};

const DRAIN_MAX: Duration = Duration::from_secs(120);
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Beyond its time an attacker is killed.
const ATTACKER_MORE_MAX: Duration = Duration::from_secs(10);
/// Behind an attack: what it had open is closed.
const SETTLE: Duration = Duration::from_secs(3);
/// Pages have connected, caches are warm.
const WARM_UP: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Attack {
    /// Seconds of each attack, of the quiet time in front of it, and of the one behind the last.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// How often each kind attacks: latencies are the rounds' medians, so that one stall of the machine is not the gateway's.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Well-behaved pages at once.
    #[arg(long, default_value_t = 200)]
    pub agents: u32,
    /// These attacks alone.
    #[arg(long, value_enum)]
    pub only: Vec<Kind>,
    /// Where to write the figures as JSON.
    #[arg(long, value_name = "OUT")]
    pub json: Option<PathBuf>,
}

impl Attack {
    /// Runs one attack after another, a line each on stderr. `attacker` is the program that [`flood`]s.
    pub async fn run(&self, attacker: &std::path::Path) -> Outcome {
        let mut region = Region::new(1).await;
        let certificate = region.folder().join("certificate.pem");
        tls::write_certificate(&certificate);
        let secure = region.gateways[0].serve_tls(&certificate);
        // The pages' proxy; everybody else is who he is.
        region.gateways[0].configure("trusted_proxies", vec!["127.0.0.1/32"]);
        region.gateways[0].configure("cores", 2);
        region.start_all().await;
        region.make_other_site(flood::SITE).await;
        let target = Target { plain: region.gateways[0].listen(), tls: secure, certificate };
        let gateway = region.gateways[0].process.pid();

        let plan = Plan { agents: self.agents, every: Duration::from_millis(500), ..Default::default() };
        let load = Load::start(plan, region.doors());
        sleep(WARM_UP).await;
        let mut outcome = Outcome { agents: self.agents, ..Default::default() };
        let kinds = if self.only.is_empty() { Kind::ALL.to_vec() } else { self.only.clone() };
        for kind in kinds {
            let lasts = Duration::from_secs(self.seconds);
            let (mut rounds, mut rss) = (Vec::new(), Vec::new());
            let (mut flooded, broken) = (Flooded::default(), load.broken());
            while rounds.len() < self.rounds as usize && outcome.failure.is_none() {
                let (before, ()) = watch(&load, gateway, &mut rss, sleep(lasts)).await;
                let (during, attacked) = watch(&load, gateway, &mut rss, attack(attacker, kind, &target, lasts)).await;
                rounds.push(Round { before, during });
                // Its end is part of the attack, and of no time that is looked at.
                sleep(SETTLE).await;
                // An attacker that fails may be but a sign of a gateway that is gone.
                match is_well(&region).and(attacked) {
                    Ok(Flooded { tries, done }) => {
                        flooded.tries += tries;
                        flooded.done += done;
                    }
                    Err(why) => outcome.failure = Some(why),
                }
            }
            let (after, ()) = watch(&load, gateway, &mut rss, sleep(lasts)).await;
            let measured = Measured::new(kind, flooded, rounds, after, Memory::of(&rss), load.broken() - broken);
            eprintln!("{measured}");
            outcome.attacks.push(measured);
            if outcome.failure.is_some() {
                break;
            }
        }
        let audited = match load.finish(DRAIN_MAX).await {
            Ok(sent) => audit::exactly(&region, &sent).await.map(|audited| {
                outcome.difference = Some(sent.events() as i64 - (audited.counted + audited.dropped) as i64);
                (outcome.sent, outcome.broken) = (sent.events(), sent.broken);
            }),
            Err(why) => Err(why),
        };
        if let Err(why) = audited {
            let words = format!("{why}\n{}", region.words());
            outcome.failure.get_or_insert(words);
        }
        outcome.failure = outcome.failure.or(is_well(&region).err());
        outcome
    }
}

/// Everybody runs, and nothing that clients did is an error of the gateway's.
fn is_well(region: &Region) -> Result<(), String> {
    region.is_whole().and_then(|()| region.gateways[0].process.said_no_error())
}

/// Latencies for as long as `lasts` does, and samples of the gateway's memory.
async fn watch<T>(load: &Load, gateway: Pid, rss: &mut Vec<u64>, lasts: impl Future<Output = T>) -> (Phase, T) {
    load.take_latencies();
    let mut lasts = std::pin::pin!(lasts);
    let ended = loop {
        rss.push(resident_bytes(gateway));
        tokio::select! {
            ended = &mut lasts => break ended,
            () = sleep(SAMPLE_EVERY) => {}
        }
    };
    (Phase::of(load.take_latencies()), ended)
}

/// What a process has in memory; 0 if it is gone.
fn resident_bytes(process: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Runs the attackers for this long, and says what they did.
async fn attack(attacker: &std::path::Path, kind: Kind, target: &Target, lasts: Duration) -> Result<Flooded, String> {
    // The other half has room for everybody else, as if attackers were elsewhere: with all of them full, pages wait for the machine.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &format!("0-{}", (cores / 2).max(1) - 1)]);
    // SCHED_IDLE: at the lowest nice value they would still have some per cent of each core, and turns of milliseconds.
    command.args(["chrt", "--idle", "0"]).arg(attacker).args(target.arguments(kind, lasts));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().expect("the attacker starts");
    let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
    let until = Instant::now() + lasts + ATTACKER_MORE_MAX;
    match tokio::time::timeout_at(until, child.wait_with_output()).await {
        Ok(Ok(output)) if output.status.success() => match serde_json::from_slice::<Flooded>(&output.stdout) {
            Ok(flooded) if flooded.done == 0 => Err(format!("{} came to nothing: {flooded:?}", kind.name())),
            flooded => flooded.map_err(|error| format!("what {} did: {error}", kind.name())),
        },
        Ok(ended) => Err(format!("the attacker failed: {ended:?}")),
        Err(_) => {
            let killed = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
            Err(format!("the attacker did not end in time: {killed:?}"))
        }
    }
}
