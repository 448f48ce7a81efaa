//! QUIC: one socket and one endpoint for the whole gateway, whose connections are handed to the cores in turn. With a socket a
//! core the kernel would send the packets of a client that changes its address, as phones do, to a core that does not know it.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Limits;

/// Of one connection at once: an agent has one and now and then asks for a file.
const STREAMS_MAX: u32 = 16;
/// What QUIC holds of one stream that nobody has read yet.
pub const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// And of all streams of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// WebTransport asks for datagrams. Nobody sends any, so they get no room.
const DATAGRAM_BYTES: usize = 1200;
/// Unfinished handshakes of clients whose address nobody has proved. Beyond them a client must first show that it is its own; from
/// then on it is held to the limits of its address, as by TCP.
const UNPROVED_MAX: usize = 32;
/// First packets that wait for the endpoint.
const INCOMING_MAX: usize = 512;
/// Bytes kept of what strangers sent before their handshake begins, of one and of all.
const EARLY_BYTES_MAX: u64 = 16 * 1024;
const EARLY_BYTES_MAX_ALL: u64 = 4 * 1024 * 1024;
/// Connections on their way to one core. Full: the next core is asked, then the client comes again by itself.
const HANDOVER_QUEUE: usize = 64;
/// How long connections may take to leave, and a little longer than the cores wait for them.
const DRAIN_MAX: Duration = Duration::from_secs(9);

/// A client's first packet, on the core that is to answer it.
#[derive(Debug)]
pub struct Arrived {
    incoming: Incoming,
    /// Of a client that has not proved its address, until its handshake is over.
    unproved: Option<OwnedSemaphorePermit>,
}

impl Arrived {
    /// The handshake, and what is to be dropped when it is over.
    pub fn take(self) -> (Incoming, Option<OwnedSemaphorePermit>) {
        (self.incoming, self.unproved)
    }

    /// Says no.
    pub fn refuse(self) {
        self.incoming.refuse();
    }
}

/// A socket that is served.
#[derive(Debug)]
pub struct Serving {
    /// A queue for each core.
    pub cores: Vec<mpsc::Receiver<Arrived>>,
    /// Ends once the gateway leaves and every connection is gone.
    pub thread: thread::JoinHandle<io::Result<()>>,
}

/// Serves the socket on a thread of its own until `stop` and until every connection is gone.
pub fn start(
    socket: UdpSocket,
    crypto: QuicServerConfig,
    limits: watch::Receiver<Limits>,
    cores: usize,
    stop: CancellationToken,
) -> io::Result<Serving> {
    let (to_cores, cores) = (0..cores).map(|_| mpsc::channel(HANDOVER_QUEUE)).unzip();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(serve(socket, Arc::new(crypto), limits, to_cores, stop))
    };
    Ok(Serving { cores, thread: thread::Builder::new().name("quic".into()).spawn(body)? })
}

async fn serve(
    socket: UdpSocket,
    crypto: Arc<QuicServerConfig>,
    mut limits: watch::Receiver<Limits>,
    cores: Vec<mpsc::Sender<Arrived>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let config = server_config(Arc::clone(&crypto), &limits.borrow_and_update());
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))?;
    let unproved = Arc::new(Semaphore::new(UNPROVED_MAX));
    let mut turn = 0;
    loop {
        let incoming = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Ok(()) = limits.changed() => {
                let config = server_config(Arc::clone(&crypto), &limits.borrow_and_update());
                endpoint.set_server_config(Some(config)); // for connections that begin now
                continue;
            }
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let unproved = match Arc::clone(&unproved).try_acquire_owned() {
            _ if incoming.remote_address_validated() => None,
            Ok(permit) => Some(permit),
            Err(_) => {
                if let Err(error) = incoming.retry() {
                    tracing::debug!(%error, "a client could not be asked for its address");
                }
                continue;
            }
        };
        turn = (turn + 1) % cores.len();
        hand_over(&cores, turn, Arrived { incoming, unproved });
    }
    endpoint.set_server_config(None);
    drop(cores);
    let _ = timeout(DRAIN_MAX, endpoint.wait_idle()).await;
    Ok(())
}

/// To this core, or to the next one that has room.
fn hand_over(cores: &[mpsc::Sender<Arrived>], first: usize, mut arrived: Arrived) {
    for place in 0..cores.len() {
        match cores[(first + place) % cores.len()].try_send(arrived) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => arrived = back,
        }
    }
    arrived.incoming.ignore();
}

fn server_config(crypto: Arc<QuicServerConfig>, limits: &Limits) -> ServerConfig {
    let mut transport = TransportConfig::default();
    // Whoever is silent is asked by QUIC itself; whoever does not answer is gone.
    let idle = Duration::from_secs(limits.idle_s);
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .datagram_receive_buffer_size(Some(DATAGRAM_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BYTES)
        .keep_alive_interval(Some(idle / 2))
        .max_idle_timeout(Some(IdleTimeout::try_from(2 * idle).unwrap_or_else(|_| IdleTimeout::from(VarInt::MAX))));
    let mut config = ServerConfig::with_crypto(crypto);
    config
        .transport_config(Arc::new(transport))
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(EARLY_BYTES_MAX)
        .incoming_buffer_size_total(EARLY_BYTES_MAX_ALL);
    config
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use quinn::crypto::rustls::QuicClientConfig;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use tokio::time::timeout;

    use super::*;
    use crate::transports::tls;

    const WAIT_MAX: Duration = Duration::from_secs(20);

    fn client(certificate: &std::path::Path) -> Endpoint {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let crypto = QuicClientConfig::try_from(tls).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        endpoint
    }

    async fn next(core: &mut mpsc::Receiver<Arrived>) -> (Incoming, Option<OwnedSemaphorePermit>) {
        timeout(WAIT_MAX, core.recv()).await.expect("a connection in time").unwrap().take()
    }

    #[tokio::test]
    async fn under_load_a_client_proves_its_address_before_its_handshake_begins() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = tls::tests::write(folder.path(), "certificate");
        let crypto = tls::Certificates::open(&chain, &key).unwrap().quic().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (_limits, limits) = watch::channel(Limits::default());
        let stop = CancellationToken::new();
        let Serving { mut cores, thread } = start(socket, crypto, limits, 1, stop.clone()).unwrap();
        let client = client(&chain);

        let (mut connecting, mut unfinished) = (Vec::new(), Vec::new());
        for _ in 0..UNPROVED_MAX {
            connecting.push(client.connect(address, "localhost").unwrap());
            let (incoming, permit) = next(&mut cores[0]).await;
            assert!(permit.is_some() && !incoming.remote_address_validated());
            unfinished.push((incoming, permit));
        }
        let proved = client.connect(address, "localhost").unwrap();
        let (incoming, permit) = next(&mut cores[0]).await;
        assert!(permit.is_none() && incoming.remote_address_validated(), "it came again with what it was sent");
        let (here, there) =
            timeout(WAIT_MAX, async { tokio::join!(proved, incoming.accept().unwrap()) }).await.unwrap();
        assert!(here.is_ok() && there.is_ok());

        // Once one of them is over, the next newcomer need not.
        drop(unfinished.pop());
        connecting.push(client.connect(address, "localhost").unwrap());
        let (incoming, permit) = next(&mut cores[0]).await;
        assert!(permit.is_some() && !incoming.remote_address_validated());

        drop((connecting, unfinished, incoming, permit, here, there, client));
        stop.cancel();
        let ended = tokio::task::spawn_blocking(|| thread.join());
        timeout(WAIT_MAX, ended).await.expect("it ends").unwrap().unwrap().unwrap();
    }
}
