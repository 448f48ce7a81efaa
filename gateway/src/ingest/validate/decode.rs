//! From bytes to a batch. Bytes that are a batch except that a string is not UTF-8 are refused finally, and a final refusal
//! needs to know whose batch it was.

use proto::{
    Message,
    agent::{Batch, ClientFrame, Envelope, GivenUp, Reason},
};

/// What a batch says of itself without its strings: enough to remember its refusal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchHead {
    /// Unchecked, like the fields below: for [`super::identity`].
    pub sid: Vec<u8>,
    /// Unchecked.
    pub seq: u32,
    /// Unchecked.
    pub class: i32,
    /// How many events it holds.
    pub events: u32,
    /// What the agent gave up before it.
    pub given_up: Vec<GivenUp>,
}

/// Why bytes are no batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Undecodable {
    /// They are not protobuf, or not this message. Nobody knows whose they are.
    Malformed,
    /// They are a batch with a string that is not UTF-8.
    InvalidUtf8(BatchHead),
}

/// What one WebSocket message holds. A string in it or in its envelope that is not UTF-8 makes it malformed: it names the site,
/// and without a site there is no ledger in which a final refusal could stand.
pub fn decode_frame(bytes: &[u8]) -> Result<ClientFrame, Reason> {
    ClientFrame::decode(bytes).map_err(|_| Reason::Malformed)
}

/// What one `POST` holds: the transmission around a batch.
pub fn decode_envelope(bytes: &[u8]) -> Result<Envelope, Reason> {
    Envelope::decode(bytes).map_err(|_| Reason::Malformed)
}

/// The batch inside.
pub fn decode_batch(bytes: &[u8]) -> Result<Batch, Undecodable> {
    // Only a failure is decoded a second time.
    Batch::decode(bytes).map_err(|_| match BatchOfBytes::decode(bytes) {
        Ok(batch) if !batch.is_utf8() => Undecodable::InvalidUtf8(batch.head()),
        _ => Undecodable::Malformed,
    })
}

impl Undecodable {
    /// As the agent and the ledger know it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed => Reason::Malformed,
            Self::InvalidUtf8(_) => Reason::InvalidUtf8,
        }
    }
}

/// `Batch` with its strings and its events as bytes, which protobuf writes the same way.
#[derive(Clone, PartialEq, Message)]
struct BatchOfBytes {
    #[prost(bytes = "vec", tag = "1")]
    sid: Vec<u8>,
    #[prost(uint32, tag = "2")]
    seq: u32,
    #[prost(int32, tag = "3")]
    class: i32,
    #[prost(bytes = "vec", repeated, tag = "5")]
    strings: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    events: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "7")]
    given_up: Vec<GivenUp>,
}

impl BatchOfBytes {
    fn is_utf8(&self) -> bool {
        self.strings.iter().all(|text| str::from_utf8(text).is_ok())
    }

    fn head(self) -> BatchHead {
        BatchHead {
            sid: self.sid,
            seq: self.seq,
            class: self.class,
            events: u32::try_from(self.events.len()).unwrap_or(u32::MAX),
            given_up: self.given_up,
        }
    }
}
