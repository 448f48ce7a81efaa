//! A Redis that was lost is rebuilt: from what central has accepted, and from the logs of the gateways.
//!
//! The leader calls [`Link::begin_rebuild`], [`Link::wipe`], [`Link::restore_visits`] and [`Link::remember_all`], then
//! [`Link::open_rebuild`]. Gateways register and remember; meanwhile the leader asks [`Link::waiting`] and lets central's
//! rows [stand in](Link::stand_in) for those that were retired.

use proto::sid::Sid;
use proto::uplink::{Remembered, VisitRow};

use crate::apply::{BATCHES_MAX, Batch};
use crate::lead::Approval;
use crate::link::{Link, LinkError};
use crate::{Lsn, pack, visit};

/// Names and values in one call: it takes a millisecond or two.
const CALL_MAX: usize = 1000;

impl Link {
    /// From now on nobody is approved. `None`: a leader of a higher term was here.
    pub async fn begin_rebuild(&mut self, term: u64, epoch: u64) -> Result<Option<Approval>, LinkError> {
        let mut command = self.function("tideline_begin_rebuild");
        command.arg(term).arg(epoch);
        let begun = self.ordered(command).await?;
        Ok(begun.then(|| Approval { term, approved: format!("{epoch}:") }))
    }

    /// Deletes whatever the shard held. False: deposed.
    pub async fn wipe(&mut self, leader: &Approval) -> Result<bool, LinkError> {
        let (mut cursor, pattern) = (0u64, self.shard.key("*"));
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(CALL_MAX);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut self.connection).await?;
            for keys in keys.chunks(CALL_MAX) {
                let mut command = self.order("tideline_wipe", leader);
                command.arg(keys);
                if !self.ordered(command).await? {
                    return Ok(false);
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(true);
            }
        }
    }

    /// Visits that may still run. False: deposed.
    pub async fn restore_visits(&mut self, leader: &Approval, visits: &[VisitRow]) -> Result<bool, LinkError> {
        for visits in visits.chunks(CALL_MAX) {
            let mut packed = pack::array(2 * visits.len());
            for row in visits {
                let (key, state) = visit::pack(row).ok_or_else(|| {
                    LinkError::Unknown(format!("a visit of site {:?} that does not fit into Redis", row.site))
                })?;
                pack::raw(&mut packed, key.as_bytes());
                pack::raw(&mut packed, &state);
            }
            let mut command = self.order("tideline_restore", leader);
            command.arg(packed);
            if !self.ordered(command).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sets the bits of batches that were counted or dropped: central's rows take the place of a retired gateway's log.
    /// False: deposed.
    pub async fn remember_all(&mut self, leader: &Approval, batches: &[Remembered]) -> Result<bool, LinkError> {
        let mut named = Vec::new();
        for Remembered { class, sid, seqs } in batches {
            let sid = Sid::try_new(sid);
            let sid = sid.map_err(|_| LinkError::Unknown("a remembered batch without a valid sid".into()))?;
            named.extend(seqs.iter().map(|seq| Batch { class: *class, sid, seq: *seq, lsn: Lsn(0) }));
        }
        // Rows of one batch under two gateways: central may name it twice.
        named.sort_unstable_by_key(|batch| (batch.class, *batch.sid.as_bytes(), batch.seq));
        named.dedup_by_key(|batch| (batch.class, *batch.sid.as_bytes(), batch.seq));
        for batches in named.chunks(BATCHES_MAX) {
            let mut command = self.order("tideline_remember_all", leader);
            command.arg(pack::batches(batches));
            if !self.ordered(command).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Approves this process: gateways may register, and those that are waited for may remember. Nothing is applied, cut
    /// or deleted before the last of them has. `None`: deposed.
    pub async fn open_rebuild(
        &mut self,
        leader: &Approval,
        horizon_ms: u64,
        waiting: &[String],
        retired: &[String],
    ) -> Result<Option<Approval>, LinkError> {
        let mut command = self.order("tideline_open_rebuild", leader);
        command.arg(&self.run).arg(horizon_ms).arg(pack::strings(waiting)).arg(pack::strings(retired));
        let opened = self.ordered(command).await?;
        Ok(opened.then(|| Approval { term: leader.term, approved: format!("{}{}", leader.approved, self.run) }))
    }

    /// Gateways that have not remembered yet, in order.
    pub async fn waiting(&mut self) -> Result<Vec<String>, LinkError> {
        let key = self.shard.key("r");
        let mut waiting: Vec<String> = redis::cmd("SMEMBERS").arg(key).query_async(&mut self.connection).await?;
        waiting.sort_unstable();
        Ok(waiting)
    }

    /// How many batches the last rebuild has remembered.
    pub async fn remembered(&mut self) -> Result<u64, LinkError> {
        let key = self.shard.key("rn");
        let remembered: Option<u64> = redis::cmd("GET").arg(key).query_async(&mut self.connection).await?;
        Ok(remembered.unwrap_or(0))
    }

    /// These gateways were retired, and [`Link::remember_all`] has set the bits of their batches: the rebuild does not wait
    /// for them any more. False: deposed.
    pub async fn stand_in(&mut self, leader: &Approval, gateways: &[String]) -> Result<bool, LinkError> {
        let mut command = self.order("tideline_stand_in", leader);
        command.arg(gateways);
        self.ordered(command).await
    }

    fn order(&self, function: &str, leader: &Approval) -> redis::Cmd {
        let mut command = self.function(function);
        command.arg(leader.term).arg(&leader.approved);
        command
    }
}
