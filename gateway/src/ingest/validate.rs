//! What of a batch is counted. Decode ([`decode_frame`] or [`decode_envelope`], [`decode_batch`]), then [`identity`], then
//! [`validate`]: past this nothing is checked again, and every event that is not counted has exactly one [`Reason`].
//!
//! What holds for everybody is here; what a site adds is in its [`Rules`]: a [`schema`], and what becomes of [`personal_data`].

mod decode;
mod notice;
pub mod pace;
pub mod personal_data;
mod reason;
mod rules;
mod schema;
mod strings;

use std::sync::Arc;

use proto::{
    agent::{Batch, Class, Event, GivenUp, Reason},
    limits,
    record::Dropped,
    sid::Sid,
    uplink::PersonalData,
};
use url::Url;

use crate::ingest::cardinality::OTHER;

use schema::Breach;
use strings::{Control, Judged, Strings};

pub use decode::{BatchHead, Undecodable, decode_batch, decode_envelope, decode_frame};
pub use notice::{NOTICES_MAX, Notice};
pub use reason::{explain, is_final, label};
pub use rules::Rules;

/// An event may be this much older than its arrival: as long as the longest acceptance of a batch.
const EVENT_AGE_MS_MAX: i128 = limits::ACCEPT_LONG_MS as i128;
/// An event may be this much ahead of its arrival, by the device's clock; it counts as just arrived.
const EVENT_AHEAD_MS_MAX: i128 = 5 * 60 * 1000;
/// Bytes that the events of one batch may take in its record. References make a small batch stand for much: 256 KiB of them
/// could be written out as 260 MB, in the log and in every queue before Redis. An agent's batch of 16 KiB stands for less. Central
/// takes 64 KiB more in a frame: what else is in a record is below 16 KiB, or a batch could never leave as a raw row.
const EVENTS_BYTES_MAX: usize = 1024 * 1024;
/// What an event takes beside its strings: a tag and up to three bytes of length for itself and for name, hostname and path, and
/// tags and numbers of up to ten bytes for its time, five for its engagement, three for its place in the batch.
const EVENT_FRAME_BYTES: usize = 4 * 4 + 11 + 6 + 4;
/// A property's tag and length.
const PROP_FRAME_BYTES: usize = 3;
/// An agent reports engagement every few seconds. A page in use for longer than this between two events was not in use.
const ENGAGED_MS_MAX: u32 = 60 * 60 * 1000;
/// Bytes of a language tag: the longest that RFC 5646 asks implementations to hold.
const LANGUAGE_BYTES_MAX: usize = 35;
/// CSS pixels: no screen is larger.
const SCREEN_PIXELS_MAX: u32 = 32_767;

/// The clocks by which event times are corrected, Unix ms.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// The region's clock when the transmission came in.
    pub arrived_ms: u64,
    /// The device's clock when it left (`Envelope.sent_ms`).
    pub sent_ms: u64,
}

/// A batch, taken apart into what is counted and what is not.
#[derive(Debug)]
pub struct Validated<'a> {
    /// Why the batch as a whole is refused, finally. Then there are no events, and all that it held is in `dropped`.
    pub refused: Option<Reason>,
    /// In the order of the batch.
    pub events: Vec<ValidEvent<'a>>,
    /// The other events by reason, and (with `given_up`) what the agent gave up since its last batch.
    pub dropped: Vec<Dropped>,
    /// "1280x720"; empty if the batch names none.
    pub screen: String,
    /// A BCP 47 tag; empty if the batch names none.
    pub language: &'a str,
    /// What else is to be told of its events.
    pub remarks: Remarks,
}

/// What the site's rules found in events that are counted; and, in debug mode, what its pages are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Events that an enforced schema would have dropped, by reason.
    pub observed: Vec<(Reason, u32)>,
    /// Events in which personal data was redacted.
    pub redacted: u32,
    /// In the order of the batch, [`NOTICES_MAX`] at most.
    pub notices: Vec<Notice>,
}

/// A text of an event.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Its bytes in the batch.
    AsSent(&'a str),
    /// Without what is not kept.
    Changed(Arc<str>),
}

/// An event that is counted.
#[derive(Debug)]
pub struct ValidEvent<'a> {
    /// Its place in the batch: with sid and seq, its identity.
    pub index: u32,
    /// [`limits::PAGEVIEW`], or what the page called it.
    pub name: Text<'a>,
    /// When it happened by the region's clock, Unix ms; never after its arrival.
    pub at_ms: u64,
    /// Where it happened. Events of one page share it.
    pub page: Arc<Page>,
    /// Whence the visitor came to the page.
    pub referrer: Option<Arc<Url>>,
    /// Key and value.
    pub props: Vec<(Text<'a>, Text<'a>)>,
    /// Time the page was in use since the event before.
    pub engaged_ms: u32,
}

/// A page's URL, absolute, http or https.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// All of it: the query holds the campaign.
    pub url: Url,
    /// In lower case, international names in their ASCII form.
    pub hostname: String,
    /// What is counted as the page; see [`crate::ingest::source::path`].
    pub path: String,
}

impl ValidEvent<'_> {
    /// What it takes in a record at most, encoded, whatever of it becomes [`OTHER`].
    fn recorded_bytes(&self) -> usize {
        let bytes = |text: &str| text.len().max(OTHER.len());
        let prop = |(key, value): &(Text<'_>, Text<'_>)| bytes(key) + bytes(value) + 2 * PROP_FRAME_BYTES;
        let strings = bytes(&self.name) + self.page.hostname.len() + bytes(&self.page.path);
        EVENT_FRAME_BYTES + strings + self.props.iter().map(prop).sum::<usize>()
    }

    /// A pageview; everything else is an event.
    pub fn is_pageview(&self) -> bool {
        *self.name == *limits::PAGEVIEW
    }
}

/// Who the batch is, if it can be remembered: sid and seq are well formed and the sid is within acceptance.
///
/// An unknown class counts as the shorter one. A refusal here is not final: nothing of the batch is remembered.
pub fn identity(sid: &[u8], seq: u32, class: i32, now_ms: u64) -> Result<(Sid, u32), Reason> {
    let sid = Sid::try_new(sid).map_err(|_| Reason::InvalidSid)?;
    if !(1..=limits::SEQ_MAX).contains(&seq) {
        return Err(Reason::InvalidSeq);
    }
    let accepted_ms = match Class::try_from(class) {
        Ok(Class::Long) => limits::ACCEPT_LONG_MS,
        Ok(Class::Short) | Err(_) => limits::ACCEPT_SHORT_MS,
    };
    if sid.stamp_ms() > now_ms.saturating_add(limits::SID_AHEAD_MS) {
        return Err(Reason::SidInFuture);
    }
    if now_ms > sid.stamp_ms().saturating_add(accepted_ms) {
        return Err(Reason::SidExpired);
    }
    Ok((sid, seq))
}

/// Takes a batch apart. `events.len()` and the events in `dropped` that are not `given_up` add up to the batch's events.
pub fn validate<'a>(batch: &'a Batch, clocks: Clocks, rules: &Rules) -> Validated<'a> {
    let mut dropped = Tally::of_given_up(batch);
    let mut validated = Validated::empty(batch);
    if batch.events.len() > limits::EVENTS_MAX {
        validated.refused = Some(Reason::TooManyEvents);
        dropped.events(Reason::TooManyEvents, u32::try_from(batch.events.len()).unwrap_or(u32::MAX));
    } else if batch.events.is_empty() && batch.given_up.is_empty() {
        validated.refused = Some(Reason::EmptyBatch);
    } else {
        let mut strings = Strings::new(&batch.strings, rules.personal_data);
        let mut at_ms = i128::from(batch.base_ms); // wide enough for 10,000 deltas of 64 bits
        validated.events.reserve(batch.events.len());
        let mut recorded_bytes = 0;
        for (index, event) in (0..).zip(&batch.events) {
            at_ms += i128::from(event.delta_ms);
            let ruled = valid_event(index, event, at_ms, clocks, rules, &mut strings).and_then(|ruled| {
                recorded_bytes += ruled.event.recorded_bytes();
                if recorded_bytes <= EVENTS_BYTES_MAX { Ok(ruled) } else { Err(Reason::RecordTooLarge.into()) }
            });
            match ruled {
                Ok(Ruled { event, observed, redacted }) => {
                    validated.events.push(event);
                    validated.remarks.counted(index, observed, redacted, rules.debug);
                }
                Err(fault) => {
                    dropped.events(fault.reason, 1);
                    validated.remarks.notice(rules.debug, || Notice::dropped(index, fault.reason, fault.breach));
                }
            }
        }
    }
    validated.dropped = dropped.rows;
    validated
}

/// A batch that is not judged event by event: all of it is dropped for one reason, what the agent gave up is kept.
pub fn refuse(batch: &Batch, reason: Reason) -> Validated<'_> {
    let mut dropped = Tally::of_given_up(batch);
    dropped.events(reason, u32::try_from(batch.events.len()).unwrap_or(u32::MAX));
    Validated { refused: Some(reason), dropped: dropped.rows, ..Validated::empty(batch) }
}

impl<'a> Validated<'a> {
    fn empty(batch: &'a Batch) -> Self {
        Self {
            refused: None,
            events: Vec::new(),
            dropped: Vec::new(),
            screen: screen(batch),
            language: language(batch),
            remarks: Remarks::default(),
        }
    }
}

impl BatchHead {
    /// The ledger rows of a batch that is refused whole: all its events under this reason, and what the agent gave up.
    pub fn dropped(&self, reason: Reason) -> Vec<Dropped> {
        let mut dropped = Tally::default();
        self.given_up.iter().for_each(|given_up| dropped.given_up(given_up));
        dropped.events(reason, self.events);
        dropped.rows
    }
}

/// An event that is counted, and what the site's rules found in it.
struct Ruled<'a, 's> {
    event: ValidEvent<'a>,
    observed: Option<Breach<'s>>,
    redacted: bool,
}

/// Why an event is not counted.
struct Fault<'s> {
    reason: Reason,
    /// If it is the site's schema.
    breach: Option<Breach<'s>>,
}

impl From<Reason> for Fault<'_> {
    fn from(reason: Reason) -> Self {
        Self { reason, breach: None }
    }
}

/// The checks in this order, so that an event wrong in two ways has the one reason that comes first: what holds for everybody, then
/// the site's schema, of what the page sent, then personal data.
fn valid_event<'a, 's>(
    index: u32,
    event: &Event,
    device_ms: i128,
    clocks: Clocks,
    rules: &'s Rules,
    strings: &mut Strings<'a>,
) -> Result<Ruled<'a, 's>, Fault<'s>> {
    strings.at(event.name)?;
    let url = strings.at(event.url)?;
    let referrer = strings.at(event.referrer)?;
    event.props.iter().try_for_each(|&prop| strings.at(prop).map(drop))?;
    let page = url.and_then(|url| strings.page(url));
    let referrer = referrer.and_then(|referrer| strings.referrer(referrer));
    let name = event_name(event.name, strings).ok_or(Reason::InvalidEventName)?;
    let page = page.ok_or(Reason::InvalidUrl)?;
    let props = props(event, strings).ok_or(Reason::InvalidProps)?;
    let at_ms = corrected(device_ms, clocks)?;

    let sent = props.iter().map(|(key, value)| (&*key.sent, value.map_or("", |value| &*value.sent)));
    let breach = rules.schema.as_ref().and_then(|schema| Some((schema.enforced, schema.breach(&name.sent, sent)?)));
    let observed = match breach {
        Some((true, breach)) => return Err(Fault { reason: breach.reason(), breach: Some(breach) }),
        breach => breach.map(|(_, breach)| breach),
    };
    let redacted = name.personal
        || page.personal
        || referrer.as_ref().is_some_and(|referrer| referrer.personal)
        || props.iter().any(|(key, value)| key.personal || value.is_some_and(|value| value.personal));
    if redacted && rules.personal_data == PersonalData::Drop {
        return Err(Reason::PersonalData.into());
    }
    let value = |value: &Judged<'a>| value.kept(limits::PROP_VALUE_BYTES_MAX);
    let event = ValidEvent {
        index,
        name: name.kept(limits::EVENT_NAME_BYTES_MAX),
        at_ms,
        page: page.what,
        referrer: referrer.map(|referrer| referrer.what),
        props: props
            .into_iter()
            .map(|(key, of)| (key.kept(limits::PROP_KEY_BYTES_MAX), of.map_or(Text::AsSent(""), value)))
            .collect(),
        engaged_ms: event.engaged_ms.min(ENGAGED_MS_MAX),
    };
    Ok(Ruled { event, observed, redacted })
}

fn event_name<'s, 'a>(reference: u32, strings: &'s Strings<'a>) -> Option<&'s Judged<'a>> {
    let name = strings.text(reference, limits::EVENT_NAME_BYTES_MAX)?;
    (!name.sent.is_empty() && name.control == Control::None).then_some(name)
}

/// Keys, and values if they are not empty.
type Props<'s, 'a> = Vec<(&'s Judged<'a>, Option<&'s Judged<'a>>)>;

fn props<'s, 'a>(event: &Event, strings: &'s Strings<'a>) -> Option<Props<'s, 'a>> {
    let (pairs, rest) = event.props.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > limits::PROPS_MAX {
        return None;
    }
    let prop = |&[key, value]: &[u32; 2]| {
        let key = strings.text(key, limits::PROP_KEY_BYTES_MAX)?;
        let is_key = !key.sent.is_empty() && key.control == Control::None;
        let value = match value {
            0 => None,
            value => Some(strings.text(value, limits::PROP_VALUE_BYTES_MAX)?),
        };
        let is_value = value.is_none_or(|value| value.control != Control::Other);
        (is_key && is_value).then_some((key, value))
    };
    pairs.iter().map(prop).collect()
}

/// The event's time by the region's clock: as long before the arrival as it was, on the device, before the transmission.
fn corrected(device_ms: i128, clocks: Clocks) -> Result<u64, Reason> {
    let arrived_ms = i128::from(clocks.arrived_ms);
    let at_ms = arrived_ms - (i128::from(clocks.sent_ms) - device_ms);
    if !(arrived_ms - EVENT_AGE_MS_MAX..=arrived_ms + EVENT_AHEAD_MS_MAX).contains(&at_ms) {
        return Err(Reason::EventTimeOutOfRange);
    }
    u64::try_from(at_ms.min(arrived_ms)).map_err(|_| Reason::EventTimeOutOfRange)
}

fn screen(batch: &Batch) -> String {
    let sides = [batch.screen_width, batch.screen_height];
    if sides.iter().all(|side| (1..=SCREEN_PIXELS_MAX).contains(side)) {
        format!("{}x{}", sides[0], sides[1])
    } else {
        String::new()
    }
}

/// Not worth refusing anything for: what is not a tag is no tag.
fn language(batch: &Batch) -> &str {
    let tag = strings::at(&batch.strings, batch.language).ok().flatten().unwrap_or_default();
    let is_tag =
        tag.len() <= LANGUAGE_BYTES_MAX && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_tag { tag } else { "" }
}

impl Remarks {
    fn counted(&mut self, index: u32, observed: Option<Breach<'_>>, redacted: bool, debug: bool) {
        if let Some(breach) = observed {
            let reason = breach.reason();
            match self.observed.iter_mut().find(|(of, _)| *of == reason) {
                Some((_, events)) => *events += 1,
                None => self.observed.push((reason, 1)),
            }
            self.notice(debug, || Notice::observed(index, breach));
        }
        if redacted {
            self.redacted += 1;
            self.notice(debug, || Notice::redacted(index));
        }
    }

    fn notice(&mut self, debug: bool, notice: impl FnOnce() -> Notice) {
        if debug && self.notices.len() < NOTICES_MAX {
            self.notices.push(notice());
        }
    }
}

/// Counts of what is not counted: one row a reason, few enough to search through.
#[derive(Default)]
struct Tally {
    rows: Vec<Dropped>,
}

impl Tally {
    fn of_given_up(batch: &Batch) -> Self {
        let mut tally = Self::default();
        batch.given_up.iter().for_each(|given_up| tally.given_up(given_up));
        tally
    }

    fn events(&mut self, reason: Reason, events: u32) {
        self.add(Dropped { reason: reason as u32, events, batches: 0, given_up: false });
    }

    /// The ledger's reason 0 is "counted", and an unknown number could be any of four billion: an agent that gives either
    /// has sent something malformed.
    fn given_up(&mut self, given_up: &GivenUp) {
        let known = Reason::try_from(given_up.reason).ok().filter(|&reason| reason != Reason::Unspecified);
        self.add(Dropped {
            reason: known.unwrap_or(Reason::Malformed) as u32,
            events: given_up.events,
            batches: given_up.batches,
            given_up: true,
        });
    }

    fn add(&mut self, more: Dropped) {
        match self.rows.iter_mut().find(|row| (row.reason, row.given_up) == (more.reason, more.given_up)) {
            Some(row) => {
                row.events = row.events.saturating_add(more.events);
                row.batches = row.batches.saturating_add(more.batches);
            }
            None => self.rows.push(more),
        }
    }
}

#[cfg(test)]
mod tests;
