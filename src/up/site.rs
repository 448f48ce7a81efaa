//! Sites as they are named on the command line: `shop=https://shop.example,https://www.shop.example;Europe/Berlin`.

use std::str::FromStr;

use proto::origin::{BadOrigin, SiteOrigin};
use thiserror::Error;

const FORM: &str = "NAME=ORIGIN[,ORIGIN…][;TIMEZONE], such as shop=https://shop.example;Europe/Berlin";

/// A site that is to exist: its name, the origins whose pages may send events, and its timezone when one was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub name: String,
    pub origins: Vec<String>,
    pub timezone: Option<String>,
}

/// Why the text of `--site` is none. Whether the timezone exists is for central to say.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SiteError {
    /// No `=`, or nothing on one of its sides.
    #[error("a site is written {FORM}")]
    Form,
    /// A name that would not fit into a page's `data-site`.
    #[error(
        "the site name {0:?} has a character that cannot stand in a snippet; use letters, digits, '.', '-' and '_'"
    )]
    Name(String),
    /// An origin that no browser would ever send.
    #[error(transparent)]
    Origin(#[from] BadOrigin),
}

impl FromStr for Site {
    type Err = SiteError;

    fn from_str(text: &str) -> Result<Self, SiteError> {
        let (name, rest) = text.split_once('=').ok_or(SiteError::Form)?;
        let (origins, timezone) = match rest.split_once(';') {
            Some((_, "")) => return Err(SiteError::Form),
            Some((origins, timezone)) => (origins, Some(timezone.to_owned())),
            None => (rest, None),
        };
        if name.is_empty() || origins.is_empty() {
            return Err(SiteError::Form);
        }
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
            return Err(SiteError::Name(name.to_owned()));
        }
        let form = |origin: &str| origin.parse().map(|origin: SiteOrigin| origin.to_string());
        let origins = origins.split(',').map(form).collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), origins, timezone })
    }
}

#[cfg(test)]
mod tests;
