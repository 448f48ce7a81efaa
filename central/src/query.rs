//! Answers reports.
use crate::store::{Store, StoreError};
/// A site.
pub struct SiteRef {
    /// Its name.
    pub name: String,
    /// IANA.
    pub timezone: String,
}
/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The question is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Raw events are needed.
    #[error("{0}")]
    NeedsRaw(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
/// The answer.
pub async fn answer(
    store: &Store,
    _site: &SiteRef,
    _body: &serde_json::Value,
    _now: jiff::Timestamp,
) -> Result<serde_json::Value, QueryError> {
    let _ = store;
    Err(QueryError::Invalid("not yet".to_owned()))
}
