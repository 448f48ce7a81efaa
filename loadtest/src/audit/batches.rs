//! Every acknowledged batch against those that central lists: one by one, where sums could hide a loss behind a repeat.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    stats_api::{Counted, Ledger, StatsApi, StatsApiError},
    tally::Receipt,
};

/// Between two lists. A list of a million batches takes central seconds.
const POLL: Duration = Duration::from_secs(2);
/// Batches that are named in a report, at most.
const NAMED_MAX: usize = 10;

/// The comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BatchAudit {
    /// Batches acknowledged.
    pub acknowledged: u64,
    /// Batches of this run that central lists, whether their acknowledgement arrived or not.
    pub listed: u64,
    /// Listed more than once: never.
    pub repeated: u64,
    /// Acknowledged and not listed: never.
    pub missing: u64,
    /// Listed with other events than the agent sent: never.
    pub different: u64,
    /// Some of those, as `sid/seq`.
    pub examples: Vec<String>,
    /// What the ledger says of the run. Its duplicates are what was sent twice and counted once.
    pub ledger: Ledger,
}

impl BatchAudit {
    /// What was acknowledged against what is listed.
    pub fn of(receipts: &[Receipt], listed: &[Counted], ledger: Ledger) -> Self {
        let sids: HashSet<[u8; 16]> = receipts.iter().map(|receipt| receipt.sid).collect();
        let mut audit = Self { acknowledged: receipts.len() as u64, ledger, ..Self::default() };
        let mut events: HashMap<([u8; 16], u32), u64> = HashMap::with_capacity(listed.len());
        for counted in listed.iter().filter(|counted| sids.contains(&counted.sid)) {
            audit.listed += 1;
            if events.insert((counted.sid, counted.seq), counted.events + counted.dropped).is_some() {
                audit.repeated += 1;
                audit.name(&counted.sid, counted.seq);
            }
        }
        for &Receipt { sid, seq, events: sent } in receipts {
            let wrong = match events.get(&(sid, seq)) {
                None => &mut audit.missing,
                Some(&counted) if counted != u64::from(sent) => &mut audit.different,
                Some(_) => continue,
            };
            *wrong += 1;
            audit.name(&sid, seq);
        }
        audit
    }

    /// Whether every acknowledged batch is listed once, with all of its events.
    pub fn is_right(&self) -> bool {
        self.repeated == 0 && self.missing == 0 && self.different == 0
    }

    fn name(&mut self, sid: &[u8; 16], seq: u32) {
        if self.examples.len() < NAMED_MAX {
            let sid: String = sid.iter().map(|byte| format!("{byte:02x}")).collect();
            self.examples.push(format!("{sid}/{seq}"));
        }
    }
}

/// Looks until every acknowledged batch is listed, or until `limit` has passed: rows come up behind the counts.
/// `before`: the ledger before the run.
pub async fn audit(
    api: &StatsApi,
    receipts: &[Receipt],
    since_ms: u64,
    before: &Ledger,
    limit: Duration,
) -> Result<BatchAudit, StatsApiError> {
    let begin = Instant::now();
    loop {
        let late = begin.elapsed() >= limit;
        match look(api, receipts, since_ms, before).await {
            Ok(audit) if late || audit.is_right() || audit.repeated > 0 => return Ok(audit),
            Err(error) if late => return Err(error),
            Err(error) => tracing::warn!(%error, "central did not list its batches, asking again"),
            Ok(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn look(
    api: &StatsApi,
    receipts: &[Receipt],
    since_ms: u64,
    before: &Ledger,
) -> Result<BatchAudit, StatsApiError> {
    let listed = api.batches(since_ms).await?;
    Ok(BatchAudit::of(receipts, &listed, api.ledger().await?.since(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(seq: u32) -> Receipt {
        Receipt { sid: [1; 16], seq, events: 3 }
    }

    fn counted(sid: u8, seq: u32, events: u64, dropped: u64) -> Counted {
        Counted { sid: [sid; 16], seq, events, dropped }
    }

    #[test]
    fn every_acknowledged_batch_is_listed_once_with_its_events() {
        let receipts = [receipt(1), receipt(2)];
        // Central has a third, whose acknowledgement was lost, and one of somebody else.
        let listed = [counted(1, 1, 3, 0), counted(1, 2, 1, 2), counted(1, 3, 3, 0), counted(9, 1, 1, 0)];
        let audit = BatchAudit::of(&receipts, &listed, Ledger::default());
        assert!(audit.is_right());
        assert_eq!((audit.acknowledged, audit.listed), (2, 3));
    }

    #[test]
    fn a_loss_is_not_hidden_by_a_repeat() {
        let receipts = [receipt(1), receipt(2), receipt(3)];
        let listed = [counted(1, 1, 3, 0), counted(1, 1, 3, 0), counted(1, 3, 2, 0)];
        let audit = BatchAudit::of(&receipts, &listed, Ledger::default());
        assert!(!audit.is_right());
        assert_eq!((audit.repeated, audit.missing, audit.different), (1, 1, 1));
        let sid = "01".repeat(16);
        assert_eq!(audit.examples, [format!("{sid}/1"), format!("{sid}/2"), format!("{sid}/3")]);
    }
}
