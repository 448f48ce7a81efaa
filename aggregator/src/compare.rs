//! A Redis counts only after it was compared with central: one that was rolled back, replaced or emptied would count
//! batches again that central has, or take numbers that central gave away.

use std::collections::HashMap;

use proto::uplink::Leadership;
use regional_redis::{Lsn, Position};

/// Redis and central do not know the same history. Nothing is approved, and gateways go on refusing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error(
        "this Redis is empty, but central has seen its shard (next flush {next_flush}, open flush {open_flush}): start \
         Redis with the data folder that it had"
    )]
    Empty { next_flush: u64, open_flush: u64 },
    #[error("this Redis is of epoch {redis}, central of epoch {central}: connect the two that belong together")]
    Epoch { redis: u64, central: u64 },
    #[error(
        "this Redis is older than what central was told: its open flush is {redis}, central knows of {central}; restore \
         the newest copy of Redis's data folder"
    )]
    OpenFlush { redis: u64, central: u64 },
    #[error(
        "this Redis is older than what central was told: gateway {gateway} stands at record {redis}, central knows it \
         at {central}; restore the newest copy of Redis's data folder"
    )]
    Applied { gateway: String, redis: Lsn, central: Lsn },
    #[error(
        "central is older than this Redis: it waits for flush {central}, and Redis has settled all before {redis}; \
         restore the newest copy of central's data folder"
    )]
    CentralBehind { redis: u64, central: u64 },
}

/// Whether the Redis that stands at `redis` may count for what `central` knows.
pub fn compare(central: &Leadership, redis: &Position) -> Result<(), Mismatch> {
    let Leadership { next_flush, open_flush, .. } = *central;
    let Some(epoch) = redis.epoch else {
        let untouched = redis.open_flush == 0 && redis.applied.is_empty() && redis.registered.is_empty();
        let never_heard_of = next_flush == 0 && open_flush == 0 && central.durable.is_empty();
        let fresh = untouched && never_heard_of && central.accepted.is_empty();
        return if fresh { Ok(()) } else { Err(Mismatch::Empty { next_flush, open_flush }) };
    };
    if epoch != central.epoch {
        return Err(Mismatch::Epoch { redis: epoch, central: central.epoch });
    }
    if redis.open_flush < open_flush.max(next_flush) {
        return Err(Mismatch::OpenFlush { redis: redis.open_flush, central: open_flush.max(next_flush) });
    }
    // A gateway that this Redis has never heard of stands at 0. A retired one keeps its position.
    let applied: HashMap<&str, Lsn> = redis.applied.iter().map(|(gateway, lsn)| (gateway.as_str(), *lsn)).collect();
    for known in central.durable.iter().chain(&central.accepted) {
        let here = applied.get(known.gateway.as_str()).copied().unwrap_or_default();
        if here < Lsn(known.lsn) {
            return Err(Mismatch::Applied { gateway: known.gateway.clone(), redis: here, central: Lsn(known.lsn) });
        }
    }
    // What Redis has settled is gone from it. A flush that central accepted and Redis has not settled is sent again.
    let settled_before = redis.unsettled.unwrap_or(redis.open_flush);
    if next_flush < settled_before {
        return Err(Mismatch::CentralBehind { redis: settled_before, central: next_flush });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::uplink::GatewayPosition;
    use regional_redis::Approved;

    use super::*;

    fn known(lsn: u64) -> Vec<GatewayPosition> {
        vec![GatewayPosition { gateway: "g".into(), lsn }]
    }

    /// Flushes 0 to 4 are accepted, 5 is open, and gateway g stands at 100, of which 90 are accepted.
    fn central() -> Leadership {
        Leadership {
            term: 3,
            epoch: 1,
            next_flush: 5,
            open_flush: 5,
            durable: known(95),
            accepted: known(90),
            gateways: vec!["g".into(), "said hello to central only".into()],
            watermark_ms: 0,
        }
    }

    fn redis() -> Position {
        Position {
            epoch: Some(1),
            term: 2,
            open_flush: 5,
            unsettled: None,
            applied: vec![("g".into(), Lsn(100))],
            registered: vec!["g".into()],
            approved: Approved::This,
            ..Position::default()
        }
    }

    fn fresh() -> Position {
        Position::default()
    }

    #[test]
    fn the_redis_that_central_knows_may_count() {
        assert_eq!(compare(&central(), &redis()), Ok(()));
        // Cut, and perhaps accepted, but not settled: it is sent again.
        assert_eq!(compare(&central(), &Position { open_flush: 6, unsettled: Some(5), ..redis() }), Ok(()));
        assert_eq!(compare(&central(), &Position { open_flush: 5, unsettled: Some(4), ..redis() }), Ok(()));
    }

    #[test]
    fn a_fresh_redis_may_count_only_for_a_central_that_has_seen_nothing() {
        let new = Leadership { term: 1, epoch: 1, gateways: vec!["g".into()], ..Leadership::default() };
        assert_eq!(compare(&new, &fresh()), Ok(()));
        for seen in [
            Leadership { next_flush: 1, ..new.clone() },
            Leadership { open_flush: 1, ..new.clone() },
            Leadership { durable: known(1), ..new.clone() },
            Leadership { accepted: known(1), ..new },
        ] {
            assert!(matches!(compare(&seen, &fresh()), Err(Mismatch::Empty { .. })), "{seen:?}");
        }
    }

    #[test]
    fn a_redis_that_is_behind_may_not_count() {
        let behind = |redis: Position| compare(&central(), &redis).unwrap_err();
        assert_eq!(behind(Position { epoch: Some(2), ..redis() }), Mismatch::Epoch { redis: 2, central: 1 });
        assert_eq!(behind(Position { open_flush: 4, ..redis() }), Mismatch::OpenFlush { redis: 4, central: 5 });
        let applied = |lsn| Mismatch::Applied { gateway: "g".into(), redis: Lsn(lsn), central: Lsn(95) };
        assert_eq!(behind(Position { applied: vec![("g".into(), Lsn(94))], ..redis() }), applied(94));
        assert_eq!(behind(Position { applied: vec![], ..redis() }), applied(0));
    }

    #[test]
    fn a_central_that_is_behind_is_told_apart() {
        let ahead = Position { open_flush: 7, unsettled: Some(6), ..redis() };
        assert_eq!(compare(&central(), &ahead), Err(Mismatch::CentralBehind { redis: 6, central: 5 }));
        let ahead = Position { open_flush: 6, ..redis() };
        assert_eq!(compare(&central(), &ahead), Err(Mismatch::CentralBehind { redis: 6, central: 5 }));
        let emptied = Leadership { term: 1, epoch: 1, ..Leadership::default() };
        assert!(matches!(compare(&emptied, &redis()), Err(Mismatch::CentralBehind { central: 0, .. })));
    }

    #[test]
    fn a_retired_gateway_is_not_missed() {
        assert_eq!(compare(&central(), &Position { registered: vec![], ..redis() }), Ok(()));
    }
}
