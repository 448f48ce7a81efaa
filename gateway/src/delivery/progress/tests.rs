use super::*;

fn open(folder: &Path) -> Delivery {
    let delivery = Delivery::open(folder, Uuid::from_u128(7), Shard(0), Lsn(1)).unwrap();
    delivery.begin_shipping();
    delivery
}

fn leaving(delivery: &Delivery, after: Lsn) -> Vec<Outcomes> {
    delivery.ship(0, after).unwrap().unwrap().outcomes
}

fn call(epoch: u64, prev: u64, last: u64, counted: &[u64]) -> Outcomes {
    let counted = counted.iter().map(|lsn| Outcome { lsn: *lsn, visit: vec![epoch as u8] }).collect();
    Outcomes { gateway: String::new(), epoch, prev, last, counted }
}

fn counted(delivery: &Delivery) -> Vec<(u64, u64)> {
    let known = delivery.known(Lsn(1), Lsn(u64::MAX)).unwrap();
    let epoch = |decided| match decided {
        Decided::Duplicate => 0,
        Decided::Counted { epoch, .. } => epoch,
    };
    known.into_iter().map(|(lsn, decided)| (lsn.0, epoch(decided))).collect()
}

#[test]
fn rows_leave_once_their_outcome_is_durable_or_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let delivery = open(folder.path());
    delivery.append(&call(1, 0, 4, &[1, 2, 4])).unwrap();
    assert!(leaving(&delivery, Lsn(0)).is_empty());
    delivery.durable(Lsn(3));
    assert_eq!(leaving(&delivery, Lsn(0)), [call(1, 0, 3, &[1, 2])]);
    delivery.progress(&Progress { accepted: 9, ..Default::default() });
    assert_eq!(leaving(&delivery, Lsn(3)), [call(1, 3, 4, &[4])]);
}

#[test]
fn a_copy_that_may_be_older_than_its_gateway_ships_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let copy = Delivery::open(folder.path(), Uuid::from_u128(7), Shard(0), Lsn(1)).unwrap();
    copy.append(&call(1, 0, 4, &[1, 2, 4])).unwrap();
    copy.progress(&Progress { accepted: 4, ..Default::default() });
    assert!(copy.ship(0, Lsn(0)).unwrap().is_none(), "its outcomes may have become void since");
    copy.begin_shipping();
    assert_eq!(leaving(&copy, Lsn(0)), [call(1, 0, 4, &[1, 2, 4])]);
}

#[test]
fn an_acknowledgement_of_what_became_void_says_nothing_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let delivery = open(folder.path());
    delivery.append(&call(1, 0, 8, &[1, 8])).unwrap();
    delivery.durable(Lsn(8));
    assert!(delivery.acked(0, Lsn(6)));
    delivery.void_above(Lsn(4)).unwrap();
    assert_eq!(delivery.shipped(), (1, Lsn(4)));
    assert!(!delivery.acked(0, Lsn(8)));
    delivery.append(&call(2, 4, 8, &[5])).unwrap();
    delivery.sync().unwrap();
    drop(delivery);
    let delivery = open(folder.path());
    assert_eq!(delivery.shipped(), (1, Lsn(4)));
    delivery.progress(&Progress { accepted: 8, ..Default::default() });
    assert_eq!(leaving(&delivery, Lsn(8)), [call(2, 4, 8, &[5])], "of another generation: from the start");
}

#[test]
fn of_two_outcomes_that_of_the_higher_epoch_holds_and_is_shipped_again() {
    let folder = tempfile::tempdir().unwrap();
    let delivery = open(folder.path());
    delivery.append(&call(1, 0, 4, &[1, 2, 3, 4])).unwrap();
    delivery.append(&call(3, 4, 6, &[5])).unwrap();
    delivery.progress(&Progress { accepted: 8, ..Default::default() });
    assert!(delivery.acked(0, Lsn(6)));
    delivery.fill_in(&[call(2, 2, 6, &[4, 6]), call(2, 6, 9, &[7, 9])], Lsn(8)).unwrap();
    assert_eq!(counted(&delivery), [(1, 1), (2, 1), (3, 0), (4, 2), (5, 3), (6, 0), (7, 2), (8, 0)]);
    assert_eq!(delivery.shipped(), (1, Lsn(2)));
    delivery.fill_in(&[call(2, 2, 6, &[4, 6])], Lsn(8)).unwrap();
    assert_eq!(delivery.shipped(), (1, Lsn(2)), "nothing new");
}

#[test]
fn redis_is_right_about_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let delivery = open(folder.path());
    delivery.append(&call(1, 0, 4, &[1, 2, 4])).unwrap();
    delivery.adopt(&[call(1, 0, 4, &[1, 2, 4]), call(1, 4, 6, &[6])], Lsn(6)).unwrap();
    assert_eq!(delivery.shipped().0, 0);
    assert_eq!(counted(&delivery), [(1, 1), (2, 1), (3, 0), (4, 1), (5, 0), (6, 1)]);
    delivery.adopt(&[call(1, 2, 4, &[3]), call(1, 4, 6, &[6])], Lsn(5)).unwrap();
    assert_eq!(counted(&delivery), [(1, 1), (2, 1), (3, 1), (4, 0), (5, 0)]);
    assert_eq!(delivery.shipped().0, 1);
}

#[test]
fn outcomes_that_neither_redis_nor_the_log_holds_are_not_jumped_over() {
    let folder = tempfile::tempdir().unwrap();
    let delivery = open(folder.path());
    delivery.append(&call(1, 0, 4, &[1])).unwrap();
    assert!(!delivery.adopt(&[call(1, 6, 8, &[7])], Lsn(8)).unwrap(), "5 and 6");
    assert!(!delivery.adopt(&[], Lsn(8)).unwrap());
    assert_eq!(delivery.logged(), Lsn(4), "nothing is taken");
    assert!(!delivery.fill_in(&[call(1, 6, 8, &[7])], Lsn(8)).unwrap(), "5 and 6");
    assert_eq!(delivery.logged(), Lsn(4), "nothing is taken");
    assert!(delivery.adopt(&[call(1, 4, 6, &[5]), call(1, 6, 8, &[7])], Lsn(8)).unwrap());
    assert_eq!(delivery.logged(), Lsn(8));
}

#[test]
fn outcomes_that_went_with_their_records_are_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let delivery = Delivery::open(folder.path(), Uuid::from_u128(7), Shard(0), Lsn(1001)).unwrap();
    assert!(delivery.adopt(&[], Lsn(1000)).unwrap());
    assert!(delivery.fill_in(&[], Lsn(1000)).unwrap());
    assert!(!delivery.fill_in(&[], Lsn(1001)).unwrap());
}

/// A folder whose second of three outcomes is bad: the file, and what it held.
fn with_a_bad_entry(folder: &Path) -> (PathBuf, Vec<u8>) {
    let delivery = open(folder);
    delivery.append(&call(1, 0, 4, &[1])).unwrap();
    let path = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let path = path.into_iter().find(|path| path.extension().is_some_and(|end| end == "outcomes")).unwrap();
    let end = std::fs::metadata(&path).unwrap().len() as usize;
    delivery.append(&call(1, 4, 6, &[5])).unwrap();
    delivery.append(&call(1, 6, 8, &[7])).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[end + 8] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

#[test]
fn a_torn_write_is_filled_by_redis_and_damage_is_said_to_be_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = with_a_bad_entry(folder.path());
    for _ in 0..2 {
        let delivery = open(folder.path());
        assert_eq!(delivery.logged(), Lsn(4));
        for stored in [vec![], vec![call(1, 6, 8, &[7])]] {
            let damaged = delivery.adopt(&stored, Lsn(8)).unwrap_err();
            let LogError::OutcomesDamaged { path: of, logged, applied, .. } = damaged else { panic!("{damaged}") };
            assert_eq!((of, logged, applied), (path.clone(), Lsn(4), Lsn(8)));
        }
        let lost = delivery.fill_in(&[call(1, 6, 8, &[7])], Lsn(8)).unwrap_err();
        assert!(matches!(lost, LogError::OutcomesDamaged { .. }), "{lost}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the next start finds it too");
    }
    let delivery = open(folder.path());
    assert!(delivery.adopt(&[call(1, 4, 6, &[5]), call(1, 6, 8, &[7])], Lsn(8)).unwrap());
    drop(delivery);
    assert_eq!(counted(&open(folder.path())), [(1, 1), (2, 0), (3, 0), (4, 0), (5, 1), (6, 0), (7, 1), (8, 0)]);

    let folder = tempfile::tempdir().unwrap();
    with_a_bad_entry(folder.path());
    let delivery = open(folder.path());
    delivery.fill_in(&[call(1, 4, 8, &[5, 7])], Lsn(8)).unwrap();
    assert_eq!(counted(&delivery)[4..], [(5, 1), (6, 0), (7, 1), (8, 0)]);
}
