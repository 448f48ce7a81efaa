//! Hostile traffic on a gateway that well-behaved pages use: what they notice of it, and what the gateway keeps for it.
//!
//! Attackers are a process of their own ([`flood`]), which computes while nobody else has anything to do: theirs would be other
//! machines. They come from addresses of 127.66.0.0/15, which no proxy vouches for; the pages come through one. One [`Kind`] after
//! another, each in a file with its relatives.

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
use flood::Target;
pub use kind::Kind;
pub use outcome::{Measured, Outcome, Phase};

const DRAIN_MAX: Duration = Duration::from_secs(120);
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Beyond its time an attacker is killed.
const ATTACKER_MORE_MAX: Duration = Duration::from_secs(10);
/// Pages have connected, caches are warm.
const WARM_UP: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Attack {
    /// Seconds of each attack, and of the quiet times before and after it.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
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
            let quiet = Duration::from_secs(self.seconds);
            let before = phase(&load, gateway, sleep(quiet)).await;
            let broken = load.broken();
            let mut tries = String::new();
            let attacked = async { tries = attack(attacker, kind, &target, quiet).await };
            let during = phase(&load, gateway, attacked).await;
            let after = phase(&load, gateway, sleep(quiet)).await;
            let measured = Measured { kind, tries, before, during, after, broken: load.broken() - broken };
            eprintln!("{measured}");
            outcome.attacks.push(measured);
            if let Err(why) = region.is_whole() {
                outcome.failure = Some(why);
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
        outcome
    }
}

/// Latencies and memory for as long as `lasts` does.
async fn phase(load: &Load, gateway: Pid, lasts: impl Future<Output = ()>) -> Phase {
    load.take_latencies();
    let mut rss = vec![resident_bytes(gateway)];
    let mut lasts = std::pin::pin!(lasts);
    loop {
        tokio::select! {
            () = &mut lasts => break,
            () = sleep(SAMPLE_EVERY) => rss.push(resident_bytes(gateway)),
        }
    }
    Phase::of(load.take_latencies(), &rss)
}

/// What a process has in memory; 0 if it is gone.
fn resident_bytes(process: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Runs the attackers for this long, and says what they did.
async fn attack(attacker: &std::path::Path, kind: Kind, target: &Target, lasts: Duration) -> String {
    // SCHED_IDLE: at the lowest nice value they would still have some per cent of each core, and turns of milliseconds.
    let mut command = Command::new("chrt");
    command.args(["--idle", "0"]).arg(attacker).args(target.arguments(kind, lasts));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().expect("the attacker starts");
    let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
    let until = Instant::now() + lasts + ATTACKER_MORE_MAX;
    match tokio::time::timeout_at(until, child.wait_with_output()).await {
        Ok(Ok(output)) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(ended) => format!("the attacker failed: {ended:?}"),
        Err(_) => {
            let killed = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
            format!("the attacker did not end in time: {killed:?}")
        }
    }
}
