//! What the log may forget: a segment goes when everything in it has another home, and nobody can send any of it again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use proto::Message;
use proto::agent::Class;
use proto::limits::{ACCEPT_LONG_MS, ACCEPT_SHORT_MS};
use proto::record::Record;
use proto::sid::Sid;
use regional_redis::Lsn;

use super::LogError;
use super::read::{self, Position};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// How far the rest of the system has come with this gateway's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The last record that a flush covers which central accepted: a lost Redis does not need it for its counts.
    pub accepted: Lsn,
    /// The last record whose raw row central has, or that needs none.
    pub shipped: Lsn,
    /// The lowest watermark of all registered gateways, as central accepted it, Unix ms: no batch whose acceptance ended before it is on
    /// its way anywhere, so nobody needs to know that it was counted.
    pub watermark_ms: u64,
}

/// Deletes segments from the oldest on, never the one that is written.
#[derive(Debug)]
pub struct Trimmer {
    folder: PathBuf,
    /// When the acceptance of the last batch in a segment ends, Unix ms. Kept because it takes reading the segment.
    ends: BTreeMap<Lsn, u64>,
}

impl Trimmer {
    /// Of the folder that a [`super::Log`] writes.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), ends: BTreeMap::new() }
    }

    /// Deletes what may go; answers how many segments that were.
    pub fn trim(&mut self, allowed: Allowed) -> Result<u64, LogError> {
        let segments = read::segments(&self.folder)?;
        let mut gone = 0;
        for pair in segments.windows(2) {
            let [(first, path), (behind, _)] = pair else { unreachable!("windows of two") };
            let last = Lsn(behind.0 - 1);
            // The cheap questions first: the last one takes reading the segment.
            if last > allowed.accepted || last > allowed.shipped || self.end_of(*first, path)? >= allowed.watermark_ms {
                break;
            }
            let io = |source| LogError::Io { path: path.clone(), source };
            fs::remove_file(path).map_err(io)?;
            File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io)?;
            self.ends.remove(first);
            gone += 1;
        }
        Ok(gone)
    }

    fn end_of(&mut self, first: Lsn, path: &Path) -> Result<u64, LogError> {
        if let Some(end) = self.ends.get(&first) {
            return Ok(*end);
        }
        let mut end = 0;
        let mut at = Position::at_start(path)?;
        while let Some(group) = at.next_group()? {
            for body in group.records() {
                let what = "a record is not one of this version";
                let damaged = || LogError::Damaged { path: path.to_owned(), at: 0, what };
                end = end.max(end_of_acceptance(&Record::decode(body).map_err(|_| damaged())?));
            }
        }
        self.ends.insert(first, end);
        Ok(end)
    }
}

/// The end of the acceptance of all batches of the record's class whose sids have its hour, Unix ms: bits are kept by the hour.
pub(crate) fn end_of_acceptance(record: &Record) -> u64 {
    let Ok(sid) = Sid::try_new(&record.sid) else { return 0 }; // validated before it was logged
    let accepted = if record.class == Class::Long as u32 { ACCEPT_LONG_MS } else { ACCEPT_SHORT_MS };
    (sid.stamp_ms() / HOUR_MS + 1) * HOUR_MS + accepted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::log::tests::{log_of_segments, submission};

    const HOUR: u64 = 500_000;
    const NEVER: Allowed = Allowed { accepted: Lsn(u64::MAX), shipped: Lsn(u64::MAX), watermark_ms: u64::MAX };

    fn record(hour: u64, class: Class) -> Record {
        let sid = Sid::from_parts(hour * HOUR_MS + 1, [1; 10]).as_bytes().to_vec();
        Record { sid, class: class as u32, ..Default::default() }
    }

    /// A segment a list; the last is the open one.
    fn segments(folder: &Path, lists: &[Vec<Record>]) {
        log_of_segments(
            folder,
            lists.iter().map(|records| records.iter().cloned().map(submission).collect()).collect(),
        );
    }

    fn first_kept(folder: &Path) -> u64 {
        read::segments(folder).unwrap()[0].0.0
    }

    #[test]
    fn each_condition_keeps_a_segment_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        segments(dir.path(), &[vec![record(HOUR, Class::Short); 3], vec![record(HOUR, Class::Short)]]);
        let over = (HOUR + 1) * HOUR_MS + ACCEPT_SHORT_MS;
        let all = Allowed { accepted: Lsn(3), shipped: Lsn(3), watermark_ms: over + 1 };
        for kept in [
            Allowed { accepted: Lsn(2), ..all },
            Allowed { shipped: Lsn(2), ..all },
            Allowed { watermark_ms: over, ..all },
        ] {
            assert_eq!(Trimmer::new(dir.path()).trim(kept).unwrap(), 0, "{kept:?}");
            assert_eq!(first_kept(dir.path()), 1);
        }
        assert_eq!(Trimmer::new(dir.path()).trim(all).unwrap(), 1);
        assert_eq!(first_kept(dir.path()), 4);
    }

    #[test]
    fn the_open_segment_stays_and_what_was_deleted_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        segments(
            dir.path(),
            &[vec![record(1, Class::Long)], vec![record(1, Class::Long)], vec![record(1, Class::Long)]],
        );
        assert_eq!(Trimmer::new(dir.path()).trim(NEVER).unwrap(), 2);
        let mut reader = super::super::Reader::new(dir.path());
        assert!(matches!(reader.read(Lsn(2), Lsn(3), 9), Err(LogError::Trimmed { wanted: Lsn(2), first: Lsn(3), .. })));
        assert_eq!(reader.read(Lsn(3), Lsn(3), 9).unwrap().len(), 1);
    }

    proptest! {
        // Each case writes and flushes some segments.
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// Against the definition, record by record.
        #[test]
        fn a_record_goes_only_when_nobody_needs_it(
            lists in proptest::collection::vec(proptest::collection::vec((0..4u64, any::<bool>()), 1..4), 1..6),
            accepted in 0..20u64, shipped in 0..20u64, watermark_hour in 0..40u64,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let class = |long| if long { Class::Long } else { Class::Short };
            let lists: Vec<Vec<_>> = lists.iter().map(|list| list.iter().map(|(hour, long)| record(HOUR + hour, class(*long))).collect()).collect();
            segments(dir.path(), &lists);
            let allowed = Allowed { accepted: Lsn(accepted), shipped: Lsn(shipped), watermark_ms: (HOUR + watermark_hour) * HOUR_MS };
            Trimmer::new(dir.path()).trim(allowed).unwrap();
            let records: Vec<_> = lists.concat();
            let may_go = |(i, record): (usize, &Record)| {
                let lsn = Lsn(i as u64 + 1);
                lsn <= allowed.accepted && lsn <= allowed.shipped && end_of_acceptance(record) < allowed.watermark_ms
            };
            let kept = first_kept(dir.path()) as usize - 1;
            prop_assert!(records[..kept].iter().enumerate().all(may_go));
            // And as many as whole segments allow.
            let free = records.iter().enumerate().take_while(|it| may_go(*it)).count();
            let mut ends: Vec<usize> = lists.iter().scan(0, |end, list| { *end += list.len(); Some(*end) }).collect();
            ends.pop();
            prop_assert_eq!(kept, ends.into_iter().rfind(|end| *end <= free).unwrap_or(0));
        }
    }
}
