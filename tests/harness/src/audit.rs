//! Whether central counts exactly what the pages sent.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::SITE;
use crate::load::Sent;
use crate::region::{CUT_MS, Region};

/// Behind a restart of everything: the replay, a cut, the way up.
pub const COUNT_MAX: Duration = Duration::from_secs(60);

/// What central says of the site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Pageviews.
    pub pageviews: u64,
    /// Pageviews and custom events.
    pub events: u64,
    /// Visits.
    pub visits: u64,
    /// Visitors.
    pub visitors: u64,
    /// Pageviews by path.
    pub pages: BTreeMap<String, u64>,
    /// By the ledger: counted and dropped.
    pub ledger: [u64; 2],
}

/// Counts that are right, and what else the ledger knows.
#[derive(Debug, Clone, Default)]
pub struct Audited {
    /// Events counted.
    pub counted: u64,
    /// Transmissions of a batch that Redis had counted before.
    pub duplicates: u64,
    /// Until the counts were right.
    pub after: Duration,
}

/// Waits until central counts exactly this, and for a few cuts more: what is counted twice is often counted late.
pub async fn exactly(region: &Region, sent: &Sent) -> Result<Audited, String> {
    let wanted = Counted {
        pageviews: sent.pageviews(),
        events: sent.events(),
        visits: sent.visitors,
        visitors: sent.visitors,
        pages: sent.pages.clone(),
        ledger: [sent.events(), 0],
    };
    if let Some(refusal) = sent.refusals.first() {
        return Err(format!("{} batches were refused, the first: {refusal}", sent.refusals.len()));
    }
    let asked = Instant::now();
    let mut right: Option<Duration> = None;
    loop {
        match counted(region).await {
            Some(found) if found == wanted => {
                let since = *right.get_or_insert_with(|| asked.elapsed());
                if asked.elapsed() - since >= Duration::from_millis(3 * CUT_MS as u64) {
                    one_story(region)?;
                    let duplicates = ledger(region).await.map_or(0, |ledger| number(&ledger["duplicates"]));
                    return Ok(Audited { counted: found.events, duplicates, after: since });
                }
            }
            found if right.is_some() || asked.elapsed() > COUNT_MAX => {
                let found = found.unwrap_or_default();
                let when = if right.is_some() { "went on after it was right" } else { "is wrong" };
                return Err(format!("what central counts {when}: {}\n{}", difference(&wanted, &found), region.words()));
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// `tideline audit`: rollups, visits, ledger and raw rows agree, to the last batch.
fn one_story(region: &Region) -> Result<(), String> {
    let (code, said) = region.tideline(&["audit", "--site", SITE, "--wait", "60"]);
    if code == Some(0) { Ok(()) } else { Err(format!("tideline audit: {said}\n{}", region.words())) }
}

/// What central says now; `None` while it does not answer.
pub async fn counted(region: &Region) -> Option<Counted> {
    let [pageviews, events] = metrics(region, ["pageviews", "events"]).await?;
    let [visits, visitors] = metrics(region, ["visits", "visitors"]).await?;
    let body = json!({
        "site_id": SITE, "metrics": ["pageviews"], "dimensions": ["event:page"], "date_range": "all",
        "pagination": { "limit": 10_000 },
    });
    let by_page = region.ask("query", Some(&body)).await?;
    let row = |row: &Value| {
        let (path, views) = (row["dimensions"][0].as_str().unwrap(), number(&row["metrics"][0]));
        (views > 0).then(|| (path.to_owned(), views))
    };
    let pages = by_page["results"].as_array().unwrap().iter().filter_map(row).collect();
    let ledger = ledger(region).await?;
    let ledger = [number(&ledger["counted"]), number(&ledger["dropped"]["events"])];
    Some(Counted { pageviews, events, visits, visitors, pages, ledger })
}

async fn ledger(region: &Region) -> Option<Value> {
    region.ask(&format!("ledger?site_id={SITE}"), None).await
}

async fn metrics<const N: usize>(region: &Region, metrics: [&str; N]) -> Option<[u64; N]> {
    let body = json!({ "site_id": SITE, "metrics": metrics.as_slice(), "date_range": "all" });
    let answer = region.ask("query", Some(&body)).await?;
    Some(std::array::from_fn(|at| number(&answer["results"][0]["metrics"][at])))
}

fn number(value: &Value) -> u64 {
    value.as_f64().unwrap_or(0.0) as u64
}

/// The sums, and the first pages that differ.
fn difference(wanted: &Counted, found: &Counted) -> String {
    let Counted { pageviews, events, visits, visitors, ledger, .. } = found;
    let mut text = format!(
        "pageviews {pageviews} of {}, events {events} of {}, visits {visits} of {}, visitors {visitors} of {}, \
         ledger {ledger:?} of {:?}",
        wanted.pageviews, wanted.events, wanted.visits, wanted.visitors, wanted.ledger
    );
    let pages = wanted.pages.keys().chain(found.pages.keys()).collect::<std::collections::BTreeSet<_>>();
    let views = |counts: &Counted, page: &String| counts.pages.get(page).copied().unwrap_or(0);
    let differing = pages.into_iter().filter(|page| views(wanted, page) != views(found, page)).take(5);
    for page in differing {
        text += &format!("; {page} {} of {}", views(found, page), views(wanted, page));
    }
    text
}
