//! The keys of sites: what a page, an app or a server presents to a gateway. A key is shown once; central and gateways keep its hash.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::{Control, ControlError};
use crate::secret::Secret;

/// So many that each can be replaced while it is in use, by more than one who holds it.
pub const SITE_KEYS_MAX: i64 = 4;
/// `tlk_` and 8 characters: enough to tell keys apart, and 208 bits of the key stay unknown.
const ID_CHARACTERS: usize = 12;

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteKey {
    /// The key's beginning.
    pub id: String,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// When it was made.
    pub created: Timestamp,
}

/// What became of a wish for a key.
#[derive(Debug)]
pub enum NewKey {
    /// The key, which nobody can be shown again, and its id.
    Made(Secret, String),
    /// The site has [`SITE_KEYS_MAX`].
    TooMany,
    /// There is no such site.
    UnknownSite,
}

/// What became of a wish to delete a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Gateways are told at once.
    Deleted,
    /// It is the only one of a site that requires a key: nobody could send anything.
    Last,
    /// The site has no such key.
    Unknown,
}

/// Whether the site requires a key and has none: nobody could send anything.
pub(super) async fn is_shut(transaction: &mut Transaction<'static, Sqlite>, site: &str) -> Result<bool, ControlError> {
    let shut: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sites
         WHERE name = ? AND key_required = 1 AND NOT EXISTS (SELECT 1 FROM site_keys WHERE site = name)",
    )
    .bind(site)
    .fetch_one(&mut **transaction)
    .await?;
    Ok(shut > 0)
}

impl Control {
    /// A new key of the site.
    pub async fn create_site_key(&self, site: &str, now: Timestamp) -> Result<NewKey, ControlError> {
        let mut transaction = self.write().await?;
        let keys: Option<i64> =
            sqlx::query_scalar("SELECT (SELECT count(*) FROM site_keys WHERE site = name) FROM sites WHERE name = ?")
                .bind(site)
                .fetch_optional(&mut *transaction)
                .await?;
        match keys {
            None => return Ok(NewKey::UnknownSite),
            Some(keys) if keys >= SITE_KEYS_MAX => return Ok(NewKey::TooMany),
            Some(_) => {}
        }
        let key = Secret::of_site();
        let id: String = key.reveal().chars().take(ID_CHARACTERS).collect();
        sqlx::query("INSERT INTO site_keys (site, id, hash, created_ms) VALUES (?, ?, ?, ?)")
            .bind(site)
            .bind(&id)
            .bind(key.hash().as_bytes())
            .bind(now.as_millisecond())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        self.publish().await?;
        Ok(NewKey::Made(key, id))
    }

    /// Whoever presents the key is turned away from then on, if the site requires one.
    pub async fn delete_site_key(&self, site: &str, id: &str) -> Result<Deletion, ControlError> {
        let mut transaction = self.write().await?;
        let deleted = sqlx::query("DELETE FROM site_keys WHERE site = ? AND id = ?")
            .bind(site)
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        if deleted.rows_affected() == 0 {
            return Ok(Deletion::Unknown);
        }
        if is_shut(&mut transaction, site).await? {
            return Ok(Deletion::Last); // and the transaction ends without it
        }
        transaction.commit().await?;
        self.publish().await?;
        Ok(Deletion::Deleted)
    }

    /// By site, the oldest first.
    pub(super) async fn read_site_keys(&self) -> Result<BTreeMap<String, Vec<SiteKey>>, ControlError> {
        let rows: Vec<(String, String, Vec<u8>, i64)> =
            sqlx::query_as("SELECT site, id, hash, created_ms FROM site_keys ORDER BY created_ms, id")
                .fetch_all(&self.pool)
                .await?;
        let mut keys: BTreeMap<String, Vec<SiteKey>> = BTreeMap::new();
        for (site, id, hash, created_ms) in rows {
            let damaged = || ControlError::Damaged(format!("the key {id} of site {site:?}"));
            let hash = hash.try_into().map_err(|_| damaged())?;
            let created = Timestamp::from_millisecond(created_ms).map_err(|_| damaged())?;
            keys.entry(site).or_default().push(SiteKey { id, hash, created });
        }
        Ok(keys)
    }
}
