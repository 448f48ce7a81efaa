//! The audit as a table.

use std::fmt;

use serde::Deserialize;

/// What central answered.
#[derive(Debug, Deserialize)]
pub struct Report {
    site_id: String,
    from: String,
    to: String,
    pub state: State,
    /// The first day whose raw rows are compared.
    raw_from: Option<String>,
    waiting: Vec<Waiting>,
    /// Checks whose figures flushes moved at each look.
    moving: Vec<String>,
    difference: u64,
    first_difference: Option<Difference>,
    split_visits: u64,
    checks: Vec<Check>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Clean,
    Different,
    /// Raw rows are on their way, or counts moved.
    Waiting,
}

#[derive(Debug, Deserialize)]
struct Waiting {
    gateway: String,
    shard: u32,
    accepted: u64,
    raw: u64,
}

#[derive(Debug, Deserialize)]
struct Difference {
    day: String,
    check: String,
    between: [String; 2],
    of: String,
    key: String,
    figures: Vec<String>,
    left: Vec<u64>,
    right: Vec<u64>,
}

#[derive(Debug, Deserialize)]
struct Check {
    check: String,
    between: [String; 2],
    figures: Vec<String>,
    days: Vec<Day>,
}

#[derive(Debug, Deserialize)]
struct Day {
    day: String,
    left: Vec<u64>,
    right: Vec<u64>,
    differing: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site_id, from, to, .. } = self;
        writeln!(f, "site {site_id}, {from} to {to} (UTC), as far as accepted flushes reach\n")?;
        writeln!(f, "{}\n", table(&self.checks.iter().flat_map(Check::rows).collect::<Vec<_>>()))?;
        match &self.raw_from {
            None => writeln!(f, "raw rows are not compared: the site keeps none of these days")?,
            Some(day) if day != from => {
                writeln!(f, "raw rows are compared from {day} on: the site keeps none of the days before")?
            }
            Some(_) => {}
        }
        if self.split_visits > 0 {
            let visits = self.split_visits;
            writeln!(
                f,
                "{visits} split visits, which are no difference: events that came late lie between two visits"
            )?;
        }
        for check in &self.moving {
            writeln!(f, "it moved at each look: {check}")?;
        }
        for Waiting { gateway, shard, accepted, raw } in &self.waiting {
            writeln!(
                f,
                "raw rows are on their way: gateway {gateway}, shard {shard}, records {} to {accepted}",
                raw + 1
            )?;
        }
        if let Some(first) = &self.first_difference {
            write!(f, "{first}")?;
        }
        match (self.state, self.difference) {
            (State::Waiting, 0) => write!(f, "difference 0 so far; not everything is there yet"),
            (State::Waiting, some) => write!(f, "difference {some} so far; not everything is there yet"),
            (_, difference) => write!(f, "difference {difference}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { day, check, between: [left, right], of, key, .. } = self;
        writeln!(f, "first difference, on {day}: {check}")?;
        if !key.is_empty() {
            writeln!(f, "  {of}: {key}")?;
        }
        let figures = self.figures.iter().zip(self.left.iter().zip(&self.right));
        for (figure, (a, b)) in figures.filter(|(_, (a, b))| a != b) {
            writeln!(f, "  {figure}: {a} in {left}, {b} in {right}")?;
        }
        Ok(())
    }
}

impl Check {
    /// A row a figure over all days, then one for each day on which something differs.
    fn rows(&self) -> Vec<[String; 6]> {
        let mut rows = Vec::new();
        for (at, figure) in self.figures.iter().enumerate() {
            // A sum of instants says nothing; whether they are equal does.
            let sum = |of: fn(&Day) -> &Vec<u64>| {
                self.days.iter().fold(0u64, |sum, day| sum.wrapping_add(figure_of(of(day), at)))
            };
            let (left, right) = (sum(|day| &day.left), sum(|day| &day.right));
            let [a, b] = match figure.as_str() {
                "start ms" | "last ms" => ["".to_owned(), "".to_owned()],
                _ => [left.to_string(), right.to_string()],
            };
            let first = at == 0;
            let named = |text: &str| if first { text.to_owned() } else { String::new() };
            let between = named(&self.between.join(" = "));
            rows.push([named(&self.check), between, figure.clone(), a, b, left.abs_diff(right).to_string()]);
        }
        for day in self.days.iter().filter(|day| day.differing > 0) {
            let blank = String::new;
            rows.push([
                format!("  {}", day.day),
                blank(),
                format!("{} differ", day.differing),
                blank(),
                blank(),
                blank(),
            ]);
        }
        rows
    }
}

fn figure_of(figures: &[u64], at: usize) -> u64 {
    figures.get(at).copied().unwrap_or_default()
}

fn table(rows: &[[String; 6]]) -> String {
    let head = ["CHECK", "", "FIGURE", "LEFT", "RIGHT", "DIFFERENCE"].map(str::to_owned);
    let rows: Vec<&[String; 6]> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &&[String; 6]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0..=2 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report(state: &str, right: u64) -> Report {
        let day = json!({"day": "2026-11-22", "left": [5], "right": [right], "differing": u64::from(right != 5)});
        let first = json!({"day": "2026-11-22", "check": "pages", "between": ["rollups", "events"], "of": "page",
            "key": "/a", "figures": ["pageviews"], "left": [5], "right": [right]});
        serde_json::from_value(json!({
            "site_id": "shop", "from": "2026-11-22", "to": "2026-11-22", "timezone": "UTC", "state": state,
            "raw_from": "2026-11-22", "waiting": [], "moving": [], "split_visits": 0, "difference": u64::from(right != 5),
            "first_difference": if right == 5 { Value::Null } else { first },
            "checks": [{"check": "pages", "between": ["rollups", "events"], "figures": ["pageviews"], "days": [day]}],
        }))
        .unwrap()
    }

    #[test]
    fn a_clean_audit_ends_with_a_difference_of_0() {
        let text = report("clean", 5).to_string();
        assert!(text.ends_with("difference 0") && !text.contains("first difference"), "{text}");
    }

    #[test]
    fn the_first_difference_is_named_with_both_figures() {
        let text = report("different", 4).to_string();
        for part in ["on 2026-11-22: pages", "page: /a", "pageviews: 5 in rollups, 4 in events", "difference 1"] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_not_whole_is_not_called_clean() {
        let mut waiting = report("waiting", 5);
        waiting.waiting.push(Waiting { gateway: "g".into(), shard: 0, accepted: 9, raw: 7 });
        let text = waiting.to_string();
        assert!(text.contains("records 8 to 9") && text.contains("not everything is there yet"), "{text}");
        let mut moving = report("waiting", 4);
        moving.moving.push("pages".into());
        let text = moving.to_string();
        assert!(text.contains("it moved at each look: pages") && text.contains("not everything"), "{text}");
    }

    #[test]
    fn what_was_not_compared_is_said() {
        let mut without = report("clean", 5);
        assert!(!without.to_string().contains("raw rows"), "{without}");
        without.raw_from = None;
        assert!(without.to_string().contains("raw rows are not compared"), "{without}");
        without.raw_from = Some("2026-11-23".into());
        assert!(without.to_string().contains("compared from 2026-11-23 on"), "{without}");
    }

    #[test]
    fn split_visits_are_told_and_are_no_difference() {
        let mut split = report("clean", 5);
        split.split_visits = 2;
        let text = split.to_string();
        assert!(text.contains("2 split visits") && text.ends_with("difference 0"), "{text}");
    }
}
