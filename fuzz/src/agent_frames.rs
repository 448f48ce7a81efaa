//! The agent's core and a gateway, a device and a clock that do whatever they like. Input: one step after the other, each a byte that
//! says which, a length (2 bytes, little endian) and so many bytes for it.

use std::collections::HashMap;

use agent_core::{
    Agent, Answer, BATCH_BYTES_MAX, BatchId, Class, Command, Event, FRAME_BYTES, Kept, Reason, STORED_AT, Settled,
    Start,
};
use proto::Message;
use proto::agent::client_frame::Frame;
use proto::agent::{Batch, ClientFrame, Envelope};
use proto::sid::Sid;

/// The stamp of the agent's first sid.
const STARTED_MS: u64 = 1_763_816_400_000;
/// The last moment that a browser's clock can show.
const CLOCK_MS_MAX: u64 = 8_640_000_000_000_000;
const STEPS_MAX: usize = 400;
/// An outbox of batches, each stored, sent and settled, is a few hundred commands.
const COMMANDS_MAX: usize = 2_000;

/// Nothing panics, the core comes to rest after every step, all that it sends can be read, and a batch of its own never changes under
/// its number.
pub fn run(bytes: &[u8]) {
    let mut device = Device::start();
    let mut rest = bytes;
    for _ in 0..STEPS_MAX {
        let Some((&[step, low, high], behind)) = rest.split_first_chunk() else { break };
        let (data, behind) = behind.split_at(behind.len().min(u16::from_le_bytes([low, high]).into()));
        device.step(step, data);
        device.run();
        rest = behind;
    }
    device.posts();
}

struct Device {
    agent: Box<Agent>,
    now_ms: u64,
    frame: Box<[u8; FRAME_BYTES]>,
    /// What became of storing is said later, if at all.
    storing: Vec<BatchId>,
    /// The bytes of every batch that the agent numbered itself.
    sent: HashMap<(Vec<u8>, u32), Vec<u8>>,
    /// Batches came in that it did not number: they may be anything, and may have any name.
    foreign: bool,
}

impl Device {
    fn start() -> Self {
        let mut agent = Box::new(Agent::new());
        let start =
            Start { site: "demo", stamp_ms: STARTED_MS, random: [7; 10], language: "en-GB", ..Start::default() };
        agent.start(&start).expect("a good name");
        Self {
            agent,
            now_ms: STARTED_MS,
            frame: Box::new([0; FRAME_BYTES]),
            storing: Vec::new(),
            sent: HashMap::new(),
            foreign: false,
        }
    }

    fn step(&mut self, step: u8, data: &[u8]) {
        let number = data.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        match step % 16 {
            0 | 1 => self.receive(data),
            2 => self.agent.opened(self.now_ms),
            3 => self.agent.closed(self.now_ms, number & 1 == 1),
            4 => self.now_ms = self.now_ms.saturating_add(number & 0x0fff_ffff).min(CLOCK_MS_MAX),
            5 => self.now_ms = number.min(CLOCK_MS_MAX),
            6 => self.event(data),
            7 => self.agent.flush(self.now_ms),
            8 => self.agent.give_up(self.now_ms, Reason(number as u8 as u32), (number >> 8) as u32),
            9 => self.agent.set_class(self.now_ms, if number & 1 == 1 { Class::Long } else { Class::Short }),
            10 => {
                self.foreign = true;
                let _ = self.agent.adopt(data);
            }
            11 | 12 => {
                self.foreign = true;
                let _ = self.agent.restore(self.now_ms, data, step % 16 == 11);
            }
            13 => {
                let kept = [Kept::Stored, Kept::InMemory, Kept::Elsewhere][number as usize % 3];
                if let Some(id) = self.storing.pop() {
                    self.agent.stored(self.now_ms, &id, kept);
                }
            }
            14 => self.posts(),
            _ => {
                if let Some(len) = self.agent.store(&mut self.frame) {
                    self.store(len);
                }
            }
        }
    }

    /// A frame that means nothing to the agent means nothing to it twice.
    fn receive(&mut self, data: &[u8]) {
        if let Answer::Unreadable = self.agent.receive(self.now_ms, data) {
            assert_eq!(self.agent.receive(self.now_ms, data), Answer::Unreadable);
        }
    }

    fn event(&mut self, data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        let mut parts = text.split('\n');
        let mut next = || parts.next().unwrap_or_default();
        let (name, url, referrer) = (next(), next(), next());
        let props: Vec<_> = parts.map(|prop| prop.split_once('=').unwrap_or((prop, ""))).collect();
        let event = Event { name, url, referrer, props: &props, engaged_ms: data.len() as u32 };
        let _ = self.agent.event(self.now_ms, &event);
    }

    /// Does what the agent says until that is to wait.
    fn run(&mut self) {
        for _ in 0..COMMANDS_MAX {
            match self.agent.poll(self.now_ms, &mut self.frame) {
                Command::Send(len) => self.sent(len),
                Command::Store(len) => self.store(len),
                Command::Settled(Settled { id, .. }) => self.forget(id),
                Command::Connect | Command::Disconnect => {}
                Command::Wait(ms) => {
                    assert!(ms > 0);
                    return;
                }
                Command::Stopped => return,
            }
        }
        panic!("the agent does not come to rest");
    }

    fn sent(&mut self, len: usize) {
        let frame = ClientFrame::decode(&self.frame[..len]).expect("what the agent sends is a frame");
        match frame.frame.expect("of this version") {
            Frame::Hello(hello) => assert_eq!(hello.site, "demo"),
            Frame::Batch(envelope) => self.transmitted(&envelope),
            Frame::Bye(_) => panic!("nobody said that the page goes"),
        }
    }

    /// What goes out when a page goes away.
    fn posts(&mut self) {
        while let Some(len) = self.agent.post(self.now_ms, &mut self.frame) {
            let envelope = Envelope::decode(&self.frame[..len]).expect("what the agent posts is an envelope");
            self.transmitted(&envelope);
        }
    }

    fn transmitted(&mut self, envelope: &Envelope) {
        assert_eq!(envelope.sent_ms, self.now_ms);
        if self.foreign {
            return;
        }
        assert!(envelope.batch.len() <= BATCH_BYTES_MAX);
        let batch = Batch::decode(&*envelope.batch).expect("a batch of its own");
        assert!(Sid::try_new(&batch.sid).is_ok() && (1..=proto::limits::SEQ_MAX).contains(&batch.seq));
        let before = self.sent.entry((batch.sid, batch.seq)).or_insert_with(|| envelope.batch.clone());
        assert!(*before == envelope.batch, "a numbered batch never changes its bytes");
    }

    fn store(&mut self, len: usize) {
        let name = &self.frame[STORED_AT / 2..STORED_AT];
        let (sid, seq) = name.split_first_chunk().expect("a number of twenty bytes");
        let seq = u32::from_be_bytes(seq.try_into().expect("four of them"));
        assert!(len <= STORED_AT + BATCH_BYTES_MAX || self.foreign);
        self.storing.push(BatchId { sid: *sid, seq });
    }

    fn forget(&mut self, id: BatchId) {
        self.storing.retain(|storing| *storing != id);
    }
}
