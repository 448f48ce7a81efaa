//! From a transmission to a record: everything that is not a function of the batch's bytes is resolved here, before the log.
//!
//! [`validate`] decodes and judges; [`source`], [`user_agent`], [`bots`], [`data_centres`], [`geo`] and [`visitor`] resolve what the
//! bytes do not say; [`cardinality`] bounds how many things they name; [`in_flight`] holds the watermark back.

pub mod bots;
pub mod cardinality;
pub mod data_centres;
pub mod geo;
pub mod in_flight;
pub mod source;
pub mod user_agent;
pub mod validate;
pub mod visitor;

use std::net::IpAddr;
use std::sync::Arc;

use proto::agent::{Batch, Envelope, Reason};
use proto::record::{Record, RecordedEvent};
use proto::sid::Sid;
use proto::uplink::{Automated, PersonalData, VisitDimensions};

use crate::clock::Clock;
use crate::delivery::answer::Refusal;
use crate::door::sites::{Site, Sites, Table};
use crate::ingest::cardinality::{Cardinality, Replaced};
use crate::ingest::data_centres::DataCentres;
use crate::ingest::geo::{Geo, Place};
use crate::ingest::in_flight::{Admission, InFlight};
use crate::ingest::user_agent::{Agents, DeviceInfo};
use crate::ingest::validate::{BatchHead, Clocks, Remarks, Undecodable, ValidEvent, pace, personal_data};
use crate::ingest::visitor::{LocalDay, SaltKey, VisitorId};

/// Who is on the other end of a connection. Address and user agent are hashed and looked up; they are never stored.
#[derive(Clone, Debug)]
pub struct Client {
    /// Behind every trusted proxy.
    pub address: IpAddr,
    /// As sent.
    pub user_agent: String,
    /// As sent.
    pub origin: Option<String>,
    /// What the user agent says.
    pub device: Arc<DeviceInfo>,
}

/// What the stages look things up in; shared by the cores.
pub struct Ingest {
    /// As central last said.
    pub sites: Sites,
    /// The region's.
    pub clock: Clock,
    /// What is not applied yet.
    pub in_flight: InFlight,
    /// What sites have named today.
    pub cardinality: Cardinality,
    /// User agents.
    pub agents: Arc<Agents>,
    /// Where programs live.
    pub data_centres: Arc<DataCentres>,
    /// Places, if the operator has a database.
    pub geo: Option<Arc<Geo>>,
}

/// A batch that goes into the log.
#[derive(Debug)]
pub struct Accepted {
    /// Of the stream.
    pub sid: Sid,
    /// In the stream.
    pub seq: u32,
    /// What is logged.
    pub record: Record,
    /// All of it is dropped, for this reason.
    pub refused: Option<Reason>,
    /// What the site's rules found in what is counted.
    pub remarks: Remarks,
    /// What was beyond the site's limits.
    pub replaced: Replaced,
    /// Holds the watermark back.
    pub admission: Admission,
}

impl Ingest {
    /// Decode, identify, validate, enrich. `site` was admitted by `table`. In a box: a session that waits to hand it on holds no more.
    pub fn take(
        &self,
        table: &Table,
        site: &Site,
        client: &Client,
        envelope: &Envelope,
    ) -> Result<Box<Accepted>, Refusal> {
        // Registered before the clock is read: the watermark cannot pass an arrival that it has not seen.
        let admission = self.in_flight.admit(self.clock.now_ms());
        let arrived_ms = self.clock.now_ms();

        match validate::decode_batch(&envelope.batch) {
            Ok(batch) => {
                let (sid, seq) = identify(&batch.sid, batch.seq, batch.class, arrived_ms)?;
                let unavailable = || Refusal { sid: batch.sid.clone(), seq, reason: Reason::Unavailable };
                let clocks = Clocks { arrived_ms, sent_ms: envelope.sent_ms };
                let recorded = self.record(table, site, client, &batch, clocks).ok_or_else(unavailable)?;
                let Recorded { record, refused, remarks, replaced } = recorded;
                Ok(Box::new(Accepted { sid, seq, record, refused, remarks, replaced, admission }))
            }
            Err(Undecodable::Malformed) => Err(Refusal::of_frame(Reason::Malformed)),
            Err(Undecodable::InvalidUtf8(head)) => {
                let (sid, seq) = identify(&head.sid, head.seq, head.class, arrived_ms)?;
                let record = refused_record(site, &head, Reason::InvalidUtf8, arrived_ms);
                let (refused, remarks, replaced) = (Some(Reason::InvalidUtf8), Remarks::default(), Replaced::default());
                Ok(Box::new(Accepted { sid, seq, record, refused, remarks, replaced, admission }))
            }
        }
    }

    /// By what it shows that a program made the batch, if it does.
    fn program(&self, site: &Site, client: &Client, batch: &Batch) -> Option<Reason> {
        if client.device.bot {
            Some(Reason::Bot)
        } else if batch.automated && site.rules.automated == Automated::Drop {
            Some(Reason::Automated)
        } else if self.data_centres.contain(client.address) {
            Some(Reason::DataCentre)
        } else {
            pace::is_impossible(batch).then_some(Reason::ImpossibleTiming)
        }
    }

    /// `None` when central has sent no salt: a visitor cannot be told from another then.
    fn record(&self, table: &Table, site: &Site, client: &Client, batch: &Batch, clocks: Clocks) -> Option<Recorded> {
        let valid = match self.program(site, client, batch) {
            Some(reason) => validate::refuse(batch, reason),
            None => validate::validate(batch, clocks, &site.rules),
        };
        let mut events: Vec<RecordedEvent> = valid.events.iter().map(recorded).collect();
        let (mut visitor, mut visitor_across_midnight, mut replaced) = (0, 0, Replaced::default());
        if let Some(first) = valid.events.first() {
            let day = Day::of(table, site, first.at_ms, clocks.arrived_ms)?;
            (visitor, visitor_across_midnight) = day.visitors(site, client);
            replaced = self.cardinality.bound(day.salt, &site.name, day.day, &mut events);
        }
        let dimensions = valid
            .events
            .first()
            .map(|first| self.dimensions(site, client, first, valid.screen.clone(), valid.language));
        let record = Record {
            site: site.name.clone(),
            sid: batch.sid.clone(),
            seq: batch.seq,
            class: u32::from(batch.class == proto::agent::Class::Long as i32),
            arrived_ms: clocks.arrived_ms,
            visitor,
            events,
            dropped: valid.dropped,
            dimensions,
            visitor_across_midnight,
        };
        Some(Recorded { record, refused: valid.refused, remarks: valid.remarks, replaced })
    }

    fn dimensions(
        &self,
        site: &Site,
        client: &Client,
        first: &ValidEvent<'_>,
        screen: String,
        language: &str,
    ) -> VisitDimensions {
        let mut attributed = source::attribute(&first.page.url, first.referrer.as_deref());
        if site.rules.personal_data != PersonalData::Allow {
            personal_data::redact_dimensions(&mut attributed);
        }
        let place = self.geo.as_ref().map_or_else(Place::default, |geo| geo.look_up(client.address));
        let device = &client.device;
        VisitDimensions {
            country: place.country,
            region: place.region,
            city: place.city,
            browser: device.browser.clone(),
            browser_version: device.browser_version.clone(),
            os: device.os.clone(),
            os_version: device.os_version.clone(),
            device: device.device.as_str().to_owned(),
            screen,
            language: language.to_owned(),
            ..attributed
        }
    }
}

fn identify(sid: &[u8], seq: u32, class: i32, now_ms: u64) -> Result<(Sid, u32), Refusal> {
    validate::identity(sid, seq, class, now_ms).map_err(|reason| Refusal { sid: sid.to_vec(), seq, reason })
}

/// What a batch became.
struct Recorded {
    record: Record,
    refused: Option<Reason>,
    remarks: Remarks,
    replaced: Replaced,
}

/// The local day of a batch, and what its visitors are hashed with.
struct Day<'t> {
    day: LocalDay,
    salt: &'t SaltKey,
    /// Near midnight, of the other day.
    other: Option<&'t SaltKey>,
}

impl<'t> Day<'t> {
    /// The day of the event, so that a batch that comes late has the visitor it would have had. One whose salt is gone counts as the day
    /// of arrival.
    fn of(table: &'t Table, site: &Site, at_ms: u64, arrived_ms: u64) -> Option<Self> {
        let salted = |ms| {
            let day = LocalDay::at(ms, &site.timezone);
            table.salts.of(day).map(|salt| Self { day, salt, other: None })
        };
        let Some(day) = salted(at_ms) else { return salted(arrived_ms) };
        let other = LocalDay::across_midnight(at_ms, &site.timezone).and_then(|other| table.salts.of(other));
        Some(Self { other, ..day })
    }

    /// The visitor; and near midnight the same client by the other day, 0 otherwise.
    fn visitors(&self, site: &Site, client: &Client) -> (u64, u64) {
        let visitor = |salt| VisitorId::of(salt, &site.name, client.address, &client.user_agent).get();
        (visitor(self.salt), self.other.map_or(0, visitor))
    }
}

/// As it is logged.
pub fn recorded(event: &ValidEvent<'_>) -> RecordedEvent {
    RecordedEvent {
        name: (*event.name).to_owned(),
        at_ms: event.at_ms,
        hostname: event.page.hostname.clone(),
        path: event.page.path.clone(),
        props: event.props.iter().flat_map(|(key, value)| [(**key).to_owned(), (**value).to_owned()]).collect(),
        engaged_ms: event.engaged_ms,
        index: event.index,
    }
}

fn refused_record(site: &Site, head: &BatchHead, reason: Reason, arrived_ms: u64) -> Record {
    Record {
        site: site.name.clone(),
        sid: head.sid.clone(),
        seq: head.seq,
        class: u32::from(head.class == proto::agent::Class::Long as i32),
        arrived_ms,
        dropped: head.dropped(reason),
        ..Default::default()
    }
}
