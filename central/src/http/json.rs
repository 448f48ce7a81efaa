//! A body of JSON, and nothing else.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::{BODY_BYTES_MAX, Problem};

/// A body that says it is JSON and is. A page of another origin cannot send that content type without asking first,
/// so a person's session cannot be used from there.
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !says_json(request.headers()) {
            return Err(Problem::invalid("the header Content-Type must be application/json"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Problem::invalid(format!("the body has more than {BODY_BYTES_MAX} bytes"))
            } else {
                Problem::invalid("the body did not arrive whole")
            }
        })?;
        let body = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::invalid(format!("the body is not the JSON that is asked for: {error}")))?;
        Ok(Self(body))
    }
}

fn says_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}
