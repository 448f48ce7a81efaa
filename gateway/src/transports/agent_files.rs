//! The agent's files, as pages load them. They are built from `wasm-agent/` and are part of this binary.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../wasm-agent/dist"]
struct Files;

/// The file of this name, for pages of any origin. A page's script tag names no version, so it is asked for again after an
/// hour, and an unchanged file costs no bytes.
pub fn serve(name: &str, request: &HeaderMap) -> Response {
    let Some(file) = Files::get(name) else { return StatusCode::NOT_FOUND.into_response() };
    let tag: String = file.metadata.sha256_hash()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{tag}\"");
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    let known = request.get(header::IF_NONE_MATCH).is_some_and(|it| it.as_bytes() == tag.as_bytes());
    headers.insert(header::ETAG, HeaderValue::try_from(tag).expect("hexadecimal digits"));
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let kind = if name.ends_with(".wasm") { "application/wasm" } else { "text/javascript; charset=utf-8" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    (headers, file.data.into_owned()).into_response()
}
