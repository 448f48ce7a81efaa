//! A disk that can be filled: a tmpfs that only its guests see, so that no test needs to mount anything for others.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MOUNT_MAX: Duration = Duration::from_secs(20);

/// A tmpfs over a folder, in a mount namespace that a process of its own holds open.
pub struct SmallDisk {
    holder: Child,
    at: PathBuf,
    private_users: bool,
}

impl SmallDisk {
    /// Over this folder, which is made; what the namespace's guests write there is gone with the disk.
    pub fn over(folder: &Path, megabytes: u32) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        // Who is not root becomes root in a user namespace, where the kernel allows that.
        let private_users = !rustix::process::geteuid().is_root();
        let script = format!("mount -t tmpfs -o size={megabytes}m tmpfs \"$0\" && echo mounted && exec sleep infinity");
        let mut command = Command::new("unshare");
        if private_users {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", &script]).arg(folder).stdin(Stdio::null()).stdout(Stdio::null());
        let holder = command.spawn().unwrap();
        let disk = Self { holder, at: folder.to_owned(), private_users };
        let asked = Instant::now();
        while !disk.is_mounted() {
            assert!(asked.elapsed() < MOUNT_MAX, "no tmpfs could be mounted in a namespace of its own");
            std::thread::sleep(Duration::from_millis(10));
        }
        disk
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", self.holder.id())).unwrap_or_default();
        mounts.lines().any(|line| line.starts_with("tmpfs ") && line.contains(&format!(" {} ", self.at.display())))
    }

    /// What a guest is started under ([`Process::start_under`](crate::process::Process::start_under)).
    pub fn wrapper(&self) -> Vec<OsString> {
        let holder = self.holder.id().to_string();
        let mut words: Vec<OsString> = vec!["nsenter".into(), "--target".into(), holder.into(), "--mount".into()];
        if self.private_users {
            words.extend(["--user".into(), "--preserve-credentials".into()]);
        }
        words.push(format!("--wd={}", self.at.display()).into());
        words
    }

    /// The same folder as its guests see it.
    pub fn inside(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.at.strip_prefix("/").expect("the folder of a test is absolute"))
    }

    /// Bytes left.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.inside()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes what is left but for so many bytes, until [`SmallDisk::relieve`].
    pub fn fill(&self, but: u64) {
        let balloon = File::create(self.inside().join("balloon")).unwrap();
        // Its guests write meanwhile: what was free a moment ago may be too much.
        while self.free() > but {
            let take = balloon.metadata().unwrap().len() + (self.free() - but).div_ceil(2);
            let _ = rustix::fs::fallocate(&balloon, rustix::fs::FallocateFlags::empty(), 0, take);
        }
    }

    /// There is space again.
    pub fn relieve(&self) {
        std::fs::remove_file(self.inside().join("balloon")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
