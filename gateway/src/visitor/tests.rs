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
    assert_eq!(LocalDay::at(at("2026-01-01T00:00:00Z"), &TimeZone::UTC).yesterday().to_string(), "2025-12-31");

    let _ = LocalDay::at(u64::MAX, &berlin); // no panic
}

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
}
