//! Beginnings of QUIC connections, each from another address, whose answers nobody reads.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, TokioRuntime, UdpPoller};
use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::flood::{self, Attacker};

/// Addresses of one attacker.
const ADDRESSES: u32 = 200;
/// Connections begun before they are all forgotten.
const AT_ONCE: usize = 200;
/// For their first packets to leave.
const LEAVE: Duration = Duration::from_millis(20);
const FIRST_PACKET_BYTES: usize = 1200;

/// Sends what a client says first, each packet from the next address, and hears nothing.
struct Deaf {
    sockets: Vec<UdpSocket>,
    turn: AtomicUsize,
}

impl Deaf {
    fn next(&self) -> &UdpSocket {
        &self.sockets[self.turn.fetch_add(1, Ordering::Relaxed) % self.sockets.len()]
    }
}

/// As many beginnings as this machine can make, and as many packets of which only the length is right.
pub async fn initials(attacker: &Attacker) -> io::Result<()> {
    let sockets = (0..ADDRESSES).map(|more| {
        let socket = UdpSocket::bind(flood::address(attacker.number * ADDRESSES + more))?;
        socket.set_nonblocking(true).map(|()| socket)
    });
    let deaf = Arc::new(Deaf { sockets: sockets.collect::<io::Result<_>>()?, turn: AtomicUsize::new(0) });
    let config = crate::quic::config(&attacker.target.certificate);
    let mut garbage = [0; FIRST_PACKET_BYTES];
    while Instant::now() < attacker.until {
        let runtime = Arc::new(TokioRuntime);
        let endpoint =
            Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, Arc::clone(&deaf) as _, runtime)?;
        let connect = || endpoint.connect_with(config.clone(), attacker.target.tls, "localhost");
        let begun: Vec<_> = (0..AT_ONCE).filter_map(|_| connect().ok()).collect();
        for _ in 0..AT_ONCE {
            rand::rng().fill(&mut garbage[..]);
            garbage[0] |= 0xc0; // a long header
            let _ = deaf.next().send_to(&garbage, attacker.target.tls);
        }
        sleep(LEAVE).await;
        attacker.did((begun.len() + AT_ONCE) as u64);
    }
    Ok(())
}

impl fmt::Debug for Deaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deaf").field("sockets", &self.sockets.len()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Deaf {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        for packet in transmit.contents.chunks(transmit.segment_size.unwrap_or(transmit.contents.len())) {
            let _ = self.next().send_to(packet, transmit.destination); // what the system has no room for is lost, as on any way
        }
        Ok(())
    }

    fn poll_recv(&self, _: &mut Context<'_>, _: &mut [IoSliceMut<'_>], _: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.sockets[0].local_addr()
    }
}
