//! What a gateway says of a batch: counted, refused, later, not here.

use super::*;

#[test]
fn an_ack_of_several_settles_them_and_a_foreign_one_nothing() {
    let mut device = Device::connected();
    for _ in 0..4 {
        device.batch();
    }
    let sid = decode(&device.sent[0]).sid;
    device.say(Said::Ack(wire::Ack { sid: vec![1; 16], seqs: vec![1, 2, 3, 4], ..Default::default() }));
    assert!(device.settled.is_empty());
    device.say(Said::Ack(wire::Ack { sid: sid.clone(), seqs: vec![1, 4, 9, 2], ..Default::default() }));
    device.say(Said::Ack(wire::Ack { sid, seqs: vec![1, 4], ..Default::default() }));
    let seqs: Vec<_> = device.settled.iter().map(|settled| settled.id.seq).collect();
    assert_eq!(seqs, [1, 2, 4]);
}

#[test]
fn a_refusal_for_the_sites_the_origins_or_the_keys_sake_stops_the_agent() {
    for reason in [wire::Reason::UnknownSite, wire::Reason::WrongOrigin, wire::Reason::WrongKey] {
        let mut device = Device::connected();
        let reject = wire::Reject { reason: reason.into(), message: "no such site".into(), ..Default::default() };
        let bytes = wire::ServerFrame { frame: Some(Said::Reject(reject)) }.encode_to_vec();
        assert_eq!(
            device.agent.receive(device.now_ms, &bytes),
            Answer::Stopped(Reason(reason as u32), b"no such site")
        );
        assert_eq!(device.run(), None);
        assert_eq!((device.connects, device.disconnects), (1, 1));
        assert_eq!(device.event("pageview"), Err(NotTaken::Stopped));
        assert_eq!(device.posts(), []);
    }
}

#[test]
fn what_became_of_events_is_for_the_developer_whether_the_batch_is_answered_by_it_or_not() {
    let mut device = Device::connected();
    device.batch();
    let sid = decode(&device.sent[0]).sid;
    let notice = wire::Notice { sid: sid.clone(), seq: 1, message: "not counted".into(), ..Default::default() };
    let bytes = wire::ServerFrame { frame: Some(Said::Notice(notice)) }.encode_to_vec();
    assert_eq!(device.agent.receive(device.now_ms, &bytes), Answer::Noticed(b"not counted"));
    device.run();
    assert!(device.settled.is_empty(), "the batch still waits for its answer");

    // By POST the answer brings it.
    let ack = wire::Ack { sid, seqs: vec![1], message: "event 0: not counted".into(), ..Default::default() };
    let bytes = wire::ServerFrame { frame: Some(Said::Ack(ack)) }.encode_to_vec();
    assert_eq!(device.agent.receive(device.now_ms, &bytes), Answer::Noticed(b"event 0: not counted"));
    device.run();
    assert_eq!(device.settled.len(), 1);
}

#[test]
fn a_final_refusal_drops_the_batch_for_good() {
    let mut device = Device::connected();
    device.batch();
    let sent = device.sent[0].clone();
    device.reject(&sent, wire::Reason::Bot, true, 0);
    assert_eq!(device.settled[0].outcome, Outcome::Dropped(Reason(wire::Reason::Bot as u32)));
    device.agent.closed(device.now_ms, false);
    device.reconnect();
    assert_eq!(device.sent.len(), 1);
    device.batch();
    assert_eq!(given_up(&decode(&device.sent[1])), [], "the gateway's ledger has it already");
}

#[test]
fn an_expired_batch_gets_a_new_number_when_every_transmission_was_refused() {
    let mut device = Device::connected();
    device.batch();
    let sent = device.sent[0].clone();
    let server_ms = NOW_MS + 5 * HOUR_MS;
    device.reject(&sent, wire::Reason::SidExpired, false, server_ms);
    assert_eq!(device.sent.len(), 2);
    let (old, new) = (decode(&sent), decode(&device.sent[1]));
    assert_ne!(old.sid, new.sid);
    assert_eq!(stamp_ms(&device.sent[1]), server_ms);
    assert_eq!(wire::Batch { sid: old.sid.clone(), seq: old.seq, ..new }, old, "nothing but the number has changed");
}

#[test]
fn a_sid_in_the_future_is_stamped_anew_by_the_servers_clock() {
    let mut device = Device::connected();
    device.batch();
    let sent = device.sent[0].clone();
    device.reject(&sent, wire::Reason::SidInFuture, false, NOW_MS - 24 * HOUR_MS);
    assert_eq!(stamp_ms(&device.sent[1]), NOW_MS - 24 * HOUR_MS);
}

#[test]
fn an_expired_batch_that_was_once_sent_without_an_answer_is_given_up_in_doubt() {
    let mut device = Device::connected();
    device.batch();
    device.agent.closed(device.now_ms, false); // the first transmission may have been counted
    device.reconnect();
    let sent = device.sent[1].clone();
    device.reject(&sent, wire::Reason::SidExpired, false, NOW_MS + 3 * HOUR_MS);
    assert_eq!(device.sent.len(), 2);
    device.later(DOUBT_MS_MAX);
    assert_eq!(device.settled[0].outcome, Outcome::GivenUp(Reason::EXPIRED_IN_DOUBT));
    device.batch();
    let report = decode(device.sent.last().unwrap());
    assert_eq!(given_up(&report), [(wire::Reason::ExpiredInDoubt, 1, 1)]);
    device.batch();
    assert_eq!(given_up(&decode(device.sent.last().unwrap())), [], "reported once");
}

#[test]
fn a_late_answer_to_the_other_transmission_resolves_the_doubt() {
    for acknowledged in [true, false] {
        let mut device = Device::connected();
        device.batch();
        assert_eq!(device.posts().len(), 1);
        let sent = device.sent[0].clone();
        device.reject(&sent, wire::Reason::SidExpired, false, NOW_MS + 3 * HOUR_MS);
        assert_eq!(device.sent.len(), 1, "one of two answers is missing");
        device.later(1_000);
        if acknowledged {
            device.acknowledge(&sent);
            assert_eq!(device.settled[0].outcome, Outcome::Acknowledged);
        } else {
            device.reject(&sent, wire::Reason::SidExpired, false, NOW_MS + 3 * HOUR_MS);
            assert_eq!(stamp_ms(&device.sent[1]), NOW_MS + 3 * HOUR_MS);
        }
    }
}

#[test]
fn a_gateway_that_refuses_every_number_is_not_asked_for_ever() {
    let mut device = Device::connected();
    device.batch();
    for _ in 0..10 {
        let last = device.sent.last().unwrap().clone();
        device.reject(&last, wire::Reason::SidExpired, false, 0);
    }
    assert_eq!(device.sent.len(), 1 + RENUMBERED_MAX as usize);
    assert_eq!(device.settled[0].outcome, Outcome::GivenUp(Reason::SID_EXPIRED));
}

#[test]
fn a_throttle_is_waited_out_and_the_number_stays() {
    let mut device = Device::connected();
    device.batch();
    let sent = device.sent[0].clone();
    let batch = decode(&sent);
    device.say(Said::Throttle(wire::Throttle { wait_ms: 3_000, sid: batch.sid, seq: batch.seq }));
    assert_eq!(device.run(), Some(3_000));
    device.batch();
    device.later(2_999);
    assert_eq!(device.sent.len(), 1);
    device.later(1);
    assert_eq!(seqs(&device.sent), [1, 1, 2]);
    assert_eq!(device.sent[1].batch, sent.batch);
}

#[test]
fn an_unavailable_gateway_is_left_and_the_batch_kept() {
    let mut device = Device::connected();
    device.batch();
    let sent = device.sent[0].clone();
    device.reject(&sent, wire::Reason::Unavailable, false, 0);
    assert_eq!(device.disconnects, 1);
    device.reconnect();
    assert_eq!(device.sent[1].batch, sent.batch);
}

#[test]
fn a_gateway_that_welcomes_but_does_not_serve_is_asked_ever_more_seldom() {
    let mut device = Device::connected();
    device.batch();
    let started_ms = device.now_ms;
    for _ in 0..12 {
        device.say(Said::Welcome(wire::Welcome { region: "eu-north".into(), ..Default::default() }));
        let sent = device.sent.last().unwrap().clone();
        device.reject(&sent, wire::Reason::Unavailable, false, 0);
        device.reconnect();
    }
    let waited_ms = device.now_ms - started_ms;
    assert!(waited_ms > 20_000, "12 attempts in {waited_ms} ms: a first wait is less than a second");

    let sent = device.sent.last().unwrap().clone();
    device.acknowledge(&sent);
    let served_ms = device.now_ms;
    device.agent.closed(device.now_ms, false);
    device.reconnect();
    assert!(device.now_ms - served_ms <= 1_000, "one that served is asked again at once");
}
