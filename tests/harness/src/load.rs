//! Pages that send numbered batches to the region's gateways, keep each until it has an outcome, move between the gateways
//! and come back after everything that can happen to a connection.

mod agent;
mod sent;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use agent::Agent;
pub use sent::{Held, Sent};

/// How much is sent. Every agent is one visitor with an address of its own.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Pages at once: at most 60,000.
    pub agents: u32,
    /// Of one page, from one batch to the next.
    pub every: Duration,
    /// Events of a batch that are counted: one custom event, the others pageviews. Some batches hold one more that must not be.
    pub events: u32,
    /// Share of transmissions that repeat a batch which was acknowledged long ago.
    pub repeated: f64,
}

impl Default for Plan {
    /// About 100 batches a second, enough that every group commit and every cut holds some.
    fn default() -> Self {
        Self { agents: 20, every: Duration::from_millis(200), events: 3, repeated: 0.05 }
    }
}

/// What the agents share.
#[derive(Debug, Default)]
struct Shared {
    doors: Mutex<Vec<SocketAddr>>,
    sent: Mutex<Sent>,
    /// Of batches acknowledged since they were last taken.
    latencies: Mutex<Vec<Duration>>,
    /// No new batches for now.
    pauses: AtomicBool,
    stop: CancellationToken,
}

/// A load that runs until it is finished or dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    agents: JoinSet<()>,
}

impl Load {
    /// Begins to send to these gateways, each page to one at random, another after each lost connection.
    pub fn start(plan: Plan, doors: Vec<SocketAddr>) -> Self {
        let shared = Arc::new(Shared { doors: Mutex::new(doors), ..Default::default() });
        shared.sent.lock().unwrap().visitors = u64::from(plan.agents);
        // Two loads on one region are different visitors.
        static RUN: LazyLock<AtomicU8> = LazyLock::new(|| AtomicU8::new(rand::random()));
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let agents = (0..plan.agents).map(|number| Agent::new(Arc::clone(&shared), plan, run, number).run()).collect();
        Self { shared, agents }
    }

    /// From now on connections go to these gateways; open ones stay.
    pub fn point_at(&self, doors: Vec<SocketAddr>) {
        *self.shared.doors.lock().unwrap() = doors;
    }

    /// Batches acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.sent.lock().unwrap().acknowledged
    }

    /// Connections that broke so far, without a Drain before.
    pub fn broken(&self) -> u64 {
        self.shared.sent.lock().unwrap().broken.values().sum()
    }

    /// From the first transmission to the acknowledgement of each batch that was acknowledged since this was last called.
    pub fn take_latencies(&self) -> Vec<Duration> {
        std::mem::take(&mut self.shared.latencies.lock().unwrap())
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        self.shared.sent.lock().unwrap().clone()
    }

    /// Waits until so many more batches are acknowledged, and says how long that took.
    pub async fn more(&self, batches: u64, within: Duration) -> Result<Duration, String> {
        let (asked, before) = (Instant::now(), self.acknowledged());
        while self.acknowledged() < before + batches {
            if asked.elapsed() > within {
                let came = self.acknowledged() - before;
                return Err(format!("{came} of {batches} batches were acknowledged within {within:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(asked.elapsed())
    }

    /// Makes no new batches until [`Load::resume`], waits until each that was made has been acknowledged, and says which.
    pub async fn pause(&self, within: Duration) -> Result<Sent, String> {
        self.shared.pauses.store(true, Ordering::SeqCst);
        let asked = Instant::now();
        loop {
            let sent = self.sent();
            if sent.acknowledged == sent.batches.len() as u64 {
                return Ok(sent);
            }
            if asked.elapsed() > within {
                return Err(sent.unanswered(within));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Goes on after [`Load::pause`].
    pub fn resume(&self) {
        self.shared.pauses.store(false, Ordering::SeqCst);
    }

    /// Makes no more batches, and waits until each that was made has been acknowledged.
    pub async fn finish(mut self, within: Duration) -> Result<Sent, String> {
        self.shared.stop.cancel();
        let ended = timeout(within, async {
            while let Some(ended) = self.agents.join_next().await {
                ended.unwrap();
            }
        });
        let ended = ended.await;
        let sent = self.sent();
        match ended {
            Ok(()) => Ok(sent),
            Err(_) => Err(sent.unanswered(within)),
        }
    }
}
