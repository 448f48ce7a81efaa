//! What Redis decided about a call's records, as `functions.lua` stores it.

use proto::uplink::{Outcome, Outcomes};
use rmp::decode;

use crate::Lsn;
use crate::counter::UnknownField;
use crate::link::{Link, LinkError};

impl Link {
    /// What Redis decided about this gateway's records and has not been told to be logged, in the order of the log. The
    /// gateway's name is left empty, as in its own log.
    pub async fn unlogged(&mut self, gateway: &str) -> Result<Vec<Outcomes>, LinkError> {
        let stored = crate::bucket::scan_hash::<Vec<u8>>(self, &format!("x:{gateway}")).await?;
        let outcomes = stored.iter().map(|(last, packed)| unpack(last, packed));
        let mut outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
        outcomes.sort_unstable_by_key(|outcomes| outcomes.last);
        Ok(outcomes)
    }
}

/// The outcomes stored under `last`, decimal.
pub(crate) fn unpack(last: &[u8], packed: &[u8]) -> Result<Outcomes, UnknownField> {
    let last = std::str::from_utf8(last).ok().and_then(|last| last.parse().ok());
    last.and_then(|last| parse(Lsn(last), packed)).ok_or_else(|| UnknownField(packed.to_vec()))
}

fn parse(last: Lsn, mut packed: &[u8]) -> Option<Outcomes> {
    let packed = &mut packed;
    if decode::read_array_len(packed).ok()? != 3 {
        return None;
    }
    let epoch = decode::read_int(packed).ok()?;
    let prev = decode::read_int(packed).ok()?;
    let values = decode::read_array_len(packed).ok()?;
    let outcome = |_| {
        let lsn = decode::read_int(packed).ok()?;
        let len = usize::try_from(decode::read_str_len(packed).ok()?).ok()?;
        let (visit, rest) = packed.split_at_checked(len)?;
        *packed = rest;
        Some(Outcome { lsn, visit: visit.to_vec() })
    };
    let counted = (0..values / 2).map(outcome).collect::<Option<_>>()?;
    let whole = packed.is_empty() && values % 2 == 0;
    whole.then_some(Outcomes { gateway: String::new(), epoch, prev, last: last.0, counted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = unpack(b"7", &bytes);
        }
    }

    #[test]
    fn outcomes_are_read_as_lua_packs_them() {
        let packed = b"\x93\x02\x05\x94\x06\xa3abc\xcd\x01\x00\xa0";
        let counted = vec![Outcome { lsn: 6, visit: b"abc".to_vec() }, Outcome { lsn: 256, visit: vec![] }];
        let expected = Outcomes { gateway: String::new(), epoch: 2, prev: 5, last: 300, counted };
        assert_eq!(unpack(b"300", packed).unwrap(), expected);
        assert!(unpack(b"300", &packed[..packed.len() - 1]).is_err());
        assert!(unpack(b"", packed).is_err());
    }
}
