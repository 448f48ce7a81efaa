//! A gateway's log and its outcomes, dead at every call.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use gateway::delivery::answer::Answer;
use gateway::delivery::log::{Allowed, Log, LogError, Logged, Opened, Submission, Trimmer, Waiter};
use gateway::delivery::outcomes::OutcomeLog;
use gateway::door::capacity::{Capacity, WhenRedisIsAway};
use gateway::ingest::in_flight::InFlight;
use gateway::metrics::Metrics;
use prometheus_client::registry::Registry;
use proto::record::Record;
use proto::sid::Sid;
use proto::uplink::{Outcome, Outcomes};
use regional_redis::{Lsn, Shard};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use super::child::{Call, Ended, Injected, folder_of_child, said, say};

const GATEWAY: Uuid = Uuid::from_u128(7);
const SHARD: Shard = Shard(0);
/// A handful of records.
const SEGMENT_BYTES: u64 = 1024;
const GROUPS: u64 = 10;
const GROUP_RECORDS_MAX: u64 = 3;
/// Far more than a child makes of any call.
const CALLS_MAX: u32 = 300;
/// All by which something changes on a disk.
const CHANGES: &str =
    ",write,pwrite64,fdatasync,fsync,?rename,?renameat,?renameat2,?unlink,?unlinkat,fallocate,ftruncate";

/// The log's writer at work, and the outcomes beside it.
struct Life {
    submissions: mpsc::Sender<Submission>,
    groups: mpsc::Receiver<Vec<Logged>>,
    writer: tokio::task::JoinHandle<Result<(), LogError>>,
    outcomes: OutcomeLog,
    last: Lsn,
    epoch: u64,
}

impl Life {
    fn begin(folder: &Path, epoch: u64) -> Self {
        let Opened { log, last, .. } = open(folder);
        let outcomes = OutcomeLog::open(folder, GATEWAY, SHARD).unwrap();
        let (submissions, from) = mpsc::channel(GROUP_RECORDS_MAX as usize);
        let (to, groups) = mpsc::channel(1);
        let writer = tokio::spawn(async move {
            let (metrics, capacity) =
                (Metrics::new(&mut Registry::default()), Capacity::new(WhenRedisIsAway::default()));
            log.run(from, &to, &metrics, &capacity).await
        });
        Self { submissions, groups, writer, outcomes, last, epoch }
    }

    /// A group of so many records. `None`: the log has ended.
    async fn group(&mut self, records: u64) -> Option<()> {
        for lsn in self.last.0 + 1..=self.last.0 + records {
            self.submissions.send(submission(lsn)).await.ok()?;
        }
        let group = self.groups.recv().await?;
        let lsns: Vec<u64> = group.iter().map(|logged| logged.lsn.0).collect();
        assert_eq!(lsns, (self.last.0 + 1..=self.last.0 + records).collect::<Vec<_>>());
        self.last = Lsn(self.last.0 + records);
        Some(())
    }

    /// All that is logged and not decided is decided.
    fn decide(&mut self) -> Result<(), LogError> {
        let (prev, last) = (self.outcomes.logged().0, self.last.0);
        let counted = (prev + 1..=last).map(|lsn| Outcome { lsn, visit: lsn.to_be_bytes().to_vec() }).collect();
        self.outcomes.append(&Outcomes { gateway: String::new(), epoch: self.epoch, prev, last, counted })
    }
}

fn open(folder: &Path) -> Opened {
    Log::open_with_segments(folder, GATEWAY, SHARD, SEGMENT_BYTES).unwrap()
}

/// Its number is its position, and its acceptance is over: it may be trimmed.
fn submission(lsn: u64) -> Submission {
    let stream = Sid::from_parts(0, [0; 10]);
    let record = Record {
        site: "a name that takes some bytes of a segment ".repeat(2),
        sid: stream.as_bytes().to_vec(),
        seq: lsn as u32,
        ..Default::default()
    };
    let (session, _) = mpsc::channel(1);
    let answer = Answer { sid: stream, seq: lsn as u32, refused: None };
    let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    Submission { record, waiter: Waiter { answer, session, admission: InFlight::default().admit(0), room } }
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Not a test by itself: what the tests below kill. All in one thread, whose calls are counted.
#[test]
#[ignore = "the tests of this file start it, and kill it"]
fn write_until_killed() {
    let Some(folder) = folder_of_child() else { return };
    on_one_thread(async {
        for life in 0..2 {
            if let Err(error) = live(&folder, life).await {
                say(format_args!("ended {error}"));
                return;
            }
            tear_the_ends(&folder);
        }
    });
}

async fn live(folder: &Path, number: u64) -> Result<(), LogError> {
    let mut life = Life::begin(folder, number * 2 + 1);
    for group in 0..GROUPS {
        if life.group(group % GROUP_RECORDS_MAX + 1).await.is_none() {
            // It takes nothing any more.
            assert!(life.submissions.send(submission(life.last.0 + 1)).await.is_err());
            break;
        }
        say(format_args!("acknowledged {}", life.last));
        life.decide()?;
        match group {
            4 => {
                let last = Lsn(life.last.0 - 4);
                life.epoch += 1;
                say(format_args!("voiding {last}"));
                life.outcomes.void_above(last)?;
                say(format_args!("voided {last} {}", life.epoch));
                life.decide()?;
            }
            3 | 7 => {
                let through = Lsn(life.last.0 - 2);
                say(format_args!("trimming {through}"));
                let allowed = Allowed { accepted: through, shipped: through, watermark_ms: u64::MAX };
                Trimmer::new(folder).trim(allowed)?;
                life.outcomes.trim(through)?;
            }
            _ => {}
        }
        if group % 2 == 1 {
            say(format_args!("decided {}", life.outcomes.sync()?));
        }
    }
    drop(life.submissions);
    life.writer.await.expect("the log's writer does not panic")
}

/// As a crash of the machine leaves them: half a group behind the log, half an entry behind the outcomes.
fn tear_the_ends(folder: &Path) {
    let newest = |end: &str| {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|found| found == end)).max().unwrap()
    };
    let segment = newest("log");
    let bytes = fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let torn = [b'G'; 40];
    write_behind(&segment, &torn[..torn.len().min(bytes.len() - end)], end as u64);
    let outcomes = newest("outcomes");
    let end = fs::metadata(&outcomes).unwrap().len();
    write_behind(&outcomes, b"OUTC half an entry", end);
}

fn write_behind(path: &Path, bytes: &[u8], end: u64) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, end).unwrap();
}

/// What a child had said before it died.
#[derive(Debug, Default)]
struct Said {
    acknowledged: u64,
    /// Records whose outcomes survive.
    decided: u64,
    /// Up to here records may be gone.
    trimming: u64,
    /// Outcomes behind this record are of this epoch or a later one.
    voided: Option<(u64, u64)>,
    ended: Option<String>,
}

impl Said {
    fn of(output: &str) -> Self {
        let mut all = Self::default();
        for line in said(output) {
            let (what, rest) = line.split_once(' ').unwrap();
            let numbers: Vec<u64> = rest.split(' ').map_while(|number| number.parse().ok()).collect();
            match (what, numbers.as_slice()) {
                ("acknowledged", [last]) => all.acknowledged = *last,
                ("decided", [last]) => all.decided = *last,
                ("voiding", [last]) => all.decided = all.decided.min(*last),
                ("voided", [last, epoch]) => all.voided = Some((*last, *epoch)),
                ("trimming", [last]) => all.trimming = *last,
                ("ended", _) => all.ended = Some(rest.to_owned()),
                _ => panic!("{line}"),
            }
        }
        all
    }
}

/// What was acknowledged is there, without a hole; of what was not at most the group on its way. Outcomes are one story, not beyond
/// the log. And it goes on.
fn check(folder: &Path, said: &Said) {
    let Opened { log, mut reader, first, last } = open(folder);
    assert!(last.0 >= said.acknowledged && last.0 <= said.acknowledged + GROUP_RECORDS_MAX, "{last}, {said:?}");
    assert!(first.0 <= said.trimming + 1, "{first}, {said:?}");
    drop(log);
    if last >= first {
        let records = reader.read(first, last, usize::MAX).unwrap();
        let found: Vec<(u64, u32)> = records.iter().map(|logged| (logged.lsn.0, logged.record.seq)).collect();
        assert_eq!(found, (first.0..=last.0).map(|lsn| (lsn, lsn as u32)).collect::<Vec<_>>(), "{said:?}");
    }
    check_outcomes(folder, said, last);
    on_one_thread(async {
        let mut life = Life::begin(folder, 9);
        life.group(2).await.expect("the log goes on");
        life.decide().unwrap();
        assert_eq!(life.outcomes.sync().unwrap(), Lsn(last.0 + 2));
    });
}

fn check_outcomes(folder: &Path, said: &Said, last: Lsn) {
    let mut outcomes = OutcomeLog::open(folder, GATEWAY, SHARD).unwrap();
    let logged = outcomes.logged();
    assert!(logged <= last && logged.0 >= said.decided, "{logged} of {last}, {said:?}");
    let (mut next, mut epoch) = (1, 0);
    while next <= logged.0 {
        for part in outcomes.read(Lsn(next)).unwrap() {
            assert!(part.prev + 1 == next && part.last >= next && part.epoch >= epoch, "{part:?} at {next}, {said:?}");
            let visits: Vec<(u64, Vec<u8>)> = part.counted.into_iter().map(|found| (found.lsn, found.visit)).collect();
            let right: Vec<_> = (next..=part.last).map(|lsn| (lsn, lsn.to_be_bytes().to_vec())).collect();
            assert_eq!(visits, right, "{said:?}");
            if let Some((last, of)) = said.voided {
                assert!(part.last <= last || part.epoch >= of, "epoch {} behind {last}, {said:?}", part.epoch);
            }
            (next, epoch) = (part.last + 1, part.epoch);
        }
    }
    assert_eq!(next, logged.0 + 1, "{said:?}");
}

#[test]
fn a_log_that_dies_at_any_system_call_keeps_what_it_acknowledged() {
    let kinds = ["pwrite64", "write", "fdatasync", "fsync", "?rename,?renameat,?renameat2", "?unlink,?unlinkat"];
    for call in kinds.into_iter().chain(["fallocate", "ftruncate"]).map(Call) {
        let (mut deaths, mut nth) = (0, 0);
        loop {
            nth += 1;
            assert!(nth < CALLS_MAX, "{call:?} has no end");
            let at = tempfile::tempdir().unwrap();
            let (folder, trace) = (at.path().join("log"), at.path().join("trace"));
            let strace = call.strace(Injected::Kill, nth, "", &trace);
            let ended = Ended::run("log::write_until_killed", &folder, strace, &trace);
            let was_killed = ended.was_killed();
            deaths += u32::from(was_killed && ended.died_in(&folder));
            let said = Said::of(&ended.output);
            assert!(was_killed || said.acknowledged > 30, "{ended:#?}");
            if folder.exists() {
                check(&folder, &said);
            }
            if !was_killed {
                break;
            }
        }
        println!("{call:?}: killed at each of {} calls, {deaths} of them on the log's files", nth - 1);
        assert!(deaths > 0, "the log never called {call:?}");
    }
}

#[test]
fn a_log_whose_flush_fails_ends_and_never_writes_again() {
    let mut failed = 0;
    for nth in 1..CALLS_MAX {
        let at = tempfile::tempdir().unwrap();
        let (folder, trace) = (at.path().join("log"), at.path().join("trace"));
        let strace = Call("fdatasync").strace(Injected::InputOutputError, nth, CHANGES, &trace);
        let ended = Ended::run("log::write_until_killed", &folder, strace, &trace);
        assert!(!ended.was_killed(), "{ended:#?}");
        let said = Said::of(&ended.output);
        let Some((_, behind)) = ended.trace.split_once("(INJECTED)") else {
            assert!(said.ended.is_none() && said.acknowledged > 30, "{ended:#?}");
            break;
        };
        failed += 1;
        assert!(said.ended.as_ref().is_some_and(|why| why.contains("Input/output error")), "{ended:#?}");
        let later: Vec<_> = behind.lines().filter(|line| line.contains(folder.to_str().unwrap())).collect();
        assert!(later.is_empty(), "written after a failed flush: {later:?}");
        check(&folder, &said);
    }
    assert!(failed > 10, "only {failed} flushes failed");
}
