//! The attackers of one kind, in a process of their own.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::kind::Kind;
use super::{garbage, http1, http2, quic};

/// The site that attackers report to: its events are counted as everybody's, and are none of the pages' site.
pub const SITE: &str = "attacked";
/// The first of the attackers' addresses.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);
const ADDRESSES: u32 = 10_000;
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// After a try that came to nothing.
const PAUSE: Duration = Duration::from_millis(20);
/// Some ten microseconds of a core.
const COMPUTED_BYTES: usize = 256 * 1024;
/// Not all in one moment: 10,000 a second.
const STARTED_AT_ONCE: u32 = 10;
const START_PAUSE: Duration = Duration::from_millis(1);

/// What is attacked.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// Without TLS.
    #[arg(long)]
    pub plain: SocketAddr,
    /// With TLS, and QUIC.
    #[arg(long)]
    pub tls: SocketAddr,
    /// The gateway's.
    #[arg(long)]
    pub certificate: PathBuf,
}

/// What the attackers' process is to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Flood {
    /// Which attack.
    #[arg(value_enum)]
    pub kind: Kind,
    /// How long, seconds.
    #[arg(long)]
    pub seconds: u64,
    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// What attackers did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Flooded {
    /// Connections, or what stands for one.
    pub tries: u64,
    /// What they did on them, as [`Kind::unit`] calls it.
    pub done: u64,
}

/// One of them.
#[derive(Clone)]
pub(super) struct Attacker {
    pub target: Arc<Target>,
    pub number: u32,
    /// How often this one has tried.
    pub turn: u32,
    pub until: Instant,
    done: Arc<AtomicU64>,
}

impl Target {
    pub(super) fn arguments(&self, kind: Kind, lasts: Duration) -> Vec<OsString> {
        let seconds = lasts.as_secs().to_string();
        let mut words: Vec<OsString> = vec!["flood".into(), kind.name().into(), "--seconds".into(), seconds.into()];
        words.extend(["--plain".into(), self.plain.to_string().into(), "--tls".into(), self.tls.to_string().into()]);
        words.extend(["--certificate".into(), self.certificate.clone().into_os_string()]);
        words
    }
}

impl Flood {
    /// Attacks until the time is over.
    pub async fn run(self) -> Flooded {
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let (target, done, tries) = (Arc::new(self.target), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut attackers = JoinSet::new();
        for number in 0..self.kind.attackers() {
            let attacker = Attacker { target: Arc::clone(&target), number, turn: 0, until, done: Arc::clone(&done) };
            attackers.spawn(again_and_again(self.kind, attacker, Arc::clone(&tries)));
            if number % STARTED_AT_ONCE == 0 {
                sleep(START_PAUSE).await;
            }
        }
        let _ = timeout_at(until, async { while attackers.join_next().await.is_some() {} }).await;
        Flooded { tries: tries.load(Ordering::Relaxed), done: done.load(Ordering::Relaxed) }
    }
}

async fn again_and_again(kind: Kind, mut attacker: Attacker, tries: Arc<AtomicU64>) {
    while Instant::now() < attacker.until {
        tries.fetch_add(1, Ordering::Relaxed);
        // However it ends, it was one try: most end with the gateway closing the connection.
        let ended = match kind {
            Kind::Bystanders => bystand(&attacker).await,
            Kind::Slowloris => http1::slowloris(&attacker).await,
            Kind::HalfHandshakes => http1::half_handshake(&attacker).await,
            Kind::Handshakes => http1::handshake(&attacker).await,
            Kind::OneByteFrames => garbage::one_byte_frames(&attacker).await,
            Kind::MaskedGarbage => garbage::masked(&attacker).await,
            Kind::Compression => garbage::compression(&attacker).await,
            Kind::HugeVarints => garbage::huge_varints(&attacker).await,
            Kind::GrpcBombs => http2::grpc_bombs(&attacker).await,
            Kind::RapidReset => http2::rapid_reset(&attacker).await,
            Kind::Continuation => http2::continuation(&attacker).await,
            Kind::QuicInitials => quic::initials(&attacker).await,
            Kind::Botnet => http1::report(&attacker).await,
        };
        attacker.turn = attacker.turn.wrapping_add(1);
        if ended.is_err() {
            sleep(PAUSE).await;
        }
    }
}

/// Computes, for a moment at a time.
async fn bystand(attacker: &Attacker) -> std::io::Result<()> {
    let bytes = vec![attacker.number as u8; COMPUTED_BYTES];
    while Instant::now() < attacker.until {
        std::hint::black_box(crc32c::crc32c(std::hint::black_box(&bytes)));
        attacker.did(1);
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The attackers' addresses, again and again.
pub(super) fn address(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + number % ADDRESSES), 0))
}

impl Attacker {
    /// Counts what reached the gateway.
    pub fn did(&self, times: u64) {
        self.done.fetch_add(times, Ordering::Relaxed);
    }

    /// One of 10,000 addresses; another one each turn.
    pub fn address(&self) -> SocketAddr {
        address(self.number.wrapping_add(self.turn.wrapping_mul(64)))
    }

    /// Connected from there.
    pub async fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(self.address())?;
        let stream = timeout(CONNECT_MAX, socket.connect(to)).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        // Closed with a reset: ports are free again at once.
        stream.set_zero_linger()?;
        Ok(stream)
    }

    /// Connected and upgraded to a WebSocket, with this header more.
    pub async fn websocket(&self, header: &str) -> std::io::Result<TcpStream> {
        let mut stream = self.connect(self.target.plain).await?;
        let request = format!(
            "GET /v1/stream HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: {}\r\nUser-Agent: {}\r\n{header}\r\n",
            crate::ORIGIN,
            crate::page::CHROME,
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 512];
        let read = timeout(CONNECT_MAX, stream.read(&mut answer)).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
        if answer[..read].starts_with(b"HTTP/1.1 101") { Ok(stream) } else { Err(std::io::ErrorKind::Other.into()) }
    }
}
