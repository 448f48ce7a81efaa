//! `tideline gateways` and `tideline retire-gateway`: which gateways feed central, and which must not come back.

use std::io::Write;
use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::api::Access;

const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Arguments of `tideline gateways`.
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    access: Access,
    /// Answer JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `tideline retire-gateway`.
#[derive(clap::Args, Debug)]
pub struct RetireArgs {
    /// The gateway's id, the UUID of its log folder: `tideline gateways` lists them
    id: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Deserialize, Serialize)]
struct Gateways {
    gateways: Vec<Gateway>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Gateway {
    id: String,
    region: String,
    registered_at: String,
    entered_at: Option<String>,
    retired_at: Option<String>,
    last_batch_at: Option<String>,
    shards: Vec<Position>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Position {
    shard: u32,
    accepted: u64,
    raw: u64,
}

#[derive(Debug, Deserialize)]
struct Retired {
    id: String,
    warnings: Vec<String>,
}

/// Prints every gateway that central knows.
pub async fn list(args: ListArgs) -> anyhow::Result<()> {
    let api = args.access.open(ANSWER_WAIT)?;
    let known: Gateways = api.ask(api.request(Method::GET, "/api/v2/gateways")).await?;
    let text = if args.json { serde_json::to_string_pretty(&known)? } else { table(&known.gateways) };
    // The reader may have gone away (`tideline gateways | head -1`).
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

/// Retires a gateway whose log folder will not come back.
pub async fn retire(args: RetireArgs) -> anyhow::Result<()> {
    let api = args.access.open(ANSWER_WAIT)?;
    let path = format!("/api/v2/gateways/{}/retire", args.id);
    anyhow::ensure!(
        !args.id.is_empty() && args.id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
        "{:?} is not the id of a gateway; `tideline gateways` lists them",
        args.id
    );
    let retired: Retired = api.ask(api.request(Method::POST, &path)).await?;
    for warning in &retired.warnings {
        eprintln!("warning: {warning}");
    }
    let _ = writeln!(
        std::io::stdout(),
        "gateway {} is retired: nothing waits for it, and it must not come back",
        retired.id
    );
    Ok(())
}

fn table(gateways: &[Gateway]) -> String {
    let mut rows = vec![["ID", "REGION", "STATE", "LAST BATCH", "ACCEPTED", "RAW"].map(str::to_owned)];
    for gateway in gateways {
        let state = match (&gateway.retired_at, &gateway.entered_at) {
            (Some(at), _) => format!("retired {}", seconds(at)),
            (None, Some(_)) => "entered".to_owned(),
            (None, None) => "registered".to_owned(),
        };
        let of_shards = |lsn: fn(&Position) -> u64| match gateway.shards.as_slice() {
            [] => "-".to_owned(),
            shards => shards.iter().map(|shard| lsn(shard).to_string()).collect::<Vec<_>>().join(" "),
        };
        let last_batch = gateway.last_batch_at.as_deref().map_or("-", seconds).to_owned();
        let (accepted, raw) = (of_shards(|of| of.accepted), of_shards(|of| of.raw));
        rows.push([gateway.id.clone(), gateway.region.clone(), state, last_batch, accepted, raw]);
    }
    let widths: [usize; 6] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// An instant without its fraction.
fn seconds(instant: &str) -> &str {
    instant.split(['.', 'Z']).next().unwrap_or(instant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_one_line() {
        let gateway = Gateway {
            id: "6b3f0f0e-8f43-4d5e-9d6c-0a8d6f1f0001".into(),
            region: "local".into(),
            registered_at: "2026-11-22T10:00:00Z".into(),
            entered_at: Some("2026-11-22T10:00:01Z".into()),
            retired_at: None,
            last_batch_at: Some("2026-11-22T10:00:05.123Z".into()),
            shards: vec![Position { shard: 0, accepted: 12, raw: 11 }],
        };
        let text = table(&[gateway]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("entered  2026-11-22T10:00:05  12        11"), "{text}");
    }
}
