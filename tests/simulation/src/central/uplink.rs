//! Streams between the region and central's real conversations.

use std::sync::{Arc, Mutex, PoisonError};

use central::metrics::Metrics;
use central::uplink::{Central, Conversation};
use prometheus_client::registry::Registry;
use proto::dial::{Dial, Frames, Opening};
use proto::uplink::RegionFrame;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::MemoryBooks;
use super::without::Without;
use crate::network::{Fate, Network};
use crate::redis::Redis;
use crate::rules::Kept;

/// As many as central's own queue.
const FRAMES_MAX: usize = 16;

/// Central's process.
pub struct Process {
    books: Arc<MemoryBooks>,
    redis: Arc<Mutex<Redis>>,
    rules: Kept,
    running: Mutex<Option<Running>>,
}

struct Running {
    central: Arc<Central>,
    killed: CancellationToken,
}

impl Process {
    /// Over these books; nothing runs yet. The region's Redis is looked at only where a rule is left out.
    pub fn new(books: Arc<MemoryBooks>, redis: Arc<Mutex<Redis>>, rules: Kept) -> Self {
        Self { books, redis, rules, running: Mutex::default() }
    }

    /// Starts central, if it does not run.
    pub fn start(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get_or_insert_with(|| Running {
            central: Arc::new(Central::new(self.books.clone(), Metrics::new(&mut Registry::default()), None)),
            killed: CancellationToken::new(),
        });
    }

    /// Kills central between any two steps.
    pub fn kill(&self) {
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            running.killed.cancel();
        }
    }
}

/// The way of one of the region's processes to central.
pub struct Uplink {
    /// Where it leads.
    pub central: Arc<Process>,
    /// What lies between.
    pub network: Network,
}

impl Dial for Uplink {
    fn open(&self, frames: mpsc::Receiver<RegionFrame>) -> Opening<'_> {
        Box::pin(async move {
            if !self.network.connect().await {
                return Err(Status::unavailable("no answer"));
            }
            let running = self.central.running.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(Running { central, killed }) = &*running else { return Err(Status::unavailable("refused")) };
            let broken = killed.child_token();
            let (up, incoming) = mpsc::channel(FRAMES_MAX);
            let (outgoing, answers) = mpsc::channel(FRAMES_MAX);
            let (down, heard) = mpsc::channel(FRAMES_MAX);
            let stream = Box::pin(ReceiverStream::new(incoming));
            let conversation = Conversation::new(central.clone(), stream, outgoing, CancellationToken::new());
            let Process { books, redis, rules, .. } = &*self.central;
            let said = Arc::new(Without::new(*rules, books.clone(), redis.clone()));
            let heard_by_region = said.clone();
            // Killed: it never comes to its next step.
            tokio::spawn(killed.clone().run_until_cancelled_owned(conversation.run()));
            let region = move |frame| Ok(said.to_central(frame));
            tokio::spawn(carry(self.network.clone(), frames, up, region, broken.clone(), true));
            let central = move |answer: Result<_, _>| answer.map(|frame| heard_by_region.to_region(frame));
            tokio::spawn(carry(self.network.clone(), answers, down, central, broken, false));
            Ok(Box::pin(ReceiverStream::new(heard)) as Frames)
        })
    }
}

/// In order, each after its delay, until one side ends, or the network loses a frame and with it the stream. With `late`, one may
/// come when its sender has long begun another stream. Where streams stay half open, what is answered to one that broke goes nowhere.
async fn carry<F: Send + 'static, T: Send + 'static>(
    network: Network,
    mut from: mpsc::Receiver<F>,
    to: mpsc::Sender<Result<T, Status>>,
    of: impl Fn(F) -> Result<T, Status> + Clone + Send + 'static,
    broken: CancellationToken,
    late: bool,
) {
    let mut last = Instant::now();
    let receiver = to.clone();
    // Whether who receives hears of it.
    let breaks = broken.clone();
    let carrying = async {
        while let Some(frame) = from.recv().await {
            last = network.arrival().max(last);
            sleep_until(last).await;
            if let Some(later) = network.late().filter(|_| late) {
                let of = of.clone();
                tokio::spawn(async move {
                    sleep(later).await;
                    let _ = to.send(of(frame)).await;
                });
                broken.cancel();
                return false;
            }
            let fate = network.fate();
            if fate != Fate::Lost && to.send(of(frame)).await.is_err() {
                return false;
            }
            if fate != Fate::Arrives {
                broken.cancel();
                return true;
            }
        }
        false
    };
    let told = tokio::select! {
        biased;
        () = breaks.cancelled() => true,
        told = carrying => told,
    };
    if told {
        let _ = receiver.try_send(Err(Status::unavailable("the stream broke")));
    }
    if !late && network.is_half_open() {
        while from.recv().await.is_some() {}
    }
}
