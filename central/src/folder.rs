//! The data folder: made if it is missing, and one instance's alone.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// The folder of everything that central keeps. It is locked as long as this lives; the lock goes with the process,
/// however that ends.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

/// The data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Not there and not made, or not writable.
    #[error("data folder {path} cannot be written: {source}; give `data` a folder that this user may write")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Locked.
    #[error("data folder {path} belongs to another running central{owner}; stop that one or set another `data`")]
    Locked {
        /// The folder.
        path: PathBuf,
        /// " (pid 123)", or nothing.
        owner: String,
    },
}

impl DataFolder {
    /// Makes the folder with mode 700 if it is missing, and takes its lock.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let unusable = |source| FolderError::Unusable { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(FolderError::Locked { path: path.to_owned(), owner: owner(&mut lock) });
            }
            Err(errno) => return Err(unusable(errno.into())),
        }
        sign(&mut lock).map_err(unusable)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Leaves our process id for the message of whoever comes second.
fn sign(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(std::process::id().to_string().as_bytes())
}

fn owner(lock: &mut File) -> String {
    let mut pid = String::new();
    match lock.read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => format!(" (pid {})", pid.trim()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn belongs_to_one_at_a_time_and_to_nobody_else() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = DataFolder::open(&path).unwrap();
        assert_eq!(std::fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);

        let refused = DataFolder::open(&path).unwrap_err().to_string();
        assert!(refused.contains("another running central"), "{refused}");
        assert!(refused.contains(&format!("(pid {})", std::process::id())), "{refused}");

        drop(first);
        DataFolder::open(&path).unwrap();
    }

    #[test]
    fn a_file_in_its_place_is_one_clear_error() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        std::fs::write(&path, "").unwrap();
        let refused = DataFolder::open(&path).unwrap_err().to_string();
        assert!(refused.contains("cannot be written"), "{refused}");
    }
}
