//! The Redis in memory answers and keeps what a real `redis-server` does, over random sequences of everything that gateways
//! and leaders ask. Run ids differ, and are written as RUN before two answers are compared.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::sid::Sid;
use proto::uplink::{Kind, Remembered, VisitRow};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use regional_redis::apply::{Applied, Batch, Call, VisitStep};
use regional_redis::counter::{Counter, Metric, Sighting};
use regional_redis::{Approval, Connection, Link, Lsn, Server, Shard, bucket, live, visit};
use simulation::network::Network;
use simulation::redis::Redis;

/// 2026-11-22T12:00:00Z.
const NOON: u64 = 1_795_348_800_000;
const GATEWAYS: [&str; 3] = ["g0", "g1", "g2"];

#[tokio::test]
async fn the_redis_in_memory_is_equal_to_a_real_one() {
    let real = RealRedis::start();
    for seed in 0..8 {
        let memory = Arc::new(Mutex::new(Redis::default()));
        memory.lock().unwrap().set_time(NOON);
        let memory = simulation::redis::Server::new(memory, Network::new(0));
        let mut pair = Pair::new([real.server().await, Server::Other(Arc::new(memory))]).await;
        let mut random = StdRng::seed_from_u64(seed);
        for step in 0..250 {
            pair.step(&mut random, &format!("seed {seed}, step {step}")).await;
        }
        pair.compare_state(&format!("seed {seed}, end")).await;
        assert!(pair.counted > 20 && pair.duplicates > 5, "seed {seed}: {} {}", pair.counted, pair.duplicates);
    }
}

#[tokio::test]
async fn malformed_calls_are_refused_alike() {
    let real = RealRedis::start();
    let memory = simulation::redis::Server::new(Arc::default(), Network::new(0));
    let mut pair = Pair::new([real.server().await, Server::Other(Arc::new(memory))]).await;
    let fine = [0x90u8].as_slice();
    for junk in [b"".as_slice(), b"\xff", b"\xc1\xc1", b"\x93", b"\x91\x91", b"\xa3abc", b"\x94\x01\x02\x03\x04"] {
        for place in 0..4 {
            let mut failed = Vec::new();
            for side in 0..2 {
                let mut arguments = [fine; 4];
                arguments[place] = junk;
                let mut command = redis::cmd("FCALL");
                command.arg("tideline_apply").arg(1).arg("{0}:e").arg(0).arg("g0").arg("g0-1").arg(0).arg(1);
                command.arg(&pair.leader[side].approved).arg(NOON);
                for argument in arguments {
                    command.arg(argument);
                }
                let answer: redis::RedisResult<redis::Value> = command.query_async(&mut pair.connections[side]).await;
                failed.push(answer.is_err());
            }
            assert_eq!(failed[0], failed[1], "{junk:02x?} in place {place}");
        }
    }
    pair.compare_state("malformed").await;
}

/// A real one and one in memory, asked the same.
struct Pair {
    links: [Link; 2],
    connections: [Box<dyn Connection>; 2],
    leader: [Approval; 2],
    term: u64,
    epoch: u64,
    /// As the gateways believe.
    applied: BTreeMap<&'static str, u64>,
    incarnation: u32,
    counted: u32,
    duplicates: u32,
}

impl Pair {
    async fn new(servers: [Server; 2]) -> Self {
        let mut links = Vec::new();
        let mut connections: Vec<Box<dyn Connection>> = Vec::new();
        for server in &servers {
            let mut link = Link::connect(server, Shard(0)).await.unwrap();
            link.load_functions().await.unwrap();
            links.push(link);
            connections.push(match server {
                Server::Other(other) => other.connect().await.unwrap(),
                Server::Url(url) => {
                    let client = redis::Client::open(url.as_str()).unwrap();
                    Box::new(client.get_multiplexed_async_connection().await.unwrap())
                }
            });
        }
        let mut links: [Link; 2] = links.try_into().unwrap();
        let connections = connections.try_into().unwrap_or_else(|_| unreachable!());
        let leader = [links[0].approve(1, 1).await.unwrap().unwrap(), links[1].approve(1, 1).await.unwrap().unwrap()];
        let applied = GATEWAYS.map(|gateway| (gateway, 0)).into();
        let (term, epoch, incarnation) = (1, 1, 1);
        let mut pair =
            Self { links, connections, leader, term, epoch, applied, incarnation, counted: 0, duplicates: 0 };
        for gateway in GATEWAYS {
            pair.register(gateway, "start").await;
        }
        pair
    }

    /// Asks both, and compares.
    async fn both<T: Debug>(
        &mut self,
        what: &str,
        ask: impl AsyncFn(&mut Link, &Approval) -> Result<T, regional_redis::LinkError>,
    ) -> Option<T> {
        let real = ask(&mut self.links[0], &self.leader[0]).await;
        let memory = ask(&mut self.links[1], &self.leader[1]).await;
        let said = |answer: &Result<T, regional_redis::LinkError>, link: &Link| {
            let answer = answer.as_ref().map_err(|error| error.to_string());
            format!("{answer:?}").replace(link.run_id(), "RUN")
        };
        assert_eq!(said(&real, &self.links[0]), said(&memory, &self.links[1]), "{what}");
        memory.ok()
    }

    async fn register(&mut self, gateway: &'static str, what: &str) {
        let incarnation = format!("{gateway}-{}", self.incarnation);
        let answer = self.both(what, async |link, leader| link.register(gateway, &incarnation, &leader.approved).await);
        if let Some(regional_redis::Registered::At { applied, .. }) = answer.await {
            self.applied.insert(gateway, applied.0);
        }
    }

    async fn step(&mut self, random: &mut StdRng, what: &str) {
        let gateway = *GATEWAYS.choose(random).unwrap();
        let incarnation = format!("{gateway}-{}", if random.random_bool(0.97) { self.incarnation } else { 0 });
        match random.random_range(0..100) {
            0..60 => self.apply(random, gateway, &incarnation, what).await,
            60..72 => {
                let applied = Lsn(self.applied[gateway] + u64::from(random.random_bool(0.1)));
                let mark_ms = NOON + random.random_range(0..40 * 3_600_000);
                let logged = Lsn(applied.0.saturating_sub(random.random_range(0..3)));
                self.both(what, async |link, leader| {
                    link.watermark(gateway, &incarnation, &leader.approved, mark_ms, applied, logged).await
                })
                .await;
            }
            72..80 => self.flush(random, what).await,
            80..84 => drop(self.both(what, async |link, _| link.unlogged(gateway).await).await),
            84..88 => {
                self.both(what, async |link, _| {
                    let mut position = link.position().await?;
                    position.applied.sort();
                    position.registered.sort();
                    Ok(position)
                })
                .await;
            }
            88..91 => drop(self.both(what, async |link, _| live::read(link, 1, NOON + 60_000).await).await),
            91..94 => self.register(gateway, what).await,
            94..96 => {
                self.incarnation += 1;
                for gateway in GATEWAYS {
                    self.register(gateway, what).await;
                }
            }
            96..98 => self.compare_state(what).await,
            _ => self.rebuild(random, what).await,
        }
    }

    async fn apply(&mut self, random: &mut StdRng, gateway: &'static str, incarnation: &str, what: &str) {
        let prev = if random.random_bool(0.95) { self.applied[gateway] } else { self.applied[gateway] + 3 };
        let mut call = Call { prev: Lsn(prev), last: Lsn(prev + random.random_range(1..6)), ..Call::default() };
        for lsn in prev + 1..=call.last.0 {
            let sid = sid(random.random_range(0..9));
            let seq = random.random_range(1..40);
            let twice = call.batches.iter().any(|batch| (batch.sid, batch.seq) == (sid, seq));
            if twice && random.random_bool(0.95) {
                continue;
            }
            call.batches.push(Batch { class: (sid.as_bytes()[15] % 2).into(), sid, seq, lsn: Lsn(lsn) });
            if random.random_bool(0.8) {
                call.visits.push(visit_step(random, lsn, sid, seq));
            }
        }
        let counter = Counter::Rollup {
            kind: if random.random_bool(0.5) { Kind::Total } else { Kind::Page },
            metric: Metric::Pageviews,
            minute: (NOON / 60_000) as u32 + random.random_range(0..5),
            site: "shop".into(),
            value: String::new(),
        };
        call.counters = HashMap::from([(counter.to_field(), random.random_range(1..9))]);
        let visitor = random.random();
        let sighting = Sighting { kind: Kind::Total, quarter: 1, site: "shop".into(), value: "/é".into(), visitor };
        call.uniques.push(sighting.to_member());
        for _ in 0..2 {
            let answer = self
                .both(what, async |link, leader| link.apply(gateway, incarnation, &leader.approved, NOON, &call).await);
            match answer.await {
                Some(Applied::Done(_)) => {
                    self.counted += 1;
                    self.applied.insert(gateway, call.last.0);
                }
                Some(Applied::Duplicates(found)) => {
                    self.duplicates += 1;
                    call.batches.retain(|batch| !found.contains(&batch.lsn));
                    call.visits.retain(|step| !found.contains(&step.lsn));
                }
                Some(Applied::Gap(at)) => drop(self.applied.insert(gateway, at.0)),
                _ => {}
            }
            if random.random_bool(0.3) {
                return;
            }
        }
    }

    async fn flush(&mut self, random: &mut StdRng, what: &str) {
        let cut = self.both(what, async |link, leader| {
            let cut = link.cut(leader, NOON).await?;
            Ok(cut.map(|mut cut| {
                cut.vector.sort();
                cut
            }))
        });
        let Some(Some(cut)) = cut.await else { return };
        self.both(what, async |link, leader| link.advance_durable(leader, &cut.vector).await).await;
        self.both(what, async |link, _| bucket::read(link, cut.n).await).await;
        if random.random_bool(0.7) {
            self.both(what, async |link, leader| link.settle(leader, cut.n).await).await;
        }
    }

    /// A whole rebirth, of which some steps are repeated by a leader of the next term.
    async fn rebuild(&mut self, random: &mut StdRng, what: &str) {
        self.epoch += 1;
        for _ in 0..random.random_range(1..3) {
            self.term += 1;
            let (term, epoch) = (self.term, self.epoch);
            self.leader = [
                self.links[0].begin_rebuild(term, epoch).await.unwrap().unwrap(),
                self.links[1].begin_rebuild(term, epoch).await.unwrap().unwrap(),
            ];
            self.both(what, async |link, leader| link.wipe(leader).await).await;
            self.compare_state(what).await;
        }
        let visits: Vec<_> = (0..3).map(|visitor| running_visit(random, visitor)).collect();
        self.both(what, async |link, leader| link.restore_visits(leader, &visits).await).await;
        let batches = vec![Remembered { class: 0, sid: sid(2).as_bytes().to_vec(), seqs: vec![1, 2, 4096, 2] }];
        self.both(what, async |link, leader| link.remember_all(leader, &batches).await).await;
        let (waiting, retired) = (vec!["g0".to_owned(), "g1".to_owned(), "gone".to_owned()], vec!["old".to_owned()]);
        let mut opened = Vec::new();
        for (link, leader) in self.links.iter_mut().zip(&self.leader) {
            opened.push(link.open_rebuild(leader, NOON, &waiting, &retired).await.unwrap().unwrap());
        }
        self.leader = opened.try_into().unwrap();
        self.flush(random, what).await;
        for gateway in GATEWAYS {
            let incarnation = format!("{gateway}-{}", self.incarnation);
            self.register(gateway, what).await;
            let remembered = [Batch { class: 0, sid: sid(4), seq: 7, lsn: Lsn(0) }];
            for _ in 0..2 {
                self.both(what, async |link, leader| {
                    link.remember(gateway, &incarnation, &leader.approved, &remembered).await
                })
                .await;
            }
            let applied = Lsn(self.applied[gateway]);
            self.both(what, async |link, leader| link.rebuilt(gateway, &incarnation, &leader.approved, applied).await)
                .await;
            self.both(what, async |link, _| link.waiting().await).await;
        }
        self.both(what, async |link, leader| link.stand_in(leader, &["gone".to_owned()]).await).await;
        self.compare_state(what).await;
        for gateway in GATEWAYS {
            self.register(gateway, what).await;
        }
    }

    async fn compare_state(&mut self, what: &str) {
        let real = everything(&mut self.connections[0], self.links[0].run_id()).await;
        let memory = everything(&mut self.connections[1], self.links[1].run_id()).await;
        assert_eq!(real.keys().collect::<Vec<_>>(), memory.keys().collect::<Vec<_>>(), "{what}");
        for (key, value) in real {
            assert_eq!(value, memory[&key], "{key}, {what}");
        }
    }
}

fn sid(number: u8) -> Sid {
    Sid::from_parts(NOON - 3_600_000 * u64::from(number % 3), [number; 10])
}

fn visit_step(random: &mut StdRng, lsn: u64, sid: Sid, seq: u32) -> VisitStep {
    let at_ms = NOON + random.random_range(0..4) * 1_200_000;
    let visitor = random.random_range(0..5);
    let page = random.random_bool(0.7).then(|| (at_ms, format!("/{}", random.random_range(0..3))));
    VisitStep {
        lsn: Lsn(lsn),
        key: visit::visit_key("shop", visitor),
        other_key: random.random_bool(0.3).then(|| visit::visit_key("shop", visitor + 1)),
        id: visit::visit_id(sid.as_bytes(), seq),
        first_ms: at_ms,
        last_ms: at_ms + random.random_range(0..1000),
        pageviews: 1,
        events: random.random_range(0..3),
        engaged_ms: random.random_range(0..100_000),
        entry: page.clone(),
        exit: page,
        // Of a `VisitDimensions`: its source.
        dimensions: vec![0x0a, 1, random.random_range(b'a'..=b'z')],
    }
}

fn running_visit(random: &mut StdRng, visitor: u64) -> VisitRow {
    VisitRow {
        site: "shop".into(),
        sid: sid(1).as_bytes().to_vec(),
        seq: visitor as u32 + 1000, // no batch of the test opens it again
        visitor,
        version: 3,
        start_ms: NOON,
        last_ms: NOON + random.random_range(0..60_000),
        pageviews: 2,
        entry_page: "/".into(),
        ..VisitRow::default()
    }
}

/// Every key but the facts of a cut, whose vector has no order: the cut's answer is compared instead.
async fn everything(connection: &mut Box<dyn Connection>, run: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let keys: Vec<String> = redis::cmd("KEYS").arg("{0}:*").query_async(connection).await.unwrap();
    for key in keys.into_iter().filter(|key| key != "{0}:c") {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(connection).await.unwrap();
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
        let flat: Vec<Vec<u8>> = match read.query_async(connection).await.unwrap() {
            redis::Value::BulkString(text) => vec![text],
            other => redis::from_redis_value(other).unwrap(),
        };
        let each = if kind == "hash" || kind == "zset" { 2 } else { 1 };
        let show = |part: &[Vec<u8>]| part.join(b"=".as_slice()).escape_ascii().to_string().replace(run, "RUN");
        let mut elements: Vec<_> = flat.chunks(each).map(show).collect();
        elements.sort();
        all.insert(key, elements);
    }
    all
}

/// Ends with its value.
struct RealRedis {
    folder: tempfile::TempDir,
    child: Child,
}

impl RealRedis {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command.args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--maxmemory-policy", "noeviction"]);
        let child = command.spawn().expect("redis-server 7 is installed (apt-get install redis-server)");
        Self { folder, child }
    }

    /// Emptied.
    async fn server(&self) -> Server {
        let url = format!("unix://{}/redis.sock", self.folder.path().display());
        let client = redis::Client::open(url.as_str()).unwrap();
        for _ in 0..200 {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
                redis::cmd("FUNCTION").arg("FLUSH").exec_async(&mut connection).await.unwrap();
                return Server::Url(url);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("redis-server does not answer after 5 s");
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
