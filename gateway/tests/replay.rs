//! A real Redis that falls back, loses its answers or is led by nobody for a while: the gateway's log makes it whole, and counts
//! nothing twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use gateway::answer::Answer;
use gateway::apply::{self, Applier, Start};
use gateway::capacity::Capacity;
use gateway::clock::Clock;
use gateway::in_flight::InFlight;
use gateway::ingest::Ingest;
use gateway::log::{Log, Submission, Waiter};
use gateway::metrics::Metrics;
use gateway::sites::Sites;
use gateway::user_agent::Agents;
use prometheus_client::registry::Registry;
use proto::record::{Record, RecordedEvent};
use proto::sid::Sid;
use regional_redis::counter::{Counter, Metric};
use regional_redis::{Link, Shard};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const SHARD: Shard = Shard(0);
const ANSWER_MAX: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_fell_back_is_brought_forward_from_the_log_and_counts_each_batch_once() {
    let redis = RedisServer::start();
    let mut link = redis.link().await;
    link.load_functions().await.unwrap();
    link.approve(1, 1).await.unwrap().unwrap();
    let mut gateway = RunningGateway::start(&redis).await;

    gateway.count(1).await;
    let earlier = redis.dump().await;
    gateway.count(2).await;
    gateway.count(3).await;
    assert_eq!(redis.pageviews().await, 3);

    // Two acknowledged batches are gone from Redis. The idle gateway learns of it by its report.
    redis.restore(&earlier).await;
    redis.expect_pageviews(3).await;
    // And once more, with a new batch that arrives while Redis stands too low.
    redis.restore(&earlier).await;
    gateway.count(4).await;
    redis.expect_pageviews(4).await;
    // A repeat is acknowledged and not counted.
    gateway.count(2).await;
    assert_eq!(redis.pageviews().await, 4);

    // Nobody leads: nothing is acknowledged, and nothing lost.
    redis.command(&["SET", "{0}:e", "1:another-process"]).await;
    gateway.submit(5).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(gateway.answers.try_recv().is_err());
    link.approve(2, 1).await.unwrap().unwrap();
    assert_eq!(gateway.answer().await.seq, 5);
    redis.expect_pageviews(5).await;

    gateway.stop().await;
}

struct RunningGateway {
    submissions: mpsc::Sender<Submission>,
    session: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
    applying: tokio::task::JoinHandle<Result<(), apply::ApplyError>>,
    sid: Sid,
    _folder: tempfile::TempDir,
}

impl RunningGateway {
    async fn start(redis: &RedisServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gateway = Uuid::new_v4();
        let ingest = Arc::new(Ingest {
            sites: Sites::default(),
            clock: Clock::new(),
            in_flight: InFlight::default(),
            agents: Agents::try_new().unwrap(),
            geo: None,
        });
        let metrics = Arc::new(Metrics::new(&mut Registry::default()));
        let opened = Log::open(&folder.path().join("log"), gateway, SHARD).unwrap();
        let session = apply::register(&redis.url(), SHARD, gateway, &ingest).await.unwrap().unwrap();
        let (submit, submissions) = mpsc::channel(64);
        let (commit, groups) = mpsc::channel(4);
        let log_metrics = Arc::clone(&metrics);
        let capacity: Arc<Capacity> = Arc::default();
        let log_capacity = Arc::clone(&capacity);
        tokio::spawn(async move {
            opened.log.run(submissions, &commit, &log_metrics, &log_capacity).await.unwrap();
        });
        let (reader, last, stop) = (opened.reader, opened.last, CancellationToken::new());
        let start = Start { shard: SHARD, redis: redis.url(), gateway, reader, last, groups, capacity, stop };
        let applier = Applier::new(start, &session, ingest, metrics, Arc::new(AtomicBool::new(false)));
        let (to_session, answers) = mpsc::channel(64);
        let sid = Sid::from_parts(1_800_000_000_000, [7; 10]);
        let applying = tokio::spawn(applier.run(session));
        Self { submissions: submit, session: to_session, answers, applying, sid, _folder: folder }
    }

    async fn submit(&self, seq: u32) {
        let event =
            RecordedEvent { name: "pageview".into(), path: "/".into(), at_ms: 1_800_000_000_000, ..Default::default() };
        let record = Record {
            site: "shop".into(),
            sid: self.sid.as_bytes().to_vec(),
            seq,
            visitor: 7,
            events: vec![event],
            ..Default::default()
        };
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let answer = Answer { sid: self.sid, seq, refused: None };
        let waiter = Waiter { answer, session: self.session.clone(), admission: InFlight::default().admit(0), room };
        self.submissions.send(Submission { record, waiter }).await.unwrap();
    }

    async fn answer(&mut self) -> Answer {
        tokio::time::timeout(ANSWER_MAX, self.answers.recv()).await.expect("an answer in time").unwrap()
    }

    async fn count(&mut self, seq: u32) {
        self.submit(seq).await;
        assert_eq!(self.answer().await, Answer { sid: self.sid, seq, refused: None });
    }

    async fn stop(self) {
        drop(self.submissions);
        tokio::time::timeout(ANSWER_MAX, self.applying).await.expect("it drains").unwrap().unwrap();
    }
}

struct RedisServer {
    child: Child,
    folder: tempfile::TempDir,
}

impl RedisServer {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir"])
            .arg(folder.path())
            .arg("--unixsocket")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("Debian's redis-server is installed");
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(started.elapsed() < ANSWER_MAX, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, folder }
    }

    fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("redis.sock").display())
    }

    async fn link(&self) -> Link {
        Link::connect(&self.url().into(), SHARD).await.unwrap()
    }

    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    async fn command(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.exec_async(&mut self.connection().await).await.unwrap();
    }

    /// Everything it holds.
    async fn dump(&self) -> Vec<(String, Vec<u8>)> {
        let mut connection = self.connection().await;
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        let mut all = Vec::new();
        for key in keys {
            let value: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.unwrap();
            all.push((key, value));
        }
        all
    }

    /// In one step, as a replica that was promoted too early would look.
    async fn restore(&self, all: &[(String, Vec<u8>)]) {
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("FLUSHALL");
        for (key, value) in all {
            pipe.cmd("RESTORE").arg(key).arg(0).arg(value);
        }
        pipe.exec_async(&mut self.connection().await).await.unwrap();
    }

    /// Of the open bucket.
    async fn pageviews(&self) -> u64 {
        let command = redis::cmd("HGETALL").arg("{0}:wt:0").to_owned();
        let counters: Vec<(Vec<u8>, u64)> = command.query_async(&mut self.connection().await).await.unwrap();
        let is_pageviews = |field: &[u8]| {
            matches!(Counter::from_field(field).unwrap(), Counter::Rollup { metric: Metric::Pageviews, .. })
        };
        counters.iter().filter(|(field, _)| is_pageviews(field)).map(|(_, count)| count).sum()
    }

    async fn expect_pageviews(&self, wanted: u64) {
        let asked = Instant::now();
        while self.pageviews().await != wanted {
            assert!(asked.elapsed() < ANSWER_MAX, "{} pageviews, not {wanted}", self.pageviews().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
