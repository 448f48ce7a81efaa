//! `tideline audit`: whether everything that central keeps of a site tells one story.

mod report;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use reqwest::Method;
use tokio::time::{Instant, sleep};

use self::report::{Report, State};
use crate::api::Access;

/// The whole of a large site, nine comparisons with half a minute each at most.
const ANSWER_WAIT: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A difference that stays this many looks is one; a single look can fall between two rows of one record.
const LOOKS: u32 = 3;

/// Arguments of `tideline audit`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The site
    #[arg(long, value_name = "NAME")]
    site: String,
    /// The first day, UTC, such as 2026-11-22 [default: 30 days end with the last]
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// The last day, UTC [default: today]
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
    #[command(flatten)]
    access: Access,
    /// How long to wait for raw rows that are still on their way
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// Answer central's JSON
    #[arg(long)]
    json: bool,
}

/// Prints the comparison; fails on any difference, and when raw rows did not come in time.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = args.access.open(ANSWER_WAIT)?;
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    let mut looks = 0;
    let (report, text) = loop {
        let days = [("from", &args.from), ("to", &args.to)];
        let days = days.into_iter().filter_map(|(name, day)| Some((name, day.as_ref()?)));
        let request = api.request(Method::GET, "/api/v2/audit").query(&[("site_id", &args.site)]);
        let answer: serde_json::Value = api.ask(request.query(&days.collect::<Vec<_>>())).await?;
        let text = serde_json::to_string_pretty(&answer)?;
        let report: Report = serde_json::from_value(answer)?;
        looks += u32::from(report.state == State::Different);
        let settled = match report.state {
            State::Clean | State::Skipped => true,
            State::Different => looks >= LOOKS,
            State::Waiting => false,
        };
        if settled || Instant::now() >= deadline {
            break (report, text);
        }
        sleep(LOOK_AGAIN).await;
    };
    // The reader may have gone away (`tideline audit | head -1`).
    let _ = writeln!(std::io::stdout(), "{}", if args.json { text } else { report.to_string() });
    Ok(match report.state {
        State::Clean | State::Skipped => ExitCode::SUCCESS,
        State::Different | State::Waiting => ExitCode::FAILURE,
    })
}
