//! Connections that are opened and led nowhere, and reports by the thousand.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::Message as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::flood::{Attacker, SITE};
use crate::ORIGIN;
use crate::page::{CHROME, envelope, now_ms, pageviews, sid};

const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A head that is never over.
pub async fn slowloris(attacker: &Attacker) -> io::Result<()> {
    let mut stream = attacker.connect(attacker.target.plain).await?;
    stream.write_all(b"GET /v1/stream HTTP/1.1\r\nHost: gateway\r\nX-Padding: ").await?;
    trickle(attacker, stream, b'a').await
}

/// The first bytes of a ClientHello that announces more.
pub async fn half_handshake(attacker: &Attacker) -> io::Result<()> {
    let mut stream = attacker.connect(attacker.target.tls).await?;
    stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]).await?;
    trickle(attacker, stream, 0x5a).await
}

/// A byte a second, until the gateway has had enough.
async fn trickle(attacker: &Attacker, mut stream: TcpStream, byte: u8) -> io::Result<()> {
    while Instant::now() < attacker.until {
        sleep(Duration::from_secs(1)).await;
        stream.write_all(&[byte]).await?;
        attacker.did(1);
    }
    Ok(())
}

/// A whole handshake, which is the most that a stranger can make a gateway compute, and away.
pub async fn handshake(attacker: &Attacker) -> io::Result<()> {
    static CONNECTOR: OnceLock<TlsConnector> = OnceLock::new();
    let connector = CONNECTOR.get_or_init(|| {
        let mut config = crate::tls::client(&attacker.target.certificate, b"http/1.1");
        config.resumption = rustls::client::Resumption::disabled(); // the cheap way is not taken
        TlsConnector::from(Arc::new(config))
    });
    let stream = attacker.connect(attacker.target.tls).await?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    timeout(ANSWER_MAX, connector.connect(name, stream)).await??;
    attacker.did(1);
    Ok(())
}

/// One batch by POST, from one of 10,000 addresses: right, of a site that does not exist, or of a page that is none of the site's.
pub async fn report(attacker: &Attacker) -> io::Result<()> {
    let (site, origin) = match attacker.turn % 3 {
        0 => (SITE, ORIGIN),
        1 => ("no-such-site", ORIGIN),
        _ => (SITE, "https://evil.example"),
    };
    let mut envelope = envelope(&pageviews(sid(now_ms()), 1, now_ms(), &["/"]));
    envelope.site = site.into();
    let body = envelope.encode_to_vec();
    let head = format!(
        "POST /v1/batch HTTP/1.1\r\nHost: gateway\r\nOrigin: {origin}\r\nUser-Agent: {CHROME}\r\nContent-Length: {}\r\n\
         Content-Type: application/octet-stream\r\nConnection: close\r\n\r\n",
        body.len(),
    );
    let mut stream = attacker.connect(attacker.target.plain).await?;
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    let read = timeout(ANSWER_MAX, stream.read(&mut [0; 1024])).await??;
    attacker.did(u64::from(read > 0));
    Ok(())
}
