//! What a rule asks of a request. All conditions of a rule must hold; of a condition's list one entry does.

use http::{HeaderName, Method};
use regex::bytes::Regex;

use super::Asked;
use crate::door::networks::Networks;
use crate::ingest::geo::Geo;

/// In the order in which they are asked: the cheap ones first.
pub(super) enum Condition {
    /// The request's.
    Methods(Vec<Method>),
    /// Beginnings of the path.
    Paths(Vec<String>),
    /// Those of the client's address.
    Networks(Networks),
    /// As the user agent is written.
    UserAgents(Vec<Regex>),
    /// As they are sent.
    Headers(Vec<Header>),
    /// Two capital letters, by the database of places.
    Countries(Vec<String>),
}

/// A header that is there with such a value, or that is not there.
pub(super) struct Header {
    pub(super) name: HeaderName,
    /// None: absent.
    pub(super) value: Option<Regex>,
}

impl Condition {
    pub(super) fn holds(&self, asked: &Asked<'_>, geo: Option<&Geo>) -> bool {
        match self {
            Self::Methods(methods) => methods.contains(asked.method),
            Self::Paths(paths) => paths.iter().any(|path| asked.path.starts_with(path.as_str())),
            Self::Networks(networks) => networks.contain(asked.address),
            Self::UserAgents(patterns) => patterns.iter().any(|pattern| pattern.is_match(asked.user_agent())),
            Self::Headers(headers) => headers.iter().any(|header| header.is_so(asked)),
            Self::Countries(countries) => countries.iter().any(|country| country == asked.country(geo)),
        }
    }
}

impl Header {
    fn is_so(&self, asked: &Asked<'_>) -> bool {
        match &self.value {
            None => !asked.headers.contains_key(&self.name),
            Some(value) => asked.headers.get_all(&self.name).iter().any(|line| value.is_match(line.as_bytes())),
        }
    }
}
