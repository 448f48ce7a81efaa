//! Reports over the real engine. The tests share a store, each has a site of its own.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "query/audit.rs"]
mod audit;
#[path = "query/raw.rs"]
mod raw;
#[path = "query/site.rs"]
mod site;
#[path = "query/time.rs"]
mod time;
#[path = "query/world.rs"]
mod world;

use central::query::QueryError;
use proto::uplink::{FlushRows, Kind, VisitDimensions};
use serde_json::{Value, json};

use site::{Site, from, seconds};

#[tokio::test]
async fn headline_figures_come_from_rollups_and_visits() {
    let site = Site::new("headline.example", "UTC").await;
    site.accept(FlushRows {
        rollups: vec![
            site.rollup(Kind::Total, "", "2026-11-22T10:00:00Z", 4, 1),
            site.rollup(Kind::Total, "", "2026-11-21T23:59:00Z", 100, 0),
        ],
        visits: vec![
            site.visit(1, "2026-11-22T10:00:00Z", 60, 3, 1),
            site.visit(1, "2026-11-22T12:00:00Z", 0, 1, 0),
            site.visit(2, "2026-11-22T12:30:00Z", 31, 1, 1),
            site.visit(3, "2026-11-21T23:59:59Z", 31, 100, 1),
        ],
        ..Default::default()
    })
    .await;
    let metrics = ["visitors", "visits", "pageviews", "events", "bounce_rate", "visit_duration", "views_per_visit"]
        .map(Value::from);
    let answer = site.ask(json!({"metrics": metrics, "date_range": "day"})).await;
    assert_eq!(answer["results"], json!([{"dimensions": [], "metrics": [2, 3, 4, 5, 33, 30, 1.67]}]));
    assert_eq!(answer["meta"], json!({"source": "rollups+visits", "exact": true}));
    assert_eq!(answer["query"]["date_range"], json!(["2026-11-22T00:00:00+00:00", "2026-11-22T23:59:59+00:00"]));
    let nothing = site.rows(json!({"metrics": metrics, "date_range": ["2026-01-01", "2026-01-02"]})).await;
    assert_eq!(nothing, [json!([0, 0, 0, 0, 0, 0, 0])]);
    let both = site.rows(json!({"metrics": ["pageviews", "visits"], "date_range": "7d", "dimensions": ["time"]})).await;
    assert_eq!(both, [json!(["2026-11-21", 100, 1]), json!(["2026-11-22", 4, 3])]);
}

#[tokio::test]
async fn every_dimension_of_a_visit_groups_and_filters() {
    let site = Site::new("dimensions.example", "UTC").await;
    let full = VisitDimensions {
        source: "Google".into(),
        referrer: "google.com/search".into(),
        utm_source: "us".into(),
        utm_medium: "um".into(),
        utm_campaign: "uc".into(),
        utm_content: "uo".into(),
        utm_term: "ut".into(),
        country: "DE".into(),
        region: "DE-BE".into(),
        city: "Berlin".into(),
        browser: "Firefox".into(),
        browser_version: "145".into(),
        os: "Linux".into(),
        os_version: "6".into(),
        device: "Desktop".into(),
        screen: "1280x720".into(),
        language: "de".into(),
        channel: "Organic Search".into(),
        hostname: "example.com".into(),
    };
    let mut known = from(site.visit(1, "2026-11-22T10:00:00Z", 10, 2, 0), |of| *of = full);
    (known.entry_page, known.exit_page) = ("/a".into(), "/b".into());
    let mut unknown = site.visit(2, "2026-11-22T10:00:00Z", 10, 1, 0);
    (unknown.entry_page, unknown.exit_page) = ("".into(), "".into());
    site.accept(FlushRows { visits: vec![known, unknown], ..Default::default() }).await;
    let shown = [
        ("source", "Google", "Direct / None"),
        ("channel", "Organic Search", "(not set)"),
        ("referrer", "google.com/search", "Direct / None"),
        ("utm_source", "us", "(not set)"),
        ("utm_medium", "um", "(not set)"),
        ("utm_campaign", "uc", "(not set)"),
        ("utm_content", "uo", "(not set)"),
        ("utm_term", "ut", "(not set)"),
        ("entry_page", "/a", "(not set)"),
        ("exit_page", "/b", "(not set)"),
        ("country", "DE", "(not set)"),
        ("region", "DE-BE", "(not set)"),
        ("city", "Berlin", "(not set)"),
        ("browser", "Firefox", "(not set)"),
        ("browser_version", "145", "(not set)"),
        ("os", "Linux", "(not set)"),
        ("os_version", "6", "(not set)"),
        ("device", "Desktop", "(not set)"),
        ("screen", "1280x720", "(not set)"),
    ];
    for (name, value, empty) in shown {
        let name = format!("visit:{name}");
        let ask = |filters: Value| json!({"metrics": ["pageviews", "visitors"], "date_range": "day", "dimensions": [name], "filters": filters});
        let all = [json!([value, 2, 1]), json!([empty, 1, 1])];
        assert_eq!(site.rows(ask(json!([]))).await, all, "{name}");
        assert_eq!(site.rows(ask(json!([["is", name, [value]]]))).await, all[..1], "{name}");
        assert_eq!(site.rows(ask(json!([["is", name, [empty]]]))).await, all[1..], "{name}");
        assert_eq!(site.rows(ask(json!([["is_not", name, [""]]]))).await, all[..1], "{name}");
    }
    let several = json!(["visit:source", "visit:device", "time:hour"]);
    let several = site.rows(json!({"metrics": ["visits"], "date_range": "day", "dimensions": several})).await;
    let hour = "2026-11-22 10:00:00";
    assert_eq!(several, [json!(["Direct / None", "(not set)", hour, 1]), json!(["Google", "Desktop", hour, 1])]);
}

#[tokio::test]
async fn pages_and_events_come_from_rollups_and_uniques() {
    let site = Site::new("pages.example", "UTC").await;
    let at = "2026-11-22T10:00:00Z";
    site.accept(FlushRows {
        rollups: vec![
            site.rollup(Kind::Total, "", at, 9, 3),
            site.rollup(Kind::Page, "/", at, 5, 0),
            site.rollup(Kind::Page, "/pricing", at, 3, 1),
            site.rollup(Kind::Page, "/pricing", "2026-11-22T11:07:00Z", 1, 0),
            site.rollup(Kind::Page, "/only-scrolled", at, 0, 0),
            site.rollup(Kind::Event, "Signup", at, 0, 3),
        ],
        uniques: vec![
            site.unique(Kind::Page, "/", at, &[1, 2, 3]),
            site.unique(Kind::Page, "/pricing", at, &[1, 2]),
            site.unique(Kind::Page, "/pricing", "2026-11-22T11:07:00Z", &[2, 9]),
            site.unique(Kind::Event, "Signup", at, &[1]),
        ],
        ..Default::default()
    })
    .await;
    let ask = |dimensions: Value, filters: Value| {
        let metrics = ["visitors", "pageviews", "events"];
        json!({"metrics": metrics, "date_range": "day", "dimensions": dimensions, "filters": filters})
    };
    let pages = site.ask(ask(json!(["event:page"]), json!([]))).await;
    assert_eq!(pages["meta"], json!({"source": "rollups+uniques", "exact": false}));
    let pages = site.rows(ask(json!(["event:page"]), json!([]))).await;
    assert_eq!(pages, [json!(["/", 3, 5, 5]), json!(["/pricing", 3, 4, 5])]);
    let names = site.rows(ask(json!(["event:name"]), json!([["is", "event:name", ["Signup", "Other"]]]))).await;
    assert_eq!(names, [json!(["Signup", 1, 0, 3])]);
    // By its name a pageview is an event too.
    let names = site.rows(ask(json!(["event:name"]), json!([]))).await;
    assert_eq!(names, [json!(["pageview", 4, 9, 9]), json!(["Signup", 1, 0, 3])]);
    let names = site.rows(ask(json!(["event:name"]), json!([["is_not", "event:name", ["pageview"]]]))).await;
    assert_eq!(names, [json!(["Signup", 1, 0, 3])]);
    let filtered = site.rows(ask(json!([]), json!([["contains", "event:page", ["pri"]]]))).await;
    assert_eq!(filtered, [json!([3, 4, 5])]);
    let series = site.rows(ask(json!(["time:hour"]), json!([["is", "event:page", ["/pricing"]]]))).await;
    assert_eq!(series, [json!(["2026-11-22 10:00:00", 2, 3, 4]), json!(["2026-11-22 11:00:00", 2, 1, 1])]);
}

#[tokio::test]
async fn filters_combine() {
    let site = Site::new("filters.example", "UTC").await;
    let visit = |visitor, source: &str, country: &str| {
        from(site.visit(visitor, "2026-11-22T10:00:00Z", 0, 1, 0), |of| {
            (of.source, of.country) = (source.to_owned(), country.to_owned());
        })
    };
    let visits = vec![visit(1, "Google", "DE"), visit(2, "Bing", "DE"), visit(4, "google ads", "FR"), visit(8, "", "")];
    site.accept(FlushRows { visits, ..Default::default() }).await;
    let (source, country) = ("visit:source", "visit:country");
    for (filters, visits) in [
        (json!([["is", source, ["Google", "Bing"]]]), 2),
        (json!([["is", source, ["google"]]]), 0),
        (json!([["is", source, ["GOOGLE"], {"case_sensitive": false}]]), 1),
        (json!([["is_not", source, ["Google", "Bing"]]]), 2),
        (json!([["contains", source, ["oogle", "Bing"]]]), 3),
        (json!([["contains_not", source, ["oogle"]]]), 2),
        (json!([["does_not_contain", source, ["oogle"]]]), 2),
        (json!([["contains", source, ["GOOGLE"], {"case_sensitive": false}]]), 2),
        (json!([["matches", source, ["^[GB]\\w+$"]]]), 2),
        (json!([["matches_not", source, ["^G", "^B"]]]), 2),
        (json!([["matches", source, ["^g"], {"case_sensitive": false}]]), 2),
        (json!([["is", source, ["Google"]], ["is", country, ["DE"]]]), 1),
        (json!([["and", [["is", source, ["Google"]], ["is", country, ["FR"]]]]]), 0),
        (json!([["or", [["is", source, ["Bing"]], ["is", country, ["FR"]]]]]), 2),
        (json!([["not", ["or", [["is", source, ["Bing"]], ["is", country, ["FR"]]]]]]), 2),
    ] {
        let body = json!({"metrics": ["visits"], "date_range": "day", "filters": filters});
        assert_eq!(site.rows(body).await, [json!([visits])], "{filters}");
    }
    let bad = json!({"metrics": ["visits"], "date_range": "day", "filters": [["matches", source, ["("]]]});
    let error = site.try_ask(bad).await.unwrap_err();
    assert!(matches!(&error, QueryError::Invalid(message) if message.contains("regular expression")), "{error}");
}

#[tokio::test]
async fn results_are_ordered_and_paged() {
    let site = Site::new("order.example", "UTC").await;
    let page = |path: &str, views| site.rollup(Kind::Page, path, "2026-11-22T10:00:00Z", views, 0);
    let rollups = vec![page("/c", 1), page("/a", 1), page("/b", 1), page("/top", 7), page("/d", 2)];
    site.accept(FlushRows { rollups, ..Default::default() }).await;
    let ask = |extra: Value| {
        let mut body = json!({"metrics": ["pageviews"], "date_range": "day", "dimensions": ["event:page"]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let paths = async |extra: Value| {
        let rows = site.rows(ask(extra)).await;
        rows.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(paths(json!({})).await, "/top /d /a /b /c");
    assert_eq!(paths(json!({"order_by": [["pageviews", "asc"]]})).await, "/a /b /c /d /top");
    assert_eq!(paths(json!({"order_by": [["event:page", "desc"]]})).await, "/top /d /c /b /a");
    assert_eq!(paths(json!({"order_by": [["pageviews", "asc"], ["event:page", "desc"]]})).await, "/c /b /a /d /top");
    assert_eq!(paths(json!({"pagination": {"limit": 2}})).await, "/top /d");
    assert_eq!(paths(json!({"pagination": {"limit": 2, "offset": 2}})).await, "/a /b");
    let past = site.ask(ask(json!({"pagination": {"limit": 2, "offset": 9}, "include": {"total_rows": true}}))).await;
    assert_eq!((&past["results"], &past["meta"]["total_rows"]), (&json!([]), &json!(5)));
}

#[tokio::test]
async fn strings_stay_data() {
    let evil = [
        "\n\n",
        "\n\nDROP TABLE tideline.visits",
        "'; DROP TABLE tideline.visits; --",
        "\\",
        "\\' OR 1 = 1 --",
        "a\tb\r\n\u{0}\u{1}\u{7f}",
        "{p0:String}",
        "\\N",
        "\u{2028} é 漢字 🌊",
    ];
    for (index, text) in evil.iter().enumerate() {
        let site = Site::new(&format!("{text}{index}"), "UTC").await;
        let visit = from(site.visit(1, "2026-11-22T10:00:00Z", 0, 1, 0), |of| of.source = (*text).to_owned());
        let rollup = |kind, value| site.rollup(kind, value, "2026-11-22T10:00:00Z", 1, 0);
        site.accept(FlushRows {
            rollups: vec![rollup(Kind::Total, ""), rollup(Kind::Page, text)],
            visits: vec![visit],
            uniques: vec![site.unique(Kind::Page, text, "2026-11-22T10:00:00Z", &[1])],
            ..Default::default()
        })
        .await;
        for dimension in ["event:page", "visit:source"] {
            let filters = json!([["is", dimension, [text]], ["contains", dimension, [text]]]);
            let metrics = ["visitors", "pageviews"];
            let body = json!({"metrics": metrics, "date_range": "day", "dimensions": [dimension], "filters": filters});
            assert_eq!(site.rows(body).await, [json!([text, 1, 1])], "{text:?} as {dimension}");
        }
        let minutes = site.store.minutes(&site.site.name, 0).await.unwrap();
        assert_eq!(minutes, [((seconds("2026-11-22T10:00:00Z") / 60) as u32, 1, 0)], "{text:?}");
    }
}

#[tokio::test]
async fn what_needs_raw_events_says_so() {
    let with_raw = Site::new("raw.example", "UTC").await;
    let mut without = Site::new("noraw.example", "UTC").await;
    without.site.raw = false;
    for (metric, dimensions, filters) in [
        ("visitors", json!(["event:page", "visit:source"]), json!([])),
        ("pageviews", json!(["event:page"]), json!([["is", "visit:country", ["DE"]]])),
        ("pageviews", json!(["visit:device"]), json!([["is", "event:name", ["Signup"]]])),
        ("pageviews", json!(["event:page", "event:name"]), json!([])),
        ("bounce_rate", json!([]), json!([["is", "event:page", ["/"]]])),
        ("visits", json!([]), json!([["is", "event:page", ["/"]]])),
        ("visitors", json!(["event:page", "time:minute"]), json!([])),
        ("visitors", json!(["event:props:color"]), json!([])),
        ("visitors", json!(["event:hostname"]), json!([])),
        ("visitors", json!([]), json!([["has_done", ["is", "event:name", ["Signup"]]]])),
    ] {
        let body = json!({"metrics": [metric], "date_range": "24h", "dimensions": dimensions, "filters": filters});
        let error = without.try_ask(body.clone()).await.unwrap_err();
        assert!(matches!(&error, QueryError::NeedsRaw(message) if message.contains("raw events")), "{body}: {error}");
        let answer = with_raw.ask(body.clone()).await;
        assert_eq!(answer["meta"]["source"], "raw", "{body}");
        let nothing = json!({"complete": true, "events": 0, "counted": 0, "newest": null});
        assert_eq!(answer["meta"]["raw"], nothing, "{body}");
    }
}

#[tokio::test]
async fn a_wrong_question_is_told_what_would_be_right() {
    let site = Site::new("wrong.example", "UTC").await;
    for (change, told) in [
        (json!({"metric": ["visitors"]}), "metrics"),
        (json!({"metrics": ["visitorz"]}), "views_per_visit"),
        (json!({"metrics": []}), "views_per_visit"),
        (json!({"metrics": ["visits", "visits"]}), "twice"),
        (json!({"dimensions": ["visit:sauce"]}), "visit:source"),
        (json!({"dimensions": ["time:day", "time:hour"]}), "one is allowed"),
        (json!({"dimensions": "time:day"}), "list"),
        (json!({"date_range": "8d"}), "\"7d\""),
        (json!({"date_range": ["2026-02-30", "2026-03-01"]}), "2026-11-22"),
        (json!({"date_range": ["2026-03-02", "2026-03-01"]}), "earlier"),
        (json!({"date_range": ["1802-03-02", "2026-03-01"]}), "1970"),
        (json!({"date_range": ["9999-12-31", "9999-12-31"]}), "2106"),
        (json!({"date_range": "30d", "dimensions": ["time:minute"]}), "time:hour"),
        (json!({"filters": [["is", "visit:source", "Google"]]}), "strings"),
        (json!({"filters": [["is", "visit:source", [1]]]}), "strings"),
        (json!({"filters": [["equals", "visit:source", ["a"]]]}), "contains_not"),
        (json!({"filters": [["is", "time:day", ["2026-11-22"]]]}), "date_range"),
        (json!({"filters": ["is", "visit:source", ["Google"]]}), "[operator, dimension"),
        (json!({"order_by": [["visits", "asc"]]}), "among"),
        (json!({"order_by": [["visitors", "up"]]}), "asc"),
        (json!({"include": {"time_labels": true}}), "time dimension"),
        (json!({"include": {"everything": true}}), "total_rows"),
        (json!({"pagination": {"limit": 0}}), "between 1 and"),
        (json!({"pagination": {"limit": -1}}), "not negative"),
    ] {
        let mut body = json!({"metrics": ["visitors"], "date_range": "7d"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = site.try_ask(body).await.unwrap_err();
        assert!(matches!(&error, QueryError::Invalid(message) if message.contains(told)), "{change}: {error}");
    }
}
