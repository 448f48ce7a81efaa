//! Closed batches from their number to their answer, oldest first, and behind them the open one, all in one piece of memory.
//! What is settled is cut out and the rest moves up: at this size a copy costs less than a ring's corners.

use proto::wire::Malformed;

use crate::batch::{BODY_BYTES_MAX, NUMBER_BYTES_MAX, OpenBatch, Page};
use crate::frames::{Encoded, read_batch};
use crate::given_up::{GivenUp, REPORT_BYTES_MAX};
use crate::numbering::Number;
use crate::regions::{Region, RegionSet};
use crate::shell::{BatchId, Class, Event, EventNumber, Outcome, Settled};

/// Bytes of all batches together: the open one and two more of the largest kind, or about 190 pageviews of 250 bytes.
/// With it an agent has 55 KiB; a thousand of them 54 MiB.
pub const OUTBOX_BYTES: usize = 48 * 1024;
/// Closed batches, at most: while nothing can leave, one closes a minute, so this is an hour.
pub const BATCHES_MAX: usize = 64;

/// A batch without events: base time (11), screen (12), language (39) and the report, rounded up.
const REPORT_BATCH_BYTES_MAX: usize = 256;

/// Why a batch of another encoder or agent was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdopted {
    /// It is not one.
    Malformed,
    /// Answers have to come first.
    NoRoom,
}

impl From<Malformed> for NotAdopted {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Why an event did not go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Not even an empty batch could hold it.
    TooLarge,
    /// An answer has to come first.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// To be stored, before it is transmitted for the first time.
    Unstored,
    /// Handed to the shell for that.
    Storing,
    /// To be transmitted.
    Waiting,
    /// Transmitted on this connection; the steady time.
    InFlight { sent_ms: u64 },
    /// Refused, but another transmission of it has no answer yet. When that is given up; the steady time.
    Refused { until_ms: u64 },
    /// To be reported and forgotten.
    Settled(Outcome),
}

/// The state of a batch that has just got its number.
pub(crate) fn unsent(class: Class) -> State {
    match class {
        Class::Short => State::Waiting,
        Class::Long => State::Unstored,
    }
}

/// A closed batch.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) number: Number,
    /// The number under which it is on the device, if it is.
    pub(crate) stored: Option<BatchId>,
    /// There it says, or will once the shell has answered, that it may have been sent.
    pub(crate) marked: bool,
    pub(crate) state: State,
    /// How often it left under this number.
    pub(crate) transmissions: u32,
    /// How many of these a gateway answered by not taking it.
    pub(crate) refusals: u32,
    /// How often it got another number.
    pub(crate) renumbered: u32,
    pub(crate) regions_tried: RegionSet,
    /// When it last left as a POST; the steady time.
    pub(crate) posted_ms: Option<u64>,
    pub(crate) events: u32,
    first_event: EventNumber,
    start: usize,
    len: usize,
}

impl Entry {
    const VACANT: Self = Self {
        number: Number { id: BatchId { sid: [0; 16], seq: 0 }, class: Class::Short },
        stored: None,
        marked: false,
        state: State::Waiting,
        transmissions: 0,
        refusals: 0,
        renumbered: 0,
        regions_tried: RegionSet::EMPTY,
        posted_ms: None,
        events: 0,
        first_event: EventNumber(0),
        start: 0,
        len: 0,
    };

    /// Whether it may leave: nobody who finds it on the device will take it for one that never did.
    pub(crate) fn may_leave(&self) -> bool {
        let unstored = self.stored.is_none();
        match self.state {
            State::Waiting => unstored || self.marked,
            // The page goes: what is not on the device yet leaves all the same, unless something else is there in its place.
            State::Unstored => unstored,
            State::Storing => unstored && self.marked,
            State::InFlight { .. } => true,
            State::Refused { .. } | State::Settled(_) => false,
        }
    }
}

pub(crate) struct Outbox {
    bytes: [u8; OUTBOX_BYTES],
    entries: [Entry; BATCHES_MAX],
    count: usize,
    /// Where the open batch starts.
    closed_len: usize,
    open: OpenBatch,
    next_event: EventNumber,
}

impl Outbox {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; OUTBOX_BYTES],
            entries: [Entry::VACANT; BATCHES_MAX],
            count: 0,
            closed_len: 0,
            open: OpenBatch::new(),
            next_event: EventNumber(0),
        }
    }

    /// Forgets everything, in place.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.closed_len = 0;
        self.open = OpenBatch::new();
        self.next_event = EventNumber(0);
    }

    pub(crate) fn open(&self) -> &OpenBatch {
        &self.open
    }

    /// Whether another batch may be closed.
    pub(crate) fn has_place(&self) -> bool {
        self.count < BATCHES_MAX
    }

    /// Appends the event to the open batch, or opens one.
    pub(crate) fn append(
        &mut self,
        event: &Event<'_>,
        page: &Page,
        now_ms: u64,
        steady_ms: u64,
    ) -> Result<EventNumber, NoRoom> {
        let room = room(&mut self.bytes, self.closed_len);
        let whole = room.len() == BODY_BYTES_MAX;
        let fresh = !self.open.is_open();
        let opened = if fresh { self.open.open(room, page, now_ms, steady_ms) } else { Ok(()) };
        if opened.and_then(|()| self.open.append(room, event, now_ms)).is_err() {
            if fresh {
                self.open.discard();
            }
            return Err(if fresh && whole { NoRoom::TooLarge } else { NoRoom::Full });
        }
        let number = self.next_event;
        self.next_event.0 += 1;
        Ok(number)
    }

    /// Makes sure that a batch is open, if only to report what was given up.
    pub(crate) fn open_for_report(&mut self, page: &Page, now_ms: u64, steady_ms: u64) -> bool {
        self.open.is_open() || self.open.open(room(&mut self.bytes, self.closed_len), page, now_ms, steady_ms).is_ok()
    }

    /// Whether a batch that only reports could be opened, if none is open.
    pub(crate) fn has_room_for_report(&self) -> bool {
        self.open.is_open() || self.closed_len + REPORT_BATCH_BYTES_MAX <= OUTBOX_BYTES
    }

    /// Closes the open batch under this number. Only while there [is a place](Self::has_place).
    pub(crate) fn close(&mut self, number: Number, given_up: &mut GivenUp) {
        let events = self.open.events();
        let len = self.open.close(room(&mut self.bytes, self.closed_len), given_up);
        self.push(number, len, events, EventNumber(self.next_event.0 - u64::from(events)));
    }

    /// Takes a batch that another encoder or another agent numbered and sent so often. Only while no batch is open.
    pub(crate) fn adopt(&mut self, batch: &[u8], transmissions: u32) -> Result<&mut Entry, NotAdopted> {
        let Encoded { number, body, events } = read_batch(batch)?;
        if self.open.is_open() || !self.has_place() {
            return Err(NotAdopted::NoRoom);
        }
        let place = room(&mut self.bytes, self.closed_len).get_mut(..body.len()).ok_or(NotAdopted::NoRoom)?;
        place.copy_from_slice(body);
        let first_event = self.next_event;
        self.next_event.0 += u64::from(events);
        self.push(number, body.len(), events, first_event);
        let entry = self.entries_mut().last().ok_or(NotAdopted::NoRoom)?;
        entry.transmissions = transmissions;
        Ok(entry)
    }

    /// Whether a batch out of the device's store would leave room enough for new ones.
    pub(crate) fn has_room_for_stored(&self, len: usize) -> bool {
        self.count < BATCHES_MAX / 2 && self.closed_len + len + BODY_BYTES_MAX <= OUTBOX_BYTES
    }

    /// Every closed batch, oldest first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().take(self.count)
    }

    /// Every closed batch, oldest first.
    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().take(self.count)
    }

    /// The batch of this number, if it has no outcome yet.
    pub(crate) fn find(&mut self, sid: &[u8], seq: u32) -> Option<&mut Entry> {
        self.entries_mut().find(|entry| {
            entry.number.id.seq == seq && entry.number.id.sid == sid && !matches!(entry.state, State::Settled(_))
        })
    }

    /// The bytes of a batch behind its number.
    pub(crate) fn body(&self, entry: &Entry) -> &[u8] {
        self.bytes.get(entry.start..entry.start + entry.len).unwrap_or_default()
    }

    /// The connection is gone: what had no answer has to be transmitted again.
    pub(crate) fn disconnected(&mut self) {
        for entry in self.entries_mut() {
            if matches!(entry.state, State::InFlight { .. }) {
                entry.state = State::Waiting;
            }
        }
    }

    /// The gateway said which region it is, after batches were sent to it.
    pub(crate) fn met_region(&mut self, region: Option<Region>) {
        for entry in self.entries_mut() {
            if matches!(entry.state, State::InFlight { .. }) {
                entry.regions_tried.insert(region);
            }
        }
    }

    /// Cuts out the oldest batch that has an outcome. What is given up is to be reported, and so is what it was to report.
    pub(crate) fn take_settled(&mut self, given_up: &mut GivenUp, steady_ms: u64) -> Option<Settled> {
        let (place, entry, outcome) = self.entries().enumerate().find_map(|(place, entry)| match entry.state {
            State::Settled(outcome) => Some((place, *entry, outcome)),
            _ => None,
        })?;
        if let Outcome::GivenUp(reason) = outcome {
            given_up.add(reason, entry.events, 1, steady_ms);
            given_up.take_back(self.body(&entry), steady_ms);
        }
        self.bytes.copy_within(entry.start + entry.len..self.closed_len + self.open.len(), entry.start);
        self.closed_len -= entry.len;
        self.entries.copy_within(place + 1..self.count, place);
        self.count -= 1;
        for later in self.entries_mut().skip(place) {
            later.start -= entry.len;
        }
        Some(Settled {
            id: entry.number.id,
            first_event: entry.first_event,
            events: entry.events,
            stored: (entry.number.class == Class::Long || entry.stored.is_some()) && outcome != Outcome::Elsewhere,
            outcome,
        })
    }

    fn push(&mut self, number: Number, len: usize, events: u32, first_event: EventNumber) {
        if let Some(place) = self.entries.get_mut(self.count) {
            let state = unsent(number.class);
            *place = Entry { number, state, events, first_event, start: self.closed_len, len, ..Entry::VACANT };
            self.count += 1;
            self.closed_len += len;
        }
    }
}

/// Where the open batch may grow.
fn room(bytes: &mut [u8; OUTBOX_BYTES], closed_len: usize) -> &mut [u8] {
    let end = OUTBOX_BYTES.min(closed_len + BODY_BYTES_MAX);
    bytes.get_mut(closed_len..end).unwrap_or_default()
}

const _: () = assert!(REPORT_BATCH_BYTES_MAX >= REPORT_BYTES_MAX + 11 + 12 + 39);
const _: () = assert!(OUTBOX_BYTES >= 2 * (BODY_BYTES_MAX + NUMBER_BYTES_MAX));
