//! A QUIC connection of which every byte is the test's own, so that it can say by HTTP/3 what no client would.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};

/// Bytes that begin each stream of its kind, and the types of frames.
pub mod wire {
    /// A client's control stream: its type, and settings of which all are the default.
    pub const CONTROL: [u8; 3] = [0x00, 0x04, 0x00];
    /// A frame of a type that nobody knows and everybody must skip, which announces 2^40 bytes.
    pub const ENDLESS_FRAME: [u8; 9] = [0x21, 0xc0, 0, 1, 0, 0, 0, 0, 0];
}

const CONNECT_MAX: Duration = Duration::from_secs(20);

/// Connected from this address, if one is given; nothing has been said yet.
pub async fn connect(gateway: SocketAddr, certificate: &Path, from: Option<SocketAddr>) -> Connection {
    let from = from.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut endpoint = Endpoint::client(from).unwrap();
    endpoint.set_default_client_config(config(certificate));
    let connecting = endpoint.connect(gateway, "localhost").unwrap();
    tokio::time::timeout(CONNECT_MAX, connecting).await.expect("connected in time").unwrap()
}

/// Of a client that trusts this certificate alone.
pub fn config(certificate: &Path) -> ClientConfig {
    let crypto = QuicClientConfig::try_from(crate::tls::client(certificate, b"h3")).unwrap();
    ClientConfig::new(Arc::new(crypto))
}

/// A HEADERS frame with these fields, each written out.
pub fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0, 0]; // no dynamic table
    for (name, value) in fields {
        // A literal name, its length in three bits and more; a value, its length in seven.
        integer(&mut block, 0x20, 3, name.len());
        block.extend_from_slice(name.as_bytes());
        integer(&mut block, 0, 7, value.len());
        block.extend_from_slice(value.as_bytes());
    }
    let length = u16::try_from(block.len()).ok().filter(|length| *length < 1 << 14).expect("a short head");
    let mut frame = vec![0x01];
    frame.extend_from_slice(&(length | 0x4000).to_be_bytes()); // a varint of two bytes
    frame.extend_from_slice(&block);
    frame
}

/// RFC 7541, 5.1.
pub(crate) fn integer(to: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let max = (1 << bits) - 1;
    if value < max {
        to.push(flags | value as u8);
        return;
    }
    to.push(flags | max as u8);
    let mut rest = value - max;
    while rest >= 0x80 {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}
