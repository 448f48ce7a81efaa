//! The outbox on the device.

use super::*;

#[test]
fn a_batch_of_an_agent_that_stores_is_on_the_device_before_it_is_sent_and_leaves_it_with_its_answer() {
    let mut device = Device::storing();
    device.event("pageview").unwrap();
    device.agent.flush(device.now_ms);
    let mut frame = [0; FRAME_BYTES];
    let Command::Store(len) = device.agent.poll(device.now_ms, &mut frame) else { panic!("nothing to store") };
    assert!(
        matches!(device.agent.poll(device.now_ms, &mut frame.clone()), Command::Wait(_)),
        "not before it is stored"
    );
    device.store(&frame[..=len]);
    device.run();
    let envelope = device.sent[0].clone();
    assert_eq!(decode(&envelope).class(), wire::Class::Long);
    assert_eq!(device.disk.values().collect::<Vec<_>>(), [&envelope.batch]);
    device.acknowledge(&envelope);
    assert!(device.disk.is_empty() && device.settled.len() == 1);
}

#[test]
fn another_class_is_another_sid_and_the_open_batch_keeps_the_one_it_was_opened_under() {
    let mut device = Device::connected();
    device.event("pageview").unwrap();
    device.agent.set_class(device.now_ms, Class::Long);
    device.batch();
    device.agent.set_class(device.now_ms, Class::Short);
    device.batch();
    let batches: Vec<_> = device.sent.iter().map(decode).collect();
    assert_eq!(batches.iter().map(|batch| (batch.class, batch.seq)).collect::<Vec<_>>(), [(0, 1), (1, 1), (0, 1)]);
    assert!(batches[0].sid != batches[1].sid && batches[1].sid != batches[2].sid && batches[0].sid != batches[2].sid);
    assert_eq!(device.disk.len(), 1);
}

#[test]
fn the_next_page_sends_what_the_last_one_stored_under_its_numbers() {
    let mut device = Device::storing();
    device.agent.closed(device.now_ms, false);
    for _ in 0..3 {
        device.batch();
    }
    assert!(device.sent.is_empty());
    let stored: Vec<_> = device.disk.values().cloned().collect();
    let mut next = device.next_page(false);
    next.reconnect();
    assert_eq!(next.sent.iter().map(|envelope| envelope.batch.clone()).collect::<Vec<_>>(), stored);
    for envelope in next.sent.clone() {
        next.acknowledge(&envelope);
    }
    assert!(next.disk.is_empty());
    next.batch();
    assert_ne!(decode(next.sent.last().unwrap()).sid, decode(&next.sent[0]).sid);
}

#[test]
fn a_batch_that_cannot_be_stored_is_sent_from_memory() {
    let mut device = Device::storing();
    device.keeps = Kept::InMemory;
    device.batch();
    assert_eq!((device.sent.len(), device.disk.len()), (1, 0));
}

#[test]
fn a_page_that_goes_posts_what_is_not_stored_yet() {
    let mut device = Device::storing();
    device.event("pageview").unwrap();
    device.agent.flush(device.now_ms);
    let mut frame = [0; FRAME_BYTES];
    assert!(device.agent.store(&mut frame).is_some());
    assert!(device.agent.store(&mut frame).is_none());
    assert_eq!(device.posts().len(), 1);
}

#[test]
fn what_was_stored_and_perhaps_sent_is_never_renumbered() {
    for (sent, outcome) in [(true, None), (false, Some(()))] {
        let mut device = Device::storing();
        device.agent.closed(device.now_ms, false);
        device.batch();
        let mut next = device.next_page(sent);
        next.reconnect();
        let envelope = next.sent[0].clone();
        next.reject(&envelope, wire::Reason::SidInFuture, false, next.now_ms);
        assert_eq!(next.sent.len(), if outcome.is_some() { 2 } else { 1 }, "sent before: {sent}");
        if outcome.is_some() {
            assert_ne!(decode(&next.sent[1]).sid, decode(&envelope).sid);
            assert_eq!(next.disk.len(), 1, "the new number replaces the old one");
            assert!(next.disk.values().next() == Some(&next.sent[1].batch));
        } else {
            next.later(DOUBT_MS_MAX);
            assert_eq!(next.settled[0].outcome, Outcome::GivenUp(Reason::EXPIRED_IN_DOUBT));
            assert!(next.disk.is_empty());
        }
    }
}

#[test]
fn a_batch_that_another_page_has_taken_over_is_forgotten_without_a_report() {
    let mut device = Device::storing();
    device.batch();
    device.keeps = Kept::Elsewhere;
    let envelope = device.sent[0].clone();
    device.reject(&envelope, wire::Reason::SidInFuture, false, device.now_ms);
    assert_eq!(device.settled[0].outcome, Outcome::Elsewhere);
    assert!(!device.settled[0].stored, "it is not this page's to delete");
    assert_eq!(device.sent.len(), 1);
    device.keeps = Kept::Stored;
    device.later(60_000);
    device.batch();
    assert!(given_up(&decode(device.sent.last().unwrap())).is_empty());
}

#[test]
fn a_stored_batch_has_a_day_and_is_then_reported() {
    for (sent, reason) in [(false, wire::Reason::Expired), (true, wire::Reason::ExpiredInDoubt)] {
        let mut device = Device::storing();
        device.agent.closed(device.now_ms, false);
        device.batch();
        device.now_ms += 24 * HOUR_MS;
        let mut next = device.next_page(sent);
        next.reconnect();
        next.batch();
        assert!(next.sent.iter().all(|envelope| stamp_ms(envelope) > NOW_MS + HOUR_MS), "the old one is not sent");
        let reports: Vec<_> = next.sent.iter().flat_map(|envelope| given_up(&decode(envelope))).collect();
        assert_eq!(reports, [(reason, 1, 1)]);
        assert_eq!(next.disk.len(), next.sent.len(), "the old one is gone, the new ones wait for answers");
    }
}

#[test]
fn restored_batches_leave_room_for_new_ones() {
    let mut device = Device::storing();
    device.agent.closed(device.now_ms, false);
    for _ in 0..BATCHES_MAX {
        device.batch();
    }
    let stored: Vec<_> = device.disk.values().cloned().collect();
    assert_eq!(stored.len(), BATCHES_MAX);
    let mut next = Device::new();
    let taken = stored.iter().filter(|batch| next.agent.restore(next.now_ms, batch, true).is_ok()).count();
    assert_eq!(taken, BATCHES_MAX / 2);
    next.batch();
    assert_eq!(next.agent.restore(next.now_ms, stored.last().unwrap(), true), Err(NotAdopted::NoRoom));
    assert_eq!(next.agent.restore(next.now_ms, &stored[0], true), Ok(()), "it has that one already");
    assert_eq!(Device::new().agent.restore(NOW_MS, b"no batch", true), Err(NotAdopted::Malformed));
}

#[test]
fn what_was_stored_without_a_connection_says_that_it_was_sent_before_it_is() {
    let mut device = Device::storing();
    device.agent.closed(device.now_ms, false);
    device.batch();
    assert_eq!((device.disk.len(), device.marked.len()), (1, 0));
    device.reconnect();
    assert_eq!((device.sent.len(), device.marked.len()), (1, 1));
}

#[test]
fn so_does_what_another_page_left_and_this_one_finds_while_it_is_connected() {
    let mut device = Device::storing();
    device.agent.closed(device.now_ms, false);
    device.batch();
    let mut next = Device::connected();
    next.disk = device.disk;
    for batch in next.disk.values() {
        next.agent.restore(next.now_ms, batch, false).unwrap();
    }
    next.run();
    assert_eq!((next.sent.len(), next.marked.len()), (1, 1));
}

#[test]
fn so_does_what_another_encoder_sent_before() {
    let mut device = Device::storing();
    device.batch();
    let batch = device.sent[0].batch.clone();
    let mut next = Device::new();
    next.agent.adopt(&batch).unwrap();
    next.run();
    assert_eq!((next.disk.len(), next.marked.len(), next.sent.len()), (1, 1, 0));
}

#[test]
fn what_the_device_does_not_mark_is_held_back_until_it_does() {
    let mut device = Device::storing();
    device.agent.closed(device.now_ms, false);
    device.batch();
    while device.connects == 1 {
        device.later(1_000);
    }
    device.agent.opened(device.now_ms);
    let mut frame = [0; FRAME_BYTES];
    let Command::Store(len) = device.agent.poll(device.now_ms, &mut frame) else { panic!("nothing to store") };
    assert_eq!(frame[len], 1);
    device.run();
    assert!(device.sent.is_empty() && device.agent.store(&mut [0; FRAME_BYTES]).is_none());
    assert!(device.posts().is_empty());
    device.store(&frame[..=len]);
    device.run();
    assert_eq!(device.sent.len(), 1);
}

#[test]
fn a_page_that_goes_marks_what_it_posts_and_what_is_not_answered_for_yet() {
    let mut device = Device::storing();
    device.agent.closed(device.now_ms, false);
    device.batch();
    device.event("pageview").unwrap();
    device.agent.flush(device.now_ms);
    let mut frame = [0; FRAME_BYTES];
    let Command::Store(len) = device.agent.poll(device.now_ms, &mut frame) else { panic!("nothing to store") };
    device.write(&frame[..=len]);
    assert!(device.marked.is_empty() && device.disk.len() == 2);
    while let Some(len) = device.agent.store(&mut frame) {
        device.write(&frame[..=len]);
        if device.marked.len() == 1 {
            device.agent.stored(device.now_ms, &batch_id(&frame[20..40]), Kept::Stored);
        }
    }
    assert_eq!((device.marked.len(), device.posts().len()), (2, 2));
}

#[test]
fn a_new_number_of_another_class_replaces_the_old_one_too() {
    let mut device = Device::storing();
    device.batch();
    device.agent.set_class(device.now_ms, Class::Short);
    let envelope = device.sent[0].clone();
    device.reject(&envelope, wire::Reason::SidInFuture, false, device.now_ms);
    assert_eq!(device.disk.values().collect::<Vec<_>>(), [&device.sent[1].batch]);
    let envelope = device.sent[1].clone();
    device.acknowledge(&envelope);
    assert!(device.disk.is_empty());
}

#[test]
fn what_a_batch_that_is_given_up_was_to_report_is_reported_by_the_next_one() {
    for reason in [wire::Reason::Expired, wire::Reason::Malformed] {
        let mut device = Device::storing();
        device.agent.closed(device.now_ms, false);
        device.agent.give_up(device.now_ms, Reason::OUTBOX_FULL, 5);
        device.batch();
        let waits_ms = if reason == wire::Reason::Expired { 24 * HOUR_MS } else { 0 };
        device.now_ms += waits_ms;
        let mut next = device.next_page(false);
        next.reconnect();
        if waits_ms == 0 {
            let envelope = next.sent.remove(0);
            next.reject(&envelope, reason, false, next.now_ms);
        }
        next.batch();
        let reports: Vec<_> = next.sent.iter().flat_map(|envelope| given_up(&decode(envelope))).collect();
        assert_eq!(reports, [(reason, 1, 1), (wire::Reason::OutboxFull, 5, 0)]);
    }
}
