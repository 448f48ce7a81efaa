//! The client's address: that of the peer, or the one for which a trusted proxy says that it forwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, header::FORWARDED};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Which header the proxies in front of the gateway append to.
///
/// It is one, not both: a proxy that appends to `X-Forwarded-For` hands on a `Forwarded` that the client wrote, word for
/// word, and the other way round. A gateway that looked at both would believe the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: client, proxy, …`
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client;proto=https, for=proxy` (RFC 7239)
    Forwarded,
}

/// The networks whose word about a client's address counts. Written as addresses and networks: `["127.0.0.1", "10.0.0.0/8"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct TrustedProxies(Vec<IpNet>);

/// Text that is neither an address nor a network.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no network: write an address such as 10.0.0.1 or a network such as 10.0.0.0/8 or fd00::/8")]
pub struct NotANetwork(String);

/// The rightmost address that is not a trusted proxy's.
///
/// Every proxy appends the address of whoever connected to it, so the header is read from its end: what a trusted proxy
/// appended is true, and what stands to the left of the first address that is not trusted was written by that address's
/// owner. Reading stops at what is not an address (`unknown`, `_hidden`, garbage) with the last good one. Without a trusted
/// peer the header is not looked at. IPv4 in IPv6 (`::ffff:192.0.2.1`) comes out as IPv4.
pub fn client_address(peer: IpAddr, trusted: &TrustedProxies, header: ForwardedHeader, headers: &HeaderMap) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.contain(client) {
        return client;
    }
    let name = match header {
        ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        ForwardedHeader::Forwarded => FORWARDED,
    };
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
    for element in lines.into_iter().rev().flat_map(|line| RightToLeft::split(line, b',')) {
        let address = match header {
            ForwardedHeader::XForwardedFor => node(element),
            ForwardedHeader::Forwarded => forwarded_for(element),
        };
        let Some(address) = address else { return client };
        client = address;
        if !trusted.contain(client) {
            return client;
        }
    }
    client
}

/// A network as it is written: `10.0.0.0/8`, `fd00::/8`, or an address that is one by itself.
pub fn network(text: &str) -> Result<IpNet, NotANetwork> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address.to_canonical())),
        Err(_) => text.parse::<IpNet>().map_err(|_| NotANetwork(text.to_owned())),
    }
}

/// Whom an address stands for: an IPv6 customer has a /64 at least, so all of its addresses are one.
pub fn subscriber_of(address: IpAddr) -> IpAddr {
    first_bits(address, 32, 64)
}

/// The network of an address as it is routed: a /24 of IPv4, a /48 of IPv6.
pub fn network_of(address: IpAddr) -> IpAddr {
    first_bits(address, 24, 48)
}

fn first_bits(address: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - v4))).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - v6))).into(),
    }
}

impl TrustedProxies {
    /// Trusts these networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether this address is a trusted proxy's.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl TryFrom<Vec<String>> for TrustedProxies {
    type Error = NotANetwork;

    fn try_from(entries: Vec<String>) -> Result<Self, NotANetwork> {
        entries.iter().map(|entry| network(entry)).collect::<Result<_, _>>().map(Self)
    }
}

/// The address in the `for` of one element of `Forwarded`: `for=192.0.2.1;proto=https`, `for="[2001:db8::1]:4711"`.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut address = None;
    for pair in RightToLeft::split(element, b';') {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (pair[..equals].trim_ascii(), &pair[equals + 1..]);
        if !name.eq_ignore_ascii_case(b"for") {
            continue;
        }
        if address.is_some() {
            return None; // a parameter must not stand twice: which of them would be true?
        }
        let value = value.trim_ascii();
        let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        address = Some(node(unquoted.unwrap_or(value))?);
    }
    address
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711`.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| bracketed().map(IpAddr::V6))?;
    Some(address.to_canonical())
}

/// The parts of a list, last first. A separator inside a quoted string separates nothing.
///
/// It reads from the right because the right end is what a proxy wrote: an opening quote that a client left unclosed further
/// left cannot swallow it.
struct RightToLeft<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> RightToLeft<'a> {
    fn split(list: &'a [u8], separator: u8) -> Self {
        Self { rest: Some(list), separator }
    }
}

impl<'a> Iterator for RightToLeft<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let list = self.rest?;
        let mut quoted = false;
        for at in (0..list.len()).rev() {
            if list[at] == b'"' {
                let backslashes = list[..at].iter().rev().take_while(|&&byte| byte == b'\\').count();
                quoted = !quoted || backslashes % 2 == 1; // an escaped quote does not end a quoted string
            } else if list[at] == self.separator && !quoted {
                self.rest = Some(&list[..at]);
                return Some(&list[at + 1..]);
            }
        }
        self.rest = None;
        Some(list)
    }
}

#[cfg(test)]
mod tests;
