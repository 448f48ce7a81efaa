//! When a visit ends and the next begins: by event time, whichever gateway the batch comes to.

use std::collections::BTreeMap;

use proto::agent::{Batch, Event};
use proto::sid::Sid;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::instance::{Instance, ORIGIN, SITE};
use crate::page::{CHROME, Page, Visitor, now_ms, pageviews, sid};

const MINUTE_MS: u64 = 60 * 1000;

/// A timezone in which the last hours are all of today: over midnight a visitor is another one.
fn day_around_now() -> &'static str {
    match now_ms() / (60 * MINUTE_MS) % 24 {
        4..20 => "UTC",
        _ => "Etc/GMT-12", // twelve hours ahead
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_nine_minutes_later_is_the_same_visit_and_thirty_one_another_across_gateways() {
    let instance = Instance::start_in(day_around_now()).await;
    let second = instance.second_gateway("").await;
    let (mut here, mut there) = (Page::open(instance.gateway()).await, Page::open(second.address).await);
    let stream = sid(now_ms());
    let began = now_ms() - 61 * MINUTE_MS;

    here.batch(&pageviews(stream, 1, began, &["/first"])).await;
    here.acknowledged().await;
    there.batch(&pageviews(stream, 2, began + 29 * MINUTE_MS, &["/second"])).await;
    there.acknowledged().await;
    instance.expect(&["visits", "pageviews", "visitors"], &[1.0, 2.0, 1.0]).await;

    here.batch(&pageviews(stream, 3, began + (29 + 31) * MINUTE_MS, &["/third"])).await;
    here.acknowledged().await;
    instance.expect(&["visits", "pageviews", "visitors"], &[2.0, 3.0, 1.0]).await;

    let query = serde_json::json!({ "site_id": SITE, "metrics": ["visits"], "date_range": "all", "dimensions": ["visit:entry_page"] });
    let answer = instance.query(query).await;
    let mut entries: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|row| row["dimensions"][0].as_str().unwrap()).collect();
    entries.sort_unstable();
    assert_eq!(entries, ["/first", "/third"]);
}

/// A pageview or custom event as a visitor made it.
#[derive(Clone)]
struct Made {
    at_ms: u64,
    path: &'static str,
    pageview: bool,
}

/// What a visit is, by nothing but the times of a visitor's events.
fn visits_of(mut events: Vec<Made>) -> Vec<Vec<Made>> {
    events.sort_by_key(|event| event.at_ms);
    let mut visits: Vec<Vec<Made>> = Vec::new();
    for event in events {
        match visits.last_mut() {
            Some(visit) if event.at_ms - visit.last().unwrap().at_ms <= 30 * MINUTE_MS => visit.push(event),
            _ => visits.push(vec![event]),
        }
    }
    visits
}

/// Of each visitor the batches, each of a minute at most, as they are sent: every other visitor's in any order, as those that a
/// device kept come beside those of now.
fn batches_of(random: &mut StdRng, began: u64) -> Vec<Vec<Made>> {
    let mut at_ms = began + random.random_range(0..5 * MINUTE_MS);
    let mut batches = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let mut visit = Vec::new();
        for _ in 0..random.random_range(1..4) {
            let mut batch = Vec::new();
            for _ in 0..random.random_range(1..4) {
                let path = ["/", "/a", "/b", "/c"][random.random_range(0..4)];
                batch.push(Made { at_ms, path, pageview: random.random_bool(0.8) });
                at_ms += random.random_range(1_000..20_000);
            }
            visit.push(batch);
            at_ms += random.random_range(MINUTE_MS..4 * MINUTE_MS);
        }
        batches.append(&mut visit);
        at_ms += random.random_range(31 * MINUTE_MS..34 * MINUTE_MS);
    }
    batches.retain(|batch| batch.iter().all(|made| made.at_ms < now_ms()));
    if random.random_bool(0.5) {
        batches.shuffle(random);
    }
    batches
}

fn encoded(stream: Sid, seq: u32, made: &[Made]) -> Batch {
    let mut strings = vec!["pageview".to_owned(), "Click".to_owned()];
    let mut before_ms = made[0].at_ms;
    let events = made.iter().map(|event| {
        strings.push(format!("{ORIGIN}{}", event.path));
        let delta_ms = event.at_ms as i64 - before_ms as i64;
        before_ms = event.at_ms;
        Event { name: if event.pageview { 1 } else { 2 }, delta_ms, url: strings.len() as u32, ..Default::default() }
    });
    let events = events.collect();
    Batch { sid: stream.as_bytes().to_vec(), seq, base_ms: made[0].at_ms, strings, events, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visits_are_what_the_times_of_their_events_say() {
    let seed = now_ms();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let instance = Instance::start_in(day_around_now()).await;
    let mut visits = Vec::new();
    for visitor in 0..12 {
        let user_agent = CHROME.replace("141.0.0.0", &format!("141.0.0.{visitor}"));
        let who = Visitor { user_agent: &user_agent, ..Default::default() };
        let mut page = Page::open_as(instance.gateway(), &who).await;
        let (stream, batches) = (sid(now_ms()), batches_of(&mut random, now_ms() - 110 * MINUTE_MS));
        for (seq, batch) in (1..).zip(&batches) {
            page.batch(&encoded(stream, seq, batch)).await;
            page.acknowledged().await;
        }
        visits.extend(visits_of(batches.into_iter().flatten().collect()));
    }
    let pageviews = |visit: &[Made]| visit.iter().filter(|event| event.pageview).count();
    let bounces = visits.iter().filter(|visit| visit.len() == 1 && pageviews(visit) == 1).count();
    let lengths_ms: u64 = visits.iter().map(|visit| visit.last().unwrap().at_ms - visit[0].at_ms).sum();
    let all: usize = visits.iter().map(|visit| visit.len()).sum();
    instance.expect(&["visits", "events", "visitors"], &[visits.len() as f64, all as f64, 12.0]).await;

    let found = instance.metrics(&["bounce_rate", "visit_duration"]).await;
    let count = visits.len() as f64;
    assert_eq!(found[0], (100.0 * bounces as f64 / count).round());
    // An event's time is corrected by how long its batch was under way.
    let length_s = lengths_ms as f64 / 1000.0 / count;
    assert!((found[1] - length_s).abs() <= 1.0, "{found:?}, not {length_s}");
    for (dimension, at_the_end) in [("visit:entry_page", false), ("visit:exit_page", true)] {
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for visit in &visits {
            let mut views = visit.iter().filter(|event| event.pageview);
            let page = if at_the_end { views.next_back() } else { views.next() };
            *expected.entry(page.map_or("(not set)", |view| view.path).to_owned()).or_default() += 1;
        }
        let body = json!({"site_id": SITE, "metrics": ["visits"], "date_range": "all", "dimensions": [dimension]});
        let answer = instance.query(body).await;
        let row =
            |row: &Value| (row["dimensions"][0].as_str().unwrap().to_owned(), row["metrics"][0].as_u64().unwrap());
        let found: BTreeMap<_, _> = answer["results"].as_array().unwrap().iter().map(row).collect();
        assert_eq!(found, expected, "{dimension}, seed {seed}");
    }
}
