//! What the page calls. None of these calls anything outside, so none can run inside another.

use core::cell::UnsafeCell;

use agent_core::{Agent, Answer, BATCH_BYTES_MAX, Command, Event, FRAME_BYTES, Reason, Start};

/// What an event that fits no batch would not fit either. Offsets into it are 16 bits wide ([`receive`]).
const INPUT_BYTES: usize = BATCH_BYTES_MAX;
const RANDOM_BYTES: usize = 10;
/// One pair more than a gateway takes: it refuses the event then, and the ledger knows why.
const PROPS_MAX: usize = 31;

const POLL_CONNECT: i32 = -1;
const POLL_DISCONNECT: i32 = -2;
const POLL_STOPPED: i32 = -3;

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

/// Input: 10 random bytes, the site, the language. Not 0 if the agent has started.
#[unsafe(no_mangle)]
pub extern "C" fn start(
    stamp_ms: f64,
    first_seq: u32,
    site_bytes: usize,
    language_bytes: usize,
    screen_width: u32,
    screen_height: u32,
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
        language: text(language),
        screen_width,
        screen_height,
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

/// Input: a frame from the gateway. Where the agent has stopped because of it: the message's place in the input in the
/// upper 16 bits, its length in the lower. Otherwise 0.
#[unsafe(no_mangle)]
pub extern "C" fn receive(now_ms: f64, bytes: usize) -> u32 {
    let Page { agent, input, .. } = page();
    match agent.receive(now_ms as u64, input.get(..bytes).unwrap_or_default()) {
        Answer::Stopped(_, message) => {
            let place = (message.as_ptr() as usize).wrapping_sub(input.as_ptr() as usize);
            (place << 16 | message.len()) as u32
        }
        _ => 0,
    }
}

/// What to do next: n > 0, send so many bytes of the output; −1 connect, −2 disconnect, −3 nothing ever again; n ≤ −4,
/// nothing for −4 − n ms.
#[unsafe(no_mangle)]
pub extern "C" fn poll(now_ms: f64) -> i32 {
    let Page { agent, output, .. } = page();
    loop {
        return match agent.poll(now_ms as u64, output) {
            Command::Settled(_) => continue,
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

fn text(bytes: &[u8]) -> &str {
    // SAFETY: the page writes strings with TextEncoder, which writes UTF-8 and nothing else; the agent copies and compares
    // bytes and never looks for a character. A check would cost 1 KB of a module of a few.
    unsafe { core::str::from_utf8_unchecked(bytes) }
}

const _: () = assert!(INPUT_BYTES <= 1 << 16);
