//! What a batch is told, and the frames that say so.

use std::collections::BTreeMap;

use proto::agent::{self, Ack, Reason, Reject, ServerFrame, Throttle, server_frame::Frame};
use proto::sid::Sid;
use proto::wire::{Reader, Value};

use crate::ingest::validate::{Notice, explain, is_final};

/// An agent reads frames of 16 KiB at most: an acknowledgement that it does not read would be asked for again and again.
const ACK_MESSAGE_BYTES_MAX: usize = 12 * 1024;

/// The end of a batch's way: it is durable, and Redis has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the stream.
    pub sid: Sid,
    /// In the stream.
    pub seq: u32,
    /// None: counted. Otherwise all of it is in the ledger under this reason.
    pub refused: Option<Reason>,
}

/// A batch or frame that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As it came; empty if the bytes named none.
    pub sid: Vec<u8>,
    /// As it came.
    pub seq: u32,
    /// Why.
    pub reason: Reason,
}

impl Refusal {
    /// Of bytes that named no batch.
    pub fn of_frame(reason: Reason) -> Self {
        Self { sid: Vec::new(), seq: 0, reason }
    }

    /// The frame that says so.
    pub fn to_frame(&self, server_ms: u64) -> ServerFrame {
        reject(self.sid.clone(), self.seq, self.reason, server_ms)
    }
}

/// One frame for all acknowledged batches of a sid, one for each refusal.
pub fn frames(answers: &[Answer], server_ms: u64) -> Vec<ServerFrame> {
    let mut acknowledged: BTreeMap<Sid, Vec<u32>> = BTreeMap::new();
    let mut frames = Vec::new();
    for Answer { sid, seq, refused } in answers {
        match refused {
            None => acknowledged.entry(*sid).or_default().push(*seq),
            Some(reason) => frames.push(reject(sid.as_bytes().to_vec(), *seq, *reason, server_ms)),
        }
    }
    frames.extend(acknowledged.into_iter().map(|(sid, mut seqs)| {
        seqs.sort_unstable();
        frame(Frame::Ack(Ack { sid: sid.as_bytes().to_vec(), seqs, server_ms, message: String::new() }))
    }));
    frames
}

/// The one frame that answers a batch which came without a session; an acknowledgement has the notices of its events, as many as fit.
pub fn only_frame(answer: Answer, notices: &[agent::Notice], server_ms: u64) -> ServerFrame {
    let mut frame = frames(&[answer], server_ms).pop().unwrap_or_default();
    if let Some(Frame::Ack(ack)) = &mut frame.frame {
        for agent::Notice { message, .. } in notices {
            if ack.message.len() + message.len() > ACK_MESSAGE_BYTES_MAX {
                break;
            }
            ack.message += if ack.message.is_empty() { "" } else { "\n" };
            ack.message += message;
        }
    }
    frame
}

/// Not a refusal: the batch keeps its number and comes again after `wait_ms`.
pub fn throttle(sid: Vec<u8>, seq: u32, wait_ms: u32) -> ServerFrame {
    frame(Frame::Throttle(Throttle { wait_ms, sid, seq }))
}

/// What the pages of a site in debug mode are told of a batch's events.
pub fn notices(sid: Sid, seq: u32, notices: Vec<Notice>) -> Vec<agent::Notice> {
    let notice = |Notice { event, reason, message }| {
        let sid = sid.as_bytes().to_vec();
        agent::Notice { sid, seq, event, reason: reason.into(), message: format!("event {event}: {message}") }
    };
    notices.into_iter().map(notice).collect()
}

/// Sid and seq of an encoded batch, without decoding the rest: what is asked to wait must cost little.
pub fn name_of(batch: &[u8]) -> (Vec<u8>, u32) {
    let (mut sid, mut seq) = (Vec::new(), 0);
    for field in Reader::new(batch).map_while(Result::ok) {
        match field {
            (1, Value::Bytes(bytes)) => sid = bytes.to_vec(),
            (2, Value::Varint(number)) => seq = number as u32, // cut off as protobuf cuts off a uint32
            _ => break,
        }
    }
    (sid, seq)
}

/// Wraps what a frame holds.
pub fn frame(frame: Frame) -> ServerFrame {
    ServerFrame { frame: Some(frame) }
}

fn reject(sid: Vec<u8>, seq: u32, reason: Reason, server_ms: u64) -> ServerFrame {
    let message = explain(reason).to_owned();
    frame(Frame::Reject(Reject { sid, seq, reason: reason.into(), message, server_ms, r#final: is_final(reason) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_frame_says_what_fits_an_agent_of_a_batch_that_counts() {
        let sid = Sid::from_parts(1, [1; 10]);
        let told = |event, bytes| Notice { event, reason: Reason::SchemaProps, message: "x".repeat(bytes) };
        let message = |noticed: Vec<Notice>, refused| {
            let answer = Answer { sid, seq: 1, refused };
            match only_frame(answer, &notices(sid, 1, noticed), 7).frame {
                Some(Frame::Ack(ack)) if refused.is_none() && ack.seqs == [1] => ack.message,
                Some(Frame::Reject(reject)) if refused == Some(reject.reason()) => reject.message,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(message(vec![], None), "");
        assert_eq!(message(vec![told(0, 1), told(3, 2)], None), "event 0: x\nevent 3: xx");
        let long = message((0..20).map(|event| told(event, 5_000)).collect(), None);
        assert!(long.lines().count() == 2 && long.len() <= ACK_MESSAGE_BYTES_MAX, "{}", long.len());
        assert_eq!(message(vec![told(0, 1)], Some(Reason::Bot)), explain(Reason::Bot));
    }

    #[test]
    fn acknowledgements_of_a_sid_share_a_frame() {
        let (a, b) = (Sid::from_parts(1, [1; 10]), Sid::from_parts(2, [2; 10]));
        let counted = |sid, seq| Answer { sid, seq, refused: None };
        let refused = Answer { sid: b, seq: 9, refused: Some(Reason::TooManyEvents) };
        let frames = frames(&[counted(a, 3), refused, counted(b, 1), counted(a, 2)], 77);
        let acks: Vec<_> = frames
            .iter()
            .filter_map(|f| if let Some(Frame::Ack(ack)) = &f.frame { Some(ack.seqs.clone()) } else { None })
            .collect();
        assert_eq!(acks, [vec![2, 3], vec![1]]);
        assert!(
            frames.iter().any(
                |f| matches!(&f.frame, Some(Frame::Reject(r)) if r.r#final && r.seq == 9 && !r.message.is_empty())
            )
        );
    }
}
