//! Figures of what is not flushed yet, every second: absolute, so that the newest replaces all before it.

use std::time::Duration;

use proto::Message;
use proto::uplink::{RegionFrame, region_frame};
use regional_redis::{Link, LinkError, live};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::MissedTickBehavior;

use crate::metrics::Metrics;

/// Central takes no larger frame: about ten thousand sites with events in every one of the last minutes.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// Sends live figures until Redis is gone. A stream that is busy with a flush misses one.
pub async fn report(
    mut link: Link,
    outgoing: mpsc::Sender<RegionFrame>,
    epoch: u64,
    interval: Duration,
    metrics: &Metrics,
) -> LinkError {
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        if outgoing.capacity() < outgoing.max_capacity() {
            metrics.live_skipped.inc();
            continue;
        }
        let frame = match read(&mut link, epoch).await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        if frame.encoded_len() > FRAME_BYTES_MAX {
            metrics.live_skipped.inc();
            tracing::debug!(bytes = frame.encoded_len(), "live figures do not fit into a frame");
            continue;
        }
        match outgoing.try_send(frame) {
            Ok(()) => metrics.live.inc(),
            // A stream that is closed is noticed, with the reason, where it is read.
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => metrics.live_skipped.inc(),
        };
    }
}

async fn read(link: &mut Link, epoch: u64) -> Result<RegionFrame, LinkError> {
    let now_ms = link.time_ms().await?;
    let figures = live::read(link, epoch, now_ms).await?;
    Ok(RegionFrame { frame: Some(region_frame::Frame::Live(figures)) })
}
