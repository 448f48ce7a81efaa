//! One runtime a core, each with a listener of its own on the same port: a session never leaves the core that took it.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::door::{Door, Peer};
use crate::{proxy_protocol, routes};

const BACKLOG: i32 = 4096;
/// After this long a stopping core drops what has not finished: its batches are in the log, and their agents ask again.
const DRAIN_MAX: Duration = Duration::from_secs(8);
/// Sockets fail to be accepted when files run out; a pause lets some close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} ({setting}): {source}; is another process using the port? Name a free one, or port 0"
)]
pub struct BindError {
    /// What was asked for.
    pub address: SocketAddr,
    /// Where it is set.
    pub setting: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// A listener a core, all on one port.
pub fn bind(address: SocketAddr, cores: usize) -> Result<(SocketAddr, Vec<StdListener>), BindError> {
    let failed = |source| BindError { address, setting: "`listen`", source };
    // Sharing a port is for our own cores: without this another gateway on it would be joined, not noticed.
    let probe = StdListener::bind(address).map_err(failed)?;
    let bound = probe.local_addr().map_err(failed)?;
    drop(probe);
    let listeners = (0..cores).map(|_| shared_listener(bound)).collect::<io::Result<_>>().map_err(failed)?;
    Ok((bound, listeners))
}

fn shared_listener(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves one core until the gateway stops, then waits for its connections.
pub async fn serve(listener: StdListener, door: Arc<Door>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let router = routes::router(Arc::clone(&door));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = door.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() + door.sessions.len() >= door.limits.connections_per_core => {
                drop(stream)
            }
            Ok((stream, peer)) => {
                connections.spawn(connection(stream, peer, router.clone(), Arc::clone(&door)));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Who is connected already has its one request answered. The system would reset it with the listener.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        connections.spawn(connection(stream, peer, router.clone(), Arc::clone(&door)));
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(DRAIN_MAX, async {
        connections.wait().await;
        door.sessions.close();
        door.sessions.wait().await;
    })
    .await;
    Ok(())
}

async fn connection(mut stream: TcpStream, mut peer: SocketAddr, router: Router, door: Arc<Door>) {
    let _ = stream.set_nodelay(true);
    let handshake_max = Duration::from_secs(door.limits.handshake_s);
    if door.proxy_protocol && door.trusted_proxies.contain(peer.ip()) {
        match proxy_protocol::read_source(&mut stream, peer, handshake_max).await {
            Ok(source) => peer = source,
            Err(error) => return tracing::debug!(%error, %peer, "a trusted proxy sent no PROXY header"),
        }
    }
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(handshake_max).max_buf_size(16 * 1024);
    let served = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut served = std::pin::pin!(served);
    let result = tokio::select! {
        biased;
        result = &mut served => result,
        () = door.stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, %peer, "a connection ended badly");
    }
}

#[cfg(test)]
mod tests;
