//! When a visit ends and the next begins: by event time, whichever gateway the batch comes to.

use crate::instance::{Instance, SITE};
use crate::page::{Page, now_ms, pageviews, sid};

const MINUTE_MS: u64 = 60 * 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_nine_minutes_later_is_the_same_visit_and_thirty_one_another_across_gateways() {
    let instance = Instance::start().await;
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
