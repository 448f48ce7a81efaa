//! What passes between the agent and the shell around it, which has the clock and the socket.

use crate::given_up::Reason;

/// The identity of a batch; with the index of an event in it, the identity of the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchId {
    /// A UUIDv7's bytes.
    pub sid: [u8; 16],
    /// 1 ..= 4096.
    pub seq: u32,
}

/// How long after the stamp in its sid a batch is accepted. All batches of a sid have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Class {
    /// 2 h: the outbox is kept in memory.
    #[default]
    Short,
    /// 26 h: the shell [stores](crate::Agent::store) the outbox on the device.
    Long,
}

/// What became of a batch that was [to be stored](crate::Agent::store).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is on the device.
    Stored,
    /// It is not, and neither is what it replaces: it lives as long as this agent. Where that is not sure, say nothing yet and
    /// try again: the batch waits.
    InMemory,
    /// What it replaces is on the device still, or another agent has taken that over: this one may not send it.
    Elsewhere,
}

/// The events that [`event`](crate::Agent::event) took, counted from 0 in the order in which it took them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventNumber(pub u64);

/// What an agent is told once.
#[derive(Debug, Clone, Default)]
pub struct Start<'a> {
    /// The site's name, of at most 253 bytes.
    pub site: &'a str,
    /// The stamp of the first sid, Unix ms: the device's clock, and the server's where it is known.
    pub stamp_ms: u64,
    /// Tells this agent from every other one. Never twice the same.
    pub random: [u8; 10],
    /// The first number to give; higher than 1 if another encoder has already sent batches under the first sid. 0 is 1.
    pub first_seq: u32,
    /// Of the first sid.
    pub class: Class,
    /// A BCP 47 tag, or empty.
    pub language: &'a str,
    /// CSS pixels; 0 for unknown.
    pub screen_width: u32,
    /// CSS pixels; 0 for unknown.
    pub screen_height: u32,
    /// The browser says that a program drives it.
    pub automated: bool,
}

/// Why an agent did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartError {
    /// The site's name is empty or has more than 253 bytes.
    InvalidSite,
}

/// Something that happened in the page.
#[derive(Debug, Clone, Copy, Default)]
pub struct Event<'a> {
    /// "pageview", or the name of a custom event.
    pub name: &'a str,
    /// The page's absolute URL.
    pub url: &'a str,
    /// An absolute URL, or empty.
    pub referrer: &'a str,
    /// Keys and values. A gateway takes 30 pairs.
    pub props: &'a [(&'a str, &'a str)],
    /// Time the page was visible and in use since the last event.
    pub engaged_ms: u32,
}

impl<'a> Event<'a> {
    /// A pageview without properties.
    pub fn pageview(url: &'a str, referrer: &'a str) -> Self {
        Self { name: proto::limits::PAGEVIEW, url, referrer, ..Self::default() }
    }
}

/// Why [`event`](crate::Agent::event) did not take an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// The agent has not started, or has stopped: nobody wants its events.
    Stopped,
    /// `OUTBOX_FULL` or `TOO_LARGE`; the next batch reports it.
    GivenUp(Reason),
}

/// What the shell is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Open a connection, then say [`opened`](crate::Agent::opened) or [`closed`](crate::Agent::closed). There is none now.
    Connect,
    /// Send the first bytes of the frame as one binary message.
    Send(usize),
    /// Store what the first bytes of the frame say on the device, then say [`stored`](crate::Agent::stored): the number that
    /// the batch replaces there (sid, 16 bytes, and seq, 4 bytes, big endian; its own if it replaces none), its number in
    /// the same form, then, from [`STORED_AT`](crate::STORED_AT), the batch. The byte behind that, not counted, is 1 if the
    /// batch may have been sent by the time that it is on the device; what is there already comes once more to say so. To
    /// replace is one step: both or none.
    Store(usize),
    /// Close the connection, or stop opening it, and forget it: nothing that it still says may reach the agent.
    Disconnect,
    /// A batch has its outcome. For information; the agent has already forgotten it.
    Settled(Settled),
    /// Nothing to do for so many milliseconds, unless something is told to the agent before.
    Wait(u64),
    /// Nothing to do, ever: the gateway knows the site not, or not with this origin or key; or the agent has not started.
    Stopped,
}

/// A batch that has left the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Its last number.
    pub id: BatchId,
    /// Its first event; the others follow without a gap.
    pub first_event: EventNumber,
    /// How many events it holds; 0 if it only reported.
    pub events: u32,
    /// It may be on the device, from where the shell is to delete it now. Not if it is [`Elsewhere`](Outcome::Elsewhere).
    pub stored: bool,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable and counted.
    Acknowledged,
    /// The gateway has put its events into the ledger as dropped.
    Dropped(Reason),
    /// It will not be sent again; the next batch reports it.
    GivenUp(Reason),
    /// It was [`Elsewhere`](Kept::Elsewhere): whoever has it there answers for it.
    Elsewhere,
}

/// What a frame from the gateway meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'f> {
    /// The agent has acted on it.
    Taken,
    /// Not a frame. Nothing changed.
    Unreadable,
    /// A batch or the connection was refused.
    Refused(Reason, Message<'f>),
    /// Acted on; the message says what became of events, for whoever develops the page.
    Noticed(Message<'f>),
    /// The agent is not wanted here and has stopped.
    Stopped(Reason, Message<'f>),
}

/// For a developer, UTF-8: what is wrong and what would be right.
pub type Message<'f> = &'f [u8];
