use http::Method;
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use proto::agent::Envelope;
use proto::agent::agent_client::AgentClient;
use tonic::Code;
use tower::ServiceExt;

use super::*;
use crate::door::capacity::WhenRedisIsAway;
use crate::door::waf::Waf;
use crate::metrics::Metrics;
use crate::transports::session::tests::door;

/// The routes behind one rule that hits whatever does not ask to be spared.
fn routes(mode: &str) -> Router {
    let (mut door, _) = door(WhenRedisIsAway::Refuse);
    let rules = tempfile::NamedTempFile::new().unwrap();
    let rule =
        format!("[[rule]]\nname = 'nobody'\nmode = '{mode}'\nheaders = [{{ name = 'x-spared', absent = true }}]\n");
    std::fs::write(rules.path(), rule).unwrap();
    let metrics = Arc::new(Metrics::new(&mut Registry::default()));
    Arc::get_mut(&mut door).unwrap().waf = Arc::new(Waf::try_new(Some(rules.path()), None, metrics).unwrap());
    router(door)
}

fn request(method: Method, path: &str) -> Request {
    http::Request::builder().method(method).uri(path).body(axum::body::Body::empty()).unwrap()
}

fn every_route() -> [Request; 9] {
    [
        request(Method::POST, "/v1/batch"),
        request(Method::OPTIONS, "/v1/batch"),
        request(Method::GET, "/v1/stream"),
        request(Method::CONNECT, "/v1/stream"),
        request(Method::GET, "/tideline.js"),
        request(Method::GET, "/live"),
        request(Method::GET, "/ready"),
        request(Method::GET, "/nowhere/at/all"),
        request(Method::POST, "/tideline.agent.v1.Agent/Send"),
    ]
}

#[tokio::test]
async fn what_a_rule_blocks_gets_no_further_on_any_route() {
    for request in every_route() {
        let asked = format!("{} {}", request.method(), request.uri());
        let response = routes("block").oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{asked}");
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], NO_SNIFFING, "{asked}");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "blocked by rule nobody\n", "{asked}");
    }
    let mut agent = AgentClient::new(routes("block"));
    let status = agent.send(Envelope::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "blocked by rule nobody"));
}

#[tokio::test]
async fn what_no_rule_blocks_is_answered_as_ever() {
    for request in every_route() {
        let asked = format!("{} {}", request.method(), request.uri());
        let response = routes("observe").oneshot(request).await.unwrap();
        assert_ne!(response.status(), StatusCode::FORBIDDEN, "{asked}");
    }
    let mut spared = request(Method::GET, "/live");
    spared.headers_mut().insert("x-spared", HeaderValue::from_static("yes"));
    assert_eq!(routes("block").oneshot(spared).await.unwrap().status(), StatusCode::OK);
}
