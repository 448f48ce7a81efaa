//! The whole system under seeds: nothing is lost, nothing is counted twice, everything tells one story.

use simulation::run::{Plan, run};

/// `SIMULATION_SEEDS` of them, or as many as take about a minute.
#[test]
fn every_seed_is_exact() {
    let seeds = std::env::var("SIMULATION_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(16);
    let halves = [0, 1].map(|first| {
        std::thread::spawn(move || {
            let mut counted = 0;
            for seed in (first..seeds).step_by(2) {
                let report = run(Plan { seed, without: None });
                assert!(
                    report.wrong.is_empty(),
                    "seed {seed}: {:#?}\nreplay it: cargo run -p simulation -- --seed {seed}",
                    report.wrong
                );
                counted += report.counted;
            }
            counted
        })
    });
    let counted: u64 = halves.into_iter().map(|half| half.join().expect("a seed failed")).sum();
    assert!(counted > seeds * 20, "{counted} events in {seeds} seeds are too few to mean anything");
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    let plan = Plan { seed: 3, without: None };
    let (once, again) = (run(plan.clone()), run(plan));
    assert_eq!(format!("{once:?}"), format!("{again:?}"));
}

/// The oracle sees what a rule is for.
#[test]
fn without_bits_a_repeat_is_counted_twice() {
    let report = run(Plan { seed: 0, without: Some("3-bitmap".into()) });
    assert!(report.wrong.iter().any(|wrong| wrong.starts_with("counted twice")), "{report:?}");
}

/// A folder that was copied before its last outcomes were logged passed for the newest one.
#[test]
fn a_folder_with_older_outcomes_is_another_gateway() {
    assert_eq!(run(Plan { seed: 8, without: None }).wrong, Vec::<String>::new());
}
