//! A batch's string table. Each string is judged once, however many events refer to it: a small batch may refer to a long string
//! a hundred thousand times.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use proto::agent::Reason;
use proto::limits;
use proto::uplink::PersonalData;
use url::Url;

use super::personal_data::{redact, redact_url};
use super::{Page, Text};
use crate::ingest::source;

/// The table, and what is known of its strings by now.
pub struct Strings<'a> {
    table: &'a [String],
    personal_data: PersonalData,
    pages: HashMap<&'a str, Option<Found<Page>>>,
    referrers: HashMap<&'a str, Option<Found<Url>>>,
    texts: Vec<OnceCell<Box<Judged<'a>>>>,
}

/// What a URL is, and whether something in it looked like personal data.
#[derive(Debug)]
pub struct Found<T> {
    pub what: Arc<T>,
    pub personal: bool,
}

impl<T> Clone for Found<T> {
    fn clone(&self) -> Self {
        Self { what: Arc::clone(&self.what), personal: self.personal }
    }
}

/// A string that is no URL.
#[derive(Debug)]
pub struct Judged<'a> {
    /// As the page meant it: tabs and line breaks are spaces.
    pub sent: Text<'a>,
    /// As it is kept.
    pub kept: Text<'a>,
    /// Something in it looked like personal data.
    pub personal: bool,
    /// The control characters in it.
    pub control: Control,
}

/// Which control characters a text has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    None,
    /// Tabs and line breaks alone.
    Blank,
    Other,
}

/// The string behind a reference; reference 0 is none.
pub fn at(table: &[String], reference: u32) -> Result<Option<&str>, Reason> {
    let Some(index) = (reference as usize).checked_sub(1) else { return Ok(None) };
    table.get(index).map(|text| Some(text.as_str())).ok_or(Reason::BadReference)
}

impl<'a> Strings<'a> {
    pub fn new(table: &'a [String], personal_data: PersonalData) -> Self {
        let texts = table.iter().map(|_| OnceCell::new()).collect();
        Self { table, personal_data, pages: HashMap::new(), referrers: HashMap::new(), texts }
    }

    pub fn at(&self, reference: u32) -> Result<Option<&'a str>, Reason> {
        at(self.table, reference)
    }

    pub fn page(&mut self, text: &'a str) -> Option<Found<Page>> {
        let parse = || {
            let (url, personal) = absolute(text, &["http", "https"], self.personal_data)?;
            let page = Page { hostname: url.host_str()?.to_owned(), path: source::path(&url), url };
            Some(Found { what: Arc::new(page), personal })
        };
        self.pages.entry(text).or_insert_with(parse).clone()
    }

    pub fn referrer(&mut self, text: &'a str) -> Option<Found<Url>> {
        let parse = || {
            let (url, personal) = absolute(text, &["http", "https", "android-app"], self.personal_data)?;
            Some(Found { what: Arc::new(url), personal })
        };
        self.referrers.entry(text).or_insert_with(parse).clone()
    }

    /// A string of at most so many bytes; `None` if there is none or it is longer.
    pub fn text(&self, reference: u32, bytes_max: usize) -> Option<&Judged<'a>> {
        let index = (reference as usize).checked_sub(1)?;
        let text = self.table.get(index).filter(|text| text.len() <= bytes_max)?;
        Some(self.texts.get(index)?.get_or_init(|| Box::new(Judged::new(text, self.personal_data))))
    }
}

impl<'a> Judged<'a> {
    fn new(text: &'a str, personal_data: PersonalData) -> Self {
        let blank = |c: char| matches!(c, '\t' | '\n' | '\r');
        let control = match text.chars().filter(|c| c.is_control()).map(blank).min() {
            None => Control::None,
            Some(true) => Control::Blank,
            Some(false) => Control::Other,
        };
        let sent = match control {
            Control::Blank => Text::Changed(text.replace(blank, " ").into()),
            Control::None | Control::Other => Text::AsSent(text),
        };
        let redacted = match personal_data {
            PersonalData::Allow => None,
            PersonalData::Redact | PersonalData::Drop => redacted(&sent),
        };
        let personal = redacted.is_some();
        Self { kept: redacted.unwrap_or_else(|| sent.clone()), sent, personal, control }
    }

    /// As it is kept where so many bytes are: what stands in place of an address may be longer than it was.
    pub fn kept(&self, bytes_max: usize) -> Text<'a> {
        if self.kept.len() <= bytes_max {
            return self.kept.clone();
        }
        Text::Changed(self.kept[..self.kept.floor_char_boundary(bytes_max)].into())
    }
}

fn redacted(text: &Text<'_>) -> Option<Text<'static>> {
    match redact(text) {
        std::borrow::Cow::Owned(redacted) => Some(Text::Changed(redacted.into())),
        std::borrow::Cow::Borrowed(_) => None,
    }
}

/// The URL as it is kept, and whether something in it looked like personal data.
fn absolute(text: &str, schemes: &[&str], personal_data: PersonalData) -> Option<(Url, bool)> {
    let mut url = (text.len() <= limits::URL_BYTES_MAX).then(|| Url::parse(text).ok())??;
    if !schemes.contains(&url.scheme()) || !url.has_host() {
        return None;
    }
    let personal = personal_data != PersonalData::Allow && redact_url(&mut url);
    Some((url, personal))
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::AsSent(text) => text,
            Self::Changed(text) => text,
        }
    }
}
