//! Simulated visitors over the real protocol, and their audit.
//!
//! The way of an event: a [`scenario`] says how many visitors make how many events; a [`schedule`] fixes the time of each
//! before anything is known of the answers; a [`visitor`] has an address and a browser, a [`walk`] says what happens on its
//! pages; a [`session`] drives the agent that runs in every browser, over a WebSocket to the [`gateway`]; [`receipts`]
//! keep each event until its batch has an outcome and report to the [`tally`]; at the end the [`audit`] asks the
//! [`stats_api`] whether central counts exactly what was acknowledged, and a [`report`] says so. [`load`] holds the agents
//! of a run together; [`demo`] sends visitors through the demo shop with the same sessions.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub mod audit;
pub mod demo;
pub mod gateway;
pub mod load;
mod open_files;
mod progress;
pub mod receipts;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod session;
pub mod stats_api;
pub mod tally;
pub mod visitor;
pub mod walk;

pub use demo::{VisitorsConfig, simulate_visitors};
pub use report::Report;

use crate::{
    gateway::{Gateway, Gateways},
    report::Run,
    scenario::Scenario,
    stats_api::{Ledger, StatsApi},
    tally::Tally,
};

/// Sends simulated visitors over the real protocol and checks that central counts exactly what was acknowledged.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The scenario, a TOML file such as loadtest/scenarios/smoke.toml.
    #[arg(value_name = "SCENARIO.toml")]
    pub scenario: PathBuf,
    /// The gateway, or several with a comma between them: each connection leads to any one of them. They must trust this
    /// machine as a proxy, since every visitor has an address of its own.
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = "http://127.0.0.1:8080")]
    pub gateway: Vec<String>,
    /// Central.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub central: String,
    /// A file that holds an API key of central: `api-key` in the data folder of `tideline up`.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: PathBuf,
    /// The site to visit. The audit is exact only if nobody else visits it meanwhile.
    #[arg(long, value_name = "NAME")]
    pub site: String,
    /// The site's origin, instead of the scenario's.
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Option<String>,
    /// Audit batch by batch too: every acknowledged one against those that central lists. Central must get the site's raw rows.
    #[arg(long)]
    pub batches: bool,
    /// Where to write the report as JSON.
    #[arg(long, visible_alias = "report", value_name = "OUT")]
    pub json: Option<PathBuf>,
}

/// A run did not come to its report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scenario is unusable.
    #[error(transparent)]
    Scenario(#[from] scenario::ScenarioError),
    /// The gateway's address is unusable.
    #[error(transparent)]
    GatewayUrl(#[from] gateway::GatewayUrlError),
    /// Nobody there.
    #[error("no gateway answers at {url}: {source}; is it running, and is --gateway its address?")]
    GatewayUnreachable {
        /// Its address.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The gateway does not take the site's events.
    #[error("the gateway refuses this load: {0}")]
    Refused(String),
    /// The key file is unusable.
    #[error("cannot read an API key from {path}: {why}; give the file `api-key` in central's data folder")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Central does not answer queries.
    #[error(transparent)]
    StatsApi(#[from] stats_api::StatsApiError),
    /// Too many agents for this machine.
    #[error(transparent)]
    OpenFiles(#[from] open_files::TooFewFiles),
    /// The report cannot be written.
    #[error("cannot write the report to {path}: {source}")]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A signal ended the audit.
    #[error("interrupted before the audit was finished: nothing is known of the counts")]
    Interrupted,
}

/// Runs a scenario and audits it: prints a table, writes the JSON, gives the report. The caller decides by
/// [`passed`](Report::passed) how to exit.
pub async fn run(args: Args) -> Result<Report, Error> {
    let mut scenario = Scenario::read(&args.scenario)?;
    if let Some(origin) = &args.origin {
        scenario = scenario.with_origin(origin)?;
    }
    let gateways = Gateways::try_new(&args.gateway, &scenario.origin)?;
    let api = StatsApi::new(&args.central, read_key(&args.api_key_file)?, &args.site);
    open_files::allow(scenario.agents)?;
    for gateway in gateways.iter() {
        answers(gateway).await?;
    }

    let seconds = Duration::from_secs_f64;
    let before = audit::before(&api, seconds(scenario.settle_s)).await?;
    let ledger_before = if args.batches { api.ledger().await? } else { Ledger::default() };
    let since_ms = began_ms().saturating_sub(CLOCK_SKEW_MS);
    let scenario = Arc::new(scenario);
    let tally = Arc::new(Tally::default());
    eprintln!(
        "{} agents, {} events a second for {} s, site {}",
        scenario.agents, scenario.events_per_s, scenario.duration_s, args.site
    );
    let load = load::run(scenario.clone(), &args.site, gateways, &tally).await;
    if load.refused {
        let why = tally.lock().refusal.clone().unwrap_or_else(|| "it gave no reason".to_owned());
        return Err(Error::Refused(why));
    }

    eprintln!("auditing: asking central until its counts stand for {} s", scenario.settle_s);
    let expected = audit::Expected::of(&tally.lock(), &scenario);
    let receipts = std::mem::take(&mut tally.lock().receipts);
    let (limit, settle) = (seconds(scenario.count_s), seconds(scenario.settle_s));
    let audited = async {
        let mut audit = audit::after(&api, &expected, &before, limit, settle).await?;
        if args.batches {
            audit.batches = Some(audit::batches::audit(&api, &receipts, since_ms, &ledger_before, limit).await?);
        }
        Ok::<_, Error>(audit)
    };
    let audit = tokio::select! {
        audit = audited => audit?,
        _ = tokio::signal::ctrl_c() => return Err(Error::Interrupted),
    };
    let run = Run {
        scenario: args.scenario.display().to_string(),
        site: args.site,
        agents: scenario.agents,
        duration: load.duration,
        interrupted: load.interrupted,
    };
    let report = Report::new(&tally.lock(), audit, scenario.dropped_share_max, run);
    println!("{report}");
    if let Some(path) = args.json {
        write(&path, &report).map_err(|source| Error::Output { path, source })?;
    }
    Ok(report)
}

/// What the region's clock may be behind this machine's.
const CLOCK_SKEW_MS: u64 = 60_000;

fn began_ms() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since_1970.as_millis() as u64
}

fn read_key(path: &Path) -> Result<String, Error> {
    let unusable = |why: String| Error::KeyFile { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    match text.trim() {
        "" => Err(unusable("it is empty".to_owned())),
        key => Ok(key.to_owned()),
    }
}

/// Says early and plainly that nobody is there, instead of letting every agent find out by itself.
async fn answers(gateway: &Gateway) -> Result<(), Error> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let request = reqwest::Client::new().get(format!("{}/live", gateway.base())).timeout(TIMEOUT);
    match request.send().await {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::GatewayUnreachable { url: gateway.base(), source }),
    }
}

fn write(path: &Path, report: &Report) -> std::io::Result<()> {
    let mut json = serde_json::to_string_pretty(report)?;
    json.push('\n');
    std::fs::write(path, json)
}
