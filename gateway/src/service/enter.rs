//! A gateway's way in: it registers with central, then with Redis.

use std::sync::Arc;
use std::time::Duration;

use proto::dial::Dial;
use proto::uplink::{GatewayHello, ShardLsn};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Error, RETRY, SHARD};
use crate::config::Config;
use crate::delivery::apply::{Entrance, Entry, Session};
use crate::delivery::folder::Folder;
use crate::delivery::log::{Opened, Reader};
use crate::delivery::processes::Processes;
use crate::delivery::progress::Delivery;
use crate::delivery::raw::Shipper;
use crate::delivery::trim::Trimming;
use crate::delivery::uplink::{self, Uplink};
use crate::ingest::Ingest;
use crate::metrics::Metrics;

/// What an entering gateway finds.
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a Config,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) ingest: &'a Arc<Ingest>,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) stop: &'a CancellationToken,
}

/// The gateway's registrations.
pub(super) struct Entered {
    pub(super) entrance: Arc<Entrance>,
    pub(super) session: Session,
    /// Redis or central knows records of this id that its log does not hold.
    pub(super) ahead: bool,
    pub(super) uplinked: AbortOnDropHandle<()>,
    pub(super) trimming: AbortOnDropHandle<()>,
}

/// Registers with central, then with Redis. Waits for both; without central the last run's configuration does, because Redis was
/// compared with central before a leader approved it.
pub(super) async fn enter(with: &Surroundings<'_>, folder: &Folder, opened: &Opened) -> Result<Option<Entered>, Error> {
    let (config, log) = (with.config, folder.log(SHARD));
    let delivery = Arc::new(Delivery::open(&log, folder.id(), SHARD, opened.first)?);
    let processes = Processes::open(&log, opened.last)?;
    let hello = GatewayHello {
        region: config.region.clone(),
        gateway: folder.id().to_string(),
        last: vec![ShardLsn { shard: SHARD.0, lsn: opened.last.0 }],
        retires: folder.retires().map(|id| id.to_string()).unwrap_or_default(),
        entered: folder.entered(),
    };
    let (ingest, metrics) = (Arc::clone(with.ingest), Arc::clone(with.metrics));
    let reader = Reader::new(&log);
    let shipper = Shipper::new(SHARD, Arc::clone(&delivery), reader, Arc::clone(&ingest), Arc::clone(&metrics));
    // From here on: on a full disk it may make the room that entering needs, of what had left before this start.
    let trimming = Trimming::new(log.clone(), Arc::clone(&delivery), Arc::clone(&metrics));
    let trimming = AbortOnDropHandle::new(tokio::spawn(trimming.run()));
    let (dial, cache) = (Arc::clone(&with.dial), folder.configuration());
    let uplink = Uplink { dial, ingest: Arc::clone(&ingest), cache, shipper, metrics };
    let wait_for_central = if uplink.restore() { Duration::from_secs(2) } else { Duration::MAX };
    let (mut central, asked) = uplink::central(SHARD, hello);
    let uplinked = AbortOnDropHandle::new(tokio::spawn(uplink.run(asked)));
    tokio::select! {
        _ = tokio::time::timeout(wait_for_central, central.known()) => {}
        () = with.stop.cancelled() => return Ok(None),
    }
    let (shard, gateway, redis) = (SHARD, folder.id(), config.redis.as_str().into());
    let entrance = Arc::new(Entrance { shard, redis, gateway, log, delivery, processes, ingest, central });
    let mut told = String::new();
    loop {
        let entering = async {
            let entry = entrance.enter(opened.last).await;
            if let Ok(Entry::NotYet(why)) = &entry {
                tokio::time::sleep(why.retry(RETRY)).await;
            }
            entry
        };
        let entry = tokio::select! {
            entry = entering => entry?,
            () = with.stop.cancelled() => return Ok(None),
        };
        let (session, older) = match entry {
            Entry::Counts(session) => (session, false),
            Entry::Older(session) => (session, true),
            Entry::NotYet(why) => {
                if told != why.to_string() {
                    tracing::info!(%why, "waiting for redis");
                    told = why.to_string();
                }
                continue;
            }
        };
        let ahead = older || entrance.central.highest() > opened.last;
        return Ok(Some(Entered { entrance, session, ahead, uplinked, trimming }));
    }
}
