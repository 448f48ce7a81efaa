use super::*;
use crate::status::running;
use crate::up::folder::DataFolder;
use crate::up::redis::RedisServer;

struct Bench {
    root: tempfile::TempDir,
    folder: DataFolder,
    board: Arc<Board>,
    probe: Probe,
}

fn bench() -> Bench {
    // A short path: the socket's must fit.
    let root = tempfile::Builder::new().prefix("up").tempdir().unwrap();
    let folder = DataFolder::open(root.path()).unwrap();
    let board = Arc::new(Board::new(folder.run(running::FILE)));
    Bench { root, folder, board, probe: Probe::try_new().unwrap() }
}

impl Bench {
    async fn start_redis(&self) -> Kept {
        let spec = RedisServer::find().await.unwrap().spec(&self.folder).unwrap();
        Kept::start(spec, self.probe.clone(), self.board.clone()).await.unwrap().0
    }

    fn entry(&self) -> RunningRole {
        running::read(&self.folder.run(running::FILE)).unwrap().roles[0].clone()
    }

    fn script(&self, text: &str) -> Spec {
        Spec {
            role: "gateway",
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), text.into()],
            log: self.folder.log("gateway"),
            readiness: Readiness::Role { address_file: self.folder.run("gateway.json") },
        }
    }
}

async fn ask(socket: &Path, question: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    stream.write_all(format!("{question}\r\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn redis_is_durable_private_and_ends_when_drained() {
    let bench = bench();
    let redis = bench.start_redis().await;
    let socket = bench.folder.redis_socket();
    for (key, value) in [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory-policy", "noeviction"),
        ("port", "0"),
        ("save", ""),
    ] {
        let answer = ask(&socket, &format!("CONFIG GET {key}")).await;
        assert!(answer.ends_with(&format!("${}\r\n{value}\r\n", value.len())), "{key}: {answer}");
    }
    assert!(bench.root.path().join("redis/appendonlydir").is_dir());
    let process = bench.entry().process.unwrap();
    redis.drain().await;
    assert!(!process.lives());
    assert!(!ready::redis(&socket).await);
}

#[tokio::test]
async fn a_killed_process_is_started_again_with_what_it_had_acknowledged() {
    let bench = bench();
    let redis = bench.start_redis().await;
    let socket = bench.folder.redis_socket();
    assert_eq!(ask(&socket, "SET counted 41").await, "+OK\r\n");
    let first = bench.entry().process.unwrap();
    let pid = Pid::from_raw(i32::try_from(first.pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();

    let back = async {
        while bench.entry().restarts == 0 || !ready::redis(&socket).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), back).await.unwrap();
    assert_ne!(bench.entry().process.unwrap(), first);
    assert_eq!(ask(&socket, "INCR counted").await, ":42\r\n");
    redis.drain().await;
}

#[tokio::test]
async fn a_process_is_ended_while_it_waits_for_its_next_start() {
    let bench = bench();
    let mut spec = bench.script("exit 3");
    spec.readiness = Readiness::Redis { socket: bench.folder.redis_socket() };
    let (child, _) = spec.spawn().unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(keep_running(spec, child, bench.probe.clone(), bench.board.clone(), stop.clone()));
    sleep(Duration::from_millis(900)).await;
    stop.cancel();
    timeout(Duration::from_secs(1), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_error_at_the_start_is_passed_on_with_the_log() {
    let bench = bench();
    let log = bench.folder.log("gateway");
    std::fs::write(&log, "error: of an earlier run\n").unwrap();
    let spec = bench.script("echo starting >&2; echo 'error: the port is taken' >&2; echo more >&2; exit 1");
    let error = Kept::start(spec, bench.probe.clone(), bench.board.clone()).await.unwrap_err().to_string();
    assert!(error.contains("gateway could not start (exit status: 1): the port is taken"), "{error}");
    assert!(error.contains(log.to_str().unwrap()), "{error}");

    let spec = bench.script("exit 1");
    let error = Kept::start(spec, bench.probe.clone(), bench.board.clone()).await.unwrap_err().to_string();
    assert!(error.contains("it said nothing"), "only this run's log counts: {error}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let bench = bench();
    let mut spec = bench.script("");
    spec.program = "/nowhere/tideline".into();
    let error = Kept::start(spec, bench.probe.clone(), bench.board.clone()).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/tideline"), "{error}");
}

#[test]
fn restarts_slow_down_to_a_limit() {
    let delays: Vec<_> = (0..7).map(|deaths| restart_delay(deaths).as_millis()).collect();
    assert_eq!(delays, [200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(restart_delay(u32::MAX), RESTART_DELAY_MAX);
}

#[test]
fn the_last_words_are_the_error_or_the_last_lines() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let words = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        last_words(file.path(), 0)
    };
    assert_eq!(words("info\nerror: first\nerror: second\nend\n"), "second");
    assert_eq!(words("1\n2\n3\n4\n5\n\n6\n"), "2 | 3 | 4 | 5 | 6");
    assert_eq!(words(""), "it said nothing");
    let long = format!("{}\nerror: at the end\n", "x".repeat(100_000));
    assert_eq!(words(&long), "at the end");
}

#[test]
fn a_large_log_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("gateway.log");
    std::fs::File::create(&log).unwrap().set_len(LOG_MAX_BYTES + 1).unwrap();
    set_aside_if_large(&log).unwrap();
    assert!(!log.exists());
    assert!(folder.path().join("gateway.log.1").exists());
}
