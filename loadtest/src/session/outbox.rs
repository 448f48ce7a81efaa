//! A device's store: what a page could not send before it was closed.

use std::collections::BTreeMap;

use agent_core::{BatchId, STORED_AT};

/// Stored batches by number, the oldest sid first.
#[derive(Default)]
pub(super) struct Outbox(BTreeMap<([u8; 16], u32), Vec<u8>>);

impl Outbox {
    /// Does what [`Command::Store`](agent_core::Command::Store) says; gives the number that was replaced and the new one.
    pub(super) fn keep(&mut self, stored: &[u8]) -> Option<(BatchId, BatchId)> {
        let (numbers, batch) = stored.split_at_checked(STORED_AT)?;
        let (replaced, number) = numbers.split_at(STORED_AT / 2);
        let (replaced, number) = (id(replaced)?, id(number)?);
        self.0.remove(&(replaced.sid, replaced.seq));
        self.0.insert((number.sid, number.seq), batch.to_vec());
        Some((replaced, number))
    }

    /// Deletes a batch, if it is there.
    pub(super) fn forget(&mut self, id: &BatchId) -> bool {
        self.0.remove(&(id.sid, id.seq)).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (BatchId, &[u8])> {
        self.0.iter().map(|(&(sid, seq), batch)| (BatchId { sid, seq }, batch.as_slice()))
    }
}

fn id(bytes: &[u8]) -> Option<BatchId> {
    let (sid, seq) = bytes.split_first_chunk()?;
    Some(BatchId { sid: *sid, seq: u32::from_be_bytes(seq.try_into().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_replaces_another_in_one_step() {
        let stored = |replaced: u8, number: u8| {
            let id = |sid: u8| [&[sid; 16][..], &1u32.to_be_bytes()].concat();
            [id(replaced), id(number), b"batch".to_vec()].concat()
        };
        let mut outbox = Outbox::default();
        let id = |sid| BatchId { sid: [sid; 16], seq: 1 };
        assert_eq!(outbox.keep(&stored(1, 1)), Some((id(1), id(1))));
        assert_eq!(outbox.keep(&stored(1, 2)), Some((id(1), id(2))));
        assert_eq!(outbox.iter().collect::<Vec<_>>(), [(id(2), &b"batch"[..])]);
        assert!(!outbox.forget(&id(1)) && outbox.forget(&id(2)));
        assert_eq!(outbox.keep(b"short"), None);
    }
}
