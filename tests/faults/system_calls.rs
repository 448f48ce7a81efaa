//! kill -9 at each system call in turn by which something becomes durable: of a gateway's log and outcomes, of central's store.
//!
//! The process that dies is this test program once more, running one test that is ignored otherwise ([`child`]). It works on the
//! real log or store and says what is acknowledged; whoever opens the folder after it must find that, and nothing half done.

mod child;
mod log;
mod store;
