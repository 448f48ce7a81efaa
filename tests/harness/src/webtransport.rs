//! The end of a session over WebTransport that a browser has, by another library than the gateway's.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proto::Message as _;
use proto::agent::{Batch, ClientFrame, Hello, ServerFrame, client_frame, server_frame};
use wtransport::endpoint::ConnectOptions;
use wtransport::endpoint::endpoint_side::Client;
pub use wtransport::error::ConnectingError;
use wtransport::tls::CertificateChain;
use wtransport::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};

use crate::page::{CHROME, envelope};
use crate::{ORIGIN, SITE};

const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A session that has one stream.
pub struct Session {
    to: SendStream,
    from: RecvStream,
    /// Ends with this.
    _connection: Connection,
    _endpoint: Endpoint<Client>,
}

impl Session {
    /// Connected as a page that names the certificate in this file by its hash, and welcome.
    pub async fn open(gateway: SocketAddr, certificate: &Path) -> Self {
        let mut session = Self::connect(gateway, certificate).await;
        let hello = Hello { site: SITE.into(), agent_version: "test".into(), ..Default::default() };
        session.send(client_frame::Frame::Hello(hello)).await;
        assert!(matches!(session.frame().await, Some(server_frame::Frame::Welcome(_))));
        session
    }

    async fn connect(gateway: SocketAddr, certificate: &Path) -> Self {
        Self::try_connect(gateway, certificate).await.unwrap()
    }

    /// Without a Hello, where the session may be refused.
    pub async fn try_connect(gateway: SocketAddr, certificate: &Path) -> Result<Self, ConnectingError> {
        let chain = CertificateChain::load_pemfile(certificate).await.unwrap();
        let hash = chain.as_slice()[0].hash();
        let config = ClientConfig::builder().with_bind_default().with_server_certificate_hashes([hash]).build();
        let endpoint = Endpoint::client(config).unwrap();
        let options = ConnectOptions::builder(format!("https://{gateway}/v1/stream"))
            .add_header("origin", ORIGIN)
            .add_header("user-agent", CHROME)
            .build();
        let connection = endpoint.connect(options).await?;
        let (to, from) = connection.open_bi().await.unwrap().await.unwrap();
        Ok(Self { to, from, _connection: connection, _endpoint: endpoint })
    }

    /// Sends any frame.
    pub async fn send(&mut self, frame: client_frame::Frame) {
        let bytes = ClientFrame { frame: Some(frame) }.encode_length_delimited_to_vec();
        self.to.write_all(&bytes).await.unwrap();
    }

    /// Sends a batch as it is now.
    pub async fn batch(&mut self, batch: &Batch) {
        self.send(client_frame::Frame::Batch(envelope(batch))).await;
    }

    /// The next frame; `None` once the gateway has closed.
    pub async fn frame(&mut self) -> Option<server_frame::Frame> {
        tokio::time::timeout(ANSWER_MAX, self.next()).await.expect("an answer in time")
    }

    async fn next(&mut self) -> Option<server_frame::Frame> {
        let (mut length, mut place) = (0_usize, 0);
        loop {
            let mut byte = [0];
            self.from.read_exact(&mut byte).await.ok()?;
            length |= usize::from(byte[0] & 0x7f) << (7 * place);
            place += 1;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes).await.ok()?;
        ServerFrame::decode(&bytes[..]).unwrap().frame
    }
}
