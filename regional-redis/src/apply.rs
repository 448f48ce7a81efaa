//! One step of the state machine: what a gateway asks the function `tideline_apply` to do.

use std::collections::HashMap;

use proto::uplink::Outcomes;

use crate::link::LinkError;
use crate::pack::{array, raw, uint};
use crate::{Link, Lsn, outcome, pack};

/// Batches that one call may name; the function refuses more.
pub const BATCHES_MAX: usize = 1000;

/// The records `prev + 1 ..= last` of a gateway's log, merged. Duplicates are not named.
#[derive(Debug, Default)]
pub struct Call {
    /// The last record of the call before.
    pub prev: Lsn,
    /// The last record of this one.
    pub last: Lsn,
    /// What gets its bit set.
    pub batches: Vec<Batch>,
    /// What moves a visit, in the order of the log.
    pub visits: Vec<VisitStep>,
    /// Fields of [`crate::counter::Counter`] and what to add.
    pub counters: HashMap<Vec<u8>, u64>,
    /// Members of [`crate::counter::Sighting`].
    pub uniques: Vec<Vec<u8>>,
}

/// The identity of a batch and where it stands in the log.
#[derive(Debug)]
pub struct Batch {
    /// Acceptance class, 0 or 1.
    pub class: u32,
    /// Of the stream.
    pub sid: proto::sid::Sid,
    /// In the stream.
    pub seq: u32,
    /// In the log.
    pub lsn: Lsn,
}

/// What one batch does to its visitor's visit.
#[derive(Debug)]
pub struct VisitStep {
    /// In the log.
    pub lsn: Lsn,
    /// [`crate::visit::visit_key`].
    pub key: String,
    /// Near midnight the same visitor's key under the other day's salt: a visit that runs under it goes on, under `key`.
    pub other_key: Option<String>,
    /// [`crate::visit::visit_id`]: the id of the visit if the batch opens one.
    pub id: [u8; 20],
    /// Event time of the earliest event.
    pub first_ms: u64,
    /// Event time of the latest event.
    pub last_ms: u64,
    /// To add.
    pub pageviews: u32,
    /// To add; pageviews are not among them.
    pub events: u32,
    /// To add.
    pub engaged_ms: u64,
    /// Time and path of the earliest pageview.
    pub entry: Option<(u64, String)>,
    /// Time and path of the latest pageview.
    pub exit: Option<(u64, String)>,
    /// An encoded `VisitDimensions`.
    pub dimensions: Vec<u8>,
}

/// What the function answered.
#[derive(Debug, PartialEq)]
pub enum Applied {
    /// Counted, now or by an earlier call of the same records. The gateway's name is left empty, as in its own log.
    Done(Outcomes),
    /// No leader has approved this Redis process yet, or it is being rebuilt.
    Wait,
    /// The incarnation is not the registered one.
    Fenced,
    /// Redis stands at this record: replay from the next.
    Gap(Lsn),
    /// These were counted before: call again without them.
    Duplicates(Vec<Lsn>),
    /// The call names this record's batch twice.
    Repeated(Lsn),
}

impl Link {
    /// Moves the shard over the records of `call`. `approved` is what [`Link::approved`] answered.
    pub async fn apply(
        &mut self,
        gateway: &str,
        incarnation: &str,
        approved: &str,
        now_ms: u64,
        call: &Call,
    ) -> Result<Applied, LinkError> {
        if !self.is_of_this_process(approved) {
            return Ok(Applied::Wait);
        }
        let mut command = self.function("tideline_apply");
        command.arg(gateway).arg(incarnation).arg(call.prev.0).arg(call.last.0).arg(approved).arg(now_ms);
        command
            .arg(pack::batches(&call.batches))
            .arg(visits(&call.visits))
            .arg(counters(&call.counters))
            .arg(pack::strings(&call.uniques));
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "OK" => {
                let last = call.last.to_string();
                Ok(Applied::Done(outcome::unpack(last.as_bytes(), reply.bytes(0)?)?))
            }
            "WAIT" => Ok(Applied::Wait),
            "FENCED" => Ok(Applied::Fenced),
            "GAP" => Ok(Applied::Gap(reply.lsn(0)?)),
            "DUPS" => (0..reply.rest.len()).map(|i| reply.lsn(i)).collect::<Result<_, _>>().map(Applied::Duplicates),
            "REPEAT" => Ok(Applied::Repeated(reply.lsn(0)?)),
            _ => Err(reply.unknown()),
        }
    }
}

fn visits(steps: &[VisitStep]) -> Vec<u8> {
    let mut out = array(10 * steps.len());
    for step in steps {
        uint(&mut out, step.lsn.0);
        raw(&mut out, step.key.as_bytes());
        raw(&mut out, &step.id);
        uint(&mut out, step.first_ms);
        uint(&mut out, step.last_ms);
        out.extend(array(3));
        for value in [u64::from(step.pageviews), u64::from(step.events), step.engaged_ms] {
            uint(&mut out, value);
        }
        timed_page(&mut out, step.entry.as_ref());
        timed_page(&mut out, step.exit.as_ref());
        raw(&mut out, &step.dimensions);
        raw(&mut out, step.other_key.as_deref().unwrap_or_default().as_bytes());
    }
    out
}

fn timed_page(out: &mut Vec<u8>, page: Option<&(u64, String)>) {
    match page {
        None => out.extend(array(0)),
        Some((at_ms, path)) => {
            out.extend(array(2));
            uint(out, *at_ms);
            raw(out, path.as_bytes());
        }
    }
}

fn counters(counters: &HashMap<Vec<u8>, u64>) -> Vec<u8> {
    let mut out = array(2 * counters.len());
    for (field, increment) in counters {
        raw(&mut out, field);
        uint(&mut out, *increment);
    }
    out
}
