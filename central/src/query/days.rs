//! A range of days in UTC, as ledger and audit count them.

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

use super::QueryError;

const DAY_S: u64 = 24 * 60 * 60;
/// Without a first day: this many days up to the last one.
const DEFAULT_DAYS: u32 = 30;
/// The last day that a table's times can hold whole.
const LAST_MAX: u32 = u32::MAX / DAY_S as u32 - 1;

/// Days since 1970-01-01 UTC, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days {
    pub(super) first: u32,
    pub(super) last: u32,
}

impl Days {
    /// From texts such as `2026-11-22`. Without a last day it is today; without a first one 30 days end with the last.
    pub fn try_new(from: Option<&str>, to: Option<&str>, now: Timestamp) -> Result<Self, QueryError> {
        let today = u32::try_from(now.as_second().max(0) as u64 / DAY_S).unwrap_or(LAST_MAX);
        let last = to.map(|text| day("to", text)).transpose()?.unwrap_or(today);
        let first = from.map(|text| day("from", text)).transpose()?;
        let first = first.unwrap_or_else(|| last.saturating_sub(DEFAULT_DAYS - 1));
        if first > last {
            return Err(QueryError::Invalid("`from` is after `to`; the earlier day comes first".to_owned()));
        }
        Ok(Self { first, last })
    }

    /// Those of them that begin at this instant, Unix ms, or later.
    pub(super) fn beginning_from(self, from_ms: u64) -> Option<Self> {
        let first = u32::try_from(from_ms.div_ceil(DAY_S * 1000)).unwrap_or(u32::MAX).max(self.first);
        (first <= self.last).then_some(Self { first, last: self.last })
    }

    /// One after the other, at most this many together.
    pub(super) fn slices(self, days_max: u32) -> impl Iterator<Item = Self> {
        let slice = move |first: u32| Self { first, last: self.last.min(first.saturating_add(days_max - 1)) };
        (self.first..=self.last).step_by(days_max as usize).map(slice)
    }

    /// Unix seconds of the first instant.
    pub(super) fn start(self) -> u64 {
        u64::from(self.first) * DAY_S
    }

    /// Unix seconds of the first instant after it.
    pub(super) fn end(self) -> u64 {
        (u64::from(self.last) + 1) * DAY_S
    }

    /// A day as a date.
    pub(super) fn text(day: u32) -> String {
        let start = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * i64::from(day));
        start.to_zoned(TimeZone::UTC).date().to_string()
    }
}

fn day(field: &str, text: &str) -> Result<u32, QueryError> {
    let wrong = || {
        QueryError::Invalid(format!(
            "`{field}` is {text:?}; it is a day such as 2026-11-22, from 1970-01-01 to 2106-02-05"
        ))
    };
    let date = (text.len() == 10).then(|| text.parse::<Date>().ok()).flatten().ok_or_else(wrong)?;
    let start = date.to_zoned(TimeZone::UTC).map_err(|_| wrong())?.timestamp();
    let day = u64::try_from(start.as_second()).map_err(|_| wrong())? / DAY_S;
    u32::try_from(day).ok().filter(|day| *day <= LAST_MAX).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_strictly_and_default_to_the_last_thirty() {
        let now = "2026-11-22T13:30:00Z".parse().unwrap();
        let days = |from, to| Days::try_new(from, to, now);
        let last = days(None, None).unwrap();
        assert_eq!((Days::text(last.first), Days::text(last.last)), ("2026-10-24".into(), "2026-11-22".into()));
        let one = days(Some("2026-11-01"), Some("2026-11-01")).unwrap();
        assert_eq!(one.end() - one.start(), DAY_S);
        for wrong in [(Some("2026-11-02"), Some("2026-11-01")), (Some("yesterday"), None), (None, Some("1969-12-31"))] {
            assert!(days(wrong.0, wrong.1).is_err(), "{wrong:?}");
        }
        assert!(days(None, Some("2106-02-07")).is_err());
    }

    #[test]
    fn slices_are_all_days_once() {
        let days = Days { first: 10, last: 20 };
        let slices: Vec<_> = days.slices(7).map(|slice| (slice.first, slice.last)).collect();
        assert_eq!(slices, [(10, 16), (17, 20)]);
        let one = Days { first: 10, last: 10 };
        assert_eq!(one.slices(7).collect::<Vec<_>>(), [one]);
    }

    #[test]
    fn only_whole_days_begin_later() {
        let days = Days { first: 10, last: 12 };
        let first = |from_ms| days.beginning_from(from_ms).map(|days| days.first);
        assert_eq!((first(0), first(11 * DAY_S * 1000), first(11 * DAY_S * 1000 + 1)), (Some(10), Some(11), Some(12)));
        assert_eq!((first(12 * DAY_S * 1000 + 1), first(u64::MAX)), (None, None));
    }
}
