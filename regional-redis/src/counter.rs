//! Names of counters and of unique sightings inside a bucket: packed, because a bucket holds many and they are read once.
//!
//! `kind (1), metric (1), time (4, big endian), length of the site (1), site, value`; the function looks at the first byte alone.
//! A unique sighting has no metric, and ends with the visitor (8, little endian).

use proto::agent::Reason;
use proto::uplink::Kind;

/// First byte of a ledger counter, beside the kinds of `uplink.proto`.
const LEDGER: u8 = 255;

/// What a counter counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// A rollup row's metric at an event minute (Unix minutes).
    Rollup {
        /// Which facts of an event the value is.
        kind: Kind,
        /// Which column.
        metric: Metric,
        /// Unix minutes.
        minute: u32,
        /// Of the site's table.
        site: String,
        /// Path, event name, or empty.
        value: String,
    },
    /// A line of the site's ledger on the day of arrival (days since 1970, UTC). Reason 0 is "counted".
    Ledger {
        /// Why not counted.
        reason: Reason,
        /// What is added up.
        tally: Tally,
        /// Days since 1970-01-01, UTC.
        day: u32,
        /// Of the site's table.
        site: String,
    },
}

/// Columns of a rollup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Metric {
    /// Pageviews.
    Pageviews = 0,
    /// Custom events.
    Events = 1,
    /// Milliseconds of engagement.
    EngagedMs = 2,
}

/// Columns of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tally {
    /// Events of distinct batches.
    Events = 0,
    /// Distinct batches.
    Batches = 1,
    /// Transmissions of a batch that was there before.
    Duplicates = 2,
}

/// A visitor seen with a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sighting {
    /// Which facts of an event the value is.
    pub kind: Kind,
    /// Unix time in units of 15 minutes.
    pub quarter: u32,
    /// Of the site's table.
    pub site: String,
    /// Path, event name, or empty.
    pub value: String,
    /// The visitor's hash.
    pub visitor: u64,
}

/// A bucket holds bytes that this version did not write.
#[derive(Debug, thiserror::Error)]
#[error("a bucket of the regional Redis holds a field of unknown form ({0:02x?}): was it written by another version?")]
pub struct UnknownField(pub Vec<u8>);

impl Counter {
    /// The hash field.
    pub fn to_field(&self) -> Vec<u8> {
        match self {
            Self::Rollup { kind, metric, minute, site, value } => {
                packed(*kind as u8, *metric as u8, *minute, site, value.as_bytes())
            }
            Self::Ledger { reason, tally, day, site } => {
                packed(LEDGER, *tally as u8, *day, site, &(*reason as u32).to_le_bytes())
            }
        }
    }

    /// What [`Counter::to_field`] wrote.
    pub fn from_field(field: &[u8]) -> Result<Self, UnknownField> {
        parse_counter(field).ok_or_else(|| UnknownField(field.to_vec()))
    }
}

impl Sighting {
    /// The set member.
    pub fn to_member(&self) -> Vec<u8> {
        let mut member = packed(self.kind as u8, 0, self.quarter, &self.site, self.value.as_bytes());
        member.extend_from_slice(&self.visitor.to_le_bytes());
        member
    }

    /// What [`Sighting::to_member`] wrote.
    pub fn from_member(member: &[u8]) -> Result<Self, UnknownField> {
        parse_sighting(member).ok_or_else(|| UnknownField(member.to_vec()))
    }
}

fn packed(kind: u8, metric: u8, time: u32, site: &str, value: &[u8]) -> Vec<u8> {
    let site_len = u8::try_from(site.len()).expect("a site's name has 120 bytes at most");
    let mut field = Vec::with_capacity(7 + site.len() + value.len());
    field.extend_from_slice(&[kind, metric]);
    field.extend_from_slice(&time.to_be_bytes());
    field.push(site_len);
    field.extend_from_slice(site.as_bytes());
    field.extend_from_slice(value);
    field
}

struct Unpacked<'a> {
    kind: u8,
    metric: u8,
    time: u32,
    site: &'a str,
    value: &'a [u8],
}

fn unpacked(field: &[u8]) -> Option<Unpacked<'_>> {
    let (&[kind, metric, a, b, c, d, site_len], rest) = field.split_first_chunk::<7>()?;
    let (site, value) = rest.split_at_checked(usize::from(site_len))?;
    Some(Unpacked {
        kind,
        metric,
        time: u32::from_be_bytes([a, b, c, d]),
        site: std::str::from_utf8(site).ok()?,
        value,
    })
}

fn parse_counter(field: &[u8]) -> Option<Counter> {
    let Unpacked { kind, metric, time, site, value } = unpacked(field)?;
    let site = site.to_owned();
    if kind == LEDGER {
        let tally = match metric {
            0 => Tally::Events,
            1 => Tally::Batches,
            2 => Tally::Duplicates,
            _ => return None,
        };
        let reason = i32::try_from(u32::from_le_bytes(value.try_into().ok()?)).ok()?;
        return Some(Counter::Ledger { reason: Reason::try_from(reason).ok()?, tally, day: time, site });
    }
    let metric = match metric {
        0 => Metric::Pageviews,
        1 => Metric::Events,
        2 => Metric::EngagedMs,
        _ => return None,
    };
    let kind = Kind::try_from(i32::from(kind)).ok()?;
    Some(Counter::Rollup { kind, metric, minute: time, site, value: std::str::from_utf8(value).ok()?.to_owned() })
}

fn parse_sighting(member: &[u8]) -> Option<Sighting> {
    let (field, visitor) = member.split_last_chunk::<8>()?;
    let Unpacked { kind, time, site, value, .. } = unpacked(field)?;
    Some(Sighting {
        kind: Kind::try_from(i32::from(kind)).ok()?,
        quarter: time,
        site: site.to_owned(),
        value: std::str::from_utf8(value).ok()?.to_owned(),
        visitor: u64::from_le_bytes(*visitor),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rollup_counter_reads_back(kind in 0..3i32, minute: u32, site in "[a-z0-9.-]{1,120}", value in ".{0,80}") {
            let kind = Kind::try_from(kind).unwrap();
            let counter = Counter::Rollup { kind, metric: Metric::EngagedMs, minute, site, value };
            prop_assert_eq!(Counter::from_field(&counter.to_field()).unwrap(), counter);
        }

        #[test]
        fn a_sighting_reads_back(quarter: u32, site in "[a-z0-9.-]{1,120}", value in ".{0,80}", visitor: u64) {
            let sighting = Sighting { kind: Kind::Page, quarter, site, value, visitor };
            prop_assert_eq!(Sighting::from_member(&sighting.to_member()).unwrap(), sighting);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Counter::from_field(&bytes);
            let _ = Sighting::from_member(&bytes);
        }
    }

    #[test]
    fn a_ledger_counter_reads_back() {
        let counter =
            Counter::Ledger { reason: Reason::Bot, tally: Tally::Duplicates, day: 20_000, site: "shop".into() };
        assert_eq!(Counter::from_field(&counter.to_field()).unwrap(), counter);
    }
}
