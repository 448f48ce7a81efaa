//! A run in a process of its own: the same every time. Beside other runs it need not be, because tokio's chance counts the
//! runtimes of its process too.

use std::io;
use std::path::Path;
use std::process::Command;

/// What came of a run.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Nothing was wrong.
    pub exact: bool,
    /// The report, as it is printed.
    pub report: String,
}

/// Runs a seed with `program`, which is the simulation, under these faults or its own, without this rule.
pub fn run(program: &Path, seed: u64, only: Option<&str>, without: Option<&str>) -> io::Result<Outcome> {
    let mut command = Command::new(program);
    command.args(["--seed", &seed.to_string()]).env("RUST_LOG", "off");
    if let Some(faults) = only {
        command.args(["--only", faults]);
    }
    if let Some(rule) = without {
        command.args(["--without", rule]);
    }
    let output = command.output()?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Outcome { exact: output.status.success(), report })
}

impl Outcome {
    /// A complaint that begins so.
    pub fn complaint(&self, sign: &str) -> Option<&str> {
        let begins = format!("\"{sign}");
        self.report.lines().map(str::trim).find(|line| line.starts_with(&begins))
    }
}
