//! A gateway from its log to central, without the pages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gateway::clock::Clock;
use gateway::config::Limits;
use gateway::delivery::answer::Answer;
use gateway::delivery::apply::{Applier, ApplyError, Entrance, Entry, Start};
use gateway::delivery::log::{Log, Opened, Reader, Submission, Waiter};
use gateway::delivery::processes::Processes;
use gateway::delivery::progress::Delivery;
use gateway::delivery::raw::Shipper;
use gateway::delivery::trim::Trimming;
use gateway::delivery::uplink::{self, Uplink};
use gateway::door::capacity::{Capacity, WhenRedisIsAway};
use gateway::door::sites::Sites;
use gateway::ingest::Ingest;
use gateway::ingest::cardinality::Cardinality;
use gateway::ingest::in_flight::InFlight;
use gateway::ingest::user_agent::Agents;
use gateway::metrics::Metrics;
use prometheus_client::registry::Registry;
use proto::Message;
use proto::dial::{Dial, Frames, Opening};
use proto::record::{Record, RecordedEvent};
use proto::sid::Sid;
use proto::uplink::central_frame::Frame as FromCentral;
use proto::uplink::region_frame::Frame as ToCentral;
use proto::uplink::{
    CentralFrame, Configuration, GatewayHello, Outcomes, Progress, RawAck, RawRows, Recalled, RegionFrame, ShardLsn,
};
use regional_redis::{Lsn, Shard};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::redis_server::RedisServer;

pub const SHARD: Shard = Shard(0);
/// Of every batch. It is accepted for two hours and more from now on.
static SID: LazyLock<Sid> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Sid::from_parts(now.as_millis() as u64, [7; 10])
});
pub const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What a central would keep, in memory.
#[derive(Clone, Default)]
pub struct FakeCentral(Arc<Mutex<Known>>);

#[derive(Default)]
pub struct Known {
    pub epoch: u64,
    pub accepted: u64,
    pub applied_by: String,
    pub watermark_ms: u64,
    pub carried: Vec<Outcomes>,
    /// Of a seq: epoch, visit.
    pub rows: BTreeMap<u32, (u64, Vec<u8>)>,
    /// Each time a row came: seq and epoch.
    pub came: Vec<(u32, u64)>,
    pub generations: Vec<u64>,
    pub entered: Vec<bool>,
    /// No frame is acknowledged.
    pub silent: bool,
}

impl FakeCentral {
    pub fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    pub async fn expect(&self, what: &str, holds: impl Fn(&Known) -> bool) {
        let asked = Instant::now();
        while !self.known(|known| holds(known)) {
            let rows = self.known(|known| known.came.clone());
            assert!(asked.elapsed() < ANSWER_MAX, "{what}; rows that came: {rows:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn progress(&self) -> Progress {
        self.known(|known| Progress {
            shard: SHARD.0,
            epoch: known.epoch,
            accepted: known.accepted,
            watermark_ms: known.watermark_ms,
            applied_by: known.applied_by.clone(),
        })
    }

    fn answer(&self, frame: ToCentral) -> Vec<FromCentral> {
        match frame {
            ToCentral::Gateway(hello) => {
                let lsn = self.known(|known| {
                    known.entered.push(hello.entered);
                    known.accepted
                });
                let known = vec![ShardLsn { shard: SHARD.0, lsn }];
                let configuration = Configuration { known, ..Default::default() };
                // Of a shard that is not this gateway's: it says nothing about its log.
                let other = Progress { shard: SHARD.0 + 1, accepted: 1_000_000, ..Default::default() };
                let progress = [self.progress(), other].map(FromCentral::Progress);
                [FromCentral::Configuration(configuration)].into_iter().chain(progress).collect()
            }
            ToCentral::Raw(rows) => self.take(rows),
            ToCentral::Recall(recall) => {
                let outcomes = self.known(|known| known.carried.clone());
                let (empty, some) = (Vec::new(), outcomes.into_iter().filter(|o| o.last > recall.after).collect());
                let part = |outcomes, last| {
                    FromCentral::Recalled(Recalled { progress: Some(self.progress()), outcomes, last })
                };
                vec![part(empty, false), part(some, true)]
            }
            other => panic!("a gateway does not send {other:?}"),
        }
    }

    fn take(&self, rows: RawRows) -> Vec<FromCentral> {
        self.known(|known| {
            known.generations.push(rows.generation);
            for batch in rows.batches {
                let record = Record::decode(&batch.record[..]).unwrap();
                known.came.push((record.seq, batch.epoch));
                let row = known.rows.entry(record.seq).or_default();
                if batch.epoch >= row.0 {
                    *row = (batch.epoch, batch.visit);
                }
            }
            let ack = RawAck { shard: rows.shard, generation: rows.generation, last: rows.last };
            if known.silent { Vec::new() } else { vec![FromCentral::RawAck(ack)] }
        })
    }
}

impl Dial for FakeCentral {
    fn open(&self, mut frames: mpsc::Receiver<RegionFrame>) -> Opening<'_> {
        let central = self.clone();
        Box::pin(async move {
            let (answers, received) = mpsc::channel(64);
            tokio::spawn(async move {
                let mut told = central.progress();
                let mut ticks = tokio::time::interval(Duration::from_millis(50));
                loop {
                    let said = tokio::select! {
                        frame = frames.recv() => match frame {
                            Some(frame) => central.answer(frame.frame.unwrap()),
                            None => return,
                        },
                        _ = ticks.tick() => {
                            let new = central.progress();
                            if new == told { continue }
                            told = new.clone();
                            vec![FromCentral::Progress(new)]
                        }
                    };
                    for frame in said {
                        if answers.send(Ok(CentralFrame { frame: Some(frame) })).await.is_err() {
                            return;
                        }
                    }
                }
            });
            Ok(Box::pin(ReceiverStream::new(received)) as Frames)
        })
    }
}

/// The gateway's id.
pub const GATEWAY: Uuid = Uuid::from_u128(7);

/// A gateway before it has entered: nothing is read from its log yet.
pub struct Entering {
    pub entrance: Arc<Entrance>,
    pub opened: Opened,
    central: uplink::Central,
    metrics: Arc<Metrics>,
    uplinked: AbortOnDropHandle<()>,
}

pub async fn entering(redis: &RedisServer, central: &FakeCentral, folder: &Path) -> Entering {
    let ingest = Arc::new(Ingest {
        sites: Sites::default(),
        clock: Clock::new(),
        in_flight: InFlight::default(),
        data_centres: Arc::default(),
        cardinality: Cardinality::new(&Limits::default()),
        agents: Arc::new(Agents::try_new().unwrap()),
        geo: None,
    });
    let metrics = Arc::new(Metrics::new(&mut Registry::default()));
    let log: PathBuf = folder.join("log");
    let opened = Log::open(&log, GATEWAY, SHARD).unwrap();
    let delivery = Arc::new(Delivery::open(&log, GATEWAY, SHARD, opened.first).unwrap());
    let shipper =
        Shipper::new(SHARD, Arc::clone(&delivery), Reader::new(&log), Arc::clone(&ingest), Arc::clone(&metrics));
    let processes = Processes::open(&log, opened.last).unwrap();
    let hello = GatewayHello { gateway: GATEWAY.to_string(), region: "here".into(), ..Default::default() };
    let (mut to_central, asked) = uplink::central(SHARD, hello);
    let uplink = Uplink {
        dial: Arc::new(central.clone()),
        ingest: Arc::clone(&ingest),
        cache: folder.join("configuration"),
        shipper,
        metrics: Arc::clone(&metrics),
    };
    let uplinked = AbortOnDropHandle::new(tokio::spawn(uplink.run(asked)));
    to_central.known().await.unwrap();
    let (shard, redis, central) = (SHARD, redis.url().into(), to_central.clone());
    let entrance = Arc::new(Entrance { shard, redis, gateway: GATEWAY, log, delivery, processes, ingest, central });
    Entering { entrance, opened, central: to_central, metrics, uplinked }
}

pub struct RunningGateway {
    pub id: Uuid,
    pub ready: Arc<AtomicBool>,
    pub delivery: Arc<Delivery>,
    ingest: Arc<Ingest>,
    pub trimming: Trimming,
    submissions: mpsc::Sender<Submission>,
    session: mpsc::Sender<Answer>,
    pub answers: mpsc::Receiver<Answer>,
    applying: tokio::task::JoinHandle<Result<(), ApplyError>>,
    _uplinked: AbortOnDropHandle<()>,
}

impl RunningGateway {
    pub async fn start(redis: &RedisServer, central: &FakeCentral, folder: &Path) -> Self {
        Self::with_policy(redis, central, folder, WhenRedisIsAway::Refuse).await
    }

    pub async fn with_policy(
        redis: &RedisServer,
        central: &FakeCentral,
        folder: &Path,
        policy: WhenRedisIsAway,
    ) -> Self {
        let Entering { entrance, opened, central: mut to_central, metrics, uplinked } =
            entering(redis, central, folder).await;
        let (log, delivery) = (entrance.log.clone(), Arc::clone(&entrance.delivery));
        let session = match entrance.enter(opened.last).await.unwrap() {
            Entry::Counts(session) => session,
            Entry::Older(_) => panic!("the folder is older than its id"),
            Entry::NotYet(why) => panic!("{why}"),
        };
        to_central.enter().await;
        let (submit, submissions) = mpsc::channel(64);
        let (commit, groups) = mpsc::channel(4);
        let log_metrics = Arc::clone(&metrics);
        let capacity = Arc::new(Capacity::new(policy));
        let log_capacity = Arc::clone(&capacity);
        tokio::spawn(async move {
            opened.log.run(submissions, &commit, &log_metrics, &log_capacity).await.unwrap();
        });
        let (reader, last, stop) = (opened.reader, opened.last, CancellationToken::new());
        let ingest = Arc::clone(&entrance.ingest);
        let start = Start { entrance, reader, last, groups, capacity, stop };
        let ready = Arc::new(AtomicBool::new(false));
        let applier = Applier::new(start, &session, Arc::clone(&ingest), Arc::clone(&metrics), Arc::clone(&ready));
        let (to_session, answers) = mpsc::channel(1024);
        let applying = tokio::spawn(applier.run(session));
        let trimming = Trimming::new(log, Arc::clone(&delivery), metrics);
        Self {
            id: GATEWAY,
            ready,
            delivery,
            ingest,
            trimming,
            submissions: submit,
            session: to_session,
            answers,
            applying,
            _uplinked: uplinked,
        }
    }

    pub async fn submit(&self, seq: u32) {
        self.submit_with(seq, Vec::new()).await;
    }

    pub async fn submit_with(&self, seq: u32, props: Vec<String>) {
        let event = RecordedEvent {
            name: "pageview".into(),
            path: "/".into(),
            at_ms: 1_700_000_000_000,
            props,
            ..Default::default()
        };
        let admission = self.ingest.in_flight.admit(self.ingest.clock.now_ms());
        let record = Record {
            arrived_ms: self.ingest.clock.now_ms(),
            site: "shop".into(),
            sid: SID.as_bytes().to_vec(),
            seq,
            visitor: 7,
            events: vec![event],
            ..Default::default()
        };
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let answer = Answer { sid: *SID, seq, refused: None };
        let waiter = Waiter { answer, session: self.session.clone(), admission, room };
        self.submissions.send(Submission { record, waiter }).await.unwrap();
    }

    pub async fn answer(&mut self) -> Answer {
        tokio::time::timeout(ANSWER_MAX, self.answers.recv()).await.expect("an answer in time").unwrap()
    }

    pub async fn count(&mut self, seq: u32) {
        self.submit(seq).await;
        assert_eq!(self.answer().await, Answer { sid: *SID, seq, refused: None });
    }

    /// The last record whose outcome survives this machine.
    pub async fn expect_logged(&self, lsn: u64) {
        let asked = Instant::now();
        while self.delivery.logged() != Lsn(lsn) {
            assert!(asked.elapsed() < ANSWER_MAX, "logged through {}, not {lsn}", self.delivery.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn stop(self) {
        drop(self.submissions);
        tokio::time::timeout(ANSWER_MAX, self.applying).await.expect("it drains").unwrap().unwrap();
    }

    /// Ends because it cannot go on.
    pub async fn end(self) -> ApplyError {
        tokio::time::timeout(ANSWER_MAX, self.applying).await.expect("it ends").unwrap().unwrap_err()
    }
}
