//! What pages know of their batches: what central must come to know, batch by batch.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::agent::Batch;
use proto::limits::PAGEVIEW;

use crate::ORIGIN;

/// What the pages know at the end.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Every batch that was numbered and transmitted: stream and number, and what it holds.
    pub batches: BTreeMap<([u8; 16], u32), Held>,
    /// Of these, acknowledged.
    pub acknowledged: u64,
    /// Transmissions, repeats included.
    pub transmissions: u64,
    /// Pageviews by path; every batch has paths of its own, shared with few others, so that a wrong count has a place.
    pub pages: BTreeMap<String, u64>,
    /// Custom events.
    pub custom: u64,
    /// Events that a gateway must not count, by the reason that it must give.
    pub invalid: BTreeMap<String, u64>,
    /// Connections that were lost or refused and made again.
    pub reconnects: u64,
    /// Of these, without a Drain before and not asked for by the page: what was seen of them, and how often.
    pub broken: BTreeMap<String, u64>,
    /// Answers that a batch which is right must not get, in words.
    pub refusals: Vec<String>,
    /// Visitors.
    pub visitors: u64,
}

/// The events of one batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// That are counted.
    pub counted: u64,
    /// That must be dropped.
    pub dropped: u64,
}

impl Sent {
    /// These batches, sent by hand and acknowledged, of one visitor.
    pub fn by_hand<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Self {
        let mut sent = Self { visitors: 1, ..Default::default() };
        for batch in batches {
            sent.add(batch);
            (sent.acknowledged, sent.transmissions) = (sent.acknowledged + 1, sent.transmissions + 1);
        }
        sent
    }

    /// Notes a batch that is about to be transmitted for the first time.
    pub(super) fn add(&mut self, batch: &Batch) {
        let text = |reference: u32| batch.strings[reference as usize - 1].as_str();
        let mut held = Held::default();
        for event in &batch.events {
            let invalid = match text(event.url).strip_prefix(ORIGIN) {
                None => Some("invalid_url"),
                Some(_) if text(event.name).contains(char::is_control) => Some("invalid_event_name"),
                Some(path) => {
                    match text(event.name) {
                        PAGEVIEW => *self.pages.entry(path.to_owned()).or_default() += 1,
                        _ => self.custom += 1,
                    }
                    None
                }
            };
            match invalid {
                Some(reason) => {
                    *self.invalid.entry(reason.to_owned()).or_default() += 1;
                    held.dropped += 1;
                }
                None => held.counted += 1,
            }
        }
        let stream = batch.sid[..].try_into().expect("a sid has sixteen bytes");
        let other = self.batches.insert((stream, batch.seq), held);
        assert!(other.is_none(), "a batch is numbered once");
    }

    /// Of this and of other pages, which are other visitors.
    pub fn with(mut self, other: Self) -> Self {
        self.batches.extend(other.batches);
        for (path, views) in other.pages {
            *self.pages.entry(path).or_default() += views;
        }
        for (reason, events) in other.invalid {
            *self.invalid.entry(reason).or_default() += events;
        }
        self.acknowledged += other.acknowledged;
        self.transmissions += other.transmissions;
        self.custom += other.custom;
        self.reconnects += other.reconnects;
        for (how, times) in other.broken {
            *self.broken.entry(how).or_default() += times;
        }
        self.refusals.extend(other.refusals);
        self.visitors += other.visitors;
        self
    }

    /// Events in all.
    pub fn events(&self) -> u64 {
        self.counted() + self.dropped()
    }

    /// Events that are counted.
    pub fn counted(&self) -> u64 {
        self.batches.values().map(|held| held.counted).sum()
    }

    /// Events that must be dropped.
    pub fn dropped(&self) -> u64 {
        self.batches.values().map(|held| held.dropped).sum()
    }

    /// Pageviews that are counted.
    pub fn pageviews(&self) -> u64 {
        self.pages.values().sum()
    }

    pub(super) fn unanswered(&self, within: Duration) -> String {
        let missing = self.batches.len() as u64 - self.acknowledged;
        format!("{missing} of {} batches had no answer within {within:?}", self.batches.len())
    }
}
