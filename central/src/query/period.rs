//! The instants a question is about, and their buckets. All timezone arithmetic is done here, so that one set of zone
//! rules decides where a day begins; the engine compares numbers.

use std::collections::HashMap;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, ToSpan, Zoned};

use super::QueryError;
use super::question::{Bucket, Dates, Named};

/// Points of one time series: a week by the minute, a year by the hour, 27 years by the day.
const BUCKETS_MAX: usize = 10_080;
const MINUTE: i64 = 60;
/// Every zone in use is a multiple of this away from UTC, before and after every change.
const QUARTER: i64 = 15 * MINUTE;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// From the first instant up to, not including, the end.
#[derive(Debug, Clone)]
pub(super) struct Period {
    timezone: TimeZone,
    start_s: u32,
    end_s: u32,
}

/// A time series' points. Each instant belongs to the last start at or before it. Several starts can share a label:
/// where clocks are set back, the minutes of an hour come twice.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// Unix seconds, ascending.
    pub(super) starts: Vec<u32>,
    /// The label of each start, as an index.
    pub(super) label_of: Vec<u32>,
    /// In order of time.
    pub(super) labels: Vec<String>,
}

impl Period {
    /// `first_event_minute` is where "all" begins; without one it is today.
    pub(super) fn resolve(
        dates: &Dates,
        timezone: TimeZone,
        now: Timestamp,
        first_event_minute: Option<u32>,
    ) -> Result<Self, QueryError> {
        let today = now.to_zoned(timezone.clone()).date();
        let first_of_month = today.first_of_month();
        let (first, last) = match *dates {
            Dates::Instants(first, last) => return Self::try_new(timezone, first.as_second(), last.as_second() + 1),
            Dates::Named(Named::Last24Hours) => {
                return Self::try_new(timezone, now.as_second() - DAY, now.as_second() + 1);
            }
            Dates::Days(first, last) => (first, last),
            Dates::Named(Named::Day) => (today, today),
            Dates::Named(Named::LastDays(days)) => (before(today, (days - 1).days())?, today),
            Dates::Named(Named::Month) => (first_of_month, today),
            Dates::Named(Named::LastMonths(months)) => (before(first_of_month, (months - 1).months())?, today),
            Dates::Named(Named::Year) => (today.first_of_year(), today),
            Dates::Named(Named::All) => {
                let first =
                    first_event_minute.and_then(|minute| Timestamp::from_second(i64::from(minute) * MINUTE).ok());
                (first.map_or(today, |first| first.to_zoned(timezone.clone()).date()), today)
            }
        };
        let start_s = start_of(first, &timezone)?;
        let end_s = start_of(last.tomorrow().map_err(out_of_range)?, &timezone)?;
        Self::try_new(timezone, start_s, end_s)
    }

    /// Unix seconds of the first instant.
    pub(super) fn start_s(&self) -> u32 {
        self.start_s
    }

    /// Unix seconds of the end, which is not included.
    pub(super) fn end_s(&self) -> u32 {
        self.end_s
    }

    /// First and last second, as ISO timestamps with the site's offset.
    pub(super) fn iso(&self) -> [String; 2] {
        [self.start_s, self.end_s - 1].map(|second| match zoned(i64::from(second), &self.timezone) {
            Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            Err(_) => second.to_string(),
        })
    }

    /// What `time` means here: few enough points to read, many enough to see something.
    pub(super) fn natural_bucket(&self) -> Bucket {
        // An hour longer for the days on which clocks are set back.
        match i64::from(self.end_s - self.start_s) - HOUR {
            length if length <= 2 * DAY => Bucket::Hour,
            length if length <= 40 * DAY => Bucket::Day,
            length if length <= 364 * DAY => Bucket::Week,
            _ => Bucket::Month,
        }
    }

    /// The points of a time series over the period.
    pub(super) fn buckets(&self, bucket: Bucket) -> Result<Buckets, QueryError> {
        let step = match bucket {
            Bucket::Minute => MINUTE,
            Bucket::Hour => QUARTER,
            Bucket::Day | Bucket::Week | Bucket::Month => return self.days(bucket),
        };
        let (start_s, end_s) = (i64::from(self.start_s), i64::from(self.end_s));
        let first = start_s - start_s % step;
        if bucket == Bucket::Minute && (end_s - first) / step > BUCKETS_MAX as i64 {
            return Err(too_many());
        }
        let mut buckets = Growing::default();
        for start in (first..end_s).step_by(step as usize) {
            let at = zoned(start, &self.timezone)?;
            let minute = if bucket == Bucket::Minute { at.minute() } else { 0 };
            buckets.add(start, format!("{} {:02}:{minute:02}:00", at.date(), at.hour()))?;
        }
        Ok(buckets.done)
    }

    fn days(&self, bucket: Bucket) -> Result<Buckets, QueryError> {
        let first = zoned(i64::from(self.start_s), &self.timezone)?.date();
        let last = zoned(i64::from(self.end_s) - 1, &self.timezone)?.date();
        let mut buckets = Growing::default();
        for date in first.series(1.day()).take_while(|date| *date <= last) {
            let label = match bucket {
                // A week that began before the period is shown by its first day in it.
                Bucket::Week => monday(date)?.max(first),
                Bucket::Month => date.first_of_month(),
                _ => date,
            };
            buckets.add(start_of(date, &self.timezone)?, label.to_string())?;
        }
        Ok(buckets.done)
    }

    fn try_new(timezone: TimeZone, start_s: i64, end_s: i64) -> Result<Self, QueryError> {
        match (u32::try_from(start_s), u32::try_from(end_s)) {
            (Ok(start_s), Ok(end_s)) => Ok(Self { timezone, start_s, end_s }),
            _ => Err(out_of_range(())),
        }
    }
}

#[derive(Default)]
struct Growing {
    done: Buckets,
    known: HashMap<String, u32>,
}

impl Growing {
    /// Instants follow each other; a label that goes on is not added again.
    fn add(&mut self, start: i64, label: String) -> Result<(), QueryError> {
        let start = u32::try_from(start.max(0)).map_err(out_of_range)?;
        let next = self.done.labels.len() as u32;
        let index = *self.known.entry(label).or_insert_with_key(|label| {
            self.done.labels.push(label.clone());
            next
        });
        if self.done.label_of.last() == Some(&index) {
            return Ok(());
        }
        // A day that a zone left out begins where the next one does: no instant is in it.
        if self.done.starts.last() == Some(&start) {
            self.done.starts.pop();
            self.done.label_of.pop();
        }
        self.done.starts.push(start);
        self.done.label_of.push(index);
        if self.done.starts.len() > BUCKETS_MAX { Err(too_many()) } else { Ok(()) }
    }
}

/// The first instant of a local day: midnight, or what comes right after a midnight that is skipped.
fn start_of(date: Date, timezone: &TimeZone) -> Result<i64, QueryError> {
    let start = date.to_zoned(timezone.clone()).map_err(out_of_range)?;
    Ok(start.timestamp().as_second())
}

fn monday(date: Date) -> Result<Date, QueryError> {
    let days = date.weekday().since(Weekday::Monday);
    date.checked_sub(SignedDuration::from_hours(24 * i64::from(days))).map_err(out_of_range)
}

fn before(date: Date, span: Span) -> Result<Date, QueryError> {
    date.checked_sub(span).map_err(out_of_range)
}

fn zoned(second: i64, timezone: &TimeZone) -> Result<Zoned, QueryError> {
    Ok(Timestamp::from_second(second).map_err(out_of_range)?.to_zoned(timezone.clone()))
}

fn out_of_range<E>(_: E) -> QueryError {
    QueryError::Invalid("`date_range` is out of range; dates lie between 1970-01-02 and 2106-02-06".to_owned())
}

fn too_many() -> QueryError {
    QueryError::Invalid(format!(
        "the time dimension has more than {BUCKETS_MAX} points over `date_range`; shorten it or take a coarser one: \
         time:hour, time:day, time:week or time:month"
    ))
}
