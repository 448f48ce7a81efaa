//! The way to a gateway: one WebSocket a visitor, with the headers that a browser behind a proxy would arrive with.

use http::{HeaderValue, header};
use rand::seq::IndexedRandom;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, client::IntoClientRequest, handshake::client::Request, protocol::WebSocketConfig},
};

use crate::visitor::Visitor;

/// A connection to a gateway.
pub type Socket = WebSocketStream<TcpStream>;

/// Answers are small: a buffer of this size a connection keeps 19,000 of them under 80 MB.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// A gateway's address, as asked for.
#[derive(Debug, Clone)]
pub struct Gateway {
    authority: String,
    connect_to: String,
    origin: HeaderValue,
}

/// Where a visitor's connections lead: to any one of several, each time.
#[derive(Debug, Clone)]
pub struct Gateways(Vec<Gateway>);

impl Gateways {
    /// The gateways at `urls`, visited from pages of `origin`.
    pub fn try_new(urls: &[String], origin: &str) -> Result<Self, GatewayUrlError> {
        if urls.is_empty() {
            return Err(GatewayUrlError { url: String::new(), why: "there is none" });
        }
        urls.iter().map(|url| Gateway::try_new(url, origin)).collect::<Result<_, _>>().map(Self)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Gateway> {
        self.0.iter()
    }

    /// Opens a visitor's connection to one of them.
    pub async fn connect(&self, visitor: &Visitor) -> Result<Socket, ConnectError> {
        let gateway = self.0.choose(&mut rand::rng()).expect("there is one").clone();
        gateway.connect(visitor).await
    }
}

impl From<Gateway> for Gateways {
    fn from(gateway: Gateway) -> Self {
        Self(vec![gateway])
    }
}

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the gateway's URL {url} is not right: {why}; it should look like http://127.0.0.1:8080")]
pub struct GatewayUrlError {
    url: String,
    why: &'static str,
}

/// No connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP's reason.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The handshake's.
    #[error("{0}")]
    Handshake(#[from] Box<tungstenite::Error>),
}

impl Gateway {
    /// The gateway at `url`, visited from pages of `origin`.
    pub fn try_new(url: &str, origin: &str) -> Result<Self, GatewayUrlError> {
        let wrong = |why| GatewayUrlError { url: url.to_owned(), why };
        let uri: http::Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        if uri.scheme() != Some(&http::uri::Scheme::HTTP) {
            return Err(wrong("the load is sent over plain HTTP"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("it has a path"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        let origin = HeaderValue::from_str(origin).map_err(|_| wrong("its pages' origin is not a header value"))?;
        let connect_to = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        Ok(Self { authority: authority.to_string(), connect_to, origin })
    }

    /// `http://host:port`.
    pub fn base(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// Opens a visitor's connection.
    pub async fn connect(&self, visitor: &Visitor) -> Result<Socket, ConnectError> {
        let stream = TcpStream::connect(&self.connect_to).await?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(0);
        let request = self.request(visitor).map_err(Box::new)?;
        // Boxed: the handshake's state is large, and is not needed once the connection is there.
        let (socket, _) = Box::pin(client_async_with_config(request, stream, Some(config))).await.map_err(Box::new)?;
        Ok(socket)
    }

    fn request(&self, visitor: &Visitor) -> Result<Request, tungstenite::Error> {
        let mut request = format!("ws://{}/v1/stream", self.authority).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert(header::ORIGIN, self.origin.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(visitor.user_agent));
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static(visitor.language));
        let address = HeaderValue::from_str(&visitor.address.to_string()).map_err(http::Error::from)?;
        headers.insert("x-forwarded-for", address);
        Ok(request)
    }
}

/// Bytes of a WebSocket frame's header. A client's carries a mask of four bytes.
pub fn frame_header_bytes(payload: usize, masked: bool) -> usize {
    let length = match payload {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    length + if masked { 4 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_a_plain_http_address() {
        assert_eq!(
            Gateway::try_new("http://127.0.0.1:8080/", "https://a.example").unwrap().connect_to,
            "127.0.0.1:8080"
        );
        assert_eq!(Gateway::try_new("http://localhost", "https://a.example").unwrap().connect_to, "localhost:80");
        assert_eq!(Gateway::try_new("http://[::1]:80", "https://a.example").unwrap().connect_to, "[::1]:80");
        for wrong in ["127.0.0.1:8080", "https://a.example", "http://a.example/path", "ws://a.example", ""] {
            let message = Gateway::try_new(wrong, "https://a.example").unwrap_err().to_string();
            assert!(message.contains("it should look like http://127.0.0.1:8080"), "{message}");
        }
    }

    #[test]
    fn a_masked_frame_of_200_bytes_has_a_header_of_8() {
        assert_eq!(frame_header_bytes(200, true), 8);
        assert_eq!(frame_header_bytes(125, false), 2);
        assert_eq!(frame_header_bytes(65_536, false), 10);
    }
}
