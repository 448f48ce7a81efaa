//! Arguments of the functions, in MessagePack.

use rmp::encode;

use crate::apply::Batch;

const INTO_MEMORY: &str = "writing into memory cannot fail";

pub(crate) fn array(len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode::write_array_len(&mut out, u32::try_from(len).expect("a call is bounded")).expect(INTO_MEMORY);
    out
}

pub(crate) fn uint(out: &mut Vec<u8>, value: u64) {
    encode::write_uint(out, value).expect(INTO_MEMORY);
}

pub(crate) fn raw(out: &mut Vec<u8>, bytes: &[u8]) {
    encode::write_str_len(out, u32::try_from(bytes.len()).expect("a call is bounded")).expect(INTO_MEMORY);
    out.extend_from_slice(bytes);
}

/// An array of strings.
pub(crate) fn strings<T: AsRef<[u8]>>(strings: &[T]) -> Vec<u8> {
    let mut out = array(strings.len());
    for string in strings {
        raw(&mut out, string.as_ref());
    }
    out
}

pub(crate) fn batches(batches: &[Batch]) -> Vec<u8> {
    let mut out = array(4 * batches.len());
    for Batch { class, sid, seq, lsn } in batches {
        raw(&mut out, format!("{class}:{}", sid.stamp_ms() / (60 * 60 * 1000)).as_bytes());
        raw(&mut out, sid.as_bytes());
        uint(&mut out, u64::from(*seq));
        uint(&mut out, lsn.0);
    }
    out
}
