//! The open batch: events go in until it closes. It is written as it grows, so closing it costs nothing: base time, the
//! page's facts, then each event behind the strings that it is the first to use. The number is not part of it yet.

use proto::limits::PROPS_MAX;
use proto::wire::{Overflow, Writer, bytes_len, uint_len, varint_len, zigzag};

use crate::given_up::{GivenUp, REPORT_BYTES_MAX};
use crate::shell::{Event, Start};

/// Bytes of an encoded batch, at most: a quarter of a frame, so that it leaves a slow line in good time and so that a
/// keepalive request, which has 64 KiB for all of a page's, carries several.
pub const BATCH_BYTES_MAX: usize = 16 * 1024;
/// Different strings in a batch, at most: the event that would need more goes into the next.
pub const STRINGS_MAX: usize = 512;

/// A sid (2 + 16), a seq of at most two bytes (1 + 2) and a class (1 + 1), which are written in front when the batch is
/// transmitted.
pub(crate) const NUMBER_BYTES_MAX: usize = 23;
/// What is left for everything else.
pub(crate) const BODY_BYTES_MAX: usize = BATCH_BYTES_MAX - NUMBER_BYTES_MAX;
/// Longer language tags than this are not sent; RFC 5646 asks for room for 35.
const LANGUAGE_BYTES_MAX: usize = 35;

// One pair more than a gateway takes: it refuses the event then, and the ledger knows why.
const PROP_REFERENCES_MAX: usize = 2 * (PROPS_MAX + 1);

/// What does not change while the page is open; every batch says it.
#[derive(Clone, Copy)]
pub(crate) struct Page {
    language: [u8; LANGUAGE_BYTES_MAX],
    language_len: u8,
    screen_width: u32,
    screen_height: u32,
    automated: bool,
}

impl Page {
    pub(crate) const fn new() -> Self {
        Self { language: [0; LANGUAGE_BYTES_MAX], language_len: 0, screen_width: 0, screen_height: 0, automated: false }
    }

    pub(crate) fn start(&mut self, start: &Start<'_>) {
        let &Start { language, screen_width, screen_height, automated, .. } = start;
        *self = Self { screen_width, screen_height, automated, ..Self::new() };
        if let Some(place) = self.language.get_mut(..language.len()) {
            place.copy_from_slice(language.as_bytes());
            self.language_len = language.len() as u8;
        }
    }

    fn language(&self) -> &[u8] {
        self.language.get(..self.language_len.into()).unwrap_or_default()
    }
}

/// Where a string lies in the body.
#[derive(Clone, Copy)]
struct Span {
    start: u16,
    len: u16,
}

/// Between events and the outbox. The bytes themselves are the outbox's, passed as `room`.
pub(crate) struct OpenBatch {
    len: usize,
    events: u32,
    opened_ms: u64,
    last_event_ms: u64,
    strings: [Span; STRINGS_MAX],
    string_count: usize,
}

impl OpenBatch {
    pub(crate) const fn new() -> Self {
        Self {
            len: 0,
            events: 0,
            opened_ms: 0,
            last_event_ms: 0,
            strings: [Span { start: 0, len: 0 }; STRINGS_MAX],
            string_count: 0,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.len != 0
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn events(&self) -> u32 {
        self.events
    }

    /// When the batch was opened, by the steady clock.
    pub(crate) fn opened_ms(&self) -> u64 {
        self.opened_ms
    }

    /// Opens the batch with its first facts; `now_ms` is the device's clock.
    pub(crate) fn open(&mut self, room: &mut [u8], page: &Page, now_ms: u64, steady_ms: u64) -> Result<(), Overflow> {
        self.discard();
        let result = self.write_head(room, page, now_ms);
        if result.is_err() {
            self.discard();
        }
        self.opened_ms = steady_ms;
        self.last_event_ms = now_ms;
        result
    }

    /// Appends the event, or leaves the batch as it was.
    pub(crate) fn append(&mut self, room: &mut [u8], event: &Event<'_>, now_ms: u64) -> Result<(), Overflow> {
        let (len, string_count) = (self.len, self.string_count);
        let result = self.write_event(room, event, now_ms);
        if result.is_ok() {
            self.events += 1;
            self.last_event_ms = now_ms;
        } else {
            (self.len, self.string_count) = (len, string_count);
        }
        result
    }

    /// Writes what was given up into the room kept for it; gives the length of the whole.
    pub(crate) fn close(&mut self, room: &mut [u8], given_up: &mut GivenUp) -> usize {
        let mut end = Writer::new(room.get_mut(self.len..).unwrap_or_default());
        given_up.report(&mut end);
        let len = self.len + end.position();
        self.discard();
        len
    }

    pub(crate) fn discard(&mut self) {
        self.len = 0;
        self.events = 0;
        self.string_count = 0;
    }

    fn write_head(&mut self, room: &mut [u8], page: &Page, now_ms: u64) -> Result<(), Overflow> {
        let mut head = self.writer(room);
        head.uint(4, now_ms);
        head.uint(8, page.screen_width.into());
        head.uint(9, page.screen_height.into());
        head.uint(11, page.automated.into());
        self.len += head.finish()?;
        let language = self.reference(room, page.language())?;
        let mut head = self.writer(room);
        head.uint(10, language.into());
        self.len += head.finish()?;
        Ok(())
    }

    fn write_event(&mut self, room: &mut [u8], event: &Event<'_>, now_ms: u64) -> Result<(), Overflow> {
        let name = self.reference(room, event.name.as_bytes())?;
        let url = self.reference(room, event.url.as_bytes())?;
        let referrer = self.reference(room, event.referrer.as_bytes())?;
        let mut references = [0; PROP_REFERENCES_MAX];
        let mut count = 0;
        for (places, (key, value)) in references.chunks_exact_mut(2).zip(event.props) {
            for (place, text) in places.iter_mut().zip([key, value]) {
                *place = self.reference(room, text.as_bytes())?;
                count += 1;
            }
        }
        let props = references.get(..count).unwrap_or_default();

        let delta_ms = zigzag(now_ms.wrapping_sub(self.last_event_ms).cast_signed());
        let fields = [(1, name.into()), (2, delta_ms), (3, url.into()), (4, referrer.into())];
        let engaged_ms = event.engaged_ms.into();
        let props_len: usize = props.iter().map(|&prop| varint_len(prop.into())).sum();
        let mut len: usize = fields.iter().map(|&(field, value)| uint_len(field, value)).sum();
        len += uint_len(6, engaged_ms);
        if props_len > 0 {
            len += bytes_len(5, props_len);
        }

        let mut writer = self.writer(room);
        writer.length(6, len);
        for (field, value) in fields {
            writer.uint(field, value);
        }
        if props_len > 0 {
            writer.length(5, props_len);
            for &prop in props {
                writer.varint(prop.into());
            }
        }
        writer.uint(6, engaged_ms);
        self.len += writer.finish()?;
        Ok(())
    }

    /// The reference to a string, which is written if the batch does not hold it yet.
    fn reference(&mut self, room: &mut [u8], text: &[u8]) -> Result<u32, Overflow> {
        if text.is_empty() {
            return Ok(0);
        }
        for (known, span) in self.strings.iter().take(self.string_count).enumerate() {
            let start = usize::from(span.start);
            if usize::from(span.len) == text.len() && room.get(start..start + text.len()) == Some(text) {
                return Ok(known as u32 + 1);
            }
        }
        let place = self.strings.get_mut(self.string_count).ok_or(Overflow)?;
        let len = self.len;
        let mut writer = Writer::new(room.get_mut(len..).and_then(without_report).unwrap_or_default());
        writer.bytes(5, text);
        let end = len + writer.finish()?;
        *place = Span { start: (end - text.len()) as u16, len: text.len() as u16 };
        self.len = end;
        self.string_count += 1;
        Ok(self.string_count as u32)
    }

    fn writer<'r>(&self, room: &'r mut [u8]) -> Writer<'r> {
        Writer::new(room.get_mut(self.len..).and_then(without_report).unwrap_or_default())
    }
}

/// The room without its end, which is kept for the report of what was given up.
fn without_report(room: &mut [u8]) -> Option<&mut [u8]> {
    let len = room.len().checked_sub(REPORT_BYTES_MAX)?;
    room.get_mut(..len)
}

// Offsets into a body are 16 bits wide.
const _: () = assert!(BODY_BYTES_MAX <= u16::MAX as usize);
