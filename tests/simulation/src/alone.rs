//! A run in a process of its own: the same every time. Beside other runs it need not be, because tokio's chance counts the
//! runtimes of its process too.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::rules::{Control, Rule};

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

/// What came of a rule's control.
#[derive(Debug)]
pub struct Verdict {
    /// The complaint that it must have.
    pub seen: Option<String>,
    /// The run without the rule, or without the rules.
    pub failed: Outcome,
    /// Runs that must be exact, and are not.
    pub wrong: Vec<Outcome>,
}

/// Runs a rule's control, and the same run with what makes it exact; `None` if the rule has no control.
pub fn control(program: &Path, rule: &Rule) -> io::Result<Option<Verdict>> {
    let Some(Control { seed, only, beside, sign }) = rule.control() else { return Ok(None) };
    let run = |without: Option<&str>| run(program, seed, only, without);
    let failed = run(Some(&beside.map_or(rule.name.to_owned(), |other| format!("{},{other}", rule.name))))?;
    let exact = match beside {
        None => vec![None],
        Some(other) => vec![None, Some(rule.name), Some(other)],
    };
    let mut wrong = Vec::new();
    for without in exact {
        wrong.extend(Some(run(without)?).filter(|outcome| !outcome.exact));
    }
    Ok(Some(Verdict { seen: failed.complaint(sign).map(str::to_owned), failed, wrong }))
}

impl Outcome {
    /// A complaint that begins so.
    fn complaint(&self, sign: &str) -> Option<&str> {
        let begins = format!("\"{sign}");
        self.report.lines().map(str::trim).find(|line| line.starts_with(&begins))
    }
}
