//! Who asks: a program with a key, or a person with a session that a one-time link opened.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Query, State},
    response::{Html, IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{Dashboard, Problem};
use crate::{
    control::access::{Principal, SESSION_LIFETIME},
    secret::{Secret, SecretHash},
};

const COOKIE: &str = "tideline_session";

/// The name of whoever holds the key in `api_key_file`, and of those whom its holder signs in.
const OWNER: &str = "owner";

/// Someone recognised, by key or by session.
pub struct Caller(pub Principal);

/// Someone recognised by a key: a program, which no other page can speak for.
pub struct KeyHolder(pub Principal);

impl FromRequestParts<Arc<Dashboard>> for KeyHolder {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, dashboard: &Arc<Dashboard>) -> Result<Self, Problem> {
        let Some(key) = bearer(&parts.headers) else {
            return Err(unauthorized("an API key is needed: send the header Authorization: Bearer KEY"));
        };
        key_holder(dashboard, &key).await.map(Self)
    }
}

impl FromRequestParts<Arc<Dashboard>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, dashboard: &Arc<Dashboard>) -> Result<Self, Problem> {
        if let Some(key) = bearer(&parts.headers) {
            return key_holder(dashboard, &key).await.map(Self);
        }
        let Some(session) = session(&parts.headers) else {
            return Err(unauthorized("sign in, or send the header Authorization: Bearer KEY"));
        };
        if parts.method != Method::GET && from_elsewhere(&parts.headers) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "a page of another origin cannot use this session"));
        }
        match dashboard.control.session_holder(&session, Timestamp::now()).await? {
            Some(principal) => Ok(Self(principal)),
            None => Err(unauthorized("the session is over; sign in again with a new link")),
        }
    }
}

async fn key_holder(dashboard: &Dashboard, key: &SecretHash) -> Result<Principal, Problem> {
    if dashboard.api_key.is_some_and(|all| all.matches(key)) {
        return Ok(Principal { name: OWNER.to_owned(), site: None });
    }
    match dashboard.control.key_holder(key).await? {
        Some(principal) => Ok(principal),
        None => Err(unauthorized("this API key is not known here")),
    }
}

fn unauthorized(message: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, message)
}

fn bearer(headers: &HeaderMap) -> Option<SecretHash> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| SecretHash::of(key.trim()))
}

fn session(headers: &HeaderMap) -> Option<SecretHash> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| SecretHash::of(value))
}

/// Browsers say where a request comes from. SameSite does not tell ports apart, so a page on another port of this host
/// would pass as ours without this. They say `Sec-Fetch-Site` only to https and this machine; to others `Origin` has to do.
fn from_elsewhere(headers: &HeaderMap) -> bool {
    match (headers.get("sec-fetch-site"), headers.get(header::ORIGIN)) {
        (Some(site), _) => !matches!(site.as_bytes(), b"same-origin" | b"none"),
        (None, Some(origin)) => !is_origin_of(origin, headers.get(header::HOST)),
        (None, None) => false,
    }
}

/// Whether host and port are those of the request. The scheme is not compared: behind a proxy only the browser knows it.
fn is_origin_of(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let parsed = || {
        let origin = Url::parse(origin.to_str().ok()?).ok()?; // `null` is no URL
        let asked = Url::parse(&format!("{}://{}", origin.scheme(), host?.to_str().ok()?)).ok()?;
        Some((origin, asked))
    };
    parsed().is_some_and(|(origin, asked)| {
        origin.has_host()
            && origin.host() == asked.host()
            && origin.port_or_known_default() == asked.port_or_known_default()
    })
}

/// Turns away a key of one site, which cannot do what is for all of them.
pub(super) fn of_all_sites(principal: &Principal, what: &str) -> Result<(), Problem> {
    match principal.sees_all() {
        true => Ok(()),
        false => {
            let message = format!("a key of one site cannot {what}; use a key of all sites");
            Err(Problem::new(StatusCode::FORBIDDEN, message))
        }
    }
}

/// `POST /api/v2/sign-in-links`
pub async fn create_link(
    State(dashboard): State<Arc<Dashboard>>,
    KeyHolder(principal): KeyHolder,
) -> Result<Json<Value>, Problem> {
    of_all_sites(&principal, "sign anyone in")?;
    let (token, expires) = dashboard.control.create_link(&principal.name, Timestamp::now()).await?;
    let url = format!("{}/sign-in?token={}", dashboard.public_url, token.reveal());
    Ok(Json(json!({ "url": url, "expires_at": expires.to_string() })))
}

/// Of [`sign_in`].
#[derive(Deserialize)]
pub struct SignIn {
    #[serde(default)]
    token: String,
}

/// `GET /sign-in?token=…`
pub async fn sign_in(
    State(dashboard): State<Arc<Dashboard>>,
    Query(SignIn { token }): Query<SignIn>,
) -> Result<Response, Problem> {
    match dashboard.control.sign_in(&SecretHash::of(&token), Timestamp::now()).await? {
        Some(session) => {
            let cookie = cookie(&session, &dashboard.public_url);
            Ok((StatusCode::SEE_OTHER, [(header::SET_COOKIE, cookie), (header::LOCATION, root())]).into_response())
        }
        None => Ok((StatusCode::UNAUTHORIZED, Html(LINK_IS_OVER)).into_response()),
    }
}

const LINK_IS_OVER: &str = "<!doctype html><meta charset=utf-8><title>Tideline</title>\
     <p>This sign-in link was used before or has expired. Each link signs in once: ask for a new one.</p>";

/// `POST /sign-out`
pub async fn sign_out(State(dashboard): State<Arc<Dashboard>>, headers: HeaderMap) -> Result<Response, Problem> {
    if from_elsewhere(&headers) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "a page of another origin cannot end this session"));
    }
    if let Some(session) = session(&headers) {
        dashboard.control.sign_out(&session).await?;
    }
    let forget = HeaderValue::from_static("tideline_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, forget)]).into_response())
}

/// `GET /api/v2/me`
pub async fn me(Caller(principal): Caller) -> Json<Value> {
    Json(json!({ "name": principal.name }))
}

/// Lax, not Strict: someone who follows a link from their mail should find themselves signed in. No other page can post
/// with it either way.
fn cookie(session: &Secret, public_url: &str) -> HeaderValue {
    let secure = if public_url.starts_with("https://") { "; Secure" } else { "" };
    let (value, age) = (session.reveal(), SESSION_LIFETIME.as_secs());
    HeaderValue::from_str(&format!("{COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}"))
        .expect("a secret is made of characters that a header may hold")
}

fn root() -> HeaderValue {
    HeaderValue::from_static("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn the_session_is_found_among_other_cookies() {
        let found = session(&headers("cookie", "a=b; tideline_session=abc; c=d")).unwrap();
        assert!(found.matches(&SecretHash::of("abc")));
        assert!(session(&headers("cookie", "xtideline_session=abc")).is_none());
    }

    #[test]
    fn a_key_comes_as_bearer_alone() {
        assert!(bearer(&headers("authorization", "bearer abc")).unwrap().matches(&SecretHash::of("abc")));
        assert!(bearer(&headers("authorization", "Basic abc")).is_none());
        assert!(bearer(&headers("authorization", "abc")).is_none());
    }

    #[test]
    fn the_cookie_is_secure_where_the_dashboard_is() {
        let session = Secret::random();
        let text = |url| cookie(&session, url).to_str().unwrap().to_owned();
        assert!(text("https://stats.example").ends_with("HttpOnly; SameSite=Lax; Secure"));
        assert!(text("http://127.0.0.1:8000").ends_with("HttpOnly; SameSite=Lax"));
    }

    #[test]
    fn a_page_on_another_port_is_elsewhere() {
        assert!(from_elsewhere(&headers("sec-fetch-site", "same-site")));
        assert!(from_elsewhere(&headers("sec-fetch-site", "cross-site")));
        assert!(!from_elsewhere(&headers("sec-fetch-site", "same-origin")));
        assert!(!from_elsewhere(&HeaderMap::new()));
    }

    #[test]
    fn where_browsers_keep_sec_fetch_site_to_themselves_the_origin_is_the_host() {
        let elsewhere = |origin: &str, host: &str| {
            let mut headers = headers("origin", origin);
            headers.insert(header::HOST, host.parse().unwrap());
            from_elsewhere(&headers)
        };
        assert!(!elsewhere("http://stats.internal:8000", "stats.internal:8000"));
        assert!(!elsewhere("http://stats.internal", "stats.internal:80"));
        assert!(!elsewhere("https://stats.internal", "stats.internal"));
        assert!(!elsewhere("http://[::1]:8000", "[::1]:8000"));
        assert!(elsewhere("http://stats.internal:8090", "stats.internal:8000"));
        assert!(elsewhere("http://stats.internal", "stats.internal:8000"));
        assert!(elsewhere("http://evil.example:8000", "stats.internal:8000"));
        assert!(elsewhere("null", "stats.internal:8000"));
        assert!(elsewhere("null", "null"));
        assert!(from_elsewhere(&headers("origin", "http://stats.internal")), "no host to compare with");
    }

    #[test]
    fn what_a_browser_says_of_itself_wins_over_a_host_that_a_proxy_changed() {
        let mut headers = headers("origin", "https://stats.example");
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:8000"));
        headers.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        assert!(!from_elsewhere(&headers));
    }
}
