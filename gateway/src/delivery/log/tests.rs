use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::registry::Registry;
use proto::record::Record;
use proto::sid::Sid;
use regional_redis::{Lsn, Shard};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use super::{Log, LogError, Submission, Waiter, read};
use crate::delivery::answer::Answer;
use crate::door::capacity::Capacity;
use crate::ingest::in_flight::InFlight;
use crate::metrics::Metrics;

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
        commit(&mut log, group).unwrap();
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

fn commit(log: &mut Log, submissions: Vec<Submission>) -> Result<Vec<super::Logged>, LogError> {
    log.prepare(&submissions);
    assert!(log.make_room()?);
    log.write(submissions)
}

fn the_segment(folder: &Path) -> PathBuf {
    read::segments(folder).unwrap().pop().unwrap().1
}

/// A folder with groups of 2, 1 and 3 records; answers where each group ends.
fn three_groups(folder: &Path) -> Vec<u64> {
    let mut log = open(folder).unwrap().log;
    [&["a", "b"][..], &["c"], &["d", "e", "f"]]
        .map(|names| {
            commit(&mut log, submissions(names)).unwrap();
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
    assert_eq!(commit(&mut opened.log, submissions(&["g"])).unwrap()[0].lsn, Lsn(7));
    let middle = opened.reader.read(Lsn(2), Lsn(7), 4).unwrap();
    assert_eq!(middle.iter().map(|l| l.lsn.0).collect::<Vec<_>>(), [2, 3, 4, 5]);
    let on = opened.reader.read(Lsn(6), Lsn(7), 4).unwrap();
    assert_eq!(on.iter().map(|l| l.record.site.as_str()).collect::<Vec<_>>(), ["f", "g"]);
}

/// The log's bytes without the zeros at its end, in a folder of their own.
fn folder_with(segment: &Path, bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(segment.file_name().unwrap()), bytes).unwrap();
    folder
}

#[test]
fn a_group_torn_at_any_byte_goes_and_nothing_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let ends = three_groups(dir.path());
    let segment = the_segment(dir.path());
    let whole = fs::read(&segment).unwrap()[..ends[2] as usize + 4096].to_vec();
    for cut in ends[1] as usize..ends[2] as usize {
        let mut zeros_behind = whole.clone();
        zeros_behind[cut..].fill(0);
        let mut one_sector_lost = whole.clone();
        one_sector_lost[cut..(cut + 16).min(ends[2] as usize)].fill(0);
        let mut noise_behind = whole.clone();
        noise_behind[cut..].iter_mut().zip((0..=255u8).cycle()).for_each(|(byte, noise)| *byte ^= noise | 1);
        for (torn, bytes) in [
            ("cut off", &whole[..cut]),
            ("zeros", &zeros_behind),
            ("a hole", &one_sector_lost),
            ("noise", &noise_behind),
        ] {
            if bytes == &whole[..] {
                continue; // the hole fell on zeros
            }
            let folder = folder_with(&segment, bytes);
            let mut opened = open(folder.path()).unwrap();
            assert_eq!(opened.last, Lsn(3), "{torn} at {cut}");
            assert_eq!(commit(&mut opened.log, submissions(&["x"])).unwrap()[0].lsn, Lsn(4));
            drop(opened);
            assert_eq!(sites(folder.path()), ["a", "b", "c", "x"], "{torn} at {cut}");
        }
    }
}

#[test]
fn a_segment_cut_off_in_its_header_or_under_another_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    three_groups(dir.path());
    let segment = the_segment(dir.path());
    let whole = fs::read(&segment).unwrap();
    for cut in 0..64 {
        let folder = folder_with(&segment, &whole[..cut]);
        assert!(matches!(open(folder.path()), Err(LogError::Damaged { at: 0, .. })), "cut at {cut}");
    }
    fs::rename(&segment, dir.path().join(format!("{:020}.log", 9))).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Damaged { at: 32, .. })));
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
        commit(&mut log, submissions(&[&long])).unwrap();
    }
    commit(&mut log, submissions(&[&"y".repeat(20 * 1024 * 1024)])).unwrap(); // longer than a segment
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
        commit(&mut log, submissions(&[&"x".repeat(3 * 1024 * 1024)])).unwrap();
    }
    let segments = read::segments(dir.path()).unwrap();
    fs::remove_file(&segments[1].1).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Missing { missing, .. }) if missing == segments[1].0));
}

#[test]
fn a_closed_segment_that_is_damaged_or_not_ours_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap().log;
    for _ in 0..12 {
        commit(&mut log, submissions(&[&"x".repeat(3 * 1024 * 1024)])).unwrap();
    }
    let segments = read::segments(dir.path()).unwrap();
    let path = &segments[0].1;
    let whole = fs::read(path).unwrap();
    let last_group = whole.iter().rposition(|&byte| byte != 0).unwrap() - 1000;
    for at in [100, last_group] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(&error, LogError::Damaged { path: found, .. } if found == path), "flipped at {at}: {error}");
    }
    let mut foreign = whole.clone();
    foreign[..64].copy_from_slice(
        &super::segment::Header { gateway: Uuid::from_u128(8), shard: Shard(0), first: Lsn(1) }.to_bytes(),
    );
    fs::write(path, foreign).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Damaged { at: 16, .. })));
    fs::write(path, whole).unwrap();
    assert_eq!(sites(dir.path()).len(), 12);
}

/// More than any machine's memory: a folder in memory refuses it at once.
const NO_ROOM: u64 = 1 << 50;

fn folder_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

#[test]
fn a_disk_without_room_is_waited_for_and_any_other_failure_is_not() {
    let dir = folder_in_memory();
    let long = "x".repeat(3 * 1024 * 1024);
    let mut log = open(dir.path()).unwrap().log;
    assert!(!log.wants_room());
    log.segment_bytes = NO_ROOM;
    let mut fitted = 0;
    loop {
        let next = submissions(&[&long]);
        log.prepare(&next);
        if !log.make_room().unwrap() {
            break;
        }
        log.write(next).unwrap();
        fitted += 1;
    }
    assert!(fitted >= 4 && log.wants_room(), "{fitted}");
    assert!(!log.take_room().unwrap());
    log.segment_bytes = 16 * 1024 * 1024;
    assert!(log.take_room().unwrap());
    assert!(!log.wants_room());
    assert_eq!(commit(&mut log, submissions(&[&long])).unwrap()[0].lsn, Lsn(fitted + 1));
    assert_eq!(sites(dir.path()).len() as u64, fitted + 1);

    let folder = dir.path().join("gone");
    let mut log = open(&folder).unwrap().log;
    fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(log.take_room(), Err(LogError::Io { .. })));
}

#[tokio::test]
async fn a_full_disk_keeps_batches_away_while_what_is_on_its_way_is_still_written() {
    let dir = folder_in_memory();
    let mut log = open(dir.path()).unwrap().log;
    log.segment_bytes = NO_ROOM;
    let (submit, submitted) = mpsc::channel(8);
    let (commit, mut groups) = mpsc::channel(8);
    let (metrics, capacity) = (Metrics::new(&mut Registry::default()), Arc::new(Capacity::default()));
    let told = Arc::clone(&capacity);
    let running = tokio::spawn(async move { log.run(submitted, &commit, &metrics, &told).await });
    let long = "x".repeat(3 * 1024 * 1024);
    let next = || submissions(&[&long]).pop().unwrap();
    for _ in 0..5 {
        submit.send(next()).await.unwrap();
        groups.recv().await.unwrap();
    }
    assert!(capacity.wait().is_some(), "the door was told before the last room was used");
    submit.send(next()).await.unwrap();
    drop(submit);
    while groups.recv().await.is_some() {}
    running.await.unwrap().unwrap();
    assert_eq!(sites(dir.path()).len(), 5, "what did not fit was not acknowledged and is not there");
}
