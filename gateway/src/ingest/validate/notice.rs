//! What a site in debug mode is told of its events, in the site's own words: never a name or a value that the page sent.

use proto::agent::Reason;

use super::reason::explain;
use super::schema::Breach;

/// Notices of one batch; what is beyond is not told.
pub const NOTICES_MAX: usize = 20;

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its index in the batch.
    pub event: u32,
    /// Why.
    pub reason: Reason,
    /// For a developer.
    pub message: String,
}

impl Notice {
    /// It is not counted.
    pub fn dropped(event: u32, reason: Reason, breach: Option<Breach<'_>>) -> Self {
        Self { event, reason, message: format!("not counted: {}", words(reason, breach)) }
    }

    /// It is counted, and would not be if the schema were enforced.
    pub fn observed(event: u32, breach: Breach<'_>) -> Self {
        let reason = breach.reason();
        let message = format!("counted, but an enforced schema would drop it: {}", words(reason, Some(breach)));
        Self { event, reason, message }
    }

    /// It is counted without something.
    pub fn redacted(event: u32) -> Self {
        let message = "counted as `(redacted)` where something looks like an e-mail address: take it out of the URL, the \
                       name and the properties";
        Self { event, reason: Reason::PersonalData, message: message.to_owned() }
    }
}

fn words(reason: Reason, breach: Option<Breach<'_>>) -> String {
    match breach {
        None | Some(Breach::Event) => explain(reason).to_owned(),
        Some(Breach::Unlisted(place)) => format!(
            "the site's schema does not list its property number {}: add it to the schema, or do not pass it to tideline()",
            place + 1
        ),
        Some(Breach::Missing(key)) => {
            format!("the site's schema requires the property `{key}`, and it is not there: pass it to tideline()")
        }
        Some(Breach::Unfit(key)) => format!(
            "the property `{key}` has a value that does not fit the site's schema: correct it, or change the schema"
        ),
    }
}
