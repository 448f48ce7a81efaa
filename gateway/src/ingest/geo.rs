//! Where an address is, if the operator has a database that says so. None ships with Tideline.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;

/// A file with no country among this many records is a database of something else.
const RECORDS_TRIED: usize = 1_000;

/// A place. Empty means unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// ISO 3166-1 alpha-2: "US".
    pub country: String,
    /// ISO 3166-2: "US-CA". Country databases have none.
    pub region: String,
    /// The English name. Country databases have none.
    pub city: String,
}

/// A City or Country database in MaxMind's format, held in memory.
pub struct Geo(Reader<Vec<u8>>);

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// It cannot be read.
    #[error("the geo database {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// It is not in the format, or damaged.
    #[error(
        "{path} is no database in MaxMind's format, or it is damaged (wanted: a City or Country .mmdb, unpacked): {source}"
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        source: MaxMindDbError,
    },
    /// It holds something else.
    #[error("{path} is a database of type `{kind}` that names no countries: a City or Country database is wanted")]
    NoCountries {
        /// The file.
        path: PathBuf,
        /// What the file calls itself.
        kind: String,
    },
}

/// The few fields of a record that are used; the rest is not decoded.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Record<'a> {
    #[serde(borrow)]
    country: Coded<'a>,
    subdivisions: Vec<Coded<'a>>,
    city: City<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Coded<'a> {
    iso_code: &'a str,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct City<'a> {
    #[serde(borrow)]
    names: Names<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Names<'a> {
    en: &'a str,
}

impl Geo {
    /// Reads the whole file and makes sure that it names countries.
    pub fn try_open(path: &Path) -> Result<Self, GeoError> {
        let broken = |source| GeoError::Broken { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(|source| GeoError::Unreadable { path: path.to_owned(), source })?;
        let reader = Reader::from_source(bytes).map_err(broken)?;
        for network in reader.networks(WithinOptions::default()).map_err(broken)?.take(RECORDS_TRIED) {
            let record = network.and_then(|network| network.decode::<Record>()).map_err(broken)?;
            if record.is_some_and(|record| !record.country.iso_code.is_empty()) {
                return Ok(Self(reader));
            }
        }
        Err(GeoError::NoCountries { path: path.to_owned(), kind: reader.metadata().database_type.clone() })
    }

    /// Where this address is. An address that the database does not know, or knows nothing readable of, is nowhere: a record
    /// damaged after the file was opened costs a place, not an event.
    pub fn look_up(&self, address: IpAddr) -> Place {
        let record = self.0.lookup(address.to_canonical()).and_then(|result| result.decode::<Record>());
        let Ok(Some(record)) = record else { return Place::default() };
        let country = record.country.iso_code;
        let region = record.subdivisions.first().map_or("", |subdivision| subdivision.iso_code);
        Place {
            country: country.to_owned(),
            region: if country.is_empty() || region.is_empty() { String::new() } else { format!("{country}-{region}") },
            city: record.city.names.en.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
