//! Runs seeds, one after the other, and says which failed and how to see it again.

use std::time::Instant;

use clap::Parser;
use simulation::run::{Plan, Report, run};

/// The whole system under one seed after the other.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// One seed alone, with a trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Leaves this rule out.
    #[arg(long)]
    without: Option<String>,
    /// Ends at the first failure.
    #[arg(long)]
    until_failure: bool,
}

fn main() {
    let Arguments { seeds, from, seed, without, until_failure } = Arguments::parse();
    if let Some(seed) = seed {
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).without_time().init();
        let report = run(Plan { seed, without });
        println!("{report:#?}");
        std::process::exit(i32::from(!report.wrong.is_empty()));
    }
    let (began, mut all, mut failed) = (Instant::now(), Report::default(), 0);
    for seed in from..from + seeds {
        let report = run(Plan { seed, without: without.clone() });
        all.events += report.events;
        all.counted += report.counted;
        all.seconds += report.seconds;
        all.faults += report.faults;
        all.epochs += u64::from(report.epochs > 1);
        if !report.wrong.is_empty() {
            failed += 1;
            println!("seed {seed} failed; replay it: cargo run -p simulation -- --seed {seed}");
            report.wrong.iter().for_each(|wrong| println!("  {wrong}"));
            if until_failure {
                break;
            }
        }
        if (seed + 1 - from) % 100 == 0 {
            println!("{} of {seeds} seeds, {failed} failed, {:.0} s", seed + 1 - from, began.elapsed().as_secs_f64());
        }
    }
    let (wall, hours) = (began.elapsed().as_secs_f64(), all.seconds as f64 / 3600.0);
    println!("{seeds} seeds, {failed} failed; {} with a rebirth; {} faults", all.epochs, all.faults);
    println!("{} events made, {} counted; {hours:.1} simulated hours in {wall:.1} s", all.events, all.counted);
    std::process::exit(i32::from(failed > 0));
}
