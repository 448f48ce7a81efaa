//! A log that is not what was written: what a crash leaves is cut off, anything else is refused loudly.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use harness::page::{Page, now_ms, pageviews, sid};
use harness::region::{Region, Role};
use harness::strace::Death;
use proto::agent::Batch;

const END_MAX: Duration = Duration::from_secs(30);
const HEADER_BYTES: usize = 64;

/// The newest segment of the gateway's log, and its bytes.
fn segment(gateway: &Role) -> (PathBuf, Vec<u8>) {
    let folder = fs::read_dir(&gateway.data).unwrap().map(|entry| entry.unwrap().path());
    let log = folder.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-")).unwrap();
    let files = fs::read_dir(log.join("shard-0")).unwrap().map(|entry| entry.unwrap().path());
    let path = files.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap();
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
    gateway.process.end_by_itself(END_MAX).await;
    (begin, end(&segment(gateway).1))
}

async fn until_ready(gateway: &Role, http: &reqwest::Client) {
    let asked = std::time::Instant::now();
    while gateway.admin(http, "/ready").await.is_none_or(|(status, _)| status != 200) {
        assert!(asked.elapsed() < END_MAX, "{}", gateway.process.last_words(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A batch whose group spans several pages of the file.
fn long_batch(stream: proto::sid::Sid, seq: u32) -> Batch {
    let paths: Vec<String> = (0..120).map(|at| format!("/{}{at}", "long".repeat(50))).collect();
    pageviews(stream, seq, now_ms(), &paths.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_a_crash_tore_is_cut_off_and_its_batch_counts_once() {
    let mut region = Region::start(0).await;
    let http = region.http().clone();
    let (mut expected, mut batches) = (0, 0);
    // Shares of the group that reached the disk; behind 1.0 lies the whole of it, and of the last only a page in its middle is missing.
    let cuts = [Some(0.0), Some(0.001), Some(0.3), Some(0.7), Some(0.999), Some(1.0), None];
    for cut in cuts {
        let gateway = region.add_gateway();
        gateway.process.start();
        until_ready(gateway, &http).await;
        let stream = sid(now_ms());
        let mut page = Page::open(gateway.listen()).await;
        page.batch(&pageviews(stream, 1, now_ms(), &["/first"])).await;
        page.acknowledged().await;
        gateway.process.kill();

        let second = long_batch(stream, 2);
        let (begin, end) = die_with(gateway, async |gateway| until_ready(gateway, &http).await, &second).await;
        assert!(end - begin > 3 * 4096, "the group has {} bytes", end - begin);
        let (path, mut bytes) = segment(gateway);
        match cut {
            Some(share) => bytes[begin + ((end - begin) as f64 * share) as usize..].fill(0),
            None => {
                let page = (begin + 2 * 4096) / 4096 * 4096;
                bytes[page..page + 4096].fill(0);
            }
        }
        fs::write(&path, bytes).unwrap();

        gateway.process.start();
        until_ready(gateway, &http).await;
        let mut page = Page::open(gateway.listen()).await;
        page.batch(&second).await;
        page.acknowledged().await;
        gateway.process.stop(END_MAX).await;
        expected += 1 + second.events.len() as u64;
        batches += 2;
    }
    counted(&region, expected).await;
    assert_eq!(batches, 2 * cuts.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_another_format_and_a_missing_segment_are_one_clear_error_each() {
    let mut region = Region::start(1).await;
    let http = region.http().clone();
    let stream = sid(now_ms());
    for seq in 1..=3 {
        // One batch after the other: a group each.
        let mut page = Page::open(region.gateways[0].listen()).await;
        page.batch(&pageviews(stream, seq, now_ms(), &["/"])).await;
        page.acknowledged().await;
    }
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
    // As it was, it is as good as ever, and counts nothing again.
    fs::write(&path, &whole).unwrap();
    gateway.process.start();
    until_ready(gateway, &http).await;
    counted(&region, 3).await;
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

/// Waits until central counts this, and for what might be counted twice.
async fn counted(region: &Region, pageviews: u64) {
    let asked = std::time::Instant::now();
    let count = async || harness::audit::counted(region).await.map(|counted| counted.pageviews);
    while count().await != Some(pageviews) {
        assert!(asked.elapsed() < harness::audit::COUNT_MAX, "{:?} of {pageviews}\n{}", count().await, region.words());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(count().await, Some(pageviews));
}
