//! Raw rows of a gateway: checked, handed on in their turn, acknowledged once they are durable.

use std::{collections::VecDeque, future::poll_fn};

use proto::{
    Message as _,
    record::Record,
    uplink::{RawAck, RawBatch, RawRows},
};

use super::{Books, BooksError, Durably, Ended, FRAME_BYTES_MAX, check_number, refused};
use crate::store::{RawFrame, RawRow};

/// Frames of a gateway that wait for the disk; behind them its stream waits.
const UNACKED_MAX: usize = 8;

/// The frames of one stream that are not durable yet, in their order.
#[derive(Default)]
pub(super) struct Unacked(VecDeque<(RawAck, u64, Durably)>);

impl Unacked {
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= UNACKED_MAX
    }

    /// Takes a frame of the gateway.
    pub(super) async fn take(&mut self, books: &dyn Books, gateway: &str, rows: RawRows) -> Result<(), Ended> {
        let ack = RawAck { shard: rows.shard, generation: rows.generation, last: rows.last };
        let frame = checked(gateway, rows)?;
        let count = frame.rows.len() as u64;
        self.0.push_back((ack, count, books.take_raw(frame).await?));
        Ok(())
    }

    /// The ack of the oldest frame and how many rows it had, once it is durable. Waits for ever if there is none.
    pub(super) async fn next(&mut self) -> Result<(RawAck, u64), BooksError> {
        poll_fn(|context| match self.0.front_mut() {
            Some((.., durably)) => durably.as_mut().poll(context),
            None => std::task::Poll::Pending,
        })
        .await?;
        Ok(self.0.pop_front().map(|(ack, rows, _)| (ack, rows)).unwrap_or_default()) // the front was there just now
    }
}

fn checked(gateway: &str, rows: RawRows) -> Result<RawFrame, Ended> {
    let bytes = rows.encoded_len();
    if bytes > FRAME_BYTES_MAX {
        return Err(refused(format!("raw rows of {bytes} bytes in one frame; the most is {FRAME_BYTES_MAX}")));
    }
    check_number("LSN", rows.last)?;
    let RawRows { shard, last, batches, .. } = rows;
    let mut before = 0;
    let mut kept = Vec::with_capacity(batches.len());
    for batch in batches {
        let lsn = batch.lsn;
        if lsn <= before || lsn > last {
            return Err(refused(format!("raw row {lsn} came behind {before}, in a frame that ends with {last}")));
        }
        before = lsn;
        kept.push(row(batch).map_err(|wrong| refused(format!("raw row {lsn} of gateway {gateway}: {wrong}")))?);
    }
    Ok(RawFrame { gateway: gateway.to_owned(), shard, last, rows: kept, bytes })
}

fn row(batch: RawBatch) -> Result<RawRow, String> {
    let RawBatch { lsn, epoch, visit, record } = batch;
    let record = Record::decode(record.as_slice()).map_err(|error| format!("its record does not decode: {error}"))?;
    if record.sid.len() != 16 {
        return Err(format!("its sid has {} bytes instead of 16", record.sid.len()));
    }
    let visit = match <[u8; 20]>::try_from(visit.as_slice()) {
        Ok(visit) => {
            let (mut sid, mut seq) = ([0; 16], [0; 4]);
            sid.copy_from_slice(&visit[..16]);
            seq.copy_from_slice(&visit[16..]);
            Some((sid, u32::from_be_bytes(seq)))
        }
        Err(_) if visit.is_empty() => None,
        Err(_) => return Err(format!("its visit has {} bytes instead of 20", visit.len())),
    };
    Ok(RawRow { lsn, epoch, visit, record })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lsn: u64) -> RawBatch {
        let record = Record { sid: vec![1; 16], seq: 2, ..Record::default() }.encode_to_vec();
        let visit = [&[7; 16][..], &300_u32.to_be_bytes()].concat();
        RawBatch { lsn, epoch: 3, visit, record }
    }

    fn frame(batches: Vec<RawBatch>) -> Result<RawFrame, String> {
        let rows = RawRows { last: 9, batches, ..RawRows::default() };
        checked("g", rows).map_err(|ended| ended.to_string())
    }

    #[test]
    fn rows_come_with_their_visit_and_in_the_order_of_the_log() {
        let dropped = RawBatch { visit: vec![], ..batch(9) };
        let frame = frame(vec![batch(4), dropped]).unwrap();
        assert_eq!(frame.rows[0].visit, Some(([7; 16], 300)));
        assert_eq!((frame.rows[0].lsn, frame.rows[0].epoch, frame.rows[0].record.seq), (4, 3, 2));
        assert_eq!(frame.rows[1].visit, None);
    }

    #[test]
    fn what_is_not_a_row_is_named() {
        for wrong in [vec![batch(4), batch(4)], vec![batch(10)], vec![batch(0)]] {
            assert!(frame(wrong).unwrap_err().contains("came behind"));
        }
        let wrong = |change: fn(&mut RawBatch)| {
            let mut batch = batch(4);
            change(&mut batch);
            frame(vec![batch]).unwrap_err()
        };
        assert!(
            wrong(|batch| batch.record = vec![0xff; 9]).contains("raw row 4 of gateway g: its record does not decode")
        );
        assert!(wrong(|batch| batch.visit.truncate(19)).contains("19 bytes instead of 20"));
        assert!(wrong(|batch| batch.record.clear()).contains("0 bytes instead of 16"));
        let large = RawBatch { record: vec![0; FRAME_BYTES_MAX], ..batch(4) };
        assert!(frame(vec![large]).unwrap_err().contains("the most is"));
    }
}
