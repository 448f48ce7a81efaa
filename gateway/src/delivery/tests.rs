use super::*;

fn open(folder: &Path) -> Delivery {
    Delivery::open(folder, Uuid::from_u128(7), Shard(0), Lsn(1)).unwrap()
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
    assert!(delivery.ship(0, Lsn(0)).unwrap().outcomes.is_empty());
    delivery.durable(Lsn(3));
    assert_eq!(delivery.ship(0, Lsn(0)).unwrap().outcomes, [call(1, 0, 3, &[1, 2])]);
    delivery.progress(&Progress { accepted: 9, ..Default::default() });
    assert_eq!(delivery.ship(0, Lsn(3)).unwrap().outcomes, [call(1, 3, 4, &[4])]);
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
    assert_eq!(
        delivery.ship(0, Lsn(8)).unwrap().outcomes,
        [call(2, 4, 8, &[5])],
        "of another generation: from the start"
    );
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
