//! The whole system under seeds: nothing is lost, nothing is counted twice, everything tells one story.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use simulation::alone::{self, Outcome};
use simulation::rules::RULES;
use simulation::run::{Plan, run};

/// `SIMULATION_SEEDS` of them, or as many as take some minutes.
#[test]
fn every_seed_is_exact() {
    let seeds = std::env::var("SIMULATION_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(200);
    let counted = AtomicU64::new(0);
    each(seeds, |seed| {
        let report = run(Plan { seed, ..Plan::default() });
        let wrong = report.wrong;
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}\nreplay it: cargo run -p simulation -- --seed {seed}");
        counted.fetch_add(report.counted, Ordering::Relaxed);
    });
    let counted = counted.into_inner();
    assert!(counted > seeds * 20, "{counted} events in {seeds} seeds are too few to mean anything");
}

/// The test of the test: the oracle notices each rule that is left out.
#[test]
fn without_any_rule_that_is_needed_its_seed_fails() {
    each(RULES.len() as u64, |number| {
        let rule = &RULES[number as usize];
        let program = Path::new(env!("CARGO_BIN_EXE_simulation"));
        let Some(verdict) = alone::control(program, rule).expect("the simulation is built") else { return };
        assert!(verdict.seen.is_some(), "without {}: {}", rule.name, verdict.failed.report);
        assert!(verdict.wrong.is_empty(), "with {}: {:#?}", rule.name, verdict.wrong);
    });
}

#[test]
fn a_seed_is_the_same_run_in_every_process() {
    assert_eq!(alone(3), alone(3));
}

fn alone(seed: u64) -> Outcome {
    alone::run(Path::new(env!("CARGO_BIN_EXE_simulation")), seed, None, None).expect("the simulation is built")
}

/// Numbers below `end`, two at a time.
fn each(end: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < end) {
                    work(number);
                }
            });
        }
    });
}
