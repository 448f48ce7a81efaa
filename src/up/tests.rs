use super::*;

#[test]
fn a_public_url_is_one_that_paths_can_be_added_to() {
    assert_eq!(public_url("https://stats.example/"), Ok("https://stats.example".to_owned()));
    assert_eq!(public_url("https://example.com/stats"), Ok("https://example.com/stats".to_owned()));
    for wrong in ["stats.example", "ftp://stats.example", "https://stats.example/?a=b", ""] {
        assert!(public_url(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn processes_of_a_killed_run_are_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(root.path()).unwrap();
    let mut left = std::process::Command::new("sleep").arg("0.3").spawn().unwrap();
    let board = Board::new(folder.run(running::FILE));
    board.change(|running| {
        running.roles.push(running::RunningRole {
            role: "redis".into(),
            process: running::ProcessId::of(left.id()),
            address: String::new(),
            admin: None,
            restarts: 0,
        });
    });
    let since = std::time::Instant::now();
    wait_for_leftovers(&folder).await.unwrap();
    assert!(since.elapsed() >= Duration::from_millis(250));
    left.wait().unwrap();
}
