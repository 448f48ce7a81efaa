//! What makes a Redis fit to keep counts, and what has reached its disk.

use std::time::Duration;

use crate::link::{Info, Link, LinkError};

/// Redis fsyncs once a second, and replicas answer after theirs. Below the time in which a connection expects an answer.
const BARRIER_MAX: Duration = Duration::from_secs(8);

/// What Redis holds and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes.
    pub used: u64,
    /// Bytes; 0: no limit.
    pub max: u64,
}

impl Link {
    /// Barriers of this link wait until this many replicas have the writes on disk too.
    pub fn with_replicas(self, replicas: u32) -> Self {
        Self { replicas: Some(replicas), ..self }
    }

    /// After this, everything that Redis answered before is on its disk, and on that of as many replicas as the leader
    /// was told to wait for.
    ///
    /// With `appendfsync always` and no replicas Redis answers a write only after its log was fsynced, so the answer to
    /// the write before is the barrier already. What remains is to see that the setting still holds: it can be changed
    /// while Redis runs. Otherwise a connection of its own writes and waits (WAITAOF, Redis 7.2).
    pub async fn barrier(&mut self) -> Result<(), LinkError> {
        let replicas = self.replicas().await?;
        if self.check_durable_with(replicas).await? == Fsync::Always && replicas == 0 {
            return Ok(());
        }
        // WAITAOF holds up whatever else is sent over its connection, and counts the writes of that connection alone.
        let mut own = self.server.connect().await?;
        if Info::ask(&mut own, "server").await?.get("run_id") != Some(self.run.as_str()) {
            return Err(LinkError::NotDurable("it was restarted meanwhile".into()));
        }
        self.function("tideline_barrier").arg(replicas).exec_async(&mut own).await?;
        let timeout_ms = u64::try_from(BARRIER_MAX.as_millis()).unwrap_or(u64::MAX);
        let mut wait = redis::cmd("WAITAOF");
        wait.arg(1).arg(replicas).arg(timeout_ms);
        let (local, followers): (u64, u64) = wait.query_async(&mut own).await?;
        if local < 1 {
            return Err(LinkError::NotDurable(format!("no fsync within {} s", BARRIER_MAX.as_secs())));
        }
        if followers < u64::from(replicas) {
            let asked =
                format!("{followers} of {replicas} replicas had them on disk within {} s", BARRIER_MAX.as_secs());
            return Err(LinkError::NotDurable(asked));
        }
        Ok(())
    }

    /// Writes down how many replicas this leader waits for: gateways wait for as many, and would go on waiting for those of the
    /// leader before it.
    pub async fn say_replicas(&mut self) -> Result<(), LinkError> {
        let replicas = self.replicas.unwrap_or(0);
        Ok(self.function("tideline_barrier").arg(replicas).exec_async(&mut self.connection).await?)
    }

    /// Refuses a Redis that evicts, or acknowledges what no barrier can make durable.
    pub async fn check_durable(&mut self) -> Result<(), LinkError> {
        let replicas = self.replicas().await?;
        self.check_durable_with(replicas).await.map(drop)
    }

    /// Bytes used, and the limit.
    pub async fn memory(&mut self) -> Result<Memory, LinkError> {
        let info = Info::ask(&mut self.connection, "memory").await?;
        let number = |name| info.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        Ok(Memory { used: number("used_memory"), max: number("maxmemory") })
    }

    /// The leader's setting; a gateway's link finds it in Redis.
    async fn replicas(&mut self) -> Result<u32, LinkError> {
        if let Some(replicas) = self.replicas {
            return Ok(replicas);
        }
        let found: Option<u32> = redis::cmd("GET").arg(self.shard.key("q")).query_async(&mut self.connection).await?;
        Ok(found.unwrap_or(0))
    }

    async fn check_durable_with(&mut self, replicas: u32) -> Result<Fsync, LinkError> {
        self.setting("appendonly", "yes", "counts would be lost with the process").await?;
        self.setting("no-appendfsync-on-rewrite", "no", "nothing is on disk while the log is rewritten").await?;
        self.setting("maxmemory-policy", "noeviction", "counts would be evicted").await?;
        let fsync = self.config("appendfsync").await?;
        let has_waitaof = Info::ask(&mut self.connection, "server").await?.version() >= (7, 2);
        match fsync.as_str() {
            "always" if replicas == 0 || has_waitaof => Ok(Fsync::Always),
            "always" => Err(LinkError::Unfit(format!(
                "`replicas` is {replicas}, and it cannot say what they have on disk: use Redis 7.2 or newer, or set 0"
            ))),
            "everysec" if has_waitaof => Ok(Fsync::EverySecond),
            other => Err(LinkError::Unfit(format!(
                "`appendfsync` is `{other}`: set it to `always` (or to `everysec` with Redis 7.2 or newer), or a flush \
                 could leave before it is on disk"
            ))),
        }
    }

    async fn setting(&mut self, name: &str, wanted: &str, otherwise: &str) -> Result<(), LinkError> {
        let found = self.config(name).await?;
        if found == wanted {
            return Ok(());
        }
        Err(LinkError::Unfit(format!("`{name}` is `{found}`: set it to `{wanted}`, or {otherwise}")))
    }

    async fn config(&mut self, name: &str) -> Result<String, LinkError> {
        let found: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut self.connection).await?;
        Ok(found.into_iter().nth(1).unwrap_or_default())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fsync {
    Always,
    EverySecond,
}
