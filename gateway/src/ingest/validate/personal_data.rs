//! What looks like an e-mail address, in one pass and without going back.
//!
//! An address is a run of the characters that mailboxes have, an `@`, and a name with a dot that two letters follow. Escapes are
//! read as what they stand for, however often they were escaped: `%40` is an `@`, and so is `%2540`. It says too much rather than too
//! little: `logo@2x.png` looks like an address.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memmem};
use proto::uplink::VisitDimensions;
use url::Url;

/// Stands where something looked like an address.
pub const REDACTED: &str = "(redacted)";

/// The text, with [`REDACTED`] in place of whatever looks like an address. Borrowed if nothing does.
pub fn redact(text: &str) -> Cow<'_, str> {
    // Almost every text ends here.
    if memchr(b'@', text.as_bytes()).is_none() && memmem::find(text.as_bytes(), b"40").is_none() {
        return Cow::Borrowed(text);
    }
    let mut redacted = String::new();
    let mut kept = 0;
    for address in (Addresses { bytes: text.as_bytes(), at: 0 }) {
        redacted.push_str(&text[kept..address.start]);
        redacted.push_str(REDACTED);
        kept = address.end;
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    redacted.push_str(&text[kept..]);
    Cow::Owned(redacted)
}

/// Path, query and fragment. Whether something looked like an address.
pub fn redact_url(url: &mut Url) -> bool {
    let path = owned(redact(url.path()));
    let query = url.query().map(redact).and_then(owned);
    let fragment = url.fragment().map(redact).and_then(owned);
    let found = path.is_some() || query.is_some() || fragment.is_some();
    if let Some(path) = path {
        url.set_path(&path);
    }
    if query.is_some() {
        url.set_query(query.as_deref());
    }
    if fragment.is_some() {
        url.set_fragment(fragment.as_deref());
    }
    found
}

/// What a URL said in its own words: a value that was decoded, and stripped of what is not kept, may look like an address only then.
pub fn redact_dimensions(dimensions: &mut VisitDimensions) {
    let VisitDimensions { source, referrer, utm_source, utm_medium, utm_campaign, utm_content, utm_term, .. } =
        dimensions;
    for value in [source, referrer, utm_source, utm_medium, utm_campaign, utm_content, utm_term] {
        if let Some(redacted) = owned(redact(value)) {
            *value = redacted;
        }
    }
}

fn owned(text: Cow<'_, str>) -> Option<String> {
    match text {
        Cow::Owned(text) => Some(text),
        Cow::Borrowed(_) => None,
    }
}

/// Where a text looks like an address, from left to right.
struct Addresses<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Addresses<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        // Where the mailbox begins that may end here; and the escape directly before here that stands for no part of one.
        let (mut mailbox, mut escape) = (self.at, 0..0);
        while self.at < self.bytes.len() {
            let (byte, length) = character(self.bytes, self.at);
            let end = self.at + length;
            if byte == b'@' {
                // Where less was escaped than there, its digits may be meant as they stand.
                let digits = (escape.len() > length).then_some(escape.start);
                let start = if mailbox < self.at { Some(mailbox) } else { digits };
                if let (Some(start), Some(end)) = (start, host_end(self.bytes, end)) {
                    self.at = end;
                    return Some(start..end);
                }
            }
            if !in_mailbox(byte) {
                mailbox = end;
                escape = self.at..end;
            }
            self.at = end;
        }
        None
    }
}

/// The byte that is written here, and in how many bytes it is.
fn character(bytes: &[u8], at: usize) -> (u8, usize) {
    let mut written = (bytes[at], 1);
    let escaped = |at| Some(16 * hex(bytes, at)? + hex(bytes, at + 1)?);
    while written.0 == b'%'
        && let Some(byte) = escaped(at + written.1)
    {
        written = (byte, written.1 + 2);
    }
    written
}

fn hex(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).and_then(|&digit| char::from(digit).to_digit(16)).and_then(|digit| u8::try_from(digit).ok())
}

/// Behind the host that begins here, if one does: two letters follow a dot in it. The dots and hyphens behind it are the sentence's.
fn host_end(bytes: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut end) = (start, start);
    let mut letters = None; // directly behind the last dot
    let mut is_host = false;
    while at < bytes.len() {
        let (byte, length) = character(bytes, at);
        at += length;
        match byte {
            b'.' if at == start + length => return None,
            b'.' => letters = Some(0),
            b'-' => letters = None,
            b'0'..=b'9' => (letters, end) = (None, at),
            _ if byte.is_ascii_alphabetic() || !byte.is_ascii() => {
                letters = letters.map(|letters| letters + 1);
                is_host |= letters >= Some(2);
                end = at;
            }
            _ => break,
        }
    }
    is_host.then_some(end)
}

/// Less than the standards allow, so that an address in a query or a list ends at its delimiter.
fn in_mailbox(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"._+-'~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_looks_like_an_address_is_replaced_and_nothing_else() {
        for (text, redacted) in [
            ("jane@shop.example", "(redacted)"),
            ("mail jane.doe+news@mail.shop.example, please", "mail (redacted), please"),
            ("Write to jane@shop.example.", "Write to (redacted)."),
            ("<jane@shop.example>;bob@shop.example", "<(redacted)>;(redacted)"),
            ("a@b.co@c.de", "(redacted)@c.de"),
            ("a@b.co.@c.de", "(redacted)(redacted)"),
            ("x@y@b.co", "x@(redacted)"),
            ("jürgen@bücher.example", "(redacted)"),
            ("email=jane%40shop.example&plan=pro", "email=(redacted)&plan=pro"),
            ("next=%2Freset%3Femail%3Djane%2540shop%252Eexample%26x", "next=%2Freset%3Femail%3D(redacted)%26x"),
            ("jane%2bnews%40shop%2eexample", "(redacted)"),
            ("hi%20@shop.example", "hi(redacted)"),
            ("100%@shop.example", "100%@shop.example"),
            ("/@jane.doe/status", "/@jane.doe/status"),
            ("@shop.example", "@shop.example"),
            ("jane@localhost", "jane@localhost"),
            ("lodash@4.17.21/index.js", "lodash@4.17.21/index.js"),
            ("jane@.example", "jane@.example"),
            ("jane@shop.e", "jane@shop.e"),
            ("1 @ 2.50", "1 @ 2.50"),
            ("%40", "%40"),
            ("40 %", "40 %"),
            ("", ""),
        ] {
            assert_eq!(redact(text), redacted, "{text}");
        }
    }

    #[test]
    fn a_url_is_redacted_where_its_author_wrote_and_stays_a_url() {
        let mut url =
            Url::parse("https://u@shop.example/u/jane@shop.example/b?to=jane%40shop.example&x=1#jane@shop.example")
                .unwrap();
        assert!(redact_url(&mut url));
        assert_eq!(url.as_str(), "https://u@shop.example/u/(redacted)/b?to=(redacted)&x=1#(redacted)");
        assert!(!redact_url(&mut url));
    }

    #[test]
    fn what_was_decoded_is_looked_at_again() {
        let utm_source = "jane@shop.example".to_owned();
        let mut dimensions = VisitDimensions { utm_source, source: "Google".into(), ..Default::default() };
        redact_dimensions(&mut dimensions);
        assert_eq!((&*dimensions.utm_source, &*dimensions.source), (REDACTED, "Google"));
    }

    #[test]
    fn the_time_grows_with_the_text_alone() {
        // Each would take hours if every `@`, or every escape, were followed to the end.
        for part in ["a@", "@", "%40", "a@b", "%25", "a@b-", "a@b.", "%2540"] {
            let text = part.repeat(1_000_000);
            assert_eq!(redact(&text), text, "{part}");
        }
        assert_eq!(redact(&"a@b.co ".repeat(100_000)), "(redacted) ".repeat(100_000));
    }

    /// Slowly, and in other words: some part of the text, as it stands or decoded, is an address.
    fn has_an_address(text: &[u8]) -> bool {
        let host = |host: &[u8]| {
            let name = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii() || b".-".contains(byte);
            let letter = |byte: &u8| byte.is_ascii_alphabetic() || !byte.is_ascii();
            let host = &host[..host.iter().position(|byte| !name(byte)).unwrap_or(host.len())];
            let tops = host.windows(3).skip(1);
            host.first() != Some(&b'.') && tops.into_iter().any(|w| w[0] == b'.' && letter(&w[1]) && letter(&w[2]))
        };
        let is_address = |at: usize| text[at] == b'@' && at > 0 && in_mailbox(text[at - 1]) && host(&text[at + 1..]);
        if (0..text.len()).any(is_address) {
            return true;
        }
        let decoded = decoded_once(text);
        decoded != text && has_an_address(&decoded)
    }

    fn decoded_once(text: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let digits = text.get(at + 1..at + 3).filter(|_| text[at] == b'%');
            let byte = digits.and_then(|digits| str::from_utf8(digits).ok());
            match byte.filter(|digits| !digits.contains('+')).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) => (decoded, at) = ([decoded, vec![byte]].concat(), at + 3),
                None => (decoded, at) = ([decoded, vec![text[at]]].concat(), at + 1),
            }
        }
        decoded
    }

    /// Texts in which addresses are likely, whole, escaped or broken.
    fn text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[a-d.]{1,3}",
            4 => Just("@".to_owned()),
            2 => prop::sample::select(vec!["%40", "%2540", "%252540", "%2E", "%25", "%20", "%2520", "%", "%6a", "ü", "%C3%BC"])
                .prop_map(str::to_owned),
            1 => "[ /&=?<>,4052(-]{1,2}",
            1 => any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn nothing_that_looks_like_an_address_is_left(text in text()) {
            let redacted = redact(&text);
            prop_assert!(!has_an_address(redacted.as_bytes()), "{redacted}");
            prop_assert_eq!(redact(&redacted), &*redacted, "redacting twice changes nothing");
            // What is escaped on one side of the `@` and not on the other may be an address either way: too much rather than too little.
            let escaped = text.contains('%');
            prop_assert!(escaped || has_an_address(text.as_bytes()) || redacted == text, "{} became {}", text, redacted);
        }

        #[test]
        fn what_is_cut_off_behind_is_as_clean(text in text(), cut in 0usize..60) {
            let mut redacted = redact(&text).into_owned();
            redacted.truncate(redacted.floor_char_boundary(cut));
            prop_assert!(!has_an_address(redacted.as_bytes()), "{redacted}");
        }
    }
}
