//! Pages with the real agent's core: they make events, go offline, come back late, and note what they were told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_core::{
    Agent, BatchId, Class, Command, Event, EventNumber, FRAME_BYTES, Kept, Outcome, Reason, STORED_AT, Settled, Start,
};
use bytes::Bytes;
use prost::Message as _;
use proto::agent::{ServerFrame, server_frame};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::central::{ORIGIN, SITE};
use crate::door::{Doors, Line};
use crate::rules::Kept as Rules;
use crate::time::World;

/// Where devices are.
const NETWORKS: u8 = 6;

/// What happened to an event, as its page knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing yet, or its page has gone before it knew.
    Unknown,
    /// The gateway said that it is counted.
    Acknowledged,
    /// The gateway said that it is dropped.
    Dropped,
    /// The agent gave it up: perhaps it was counted, if it says so.
    GivenUp {
        /// It was sent, and not answered.
        in_doubt: bool,
    },
}

/// One event of a page.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its own, so that it can be told from every other one in the rows.
    pub path: String,
    /// The gateway drops it.
    pub bad: bool,
    /// What its page knows.
    pub fate: Fate,
}

/// Everything that all pages did and heard.
#[derive(Default)]
pub struct Sent {
    /// Every event.
    pub contents: Vec<Content>,
    /// Batches that were acknowledged.
    pub acknowledged: BTreeSet<(Vec<u8>, u32)>,
    /// Pages that still wait for answers.
    waiting: BTreeSet<u64>,
    /// No page makes an event any more, and nobody is offline.
    healed: bool,
}

/// Shared by all pages.
#[derive(Clone, Default)]
pub struct Noted(Arc<Mutex<Sent>>);

impl Noted {
    /// What there is.
    pub fn look(&self) -> MutexGuard<'_, Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on pages only wait for answers.
    pub fn heal(&self) {
        self.look().healed = true;
    }

    /// Every page knows what became of its events.
    pub fn is_settled(&self) -> bool {
        self.look().waiting.is_empty()
    }
}

/// A device: one page after the other, and an outbox that outlives them.
pub struct Device {
    /// Its number.
    pub number: u64,
    /// It has consent to keep batches.
    pub long: bool,
    /// Between two events, ms.
    pub pace_ms: u64,
    /// The device's clock is so much ahead, ms.
    pub ahead_ms: i64,
    /// For its choices.
    pub random: StdRng,
    /// The time.
    pub world: World,
    /// The gateways.
    pub doors: Doors,
    /// What happened.
    pub noted: Noted,
    /// The protocol's.
    pub rules: Rules,
    /// The longest that it is offline, ms.
    pub offline_ms: u64,
    /// Which network it is in.
    pub network: u8,
}

/// What the devices of one run have in common.
#[derive(Clone)]
pub struct Habits {
    /// Between two events, ms.
    pub pace_ms: u64,
    /// The longest that one is offline, ms.
    pub offline_ms: u64,
    /// The protocol's rules.
    pub rules: Rules,
}

impl Device {
    /// A device of this number, by a seed.
    pub fn new(number: u64, seed: u64, world: World, doors: Doors, noted: Noted, habits: &Habits) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ (number + 1) << 32);
        let ahead_ms = if random.random_bool(0.2) { random.random_range(-600_000..600_000) } else { 0 };
        let Habits { pace_ms, offline_ms, rules } = *habits;
        let long = number % 2 == 1;
        let network = (number % 3) as u8;
        Self { number, long, pace_ms, ahead_ms, random, world, doors, noted, rules, offline_ms, network }
    }

    /// For ever.
    pub async fn run(mut self) {
        let mut outbox = BTreeMap::new();
        loop {
            // Most pages live for minutes, some for hours.
            let lives_ms = self.random.random_range(60_000..3_600_000);
            self.page(lives_ms, &mut outbox).await;
        }
    }

    fn now_ms(&self) -> u64 {
        self.world.now_ms().saturating_add_signed(self.ahead_ms)
    }

    async fn page(&mut self, lives_ms: u64, outbox: &mut BTreeMap<Vec<u8>, (Vec<u8>, bool)>) {
        let mut agent = Box::new(Agent::new());
        let class = if self.long { Class::Long } else { Class::Short };
        let start =
            Start { site: SITE, stamp_ms: self.now_ms(), random: self.random.random(), class, ..Start::default() };
        agent.start(&start).expect("a short name");
        let (answers, answered) = mpsc::unbounded_channel();
        let (events, frame) = (BTreeMap::new(), Box::new([0; FRAME_BYTES]));
        let mut page = Page { agent, line: None, events, frame, answers, answered };
        let mut restoring: VecDeque<_> = outbox.values().cloned().collect();
        let ends = Instant::now() + Duration::from_millis(lives_ms);
        let mut next_event = Instant::now() + self.pause();
        let mut offline_until = Instant::now();
        loop {
            let now_ms = self.now_ms();
            while let Some((batch, sent)) = restoring.front() {
                match page.agent.restore(now_ms, batch, *sent) {
                    Ok(()) | Err(agent_core::NotAdopted::Malformed) => drop(restoring.pop_front()),
                    Err(agent_core::NotAdopted::NoRoom) => break,
                }
            }
            let healed = self.noted.look().healed;
            let offline = !healed && Instant::now() < offline_until;
            if !healed && Instant::now() >= ends {
                self.post(&mut page, now_ms, None);
                return; // what it did not store and no gateway takes is gone
            }
            if !healed && Instant::now() >= next_event {
                next_event = Instant::now() + self.pause();
                if self.random.random_bool(0.02) {
                    let lasts_ms = self.random.random_range(10_000..self.offline_ms);
                    offline_until = Instant::now() + Duration::from_millis(lasts_ms);
                    page.lose_line(now_ms);
                }
                self.event(&mut page, now_ms);
                if self.random.random_bool(0.05) && Instant::now() >= offline_until {
                    let answers = page.answers.clone();
                    self.post(&mut page, now_ms, Some(answers)); // it is hidden, and comes back
                }
            }
            while let Ok(answer) = page.answered.try_recv() {
                page.hear(now_ms, &answer, self.rules);
            }
            match page.agent.poll(now_ms, &mut page.frame) {
                Command::Connect => {
                    self.moves();
                    page.line = if offline { None } else { self.doors.connect(self.address(), &mut self.random).await };
                    match &page.line {
                        Some(_) => page.agent.opened(self.now_ms()),
                        None => page.agent.closed(self.now_ms(), false),
                    }
                }
                Command::Send(len) => {
                    let bytes = Bytes::copy_from_slice(&page.frame[..len]);
                    if let Some(line) = &page.line {
                        line.send(bytes);
                    }
                }
                Command::Store(len) => {
                    outbox.remove(&page.frame[..20]);
                    // The byte behind it says whether it may have been sent.
                    let stored = (page.frame[STORED_AT..len].to_vec(), page.frame[len] == 1);
                    outbox.insert(page.frame[20..40].to_vec(), stored);
                    let id = batch_id(&page.frame[20..40]);
                    page.agent.stored(now_ms, &id, Kept::Stored);
                }
                Command::Disconnect => page.line = None,
                Command::Settled(settled) => {
                    let id = [settled.id.sid.as_slice(), &settled.id.seq.to_be_bytes()].concat();
                    outbox.remove(&id);
                    self.settle(&mut page, settled);
                }
                Command::Wait(ms) => {
                    let waits = !page.events.is_empty() || !outbox.is_empty();
                    self.note_waiting(waits);
                    let mut until = Instant::now() + Duration::from_millis(ms);
                    if !healed {
                        until = until.min(next_event).min(ends);
                    }
                    page.wait(until, self).await;
                }
                Command::Stopped => return,
            }
        }
    }

    /// As on a page that is hidden, or goes away: then nobody hears the answer.
    fn post(&mut self, page: &mut Page, now_ms: u64, answers: Option<mpsc::UnboundedSender<Bytes>>) {
        page.agent.flush(now_ms);
        while let Some(len) = page.agent.post(now_ms, &mut page.frame) {
            let posted = self.doors.post(self.address(), page.frame[..len].to_vec(), &mut self.random);
            let answers = answers.clone();
            tokio::spawn(async move {
                if let (Some(answer), Some(answers)) = (posted.await, answers) {
                    let _ = answers.send(answer); // unless the page has gone meanwhile
                }
            });
        }
    }

    fn note_waiting(&self, waits: bool) {
        let mut sent = self.noted.look();
        match waits {
            true => drop(sent.waiting.insert(self.number)),
            false => drop(sent.waiting.remove(&self.number)),
        }
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(1..2 * self.pace_ms))
    }

    /// The devices of one network are one visitor.
    fn address(&self) -> IpAddr {
        IpAddr::from([10, 0, 0, self.network])
    }

    /// Now and then it is somewhere else when it connects.
    fn moves(&mut self) {
        if self.random.random_bool(0.1) {
            self.network = self.random.random_range(0..NETWORKS);
        }
    }

    fn event(&mut self, page: &mut Page, now_ms: u64) {
        let bad = self.random.random_bool(0.05);
        let content = {
            let sent = self.noted.look();
            sent.contents.len()
        };
        let path = format!("/e/{content}");
        let url = format!("{ORIGIN}{path}");
        let name = if bad { "\u{1}" } else { "pageview" };
        let event = Event { name, url: &url, engaged_ms: 1000, ..Event::default() };
        if let Ok(number) = page.agent.event(now_ms, &event) {
            page.events.insert(number, content);
            self.noted.look().contents.push(Content { path, bad, fate: Fate::Unknown });
            self.noted.look().waiting.insert(self.number);
        }
        if self.random.random_bool(0.3) {
            page.agent.flush(now_ms);
        }
    }

    fn settle(&mut self, page: &mut Page, settled: Settled) {
        let fate = match settled.outcome {
            Outcome::Acknowledged => Fate::Acknowledged,
            Outcome::Dropped(_) => Fate::Dropped,
            Outcome::GivenUp(reason) => Fate::GivenUp { in_doubt: reason == Reason::EXPIRED_IN_DOUBT },
            Outcome::Elsewhere => Fate::GivenUp { in_doubt: true },
        };
        let mut sent = self.noted.look();
        if fate == Fate::Acknowledged {
            sent.acknowledged.insert((settled.id.sid.to_vec(), settled.id.seq));
        }
        for number in settled.first_event.0..settled.first_event.0 + u64::from(settled.events) {
            if let Some(content) = page.events.remove(&EventNumber(number)) {
                sent.contents[content].fate = fate;
            }
        }
    }
}

fn batch_id(bytes: &[u8]) -> BatchId {
    let (mut sid, mut seq) = ([0; 16], [0; 4]);
    sid.copy_from_slice(&bytes[..16]);
    seq.copy_from_slice(&bytes[16..]);
    BatchId { sid, seq: u32::from_be_bytes(seq) }
}

struct Page {
    agent: Box<Agent>,
    line: Option<Line>,
    /// Which content each event is, until it is settled.
    events: BTreeMap<EventNumber, usize>,
    frame: Box<[u8; FRAME_BYTES]>,
    /// To POSTs.
    answers: mpsc::UnboundedSender<Bytes>,
    answered: mpsc::UnboundedReceiver<Bytes>,
}

impl Page {
    fn hear(&mut self, now_ms: u64, frame: &[u8], rules: Rules) {
        let _ = self.agent.receive(now_ms, frame);
        tracing::trace!(heard = ?ServerFrame::decode(frame));
        let refused = |frame: ServerFrame| match frame.frame {
            Some(server_frame::Frame::Reject(reject)) => !reject.sid.is_empty() && !reject.r#final,
            _ => false,
        };
        if !rules.holds("10-renumber") && ServerFrame::decode(frame).is_ok_and(refused) {
            // Heard as often as it may have been sent, one refusal passes for that of every transmission.
            for _ in 0..8 {
                let _ = self.agent.receive(now_ms, frame);
            }
        }
    }

    fn lose_line(&mut self, now_ms: u64) {
        if self.line.take().is_some() {
            self.agent.closed(now_ms, false);
        }
    }

    async fn wait(&mut self, until: Instant, device: &Device) {
        let line = async {
            match &mut self.line {
                Some(line) => line.receive().await,
                None => std::future::pending().await,
            }
        };
        let heard = tokio::select! {
            biased;
            heard = line => heard,
            Some(answer) = self.answered.recv() => Some(answer),
            () = sleep_until(until) => return,
        };
        match heard {
            Some(frame) => self.hear(device.now_ms(), &frame, device.rules),
            None => self.lose_line(device.now_ms()),
        }
    }
}
