//! One fault after another on a region under load, with audits in between and at the end.

mod fault;
mod outcome;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use crate::audit;
use crate::load::{Load, Plan, Sent};
use crate::region::Region;
use fault::{FAULTS, Fault};
pub use outcome::{Failure, Outcome};

/// Batches that must be acknowledged between two faults: the region works again.
const PROGRESS: u64 = 30;
/// From the end of a fault to those batches: a restart of everything on a slow machine.
const PROGRESS_MAX: Duration = Duration::from_secs(120);
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// What is wrong is found near the fault that did it.
const AUDIT_EVERY: u32 = 20;
/// Two minutes of waiting are as long as ten other cycles.
const LONG_PAUSE_EVERY: u32 = 50;

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

impl Torture {
    /// Runs all cycles, a line each on stderr, up to the first that goes wrong. The figures of a run that failed are as many as are
    /// known.
    pub async fn run(&self) -> Outcome {
        let began = Instant::now();
        eprintln!("seed {}", self.seed);
        let region = Region::start(self.gateways).await;
        let plan = Plan { agents: self.agents, ..Default::default() };
        let load = Load::start(plan, region.doors());
        let outcome = Outcome { seed: self.seed, ..Default::default() };
        let mut run = Run { region, load, random: SmallRng::seed_from_u64(self.seed), at: String::new(), outcome };
        // A wait of the harness that is not fulfilled panics; the table is wanted all the same.
        let ended = AssertUnwindSafe(run.all(self.cycles)).catch_unwind().await;
        let ended = ended.unwrap_or_else(|panic| Err(words(panic.as_ref())));
        run.end(ended, began.elapsed())
    }
}

/// A run on its way.
struct Run {
    region: Region,
    load: Load,
    random: SmallRng,
    /// Cycle and fault.
    at: String,
    outcome: Outcome,
}

impl Run {
    async fn all(&mut self, cycles: u32) -> Result<(), String> {
        let mut round = Vec::new();
        self.at = "before the first fault".into();
        self.load.more(PROGRESS, PROGRESS_MAX).await?;
        for cycle in 1..=cycles {
            let began = Instant::now();
            if round.is_empty() {
                round.extend(FAULTS);
                round.shuffle(&mut self.random);
            }
            let fault = match cycle % LONG_PAUSE_EVERY {
                0 => Fault::PauseLong,
                _ => round.pop().expect("a round is not empty"),
            };
            self.at = format!("cycle {cycle} of {cycles}, {}", fault.name());
            let what = fault.inflict(&mut self.region, &mut self.random).await?;
            self.at = format!("cycle {cycle} of {cycles}, {what}");
            let healed = self.works_again().await?.as_secs_f64();
            self.outcome.cycles = cycle;
            self.outcome.longest_recovery_s = self.outcome.longest_recovery_s.max(healed);
            *self.outcome.faults.entry(what).or_default() += 1;
            let (acknowledged, took) = (self.load.acknowledged(), began.elapsed().as_secs());
            eprintln!("{} ({took} s), works again after {healed:.1} s; {acknowledged} batches acknowledged", self.at);
            if cycle % AUDIT_EVERY == 0 || cycle == cycles {
                self.at = format!("audit after cycle {cycle}");
                self.audit().await?;
                self.load.resume();
            }
        }
        Ok(())
    }

    /// Waits until everything is ready and batches are acknowledged; says how long that took.
    async fn works_again(&mut self) -> Result<Duration, String> {
        let since = Instant::now();
        self.region.all_ready().await;
        let progress = self.load.more(PROGRESS, PROGRESS_MAX).await;
        progress.map_err(|why| format!("{why}\n{}", self.region.words()))?;
        Ok(since.elapsed())
    }

    /// While nothing is sent, batch by batch.
    async fn audit(&mut self) -> Result<(), String> {
        let sent = self.load.pause(DRAIN_MAX).await.map_err(|why| format!("{why}\n{}", self.region.words()))?;
        let audited = audit::exactly(&self.region, &sent).await?;
        self.note(&sent);
        let outcome = &mut self.outcome;
        outcome.audits += 1;
        (outcome.counted, outcome.dropped) = (audited.counted, audited.dropped);
        outcome.duplicates = audited.duplicates;
        outcome.difference = Some(sent.events() as i64 - (audited.counted + audited.dropped) as i64);
        Ok(())
    }

    fn note(&mut self, sent: &Sent) {
        let outcome = &mut self.outcome;
        (outcome.sent, outcome.batches) = (sent.events(), sent.batches.len() as u64);
        outcome.acknowledged = sent.acknowledged;
        outcome.repeats = sent.transmissions - sent.batches.len() as u64;
        outcome.reconnects = sent.reconnects;
    }

    fn end(mut self, ended: Result<(), String>, took: Duration) -> Outcome {
        self.outcome.took_s = took.as_secs_f64();
        if let Err(why) = ended {
            self.note(&self.load.sent());
            self.outcome.difference = None;
            self.outcome.failure = Some(Failure { at: self.at, why, folder: self.region.keep_folder() });
        }
        self.outcome
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_else(|| "a panic".into())
}
