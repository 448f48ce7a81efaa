//! Which gateways feed a region, and which must not come back.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::{Control, ControlError};

/// What a gateway says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction<'a> {
    /// The region's name.
    pub region: &'a str,
    /// UUID of its log folder.
    pub id: &'a str,
    /// The id that this one takes the place of.
    pub replaces: Option<&'a str>,
    /// It is registered in its shard's Redis: from now on a rebuild waits for it.
    pub entered: bool,
}

/// What became of a gateway's registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// The gateway counts from now on.
    Registered,
    /// Its id was given up for another one and must not come back.
    Retired,
    /// The id is another region's.
    Elsewhere,
}

/// What became of a wish to retire a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retirement {
    /// From now on nothing waits for it, and it is refused.
    Retired,
    /// It was retired before.
    Before,
    /// No gateway of this id ever registered.
    Unknown,
}

/// The gateways of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateways {
    /// Registered in Redis and not retired: a rebuild waits for each of them.
    pub entered: Vec<String>,
    /// Retired, ever.
    pub retired: Vec<String>,
}

/// A gateway as its operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownGateway {
    /// UUID of its log folder.
    pub id: String,
    /// The region's name.
    pub region: String,
    /// When it first reached central.
    pub registered: Timestamp,
    /// When a rebuild began to wait for it; `None` if it does not.
    pub entered: Option<Timestamp>,
    /// When it was retired; `None` if it is in service.
    pub retired: Option<Timestamp>,
}

impl Control {
    /// Every gateway that ever registered, by region and id.
    pub async fn all_gateways(&self) -> Result<Vec<KnownGateway>, ControlError> {
        type Row = (String, String, i64, Option<i64>, Option<i64>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, region, registered_ms, entered_ms, retired_ms FROM gateways ORDER BY region, id",
        )
        .fetch_all(&self.pool)
        .await?;
        let at = |ms: i64| Timestamp::from_millisecond(ms).map_err(|_| ControlError::Damaged(ms.to_string()));
        rows.into_iter()
            .map(|(id, region, registered, entered, retired)| {
                let (entered, retired) = (entered.map(at).transpose()?, retired.map(at).transpose()?);
                Ok(KnownGateway { id, region, registered: at(registered)?, entered, retired })
            })
            .collect()
    }

    /// Registers a gateway, and retires the one that it replaces, together.
    pub async fn register_gateway(
        &self,
        gateway: Introduction<'_>,
        now: Timestamp,
    ) -> Result<Registration, ControlError> {
        let Introduction { region, id, replaces, entered } = gateway;
        let mut transaction = self.write().await?;
        let (home, retired_ms): (String, Option<i64>) = sqlx::query_as(
            "INSERT INTO gateways (id, region, registered_ms) VALUES (?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET region = region
             RETURNING region, retired_ms",
        )
        .bind(id)
        .bind(region)
        .bind(now.as_millisecond())
        .fetch_one(&mut *transaction)
        .await?;
        if home != region {
            return Ok(Registration::Elsewhere); // dropping the transaction undoes it
        }
        if retired_ms.is_some() {
            return Ok(Registration::Retired);
        }
        if entered {
            sqlx::query("UPDATE gateways SET entered_ms = ? WHERE id = ? AND entered_ms IS NULL")
                .bind(now.as_millisecond())
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        let mut retired = false;
        if let Some(replaced) = replaces {
            retired = retire(&mut transaction, replaced, Some(region), now).await?;
        }
        transaction.commit().await?;
        if retired {
            self.publish().await?;
        }
        Ok(Registration::Registered)
    }

    /// Retires a gateway whose log folder is gone: nothing waits for it any more, its stream ends with a refusal, and it
    /// must not come back.
    pub async fn retire_gateway(&self, id: &str, now: Timestamp) -> Result<Retirement, ControlError> {
        let mut transaction = self.write().await?;
        let known: Option<Option<i64>> = sqlx::query_scalar("SELECT retired_ms FROM gateways WHERE id = ?")
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await?;
        match known {
            None => return Ok(Retirement::Unknown),
            Some(Some(_)) => return Ok(Retirement::Before),
            Some(None) => {}
        }
        retire(&mut transaction, id, None, now).await?;
        transaction.commit().await?;
        self.publish().await?;
        Ok(Retirement::Retired)
    }

    /// The gateways of a region.
    pub async fn gateways(&self, region: &str) -> Result<Gateways, ControlError> {
        let rows: Vec<(String, bool)> = sqlx::query_as(
            "SELECT id, retired_ms IS NOT NULL FROM gateways
             WHERE region = ? AND (entered_ms IS NOT NULL OR retired_ms IS NOT NULL) ORDER BY id",
        )
        .bind(region)
        .fetch_all(&self.pool)
        .await?;
        let mut gateways = Gateways::default();
        for (id, retired) in rows {
            if retired { gateways.retired.push(id) } else { gateways.entered.push(id) }
        }
        Ok(gateways)
    }

    pub(super) async fn read_retired(&self) -> Result<BTreeSet<String>, ControlError> {
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT id FROM gateways WHERE retired_ms IS NOT NULL").fetch_all(&self.pool).await?;
        Ok(ids.into_iter().collect())
    }
}

/// Nobody will ask for its outcomes again. Returns whether this retired it.
async fn retire(
    transaction: &mut Transaction<'static, Sqlite>,
    id: &str,
    region: Option<&str>,
    now: Timestamp,
) -> Result<bool, ControlError> {
    let retired = sqlx::query(
        "UPDATE gateways SET retired_ms = ? WHERE id = ? AND region = coalesce(?, region) AND retired_ms IS NULL",
    )
    .bind(now.as_millisecond())
    .bind(id)
    .bind(region)
    .execute(&mut **transaction)
    .await?
    .rows_affected()
        > 0;
    if retired {
        sqlx::query("DELETE FROM outcomes WHERE gateway = ?").bind(id).execute(&mut **transaction).await?;
    }
    Ok(retired)
}
