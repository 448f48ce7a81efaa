//! The dashboard's and the API's surface over real sockets, with the real engine behind it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "running/central.rs"]
mod running;

use proto::uplink::{GatewayHello, region_frame};
use reqwest::{StatusCode, header};
use running::{GATEWAY, KEY, Running, TOKEN, config, flush, this_minute, totals};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn only_who_is_recognised_gets_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let central = Running::start(folder.path()).await;
    let status = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        assert!(status == 200 || body["error"].is_string(), "{body}");
        status
    };
    for path in [
        "/api/v2/me",
        "/api/v2/sites",
        "/api/v2/live?site_id=shop",
        "/api/v2/ledger?site_id=shop",
        "/api/v2/batches?site_id=shop",
        "/api/v2/sites/shop/keys",
    ] {
        assert_eq!(status(central.http.get(central.url(path))).await, 401, "{path}");
        assert_eq!(status(central.http.get(central.url(path)).bearer_auth("wrong")).await, 401, "{path}");
        let session = central.http.get(central.url(path)).header("cookie", "tideline_session=wrong");
        assert_eq!(status(session).await, 401, "{path}");
    }
    assert_eq!(status(central.http.delete(central.url("/api/v2/sites/shop/keys/a"))).await, 401);
    for path in [
        "/api/v2/query",
        "/api/v2/sites",
        "/api/v2/sites/shop/keys",
        "/api/v2/sign-in-links",
        "/api/v2/gateways/a/retire",
    ] {
        assert_eq!(status(central.http.post(central.url(path)).json(&json!({}))).await, 401, "{path}");
    }
    assert_eq!(central.get("/api/v2/me").await, json!({"name": "owner"}));

    sign_in(&central).await;
    asks_well_or_is_told_why(&central).await;
    sites_are_made_and_listed(&central).await;
    rules_are_taken_kept_and_shown(&central).await;
    what_became_of_everything(&central).await;
    gateways_are_listed_and_retired(&central).await;
    audits(&central).await;
    keys_are_shown_once_and_required(&central).await;
    files_carry_their_headers(&central).await;
    figures_of_its_own(&central).await;

    // While it runs, nobody else can use its folder.
    let second = central::run(config(folder.path()), CancellationToken::new()).await.unwrap_err().to_string();
    assert!(second.contains("another running central"), "{second}");
    central.stop().await;
}

async fn sign_in(central: &Running) {
    let (status, link) = central.post("/api/v2/sign-in-links", json!({})).await;
    assert_eq!(status, 200);
    let url = link["url"].as_str().unwrap();
    assert!(url.starts_with(&central.url("/sign-in?token=")), "{url}");
    link["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();

    let looked_at = central.http.head(url).send().await.unwrap();
    assert_eq!(looked_at.status(), StatusCode::METHOD_NOT_ALLOWED, "looking at a link does not use it");
    let signed_in = central.http.get(url).send().await.unwrap();
    assert_eq!(
        (signed_in.status(), signed_in.headers()[header::LOCATION].to_str().unwrap()),
        (StatusCode::SEE_OTHER, "/")
    );
    let cookie = signed_in.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let again = central.http.get(url).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED, "a link signs in once");

    let session = cookie.split(';').next().unwrap().to_owned();
    let me = || central.http.get(central.url("/api/v2/me")).header(header::COOKIE, &session);
    assert_eq!(me().send().await.unwrap().json::<Value>().await.unwrap(), json!({"name": "owner"}));
    let post = |path| central.http.post(central.url(path)).header(header::COOKIE, &session).json(&json!({}));
    assert_eq!(post("/api/v2/sign-in-links").send().await.unwrap().status(), 401, "links are for programs to make");
    let elsewhere = post("/api/v2/sites").header("sec-fetch-site", "same-site").send().await.unwrap();
    assert_eq!(elsewhere.status(), 403);

    assert_eq!(post("/sign-out").send().await.unwrap().status(), 204);
    assert_eq!(me().send().await.unwrap().status(), 401);
}

async fn asks_well_or_is_told_why(central: &Running) {
    central.put_site("shop").await;
    let answer = async |kind: &str, body: String| {
        let request = central.http.post(central.url("/api/v2/query")).bearer_auth(KEY).header("content-type", kind);
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let question = json!({"site_id": "shop", "metrics": ["pageviews"], "date_range": "day"});
    assert_eq!(answer("application/json; charset=utf-8", question.to_string()).await.0, 200);
    assert_eq!(answer("text/plain", question.to_string()).await.0, 400);
    assert_eq!(answer("application/json", "{".to_owned()).await.0, 400);
    assert_eq!(answer("application/json", "[1]".to_owned()).await.0, 400);
    assert_eq!(answer("application/json", json!({"site_id": 7}).to_string()).await.0, 400);
    let (status, text) = answer("application/json", json!({"site_id": "nowhere"}).to_string()).await;
    assert!(status == 404 && text.contains("nowhere"), "{status} {text}");
    let (status, text) = answer("application/json", format!("\"{}\"", "a".repeat(64 * 1024))).await;
    assert!(status == 400 && text.contains("65536 bytes"), "{status} {text}");
    let (status, text) = answer("application/json", json!({"site_id": "shop", "metrics": ["luck"]}).to_string()).await;
    assert!(status == 400 && text.contains("luck"), "{status} {text}");

    let unknown = central.http.get(central.url("/api/v2/nothing")).send().await.unwrap();
    assert_eq!(
        (unknown.status(), unknown.headers()[header::CONTENT_TYPE].to_str().unwrap()),
        (StatusCode::NOT_FOUND, "application/json")
    );
    assert_eq!(central.http.get(central.url("/api/v2/query")).send().await.unwrap().status(), 405);
}

async fn rules_are_taken_kept_and_shown(central: &Running) {
    let put = async |rules: Value| {
        let body = json!({"site_id": "a.example", "origins": ["https://a.example"], "rules": rules});
        central.post("/api/v2/sites", body).await
    };
    let plan = json!({"type": "text", "values": ["free", "pro"], "bytes_max": 40, "required": true});
    let events = json!({"Signup": {"props": {"plan": plan}}});
    let rules = json!({
        "schema": {"mode": "enforce", "events": events, "other_props": "refuse"}, "personal_data": "drop", "debug": true, "automated": "allow",
    });
    assert_eq!(put(rules.clone()).await.1["rules"], rules);
    let (status, site) =
        central.post("/api/v2/sites", json!({"site_id": "a.example", "origins": ["https://a.example"]})).await;
    assert_eq!((status, &site["rules"]), (200, &rules), "a site keeps its rules while none are named");
    for (wrong, said) in [
        (json!({"personal_data": "hide"}), "`redact`, `allow`, `drop`"),
        (json!({"automated": "hide"}), "`drop` or `allow`"),
        (json!({"schema": {"events": {}}}), "missing field `mode`"),
        (json!({"schema": {"mode": "observe", "events": {"a\u{7}": {}}}}), "no control characters"),
    ] {
        let (status, answer) = put(wrong).await;
        let text = answer["error"].as_str().unwrap();
        assert!(status == 400 && text.contains(said), "{status} {text}");
    }
    assert_eq!(central.get("/api/v2/sites").await["sites"][0]["rules"], rules, "what is refused changes nothing");
    let none = put(json!({})).await.1["rules"].clone();
    assert_eq!(none, json!({"schema": null, "personal_data": "redact", "debug": false, "automated": "drop"}));
}

async fn keys_are_shown_once_and_required(central: &Running) {
    let put = async |required: bool| {
        let body = json!({"site_id": "a/b", "origins": ["https://a.example"], "key_required": required});
        central.post("/api/v2/sites", body).await
    };
    let refused = |(status, answer): (u16, Value), expected: u16, said: &str| {
        let text = answer["error"].as_str().unwrap_or_default().to_owned();
        assert!(status == expected && text.contains(said), "{status} {answer}");
    };
    let path = "/api/v2/sites/a%2Fb/keys"; // a name may have a slash
    let make = async || central.post(path, json!(null)).await;
    let delete = async |id: &str| {
        let answer = central.http.delete(central.url(&format!("{path}/{id}"))).bearer_auth(KEY).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    refused(make().await, 404, "a/b");
    refused(delete("tlk_1").await, 404, "a/b");
    refused(put(true).await, 400, "/api/v2/sites/a%2Fb/keys first");
    assert_eq!(put(false).await.0, 200);
    refused(put(true).await, 400, "key_required needs a key");

    let (status, made) = make().await;
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(status == 200 && key.len() == 47 && key.starts_with("tlk_") && key.starts_with(id), "{made}");
    made["created_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let expected = json!({"keys": [{"id": id, "created_at": made["created_at"]}], "key_required": false});
    assert_eq!(central.get(path).await, expected, "never the key again");
    let (status, site) = put(true).await;
    assert_eq!((status, &site["key_required"]), (200, &json!(true)));
    assert!(site["snippet"].as_str().unwrap().contains(r#" data-key="KEY""#), "{site}");
    let again = json!({"site_id": "a/b", "origins": ["https://a.example"]});
    assert_eq!(central.post("/api/v2/sites", again).await.1["key_required"], true, "kept while it is not named");

    refused(delete(id).await, 409, "only key");
    for _ in 1..4 {
        assert_eq!(make().await.0, 200);
    }
    refused(make().await, 409, "has 4 keys");
    assert_eq!(delete(id).await, (200, json!({"id": id})));
    refused(delete(id).await, 404, id);
    assert_eq!(central.get(path).await["keys"].as_array().unwrap().len(), 3);
}

async fn sites_are_made_and_listed(central: &Running) {
    let put = |body| central.post("/api/v2/sites", body);
    let (status, site) =
        put(json!({"site_id": "a.example", "origins": ["HTTPS://A.example:443"], "timezone": "Asia/Kathmandu"})).await;
    assert_eq!(status, 200);
    let snippet = r#"<script defer src="http://127.0.0.1:8080/tideline.js" data-site="a.example"></script>"#;
    let expected = json!({
        "site_id": "a.example", "timezone": "Asia/Kathmandu", "origins": ["https://a.example"],
        "snippet": snippet, "first_event_at": null, "raw": "central",
        "rules": {"schema": null, "personal_data": "redact", "debug": false, "automated": "drop"},
        "tenant": "",
        "key_required": false,
    });
    assert_eq!(site, expected);
    let with = async |raw: Value| {
        let body = json!({"site_id": "a.example", "origins": ["https://a.example"], "raw": raw});
        put(body).await.1["raw"].clone()
    };
    assert_eq!(
        [with(json!("none")).await, with(json!(null)).await, with(json!("central")).await],
        ["none", "none", "central"]
    );
    let of = async |tenant: Value| {
        let body = json!({"site_id": "a.example", "origins": ["https://a.example"], "tenant": tenant});
        put(body).await.1["tenant"].clone()
    };
    assert_eq!([of(json!("acme")).await, of(json!(null)).await, of(json!("")).await], ["acme", "acme", ""]);
    let wrong = json!({"site_id": "a.example", "origins": ["https://a.example"], "tenant": "a b"});
    let (status, answer) = put(wrong).await;
    assert!(status == 400 && answer["error"].as_str().unwrap().starts_with("tenant \"a b\" must be"), "{answer}");
    let wrong = json!({"site_id": "a.example", "origins": ["https://a.example"], "raw": "regional"});
    assert_eq!(put(wrong).await.0, 400);
    assert_eq!(put(json!({"site_id": "a b", "origins": ["https://a.example"]})).await.0, 400);
    assert_eq!(put(json!({"site_id": "b", "origins": []})).await.0, 400);
    assert_eq!(put(json!({"site_id": "b", "origins": ["https://a.example"], "timezone": "Mars"})).await.0, 400);
    assert_eq!(put(json!({"site_id": "b", "origin": "https://a.example"})).await.0, 400);

    let (mut aggregator, leadership) = central.aggregator().await;
    let minute = this_minute();
    aggregator.flush(flush(1, leadership.term, 0, vec![totals("a.example", minute, 2)])).await;
    let sites = central.get("/api/v2/sites").await;
    let names: Vec<_> =
        sites["sites"].as_array().unwrap().iter().map(|site| site["site_id"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.example", "shop"]);
    let first: jiff::Timestamp = sites["sites"][0]["first_event_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(first.as_second(), i64::from(minute) * 60);

    let question = json!({"site_id": "a.example", "metrics": ["pageviews"], "date_range": "all"});
    let (status, report) = central.post("/api/v2/query", question).await;
    assert_eq!((status, &report["results"][0]["metrics"]), (200, &json!([2])), "{report}");
}

async fn what_became_of_everything(central: &Running) {
    let ledger = central.get("/api/v2/ledger?site_id=shop&from=2026-01-01&to=2026-01-31").await;
    assert_eq!((&ledger["sent"], &ledger["completeness"], &ledger["days"]), (&json!(0), &Value::Null, &json!([])));
    let batches = central.http.get(central.url("/api/v2/batches?site_id=shop")).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(batches.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    assert_eq!(batches.text().await.unwrap(), "");
    for path in ["/api/v2/ledger?site_id=shop&from=today", "/api/v2/batches?site_id=shop&to=2026-01-01"] {
        let wrong = central.http.get(central.url(path)).bearer_auth(KEY).send().await.unwrap();
        assert_eq!(wrong.status(), 400, "{path}");
    }
    let nowhere =
        central.http.get(central.url("/api/v2/ledger?site_id=nowhere")).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(nowhere.status(), 404);
}

async fn gateways_are_listed_and_retired(central: &Running) {
    assert_eq!(central.get("/api/v2/gateways").await, json!({"gateways": []}));
    let mut gateway = central.uplink(TOKEN).await.unwrap();
    let hello = GatewayHello { region: "local".into(), gateway: GATEWAY.into(), entered: true, ..Default::default() };
    gateway.ask(region_frame::Frame::Gateway(hello)).await;
    let listed = central.get("/api/v2/gateways").await["gateways"][0].clone();
    assert_eq!((&listed["id"], &listed["retired_at"]), (&json!(GATEWAY), &Value::Null));
    assert!(listed["entered_at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{listed}");

    // Raw rows of what the flush above covered are on their way, whatever the sums of a site are.
    let question =
        json!({"site_id": "shop", "metrics": ["visitors"], "date_range": "day", "dimensions": ["event:hostname"]});
    let complete = async || central.post("/api/v2/query", question.clone()).await.1["meta"]["raw"]["complete"].clone();
    assert_eq!(complete().await, false);
    let retire = async |id: &str| central.post(&format!("/api/v2/gateways/{id}/retire"), json!({})).await;
    let (status, body) = retire("6b3f0f0e-8f43-4d5e-9d6c-000000000000").await;
    assert!(status == 404 && body["error"].as_str().unwrap().contains("not known"), "{body}");
    let (status, retired) = retire(GATEWAY).await;
    // The flush above covered its records, and no raw row of them came.
    let warning = retired["warnings"][0].as_str().unwrap_or_default();
    assert!(status == 200 && warning.starts_with("records 1 to 100 of shard 0"), "{retired}");
    assert!(central.get("/api/v2/gateways").await["gateways"][0]["retired_at"].is_string());
    assert_eq!(complete().await, true, "nothing waits for a retired gateway");
    let (status, body) = retire(GATEWAY).await;
    assert!(status == 409 && body["error"].as_str().unwrap().contains("before"), "{body}");
}

async fn audits(central: &Running) {
    let audit = central.get("/api/v2/audit?site_id=shop").await;
    assert_eq!(
        (&audit["state"], &audit["difference"], &audit["site_id"]),
        (&json!("clean"), &json!(0), &json!("shop"))
    );
    let body = json!({"site_id": "quiet", "origins": ["https://quiet.example"], "raw": "none"});
    assert_eq!(central.post("/api/v2/sites", body).await.0, 200);
    let audit = central.get("/api/v2/audit?site_id=quiet").await;
    assert_eq!((&audit["state"], &audit["raw_from"]), (&json!("clean"), &Value::Null), "{audit}");
    assert_eq!(audit["checks"].as_array().unwrap().len(), 3, "{audit}");
    let question =
        json!({"site_id": "quiet", "metrics": ["visitors"], "date_range": "day", "dimensions": ["event:hostname"]});
    let (status, refused) = central.post("/api/v2/query", question).await;
    assert!(status == 400 && refused["error"].as_str().unwrap().contains("raw events"), "{refused}");
}

async fn files_carry_their_headers(central: &Running) {
    let page = central.http.get(central.url("/")).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let headers = page.headers().clone();
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!(text("content-type"), "text/html; charset=utf-8");
    assert!(text("content-security-policy").contains("frame-ancestors 'none'"));
    assert_eq!(
        (text("x-content-type-options"), text("referrer-policy")),
        ("nosniff".to_owned(), "no-referrer".to_owned())
    );
    assert_eq!(text("cache-control"), "no-cache");
    let known = central.http.get(central.url("/")).header("if-none-match", text("etag")).send().await.unwrap();
    assert_eq!(known.status(), 304);

    let html = page.text().await.unwrap();
    let script = html.split('"').find(|part| part.contains("assets/") && part.ends_with(".js")).expect("a script");
    let script =
        central.http.get(central.url(&format!("/{}", script.trim_start_matches(['.', '/'])))).send().await.unwrap();
    assert_eq!(script.headers()["cache-control"], "public, max-age=31536000, immutable");
    assert_eq!(central.http.get(central.url("/assets/nothing.js")).send().await.unwrap().status(), 404);
    assert_eq!(central.http.get(central.url("/../Cargo.toml")).send().await.unwrap().status(), 404);
    assert_eq!(central.http.post(central.url("/")).send().await.unwrap().status(), 405);

    let api = central.http.get(central.url("/api/v2/me")).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(api.headers()["cache-control"], "no-store");
}

async fn figures_of_its_own(central: &Running) {
    let text = |socket, path| {
        let url = format!("http://{}{path}", central.address(socket));
        async { central.http.get(url).send().await.unwrap().text().await.unwrap() }
    };
    assert_eq!(text("listen", "/live").await, "live\n");
    assert_eq!(text("listen", "/ready").await, "ready\n");
    let metrics = text("admin", "/metrics").await;
    for line in [
        "tideline_central_flushes_total{result=\"accepted\"} 1",
        "tideline_central_unknown_site_rows_total 0",
        "tideline_central_uplink_streams{peer=\"aggregator\"}",
        "tideline_central_http_requests_total{route=\"/api/v2/me\",status=\"401\"}",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert_eq!(central.http.get(central.url("/metrics")).send().await.unwrap().status(), 404, "for operators alone");
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_one_clear_message() {
    let folder = tempfile::tempdir().unwrap();
    let starting = async |config| central::run(config, CancellationToken::new()).await.unwrap_err().to_string();

    let mut without_token = config(folder.path());
    without_token.uplink_token_file = folder.path().join("missing");
    let message = starting(without_token).await;
    assert!(message.starts_with("uplink_token_file ") && message.contains("missing"), "{message}");

    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut on_taken_port = config(folder.path());
    on_taken_port.uplink = taken.local_addr().unwrap();
    let message = starting(on_taken_port).await;
    assert!(message.starts_with("uplink: cannot listen on 127.0.0.1:"), "{message}");

    let mut without_folder = config(folder.path());
    without_folder.data = folder.path().join("token/data");
    let message = starting(without_folder).await;
    assert!(message.starts_with("data folder ") && message.contains("cannot be written"), "{message}");

    let mut without_library = config(folder.path());
    without_library.clickhouse.libchdb = Some(folder.path().join("libchdb.so"));
    let message = starting(without_library).await;
    assert!(message.contains("libchdb"), "{message}");
}
