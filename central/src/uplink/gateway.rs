//! The conversation with a gateway: it is registered, then told its sites and salts, again whenever one changes, and
//! what central knows of its log.

use std::time::Duration;

use jiff::Timestamp;
use proto::uplink::{Configuration, GatewayHello, Salt, ShardLsn, Site, central_frame, region_frame};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::info;

use super::{Conversation, Ended, check_gateway, check_region, refused};
use crate::{
    control::{Published, shards::Registration},
    metrics::Peer,
};

/// A gateway is told everything at least this often, changed or not.
const TOLD_EVERY: Duration = Duration::from_secs(3600);

pub(super) async fn converse(with: &mut Conversation, mut hello: GatewayHello) -> Result<(), Ended> {
    let central = with.central.clone();
    let _open = central.metrics.stream(Peer::Gateway);
    let mut published = central.control.published();
    let mut again = interval_at(Instant::now() + TOLD_EVERY, TOLD_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    register(with, &hello).await?;
    loop {
        let newest = published.borrow_and_update().clone();
        tell(with, &hello, &newest).await?;
        // Every branch can be dropped while it waits: a frame that has begun to arrive is kept by the stream.
        tokio::select! {
            frame = with.next() => match frame? {
                None => return Ok(()),
                // A gateway whose folder was older than its id comes back under a new one.
                Some(region_frame::Frame::Gateway(new)) => {
                    register(with, &new).await?;
                    hello = new;
                }
                Some(_) => return Err(refused("a gateway's stream carries GatewayHello alone")),
            },
            _ = published.changed() => {}
            _ = again.tick() => {}
        }
    }
}

async fn register(with: &Conversation, hello: &GatewayHello) -> Result<(), Ended> {
    check_region(&hello.region)?;
    check_gateway(&hello.gateway)?;
    let replaces = Some(hello.retires.as_str()).filter(|id| !id.is_empty());
    if let Some(id) = replaces {
        check_gateway(id)?;
    }
    if replaces == Some(hello.gateway.as_str()) {
        return Err(refused("a gateway cannot retire its own id; give it a new one with an empty log"));
    }
    let control = &with.central.control;
    match control.register_gateway(&hello.region, &hello.gateway, replaces, Timestamp::now()).await? {
        Registration::Registered => {
            info!(region = hello.region, gateway = hello.gateway, ?replaces, "gateway registered");
            Ok(())
        }
        Registration::Retired => Err(refused(format!(
            "gateway {} was retired; start with an empty log folder, which gets an id of its own",
            hello.gateway
        ))),
        Registration::Elsewhere => Err(refused(format!(
            "gateway {} is registered in another region; a log folder cannot move between regions",
            hello.gateway
        ))),
    }
}

async fn tell(with: &Conversation, hello: &GatewayHello, published: &Published) -> Result<(), Ended> {
    let known = with.central.known(&hello.region, &hello.gateway).await?;
    let sites = published.sites.values().cloned();
    let salts = published.salts.iter();
    let configuration = Configuration {
        server_ms: u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0),
        sites: sites
            .map(|site| Site {
                name: site.name,
                origins: site.origins,
                timezone: site.timezone,
                raw: site.raw.wire().into(),
            })
            .collect(),
        salts: salts.map(|(day, key)| Salt { day: day.clone(), key: key.as_bytes().to_vec() }).collect(),
        known: known.into_iter().map(|(shard, lsn)| ShardLsn { shard, lsn }).collect(),
    };
    with.answer(central_frame::Frame::Configuration(configuration)).await
}
