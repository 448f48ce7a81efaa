//! The primitives that both ends share, against prost's. Input: any bytes, read as fields, as packed numbers and as a batch.

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use proto::Message;
use proto::agent::Batch;
use proto::wire::{Malformed, Packed, Reader, Value, unzigzag, zigzag};

/// Two readers of the same bytes read the same, and fail at the same place.
pub fn run(bytes: &[u8]) {
    let ours: Vec<_> = Reader::new(bytes).collect();
    assert_eq!(ours, until_the_first_error(bytes, field));

    let numbers: Vec<_> = Packed::new(bytes).collect();
    assert_eq!(numbers, until_the_first_error(bytes, |rest| decode_varint(rest).map_err(|_| Malformed)));
    for number in numbers.into_iter().flatten() {
        assert_eq!(zigzag(unzigzag(number)), number);
    }
    if let (Ok(batch), true) = (Batch::decode(bytes), ours.iter().all(Result::is_ok)) {
        batch_of_fields(&batch, ours.into_iter().flatten());
    }
}

fn until_the_first_error<'b, T>(
    mut bytes: &'b [u8],
    mut next: impl FnMut(&mut &'b [u8]) -> Result<T, Malformed>,
) -> Vec<Result<T, Malformed>> {
    let mut read = Vec::new();
    while !bytes.is_empty() && read.last().is_none_or(Result::is_ok) {
        read.push(next(&mut bytes));
    }
    read
}

/// One field by prost's primitives. Groups are not proto3's.
fn field<'b>(rest: &mut &'b [u8]) -> Result<(u32, Value<'b>), Malformed> {
    let (number, wire_type) = decode_key(rest).map_err(|_| Malformed)?;
    let value = match wire_type {
        WireType::Varint => Value::Varint(decode_varint(rest).map_err(|_| Malformed)?),
        WireType::SixtyFourBit => Value::Fixed64(rest.try_get_u64_le().map_err(|_| Malformed)?),
        WireType::ThirtyTwoBit => Value::Fixed32(rest.try_get_u32_le().map_err(|_| Malformed)?),
        WireType::LengthDelimited => {
            let len = decode_varint(rest).map_err(|_| Malformed)?;
            let (bytes, behind) =
                usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len)).ok_or(Malformed)?;
            *rest = behind;
            Value::Bytes(bytes)
        }
        WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
    };
    Ok((number, value))
}

/// What the agent's core reads out of a batch is what the gateway does.
fn batch_of_fields<'b>(batch: &Batch, fields: impl Iterator<Item = (u32, Value<'b>)>) {
    let (mut sid, mut seq, mut strings, mut events, mut given_up) = (&[][..], 0, Vec::new(), 0, 0);
    for field in fields {
        match field {
            (1, Value::Bytes(bytes)) => sid = bytes,
            (2, Value::Varint(number)) => seq = number as u32,
            (5, Value::Bytes(text)) => strings.push(text),
            (6, Value::Bytes(_)) => events += 1,
            (7, Value::Bytes(_)) => given_up += 1,
            _ => {}
        }
    }
    assert_eq!((&*batch.sid, batch.seq), (sid, seq));
    assert!(batch.strings.iter().map(String::as_bytes).eq(strings));
    assert_eq!((batch.events.len(), batch.given_up.len()), (events, given_up));
}
