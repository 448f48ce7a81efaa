//! Reports over the real engine. The tests share a store, each has a site of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use central::query::{QueryError, SiteRef, answer};
use central::store::{Flush, Store, StoreConfig, StoreError};
use jiff::Timestamp;
use proto::uplink::{FlushId, FlushRows, Kind, RollupRow, UniqueRow, VisitDimensions, VisitRow};
use serde_json::{Value, json};
use tokio::sync::Mutex;

const NOW: &str = "2026-11-22T13:30:00Z";

struct Site {
    site: SiteRef,
    store: Arc<Store>,
}

impl Site {
    async fn new(name: &str, timezone: &str) -> Self {
        let site = SiteRef { name: name.to_owned(), timezone: timezone.to_owned() };
        Self { site, store: store().await }
    }

    /// The next flush of all, with these rows.
    async fn accept(&self, rows: FlushRows) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
        let _alone = ONE_AT_A_TIME.lock().await;
        let n = self.store.accepted("test", 0).await.unwrap().next_flush;
        let id = FlushId { region: "test".to_owned(), shard: 0, epoch: 1, n };
        let cut_ms = seconds(NOW) * 1000;
        self.store.accept(Flush { id, term: 1, rows, vector: vec![], watermark_ms: 0, cut_ms }).await.unwrap();
    }

    async fn try_ask(&self, mut body: Value) -> Result<Value, QueryError> {
        body["site_id"] = self.site.name.as_str().into();
        answer(&self.store, &self.site, &body, NOW.parse().unwrap()).await
    }

    async fn ask(&self, body: Value) -> Value {
        self.try_ask(body).await.unwrap()
    }

    /// The results as `[dimensions…, metrics…]`.
    async fn rows(&self, body: Value) -> Vec<Value> {
        let answer = self.ask(body).await;
        let flat = |row: &Value| {
            let both = ["dimensions", "metrics"].map(|part| row[part].as_array().unwrap().clone());
            Value::Array(both.concat())
        };
        answer["results"].as_array().unwrap().iter().map(flat).collect()
    }

    fn rollup(&self, kind: Kind, value: &str, at: &str, pageviews: u64, events: u64) -> RollupRow {
        RollupRow {
            site: self.site.name.clone(),
            kind: kind.into(),
            value: value.to_owned(),
            minute: (seconds(at) / 60) as u32,
            pageviews,
            events,
            engaged_ms: 5,
        }
    }

    fn unique(&self, kind: Kind, value: &str, at: &str, visitors: &[u64]) -> UniqueRow {
        UniqueRow {
            site: self.site.name.clone(),
            kind: kind.into(),
            value: value.to_owned(),
            quarter: (seconds(at) / 900) as u32,
            visitors: visitors.to_vec(),
        }
    }

    fn visit(&self, visitor: u64, at: &str, length_s: u64, pageviews: u32, events: u32) -> VisitRow {
        static SEQ: AtomicU64 = AtomicU64::new(0);
        let start_ms = seconds(at) * 1000;
        let mut sid = vec![0x70; 16];
        sid[..6].copy_from_slice(&start_ms.to_be_bytes()[2..]);
        VisitRow {
            site: self.site.name.clone(),
            sid,
            seq: SEQ.fetch_add(1, Ordering::Relaxed) as u32,
            visitor,
            version: 1,
            start_ms,
            last_ms: start_ms + length_s * 1000,
            pageviews,
            events,
            entry_page: "/in".to_owned(),
            exit_page: "/out".to_owned(),
            dimensions: Some(VisitDimensions::default()),
            ..Default::default()
        }
    }
}

fn from(mut visit: VisitRow, set: impl FnOnce(&mut VisitDimensions)) -> VisitRow {
    set(visit.dimensions.as_mut().unwrap());
    visit
}

fn seconds(at: &str) -> u64 {
    at.parse::<Timestamp>().unwrap().as_second() as u64
}

/// One store for all tests that run at the same time: a process has one open. The last to go closes it.
async fn store() -> Arc<Store> {
    static SHARED: Mutex<Option<Weak<Store>>> = Mutex::const_new(None);
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("query-store");
    let mut shared = SHARED.lock().await;
    match &*shared {
        Some(open) => {
            if let Some(store) = open.upgrade() {
                return store;
            }
        }
        None => drop(std::fs::remove_dir_all(&path)),
    }
    loop {
        match Store::open(StoreConfig { path: path.clone(), ..Default::default() }).await {
            Err(StoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(20)).await, // being closed
            opened => {
                let store = Arc::new(opened.unwrap());
                *shared = Some(Arc::downgrade(&store));
                return store;
            }
        }
    }
}

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
    let filtered = site.rows(ask(json!([]), json!([["contains", "event:page", ["pri"]]]))).await;
    assert_eq!(filtered, [json!([3, 4, 5])]);
    let series = site.rows(ask(json!(["time:hour"]), json!([["is", "event:page", ["/pricing"]]]))).await;
    assert_eq!(series, [json!(["2026-11-22 10:00:00", 2, 3, 4]), json!(["2026-11-22 11:00:00", 2, 1, 1])]);
}

#[tokio::test]
async fn days_and_hours_are_the_sites_own() {
    // A zone, instants one pageview each, a bucket, and what is seen.
    let cases = [
        // +05:45: midnight is 18:15 UTC.
        (
            "Asia/Kathmandu",
            vec!["2026-11-20T18:14:00Z", "2026-11-20T18:15:00Z", "2026-11-21T18:14:00Z"],
            "time:day",
            json!([["2026-11-20", 1], ["2026-11-21", 2]]),
        ),
        (
            "Asia/Kathmandu",
            vec!["2026-11-21T00:14:00Z", "2026-11-21T00:15:00Z"],
            "time:hour",
            json!([["2026-11-21 05:00:00", 1], ["2026-11-21 06:00:00", 1]]),
        ),
        // 25 October 2026 has 25 hours: 02:30 comes twice and is one point.
        (
            "Europe/Berlin",
            vec!["2026-10-24T21:59:00Z", "2026-10-24T22:00:00Z", "2026-10-25T22:59:00Z", "2026-10-25T23:00:00Z"],
            "time:day",
            json!([["2026-10-24", 1], ["2026-10-25", 2], ["2026-10-26", 1]]),
        ),
        (
            "Europe/Berlin",
            vec!["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"],
            "time:hour",
            json!([["2026-10-25 02:00:00", 2], ["2026-10-25 03:00:00", 1]]),
        ),
        (
            "Europe/Berlin",
            vec!["2026-10-25T00:30:00Z", "2026-10-25T00:31:00Z", "2026-10-25T01:30:00Z"],
            "time:minute",
            json!([["2026-10-25 02:30:00", 2], ["2026-10-25 02:31:00", 1]]),
        ),
        // 29 March 2026 has 23: after 01:59 comes 03:00.
        (
            "Europe/Berlin",
            vec!["2026-03-29T00:59:00Z", "2026-03-29T01:00:00Z"],
            "time:hour",
            json!([["2026-03-29 01:00:00", 1], ["2026-03-29 03:00:00", 1]]),
        ),
        // Lord Howe goes forward by half an hour: after 01:59 comes 02:30.
        (
            "Australia/Lord_Howe",
            vec!["2026-10-03T15:29:00Z", "2026-10-03T15:30:00Z", "2026-10-03T16:00:00Z"],
            "time:hour",
            json!([["2026-10-04 01:00:00", 1], ["2026-10-04 02:00:00", 1], ["2026-10-04 03:00:00", 1]]),
        ),
        // Havana's 8 March 2026 starts at 01:00.
        (
            "America/Havana",
            vec!["2026-03-08T04:59:00Z", "2026-03-08T05:00:00Z", "2026-03-09T03:59:00Z", "2026-03-09T04:00:00Z"],
            "time:day",
            json!([["2026-03-07", 1], ["2026-03-08", 2], ["2026-03-09", 1]]),
        ),
        (
            "Europe/Berlin",
            vec!["2026-10-31T22:59:00Z", "2026-10-31T23:00:00Z", "2026-11-02T12:00:00Z"],
            "time:month",
            json!([["2026-10-01", 1], ["2026-11-01", 2]]),
        ),
        (
            "Europe/Berlin",
            vec!["2026-11-15T22:59:00Z", "2026-11-15T23:00:00Z"],
            "time:week",
            json!([["2026-11-14", 1], ["2026-11-16", 1]]), // the period starts on a Saturday,
        ),
    ];
    for (index, (zone, instants, bucket, expected)) in cases.into_iter().enumerate() {
        let site = Site::new(&format!("zone-{index}.example"), zone).await;
        let rollups = instants.iter().map(|at| site.rollup(Kind::Total, "", at, 1, 0)).collect();
        let visits = instants.iter().map(|at| site.visit(1, at, 0, 1, 0)).collect();
        site.accept(FlushRows { rollups, visits, ..Default::default() }).await;
        for metric in ["pageviews", "visits"] {
            let day = |at: &str, add: i64| {
                let day = at.parse::<Timestamp>().unwrap().to_zoned(jiff::tz::TimeZone::UTC).date();
                day.checked_add(jiff::Span::new().days(add)).unwrap().to_string()
            };
            let range = [day(instants[0], -1), day(instants[instants.len() - 1], 1)];
            let body = json!({"metrics": [metric], "date_range": range, "dimensions": [bucket]});
            assert_eq!(Value::Array(site.rows(body).await), expected, "{metric} by {bucket} in {zone}");
        }
    }
}

#[tokio::test]
async fn a_period_is_cut_where_the_sites_day_is() {
    let site = Site::new("cut.example", "Asia/Kathmandu").await;
    let minute = |at| site.rollup(Kind::Total, "", at, 1, 0);
    let rollups = vec![minute("2026-11-21T18:14:00Z"), minute("2026-11-21T18:15:00Z"), minute("2026-10-31T18:14:00Z")];
    site.accept(FlushRows { rollups, ..Default::default() }).await;
    for (range, counted, first) in [
        (json!("day"), 1, "2026-11-22T00:00:00+05:45"),
        (json!("24h"), 2, "2026-11-21T19:15:00+05:45"),
        (json!("7d"), 2, "2026-11-16T00:00:00+05:45"),
        (json!("28d"), 3, "2026-10-26T00:00:00+05:45"),
        (json!("30d"), 3, "2026-10-24T00:00:00+05:45"),
        (json!("month"), 2, "2026-11-01T00:00:00+05:45"),
        (json!("6mo"), 3, "2026-06-01T00:00:00+05:45"),
        (json!("year"), 3, "2026-01-01T00:00:00+05:45"),
        (json!("12mo"), 3, "2025-12-01T00:00:00+05:45"),
        (json!("all"), 3, "2026-10-31T00:00:00+05:45"),
        (json!(["2026-11-21", "2026-11-21"]), 1, "2026-11-21T00:00:00+05:45"),
        (json!(["2026-11-21T18:15:00Z", "2026-11-21T18:15:00Z"]), 1, "2026-11-22T00:00:00+05:45"),
    ] {
        let answer = site.ask(json!({"metrics": ["pageviews"], "date_range": range})).await;
        assert_eq!(answer["results"][0]["metrics"], json!([counted]), "{range}");
        assert_eq!(answer["query"]["date_range"][0], first, "{range}");
    }
}

#[tokio::test]
async fn time_labels_cover_the_whole_period() {
    let site = Site::new("labels.example", "Europe/Berlin").await;
    let labels = async |range: Value, dimension: &str| {
        let include = json!({"time_labels": true, "imports": false});
        let body = json!({"metrics": ["visits"], "date_range": range, "dimensions": [dimension], "include": include});
        let answer = site.ask(body).await;
        let labels = answer["meta"]["time_labels"].as_array().unwrap().clone();
        (labels.len(), labels[0].clone(), labels[labels.len() - 1].clone(), answer["query"]["dimensions"][0].clone())
    };
    let expect = |count, first: &str, last: &str, bucket: &str| (count, json!(first), json!(last), json!(bucket));
    assert_eq!(labels(json!("7d"), "time").await, expect(7, "2026-11-16", "2026-11-22", "time:day"));
    assert_eq!(
        labels(json!(["2026-10-25", "2026-10-25"]), "time").await,
        expect(24, "2026-10-25 00:00:00", "2026-10-25 23:00:00", "time:hour") // 25 hours, of which two have one name
    );
    assert_eq!(labels(json!("day"), "time:minute").await.0, 1440);
    assert_eq!(labels(json!("91d"), "time").await, expect(13, "2026-08-24", "2026-11-16", "time:week"));
    assert_eq!(labels(json!("12mo"), "time").await, expect(51, "2025-12-01", "2026-11-16", "time:week"));
    assert_eq!(labels(json!("12mo"), "time:month").await, expect(12, "2025-12-01", "2026-11-01", "time:month"));
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
    let site = Site::new("raw.example", "UTC").await;
    for (metric, dimensions, filters) in [
        ("visitors", json!(["event:page", "visit:source"]), json!([])),
        ("pageviews", json!(["event:page"]), json!([["is", "visit:country", ["DE"]]])),
        ("pageviews", json!(["visit:device"]), json!([["is", "event:name", ["Signup"]]])),
        ("pageviews", json!(["event:page", "event:name"]), json!([])),
        ("bounce_rate", json!(["event:page"]), json!([])),
        ("visits", json!([]), json!([["is", "event:page", ["/"]]])),
        ("visitors", json!(["event:page", "time:minute"]), json!([])),
        ("visitors", json!(["event:props:color"]), json!([])),
        ("visitors", json!([]), json!([["has_done", ["is", "event:name", ["Signup"]]]])),
    ] {
        let body = json!({"metrics": [metric], "date_range": "7d", "dimensions": dimensions, "filters": filters});
        let error = site.try_ask(body.clone()).await.unwrap_err();
        assert!(matches!(&error, QueryError::NeedsRaw(message) if message.contains("raw events")), "{body}: {error}");
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
        (json!({"filters": [["is", "event:name", ["pageview"]]]}), "metric pageviews"),
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
