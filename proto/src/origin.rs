//! From which origins the pages of a site may report: how such an origin is written, and which one a browser sends it matches.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// An origin of a site, or several that are alike.
///
/// | written | means |
/// |---|---|
/// | `https://shop.example`, `http://localhost:3000` | this one |
/// | `https://*.shop.example` | any host below the domain, however deep; not the domain itself |
/// | `http://localhost:*` | any port |
///
/// The two stars go together: `http://*.shop.example:*`. A scheme is never left open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SiteOrigin {
    scheme: Scheme,
    subdomains: bool,
    /// As a browser writes it: in lower case, IDNA as `xn--…`, IPv6 in brackets.
    host: String,
    port: Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Port {
    Any,
    One(u16),
}

/// What cannot be an origin of a site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOrigin {
    /// It is something else.
    #[error(
        "{0:?} is no origin: write http:// or https://, a host and maybe a port, and nothing behind them, such as \
         https://shop.example, https://*.shop.example or http://localhost:*"
    )]
    Form(String),
    /// A star in a place where it has no meaning.
    #[error(
        "{0:?} has a `*` where none can be: it stands for everything in front of a domain, as in https://*.shop.example, or \
         for any port, as in http://localhost:*"
    )]
    Star(String),
    /// A star over so much that it cannot be one owner's.
    #[error("{0:?} is too wide: behind `*.` comes a domain of two labels or more, such as https://*.shop.example")]
    TooWide(String),
    /// Addresses have no subdomains.
    #[error("{0:?} puts `*.` before an address: only a domain has hosts below it")]
    Address(String),
}

impl FromStr for SiteOrigin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        let form = || BadOrigin::Form(text.to_owned());
        // What a URL parser would leave out or turn into something else without a word.
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '\\' | '@' | '?' | '#')) {
            return Err(form());
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (rest, any_port) = rest.strip_suffix(":*").map_or((rest, false), |rest| (rest, true));
        let (rest, subdomains) = rest.strip_prefix("*.").map_or((rest, false), |rest| (rest, true));
        if rest.contains('*') {
            return Err(BadOrigin::Star(text.to_owned()));
        }
        // Where any port will do one is put in, so that the parser refuses a second.
        let url = Url::parse(&format!("{scheme}://{rest}{}", if any_port { ":1" } else { "" })).map_err(|_| form())?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(form()),
        };
        let (Some(host), "/", false) = (url.host(), url.path(), rest.ends_with('/') || rest.starts_with('/')) else {
            return Err(form());
        };
        match &host {
            Host::Domain(domain) if !is_domain(domain) => return Err(form()),
            Host::Domain(domain) if subdomains && domain.split('.').count() < 2 => {
                return Err(BadOrigin::TooWide(text.to_owned()));
            }
            Host::Ipv4(_) | Host::Ipv6(_) if subdomains => return Err(BadOrigin::Address(text.to_owned())),
            _ => {}
        }
        let port = match any_port {
            true => Port::Any,
            false => Port::One(url.port().unwrap_or(scheme.own_port())),
        };
        Ok(Self { scheme, subdomains, host: host.to_string(), port })
    }
}

/// As it is sent and kept: lower case, the scheme's own port left out.
impl fmt::Display for SiteOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.name(), if self.subdomains { "*." } else { "" }, self.host)?;
        match self.port {
            Port::Any => f.write_str(":*"),
            Port::One(port) if port == self.scheme.own_port() => Ok(()),
            Port::One(port) => write!(f, ":{port}"),
        }
    }
}

impl SiteOrigin {
    /// Whether it is one origin and no more: then its form is the one in which a browser sends it.
    pub fn is_exact(&self) -> bool {
        !self.subdomains && self.port != Port::Any
    }

    /// Whether this origin, as a browser sent it, is one of those meant.
    pub fn matches(&self, sent: &SentOrigin) -> bool {
        let host = match self.subdomains {
            false => sent.host == self.host,
            true => {
                let in_front = sent.host.strip_suffix(self.host.as_str()).and_then(|rest| rest.strip_suffix('.'));
                in_front.is_some_and(is_domain)
            }
        };
        host && sent.scheme == self.scheme && (self.port == Port::Any || self.port == Port::One(sent.port))
    }
}

/// The header `Origin` of a request, in a browser's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentOrigin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl SentOrigin {
    /// `scheme://host[:port]` in whichever case; `None` is `null` and whatever else is no page of http or https.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
            _ if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
            _ => return None,
        };
        // The colons of an IPv6 address are within its brackets.
        let end = rest.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match rest[end..].find(':') {
            None => (rest, scheme.own_port()),
            Some(colon) => {
                let digits = &rest[end + colon + 1..];
                let port = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
                (&rest[..end + colon], port)
            }
        };
        let host = host.to_ascii_lowercase();
        let bracketed = || host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).filter(|_| end == host.len());
        (is_domain(&host) || bracketed().is_some()).then_some(Self { scheme, host, port })
    }
}

/// Lower case, the scheme's own port left out: the form of a [`SiteOrigin`] that is exact.
impl fmt::Display for SentOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.host)?;
        if self.port == self.scheme.own_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn own_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Labels of letters, digits, `-` and `_`, none of them empty. An IPv4 address passes too.
fn is_domain(host: &str) -> bool {
    let of_a_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    host.split('.').all(|label| !label.is_empty() && label.bytes().all(of_a_label))
}

#[cfg(test)]
mod tests;
