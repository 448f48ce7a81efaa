use proptest::prelude::*;

use super::*;

fn origin(text: &str) -> Result<SiteOrigin, BadOrigin> {
    text.parse()
}

fn accepts(written: &str, sent: &str) -> bool {
    let written = origin(written).unwrap();
    SentOrigin::parse(sent).is_some_and(|sent| written.matches(&sent))
}

#[test]
fn an_origin_takes_the_form_in_which_browsers_send_it() {
    for (written, form) in [
        ("HTTPS://Shop.Example:443/", "https://shop.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://shop.example:443", "http://shop.example:443"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("http://[2001:DB8:0::1]:8080", "http://[2001:db8::1]:8080"),
        ("http://127.1", "http://127.0.0.1"),
        ("https://*.Shop.Example:443", "https://*.shop.example"),
        ("https://*.bücher.example", "https://*.xn--bcher-kva.example"),
        ("http://localhost:*", "http://localhost:*"),
        ("http://[::1]:*", "http://[::1]:*"),
        ("http://*.shop.example:*/", "http://*.shop.example:*"),
    ] {
        let parsed = origin(written).unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(parsed.to_string(), form, "{written}");
        assert_eq!(origin(form).as_ref(), Ok(&parsed), "{form} is read back as it was");
        assert_eq!(parsed.is_exact(), !form.contains('*'), "{written}");
    }
}

#[test]
fn what_is_no_origin_is_answered_with_what_would_be_one() {
    for wrong in [
        "",
        "shop.example",
        "https://",
        "https:shop.example",
        "ftp://shop.example",
        "https://shop.example/x",
        "https:///a.example",
        "https://a.example//",
        "https://u:p@a.example",
        "https://@a.example",
        "https://a.example?",
        "https://a.example#a",
        "https://a.example:65536",
        "https://a.example:80:*",
        "https://a.example/:*",
        "https://a b.example",
        "https://a\\b.example",
        "https://a\t.example",
        "https://a..example",
        "https://.a.example",
        "https://a.example.",
        "null",
        "file:///a",
        "https://*.",
        "https://a!.example",
        "https://:*",
        "blob:https://a.example",
    ] {
        assert_eq!(origin(wrong), Err(BadOrigin::Form(wrong.to_owned())), "{wrong}");
    }
    for wrong in [
        "https://*",
        "https://*:*",
        "https://w*.shop.example",
        "https://*w.shop.example",
        "https://www.*.example",
        "https://shop.*",
        "https://*.*.example",
        "https://**.shop.example",
        "https://shop.example:*0",
        "https://shop.example:8*",
        "*",
        "*://shop.example",
    ] {
        let error = origin(wrong).unwrap_err();
        let said =
            matches!(error, BadOrigin::Star(_)) || (!wrong.starts_with("http") && matches!(error, BadOrigin::Form(_)));
        assert!(said, "{wrong}: {error}");
    }
    for wrong in ["https://*.com", "http://*.localhost", "https://*.com:*"] {
        assert_eq!(origin(wrong), Err(BadOrigin::TooWide(wrong.to_owned())), "{wrong}");
    }
    for wrong in ["http://*.127.0.0.1", "http://*.[::1]"] {
        assert_eq!(origin(wrong), Err(BadOrigin::Address(wrong.to_owned())), "{wrong}");
    }
}

#[test]
fn scheme_and_host_are_read_in_any_case_and_the_own_port_is_none() {
    for sent in ["https://shop.example", "HTTPS://SHOP.example", "https://shop.example:443"] {
        assert!(accepts("https://Shop.example", sent), "{sent}");
    }
    for sent in
        ["http://shop.example", "https://shop.example:80", "https://shop.example:8443", "http://shop.example:443"]
    {
        assert!(!accepts("https://shop.example", sent), "{sent}");
    }
    assert!(accepts("http://[::1]:3000", "http://[::1]:3000"));
}

#[test]
fn what_was_sent_has_the_form_of_the_origin_it_is() {
    for sent in [
        "HTTPS://SHOP.example",
        "https://shop.example:443",
        "http://localhost:80",
        "http://[::1]:3000",
        "http://127.0.0.1",
    ] {
        let (sent, exact) = (SentOrigin::parse(sent).unwrap(), origin(sent).unwrap());
        assert!(exact.is_exact() && exact.matches(&sent));
        assert_eq!(sent.to_string(), exact.to_string());
    }
}

#[test]
fn a_star_in_front_stands_for_what_is_below_the_domain_and_not_for_the_domain() {
    for sent in [
        "https://www.shop.example",
        "https://a.b.c.shop.example",
        "https://WWW.Shop.Example",
        "https://a_b.shop.example",
    ] {
        assert!(accepts("https://*.shop.example", sent), "{sent}");
    }
    for sent in [
        "https://shop.example",
        "https://.shop.example",
        "https://a..shop.example",
        "https://myshop.example",
        "http://www.shop.example",
        "https://www.shop.example:8443",
        "https://www.shop.example.evil.example",
        "https://evil.example/.shop.example",
        "https://evil.example#.shop.example",
        "https://evil.example:443.shop.example",
        "https://a@b.shop.example",
        "https://www.shop.example/",
        "null",
        "",
    ] {
        assert!(!accepts("https://*.shop.example", sent), "{sent}");
    }
}

#[test]
fn a_star_for_the_port_stands_for_every_port_of_that_host() {
    for sent in ["http://localhost", "http://localhost:80", "http://localhost:3000", "http://localhost:65535"] {
        assert!(accepts("http://localhost:*", sent), "{sent}");
    }
    for sent in [
        "https://localhost:3000",
        "http://localhost.evil.example:3000",
        "http://localhost:",
        "http://localhost:+80",
        "http://localhost:65536",
        "http://localhost:30x",
        "http://notlocalhost:3000",
    ] {
        assert!(!accepts("http://localhost:*", sent), "{sent}");
    }
    assert!(accepts("http://[::1]:*", "http://[::1]:4000"));
    assert!(accepts("http://*.shop.example:*", "http://www.shop.example:8080"));
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?"
}

/// A domain of two or three labels, none of which looks like a number, or it would be an address.
fn domain() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-z][a-z0-9]{0,5}", 2..4).prop_map(|labels| labels.join("."))
}

fn written() -> impl Strategy<Value = (String, String, bool, String)> {
    let port = prop_oneof![Just(String::new()), Just(":*".to_owned()), (1u16..).prop_map(|port| format!(":{port}"))];
    ("https?", domain(), any::<bool>(), port)
}

proptest! {
    /// Whatever is accepted has the scheme that was written, and the written host, or one that ends in it behind a dot.
    #[test]
    fn no_origin_of_another_scheme_or_host_is_accepted(
        (scheme, host, subdomains, port) in written(),
        sent_scheme in "https?",
        sent_host in prop_oneof![domain(), "[a-z.@/:#]{0,12}"],
        between in prop_oneof![Just(""), Just("."), Just("-"), Just("x"), Just("@"), Just("/"), Just(":1."), Just("..")],
        ends_in_it in any::<bool>(),
        sent_port in prop_oneof![Just(String::new()), (1u16..).prop_map(|port| format!(":{port}"))],
    ) {
        let star = if subdomains { "*." } else { "" };
        let pattern = format!("{scheme}://{star}{host}{port}");
        let sent_host = if ends_in_it { format!("{sent_host}{between}{host}") } else { sent_host };
        let sent = format!("{sent_scheme}://{sent_host}{sent_port}");
        if accepts(&pattern, &sent) {
            prop_assert_eq!(&sent_scheme, &scheme);
            // What a browser would take for the host of this text, judged by another parser.
            let seen = Url::parse(&sent).unwrap();
            let seen_host = seen.host_str().unwrap();
            let below = seen_host.strip_suffix(host.as_str()).and_then(|rest| rest.strip_suffix('.'));
            let meant = if subdomains { below.is_some_and(|rest| !rest.is_empty()) } else { seen_host == host };
            prop_assert!(meant, "{} {}", pattern, sent);
            let own_port = if scheme == "https" { 443 } else { 80 };
            let written_port = port.trim_start_matches(':').parse().unwrap_or(own_port);
            let same_port = seen.port_or_known_default() == Some(written_port);
            prop_assert!(port == ":*" || same_port, "{} {}", pattern, sent);
        }
    }

    /// And what should be accepted is.
    #[test]
    fn every_host_below_the_domain_is_accepted(
        (scheme, host, subdomains, port) in written(),
        in_front in prop::collection::vec(label(), 1..4),
        any_port in 1u16..,
    ) {
        let star = if subdomains { "*." } else { "" };
        let in_front = if subdomains { format!("{}.", in_front.join(".")) } else { String::new() };
        let sent_port = if port == ":*" { format!(":{any_port}") } else { port.clone() };
        let (pattern, sent) = (format!("{scheme}://{star}{host}{port}"), format!("{scheme}://{in_front}{host}{sent_port}"));
        prop_assert!(accepts(&pattern, &sent), "{} {}", pattern, sent);
    }

    /// Any text is an origin or an error, and an origin is read back from its own form.
    #[test]
    fn any_text_is_judged(text in prop_oneof![".*", "https?://[a-z*.:/\\[\\]0-9]{0,20}"]) {
        if let Ok(parsed) = origin(&text) {
            prop_assert_eq!(origin(&parsed.to_string()), Ok(parsed));
        }
        let _ = SentOrigin::parse(&text);
    }
}
