//! The stream to central: one a leadership. Whatever goes wrong on it ends it, and the next one starts with a hello.

use std::sync::Arc;
use std::time::Duration;

use proto::dial::{Dial, Frames, root_cause};
use proto::uplink::central_frame::Frame as FromCentral;
use proto::uplink::region_frame::Frame as FromRegion;
use proto::uplink::{
    AggregatorHello, Durable, FlushAck, FlushChunk, FlushId, Leadership, OpenEpoch, RegionFrame, Restore, StandIn,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

/// Frames on their way to central: two chunks and something small. When full, the flush waits, and live figures are
/// skipped.
const OUTGOING_FRAMES_MAX: usize = 4;
/// Central answers a hello from memory and one small write.
const HELLO_ANSWER_MAX: Duration = Duration::from_secs(10);
/// Central inserts and fsyncs a flush before it answers: a second for a large one. After this it is as good as gone.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Central deletes the rows of unfinished flushes before the first part of a restore, and looks all batches of retired gateways up: in
/// a large store that takes minutes. A limit that is too short would never let a rebuild end, since each try begins again. A peer
/// that is dead is noticed by the stream's keep-alive within seconds.
const RESTORE_PART_MAX: Duration = Duration::from_secs(15 * 60);

/// The way to central.
#[derive(Clone)]
pub struct Central(Arc<dyn Dial>);

/// Why a stream ended, or did not begin.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum UplinkError {
    #[error("central refused the uplink token ({0}): `uplink_token_file` must hold what central's file holds")]
    Token(String),
    #[error("no stream to central: {0}")]
    Broken(String),
    #[error("central closed the stream")]
    Closed,
    #[error("central did not answer a {0} in time")]
    Silent(&'static str),
    #[error("central answered {0} to a {1}: are both of the same version?")]
    Unexpected(String, &'static str),
    #[error("central refused: {0}")]
    Refused(String),
}

/// An open stream whose hello was answered.
pub struct Uplink {
    outgoing: mpsc::Sender<RegionFrame>,
    incoming: Frames,
    answer_max: Duration,
    restore_part_max: Duration,
}

impl Central {
    /// Over connections of `dial`.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self(dial)
    }

    /// Opens a stream and becomes the leader of the shard: every older leader loses.
    pub async fn lead(&self, region: &str, shard: u32) -> Result<(Uplink, Leadership), UplinkError> {
        let hello = self.say_hello(AggregatorHello { region: region.to_owned(), shard });
        timeout(HELLO_ANSWER_MAX, hello).await.map_err(|_| UplinkError::Silent("hello"))?
    }

    async fn say_hello(&self, hello: AggregatorHello) -> Result<(Uplink, Leadership), UplinkError> {
        let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES_MAX);
        let first = RegionFrame { frame: Some(FromRegion::Aggregator(hello)) };
        outgoing.try_send(first).map_err(|_| UplinkError::Closed)?;
        let incoming = self.0.open(frames).await?;
        let (answer_max, restore_part_max) = (ANSWER_MAX, RESTORE_PART_MAX);
        let mut uplink = Uplink { outgoing, incoming, answer_max, restore_part_max };
        match uplink.next().await? {
            FromCentral::Leadership(leadership) => Ok((uplink, leadership)),
            other => Err(unexpected(&other, "hello")),
        }
    }
}

impl Uplink {
    /// A sender for frames that nobody answers.
    pub fn outgoing(&self) -> mpsc::Sender<RegionFrame> {
        self.outgoing.clone()
    }

    /// While nothing was asked central says nothing: returns when the stream ends, with why.
    pub async fn ended(&mut self) -> UplinkError {
        match self.next().await {
            Ok(frame) => unexpected(&frame, "silence"),
            Err(error) => error,
        }
    }

    /// Tells what is durable in Redis, and waits until central will not forget it. Answers which gateways are retired.
    pub async fn tell_durable(&mut self, durable: Durable) -> Result<Vec<String>, UplinkError> {
        let open_flush = durable.open_flush;
        self.send(FromRegion::Durable(durable)).await?;
        match self.answer("durable position").await? {
            FromCentral::DurableAck(ack) if ack.open_flush >= open_flush => Ok(ack.retired),
            other => Err(unexpected(&other, "durable position")),
        }
    }

    /// Has a new epoch opened: flushes of those before are refused from now on. Answers the first part of what Redis is
    /// rebuilt from; [`Uplink::restore`] gives the others.
    pub async fn open_epoch(&mut self, shard: u32, term: u64, reason: String) -> Result<Restore, UplinkError> {
        self.send(FromRegion::OpenEpoch(OpenEpoch { shard, term, reason })).await?;
        self.restore("epoch").await
    }

    /// Asks which of the gateways that a rebuild waits for were retired. Answers the first part of what stands in for their
    /// logs.
    pub async fn stand_in(
        &mut self,
        shard: u32,
        term: u64,
        epoch: u64,
        waiting: Vec<String>,
    ) -> Result<Restore, UplinkError> {
        self.send(FromRegion::StandIn(StandIn { shard, term, epoch, waiting })).await?;
        self.restore("question for retired gateways").await
    }

    /// The next part.
    pub async fn restore(&mut self, asked: &'static str) -> Result<Restore, UplinkError> {
        match self.answer_within(self.restore_part_max, asked).await? {
            FromCentral::Restore(part) => Ok(part),
            other => Err(unexpected(&other, asked)),
        }
    }

    /// Sends a part of a flush.
    pub async fn send_chunk(&mut self, chunk: FlushChunk) -> Result<(), UplinkError> {
        self.send(FromRegion::Flush(chunk)).await
    }

    /// Waits until central has accepted a flush whose last chunk was sent.
    pub async fn accepted(&mut self, flush: &FlushId) -> Result<(), UplinkError> {
        match self.answer("flush").await? {
            FromCentral::FlushAck(FlushAck { id: Some(id) }) if id == *flush => Ok(()),
            other => Err(unexpected(&other, "flush")),
        }
    }

    async fn send(&mut self, frame: FromRegion) -> Result<(), UplinkError> {
        let sent = timeout(self.answer_max, self.outgoing.send(RegionFrame { frame: Some(frame) })).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            // Central ended the stream in the middle; it may have said why.
            Ok(Err(_)) => Err(timeout(self.answer_max, self.ended()).await.unwrap_or(UplinkError::Closed)),
            Err(_) => Err(UplinkError::Silent("frame")),
        }
    }

    async fn answer(&mut self, asked: &'static str) -> Result<FromCentral, UplinkError> {
        self.answer_within(self.answer_max, asked).await
    }

    async fn answer_within(&mut self, limit: Duration, asked: &'static str) -> Result<FromCentral, UplinkError> {
        timeout(limit, self.next()).await.map_err(|_| UplinkError::Silent(asked))?
    }

    async fn next(&mut self) -> Result<FromCentral, UplinkError> {
        match self.incoming.next().await.ok_or(UplinkError::Closed)??.frame {
            Some(FromCentral::Refusal(refusal)) => Err(UplinkError::Refused(refusal.message)),
            Some(frame) => Ok(frame),
            None => Err(UplinkError::Unexpected("a frame of unknown kind".into(), "hello, a flush or silence")),
        }
    }
}

impl From<Status> for UplinkError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Token(status.message().to_owned()),
            _ => Self::Broken(root_cause(&status)),
        }
    }
}

fn unexpected(frame: &FromCentral, asked: &'static str) -> UplinkError {
    let kind = match frame {
        FromCentral::Leadership(_) => "a leadership".to_owned(),
        FromCentral::Configuration(_) => "a gateway's configuration".to_owned(),
        FromCentral::FlushAck(ack) => format!("an acknowledgement of {:?}", ack.id),
        FromCentral::DurableAck(ack) => format!("an acknowledgement of open flush {}", ack.open_flush),
        FromCentral::Refusal(refusal) => refusal.message.clone(),
        FromCentral::Restore(_) => "a part of a restore".to_owned(),
        FromCentral::RawAck(_) | FromCentral::Progress(_) | FromCentral::Recalled(_) => "a gateway's frame".to_owned(),
    };
    UplinkError::Unexpected(kind, asked)
}

#[cfg(test)]
mod tests {
    use proto::dial::Opening;
    use proto::uplink::CentralFrame;
    use tokio::time::sleep;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// A central that answers a hello at once, and everything else after a while.
    struct Slow(Duration);

    impl Dial for Slow {
        fn open(&self, mut frames: mpsc::Receiver<RegionFrame>) -> Opening<'_> {
            let wait = self.0;
            Box::pin(async move {
                let (answers, received) = mpsc::channel(1);
                tokio::spawn(async move {
                    while let Some(frame) = frames.recv().await {
                        let answer = match frame.frame {
                            Some(FromRegion::Aggregator(_)) => FromCentral::Leadership(Leadership::default()),
                            Some(FromRegion::OpenEpoch(_)) => FromCentral::Restore(Restore::default()),
                            _ => FromCentral::DurableAck(proto::uplink::DurableAck::default()),
                        };
                        if !matches!(answer, FromCentral::Leadership(_)) {
                            sleep(wait).await;
                        }
                        if answers.send(Ok(CentralFrame { frame: Some(answer) })).await.is_err() {
                            return;
                        }
                    }
                });
                Ok(Box::pin(ReceiverStream::new(received)) as Frames)
            })
        }
    }

    #[tokio::test]
    async fn a_restore_may_take_longer_than_other_answers() {
        let central = Central::new(Arc::new(Slow(Duration::from_millis(300))));
        let (mut uplink, _) = central.lead("here", 0).await.unwrap();
        assert_eq!((uplink.answer_max, uplink.restore_part_max), (ANSWER_MAX, RESTORE_PART_MAX));
        uplink.answer_max = Duration::from_millis(50);
        uplink.open_epoch(0, 1, "lost".into()).await.unwrap();
        let told = uplink.tell_durable(Durable::default()).await;
        assert!(matches!(told, Err(UplinkError::Silent(_))), "{told:?}");
    }
}
