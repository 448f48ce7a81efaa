//! The whole system under seeds: nothing is lost, nothing is counted twice, everything tells one story.

use std::sync::atomic::{AtomicU64, Ordering};

use simulation::rules::{Kept, RULES};
use simulation::run::{Plan, run};

/// `SIMULATION_SEEDS` of them, or as many as take some minutes.
#[test]
fn every_seed_is_exact() {
    let seeds = std::env::var("SIMULATION_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300);
    let counted = AtomicU64::new(0);
    each(seeds, |seed| {
        let report = run(Plan { seed, rules: Kept::default() });
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
        let Some((seed, sign)) = rule.control() else { return };
        let rules = Kept::all_but(rule.name).expect("it is among them");
        let wrong = run(Plan { seed, rules }).wrong;
        assert!(wrong.iter().any(|wrong| wrong.starts_with(sign)), "without {}, seed {seed}: {wrong:?}", rule.name);
        // And nothing else of it is wrong.
        assert_eq!(run(Plan { seed, rules: Kept::default() }).wrong, Vec::<String>::new(), "seed {seed}");
    });
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    let plan = Plan { seed: 3, rules: Kept::default() };
    let (once, again) = (run(plan), run(plan));
    assert_eq!(format!("{once:?}"), format!("{again:?}"));
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
