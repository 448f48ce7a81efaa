//! Events that will never be sent, and why: the next batch reports them.

use proto::wire::{Reader, Value, Writer, bytes_len, uint_len};

use crate::frames::Fields;

/// A number of `Reason` in agent.proto. A gateway may know reasons that this agent does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u32);

impl Reason {
    pub(crate) const MALFORMED: Self = Self(1);
    pub(crate) const FRAME_TOO_LARGE: Self = Self(3);
    /// The gateway knows no such site.
    pub const UNKNOWN_SITE: Self = Self(5);
    /// The site does not take events from this page's origin.
    pub const WRONG_ORIGIN: Self = Self(6);
    pub(crate) const INVALID_SID: Self = Self(7);
    pub(crate) const INVALID_SEQ: Self = Self(8);
    /// The batch came too long after the stamp in its sid.
    pub const SID_EXPIRED: Self = Self(9);
    /// The stamp in the batch's sid lies ahead of the server's clock.
    pub const SID_IN_FUTURE: Self = Self(10);
    /// The gateway takes nothing now.
    pub const UNAVAILABLE: Self = Self(11);
    /// The site wants one of its keys, and there was none or another.
    pub const WRONG_KEY: Self = Self(12);
    /// The outbox had no room for the event.
    pub const OUTBOX_FULL: Self = Self(64);
    /// The batch was never sent, and now nobody would take it.
    pub const EXPIRED: Self = Self(65);
    /// The batch was sent, never answered, and now it is too late to ask.
    pub const EXPIRED_IN_DOUBT: Self = Self(66);
    /// The event alone is larger than a batch may be.
    pub const TOO_LARGE: Self = Self(67);
}

/// One slot for each reason for which a batch or an event can be given up: the four above and four refusals that are
/// neither final nor worth a repeat: MALFORMED, FRAME_TOO_LARGE, INVALID_SID and INVALID_SEQ.
const REASONS_MAX: usize = 8;

/// The most that a report takes: eight times a head (2), a reason (3) and two counts (6 each).
pub(crate) const REPORT_BYTES_MAX: usize = REASONS_MAX * 17;

#[derive(Clone, Copy)]
struct Count {
    reason: u32,
    events: u32,
    batches: u32,
}

/// What was given up since the last report.
pub(crate) struct GivenUp {
    counts: [Count; REASONS_MAX],
    since_ms: u64,
}

impl GivenUp {
    pub(crate) const fn new() -> Self {
        Self { counts: [Count { reason: 0, events: 0, batches: 0 }; REASONS_MAX], since_ms: 0 }
    }

    pub(crate) fn add(&mut self, reason: Reason, events: u32, batches: u32, steady_ms: u64) {
        if self.is_empty() {
            self.since_ms = steady_ms;
        }
        for (place, count) in self.counts.iter_mut().enumerate() {
            // The last slot takes whatever is left: a count under a neighbour's reason is better than none.
            if count.reason == reason.0 || count.reason == 0 || place == REASONS_MAX - 1 {
                count.reason = reason.0;
                count.events = count.events.saturating_add(events);
                count.batches = count.batches.saturating_add(batches);
                return;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts[0].reason == 0
    }

    /// When the oldest of the counts was made, by the steady clock.
    pub(crate) fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// The report in this batch's body will not arrive: what it says is to be said again.
    pub(crate) fn take_back(&mut self, body: &[u8], steady_ms: u64) {
        for field in Reader::new(body) {
            let Ok((7, Value::Bytes(report))) = field else { continue };
            if let Ok(Fields { numbers: [_, reason, events, batches, ..], .. }) = Fields::read(report) {
                self.add(Reason(reason as u32), events as u32, batches as u32, steady_ms);
            }
        }
    }

    /// Writes the report into the batch whose writer this is; from then on the batch carries it.
    pub(crate) fn report(&mut self, batch: &mut Writer<'_>) {
        for count in self.counts.iter().take_while(|count| count.reason != 0) {
            let fields = [(1, count.reason), (2, count.events), (3, count.batches)];
            let len: usize = fields.iter().map(|&(field, value)| uint_len(field, value.into())).sum();
            debug_assert!(bytes_len(7, len) <= REPORT_BYTES_MAX / REASONS_MAX);
            batch.length(7, len);
            for (field, value) in fields {
                batch.uint(field, value.into());
            }
        }
        *self = Self::new();
    }
}
