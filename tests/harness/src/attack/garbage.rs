//! What is no frame of ours, in frames of WebSockets and in bodies.

use std::io;
use std::time::Duration;

use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::flood::Attacker;

const MASK: [u8; 4] = [0; 4];
const FIN: u8 = 0x80;
/// The bit of a compressed message.
const RSV1: u8 = 0x40;
const BINARY: u8 = 0x02;
const MASKED: u8 = 0x80;
const GARBAGE_BYTES: usize = 4096;
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A masked frame of fewer than 126 bytes.
fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).expect("a short frame");
    [&[flags, MASKED | length][..], &MASK, payload].concat()
}

/// A message of which each byte is a frame.
pub async fn one_byte_frames(attacker: &Attacker) -> io::Result<()> {
    let mut stream = attacker.websocket("").await?;
    stream.write_all(&frame(BINARY, &[0])).await?;
    // As many as fit a packet, so that the gateway and not the attacker has the work.
    let fragments = frame(0, &[0]).repeat(200);
    while Instant::now() < attacker.until {
        stream.write_all(&fragments).await?;
        attacker.did(200);
    }
    Ok(())
}

/// Random bytes: behind a right header, and in its place.
pub async fn masked(attacker: &Attacker) -> io::Result<()> {
    let mut stream = attacker.websocket("").await?;
    let mut garbage = vec![0; GARBAGE_BYTES];
    rand::rng().fill(&mut garbage[..]);
    if attacker.turn.is_multiple_of(2) {
        stream.write_all(&frame(FIN | BINARY, &garbage[..100])).await?;
    }
    stream.write_all(&garbage).await?;
    attacker.did(1);
    until_closed(stream).await
}

/// Nobody was offered compression: a frame that says it is compressed, and a body that says so.
pub async fn compression(attacker: &Attacker) -> io::Result<()> {
    // 4 MiB of zeros would be a few kilobytes; what is sent need not even be right to be worked on.
    if attacker.turn.is_multiple_of(2) {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let mut stream = attacker.websocket(offer).await?;
        stream.write_all(&frame(FIN | RSV1 | BINARY, &[0xec, 0xc1, 0x01, 0x01])).await?;
        attacker.did(1);
        return until_closed(stream).await;
    }
    let mut stream = attacker.connect(attacker.target.plain).await?;
    let body = [&[0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0x03][..], &[0; GARBAGE_BYTES]].concat();
    let head = format!(
        "POST /v1/batch HTTP/1.1\r\nHost: gateway\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    attacker.did(1);
    until_closed(stream).await
}

/// Numbers of the largest kind wherever a message has one.
pub async fn huge_varints(attacker: &Attacker) -> io::Result<()> {
    const HUGE: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x01];
    let mut stream = attacker.websocket("").await?;
    let number = attacker.turn as u8 % 8 + 1;
    // A field of this number that announces 2^63 bytes; within a batch's envelope, every second time.
    let mut message = [&[number << 3 | 2][..], &HUGE].concat();
    if attacker.turn.is_multiple_of(2) {
        message = [&[0x12, message.len() as u8][..], &message].concat();
    }
    stream.write_all(&frame(FIN | BINARY, &message)).await?;
    attacker.did(1);
    timeout(ANSWER_MAX, stream.read(&mut [0; 1024])).await??; // and away, without a Close of its own
    Ok(())
}

/// The gateway's last words are taken, as a client would.
async fn until_closed(mut stream: TcpStream) -> io::Result<()> {
    let mut answer = [0; 1024];
    let read = async {
        while stream.read(&mut answer).await? > 0 {}
        Ok(())
    };
    timeout(ANSWER_MAX, read).await?
}
