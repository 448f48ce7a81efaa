use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::record::Record;
use proto::sid::Sid;
use regional_redis::{Lsn, Shard};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use super::{Log, LogError, Submission, Waiter, read};
use crate::answer::Answer;
use crate::in_flight::InFlight;

const GATEWAY: Uuid = Uuid::from_u128(7);

pub fn submission(record: Record) -> Submission {
    let (session, _) = mpsc::channel(1);
    let answer = Answer { sid: Sid::from_parts(0, [0; 10]), seq: 1, refused: None };
    let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    Submission { record, waiter: Waiter { answer, session, admission: InFlight::default().admit(0), room } }
}

/// A group in a segment of its own for each list.
pub fn log_of_segments(folder: &Path, groups: Vec<Vec<Submission>>) {
    let mut log = open(folder).unwrap().log;
    for (i, group) in groups.into_iter().enumerate() {
        if i > 0 {
            log.end_segment();
        }
        log.commit(group).unwrap();
    }
}

fn submissions(names: &[&str]) -> Vec<Submission> {
    names.iter().map(|name| submission(record(name))).collect()
}

fn record(site: &str) -> Record {
    Record { site: site.into(), ..Default::default() }
}

fn open(folder: &Path) -> Result<super::Opened, LogError> {
    Log::open(folder, GATEWAY, Shard(0))
}

fn sites(folder: &Path) -> Vec<String> {
    let mut opened = open(folder).unwrap();
    let last = opened.last;
    if last == Lsn(0) {
        return Vec::new();
    }
    opened.reader.read(Lsn(1), last, usize::MAX).unwrap().into_iter().map(|logged| logged.record.site).collect()
}

fn the_segment(folder: &Path) -> PathBuf {
    read::segments(folder).unwrap().pop().unwrap().1
}

/// A folder with groups of 2, 1 and 3 records; answers where each group ends.
fn three_groups(folder: &Path) -> Vec<u64> {
    let mut log = open(folder).unwrap().log;
    [&["a", "b"][..], &["c"], &["d", "e", "f"]]
        .map(|names| {
            log.commit(submissions(names)).unwrap();
            log.end
        })
        .to_vec()
}

#[test]
fn committed_records_are_there_again_after_a_restart_in_order() {
    let dir = tempfile::tempdir().unwrap();
    three_groups(dir.path());
    assert_eq!(sites(dir.path()), ["a", "b", "c", "d", "e", "f"]);
    let mut opened = open(dir.path()).unwrap();
    assert_eq!(opened.log.commit(submissions(&["g"])).unwrap()[0].lsn, Lsn(7));
    let middle = opened.reader.read(Lsn(2), Lsn(7), 4).unwrap();
    assert_eq!(middle.iter().map(|l| l.lsn.0).collect::<Vec<_>>(), [2, 3, 4, 5]);
    let on = opened.reader.read(Lsn(6), Lsn(7), 4).unwrap();
    assert_eq!(on.iter().map(|l| l.record.site.as_str()).collect::<Vec<_>>(), ["f", "g"]);
}

#[test]
fn a_group_torn_at_any_byte_goes_and_nothing_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let ends = three_groups(dir.path());
    let whole = fs::read(the_segment(dir.path())).unwrap();
    for cut in ends[1]..ends[2] {
        let torn = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[cut as usize..].fill(0);
        fs::write(torn.path().join(the_segment(dir.path()).file_name().unwrap()), bytes).unwrap();
        let mut opened = open(torn.path()).unwrap();
        assert_eq!(opened.last, Lsn(3), "cut at {cut}");
        assert_eq!(opened.log.commit(submissions(&["x"])).unwrap()[0].lsn, Lsn(4));
    }
}

#[test]
fn damage_before_a_complete_group_is_refused_loudly() {
    let dir = tempfile::tempdir().unwrap();
    let ends = three_groups(dir.path());
    let segment = the_segment(dir.path());
    let whole = fs::read(&segment).unwrap();
    for at in 64..ends[1] as usize {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&segment, bytes).unwrap();
        assert!(matches!(open(dir.path()), Err(LogError::Damaged { .. })), "flipped at {at}");
    }
}

#[test]
fn another_format_and_another_gateway_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    three_groups(dir.path());
    assert!(matches!(Log::open(dir.path(), Uuid::from_u128(8), Shard(0)), Err(LogError::Damaged { .. })));
    let segment = the_segment(dir.path());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 9;
    fs::write(&segment, bytes).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Format { found: 9, .. })));
}

#[test]
fn a_full_segment_is_followed_by_another_and_reading_goes_on_across() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap().log;
    let long = "x".repeat(3 * 1024 * 1024);
    for _ in 0..12 {
        log.commit(submissions(&[&long])).unwrap();
    }
    log.commit(submissions(&[&"y".repeat(20 * 1024 * 1024)])).unwrap(); // longer than a segment
    drop(log);
    assert!(read::segments(dir.path()).unwrap().len() >= 4);
    let sites = sites(dir.path());
    assert_eq!(sites.len(), 13);
    assert!(sites[12].starts_with('y'));
}

#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap().log;
    for _ in 0..12 {
        log.commit(submissions(&[&"x".repeat(3 * 1024 * 1024)])).unwrap();
    }
    let segments = read::segments(dir.path()).unwrap();
    fs::remove_file(&segments[1].1).unwrap();
    let mut opened = open(dir.path()).unwrap();
    let last = opened.last;
    assert!(
        matches!(opened.reader.read(Lsn(1), last, usize::MAX), Err(LogError::Missing { missing, .. }) if missing == segments[1].0)
    );
}
