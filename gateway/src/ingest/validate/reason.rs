//! Every reason in words: for a developer, and for a metric.

use proto::agent::Reason;

/// What is wrong and what would be right: the `message` of a `Reject`.
pub fn explain(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "no reason was given: a refusal without one is a fault of the gateway",
        Reason::Malformed => {
            "these bytes are not a Tideline frame: send one protobuf ClientFrame a WebSocket message, or one Envelope a POST body"
        }
        Reason::TextFrame => "a text message came: frames are binary; set `binaryType` and send an ArrayBuffer",
        Reason::FrameTooLarge => "the frame is larger than 64 KiB: close the batch earlier",
        Reason::HelloMissing => "the first frame of a connection must be Hello with the site's name",
        Reason::UnknownSite => "no site of this name exists: check `data-site`, or make the site in the dashboard",
        Reason::WrongOrigin => {
            "this page's origin is not one of the site's: add it to the site's origins, scheme and port included"
        }
        Reason::InvalidSid => "the sid is not a UUIDv7 of 16 bytes",
        Reason::InvalidSeq => "the seq is not within 1 and 4096: take a new sid after 4096 batches",
        Reason::SidExpired => {
            "the sid was made too long ago (2 h, or 26 h for batches of class long): send the events under a new sid stamped by `server_ms`"
        }
        Reason::SidInFuture => {
            "the sid is stamped more than 5 min ahead: the device's clock is wrong; stamp a new sid by `server_ms`"
        }
        Reason::Unavailable => {
            "this gateway takes no batches now: keep the batch and send it again, here later or to another gateway"
        }
        Reason::WrongKey => {
            "the site wants one of its keys, and what came has none or another: set `data-key` on the script tag, or `key` of Hello or Envelope"
        }
        Reason::TooManyEvents => "the batch holds more than 10,000 events: close batches earlier",
        Reason::InvalidUtf8 => "a string of the batch is not UTF-8: encode text with TextEncoder",
        Reason::BadReference => {
            "the event refers to a string behind the end of the batch's table: references begin at 1, and 0 means none"
        }
        Reason::EventTimeOutOfRange => {
            "the event is more than 26 h older than its arrival or more than 5 min ahead of it: set `sent_ms` by the same clock as the event"
        }
        Reason::InvalidEventName => "the event's name must have 1 to 120 bytes and no control characters",
        Reason::InvalidUrl => "the event's URL must be absolute, http or https, and at most 2,000 bytes long",
        Reason::InvalidProps => {
            "an event has at most 30 properties, keys of 1 to 300 bytes and values of at most 2,000 bytes, without control characters"
        }
        Reason::Bot => {
            "the user agent says that it is a program: its events are dropped, not counted; a test browser needs an ordinary user agent"
        }
        Reason::EmptyBatch => "the batch holds neither events nor anything given up: do not send it",
        Reason::OutboxFull => {
            "the agent's outbox was full: the page makes events faster than they can be sent, or was offline for long"
        }
        Reason::Expired => "the agent could not send the events in time",
        Reason::ExpiredInDoubt => {
            "the agent sent the events but had no answer before their time was over: they may have been counted"
        }
        Reason::RecordTooLarge => {
            "the batch holds more than 1 MiB once every reference is written out: send fewer events, or shorter properties, at a time"
        }
        Reason::SchemaEvent => {
            "the site's schema has no event of this name: add it to the schema, or correct the name that the page passes to tideline()"
        }
        Reason::SchemaProps => {
            "the event's properties are not what the site's schema says: add them to the schema, or correct what the page passes to tideline()"
        }
        Reason::PersonalData => {
            "something in the event looks like an e-mail address, and the site drops such events: take it out of the URL, the name and the properties"
        }
        Reason::DataCentre => {
            "the address is a data centre's by the operator's list: its events are dropped, not counted, as those of programs"
        }
        Reason::Automated => {
            "the browser says that a program drives it (navigator.webdriver): its events are dropped, not counted; for tests let the site's rule `automated` be `allow`"
        }
        Reason::ImpossibleTiming => {
            "the batch holds more than 20 pageviews within one second, which nobody opens: its events are dropped, not counted, as those of programs"
        }
        Reason::TooLarge => "one event is larger than a batch may be: shorten its properties",
    }
}

/// As a metric's label and in logs.
pub fn label(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "unspecified",
        Reason::Malformed => "malformed",
        Reason::TextFrame => "text_frame",
        Reason::FrameTooLarge => "frame_too_large",
        Reason::HelloMissing => "hello_missing",
        Reason::UnknownSite => "unknown_site",
        Reason::WrongOrigin => "wrong_origin",
        Reason::InvalidSid => "invalid_sid",
        Reason::InvalidSeq => "invalid_seq",
        Reason::SidExpired => "sid_expired",
        Reason::SidInFuture => "sid_in_future",
        Reason::Unavailable => "unavailable",
        Reason::WrongKey => "wrong_key",
        Reason::TooManyEvents => "too_many_events",
        Reason::InvalidUtf8 => "invalid_utf8",
        Reason::BadReference => "bad_reference",
        Reason::EventTimeOutOfRange => "event_time_out_of_range",
        Reason::InvalidEventName => "invalid_event_name",
        Reason::InvalidUrl => "invalid_url",
        Reason::InvalidProps => "invalid_props",
        Reason::Bot => "bot",
        Reason::EmptyBatch => "empty_batch",
        Reason::RecordTooLarge => "record_too_large",
        Reason::SchemaEvent => "schema_event",
        Reason::SchemaProps => "schema_props",
        Reason::PersonalData => "personal_data",
        Reason::DataCentre => "data_centre",
        Reason::Automated => "automated",
        Reason::ImpossibleTiming => "impossible_timing",
        Reason::OutboxFull => "outbox_full",
        Reason::Expired => "expired",
        Reason::ExpiredInDoubt => "expired_in_doubt",
        Reason::TooLarge => "too_large",
    }
}

/// Whether a batch refused for this is remembered as dropped, so that it must never be sent under another number.
pub fn is_final(reason: Reason) -> bool {
    (Reason::TooManyEvents as i32..Reason::OutboxFull as i32).contains(&(reason as i32))
}
