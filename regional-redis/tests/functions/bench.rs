//! A Redis that a leader has approved, and gateways that call it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::sid::Sid;
use proto::uplink::{FlushRows, Outcomes};
use regional_redis::apply::{Applied, Batch, Call, VisitStep};
use regional_redis::{Approval, Cut, Link, LinkError, Lsn, Registered, Reported, bucket, visit};

use crate::redis_process::RedisProcess;

/// 2026-11-22T12:00:00Z: the start of an hour.
pub const NOON: u64 = 1_795_348_800_000;
pub const MINUTE: u64 = 60 * 1000;
pub const HOUR: u64 = 60 * MINUTE;

pub struct Bench {
    pub redis: RedisProcess,
    pub link: Link,
    pub leader: Approval,
}

impl Bench {
    pub async fn new() -> Self {
        Self::on(RedisProcess::start().await).await
    }

    pub async fn on(redis: RedisProcess) -> Self {
        let mut link = redis.link().await;
        link.load_functions().await.unwrap();
        let leader = link.approve(1, 1).await.unwrap().expect("the first leader");
        Self { redis, link, leader }
    }

    /// After the process was replaced: a new link, and the same leader's next term.
    pub async fn lead_again(&mut self) {
        self.link = self.redis.link().await;
        self.leader = self.link.approve(self.leader.term + 1, 1).await.unwrap().expect("the highest term");
    }

    pub async fn gateway(&mut self, name: &str) -> Gateway {
        let gateway = Gateway {
            name: name.to_owned(),
            incarnation: format!("{name}-first"),
            approved: self.leader.approved.clone(),
        };
        let answer = self.link.register(name, &gateway.incarnation, &gateway.approved).await.unwrap();
        assert!(matches!(answer, Registered::At { .. }), "{answer:?}");
        gateway
    }

    pub async fn cut(&mut self) -> Cut {
        self.link.cut(&self.leader, NOON).await.unwrap().expect("the leader")
    }

    pub async fn settle(&mut self, n: u64) {
        assert!(self.link.settle(&self.leader, n).await.unwrap());
    }

    /// Cuts, reads and settles.
    pub async fn flush(&mut self) -> FlushRows {
        let cut = self.cut().await;
        let rows = bucket::read(&mut self.link, cut.n).await.unwrap();
        self.settle(cut.n).await;
        rows
    }

    /// Everything that is stored, to compare.
    pub async fn everything(&self) -> Everything {
        let mut connection = self.redis.connection().await;
        let mut all = BTreeMap::new();
        for key in self.keys().await {
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut connection).await.unwrap();
            let mut read = match kind.as_str() {
                "string" => redis::cmd("GET"),
                "hash" => redis::cmd("HGETALL"),
                "set" => redis::cmd("SMEMBERS"),
                "zset" => redis::Cmd::zrange_withscores(&key, 0, -1),
                other => panic!("{key} is a {other}"),
            };
            if kind != "zset" {
                read.arg(&key);
            }
            let value: redis::Value = read.query_async(&mut connection).await.unwrap();
            all.insert(key, in_order(&kind, value));
        }
        Everything(all)
    }

    /// Nothing was written since.
    pub async fn assert_unchanged(&self, before: &Everything) {
        let now = self.everything().await;
        let differs = |key: &&String| before.0.get(*key) != now.0.get(*key);
        let changed: BTreeSet<_> = before.0.keys().chain(now.0.keys()).filter(differs).collect();
        assert!(changed.is_empty(), "written to: {changed:?}");
    }

    /// The names of what is stored, in order.
    pub async fn keys(&self) -> Vec<String> {
        let mut connection = self.redis.connection().await;
        let keys: BTreeSet<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        keys.into_iter().collect()
    }
}

/// Each key's elements, in an order of their own: that of a hash is another one after a restart.
pub struct Everything(BTreeMap<String, Vec<Vec<u8>>>);

fn in_order(kind: &str, value: redis::Value) -> Vec<Vec<u8>> {
    let flat: Vec<Vec<u8>> = match value {
        redis::Value::BulkString(text) => vec![text],
        other => redis::from_redis_value(other).unwrap(),
    };
    let pair = if kind == "hash" || kind == "zset" { 2 } else { 1 };
    let mut elements: Vec<_> = flat.chunks(pair).map(|element| element.join(b"=".as_slice())).collect();
    elements.sort();
    elements
}

#[derive(Clone)]
pub struct Gateway {
    pub name: String,
    pub incarnation: String,
    pub approved: String,
}

impl Gateway {
    pub async fn apply(&self, bench: &mut Bench, call: &Call) -> Applied {
        self.try_apply(bench, call).await.unwrap()
    }

    /// Applies, and answers what was decided.
    pub async fn counts(&self, bench: &mut Bench, call: &Call) -> Outcomes {
        match self.apply(bench, call).await {
            Applied::Done(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    pub async fn try_apply(&self, bench: &mut Bench, call: &Call) -> Result<Applied, LinkError> {
        self.apply_at(bench, NOON, call).await
    }

    /// By a gateway whose clock says `now_ms`.
    pub async fn apply_at(&self, bench: &mut Bench, now_ms: u64, call: &Call) -> Result<Applied, LinkError> {
        bench.link.apply(&self.name, &self.incarnation, &self.approved, now_ms, call).await
    }

    pub async fn watermark(&self, bench: &mut Bench, mark_ms: u64, applied: u64) -> Reported {
        bench
            .link
            .watermark(&self.name, &self.incarnation, &self.approved, mark_ms, Lsn(applied), Lsn(applied))
            .await
            .unwrap()
    }
}

/// A sid stamped at noon.
pub fn sid(number: u32) -> Sid {
    sid_at(NOON, number)
}

pub fn sid_at(stamp_ms: u64, number: u32) -> Sid {
    let mut random = [0; 10];
    random[6..].copy_from_slice(&number.to_be_bytes());
    Sid::from_parts(stamp_ms, random)
}

pub fn batch(sid: Sid, seq: u32, lsn: u64) -> Batch {
    Batch { class: 0, sid, seq, lsn: Lsn(lsn) }
}

/// The records `prev + 1 ..= last` with these batches and nothing to count.
pub fn call(prev: u64, last: u64, batches: Vec<Batch>) -> Call {
    Call { prev: Lsn(prev), last: Lsn(last), batches, ..Call::default() }
}

/// The call of one record, whose batch moves a visit: one pageview of `page` at `at_ms`.
pub fn pageview(lsn: u64, visitor: u64, at_ms: u64, page: &str) -> Call {
    let sid = sid(lsn as u32);
    let page = Some((at_ms, page.to_owned()));
    let step = VisitStep {
        lsn: Lsn(lsn),
        key: visit::visit_key("shop", visitor),
        other_key: None,
        id: visit::visit_id(sid.as_bytes(), 1),
        first_ms: at_ms,
        last_ms: at_ms,
        pageviews: 1,
        events: 0,
        engaged_ms: 0,
        entry: page.clone(),
        exit: page,
        dimensions: Vec::new(),
    };
    Call { visits: vec![step], ..call(lsn - 1, lsn, vec![batch(sid, 1, lsn)]) }
}

/// The same, with these counters.
pub fn counted(mut call: Call, counters: HashMap<Vec<u8>, u64>) -> Call {
    call.counters = counters;
    call
}
