use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_version_is_read_from_what_redis_says() {
    let text = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0";
    assert_eq!(version(text), Some(((7, 0), "7.0.15")));
    assert_eq!(version("Redis server v=6.2.6 sha=0"), Some(((6, 2), "6.2.6")));
    assert_eq!(version("something else"), None);
    assert_eq!(version("v=x.y"), None);
}

#[test]
fn paths_keep_their_characters() {
    assert_eq!(url(Path::new("/data/my shop/ä#?/redis.sock")), "unix:///data/my%20shop/%C3%A4%23%3F/redis.sock");
    assert_eq!(quoted(Path::new("/a \"b\"\\c")), "\"/a \\\"b\\\"\\\\c\"");
}

async fn check_script(text: &str) -> Result<RedisServer, RedisError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis-server");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    RedisServer::check(path).await
}

#[tokio::test]
async fn an_old_or_broken_redis_is_refused_with_what_to_do() {
    let old = check_script("#!/bin/sh\necho Redis server v=6.0.16 sha=0\n").await.unwrap_err().to_string();
    assert!(old.contains("version 6.0") && old.contains("needs 7.0") && old.contains("apt-get install"), "{old}");
    let broken = check_script("#!/bin/sh\necho hello\n").await.unwrap_err().to_string();
    assert!(broken.contains("does not say its version") && broken.contains("hello"), "{broken}");
    let missing = RedisServer::check("/nowhere/redis-server".into()).await.unwrap_err().to_string();
    assert!(missing.contains("/nowhere/redis-server"), "{missing}");
}
