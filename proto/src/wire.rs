//! Protobuf primitives over slices, without std and without an allocator: what the agent's core writes and reads.
//!
//! A [`Writer`] never panics and never writes past its slice: what does not fit sets a flag that [`Writer::finish`]
//! reports, so a message is written without a check per field. A [`Reader`] takes any bytes whatsoever.

/// The slice was too short for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// The bytes are not protobuf fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

const WIRE_VARINT: u32 = 0;
const WIRE_FIXED64: u32 = 1;
const WIRE_BYTES: u32 = 2;
const WIRE_FIXED32: u32 = 5;
const VARINT_BYTES_MAX: usize = 10;

/// Writes fields one after the other.
#[derive(Debug)]
pub struct Writer<'b> {
    bytes: &'b mut [u8],
    len: usize,
    overflowed: bool,
}

impl<'b> Writer<'b> {
    /// Starts at the beginning of `bytes`.
    pub fn new(bytes: &'b mut [u8]) -> Self {
        Self { bytes, len: 0, overflowed: false }
    }

    /// The length of what was written, if all of it fitted.
    pub fn finish(self) -> Result<usize, Overflow> {
        if self.overflowed { Err(Overflow) } else { Ok(self.len) }
    }

    /// How many bytes are written so far.
    pub fn position(&self) -> usize {
        self.len
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        match self.bytes.get_mut(self.len..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.overflowed = true,
        }
    }

    /// A varint without a tag.
    pub fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// An unsigned field; the default, 0, is not written.
    pub fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, WIRE_VARINT);
            self.varint(value);
        }
    }

    /// A `sint32` or `sint64` field; the default, 0, is not written.
    pub fn sint(&mut self, field: u32, value: i64) {
        self.uint(field, zigzag(value));
    }

    /// A `string`, `bytes` or message field, empty ones included: in a repeated field they count.
    pub fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.length(field, bytes.len());
        self.raw(bytes);
    }

    /// The head of a field of which `len` bytes follow.
    pub fn length(&mut self, field: u32, len: usize) {
        self.tag(field, WIRE_BYTES);
        self.varint(len as u64);
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.varint(u64::from(field) << 3 | u64::from(wire));
    }

    fn byte(&mut self, byte: u8) {
        match self.bytes.get_mut(self.len) {
            Some(place) => {
                *place = byte;
                self.len += 1;
            }
            None => self.overflowed = true,
        }
    }
}

/// The bytes of a varint.
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// The bytes of an unsigned field, 0 for the default.
pub fn uint_len(field: u32, value: u64) -> usize {
    if value == 0 { 0 } else { varint_len(u64::from(field) << 3) + varint_len(value) }
}

/// The bytes of a field of `len` bytes, its head included.
pub fn bytes_len(field: u32, len: usize) -> usize {
    varint_len(u64::from(field) << 3) + varint_len(len as u64) + len
}

/// Signed numbers in the order 0, −1, 1, −2, …, so that small ones are short.
pub fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// What [`zigzag`] made of a number, undone.
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// A field's value as the wire tells it apart; its meaning is the schema's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'b> {
    /// uint, sint, bool or enum.
    Varint(u64),
    /// double, fixed64 or sfixed64: little-endian bits.
    Fixed64(u64),
    /// string, bytes, a message or packed numbers.
    Bytes(&'b [u8]),
    /// float, fixed32 or sfixed32: little-endian bits.
    Fixed32(u32),
}

/// The fields of a message, in the order of the wire. Groups, which proto3 does not have, are malformed. After an error
/// there is nothing more.
#[derive(Debug, Clone)]
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// Reads one message, whose end is the end of `message`.
    pub fn new(message: &'b [u8]) -> Self {
        Self { rest: message }
    }

    /// What is not read yet.
    pub fn rest(&self) -> &'b [u8] {
        self.rest
    }

    fn field(&mut self) -> Result<(u32, Value<'b>), Malformed> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        let field = tag >> 3;
        if field == 0 {
            return Err(Malformed);
        }
        let value = match tag & 7 {
            WIRE_VARINT => Value::Varint(self.varint()?),
            WIRE_FIXED64 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            WIRE_FIXED32 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            WIRE_BYTES => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            _ => return Err(Malformed),
        };
        Ok((field, value))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (place, &byte) in self.rest.iter().enumerate().take(VARINT_BYTES_MAX) {
            if place == VARINT_BYTES_MAX - 1 && byte > 1 {
                break; // more than 64 bits
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                self.rest = &self.rest[place + 1..];
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, len: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }
}

impl<'b> Iterator for Reader<'b> {
    type Item = Result<(u32, Value<'b>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// The numbers of a packed field. After an error there is nothing more.
#[derive(Debug, Clone)]
pub struct Packed<'b>(Reader<'b>);

impl<'b> Packed<'b> {
    /// Reads the payload of a packed field of varints.
    pub fn new(payload: &'b [u8]) -> Self {
        Self(Reader::new(payload))
    }
}

impl Iterator for Packed<'_> {
    type Item = Result<u64, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.rest.is_empty() {
            return None;
        }
        let number = self.0.varint();
        if number.is_err() {
            self.0.rest = &[];
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests;
