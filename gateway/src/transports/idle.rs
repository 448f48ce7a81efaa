//! Whether a connection is in use: who opens one and asks for nothing, or has been answered and stays, is cut.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::door::crowd::Seat;
use crate::transports::WRITE_MAX;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Of one connection, on whichever protocol.
#[derive(Debug)]
pub struct Usage {
    /// The last request or session ended then, or the connection began.
    since: Mutex<Instant>,
    asked: AtomicBool,
    open: AtomicUsize,
    /// Answers whose next part waits for the client, and since when.
    given: Mutex<HashMap<u64, Instant>>,
    next: AtomicU64,
    /// Taken until nothing of the connection is left: a WebSocket goes on after the protocol that it began with has ended.
    _seat: Seat,
}

/// A request until its response has left, or a session. While one lives its connection is in use.
#[derive(Debug)]
pub struct InUse {
    usage: Arc<Usage>,
    number: u64,
}

impl InUse {
    /// A part of the answer was handed over: it is the client's turn to take it.
    pub fn gave(&self) {
        self.usage.given().insert(self.number, Instant::now());
    }

    /// It was taken, and the next one is wanted.
    pub fn taken(&self) {
        self.usage.given().remove(&self.number);
    }
}

impl Usage {
    /// Of a connection that has just been accepted, in this place.
    pub fn new(seat: Seat) -> Arc<Self> {
        let (since, asked, open) = (Mutex::new(Instant::now()), AtomicBool::new(false), AtomicUsize::new(0));
        let (given, next) = (Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { since, asked, open, given, next, _seat: seat })
    }

    /// A request begins.
    pub fn begin(self: &Arc<Self>) -> InUse {
        self.asked.store(true, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        InUse { usage: Arc::clone(self), number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    fn given(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once nothing is open: at the end of a gateway, for a protocol that does not end its connections itself.
    pub async fn released(&self) {
        while self.open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns once the connection has been without a request for too long: `first` until its first, `idle` after its last; or once
    /// its client has left a part of an answer where it is for [`WRITE_MAX`]. By HTTP/2 such a client may be there all the same.
    pub async fn unused(&self, first: Duration, idle: Duration) {
        loop {
            let longest = self.given().values().min().copied();
            if longest.is_some_and(|since| since.elapsed() >= WRITE_MAX) {
                return;
            }
            let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
            let asked = self.asked.load(Ordering::Relaxed);
            // In use: it is looked at again later, so that the end of a request has nobody to wake.
            let in_use = self.open.load(Ordering::Relaxed) > 0;
            let deadline = match (in_use, asked) {
                (true, _) => Instant::now() + idle.min(WRITE_MAX),
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
        self.taken();
        *self.usage.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.usage.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::door::address::TrustedProxies;
    use crate::door::crowd::Crowd;

    const BRIEF: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(600);

    fn usage() -> Arc<Usage> {
        let crowd = Crowd::new(&Limits::default(), TrustedProxies::default());
        Usage::new(crowd.enter([192, 0, 2, 1].into()).unwrap())
    }

    #[tokio::test]
    async fn a_connection_is_cut_after_silence_and_never_while_it_is_used() {
        usage().unused(BRIEF, LONG).await;

        let used = usage();
        let request = used.begin();
        let session = used.begin();
        drop(request);
        assert!(tokio::time::timeout(20 * BRIEF, used.unused(BRIEF, BRIEF)).await.is_err(), "a session may last");
        drop(session);
        used.unused(LONG, BRIEF).await;
    }
}
