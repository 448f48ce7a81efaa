//! Who a visitor is, without a cookie: a keyed hash of site, address and user agent whose key lives for a day.

use std::{collections::BTreeMap, fmt, hash::Hasher, net::IpAddr, str::FromStr};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use siphasher::sip::SipHasher24;

/// A visit goes on when its next event comes within this time, so this far from midnight it may have begun on the other day.
pub const ACROSS_MIDNIGHT_MS: u64 = 30 * 60 * 1000;

/// A visitor of one site on one local day. Says nothing about the visitor once the day's salt is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VisitorId(u64);

/// A calendar date in a site's timezone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalDay(Date);

/// The secret of one local day.
#[derive(Clone, PartialEq, Eq)]
pub struct SaltKey([u8; 16]);

/// The salts that central has handed out, by day.
#[derive(Debug, Clone, Default)]
pub struct Salts(BTreeMap<LocalDay, SaltKey>);

/// A salt from central that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SaltError {
    /// The day is no date.
    #[error("a salt's day is `{0}`: it must be a date such as 2026-11-22")]
    Day(String),
    /// The key has another length.
    #[error("the salt of {day} has {bytes} bytes: it must have 16")]
    Key {
        /// The salt's day.
        day: String,
        /// The key's length.
        bytes: usize,
    },
}

impl VisitorId {
    /// SipHash-2-4 under the day's salt.
    pub fn of(salt: &SaltKey, site: &str, address: IpAddr, user_agent: &str) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => salt.hash([site.as_bytes(), &address.octets(), user_agent.as_bytes()]),
            IpAddr::V6(address) => salt.hash([site.as_bytes(), &address.octets(), user_agent.as_bytes()]),
        })
    }

    /// The hash as it is recorded.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl LocalDay {
    /// The date on the site's calendar at this time (Unix ms).
    pub fn at(unix_ms: u64, timezone: &TimeZone) -> Self {
        let timestamp = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        Self(timezone.to_datetime(timestamp.unwrap_or(Timestamp::MAX)).date())
    }

    /// The other day, within [`ACROSS_MIDNIGHT_MS`] of the site's midnight: a visitor of this moment may have a visit that
    /// runs under that day's salt.
    pub fn across_midnight(unix_ms: u64, timezone: &TimeZone) -> Option<Self> {
        let day = Self::at(unix_ms, timezone);
        let around = [unix_ms.checked_sub(ACROSS_MIDNIGHT_MS)?, unix_ms.checked_add(ACROSS_MIDNIGHT_MS)?];
        around.into_iter().map(|ms| Self::at(ms, timezone)).find(|other| *other != day)
    }
}

impl FromStr for LocalDay {
    type Err = SaltError;

    fn from_str(text: &str) -> Result<Self, SaltError> {
        text.parse().map(Self).map_err(|_| SaltError::Day(text.to_owned()))
    }
}

impl fmt::Display for LocalDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl SaltKey {
    /// A key of sixteen random bytes.
    pub const fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// SipHash-2-4. Each field goes in behind its length, so that no two different lists of fields hash the same bytes.
    pub fn hash<const FIELDS: usize>(&self, fields: [&[u8]; FIELDS]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        for field in fields {
            hasher.write(&(field.len() as u64).to_le_bytes());
            hasher.write(field);
        }
        hasher.finish()
    }
}

/// Whoever knows the key can find out who a visitor was, so it never reaches a log.
impl fmt::Debug for SaltKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltKey(…)")
    }
}

impl Salts {
    /// What central sent, whole or not at all.
    pub fn try_new(salts: &[proto::uplink::Salt]) -> Result<Self, SaltError> {
        salts
            .iter()
            .map(|salt| {
                let key = salt.key.as_slice().try_into();
                let key = key.map_err(|_| SaltError::Key { day: salt.day.clone(), bytes: salt.key.len() })?;
                Ok((salt.day.parse()?, SaltKey(key)))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The salt of this day; `None` if central has not sent it, or has told the gateway to forget it.
    pub fn of(&self, day: LocalDay) -> Option<&SaltKey> {
        self.0.get(&day)
    }
}

#[cfg(test)]
mod tests;
