//! `torture --cycles N`: faults on a region of real processes under load, unattended, and a table at the end.

use std::process::ExitCode;

use clap::Parser;
use harness::torture::Torture;

/// Kills, stops and starves a region of real processes under load, then audits what it counted
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    torture: Torture,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { torture } = Cli::parse();
    let outcome = torture.run().await;
    println!("{outcome}");
    if let Some(path) = torture.json {
        let json = serde_json::to_string_pretty(&outcome).expect("figures have names");
        if let Err(error) = std::fs::write(&path, json) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if outcome.failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
