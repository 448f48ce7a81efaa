//! `attack`: hostile traffic on a gateway that well-behaved pages use, and what they noticed, as a table.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use harness::attack::Attack;
use harness::attack::flood::Flood;

/// Attacks a gateway in one way after another while well-behaved pages use it, then audits what it counted
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    attack: Attack,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// The attackers' side, started by the other one
    #[command(hide = true)]
    Flood(Flood),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { attack, command } = Cli::parse();
    if let Some(Command::Flood(flood)) = command {
        println!("{}", serde_json::json!(flood.run().await));
        return ExitCode::SUCCESS;
    }
    let this = match std::env::current_exe() {
        Ok(this) => this,
        Err(error) => {
            eprintln!("cannot find this program: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = attack.run(&this).await;
    println!("{outcome}");
    if let Some(path) = attack.json {
        let json = serde_json::to_string_pretty(&outcome).expect("figures have names");
        if let Err(error) = std::fs::write(&path, json) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if outcome.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
