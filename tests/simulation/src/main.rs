//! Runs seeds, on as many threads as there are cores, and says which failed and how to see it again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use simulation::alone;
use simulation::rules::{Kept, RULES};
use simulation::run::faults::Only;
use simulation::run::{Plan, Report, minutes, run, warm_up};

/// The whole system under one seed after the other.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only runs that have faults for at least so many minutes.
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    /// One seed alone, with a trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Leaves this rule out.
    #[arg(long, value_parser = Kept::all_but, value_name = "RULE")]
    without: Option<Kept>,
    /// These faults, or late-messages, instead of the seed's, with commas in between.
    #[arg(long, value_parser = Only::of, value_name = "FAULTS")]
    only: Option<Only>,
    /// Ends at the first failure.
    #[arg(long)]
    until_failure: bool,
    /// Leaves each rule out in turn, under the seed that is known to fail without it.
    #[arg(long)]
    controls: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let rules = arguments.without.unwrap_or_default();
    let only = arguments.only.unwrap_or_default();
    let all_well = match arguments.seed {
        _ if arguments.controls => controls(),
        Some(seed) => one(Plan { seed, rules, only }),
        None => many(&arguments, Plan { seed: 0, rules, only }),
    };
    std::process::exit(i32::from(!all_well));
}

fn one(plan: Plan) -> bool {
    warm_up(); // it leaves no trace
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).without_time().init();
    let report = run(plan);
    println!("{report:#?}");
    report.wrong.is_empty()
}

fn many(arguments: &Arguments, plan: Plan) -> bool {
    let Arguments { seeds, from, until_failure, .. } = *arguments;
    let (began, next, enough) = (Instant::now(), AtomicU64::new(from), AtomicBool::new(false));
    let all = Mutex::new(Sum::default());
    let work = || {
        while !enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return;
            }
            if minutes(seed) < arguments.minutes {
                continue;
            }
            let report = run(Plan { seed, ..plan });
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&report);
            if !report.wrong.is_empty() {
                println!("seed {seed} failed; replay it: cargo run -p simulation -- --seed {seed}{}", conditions());
                report.wrong.iter().for_each(|wrong| println!("  {wrong}"));
                enough.fetch_or(until_failure, Ordering::Relaxed);
            }
            if all.seeds.is_multiple_of(100) {
                println!(
                    "{} of {seeds} seeds, {} failed, {:.0} s",
                    all.seeds,
                    all.failed,
                    began.elapsed().as_secs_f64()
                );
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (wall, hours) = (began.elapsed().as_secs_f64(), all.seconds as f64 / 3600.0);
    println!("{} seeds, {} failed; {} with a rebirth; {} faults", all.seeds, all.failed, all.reborn, all.faults);
    println!(
        "{} events made, {} counted; {hours:.0} simulated hours; {wall:.0} s on {cores} cores: {:.0} events and {:.2} \
         simulated hours a second",
        all.events,
        all.counted,
        all.events as f64 / wall,
        hours / wall
    );
    all.failed == 0
}

/// What else a replay must be told.
fn conditions() -> String {
    let words: Vec<String> = std::env::args().collect();
    let told = words.windows(2).filter(|pair| ["--without", "--only"].contains(&pair[0].as_str()));
    told.map(|pair| format!(" {} {}", pair[0], pair[1])).collect()
}

/// The test of the test: every rule that is needed is missed.
fn controls() -> bool {
    let program = std::env::current_exe().expect("a process has a program");
    let mut all_well = true;
    for rule in RULES {
        let (name, without) = (rule.name, rule.without);
        let Some(verdict) = alone::control(&program, rule).expect("it can be started again") else {
            println!("{name:15} {:?} ({without})", rule.needed);
            continue;
        };
        all_well &= verdict.seen.is_some() && verdict.wrong.is_empty();
        println!("{name:15} {:?}: {} ({without})", rule.needed, verdict.seen.as_deref().unwrap_or("NOT SEEN TO FAIL"));
        for wrong in verdict.wrong {
            println!("{name:15} FAILS WITH THE RULE TOO: {}", wrong.report);
        }
    }
    all_well
}

/// Over many runs.
#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: u64,
    reborn: u64,
    events: u64,
    counted: u64,
    seconds: u64,
    faults: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.failed += u64::from(!report.wrong.is_empty());
        self.reborn += u64::from(report.epochs > 1);
        self.events += report.events;
        self.counted += report.counted;
        self.seconds += report.seconds;
        self.faults += report.faults;
    }
}
