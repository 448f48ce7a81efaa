//! Days, hours and periods in the site's timezone.

use jiff::Timestamp;
use proto::uplink::{FlushRows, Kind};
use serde_json::{Value, json};

use crate::site::Site;

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
