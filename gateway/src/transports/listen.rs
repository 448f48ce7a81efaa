//! One runtime a core, each with a listener of its own on the same port: a session never leaves the core that took it. QUIC has
//! one socket for all of them ([`crate::transports::quic`]), and hands each connection to one core.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use futures_util::FutureExt;
use http::{HeaderValue, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower::ServiceExt;

use crate::config::Limits;
use crate::door::crowd::Seat;
use crate::door::{Door, Peer};
use crate::transports::idle::{InUse, Usage};
use crate::transports::quic::Arrived;
use crate::transports::{HEADER_BYTES_MAX, WRITE_MAX, http3, proxy_protocol, routes, tls};

const BACKLOG: i32 = 4096;
/// What the system takes from a client before the gateway has read it, as large as HTTP/2's window of a connection: left alone, it grows
/// to megabytes for whoever sends without end. Linux doubles it for what it keeps beside the bytes, and takes `net.core.rmem_max` at most.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;
/// After this long a stopping core drops what has not finished: its batches are in the log, and their agents ask again.
const DRAIN_MAX: Duration = Duration::from_secs(8);
/// Sockets fail to be accepted when files run out; a pause lets some close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Newcomers that begin at once: a flood of them waits in the system's queue, not in the core's before those who are connected.
const NEWCOMERS_AT_ONCE: usize = 8;
/// The longest that a core takes no newcomers between two such groups.
const REST_MAX: Duration = Duration::from_millis(20);
/// Two ports of one number, of which the system chooses the first: as often the second is tried.
const SAME_PORT_TRIES: usize = 16;
/// A browser has one HTTP/2 connection for all its tabs, and a WebSocket in each may be a stream of it.
const HTTP2_STREAMS_MAX: u32 = 100;
const HTTP2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
const HTTP2_SEND_BYTES_MAX: usize = 64 * 1024;
/// Streams that a client opened and took back before they were looked at: beyond, it is flooding.
const HTTP2_RESETS_MAX: usize = 20;
/// Enough of HTTP/2's preface to tell it from every request of HTTP/1.
const HTTP2_PREFACE: &[u8; 14] = b"PRI * HTTP/2.0";
/// Between two looks at a preface that comes in pieces.
const PREFACE_PAUSE: Duration = Duration::from_millis(10);
/// A browser that has seen this header comes by TLS from then on: a year.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

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

/// What one core listens on.
#[derive(Debug)]
pub struct Ports {
    /// Without TLS.
    pub plain: StdListener,
    /// With TLS.
    pub tls: Option<Secure>,
    /// QUIC connections, as they are handed over.
    pub quic: Option<mpsc::Receiver<Arrived>>,
}

/// A listener with TLS.
pub struct Secure {
    /// Of this core.
    pub listener: StdListener,
    /// Shared: a session is resumed on any core.
    pub acceptor: TlsAcceptor,
    /// Where to find HTTP/3, for clients that came by TCP.
    pub alt_svc: Option<HeaderValue>,
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secure")
            .field("listener", &self.listener)
            .field("alt_svc", &self.alt_svc)
            .finish_non_exhaustive()
    }
}

/// A listener a core, all on one port.
pub fn bind(
    address: SocketAddr,
    setting: &'static str,
    cores: usize,
) -> Result<(SocketAddr, Vec<StdListener>), BindError> {
    let failed = |source| BindError { address, setting, source };
    // Sharing a port is for our own cores: without this another gateway on it would be joined, not noticed.
    let probe = StdListener::bind(address).map_err(failed)?;
    let bound = probe.local_addr().map_err(failed)?;
    drop(probe);
    let listeners = (0..cores).map(|_| shared_listener(bound)).collect::<io::Result<_>>().map_err(failed)?;
    Ok((bound, listeners))
}

/// The same, and a UDP socket of the same number.
pub fn bind_with_udp(
    address: SocketAddr,
    setting: &'static str,
    cores: usize,
) -> Result<(SocketAddr, Vec<StdListener>, UdpSocket), BindError> {
    let mut tries = 0;
    loop {
        let (bound, listeners) = bind(address, setting, cores)?;
        tries += 1;
        match UdpSocket::bind(bound) {
            Ok(socket) => return Ok((bound, listeners, socket)),
            Err(_) if address.port() == 0 && tries < SAME_PORT_TRIES => {}
            Err(source) => return Err(BindError { address: bound, setting, source }),
        }
    }
}

fn shared_listener(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?; // accepted sockets inherit it
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves one core until the gateway stops, then waits for its connections.
pub async fn serve(ports: Ports, door: Arc<Door>) -> io::Result<()> {
    let plain = TcpListener::from_std(ports.plain)?;
    let secure = match ports.tls {
        Some(Secure { listener, acceptor, alt_svc }) => {
            Some((TcpListener::from_std(listener)?, Tls { acceptor, alt_svc }))
        }
        None => None,
    };
    let mut quic = ports.quic;
    let mut limits = door.limits.clone();
    let (http1, http2) = protocols(&limits.borrow_and_update());
    let mut core = Core { router: routes::router(Arc::clone(&door)), http1, http2, door };
    let connections = TaskTracker::new();
    let _feeling = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&core.door.overload).feel()));
    let mut newcomers = 0;
    loop {
        let full = connections.len() + core.door.sessions.len() >= core.door.connections_max();
        // Closed at once: a newcomer comes again, and costs less than one that has begun.
        let admits = || match (full, core.door.overload.admits()) {
            (false, true) => true,
            (full, _) => {
                core.door.metrics.connection_refused(if full { "core" } else { "overload" });
                false
            }
        };
        // In any order: a flood of one port does not keep the others waiting.
        tokio::select! {
            () = core.door.stop.cancelled() => break,
            Ok(()) = limits.changed() => (core.http1, core.http2) = protocols(&limits.borrow_and_update()),
            accepted = plain.accept() => match accepted {
                Ok((stream, peer)) if admits() => {
                    newcomers += 1;
                    connections.spawn(core.clone().plain(stream, peer));
                }
                Ok(_) => {}
                Err(error) => pause(&error).await,
            },
            accepted = accept(secure.as_ref()) => match accepted {
                Ok((stream, peer, tls)) if admits() => {
                    newcomers += 1;
                    connections.spawn(core.clone().secure(stream, peer, tls));
                }
                Ok(_) => {}
                Err(error) => pause(&error).await,
            },
            Some(arrived) = next(quic.as_mut()) => {
                if admits() {
                    newcomers += 1;
                    connections.spawn(http3::connection(arrived, core.router.clone(), Arc::clone(&core.door)));
                } else {
                    arrived.refuse();
                }
            }
        }
        if newcomers == NEWCOMERS_AT_ONCE {
            newcomers = 0;
            rest().await;
        }
    }
    // Who is connected already has its one request answered. The system would reset it with the listener.
    while let Some(Ok((stream, peer))) = plain.accept().now_or_never() {
        connections.spawn(core.clone().plain(stream, peer));
    }
    while let Some(Ok((stream, peer, tls))) = accept(secure.as_ref()).now_or_never() {
        connections.spawn(core.clone().secure(stream, peer, tls));
    }
    drop((plain, secure, quic));
    connections.close();
    let _ = timeout(DRAIN_MAX, async {
        connections.wait().await;
        core.door.sessions.close();
        core.door.sessions.wait().await;
    })
    .await;
    Ok(())
}

/// The core has its turn with everybody; then no newcomers come for as long as that took, a millisecond at least.
async fn rest() {
    let began = Instant::now();
    tokio::task::yield_now().await;
    sleep(began.elapsed().min(REST_MAX)).await;
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    sleep(ACCEPT_PAUSE).await;
}

/// What comes by TLS; never anything where there is none.
async fn accept(secure: Option<&(TcpListener, Tls)>) -> io::Result<(TcpStream, SocketAddr, Tls)> {
    let Some((listener, tls)) = secure else { return std::future::pending().await };
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, tls.clone()))
}

/// What comes by QUIC; likewise.
async fn next(quic: Option<&mut mpsc::Receiver<Arrived>>) -> Option<Arrived> {
    match quic {
        Some(handed_over) => handed_over.recv().await,
        None => std::future::pending().await,
    }
}

#[derive(Clone)]
struct Tls {
    acceptor: TlsAcceptor,
    alt_svc: Option<HeaderValue>,
}

/// What every connection of a core is served with.
#[derive(Clone)]
struct Core {
    router: Router,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    door: Arc<Door>,
}

impl Core {
    async fn plain(self, mut stream: TcpStream, peer: SocketAddr) {
        let Some((peer, seat)) = self.greet(&mut stream, peer).await else { return };
        let handshake_max = self.door.handshake_max();
        match timeout(handshake_max, speaks_http2(&stream)).await {
            Ok(Ok(http2)) => self.serve(stream, (peer, seat), http2, |_| {}).await,
            Ok(Err(_)) => {} // gone without a word
            Err(_) => tracing::debug!(%peer, "a connection without a request was cut"),
        }
    }

    async fn secure(self, mut stream: TcpStream, peer: SocketAddr, tls: Tls) {
        let Some((peer, seat)) = self.greet(&mut stream, peer).await else { return };
        let handshake_max = self.door.handshake_max();
        // Boxed: the handshake's state is large, and an idle connection need not keep its room.
        let stream = match timeout(handshake_max, Box::pin(tls.acceptor.accept(stream))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, %peer, "a TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "a TLS handshake took too long"),
        };
        let headers = move |headers: &mut http::HeaderMap| {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
            if let Some(alt_svc) = &tls.alt_svc {
                headers.insert(header::ALT_SVC, alt_svc.clone());
            }
        };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
        self.serve(stream, (peer, seat), http2, headers).await;
    }

    /// Whose connection it is, and its place among theirs: a trusted proxy's PROXY header names somebody else. `None`: it was to
    /// begin with one and did not, or they have too many.
    async fn greet(&self, stream: &mut TcpStream, mut peer: SocketAddr) -> Option<(SocketAddr, Seat)> {
        let _ = stream.set_nodelay(true);
        if self.door.proxy_protocol && self.door.trusted_proxies.contain(peer.ip()) {
            match proxy_protocol::read_source(stream, peer, self.door.handshake_max()).await {
                Ok(source) => peer = source,
                Err(error) => {
                    tracing::debug!(%error, %peer, "a trusted proxy sent no PROXY header");
                    return None;
                }
            }
        }
        Some((peer, self.door.seat(peer.ip())?))
    }

    /// `headers` are added to each answer.
    async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        (peer, seat): (SocketAddr, Seat),
        http2: bool,
        headers: impl Fn(&mut http::HeaderMap) + Clone + Send + Sync + 'static,
    ) {
        let Self { router, http1, http2: multiplexed, door } = self;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_MAX));
        let stream = TokioIo::new(Box::pin(stream));
        let usage = Usage::new(seat);
        let used = Arc::clone(&usage);
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            let (router, in_use, headers) = (router.clone(), used.begin(), headers.clone());
            request.extensions_mut().insert(Peer(peer.ip()));
            request.extensions_mut().insert(Arc::clone(&used));
            async move {
                let mut response = router.oneshot(request.map(Body::new)).await?;
                headers(response.headers_mut());
                // In use until the last of the answer has left.
                Ok::<_, Infallible>(response.map(|body| Leaving { body, in_use }))
            }
        });
        if http2 {
            let served = multiplexed.serve_connection(stream, service);
            drive(served, |served| served.graceful_shutdown(), peer, &usage, &door).await;
        } else {
            let served = http1.serve_connection(stream, service).with_upgrades();
            drive(served, |served| served.graceful_shutdown(), peer, &usage, &door).await;
        }
    }
}

/// An answer on its way out.
struct Leaving {
    body: Body,
    in_use: InUse,
}

impl hyper::body::Body for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.in_use.taken();
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(Some(_))) {
            self.in_use.gave();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Until the connection ends, has been unused for too long, or the gateway leaves (of which `leave` tells the connection) and
/// its last request is answered.
async fn drive<F: Future<Output = hyper::Result<()>>>(
    served: F,
    leave: impl FnOnce(Pin<&mut F>),
    peer: SocketAddr,
    usage: &Usage,
    door: &Door,
) {
    let mut served = std::pin::pin!(served);
    let (first, idle) = (door.handshake_max(), door.idle());
    let result = tokio::select! {
        biased;
        result = served.as_mut() => result,
        () = door.stop.cancelled() => {
            leave(served.as_mut());
            served.await
        }
        () = usage.unused(first, idle) => return tracing::debug!(%peer, "a connection without a request was cut"),
    };
    if let Err(error) = result {
        tracing::debug!(%error, %peer, "a connection ended badly");
    }
}

/// Whether a connection begins as HTTP/2 does by clients that know beforehand. Nothing is taken from it.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; HTTP2_PREFACE.len()];
    loop {
        let count = stream.peek(&mut seen).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen[..count] != HTTP2_PREFACE[..count] {
            return Ok(false);
        }
        if count == seen.len() {
            return Ok(true);
        }
        tokio::time::sleep(PREFACE_PAUSE).await; // what is there already would be seen again at once
    }
}

/// How a connection is served that begins now.
fn protocols(limits: &Limits) -> (http1::Builder, http2::Builder<TokioExecutor>) {
    (http1(limits), http2(limits))
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(limits.handshake_s))
        .max_buf_size(HEADER_BYTES_MAX);
    http
}

fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_SEND_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_pending_accept_reset_streams(HTTP2_RESETS_MAX)
        .max_local_error_reset_streams(HTTP2_RESETS_MAX)
        .keep_alive_interval(Duration::from_secs(limits.idle_s))
        .keep_alive_timeout(WRITE_MAX)
        .enable_connect_protocol();
    http
}

#[cfg(test)]
mod tests;
