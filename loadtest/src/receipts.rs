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
    tally::{Events, Receipt, Sums, Tally},
    walk::Event,
};

/// The books of one agent. They are kept from what passes the connection and what the agent says of its batches; what is
/// true of both is proved by the audit alone.
pub struct Receipts {
    tally: Arc<Tally>,
    /// Of batches that the agent has in memory alone.
    waiting: BTreeMap<EventNumber, Waiting>,
    /// Of batches that are on the device, in their order.
    on_device: HashMap<BatchId, Vec<Waiting>>,
    in_flight: HashMap<BatchId, Transmitted>,
    any_acknowledged: bool,
}

struct Waiting {
    intended: Instant,
    event: Event,
}

struct Transmitted {
    first: Instant,
    digest: u64,
}

impl Receipts {
    /// Empty books that report to `tally`.
    pub fn new(tally: Arc<Tally>) -> Self {
        Self {
            tally,
            waiting: BTreeMap::new(),
            on_device: HashMap::new(),
            in_flight: HashMap::new(),
            any_acknowledged: false,
        }
    }

    /// Events that were handed over and have no outcome.
    pub fn outstanding(&self) -> usize {
        self.waiting.len() + self.on_device.values().map(Vec::len).sum::<usize>()
    }

    /// Events that were handed over and are in no batch on the device.
    pub fn unnumbered(&self) -> usize {
        self.waiting.len()
    }

    /// The batch is on the device, in place of the one of the other number: its events are the oldest that were in none.
    pub fn stored(&mut self, replaced: BatchId, id: BatchId, batch: &[u8]) {
        let events = match self.on_device.remove(&replaced) {
            Some(events) => events,
            None => std::iter::from_fn(|| Some(self.waiting.pop_first()?.1)).take(events_in(batch)).collect(),
        };
        self.on_device.insert(id, events);
    }

    /// Whether the batch was put on a connection.
    pub fn was_sent(&self, id: BatchId) -> bool {
        self.in_flight.contains_key(&id)
    }

    /// An event was handed to the agent, which took it or did not.
    pub fn handed_over(&mut self, now: Instant, intended: Instant, event: Event, taken: Result<EventNumber, NotTaken>) {
        let mut sums = self.tally.lock();
        sums.sent += Events::one(event.is_pageview());
        sums.due.add(&event);
        sums.lateness.record(now.saturating_duration_since(intended));
        match taken {
            Ok(number) => {
                self.waiting.insert(number, Waiting { intended, event });
            }
            Err(NotTaken::GivenUp(reason)) => drop_event(&mut sums, &event, reason),
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
            sums.receipts.push(Receipt { sid: settled.id.sid, seq: settled.id.seq, events: settled.events });
            if let Some(transmitted) = transmitted {
                sums.answer.record(now.saturating_duration_since(transmitted.first));
            }
            if settled.events > 0 && !self.any_acknowledged {
                self.any_acknowledged = true;
                sums.agents_acknowledged += 1;
            }
        }
        let EventNumber(first) = settled.first_event;
        let numbers = (first..).take(settled.events as usize);
        let mut events = match self.on_device.remove(&settled.id) {
            Some(events) => events,
            None => numbers.filter_map(|number| self.waiting.remove(&EventNumber(number))).collect(),
        };
        // An agent that settles what it was never given has its events counted nowhere: the audit says so.
        sums.batches.unknown_answers += u64::from(settled.events).saturating_sub(events.len() as u64);
        for Waiting { intended, event } in events.drain(..) {
            match settled.outcome {
                Outcome::Acknowledged => {
                    sums.acknowledged += Events::one(event.is_pageview());
                    sums.latency.record(now.saturating_duration_since(intended));
                }
                Outcome::Dropped(reason) | Outcome::GivenUp(reason) => {
                    drop_event(&mut sums, &event, reason);
                }
                // Nobody else has the outbox of one of these agents.
                Outcome::Elsewhere => sums.batches.unknown_answers += 1,
            }
        }
    }
}

fn drop_event(sums: &mut Sums, event: &Event, Reason(reason): Reason) {
    sums.dropped += Events::one(event.is_pageview());
    sums.due.remove(event);
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

/// How many events a batch holds.
fn events_in(batch: &[u8]) -> usize {
    #[derive(prost::Message)]
    struct Batch {
        #[prost(bytes = "vec", repeated, tag = "6")]
        events: Vec<Vec<u8>>,
    }
    Batch::decode(batch).map_or(0, |batch| batch.events.len())
}

#[cfg(test)]
mod tests {
    use proto::agent::{Batch, ClientFrame, Hello, client_frame};

    use super::*;

    const SID: [u8; 16] = [7; 16];

    fn frame(seq: u32, base_ms: u64, sent_ms: u64) -> Vec<u8> {
        let batch = Batch { sid: SID.to_vec(), seq, base_ms, ..Batch::default() }.encode_to_vec();
        let envelope = proto::agent::Envelope { sent_ms, batch, ..Default::default() };
        ClientFrame { frame: Some(client_frame::Frame::Batch(envelope)) }.encode_to_vec()
    }

    fn settled(first: u64, events: u32, outcome: Outcome) -> Settled {
        Settled { id: BatchId { sid: SID, seq: 1 }, first_event: EventNumber(first), events, stored: false, outcome }
    }

    #[test]
    fn a_batch_sent_again_is_the_same_batch_unless_its_own_bytes_differ() {
        let tally = Arc::new(Tally::default());
        let mut receipts = Receipts::new(tally.clone());
        let now = Instant::now();
        let hello = client_frame::Frame::Hello(Hello { site: "shop".to_owned(), ..Hello::default() });
        receipts.transmitted(now, &ClientFrame { frame: Some(hello) }.encode_to_vec());
        receipts.transmitted(now, &frame(1, 5, 1000));
        receipts.transmitted(now, &frame(1, 5, 2000)); // another envelope around the same batch
        receipts.transmitted(now, &frame(2, 5, 2000));
        let seen = |tally: &Tally| {
            let sums = tally.lock();
            (sums.batches.transmissions, sums.batches.numbered, sums.batches.altered)
        };
        assert_eq!(seen(&tally), (3, 2, 0));
        receipts.transmitted(now, &frame(1, 6, 2000));
        assert_eq!(seen(&tally), (4, 2, 1));
    }

    fn event(name: &str, url: &str) -> Event {
        let (name, url) = (name.to_owned(), url.to_owned());
        Event { name, url, referrer: String::new(), props: Vec::new(), engaged_ms: 0 }
    }

    #[test]
    fn every_event_has_one_outcome() {
        let tally = Arc::new(Tally::default());
        let mut receipts = Receipts::new(tally.clone());
        let now = Instant::now();
        for number in 0..5 {
            let event = match number {
                4 => event("Signup", "https://shop.example/a"),
                _ => event("pageview", &format!("https://shop.example/a?visit={number}")),
            };
            receipts.handed_over(now, now, event, Ok(EventNumber(number)));
        }
        let lost = event("pageview", "https://shop.example/b");
        receipts.handed_over(now, now, lost, Err(NotTaken::GivenUp(Reason::OUTBOX_FULL)));
        receipts.settled(now, settled(2, 3, Outcome::Acknowledged));
        receipts.settled(now, settled(0, 1, Outcome::Dropped(Reason(39))));
        assert_eq!(receipts.outstanding(), 1);
        receipts.settled(now, settled(2, 1, Outcome::Acknowledged)); // a second answer changes nothing

        let sums = tally.lock();
        assert_eq!((sums.sent.all(), sums.acknowledged.all(), sums.dropped.all()), (6, 3, 2));
        let rows = |counts: &BTreeMap<String, u64>| counts.clone().into_iter().collect::<Vec<_>>();
        let row = |key: &str, count| (key.to_owned(), count);
        let pages = [row("https://shop.example/a", 3), row("https://shop.example/b", 0)];
        assert_eq!(rows(&sums.due.pages), pages);
        assert_eq!(rows(&sums.due.names), [row("Signup", 1), row("pageview", 3)]);
        assert_eq!((sums.acknowledged.custom, sums.batches.unknown_answers), (1, 1));
        assert_eq!((sums.latency.summary().count, sums.agents_acknowledged), (3, 1));
        assert_eq!((sums.reasons["outbox full"], sums.reasons["bot"]), (1, 1));
    }
}
