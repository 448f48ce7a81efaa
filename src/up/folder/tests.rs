use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_folder_is_private_and_keeps_its_keys() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("deep/data");
    let first = DataFolder::open(&root).unwrap();
    assert_eq!(mode(&root), 0o700);
    assert_eq!(mode(&first.api_key_file()), 0o600);
    assert_eq!(mode(&first.uplink_token_file()), 0o600);
    let key = std::fs::read_to_string(first.api_key_file()).unwrap();
    assert_eq!(URL_SAFE_NO_PAD.decode(key.trim()).unwrap().len(), 32);
    let token = std::fs::read_to_string(first.uplink_token_file()).unwrap();
    assert_ne!(key, token);
    drop(first);

    let second = DataFolder::open(&root).unwrap();
    assert_eq!(std::fs::read_to_string(second.api_key_file()).unwrap(), key);
    assert_eq!(std::fs::read_to_string(second.uplink_token_file()).unwrap(), token);
}

#[test]
fn keys_that_others_could_read_become_private() {
    let root = tempfile::tempdir().unwrap();
    make(&root.path().join("run")).unwrap();
    let (key, token) = (root.path().join("api-key"), root.path().join("run/uplink-token"));
    for (path, text) in [(&key, "given\n"), (&token, "")] {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    }
    let folder = DataFolder::open(root.path()).unwrap();
    assert_eq!((mode(&folder.api_key_file()), mode(&folder.uplink_token_file())), (0o600, 0o600));
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "given\n");
    assert!(!std::fs::read_to_string(&token).unwrap().is_empty());
}

#[test]
fn a_second_instance_is_refused_with_the_pid_of_the_first() {
    let root = tempfile::tempdir().unwrap();
    let first = DataFolder::open(root.path()).unwrap();
    let error = DataFolder::open(root.path()).unwrap_err().to_string();
    assert!(error.contains("another running instance"), "{error}");
    assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    assert_eq!(owner(root.path()), Some(std::process::id().to_string()));
    drop(first);
    assert_eq!(owner(root.path()), None);
    DataFolder::open(root.path()).unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = DataFolder::open(&file.join("data")).unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("file/data") && error.contains("--data"), "{error}");
}

#[test]
fn a_path_too_long_for_a_socket_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let error = DataFolder::open(&parent.path().join("d".repeat(100))).unwrap_err().to_string();
    assert!(error.contains("too long") && error.contains("--data"), "{error}");
}
