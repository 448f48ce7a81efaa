//! The numbers of batches: which sid, which seq, by which clock.

use proto::limits::{SEQ_MAX, SID_AHEAD_MS, SID_ROTATES_MS};
use proto::sid::Sid;

use crate::shell::{BatchId, Class};

/// What a batch is called from then on, and how long that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) id: BatchId,
    pub(crate) class: Class,
}

/// Gives numbers, each once.
pub(crate) struct Numbering {
    class: Class,
    /// The class has changed since the sid was made.
    stale: bool,
    sid: [u8; 16],
    stamp_ms: u64,
    next_seq: u32,
    random: [u8; 10],
    rotations: u16,
    /// What the server's clock is ahead of the device's.
    server_offset_ms: i64,
}

impl Numbering {
    pub(crate) const fn new() -> Self {
        Self {
            class: Class::Short,
            stale: false,
            sid: [0; 16],
            stamp_ms: 0,
            next_seq: 1,
            random: [0; 10],
            rotations: 0,
            server_offset_ms: 0,
        }
    }

    pub(crate) fn start(&mut self, stamp_ms: u64, random: [u8; 10], first_seq: u32, class: Class) {
        *self = Self { random, class, ..Self::new() };
        self.stamp(stamp_ms);
        self.next_seq = first_seq.max(1);
    }

    /// Numbers from now on are of this class. It belongs to the sid: another class is another sid.
    pub(crate) fn set_class(&mut self, class: Class) {
        self.stale |= self.class != class;
        self.class = class;
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// The next number; a new sid when this one is an hour old, full, of another class, or stamped by a clock that has
    /// proved wrong.
    pub(crate) fn next(&mut self, now_ms: u64) -> Number {
        let server_ms = self.server_ms(now_ms);
        let old = self.stamp_ms.saturating_add(SID_ROTATES_MS) <= server_ms;
        let ahead = self.stamp_ms > server_ms.saturating_add(SID_AHEAD_MS);
        if self.next_seq > SEQ_MAX || old || ahead || self.stale {
            // The stamp alone does not tell the sids apart: a corrected clock can show the same millisecond twice.
            self.rotations = self.rotations.wrapping_add(1);
            self.stamp(server_ms);
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        Number { id: BatchId { sid: self.sid, seq }, class: self.class }
    }

    pub(crate) fn learn_server_clock(&mut self, server_ms: u64, now_ms: u64) {
        if server_ms != 0 {
            self.server_offset_ms = server_ms.wrapping_sub(now_ms).cast_signed();
        }
    }

    /// The device's clock was set back: the server's was not.
    pub(crate) fn set_back(&mut self, by_ms: u64) {
        self.server_offset_ms = self.server_offset_ms.saturating_add_unsigned(by_ms);
    }

    /// The server's clock, or the device's while nothing is known of the server's.
    pub(crate) fn server_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.server_offset_ms)
    }

    fn stamp(&mut self, stamp_ms: u64) {
        let mut random = self.random;
        let [high, low] = self.rotations.to_be_bytes();
        random[8] ^= high;
        random[9] ^= low;
        let sid = Sid::from_parts(stamp_ms, random);
        self.sid = *sid.as_bytes();
        self.stamp_ms = sid.stamp_ms();
        self.next_seq = 1;
        self.stale = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const NOW_MS: u64 = 1_763_816_400_000;

    fn numbering() -> Numbering {
        let mut numbering = Numbering::new();
        numbering.start(NOW_MS, [9; 10], 1, Class::Short);
        numbering
    }

    fn stamp_ms(number: &Number) -> u64 {
        Sid::try_new(&number.id.sid).unwrap().stamp_ms()
    }

    #[test]
    fn seqs_count_up_from_one_within_a_sid() {
        let mut numbering = numbering();
        let first = numbering.next(NOW_MS);
        let second = numbering.next(NOW_MS + HOUR_MS - 1);
        assert_eq!((first.id.seq, second.id.seq), (1, 2));
        assert_eq!(first.id.sid, second.id.sid);
        assert_eq!(stamp_ms(&first), NOW_MS);
    }

    #[test]
    fn a_sid_ends_after_an_hour() {
        let mut numbering = numbering();
        let first = numbering.next(NOW_MS);
        let second = numbering.next(NOW_MS + HOUR_MS);
        assert_ne!(first.id.sid, second.id.sid);
        assert_eq!((second.id.seq, stamp_ms(&second)), (1, NOW_MS + HOUR_MS));
    }

    #[test]
    fn a_sid_ends_after_its_last_seq_even_within_one_millisecond() {
        let mut numbering = numbering();
        let ids: Vec<_> = (0..2 * SEQ_MAX).map(|_| numbering.next(NOW_MS)).collect();
        assert_eq!(ids[SEQ_MAX as usize - 1].id.seq, SEQ_MAX);
        assert_eq!(ids[SEQ_MAX as usize].id.seq, 1);
        assert_ne!(ids[0].id.sid, ids[SEQ_MAX as usize].id.sid);
    }

    #[test]
    fn another_class_is_another_sid_and_the_same_class_is_not() {
        let mut numbering = numbering();
        let first = numbering.next(NOW_MS);
        numbering.set_class(Class::Short);
        assert_eq!(numbering.next(NOW_MS).id.sid, first.id.sid);
        numbering.set_class(Class::Long);
        let long = numbering.next(NOW_MS);
        assert_ne!(long.id.sid, first.id.sid);
        assert_eq!((long.class, long.id.seq), (Class::Long, 1));
        assert_eq!(numbering.next(NOW_MS), Number { id: BatchId { sid: long.id.sid, seq: 2 }, class: Class::Long });
    }

    #[test]
    fn a_device_a_day_ahead_stamps_by_the_servers_clock_once_it_knows() {
        let mut numbering = numbering();
        let server_ms = NOW_MS - 24 * HOUR_MS;
        assert_eq!(stamp_ms(&numbering.next(NOW_MS)), NOW_MS);
        numbering.learn_server_clock(server_ms, NOW_MS);
        assert_eq!(stamp_ms(&numbering.next(NOW_MS + 5)), server_ms + 5);
    }

    #[test]
    fn a_clock_set_back_leaves_the_servers_where_it_was() {
        let mut numbering = numbering();
        numbering.learn_server_clock(NOW_MS + 100, NOW_MS);
        numbering.set_back(2 * HOUR_MS);
        assert_eq!(numbering.server_ms(NOW_MS - 2 * HOUR_MS), NOW_MS + 100);
    }
}
