//! `tideline audit`: whether everything that central keeps of a site tells one story.

mod report;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use reqwest::Method;
use tokio::time::{Instant, sleep};

use self::report::{Report, State};
use crate::api::Access;

/// The whole of a large site, a dozen comparisons a week with half a minute each at most, behind another audit.
const ANSWER_WAIT: Duration = Duration::from_secs(1200);
const ASK_AGAIN: Duration = Duration::from_secs(1);

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
    /// How long to wait for raw rows that are still on their way, and for counts that move
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// Answer central's JSON
    #[arg(long)]
    json: bool,
}

/// Prints the comparison; fails on any difference, and when not everything was there in time.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = args.access.open(ANSWER_WAIT)?;
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    let (report, text) = loop {
        let days = [("from", &args.from), ("to", &args.to)];
        let days = days.into_iter().filter_map(|(name, day)| Some((name, day.as_ref()?)));
        let request = api.request(Method::GET, "/api/v2/audit").query(&[("site_id", &args.site)]);
        let answer: serde_json::Value = api.ask(request.query(&days.collect::<Vec<_>>())).await?;
        let text = serde_json::to_string_pretty(&answer)?;
        let report: Report = serde_json::from_value(answer)?;
        // Central itself looks again before it calls anything different.
        if report.state != State::Waiting || Instant::now() >= deadline {
            break (report, text);
        }
        sleep(ASK_AGAIN).await;
    };
    // The reader may have gone away (`tideline audit | head -1`).
    let _ = writeln!(std::io::stdout(), "{}", if args.json { text } else { report.to_string() });
    Ok(match report.state {
        State::Clean => ExitCode::SUCCESS,
        State::Different | State::Waiting => ExitCode::FAILURE,
    })
}
