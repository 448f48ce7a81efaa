//! Which file is the engine, and is it the one we know.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::StoreError;

/// The release whose tables, traps and speeds were measured.
pub(super) const VERSION: &str = "26.7.3-stable.1";
/// Of `libchdb.so` in that release; `scripts/fetch-libchdb.sh` holds the same.
pub(super) const SHA256: &str = "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5";
/// Beside the tables: which file was hashed and found right, so that a restart need not read 566 MB again.
const STAMP: &str = "libchdb-verified.json";

/// The path of a library whose bytes are the expected ones.
pub(super) fn verified(configured: Option<&Path>, folder: &Path) -> Result<PathBuf, StoreError> {
    let path = configured.map_or_else(fetched, Path::to_owned);
    let path = fs::canonicalize(&path).map_err(|_| StoreError::LibraryMissing(path.clone()))?;
    let io = |source| StoreError::Io { path: path.clone(), source };
    let file = File::open(&path).map_err(io)?;
    let stamp = Stamp::of(&path, &file.metadata().map_err(io)?);
    if Stamp::read(folder).as_ref() == Some(&stamp) {
        return Ok(path);
    }
    let started = Instant::now();
    let found = hash(file).map_err(io)?;
    if found != SHA256 {
        return Err(StoreError::LibraryWrong { path, version: VERSION, found, expected: SHA256 });
    }
    stamp.write(folder)?;
    tracing::info!(path = %path.display(), elapsed_ms = started.elapsed().as_millis() as u64, "verified libchdb");
    Ok(path)
}

/// Where `scripts/fetch-libchdb.sh` puts it.
fn fetched() -> PathBuf {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("TIDELINE_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("tideline")))
        .unwrap_or_else(|| folder("HOME").unwrap_or_default().join(".cache/tideline"));
    cache.join(format!("libchdb-{VERSION}/libchdb.so"))
}

/// A file that changed has another stamp.
#[derive(PartialEq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    size: u64,
    modified_s: i64,
    modified_ns: i64,
    inode: u64,
    sha256: String,
}

impl Stamp {
    fn of(path: &Path, metadata: &fs::Metadata) -> Self {
        Self {
            path: path.to_owned(),
            size: metadata.size(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
            inode: metadata.ino(),
            sha256: SHA256.to_owned(),
        }
    }

    fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(STAMP)).ok()?).ok()
    }

    fn write(&self, folder: &Path) -> Result<(), StoreError> {
        let path = folder.join(STAMP);
        let text = serde_json::to_vec(self).map_err(std::io::Error::from);
        text.and_then(|text| fs::write(&path, text)).map_err(|source| StoreError::Io { path, source })
    }
}

fn hash(mut file: File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_fetches_what_is_verified() {
        let script = include_str!("../../../scripts/fetch-libchdb.sh");
        assert!(script.contains(SHA256) && script.contains(VERSION));
    }

    #[test]
    fn a_missing_library_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = verified(Some(Path::new("/nowhere/libchdb.so")), folder.path()).unwrap_err().to_string();
        assert!(error.contains("/nowhere/libchdb.so") && error.contains("make build"), "{error}");
        assert!(error.contains("clickhouse.libchdb"), "{error}");
    }

    #[test]
    fn a_library_of_another_hash_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libchdb.so");
        fs::write(&path, b"not an engine").unwrap();
        let error = verified(Some(&path), folder.path()).unwrap_err().to_string();
        assert!(error.contains(SHA256) && error.contains(VERSION) && error.contains("make build"), "{error}");
    }
}
