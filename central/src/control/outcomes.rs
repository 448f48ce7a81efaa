//! Outcomes that flushes carried, for gateways that had not logged them when their Redis was lost.

use proto::{Message as _, uplink::Outcomes};

use super::{Control, ControlError, kept, shards::ShardId};

impl Control {
    /// Keeps what a flush carries, but of retired gateways, which never ask. A repeat changes nothing.
    pub async fn keep_outcomes(&self, id: &ShardId, outcomes: &[Outcomes]) -> Result<(), ControlError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let mut transaction = self.write().await?;
        for call in outcomes {
            sqlx::query(
                "INSERT OR REPLACE INTO outcomes SELECT ?1, ?2, ?3, ?4, ?5, ?6
                 WHERE NOT EXISTS (SELECT 1 FROM gateways WHERE id = ?3 AND retired_ms IS NOT NULL)",
            )
            .bind(&id.region)
            .bind(id.shard)
            .bind(&call.gateway)
            .bind(kept(call.last)?)
            .bind(kept(call.epoch)?)
            .bind(call.encode_to_vec())
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// What is kept for a gateway behind `after`, in the order of its log; of several epochs the lower first.
    pub async fn outcomes(&self, id: &ShardId, gateway: &str, after: u64) -> Result<Vec<Outcomes>, ControlError> {
        let rows: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT outcomes FROM outcomes WHERE region = ? AND shard = ? AND gateway = ? AND last > ?
             ORDER BY last, epoch",
        )
        .bind(&id.region)
        .bind(id.shard)
        .bind(gateway)
        .bind(kept(after)?)
        .fetch_all(&self.pool)
        .await?;
        let damaged = |_| ControlError::Damaged(format!("an outcome of gateway {gateway}"));
        rows.iter().map(|row| Outcomes::decode(row.as_slice()).map_err(damaged)).collect()
    }

    /// Forgets what a gateway has in its own log up to `logged`.
    pub async fn forget_outcomes(&self, id: &ShardId, gateway: &str, logged: u64) -> Result<(), ControlError> {
        sqlx::query("DELETE FROM outcomes WHERE region = ? AND shard = ? AND gateway = ? AND last <= ?")
            .bind(&id.region)
            .bind(id.shard)
            .bind(gateway)
            .bind(kept(logged)?)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
