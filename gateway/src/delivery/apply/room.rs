//! A full disk under what Redis decided: it is waited for, and so are the pages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::delivery::log::LogError;
use crate::door::capacity::Capacity;

/// How often a full disk is asked for room again.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// Writes until there is room. Meanwhile the door takes nothing, and nobody is told that this gateway is ready.
pub(super) async fn with_room(
    capacity: &Capacity,
    ready: &AtomicBool,
    stop: &CancellationToken,
    write: impl Fn() -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut was_ready = None;
    let written = loop {
        match write() {
            Err(error) if error.is_full() => {
                capacity.outcomes_full(true);
                let ready = ready.swap(false, Ordering::Relaxed);
                was_ready.get_or_insert(ready);
                tokio::time::sleep(ROOM_EVERY).await;
            }
            written => break written,
        }
    };
    if let Some(was_ready) = was_ready {
        capacity.outcomes_full(false);
        ready.store(was_ready && !stop.is_cancelled(), Ordering::Relaxed);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::door::capacity::WhenRedisIsAway;

    #[tokio::test]
    async fn pages_wait_for_the_disk_and_are_taken_again_after_it() {
        let (capacity, ready) = (Capacity::new(WhenRedisIsAway::StoreAndForward), AtomicBool::new(true));
        let (stop, full) = (CancellationToken::new(), AtomicBool::new(true));
        let write = || match full.load(Ordering::Relaxed) {
            true => Err(LogError::Io { path: "outcomes".into(), source: io::ErrorKind::StorageFull.into() }),
            false => Ok(()),
        };
        let looking = async {
            tokio::time::sleep(ROOM_EVERY / 2).await;
            assert!(capacity.wait().is_some());
            assert!(!ready.load(Ordering::Relaxed));
            full.store(false, Ordering::Relaxed);
        };
        let (written, ()) = tokio::join!(with_room(&capacity, &ready, &stop, write), looking);
        written.unwrap();
        assert_eq!(capacity.wait(), None);
        assert!(ready.load(Ordering::Relaxed));
    }
}
