//! One HTTP/3 connection: ordinary requests go the way of all others, and one WebTransport session may begin on it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::{Buf, Bytes};
use h3::ext::Protocol;
use h3::frame::FrameStream;
use h3::proto::frame::Frame;
use h3::server::RequestStream;
use h3::stream::BufRecvStream;
use h3::webtransport::SessionId;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::door::{Door, Peer};
use crate::ingest::Client;
use crate::transports::idle::{InUse, Usage};
use crate::transports::quic::Arrived;
use crate::transports::webtransport::{self, Session};
use crate::transports::{HEADER_BYTES_MAX, WRITE_MAX};

mod budget;

pub use budget::{Budget, CountedRecv};
use budget::{Counted, CountedBidi};

/// What has been answered last is still on its way, and goes with its connection.
const LAST_PACKETS: Duration = Duration::from_millis(200);
/// Streams that are neither requests nor of the session: h3 remembers each until its connection ends.
const STRAYS_MAX: u32 = 16;
const ONE_SESSION: &str = "a connection has one WebTransport session: open another connection\n";
const NO_SUCH_PATH: &str = "WebTransport sessions are at /v1/stream\n";

type Connection = h3::server::Connection<Counted<h3_quinn::Connection>, Bytes>;
type Resolver = h3::server::RequestResolver<Counted<h3_quinn::Connection>, Bytes>;
/// The stream of a request.
pub type Stream = RequestStream<CountedBidi, Bytes>;
/// A stream of a session, behind the bytes that say so.
pub type SessionStream = BufRecvStream<CountedBidi, Bytes>;

/// What a client's stream turned out to be for, where it is not an ordinary request.
enum Opened {
    /// The request to begin a session.
    Session(Box<(Request<()>, Stream)>),
    /// Of the session that it names.
    Stream(SessionId, Box<(SessionStream, Arc<Budget>)>),
    /// It never became clear.
    Stray,
}

/// A session whose own stream has not come yet.
struct Begun {
    id: SessionId,
    client: Client,
    session: Session,
}

/// From the client's first packet to the connection's end.
pub async fn connection(arrived: Arrived, router: Router, door: Arc<Door>) {
    let (incoming, unproved) = arrived.take();
    let peer = incoming.remote_address();
    // By UDP nothing says for whom a proxy connects.
    if door.proxy_protocol && door.trusted_proxies.contain(peer.ip()) {
        tracing::debug!(%peer, "a trusted proxy sent no PROXY header");
        return incoming.refuse();
    }
    let Some(seat) = door.seat(peer.ip()) else { return incoming.refuse() };
    let handshake_max = door.handshake_max();
    let connected = match incoming.accept() {
        Ok(connecting) => timeout(handshake_max, connecting).await,
        Err(error) => return tracing::debug!(%error, %peer, "a QUIC handshake failed"),
    };
    drop(unproved);
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
    let built = timeout(handshake_max, http.build(Counted::new(quic.clone()))).await;
    let Ok(Ok(connection)) = built else { return tracing::debug!(%peer, "an HTTP/3 connection did not begin") };
    let usage = Usage::new(seat);
    tokio::select! {
        () = serve(connection, quic, peer, &usage, router, &door) => {}
        () = usage.unused(handshake_max, door.idle()) => tracing::debug!(%peer, "a connection without a request was cut"),
    }
}

async fn serve(
    mut connection: Connection,
    quic: quinn::Connection,
    // Whose the handshake showed it to be: where packets come from now may not be proved yet.
    peer: SocketAddr,
    usage: &Arc<Usage>,
    router: Router,
    door: &Arc<Door>,
) {
    let (tell, mut opened) = mpsc::channel(1);
    // A connection has one session, and that has one stream.
    let (mut begun, mut may_begin, mut leaving, mut strays) = (None, true, false, 0);
    loop {
        tokio::select! {
            biased;
            Some(opened) = opened.recv() => match opened {
                Opened::Session(asked) if may_begin => {
                    begun = begin(asked.0, asked.1, &quic, peer, door).await;
                    may_begin = begun.is_none();
                }
                Opened::Session(asked) => refuse(asked.1, StatusCode::TOO_MANY_REQUESTS, ONE_SESSION).await,
                Opened::Stream(of, stream) => match begun.take_if(|begun: &mut Begun| begun.id == of) {
                    Some(Begun { client, session, .. }) => {
                        let (in_use, door) = (usage.begin(), Arc::clone(door));
                        door.sessions.clone().spawn(async move {
                            let _in_use = in_use;
                            let (stream, budget) = *stream;
                            session.serve(stream, budget, client, door).await;
                        });
                    }
                    None => strays += 1, // the stream ends with this
                },
                Opened::Stray => strays += 1,
            },
            () = door.stop.cancelled(), if !leaving => {
                leaving = true; // what has been asked is answered
                if connection.shutdown(0).await.is_err() {
                    return;
                }
            }
            () = async { usage.released().await; sleep(LAST_PACKETS).await }, if leaving => return,
            accepted = poll_fn(|cx| connection.poll_accept_request_stream(cx)) => {
                let Ok(Some(stream)) = accepted else { return };
                if strays > STRAYS_MAX {
                    return tracing::debug!(%peer, "a connection with streams for nothing was cut");
                }
                let budget = stream.budget();
                let resolver = connection.create_resolver(FrameStream::new(BufRecvStream::new(stream)));
                let (in_use, door) = (usage.begin(), Arc::clone(door));
                tokio::spawn(open((resolver, budget), tell.clone(), peer, in_use, router.clone(), door));
            }
        }
    }
}

/// Reads a stream until it is clear what it is for. A request is answered; everything else goes back to the connection.
async fn open(
    (mut resolver, budget): (Resolver, Arc<Budget>),
    tell: mpsc::Sender<Opened>,
    peer: SocketAddr,
    _in_use: InUse,
    router: Router,
    door: Arc<Door>,
) {
    let resolved = async {
        match poll_fn(|cx| resolver.frame_stream.poll_next(cx)).await {
            Ok(Some(Frame::WebTransportStream(of))) => {
                Ok(Err(Opened::Stream(of, Box::new((resolver.frame_stream.into_inner(), Arc::clone(&budget))))))
            }
            frame => match resolver.accept_with_frame(frame)?.resolve().await? {
                asked if wants_session(&asked.0) => Ok(Err(Opened::Session(Box::new(asked)))),
                asked => Ok::<_, h3::error::StreamError>(Ok(asked)),
            },
        }
    };
    match timeout(WRITE_MAX, resolved).await {
        Ok(Ok(Ok((request, stream)))) => answer(request, (stream, budget), peer, router).await,
        Ok(Ok(Err(Opened::Session(mut asked)))) => {
            webtransport::name_user_agent(&mut asked.0);
            // The routes judge every other request.
            match door.judge(peer.ip(), &asked.0) {
                Ok(()) => drop(tell.send(Opened::Session(asked)).await),
                Err(blocked) => refuse(asked.1, StatusCode::FORBIDDEN, format!("{blocked}\n")).await,
            }
        }
        Ok(Ok(Err(opened))) => drop(tell.send(opened).await), // a connection that has ended needs nothing any more
        Ok(Err(error)) => {
            tracing::debug!(%error, %peer, "an HTTP/3 request broke off");
            drop(tell.send(Opened::Stray).await);
        }
        Err(_) => {
            tracing::debug!(%peer, "the head of an HTTP/3 request took too long");
            drop(tell.send(Opened::Stray).await);
        }
    }
}

async fn begin(
    request: Request<()>,
    mut stream: Stream,
    quic: &quinn::Connection,
    peer: SocketAddr,
    door: &Door,
) -> Option<Begun> {
    if request.uri().path() != webtransport::PATH {
        refuse(stream, StatusCode::NOT_FOUND, NO_SUCH_PATH).await;
        return None;
    }
    let id = SessionId::try_from(stream.send_id().into_inner()).ok()?;
    let client = door.client(peer.ip(), request.headers());
    timeout(WRITE_MAX, stream.send_response(webtransport::accept())).await.ok()?.ok()?;
    Some(Begun { id, client, session: Session::new(stream, quic.clone()) })
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
async fn answer(request: Request<()>, (stream, budget): (Stream, Arc<Budget>), peer: SocketAddr, router: Router) {
    let (mut to, from) = stream.split();
    let body = futures_util::stream::unfold((from, budget), |(mut from, budget)| async move {
        match from.recv_data().await {
            Ok(Some(mut data)) => {
                budget.renew();
                Some((Ok(data.copy_to_bytes(data.remaining())), (from, budget)))
            }
            Ok(None) => None,
            Err(error) => Some((Err(error), (from, budget))),
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
