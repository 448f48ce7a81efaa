//! How large a batch and what waits may become, and how long a batch stays open.

use super::*;

#[test]
fn what_the_outbox_cannot_hold_is_given_up_and_reported() {
    let mut device = Device::new();
    let long = "x".repeat(1_900);
    let mut taken = 0;
    let mut refused = 0;
    for number in 0..60 {
        match device.event(&format!("{number}{long}")) {
            Ok(event) => {
                assert_eq!(event, EventNumber(taken));
                taken += 1;
            }
            Err(why) => {
                assert_eq!(why, NotTaken::GivenUp(Reason::OUTBOX_FULL));
                refused += 1;
            }
        }
    }
    assert!(taken >= 20 && refused >= 20, "{taken} taken, {refused} refused");
    device.run();
    device.agent.opened(device.now_ms);
    device.run();
    for round in 0..10 {
        let Some(sent) = device.sent.get(round).cloned() else { break };
        device.acknowledge(&sent);
        device.later(1_000);
    }
    let batches: Vec<_> = device.sent.iter().map(decode).collect();
    assert_eq!(batches.iter().map(|batch| batch.events.len() as u64).sum::<u64>(), taken);
    let reported: Vec<_> = batches.iter().flat_map(given_up).collect();
    assert_eq!(reported.iter().map(|&(_, events, _)| events).sum::<u32>(), refused);
    assert!(reported.iter().all(|&(reason, _, _)| reason == wire::Reason::OutboxFull));
    assert!(device.sent.iter().all(|envelope| envelope.batch.len() <= BATCH_BYTES_MAX));
}

#[test]
fn an_event_larger_than_a_batch_is_given_up_and_the_batch_stays_whole() {
    let mut device = Device::connected();
    device.event("small").unwrap();
    let value = "v".repeat(2_000);
    let props: Vec<_> = (0..9).map(|number| (format!("key {number}"), format!("{number}{value}"))).collect();
    let props: Vec<_> = props.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let event = Event { name: "huge", url: "https://shop.example/", props: &props, ..Event::default() };
    assert_eq!(device.agent.event(device.now_ms, &event), Err(NotTaken::GivenUp(Reason::TOO_LARGE)));
    device.agent.flush(device.now_ms);
    device.run();
    let batches: Vec<_> = device.sent.iter().map(decode).collect();
    assert_eq!(batches[0].events.len(), 1);
    assert_eq!(batches[0].strings, ["en-GB", "small", "https://shop.example/"]);
    let reported: Vec<_> = batches.iter().flat_map(given_up).collect();
    assert_eq!(reported, [(wire::Reason::TooLarge, 1, 0)]);
}

#[test]
fn a_batch_closes_by_size() {
    let mut device = Device::connected();
    let long = "x".repeat(1_000);
    for number in 0..40 {
        device.event(&format!("{number}{long}")).unwrap();
    }
    device.run();
    assert_eq!(device.sent.len(), 2, "the third is still open");
    for envelope in &device.sent {
        assert!((14_000..=BATCH_BYTES_MAX).contains(&envelope.batch.len()), "{}", envelope.batch.len());
    }
}

#[test]
fn a_clock_set_back_closes_the_batch_and_stops_no_timer() {
    let mut device = Device::connected();
    device.event("before").unwrap();
    device.now_ms -= 2 * HOUR_MS;
    device.event("after").unwrap();
    device.later(500);
    assert_eq!(device.sent.len(), 2);
    let bases: Vec<_> = device.sent.iter().map(|envelope| decode(envelope).base_ms).collect();
    assert_eq!(bases, [NOW_MS, NOW_MS - 2 * HOUR_MS]);
    assert!(device.sent.iter().all(|envelope| stamp_ms(envelope) == NOW_MS));
}

#[test]
fn a_clock_trimmed_back_stays_within_the_batch() {
    let mut device = Device::connected();
    device.event("before").unwrap();
    device.now_ms -= 50;
    device.event("after").unwrap();
    device.agent.flush(device.now_ms);
    device.run();
    assert_eq!(decode(&device.sent[0]).events[1].delta_ms, -50);
}
