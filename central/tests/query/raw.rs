//! Reports that only raw events can answer.

use central::query::QueryError;
use serde_json::{Value, json};

use super::site::{Site, seconds};
use super::world::{World, event};

/// Three visitors: 1 from Google reads the blog and signs up, 2 from Google only looks, 3 from Bing signs up twice.
async fn world(name: &str) -> Site {
    let site = Site::new(name, "UTC").await;
    let at = |time: &str| seconds(&format!("2026-11-22T{time}Z")) * 1000;
    let mut world = World::new(&site);
    let view = |time: &str, path: &str| event(at(time), "pageview", path, &[]);
    let signup = |time: &str, path: &str, plan: &str| event(at(time), "Signup", path, &[("plan", plan), ("x", "y")]);
    let first = vec![view("10:00:00", "/blog/a"), view("10:01:00", "/pricing"), signup("10:02:00", "/pricing", "pro")];
    world.batch((1, 1), at("10:02:00"), "Google", first, vec![]);
    world.batch((2, 1), at("11:00:00"), "Google", vec![view("11:00:00", "/pricing")], vec![]);
    let third = vec![view("12:00:00", "/"), signup("12:00:10", "/", "free"), signup("12:00:30", "/pricing", "pro")];
    world.batch((3, 1), at("12:00:30"), "Bing", third, vec![]);
    world.land(&site).await;
    site
}

fn ask(metrics: &[&str], dimensions: Value, filters: Value) -> Value {
    json!({"metrics": metrics, "date_range": "day", "dimensions": dimensions, "filters": filters})
}

#[tokio::test]
async fn what_events_and_visits_know_is_crossed() {
    let site = world("raw-crossed.example").await;
    let source = json!([["is", "visit:source", ["Google"]]]);
    let metrics = ["visitors", "visits", "pageviews", "events"];
    let rows = site.rows(ask(&metrics, json!(["event:page"]), source.clone())).await;
    assert_eq!(rows, [json!(["/pricing", 2, 2, 2, 3]), json!(["/blog/a", 1, 1, 1, 1])]);
    let rows = site.rows(ask(&metrics, json!(["visit:source"]), json!([["is", "event:name", ["Signup"]]]))).await;
    assert_eq!(rows, [json!(["Bing", 1, 1, 0, 2]), json!(["Google", 1, 1, 0, 1])]);
    let both = json!(["event:page", "visit:source"]);
    let rows = site.rows(ask(&["pageviews"], both, json!([["contains", "event:page", ["pri"]]]))).await;
    assert_eq!(rows, [json!(["/pricing", "Google", 2])], "Bing's visitor signed up there and never viewed it");
    let either = json!([["or", [["is", "event:page", ["/blog/a"]], ["is", "visit:source", ["Bing"]]]]]);
    assert_eq!(site.rows(ask(&metrics, json!([]), either)).await, [json!([2, 2, 2, 4])]);
    let hosts = site.rows(ask(&["visitors"], json!(["event:hostname"]), json!([]))).await;
    assert_eq!(hosts, [json!(["shop.example", 3]), json!(["blog.example", 1])]);
    let hours = site.rows(ask(&["visitors"], json!(["time:hour"]), source)).await;
    assert_eq!(hours, [json!(["2026-11-22 10:00:00", 1]), json!(["2026-11-22 11:00:00", 1])]);
}

#[tokio::test]
async fn properties_group_and_filter() {
    let site = world("raw-props.example").await;
    let signup = json!([["is", "event:name", ["Signup"]]]);
    let rows = site.rows(ask(&["events", "visitors"], json!(["event:props:plan"]), signup)).await;
    assert_eq!(rows, [json!(["pro", 2, 2]), json!(["free", 1, 1])]);
    let rows = site.rows(ask(&["events"], json!(["event:props:plan"]), json!([]))).await;
    assert_eq!(rows, [json!(["(none)", 4]), json!(["pro", 2]), json!(["free", 1])]);
    let pro = json!([["is", "event:props:plan", ["pro"]]]);
    assert_eq!(
        site.rows(ask(&["events"], json!(["visit:source"]), pro)).await,
        [json!(["Bing", 1]), json!(["Google", 1])]
    );
    let none = json!([["is", "event:props:plan", ["(none)"]], ["is", "event:props:it's\n\"{p0:String}", ["(none)"]]]);
    assert_eq!(site.rows(ask(&["events"], json!([]), none)).await, [json!([4])]);
    let matching = json!([["matches", "event:props:plan", ["^P"], {"case_sensitive": false}]]);
    assert_eq!(site.rows(ask(&["events"], json!([]), matching)).await, [json!([2])]);
}

#[tokio::test]
async fn events_choose_visits() {
    let site = world("raw-visits.example").await;
    let metrics = ["visits", "bounce_rate", "visit_duration", "views_per_visit"];
    let on = |page: &str| json!([["is", "event:page", [page]]]);
    let answer = site.ask(ask(&metrics, json!([]), on("/pricing"))).await;
    assert_eq!(answer["results"], json!([{"dimensions": [], "metrics": [3, 33, 50, 1.33]}]));
    assert_eq!(answer["meta"]["source"], "raw");
    // By page these are of the visits that began there: no raw events needed.
    let answer = site.ask(ask(&["bounce_rate", "visit_duration"], json!(["event:page"]), json!([]))).await;
    assert_eq!(answer["meta"]["source"], "visits");
    let rows = site.rows(ask(&["bounce_rate", "visit_duration"], json!(["event:page"]), json!([]))).await;
    assert_eq!(rows, [json!(["/pricing", 100, 0]), json!(["/", 0, 30]), json!(["/blog/a", 0, 120])]);
    let rows = site.rows(ask(&["pageviews", "bounce_rate"], json!(["event:page"]), on("/pricing"))).await;
    assert_eq!(rows, [json!(["/pricing", 2, 100])]);
    // Both filters must be true of one event.
    let signed_up_there = json!([["is", "event:page", ["/"]], ["is", "event:name", ["Signup"]]]);
    assert_eq!(site.rows(ask(&["visit_duration"], json!([]), signed_up_there)).await, [json!([30])]);
    let error = site.try_ask(ask(&["bounce_rate"], json!(["event:name"]), json!([]))).await.unwrap_err();
    assert!(matches!(&error, QueryError::Invalid(message) if message.contains("a visit has many events")), "{error}");
}

#[tokio::test]
async fn what_was_done_in_a_visit_chooses_it() {
    let site = world("raw-done.example").await;
    let done = |what: &str, name: &str| json!([[what, ["is", "event:name", [name]]]]);
    let metrics = ["visitors", "pageviews", "bounce_rate"];
    assert_eq!(site.rows(ask(&metrics, json!([]), done("has_done", "Signup"))).await, [json!([2, 3, 0])]);
    assert_eq!(site.rows(ask(&metrics, json!([]), done("has_not_done", "Signup"))).await, [json!([1, 1, 100])]);
    let answer = site.ask(ask(&["visits"], json!([]), done("has_not_done", "Signup"))).await;
    assert_eq!(answer["query"]["filters"], done("has_not_done", "Signup"));
}

#[tokio::test]
async fn a_percentage_is_of_the_visitors_without_dimensions() {
    let site = world("raw-percentage.example").await;
    let rows = site.rows(ask(&["visitors", "percentage"], json!(["visit:source"]), json!([]))).await;
    assert_eq!(rows, [json!(["Google", 2, 66.7]), json!(["Bing", 1, 33.3])]);
    let signup = json!([["is", "event:name", ["Signup"]]]);
    let rows = site.rows(ask(&["percentage"], json!(["visit:source"]), signup)).await;
    assert_eq!(rows, [json!(["Bing", 50]), json!(["Google", 50])]);
    let nobody = json!([["is", "visit:source", ["nowhere"]]]);
    assert_eq!(site.rows(ask(&["percentage"], json!([]), nobody)).await, [json!([null])]);
}

#[tokio::test]
async fn an_answer_says_how_whole_its_raw_events_are() {
    let site = Site::new("raw-fresh.example", "UTC").await;
    let at_ms = seconds("2026-11-22T10:00:00Z") * 1000;
    let mut world = World::new(&site);
    for seq in 1..=3 {
        world.batch((1, seq), at_ms, "Google", vec![event(at_ms, "pageview", "/", &[])], vec![]);
    }
    world.land_flush(&site).await;
    let body = ask(&["pageviews"], json!(["event:hostname"]), json!([]));
    for (rows, complete) in [(0..2, false), (2..3, true)] {
        world.land_raw(&site, world.raw[rows.clone()].to_vec()).await;
        let answer = site.ask(body.clone()).await;
        let expected =
            json!({"complete": complete, "events": rows.end, "counted": 3, "newest": "2026-11-22T10:00:00Z"});
        assert_eq!(answer["meta"]["raw"], expected);
    }
}
