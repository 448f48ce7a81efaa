use super::running::{Board, ProcessId};
use super::*;
use crate::up::folder::DataFolder;

fn entry(role: &str, process: Option<ProcessId>) -> RunningRole {
    RunningRole { role: role.into(), process, address: "127.0.0.1:1".into(), admin: None, restarts: 2 }
}

#[tokio::test]
async fn a_folder_where_nothing_runs_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let error = look(root.path()).await.unwrap_err().to_string();
    assert!(error.contains("nothing runs") && error.contains("tideline up --data"), "{error}");
}

#[tokio::test]
async fn only_living_processes_have_a_pid() {
    let root = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(root.path()).unwrap();
    let board = Board::new(folder.run(running::FILE));
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let dead = ProcessId::of(child.id()).unwrap();
    assert!(dead.lives());
    child.kill().unwrap();
    child.wait().unwrap();
    let living = ProcessId::of(std::process::id());
    board.change(|running| running.roles = vec![entry("gateway", living), entry("central", Some(dead))]);

    let status = look(root.path()).await.unwrap();
    let pids: Vec<_> = status.roles.iter().map(|role| role.pid).collect();
    assert_eq!(pids, [Some(std::process::id()), None]);
    assert!(status.roles.iter().all(|role| !role.ready && role.restarts == 2));

    drop(board);
    assert!(look(root.path()).await.is_err(), "the file goes with its board");
}

#[test]
fn the_table_has_a_line_a_role() {
    let role = RoleStatus {
        role: "redis".into(),
        pid: None,
        address: "/data/redis/redis.sock".into(),
        admin: None,
        ready: false,
        restarts: 0,
    };
    let text = table(&Status { roles: vec![role], shop: None });
    assert_eq!(
        text,
        "ROLE   PID  READY  RESTARTS  ADMIN  ADDRESS\nredis  -    no     0         -      /data/redis/redis.sock"
    );
}
