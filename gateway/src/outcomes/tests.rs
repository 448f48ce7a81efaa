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

#[test]
fn damage_before_a_complete_entry_is_not_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.append(&call(1, 0, 4)).unwrap();
    let end = log.open.as_ref().unwrap().1;
    log.append(&call(1, 4, 9)).unwrap();
    let path = log.files[0].1.clone();
    drop(log);
    let whole = fs::read(&path).unwrap();
    for at in 0..end {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let opened = OutcomeLog::open(folder.path(), GATEWAY, Shard(0));
        assert!(matches!(opened, Err(LogError::Damaged { .. })), "byte {at}");
    }
    fs::write(&path, whole).unwrap();
    assert!(OutcomeLog::open(folder.path(), Uuid::from_u128(8), Shard(0)).is_err(), "of another gateway");
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
