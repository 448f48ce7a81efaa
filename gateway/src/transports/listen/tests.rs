use proto::Message;
use proto::agent::{Envelope, ServerFrame, server_frame::Frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::door::address::TrustedProxies;
use crate::door::capacity::WhenRedisIsAway;
use crate::door::crowd::Crowd;
use crate::transports::session::tests::{ORIGIN, door, envelope, next};

const ANSWER_MAX: Duration = Duration::from_secs(20);
const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0";

fn plain(listeners: Vec<StdListener>) -> Ports {
    Ports { plain: listeners.into_iter().next().unwrap(), tls: None, quic: None }
}

async fn post(stream: &mut TcpStream, door: &Door, seq: u32) {
    let body = Envelope { site: "shop".into(), ..envelope(door, seq) }.encode_to_vec();
    let head = format!(
        "POST /v1/batch HTTP/1.1\r\nhost: gateway\r\nuser-agent: {BROWSER}\r\norigin: {ORIGIN}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
}

/// Head and frame of the only answer on a connection that the gateway closes behind it.
async fn last_answer(mut stream: TcpStream) -> (String, Frame) {
    let mut bytes = Vec::new();
    tokio::time::timeout(ANSWER_MAX, stream.read_to_end(&mut bytes)).await.expect("an answer in time").unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    (head.to_ascii_lowercase(), ServerFrame::decode(&bytes[end..]).unwrap().frame.unwrap())
}

#[tokio::test]
async fn a_leaving_gateway_finishes_its_requests_and_takes_no_new_connection() {
    let (door, mut submissions) = door(WhenRedisIsAway::Refuse);
    let (address, listeners) = bind("127.0.0.1:0".parse().unwrap(), "`listen`", 1).unwrap();
    let serving = tokio::spawn(serve(plain(listeners), Arc::clone(&door)));

    let mut in_progress = TcpStream::connect(address).await.unwrap();
    post(&mut in_progress, &door, 1).await;
    let first = next(&mut submissions).await;
    let mut silent_yet = TcpStream::connect(address).await.unwrap();
    door.stop.cancel();
    post(&mut silent_yet, &door, 2).await;
    let second = next(&mut submissions).await;
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");

    for (stream, submission, seq) in [(in_progress, first, 1), (silent_yet, second, 2)] {
        submission.waiter.answer();
        let (head, frame) = last_answer(stream).await;
        assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
        assert!(matches!(frame, Frame::Ack(ack) if ack.seqs == [seq]));
    }
    tokio::time::timeout(ANSWER_MAX, serving).await.expect("it ends by itself").unwrap().unwrap();
}

#[tokio::test]
async fn a_post_is_asked_to_come_later_while_redis_is_away() {
    let (door, _submissions) = door(WhenRedisIsAway::Refuse);
    let (address, listeners) = bind("127.0.0.1:0".parse().unwrap(), "`listen`", 1).unwrap();
    let _serving = tokio::spawn(serve(plain(listeners), Arc::clone(&door)));
    door.capacity.redis_counts(false);
    let mut stream = TcpStream::connect(address).await.unwrap();
    post(&mut stream, &door, 3).await;
    let mut seen = vec![0; 12];
    tokio::time::timeout(ANSWER_MAX, stream.read_exact(&mut seen)).await.expect("an answer in time").unwrap();
    assert_eq!(seen, b"HTTP/1.1 429");
    door.stop.cancel();
    let (head, frame) = last_answer(stream).await;
    let seconds = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("a time to come back");
    assert!((1..=4).contains(&seconds.parse::<u32>().unwrap()), "{head}");
    assert!(matches!(frame, Frame::Throttle(throttle) if throttle.seq == 3));
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_the_others_go_on() {
    let (mut door, mut submissions) = door(WhenRedisIsAway::Refuse);
    let limits = Limits { connections_per_address: 2, ..Default::default() };
    Arc::get_mut(&mut door).unwrap().crowd = Crowd::new(&limits, TrustedProxies::default());
    let (address, listeners) = bind("127.0.0.1:0".parse().unwrap(), "`listen`", 1).unwrap();
    let _serving = tokio::spawn(serve(plain(listeners), Arc::clone(&door)));
    let mut first = TcpStream::connect(address).await.unwrap();
    let second = TcpStream::connect(address).await.unwrap();
    until(|| door.crowd.enter([127, 0, 0, 1].into()).is_err()).await;
    let mut third = TcpStream::connect(address).await.unwrap();
    assert!(matches!(
        tokio::time::timeout(ANSWER_MAX, third.read(&mut [0])).await.expect("it is closed"),
        Ok(0) | Err(_)
    ));

    post(&mut first, &door, 1).await;
    next(&mut submissions).await.waiter.answer();
    let mut seen = vec![0; 12];
    tokio::time::timeout(ANSWER_MAX, first.read_exact(&mut seen)).await.expect("an answer in time").unwrap();
    assert_eq!(seen, b"HTTP/1.1 200");
    drop(second);
    until(|| door.crowd.enter([127, 0, 0, 1].into()).is_ok()).await;
}

/// Waits until it is so.
async fn until(so: impl Fn() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(ANSWER_MAX, waited).await.expect("it becomes so");
}
