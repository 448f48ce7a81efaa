//! A gateway's place in Redis: it registers, reports how far it has come, and remembers its batches when Redis was lost.

use crate::apply::{BATCHES_MAX, Batch};
use crate::link::{Link, LinkError};
use crate::{Lsn, pack};

/// What a gateway learns when it registers.
#[derive(Debug, PartialEq, Eq)]
pub enum Registered {
    /// No leader has approved this Redis process yet.
    Wait,
    /// Its id was retired, for ever: what it counted stays counted.
    Retired,
    /// Redis was lost, and the rebuild waits for other gateways: nothing is applied until the last of them has remembered.
    Rebuilding,
    /// Redis was lost, and the rebuild waits for this gateway: it remembers what it had counted, then calls
    /// [`Link::rebuilt`]. Until then nothing of it is applied.
    Rebuild {
        /// The region's clock does not start below this.
        clock_floor_ms: u64,
    },
    /// It counts from here on.
    At {
        /// The last record that Redis has applied.
        applied: Lsn,
        /// The incarnation whose call that was; `None` if there was none.
        by: Option<String>,
        /// The region's clock does not start below this.
        clock_floor_ms: u64,
    },
}

/// What a gateway learns when it reports its watermark.
#[derive(Debug, PartialEq, Eq)]
pub enum Reported {
    /// Taken.
    Done {
        /// Central was told that Redis will not forget the gateway's records up to here; of this epoch.
        durable: Lsn,
    },
    /// No leader has approved this Redis process yet, or it is being rebuilt.
    Wait,
    /// The incarnation is not the registered one.
    Fenced,
    /// Redis stands at this record: replay from the next.
    Gap(Lsn),
}

/// What a gateway learns while it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebuilding {
    /// Taken.
    Done,
    /// Redis is not approved, or waits for this gateway no more: register again.
    Wait,
    /// The incarnation is not the registered one.
    Fenced,
}

impl Link {
    /// Registers a fresh incarnation of a gateway. The caller raises [`Link::barrier`] before it uses the answer.
    pub async fn register(
        &mut self,
        gateway: &str,
        incarnation: &str,
        approved: &str,
    ) -> Result<Registered, LinkError> {
        if !self.is_of_this_process(approved) {
            return Ok(Registered::Wait);
        }
        let mut command = self.function("tideline_register");
        command.arg(gateway).arg(incarnation).arg(approved);
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "WAIT" => Ok(Registered::Wait),
            "RETIRED" => Ok(Registered::Retired),
            "REBUILDING" => Ok(Registered::Rebuilding),
            "REBUILD" => Ok(Registered::Rebuild { clock_floor_ms: reply.number(0)? }),
            "OK" => {
                let by = Some(reply.text(2)?).filter(|by| !by.is_empty());
                Ok(Registered::At { clock_floor_ms: reply.number(0)?, applied: reply.lsn(1)?, by })
            }
            _ => Err(reply.unknown()),
        }
    }

    /// The incarnation of a gateway that registered last.
    pub async fn incarnation(&mut self, gateway: &str) -> Result<Option<String>, LinkError> {
        let mut read = redis::cmd("HGET");
        read.arg(self.shard.key("i")).arg(gateway);
        Ok(read.query_async(&mut self.connection).await?)
    }

    /// Its id was retired.
    pub async fn is_retired(&mut self, gateway: &str) -> Result<bool, LinkError> {
        let mut read = redis::cmd("SISMEMBER");
        read.arg(self.shard.key("rg")).arg(gateway);
        Ok(read.query_async(&mut self.connection).await?)
    }

    /// Takes a gateway id out of the watermark, for ever. What it counted stays counted. False: not approved yet.
    pub async fn retire(&mut self, gateway: &str, approved: &str) -> Result<bool, LinkError> {
        if !self.is_of_this_process(approved) {
            return Ok(false);
        }
        let mut command = self.function("tideline_retire");
        command.arg(gateway).arg(approved);
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "OK" => Ok(true),
            "WAIT" => Ok(false),
            _ => Err(reply.unknown()),
        }
    }

    /// Everything up to `applied` is applied, and nothing behind it arrived before `mark_ms`; 0 leaves that at what was
    /// reported last. Outcomes up to `logged` are in the gateway's own log: Redis forgets them.
    pub async fn watermark(
        &mut self,
        gateway: &str,
        incarnation: &str,
        approved: &str,
        mark_ms: u64,
        applied: Lsn,
        logged: Lsn,
    ) -> Result<Reported, LinkError> {
        if !self.is_of_this_process(approved) {
            return Ok(Reported::Wait);
        }
        let mut command = self.function("tideline_watermark");
        command.arg(gateway).arg(incarnation).arg(approved).arg(mark_ms).arg(applied.0).arg(logged.0);
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "OK" => Ok(Reported::Done { durable: reply.lsn(0)? }),
            "WAIT" => Ok(Reported::Wait),
            "FENCED" => Ok(Reported::Fenced),
            "GAP" => Ok(Reported::Gap(reply.lsn(0)?)),
            _ => Err(reply.unknown()),
        }
    }

    /// Sets the bits of batches that this gateway had counted or dropped before Redis was lost, in calls of at most
    /// [`BATCHES_MAX`]. May be repeated, whole or in part. One batch is named once.
    pub async fn remember(
        &mut self,
        gateway: &str,
        incarnation: &str,
        approved: &str,
        batches: &[Batch],
    ) -> Result<Rebuilding, LinkError> {
        if !self.is_of_this_process(approved) {
            return Ok(Rebuilding::Wait);
        }
        for batches in batches.chunks(BATCHES_MAX) {
            let mut command = self.function("tideline_remember");
            command.arg(gateway).arg(incarnation).arg(approved).arg(pack::batches(batches));
            match self.rebuilding(command).await? {
                Rebuilding::Done => {}
                other => return Ok(other),
            }
        }
        Ok(Rebuilding::Done)
    }

    /// Every batch of this gateway's records up to `applied` is remembered: it counts from the next on, and the rebuild
    /// does not wait for it any more.
    pub async fn rebuilt(
        &mut self,
        gateway: &str,
        incarnation: &str,
        approved: &str,
        applied: Lsn,
    ) -> Result<Rebuilding, LinkError> {
        if !self.is_of_this_process(approved) {
            return Ok(Rebuilding::Wait);
        }
        let mut command = self.function("tideline_rebuilt");
        command.arg(gateway).arg(incarnation).arg(approved).arg(applied.0);
        self.rebuilding(command).await
    }

    async fn rebuilding(&mut self, command: redis::Cmd) -> Result<Rebuilding, LinkError> {
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "OK" => Ok(Rebuilding::Done),
            "WAIT" => Ok(Rebuilding::Wait),
            "FENCED" => Ok(Rebuilding::Fenced),
            _ => Err(reply.unknown()),
        }
    }
}
