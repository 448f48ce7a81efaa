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
    retires: Option<Uuid>,
    entered: bool,
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
        let (id, retires, entered) = match fs::read_to_string(&id_file) {
            Ok(text) => read_id(&text).ok_or(FolderError::BadId(id_file))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = Uuid::new_v4();
                write_durably(&id_file, id.to_string().as_bytes()).map_err(unusable(&id_file))?;
                (id, None, false)
            }
            Err(error) => return Err(unusable(&id_file)(error)),
        };
        Ok(Self { path: path.to_owned(), id, retires, entered, _lock: file })
    }

    /// Who this gateway is.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The id that this one replaced, until Redis and central know that it is retired.
    pub fn retires(&self) -> Option<Uuid> {
        self.retires
    }

    /// Where the log of a shard is: under the id, so that another id begins with an empty one.
    pub fn log(&self, shard: Shard) -> PathBuf {
        self.path.join(format!("log-{}", self.id)).join(format!("shard-{}", shard.0))
    }

    /// Where the last configuration from central is kept: under the id, so that another id must have reached central once.
    pub fn configuration(&self) -> PathBuf {
        self.path.join(format!("log-{}", self.id)).join("configuration")
    }

    /// Central knows that this gateway is registered in Redis: a rebuild waits for it.
    pub fn entered(&self) -> bool {
        self.entered
    }

    /// Central has answered that it knows.
    pub fn has_entered(&mut self) -> Result<(), FolderError> {
        self.write_id(self.id, self.retires, true)
    }

    /// Its records are older than its id (a folder restored from a copy): from now on the folder is a new gateway, with an empty
    /// log; the old one stays beside it. One write decides, so that a crash leaves the old gateway or the new one.
    pub fn become_new(&mut self) -> Result<(), FolderError> {
        self.write_id(Uuid::new_v4(), Some(self.id), false)
    }

    /// It is a copy of a gateway that runs: a new gateway beside it.
    pub fn become_another(&mut self) -> Result<(), FolderError> {
        self.write_id(Uuid::new_v4(), None, false)
    }

    /// Redis and central know that the replaced id is retired.
    pub fn has_retired(&mut self) -> Result<(), FolderError> {
        self.write_id(self.id, None, self.entered)
    }

    fn write_id(&mut self, id: Uuid, retires: Option<Uuid>, entered: bool) -> Result<(), FolderError> {
        let path = self.path.join("id");
        let mut text = id.to_string();
        if let Some(retires) = retires {
            text += &format!("\nretires {retires}");
        }
        if entered {
            text += "\nentered";
        }
        write_durably(&path, text.as_bytes()).map_err(|source| FolderError::Unusable { path, source })?;
        (self.id, self.retires, self.entered) = (id, retires, entered);
        Ok(())
    }
}

fn read_id(text: &str) -> Option<(Uuid, Option<Uuid>, bool)> {
    let mut lines = text.lines();
    let id = Uuid::try_parse(lines.next()?.trim()).ok()?;
    let (mut retires, mut entered) = (None, false);
    for line in lines {
        match line.trim().split_once(' ') {
            Some(("retires", id)) => retires = Some(Uuid::try_parse(id).ok()?),
            None if line.trim() == "entered" => entered = true,
            _ => return None,
        }
    }
    Some((id, retires, entered))
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
    fn an_old_folder_becomes_a_new_gateway_and_remembers_whom_it_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(dir.path()).unwrap();
        let (old, old_log) = (folder.id(), folder.log(Shard(0)));
        folder.become_new().unwrap();
        let id = folder.id();
        assert_ne!(id, old);
        assert_ne!(folder.log(Shard(0)), old_log);
        drop(folder);
        let mut folder = Folder::open(dir.path()).unwrap();
        assert_eq!((folder.id(), folder.retires(), folder.entered()), (id, Some(old), false));
        folder.has_entered().unwrap();
        drop(folder);
        let mut folder = Folder::open(dir.path()).unwrap();
        assert_eq!((folder.id(), folder.retires(), folder.entered()), (id, Some(old), true));
        folder.has_retired().unwrap();
        drop(folder);
        let mut folder = Folder::open(dir.path()).unwrap();
        assert_eq!((folder.id(), folder.retires(), folder.entered()), (id, None, true));
        folder.become_new().unwrap();
        assert!(!folder.entered(), "the new one has not entered");
        let left = folder.id();
        folder.become_another().unwrap();
        assert_eq!((folder.id() == left, folder.retires(), folder.entered()), (false, None, false));
    }
}
