use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use prost::Message as _;
use proto::agent as wire;
use proto::agent::client_frame::Frame as Sent;
use proto::agent::server_frame::Frame as Said;
use proto::sid::Sid;

use super::*;
use crate::batch::BATCH_BYTES_MAX;
use crate::frames::STORED_AT;
use crate::outbox::BATCHES_MAX;
use crate::outbox::NotAdopted;
use crate::shell::{BatchId, Class, Kept};

const NOW_MS: u64 = 1_763_816_400_000;
const HOUR_MS: u64 = 3_600_000;

mod answers;
mod bounds;
mod stored;

/// An agent with its shell: what it sent, what came of its batches, the device's clock.
struct Device {
    agent: Box<Agent>,
    now_ms: u64,
    sent: Vec<wire::Envelope>,
    hellos: Vec<wire::Hello>,
    settled: Vec<Settled>,
    connects: usize,
    disconnects: usize,
    /// What is on the device, by number.
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What may have been sent of that, as the device says.
    marked: BTreeSet<Vec<u8>>,
    /// What comes of storing.
    keeps: Kept,
}

impl Device {
    fn new() -> Self {
        let mut agent = Box::new(Agent::new());
        agent
            .start(&Start {
                site: "demo",
                stamp_ms: NOW_MS,
                random: [7; 10],
                language: "en-GB",
                screen_width: 1440,
                screen_height: 900,
                ..Start::default()
            })
            .unwrap();
        let (sent, hellos, settled) = (Vec::new(), Vec::new(), Vec::new());
        let (disk, marked, keeps) = (BTreeMap::new(), BTreeSet::new(), Kept::Stored);
        Self { agent, now_ms: NOW_MS, sent, hellos, settled, connects: 0, disconnects: 0, disk, marked, keeps }
    }

    /// One that may store, connected.
    fn storing() -> Self {
        let mut device = Self::connected();
        device.agent.set_class(device.now_ms, Class::Long);
        device
    }

    /// Another page on the same device, where what was stored may have been sent.
    fn next_page(self, sent: bool) -> Self {
        let mut next = Self::new();
        let start =
            Start { site: "demo", stamp_ms: self.now_ms, random: [8; 10], class: Class::Long, ..Start::default() };
        next.agent.start(&start).unwrap();
        next.now_ms = self.now_ms;
        next.disk = self.disk;
        next.marked = if sent { next.disk.keys().cloned().collect() } else { BTreeSet::new() };
        for batch in next.disk.values() {
            next.agent.restore(next.now_ms, batch, sent).unwrap();
        }
        next
    }

    /// Does [`Command::Store`]; `what` has the byte behind the batch.
    fn store(&mut self, what: &[u8]) {
        let number = &what[STORED_AT / 2..STORED_AT];
        if self.keeps == Kept::Stored {
            self.write(what);
        }
        self.agent.stored(self.now_ms, &batch_id(number), self.keeps);
    }

    /// Does it without an answer.
    fn write(&mut self, what: &[u8]) {
        let (replaces, rest) = what.split_at(STORED_AT / 2);
        let (number, rest) = rest.split_at(STORED_AT / 2);
        let (&sent, batch) = rest.split_last().unwrap();
        self.disk.remove(replaces);
        self.marked.remove(replaces);
        self.disk.insert(number.to_vec(), batch.to_vec());
        if sent != 0 {
            self.marked.insert(number.to_vec());
        }
    }

    /// Whoever finds it on the device must not take it for one that was never sent.
    fn leaves(&self, envelope: &wire::Envelope) {
        let batch = decode(envelope);
        let number = [&batch.sid[..], &batch.seq.to_be_bytes()].concat();
        assert!(!self.disk.contains_key(&number) || self.marked.contains(&number), "sent before the device says so");
    }

    fn connected() -> Self {
        let mut device = Self::new();
        device.run();
        device.agent.opened(device.now_ms);
        device.run();
        device
    }

    /// Does what the agent says until it is to wait; gives for how long, or `None` if for ever.
    fn run(&mut self) -> Option<u64> {
        let mut frame = [0; FRAME_BYTES];
        loop {
            match self.agent.poll(self.now_ms, &mut frame) {
                Command::Connect => self.connects += 1,
                Command::Send(len) => match wire::ClientFrame::decode(&frame[..len]).unwrap().frame.expect("a frame") {
                    Sent::Hello(hello) => self.hellos.push(hello),
                    Sent::Batch(envelope) => {
                        self.leaves(&envelope);
                        self.sent.push(envelope);
                    }
                    Sent::Bye(_) => panic!("nobody said bye"),
                },
                Command::Disconnect => self.disconnects += 1,
                Command::Store(len) => self.store(&frame[..=len]),
                Command::Settled(settled) => {
                    if settled.stored {
                        self.disk.remove(&[&settled.id.sid[..], &settled.id.seq.to_be_bytes()].concat());
                    }
                    self.settled.push(settled);
                }
                Command::Wait(ms) => return Some(ms),
                Command::Stopped => return None,
            }
        }
    }

    fn later(&mut self, ms: u64) {
        self.now_ms += ms;
        self.run();
    }

    /// Waits as the agent says until it has opened a connection.
    fn reconnect(&mut self) {
        let before = self.connects;
        for _ in 0..20 {
            if self.connects > before {
                self.agent.opened(self.now_ms);
                self.run();
                return;
            }
            let wait_ms = self.run().unwrap();
            self.now_ms += wait_ms;
            self.run();
        }
        panic!("no connection");
    }

    fn event(&mut self, name: &str) -> Result<EventNumber, NotTaken> {
        let event = Event { name, url: "https://shop.example/", ..Event::default() };
        self.agent.event(self.now_ms, &event)
    }

    /// One event in a batch of its own, which leaves if it can.
    fn batch(&mut self) {
        self.event("pageview").unwrap();
        self.agent.flush(self.now_ms);
        self.run();
    }

    fn say(&mut self, frame: Said) -> bool {
        let stopped = self.say_only(frame);
        self.run();
        stopped
    }

    fn say_only(&mut self, frame: Said) -> bool {
        let bytes = wire::ServerFrame { frame: Some(frame) }.encode_to_vec();
        matches!(self.agent.receive(self.now_ms, &bytes), Answer::Stopped(..))
    }

    fn acknowledge(&mut self, envelope: &wire::Envelope) {
        let batch = decode(envelope);
        self.say(Said::Ack(wire::Ack { sid: batch.sid, seqs: vec![batch.seq], ..Default::default() }));
    }

    fn reject(&mut self, envelope: &wire::Envelope, reason: wire::Reason, is_final: bool, server_ms: u64) {
        let batch = decode(envelope);
        self.say(Said::Reject(wire::Reject {
            sid: batch.sid,
            seq: batch.seq,
            reason: reason.into(),
            server_ms,
            r#final: is_final,
            ..Default::default()
        }));
    }

    fn posts(&mut self) -> Vec<wire::Envelope> {
        let mut body = [0; FRAME_BYTES];
        let mut posts = Vec::new();
        while let Some(len) = self.agent.post(self.now_ms, &mut body) {
            let envelope = wire::Envelope::decode(&body[..len]).unwrap();
            self.leaves(&envelope);
            posts.push(envelope);
        }
        posts
    }
}

fn batch_id(number: &[u8]) -> BatchId {
    let (sid, seq) = number.split_at(16);
    BatchId { sid: sid.try_into().unwrap(), seq: u32::from_be_bytes(seq.try_into().unwrap()) }
}

fn decode(envelope: &wire::Envelope) -> wire::Batch {
    wire::Batch::decode(&envelope.batch[..]).unwrap()
}

fn seqs(envelopes: &[wire::Envelope]) -> Vec<u32> {
    envelopes.iter().map(|envelope| decode(envelope).seq).collect()
}

fn stamp_ms(envelope: &wire::Envelope) -> u64 {
    Sid::try_new(&decode(envelope).sid).unwrap().stamp_ms()
}

fn given_up(batch: &wire::Batch) -> Vec<(wire::Reason, u32, u32)> {
    batch.given_up.iter().map(|given_up| (given_up.reason(), given_up.events, given_up.batches)).collect()
}

#[test]
fn hello_comes_first_on_every_connection_and_once() {
    let mut device = Device::connected();
    device.batch();
    device.agent.closed(device.now_ms, false);
    device.reconnect();
    assert_eq!(device.hellos.len(), 2);
    assert_eq!(device.hellos[1].site, "demo");
    assert_eq!(device.hellos[1].agent_version, crate::VERSION);
}

#[test]
fn a_batch_waits_for_the_flush_interval_and_collects() {
    let mut device = Device::connected();
    device.event("pageview").unwrap();
    device.later(100);
    device.event("Signup").unwrap();
    assert_eq!(device.run(), Some(400));
    assert!(device.sent.is_empty());
    device.later(400);
    assert_eq!(device.sent.len(), 1);
    let batch = decode(&device.sent[0]);
    assert_eq!(batch.events.len(), 2);
    assert_eq!(batch.events[1].delta_ms, 100);
    assert_eq!((batch.seq, batch.base_ms, batch.screen_width, batch.screen_height), (1, NOW_MS, 1440, 900));
    assert_eq!(batch.strings[batch.language as usize - 1], "en-GB");
    assert_eq!(device.sent[0].sent_ms, NOW_MS + 500);
}

#[test]
fn the_gateway_sets_the_flush_interval_and_a_minute_is_the_most() {
    let mut device = Device::connected();
    let config = Some(wire::Config { flush_interval_ms: 2_000 });
    device.say(Said::Welcome(wire::Welcome { server_ms: NOW_MS, region: "eu".into(), config }));
    device.event("pageview").unwrap();
    assert_eq!(device.run(), Some(2_000));
    device.say(Said::Config(wire::Config { flush_interval_ms: u32::MAX }));
    assert_eq!(device.run(), Some(60_000));
}

#[test]
fn what_cannot_leave_waits_in_one_batch_for_a_minute() {
    let mut device = Device::new();
    device.run();
    device.agent.closed(device.now_ms, false);
    for second in 0..120 {
        device.event(&format!("second {second}")).unwrap();
        device.now_ms += 1_000;
        device.run();
        device.agent.closed(device.now_ms, false); // every attempt fails
    }
    device.reconnect();
    let events: Vec<_> = device.sent.iter().map(|envelope| decode(envelope).events.len()).collect();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events.iter().sum::<usize>(), 120);
}

#[test]
fn after_a_reconnect_everything_without_an_answer_is_resent_lowest_first_and_unchanged() {
    let mut device = Device::connected();
    for _ in 0..5 {
        device.batch();
        device.now_ms += 1_000;
    }
    let first = device.sent.split_off(0);
    assert_eq!(seqs(&first), [1, 2, 3, 4, 5]);
    device.acknowledge(&first[1]);
    device.acknowledge(&first[3]);

    device.agent.closed(device.now_ms, false);
    device.reconnect();
    assert_eq!(seqs(&device.sent), [1, 3, 5]);
    for (resent, original) in device.sent.iter().zip([&first[0], &first[2], &first[4]]) {
        assert_eq!(resent.batch, original.batch);
        assert!(resent.sent_ms > original.sent_ms);
    }
}

#[test]
fn a_batch_keeps_its_number_when_the_agent_has_moved_to_a_new_sid() {
    let mut device = Device::connected();
    device.batch();
    device.agent.closed(device.now_ms, false);
    device.now_ms += HOUR_MS;
    device.event("pageview").unwrap();
    device.agent.flush(device.now_ms);
    device.reconnect();
    assert_eq!(seqs(&device.sent), [1, 1, 1]);
    assert_eq!(device.sent[0].batch, device.sent[1].batch);
    assert_ne!(stamp_ms(&device.sent[1]), stamp_ms(&device.sent[2]));
}

#[test]
fn eight_are_in_flight_and_an_answer_lets_the_next_go() {
    let mut device = Device::connected();
    for _ in 0..12 {
        device.batch();
    }
    assert_eq!(seqs(&device.sent), [1, 2, 3, 4, 5, 6, 7, 8]);
    let third = device.sent[2].clone();
    device.acknowledge(&third);
    assert_eq!(seqs(&device.sent)[8..], [9]);
    assert_eq!(
        device.settled,
        [Settled {
            id: BatchId { sid: decode(&third).sid.try_into().unwrap(), seq: 3 },
            first_event: EventNumber(2),
            events: 1,
            stored: false,
            outcome: Outcome::Acknowledged
        }]
    );
}

#[test]
fn a_drain_is_left_and_what_was_in_flight_sent_to_the_next() {
    let mut device = Device::connected();
    device.batch();
    device.say(Said::Drain(wire::Drain { within_ms: 5_000 }));
    let mut waited_ms = 0;
    while device.connects == 1 {
        let wait_ms = device.run().unwrap();
        waited_ms += wait_ms;
        device.later(wait_ms);
    }
    assert!(waited_ms <= 5_000, "{waited_ms}");
    assert_eq!((device.connects, device.disconnects), (2, 1));
    device.agent.opened(device.now_ms);
    device.run();
    assert_eq!(seqs(&device.sent), [1, 1]);
}

#[test]
fn a_connection_without_an_answer_is_left() {
    let mut device = Device::connected();
    device.batch();
    device.later(ANSWER_MS_MAX - 1);
    assert_eq!(device.disconnects, 0);
    device.later(1);
    assert_eq!(device.disconnects, 1);
    device.reconnect();
    assert_eq!(seqs(&device.sent), [1, 1]);
}

#[test]
fn a_resend_names_the_regions_the_batch_has_been_to() {
    let mut device = Device::connected();
    device.batch();
    let welcome = |region: &str| Said::Welcome(wire::Welcome { region: region.into(), ..Default::default() });
    device.say(welcome("eu-north"));
    device.batch();
    for region in ["us-east", "eu-north"] {
        device.agent.closed(device.now_ms, false);
        device.reconnect();
        device.say(welcome(region));
    }
    let tried: Vec<_> = device.sent.iter().map(|envelope| envelope.regions_tried.join(" ")).collect();
    assert_eq!(tried, ["", "", "eu-north", "eu-north", "eu-north us-east", "eu-north us-east"]);
}

#[test]
fn a_page_that_goes_posts_what_has_no_answer_once() {
    let mut device = Device::connected();
    device.batch();
    device.event("Signup").unwrap();
    device.agent.flush(device.now_ms);
    device.run();
    let posts = device.posts();
    assert_eq!(seqs(&posts), [1, 2]);
    assert!(posts.iter().all(|post| post.site == "demo"));
    assert_eq!(posts[0].batch, device.sent[0].batch);
    assert_eq!(posts[1].batch, device.sent[1].batch);
    device.now_ms += 5;
    assert_eq!(device.posts(), []);
    device.acknowledge(&posts[0]);
    device.now_ms += POST_AGAIN_MS;
    assert_eq!(seqs(&device.posts()), [2]);
}

#[test]
fn after_the_back_forward_cache_the_next_connection_does_not_wait() {
    let mut device = Device::connected();
    device.batch();
    device.agent.closed(device.now_ms, true);
    device.now_ms += 5 * 60_000;
    device.run();
    assert_eq!(device.connects, 2);
    device.agent.opened(device.now_ms);
    device.run();
    assert_eq!(seqs(&device.sent), [1, 1]);
}

#[test]
fn an_adopted_batch_is_resent_as_it_came_and_the_numbers_go_on() {
    let mut early = Device::connected();
    early.batch();
    let batch = early.sent[0].batch.clone();

    let mut device = Device::new();
    let start = Start { site: "demo", stamp_ms: NOW_MS, random: [7; 10], first_seq: 2, ..Start::default() };
    device.agent.start(&start).unwrap();
    device.agent.adopt(&batch).unwrap();
    device.run();
    device.agent.opened(device.now_ms);
    device.batch();
    assert_eq!(device.sent[0].batch, batch);
    assert_eq!(seqs(&device.sent), [1, 2]);
    assert_eq!(decode(&device.sent[0]).sid, decode(&device.sent[1]).sid);
    let first = device.sent[0].clone();
    device.acknowledge(&first);
    assert_eq!((device.settled[0].events, device.settled[0].first_event), (1, EventNumber(0)));
}

#[test]
fn what_is_no_batch_is_not_adopted() {
    let mut device = Device::new();
    for bytes in [&[][..], &[0x0a, 2, 1, 1], &[0x10, 1], &[0xff; 40]] {
        assert_eq!(device.agent.adopt(bytes), Err(NotAdopted::Malformed));
    }
    device.batch();
    let batch = [&[0x0a, 16][..], &[7; 16], &[0x10, 1]].concat();
    device.event("open").unwrap();
    assert_eq!(device.agent.adopt(&batch), Err(NotAdopted::NoRoom), "a batch is open");
}

#[test]
fn an_agent_that_has_not_started_wants_nothing() {
    let mut device = Device::new();
    *device.agent = Agent::new();
    assert_eq!(device.run(), None);
    assert_eq!(device.event("pageview"), Err(NotTaken::Stopped));
    let long = "s".repeat(SITE_BYTES_MAX + 1);
    for site in ["", &long] {
        let start = Start { site, ..Start::default() };
        assert_eq!(device.agent.start(&start), Err(StartError::InvalidSite));
    }
}

#[test]
fn an_agent_has_the_size_its_doc_says() {
    let kib = size_of::<Agent>().div_ceil(1024);
    assert!((50..=60).contains(&kib), "{kib} KiB");
}

#[derive(Debug, Clone)]
enum Happens {
    Event(usize),
    Flush,
    Wait(u64),
    ClockSetBack(u64),
    Lost,
    Post,
    /// The gateway answers the sent transmission of this place, counted from the last.
    Acknowledge(usize),
    Throttle(usize),
    Garbage(Vec<u8>),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => (0usize..3_000).prop_map(Happens::Event),
        3 => Just(Happens::Flush),
        4 => (0u64..3_000).prop_map(Happens::Wait),
        1 => (0u64..100_000).prop_map(Happens::Wait),
        1 => (0u64..10_000).prop_map(Happens::ClockSetBack),
        2 => Just(Happens::Lost),
        1 => Just(Happens::Post),
        6 => (0usize..10).prop_map(Happens::Acknowledge),
        1 => (0usize..10).prop_map(Happens::Throttle),
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Happens::Garbage),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Under any interleaving: a number never names two different batches, no more than eight are in flight, and in the end
    /// every event is in an acknowledged batch once or reported as given up.
    #[test]
    fn every_event_is_acknowledged_once_or_reported(story in prop::collection::vec(happens(), 1..120)) {
        let mut device = Device::connected();
        let (mut made, mut posts) = (0u64, Vec::new());
        for step in story {
            match step {
                Happens::Event(len) => {
                    made += 1;
                    let _ = device.event(&"n".repeat(len + 1));
                }
                Happens::Flush => device.agent.flush(device.now_ms),
                Happens::Wait(ms) => device.now_ms += ms,
                Happens::ClockSetBack(ms) => device.now_ms -= ms,
                Happens::Lost => {
                    device.agent.closed(device.now_ms, false);
                    device.reconnect();
                }
                Happens::Post => posts.extend(device.posts()),
                Happens::Acknowledge(place) => {
                    if let Some(sent) = device.sent.iter().rev().nth(place).cloned() {
                        device.acknowledge(&sent);
                    }
                }
                Happens::Throttle(place) => {
                    if let Some(batch) = device.sent.iter().rev().nth(place).map(decode) {
                        device.say(Said::Throttle(wire::Throttle { wait_ms: 200, sid: batch.sid, seq: batch.seq }));
                    }
                }
                Happens::Garbage(bytes) => {
                    let before = device.agent.phase;
                    device.agent.receive(device.now_ms, &bytes);
                    device.agent.phase = before; // it may have spelled a refusal
                }
            }
            device.run();
            if device.agent.connection.is_down() {
                device.reconnect();
            }
            prop_assert!(device.agent.in_flight() <= IN_FLIGHT_MAX);
        }

        // The gateway answers everything from now on.
        let mut answered = 0;
        for _ in 0..400 {
            device.now_ms += 700;
            device.run();
            if device.agent.connection.is_down() {
                device.reconnect();
            }
            while let Some(sent) = device.sent.get(answered).cloned() {
                device.acknowledge(&sent);
                answered += 1;
            }
            device.agent.flush(device.now_ms);
        }
        prop_assert_eq!(device.agent.outbox.entries().count(), 0);

        let mut batches = std::collections::HashMap::new();
        for envelope in device.sent.iter().chain(&posts) {
            let batch = decode(envelope);
            let bytes = batches.entry((batch.sid, batch.seq)).or_insert_with(|| envelope.batch.clone());
            prop_assert_eq!(&*bytes, &envelope.batch, "a numbered batch has changed");
        }
        let batches: Vec<_> = batches.values().map(|bytes| wire::Batch::decode(&bytes[..]).unwrap()).collect();
        let events: u64 = batches.iter().map(|batch| batch.events.len() as u64).sum();
        let reported: u64 = batches.iter().flat_map(given_up).map(|(_, events, _)| u64::from(events)).sum();
        prop_assert_eq!(events + reported, made);
        let acknowledged = device.settled.iter().filter(|settled| settled.outcome == Outcome::Acknowledged);
        prop_assert_eq!(acknowledged.map(|settled| u64::from(settled.events)).sum::<u64>(), events);
    }
}
