//! The secrets of the days. A visitor's hash is made with the salt of the site's local day, so that nobody can follow
//! a visitor from one day to the next once the salt is gone.

use std::{collections::BTreeMap, fmt};

use jiff::{Span, Timestamp, Zoned, civil::Date, tz::TimeZone};

use super::{Control, ControlError};

/// A day's key.
#[derive(Clone, PartialEq, Eq)]
pub struct SaltKey([u8; 16]);

impl SaltKey {
    /// Of 16 random bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// As it travels to a gateway.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for SaltKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltKey(…)")
    }
}

impl Control {
    /// Makes the salts that are missing and deletes those whose time is over; gateways are told of any change.
    ///
    /// Kept are the dates from two days before the date in UTC to two days after: when somewhere it is already
    /// tomorrow and somewhere still yesterday, each of those places finds its own day, the one before and the one after.
    pub async fn renew_salts(&self, now: Timestamp) -> Result<(), ControlError> {
        let today = now.to_zoned(TimeZone::UTC).date();
        let mut transaction = self.write().await?;
        for days in -2..=2 {
            let Ok(day) = today.checked_add(Span::new().days(days)) else { continue };
            sqlx::query("INSERT INTO salts (day, key) VALUES (?, ?) ON CONFLICT (day) DO NOTHING")
                .bind(day.to_string())
                .bind(rand::random::<[u8; 16]>().as_slice())
                .execute(&mut *transaction)
                .await?;
        }
        let days: Vec<String> = sqlx::query_scalar("SELECT day FROM salts").fetch_all(&mut *transaction).await?;
        let mut deleted = false;
        for day in days {
            if is_over(&day, now)? {
                sqlx::query("DELETE FROM salts WHERE day = ?").bind(day).execute(&mut *transaction).await?;
                deleted = true;
            }
        }
        transaction.commit().await?;
        if deleted {
            // The log of writes still holds the pages from before the deletion: fold it in and empty it.
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.pool).await?;
        }
        self.publish().await
    }

    pub(super) async fn read_salts(&self) -> Result<BTreeMap<String, SaltKey>, ControlError> {
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as("SELECT day, key FROM salts").fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|(day, key)| match key.try_into() {
                Ok(key) => Ok((day, SaltKey(key))),
                Err(_) => Err(ControlError::Damaged(format!("the salt of {day}"))),
            })
            .collect()
    }
}

/// A salt is deleted 48 h after its day has ended everywhere, which is at 12:00 UTC of the next one (UTC-12).
fn is_over(day: &str, now: Timestamp) -> Result<bool, ControlError> {
    let damaged = |_| ControlError::Damaged(format!("the day {day:?} of a salt"));
    let date: Date = day.parse().map_err(damaged)?;
    let deletion: Zoned = date
        .checked_add(Span::new().days(3))
        .map_err(damaged)?
        .at(12, 0, 0, 0)
        .to_zoned(TimeZone::UTC)
        .map_err(damaged)?;
    Ok(now >= deletion.timestamp())
}
