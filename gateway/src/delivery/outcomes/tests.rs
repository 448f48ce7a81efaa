use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const GATEWAY: Uuid = Uuid::from_u128(7);

fn open(folder: &Path) -> OutcomeLog {
    OutcomeLog::open(folder, GATEWAY, Shard(0)).unwrap()
}

/// Every second record counted, under a visit named after its LSN.
fn call(epoch: u64, prev: u64, last: u64) -> Outcomes {
    let counted = (prev + 1..=last).filter(|lsn| lsn % 2 == 0);
    let counted = counted.map(|lsn| Outcome { lsn, visit: vec![lsn as u8; 20] }).collect();
    Outcomes { gateway: String::new(), epoch, prev, last, counted }
}

fn all(log: &mut OutcomeLog) -> BTreeMap<Lsn, Decided> {
    let (mut found, mut from) = (BTreeMap::new(), Lsn(1));
    loop {
        let read = log.read(from).unwrap();
        let Some(last) = read.last() else { return found };
        from = Lsn(last.last + 1);
        found.extend(read.iter().flat_map(decided));
    }
}

fn expected(calls: &[Outcomes]) -> BTreeMap<Lsn, Decided> {
    calls.iter().flat_map(decided).collect()
}

#[test]
fn what_is_torn_at_any_byte_is_cut_off_and_what_is_before_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    let calls = [call(1, 0, 4), call(1, 4, 5), call(2, 5, 9)];
    let mut log = open(folder.path());
    let mut ends = vec![HEADER_BYTES];
    for call in &calls {
        log.append(call).unwrap();
        ends.push(log.open.as_ref().unwrap().1);
    }
    log.sync().unwrap();
    let path = log.files[0].1.clone();
    drop(log);
    let whole = fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let mut log = open(folder.path());
        let kept = ends.iter().skip(1).filter(|end| **end <= length).count();
        assert_eq!(log.logged(), Lsn(calls[..kept].last().map_or(0, |call| call.last)), "{length}");
        assert_eq!(all(&mut log), expected(&calls[..kept]), "{length}");
        log.append(&call(3, log.logged().0, 20)).unwrap();
        assert_eq!(open(folder.path()).logged(), Lsn(20));
        let _ = fs::remove_file(file::path(folder.path(), Lsn(1)));
    }
}

/// Three calls, and where the first two end.
fn three_calls(folder: &Path) -> (PathBuf, [usize; 2]) {
    let mut log = open(folder);
    let mut end_of = |prev, last| {
        log.append(&call(1, prev, last)).unwrap();
        log.open.as_ref().unwrap().1
    };
    let ends = [end_of(0, 4), end_of(4, 9)];
    end_of(9, 12);
    (log.files[0].1.clone(), ends)
}

#[test]
fn the_last_file_ends_at_its_first_bad_entry_and_remembers_what_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, [first, second]) = three_calls(folder.path());
    let whole = fs::read(&path).unwrap();
    for at in 0..second {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let opened = OutcomeLog::open(folder.path(), GATEWAY, Shard(0));
        if at < HEADER_BYTES {
            assert!(matches!(opened, Err(LogError::Damaged { .. })), "byte {at}");
            continue;
        }
        let log = opened.unwrap();
        let kept = if at < first { 0 } else { 4 };
        assert_eq!(log.logged(), Lsn(kept), "byte {at}");
        assert!(matches!(log.suspected(Lsn(12)), Some(LogError::OutcomesDamaged { .. })), "byte {at}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "whoever must repair it finds it as it is");
        // Redis held it all: a torn write.
        let mut log = open(folder.path());
        log.append(&call(2, kept, 20)).unwrap();
        assert!(log.suspected(Lsn(20)).is_none());
        drop(log);
        let log = open(folder.path());
        assert_eq!(log.logged(), Lsn(20), "byte {at}");
        assert!(log.suspected(Lsn(20)).is_none(), "nothing of what followed is left");
    }
    fs::write(&path, whole).unwrap();
    assert!(OutcomeLog::open(folder.path(), Uuid::from_u128(8), Shard(0)).is_err(), "of another gateway");
}

#[test]
fn damage_in_an_earlier_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (path, [first, second]) = three_calls(folder.path());
    let mut log = open(folder.path());
    log.file_bytes = 1;
    log.append(&call(1, 12, 20)).unwrap();
    drop(log);
    let whole = fs::read(&path).unwrap();
    for at in [first, second] {
        let mut bytes = whole.clone();
        bytes[at + 8] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut log = open(folder.path());
        let read = log.read(Lsn(1)).unwrap();
        let next = Lsn(read.last().unwrap().last + 1);
        assert!(matches!(log.read(next), Err(LogError::Damaged { .. })), "an entry at byte {at}");
    }
    // Also where nothing of the last file was whole.
    let mut bytes = whole;
    bytes[first + 8] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::write(file::path(folder.path(), Lsn(13)), b"").unwrap();
    assert!(matches!(OutcomeLog::open(folder.path(), GATEWAY, Shard(0)), Err(LogError::Damaged { .. })));
}

#[test]
fn what_became_void_can_be_cut_off_again_after_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.append(&call(1, 0, 4)).unwrap();
    log.append(&call(1, 4, 9)).unwrap();
    log.file_bytes = 1;
    log.append(&call(1, 9, 12)).unwrap();
    // As on a full disk, the file cannot be written anew.
    let in_the_way = log.files[0].1.with_extension("new");
    fs::create_dir(&in_the_way).unwrap();
    log.void_above(Lsn(4)).unwrap_err();
    assert_eq!(log.logged(), Lsn(9), "what the file says that is left");
    fs::remove_dir(&in_the_way).unwrap();
    log.void_above(Lsn(4)).unwrap();
    log.append(&call(2, 4, 6)).unwrap();
    assert_eq!(all(&mut log), expected(&[call(1, 0, 4), call(2, 4, 6)]));
    assert_eq!(open(folder.path()).logged(), Lsn(6));
}

#[test]
fn reading_goes_on_behind_a_file_that_was_trimmed() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.append(&call(1, 0, 4)).unwrap();
    log.file_bytes = 1;
    log.append(&call(1, 4, 9)).unwrap();
    assert_eq!(log.read(Lsn(1)).unwrap().last().unwrap().last, 4);
    log.trim(Lsn(5)).unwrap();
    assert_eq!(log.read(Lsn(5)).unwrap(), [call(1, 4, 9)]);
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Void(u64),
    Reopen,
    Trim(u64),
    NewFile,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..30u64).prop_map(Step::Append),
        2 => (0..40u64).prop_map(Step::Void),
        1 => Just(Step::Reopen),
        1 => (0..60u64).prop_map(Step::Trim),
        1 => Just(Step::NewFile),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_holds_what_a_plain_map_holds(steps in proptest::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path());
        let (mut map, mut trimmed) = (BTreeMap::new(), Lsn(0));
        for (epoch, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(records) => {
                    let outcomes = call(epoch as u64, log.logged().0, log.logged().0 + records);
                    map.extend(decided(&outcomes));
                    log.append(&outcomes).unwrap();
                    log.append(&call(999, outcomes.prev, outcomes.last)).unwrap(); // a repeat changes nothing
                }
                Step::Void(back) => {
                    let last = Lsn(log.logged().0.saturating_sub(back));
                    log.void_above(last).unwrap();
                    map.retain(|lsn, _| *lsn <= last);
                    prop_assert!(log.logged() <= last || back == 0);
                }
                Step::Reopen => {
                    log.sync().unwrap();
                    log = open(folder.path());
                }
                Step::Trim(ahead) => {
                    let first = Lsn((trimmed.0 + ahead).min(log.logged().0));
                    trimmed = trimmed.max(first);
                    log.trim(trimmed).unwrap();
                }
                Step::NewFile => if let Some((_, end)) = &mut log.open {
                    // As if it were full.
                    log.file_bytes = *end;
                },
            }
            let kept: BTreeMap<_, _> = all(&mut log).into_iter().filter(|(lsn, _)| *lsn >= trimmed).collect();
            let wanted: BTreeMap<_, _> = map.clone().into_iter().filter(|(lsn, _)| *lsn >= trimmed).collect();
            prop_assert_eq!(kept, wanted);
        }
    }
}
