//! Chance comes from the seed: identifiers, jitter and the keys of hash maps all ask the C library for random bytes, which
//! here answers from the thread's own generator. A thread that has none gets the machine's.

use std::cell::RefCell;
use std::io::Read;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From now on this thread's chance follows from the seed. A new thread a run: some of it is drawn once a thread.
pub fn seed(seed: u64) {
    SEEDED.with(|seeded| *seeded.borrow_mut() = Some(StdRng::seed_from_u64(seed)));
}

/// In place of the C library's.
///
/// # Safety
/// `buffer` has room for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    // SAFETY: the caller's promise.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, len) };
    let seeded = SEEDED.try_with(|seeded| match &mut *seeded.borrow_mut() {
        Some(random) => {
            random.fill_bytes(buffer);
            true
        }
        None => false,
    });
    if seeded != Ok(true) && std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(buffer)).is_err() {
        return -1;
    }
    len.cast_signed()
}
