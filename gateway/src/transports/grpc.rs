//! The agent's service by gRPC-Web, for pages whose network lets nothing else through, and by gRPC, for servers and apps.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use futures_util::{Stream, StreamExt};
use http::header::HeaderName;
use http::{Method, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use proto::agent::agent_server::{Agent, AgentServer};
use proto::agent::{
    Bye, ClientFrame, Config, Drain, Envelope, Hello, Reason, ServerFrame, Welcome, client_frame, server_frame::Frame,
};
use proto::limits::MESSAGE_BYTES_MAX;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming};
use tonic_web::GrpcWebLayer;
use tower::Layer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::delivery::answer::{Refusal, frame};
use crate::door::Door;
use crate::door::sites::Credentials;
use crate::ingest::{Client, validate};
use crate::transports::post::BODY_MAX;
use crate::transports::session::{self, Close, DRAIN_WITHIN_MS, FLUSH_INTERVAL_MS, Gone, Received, Transport};
use crate::transports::unary::{self, Asked};

/// A subscription that has nothing to say repeats its configuration: a proxy keeps what speaks, and a client that is gone is
/// noticed.
const HEARTBEAT: Duration = Duration::from_secs(25);
/// Of one message: its prefix, and base64 around both where a client asks for text.
const CALL_BYTES_MAX: usize = (MESSAGE_BYTES_MAX + 5).div_ceil(3) * 4;
/// Frames on their way to one client. Full: its session waits, and is cut if that lasts.
const TO_CLIENT: usize = 16;
/// A day: how long a browser may remember that it may call.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(86_400);
/// The user agent of whoever a server or an app speaks for.
const VISITORS_USER_AGENT: HeaderName = HeaderName::from_static("tideline-user-agent");
/// What the official clients send (`grpc-web`, `@connectrpc/connect-web`).
const CALL_HEADERS: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("connect-protocol-version"),
    HeaderName::from_static("connect-timeout-ms"),
];
/// What they read.
const ANSWER_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("grpc-status"), HeaderName::from_static("grpc-message")];

/// `/tideline.agent.v1.Agent/…`
pub fn router(door: Arc<Door>) -> Router {
    let agent = AgentServer::new(Service(Arc::clone(&door)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    // On this service alone: over a whole router the layer would answer every ordinary request with 400.
    let agent = GrpcWebLayer::new().layer(agent);
    // Any page may read its own answer: what it may send is decided by site and origin.
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_methods([Method::POST])
        .allow_headers(CALL_HEADERS)
        .expose_headers(ANSWER_HEADERS)
        .max_age(PREFLIGHT_MAX_AGE);
    Router::new()
        .route_service("/tideline.agent.v1.Agent/{call}", agent)
        .layer(middleware::from_fn_with_state(door, name_client))
        .layer(cors)
}

/// What a call knows of its caller are the request's headers, which it does not see itself.
async fn name_client(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> axum::response::Response {
    // A library of gRPC puts its own name into `user-agent`, and by that it is a program whose events are not counted.
    if let Some(visitors) = request.headers_mut().remove(VISITORS_USER_AGENT) {
        request.headers_mut().insert(header::USER_AGENT, visitors);
    }
    let client = Arc::new(door.client_of(&request));
    request.extensions_mut().insert(client);
    if request.uri().path().ends_with("/Connect") {
        return next.run(request).await; // a session, with limits of its own
    }
    let (head, body) = request.into_parts();
    let body = match timeout(BODY_MAX, Limited::new(body, CALL_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            return Status::resource_exhausted("a call may hold 256 KiB").into_http();
        }
        Ok(Err(_)) => return Status::cancelled("the call broke off").into_http(),
        Err(_) => return Status::deadline_exceeded("the call took too long to arrive").into_http(),
    };
    next.run(Request::from_parts(head, body.into())).await
}

struct Service(Arc<Door>);

type Frames = Pin<Box<dyn Stream<Item = Result<ServerFrame, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Service {
    type SubscribeStream = Frames;
    type ConnectStream = Frames;

    async fn send(&self, request: tonic::Request<Envelope>) -> Result<Response<ServerFrame>, Status> {
        let door = &self.0;
        let client = client(&request)?;
        match unary::ask(door, &client, request.get_ref(), "grpc").await {
            Asked::Answered { frame, .. } | Asked::Later { frame, .. } => Ok(Response::new(frame)),
            Asked::Refused(refusal) => {
                door.metrics.refused(refusal.reason);
                if refusal.sid.is_empty() {
                    return Err(status(refusal.reason));
                }
                Ok(Response::new(refusal.to_frame(door.ingest.clock.now_ms())))
            }
        }
    }

    async fn subscribe(&self, request: tonic::Request<Hello>) -> Result<Response<Frames>, Status> {
        let door = Arc::clone(&self.0);
        let client = client(&request)?;
        let hello = request.get_ref();
        if let Err(reason) = door.ingest.sites.table().admit(Credentials::from(hello), client.origin.as_deref()) {
            door.metrics.refused(reason);
            let frame = Refusal::of_frame(reason).to_frame(door.ingest.clock.now_ms());
            let status = status(reason);
            return Ok(Response::new(futures_util::stream::iter([Ok(frame), Err(status)]).boxed()));
        }
        // As a session is: one connection carries many.
        let Some(seat) = door.seat_of_session(client.address) else { return Err(status(Reason::Unavailable)) };
        let welcome = frame(Frame::Welcome(Welcome {
            server_ms: door.ingest.clock.now_ms(),
            region: door.region.clone(),
            config: Some(Config { flush_interval_ms: FLUSH_INTERVAL_MS }),
        }));
        let rest = futures_util::stream::unfold((door.stop.clone(), seat, false), |(stop, seat, drained)| async move {
            if drained {
                return None; // it may end: what it subscribed to has been said
            }
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => (Frame::Drain(Drain { within_ms: DRAIN_WITHIN_MS }), true),
                () = tokio::time::sleep(HEARTBEAT) => {
                    (Frame::Config(Config { flush_interval_ms: FLUSH_INTERVAL_MS }), false)
                }
            };
            Some((Ok(frame(next.0)), (stop, seat, next.1)))
        });
        Ok(Response::new(futures_util::stream::iter([Ok(welcome)]).chain(rest).boxed()))
    }

    async fn connect(&self, request: tonic::Request<Streaming<ClientFrame>>) -> Result<Response<Frames>, Status> {
        let door = Arc::clone(&self.0);
        let client = client(&request)?;
        let (to, frames) = mpsc::channel(TO_CLIENT);
        let transport = Grpc { from: request.into_inner(), to, asked: false };
        let sessions = door.sessions.clone();
        sessions.spawn(session::serve(transport, Client::clone(&client), door));
        Ok(Response::new(ReceiverStream::new(frames).boxed()))
    }
}

/// A session's frames over one bidirectional call.
struct Grpc {
    from: Streaming<ClientFrame>,
    to: mpsc::Sender<Result<ServerFrame, Status>>,
    /// A frame has gone to a client that was silent, and was taken.
    asked: bool,
}

impl Transport for Grpc {
    const NAME: &'static str = "grpc";

    async fn receive(&mut self) -> Received {
        if std::mem::take(&mut self.asked) {
            return Received::Alive; // HTTP/2 asks by itself, and ends the call of a client that does not answer
        }
        match self.from.message().await {
            Ok(Some(frame)) => Received::Decoded(Box::new(frame)),
            // Whoever ends its half has said everything, and waits for its answers.
            Ok(None) => Received::Decoded(Box::new(ClientFrame { frame: Some(client_frame::Frame::Bye(Bye {})) })),
            Err(status) if status.code() == Code::OutOfRange => Received::Refused(Reason::FrameTooLarge),
            Err(status) if status.code() == Code::Internal => Received::Refused(Reason::Malformed),
            Err(_) => Received::Gone,
        }
    }

    async fn send(&mut self, frames: &[ServerFrame]) -> Result<(), Gone> {
        for frame in frames {
            self.to.send(Ok(frame.clone())).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    async fn ask(&mut self) -> Result<(), Gone> {
        // For a proxy in between, which keeps what speaks.
        self.send(&[frame(Frame::Config(Config { flush_interval_ms: FLUSH_INTERVAL_MS }))]).await?;
        self.asked = true;
        Ok(())
    }

    async fn close(self, close: &Close) {
        let ended = match close {
            Close::Done => return,
            Close::Away => Status::unavailable("the gateway ends this session: connect again"),
            Close::Refused(refusal) => status(refusal.reason),
        };
        let _ = self.to.send(Err(ended)).await;
    }
}

fn client<T>(request: &tonic::Request<T>) -> Result<Arc<Client>, Status> {
    request.extensions().get().cloned().ok_or_else(|| Status::internal("a call without its request"))
}

/// A refusal in the words of gRPC. Its details are left empty: what clients look for there is a message of Google's.
fn status(reason: Reason) -> Status {
    Status::new(code(reason), validate::explain(reason))
}

fn code(reason: Reason) -> Code {
    match reason {
        Reason::UnknownSite => Code::NotFound,
        Reason::WrongOrigin | Reason::WrongKey => Code::PermissionDenied,
        Reason::FrameTooLarge => Code::ResourceExhausted,
        Reason::Unavailable => Code::Unavailable,
        Reason::HelloMissing | Reason::SidExpired | Reason::SidInFuture => Code::FailedPrecondition,
        _ => Code::InvalidArgument,
    }
}
