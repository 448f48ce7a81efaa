//! The PROXY protocol, version 2: the header with which a proxy that only forwards bytes says who connected to it.

use std::{net::SocketAddr, time::Duration};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What the specification asks a receiver to take: room for two Unix socket addresses and more additions than any proxy
/// sends.
const HEADER_BYTES_MAX: usize = 536;

/// Why a connection with `proxy_protocol = true` has no source address.
#[derive(Debug, thiserror::Error)]
pub enum ProxyProtocolError {
    /// The connection broke.
    #[error("the connection broke before its PROXY header was complete")]
    Broken(#[from] std::io::Error),
    /// The header did not come in time.
    #[error("no PROXY header within {0:?}: the proxy in front must send one at once (HAProxy: send-proxy-v2)")]
    Late(Duration),
    /// The first bytes are something else.
    #[error(
        "the connection does not begin with a PROXY v2 header: set send-proxy-v2 at the proxy, or proxy_protocol = false here"
    )]
    Missing,
    /// The header says that it is longer than any header is.
    #[error("a PROXY header of {0} bytes: at most {HEADER_BYTES_MAX} are read")]
    TooLong(usize),
    /// The header contradicts itself.
    #[error("a PROXY v2 header that cannot be read: {0}")]
    Malformed(String),
}

/// Reads the header and nothing behind it, and gives the address of whoever connected to the proxy.
///
/// To be called only for a peer that is a trusted proxy. The peer itself is given for a connection the proxy made on its
/// own account (`LOCAL`, a health check) and for one whose source is no IP address.
pub async fn read_source<S: AsyncRead + Unpin>(
    stream: &mut S,
    peer: SocketAddr,
    limit: Duration,
) -> Result<SocketAddr, ProxyProtocolError> {
    timeout(limit, read_header(stream, peer)).await.map_err(|_| ProxyProtocolError::Late(limit))?
}

async fn read_header<S: AsyncRead + Unpin>(stream: &mut S, peer: SocketAddr) -> Result<SocketAddr, ProxyProtocolError> {
    let mut header = [0; HEADER_BYTES_MAX];
    // The signature by itself, so that a client that speaks something shorter than a header is told at once.
    stream.read_exact(&mut header[..SIGNATURE.len()]).await?;
    if header[..SIGNATURE.len()] != *SIGNATURE {
        return Err(ProxyProtocolError::Missing);
    }
    stream.read_exact(&mut header[SIGNATURE.len()..FIXED_BYTES]).await?;
    let bytes = FIXED_BYTES + usize::from(u16::from_be_bytes([header[14], header[15]]));
    let Some(rest) = header.get_mut(FIXED_BYTES..bytes) else {
        return Err(ProxyProtocolError::TooLong(bytes));
    };
    stream.read_exact(rest).await?;

    let config = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };
    let (parsed, _) = ProxyHeader::parse(&header[..bytes], config)
        .map_err(|error| ProxyProtocolError::Malformed(error.to_string()))?;
    match parsed.proxied_address() {
        None => Ok(peer),
        Some(address) if address.protocol == Protocol::Stream => Ok(address.source),
        Some(_) => Err(ProxyProtocolError::Malformed("it speaks of datagrams on a TCP connection".to_owned())),
    }
}

#[cfg(test)]
mod tests;
