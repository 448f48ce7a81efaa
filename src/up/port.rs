//! Addresses that people choose: tried before anything is started, so that a port in use is named together with its flag.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use thiserror::Error;
use tokio::net::TcpSocket;

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum PortError {
    /// Someone else listens there.
    #[error(
        "{flag} {address}: the port is in use; stop what listens there or choose another, such as {flag} {}:0 for any free port",
        address.ip()
    )]
    InUse { flag: &'static str, address: SocketAddr },
    /// A port below 1024, for which this user lacks the right.
    #[error("{flag} {address}: this user may not listen there; choose a port from 1024 on")]
    NotAllowed { flag: &'static str, address: SocketAddr },
    /// An address that is not this machine's.
    #[error("{flag} {address}: no address of this machine; choose one, such as 127.0.0.1:{} or 0.0.0.0:{0}", address.port())]
    NotOurs { flag: &'static str, address: SocketAddr },
    /// Anything else the kernel says.
    #[error("{flag} {address}: cannot listen there: {source}")]
    Other { flag: &'static str, address: SocketAddr, source: std::io::Error },
}

/// Fails with a clear error if nothing could listen on `address`.
pub fn check(flag: &'static str, address: SocketAddr) -> Result<(), PortError> {
    TcpListener::bind(address).map(drop).map_err(|source| explain(flag, address, source))
}

/// The same for UDP.
pub fn check_udp(flag: &'static str, address: SocketAddr) -> Result<(), PortError> {
    UdpSocket::bind(address).map(drop).map_err(|source| explain(flag, address, source))
}

/// A port that is known, and kept from others, before its listener starts.
pub struct Reserved {
    /// With a real port, also where 0 was asked for.
    pub address: SocketAddr,
    /// Holds a port that the kernel chose: bound but not listening, so that it takes no connection.
    _socket: Option<TcpSocket>,
}

/// Reserves `address` for the gateway, whose URL central must know before the gateway runs.
pub fn reserve(flag: &'static str, address: SocketAddr) -> Result<Reserved, PortError> {
    check(flag, address)?;
    if address.port() != 0 {
        // Held like the other, it could not be had while connections of an earlier run linger in the kernel.
        return Ok(Reserved { address, _socket: None });
    }
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(address)?;
        Ok(Reserved { address: socket.local_addr()?, _socket: Some(socket) })
    };
    bind().map_err(|source| explain(flag, address, source))
}

/// The URL of a listener as this machine's own programs reach it: "all addresses" is none to connect to.
pub fn url(address: SocketAddr) -> String {
    format!("http://{}", reachable(address))
}

/// The same for one with TLS.
pub fn url_with_tls(address: SocketAddr) -> String {
    format!("https://{}", reachable(address))
}

fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

fn explain(flag: &'static str, address: SocketAddr, source: std::io::Error) -> PortError {
    match source.kind() {
        ErrorKind::AddrInUse => PortError::InUse { flag, address },
        ErrorKind::PermissionDenied => PortError::NotAllowed { flag, address },
        ErrorKind::AddrNotAvailable => PortError::NotOurs { flag, address },
        _ => PortError::Other { flag, address, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_port_in_use_is_named_with_its_flag() {
        let taken = TcpListener::bind(any()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = check("--central", address).unwrap_err().to_string();
        assert!(error.contains(&format!("--central {address}")) && error.contains("in use"), "{error}");
        drop(taken);
        check("--central", address).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = check("--gateway", "192.0.2.1:8080".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("--gateway 192.0.2.1:8080: no address of this machine"), "{error}");
    }

    #[tokio::test]
    async fn a_reserved_port_is_known_and_kept_until_it_is_needed() {
        let reserved = reserve("--gateway", any()).unwrap();
        let address = reserved.address;
        assert_ne!(address.port(), 0);
        assert!(TcpListener::bind(address).is_err(), "kept from others");
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody is kept waiting");
        drop(reserved);
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn a_url_is_one_that_can_be_opened() {
        assert_eq!(url("127.0.0.1:8080".parse().unwrap()), "http://127.0.0.1:8080");
        assert_eq!(url("0.0.0.0:8080".parse().unwrap()), "http://127.0.0.1:8080");
        assert_eq!(url_with_tls("0.0.0.0:8443".parse().unwrap()), "https://127.0.0.1:8443");
        assert_eq!(url("[::]:8080".parse().unwrap()), "http://[::1]:8080");
    }
}
