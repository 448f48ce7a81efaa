//! From a page to a gateway: frames over a network, into the gateway's real session.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State};
use bytes::Bytes;
use gateway::door::{Door, Peer};
use gateway::ingest::Client;
use gateway::transports::session::{self, Close, Gone, Received, Transport};
use prost::Message as _;
use proto::agent::{Ack, Batch, ClientFrame, ServerFrame, client_frame, server_frame};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::central::ORIGIN;
use crate::network::{Fate, Network};
use crate::rules::Kept;

const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// The gateways' doors, of those that are up.
#[derive(Clone)]
pub struct Doors {
    places: Arc<Mutex<Vec<Option<Place>>>>,
    network: Network,
    rules: Kept,
}

/// A gateway that serves.
#[derive(Clone)]
pub struct Place {
    /// Its door.
    pub door: Arc<Door>,
    /// Its process is gone.
    pub killed: CancellationToken,
}

impl Doors {
    /// Of so many gateways.
    pub fn new(gateways: usize, network: Network, rules: Kept) -> Self {
        Self { places: Arc::new(Mutex::new(vec![None; gateways])), network, rules }
    }

    /// Opens or closes the door of a gateway.
    pub fn set(&self, gateway: usize, place: Option<Place>) {
        self.lock()[gateway] = place;
    }

    /// To any gateway that is up.
    pub async fn connect(&self, address: IpAddr, random: &mut StdRng) -> Option<Line> {
        sleep_until(self.network.arrival()).await;
        let Place { door, killed } = self.any(random)?;
        if self.network.fate() == Fate::Lost {
            return None;
        }
        let broken = killed.child_token();
        let (up, from_page) = mpsc::unbounded_channel();
        let (down, from_gateway) = mpsc::unbounded_channel();
        let end = |sends, hears| Line {
            sends,
            hears,
            next: None,
            last: Arc::new(Mutex::new(Instant::now())),
            broken: broken.clone(),
            network: self.network.clone(),
            rules: self.rules,
        };
        let (page, gateway) = (end(up, from_gateway), end(down, from_page));
        let device = door.ingest.agents.look_up(USER_AGENT);
        let client = Client { address, user_agent: USER_AGENT.into(), origin: Some(ORIGIN.into()), device };
        tokio::spawn(killed.run_until_cancelled_owned(session::serve(gateway, client, door)));
        Some(page)
    }

    /// One batch by `POST` to any gateway that is up. The page may be gone when the answer comes; `None`: none came.
    pub fn post(
        &self,
        address: IpAddr,
        body: Vec<u8>,
        random: &mut StdRng,
    ) -> impl Future<Output = Option<Bytes>> + Send + use<> {
        let (place, network) = (self.any(random), self.network.clone());
        async move {
            sleep_until(network.arrival()).await;
            let Place { door, killed } = place?;
            let fate = network.fate();
            if fate == Fate::Lost {
                return None;
            }
            let mut request = Request::post("/v1/batch").header("user-agent", USER_AGENT).header("origin", ORIGIN);
            request.extensions_mut()?.insert(Peer(address));
            let request = request.body(Body::from(body)).ok()?;
            let answered =
                killed.run_until_cancelled_owned(gateway::transports::post::batch(State(door), request)).await?;
            let answer = axum::body::to_bytes(answered.into_body(), usize::MAX).await.ok()?;
            sleep_until(network.arrival()).await;
            (fate == Fate::Arrives).then_some(answer)
        }
    }

    fn any(&self, random: &mut StdRng) -> Option<Place> {
        let places: Vec<Place> = self.lock().iter().flatten().cloned().collect();
        places.choose(random).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of a connection. The other end notices when it is dropped.
pub struct Line {
    sends: mpsc::UnboundedSender<(Instant, Bytes)>,
    hears: mpsc::UnboundedReceiver<(Instant, Bytes)>,
    /// Heard, and still on its way.
    next: Option<(Instant, Bytes)>,
    last: Arc<Mutex<Instant>>,
    broken: CancellationToken,
    network: Network,
    rules: Kept,
}

impl Line {
    /// In order; what is lost takes the connection with it.
    pub fn send(&self, bytes: Bytes) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = self.network.arrival().max(*last);
        match self.network.fate() {
            Fate::Lost => self.broken.cancel(),
            fate => {
                let _ = self.sends.send((*last, bytes));
                if fate == Fate::AnswerLost {
                    let (broken, at) = (self.broken.clone(), *last);
                    tokio::spawn(async move {
                        sleep_until(at).await;
                        broken.cancel();
                    });
                }
            }
        }
    }

    /// The next frame; `None` once the connection is gone. Dropped before it is ready, it has taken nothing.
    pub async fn receive(&mut self) -> Option<Bytes> {
        let broken = self.broken.clone();
        let heard = async {
            if self.next.is_none() {
                self.next = self.hears.recv().await;
            }
            let arrives = self.next.as_ref()?.0;
            sleep_until(arrives).await;
            self.next.take().map(|(_, bytes)| bytes)
        };
        tokio::select! {
            biased;
            heard = heard => heard,
            () = broken.cancelled() => None,
        }
    }
}

impl Line {
    /// As a gateway would that lacks rule 14.
    fn acknowledge_at_once(&self, bytes: &Bytes) {
        let Ok(ClientFrame { frame: Some(client_frame::Frame::Batch(envelope)) }) = ClientFrame::decode(&bytes[..])
        else {
            return;
        };
        if let Ok(Batch { sid, seq, .. }) = Batch::decode(&envelope.batch[..]) {
            let ack = Ack { sid, seqs: vec![seq], ..Default::default() };
            self.send(ServerFrame { frame: Some(server_frame::Frame::Ack(ack)) }.encode_to_vec().into());
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.broken.cancel();
    }
}

impl Transport for Line {
    const NAME: &'static str = "simulation";

    async fn receive(&mut self) -> Received {
        match Line::receive(self).await {
            Some(bytes) => {
                if !self.rules.holds("14-ack") {
                    self.acknowledge_at_once(&bytes);
                }
                Received::Frame(bytes)
            }
            None => Received::Gone,
        }
    }

    async fn send(&mut self, frames: &[ServerFrame]) -> Result<(), Gone> {
        for frame in frames {
            Line::send(self, frame.encode_to_vec().into());
        }
        if self.broken.is_cancelled() { Err(Gone) } else { Ok(()) }
    }

    async fn ask(&mut self) -> Result<(), Gone> {
        if self.broken.is_cancelled() { Err(Gone) } else { Ok(()) }
    }

    async fn close(self, _: &Close) {}
}
