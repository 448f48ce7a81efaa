//! The file of the rules, and whether it is another one than it was.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::Wrong;

/// 1,000 rules in some detail. Nothing behind it is read.
const BYTES_MAX: u64 = 1024 * 1024;

/// Where the rules are.
pub(super) struct RuleFile {
    path: PathBuf,
    last: Mutex<Seen>,
}

/// What tells a file that was written from the one that it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Never,
    Missing,
    File { modified: Option<SystemTime>, bytes: u64, inode: u64 },
}

impl RuleFile {
    /// Not read yet.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), last: Mutex::new(Seen::Never) }
    }

    /// As it was named.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file holds, if it is another one than at the last call. One that is gone, or cannot be read, is told of once.
    pub(super) fn changed(&self) -> Option<Result<String, Wrong>> {
        let now = Seen::of(std::fs::metadata(&self.path));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // What is written between this look and the reading has another stamp at the next look.
        if std::mem::replace(&mut *last, now) == now { None } else { Some(read(&self.path)) }
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

fn read(path: &Path) -> Result<String, Wrong> {
    let mut text = String::new();
    let read = File::open(path)?.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > BYTES_MAX { Err(Wrong::TooLong(BYTES_MAX)) } else { Ok(text) }
}
