//! Nothing leaves Redis before it is durable there.

use regional_redis::{Link, LinkError};

/// After this, everything that Redis answered before is on its disk, and on that of as many replicas as are configured.
pub async fn raise(link: &mut Link) -> Result<(), LinkError> {
    link.barrier().await
}
