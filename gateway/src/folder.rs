//! A gateway is its log: the folder holds its id, and one process at a time owns it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use regional_redis::Shard;
use rustix::fs::FlockOperation;
use uuid::Uuid;

/// The gateway's data folder, locked for as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    id: Uuid,
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system refused.
    #[error("the data folder {} cannot be used: {source}; give this user write access, or name another folder with `data`", path.display())]
    Unusable {
        /// The folder or file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// Another process has the lock.
    #[error("the data folder {} belongs to another running gateway: stop that one, or name another folder with `data`", .0.display())]
    Owned(PathBuf),
    /// The id is not a UUID.
    #[error("{} does not hold a gateway id: restore it from the folder's backup; a folder without a log may be deleted", .0.display())]
    BadId(PathBuf),
}

impl Folder {
    /// Makes the folder if it is not there, and locks it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Unusable { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable(path))?;
        let lock = path.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(unusable(&lock))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(FolderError::Owned(path.to_owned())),
            Err(error) => return Err(unusable(&lock)(error.into())),
        }
        let id_file = path.join("id");
        let id = match fs::read_to_string(&id_file) {
            Ok(text) => Uuid::try_parse(text.trim()).map_err(|_| FolderError::BadId(id_file))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = Uuid::new_v4();
                write_durably(&id_file, id.to_string().as_bytes()).map_err(unusable(&id_file))?;
                id
            }
            Err(error) => return Err(unusable(&id_file)(error)),
        };
        Ok(Self { path: path.to_owned(), id, _lock: file })
    }

    /// Who this gateway is.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Where the log of a shard is.
    pub fn log(&self, shard: Shard) -> PathBuf {
        self.path.join(format!("log-{}", shard.0))
    }

    /// Where the last configuration from central is kept.
    pub fn configuration(&self) -> PathBuf {
        self.path.join("configuration")
    }

    /// Its records are older than its id (a folder restored from a copy): the logs are set aside and the folder becomes a new
    /// gateway. Answers the id that is to be retired.
    pub fn become_new(&mut self, shards: &[Shard]) -> Result<Uuid, FolderError> {
        let retired = self.id;
        let aside = self.path.join(format!("retired-{retired}"));
        let unusable = |source| FolderError::Unusable { path: aside.clone(), source };
        fs::create_dir_all(&aside).map_err(unusable)?;
        for shard in shards {
            let log = self.log(*shard);
            if log.exists() {
                fs::rename(&log, aside.join(format!("log-{}", shard.0))).map_err(unusable)?;
            }
        }
        self.id = Uuid::new_v4();
        write_durably(&self.path.join("id"), self.id.to_string().as_bytes()).map_err(unusable)?;
        Ok(retired)
    }
}

/// Writes a whole file so that a crash leaves the old one or the new one.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("new");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_id_and_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway");
        let folder = Folder::open(&path).unwrap();
        let id = folder.id();
        assert!(matches!(Folder::open(&path), Err(FolderError::Owned(_))));
        drop(folder);
        assert_eq!(Folder::open(&path).unwrap().id(), id);
    }

    #[test]
    fn an_old_folder_becomes_a_new_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(dir.path()).unwrap();
        let old = folder.id();
        fs::create_dir(folder.log(Shard(0))).unwrap();
        assert_eq!(folder.become_new(&[Shard(0)]).unwrap(), old);
        assert_ne!(folder.id(), old);
        assert!(!folder.log(Shard(0)).exists());
        let id = folder.id();
        drop(folder);
        assert_eq!(Folder::open(dir.path()).unwrap().id(), id);
    }
}
