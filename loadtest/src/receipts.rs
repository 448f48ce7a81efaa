//! What one agent owes and is owed: each event from the moment it is handed over until its batch has an outcome.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use agent_core::{BatchId, EventNumber, NotTaken, Outcome, Reason, Settled};
use prost::Message;
use tokio::time::Instant;

use crate::{
    gateway::frame_header_bytes,
    tally::{Events, Sums, Tally},
};

/// The books of one agent. They are kept from what passes the connection and what the agent says of its batches; what is
/// true of both is proved by the audit alone.
pub struct Receipts {
    tally: Arc<Tally>,
    waiting: BTreeMap<EventNumber, Waiting>,
    in_flight: HashMap<BatchId, Transmitted>,
    any_acknowledged: bool,
}

struct Waiting {
    intended: Instant,
    is_pageview: bool,
}

struct Transmitted {
    first: Instant,
    digest: u64,
}

impl Receipts {
    /// Empty books that report to `tally`.
    pub fn new(tally: Arc<Tally>) -> Self {
        Self { tally, waiting: BTreeMap::new(), in_flight: HashMap::new(), any_acknowledged: false }
    }

    /// Events that were handed over and have no outcome.
    pub fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// An event was handed to the agent, which took it or did not.
    pub fn handed_over(
        &mut self,
        now: Instant,
        intended: Instant,
        is_pageview: bool,
        taken: Result<EventNumber, NotTaken>,
    ) {
        let mut sums = self.tally.lock();
        sums.sent += Events::one(is_pageview);
        sums.lateness.record(now.saturating_duration_since(intended));
        match taken {
            Ok(number) => {
                self.waiting.insert(number, Waiting { intended, is_pageview });
            }
            Err(NotTaken::GivenUp(reason)) => drop_event(&mut sums, is_pageview, reason),
            // The agent was told that it is not wanted: the run ends for it, and the event stays without an outcome.
            Err(NotTaken::Stopped) => {}
        }
    }

    /// A frame goes to the gateway.
    pub fn transmitted(&mut self, now: Instant, frame: &[u8]) {
        let mut sums = self.tally.lock();
        sums.bytes.sent += (frame_header_bytes(frame.len(), true) + frame.len()) as u64;
        let Some((id, digest)) = batch_in(frame) else { return };
        sums.batches.transmissions += 1;
        let before = self.in_flight.entry(id).or_insert_with(|| {
            sums.batches.numbered += 1;
            Transmitted { first: now, digest }
        });
        if before.digest != digest {
            sums.batches.altered += 1;
        }
    }

    /// A frame came from the gateway.
    pub fn received(&self, payload: usize) {
        self.tally.lock().bytes.received += (frame_header_bytes(payload, false) + payload) as u64;
    }

    /// A batch has its outcome.
    pub fn settled(&mut self, now: Instant, settled: Settled) {
        let mut sums = self.tally.lock();
        let transmitted = self.in_flight.remove(&settled.id);
        if settled.outcome == Outcome::Acknowledged {
            sums.batches.acknowledged += 1;
            if let Some(transmitted) = transmitted {
                sums.answer.record(now.saturating_duration_since(transmitted.first));
            }
            if settled.events > 0 && !self.any_acknowledged {
                self.any_acknowledged = true;
                sums.agents_acknowledged += 1;
            }
        }
        let EventNumber(first) = settled.first_event;
        for number in (first..).take(settled.events as usize) {
            // An agent that settles what it was never given has its events counted nowhere: the audit says so.
            let Some(event) = self.waiting.remove(&EventNumber(number)) else {
                sums.batches.unknown_answers += 1;
                continue;
            };
            match settled.outcome {
                Outcome::Acknowledged => {
                    sums.acknowledged += Events::one(event.is_pageview);
                    sums.latency.record(now.saturating_duration_since(event.intended));
                }
                Outcome::Dropped(reason) | Outcome::GivenUp(reason) => {
                    drop_event(&mut sums, event.is_pageview, reason);
                }
            }
        }
    }
}

fn drop_event(sums: &mut Sums, is_pageview: bool, Reason(reason): Reason) {
    sums.dropped += Events::one(is_pageview);
    let name = i32::try_from(reason).ok().and_then(|reason| proto::agent::Reason::try_from(reason).ok()).map_or_else(
        || format!("reason {reason}"),
        |reason| reason.as_str_name().trim_start_matches("REASON_").to_lowercase().replace('_', " "),
    );
    *sums.reasons.entry(name).or_default() += 1;
}

/// The batch in an agent's frame: its identity and a digest of its bytes. These three messages are the contract's with
/// everything left out that is not needed to tell batches apart: reading the events too would cost more than the load.
fn batch_in(frame: &[u8]) -> Option<(BatchId, u64)> {
    #[derive(prost::Message)]
    struct Frame {
        #[prost(message, optional, tag = "2")]
        envelope: Option<Envelope>,
    }
    #[derive(prost::Message)]
    struct Envelope {
        #[prost(bytes = "vec", tag = "4")]
        batch: Vec<u8>,
    }
    #[derive(prost::Message)]
    struct Batch {
        #[prost(bytes = "vec", tag = "1")]
        sid: Vec<u8>,
        #[prost(uint32, tag = "2")]
        seq: u32,
    }

    let bytes = Frame::decode(frame).ok()?.envelope?.batch;
    let batch = Batch::decode(bytes.as_slice()).ok()?;
    let mut digest = DefaultHasher::new();
    bytes.hash(&mut digest);
    Some((BatchId { sid: batch.sid.try_into().ok()?, seq: batch.seq }, digest.finish()))
}
