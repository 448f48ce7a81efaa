//! Who may ask: keys of programs, one-time links and sessions of people.

use jiff::{SignedDuration, Timestamp};

use super::{Control, ControlError};
use crate::secret::{Secret, SecretHash};

/// Someone who was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// How the dashboard greets, and the log names them.
    pub name: String,
    /// The one site they may see; `None` is every site.
    pub site: Option<String>,
}

impl Principal {
    /// Whether they may see this site.
    pub fn may_see(&self, site: &str) -> bool {
        self.site.as_deref().is_none_or(|own| own == site)
    }

    /// Whether they may see and change every site.
    pub fn sees_all(&self) -> bool {
        self.site.is_none()
    }
}

/// A sign-in link works once, until this much later: long enough to be sent to oneself, too short to be kept.
pub const LINK_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// A session lasts this long.
pub const SESSION_LIFETIME: SignedDuration = SignedDuration::from_hours(30 * 24);

impl Control {
    /// A new key, for one site or for all. It is shown once: only its hash is kept.
    pub async fn create_key(&self, name: &str, site: Option<&str>, now: Timestamp) -> Result<Secret, ControlError> {
        let key = Secret::random();
        sqlx::query("INSERT INTO api_keys (hash, name, site, created_ms) VALUES (?, ?, ?, ?)")
            .bind(key.hash().as_bytes())
            .bind(name)
            .bind(site)
            .bind(now.as_millisecond())
            .execute(&self.pool)
            .await?;
        Ok(key)
    }

    /// Whose key this is.
    pub async fn key_holder(&self, presented: &SecretHash) -> Result<Option<Principal>, ControlError> {
        // The look-up's time depends on the hash alone, which nobody can steer towards a hash that is kept.
        let row: Option<(String, Option<String>)> = sqlx::query_as("SELECT name, site FROM api_keys WHERE hash = ?")
            .bind(presented.as_bytes())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|(name, site)| Principal { name, site }))
    }

    /// A link that signs this person in, once. Returns its token and when it expires.
    pub async fn create_link(&self, name: &str, now: Timestamp) -> Result<(Secret, Timestamp), ControlError> {
        let token = Secret::random();
        let expires = now + LINK_LIFETIME;
        sqlx::query("INSERT INTO sign_in_links (hash, name, expires_ms) VALUES (?, ?, ?)")
            .bind(token.hash().as_bytes())
            .bind(name)
            .bind(expires.as_millisecond())
            .execute(&self.pool)
            .await?;
        Ok((token, expires))
    }

    /// Uses a link up and opens a session. `None` if the link was used, has expired or never was.
    pub async fn sign_in(&self, token: &SecretHash, now: Timestamp) -> Result<Option<Secret>, ControlError> {
        let mut transaction = self.write().await?;
        let used: Option<(String, i64)> =
            sqlx::query_as("DELETE FROM sign_in_links WHERE hash = ? RETURNING name, expires_ms")
                .bind(token.as_bytes())
                .fetch_optional(&mut *transaction)
                .await?;
        let session = match used {
            Some((name, expires_ms)) if expires_ms > now.as_millisecond() => {
                let session = Secret::random();
                sqlx::query("INSERT INTO sessions (hash, name, expires_ms) VALUES (?, ?, ?)")
                    .bind(session.hash().as_bytes())
                    .bind(name)
                    .bind((now + SESSION_LIFETIME).as_millisecond())
                    .execute(&mut *transaction)
                    .await?;
                Some(session)
            }
            _ => None,
        };
        transaction.commit().await?;
        Ok(session)
    }

    /// Whose session this is, if it has not expired.
    pub async fn session_holder(
        &self,
        presented: &SecretHash,
        now: Timestamp,
    ) -> Result<Option<Principal>, ControlError> {
        let name: Option<String> = sqlx::query_scalar("SELECT name FROM sessions WHERE hash = ? AND expires_ms > ?")
            .bind(presented.as_bytes())
            .bind(now.as_millisecond())
            .fetch_optional(&self.pool)
            .await?;
        Ok(name.map(|name| Principal { name, site: None }))
    }

    /// Ends a session.
    pub async fn sign_out(&self, session: &SecretHash) -> Result<(), ControlError> {
        sqlx::query("DELETE FROM sessions WHERE hash = ?").bind(session.as_bytes()).execute(&self.pool).await?;
        Ok(())
    }

    /// Deletes links and sessions that have expired.
    pub async fn forget_expired(&self, now: Timestamp) -> Result<(), ControlError> {
        let now_ms = now.as_millisecond();
        sqlx::query("DELETE FROM sign_in_links WHERE expires_ms <= ?").bind(now_ms).execute(&self.pool).await?;
        sqlx::query("DELETE FROM sessions WHERE expires_ms <= ?").bind(now_ms).execute(&self.pool).await?;
        Ok(())
    }
}
