//! A stream of a run that does without a rule which central or the leader keeps: each of them hears what makes it pass over the
//! rule. In every other run a stream is what it is.

use std::sync::{Arc, Mutex, PoisonError};

use proto::uplink::central_frame::Frame as FromCentral;
use proto::uplink::region_frame::Frame as ToCentral;
use proto::uplink::{CentralFrame, FlushId, Leadership, RegionFrame};

use super::MemoryBooks;
use crate::redis::Redis;
use crate::rules::Kept;

/// Both directions of one stream.
pub(super) struct Without {
    rules: Kept,
    books: Arc<MemoryBooks>,
    redis: Arc<Mutex<Redis>>,
    /// The flush that is on its way, as its leader calls it, and as central was told.
    flush: Mutex<Option<(FlushId, FlushId)>>,
}

impl Without {
    pub(super) fn new(rules: Kept, books: Arc<MemoryBooks>, redis: Arc<Mutex<Redis>>) -> Self {
        Self { rules, books, redis, flush: Mutex::default() }
    }

    pub(super) fn to_central(&self, mut frame: RegionFrame) -> RegionFrame {
        let (epoch, term, next) = self.books.kept().standing();
        let epoch = (!self.rules.holds("7-epoch")).then_some(epoch);
        let term = (!self.rules.holds("7-term")).then_some(term);
        let next = (!self.rules.holds("7-manifest")).then_some(next);
        match &mut frame.frame {
            Some(ToCentral::Flush(chunk)) => {
                chunk.term = term.unwrap_or(chunk.term);
                let Some(id) = &mut chunk.id else { return frame };
                let mut flush = self.flush.lock().unwrap_or_else(PoisonError::into_inner);
                let (_, told) = flush.get_or_insert_with(|| {
                    let told = FlushId { epoch: epoch.unwrap_or(id.epoch), n: next.unwrap_or(id.n), ..id.clone() };
                    (id.clone(), told)
                });
                *id = told.clone();
            }
            Some(ToCentral::Durable(durable)) => {
                durable.epoch = epoch.unwrap_or(durable.epoch);
                durable.term = term.unwrap_or(durable.term);
            }
            Some(ToCentral::OpenEpoch(open)) => open.term = term.unwrap_or(open.term),
            Some(ToCentral::StandIn(question)) => {
                question.epoch = epoch.unwrap_or(question.epoch);
                question.term = term.unwrap_or(question.term);
            }
            _ => {}
        }
        frame
    }

    pub(super) fn to_region(&self, mut frame: CentralFrame) -> CentralFrame {
        match &mut frame.frame {
            Some(FromCentral::FlushAck(ack)) => {
                let flush = self.flush.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some((called, told)) = flush
                    && ack.id.as_ref() == Some(&told)
                {
                    ack.id = Some(called);
                }
            }
            Some(FromCentral::Leadership(leadership)) if !self.rules.holds("11-rebirth") => {
                // Whatever Redis holds passes for what central knows.
                let n = self.redis.lock().unwrap_or_else(PoisonError::into_inner).open_flush();
                let (term, epoch) = (leadership.term, leadership.epoch);
                *leadership = Leadership { term, epoch, next_flush: n, ..Leadership::default() };
            }
            Some(FromCentral::Configuration(configuration)) if !self.rules.holds("4-central") => {
                configuration.known.clear();
            }
            _ => {}
        }
        frame
    }
}
