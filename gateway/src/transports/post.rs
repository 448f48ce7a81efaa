//! One batch by `POST`: the agent's last resort, and its way out when a page goes away.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use proto::Message;
use proto::agent::{Reason, ServerFrame};
use proto::limits::MESSAGE_BYTES_MAX;

use crate::delivery::answer::Refusal;
use crate::door::Door;
use crate::ingest::validate;
use crate::transports::unary::{self, Asked};

/// A body this slow is not a browser's.
pub const BODY_MAX: Duration = Duration::from_secs(10);

/// `POST /v1/batch`: an `Envelope`; the answer is a `ServerFrame`, its status says the same.
pub async fn batch(State(door): State<Arc<Door>>, request: Request) -> Response {
    let client = door.client_of(&request);
    let origin = request.headers().get(header::ORIGIN).cloned();
    let body = match read_body(request).await {
        Ok(body) => body,
        Err(reason) => return refuse(&door, &Refusal::of_frame(reason), origin),
    };
    let envelope = match validate::decode_envelope(&body) {
        Ok(envelope) => envelope,
        Err(reason) => return refuse(&door, &Refusal::of_frame(reason), origin),
    };
    match unary::ask(&door, &client, &envelope, "post").await {
        Asked::Answered { frame, refused } => {
            let status = if refused.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
            answer(status, &frame, origin)
        }
        Asked::Refused(refusal) => refuse(&door, &refusal, origin),
        Asked::Later { frame, wait_ms } => {
            let mut response = answer(StatusCode::TOO_MANY_REQUESTS, &frame, origin);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000)));
            response
        }
    }
}

/// For whoever sends another content type than `text/plain`.
pub async fn preflight(headers: HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    allow_origin(&mut response, headers.get(header::ORIGIN).cloned());
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    response.headers_mut().insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

async fn read_body(request: Request) -> Result<Bytes, Reason> {
    let body = Limited::new(request.into_body(), MESSAGE_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_MAX, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(Reason::FrameTooLarge),
        Ok(Err(_)) | Err(_) => Err(Reason::Unavailable), // cut off, or too slow: nobody is there to read the answer
    }
}

fn refuse(door: &Door, refusal: &Refusal, origin: Option<HeaderValue>) -> Response {
    door.metrics.refused(refusal.reason);
    let status = match refusal.reason {
        Reason::UnknownSite => StatusCode::NOT_FOUND,
        Reason::WrongOrigin | Reason::WrongKey => StatusCode::FORBIDDEN,
        Reason::FrameTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Reason::SidExpired | Reason::SidInFuture => StatusCode::CONFLICT,
        _ => StatusCode::BAD_REQUEST,
    };
    answer(status, &refusal.to_frame(door.ingest.clock.now_ms()), origin)
}

fn answer(status: StatusCode, frame: &ServerFrame, origin: Option<HeaderValue>) -> Response {
    let mut response = (status, frame.encode_to_vec()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    allow_origin(&mut response, origin);
    response
}

/// Any page may read its own answer: what it may send is decided by site and origin, and the answer holds nothing else.
fn allow_origin(response: &mut Response, origin: Option<HeaderValue>) {
    if let Some(origin) = origin {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    }
}
