//! Both codecs, this one and prost's, on the same bytes; and on the bytes of tests/golden, which an agent in a page may send
//! and read for years. After a change that is meant, `GOLDEN=write cargo test -p agent-core golden` writes them anew.

use proptest::prelude::*;
use prost::Message as _;
use proto::agent as wire;
use proto::agent::client_frame::Frame as Sent;
use proto::agent::server_frame::Frame as Said;

use super::*;
use crate::agent::Agent;
use crate::shell::{Command, Event, NotTaken, Start};

const NOW_MS: u64 = 1_763_816_400_000;

/// An event that outlives its strings' owner.
#[derive(Debug, Clone)]
struct Happened {
    after_ms: u64,
    name: String,
    url: String,
    referrer: String,
    props: Vec<(String, String)>,
    engaged_ms: u32,
}

fn text(len: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 0..len).prop_map(|chars| chars.into_iter().collect())
}

fn happened() -> impl Strategy<Value = Happened> {
    let props = prop::collection::vec((text(5), text(20)), 0..32);
    (0u64..400, text(30), text(60), text(4), props, prop_oneof![Just(0), any::<u32>()]).prop_map(
        |(after_ms, name, url, referrer, props, engaged_ms)| Happened {
            after_ms,
            name,
            url,
            referrer,
            props,
            engaged_ms,
        },
    )
}

fn agent(site: &str, language: &str, screen: (u32, u32), automated: bool) -> Box<Agent> {
    let mut agent = Box::new(Agent::new());
    let (screen_width, screen_height) = screen;
    agent
        .start(&Start {
            site,
            stamp_ms: NOW_MS,
            random: [7; 10],
            language,
            screen_width,
            screen_height,
            automated,
            ..Start::default()
        })
        .unwrap();
    agent
}

fn tell(agent: &mut Agent, now_ms: u64, event: &Happened) -> Result<(), NotTaken> {
    let props: Vec<_> = event.props.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let Happened { name, url, referrer, engaged_ms, .. } = event;
    agent.event(now_ms, &Event { name, url, referrer, props: &props, engaged_ms: *engaged_ms }).map(|_| ())
}

fn posts(agent: &mut Agent, now_ms: u64) -> Vec<Vec<u8>> {
    let mut body = [0; FRAME_BYTES];
    std::iter::from_fn(|| agent.post(now_ms, &mut body).map(|len| body[..len].to_vec())).collect()
}

/// What prost makes of an event of the core's, references resolved.
fn resolve(batch: &wire::Batch, event: &wire::Event) -> Happened {
    let string = |&reference: &u32| match reference {
        0 => String::new(),
        _ => batch.strings[reference as usize - 1].clone(),
    };
    Happened {
        after_ms: event.delta_ms as u64,
        name: string(&event.name),
        url: string(&event.url),
        referrer: string(&event.referrer),
        props: event.props.chunks(2).map(|pair| (string(&pair[0]), string(&pair[1]))).collect(),
        engaged_ms: event.engaged_ms,
    }
}

proptest! {
    #[test]
    fn prost_reads_what_the_core_writes(
        site in "[a-z.]{1,60}",
        language in "[a-zA-Z-]{0,35}",
        screen in any::<(u32, u32)>(),
        automated in any::<bool>(),
        events in prop::collection::vec(happened(), 1..30),
    ) {
        let mut agent = agent(&site, &language, screen, automated);
        let mut now_ms = NOW_MS;
        for event in &events {
            now_ms += event.after_ms;
            tell(&mut agent, now_ms, event).unwrap();
        }
        agent.flush(now_ms);

        let mut read = Vec::new();
        for body in posts(&mut agent, now_ms) {
            let envelope = wire::Envelope::decode(&body[..]).unwrap();
            prop_assert_eq!(&envelope.site, &site);
            prop_assert_eq!(envelope.sent_ms, now_ms);
            let batch = wire::Batch::decode(&envelope.batch[..]).unwrap();
            prop_assert_eq!(batch.class(), wire::Class::Short);
            prop_assert_eq!((batch.screen_width, batch.screen_height), screen);
            prop_assert_eq!(batch.automated, automated);
            prop_assert_eq!(batch.language == 0, language.is_empty());
            let mut strings = batch.strings.clone();
            strings.sort_unstable();
            strings.dedup();
            prop_assert_eq!(strings.len(), batch.strings.len(), "a string is there twice");
            read.extend(batch.events.iter().map(|event| resolve(&batch, event)));
        }
        prop_assert_eq!(read.len(), events.len());
        for (read, event) in read.iter().zip(&events) {
            // A 32nd pair and more are not written: the gateway refuses 31 as well.
            let props = event.props.iter().take(proto::limits::PROPS_MAX + 1);
            prop_assert_eq!(
                (&read.name, &read.url, &read.referrer, read.engaged_ms),
                (&event.name, &event.url, &event.referrer, event.engaged_ms)
            );
            prop_assert!(read.props.iter().eq(props), "{:?}\n{:?}", read.props, event.props);
        }
    }

    #[test]
    fn the_core_reads_what_prost_writes(
        sid in prop::collection::vec(any::<u8>(), 0..20),
        seqs in prop::collection::vec(any::<u32>(), 0..40),
        (seq, number, long) in any::<(u32, u32, u64)>(),
        reason in 0i32..100,
        message in text(40),
        is_final in any::<bool>(),
    ) {
        let said = |frame| wire::ServerFrame { frame: Some(frame) }.encode_to_vec();

        let config = Some(wire::Config { flush_interval_ms: number });
        let bytes = said(Said::Welcome(wire::Welcome { server_ms: long, region: message.clone(), config }));
        let welcome =
            ServerFrame::Welcome { server_ms: long, region: message.as_bytes(), flush_interval_ms: number };
        prop_assert_eq!(read_server_frame(&bytes), Ok(welcome));

        let bytes = said(Said::Ack(wire::Ack {
            sid: sid.clone(), seqs: seqs.clone(), server_ms: long, message: message.clone(),
        }));
        let Ok(ServerFrame::Ack(ack)) = read_server_frame(&bytes) else { panic!("no ack") };
        prop_assert_eq!((ack.sid, ack.server_ms, ack.message), (&sid[..], long, message.as_bytes()));
        prop_assert_eq!(acknowledged(&ack), seqs);

        let reject = wire::Reject {
            sid: sid.clone(), seq, reason, message: message.clone(), server_ms: long, r#final: is_final,
        };
        let bytes = said(Said::Reject(reject));
        let reject = Reject {
            sid: &sid, seq, reason: Reason(reason as u32), message: message.as_bytes(), server_ms: long, is_final,
        };
        prop_assert_eq!(read_server_frame(&bytes), Ok(ServerFrame::Reject(reject)));

        let bytes = said(Said::Throttle(wire::Throttle { wait_ms: number, sid: sid.clone(), seq }));
        prop_assert_eq!(read_server_frame(&bytes), Ok(ServerFrame::Throttle { wait_ms: number, sid: &sid, seq }));

        let bytes = said(Said::Drain(wire::Drain { within_ms: number }));
        prop_assert_eq!(read_server_frame(&bytes), Ok(ServerFrame::Drain { within_ms: number }));

        let bytes = said(Said::Config(wire::Config { flush_interval_ms: number }));
        prop_assert_eq!(read_server_frame(&bytes), Ok(ServerFrame::Config { flush_interval_ms: number }));

        let notice = wire::Notice { sid: sid.clone(), seq, event: number, reason, message: message.clone() };
        let bytes = said(Said::Notice(notice));
        prop_assert_eq!(read_server_frame(&bytes), Ok(ServerFrame::Notice { message: message.as_bytes() }));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(ServerFrame::Ack(ack)) = read_server_frame(&bytes) {
            prop_assert!(acknowledged(&ack).len() <= bytes.len());
        }
        let _ = read_batch(&bytes);
    }
}

#[test]
fn numbers_that_are_not_packed_are_read() {
    let frame = [0x12, 8, 0x0a, 2, 1, 2, 0x10, 5, 0x10, 9];
    let Ok(ServerFrame::Ack(ack)) = read_server_frame(&frame) else { panic!("no ack") };
    assert_eq!(acknowledged(&ack), [5, 9]);
}

#[test]
fn a_newer_contracts_frame_is_passed_over() {
    assert_eq!(read_server_frame(&[0x7a, 1, 0]), Ok(ServerFrame::Unknown));
    assert_eq!(read_server_frame(&[]), Ok(ServerFrame::Unknown));
}

fn acknowledged(ack: &Ack<'_>) -> Vec<u32> {
    let mut seqs = Vec::new();
    ack.for_each_seq(|seq| seqs.push(seq));
    seqs
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<_> =
        hex.chars().filter(|char| !char.is_whitespace()).map(|char| char.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n");
    lines.collect()
}

/// The golden bytes of this name, written anew where the environment asks for it.
fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = format!("{}/tests/golden/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GOLDEN").is_some_and(|golden| golden == "write") {
        std::fs::write(&path, hex(now)).unwrap();
    }
    unhex(&std::fs::read_to_string(&path).unwrap())
}

#[test]
fn golden_frames_of_the_core_are_still_written_and_read() {
    let mut agent = agent("demo", "en-GB", (1440, 900), false);
    let mut frame = [0; FRAME_BYTES];
    let url = "https://shop.example/?utm_source=news";
    agent.event(NOW_MS, &Event::pageview(url, "https://search.example/")).unwrap();
    let props = [("product", "Wool blanket"), ("price", "79.00")];
    let added = Event { name: "Add to cart", url, props: &props, engaged_ms: 4_200, ..Event::default() };
    agent.event(NOW_MS + 5_000, &added).unwrap();
    agent.give_up(NOW_MS + 5_000, Reason::OUTBOX_FULL, 3);
    agent.flush(NOW_MS + 5_001);
    assert_eq!(agent.poll(NOW_MS + 5_001, &mut frame), Command::Connect);
    agent.opened(NOW_MS + 5_001);
    let mut frames = Vec::new();
    while let Command::Send(len) = agent.poll(NOW_MS + 5_001, &mut frame) {
        frames.push(frame[..len].to_vec());
    }
    let [hello, batch] = &frames[..] else { panic!("{} frames", frames.len()) };
    let post = &posts(&mut agent, NOW_MS + 5_002)[0];

    // The version in it is the crate's, so the bytes of today need not be those of the day they were kept.
    for (hello, version) in [(hello, crate::VERSION), (&golden("hello", hello), "0.1.0")] {
        let Some(Sent::Hello(read)) = wire::ClientFrame::decode(&hello[..]).unwrap().frame else { panic!("no hello") };
        assert_eq!(read, wire::Hello { site: "demo".into(), agent_version: version.into(), key: String::new() });
    }

    assert_eq!(*batch, golden("batch", batch));
    let Some(Sent::Batch(over_socket)) = wire::ClientFrame::decode(&batch[..]).unwrap().frame else {
        panic!("no batch")
    };
    assert_eq!(*post, golden("envelope", post));
    let posted = wire::Envelope::decode(&post[..]).unwrap();
    assert_eq!((over_socket.site.as_str(), over_socket.sent_ms), ("", NOW_MS + 5_001));
    assert_eq!((posted.site.as_str(), posted.sent_ms), ("demo", NOW_MS + 5_002));
    assert_eq!(over_socket.batch, posted.batch);

    let strings = [
        "en-GB",
        "pageview",
        url,
        "https://search.example/",
        "Add to cart",
        "product",
        "Wool blanket",
        "price",
        "79.00",
    ];
    let read = wire::Batch::decode(&posted.batch[..]).unwrap();
    assert_eq!(read.sid[..6], NOW_MS.to_be_bytes()[2..]);
    let expected = wire::Batch {
        sid: read.sid.clone(),
        seq: 1,
        class: wire::Class::Short.into(),
        base_ms: NOW_MS,
        strings: strings.map(String::from).to_vec(),
        events: vec![
            wire::Event { name: 2, delta_ms: 0, url: 3, referrer: 4, props: vec![], engaged_ms: 0 },
            wire::Event { name: 5, delta_ms: 5_000, url: 3, referrer: 0, props: vec![6, 7, 8, 9], engaged_ms: 4_200 },
        ],
        given_up: vec![wire::GivenUp { reason: wire::Reason::OutboxFull.into(), events: 3, batches: 0 }],
        screen_width: 1440,
        screen_height: 900,
        language: 1,
        automated: false,
    };
    assert_eq!(read, expected);
}

#[test]
fn golden_frames_of_a_gateway_are_still_read_by_both() {
    let sid = || (1..=16).collect::<Vec<u8>>();
    let config = || wire::Config { flush_interval_ms: 750 };
    let said = [
        (
            "welcome",
            Said::Welcome(wire::Welcome { server_ms: NOW_MS, region: "eu-north".into(), config: Some(config()) }),
        ),
        ("ack", Said::Ack(wire::Ack { sid: sid(), seqs: vec![1, 2, 300], server_ms: NOW_MS, ..Default::default() })),
        (
            "reject",
            Said::Reject(wire::Reject {
                sid: sid(),
                seq: 4,
                reason: wire::Reason::SidExpired.into(),
                message: "too late".into(),
                server_ms: NOW_MS,
                r#final: true,
            }),
        ),
        ("throttle", Said::Throttle(wire::Throttle { wait_ms: 1_500, sid: sid(), seq: 7 })),
        ("drain", Said::Drain(wire::Drain { within_ms: 10_000 })),
        ("config", Said::Config(config())),
    ];
    let sid = sid();
    for (name, frame) in said {
        let frame = wire::ServerFrame { frame: Some(frame) };
        let bytes = golden(name, &frame.encode_to_vec());
        assert_eq!(wire::ServerFrame::decode(&bytes[..]).unwrap(), frame);
        let read = read_server_frame(&bytes).unwrap();
        match name {
            "welcome" => assert_eq!(
                read,
                ServerFrame::Welcome { server_ms: NOW_MS, region: b"eu-north", flush_interval_ms: 750 }
            ),
            "ack" => {
                let ServerFrame::Ack(ack) = read else { panic!("no ack") };
                assert_eq!((ack.sid, ack.server_ms), (&sid[..], NOW_MS));
                assert_eq!(acknowledged(&ack), [1, 2, 300]);
            }
            "reject" => assert_eq!(
                read,
                ServerFrame::Reject(Reject {
                    sid: &sid,
                    seq: 4,
                    reason: Reason::SID_EXPIRED,
                    message: b"too late",
                    server_ms: NOW_MS,
                    is_final: true
                })
            ),
            "throttle" => assert_eq!(read, ServerFrame::Throttle { wait_ms: 1_500, sid: &sid, seq: 7 }),
            "drain" => assert_eq!(read, ServerFrame::Drain { within_ms: 10_000 }),
            _ => assert_eq!(read, ServerFrame::Config { flush_interval_ms: 750 }),
        }
    }
}

#[test]
fn golden_bye_which_pages_need_not_send_is_still_read() {
    let bye = wire::ClientFrame { frame: Some(Sent::Bye(wire::Bye {})) };
    assert_eq!(wire::ClientFrame::decode(&golden("bye", &bye.encode_to_vec())[..]).unwrap(), bye);
}
