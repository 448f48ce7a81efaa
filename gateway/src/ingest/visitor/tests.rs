use proptest::prelude::*;
use proto::uplink::Salt;

use super::*;

fn salt(byte: u8) -> SaltKey {
    SaltKey::new([byte; 16])
}

fn of(salt: &SaltKey, site: &str, address: &str, user_agent: &str) -> VisitorId {
    VisitorId::of(salt, site, address.parse().unwrap(), user_agent)
}

/// Milliseconds of a UTC time.
fn at(utc: &str) -> u64 {
    utc.parse::<Timestamp>().unwrap().as_millisecond() as u64
}

#[test]
fn the_hash_is_siphash_2_4_and_stays_what_it_is() {
    // The fields as they are hashed, one after the other, through the reference's one-shot interface.
    let mut message = Vec::new();
    for field in [b"shop".as_slice(), &[192, 0, 2, 1], b"Firefox"] {
        message.extend_from_slice(&(field.len() as u64).to_le_bytes());
        message.extend_from_slice(field);
    }
    let key: [u8; 16] = std::array::from_fn(|i| i as u8);
    let whole = SipHasher24::new_with_key(&key).hash(&message);
    assert_eq!(of(&SaltKey::new(key), "shop", "192.0.2.1", "Firefox").get(), whole);
    // The test vector of the algorithm's authors: this is 2-4, not 1-3.
    let vector: Vec<u8> = (0..15).collect();
    assert_eq!(SipHasher24::new_with_key(&key).hash(&vector), 0xa129_ca61_49be_45e5);
}

#[test]
fn a_visitor_is_one_of_a_site_a_day_an_address_and_a_browser() {
    let visitor = of(&salt(1), "shop", "192.0.2.1", "Firefox");
    assert_eq!(visitor, of(&salt(1), "shop", "::ffff:192.0.2.1", "Firefox"));
    for other in [
        of(&salt(2), "shop", "192.0.2.1", "Firefox"),
        of(&salt(1), "blog", "192.0.2.1", "Firefox"),
        of(&salt(1), "shop", "192.0.2.2", "Firefox"),
        of(&salt(1), "shop", "192.0.2.1", "Chrome"),
    ] {
        assert_ne!(visitor, other);
    }
}

#[test]
fn the_day_turns_at_the_sites_midnight() {
    let kathmandu = TimeZone::get("Asia/Kathmandu").unwrap(); // +05:45
    assert_eq!(LocalDay::at(at("2026-11-22T18:14:59Z"), &kathmandu).to_string(), "2026-11-22");
    assert_eq!(LocalDay::at(at("2026-11-22T18:15:00Z"), &kathmandu).to_string(), "2026-11-23");

    let berlin = TimeZone::get("Europe/Berlin").unwrap(); // 23 hours on 2026-03-29
    assert_eq!(LocalDay::at(at("2026-03-28T23:00:00Z"), &berlin).to_string(), "2026-03-29");
    assert_eq!(LocalDay::at(at("2026-03-29T21:59:59Z"), &berlin).to_string(), "2026-03-29");
    assert_eq!(LocalDay::at(at("2026-03-29T22:00:00Z"), &berlin).to_string(), "2026-03-30");
    let _ = LocalDay::at(u64::MAX, &berlin); // no panic
}

#[test]
fn near_the_sites_midnight_there_is_another_day() {
    let other = |utc: &str, zone: &str| {
        let zone = TimeZone::get(zone).unwrap();
        LocalDay::across_midnight(at(utc), &zone).map(|day| day.to_string())
    };
    let day = |text: &str| Some(text.to_owned());
    assert_eq!(other("2026-11-22T18:14:59Z", "Asia/Kathmandu"), day("2026-11-23"));
    assert_eq!(other("2026-11-22T18:15:00Z", "Asia/Kathmandu"), day("2026-11-22"));
    assert_eq!(other("2026-11-22T18:44:59.999Z", "Asia/Kathmandu"), day("2026-11-22"));
    assert_eq!(other("2026-11-22T18:45:00Z", "Asia/Kathmandu"), None);
    assert_eq!(other("2026-11-22T17:44:59Z", "Asia/Kathmandu"), None);
    assert_eq!(other("2026-11-22T17:45:00Z", "Asia/Kathmandu"), day("2026-11-23"));
    // The clocks go from 23:59:59 to 01:00: midnight does not exist.
    assert_eq!(other("2026-04-23T22:00:00Z", "Africa/Cairo"), day("2026-04-23"));
    assert_eq!(other("2026-04-23T21:59:59Z", "Africa/Cairo"), day("2026-04-24"));
    // A whole day does not exist: 29 December 2011 is followed by the 31st.
    assert_eq!(other("2011-12-30T10:00:00Z", "Pacific/Apia"), day("2011-12-29"));
    assert_eq!(other("2011-12-30T09:59:59Z", "Pacific/Apia"), day("2011-12-31"));
    assert_eq!(LocalDay::across_midnight(u64::MAX, &TimeZone::UTC), None); // no panic
    assert_eq!(LocalDay::across_midnight(0, &TimeZone::UTC), None);
}

/// With their oddities: +05:45, +12:45 with daylight saving, a half-hour one, one at midnight, and two far ends.
const ZONES: [&str; 9] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",
    "Pacific/Chatham",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
];

#[test]
fn salts_are_found_by_day_and_refused_when_they_cannot_be_used() {
    let wire = |day: &str, bytes| Salt { day: day.to_owned(), key: vec![7; bytes] };
    let salts = Salts::try_new(&[wire("2026-11-22", 16), wire("2026-11-23", 16)]).unwrap();
    assert_eq!(salts.of("2026-11-23".parse().unwrap()), Some(&salt(7)));
    assert_eq!(salts.of("2026-11-24".parse().unwrap()), None);

    let day = Salts::try_new(&[wire("yesterday", 16)]).unwrap_err();
    assert_eq!(day.to_string(), "a salt's day is `yesterday`: it must be a date such as 2026-11-22");
    let key = Salts::try_new(&[wire("2026-11-22", 8)]).unwrap_err();
    assert_eq!(key.to_string(), "the salt of 2026-11-22 has 8 bytes: it must have 16");
}

#[test]
fn a_key_is_not_printed() {
    assert_eq!(format!("{:?}", salt(7)), "SaltKey(…)");
}

proptest! {
    /// Without the lengths, ("ab", "c") and ("a", "bc") would be one visitor.
    #[test]
    fn fields_do_not_run_into_each_other(text in "[a-z]{2,12}", cut in 1usize..12, other in 1usize..12) {
        let (cut, other) = (cut.min(text.len() - 1), other.min(text.len() - 1));
        prop_assume!(cut != other);
        let split = |at: usize| of(&salt(1), &text[..at], "192.0.2.1", &text[at..]);
        prop_assert_ne!(split(cut), split(other));
    }

    /// Two events of one visitor, at most 30 minutes apart: the later one knows the earlier one's day, and the other way round. And
    /// far from midnight no other day's visitor is looked for.
    #[test]
    fn a_visit_across_midnight_is_known_on_both_sides(
        zone in proptest::sample::select(ZONES.as_slice()),
        // 2025 to 2027, every daylight-saving change of those years among them
        minute in 28_928_160u64..30_504_960,
        gap_ms in 0..=ACROSS_MIDNIGHT_MS,
    ) {
        let zone = TimeZone::get(zone).unwrap();
        let earlier_ms = minute * 60_000;
        let later_ms = earlier_ms + gap_ms;
        let days = |ms| (LocalDay::at(ms, &zone), LocalDay::across_midnight(ms, &zone));
        let ((earlier, after), (later, before)) = (days(earlier_ms), days(later_ms));
        if earlier == later {
            for other in [after, before].into_iter().flatten() {
                prop_assert_ne!(other, later);
            }
        } else {
            prop_assert_eq!((after, before), (Some(later), Some(earlier)));
        }
        let hour_before = LocalDay::at(later_ms - 2 * ACROSS_MIDNIGHT_MS, &zone);
        let hour_after = LocalDay::at(later_ms + 2 * ACROSS_MIDNIGHT_MS, &zone);
        if hour_before == hour_after {
            prop_assert_eq!(before, None);
        }
    }

    /// At every minute of daylight saving's days, in every zone.
    #[test]
    fn the_other_day_is_the_one_on_the_other_side_of_the_nearest_midnight(
        zone in proptest::sample::select(ZONES.as_slice()),
        day in proptest::sample::select(["2026-03-08", "2026-03-29", "2026-04-05", "2026-04-24", "2026-09-27", "2026-10-04", "2026-10-25", "2026-10-29", "2026-11-01"].as_slice()),
        off_ms in 1..ACROSS_MIDNIGHT_MS,
    ) {
        let zone = TimeZone::get(zone).unwrap();
        let date: Date = day.parse().unwrap();
        let midnight_ms = date.to_zoned(zone.clone()).unwrap().timestamp().as_millisecond() as u64; // the day's first moment
        let today = LocalDay(date);
        let yesterday = LocalDay::at(midnight_ms - 1, &zone);
        prop_assert_ne!(today, yesterday);
        prop_assert_eq!(LocalDay::across_midnight(midnight_ms + off_ms - 1, &zone), Some(yesterday));
        prop_assert_eq!(LocalDay::across_midnight(midnight_ms - off_ms, &zone), Some(today));
    }
}
