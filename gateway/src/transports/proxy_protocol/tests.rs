use std::io::Cursor;

use proptest::prelude::*;
use proxy_header::{ProxiedAddress, Tlv};
use tokio::io::{AsyncWriteExt, duplex};

use super::*;

const LIMIT: Duration = Duration::from_secs(1);
const PEER: &str = "10.0.0.1:5000";

fn peer() -> SocketAddr {
    PEER.parse().unwrap()
}

fn header(source: &str, destination: &str, additions: &[Tlv<'_>]) -> Vec<u8> {
    let address = ProxiedAddress::stream(source.parse().unwrap(), destination.parse().unwrap());
    let mut bytes = Vec::new();
    ProxyHeader::with_tlvs(Some(address), additions.to_vec()).encode_v2(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn gives_the_source_and_leaves_the_request_unread() {
    for source in ["192.0.2.1:4711", "[2001:db8::1]:4711"] {
        let destination = if source.starts_with('[') { "[2001:db8::2]:80" } else { "192.0.2.2:80" };
        let mut bytes = header(source, destination, &[Tlv::Authority("shop.example".into())]);
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let mut stream = Cursor::new(bytes);
        assert_eq!(read_source(&mut stream, peer(), LIMIT).await.unwrap(), source.parse().unwrap());
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"GET / HTTP/1.1\r\n");
    }
}

#[tokio::test]
async fn a_header_in_pieces_is_one_header() {
    let (mut proxy, mut gateway) = duplex(4);
    let bytes = header("192.0.2.1:4711", "192.0.2.2:80", &[]);
    let (source, sent) = tokio::join!(read_source(&mut gateway, peer(), LIMIT), async move {
        for byte in bytes {
            proxy.write_all(&[byte]).await?;
            tokio::task::yield_now().await;
        }
        proxy.flush().await
    });
    sent.unwrap();
    assert_eq!(source.unwrap(), "192.0.2.1:4711".parse().unwrap());
}

#[tokio::test]
async fn a_health_check_and_a_unix_socket_keep_the_peer() {
    let mut local = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut local).unwrap();
    assert_eq!(read_source(&mut Cursor::new(local), peer(), LIMIT).await.unwrap(), peer());

    let mut unix = [SIGNATURE.as_slice(), &[0x21, 0x31, 0, 216]].concat();
    unix.resize(16 + 216, 0);
    assert_eq!(read_source(&mut Cursor::new(unix), peer(), LIMIT).await.unwrap(), peer());
}

#[tokio::test]
async fn what_is_no_header_is_refused_with_what_to_do() {
    let read = async |bytes: Vec<u8>| read_source(&mut Cursor::new(bytes), peer(), LIMIT).await.unwrap_err();

    let plain = read(b"GET / HTTP/1.1\r\n".to_vec()).await;
    assert!(matches!(plain, ProxyProtocolError::Missing), "{plain}");
    assert!(plain.to_string().contains("send-proxy-v2"), "{plain}");
    let version_1 = read(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec()).await;
    assert!(matches!(version_1, ProxyProtocolError::Missing), "{version_1}");

    let huge = read([SIGNATURE.as_slice(), &[0x21, 0x11, 0x02, 0x09]].concat()).await;
    assert!(matches!(huge, ProxyProtocolError::TooLong(537)), "{huge}");
    let cut = read(header("192.0.2.1:1", "192.0.2.2:2", &[])[..20].to_vec()).await;
    assert!(matches!(cut, ProxyProtocolError::Broken(_)), "{cut}");
    for wrong in [[0x31, 0x11, 0, 12], [0x21, 0x99, 0, 12], [0x21, 0x11, 0, 4], [0x21, 0x12, 0, 12]] {
        let error = read([SIGNATURE.as_slice(), &wrong, &[0; 12]].concat()).await;
        assert!(matches!(error, ProxyProtocolError::Malformed(_)), "{wrong:?}: {error}");
    }
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let (_proxy, mut gateway) = duplex(64);
    let error = read_source(&mut gateway, peer(), Duration::from_millis(10)).await.unwrap_err();
    assert!(matches!(error, ProxyProtocolError::Late(_)), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(version: u8, family: u8, rest in prop::collection::vec(any::<u8>(), 0..600)) {
        let bytes = [SIGNATURE.as_slice(), &[version, family], &rest].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _ = runtime.block_on(read_source(&mut Cursor::new(bytes), peer(), LIMIT));
    }
}
