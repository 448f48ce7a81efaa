//! Whose connection it is. Input: sixteen bytes, an address; then what is read as a PROXY header and as the lines of a forwarding header.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use gateway::door::address::{ForwardedHeader, TrustedProxies, client_address};
use gateway::transports::proxy_protocol::read_source;
use http::{HeaderMap, HeaderValue, header};
use tokio::runtime::{Builder, Runtime};

const PROXY: [u8; 4] = [10, 0, 0, 1];
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// A PROXY header takes its own bytes and no others; what a trusted proxy appended to a forwarding header is believed, whatever stands
/// to the left of it, and nobody else is.
pub fn run(bytes: &[u8]) {
    let Some((address, written)) = bytes.split_first_chunk::<16>() else { return };
    proxy_protocol(written);
    let appended = Ipv6Addr::from(*address).to_canonical();
    for (header, name) in [
        (ForwardedHeader::XForwardedFor, header::HeaderName::from_static("x-forwarded-for")),
        (ForwardedHeader::Forwarded, header::FORWARDED),
    ] {
        forwarded(header, &name, appended, written);
    }
}

fn proxy_protocol(bytes: &[u8]) {
    let peer = SocketAddr::from((PROXY, 5000));
    let mut rest = bytes;
    let source = RUNTIME.with(|runtime| runtime.block_on(read_source(&mut rest, peer, Duration::from_secs(60))));
    if source.is_ok() {
        let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        assert_eq!(bytes.len() - rest.len(), FIXED_BYTES + length, "the request behind the header is not touched");
    }
}

fn forwarded(header: ForwardedHeader, name: &header::HeaderName, appended: IpAddr, written: &[u8]) {
    let proxies = TrustedProxies::try_from(vec!["10.0.0.0/8".to_owned()]).expect("a network");
    let proxy = IpAddr::from(PROXY);
    let mut headers = HeaderMap::new();
    for line in written.split(|&byte| byte == b'\n') {
        if let Ok(line) = HeaderValue::from_bytes(line) {
            headers.append(name, line);
        }
    }
    let stranger = IpAddr::from([192, 0, 2, 1]);
    assert_eq!(client_address(stranger, &proxies, header, &headers), stranger, "nobody else is believed");
    client_address(proxy, &proxies, header, &headers);

    // The proxy appends to the last line, or writes one of its own.
    let element = match (header, appended) {
        (ForwardedHeader::XForwardedFor, address) => address.to_string(),
        (ForwardedHeader::Forwarded, IpAddr::V4(address)) => format!("for={address};proto=https"),
        (ForwardedHeader::Forwarded, IpAddr::V6(address)) => format!("for=\"[{address}]:4711\";proto=https"),
    };
    if proxies.contain(appended) {
        return;
    }
    let last = headers.get_all(name).iter().next_back().map(|line| line.as_bytes()).unwrap_or_default();
    let longer = HeaderValue::from_bytes(&[last, b", ", element.as_bytes()].concat()).expect("it was a value before");
    let own = HeaderValue::from_str(&element).expect("an address is a value");
    for line in [longer, own] {
        let mut headers = headers.clone();
        headers.append(name, line);
        assert_eq!(client_address(proxy, &proxies, header, &headers), appended, "the proxy is believed");
    }
}
