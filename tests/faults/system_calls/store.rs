//! Central's store, dead at some of the calls by which a flush becomes durable.
//!
//! The engine runs in a process of its own each time, and takes a second to open; strace joins when it is open.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use central::store::{Flush, Store, StoreConfig};
use proto::uplink::{FlushId, FlushRows, GatewayPosition, Kind, LedgerRow, RollupRow, UniqueRow, VisitRow};

use super::child::{Call, Ended, Injected, command, folder_of_child, said, say, words_for};

const SITE: &str = "shop";
const REGION: &str = "r";
const SHARD: u32 = 0;
const PAGEVIEWS: u64 = 3;
const EVENTS: u64 = 5;
/// Of one child.
const FLUSHES: u64 = 8;
/// Which call of a thread is the last.
const NTH: [u32; 4] = [1, 3, 8, 20];
const ATTACHED_MAX: Duration = Duration::from_secs(20);

fn flush(n: u64) -> Flush {
    let site = SITE.to_owned();
    let rollup = RollupRow { site: site.clone(), minute: 100, pageviews: PAGEVIEWS, ..Default::default() };
    let visitors = vec![1, 2, 3];
    let unique =
        UniqueRow { site: site.clone(), kind: Kind::Page.into(), value: "/".into(), visitors, ..Default::default() };
    let visit = VisitRow { site: site.clone(), sid: vec![7; 16], seq: 1, version: n + 1, ..Default::default() };
    let ledger = LedgerRow { site, events: EVENTS, batches: 1, ..Default::default() };
    let rows = FlushRows {
        rollups: vec![rollup],
        visits: vec![visit],
        uniques: vec![unique],
        ledger: vec![ledger],
        ..Default::default()
    };
    let id = FlushId { region: REGION.into(), shard: SHARD, epoch: 1, n };
    let vector = vec![GatewayPosition { gateway: "g".into(), lsn: n * 10, ..Default::default() }];
    Flush { id, term: 1, rows: rows.into(), vector, watermark_ms: 1_000 * n, cut_ms: 1_795_000_000_000 }
}

fn with_store<T>(folder: &Path, work: impl AsyncFnOnce(&Store) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(StoreConfig { path: folder.to_owned(), ..Default::default() }).await.unwrap();
        let answer = work(&store).await;
        store.close().await;
        answer
    })
}

/// Everything counts as often as there are accepted flushes.
async fn check(store: &Store) -> u64 {
    let accepted = store.accepted(REGION, SHARD).await.unwrap().next_flush;
    let pageviews: u64 = store.minutes(SITE, 0).await.unwrap().iter().map(|(_, pageviews, _)| pageviews).sum();
    let events: u64 = store.ledger(SITE).await.unwrap().iter().map(|sum| sum.events).sum();
    assert_eq!((pageviews, events), (PAGEVIEWS * accepted, EVENTS * accepted), "{accepted} flushes are accepted");
    accepted
}

/// Not a test by itself: accepts flushes once it is told to, until it is killed.
#[test]
#[ignore = "the test of this file starts it, and kills it"]
fn accept_until_killed() {
    let Some(folder) = folder_of_child() else { return };
    with_store(&folder, async |store| {
        let next = store.accepted(REGION, SHARD).await.unwrap().next_flush;
        say(format_args!("open {next}"));
        std::io::stdin().read_exact(&mut [0]).unwrap();
        for n in next..next + FLUSHES {
            store.accept(flush(n)).await.unwrap();
            say(format_args!("accepted {}", n + 1));
        }
    });
}

/// Not a test by itself: what the killed one left is right, before and after the flush that was on its way comes again.
#[test]
#[ignore = "the test of this file starts it"]
fn look_after_a_kill() {
    let Some(folder) = folder_of_child() else { return };
    with_store(&folder, async |store| {
        let found = check(store).await;
        // The last one that was accepted, whose acknowledgement was lost perhaps, and the next.
        for n in [found.saturating_sub(1), found, found] {
            store.accept(flush(n)).await.unwrap();
        }
        assert_eq!(check(store).await, found + 1);
        say(format_args!("found {found}"));
    });
}

/// The last number said after this word.
fn number(output: &str, word: &str) -> Option<u64> {
    said(output).filter_map(|line| line.strip_prefix(word)?.trim().parse().ok()).last()
}

/// Starts a child, waits until its store is open, lets strace join, and tells it to go on.
fn die(folder: &Path, call: Call, nth: u32) -> Ended {
    let trace = folder.with_extension("trace");
    let mut child = command(&words_for("store::accept_until_killed"), folder);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut output = String::new();
    while number(&output, "open").is_none() {
        assert!(lines.read_line(&mut output).unwrap() > 0, "the store did not open: {output}");
    }
    let mut words = call.strace(Injected::Kill, nth, "", &trace);
    words.extend(["-p".into(), child.id().to_string().into()]);
    let mut strace = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
    until_every_thread_is_watched(&child, &mut strace);
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    lines.read_to_string(&mut output).unwrap();
    let status = child.wait().unwrap();
    strace.wait().unwrap();
    Ended::new(status, output, &trace)
}

fn until_every_thread_is_watched(child: &Child, strace: &mut Child) {
    let asked = Instant::now();
    let is_watched = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    };
    while !std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().all(is_watched) {
        assert!(strace.try_wait().unwrap().is_none(), "strace cannot watch a child");
        assert!(asked.elapsed() < ATTACHED_MAX, "strace does not watch every thread of a child");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_store_that_dies_at_a_system_call_has_each_acknowledged_flush_once() {
    let at = tempfile::tempdir().unwrap();
    let folder = at.path().join("store");
    for call in ["write", "fsync,fdatasync", "?rename,?renameat,?renameat2", "?unlink,?unlinkat"].map(Call) {
        let mut deaths = 0;
        for nth in NTH {
            let ended = die(&folder, call, nth);
            let was_killed = ended.was_killed();
            deaths += u32::from(was_killed && ended.died_in(&folder));
            let acknowledged = number(&ended.output, "accepted").or(number(&ended.output, "open")).unwrap();
            let looked = command(&words_for("store::look_after_a_kill"), &folder).output().unwrap();
            let said = String::from_utf8_lossy(&looked.stdout);
            assert!(looked.status.success(), "{call:?} {nth}: {said}{}", String::from_utf8_lossy(&looked.stderr));
            let found = number(&said, "found").unwrap();
            assert!([acknowledged, acknowledged + 1].contains(&found), "{call:?} {nth}: {found} of {acknowledged}");
        }
        println!("{call:?}: {deaths} deaths in the store's files");
        assert!(deaths > 0, "the store was never killed at {call:?}");
    }
}
