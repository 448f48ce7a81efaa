//! What every core shares: who a client is, and the way into the log.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::extract::Request;
use http::header;
use proto::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{ForwardedHeader, TrustedProxies, client_address};
use crate::answer::Answer;
use crate::config::Limits;
use crate::ingest::{Accepted, Client, Ingest};
use crate::log::{Submission, Waiter};
use crate::metrics::Metrics;
use crate::throttle::Throttles;

/// 64 MiB: 64 of the largest records there are, or hundreds of thousands of ordinary events.
pub const ROOM_KIB: u32 = 64 * 1024;

/// Whoever connected, or whom a trusted proxy's PROXY header names.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// What the cores share.
pub struct Door {
    /// From transmission to record.
    pub ingest: Arc<Ingest>,
    /// The way into the log. Full: sessions wait, and their agents with them.
    pub log: mpsc::Sender<Submission>,
    /// What may be on its way to Redis at once, in KiB of records. Full: likewise.
    pub room: Arc<Semaphore>,
    /// How fast one may send.
    pub throttles: Arc<Throttles>,
    /// What one client may ask for.
    pub limits: Limits,
    /// Whose word about a client's address counts.
    pub trusted_proxies: TrustedProxies,
    /// In which header.
    pub forwarded_header: ForwardedHeader,
    /// Trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// As agents hear it.
    pub region: String,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Redis counts for this gateway.
    pub ready: Arc<AtomicBool>,
    /// Upgraded connections.
    pub sessions: TaskTracker,
    /// The gateway is leaving.
    pub stop: CancellationToken,
}

impl Door {
    /// Who sent a request.
    pub fn client(&self, request: &Request) -> Client {
        let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
        let header = |name| {
            request
                .headers()
                .get(name)
                .map(|value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let user_agent = header(header::USER_AGENT).unwrap_or_default();
        Client {
            address: client_address(peer, &self.trusted_proxies, self.forwarded_header, request.headers()),
            device: self.ingest.agents.look_up(&user_agent),
            user_agent,
            origin: header(header::ORIGIN),
        }
    }

    /// Hands an accepted batch to the log. Its answer comes to `session` once Redis has it. False: the gateway is stopping.
    pub async fn submit(&self, accepted: Accepted, transport: &'static str, session: &mpsc::Sender<Answer>) -> bool {
        let Accepted { sid, seq, record, refused, admission } = accepted;
        self.metrics.batch(transport);
        if let Some(reason) = refused {
            self.metrics.refused(reason);
        }
        let kib = u32::try_from(record.encoded_len() / 1024 + 1).unwrap_or(u32::MAX).min(ROOM_KIB);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(kib).await else { return false };
        let waiter = Waiter { answer: Answer { sid, seq, refused }, session: session.clone(), admission, room };
        self.log.send(Submission { record, waiter }).await.is_ok()
    }
}
