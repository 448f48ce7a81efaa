//! One HTTP/3 connection: ordinary requests go the way of all others, and one WebTransport session may begin on it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::{Buf, Bytes};
use h3::ext::Protocol;
use h3::server::RequestStream;
use h3_quinn::BidiStream;
use h3_webtransport::server::{AcceptedBi, WebTransportSession};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::door::{Door, Peer};
use crate::idle::Usage;
use crate::listen::{HEADER_BYTES_MAX, WRITE_MAX};
use crate::quic::Arrived;
use crate::webtransport;

const ONE_SESSION: &str = "a connection has one WebTransport session: open another connection\n";
const NO_SUCH_PATH: &str = "WebTransport sessions are at /v1/stream\n";

/// As h3 has it over quinn.
pub type Connection = h3::server::Connection<h3_quinn::Connection, Bytes>;
type Stream = RequestStream<BidiStream<Bytes>, Bytes>;
type Resolver = h3::server::RequestResolver<h3_quinn::Connection, Bytes>;
/// A request to begin a session, with the stream that it came on.
type Wanted = (Request<()>, Stream);

/// From the client's first packet to the connection's end.
pub async fn connection(arrived: Arrived, router: Router, door: Arc<Door>) {
    let (incoming, handshake) = arrived.take();
    let peer = incoming.remote_address();
    let Some(seat) = door.seat(peer.ip()) else { return incoming.refuse() };
    let handshake_max = door.handshake_max();
    let connected = match incoming.accept() {
        Ok(connecting) => timeout(handshake_max, connecting).await,
        Err(error) => return tracing::debug!(%error, %peer, "a QUIC handshake failed"),
    };
    drop(handshake);
    let quic = match connected {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => return tracing::debug!(%error, %peer, "a QUIC handshake failed"),
        Err(_) => return tracing::debug!(%peer, "a QUIC handshake took too long"),
    };
    let mut http = h3::server::builder();
    http.max_field_section_size(HEADER_BYTES_MAX as u64)
        .enable_webtransport(true)
        .enable_extended_connect(true)
        .enable_datagram(true)
        .max_webtransport_sessions(1)
        .send_grease(false);
    let built = timeout(handshake_max, http.build(h3_quinn::Connection::new(quic.clone()))).await;
    let Ok(Ok(connection)) = built else { return tracing::debug!(%peer, "an HTTP/3 connection did not begin") };
    let usage = Usage::new(seat);
    tokio::select! {
        () = serve(connection, quic, &usage, router, &door) => {}
        () = usage.unused(handshake_max, door.idle()) => tracing::debug!(%peer, "a connection without a request was cut"),
    }
}

async fn serve(
    mut connection: Connection,
    quic: quinn::Connection,
    usage: &Arc<Usage>,
    router: Router,
    door: &Arc<Door>,
) {
    let (want, mut wanted) = mpsc::channel(1);
    let mut leaving = false;
    loop {
        tokio::select! {
            biased;
            Some((request, stream)) = wanted.recv() => {
                return session(request, stream, connection, quic, usage, router, door).await;
            }
            () = door.stop.cancelled(), if !leaving => {
                leaving = true; // what has been asked is answered
                if connection.shutdown(0).await.is_err() {
                    return;
                }
            }
            accepted = connection.accept() => {
                let Ok(Some(resolver)) = accepted else { return };
                let (want, peer, usage) = (want.clone(), quic.remote_address(), Arc::clone(usage));
                tokio::spawn(resolve(resolver, want, peer, usage, router.clone(), Arc::clone(door)));
            }
        }
    }
}

/// Reads a request's head, and answers it; one for a session goes back to the connection.
async fn resolve(
    resolver: Resolver,
    want: mpsc::Sender<Wanted>,
    peer: SocketAddr,
    usage: Arc<Usage>,
    router: Router,
    door: Arc<Door>,
) {
    let in_use = usage.begin();
    match timeout(WRITE_MAX, resolver.resolve_request()).await {
        Ok(Ok((request, stream))) if wants_session(&request) => {
            // The routes judge every other request.
            if let Err(blocked) = door.judge(peer.ip(), &request) {
                return refuse(stream, StatusCode::FORBIDDEN, format!("{blocked}\n")).await;
            }
            if let Err(mpsc::error::TrySendError::Full((_, stream)) | mpsc::error::TrySendError::Closed((_, stream))) =
                want.try_send((request, stream))
            {
                refuse(stream, StatusCode::TOO_MANY_REQUESTS, ONE_SESSION).await;
            }
        }
        Ok(Ok((request, stream))) => answer(request, stream, peer, usage, router).await,
        Ok(Err(error)) => tracing::debug!(%error, %peer, "an HTTP/3 request broke off"),
        Err(_) => tracing::debug!(%peer, "the head of an HTTP/3 request took too long"),
    }
    drop(in_use);
}

/// The session, and whatever else is asked on its connection.
async fn session(
    request: Request<()>,
    stream: Stream,
    connection: Connection,
    quic: quinn::Connection,
    usage: &Arc<Usage>,
    router: Router,
    door: &Arc<Door>,
) {
    if request.uri().path() != webtransport::PATH {
        return refuse(stream, StatusCode::NOT_FOUND, NO_SUCH_PATH).await;
    }
    let in_use = usage.begin();
    let peer = quic.remote_address();
    let client = door.client(peer.ip(), request.headers());
    let session = match WebTransportSession::accept(request, stream, connection).await {
        Ok(session) => session,
        Err(error) => return tracing::debug!(%error, %peer, "a WebTransport session did not begin"),
    };
    let id = session.session_id();
    let (mut first, mut ended) = (Some(client), None);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = wait(&mut ended) => return,
            accepted = session.accept_bi() => accepted,
        };
        match accepted {
            Ok(Some(AcceptedBi::BidiStream(of, stream))) if of == id => match first.take() {
                Some(client) => {
                    let (done, when_done) = tokio::sync::oneshot::channel::<()>();
                    let (door, quic) = (Arc::clone(door), quic.clone());
                    let sessions = door.sessions.clone();
                    sessions.spawn(async move {
                        webtransport::serve(stream, quic, client, door).await;
                        drop(done);
                    });
                    ended = Some(when_done);
                }
                None => drop(stream), // a session has one stream; the library resets what is dropped
            },
            Ok(Some(AcceptedBi::BidiStream(..))) => {}
            Ok(Some(AcceptedBi::Request(request, stream))) if wants_session(&request) => {
                refuse(stream, StatusCode::TOO_MANY_REQUESTS, ONE_SESSION).await;
            }
            Ok(Some(AcceptedBi::Request(request, stream))) => {
                tokio::spawn(answer(request, stream, quic.remote_address(), Arc::clone(usage), router.clone()));
            }
            Ok(None) | Err(_) => break,
        }
    }
    // The connection is at its end, and so is whoever reads from it.
    wait(&mut ended).await;
    drop(in_use);
}

/// Until the session's task has ended; for ever, if it has not begun.
async fn wait(ended: &mut Option<tokio::sync::oneshot::Receiver<()>>) {
    match ended {
        Some(ended) => drop(ended.await),
        None => std::future::pending().await,
    }
}

fn wants_session(request: &Request<()>) -> bool {
    request.method() == Method::CONNECT && request.extensions().get::<Protocol>() == Some(&Protocol::WEB_TRANSPORT)
}

async fn refuse(mut stream: Stream, status: StatusCode, why: impl Into<Bytes>) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let said = async {
        stream.send_response(response).await?;
        stream.send_data(why.into()).await?;
        stream.finish().await
    };
    let _ = timeout(WRITE_MAX, said).await;
}

/// An ordinary request, answered by the same routes as every other.
async fn answer(request: Request<()>, stream: Stream, peer: SocketAddr, usage: Arc<Usage>, router: Router) {
    let _in_use = usage.begin();
    let (mut to, from) = stream.split();
    let body = futures_util::stream::unfold(from, |mut from| async move {
        match from.recv_data().await {
            Ok(Some(mut data)) => Some((Ok(data.copy_to_bytes(data.remaining())), from)),
            Ok(None) => None,
            Err(error) => Some((Err(error), from)),
        }
    });
    let mut request = request.map(|()| Body::from_stream(body));
    request.extensions_mut().insert(Peer(peer.ip()));
    let Ok(response) = router.oneshot(request).await;
    let sent = async {
        let (head, mut body) = response.into_parts();
        timeout(WRITE_MAX, to.send_response(Response::from_parts(head, ()))).await.ok()?.ok()?;
        while let Some(frame) = body.frame().await {
            match frame.ok()?.into_data() {
                Ok(data) => timeout(WRITE_MAX, to.send_data(data)).await.ok()?.ok()?,
                Err(frame) => {
                    let trailers = frame.into_trailers().ok()?;
                    timeout(WRITE_MAX, to.send_trailers(trailers)).await.ok()?.ok()?;
                }
            }
        }
        timeout(WRITE_MAX, to.finish()).await.ok()?.ok()
    };
    if sent.await.is_none() {
        tracing::debug!(%peer, "an answer by HTTP/3 was not taken");
        to.stop_stream(h3::error::Code::H3_INTERNAL_ERROR);
    }
}
