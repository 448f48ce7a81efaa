//! The way to central: a stream of frames up and one down, over gRPC or over something else that a test gives.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use crate::uplink::uplink_client::UplinkClient;
use crate::uplink::{CentralFrame, RegionFrame};

/// A configuration of some 500,000 sites; nothing else comes near it.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A central that vanished without a word is noticed after twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What central says, until the stream breaks or ends.
pub type Frames = Pin<Box<dyn Stream<Item = Result<CentralFrame, Status>> + Send>>;

/// A stream that is about to open.
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Frames, Status>> + Send + 'a>>;

/// Opens streams to central.
pub trait Dial: Send + Sync {
    /// Opens a stream that carries `frames`; it ends when their sender is dropped. The hello must be in `frames` already: central
    /// may wait for it before it answers at all.
    fn open(&self, frames: mpsc::Receiver<RegionFrame>) -> Opening<'_>;
}

/// Central at its address.
#[derive(Clone, Debug)]
pub struct Dialer {
    endpoint: Endpoint,
    authorization: MetadataValue<Ascii>,
}

/// Why there is no way to central.
#[derive(Debug)]
pub enum DialError {
    /// The address is none.
    Url(String, tonic::transport::Error),
    /// The token's file is not there, not readable, or empty.
    Token(PathBuf, std::io::Error),
    /// What is in it cannot be a token.
    BadToken,
}

impl Dialer {
    /// `url` as `http://host:port`; `token` is what central asks for, one word of ASCII.
    pub fn try_new(url: &str, token: &str) -> Result<Self, DialError> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| DialError::Url(url.to_owned(), error))?;
        let endpoint = endpoint.connect_timeout(CONNECT_MAX).http2_keep_alive_interval(KEEP_ALIVE);
        let endpoint = endpoint.keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true);
        let token = token.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(DialError::BadToken);
        }
        let authorization = format!("Bearer {token}").parse().map_err(|_| DialError::BadToken)?;
        Ok(Self { endpoint, authorization })
    }

    /// With the token that is in a file.
    pub fn with_token_file(url: &str, path: &Path) -> Result<Self, DialError> {
        let token = std::fs::read_to_string(path).map_err(|error| DialError::Token(path.to_owned(), error))?;
        if token.trim().is_empty() {
            return Err(DialError::Token(path.to_owned(), std::io::Error::other("it is empty")));
        }
        Self::try_new(url, &token)
    }
}

impl Dial for Dialer {
    fn open(&self, frames: mpsc::Receiver<RegionFrame>) -> Opening<'_> {
        Box::pin(async move {
            let unreachable = |error| {
                Status::unavailable(format!("{} cannot be reached: {}", self.endpoint.uri(), root_cause(&error)))
            };
            let channel = self.endpoint.connect().await.map_err(unreachable)?;
            let mut request = Request::new(ReceiverStream::new(frames));
            request.metadata_mut().insert("authorization", self.authorization.clone());
            let mut client = UplinkClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
            Ok(Box::pin(client.forward(request).await?.into_inner()) as Frames)
        })
    }
}

/// A transport error says "transport error" and leaves the news to its source.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => cause.to_string(),
    }
}

impl std::fmt::Display for DialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url, error) => write!(f, "`uplink` is {url:?}: it must be http://host:port ({error})"),
            Self::Token(path, error) => write!(
                f,
                "uplink_token_file {} cannot be read: {error}; give this process a copy of central's",
                path.display()
            ),
            Self::BadToken => f.write_str("the uplink token must be one word of visible ASCII: copy central's file"),
        }
    }
}

impl std::error::Error for DialError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_central_that_is_not_there_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        drop(listener);
        let (_sender, frames) = mpsc::channel(1);
        let status = Dialer::try_new(&url, "secret\n").expect("it is a token").open(frames).await.err();
        let status = status.expect("nobody listens");
        assert!(status.message().contains(&url), "{status}");
    }

    #[test]
    fn a_token_is_one_word() {
        for wrong in ["", " \n", "two words", "näh"] {
            assert!(Dialer::try_new("http://127.0.0.1:1", wrong).is_err(), "{wrong:?}");
        }
    }
}
