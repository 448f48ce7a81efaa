//! The sites this gateway takes events for, and the salts of their visitors, as central last said.

mod keys;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::tz::TimeZone;
use proto::agent::Reason;
use proto::origin::{SentOrigin, SiteOrigin};
use proto::uplink::{Configuration, Raw};

use crate::ingest::validate::Rules;
use crate::ingest::visitor::{SaltError, Salts};
use keys::Keys;

pub use keys::{Credentials, Presented, Unkeyed};

/// A site.
#[derive(Debug)]
pub struct Site {
    /// As pages name it.
    pub name: String,
    /// Who shares one rate of batches with it; empty: it has its own alone.
    pub tenant: String,
    /// Its local day decides which salt a visitor is hashed with.
    pub timezone: TimeZone,
    /// Where its raw rows go.
    pub raw: Raw,
    /// What it wants of its events.
    pub rules: Rules,
    origins: Origins,
    keys: Keys,
}

/// A site, and what its keys have to say to whoever was let in.
#[derive(Debug)]
pub struct Admitted {
    /// The site.
    pub site: Arc<Site>,
    /// If the site required one of its keys, this would be refused.
    pub unkeyed: Option<Unkeyed>,
}

/// The origins of a site, read once for all its batches.
#[derive(Debug, Default)]
struct Origins {
    /// As browsers send them.
    exact: HashSet<String>,
    /// With a star.
    wide: Vec<SiteOrigin>,
}

/// What central said, whole.
#[derive(Debug, Default)]
pub struct Table {
    /// By name.
    sites: HashMap<String, Arc<Site>>,
    /// By day.
    pub salts: Salts,
}

/// The table in force. A core takes a copy of the pointer for each batch, so that one batch sees one table.
#[derive(Debug, Default)]
pub struct Sites(RwLock<Arc<Table>>);

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadConfiguration {
    /// The timezone is not in the database.
    #[error("site {site} has the timezone `{timezone}`: it must be one such as Europe/Berlin")]
    Timezone {
        /// The site.
        site: String,
        /// What it says.
        timezone: String,
    },
    /// A salt is broken.
    #[error(transparent)]
    Salt(#[from] SaltError),
}

impl Sites {
    /// The table in force.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a new table in force, or leaves the old one whole.
    pub fn replace(&self, configuration: &Configuration) -> Result<(), BadConfiguration> {
        let table = Arc::new(Table::try_new(configuration)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
    }
}

impl Table {
    fn try_new(configuration: &Configuration) -> Result<Self, BadConfiguration> {
        let site = |site: &proto::uplink::Site| {
            let bad = |_| BadConfiguration::Timezone { site: site.name.clone(), timezone: site.timezone.clone() };
            let timezone = TimeZone::get(&site.timezone).map_err(bad)?;
            let origins = Origins::new(&site.name, &site.origins);
            let rules = site.rules.as_ref().map(Rules::from).unwrap_or_default();
            let keys = Keys::new(&site.name, &site.keys, site.key_required);
            let (name, tenant, raw) = (site.name.clone(), site.tenant.clone(), site.raw());
            Ok((site.name.clone(), Arc::new(Site { name, tenant, timezone, raw, rules, origins, keys })))
        };
        let sites = configuration.sites.iter().map(site).collect::<Result<_, BadConfiguration>>()?;
        Ok(Self { sites, salts: Salts::try_new(&configuration.salts)? })
    }

    /// Where the raw rows of a site go. Of one that is gone central decides.
    pub fn raw(&self, name: &str) -> Raw {
        self.sites.get(name).map_or(Raw::Central, |site| site.raw)
    }

    /// The site, if pages of this origin may report to it, and whoever presents this key. WebSockets bypass CORS, so this is where
    /// an origin is checked; a right key does not stand in for it.
    pub fn admit(&self, credentials: Credentials<'_>, origin: Option<&str>) -> Result<Admitted, Reason> {
        let site = self.sites.get(credentials.site).ok_or(Reason::UnknownSite)?;
        let origin = origin.ok_or(Reason::WrongOrigin)?;
        if !site.origins.contain(origin) {
            return Err(Reason::WrongOrigin);
        }
        let unkeyed = site.keys.judge(&credentials.key)?;
        Ok(Admitted { site: Arc::clone(site), unkeyed })
    }
}

impl Origins {
    /// Central checks an origin before it keeps it. One that this gateway cannot read, of an older or a later version, admits nobody,
    /// and holds up neither the site's others nor other sites.
    fn new(site: &str, origins: &[String]) -> Self {
        let mut read = Self::default();
        for origin in origins {
            match origin.parse::<SiteOrigin>() {
                Ok(origin) if origin.is_exact() => {
                    read.exact.insert(origin.to_string());
                }
                Ok(origin) => read.wide.push(origin),
                Err(error) => tracing::warn!(%error, site, "an origin of a site admits nobody; enter it anew"),
            }
        }
        read
    }

    fn contain(&self, origin: &str) -> bool {
        if self.exact.contains(origin) {
            return true; // what a browser sends has the form already
        }
        let Some(sent) = SentOrigin::parse(origin) else { return false };
        self.exact.contains(&sent.to_string()) || self.wide.iter().any(|wide| wide.matches(&sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(timezone: &str) -> Configuration {
        let origins =
            ["https://Shop.example/", "https://*.shop.example", "http://localhost:*", "*"].map(str::to_owned).into();
        let site =
            proto::uplink::Site { name: "shop".into(), origins, timezone: timezone.into(), ..Default::default() };
        Configuration { sites: vec![site], ..Default::default() }
    }

    fn admit(table: &Table, site: &str, origin: Option<&str>) -> Result<Admitted, Reason> {
        table.admit(Credentials { site, key: Presented::Missing }, origin)
    }

    #[test]
    fn admits_a_site_from_its_own_origins_alone() {
        let sites = Sites::default();
        sites.replace(&configuration("Europe/Berlin")).unwrap();
        let table = sites.table();
        assert_eq!(admit(&table, "shop", Some("https://shop.example")).unwrap().site.name, "shop");
        assert_eq!(admit(&table, "shop", Some("https://shop.example.evil")).unwrap_err(), Reason::WrongOrigin);
        assert_eq!(admit(&table, "shop", Some("http://shop.example")).unwrap_err(), Reason::WrongOrigin);
        assert_eq!(admit(&table, "shop", None).unwrap_err(), Reason::WrongOrigin);
        assert_eq!(admit(&table, "other", Some("https://shop.example")).unwrap_err(), Reason::UnknownSite);
    }

    #[test]
    fn a_star_admits_what_it_stands_for_and_what_cannot_be_read_admits_nobody() {
        let sites = Sites::default();
        sites.replace(&configuration("Europe/Berlin")).unwrap();
        let table = sites.table();
        for origin in [
            "https://www.shop.example",
            "HTTPS://a.b.Shop.example:443",
            "http://localhost:5173",
            "HTTPS://SHOP.example",
        ] {
            assert!(admit(&table, "shop", Some(origin)).is_ok(), "{origin}");
        }
        for origin in
            ["https://myshop.example", "https://www.shop.example.evil", "https://localhost:5173", "*", "null", ""]
        {
            assert_eq!(admit(&table, "shop", Some(origin)).unwrap_err(), Reason::WrongOrigin, "{origin}");
        }
    }

    #[test]
    fn a_broken_configuration_leaves_the_old_one() {
        let sites = Sites::default();
        sites.replace(&configuration("UTC")).unwrap();
        assert!(sites.replace(&configuration("Mars/Olympus")).is_err());
        assert!(admit(&sites.table(), "shop", Some("https://shop.example")).is_ok());
    }

    #[test]
    fn a_key_is_asked_for_behind_the_origin_and_never_instead_of_it() {
        let sites = Sites::default();
        let mut new = configuration("UTC");
        new.sites[0].keys = vec![keys::hash_of("tlk_right").to_vec()];
        new.sites[0].key_required = true;
        sites.replace(&new).unwrap();
        let table = sites.table();
        let with =
            |key: &str, origin| table.admit(Credentials { site: "shop", key: Presented::new(key) }, Some(origin));
        assert!(with("tlk_right", "https://shop.example").unwrap().unkeyed.is_none());
        for key in ["", "tlk_wrong"] {
            assert_eq!(with(key, "https://shop.example").unwrap_err(), Reason::WrongKey);
        }
        assert_eq!(with("tlk_right", "https://evil.example").unwrap_err(), Reason::WrongOrigin);
    }
}
