//! From a page to a gateway: frames over a network, into the gateway's real session.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gateway::door::Door;
use gateway::ingest::Client;
use gateway::session::{self, Close, Gone, Received, Transport};
use prost::Message as _;
use proto::agent::ServerFrame;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::central::ORIGIN;
use crate::network::{Fate, Network};

/// The gateways' doors, of those that are up.
#[derive(Clone)]
pub struct Doors {
    places: Arc<Mutex<Vec<Option<Place>>>>,
    network: Network,
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
    pub fn new(gateways: usize, network: Network) -> Self {
        Self { places: Arc::new(Mutex::new(vec![None; gateways])), network }
    }

    /// Opens or closes the door of a gateway.
    pub fn set(&self, gateway: usize, place: Option<Place>) {
        self.lock()[gateway] = place;
    }

    /// To any gateway that is up.
    pub async fn connect(&self, address: IpAddr, random: &mut StdRng) -> Option<Line> {
        sleep_until(self.network.arrival()).await;
        let places: Vec<Place> = self.lock().iter().flatten().cloned().collect();
        if places.is_empty() || self.network.fate() == Fate::Lost {
            return None;
        }
        let Place { door, killed } = places[random.random_range(0..places.len())].clone();
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
        };
        let (page, gateway) = (end(up, from_gateway), end(down, from_page));
        let user_agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".to_owned();
        let device = door.ingest.agents.look_up(&user_agent);
        let client = Client { address, user_agent, origin: Some(ORIGIN.into()), device };
        tokio::spawn(killed.run_until_cancelled_owned(session::serve(gateway, client, door)));
        Some(page)
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

impl Drop for Line {
    fn drop(&mut self) {
        self.broken.cancel();
    }
}

impl Transport for Line {
    const NAME: &'static str = "simulation";

    async fn receive(&mut self) -> Received {
        match Line::receive(self).await {
            Some(bytes) => Received::Frame(bytes),
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
