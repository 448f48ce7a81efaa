//! Why counting stops, for a while or for good.

use regional_redis::{LinkError, Lsn};
use uuid::Uuid;

use crate::delivery::log::LogError;

/// Why an applier ended before its log did.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// What has to be replayed cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Redis knows records of this gateway that this process never sent.
    #[error(
        "redis has applied record {applied} under this gateway's id, and this gateway has sent {sent}: another process counts under the id, or this folder is an older copy; was the data folder copied? Leave the other one running and start this again: it becomes a gateway of its own"
    )]
    Ahead {
        /// What Redis says.
        applied: Lsn,
        /// The highest ever sent.
        sent: Lsn,
    },
    /// Redis or central knows this gateway otherwise than its folder does.
    #[error(
        "what redis and central know of this gateway is not what its folder says (they are at record {applied}, its log ends at {last}): another process counts under its id, or a part of the folder was lost; was the data folder copied? Leave the other one running and start this again: it becomes a gateway of its own"
    )]
    Older {
        /// What Redis says.
        applied: Lsn,
        /// The last record of the log.
        last: Lsn,
    },
    /// What Redis is missing is not in the log any more.
    #[error(
        "redis stands at record {applied} of this gateway, and its log begins at {first}: Redis lost what central had accepted, and must be rebuilt under a new epoch before this gateway may count. Is an aggregator running, and does it reach central?"
    )]
    Trimmed {
        /// What Redis says.
        applied: Lsn,
        /// The first record that is kept.
        first: Lsn,
    },
    /// The address leads to another region's counts.
    #[error(
        "this is the Redis of region {owner:?}, and this gateway's region is {region:?}: `redis` or `region` is wrong; what it counted here would be {owner:?}'s"
    )]
    Region {
        /// Whose it is.
        owner: String,
        /// The gateway's own.
        region: String,
    },
    /// Somebody retired this id.
    #[error(
        "gateway {0} was retired, for ever: its records stand as central has them. Take its data folder away; the gateway then starts under a new id"
    )]
    Retired(Uuid),
}

/// Why a session with Redis ended.
pub(super) enum Lost {
    Redis(LinkError),
    Unapproved,
    Fenced,
    /// It stands beyond what this process believed: it has outcomes to give.
    Beyond,
    /// It has no room. The session stays.
    Full,
    Fatal(ApplyError),
}

impl From<LogError> for Lost {
    fn from(error: LogError) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<ApplyError> for Lost {
    fn from(error: ApplyError) -> Self {
        Self::Fatal(error)
    }
}

impl From<LinkError> for Lost {
    fn from(error: LinkError) -> Self {
        match &error {
            LinkError::Redis(redis) if redis.code() == Some("OOM") => Self::Full,
            _ => Self::Redis(error),
        }
    }
}
