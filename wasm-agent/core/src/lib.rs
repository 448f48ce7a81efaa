//! The agent's core: what happens to an event between the page and the socket, without a clock, a socket, an allocator
//! or std, so that the same machine runs as WebAssembly in a page and by the thousand in a load test.
//!
//! The way of an event, file by file: [`event`](Agent::event) appends it to the open `batch`; the batch closes, gets its
//! number from `numbering` and waits in the `outbox`; [`poll`](Agent::poll) transmits it as one of the `frames` over
//! the `connection`; an answer settles it; what is never sent is `given_up`, and the next batch says so. `agent`
//! holds it all together, `shell` is what it says to the outside and hears from it.
//!
//! ```
//! use agent_core::{Agent, Command, Event, FRAME_BYTES, Start};
//!
//! let now_ms = 1_763_816_400_000; // the device's clock, Unix ms
//! let mut agent = Box::new(Agent::new());
//! agent.start(&Start { site: "demo", stamp_ms: now_ms, random: [7; 10], ..Start::default() }).expect("a short name");
//! agent.event(now_ms, &Event::pageview("https://shop.example/", "")).expect("an empty outbox has room");
//! agent.flush(now_ms);
//!
//! let mut frame = [0; FRAME_BYTES];
//! assert_eq!(agent.poll(now_ms, &mut frame), Command::Connect);
//! agent.opened(now_ms);
//! assert!(matches!(agent.poll(now_ms, &mut frame), Command::Send(_))); // Hello
//! assert!(matches!(agent.poll(now_ms, &mut frame), Command::Send(_))); // the batch
//! assert!(matches!(agent.poll(now_ms, &mut frame), Command::Wait(_))); // for the answer
//! ```
#![cfg_attr(not(test), no_std)]

mod agent;
mod batch;
mod connection;
mod frames;
mod given_up;
mod numbering;
mod outbox;
mod regions;
mod shell;

pub use agent::Agent;
pub use batch::{BATCH_BYTES_MAX, STRINGS_MAX};
pub use frames::{FRAME_BYTES, STORED_AT};
pub use given_up::Reason;
pub use outbox::{BATCHES_MAX, NotAdopted, OUTBOX_BYTES};
pub use shell::{
    Answer, BatchId, Class, Command, Event, EventNumber, Kept, Message, NotTaken, Outcome, Settled, Start, StartError,
};

/// What Hello says of the agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
