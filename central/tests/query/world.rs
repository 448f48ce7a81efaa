//! What a region makes of batches: rollups, uniques, ledger rows, visits and raw rows, all from the same records.

use std::collections::{BTreeMap, BTreeSet};

use central::query::audit::Position;
use central::store::{RawFrame, RawRow};
use proto::record::{Dropped, Record, RecordedEvent};
use proto::uplink::{FlushRows, Kind, LedgerRow, RollupRow, UniqueRow, VisitDimensions, VisitRow};

use super::site::Site;

const VISIT_GAP_MS: u64 = 30 * 60 * 1000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// One gateway's log, and what it has been counted as.
pub struct World {
    pub gateway: String,
    pub rows: FlushRows,
    pub raw: Vec<RawRow>,
    site: String,
    uniques: BTreeMap<(i32, String, u32), BTreeSet<u64>>,
}

/// An event of a page.
pub fn event(at_ms: u64, name: &str, path: &str, props: &[(&str, &str)]) -> RecordedEvent {
    let props = props.iter().flat_map(|(key, value)| [(*key).to_owned(), (*value).to_owned()]).collect();
    let hostname = if path.starts_with("/blog") { "blog.example" } else { "shop.example" };
    let (name, path) = (name.to_owned(), path.to_owned());
    RecordedEvent { name, at_ms, hostname: hostname.to_owned(), path, props, engaged_ms: 700, index: 0 }
}

pub fn given_up(reason: u32, events: u32, batches: u32) -> Dropped {
    Dropped { reason, events, batches, given_up: true }
}

pub fn dropped(reason: u32, events: u32) -> Dropped {
    Dropped { reason, events, batches: 0, given_up: false }
}

impl World {
    pub fn new(site: &Site) -> Self {
        let site = site.site.name.clone();
        Self {
            gateway: format!("gateway-of-{site}"),
            site,
            rows: FlushRows::default(),
            raw: vec![],
            uniques: BTreeMap::new(),
        }
    }

    /// The next record. Its sid is stamped when its first event was, or when it arrived.
    pub fn batch(
        &mut self,
        (visitor, seq): (u64, u32),
        arrived_ms: u64,
        source: &str,
        events: Vec<RecordedEvent>,
        dropped: Vec<Dropped>,
    ) {
        let mut sid = [visitor as u8; 16];
        let stamp_ms = arrived_ms - arrived_ms % (60 * 60 * 1000);
        sid[..6].copy_from_slice(&stamp_ms.to_be_bytes()[2..]);
        let mut events = events;
        for (index, event) in (0..).zip(&mut events) {
            event.index = index;
        }
        let dimensions = VisitDimensions { source: source.to_owned(), country: "DE".to_owned(), ..Default::default() };
        let record = Record {
            site: self.site.clone(),
            sid: sid.to_vec(),
            seq,
            class: 0,
            arrived_ms,
            visitor,
            events,
            dropped,
            dimensions: Some(dimensions),
            ..Default::default()
        };
        self.count(&record);
        self.enter_ledger(&record);
        let visit = self.visit(&record);
        let lsn = self.raw.len() as u64 + 1;
        self.raw.push(RawRow { lsn, epoch: 1, visit, record });
    }

    fn count(&mut self, record: &Record) {
        for event in &record.events {
            let pageview = event.name == "pageview";
            let own = if pageview { Kind::Page } else { Kind::Event };
            let value = if pageview { &event.path } else { &event.name };
            self.add(Kind::Total, "", event);
            self.add(Kind::Page, &event.path, event);
            if !pageview {
                self.add(Kind::Event, value, event);
            }
            let quarter = (event.at_ms / (15 * 60 * 1000)) as u32;
            self.uniques.entry((own.into(), value.clone(), quarter)).or_default().insert(record.visitor);
        }
    }

    fn add(&mut self, kind: Kind, value: &str, event: &RecordedEvent) {
        let minute = (event.at_ms / 60_000) as u32;
        let (pageviews, events) = if event.name == "pageview" { (1, 0) } else { (0, 1) };
        let engaged_ms = if kind == Kind::Event { 0 } else { u64::from(event.engaged_ms) };
        let (site, value) = (self.site.clone(), value.to_owned());
        let row = RollupRow { site, kind: kind.into(), value, minute, pageviews, events, engaged_ms };
        let same = |old: &&mut RollupRow| (old.kind, &old.value, old.minute) == (row.kind, &row.value, row.minute);
        match self.rows.rollups.iter_mut().find(same) {
            Some(old) => {
                old.pageviews += pageviews;
                old.events += events;
                old.engaged_ms += engaged_ms;
            }
            None => self.rows.rollups.push(row),
        }
    }

    fn enter_ledger(&mut self, record: &Record) {
        self.enter(record.arrived_ms, 0, record.events.len() as u64, 1);
        for of in &record.dropped {
            self.enter(record.arrived_ms, of.reason, of.events.into(), of.batches.into());
        }
    }

    fn enter(&mut self, arrived_ms: u64, reason: u32, events: u64, batches: u64) {
        let (site, day) = (self.site.clone(), (arrived_ms / DAY_MS) as u32);
        match self.rows.ledger.iter_mut().find(|row| (row.day, row.reason) == (day, reason)) {
            Some(row) => (row.events, row.batches) = (row.events + events, row.batches + batches),
            None => self.rows.ledger.push(LedgerRow { site, day, reason, events, batches, duplicates: 0 }),
        }
    }

    /// Joins the visitor's running visit, or opens one.
    fn visit(&mut self, record: &Record) -> Option<([u8; 16], u32)> {
        let first_ms = record.events.iter().map(|event| event.at_ms).min()?;
        let last_ms = record.events.iter().map(|event| event.at_ms).max()?;
        let running = self.rows.visits.iter_mut().rev().find(|visit| visit.visitor == record.visitor);
        let fits = |visit: &&mut VisitRow| {
            first_ms <= visit.last_ms + VISIT_GAP_MS && visit.start_ms <= last_ms + VISIT_GAP_MS
        };
        let visit = match running.filter(fits) {
            Some(visit) => visit,
            None => {
                self.rows.visits.push(VisitRow {
                    site: self.site.clone(),
                    sid: record.sid.clone(),
                    seq: record.seq,
                    visitor: record.visitor,
                    start_ms: first_ms,
                    last_ms,
                    dimensions: record.dimensions.clone(),
                    ..Default::default()
                });
                self.rows.visits.last_mut().unwrap()
            }
        };
        visit.version += 1;
        visit.start_ms = visit.start_ms.min(first_ms);
        visit.last_ms = visit.last_ms.max(last_ms);
        for event in &record.events {
            visit.engaged_ms += u64::from(event.engaged_ms);
            if event.name != "pageview" {
                visit.events += 1;
                continue;
            }
            visit.pageviews += 1;
            if visit.entry_ms == 0 || event.at_ms < visit.entry_ms {
                (visit.entry_ms, visit.entry_page) = (event.at_ms, event.path.clone());
            }
            if event.at_ms >= visit.exit_ms {
                (visit.exit_ms, visit.exit_page) = (event.at_ms, event.path.clone());
            }
        }
        Some((visit.sid.clone().try_into().unwrap(), visit.seq))
    }

    /// What accepted flushes and raw rows brought up, when they brought everything.
    pub fn position(&self) -> Position {
        let last = self.raw.last().map_or(0, |row| row.lsn);
        Position { gateway: self.gateway.clone(), shard: 0, accepted: last, raw: last, retired: false }
    }

    /// What has landed as a flush does not come with the next one; visits go on.
    pub fn landed(&mut self) {
        (self.rows.rollups, self.rows.ledger) = Default::default();
        self.uniques.clear();
    }

    /// Both ways, to the end.
    pub async fn land(&self, site: &Site) {
        self.land_flush(site).await;
        self.land_raw(site, self.raw.clone()).await;
    }

    pub async fn land_flush(&self, site: &Site) {
        let uniques = self.uniques.iter().map(|((kind, value, quarter), visitors)| UniqueRow {
            site: self.site.clone(),
            kind: *kind,
            value: value.clone(),
            quarter: *quarter,
            visitors: visitors.iter().copied().collect(),
        });
        site.accept(FlushRows { uniques: uniques.collect(), ..self.rows.clone() }).await;
    }

    pub async fn land_raw(&self, site: &Site, rows: Vec<RawRow>) {
        let last = rows.last().map_or(0, |row| row.lsn);
        let frame = RawFrame { gateway: self.gateway.clone(), shard: 0, last, rows, bytes: 0 };
        site.store.take_raw(frame).await.unwrap().await.unwrap();
    }
}
