//! Why events are not counted, for people: a name, what happened, what to do about it.

use proto::agent::Reason;

/// Who let go of the events of a ledger row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nobody: they are counted.
    Counted,
    /// The gateway, finally: the batch came, these of its events are not counted.
    Dropped,
    /// The agent: they were never sent, or never taken, and it said so in a later batch.
    GivenUp,
}

/// What the ledger's number means. Only these reasons are final answers of a gateway; with all others a batch is not taken,
/// and it is the agent that reports in the end what became of its events.
pub(super) fn kind(reason: u32) -> Kind {
    match reason {
        0 => Kind::Counted,
        32..64 => Kind::Dropped,
        _ => Kind::GivenUp,
    }
}

/// The reason's name: that of the wire, in lower case and without its prefix. `reason_99` for one that a newer gateway knows.
pub(super) fn name(reason: u32) -> String {
    match known(reason) {
        Some(Reason::Unspecified) => "counted".to_owned(),
        Some(known) => known.as_str_name().trim_start_matches("REASON_").to_ascii_lowercase(),
        None => format!("reason_{reason}"),
    }
}

/// What happened, and what to do about it.
pub(super) fn words(reason: u32) -> [&'static str; 2] {
    match known(reason) {
        Some(Reason::Unspecified) => ["Counted", ""],
        Some(Reason::Malformed) => [
            "The gateway could not read what the page sent",
            "Load tideline.js from your own gateway, so that both have the same version; a proxy must not change bodies",
        ],
        Some(Reason::TextFrame) => {
            ["A frame came as text instead of bytes", "Only own clients do this: send binary WebSocket messages"]
        }
        Some(Reason::FrameTooLarge) => {
            ["A message was larger than a gateway takes", "Only own clients do this: send smaller batches"]
        }
        Some(Reason::HelloMissing) => {
            ["A connection did not say which site it is for", "Only own clients do this: send Hello first"]
        }
        Some(Reason::UnknownSite) => {
            ["The gateway did not know the site", "Compare data-site in the snippet with the site's name"]
        }
        Some(Reason::WrongOrigin) => [
            "The page is not on one of the site's origins",
            "Add the origin to the site if the page is yours; otherwise somebody copied your snippet",
        ],
        Some(Reason::InvalidSid | Reason::InvalidSeq) => {
            ["A batch had no valid number", "Only own clients do this: number batches as the wire contract says"]
        }
        Some(Reason::SidExpired) => [
            "A batch came too long after its stream began, or the device's clock was wrong",
            "Nothing, if they are few; if many, look whether gateways were out of reach for hours",
        ],
        Some(Reason::SidInFuture) => ["The device's clock was ahead", "Nothing, if they are few"],
        Some(Reason::Unavailable) => {
            ["Gateways took nothing, for longer than the page stayed", "Look at the gateways' /ready and their log"]
        }
        Some(Reason::WrongKey) => [
            "The page or app did not present one of the site's keys",
            "Put a key of the site into data-key, or let key_required be false; an app with a key that was deleted needs a new one",
        ],
        Some(Reason::TooManyEvents) => {
            ["More than 10,000 events in one batch", "Look for a script that sends events in a loop"]
        }
        Some(Reason::InvalidUtf8) => ["A text was not valid UTF-8", "Only own clients do this: send UTF-8"],
        Some(Reason::BadReference) => {
            ["An event referred to a text that its batch does not hold", "Only own clients do this: check the encoder"]
        }
        Some(Reason::EventTimeOutOfRange) => [
            "The event's time cannot be: too old, or in the future",
            "Nothing, if they are few: a device's clock jumped",
        ],
        Some(Reason::InvalidEventName) => [
            "The event's name is empty, over 120 bytes, or has control characters",
            "Look at the names that your page passes to tideline()",
        ],
        Some(Reason::InvalidUrl) => [
            "The page's address is not an http or https URL of at most 2,000 bytes",
            "Look for pages opened from files or with very long addresses",
        ],
        Some(Reason::InvalidProps) => [
            "An event has more than 30 properties, a key over 300 bytes, a value over 2,000 bytes, or control characters",
            "Pass fewer or shorter properties to tideline()",
        ],
        Some(Reason::Bot) => ["A program visited, by its own words", "Nothing: programs are not visitors"],
        Some(Reason::EmptyBatch) => ["A batch held nothing", "Only own clients do this: send no empty batches"],
        Some(Reason::RecordTooLarge) => [
            "A batch's events took over 1 MiB, every name, page and property written out",
            "Pass fewer or shorter properties to tideline()",
        ],
        Some(Reason::SchemaEvent) => [
            "The site's schema has no event of this name",
            "Add it to the site's rules, or correct the name that the page passes to tideline()",
        ],
        Some(Reason::SchemaProps) => [
            "The event's properties are not what the site's schema says",
            "Correct the site's rules or the page; with `debug` on, the browser's console says which property it is",
        ],
        Some(Reason::PersonalData) => [
            "Something in the event looked like an e-mail address",
            "Take it out of the URL, the event's name and its properties, or let `personal_data` be `redact`",
        ],
        Some(Reason::DataCentre) => [
            "The visit came from a data centre, by the operator's list: a program, or somebody behind a VPN",
            "Nothing: programs are not visitors. If people are among them, ask the operator about the list",
        ],
        Some(Reason::Automated) => [
            "The browser said that a program drives it",
            "Nothing: programs are not visitors. To count your own tests, let `automated` be `allow` in the site's rules",
        ],
        Some(Reason::ImpossibleTiming) => [
            "More than 20 pageviews within a second: a program, or a page that calls itself",
            "Nothing, if it is a program; else look for a script that changes the page's address in a loop",
        ],
        Some(Reason::OutboxFull) => [
            "The page collected more than it could keep while it could not send",
            "Look whether gateways were out of reach, or for a script that sends events in a loop",
        ],
        Some(Reason::Expired) => [
            "The page could not send in time",
            "Look whether gateways were out of reach; visitors without network are normal",
        ],
        Some(Reason::ExpiredInDoubt) => [
            "The page sent and never heard whether it arrived: it may be counted",
            "Look whether gateways were out of reach",
        ],
        Some(Reason::TooLarge) => {
            ["One event alone was larger than a batch may be", "Pass fewer or shorter properties to tideline()"]
        }
        None => ["A reason that this version does not know", "Run central in the version of its gateways"],
    }
}

fn known(reason: u32) -> Option<Reason> {
    i32::try_from(reason).ok().and_then(|reason| Reason::try_from(reason).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_wire_has_its_words() {
        let known: Vec<u32> = (0..1000).filter(|&reason| known(reason).is_some()).collect();
        assert_eq!(known.len(), 33);
        for reason in known.into_iter().skip(1) {
            let [what, advice] = words(reason);
            assert!(!what.is_empty() && !advice.is_empty(), "{}", name(reason));
        }
        assert_eq!((name(39), name(65), name(0)), ("bot".to_owned(), "expired".to_owned(), "counted".to_owned()));
        assert_eq!((kind(39), kind(65), kind(9)), (Kind::Dropped, Kind::GivenUp, Kind::GivenUp));
    }
}
