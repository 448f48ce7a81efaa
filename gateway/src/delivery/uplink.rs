//! The gateway's stream to central: it registers its id, is told sites, salts and how far central has come, ships raw rows, and asks
//! for outcomes when its Redis was lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::Message;
use proto::dial::Dial;
use proto::uplink::central_frame::Frame as FromCentral;
use proto::uplink::region_frame::Frame as ToCentral;
use proto::uplink::{Configuration, GatewayHello, Outcomes, Progress, Recall, Recalled, RegionFrame, ShardLsn};
use regional_redis::{Lsn, Shard};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt;

use crate::delivery::folder::write_durably;
use crate::delivery::log::LogError;
use crate::delivery::raw::Shipper;
use crate::ingest::Ingest;
use crate::metrics::{Breaker, Metrics};

const RETRY_MAX: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(200);
/// A hello, a recall, and as many raw frames as may be unacknowledged.
const OUTGOING_FRAMES_MAX: usize = 8;

/// What the stream needs.
pub struct Uplink {
    /// The way to central.
    pub dial: Arc<dyn Dial>,
    /// Whose sites are replaced.
    pub ingest: Arc<Ingest>,
    /// Where the last configuration is kept, so that a start without central works.
    pub cache: PathBuf,
    /// What leaves on it.
    pub shipper: Shipper,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// What central said to whoever registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The highest LSN central knows for this gateway, per shard.
    pub known: Vec<ShardLsn>,
    /// In answer to a hello that said so.
    pub entered: bool,
}

/// Central, for whoever asks.
#[derive(Clone, Debug)]
pub struct Central {
    shard: Shard,
    hello: watch::Sender<GatewayHello>,
    told: watch::Receiver<Option<Told>>,
    recalls: mpsc::Sender<Question>,
}

/// The stream's end of what [`Central`] holds.
#[derive(Debug)]
pub struct Asked {
    hello: watch::Receiver<GatewayHello>,
    told: watch::Sender<Option<Told>>,
    recalls: mpsc::Receiver<Question>,
}

/// Who asks, and for outcomes behind which record.
#[derive(Debug)]
struct Question {
    after: Lsn,
    answer: oneshot::Sender<Carried>,
}

/// What central knows of a lost Redis.
#[derive(Debug)]
pub struct Carried {
    /// How far this gateway was accepted, and the epoch that is open.
    pub progress: Progress,
    /// That flushes carried.
    pub outcomes: Vec<Outcomes>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Status(Box<tonic::Status>),
    #[error("central refuses this gateway: {0}")]
    Refused(String),
    #[error("central closed the stream")]
    Closed,
    /// There is something new to introduce oneself with.
    #[error("the gateway introduces itself again")]
    Again,
}

/// Both ends of the questions to central.
pub fn central(shard: Shard, hello: GatewayHello) -> (Central, Asked) {
    let (hello, introduced) = watch::channel(hello);
    let (latest, told) = watch::channel(None);
    let (recalls, asked) = mpsc::channel(1);
    (Central { shard, hello, told, recalls }, Asked { hello: introduced, told: latest, recalls: asked })
}

impl Central {
    /// What central said first.
    pub async fn known(&mut self) -> Option<Told> {
        self.told.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Central knows this id, and the one it replaces as retired.
    pub fn answered(&self) -> bool {
        self.told.borrow().is_some()
    }

    /// The region that this gateway introduces itself with.
    pub fn region(&self) -> String {
        self.hello.borrow().region.clone()
    }

    /// The highest record of this shard that it knows.
    pub fn highest(&self) -> Lsn {
        let told = self.told.borrow();
        let known = told.iter().flat_map(|told| &told.known).filter(|known| known.shard == self.shard.0);
        Lsn(known.map(|known| known.lsn).max().unwrap_or(0))
    }

    /// Tells central that this gateway is registered in Redis, and waits until it will not forget.
    pub async fn enter(&mut self) {
        self.hello.send_if_modified(|hello| !std::mem::replace(&mut hello.entered, true));
        // The other end lives as long as the gateway.
        let _ = self.told.wait_for(|told| told.as_ref().is_some_and(|told| told.entered)).await;
    }

    /// Outcomes of records behind `after`. `None`: central went away meanwhile.
    pub async fn recall(&self, after: Lsn) -> Option<Carried> {
        let (answer, carried) = oneshot::channel();
        self.recalls.send(Question { after, answer }).await.ok()?;
        carried.await.ok()
    }
}

impl Uplink {
    /// Puts the configuration of the last run in force. False: there is none.
    pub fn restore(&self) -> bool {
        let cached = std::fs::read(&self.cache).ok().and_then(|bytes| Configuration::decode(&bytes[..]).ok());
        cached.is_some_and(|configuration| self.ingest.sites.replace(&configuration).is_ok())
    }

    /// Keeps a stream up for ever; each configuration goes in force at once.
    pub async fn run(mut self, mut asked: Asked) {
        let mut wait = RETRY_MIN;
        loop {
            self.breaker(Breaker::HalfOpen);
            match self.stream(&mut asked, &mut wait).await {
                Ok(never) => match never {},
                Err(Broken::Again) => continue,
                Err(error) => tracing::warn!(%error, "no uplink to central; the last configuration stays in force"),
            }
            self.breaker(Breaker::Open);
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    fn breaker(&self, breaker: Breaker) {
        self.metrics.breaker("central", breaker);
    }

    async fn stream(&mut self, asked: &mut Asked, wait: &mut Duration) -> Result<std::convert::Infallible, Broken> {
        let broken = |status| Broken::Status(Box::new(status));
        let hello = asked.hello.borrow_and_update().clone();
        let entered = hello.entered;
        let (to_central, frames) = mpsc::channel(OUTGOING_FRAMES_MAX);
        send(&to_central, ToCentral::Gateway(hello))?;
        let mut from_central = self.dial.open(frames).await.map_err(broken)?;
        self.shipper.begin();
        let mut ships = false;
        let mut recalling: Option<(Question, Vec<Outcomes>)> = None;
        loop {
            let ship_at = if ships { self.shipper.next() } else { Instant::now() + RETRY_MAX };
            tokio::select! {
                biased;
                Ok(()) = asked.hello.changed() => return Err(Broken::Again),
                frame = from_central.next() => match frame.ok_or(Broken::Closed)?.map_err(broken)?.frame {
                    Some(FromCentral::Configuration(configuration)) => {
                        *wait = RETRY_MIN;
                        self.breaker(Breaker::Closed);
                        self.take(&configuration, entered, &asked.told);
                    }
                    Some(FromCentral::Progress(progress)) if progress.shard == self.shipper.shard().0 => {
                        self.shipper.delivery().progress(&progress);
                        ships = true; // central takes raw rows: it says how far it is
                    }
                    Some(FromCentral::RawAck(ack)) => self.shipper.acked(&ack),
                    Some(FromCentral::Recalled(part)) => take_recalled(&mut recalling, part),
                    Some(FromCentral::Refusal(refusal)) => return Err(Broken::Refused(refusal.message)),
                    _ => {} // for aggregators, or of a later version
                },
                Some(question) = asked.recalls.recv(), if recalling.is_none() => {
                    let (shard, after) = (self.shipper.shard().0, question.after.0);
                    send(&to_central, ToCentral::Recall(Recall { shard, after }))?;
                    recalling = Some((question, Vec::new()));
                }
                () = sleep_until(ship_at), if ships => {
                    if let Err(error) = self.ship(&to_central)? {
                        tracing::error!(%error, "raw rows cannot leave until the gateway is restarted");
                        ships = false;
                    }
                }
            }
        }
    }

    fn ship(&mut self, to_central: &mpsc::Sender<RegionFrame>) -> Result<Result<(), LogError>, Broken> {
        match self.shipper.frame() {
            Ok(Some(rows)) => send(to_central, ToCentral::Raw(rows)).map(Ok),
            Ok(None) => Ok(Ok(())),
            Err(error) => Ok(Err(error)),
        }
    }

    fn take(&self, configuration: &Configuration, entered: bool, told: &watch::Sender<Option<Told>>) {
        match self.ingest.sites.replace(configuration) {
            Ok(()) => {
                if let Err(error) = write_durably(&self.cache, &configuration.encode_to_vec()) {
                    tracing::warn!(%error, "the configuration could not be kept; a start without central would fail");
                }
                told.send_replace(Some(Told { known: configuration.known.clone(), entered }));
            }
            Err(error) => {
                self.metrics.bad_configurations.inc();
                tracing::error!(%error, "central sent a configuration that cannot be used; the last one stays in force");
            }
        }
    }
}

fn take_recalled(recalling: &mut Option<(Question, Vec<Outcomes>)>, part: Recalled) {
    let Some((_, outcomes)) = recalling else { return };
    outcomes.extend(part.outcomes);
    if part.last
        && let Some((question, outcomes)) = recalling.take()
    {
        // Whoever asked may have given up.
        let _ = question.answer.send(Carried { progress: part.progress.unwrap_or_default(), outcomes });
    }
}

fn send(to_central: &mpsc::Sender<RegionFrame>, frame: ToCentral) -> Result<(), Broken> {
    to_central.try_send(RegionFrame { frame: Some(frame) }).map_err(|_| Broken::Closed)
}
