//! The frames as bytes: what an agent says and what a gateway answers (proto/schema/agent.proto).

use proto::wire::{Malformed, Overflow, Packed, Reader, Value, Writer, bytes_len, uint_len};

use crate::VERSION;
use crate::batch::BATCH_BYTES_MAX;
use crate::given_up::Reason;
use crate::numbering::Number;
use crate::regions::{REGION_BYTES_MAX, REGIONS_MAX};
use crate::shell::{BatchId, Class};

/// Longer names are no site's: a domain name has at most 253 bytes.
pub(crate) const SITE_BYTES_MAX: usize = 253;

/// Room for every frame that an agent sends: frame head (4), site (3 + 253), regions (2 + 32 each), `sent_ms` (11), the
/// head of the batch (4) and the batch. A gateway takes 64 KiB.
pub const FRAME_BYTES: usize = 4 + 3 + SITE_BYTES_MAX + REGIONS_MAX * (2 + REGION_BYTES_MAX) + 11 + 4 + BATCH_BYTES_MAX;
const _: () = assert!(FRAME_BYTES <= proto::limits::FRAME_BYTES_MAX);

/// Where the batch begins in what is [to be stored](crate::Command::Store): behind two numbers.
pub const STORED_AT: usize = 2 * NAME_BYTES;
const NAME_BYTES: usize = 16 + 4;
const _: () = assert!(STORED_AT + BATCH_BYTES_MAX < FRAME_BYTES);

/// Writes what is to be stored, and behind that, not counted, whether it may have been sent.
pub(crate) fn write_stored(
    frame: &mut [u8],
    replaces: &BatchId,
    number: &Number,
    body: &[u8],
    sent: bool,
) -> Result<usize, Overflow> {
    let mut writer = Writer::new(frame);
    for id in [replaces, &number.id] {
        writer.raw(&id.sid);
        writer.raw(&id.seq.to_be_bytes());
    }
    write_batch(&mut writer, number, body);
    let len = writer.position();
    writer.raw(&[sent.into()]);
    writer.finish().map(|_| len)
}

/// Writes ClientFrame{Hello}.
pub(crate) fn write_hello(frame: &mut [u8], site: &[u8]) -> Result<usize, Overflow> {
    let mut writer = Writer::new(frame);
    writer.length(1, bytes_len(1, site.len()) + bytes_len(2, VERSION.len()));
    writer.bytes(1, site);
    writer.bytes(2, VERSION.as_bytes());
    writer.finish()
}

/// One transmission of a batch.
pub(crate) struct Envelope<'b, R> {
    /// Empty where the connection's Hello named it.
    pub(crate) site: &'b [u8],
    pub(crate) regions_tried: R,
    pub(crate) sent_ms: u64,
    pub(crate) number: Number,
    /// The batch without its number.
    pub(crate) body: &'b [u8],
}

impl<'b, R: Iterator<Item = &'b [u8]> + Clone> Envelope<'b, R> {
    /// Writes ClientFrame{Envelope}, a WebSocket's message.
    pub(crate) fn write_frame(&self, frame: &mut [u8]) -> Result<usize, Overflow> {
        let mut writer = Writer::new(frame);
        writer.length(2, self.len());
        self.write(&mut writer);
        writer.finish()
    }

    /// Writes the bare Envelope, a POST's body.
    pub(crate) fn write_bare(&self, body: &mut [u8]) -> Result<usize, Overflow> {
        let mut writer = Writer::new(body);
        self.write(&mut writer);
        writer.finish()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        if !self.site.is_empty() {
            writer.bytes(1, self.site);
        }
        for region in self.regions_tried.clone() {
            writer.bytes(2, region);
        }
        writer.uint(3, self.sent_ms);
        writer.length(4, batch_len(&self.number, self.body));
        write_batch(writer, &self.number, self.body);
    }

    fn len(&self) -> usize {
        let site = if self.site.is_empty() { 0 } else { bytes_len(1, self.site.len()) };
        let regions: usize = self.regions_tried.clone().map(|region| bytes_len(2, region.len())).sum();
        site + regions + uint_len(3, self.sent_ms) + bytes_len(4, batch_len(&self.number, self.body))
    }
}

/// Writes a Batch: its number, then what it is the number of.
pub(crate) fn write_batch(writer: &mut Writer<'_>, number: &Number, body: &[u8]) {
    writer.bytes(1, &number.id.sid);
    writer.uint(2, number.id.seq.into());
    writer.uint(3, number.class as u64);
    writer.raw(body);
}

fn batch_len(number: &Number, body: &[u8]) -> usize {
    bytes_len(1, number.id.sid.len())
        + uint_len(2, number.id.seq.into())
        + uint_len(3, number.class as u64)
        + body.len()
}

/// An encoded batch that another encoder numbered.
pub(crate) struct Encoded<'b> {
    pub(crate) number: Number,
    pub(crate) body: &'b [u8],
    pub(crate) events: u32,
}

/// Takes a batch apart. Its sid, its seq and, unless it is the short one, its class come first, in this order.
pub(crate) fn read_batch(batch: &[u8]) -> Result<Encoded<'_>, Malformed> {
    let mut fields = Reader::new(batch);
    let (Some(Ok((1, Value::Bytes(sid)))), Some(Ok((2, Value::Varint(seq))))) = (fields.next(), fields.next()) else {
        return Err(Malformed);
    };
    let sid = sid.try_into().map_err(|_| Malformed)?;
    let seq = u32::try_from(seq).map_err(|_| Malformed)?;
    let mut body = fields.rest();
    let mut class = Class::Short;
    if let Some(Ok((3, Value::Varint(1)))) = fields.next() {
        (class, body) = (Class::Long, fields.rest());
    }
    let mut fields = Reader::new(body);
    let mut events = 0;
    for field in &mut fields {
        events += u32::from(field?.0 == 6);
    }
    Ok(Encoded { number: Number { id: BatchId { sid, seq }, class }, body, events })
}

/// What a gateway says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerFrame<'f> {
    Welcome {
        server_ms: u64,
        region: &'f [u8],
        flush_interval_ms: u32,
    },
    Ack(Ack<'f>),
    Reject(Reject<'f>),
    Throttle {
        wait_ms: u32,
        sid: &'f [u8],
        seq: u32,
    },
    Drain {
        within_ms: u32,
    },
    Config {
        flush_interval_ms: u32,
    },
    Notice {
        message: &'f [u8],
    },
    /// Of a newer contract; or empty.
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ack<'f> {
    pub(crate) sid: &'f [u8],
    pub(crate) server_ms: u64,
    /// For a developer.
    pub(crate) message: &'f [u8],
    frame: &'f [u8],
}

impl Ack<'_> {
    /// The numbers acknowledged, packed or not.
    pub(crate) fn for_each_seq(&self, mut acknowledged: impl FnMut(u32)) {
        for field in Reader::new(self.frame) {
            match field {
                Ok((2, Value::Varint(seq))) => acknowledged(seq as u32),
                Ok((2, Value::Bytes(payload))) => {
                    Packed::new(payload).flatten().for_each(|seq| acknowledged(seq as u32))
                }
                _ => {}
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reject<'f> {
    pub(crate) sid: &'f [u8],
    pub(crate) seq: u32,
    pub(crate) reason: Reason,
    pub(crate) message: &'f [u8],
    pub(crate) server_ms: u64,
    pub(crate) is_final: bool,
}

/// Reads a ServerFrame; of several frames in one the last counts, as everywhere in protobuf.
pub(crate) fn read_server_frame(frame: &[u8]) -> Result<ServerFrame<'_>, Malformed> {
    let mut read = ServerFrame::Unknown;
    for field in Reader::new(frame) {
        let (number @ 1..=7, Value::Bytes(bytes)) = field? else { continue };
        let message = Fields::read(bytes)?;
        read = match number {
            1 => ServerFrame::Welcome {
                server_ms: message.numbers[1],
                region: message.bytes[2],
                flush_interval_ms: flush_interval_ms(message.bytes[3])?,
            },
            2 => ServerFrame::Ack(Ack {
                sid: message.bytes[1],
                server_ms: message.numbers[3],
                message: message.bytes[4],
                frame: bytes,
            }),
            3 => ServerFrame::Reject(Reject {
                sid: message.bytes[1],
                seq: message.numbers[2] as u32,
                reason: Reason(message.numbers[3] as u32),
                message: message.bytes[4],
                server_ms: message.numbers[5],
                is_final: message.numbers[6] != 0,
            }),
            4 => ServerFrame::Throttle {
                wait_ms: message.numbers[1] as u32,
                sid: message.bytes[2],
                seq: message.numbers[3] as u32,
            },
            5 => ServerFrame::Drain { within_ms: message.numbers[1] as u32 },
            6 => ServerFrame::Config { flush_interval_ms: message.numbers[1] as u32 },
            _ => ServerFrame::Notice { message: message.bytes[5] },
        };
    }
    Ok(read)
}

fn flush_interval_ms(config: &[u8]) -> Result<u32, Malformed> {
    Ok(Fields::read(config)?.numbers[1] as u32)
}

/// The fields of any message from a gateway, or of a report, by number, each the last of its kind: none has a higher one than 6.
pub(crate) struct Fields<'f> {
    pub(crate) numbers: [u64; 7],
    bytes: [&'f [u8]; 7],
}

impl<'f> Fields<'f> {
    pub(crate) fn read(message: &'f [u8]) -> Result<Self, Malformed> {
        let mut fields = Self { numbers: [0; 7], bytes: [&[]; 7] };
        for field in Reader::new(message) {
            match field? {
                (field @ 1..=6, Value::Varint(number)) => fields.numbers[field as usize] = number,
                (field @ 1..=6, Value::Bytes(bytes)) => fields.bytes[field as usize] = bytes,
                _ => {}
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests;
