//! Nothing leaves Redis before it is durable there.

use regional_redis::{Link, LinkError};

/// After this, everything that Redis answered before is on its disk.
///
/// With `appendfsync always` Redis answers a write only after its log was fsynced, so the answer to the cut is the
/// barrier already. What remains to be done is to see that the setting still holds: it can be changed while Redis runs.
pub async fn raise(link: &mut Link) -> Result<(), LinkError> {
    link.check_durable().await
}
