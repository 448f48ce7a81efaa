//! The outbox on the device: what the shell stores, what it brings back, and when that is too old.

use proto::limits::ACCEPT_LONG_MS;
use proto::sid::Sid;

use super::Agent;
use crate::frames::{self, FRAME_BYTES};
use crate::given_up::Reason;
use crate::outbox::{NotAdopted, State};
use crate::shell::{BatchId, Class, Kept, Outcome};

/// A batch of class long is given up so long after the stamp in its sid: two hours before the gateway would refuse it, so
/// that one that is on its way then is still answered.
const STORED_MS_MAX: u64 = ACCEPT_LONG_MS - 2 * 60 * 60 * 1000;

impl Agent {
    /// Takes over a batch that another encoder numbered under the first sid and has sent once, sid and seq in front. Before
    /// the first event.
    pub fn adopt(&mut self, batch: &[u8]) -> Result<(), NotAdopted> {
        self.outbox.adopt(batch, 1).map(drop)
    }

    /// Takes over a batch that an earlier agent [stored](super::Command::Store) and this one alone may send now. `sent`: perhaps it
    /// was, so it keeps its number whatever a gateway answers. `NoRoom`: try again once something is settled.
    pub fn restore(&mut self, now_ms: u64, batch: &[u8], sent: bool) -> Result<(), NotAdopted> {
        self.observe(now_ms);
        let number = frames::read_batch(batch)?.number;
        if let Some(entry) = self.outbox.find(&number.id.sid, number.id.seq) {
            entry.transmissions = entry.transmissions.max(sent.into()); // this page has come back, and another was there
            entry.stored = Some(number.id);
            entry.marked |= sent;
            return Ok(());
        }
        if !self.outbox.has_room_for_stored(batch.len()) {
            return Err(NotAdopted::NoRoom);
        }
        self.close();
        let entry = self.outbox.adopt(batch, u32::from(sent))?;
        entry.stored = Some(entry.number.id);
        entry.marked = sent;
        entry.state = State::Waiting;
        Ok(())
    }

    /// From now on new batches are of this class. What was numbered before keeps its own.
    pub fn set_class(&mut self, now_ms: u64, class: Class) {
        self.observe(now_ms);
        if class != self.numbering.class() {
            self.close();
            self.numbering.set_class(class);
        }
    }

    /// Writes the oldest batch that is to be stored, as [`Command::Store`](super::Command::Store) says, and gives the length. [`poll`](Self::poll)
    /// asks for the same; this is for a shell that has no time for anything else and [posts](Self::post) what there is.
    pub fn store(&mut self, frame: &mut [u8; FRAME_BYTES]) -> Option<usize> {
        self.store_if(frame, true, true)
    }

    /// The device says that a batch may have been sent before it is: what is there already is stored once more for that
    /// once something `leaves`, and at once (`goes`) too what the shell has not answered for.
    pub(super) fn store_if(&mut self, frame: &mut [u8; FRAME_BYTES], leaves: bool, goes: bool) -> Option<usize> {
        let entry = self.outbox.entries_mut().find(|entry| match entry.state {
            State::Unstored => true,
            State::Storing => goes && !entry.marked && entry.stored.is_none(),
            State::Waiting => leaves && !entry.marked && entry.stored.is_some(),
            _ => false,
        })?;
        entry.state = State::Storing;
        entry.marked = leaves || entry.transmissions > 0;
        let entry = *entry;
        let replaces = entry.stored.unwrap_or(entry.number.id);
        frames::write_stored(frame, &replaces, &entry.number, self.outbox.body(&entry), entry.marked).ok()
    }

    /// What came of [storing](super::Command::Store) the batch of this number.
    pub fn stored(&mut self, now_ms: u64, id: &BatchId, kept: Kept) {
        self.observe(now_ms);
        let Some(entry) = self.outbox.find(&id.sid, id.seq) else { return };
        if entry.state == State::Storing {
            (entry.stored, entry.state) = match kept {
                Kept::Stored => (Some(*id), State::Waiting),
                Kept::InMemory => (None, State::Waiting),
                Kept::Elsewhere => (None, State::Settled(Outcome::Elsewhere)),
            };
        }
    }

    /// A batch of class long has a day: it may have waited on the device since another agent numbered it.
    pub(super) fn give_up_expired(&mut self) {
        let server_ms = self.numbering.server_ms(self.now_ms);
        for entry in self.outbox.entries_mut() {
            let sid = Sid::try_new(&entry.number.id.sid);
            let old = sid.is_ok_and(|sid| sid.stamp_ms().saturating_add(STORED_MS_MAX) <= server_ms);
            let expired = old && entry.number.class == Class::Long;
            if expired && entry.state == State::Waiting {
                let asked = entry.transmissions > entry.refusals;
                let reason = if asked { Reason::EXPIRED_IN_DOUBT } else { Reason::EXPIRED };
                entry.state = State::Settled(Outcome::GivenUp(reason));
            }
        }
    }
}
