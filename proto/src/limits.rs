//! Bounds that both ends hold.

/// The highest number of a batch within its sid; the first is 1.
pub const SEQ_MAX: u32 = 4096;
/// Batches that an agent may have sent without an answer.
pub const IN_FLIGHT_MAX: usize = 8;
/// Events in one batch.
pub const EVENTS_MAX: usize = 10_000;
/// Bytes of one WebSocket frame.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one WebSocket message, in however many frames, and of one POST body.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of an event's name.
pub const EVENT_NAME_BYTES_MAX: usize = 120;
/// Bytes of a page's or referrer's URL.
pub const URL_BYTES_MAX: usize = 2_000;
/// Properties of one event.
pub const PROPS_MAX: usize = 30;
/// Bytes of a property's key.
pub const PROP_KEY_BYTES_MAX: usize = 300;
/// Bytes of a property's value.
pub const PROP_VALUE_BYTES_MAX: usize = 2_000;
/// A sid is replaced once it is this old.
pub const SID_ROTATES_MS: u64 = 60 * 60 * 1000;
/// A batch of class short is accepted this long after its sid's stamp.
pub const ACCEPT_SHORT_MS: u64 = 2 * 60 * 60 * 1000;
/// A batch of class long is accepted this long after its sid's stamp.
pub const ACCEPT_LONG_MS: u64 = 26 * 60 * 60 * 1000;
/// A sid may be stamped this much ahead of the region's clock.
pub const SID_AHEAD_MS: u64 = 5 * 60 * 1000;
/// The name of the event that is a pageview.
pub const PAGEVIEW: &str = "pageview";
