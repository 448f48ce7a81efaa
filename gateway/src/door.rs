//! What every core shares: who a client is, and the way into the log.
//!
//! Cheapest first: [`overload`] says whether newcomers are let in at all, [`address`] whose a connection is, [`crowd`] whether they have
//! too many already ([`networks`]: which belong together), [`waf`] what the operator does not want, [`sites`] whether the site is known and
//! the page one of its own, [`throttle`] and [`capacity`] whether a batch is to come later.

pub mod address;
pub mod capacity;
pub mod crowd;
pub mod networks;
pub mod overload;
pub mod sites;
pub mod throttle;
pub mod waf;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::extract::Request;
use http::{HeaderMap, HeaderValue, header};
use proto::Message;
use proto::agent::{Envelope, Notice, ServerFrame};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::delivery::answer::{self, Answer, Refusal};
use crate::delivery::log::{Submission, Waiter};
use crate::door::address::{ForwardedHeader, TrustedProxies, client_address};
use crate::door::capacity::Capacity;
use crate::door::crowd::{Crowd, Seat};
use crate::door::overload::Overload;
use crate::door::sites::{Admitted, Credentials};
use crate::door::throttle::{ConnectionThrottle, Throttles};
use crate::door::waf::{Asked, Blocked, Waf};
use crate::ingest::{Accepted, Client, Ingest};
use crate::metrics::Metrics;

/// 64 MiB: 64 of the largest records there are, or hundreds of thousands of ordinary events.
pub const ROOM_KIB: u32 = 64 * 1024;

/// Whoever connected, or whom a trusted proxy's PROXY header names.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// Of the connection that a request came on.
    pub fn of<B>(request: &http::Request<B>) -> IpAddr {
        request.extensions().get::<Self>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0)
    }
}

/// What the cores share.
pub struct Door {
    /// From transmission to record.
    pub ingest: Arc<Ingest>,
    /// The way into the log. Full: sessions wait, and their agents with them.
    pub log: mpsc::Sender<Submission>,
    /// What may be on its way to Redis at once, in KiB of records. Full: likewise.
    pub room: Arc<Semaphore>,
    /// Whether anything can be taken at all.
    pub capacity: Arc<Capacity>,
    /// How fast one may send.
    pub throttles: Arc<Throttles>,
    /// Whether there is more to do than can be done.
    pub overload: Arc<Overload>,
    /// How many may be connected from one place.
    pub crowd: Crowd,
    /// What the operator turns away.
    pub waf: Arc<Waf>,
    /// What one client may ask for, as it is now.
    pub limits: watch::Receiver<Limits>,
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

/// What became of a transmission.
#[derive(Debug)]
pub enum Taken {
    /// On its way into the log. Its answer comes to the session once Redis has it.
    Submitted {
        /// What is told of its events, if its site is in debug mode.
        notices: Vec<Notice>,
    },
    /// Not now: it keeps its number and comes again.
    Later {
        /// Says so to the agent.
        frame: ServerFrame,
        /// After this long.
        wait_ms: u32,
    },
    /// Not taken, and nothing of it is remembered. Without a sid the bytes named no batch.
    Refused(Refusal),
    /// The gateway is leaving, or its log has failed: nobody knows what becomes of it.
    Stopping,
}

impl Door {
    /// A place for a connection of this address; `None`, and counted, if there are too many.
    pub fn seat(&self, address: IpAddr) -> Option<Seat> {
        let entered = self.crowd.enter(address);
        if let Err(crowded) = &entered {
            self.metrics.connection_refused(crowded.label());
            tracing::debug!(%address, %crowded, "a connection was refused");
        }
        entered.ok()
    }

    /// A place for a session, likewise. One connection carries many, so they are counted against the core once more.
    pub fn seat_of_session(&self, address: IpAddr) -> Option<Seat> {
        if self.sessions.len() > self.connections_max() {
            self.metrics.connection_refused("core");
            return None;
        }
        self.seat(address)
    }

    /// Whether the operator's rules let a request through, before anything else of it is looked at.
    pub fn judge<B>(&self, peer: IpAddr, request: &http::Request<B>) -> Result<(), Blocked> {
        let headers = request.headers();
        let address = client_address(peer, &self.trusted_proxies, self.forwarded_header, headers);
        self.waf.judge(&Asked::new(address, request.method(), request.uri().path(), headers))
    }

    /// Connections that this core takes.
    pub fn connections_max(&self) -> usize {
        self.limits.borrow().connections_per_core
    }

    /// Until when a connection must have sent its request.
    pub fn handshake_max(&self) -> Duration {
        Duration::from_secs(self.limits.borrow().handshake_s)
    }

    /// How long a connection may be silent.
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.limits.borrow().idle_s)
    }

    /// Who sent a request.
    pub fn client_of(&self, request: &Request) -> Client {
        self.client(Peer::of(request), request.headers())
    }

    /// Who is behind a peer that sent these headers.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Client {
        let header =
            |name| headers.get(name).map(|value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let user_agent = header(header::USER_AGENT).unwrap_or_default();
        Client {
            address: client_address(peer, &self.trusted_proxies, self.forwarded_header, headers),
            device: self.ingest.agents.look_up(&user_agent),
            user_agent,
            origin: header(header::ORIGIN),
        }
    }

    /// Takes one transmission: admit, throttle, decode and judge, then on its way to the log.
    pub async fn take(
        &self,
        client: &Client,
        credentials: Credentials<'_>,
        envelope: &Envelope,
        connection: Option<&ConnectionThrottle>,
        transport: &'static str,
        session: &mpsc::Sender<Answer>,
    ) -> Taken {
        let table = self.ingest.sites.table();
        // Before the throttle: it keeps a line a site, and only for sites that there are.
        let Admitted { site, unkeyed } = match table.admit(credentials, client.origin.as_deref()) {
            Ok(admitted) => admitted,
            Err(reason) => return Taken::Refused(Refusal::of_frame(reason)),
        };
        if let Some(unkeyed) = unkeyed {
            self.metrics.unkeyed(&site.name, unkeyed);
        }
        let name = || answer::name_of(&envelope.batch);
        let asked_to_wait = match self.capacity.wait() {
            // Everybody is asked at once, so each comes back at another moment.
            Some(wait) => Err(wait + wait / 256 * (crc32c::crc32c(&name().0) & 0xff)),
            None => self.throttles.take(connection, client.address, &site.name, &site.tenant),
        };
        if let Err(wait) = asked_to_wait {
            self.metrics.throttled.inc();
            let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
            let (sid, seq) = name();
            return Taken::Later { frame: answer::throttle(sid, seq, wait_ms), wait_ms };
        }
        match self.ingest.take(&table, &site, client, envelope) {
            Ok(mut accepted) => {
                let notices = std::mem::take(&mut accepted.remarks.notices);
                let notices = answer::notices(accepted.sid, accepted.seq, notices);
                match self.submit(accepted, transport, session).await {
                    true => Taken::Submitted { notices },
                    false => Taken::Stopping,
                }
            }
            Err(refusal) => Taken::Refused(refusal),
        }
    }

    /// Hands an accepted batch to the log. Its answer comes to `session` once Redis has it. False: the gateway is stopping.
    async fn submit(&self, accepted: Box<Accepted>, transport: &'static str, session: &mpsc::Sender<Answer>) -> bool {
        let Accepted { sid, seq, record, refused, remarks, replaced, admission } = *accepted;
        self.metrics.batch(transport);
        if let Some(reason) = refused {
            self.metrics.refused(reason);
        }
        self.metrics.remarked(&remarks);
        self.metrics.replaced(replaced);
        let kib = u32::try_from(record.encoded_len() / 1024 + 1).unwrap_or(u32::MAX).min(ROOM_KIB);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(kib).await else { return false };
        let waiter = Waiter { answer: Answer { sid, seq, refused }, session: session.clone(), admission, room };
        self.log.send(Submission { record, waiter }).await.is_ok()
    }
}
