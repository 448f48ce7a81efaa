//! What one WebSocket message or one `POST` holds. Input: any bytes, read as frame, as envelope and as batch.

use gateway::delivery::answer::name_of;
use gateway::ingest::validate::{decode_envelope, decode_frame};
use proto::Message;
use proto::agent::client_frame::Frame;
use proto::agent::{Batch, ClientFrame, Envelope};
use proto::wire::Reader;

/// What was read is written and read again as the same, and the name that a batch is answered by is its own.
pub fn run(bytes: &[u8]) {
    if let Ok(frame) = decode_frame(bytes) {
        assert_eq!(ClientFrame::decode(&*frame.encode_to_vec()).as_ref(), Ok(&frame));
        if let Some(Frame::Batch(envelope)) = &frame.frame {
            named(&envelope.batch);
        }
    }
    if let Ok(envelope) = decode_envelope(bytes) {
        assert_eq!(Envelope::decode(&*envelope.encode_to_vec()).as_ref(), Ok(&envelope));
        named(&envelope.batch);
    }
    named(bytes);
}

/// The name is looked for where every agent writes it: in front. A batch that says it twice, or later, names itself as it likes.
fn named(batch: &[u8]) {
    let name = name_of(batch);
    let Ok(decoded) = Batch::decode(batch) else { return };
    if in_front(batch) {
        assert_eq!(name, (decoded.sid, decoded.seq));
    }
}

fn in_front(batch: &[u8]) -> bool {
    let Ok(fields) = Reader::new(batch).map(|field| field.map(|(number, _)| number)).collect::<Result<Vec<_>, _>>()
    else {
        return false; // a group of some later version
    };
    let front = fields.iter().take_while(|&&number| number <= 2).count();
    fields[front..].iter().all(|&number| number > 2)
}
