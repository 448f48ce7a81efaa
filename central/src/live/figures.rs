//! The state behind the live figures. It reads no clock and waits for nothing.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use proto::uplink::{self, Kind, RollupRow};

use super::{ABSENT_AFTER, WINDOW_MINUTES};
use crate::control::shards::ShardId;

/// One site's live figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// Visitors of the last five minutes.
    pub current_visitors: u64,
    /// Oldest first, one for each minute of the window.
    pub minutes: Vec<Minute>,
}

/// A minute's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// Unix minutes.
    pub minute: u32,
    /// Pageviews.
    pub pageviews: u64,
    /// Custom events: pageviews are not among them.
    pub events: u64,
}

/// What one site got in one minute, as far as one source knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteMinute {
    minute: u32,
    pageviews: u64,
    events: u64,
}

/// Site → its minutes, in no order; a minute may come more than once.
pub type Totals = HashMap<String, Vec<SiteMinute>>;

/// Everything that a reading needs.
#[derive(Debug, Default)]
pub struct Figures {
    shards: HashMap<ShardId, Shard>,
    flushed: HashMap<String, Flushed>,
}

#[derive(Debug, Default)]
struct Shard {
    epoch: u64,
    /// Buckets below it are in the store.
    next_flush: u64,
    /// The store failed, so what it holds of the next flush is not known.
    in_doubt: bool,
    said: Option<Said>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    buckets: Vec<(u64, Totals)>,
    current_visitors: HashMap<String, u64>,
}

/// The flushed minutes of one site, from `first` on.
#[derive(Debug)]
struct Flushed {
    first: u32,
    minutes: BTreeMap<u32, (u64, u64)>,
    read_at: Instant,
}

/// The flushed minutes of a site that nobody has read for this long are dropped.
const UNREAD_AFTER: Duration = Duration::from_secs(600);

impl Figures {
    pub fn led(&mut self, id: &ShardId, epoch: u64, next_flush: u64) {
        let led = Shard { epoch, next_flush, in_doubt: false, said: None };
        let Some(shard) = self.shards.get_mut(id) else {
            self.shards.insert(id.clone(), led); // its flushes so far were in the store before anything was read
            return;
        };
        if shard.in_doubt || shard.next_flush != next_flush {
            self.flushed.clear();
        }
        let said = shard.said.take().filter(|_| shard.epoch == epoch);
        *shard = Shard { said, ..led };
    }

    pub fn accepted(&mut self, id: &ShardId, n: u64, totals: Totals) {
        let shard = self.shards.entry(id.clone()).or_default();
        shard.next_flush = n + 1;
        if std::mem::take(&mut shard.in_doubt) {
            self.flushed.clear();
            return;
        }
        for (site, minutes) in totals {
            if let Some(flushed) = self.flushed.get_mut(&site) {
                flushed.add(minutes);
            }
        }
    }

    pub fn failed(&mut self, id: &ShardId) {
        self.shards.entry(id.clone()).or_default().in_doubt = true;
        self.flushed.clear();
    }

    pub fn said(&mut self, id: &ShardId, said: uplink::Live, now: Instant) {
        let shard = self.shards.entry(id.clone()).or_default();
        if said.epoch != shard.epoch {
            return;
        }
        shard.said = Some(Said {
            at: now,
            buckets: said.buckets.into_iter().map(|bucket| (bucket.n, totals(&bucket.totals))).collect(),
            current_visitors: said.sites.into_iter().map(|site| (site.site, site.current_visitors)).collect(),
        });
    }

    /// `None` if the flushed minutes of the site have to be loaded first.
    pub fn read(&mut self, site: &str, first: u32, now: Instant) -> Option<Now> {
        let flushed = self.flushed.get_mut(site).filter(|flushed| flushed.first <= first)?;
        flushed.read_at = now;
        flushed.minutes = flushed.minutes.split_off(&first);
        flushed.first = first;

        let mut minutes: Vec<Minute> = (first..first + WINDOW_MINUTES)
            .map(|minute| {
                let &(pageviews, events) = flushed.minutes.get(&minute).unwrap_or(&(0, 0));
                Minute { minute, pageviews, events }
            })
            .collect();
        let mut current_visitors = 0;
        for shard in self.shards.values() {
            let Some(said) = shard.said.as_ref().filter(|said| now.duration_since(said.at) < ABSENT_AFTER) else {
                continue;
            };
            current_visitors += said.current_visitors.get(site).unwrap_or(&0);
            let unflushed = said.buckets.iter().filter(|(n, _)| *n >= shard.next_flush);
            for row in unflushed.filter_map(|(_, totals)| totals.get(site)).flatten() {
                if let Some(minute) = row.minute.checked_sub(first).and_then(|at| minutes.get_mut(at as usize)) {
                    minute.pageviews += row.pageviews;
                    minute.events += row.events;
                }
            }
        }
        Some(Now { current_visitors, minutes })
    }

    /// Takes a site's flushed minutes from the store, then reads.
    pub fn load(&mut self, site: &str, first: u32, rows: Vec<(u32, u64, u64)>, now: Instant) -> Now {
        self.flushed.retain(|_, flushed| now.duration_since(flushed.read_at) < UNREAD_AFTER);
        let mut flushed = Flushed { first, minutes: BTreeMap::new(), read_at: now };
        flushed.add(rows.into_iter().map(|(minute, pageviews, events)| SiteMinute { minute, pageviews, events }));
        self.flushed.insert(site.to_owned(), flushed);
        self.read(site, first, now).expect("the minutes were put there just now, from the same minute on")
    }
}

impl Flushed {
    fn add(&mut self, rows: impl IntoIterator<Item = SiteMinute>) {
        for row in rows {
            if row.minute >= self.first {
                let (pageviews, events) = self.minutes.entry(row.minute).or_default();
                *pageviews += row.pageviews;
                *events += row.events;
            }
        }
    }
}

/// The rows that count a site's events as a whole.
pub fn totals(rows: &[RollupRow]) -> Totals {
    let mut totals = Totals::new();
    add_totals(&mut totals, rows);
    totals
}

/// Adds them to those of other rows.
pub fn add_totals(totals: &mut Totals, rows: &[RollupRow]) {
    for row in rows.iter().filter(|row| row.kind == Kind::Total as i32) {
        let minute = SiteMinute { minute: row.minute, pageviews: row.pageviews, events: row.events };
        match totals.get_mut(&row.site) {
            Some(minutes) => minutes.push(minute),
            None => {
                totals.insert(row.site.clone(), vec![minute]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
