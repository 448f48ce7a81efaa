//! A session: one agent on one connection, from its Hello to its end, over whatever carries frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use proto::agent::{
    ClientFrame, Config, Drain, Envelope, Reason, ServerFrame, Welcome, client_frame, server_frame::Frame,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::delivery::answer::{self, Answer, Refusal, frame};
use crate::door::sites::{Credentials, Presented};
use crate::door::throttle::ConnectionThrottle;
use crate::door::{Door, Taken};
use crate::ingest::{Client, validate};
use crate::transports::WRITE_MAX;

/// Batches of one session between arrival and answer; beyond it the session reads no further. Agents keep to 8.
const IN_FLIGHT_MAX: usize = 64;
/// How long an open batch may wait in the agent.
pub const FLUSH_INTERVAL_MS: u32 = 500;
/// Agents leave a draining gateway within this time, each at a random moment of it. Until then they are served.
pub const DRAIN_WITHIN_MS: u32 = 2_000;
/// Who has not left by then is closed.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What carries the frames of one session.
pub trait Transport: Send {
    /// As the metrics call it.
    const NAME: &'static str;

    /// What comes next. Dropped before it is ready, it has taken nothing.
    fn receive(&mut self) -> impl Future<Output = Received> + Send;
    /// All of these frames, in one write.
    fn send(&mut self, frames: &[ServerFrame]) -> impl Future<Output = Result<(), Gone>> + Send;
    /// Asks whether the other side is there: it answers with a frame, or is [`Received::Alive`].
    fn ask(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
    /// The end of the session, said in the transport's own way.
    fn close(self, close: &Close) -> impl Future<Output = ()> + Send;
}

/// What a transport brings.
#[derive(Debug)]
pub enum Received {
    /// The bytes of a `ClientFrame`.
    Frame(Bytes),
    /// The same, from a transport that has decoded it.
    Decoded(Box<ClientFrame>),
    /// A sign of life that is no frame.
    Alive,
    /// What cannot be a frame, whatever is in it.
    Refused(Reason),
    /// The other side is gone.
    Gone,
}

/// The other side is gone.
#[derive(Debug)]
pub struct Gone;

/// How a session ends whose other side is still there.
#[derive(Debug)]
pub enum Close {
    /// Everything is answered.
    Done,
    /// The client has been silent, the gateway leaves, or cannot go on.
    Away,
    /// The client has sent what is not taken; it has been told.
    Refused(Refusal),
}

enum End {
    Gone,
    Close(Close),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Serves one agent until it says Bye, the gateway leaves, or the connection is at its end.
pub async fn serve(transport: impl Transport, client: Client, door: Arc<Door>) {
    let connections = door.metrics.connections.clone();
    connections.inc();
    let (answer_to, answers) = mpsc::channel(IN_FLIGHT_MAX);
    let throttle = door.throttles.connection();
    let seat = door.seat_of_session(client.address);
    let mut session = Session {
        transport,
        client,
        door,
        throttle,
        site: None,
        key: Presented::Missing,
        answers,
        answer_to,
        in_flight: 0,
    };
    let ended = match &seat {
        Some(_) => session.run().await,
        None => Err(refused(Reason::Unavailable)),
    };
    let close = match ended {
        Ok(()) => Some(Close::Done),
        Err(End::Close(close)) => Some(close),
        Err(End::Gone) => None,
    };
    if let Some(close) = close {
        session.close(close).await;
    }
    connections.dec();
}

struct Session<T> {
    transport: T,
    client: Client,
    door: Arc<Door>,
    throttle: ConnectionThrottle,
    /// Named by the Hello.
    site: Option<String>,
    /// Presented by the Hello. Each batch is judged by it anew: the site's keys change.
    key: Presented,
    answers: mpsc::Receiver<Answer>,
    answer_to: mpsc::Sender<Answer>,
    in_flight: usize,
}

impl<T: Transport> Session<T> {
    async fn run(&mut self) -> Result<(), End> {
        let idle = self.door.idle();
        let stop = self.door.stop.clone();
        let began = Instant::now();
        let (mut heard, mut asked) = (began, false);
        let mut answered = Vec::new();
        // Until when the client may still leave by itself, and whether it has said that it sends no more.
        let (mut leaving, mut bye): (Option<Instant>, bool) = (None, false);
        loop {
            if bye && self.in_flight == 0 {
                return Ok(());
            }
            let deadline = match (leaving, &self.site) {
                (Some(until), _) => until,
                (None, None) => began + self.door.handshake_max(),
                (None, Some(_)) => heard + idle * if asked { 2 } else { 1 },
            };
            tokio::select! {
                biased;
                count = self.answers.recv_many(&mut answered, IN_FLIGHT_MAX) => {
                    self.in_flight -= count;
                    self.send(&answer::frames(&answered, self.now_ms())).await?;
                    answered.clear();
                }
                () = stop.cancelled(), if leaving.is_none() => {
                    // The client goes at a moment of its own choice. What it sends until then is answered here.
                    leaving = Some(Instant::now() + DRAIN_MAX);
                    self.send(&[frame(Frame::Drain(Drain { within_ms: DRAIN_WITHIN_MS }))]).await?;
                }
                () = sleep_until(deadline) => {
                    if leaving.is_none() && self.site.is_none() {
                        return Err(refused(Reason::HelloMissing));
                    }
                    if leaving.is_some() || asked {
                        return Err(End::Close(Close::Away));
                    }
                    asked = true;
                    timeout(WRITE_MAX, self.transport.ask()).await.map_err(|_| End::Gone)??;
                }
                received = self.transport.receive(), if !bye && self.in_flight < IN_FLIGHT_MAX => {
                    (heard, asked) = (Instant::now(), false);
                    if self.take_all(received).await? {
                        (bye, leaving) = (true, Some(Instant::now() + DRAIN_MAX));
                    }
                }
            }
        }
    }

    /// This and everything else that is there already: the batches share a flush and the answers a write. True after a Bye.
    async fn take_all(&mut self, first: Received) -> Result<bool, End> {
        let mut next = Some(first);
        while let Some(received) = next {
            match received {
                Received::Frame(bytes) => {
                    if self.take(validate::decode_frame(&bytes).map_err(refused)?).await? {
                        return Ok(true);
                    }
                }
                Received::Decoded(frame) => {
                    if self.take(*frame).await? {
                        return Ok(true);
                    }
                }
                Received::Alive => {}
                Received::Refused(reason) => return Err(refused(reason)),
                Received::Gone => return Err(End::Gone),
            }
            next = if self.in_flight < IN_FLIGHT_MAX { self.transport.receive().now_or_never() } else { None };
        }
        Ok(false)
    }

    async fn take(&mut self, frame: ClientFrame) -> Result<bool, End> {
        match frame.frame {
            Some(client_frame::Frame::Hello(hello)) => {
                let credentials = Credentials::from(&hello);
                let admitted = self.door.ingest.sites.table().admit(credentials, self.client.origin.as_deref());
                admitted.map_err(refused)?;
                self.key = credentials.key;
                self.site = Some(hello.site);
                let welcome = Welcome {
                    server_ms: self.now_ms(),
                    region: self.door.region.clone(),
                    config: Some(Config { flush_interval_ms: FLUSH_INTERVAL_MS }),
                };
                self.send(&[answer::frame(Frame::Welcome(welcome))]).await?;
            }
            Some(client_frame::Frame::Batch(envelope)) => self.take_batch(&envelope).await?,
            Some(client_frame::Frame::Bye(_)) => return Ok(true),
            None => {} // of a later version
        }
        Ok(false)
    }

    async fn take_batch(&mut self, envelope: &Envelope) -> Result<(), End> {
        let site = match &self.site {
            Some(site) if envelope.site.is_empty() || envelope.site == *site => site,
            Some(_) => return Err(refused(Reason::UnknownSite)),
            None => return Err(refused(Reason::HelloMissing)),
        };
        let credentials = Credentials { site, key: self.key };
        let taken =
            self.door.take(&self.client, credentials, envelope, Some(&self.throttle), T::NAME, &self.answer_to).await;
        match taken {
            Taken::Submitted { notices } => {
                self.in_flight += 1;
                if !notices.is_empty() {
                    let notices: Vec<_> = notices.into_iter().map(|notice| frame(Frame::Notice(notice))).collect();
                    self.send(&notices).await?;
                }
            }
            Taken::Later { frame, .. } => self.send(&[frame]).await?,
            Taken::Refused(refusal) if refusal.sid.is_empty() => return Err(End::Close(Close::Refused(refusal))),
            Taken::Refused(refusal) => {
                self.door.metrics.refused(refusal.reason);
                self.send(&[refusal.to_frame(self.now_ms())]).await?;
            }
            Taken::Stopping => return Err(End::Close(Close::Away)),
        }
        Ok(())
    }

    async fn send(&mut self, frames: &[ServerFrame]) -> Result<(), End> {
        Ok(timeout(WRITE_MAX, self.transport.send(frames)).await.map_err(|_| End::Gone)??)
    }

    /// Who is refused hears why; then the transport closes. Nobody is waited for longer than a write may take.
    async fn close(mut self, close: Close) {
        if let Close::Refused(refusal) = &close {
            self.door.metrics.refused(refusal.reason);
            if self.send(&[refusal.to_frame(self.now_ms())]).await.is_err() {
                return;
            }
        }
        let _ = timeout(WRITE_MAX, self.transport.close(&close)).await;
    }

    fn now_ms(&self) -> u64 {
        self.door.ingest.clock.now_ms()
    }
}

fn refused(reason: Reason) -> End {
    End::Close(Close::Refused(Refusal::of_frame(reason)))
}

#[cfg(test)]
pub(crate) mod tests;
