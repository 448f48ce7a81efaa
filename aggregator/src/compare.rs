//! A Redis counts only after it was compared with central: one that was rolled back, replaced or emptied would count
//! batches again that central has, or take numbers that central gave away.

use std::collections::{HashMap, HashSet};

use proto::uplink::Leadership;
use regional_redis::{Approved, Lsn, Position};

/// Of a shard that is new.
const FIRST_EPOCH: u64 = 1;

/// What the comparison says.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what central knows. If a rebuild goes on in it, that goes on.
    Counts,
    /// It is rebuilt under a new epoch, from what central has accepted and from the logs of the gateways.
    Behind(Behind),
}

/// Why a Redis may not go on as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Behind {
    #[error("it is empty, and central has seen its shard (next flush {next_flush}, open flush {open_flush})")]
    Empty { next_flush: u64, open_flush: u64 },
    #[error("it is of epoch {redis}, central of epoch {central}")]
    Epoch { redis: u64, central: u64 },
    #[error("the preparation of a rebuild under epoch {epoch} did not come to its end")]
    Unprepared { epoch: u64 },
    #[error("it was restarted in the middle of a rebuild that waits for {waiting} gateways")]
    Interrupted { waiting: usize },
    #[error("its open flush is {redis}, central knows of {central}")]
    OpenFlush { redis: u64, central: u64 },
    #[error("gateway {gateway} stands at record {redis}, central knows it at {central}")]
    Applied { gateway: String, redis: Lsn, central: Lsn },
    #[error("it has never heard of gateway {gateway}, which central knows")]
    Gateway { gateway: String },
}

/// This Redis and what central knows of the region do not belong together. Nothing is approved, and gateways go on refusing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Mismatch {
    #[error(
        "this is the Redis of region {owner:?}, and this aggregator's region is {region:?}: connect the two that belong together. \
         To rebuild it for another region would destroy what {owner:?} has counted"
    )]
    Region { owner: String, region: String },
    #[error(
        "central is older than this Redis: it waits for flush {central}, and Redis has settled all before {redis}; \
         restore the newest copy of central's data folder"
    )]
    Flush { redis: u64, central: u64 },
    #[error(
        "central is older than this Redis: it is of epoch {central}, and Redis of epoch {redis}; restore the newest copy \
         of central's data folder"
    )]
    Epoch { redis: u64, central: u64 },
    #[error(
        "central has accepted records of gateway {gateway} and names it neither as one to wait for nor as retired: a rebuild \
         would count them again"
    )]
    Nobodys { gateway: String },
}

/// Whether the Redis that stands at `redis` may count for what `central` knows.
pub fn compare(central: &Leadership, redis: &Position) -> Result<Verdict, Mismatch> {
    let Leadership { next_flush, open_flush, .. } = *central;
    let Some(epoch) = redis.epoch else {
        let untouched = redis.open_flush == 0 && redis.applied.is_empty() && redis.registered.is_empty();
        let never_heard_of = next_flush == 0 && open_flush == 0 && central.durable.is_empty();
        // A later epoch was opened for a rebuild: of what was before it, nothing need be left in these.
        let never_rebuilt = central.epoch <= FIRST_EPOCH;
        let fresh =
            untouched && never_heard_of && never_rebuilt && central.accepted.is_empty() && central.gateways.is_empty();
        let empty = Behind::Empty { next_flush, open_flush };
        return Ok(if fresh { Verdict::Counts } else { Verdict::Behind(empty) });
    };
    if epoch > central.epoch {
        return Err(Mismatch::Epoch { redis: epoch, central: central.epoch });
    }
    if epoch < central.epoch {
        return Ok(Verdict::Behind(Behind::Epoch { redis: epoch, central: central.epoch }));
    }
    match redis.approved {
        Approved::Nobody => return Ok(Verdict::Behind(Behind::Unprepared { epoch })),
        // Another leader compared this process. Those who are waited for stand nowhere yet.
        Approved::This if !redis.waiting.is_empty() => return Ok(Verdict::Counts),
        Approved::Another if !redis.waiting.is_empty() => {
            return Ok(Verdict::Behind(Behind::Interrupted { waiting: redis.waiting.len() }));
        }
        Approved::This | Approved::Another => {}
    }
    if let Some(behind) = lacks(central, redis) {
        return Ok(Verdict::Behind(behind));
    }
    // What Redis has settled is gone from it. A flush that central accepted and Redis has not settled is sent again.
    let settled_before = redis.unsettled.unwrap_or(redis.open_flush);
    if next_flush < settled_before {
        return Err(Mismatch::Flush { redis: settled_before, central: next_flush });
    }
    Ok(Verdict::Counts)
}

/// What central knows and this Redis of the same epoch does not.
fn lacks(central: &Leadership, redis: &Position) -> Option<Behind> {
    let open_flush = central.open_flush.max(central.next_flush);
    if redis.open_flush < open_flush {
        return Some(Behind::OpenFlush { redis: redis.open_flush, central: open_flush });
    }
    // A gateway that this Redis has never heard of stands at 0. A retired one is waited for nowhere, and after a rebuild it
    // has no position any more.
    let applied: HashMap<&str, Lsn> = redis.applied.iter().map(|(gateway, lsn)| (gateway.as_str(), *lsn)).collect();
    let retired: HashSet<&str> = redis.retired.iter().map(String::as_str).collect();
    let known = central.durable.iter().chain(&central.accepted);
    for known in known.filter(|known| !retired.contains(known.gateway.as_str())) {
        let here = applied.get(known.gateway.as_str()).copied().unwrap_or_default();
        if here < Lsn(known.lsn) {
            return Some(Behind::Applied { gateway: known.gateway.clone(), redis: here, central: Lsn(known.lsn) });
        }
    }
    let registered: HashSet<&str> = redis.registered.iter().map(String::as_str).collect();
    let mut entered = central.gateways.iter().map(String::as_str);
    let missing = |gateway: &&str| !registered.contains(gateway) && !retired.contains(gateway);
    entered.find(missing).map(|gateway| Behind::Gateway { gateway: gateway.to_owned() })
}

#[cfg(test)]
mod tests {
    use proto::uplink::GatewayPosition;

    use super::*;

    fn known(lsn: u64) -> Vec<GatewayPosition> {
        vec![GatewayPosition { gateway: "g".into(), lsn, ..Default::default() }]
    }

    /// Flushes 0 to 4 are accepted, 5 is open, and gateway g stands at 100, of which 90 are accepted.
    fn central() -> Leadership {
        Leadership {
            term: 3,
            epoch: 2,
            next_flush: 5,
            open_flush: 5,
            durable: known(95),
            accepted: known(90),
            gateways: vec!["g".into()],
            watermark_ms: 0,
        }
    }

    fn redis() -> Position {
        Position {
            epoch: Some(2),
            approved: Approved::Another,
            term: 2,
            open_flush: 5,
            applied: vec![("g".into(), Lsn(100))],
            registered: vec!["g".into()],
            ..Position::default()
        }
    }

    fn behind(redis: &Position) -> Behind {
        match compare(&central(), redis) {
            Ok(Verdict::Behind(behind)) => behind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_redis_that_central_knows_may_count() {
        assert_eq!(compare(&central(), &redis()), Ok(Verdict::Counts));
        // Cut, and perhaps accepted, but not settled: it is sent again.
        assert_eq!(
            compare(&central(), &Position { open_flush: 6, unsettled: Some(5), ..redis() }),
            Ok(Verdict::Counts)
        );
        assert_eq!(
            compare(&central(), &Position { open_flush: 5, unsettled: Some(4), ..redis() }),
            Ok(Verdict::Counts)
        );
    }

    #[test]
    fn a_fresh_redis_may_count_only_for_a_central_that_has_seen_nothing() {
        let new = Leadership { term: 1, epoch: 1, ..Leadership::default() };
        assert_eq!(compare(&new, &Position::default()), Ok(Verdict::Counts));
        for seen in [
            Leadership { next_flush: 1, ..new.clone() },
            Leadership { open_flush: 1, ..new.clone() },
            Leadership { durable: known(1), ..new.clone() },
            Leadership { accepted: known(1), ..new.clone() },
            Leadership { gateways: vec!["g".into()], ..new.clone() },
            // Its gateways are retired, and the leader that opened this epoch died before the rebuild.
            Leadership { epoch: 2, ..new },
        ] {
            let verdict = compare(&seen, &Position::default());
            assert!(matches!(verdict, Ok(Verdict::Behind(Behind::Empty { .. }))), "{seen:?}");
        }
    }

    #[test]
    fn a_redis_that_is_behind_is_rebuilt() {
        assert_eq!(behind(&Position { epoch: Some(1), ..redis() }), Behind::Epoch { redis: 1, central: 2 });
        assert_eq!(behind(&Position { open_flush: 4, ..redis() }), Behind::OpenFlush { redis: 4, central: 5 });
        let applied = |lsn| Behind::Applied { gateway: "g".into(), redis: Lsn(lsn), central: Lsn(95) };
        assert_eq!(behind(&Position { applied: vec![("g".into(), Lsn(94))], ..redis() }), applied(94));
        assert_eq!(behind(&Position { applied: vec![], ..redis() }), applied(0));
        assert_eq!(behind(&Position { registered: vec![], ..redis() }), Behind::Gateway { gateway: "g".into() });
    }

    #[test]
    fn a_rebuild_goes_on_in_the_process_that_it_began_in() {
        let half = Position { waiting: vec!["g".into()], applied: vec![], registered: vec![], ..redis() };
        assert_eq!(compare(&central(), &Position { approved: Approved::This, ..half.clone() }), Ok(Verdict::Counts));
        assert_eq!(behind(&half), Behind::Interrupted { waiting: 1 });
        assert_eq!(behind(&Position { approved: Approved::Nobody, ..half }), Behind::Unprepared { epoch: 2 });
    }

    #[test]
    fn a_central_that_is_behind_is_told_apart() {
        let ahead = Position { open_flush: 7, unsettled: Some(6), ..redis() };
        assert_eq!(compare(&central(), &ahead), Err(Mismatch::Flush { redis: 6, central: 5 }));
        let ahead = Position { open_flush: 6, ..redis() };
        assert_eq!(compare(&central(), &ahead), Err(Mismatch::Flush { redis: 6, central: 5 }));
        let ahead = Position { epoch: Some(3), ..redis() };
        assert_eq!(compare(&central(), &ahead), Err(Mismatch::Epoch { redis: 3, central: 2 }));
        let emptied = Leadership { term: 1, epoch: 2, ..Leadership::default() };
        assert!(matches!(compare(&emptied, &redis()), Err(Mismatch::Flush { central: 0, .. })));
    }

    #[test]
    fn a_retired_gateway_is_not_missed() {
        let retired = Position { registered: vec![], retired: vec!["g".into()], ..redis() };
        assert_eq!(compare(&central(), &retired), Ok(Verdict::Counts));
        // A rebuild leaves no position of it.
        assert_eq!(compare(&central(), &Position { applied: vec![], ..retired }), Ok(Verdict::Counts));
    }
}
