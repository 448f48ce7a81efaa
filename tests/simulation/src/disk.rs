//! What a disk forgets when the power goes: what nobody flushed. The files cost no disk, so a flush only notes how long its file
//! was; it does so in place of the C library's, which the gateway's code calls as ever.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

thread_local! {
    /// Of each file, by its inode, how much of it was flushed, in bytes.
    static FLUSHED: RefCell<HashMap<u64, u64>> = RefCell::new(HashMap::new());
}

/// In place of the C library's.
///
/// # Safety
/// `fd` is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: i32) -> i32 {
    // SAFETY: the caller's promise.
    note(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// In place of the C library's.
///
/// # Safety
/// `fd` is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: i32) -> i32 {
    // SAFETY: the caller's promise.
    note(unsafe { BorrowedFd::borrow_raw(fd) })
}

fn note(file: impl AsFd) -> i32 {
    let Ok(found) = rustix::fs::fstat(file) else { return -1 };
    let len = u64::try_from(found.st_size).unwrap_or(0);
    FLUSHED.with_borrow_mut(|flushed| flushed.insert(found.st_ino, len));
    0
}

/// The power of a gateway's machine went while it wrote: outcomes that were not flushed are gone from some byte on, and behind
/// the log's last group there is a part of another one.
pub fn lose_power(log: &Path, random: &mut StdRng) -> io::Result<()> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(log)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("outcomes") => {
                let file = File::options().write(true).open(&path)?;
                let (found, len) = (rustix::fs::fstat(&file)?, file.metadata()?.len());
                let flushed = FLUSHED.with_borrow(|flushed| flushed.get(&found.st_ino).copied().unwrap_or(0));
                if flushed < len {
                    file.set_len(random.random_range(flushed..len))?;
                }
            }
            Some("log") => segments.push(path),
            _ => {}
        }
    }
    segments.sort();
    let Some(newest) = segments.last() else { return Ok(()) };
    let bytes = std::fs::read(newest)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // Not at once behind it: a group may end with zeros.
    let (from, torn) = (end + 64, random.random_range(0..400));
    if from + torn <= bytes.len() {
        let mut group = vec![0; torn];
        random.fill_bytes(&mut group);
        File::options().write(true).open(newest)?.write_all_at(&group, from as u64)?;
    }
    Ok(())
}
