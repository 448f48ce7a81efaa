//! A file that an operator writes, and whether it is another one than it was.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// One of them.
#[derive(Debug)]
pub struct WatchedFile {
    path: PathBuf,
    bytes_max: u64,
    last: Mutex<Seen>,
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not there, or is no text.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is too long.
    #[error("more than {0} bytes")]
    TooLong(u64),
}

/// What tells a file that was written from the one that it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Never,
    Missing,
    File { modified: Option<SystemTime>, bytes: u64, inode: u64 },
}

impl WatchedFile {
    /// Not read yet. Of a longer one nothing is taken.
    pub fn new(path: &Path, bytes_max: u64) -> Self {
        Self { path: path.to_owned(), bytes_max, last: Mutex::new(Seen::Never) }
    }

    /// As it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file holds, if it is another one than at the last call. One that is gone, or cannot be read, is told of once.
    pub fn changed(&self) -> Option<Result<String, Unreadable>> {
        let now = Seen::of(std::fs::metadata(&self.path));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // What is written between this look and the reading has another stamp at the next look.
        if std::mem::replace(&mut *last, now) == now { None } else { Some(read(&self.path, self.bytes_max)) }
    }
}

impl Seen {
    fn of(metadata: io::Result<Metadata>) -> Self {
        match metadata {
            Err(_) => Self::Missing,
            Ok(file) => Self::File { modified: file.modified().ok(), bytes: file.len(), inode: file.ino() },
        }
    }
}

fn read(path: &Path, bytes_max: u64) -> Result<String, Unreadable> {
    let mut text = String::new();
    let read = File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if read as u64 > bytes_max { Err(Unreadable::TooLong(bytes_max)) } else { Ok(text) }
}
