//! `tideline`: every role of Tideline in one binary, in the order in which an event passes them, and the command that
//! runs them all on one machine.

mod api;
mod audit;
mod gateways;
mod ready;
mod reload;
mod role;
mod status;
mod stop;
mod up;

use std::future::Future;
use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start_logging().and_then(|()| run(cli.command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// Web analytics from the edge inwards.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take events from pages, log them, count them in the region's Redis, acknowledge them
    Gateway(role::Args),
    /// Cut the region's counters and forward them to central
    Aggregator(role::Args),
    /// Store what the regions counted; answer reports; serve the dashboard
    Central(role::Args),
    /// Run all roles and a private Redis on this machine
    Up(up::Args),
    /// Show the roles that `tideline up` runs
    Status(status::Args),
    /// Compare all that central keeps of a site, events to visits to ledger, and name the first difference
    Audit(audit::Args),
    /// List the gateways that central knows
    Gateways(gateways::ListArgs),
    /// Give up a gateway whose log folder is lost: nothing waits for it any more
    RetireGateway(gateways::RetireArgs),
    /// Send simulated load and audit what was counted
    Loadtest(loadtest::Args),
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Gateway(args) => serve(async {
            let config: gateway::Config = args.load("gateway")?;
            let limits = reload::on_hangup(args, config.clone())?;
            Ok(gateway::run(config, limits, stop::on_signal()?).await?)
        }),
        Command::Aggregator(args) => {
            serve(async { Ok(aggregator::run(args.load("aggregator")?, stop::on_signal()?).await?) })
        }
        Command::Central(args) => serve(async { Ok(central::run(args.load("central")?, stop::on_signal()?).await?) }),
        // One thread: a child process dies with the *thread* that started it, so it must be one that lasts.
        Command::Up(args) => block_on(tokio::runtime::Builder::new_current_thread(), async {
            up::run(args, stop::on_signal()?).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Status(args) => block_on(tokio::runtime::Builder::new_current_thread(), async {
            status::run(args).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Audit(args) => block_on(tokio::runtime::Builder::new_current_thread(), audit::run(args)),
        Command::Gateways(args) => block_on(tokio::runtime::Builder::new_current_thread(), async {
            gateways::list(args).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::RetireGateway(args) => block_on(tokio::runtime::Builder::new_current_thread(), async {
            gateways::retire(args).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Loadtest(args) => block_on(tokio::runtime::Builder::new_multi_thread(), async {
            let report = loadtest::run(args).await?;
            Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }),
    }
}

fn serve(role: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    block_on(tokio::runtime::Builder::new_multi_thread(), async { role.await.map(|()| ExitCode::SUCCESS) })
}

fn block_on<T>(
    mut runtime: tokio::runtime::Builder,
    future: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    runtime.enable_all().build().context("cannot start the runtime")?.block_on(future)
}

/// The whole chain of causes in one line. Many errors name their cause themselves; it is not said twice.
fn message(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .reduce(|said, cause| if said.contains(&cause) { said } else { format!("{said}: {cause}") })
        .unwrap_or_default()
}

/// Logs go to stderr: what a command answers on stdout stays clean.
fn start_logging() -> anyhow::Result<()> {
    // What a client does wrong, the libraries of HTTP/2 and QUIC say at `warn`, a line a packet: nobody may fill our log.
    let filter = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| "info,h2=error,quinn_proto=error".to_owned());
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(filter)
        .context("RUST_LOG is not a log filter such as `info` or `gateway=debug,info`")?;
    let to_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(to_terminal).init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let own = anyhow::anyhow!("no such file").context("cannot read a: no such file").context("cannot start");
        assert_eq!(message(&own), "cannot start: cannot read a: no such file");
    }

    #[test]
    fn up_takes_sites_as_they_are_written() {
        let line =
            ["tideline", "up", "--site", "a=https://a.example", "--site", "b=http://localhost:3000;Europe/Berlin"];
        assert!(Cli::try_parse_from(line).is_ok());
        let error = Cli::try_parse_from(["tideline", "up", "--site", "a"]).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("NAME=ORIGIN"), "{error}");
        assert!(Cli::try_parse_from(["tideline", "up", "--no-visitors"]).is_err(), "only with --demo");
    }
}
