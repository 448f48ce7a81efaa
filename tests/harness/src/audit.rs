//! Whether central counts exactly what the pages sent, in sums and batch by batch.

mod listed;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::SITE;
use crate::load::Sent;
use crate::region::Region;

/// Behind a restart of everything: the replay, a cut, the way up.
pub const COUNT_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// What is counted twice is often counted late: counts that are right must stay so for as many cuts.
const CUTS_MORE: u32 = 3;

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
    /// What became of everything that was sent.
    pub ledger: Ledger,
}

/// The site's ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Events in all.
    pub sent: u64,
    /// Events counted.
    pub counted: u64,
    /// Events dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Events that agents gave up.
    pub given_up: u64,
}

/// Counts that are right, and what else the ledger knows.
#[derive(Debug, Clone, Default)]
pub struct Audited {
    /// Events counted.
    pub counted: u64,
    /// Events dropped.
    pub dropped: u64,
    /// Transmissions of a batch that Redis had counted before.
    pub duplicates: u64,
    /// Until the counts were right.
    pub after: Duration,
}

/// Waits until central counts exactly this, and for a few cuts more. Then each batch must be listed once with its events and no
/// other batch at all, all that central keeps must tell one story, and every process must run.
pub async fn exactly(region: &Region, sent: &Sent) -> Result<Audited, String> {
    let wanted = wanted(sent);
    if let Some(refusal) = sent.refusals.first() {
        return Err(format!("{} batches were refused, the first: {refusal}", sent.refusals.len()));
    }
    let stays = region.cut_interval() * CUTS_MORE;
    let asked = Instant::now();
    let mut right: Option<Duration> = None;
    loop {
        match counted(region).await {
            Some(found) if found == wanted => {
                let since = *right.get_or_insert_with(|| asked.elapsed());
                if asked.elapsed() - since >= stays {
                    break;
                }
            }
            Some(found) if right.is_some() => return Err(wrong("went on after it was right", &wanted, &found, region)),
            found if asked.elapsed() > COUNT_MAX + stays => {
                return Err(match found {
                    Some(found) => wrong("is wrong", &wanted, &found, region),
                    None => format!("central does not answer\n{}", region.words()),
                });
            }
            _ => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    listed::each_once(region, sent).await?;
    one_story(region)?;
    region.is_whole()?;
    let ledger = ask_ledger(region).await.ok_or("central does not answer any more")?;
    let duplicates = number(&ledger, "duplicates");
    Ok(Audited { counted: wanted.events, dropped: sent.dropped(), duplicates, after: right.unwrap_or_default() })
}

fn wanted(sent: &Sent) -> Counted {
    let ledger = Ledger { sent: sent.events(), counted: sent.counted(), dropped: sent.invalid.clone(), given_up: 0 };
    Counted {
        pageviews: sent.pageviews(),
        events: sent.counted(),
        visits: sent.visitors,
        visitors: sent.visitors,
        pages: sent.pages.clone(),
        ledger,
    }
}

/// `tideline audit`: rollups, visits, ledger and raw rows agree, to the last batch.
fn one_story(region: &Region) -> Result<(), String> {
    let (code, said) = region.tideline(&["audit", "--site", SITE, "--wait", "60"]);
    let clean = code == Some(0) && said.lines().any(|line| line == "difference 0");
    if clean { Ok(()) } else { Err(format!("tideline audit, exit code {code:?}: {said}\n{}", region.words())) }
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
        let (path, views) = (text(&row["dimensions"], 0), number(&row["metrics"], 0));
        (views > 0).then_some((path, views))
    };
    let pages = list(&by_page, "results").iter().filter_map(row).collect();
    let ledger = ask_ledger(region).await?;
    let reasons = list(&ledger["dropped"], "reasons");
    let ledger = Ledger {
        sent: number(&ledger, "sent"),
        counted: number(&ledger, "counted"),
        dropped: reasons.iter().map(|row| (text(row, "reason"), number(row, "events"))).collect(),
        given_up: number(&ledger["given_up"], "events"),
    };
    Some(Counted { pageviews, events, visits, visitors, pages, ledger })
}

async fn ask_ledger(region: &Region) -> Option<Value> {
    region.ask(&format!("ledger?site_id={SITE}"), None).await
}

/// Before anything is counted there is no row, or one of nulls. A metric that is not in the answer at all is no nought.
async fn metrics<const N: usize>(region: &Region, metrics: [&str; N]) -> Option<[u64; N]> {
    let body = json!({ "site_id": SITE, "metrics": metrics.as_slice(), "date_range": "all" });
    let answer = region.ask("query", Some(&body)).await?;
    let Some(row) = list(&answer, "results").first() else { return Some([0; N]) };
    let found = list(row, "metrics");
    assert_eq!(found.len(), N, "central answered {answer} to a question for {metrics:?}");
    Some(std::array::from_fn(|at| if found[at].is_null() { 0 } else { number(&row["metrics"], at) }))
}

fn number(of: &Value, at: impl serde_json::value::Index + std::fmt::Debug) -> u64 {
    of.get(&at).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number at {at:?} of {of}"))
}

fn text(of: &Value, at: impl serde_json::value::Index + std::fmt::Debug) -> String {
    of.get(&at).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {at:?} of {of}")).to_owned()
}

fn list<'a>(of: &'a Value, at: &str) -> &'a [Value] {
    of.get(at).and_then(Value::as_array).unwrap_or_else(|| panic!("no list at {at:?} of {of}"))
}

fn wrong(how: &str, wanted: &Counted, found: &Counted, region: &Region) -> String {
    format!("what central counts {how}: {}\n{}", difference(wanted, found), region.words())
}

/// The sums, and the first pages that differ.
fn difference(wanted: &Counted, found: &Counted) -> String {
    let Counted { pageviews, events, visits, visitors, ledger, .. } = found;
    let mut text = format!(
        "pageviews {pageviews} of {}, events {events} of {}, visits {visits} of {}, visitors {visitors} of {}, \
         {ledger:?} instead of {:?}",
        wanted.pageviews, wanted.events, wanted.visits, wanted.visitors, wanted.ledger
    );
    let pages = wanted.pages.keys().chain(found.pages.keys()).collect::<BTreeSet<_>>();
    let views = |counts: &Counted, page: &String| counts.pages.get(page).copied().unwrap_or(0);
    let differing = pages.into_iter().filter(|page| views(wanted, page) != views(found, page)).take(5);
    for page in differing {
        text += &format!("; {page} {} of {}", views(found, page), views(wanted, page));
    }
    text
}
