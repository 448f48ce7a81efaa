//! Whether a process answers: a role by `GET /ready` on its admin address, Redis by `PING`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A process on this machine that needs longer for such a small answer is not ready.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// Asks roles; made once, so that its connections are kept.
#[derive(Clone)]
pub struct Probe(reqwest::Client);

impl Probe {
    /// A probe that ignores the proxies of the environment: everything it asks is on this machine.
    pub fn try_new() -> Result<Self, reqwest::Error> {
        Ok(Self(reqwest::Client::builder().no_proxy().timeout(ANSWER_WAIT).build()?))
    }

    /// Does the role whose admin address this is say that it is ready?
    pub async fn role(&self, admin: SocketAddr) -> bool {
        let answer = self.0.get(format!("http://{admin}/ready")).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}

/// Does the Redis behind this socket answer? While it loads its data it does not.
pub async fn redis(socket: &Path) -> bool {
    timeout(ANSWER_WAIT, ping(socket)).await.is_ok_and(|answer| answer.is_ok_and(|answer| &answer == b"+PONG\r\n"))
}

async fn ping(socket: &Path) -> std::io::Result<[u8; 7]> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
