use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn trusted() -> TrustedProxies {
    let entries = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"].map(str::to_owned).to_vec();
    TrustedProxies::try_from(entries).unwrap()
}

fn headers(name: &'static str, lines: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name, HeaderValue::from_bytes(line).unwrap());
    }
    headers
}

fn by_x_forwarded_for(peer: &str, lines: &[&str]) -> IpAddr {
    let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
    client_address(ip(peer), &trusted(), ForwardedHeader::XForwardedFor, &headers("x-forwarded-for", &lines))
}

fn by_forwarded(peer: &str, lines: &[&str]) -> IpAddr {
    let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
    client_address(ip(peer), &trusted(), ForwardedHeader::Forwarded, &headers("forwarded", &lines))
}

#[test]
fn a_header_from_an_untrusted_peer_changes_nothing() {
    assert_eq!(by_x_forwarded_for("198.51.100.7", &["192.0.2.1"]), ip("198.51.100.7"));
    assert_eq!(by_forwarded("198.51.100.7", &["for=192.0.2.1"]), ip("198.51.100.7"));
    let nobody = TrustedProxies::default();
    let forged = headers("x-forwarded-for", &[b"192.0.2.1"]);
    assert_eq!(client_address(ip("127.0.0.1"), &nobody, ForwardedHeader::XForwardedFor, &forged), ip("127.0.0.1"));
}

#[test]
fn only_the_configured_header_is_read() {
    let forged = headers("forwarded", &[b"for=192.0.2.1"]);
    assert_eq!(client_address(ip("10.0.0.1"), &trusted(), ForwardedHeader::XForwardedFor, &forged), ip("10.0.0.1"));
    let forged = headers("x-forwarded-for", &[b"192.0.2.1"]);
    assert_eq!(client_address(ip("10.0.0.1"), &trusted(), ForwardedHeader::Forwarded, &forged), ip("10.0.0.1"));
}

#[test]
fn x_forwarded_for_gives_the_rightmost_address_that_is_no_proxy() {
    for (lines, client) in [
        (&["192.0.2.1"][..], "192.0.2.1"),
        (&["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
        (&["203.0.113.9,192.0.2.1 ,\t10.1.2.3"], "192.0.2.1"),
        (&["203.0.113.9", "192.0.2.1", "10.1.2.3, 10.1.2.4"], "192.0.2.1"),
        (&["192.0.2.1:4711"], "192.0.2.1"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["[2001:db8::1]"], "2001:db8::1"),
        (&["[2001:db8::1]:4711"], "2001:db8::1"),
        (&["::ffff:192.0.2.1"], "192.0.2.1"),
        (&["::ffff:10.0.0.9"], "10.0.0.9"),
        (&["10.1.2.3, 10.1.2.4"], "10.1.2.3"),
        (&["192.0.2.1, unknown, 10.1.2.3"], "10.1.2.3"),
        (&["192.0.2.1, 10.1.2.3.4, 10.1.2.3"], "10.1.2.3"),
        (&["192.0.2.1,"], "10.0.0.1"),
        (&[""], "10.0.0.1"),
        (&["garbage"], "10.0.0.1"),
        (&["192.0.2.1:99999"], "10.0.0.1"),
        (&[], "10.0.0.1"),
    ] {
        assert_eq!(by_x_forwarded_for("10.0.0.1", lines), ip(client), "{lines:?}");
    }
}

#[test]
fn forwarded_gives_the_rightmost_address_that_is_no_proxy() {
    for (lines, client) in [
        (&["for=192.0.2.1"][..], "192.0.2.1"),
        (&["for=203.0.113.9, For=192.0.2.1;proto=https;by=10.0.0.1"], "192.0.2.1"),
        (&["for=192.0.2.1, for=10.1.2.3"], "192.0.2.1"),
        (&["for=192.0.2.1", "for=10.1.2.3"], "192.0.2.1"),
        (&["for=\"192.0.2.1:4711\""], "192.0.2.1"),
        (&["proto=https ; FOR=\"[2001:db8::1]:4711\""], "2001:db8::1"),
        (&["for=\"[2001:db8::1]\""], "2001:db8::1"),
        (&["for=\"[::ffff:192.0.2.1]\""], "192.0.2.1"),
        (&["for=192.0.2.1;host=\"a,b;for=203.0.113.9\""], "192.0.2.1"),
        (&["for=192.0.2.1;host=\"a\\\", for=203.0.113.9\""], "192.0.2.1"),
        (&["for=203.0.113.9, for=unknown, for=10.1.2.3"], "10.1.2.3"),
        (&["for=203.0.113.9, for=_hidden, for=10.1.2.3"], "10.1.2.3"),
        (&["for=203.0.113.9;for=192.0.2.1"], "10.0.0.1"),
        (&["proto=https"], "10.0.0.1"),
        (&["192.0.2.1"], "10.0.0.1"),
        (&["for="], "10.0.0.1"),
        (&["for=\""], "10.0.0.1"),
    ] {
        assert_eq!(by_forwarded("10.0.0.1", lines), ip(client), "{lines:?}");
    }
}

#[test]
fn an_ipv4_client_of_a_dual_stack_socket_is_an_ipv4_client() {
    assert_eq!(by_x_forwarded_for("::ffff:198.51.100.7", &[]), ip("198.51.100.7"));
    assert_eq!(by_x_forwarded_for("::ffff:10.0.0.1", &["192.0.2.1"]), ip("192.0.2.1"));
    assert!(trusted().contain(ip("::ffff:10.0.0.1")));
}

#[test]
fn proxies_are_written_as_addresses_or_networks() {
    let read = |json: &str| serde_json::from_str::<TrustedProxies>(json);
    assert!(read(r#"["::1", "192.168.0.0/16"]"#).unwrap().contain(ip("192.168.3.4")));
    let error = read(r#"["10.0.0.0/33"]"#).unwrap_err().to_string();
    assert!(error.contains("`10.0.0.0/33` is no network: write an address such as"), "{error}");
}

proptest! {
    /// What a client wrote stands to the left of what the proxy appends: on the same line, or on one before it.
    #[test]
    fn a_forged_prefix_never_changes_the_result(
        forged in prop::collection::vec(forged_line(), 0..4),
        client in any::<[u8; 4]>().prop_map(IpAddr::from),
        same_line: bool,
        by_name: bool,
    ) {
        prop_assume!(!trusted().contain(client));
        let (header, name, appended) = if by_name {
            (ForwardedHeader::Forwarded, "forwarded", format!("for={client};proto=https, for=\"10.1.2.3:80\""))
        } else {
            (ForwardedHeader::XForwardedFor, "x-forwarded-for", format!("{client}, 10.1.2.3"))
        };
        let mut lines = forged.clone();
        match lines.last_mut() {
            Some(line) if same_line => line.extend_from_slice(format!(", {appended}").as_bytes()),
            _ => lines.push(appended.into_bytes()),
        }
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(client_address(ip("10.0.0.1"), &trusted(), header, &headers(name, &lines)), client);
    }
}

/// Addresses, pieces of the syntax, and any bytes a header may hold.
fn forged_line() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"for=10.9.9.9".to_vec()),
        Just(b"for=\"[2001:db8::9]:1\"".to_vec()),
        Just(b"203.0.113.9".to_vec()),
        Just(b"10.9.9.9".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"\\".to_vec()),
        Just(b", ".to_vec()),
        Just(b";".to_vec()),
        prop::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8..=0xff], 0..12),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}
