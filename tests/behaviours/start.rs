//! What a start says when something is wrong: one line that says what, and what to do.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::instance::{Instance, TIDELINE, run_to_end};
use crate::page::{Page, now_ms, pageviews, sid};

const ENDS_WITHIN: Duration = Duration::from_secs(60);

fn up(folder: &std::path::Path) -> Command {
    let mut command = Command::new(TIDELINE);
    command.args(["up", "--gateway", "127.0.0.1:0", "--central", "127.0.0.1:0", "--data"]).arg(folder);
    command
}

fn refused(command: Command, says: &[&str]) {
    let (code, text) = run_to_end(command, ENDS_WITHIN);
    assert_ne!(code, Some(0), "it started: {text}");
    for word in says {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(TIDELINE);
    command.args(["up", "--gateway", &address, "--central", "127.0.0.1:0", "--data"]).arg(folder.path().join("data"));
    refused(command, &[&address, "--gateway"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_another_running_instance_is_named() {
    let instance = Instance::start().await;
    refused(up(&instance.data()), &["running instance", instance.data().to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_one_error_and_no_loop_of_restarts() {
    let mut instance = Instance::start().await;
    let mut page = Page::open(instance.gateway()).await;
    page.batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
    page.acknowledged().await;
    instance.end();
    let segment = newest_segment(&instance.data());
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    refused(up(&instance.data()), &["damaged", segment.file_name().unwrap().to_str().unwrap()]);
}

fn newest_segment(data: &std::path::Path) -> std::path::PathBuf {
    let mut folders = vec![data.to_owned()];
    let mut segments = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let numbered = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(end) if end == "log" && numbered => segments.push(path),
                _ => {}
            }
        }
    }
    segments.into_iter().max().expect("a log has a segment")
}

#[test]
fn a_folder_that_is_not_writable_is_named() {
    // A file in its place: root may write anywhere else.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::write(&path, "").unwrap();
    refused(up(&path), &[path.to_str().unwrap()]);
    refused(up(std::path::Path::new("/proc/tideline")), &["/proc/tideline"]);
}

#[test]
fn a_machine_without_redis_is_told_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = up(&folder.path().join("data"));
    command.env("PATH", folder.path());
    refused(command, &["redis-server", "apt-get install"]);
}

#[test]
fn an_unknown_key_in_a_config_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, "listne = \"127.0.0.1:0\"\n").unwrap();
    let mut command = Command::new(TIDELINE);
    command.args(["gateway", "--config"]).arg(&file);
    refused(command, &["listne"]);
    let mut missing = Command::new(TIDELINE);
    missing.args(["central", "--config"]).arg(folder.path().join("none.toml"));
    refused(missing, &["none.toml"]);
}

#[test]
fn a_missing_and_a_wrong_libchdb_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("libchdb.so");
    refused(central(&folder.path().join("a"), &missing), &[missing.to_str().unwrap(), "make build"]);
    std::fs::write(&missing, "not a library").unwrap();
    refused(central(&folder.path().join("b"), &missing), &[missing.to_str().unwrap(), "SHA-256", "make build"]);
}

fn central(folder: &std::path::Path, libchdb: &std::path::Path) -> Command {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("token"), "a-token-of-this-test").unwrap();
    let config = format!(
        "listen = \"127.0.0.1:0\"\nuplink = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\ndata = \"{0}/central\"\nuplink_token_file = \"{0}/token\"\n\
         gateway_url = \"http://127.0.0.1:8080\"\n[clickhouse]\nlibchdb = \"{1}\"\n",
        folder.display(),
        libchdb.display()
    );
    std::fs::write(folder.join("central.toml"), config).unwrap();
    let mut command = Command::new(TIDELINE);
    command.args(["central", "--config"]).arg(folder.join("central.toml"));
    command
}
