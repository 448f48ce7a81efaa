//! What the page calls. None of these calls anything outside, so none can run inside another.

use core::cell::UnsafeCell;

use agent_core::{
    Agent, Answer, BATCH_BYTES_MAX, BatchId, Class, Command, Event, FRAME_BYTES, Kept, NotAdopted, Reason, Start,
};

/// What an event that fits no batch would not fit either. Offsets into it are 16 bits wide ([`receive`]).
const INPUT_BYTES: usize = BATCH_BYTES_MAX;
const RANDOM_BYTES: usize = 10;
/// One pair more than a gateway takes: it refuses the event then, and the ledger knows why.
const PROPS_MAX: usize = 31;

const POLL_CONNECT: i32 = -1;
const POLL_DISCONNECT: i32 = -2;
const POLL_STOPPED: i32 = -3;
/// [`poll`] says what to store by adding this to its length.
const POLL_STORE: i32 = 1 << 16;

struct Page {
    agent: Agent,
    input: [u8; INPUT_BYTES],
    output: [u8; FRAME_BYTES],
}

struct OneThread(UnsafeCell<Page>);

// SAFETY: a WebAssembly instance without shared memory has one thread.
unsafe impl Sync for OneThread {}

static PAGE: OneThread =
    OneThread(UnsafeCell::new(Page { agent: Agent::new(), input: [0; INPUT_BYTES], output: [0; FRAME_BYTES] }));

fn page() -> &'static mut Page {
    // SAFETY: one thread, and exports do not nest: this reference is the only one until the export returns.
    unsafe { &mut *PAGE.0.get() }
}

/// Where the page writes what it says.
#[unsafe(no_mangle)]
pub extern "C" fn input() -> *const u8 {
    PAGE.0.get().cast::<u8>().wrapping_add(core::mem::offset_of!(Page, input))
}

/// The bytes of [`input`].
#[unsafe(no_mangle)]
pub extern "C" fn input_bytes() -> usize {
    INPUT_BYTES
}

/// Where the page reads what there is to send.
#[unsafe(no_mangle)]
pub extern "C" fn output() -> *const u8 {
    PAGE.0.get().cast::<u8>().wrapping_add(core::mem::offset_of!(Page, output))
}

/// Input: 10 random bytes, the site, the language. `class` as in [`set_class`]; `automated` is not 0 where a
/// program drives the browser. Not 0 if the agent has started.
#[unsafe(no_mangle)]
pub extern "C" fn start(
    stamp_ms: f64,
    first_seq: u32,
    class: u32,
    site_bytes: usize,
    language_bytes: usize,
    screen_width: u32,
    screen_height: u32,
    automated: u32,
) -> u32 {
    let Page { agent, input, .. } = page();
    let Some((random, rest)) = input.split_first_chunk::<RANDOM_BYTES>() else { return 0 };
    let Some((site, rest)) = rest.split_at_checked(site_bytes) else { return 0 };
    let Some((language, _)) = rest.split_at_checked(language_bytes) else { return 0 };
    let start = Start {
        site: text(site),
        stamp_ms: stamp_ms as u64,
        random: *random,
        first_seq,
        class: class_of(class),
        language: text(language),
        screen_width,
        screen_height,
        automated: automated != 0,
    };
    u32::from(agent.start(&start).is_ok())
}

/// Input: a batch that the page has numbered and sent.
#[unsafe(no_mangle)]
pub extern "C" fn adopt(bytes: usize) {
    let Page { agent, input, .. } = page();
    // One that is not taken has been sent all the same; there is nothing to be done about it here.
    let _ = agent.adopt(input.get(..bytes).unwrap_or_default());
}

/// Input: a batch out of the device's store; `sent` is not 0 if it may have been sent. 1: taken over; 0: no room yet; 2: it is
/// no batch.
#[unsafe(no_mangle)]
pub extern "C" fn restore(now_ms: f64, bytes: usize, sent: u32) -> u32 {
    let Page { agent, input, .. } = page();
    match agent.restore(now_ms as u64, input.get(..bytes).unwrap_or_default(), sent != 0) {
        Ok(()) => 1,
        Err(NotAdopted::NoRoom) => 0,
        Err(NotAdopted::Malformed) => 2,
    }
}

/// 1: new batches are stored on the device; 0: they are not.
#[unsafe(no_mangle)]
pub extern "C" fn set_class(now_ms: f64, class: u32) {
    page().agent.set_class(now_ms as u64, class_of(class));
}

/// Writes the next batch to be stored into the output, for a page that goes and posts it; 0 if there is none. The byte behind
/// it is part of what `Command::Store` says.
#[unsafe(no_mangle)]
pub extern "C" fn store() -> usize {
    let Page { agent, output, .. } = page();
    agent.store(output).unwrap_or(0)
}

/// Input: the 20 bytes of a number. What came of storing it: 0 it is elsewhere, 1 stored, 2 in memory.
#[unsafe(no_mangle)]
pub extern "C" fn stored(now_ms: f64, kept: u32) {
    let Page { agent, input, .. } = page();
    let Some((sid, rest)) = input.split_first_chunk() else { return };
    let Some((seq, _)) = rest.split_first_chunk() else { return };
    let kept = match kept {
        0 => Kept::Elsewhere,
        1 => Kept::Stored,
        _ => Kept::InMemory,
    };
    agent.stored(now_ms as u64, &BatchId { sid: *sid, seq: u32::from_be_bytes(*seq) }, kept);
}

/// Input: name, URL, referrer, then keys and values in turn, each behind its length as two bytes, little-endian.
#[unsafe(no_mangle)]
pub extern "C" fn event(now_ms: f64, bytes: usize) {
    let Page { agent, input, .. } = page();
    let mut rest = input.get(..bytes).unwrap_or_default();
    let mut next = || -> Option<&str> {
        let (len, after) = rest.split_first_chunk()?;
        let (string, after) = after.split_at_checked(u16::from_le_bytes(*len).into())?;
        rest = after;
        Some(text(string))
    };
    let [name, url, referrer] = [next(), next(), next()].map(Option::unwrap_or_default);
    let mut props = [("", ""); PROPS_MAX];
    let mut count = 0;
    for place in &mut props {
        let (Some(key), Some(value)) = (next(), next()) else { break };
        *place = (key, value);
        count += 1;
    }
    let props = props.get(..count).unwrap_or_default();
    // What is not taken is in the agent's report.
    let _ = agent.event(now_ms as u64, &Event { name, url, referrer, props, engaged_ms: 0 });
}

/// Events that the page has given up; the reason's number in agent.proto.
#[unsafe(no_mangle)]
pub extern "C" fn give_up(now_ms: f64, reason: u32, events: u32) {
    page().agent.give_up(now_ms as u64, Reason(reason), events);
}

/// Writes the number of a batch that is to be deleted from the store into the output; 0 if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn settled() -> u32 {
    let Page { agent, output, .. } = page();
    while let Some(settled) = agent.settled() {
        if settled.stored {
            write_number(output, &settled.id);
            return 1;
        }
    }
    0
}

/// Closes the open batch.
#[unsafe(no_mangle)]
pub extern "C" fn flush(now_ms: f64) {
    page().agent.flush(now_ms as u64);
}

/// The connection is open.
#[unsafe(no_mangle)]
pub extern "C" fn opened(now_ms: f64) {
    page().agent.opened(now_ms as u64);
}

/// The connection is gone; `on_purpose` is not 0 if the page closed it.
#[unsafe(no_mangle)]
pub extern "C" fn closed(now_ms: f64, on_purpose: u32) {
    page().agent.closed(now_ms as u64, on_purpose != 0);
}

/// Input: a frame from the gateway. Where the agent has stopped because of it, or it has something for a developer: the message's
/// place in the input in the upper 16 bits, its length in the lower. Otherwise 0.
#[unsafe(no_mangle)]
pub extern "C" fn receive(now_ms: f64, bytes: usize) -> u32 {
    let Page { agent, input, .. } = page();
    match agent.receive(now_ms as u64, input.get(..bytes).unwrap_or_default()) {
        Answer::Stopped(_, message) | Answer::Noticed(message) => {
            let place = (message.as_ptr() as usize).wrapping_sub(input.as_ptr() as usize);
            (place << 16 | message.len()) as u32
        }
        _ => 0,
    }
}

/// What to do next: 0 < n < 65,536, send so many bytes of the output; n ≥ 65,536, store the first n − 65,536 of them
/// (`Command::Store`); 0, delete the number in its first 20 bytes from the store; −1 connect, −2 disconnect, −3 nothing ever
/// again; n ≤ −4, nothing for −4 − n ms.
#[unsafe(no_mangle)]
pub extern "C" fn poll(now_ms: f64) -> i32 {
    let Page { agent, output, .. } = page();
    loop {
        return match agent.poll(now_ms as u64, output) {
            Command::Settled(settled) if settled.stored => {
                write_number(output, &settled.id);
                0
            }
            Command::Settled(_) => continue,
            Command::Store(bytes) => POLL_STORE + bytes as i32,
            Command::Send(bytes) => bytes as i32,
            Command::Connect => POLL_CONNECT,
            Command::Disconnect => POLL_DISCONNECT,
            Command::Stopped => POLL_STOPPED,
            Command::Wait(ms) => -4 - ms as i32,
        };
    }
}

/// Writes the next body for `POST /v1/batch` into the output and gives its length; 0 if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn post(now_ms: f64) -> usize {
    let Page { agent, output, .. } = page();
    agent.post(now_ms as u64, output).unwrap_or(0)
}

fn write_number(output: &mut [u8; FRAME_BYTES], id: &BatchId) {
    let (sid, seq) = output.split_at_mut(id.sid.len());
    sid.copy_from_slice(&id.sid);
    if let Some(place) = seq.first_chunk_mut() {
        *place = id.seq.to_be_bytes();
    }
}

fn class_of(class: u32) -> Class {
    if class == 0 { Class::Short } else { Class::Long }
}

fn text(bytes: &[u8]) -> &str {
    // SAFETY: the page writes strings with TextEncoder, which writes UTF-8 and nothing else; the agent copies and compares
    // bytes and never looks for a character. A check would cost 1 KB of a module of a few.
    unsafe { core::str::from_utf8_unchecked(bytes) }
}

const _: () = assert!(INPUT_BYTES <= 1 << 16);
