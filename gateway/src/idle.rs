//! Whether a connection is in use: who opens one and asks for nothing, or has been answered and stays, is cut.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Of one connection, on whichever protocol.
#[derive(Debug)]
pub struct Usage {
    /// The last request or session ended then, or the connection began.
    since: Mutex<Instant>,
    asked: AtomicBool,
    open: AtomicUsize,
}

/// A request until its response has left, or a session. While one lives its connection is in use.
#[derive(Debug)]
pub struct InUse(Arc<Usage>);

impl Usage {
    /// Of a connection that has just been accepted.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { since: Mutex::new(Instant::now()), asked: AtomicBool::new(false), open: AtomicUsize::new(0) })
    }

    /// A request begins.
    pub fn begin(self: &Arc<Self>) -> InUse {
        self.asked.store(true, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(self))
    }

    /// Returns once nothing is open: at the end of a gateway, for a protocol that does not end its connections itself.
    pub async fn released(&self) {
        while self.open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns once the connection has been without a request for too long: `first` until its first, `idle` after its last.
    pub async fn unused(&self, first: Duration, idle: Duration) {
        loop {
            let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
            let asked = self.asked.load(Ordering::Relaxed);
            // In use: it is looked at again later, so that the end of a request has nobody to wake.
            let in_use = self.open.load(Ordering::Relaxed) > 0;
            let deadline = match (in_use, asked) {
                (true, _) => Instant::now() + idle,
                (false, true) => since + idle,
                (false, false) => since + first,
            };
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEF: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_connection_is_cut_after_silence_and_never_while_it_is_used() {
        Usage::new().unused(BRIEF, LONG).await;

        let used = Usage::new();
        let request = used.begin();
        let session = used.begin();
        drop(request);
        assert!(tokio::time::timeout(20 * BRIEF, used.unused(BRIEF, BRIEF)).await.is_err(), "a session may last");
        drop(session);
        used.unused(LONG, BRIEF).await;
    }
}
