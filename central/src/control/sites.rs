//! Sites: a name, the origins that may send for it, the timezone its days are counted in.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};
use proto::origin::{BadOrigin, SiteOrigin};

use super::{Control, ControlError, rules::Rules, site_keys::SiteKey};

/// A site as it is published.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Letters, digits and `. - _ /`, 100 at most.
    pub name: String,
    /// As a browser writes them in the header Origin, perhaps with a star: [`SiteOrigin`].
    pub origins: Vec<String>,
    /// IANA name.
    pub timezone: String,
    /// Where its raw rows go.
    pub raw: Raw,
    /// What it wants of its events.
    pub rules: Rules,
    /// Whose batches gateways limit together, written as a site's name; empty: the site has its own limit alone.
    pub tenant: String,
    /// What pages and apps present; made and deleted by themselves, never by [`put_site`](Control::put_site).
    pub keys: Vec<SiteKey>,
    /// Whoever presents none of them is turned away.
    pub key_required: bool,
}

/// A site to make or to change, its parts checked: what is `None` stays as it is, and a new site gets the default.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteChange {
    /// As [`Site::name`].
    pub name: String,
    /// As [`Site::origins`].
    pub origins: Vec<String>,
    /// As [`Site::timezone`]; UTC is the default.
    pub timezone: Option<String>,
    /// As [`Site::raw`].
    pub raw: Option<Raw>,
    /// As [`Site::rules`].
    pub rules: Option<Rules>,
    /// As [`Site::tenant`].
    pub tenant: Option<String>,
    /// As [`Site::key_required`].
    pub key_required: Option<bool>,
}

/// Where the raw rows of a site go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Raw {
    /// To central, for filters across pages, visits and properties, and for the audit.
    #[default]
    Central,
    /// Nowhere: rollups and visits alone are kept, and nothing stands in for a log that is lost together with its Redis.
    None,
}

impl Raw {
    fn name(self) -> &'static str {
        match self {
            Self::Central => "central",
            Self::None => "none",
        }
    }

    /// As gateways are told.
    pub fn wire(self) -> proto::uplink::Raw {
        match self {
            Self::Central => proto::uplink::Raw::Central,
            Self::None => proto::uplink::Raw::None,
        }
    }
}

/// A site that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SiteError {
    /// The name.
    #[error("site_id {0:?} must be 1 to {NAME_CHARACTERS_MAX} of the characters a-z A-Z 0-9 . - _ /")]
    Name(String),
    /// The tenant.
    #[error("tenant {0:?} must be empty or 1 to {NAME_CHARACTERS_MAX} of the characters a-z A-Z 0-9 . - _ /")]
    Tenant(String),
    /// An origin.
    #[error(transparent)]
    Origin(#[from] BadOrigin),
    /// No origin, or too many.
    #[error("a site has 1 to {ORIGINS_MAX} origins, not {0}")]
    Origins(usize),
    /// The timezone.
    #[error("timezone {0:?} must be an IANA name such as Europe/Berlin or UTC")]
    Timezone(String),
}

const NAME_CHARACTERS_MAX: usize = 100;
const ORIGINS_MAX: usize = 100;
/// Gateways hear of a change at once, and those that miss it within the hour (`uplink/gateway.rs`).
const TOLD_WITHIN_MS: u64 = 60 * 60 * 1000;

impl SiteChange {
    /// Checks every part and brings the origins into a browser's form.
    pub fn try_new(name: &str, origins: &[String], timezone: Option<&str>) -> Result<Self, SiteError> {
        if !is_name(name) {
            return Err(SiteError::Name(name.to_owned()));
        }
        if origins.is_empty() || origins.len() > ORIGINS_MAX {
            return Err(SiteError::Origins(origins.len()));
        }
        let form = |origin: &String| origin.parse().map(|origin: SiteOrigin| origin.to_string());
        let origins = origins.iter().map(form).collect::<Result<_, _>>()?;
        if let Some(timezone) = timezone {
            TimeZone::get(timezone).map_err(|_| SiteError::Timezone(timezone.to_owned()))?;
        }
        let (name, timezone) = (name.to_owned(), timezone.map(str::to_owned));
        Ok(Self { name, origins, timezone, raw: None, rules: None, tenant: None, key_required: None })
    }

    /// The same, of this tenant; of none if it is empty.
    pub fn of_tenant(self, tenant: &str) -> Result<Self, SiteError> {
        if !tenant.is_empty() && !is_name(tenant) {
            return Err(SiteError::Tenant(tenant.to_owned()));
        }
        Ok(Self { tenant: Some(tenant.to_owned()), ..self })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    !name.is_empty() && name.len() <= NAME_CHARACTERS_MAX && name.chars().all(allowed)
}

fn in_json(rules: &Rules) -> String {
    serde_json::json!(rules).to_string()
}

impl Control {
    /// From when on every batch of a site that arrives has its raw row, Unix ms; 0 is from its first event on, `None` is not now.
    pub fn raw_whole_from_ms(&self, name: &str) -> Option<u64> {
        let since_ms = self.published.borrow().raw_since_ms.get(name).copied()?;
        Some(if since_ms == 0 { 0 } else { since_ms.saturating_add(TOLD_WITHIN_MS) })
    }

    /// Makes the site or changes it; gateways are told at once. `None`, and nothing is changed: it would require a key and has none.
    pub async fn put_site(&self, change: &SiteChange, now: Timestamp) -> Result<Option<Site>, ControlError> {
        let mut transaction = self.write().await?;
        // What is left out is what the row has in this moment: of two changes at once, none takes the other back.
        sqlx::query(
            "INSERT INTO sites (name, timezone, origins, created_ms, raw, raw_since_ms, rules, tenant, key_required)
             VALUES (?1, coalesce(?2, 'UTC'), ?3, ?4, coalesce(?5, ?9), CASE coalesce(?5, ?9) WHEN 'central' THEN 0 END,
                     coalesce(?6, ?10), coalesce(?7, ''), coalesce(?8, FALSE))
             ON CONFLICT (name) DO UPDATE
             SET timezone = coalesce(?2, timezone), origins = excluded.origins, raw = coalesce(?5, raw), rules = coalesce(?6, rules),
                 tenant = coalesce(?7, tenant), key_required = coalesce(?8, key_required),
                 raw_since_ms = CASE coalesce(?5, raw) WHEN 'none' THEN NULL ELSE iif(raw = 'central', raw_since_ms, ?4) END",
        )
        .bind(&change.name)
        .bind(&change.timezone)
        .bind(serde_json::Value::from(change.origins.clone()).to_string())
        .bind(now.as_millisecond())
        .bind(change.raw.map(Raw::name))
        .bind(change.rules.as_ref().map(in_json))
        .bind(&change.tenant)
        .bind(change.key_required)
        .bind(Raw::default().name())
        .bind(in_json(&Rules::default()))
        .execute(&mut *transaction)
        .await?;
        if super::site_keys::is_shut(&mut transaction, &change.name).await? {
            return Ok(None);
        }
        transaction.commit().await?;
        self.publish().await?;
        Ok(self.site(&change.name))
    }

    pub(super) async fn read_sites(&self) -> Result<BTreeMap<String, Site>, ControlError> {
        type Row = (String, String, String, String, String, String, bool);
        let rows: Vec<Row> =
            sqlx::query_as("SELECT name, timezone, origins, raw, rules, tenant, key_required FROM sites")
                .fetch_all(&self.pool)
                .await?;
        let mut keys = self.read_site_keys().await?;
        rows.into_iter()
            .map(|(name, timezone, origins, raw, rules, tenant, key_required)| {
                let damaged = |what| ControlError::Damaged(format!("the {what} of site {name:?}"));
                let origins = serde_json::from_str(&origins).map_err(|_| damaged("origins"))?;
                let raw = if raw == Raw::None.name() { Raw::None } else { Raw::Central };
                let rules = serde_json::from_str(&rules).ok().and_then(|rules| Rules::try_new(rules).ok());
                let rules = rules.ok_or_else(|| damaged("rules"))?;
                let keys = keys.remove(&name).unwrap_or_default();
                Ok((name.clone(), Site { name, origins, timezone, raw, rules, tenant, keys, key_required }))
            })
            .collect()
    }

    pub(super) async fn read_raw_since_ms(&self) -> Result<BTreeMap<String, u64>, ControlError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, raw_since_ms FROM sites WHERE raw_since_ms IS NOT NULL")
                .fetch_all(&self.pool)
                .await?;
        rows.into_iter().map(|(name, since_ms)| Ok((name, super::read(since_ms)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_take_the_form_that_browsers_send() {
        let origins = ["HTTPS://Example.com:443/", "http://localhost:8090", "https://*.Example.com"].map(str::to_owned);
        let site = SiteChange::try_new("example.com", &origins, Some("Asia/Kathmandu")).unwrap();
        assert_eq!(site.origins, ["https://example.com", "http://localhost:8090", "https://*.example.com"]);
    }

    #[test]
    fn what_cannot_be_a_site_is_refused_with_the_part_that_is_wrong() {
        let origins = ["https://example.com".to_owned()];
        let name = |name| SiteChange::try_new(name, &origins, Some("UTC")).unwrap_err();
        for wrong in ["", "a b", "a\"><script>", "ü", &"a".repeat(101)] {
            assert!(matches!(name(wrong), SiteError::Name(_)), "{wrong}");
        }
        for wrong in [
            "example.com",
            "ftp://example.com",
            "https://example.com/path",
            "https://u@example.com",
            "*",
            "https://*.com",
        ] {
            let error = SiteChange::try_new("s", &[wrong.to_owned()], Some("UTC")).unwrap_err();
            assert!(matches!(error, SiteError::Origin(_)), "{wrong}");
        }
        assert_eq!(SiteChange::try_new("s", &[], Some("UTC")).unwrap_err(), SiteError::Origins(0));
        let of = |tenant| SiteChange::try_new("s", &origins, Some("UTC")).unwrap().of_tenant(tenant);
        assert_eq!(of("a b").unwrap_err(), SiteError::Tenant("a b".to_owned()));
        assert_eq!(
            [of("acme").unwrap().tenant, of("").unwrap().tenant],
            [Some("acme"), Some("")].map(|tenant| tenant.map(str::to_owned))
        );
        assert!(matches!(
            SiteChange::try_new("s", &origins, Some("Mars/Olympus")).unwrap_err(),
            SiteError::Timezone(_)
        ));
    }
}
