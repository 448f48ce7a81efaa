//! A gateway as far as Redis and central see it: a log of numbered records, applied in order, replayed from wherever Redis
//! stands, remembered when Redis was lost.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::sid::Sid;
use proto::uplink::{Kind, Outcomes};
use regional_redis::apply::{Applied, Batch, Call, VisitStep};
use regional_redis::counter::{Counter, Metric, Sighting};
use regional_redis::visit::{visit_id, visit_key};
use regional_redis::{Link, Lsn, Rebuilding, Registered, Reported, Shard};

use crate::central::State;

pub struct Gateway {
    pub name: String,
    url: String,
    central: Arc<Mutex<State>>,
    incarnations: u64,
    link: Option<(Link, String, String)>,
    applied: u64,
    /// What its own log says: these were counted.
    outcomes: BTreeSet<u64>,
}

impl Gateway {
    pub fn new(name: &str, url: String, central: Arc<Mutex<State>>) -> Self {
        let outcomes = BTreeSet::new();
        Self { name: name.into(), url, central, incarnations: 0, link: None, applied: 0, outcomes }
    }

    /// Every record up to `last`: one pageview each, of a visitor and a batch of its own. Comes back as often as Redis goes.
    pub async fn apply_up_to(&mut self, last: u64) {
        for _ in 0..2500 {
            if self.applied >= last {
                return;
            }
            if !self.step(last).await {
                self.link = None;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        panic!("record {last} is not applied");
    }

    /// As one that is idle once it has applied everything up to `last`: it learns from its reports when Redis fell back.
    pub async fn keep_up(&mut self, last: u64) -> Infallible {
        loop {
            self.apply_up_to(last).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let Some((link, incarnation, approved)) = &mut self.link else {
                self.enter().await;
                continue;
            };
            let applied = Lsn(self.applied);
            match link.watermark(&self.name, incarnation, approved, 0, applied, Lsn(0)).await {
                Ok(Reported::Done { .. }) => {}
                Ok(Reported::Gap(Lsn(stands_at))) => {
                    self.outcomes.split_off(&(stands_at + 1));
                    self.applied = stands_at;
                }
                Ok(Reported::Wait | Reported::Fenced) | Err(_) => self.link = None,
            }
        }
    }

    /// Reports how far it has come and that nothing before `mark_ms` is left.
    pub async fn watermark(&mut self, mark_ms: u64) {
        let (link, incarnation, approved) = self.link.as_mut().unwrap();
        let applied = Lsn(self.applied);
        let answer = link.watermark(&self.name, incarnation, approved, mark_ms, applied, applied).await.unwrap();
        assert!(matches!(answer, Reported::Done { .. }), "{answer:?}");
    }

    /// What stands in for its log if it is retired.
    pub fn remembered(&self) -> Vec<proto::uplink::Remembered> {
        let covered = self.central.lock().unwrap().accepted.get(&self.name).copied().unwrap_or(0);
        let sid = |lsn| sid(&self.name, lsn).as_bytes().to_vec();
        (1..=covered).map(|lsn| proto::uplink::Remembered { class: 0, sid: sid(lsn), seqs: vec![1] }).collect()
    }

    /// Registers, and remembers if it is asked to. False: Redis does not let it yet.
    pub async fn enter(&mut self) -> bool {
        self.link = self.connect().await;
        self.link.is_some()
    }

    fn log(&mut self, outcomes: &[Outcomes]) {
        let counted = outcomes.iter().flat_map(|outcomes| &outcomes.counted);
        self.outcomes.extend(counted.map(|outcome| outcome.lsn));
    }

    /// What central has accepted of this gateway, and the outcomes that flushes carried.
    fn recall(&self) -> (u64, Vec<Outcomes>) {
        let state = self.central.lock().unwrap();
        let accepted = state.accepted.get(&self.name).copied().unwrap_or(0);
        let carried = state.flushes.values().flat_map(|rows| &rows.outcomes);
        let mine = carried.filter(|outcomes| outcomes.gateway == self.name && outcomes.last <= accepted);
        (accepted, mine.cloned().collect())
    }

    async fn step(&mut self, last: u64) -> bool {
        if self.link.is_none() && !self.enter().await {
            return false;
        }
        let Some((link, incarnation, approved)) = &mut self.link else { return false };
        let next = (self.applied + 10).min(last);
        let call = records(&self.name, self.applied, next);
        let now_ms = link.time_ms().await.unwrap_or_default();
        match link.apply(&self.name, incarnation, approved, now_ms, &call).await {
            Ok(Applied::Done(outcomes)) => {
                assert_eq!((outcomes.prev, outcomes.last), (self.applied, next));
                // Logged lazily: some it will have to find in Redis, or in central.
                if next.is_multiple_of(3) {
                    self.log(&[outcomes]);
                }
                self.applied = next;
            }
            Ok(Applied::Gap(Lsn(stands_at))) => {
                self.outcomes.split_off(&(stands_at + 1));
                self.applied = stands_at;
            }
            Ok(Applied::Wait | Applied::Fenced) | Err(_) => return false,
            Ok(other) => panic!("{other:?}"),
        }
        true
    }

    async fn connect(&mut self) -> Option<(Link, String, String)> {
        let mut link = Link::connect(&self.url.as_str().into(), Shard(0)).await.ok()?;
        let approved = link.approved().await.ok()??;
        self.incarnations += 1;
        let incarnation = format!("{}-{}", self.name, self.incarnations);
        let registered = link.register(&self.name, &incarnation, &approved).await.ok()?;
        link.barrier().await.ok()?;
        self.applied = match registered {
            Registered::Wait | Registered::Rebuilding | Registered::Retired => return None,
            Registered::At { applied: Lsn(applied), .. } => {
                self.outcomes.split_off(&(applied + 1));
                self.log(&link.unlogged(&self.name).await.ok()?);
                applied
            }
            Registered::Rebuild { .. } => {
                let (accepted, recalled) = self.recall();
                self.outcomes.split_off(&(accepted + 1));
                self.log(&recalled);
                for lsn in 1..=accepted {
                    assert!(self.outcomes.contains(&lsn), "nobody knows what became of record {lsn}");
                }
                let batches: Vec<_> = self.outcomes.iter().map(|lsn| batch(&self.name, *lsn)).collect();
                let Rebuilding::Done = link.remember(&self.name, &incarnation, &approved, &batches).await.ok()? else {
                    return None;
                };
                let Rebuilding::Done = link.rebuilt(&self.name, &incarnation, &approved, Lsn(accepted)).await.ok()?
                else {
                    return None;
                };
                accepted
            }
        };
        self.central.lock().unwrap().entered.insert(self.name.clone());
        Some((link, incarnation, approved))
    }
}

fn sid(gateway: &str, lsn: u64) -> Sid {
    let mut random = [0; 10];
    random[1] = gateway.as_bytes()[0];
    random[6..].copy_from_slice(&u32::try_from(lsn).unwrap().to_be_bytes());
    Sid::from_parts(1_795_348_800_000, random)
}

fn batch(gateway: &str, lsn: u64) -> Batch {
    Batch { class: 0, sid: sid(gateway, lsn), seq: 1, lsn: Lsn(lsn) }
}

/// A record is the same whenever it is made.
pub fn records(gateway: &str, prev: u64, last: u64) -> Call {
    let mut call = Call { prev: Lsn(prev), last: Lsn(last), ..Call::default() };
    for lsn in prev + 1..=last {
        let (sid, visitor) = (sid(gateway, lsn), (u64::from(gateway.as_bytes()[0]) << 32) + lsn);
        call.batches.push(batch(gateway, lsn));
        let at_ms = 1_795_348_800_000 + lsn;
        let page = Some((at_ms, format!("/{lsn}")));
        call.visits.push(VisitStep {
            lsn: Lsn(lsn),
            key: visit_key("shop", visitor),
            other_key: None,
            id: visit_id(sid.as_bytes(), 1),
            first_ms: at_ms,
            last_ms: at_ms,
            pageviews: 1,
            events: 0,
            engaged_ms: 0,
            entry: page.clone(),
            exit: page,
            dimensions: vec![],
        });
        let minute = u32::try_from(at_ms / 60_000).unwrap();
        let counter = Counter::Rollup {
            kind: Kind::Total,
            metric: Metric::Pageviews,
            minute,
            site: "shop".into(),
            value: String::new(),
        };
        *call.counters.entry(counter.to_field()).or_default() += 1;
        let sighting =
            Sighting { kind: Kind::Total, quarter: minute / 15, site: "shop".into(), value: String::new(), visitor };
        call.uniques.push(sighting.to_member());
    }
    call
}
