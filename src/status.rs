//! `tideline status`: what `tideline up` wrote about its processes, checked against the living.

pub mod running;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use self::running::RunningRole;
use crate::ready::{self, Probe};
use crate::up::folder;

/// Arguments of `tideline status`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The data folder of the running instance
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data: PathBuf,
    /// Answer JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, PartialEq, Serialize)]
struct Status {
    roles: Vec<RoleStatus>,
    /// Where the demo shop is served, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    shop: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct RoleStatus {
    role: String,
    /// None while a dead role waits for its next start.
    pid: Option<u32>,
    address: String,
    admin: Option<SocketAddr>,
    ready: bool,
    restarts: u32,
}

/// Prints what runs in a data folder; it is an error when nothing does.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let status = look(&args.data).await?;
    let text = if args.json { serde_json::to_string_pretty(&status)? } else { table(&status) };
    // The reader may have gone away (`tideline status | head -1`).
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

async fn look(data: &Path) -> anyhow::Result<Status> {
    anyhow::ensure!(
        folder::owner(data).is_some(),
        "nothing runs in the data folder {}; start it with `tideline up --data {0}`",
        data.display()
    );
    let file = data.join("run").join(running::FILE);
    let running = running::read(&file).with_context(|| {
        format!("cannot read {}; if `tideline up` has only just been started, ask again", file.display())
    })?;
    let probe = Probe::try_new()?;
    let mut roles = Vec::with_capacity(running.roles.len());
    for role in running.roles {
        roles.push(check(&probe, role).await);
    }
    Ok(Status { roles, shop: running.shop })
}

async fn check(probe: &Probe, role: RunningRole) -> RoleStatus {
    let living = role.process.filter(|process| process.lives());
    let ready = match (living, role.admin) {
        (None, _) => false,
        (Some(_), Some(admin)) => probe.role(admin).await,
        (Some(_), None) => ready::redis(Path::new(&role.address)).await,
    };
    let RunningRole { role, address, admin, restarts, .. } = role;
    RoleStatus { role, pid: living.map(|process| process.pid), address, admin, ready, restarts }
}

fn table(status: &Status) -> String {
    let mut rows = vec![["ROLE", "PID", "READY", "RESTARTS", "ADMIN", "ADDRESS"].map(str::to_owned)];
    rows.extend(status.roles.iter().map(|role| {
        [
            role.role.clone(),
            role.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            if role.ready { "yes" } else { "no" }.to_owned(),
            role.restarts.to_string(),
            role.admin.map_or_else(|| "-".to_owned(), |admin| admin.to_string()),
            role.address.clone(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let lines: Vec<_> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests;
