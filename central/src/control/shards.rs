//! Where each shard stands.

use std::collections::BTreeMap;

use super::{Control, ControlError, kept, read};

/// A shard of a region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId {
    /// The region's name.
    pub region: String,
    /// The shard's number within the region.
    pub shard: u32,
}

/// What central keeps of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// The life of the shard's Redis. It grows when a lost one is replaced.
    pub epoch: u64,
    /// Of the newest leader.
    pub term: u64,
    /// The highest number of an open flush that central was told in this epoch.
    pub open_flush: u64,
    /// Gateway → the highest LSN that central was told is durable in Redis, in this epoch.
    pub durable: BTreeMap<String, u64>,
}

impl Control {
    /// Gives the asker the next term of a shard, which every older leader loses by. A shard unknown so far begins at
    /// epoch 1. `accepted_epoch` is the newest that the store knows: it counts if the control data are older than the store.
    pub async fn lead(&self, id: &ShardId, accepted_epoch: u64) -> Result<ShardState, ControlError> {
        let mut transaction = self.write().await?;
        let (epoch, term, open_flush): (i64, i64, i64) = sqlx::query_as(
            "INSERT INTO shards (region, shard, epoch, term, open_flush) VALUES (?, ?, max(1, ?3), 1, 0)
             ON CONFLICT (region, shard) DO UPDATE SET term = term + 1, epoch = max(epoch, ?3)
             RETURNING epoch, term, open_flush",
        )
        .bind(&id.region)
        .bind(id.shard)
        .bind(kept(accepted_epoch)?)
        .fetch_one(&mut *transaction)
        .await?;
        let durable: Vec<(String, i64)> =
            sqlx::query_as("SELECT gateway, lsn FROM durable WHERE region = ? AND shard = ?")
                .bind(&id.region)
                .bind(id.shard)
                .fetch_all(&mut *transaction)
                .await?;
        transaction.commit().await?;
        let durable = durable.into_iter().map(|(gateway, lsn)| Ok((gateway, read(lsn)?)));
        let durable = durable.collect::<Result<_, ControlError>>()?;
        Ok(ShardState { epoch: read(epoch)?, term: read(term)?, open_flush: read(open_flush)?, durable })
    }

    /// Keeps what is durable in the shard's Redis: of each figure the highest that was told. Returns the open flush kept.
    pub async fn keep_durable(
        &self,
        id: &ShardId,
        open_flush: u64,
        vector: impl IntoIterator<Item = (String, u64)>,
    ) -> Result<u64, ControlError> {
        let mut transaction = self.write().await?;
        let highest: i64 = sqlx::query_scalar(
            "UPDATE shards SET open_flush = max(open_flush, ?) WHERE region = ? AND shard = ? RETURNING open_flush",
        )
        .bind(kept(open_flush)?)
        .bind(&id.region)
        .bind(id.shard)
        .fetch_one(&mut *transaction)
        .await?;
        for (gateway, lsn) in vector {
            sqlx::query(
                "INSERT INTO durable (region, shard, gateway, lsn) VALUES (?, ?, ?, ?)
                 ON CONFLICT (region, shard, gateway) DO UPDATE SET lsn = max(lsn, excluded.lsn)",
            )
            .bind(&id.region)
            .bind(id.shard)
            .bind(gateway)
            .bind(kept(lsn)?)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        read(highest)
    }

    /// Opens the next epoch of a shard: nothing is durable in it, and no flush of it was opened. Returns the epoch.
    pub async fn open_epoch(&self, id: &ShardId) -> Result<u64, ControlError> {
        let mut transaction = self.write().await?;
        let epoch: i64 = sqlx::query_scalar(
            "UPDATE shards SET epoch = epoch + 1, open_flush = 0 WHERE region = ? AND shard = ? RETURNING epoch",
        )
        .bind(&id.region)
        .bind(id.shard)
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM durable WHERE region = ? AND shard = ?")
            .bind(&id.region)
            .bind(id.shard)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        read(epoch)
    }

    /// The shards of a region that ever had a leader, and the epoch of each.
    pub async fn shards(&self, region: &str) -> Result<BTreeMap<u32, u64>, ControlError> {
        let rows: Vec<(u32, i64)> = sqlx::query_as("SELECT shard, epoch FROM shards WHERE region = ?")
            .bind(region)
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(|(shard, epoch)| Ok((shard, read(epoch)?))).collect()
    }

    /// The highest LSN of this gateway that central was told is durable, per shard.
    pub async fn durable_of(&self, region: &str, gateway: &str) -> Result<BTreeMap<u32, u64>, ControlError> {
        let rows: Vec<(u32, i64)> = sqlx::query_as("SELECT shard, lsn FROM durable WHERE region = ? AND gateway = ?")
            .bind(region)
            .bind(gateway)
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(|(shard, lsn)| Ok((shard, read(lsn)?))).collect()
    }
}
