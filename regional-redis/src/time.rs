//! The region's clock is its Redis's.

use crate::link::{Link, LinkError};

impl Link {
    /// What time it is in the region, Unix ms.
    pub async fn time_ms(&mut self) -> Result<u64, LinkError> {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut self.connection).await?;
        Ok(seconds * 1000 + micros / 1000)
    }
}
