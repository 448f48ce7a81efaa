//! The gateway's own WebSocket handshake and stream with an echo behind them in place of a session: what `make autobahn` speaks to.
//!
//! `cargo run --release -p gateway --example websocket_echo 127.0.0.1:9001` says where it listens and serves until it is ended.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::{SinkExt, StreamExt};
use gateway::transports::websocket::{accept, socket};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// The suite's largest message has 16 MiB. A gateway takes far less: it would refuse what is to be tested here.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args().nth(1).ok_or("usage: websocket_echo ADDRESS:PORT")?.parse()?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(stream));
    }
}

async fn connection(stream: TcpStream) {
    let service =
        service_fn(async |request: hyper::Request<Incoming>| Ok::<_, hyper::Error>(upgrade(request.map(Body::new))));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    if let Err(error) = served.await {
        eprintln!("a connection ended badly: {error}");
    }
}

fn upgrade(mut request: Request) -> Response {
    match accept(&mut request) {
        Ok((response, upgrade)) => {
            tokio::spawn(echo(upgrade));
            response
        }
        Err(refused) => *refused,
    }
}

/// Every message back. Pings and closes are answered by the stream itself, and it ends with whatever breaks the rules.
async fn echo(upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket = socket(upgraded, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX).await;
    while let Some(Ok(message)) = socket.next().await {
        socket.get_mut().finished();
        let sent = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            _ => socket.flush().await,
        };
        if sent.is_err() {
            return;
        }
    }
}
