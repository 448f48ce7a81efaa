//! A gateway as far as Redis sees it: a log of numbered records, applied in order, replayed from wherever Redis stands.

use std::time::Duration;

use proto::sid::Sid;
use proto::uplink::Kind;
use regional_redis::apply::{Applied, Batch, Call, VisitStep};
use regional_redis::counter::{Counter, Metric, Sighting};
use regional_redis::visit::{visit_id, visit_key};
use regional_redis::{Link, Lsn, Registered, Reported, Shard};

pub struct Gateway {
    pub name: String,
    url: String,
    incarnations: u64,
    link: Option<(Link, String, String)>,
    applied: u64,
}

impl Gateway {
    pub fn new(name: &str, url: String) -> Self {
        Self { name: name.into(), url, incarnations: 0, link: None, applied: 0 }
    }

    /// Every record up to `last`: one pageview each, of a visitor and a batch of its own. Comes back as often as Redis goes.
    pub async fn apply_up_to(&mut self, last: u64) {
        for _ in 0..2000 {
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

    /// Reports how far it has come and that nothing before `mark_ms` is left.
    pub async fn watermark(&mut self, mark_ms: u64) {
        let (link, incarnation, approved) = self.link.as_mut().unwrap();
        let answer = link
            .watermark(&self.name, incarnation, approved, mark_ms, Lsn(self.applied), Lsn(self.applied))
            .await
            .unwrap();
        assert!(matches!(answer, Reported::Done { .. }), "{answer:?}");
    }

    async fn step(&mut self, last: u64) -> bool {
        if self.link.is_none() {
            self.link = self.connect().await;
        }
        let Some((link, incarnation, approved)) = &mut self.link else { return false };
        let next = (self.applied + 10).min(last);
        let call = records(&self.name, self.applied, next);
        let now_ms = link.time_ms().await.unwrap_or_default();
        match link.apply(&self.name, incarnation, approved, now_ms, &call).await {
            Ok(Applied::Done(_)) => self.applied = next,
            Ok(Applied::Gap(Lsn(stands_at))) => self.applied = stands_at,
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
        match link.register(&self.name, &incarnation, &approved).await.ok()? {
            Registered::Wait | Registered::Retired | Registered::Rebuild { .. } => None,
            Registered::At { applied: Lsn(applied), .. } => {
                self.applied = applied;
                Some((link, incarnation, approved))
            }
        }
    }
}

/// A record is the same whenever it is made.
fn records(gateway: &str, prev: u64, last: u64) -> Call {
    let mut call = Call { prev: Lsn(prev), last: Lsn(last), ..Call::default() };
    for lsn in prev + 1..=last {
        let mut random = [0; 10];
        random[1] = gateway.as_bytes()[0];
        random[6..].copy_from_slice(&u32::try_from(lsn).unwrap().to_be_bytes());
        let sid = Sid::from_parts(1_795_348_800_000, random);
        let visitor = (u64::from(random[1]) << 32) + lsn;
        call.batches.push(Batch { class: 0, sid, seq: 1, lsn: Lsn(lsn) });
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
