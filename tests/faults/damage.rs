//! A log that is not what was written: what a crash leaves is cut off, anything else is refused loudly.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use harness::audit;
use harness::load::{Load, Plan, Sent};
use harness::page::{Page, now_ms, one_by_one, pageviews, sid};
use harness::region::{Region, Role};
use harness::strace::Death;
use proto::agent::Batch;

const END_MAX: Duration = Duration::from_secs(30);
const MORE_MAX: Duration = Duration::from_secs(60);
const HEADER_BYTES: usize = 64;
/// The unit in which a disk loses what was written.
const PAGE_BYTES: usize = 4096;

/// The newest segment of the gateway's log, and its bytes.
fn segment(gateway: &Role) -> (PathBuf, Vec<u8>) {
    let path = gateway.newest_segment();
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

/// Where what was written ends: behind it are zeros.
fn end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1
}

/// The gateway dies at the flush of this batch's group, which is then in the file, whole, and nobody was told. Answers where the
/// group begins and ends.
async fn die_with(gateway: &mut Role, region_ready: impl AsyncFnOnce(&Role), batch: &Batch) -> (usize, usize) {
    let begin = end(&segment(gateway).1);
    let death = Death { call: "fdatasync", nth: 1 };
    gateway.process.start_under(&death.wrapper(Some(&segment(gateway).0)));
    region_ready(gateway).await;
    let mut page = Page::open(gateway.listen()).await;
    page.batch(batch).await;
    let status = gateway.process.end_by_itself(END_MAX).await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    (begin, end(&segment(gateway).1))
}

async fn until_ready(gateway: &Role, http: &reqwest::Client) {
    let asked = std::time::Instant::now();
    while gateway.admin(http, "/ready").await.is_none_or(|(status, _)| status != 200) {
        assert!(asked.elapsed() < END_MAX, "{}", gateway.process.last_words(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn send(gateway: &Role, batch: &Batch) {
    let mut page = Page::open(gateway.listen()).await;
    page.batch(batch).await;
    page.acknowledged().await;
}

/// A batch whose group spans several pages of the file.
fn long_batch(stream: proto::sid::Sid, seq: u32) -> Batch {
    let paths: Vec<String> = (0..120).map(|at| format!("/{}{at}", "long".repeat(50))).collect();
    one_by_one(pageviews(stream, seq, now_ms(), &paths.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// What reached the disk of a group that lies from `begin` to `end` in the file.
#[derive(Debug, Clone, Copy)]
enum Torn {
    /// This share of it, from its beginning.
    Behind(f64),
    /// All but its nth page.
    Page(usize),
}

impl Torn {
    fn tear(self, bytes: &mut [u8], begin: usize, end: usize) {
        let lost = match self {
            Self::Behind(share) => begin + ((end - begin) as f64 * share) as usize..end,
            Self::Page(nth) => {
                let first = begin / PAGE_BYTES + nth;
                (first * PAGE_BYTES).max(begin)..((first + 1) * PAGE_BYTES).min(end)
            }
        };
        assert!(self.is_whole() || !lost.is_empty(), "{self:?} of a group from {begin} to {end}");
        bytes[lost].fill(0);
    }

    fn is_whole(self) -> bool {
        matches!(self, Self::Behind(1.0))
    }
}

/// It takes and counts on: batches of pages that are visitors of their own.
async fn some_load(gateway: &Role) -> Sent {
    let load = Load::start(Plan { agents: 4, ..Default::default() }, vec![gateway.listen()]);
    load.more(20, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", gateway.process.last_words(20)));
    load.finish(MORE_MAX).await.unwrap()
}

/// One after the other, with cuts in quick succession: there is much to audit.
async fn region() -> Region {
    let mut region = Region::new(1).await;
    region.aggregator.configure("cut_interval_ms", 300);
    region.start_all().await;
    region
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_a_crash_tore_is_cut_off_and_its_batch_counts_once() {
    let mut region = region().await;
    let http = region.http().clone();
    let (mut sent, mut by_hand) = (Sent::default(), Vec::new());
    // The first case says how many pages a group has; then each of them is lost in turn.
    let mut cases = vec![Torn::Behind(0.0)];
    let mut at = 0;
    while let Some(&torn) = cases.get(at) {
        let gateway = &mut region.gateways[0];
        let stream = sid(now_ms());
        by_hand.extend([pageviews(stream, 1, now_ms(), &["/first"]), long_batch(stream, 2)]);
        let [first, second] = by_hand.last_chunk().unwrap();
        send(gateway, first).await;
        gateway.process.kill();

        let (begin, end) = die_with(gateway, async |gateway| until_ready(gateway, &http).await, second).await;
        assert!(end - begin > 3 * PAGE_BYTES, "the group has {} bytes", end - begin);
        if at == 0 {
            cases.extend([0.001, 0.3, 0.7, 0.999, 1.0].map(Torn::Behind));
            cases.extend((0..end.div_ceil(PAGE_BYTES) - begin / PAGE_BYTES).map(Torn::Page));
        }
        let (path, mut bytes) = segment(gateway);
        torn.tear(&mut bytes, begin, end);
        fs::write(&path, bytes).unwrap();

        gateway.process.start();
        until_ready(gateway, &http).await;
        send(gateway, second).await;
        sent = sent.with(some_load(gateway).await);
        let all = sent.clone().with(Sent::by_hand(&by_hand));
        audit::exactly(&region, &all).await.unwrap_or_else(|why| panic!("{torn:?}: {why}"));
        at += 1;
    }
    assert!(at > 6 + 3, "{at} cases");
}

/// Its record is nearly as large as one may be, its bytes on the way are few.
fn large_record(stream: proto::sid::Sid, seq: u32) -> Batch {
    let path = format!("/{}", "large".repeat(380));
    let mut batch = pageviews(stream, seq, now_ms(), &[&path]);
    batch.events = vec![batch.events[0].clone(); 500];
    one_by_one(batch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_another_format_and_a_missing_segment_are_one_clear_error_each() {
    let mut region = region().await;
    let http = region.http().clone();
    let stream = sid(now_ms());
    let mut by_hand = Vec::new();
    // One batch after the other: a group each. Until there is a segment between the first and the last.
    while segments(&region.gateways[0]).len() < 3 {
        assert!(by_hand.len() < 100, "{:?}", segments(&region.gateways[0]));
        by_hand.push(large_record(stream, by_hand.len() as u32 + 1));
        send(&region.gateways[0], by_hand.last().unwrap()).await;
    }
    let last = pageviews(stream, by_hand.len() as u32 + 1, now_ms(), &["/"]);
    send(&region.gateways[0], &last).await;
    by_hand.push(last);
    let gateway = &mut region.gateways[0];
    gateway.process.kill();
    let (path, whole) = segment(gateway);
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    let wrong = [
        ("is damaged at byte", changed(HEADER_BYTES + 40, whole[HEADER_BYTES + 40] ^ 0x10)),
        ("is damaged at byte", changed(0, b'X')),
        ("is damaged at byte", changed(33, 7)),
        ("was written in format 9", changed(8, 9)),
        ("is damaged at byte", whole[..30].to_vec()),
    ];
    for (says, bytes) in wrong {
        fs::write(&path, bytes).unwrap();
        refuses_to_start(gateway, says).await;
    }
    fs::write(&path, &whole).unwrap();
    let (middle, away) = (&segments(gateway)[1], gateway.data.join("away"));
    fs::rename(middle, &away).unwrap();
    refuses_to_start(gateway, "a segment is missing").await;
    fs::rename(&away, middle).unwrap();

    // As it was, it is as good as ever, and counts nothing again.
    gateway.process.start();
    until_ready(gateway, &http).await;
    let sent = some_load(gateway).await.with(Sent::by_hand(&by_hand));
    audit::exactly(&region, &sent).await.unwrap();
}

/// Every segment of the log, from the oldest on.
fn segments(gateway: &Role) -> Vec<PathBuf> {
    let newest = gateway.newest_segment();
    let files = fs::read_dir(newest.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    segments.sort();
    segments
}

/// It ends at once, with one error that says this and what to do, and without a panic.
async fn refuses_to_start(role: &mut Role, says: &str) {
    let before = role.process.said().len();
    role.process.start();
    let status = role.process.end_by_itself(END_MAX).await;
    let said = role.process.said()[before..].to_owned();
    assert!(!status.success() && status.code().is_some(), "{status}: {said}");
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(says), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
