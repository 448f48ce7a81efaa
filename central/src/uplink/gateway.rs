//! The conversation with a gateway: it is registered, then told its sites and salts, again whenever one changes, and
//! how far central has come with its log; its raw rows are acknowledged once they are durable.

use std::{collections::BTreeMap, time::Duration};

use proto::{
    Message as _,
    uplink::{
        Configuration, GatewayHello, Outcomes, Progress, RawRows, Recall, Recalled, Salt, ShardLsn, Site,
        central_frame, region_frame,
    },
};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::info;

use super::{CHUNK_BYTES_MAX, Conversation, Ended, check_gateway, check_number, check_region, raw::Unacked, refused};
use crate::{
    control::{
        Published,
        gateways::{Introduction, Registration},
        shards::ShardId,
        sites,
    },
    metrics::Peer,
};

/// A gateway is told everything at least this often, changed or not.
const TOLD_EVERY: Duration = Duration::from_secs(3600);

pub(super) async fn converse(with: &mut Conversation, hello: GatewayHello) -> Result<(), Ended> {
    let central = with.central.clone();
    let _open = central.metrics.stream(Peer::Gateway);
    let mut published = central.books.published();
    let mut progressing = central.progressing();
    let mut again = interval_at(Instant::now() + TOLD_EVERY, TOLD_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gateway = Gateway::register(with, hello).await?;
    let newest = published.borrow_and_update().clone();
    gateway.tell(with, &newest).await?;
    gateway.tell_progress(with).await?;
    loop {
        // Every branch can be dropped while it waits: a frame that has begun to arrive is kept by the stream.
        tokio::select! {
            biased;
            _ = published.changed() => {
                let newest = published.borrow_and_update().clone();
                if newest.retired.contains(&gateway.hello.gateway) {
                    return Err(retired(&gateway.hello.gateway));
                }
                gateway.tell(with, &newest).await?;
            }
            _ = progressing.changed() => gateway.tell_progress(with).await?,
            durable = gateway.unacked.next() => {
                let (ack, rows) = durable?;
                central.metrics.raw_rows.inc_by(rows);
                with.answer(central_frame::Frame::RawAck(ack)).await?;
            }
            _ = again.tick() => {
                let newest = published.borrow().clone();
                gateway.tell(with, &newest).await?;
            }
            frame = with.next(), if !gateway.unacked.is_full() => match frame? {
                None => return Ok(()),
                // It has entered its shard's Redis, or comes back under a new id: its folder was older than its id.
                Some(region_frame::Frame::Gateway(hello)) => {
                    gateway = Gateway::register(with, hello).await?;
                    let newest = published.borrow_and_update().clone();
                    gateway.tell(with, &newest).await?;
                    gateway.tell_progress(with).await?;
                }
                Some(region_frame::Frame::Raw(rows)) => gateway.take_raw(with, rows).await?,
                Some(region_frame::Frame::Recall(recall)) => gateway.recall(with, recall).await?,
                Some(_) => return Err(refused("this frame does not belong on a gateway's stream")),
            },
        }
    }
}

/// The gateway at the other end.
struct Gateway {
    hello: GatewayHello,
    unacked: Unacked,
    /// Up to where it has logged its outcomes, per shard.
    logged: BTreeMap<u32, u64>,
    /// What it was told last.
    told: Vec<Progress>,
}

impl Gateway {
    async fn register(with: &Conversation, hello: GatewayHello) -> Result<Self, Ended> {
        check_region(&hello.region)?;
        check_gateway(&hello.gateway)?;
        let replaces = Some(hello.retires.as_str()).filter(|id| !id.is_empty());
        if let Some(id) = replaces {
            check_gateway(id)?;
        }
        if replaces == Some(hello.gateway.as_str()) {
            return Err(refused("a gateway cannot retire its own id; give it a new one with an empty log"));
        }
        let entered = hello.entered;
        let gateway = Introduction { region: &hello.region, id: &hello.gateway, replaces, entered };
        match with.central.books.register_gateway(gateway).await? {
            Registration::Registered => {
                info!(region = hello.region, gateway = hello.gateway, ?replaces, entered, "gateway registered");
                Ok(Self { hello, unacked: Unacked::default(), logged: BTreeMap::new(), told: Vec::new() })
            }
            Registration::Retired => Err(retired(&hello.gateway)),
            Registration::Elsewhere => Err(refused(format!(
                "gateway {} is registered in another region; a log folder cannot move between regions",
                hello.gateway
            ))),
        }
    }

    async fn tell(&mut self, with: &Conversation, published: &Published) -> Result<(), Ended> {
        let central = &with.central;
        let known = central.known(&self.hello.region, &self.hello.gateway).await?;
        let salts = published.salts.iter();
        let configuration = Configuration {
            server_ms: u64::try_from(central.books.now().as_millisecond()).unwrap_or(0),
            sites: published.sites.values().map(site).collect(),
            salts: salts.map(|(day, key)| Salt { day: day.clone(), key: key.as_bytes().to_vec() }).collect(),
            known: known.into_iter().map(|(shard, lsn)| ShardLsn { shard, lsn }).collect(),
        };
        with.answer(central_frame::Frame::Configuration(configuration)).await
    }

    /// Tells what is new since the last time.
    async fn tell_progress(&mut self, with: &Conversation) -> Result<(), Ended> {
        let progress = with.central.progress(&self.hello.region, &self.hello.gateway).await?;
        for new in progress.iter().filter(|progress| !self.told.contains(progress)) {
            with.answer(central_frame::Frame::Progress(new.clone())).await?;
        }
        self.told = progress;
        Ok(())
    }

    async fn take_raw(&mut self, with: &Conversation, rows: RawRows) -> Result<(), Ended> {
        let (shard, logged) = (rows.shard, rows.logged);
        let id = self.shard(shard);
        if !self.told.iter().any(|progress| progress.shard == shard) {
            // Outcomes are of a Redis that was led, so central knows the shard, if only since a moment ago.
            if !with.central.books.shards(&id.region).await?.contains_key(&shard) {
                return Err(refused(format!("raw rows of shard {}/{shard}, which was never led", id.region)));
            }
        }
        check_number("LSN", logged)?;
        self.unacked.take(&*with.central.books, &self.hello.gateway, rows).await?;
        let before = self.logged.entry(shard).or_default();
        if logged > *before {
            with.central.books.forget_outcomes(&id, &self.hello.gateway, logged).await?;
            *before = logged;
        }
        Ok(())
    }

    async fn recall(&mut self, with: &Conversation, recall: Recall) -> Result<(), Ended> {
        check_number("LSN", recall.after)?;
        let id = self.shard(recall.shard);
        let (progress, outcomes) = with.central.recall(&id, &self.hello.gateway, recall.after).await?;
        let mut parts = parts(outcomes).into_iter().peekable();
        while let Some(outcomes) = parts.next() {
            let recalled = Recalled { progress: Some(progress.clone()), outcomes, last: parts.peek().is_none() };
            with.answer(central_frame::Frame::Recalled(recalled)).await?;
        }
        Ok(())
    }

    fn shard(&self, shard: u32) -> ShardId {
        ShardId { region: self.hello.region.clone(), shard }
    }
}

fn retired(gateway: &str) -> Ended {
    refused(format!("gateway {gateway} was retired; start with an empty log folder, which gets an id of its own"))
}

fn site(site: &sites::Site) -> Site {
    let sites::Site { name, origins, timezone, raw, rules, tenant, keys, key_required } = site.clone();
    let keys = keys.iter().map(|key| key.hash.to_vec()).collect();
    let (raw, rules) = (raw.wire().into(), Some(rules.wire()));
    Site { name, origins, timezone, raw, rules, tenant, keys, key_required }
}

/// At least one part, each of at most a chunk; a call's outcomes stay together and are far smaller.
fn parts(outcomes: Vec<Outcomes>) -> Vec<Vec<Outcomes>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for call in outcomes {
        let length = call.encoded_len();
        if bytes > 0 && bytes + length > CHUNK_BYTES_MAX {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(part) = parts.last_mut() {
            part.push(call);
        }
    }
    parts
}
