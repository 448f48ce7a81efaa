use proptest::{collection::vec, prelude::*, sample::select};
use proto::{Message, uplink};

use super::*;

const NOW_MS: u64 = 1_795_352_400_000;
const CLOCKS: Clocks = Clocks { arrived_ms: NOW_MS, sent_ms: NOW_MS };
const HOUR_MS: u64 = 60 * 60 * 1000;

/// By the rules of a site that has none.
fn validate(batch: &Batch, clocks: Clocks) -> Validated<'_> {
    super::validate(batch, clocks, &Rules::default())
}

/// A batch of one pageview of the page; strings: 1 pageview, 2 the page, 3 on: `more`.
fn batch(more: &[&str]) -> Batch {
    let strings = ["pageview", "https://shop.example/a?utm_source=x"].iter().chain(more).map(|&text| text.to_owned());
    Batch {
        sid: Sid::from_parts(NOW_MS, [7; 10]).as_bytes().to_vec(),
        seq: 1,
        base_ms: NOW_MS,
        strings: strings.collect(),
        events: vec![Event { name: 1, url: 2, ..Event::default() }],
        ..Batch::default()
    }
}

/// The batch with its event changed.
fn with(mut batch: Batch, change: impl FnOnce(&mut Event)) -> Batch {
    change(&mut batch.events[0]);
    batch
}

fn props<'a>(event: &'a ValidEvent<'_>) -> Vec<(&'a str, &'a str)> {
    event.props.iter().map(|(key, value)| (&**key, &**value)).collect()
}

/// Why the batch's only event is not counted.
fn reason(batch: &Batch) -> Option<Reason> {
    let validated = validate(batch, CLOCKS);
    assert_eq!(validated.events.len() + validated.dropped.len(), 1);
    validated.dropped.first().map(|row| Reason::try_from(row.reason as i32).unwrap())
}

#[test]
fn a_valid_event_comes_out_whole() {
    let mut batch = batch(&["https://www.google.com/", "size", "XL", "de-CH"]);
    batch.events[0] = Event { name: 1, delta_ms: -250, url: 2, referrer: 3, props: vec![4, 5, 4, 0], engaged_ms: 9 };
    (batch.screen_width, batch.screen_height, batch.language) = (1280, 720, 6);
    let validated = validate(&batch, Clocks { arrived_ms: NOW_MS, sent_ms: NOW_MS - 90_000 });
    // The device is 90 s slow: it says 250 ms before its own now, which was 90.25 s before its transmission arrived.
    let validated_late = validate(&batch, Clocks { arrived_ms: NOW_MS, sent_ms: NOW_MS + 1_000 });

    let event = &validated.events[0];
    assert_eq!((event.index, &*event.name, event.engaged_ms, event.is_pageview()), (0, "pageview", 9, true));
    assert_eq!((event.page.hostname.as_str(), event.page.path.as_str()), ("shop.example", "/a"));
    assert_eq!(event.page.url.query(), Some("utm_source=x"));
    assert_eq!(event.referrer.as_ref().unwrap().as_str(), "https://www.google.com/");
    assert_eq!(props(event), [("size", "XL"), ("size", "")]);
    assert_eq!(event.at_ms, NOW_MS, "ahead of its arrival, so it counts as just arrived");
    assert_eq!(validated_late.events[0].at_ms, NOW_MS - 1_250);
    assert_eq!((validated.screen.as_str(), validated.language), ("1280x720", "de-CH"));
    assert_eq!((validated.refused, validated.dropped.len()), (None, 0));
}

#[test]
fn every_reason_for_dropping_an_event_has_its_case() {
    let long = |bytes| "x".repeat(bytes);
    let name = |name: &str| reason(&with(batch(&[name]), |event| event.name = 3));
    let url = |url: &str| reason(&with(batch(&[url]), |event| event.url = 3));
    let prop = |key: &str, value: &str| reason(&with(batch(&[key, value]), |event| event.props = vec![3, 4]));
    let props = |props: Vec<u32>| reason(&with(batch(&["key"]), |event| event.props = props));

    for valid in ["a", "Add to cart ✓", &long(120)] {
        assert_eq!(name(valid), None, "{valid}");
    }
    for invalid in ["", &long(121), "a\nb", "a\u{85}b", "\0"] {
        assert_eq!(name(invalid), Some(Reason::InvalidEventName), "{invalid}");
    }
    assert_eq!(reason(&with(batch(&[]), |event| event.name = 0)), Some(Reason::InvalidEventName));

    for valid in
        ["http://localhost:3000", "https://bücher.example/ü?q#f", &format!("https://a.example/{}", long(1_982))]
    {
        assert_eq!(url(valid), None, "{valid}");
    }
    for invalid in [
        "",
        "/a",
        "shop.example/a",
        "ftp://a.example/",
        "file:///etc/passwd",
        "https://",
        &format!("https://a.example/{}", long(1_983)),
    ] {
        assert_eq!(url(invalid), Some(Reason::InvalidUrl), "{invalid}");
    }
    assert_eq!(reason(&with(batch(&[]), |event| event.url = 0)), Some(Reason::InvalidUrl));

    assert_eq!(prop(&long(300), &long(2_000)), None);
    assert_eq!(prop("key", "a\tb\r\nc"), None);
    for (key, value) in [
        ("", "value"),
        (&*long(301), ""),
        ("key", &*long(2_001)),
        ("a\tb", "value"),
        ("a\0b", "value"),
        ("key", "a\0b"),
        ("key", "a\tb\u{1b}"),
        ("key", "\u{85}"),
    ] {
        assert_eq!(prop(key, value), Some(Reason::InvalidProps), "{key}");
    }
    assert_eq!(props([3; 60].to_vec()), None);
    assert_eq!(props([3; 62].to_vec()), Some(Reason::InvalidProps));
    assert_eq!(props(vec![3, 3, 3]), Some(Reason::InvalidProps));

    let refers_behind_the_table: [fn(&mut Event); 4] = [
        |event| event.name = 3,
        |event| event.url = u32::MAX,
        |event| event.referrer = 3,
        |event| event.props = vec![1, 3],
    ];
    for change in refers_behind_the_table {
        assert_eq!(reason(&with(batch(&[]), change)), Some(Reason::BadReference));
    }
}

fn rules(schema: Option<uplink::Schema>, personal_data: PersonalData) -> Rules {
    Rules::from(&uplink::Rules { schema, personal_data: personal_data.into(), ..uplink::Rules::default() })
}

/// A schema that knows `Signup`, with a `plan`.
fn signup(mode: uplink::SchemaMode) -> Option<uplink::Schema> {
    let plan = uplink::PropRule { key: "plan".into(), bytes_max: 10, required: true, ..Default::default() };
    let events = vec![uplink::EventRule { name: "Signup".into(), props: vec![plan] }];
    Some(uplink::Schema { mode: mode.into(), events, other_props: 0 })
}

#[test]
fn a_line_break_in_a_value_is_a_space() {
    let batch = with(batch(&["key", "a\tb\r\nc"]), |event| event.props = vec![3, 4]);
    assert_eq!(props(&validate(&batch, CLOCKS).events[0]), [("key", "a b  c")]);
}

#[test]
fn what_breaks_an_enforced_schema_is_dropped_and_an_observed_one_counts_it() {
    let mut batch = batch(&["Signup", "plan", "pro", "Login", "a plan that is too long"]);
    let event = |name, props: &[u32]| Event { name, url: 2, props: props.to_vec(), ..Default::default() };
    batch.events =
        vec![event(1, &[5, 5]), event(3, &[4, 5]), event(3, &[4, 7]), event(3, &[]), event(6, &[]), event(6, &[4, 5])];
    let judged = |mode| {
        let rules = rules(signup(mode), PersonalData::Redact);
        let validated = super::validate(&batch, CLOCKS, &rules);
        let counted: Vec<u32> = validated.events.iter().map(|event| event.index).collect();
        let dropped: Vec<_> = validated.dropped.iter().map(|row| (row.reason, row.events)).collect();
        (counted, dropped, validated.remarks.observed)
    };
    let broken = [(Reason::SchemaProps, 2), (Reason::SchemaEvent, 2)];
    let dropped = broken.map(|(reason, events)| (reason as u32, events)).to_vec();
    assert_eq!(judged(uplink::SchemaMode::Enforce), (vec![0, 1], dropped, vec![]));
    assert_eq!(judged(uplink::SchemaMode::Observe), ((0..6).collect(), vec![], broken.to_vec()));
}

#[test]
fn personal_data_is_redacted_kept_or_drops_its_event() {
    let address = "jane@shop.example";
    let page = "https://shop.example/u/jane%40shop.example?utm_source=jane@shop.example#jane@shop.example";
    let mut batch = batch(&[&format!("Mail {address}"), page, address, &format!("to\n{address}"), "pro"]);
    batch.strings.push(format!("https://a.example/{address}"));
    let plain = Event { name: 1, url: 2, ..Default::default() };
    batch.events = vec![
        plain.clone(),
        Event { name: 3, ..plain.clone() },
        Event { url: 4, ..plain.clone() },
        Event { referrer: 8, ..plain.clone() },
        Event { props: vec![5, 7], ..plain.clone() },
        Event { props: vec![7, 6], ..plain.clone() },
    ];
    let judged = |personal_data| super::validate(&batch, CLOCKS, &rules(None, personal_data));

    let redacted = judged(PersonalData::Redact);
    assert_eq!((redacted.events.len(), redacted.remarks.redacted), (6, 5));
    assert!(!format!("{:?}", redacted.events).contains("jane"), "{:?}", redacted.events);
    assert_eq!(&*redacted.events[1].name, "Mail (redacted)");
    assert_eq!(redacted.events[2].page.path, "/u/(redacted)");
    assert_eq!(redacted.events[2].page.url.query(), Some("utm_source=(redacted)"));
    assert_eq!(redacted.events[3].referrer.as_ref().unwrap().path(), "/(redacted)");
    assert_eq!(props(&redacted.events[4]), [("(redacted)", "pro")]);
    assert_eq!(props(&redacted.events[5]), [("pro", "to (redacted)")]);

    let allowed = judged(PersonalData::Allow);
    assert_eq!((allowed.events.len(), allowed.remarks.redacted), (6, 0));
    assert_eq!(
        (&*allowed.events[1].name, &*allowed.events[2].page.path),
        ("Mail jane@shop.example", "/u/jane%40shop.example")
    );

    let dropped = judged(PersonalData::Drop);
    assert_eq!((dropped.events.len(), dropped.remarks.redacted), (1, 0));
    assert_eq!((dropped.dropped[0].reason, dropped.dropped[0].events), (Reason::PersonalData as u32, 5));
}

#[test]
fn a_site_in_debug_mode_is_told_of_its_events_in_its_own_words() {
    let mut batch = batch(&["Signup", "plan", "jane@b.co", "far too long jane@b.co", "other jane@b.co"]);
    let event = |name, props: &[u32]| Event { name, url: 2, props: props.to_vec(), ..Default::default() };
    batch.events = vec![
        event(1, &[]),
        event(3, &[4, 5]),
        event(3, &[4, 6]),
        event(3, &[4, 5, 7, 5]),
        event(3, &[]),
        event(7, &[]),
        Event { url: 9, ..event(1, &[]) },
    ];
    let told = |mode, debug| {
        let rules = Rules { debug, ..rules(signup(mode), PersonalData::Redact) };
        super::validate(&batch, CLOCKS, &rules).remarks.notices
    };
    let (enforced, observed) = (told(uplink::SchemaMode::Enforce, true), told(uplink::SchemaMode::Observe, true));
    let reasons: Vec<_> = enforced.iter().map(|notice| (notice.event, notice.reason)).collect();
    assert_eq!(
        reasons,
        [
            (1, Reason::PersonalData),
            (2, Reason::SchemaProps),
            (3, Reason::SchemaProps),
            (4, Reason::SchemaProps),
            (5, Reason::SchemaEvent),
            (6, Reason::BadReference),
        ]
    );
    for (notice, said) in enforced.iter().zip([
        "counted as `(redacted)`",
        "not counted: the property `plan` has a value that does not fit",
        "not counted: the site's schema does not list its property number 2",
        "not counted: the site's schema requires the property `plan`",
        "not counted: the site's schema has no event of this name",
        "not counted: the event refers to a string behind",
    ]) {
        assert!(notice.message.starts_with(said), "{}", notice.message);
    }
    let of_both = |event| observed.iter().filter(move |notice| notice.event == event).map(|notice| notice.reason);
    assert!(of_both(2).eq([Reason::SchemaProps, Reason::PersonalData]), "{observed:?}");
    assert!(enforced.iter().chain(&observed).all(|notice| !notice.message.contains("jane")));
    assert_eq!(told(uplink::SchemaMode::Enforce, false), []);

    batch.events = vec![event(7, &[]); 50];
    let rules = Rules { debug: true, ..rules(signup(uplink::SchemaMode::Enforce), PersonalData::Redact) };
    assert_eq!(super::validate(&batch, CLOCKS, &rules).remarks.notices.len(), NOTICES_MAX);
}

#[test]
fn what_is_longer_once_it_is_redacted_keeps_to_its_bounds() {
    let long = |bytes: usize| "a@b.co ".repeat(bytes / 7);
    let mut batch = with(batch(&[&long(120), &long(300), &long(2_000)]), |event| event.props = vec![4, 5]);
    batch.events[0].name = 3;
    let validated = validate(&batch, CLOCKS);
    let event = &validated.events[0];
    assert_eq!((event.name.len(), event.props[0].0.len(), event.props[0].1.len()), (120, 300, 2_000));
    assert!(event.name.starts_with("(redacted) (redacted) "), "{:?}", event.name);
}

#[test]
fn a_schema_judges_what_the_page_sent_before_anything_is_redacted() {
    let mut batch = batch(&["Signup", "plan", "a@b.co b@c", "a@b.co b@c."]);
    batch.events[0] = Event { name: 3, url: 2, props: vec![4, 5], ..Default::default() };
    let rules = rules(signup(uplink::SchemaMode::Enforce), PersonalData::Drop);
    let reason = |batch: &Batch| super::validate(batch, CLOCKS, &rules).dropped[0].reason;
    assert_eq!(reason(&batch), Reason::PersonalData as u32, "ten bytes fit, and then there is an address in them");
    batch.events[0].props = vec![4, 6];
    assert_eq!(reason(&batch), Reason::SchemaProps as u32);
}

#[test]
fn a_referrer_that_is_none_costs_nothing() {
    for (text, valid) in [
        ("https://a.example/", true),
        ("android-app://com.reddit.frontpage/", true),
        ("", false),
        ("/a", false),
        ("about:blank", false),
        ("javascript:alert(1)", false),
        (&*format!("https://a.example/{}", "x".repeat(2_000)), false),
    ] {
        let batch = with(batch(&[text]), |event| event.referrer = 3);
        assert_eq!(validate(&batch, CLOCKS).events[0].referrer.is_some(), valid, "{text}");
    }
}

#[test]
fn events_are_counted_when_they_happened() {
    let at = |device_ms: i64| {
        let batch = with(batch(&[]), |event| event.delta_ms = device_ms);
        validate(&batch, CLOCKS).events.first().map(|event| event.at_ms)
    };
    assert_eq!(at(-1), Some(NOW_MS - 1));
    assert_eq!(at(-26 * HOUR_MS as i64), Some(NOW_MS - 26 * HOUR_MS));
    assert_eq!(at(-26 * HOUR_MS as i64 - 1), None);
    assert_eq!(at(300_000), Some(NOW_MS), "what is slightly ahead has just arrived");
    assert_eq!(at(300_001), None);
    assert_eq!(at(i64::MIN), None);
    let from_1970 = Batch { base_ms: 0, ..batch(&[]) };
    assert_eq!(reason(&from_1970), Some(Reason::EventTimeOutOfRange));

    // Deltas add up over events that are not counted, and a device whose clock is a year off is set right.
    let mut two = batch(&[]);
    two.base_ms = 5_000;
    two.events[0] = Event { name: 0, delta_ms: 100, url: 2, ..Event::default() };
    two.events.push(Event { name: 1, delta_ms: 100, url: 2, ..Event::default() });
    let validated = validate(&two, Clocks { arrived_ms: NOW_MS, sent_ms: 6_200 });
    assert_eq!(validated.events[0].at_ms, NOW_MS - 1_000);
    assert_eq!(validated.events[0].index, 1);
}

#[test]
fn a_batch_is_refused_whole_when_it_is_too_long_or_empty() {
    let full = |events| Batch { events: vec![batch(&[]).events[0].clone(); events], ..batch(&[]) };
    assert_eq!(validate(&full(10_000), CLOCKS).events.len(), 10_000);

    let too_long = full(10_001);
    let too_long = validate(&too_long, CLOCKS);
    assert_eq!(too_long.refused, Some(Reason::TooManyEvents));
    assert!(too_long.events.is_empty());
    assert_eq!((too_long.dropped[0].reason, too_long.dropped[0].events), (Reason::TooManyEvents as u32, 10_001));

    assert_eq!(validate(&full(0), CLOCKS).refused, Some(Reason::EmptyBatch));
    let given_up = GivenUp { reason: Reason::Expired as i32, events: 3, batches: 1 };
    let report = Batch { given_up: vec![given_up], ..full(0) };
    assert_eq!(validate(&report, CLOCKS).refused, None);
}

#[test]
fn what_the_agent_gave_up_is_kept_by_reason() {
    let given_up = |reason: i32, events| GivenUp { reason, events, batches: 1 };
    let expired = Reason::Expired as i32;
    let rows = vec![given_up(expired, 2), given_up(expired, u32::MAX), given_up(0, 5), given_up(999, 6)];
    let batch = Batch { given_up: rows, ..batch(&[]) };
    let row = |reason, events, batches| Dropped { reason: reason as u32, events, batches, given_up: true };
    // 0 is what the ledger calls counted.
    let expected = [row(Reason::Expired, u32::MAX, 2), row(Reason::Malformed, 11, 2)];
    assert_eq!(validate(&batch, CLOCKS).dropped, expected);
}

#[test]
fn a_batch_is_taken_while_its_sid_is_accepted() {
    let sid = |stamp_ms| *Sid::from_parts(stamp_ms, [7; 10]).as_bytes();
    let taken = |stamp_ms, class: i32| identity(&sid(stamp_ms), 1, class, NOW_MS).map(|(_, seq)| seq);
    let (short, long, unknown) = (Class::Short as i32, Class::Long as i32, 9);

    assert_eq!(taken(NOW_MS - 2 * HOUR_MS, short), Ok(1));
    for class in [short, unknown] {
        assert_eq!(taken(NOW_MS - 2 * HOUR_MS - 1, class), Err(Reason::SidExpired));
    }
    assert_eq!(taken(NOW_MS - 26 * HOUR_MS, long), Ok(1));
    assert_eq!(taken(NOW_MS - 26 * HOUR_MS - 1, long), Err(Reason::SidExpired));
    assert_eq!(taken(NOW_MS + 300_000, short), Ok(1));
    assert_eq!(taken(NOW_MS + 300_001, long), Err(Reason::SidInFuture));

    for (seq, expected) in
        [(0, Err(Reason::InvalidSeq)), (1, Ok(1)), (4_096, Ok(4_096)), (4_097, Err(Reason::InvalidSeq))]
    {
        assert_eq!(identity(&sid(NOW_MS), seq, short, NOW_MS).map(|(_, seq)| seq), expected);
    }
    for bytes in [&[0; 16][..], &[], &sid(NOW_MS)[..15]] {
        assert_eq!(identity(bytes, 1, short, NOW_MS), Err(Reason::InvalidSid));
    }
}

#[test]
fn a_batch_with_a_string_that_is_not_utf_8_still_has_an_identity() {
    let mut batch = batch(&["PLACE"]);
    batch.class = Class::Long as i32;
    batch.given_up = vec![GivenUp { reason: Reason::Expired as i32, events: 3, batches: 1 }];
    let mut bytes = batch.encode_to_vec();
    assert_eq!(decode_batch(&bytes).as_ref(), Ok(&batch));

    let at = bytes.windows(5).position(|window| window == b"PLACE").unwrap();
    bytes[at] = 0xff;
    let head = BatchHead {
        sid: batch.sid.clone(),
        seq: 1,
        class: Class::Long as i32,
        events: 1,
        given_up: batch.given_up.clone(),
    };
    assert_eq!(
        head.dropped(Reason::InvalidUtf8),
        [
            Dropped { reason: Reason::Expired as u32, events: 3, batches: 1, given_up: true },
            Dropped { reason: Reason::InvalidUtf8 as u32, events: 1, batches: 0, given_up: false },
        ]
    );
    let refusal = decode_batch(&bytes).unwrap_err();
    assert_eq!((refusal.reason(), refusal), (Reason::InvalidUtf8, Undecodable::InvalidUtf8(head)));
    assert_eq!(decode_batch(&bytes[..at]).unwrap_err(), Undecodable::Malformed);
    assert_eq!(decode_batch(b"garbage").unwrap_err().reason(), Reason::Malformed);
    assert_eq!(decode_frame(b"garbage"), Err(Reason::Malformed));
    assert_eq!(decode_envelope(&[0x0a, 1, 0xff]), Err(Reason::Malformed));
}

/// Every reason there is: the numbers are below 128.
fn reasons() -> Vec<Reason> {
    (0..128).filter_map(|number| Reason::try_from(number).ok()).collect()
}

#[test]
fn a_batch_refused_whole_keeps_what_the_agent_gave_up() {
    let report = GivenUp { reason: Reason::Expired as i32, events: 2, batches: 1 };
    let batch = Batch { given_up: vec![report], events: vec![Event::default(); 3], ..batch(&[]) };
    let refused = refuse(&batch, Reason::Automated);
    let row = |reason, events, batches, given_up| Dropped { reason: reason as u32, events, batches, given_up };
    assert_eq!(refused.dropped, [row(Reason::Expired, 2, 1, true), row(Reason::Automated, 3, 0, false)]);
    assert_eq!((refused.refused, refused.events.len()), (Some(Reason::Automated), 0));
}

#[test]
fn every_reason_is_explained_and_labelled_once() {
    let all = reasons();
    assert_eq!(all.len(), 33);
    for &reason in &all {
        let expected = reason.as_str_name().trim_start_matches("REASON_").to_lowercase();
        assert_eq!(label(reason), expected);
        assert!(explain(reason).len() >= 20, "{reason:?}");
        assert_eq!(all.iter().filter(|&&other| explain(other) == explain(reason)).count(), 1);
        assert_eq!(is_final(reason), (32..64).contains(&(reason as i32)), "{reason:?}");
    }
}

fn event() -> impl Strategy<Value = Event> {
    let reference = || prop_oneof![8 => 0u32..7, 1 => any::<u32>()];
    let delta = prop_oneof![8 => -1_000i64..1_000, 1 => any::<i64>()];
    (reference(), delta, reference(), reference(), vec(reference(), 0..5), any::<u32>()).prop_map(
        |(name, delta_ms, url, referrer, props, engaged_ms)| Event { name, delta_ms, url, referrer, props, engaged_ms },
    )
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let text = prop_oneof![
        "[a-z]{0,8}",
        select(vec!["a", "b", "1", "true", "pageview"]).prop_map(str::to_owned),
        "https://[a-z.]{1,8}/[a-z?&=%]{0,8}",
        "https://a[.]example/[ab@.?]{0,5}(a@b[.]co|a%40b[.]co)?",
        "[a-z \t\n]{0,4}(a@b[.]co)?[a-z]{0,2}",
        any::<String>(),
    ];
    let given_up = (any::<i32>(), any::<u32>(), any::<u32>()).prop_map(|(reason, events, batches)| GivenUp {
        reason,
        events,
        batches,
    });
    let base_ms = prop_oneof![4 => NOW_MS - 1_000..NOW_MS, 1 => any::<u64>()];
    (vec(text, 0..6), vec(event(), 0..20), vec(given_up, 0..4), base_ms, any::<[u32; 3]>()).prop_map(
        |(strings, events, given_up, base_ms, [screen_width, screen_height, language])| Batch {
            base_ms,
            strings,
            events,
            given_up,
            screen_width,
            screen_height,
            language,
            ..Batch::default()
        },
    )
}

fn any_rules() -> impl Strategy<Value = uplink::Rules> {
    (proptest::option::of(schema::tests::any_schema()), 0..4i32, any::<bool>()).prop_map(
        |(schema, personal_data, debug)| uplink::Rules { schema, personal_data, debug, ..uplink::Rules::default() },
    )
}

proptest! {
    #[test]
    fn every_event_is_counted_or_dropped_for_one_reason(
        batch in any_batch(), rules in any_rules(), sent_ms in prop_oneof![4 => Just(NOW_MS), 1 => any::<u64>()],
    ) {
        let rules = Rules::from(&rules);
        let validated = super::validate(&batch, Clocks { arrived_ms: NOW_MS, sent_ms }, &rules);
        let dropped: usize = validated.dropped.iter().filter(|row| !row.given_up).map(|row| row.events as usize).sum();
        prop_assert_eq!(batch.events.len(), validated.events.len() + dropped);
        prop_assert!(validated.dropped.iter().all(|row| row.reason != 0));
        prop_assert!(validated.events.is_sorted_by_key(|event| event.index));
        prop_assert!(validated.events.iter().all(|event| event.at_ms <= NOW_MS));
        let fits = |event: &ValidEvent<'_>| crate::ingest::recorded(event).encoded_len() + 4 <= event.recorded_bytes();
        prop_assert!(validated.events.iter().all(fits), "as the record holds it");
        let observed: u32 = validated.remarks.observed.iter().map(|&(_, events)| events).sum();
        prop_assert!(observed as usize <= validated.events.len());
        prop_assert!(validated.remarks.redacted as usize <= validated.events.len());
        let told = observed as usize + validated.remarks.redacted as usize + dropped;
        let expected = if rules.debug && validated.refused.is_none() { told.min(NOTICES_MAX) } else { 0 };
        prop_assert_eq!(validated.remarks.notices.len(), expected);
        if rules.personal_data != PersonalData::Allow {
            for event in &validated.events {
                let recorded = crate::ingest::recorded(event);
                let texts = recorded.props.iter().chain([&recorded.name, &recorded.path]);
                for text in texts {
                    prop_assert_eq!(personal_data::redact(text), text.as_str());
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), arrived_ms: u64, sent_ms: u64) {
        let _ = (decode_frame(&bytes), decode_envelope(&bytes));
        match decode_batch(&bytes) {
            Ok(batch) => {
                let clocks = Clocks { arrived_ms, sent_ms };
                drop(validate(&batch, clocks));
            }
            Err(Undecodable::InvalidUtf8(head)) => drop(identity(&head.sid, head.seq, head.class, arrived_ms)),
            Err(Undecodable::Malformed) => (),
        }
    }
}

#[test]
fn a_small_batch_that_stands_for_megabytes_is_cut_at_one() {
    let mut batch = Batch { base_ms: 1_000, ..Default::default() };
    batch.strings = vec!["e".into(), "https://shop.example/".into(), "k".repeat(300), "v".repeat(2_000)];
    let event = Event { name: 1, url: 2, props: [3, 4].repeat(30), engaged_ms: u32::MAX, ..Default::default() };
    batch.events = vec![event; 100];
    let validated = validate(&batch, Clocks { arrived_ms: 1_000, sent_ms: 1_000 });
    assert_eq!(validated.events.len(), 15, "69 KB each");
    assert_eq!(validated.events[0].engaged_ms, ENGAGED_MS_MAX);
    let dropped = Dropped { reason: Reason::RecordTooLarge as u32, events: 85, ..Default::default() };
    assert_eq!(validated.dropped, [dropped]);
}

#[test]
fn a_batch_of_many_small_events_is_cut_at_one_megabyte_as_it_is_encoded() {
    let url = format!("https://a.exa/{}", "p".repeat(97)); // a path of 98 bytes
    let mut batch = Batch { strings: vec!["e".into(), url], base_ms: NOW_MS, ..Default::default() };
    batch.events = vec![Event { name: 1, url: 2, engaged_ms: u32::MAX, ..Default::default() }; 10_000];
    let validated = validate(&batch, CLOCKS);
    let encoded: usize = validated.events.iter().map(|event| crate::ingest::recorded(event).encoded_len() + 4).sum();
    assert!(encoded <= EVENTS_BYTES_MAX, "{encoded} bytes");
    let kept = validated.events.len();
    assert!(kept > 6_000, "{kept} events");
    let dropped = Dropped { reason: Reason::RecordTooLarge as u32, events: 10_000 - kept as u32, ..Default::default() };
    assert_eq!(validated.dropped, [dropped]);
}
