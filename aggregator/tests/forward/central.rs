//! The uplink's other end: it keeps what central keeps, checks what central checks, and breaks where it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use proto::Message;
use proto::uplink::central_frame::Frame as FromCentral;
use proto::uplink::region_frame::Frame as FromRegion;
use proto::uplink::uplink_server::{Uplink, UplinkServer};
use proto::uplink::{
    CentralFrame, DurableAck, FlushAck, FlushChunk, FlushRows, GatewayPosition, Leadership, Live, OpenEpoch, Refusal,
    RegionFrame, Remembered, Restore, VisitRow,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

pub const TOKEN: &str = "a-token";

/// What goes wrong with one flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The stream breaks before central has it.
    DropBeforeAccepting,
    /// The stream breaks after central has it, and the acknowledgement is lost.
    DropAfterAccepting,
    /// Central has it, and its acknowledgement waits for [`Central::release`].
    HoldAck,
    /// The stream ends with a refusal.
    Refuse,
}

/// One transmission of a whole flush.
#[derive(Clone, Debug)]
pub struct Transmission {
    pub epoch: u64,
    pub n: u64,
    pub term: u64,
    pub chunks: Vec<Vec<u8>>,
}

#[derive(Default)]
pub struct State {
    pub terms: u64,
    /// Those that were opened because a Redis was behind; the epoch is one more than they are.
    pub opened: Vec<OpenEpoch>,
    pub next_flush: u64,
    pub open_flush: u64,
    pub durable: BTreeMap<String, u64>,
    pub accepted: BTreeMap<String, u64>,
    pub watermark_ms: u64,
    /// In the order of their arrival, repeats included.
    pub transmissions: Vec<Transmission>,
    /// By epoch and number, each once: what reports would count.
    pub flushes: BTreeMap<(u64, u64), FlushRows>,
    /// Gateways that told that they are registered in Redis.
    pub entered: BTreeSet<String>,
    /// Gateways that were retired, and what stands in for their logs.
    pub retired: BTreeMap<String, Vec<Remembered>>,
    /// The stream breaks after so many parts of the next restore.
    pub break_after_parts: Option<usize>,
    pub live: Vec<Live>,
    pub faults: VecDeque<Fault>,
    /// Older leaders are not told that they have been replaced.
    pub polite_to_old_leaders: bool,
}

pub struct Central {
    pub state: Arc<Mutex<State>>,
    pub address: SocketAddr,
    release: Arc<Notify>,
    alive: CancellationToken,
    server: JoinHandle<()>,
}

impl Central {
    pub async fn start() -> Self {
        let (state, release) = (Arc::default(), Arc::default());
        let alive = CancellationToken::new();
        let (server, address) = serve(&state, &release, &alive, "127.0.0.1:0".parse().unwrap()).await;
        Self { state, address, release, alive, server }
    }

    /// As a process that dies: every stream breaks, what was accepted is kept.
    pub async fn kill(&mut self) {
        self.alive.cancel();
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    pub async fn restart(&mut self) {
        self.alive = CancellationToken::new();
        (self.server, _) = serve(&self.state, &self.release, &self.alive, self.address).await;
    }

    /// Lets one held acknowledgement go.
    pub fn release(&self) {
        self.release.notify_one();
    }

    pub fn look<T>(&self, at: impl FnOnce(&mut State) -> T) -> T {
        at(&mut self.state.lock().unwrap())
    }

    /// Pageviews of all sites in all accepted flushes.
    pub fn pageviews(&self) -> u64 {
        self.look(|state| state.flushes.values().flat_map(|rows| &rows.rollups).map(|row| row.pageviews).sum())
    }
}

impl State {
    pub fn epoch(&self) -> u64 {
        1 + self.opened.len() as u64
    }

    /// The newest state of each visit.
    pub fn visits(&self) -> Vec<VisitRow> {
        let mut newest: BTreeMap<_, ((u64, u64), VisitRow)> = BTreeMap::new();
        for ((epoch, _), rows) in &self.flushes {
            for row in &rows.visits {
                let version = (*epoch, row.version);
                let known = newest.entry((row.sid.clone(), row.seq)).or_insert_with(|| (version, row.clone()));
                if version > known.0 {
                    *known = (version, row.clone());
                }
            }
        }
        newest.into_values().map(|(_, row)| row).collect()
    }

    /// In as many parts as there are kinds of things.
    fn restore(&self) -> Vec<Restore> {
        let epoch = self.epoch();
        let first = Restore {
            epoch,
            watermark_ms: self.watermark_ms,
            waiting: self.entered.iter().filter(|gateway| !self.retired.contains_key(*gateway)).cloned().collect(),
            retired: self.retired.keys().cloned().collect(),
            ..Restore::default()
        };
        let visits = Restore { epoch, visits: self.visits(), ..Restore::default() };
        let batches = self.retired.values().flatten().cloned().collect();
        vec![first, visits, Restore { epoch, batches, last: true, ..Restore::default() }]
    }
}

impl Drop for Central {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    state: &Arc<Mutex<State>>,
    release: &Arc<Notify>,
    alive: &CancellationToken,
    address: SocketAddr,
) -> (JoinHandle<()>, SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Service { state: state.clone(), release: release.clone(), alive: alive.clone() };
    let server = tonic::transport::Server::builder().add_service(UplinkServer::new(service));
    let serving = server.serve_with_incoming(TcpIncoming::from(listener));
    (tokio::spawn(async move { serving.await.unwrap() }), address)
}

struct Service {
    state: Arc<Mutex<State>>,
    release: Arc<Notify>,
    alive: CancellationToken,
}

#[tonic::async_trait]
impl Uplink for Service {
    type ForwardStream = Pin<Box<dyn Stream<Item = Result<CentralFrame, Status>> + Send>>;

    async fn forward(&self, request: Request<Streaming<RegionFrame>>) -> Result<Response<Self::ForwardStream>, Status> {
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if shown != Some(&format!("Bearer {TOKEN}")) {
            return Err(Status::unauthenticated("the uplink token is wrong"));
        }
        let (outgoing, frames) = mpsc::channel(16);
        let stream = Conversation {
            state: self.state.clone(),
            release: self.release.clone(),
            outgoing,
            term: 0,
            chunks: vec![],
        };
        let alive = self.alive.clone();
        tokio::spawn(async move { alive.run_until_cancelled(stream.run(request.into_inner())).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames))))
    }
}

struct Conversation {
    state: Arc<Mutex<State>>,
    release: Arc<Notify>,
    outgoing: mpsc::Sender<Result<CentralFrame, Status>>,
    term: u64,
    chunks: Vec<Vec<u8>>,
}

impl Conversation {
    async fn run(mut self, mut incoming: Streaming<RegionFrame>) {
        while let Ok(Some(RegionFrame { frame: Some(frame) })) = incoming.message().await {
            let answer = match frame {
                FromRegion::Aggregator(_) => Some(FromCentral::Leadership(self.lead())),
                _ if self.is_old() => Some(refusal("another aggregator leads")),
                FromRegion::Durable(durable) => {
                    let mut state = self.state.lock().unwrap();
                    state.open_flush = state.open_flush.max(durable.open_flush);
                    for GatewayPosition { gateway, lsn, .. } in durable.vector {
                        let known = state.durable.entry(gateway).or_default();
                        *known = lsn.max(*known);
                    }
                    let retired = state.retired.keys().cloned().collect();
                    Some(FromCentral::DurableAck(DurableAck { open_flush: state.open_flush, retired }))
                }
                FromRegion::OpenEpoch(asked) => {
                    assert_eq!(asked.term, self.term);
                    let parts = {
                        let mut state = self.state.lock().unwrap();
                        state.opened.push(asked);
                        (state.next_flush, state.open_flush) = (0, 0);
                        state.durable.clear();
                        let parts = state.restore();
                        parts[..state.break_after_parts.unwrap_or(parts.len())].to_vec()
                    };
                    if !self.restore(parts).await {
                        return;
                    }
                    None
                }
                FromRegion::StandIn(asked) => {
                    assert_eq!(asked.term, self.term);
                    let (epoch, retired) = {
                        let state = self.state.lock().unwrap();
                        (state.epoch(), state.retired.clone())
                    };
                    assert_eq!(asked.epoch, epoch);
                    let retired = retired.into_iter().filter(|(gateway, _)| asked.waiting.contains(gateway));
                    let (retired, batches): (Vec<_>, Vec<_>) = retired.unzip();
                    let batches = batches.concat();
                    let first = Restore { epoch, retired, ..Restore::default() };
                    self.restore(vec![first, Restore { epoch, batches, last: true, ..Restore::default() }]).await;
                    None
                }
                FromRegion::Live(live) => {
                    self.state.lock().unwrap().live.push(live);
                    None
                }
                FromRegion::Flush(chunk) => match self.take(chunk) {
                    Ok(answer) => answer,
                    Err(()) => return,
                },
                other => panic!("no frame of an aggregator: {other:?}"),
            };
            if let Some(frame) = answer {
                let ends = matches!(frame, FromCentral::Refusal(_));
                let _ = self.outgoing.send(Ok(CentralFrame { frame: Some(frame) })).await;
                if ends {
                    return;
                }
            }
        }
    }

    /// False: the stream was to break.
    async fn restore(&mut self, parts: Vec<Restore>) -> bool {
        for part in parts {
            let _ = self.outgoing.send(Ok(CentralFrame { frame: Some(FromCentral::Restore(part)) })).await;
        }
        self.state.lock().unwrap().break_after_parts.take().is_none()
    }

    fn lead(&mut self) -> Leadership {
        let mut state = self.state.lock().unwrap();
        state.terms += 1;
        self.term = state.terms;
        let positions = |known: &BTreeMap<String, u64>| {
            known
                .iter()
                .map(|(gateway, lsn)| GatewayPosition { gateway: gateway.clone(), lsn: *lsn, ..Default::default() })
                .collect()
        };
        Leadership {
            term: self.term,
            epoch: state.epoch(),
            next_flush: state.next_flush,
            open_flush: state.open_flush,
            durable: positions(&state.durable),
            accepted: positions(&state.accepted),
            gateways: {
                state.entered.iter().filter(|gateway| !state.retired.contains_key(*gateway)).cloned().collect()
            },
            watermark_ms: state.watermark_ms,
        }
    }

    fn is_old(&self) -> bool {
        let state = self.state.lock().unwrap();
        !state.polite_to_old_leaders && self.term < state.terms
    }

    /// Checks as central does. An error ends the stream without a word.
    fn take(&mut self, chunk: FlushChunk) -> Result<Option<FromCentral>, ()> {
        assert!(chunk.rows.len() <= 1 << 20, "central takes no chunk of {} bytes", chunk.rows.len());
        assert_eq!(chunk.term, self.term);
        if chunk.index == 0 {
            self.chunks.clear();
        }
        assert_eq!(chunk.index as usize, self.chunks.len());
        self.chunks.push(chunk.rows);
        let (id, Some(end)) = (chunk.id.unwrap(), chunk.end) else { return Ok(None) };
        let chunks = std::mem::take(&mut self.chunks);
        assert_eq!(end.chunks as usize, chunks.len());
        assert_eq!(end.crc32c, crc32c::crc32c(&chunks.concat()));
        let mut rows = FlushRows::default();
        for chunk in &chunks {
            rows.merge(chunk.as_slice()).unwrap();
        }
        let rows_of_counts = rows.rollups.len() + rows.visits.len() + rows.uniques.len() + rows.ledger.len();
        assert_eq!(end.rows as usize, rows_of_counts + rows.outcomes.len());

        let fault = {
            let mut state = self.state.lock().unwrap();
            state.transmissions.push(Transmission { epoch: id.epoch, n: id.n, term: self.term, chunks });
            let fault = state.faults.pop_front();
            match fault {
                Some(Fault::DropBeforeAccepting) => return Err(()),
                Some(Fault::Refuse) => return Ok(Some(refusal("it was told to"))),
                _ => {}
            }
            if id.epoch != state.epoch() {
                return Ok(Some(refusal("a flush of another epoch")));
            }
            if id.n > state.next_flush {
                return Ok(Some(refusal("a flush came before its turn")));
            }
            if id.n == state.next_flush {
                state.next_flush += 1;
                state.flushes.insert((id.epoch, id.n), rows);
                state.accepted.extend(end.vector.into_iter().map(|position| (position.gateway, position.lsn)));
                state.watermark_ms = end.watermark_ms;
            }
            fault
        };
        let ack = FromCentral::FlushAck(FlushAck { id: Some(id) });
        match fault {
            Some(Fault::DropAfterAccepting) => Err(()),
            Some(Fault::HoldAck) => {
                let (release, outgoing) = (self.release.clone(), self.outgoing.clone());
                tokio::spawn(async move {
                    release.notified().await;
                    let _ = outgoing.send(Ok(CentralFrame { frame: Some(ack) })).await;
                });
                Ok(None)
            }
            _ => Ok(Some(ack)),
        }
    }
}

fn refusal(message: &str) -> FromCentral {
    FromCentral::Refusal(Refusal { message: message.into() })
}
