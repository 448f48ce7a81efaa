//! What must hold once everything has healed.

use std::collections::{BTreeMap, BTreeSet};

use proto::record::RecordedEvent;
use proto::uplink::{Kind, VisitRow};

use central::store::RawRow;

use crate::agent::{Fate, Noted};
use crate::central::{MemoryBooks, Name};

/// What is wrong, each with some examples.
pub fn violations(noted: &Noted, books: &MemoryBooks) -> Vec<String> {
    let (sent, kept) = (noted.look(), books.kept());
    let mut wrong = Vec::new();
    let mut expect = |what: &str, cases: Vec<String>| {
        if !cases.is_empty() {
            wrong.push(format!("{what}: {} ({})", cases.len(), cases[..cases.len().min(3)].join(", ")));
        }
    };

    // Rollups, by path: every event has a path of its own.
    let mut rollups: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut total, mut ledger) = (0, BTreeMap::<u32, u64>::new());
    for rows in kept.rows() {
        for row in &rows.rollups {
            match Kind::try_from(row.kind) {
                Ok(Kind::Page) => *rollups.entry(&row.value).or_default() += row.pageviews,
                Ok(Kind::Total) => total += row.pageviews,
                _ => {}
            }
        }
        for row in &rows.ledger {
            *ledger.entry(row.reason).or_default() += row.events;
        }
    }

    // Raw rows.
    let mut raw: BTreeMap<&str, u64> = BTreeMap::new();
    let mut raw_ledger: BTreeMap<u32, u64> = BTreeMap::new();
    let mut of_visit: BTreeMap<Name, Visit> = BTreeMap::new();
    let mut of_visitor: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, row) in kept.raw.values() {
        for dropped in &row.record.dropped {
            *raw_ledger.entry(dropped.reason).or_default() += u64::from(dropped.events);
        }
        let Some((sid, seq)) = row.visit else { continue };
        let visit = of_visit.entry((sid.to_vec(), seq)).or_default();
        for event in &row.record.events {
            *raw.entry(&event.path).or_default() += 1;
            visit.add(event);
            *raw_ledger.entry(0).or_default() += 1;
        }
        *of_visitor.entry(row.record.visitor).or_default() += row.record.events.len() as u64;
    }

    let count = |path: &str| rollups.get(path).copied().unwrap_or(0);
    let paths = |of: &dyn Fn(&crate::agent::Content) -> bool| -> Vec<String> {
        sent.contents.iter().filter(|content| of(content)).map(|content| content.path.clone()).collect()
    };
    expect(
        "acknowledged and not counted",
        paths(&|it| it.fate == Fate::Acknowledged && !it.bad && count(&it.path) == 0),
    );
    expect("counted twice", paths(&|it| count(&it.path) > 1));
    expect("counted and should be dropped", paths(&|it| it.bad && count(&it.path) > 0));
    expect("counted and said to be dropped", paths(&|it| it.fate == Fate::Dropped && count(&it.path) > 0));
    let given_up = Fate::GivenUp { in_doubt: false };
    expect("counted and given up without doubt", paths(&|it| it.fate == given_up && count(&it.path) > 0));
    let known: BTreeSet<&str> = sent.contents.iter().map(|content| content.path.as_str()).collect();
    expect(
        "counted and never sent",
        rollups.keys().filter(|path| !known.contains(*path)).map(|it| (*it).to_owned()).collect(),
    );
    let missing = sent.acknowledged.iter().filter(|name| !kept.raw.contains_key(*name));
    expect("acknowledged batches without a raw row", missing.map(|(sid, seq)| format!("{sid:02x?}/{seq}")).collect());
    let differ = rollups.keys().chain(raw.keys()).filter(|path| rollups.get(*path) != raw.get(*path));
    expect(
        "raw rows differ from rollups",
        differ.map(|path| format!("{path} {:?} {:?}", rollups.get(path), raw.get(path))).collect(),
    );
    let sum: u64 = rollups.values().sum();
    expect(
        "the total differs from the pages",
        (sum != total).then(|| format!("{total} and {sum}")).into_iter().collect(),
    );
    let differ = ledger
        .keys()
        .chain(raw_ledger.keys())
        .filter(|reason| ledger.get(reason).copied().unwrap_or(0) != raw_ledger.get(reason).copied().unwrap_or(0));
    expect(
        "ledger differs from raw rows",
        differ.map(|it| format!("reason {it}: {:?} {:?}", ledger.get(it), raw_ledger.get(it))).collect(),
    );

    // Visits.
    let mut visits: BTreeMap<u64, u64> = BTreeMap::new();
    let mut cases = Vec::new();
    for (name, (_, _, row)) in &kept.visits {
        *visits.entry(row.visitor).or_default() += u64::from(row.pageviews);
        let raw = of_visit.get(name).cloned().unwrap_or_default();
        if !raw.is(row) {
            cases.push(format!("{:02x?}/{}: visit {row:?}, raw {raw:?}", &name.0[..6], name.1));
        }
    }
    cases.extend(
        of_visit.keys().filter(|name| !kept.visits.contains_key(*name)).map(|name| format!("{name:?} is no visit")),
    );
    expect("raw rows of a visit", cases);
    let (visits, counted) = (visits.values().sum::<u64>(), of_visitor.values().sum::<u64>());
    expect(
        "visits differ from raw rows",
        (visits != counted).then(|| format!("{visits} and {counted}")).into_iter().collect(),
    );
    wrong
}

/// A visitor whose events lie within half an hour has one visit, whatever order they came in. Near midnight, where he has two
/// names, a lost Redis may split it.
pub fn split_visits(books: &MemoryBooks) -> Vec<String> {
    let kept = books.kept();
    let mut visitors: BTreeMap<u64, Seen> = BTreeMap::new();
    for (_, RawRow { visit, record, .. }) in kept.raw.values() {
        let seen = visitors.entry(record.visitor).or_default();
        seen.visits.extend(*visit);
        seen.times_ms.extend(record.events.iter().map(|event| event.at_ms));
        seen.near_midnight |= record.visitor_across_midnight != 0;
    }
    let split = |seen: &Seen| {
        let (first, last) = (seen.times_ms.first(), seen.times_ms.last());
        let within_ms = first.zip(last).map_or(0, |(first, last)| last - first);
        within_ms <= 30 * 60_000 && !seen.near_midnight && seen.visits.len() > 1
    };
    visitors
        .iter()
        .filter(|(_, seen)| split(seen))
        .map(|(visitor, seen)| format!("a visit is split: of {visitor} {:02x?}", seen.visits))
        .collect()
}

/// What raw rows say of a visitor.
#[derive(Default)]
struct Seen {
    visits: BTreeSet<([u8; 16], u32)>,
    times_ms: BTreeSet<u64>,
    near_midnight: bool,
}

/// A visit as its raw rows tell it: all of its events are pageviews.
#[derive(Clone, Debug, Default)]
struct Visit {
    pageviews: u32,
    engaged_ms: u64,
    start_ms: u64,
    last_ms: u64,
    /// Of its first and of its last millisecond: which of them is the entry and which the exit page nobody can tell.
    entry_pages: BTreeSet<String>,
    exit_pages: BTreeSet<String>,
}

impl Visit {
    fn add(&mut self, event: &RecordedEvent) {
        if self.pageviews == 0 || event.at_ms < self.start_ms {
            (self.start_ms, self.entry_pages) = (event.at_ms, BTreeSet::new());
        }
        if event.at_ms > self.last_ms {
            (self.last_ms, self.exit_pages) = (event.at_ms, BTreeSet::new());
        }
        if event.at_ms == self.start_ms {
            self.entry_pages.insert(event.path.clone());
        }
        if event.at_ms == self.last_ms {
            self.exit_pages.insert(event.path.clone());
        }
        self.pageviews += 1;
        self.engaged_ms += u64::from(event.engaged_ms);
    }

    fn is(&self, row: &VisitRow) -> bool {
        (self.pageviews, self.engaged_ms) == (row.pageviews, row.engaged_ms)
            && (self.start_ms, self.last_ms) == (row.start_ms, row.last_ms)
            && self.entry_pages.contains(&row.entry_page)
            && self.exit_pages.contains(&row.exit_page)
    }
}

/// How much a run saw.
pub fn counted(books: &MemoryBooks) -> u64 {
    let kept = books.kept();
    kept.rows()
        .flat_map(|rows| &rows.rollups)
        .filter(|row| row.kind == Kind::Total as i32)
        .map(|row| row.pageviews)
        .sum()
}
