//! The data folder of `tideline up`: one running instance owns it, and everything it keeps lies in it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

/// A Unix socket's path has 108 bytes with its closing zero (`sockaddr_un`); a few stay in hand.
const SOCKET_PATH_MAX_BYTES: usize = 100;
/// `tideline status` holds the lock for a moment to see whether anyone has it.
const LOCK_WAIT: Duration = Duration::from_millis(300);

/// A data folder that is locked, writable and holds both keys, for as long as this lives.
#[derive(Debug)]
pub struct DataFolder {
    root: PathBuf,
    _lock: File,
}

/// Why a data folder cannot be used.
#[derive(Debug, Error)]
pub enum FolderError {
    /// It cannot be made, entered or written.
    #[error("cannot write to the data folder {}: {source}; give it to this user or choose another with --data DIR", path.display())]
    NotWritable { path: PathBuf, source: std::io::Error },
    /// Another `tideline up` has it.
    #[error(
        "the data folder {} belongs to another running instance (pid {pid}); stop that one or choose another with --data DIR",
        path.display()
    )]
    InUse { path: PathBuf, pid: String },
    /// Redis could not listen inside it.
    #[error(
        "the path of the data folder is too long for Redis's socket ({} has {bytes} bytes, {SOCKET_PATH_MAX_BYTES} are possible); \
         choose a shorter one with --data DIR", socket.display()
    )]
    PathTooLong { socket: PathBuf, bytes: usize },
    /// It could not be written into Redis's and the roles' configuration.
    #[error("the path of the data folder is not UTF-8: {}; choose another with --data DIR", .0.display())]
    PathNotText(PathBuf),
}

impl DataFolder {
    /// Makes the folder (mode 700) where it is missing, locks it, and makes its keys once.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let not_writable = |source| FolderError::NotWritable { path: path.to_owned(), source };
        let absolute = std::path::absolute(path).map_err(not_writable)?;
        if absolute.to_str().is_none() {
            return Err(FolderError::PathNotText(absolute));
        }
        let socket = absolute.join("redis/redis.sock");
        let bytes = socket.as_os_str().len();
        if bytes > SOCKET_PATH_MAX_BYTES {
            return Err(FolderError::PathTooLong { socket, bytes });
        }
        make(&absolute).map_err(not_writable)?;
        let lock = lock(&absolute)?;
        let folder = Self { root: absolute, _lock: lock };
        for part in ["redis", "central", "gateway", "run", "logs"] {
            make(&folder.root.join(part)).map_err(not_writable)?;
        }
        for secret in [folder.api_key_file(), folder.uplink_token_file()] {
            make_secret(&secret).map_err(not_writable)?;
        }
        Ok(folder)
    }

    /// The folder itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The key for all sites, for programs.
    pub fn api_key_file(&self) -> PathBuf {
        self.root.join("api-key")
    }

    /// What gateway and aggregator show to central.
    pub fn uplink_token_file(&self) -> PathBuf {
        self.root.join("run/uplink-token")
    }

    /// Where the private Redis listens.
    pub fn redis_socket(&self) -> PathBuf {
        self.root.join("redis/redis.sock")
    }

    /// A file that this run writes anew: configurations, addresses, the status.
    pub fn run(&self, name: &str) -> PathBuf {
        self.root.join("run").join(name)
    }

    /// What a role writes to stdout and stderr.
    pub fn log(&self, role: &str) -> PathBuf {
        self.root.join("logs").join(format!("{role}.log"))
    }
}

/// The process that owns the folder at this moment, if one does; the lock itself is left alone.
pub fn owner(root: &Path) -> Option<String> {
    let mut file = File::open(root.join("lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(read_pid(&mut file)),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

fn make(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn lock(root: &Path) -> Result<File, FolderError> {
    let path = root.join("lock");
    let not_writable = |source| FolderError::NotWritable { path: root.to_owned(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(not_writable)?;
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(not_writable(source)),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(FolderError::InUse { path: root.to_owned(), pid: read_pid(&mut file) });
            }
        }
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(not_writable)?;
    Ok(file)
}

fn read_pid(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut text));
    match read {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// 32 random bytes as base64url, made once; readable by this user only, also where someone else made the file.
fn make_secret(path: &Path) -> std::io::Result<()> {
    let private = || Permissions::from_mode(0o600);
    match std::fs::metadata(path) {
        Ok(found) if found.len() > 0 => return std::fs::set_permissions(path, private()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(private())?; // an empty file keeps the mode it has
    writeln!(file, "{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
