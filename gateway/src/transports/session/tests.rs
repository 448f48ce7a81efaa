use std::net::IpAddr;
use std::sync::atomic::AtomicBool;

use prometheus_client::registry::Registry;
use proptest::prelude::*;
use proto::Message;
use proto::agent::{Batch, Bye, ClientFrame, Event, Hello};
use proto::sid::Sid;
use proto::uplink::{self, Configuration, Salt, Site};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::clock::Clock;
use crate::config::Limits;
use crate::delivery::log::Submission;
use crate::door::ROOM_KIB;
use crate::door::address::{ForwardedHeader, TrustedProxies};
use crate::door::capacity::{Capacity, WhenRedisIsAway};
use crate::door::crowd::Crowd;
use crate::door::sites::Sites;
use crate::door::throttle::Throttles;
use crate::door::waf::Waf;
use crate::ingest::Ingest;
use crate::ingest::cardinality::Cardinality;
use crate::ingest::in_flight::InFlight;
use crate::ingest::user_agent::{Agents, DeviceInfo};
use crate::ingest::visitor::LocalDay;
use crate::metrics::Metrics;

pub const ORIGIN: &str = "https://shop.example";
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The client's end.
struct Agent {
    to: mpsc::Sender<Received>,
    from: mpsc::Receiver<Said>,
}

#[derive(Debug)]
enum Said {
    Frame(ServerFrame),
    Closed(String),
}

struct Memory {
    from: mpsc::Receiver<Received>,
    to: mpsc::Sender<Said>,
}

impl Transport for Memory {
    const NAME: &'static str = "memory";

    async fn receive(&mut self) -> Received {
        self.from.recv().await.unwrap_or(Received::Gone)
    }

    async fn send(&mut self, frames: &[ServerFrame]) -> Result<(), Gone> {
        for frame in frames {
            self.to.send(Said::Frame(frame.clone())).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    async fn ask(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    async fn close(self, close: &Close) {
        let words = match close {
            Close::Done => "done",
            Close::Away => "away",
            Close::Refused(refusal) => validate::label(refusal.reason),
        };
        let _ = self.to.send(Said::Closed(words.to_owned())).await;
    }
}

impl Agent {
    fn connect(door: &Arc<Door>) -> Self {
        let (to, from_agent) = mpsc::channel(256);
        let (to_agent, from) = mpsc::channel(1024);
        let client = Client {
            address: IpAddr::from([192, 0, 2, 7]),
            user_agent: "a test".into(),
            origin: Some(ORIGIN.into()),
            device: Arc::new(DeviceInfo::default()),
        };
        tokio::spawn(serve(Memory { from: from_agent, to: to_agent }, client, Arc::clone(door)));
        Self { to, from }
    }

    async fn say(&self, frame: client_frame::Frame) {
        self.send(ClientFrame { frame: Some(frame) }.encode_to_vec()).await;
    }

    async fn send(&self, bytes: Vec<u8>) {
        let _ = self.to.send(Received::Frame(bytes.into())).await;
    }

    async fn hello(&mut self) {
        self.say(client_frame::Frame::Hello(Hello { site: "shop".into(), ..Default::default() })).await;
        assert!(matches!(self.heard().await, Said::Frame(ServerFrame { frame: Some(Frame::Welcome(_)) })));
    }

    async fn batch(&self, door: &Door, seq: u32) {
        self.say(client_frame::Frame::Batch(envelope(door, seq))).await;
    }

    async fn heard(&mut self) -> Said {
        timeout(ANSWER_MAX, self.from.recv()).await.expect("an answer in time").expect("a session that is not gone")
    }

    async fn frame(&mut self) -> Frame {
        match self.heard().await {
            Said::Frame(frame) => frame.frame.expect("a frame that holds something"),
            Said::Closed(words) => panic!("closed: {words}"),
        }
    }
}

pub fn envelope(door: &Door, seq: u32) -> Envelope {
    let now_ms = door.ingest.clock.now_ms();
    let batch = Batch {
        sid: Sid::from_parts(now_ms, [1; 10]).as_bytes().to_vec(),
        seq,
        base_ms: now_ms,
        strings: vec!["pageview".into(), "https://shop.example/".into()],
        events: vec![Event { name: 1, url: 2, ..Default::default() }],
        ..Default::default()
    };
    Envelope { sent_ms: now_ms, batch: batch.encode_to_vec(), ..Default::default() }
}

/// A door, and the log's end of it.
pub fn door(policy: WhenRedisIsAway) -> (Arc<Door>, mpsc::Receiver<Submission>) {
    let clock = Clock::new();
    let sites = Sites::default();
    sites.replace(&configuration(clock.now_ms(), None)).unwrap();
    let agents = Arc::new(Agents::try_new().unwrap());
    let limits = Limits { connection_batches_burst: 1_000, ..Default::default() };
    let cardinality = Cardinality::new(&limits);
    let ingest = Arc::new(Ingest {
        sites,
        clock,
        in_flight: InFlight::default(),
        data_centres: Arc::default(),
        cardinality,
        agents,
        geo: None,
    });
    let (log, submissions) = mpsc::channel(64);
    let metrics = Arc::new(Metrics::new(&mut Registry::default()));
    let door = Door {
        ingest,
        log,
        room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
        capacity: Arc::new(Capacity::new(policy)),
        throttles: Arc::new(Throttles::new(&limits)),
        overload: Arc::default(),
        crowd: Crowd::new(&limits, TrustedProxies::default()),
        waf: Arc::new(Waf::try_new(None, None, Arc::clone(&metrics)).unwrap()),
        limits: watch::channel(limits).1,
        trusted_proxies: TrustedProxies::new(Vec::new()),
        forwarded_header: ForwardedHeader::default(),
        proxy_protocol: false,
        region: "local".into(),
        metrics,
        ready: Arc::new(AtomicBool::new(true)),
        sessions: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    (Arc::new(door), submissions)
}

fn configuration(now_ms: u64, rules: Option<uplink::Rules>) -> Configuration {
    let day = LocalDay::at(now_ms, &jiff::tz::TimeZone::UTC).to_string();
    let (origins, timezone) = (vec![ORIGIN.into()], "UTC".into());
    let site = Site { name: "shop".into(), origins, timezone, rules, ..Default::default() };
    Configuration { sites: vec![site], salts: vec![Salt { day, key: vec![7; 16] }], ..Default::default() }
}

/// Central says something new.
fn configure(door: &Door, rules: Option<uplink::Rules>) {
    door.ingest.sites.replace(&configuration(door.ingest.clock.now_ms(), rules)).unwrap();
}

pub async fn next(submissions: &mut mpsc::Receiver<Submission>) -> Submission {
    timeout(ANSWER_MAX, submissions.recv()).await.expect("a batch in time").expect("a door")
}

#[tokio::test]
async fn a_leaving_gateway_answers_what_is_in_flight_and_what_still_comes() {
    let (door, mut submissions) = door(WhenRedisIsAway::Refuse);
    let mut agent = Agent::connect(&door);
    agent.hello().await;
    agent.batch(&door, 1).await;
    let first = next(&mut submissions).await;
    door.stop.cancel();
    assert!(matches!(agent.frame().await, Frame::Drain(_)));
    agent.batch(&door, 2).await;
    let second = next(&mut submissions).await;
    agent.say(client_frame::Frame::Bye(Bye {})).await;
    for (submission, seq) in [(second, 2), (first, 1)] {
        submission.waiter.answer();
        assert!(matches!(agent.frame().await, Frame::Ack(ack) if ack.seqs == [seq]));
    }
    assert!(matches!(agent.heard().await, Said::Closed(words) if words == "done"));
}

#[tokio::test]
async fn a_session_whose_key_is_deleted_is_ended_and_one_with_another_key_goes_on() {
    let (door, mut submissions) = door(WhenRedisIsAway::Refuse);
    let keys = |keys: &[&str]| {
        let mut new = configuration(door.ingest.clock.now_ms(), None);
        new.sites[0].keys = keys.iter().map(|key| Sha256::digest(key.as_bytes()).to_vec()).collect();
        new.sites[0].key_required = true;
        door.ingest.sites.replace(&new).unwrap();
    };
    keys(&["first", "second"]);
    let mut agents = Vec::new();
    for key in ["first", "second", ""] {
        let agent = Agent::connect(&door);
        let hello = Hello { site: "shop".into(), key: key.into(), ..Default::default() };
        agent.say(client_frame::Frame::Hello(hello)).await;
        agents.push(agent);
    }
    let mut without = agents.pop().unwrap();
    assert!(matches!(without.frame().await, Frame::Reject(reject) if reject.reason() == Reason::WrongKey));
    assert!(matches!(without.heard().await, Said::Closed(words) if words == "wrong_key"));
    for agent in &mut agents {
        assert!(matches!(agent.frame().await, Frame::Welcome(_)));
    }
    keys(&["second"]);
    for agent in &agents {
        agent.batch(&door, 1).await;
    }
    assert!(matches!(agents[0].frame().await, Frame::Reject(reject) if reject.reason() == Reason::WrongKey));
    assert!(matches!(agents[0].heard().await, Said::Closed(words) if words == "wrong_key"));
    next(&mut submissions).await.waiter.answer();
    assert!(matches!(agents[1].frame().await, Frame::Ack(ack) if ack.seqs == [1]));
}

#[tokio::test]
async fn while_redis_is_away_a_batch_is_asked_to_come_later_under_its_number() {
    let (door, mut submissions) = door(WhenRedisIsAway::Refuse);
    let mut agent = Agent::connect(&door);
    agent.hello().await;
    door.capacity.redis_counts(false);
    agent.batch(&door, 7).await;
    match agent.frame().await {
        Frame::Throttle(throttle) => {
            assert_eq!((throttle.seq, throttle.sid.len(), throttle.wait_ms > 0), (7, 16, true))
        }
        other => panic!("{other:?}"),
    }
    assert!(submissions.try_recv().is_err(), "nothing went to the log");
    door.capacity.redis_counts(true);
    agent.batch(&door, 7).await;
    next(&mut submissions).await.waiter.answer();
    assert!(matches!(agent.frame().await, Frame::Ack(ack) if ack.seqs == [7]));
}

#[tokio::test]
async fn under_store_and_forward_the_log_takes_batches_without_redis() {
    let (door, mut submissions) = door(WhenRedisIsAway::StoreAndForward);
    let mut agent = Agent::connect(&door);
    agent.hello().await;
    door.capacity.redis_counts(false);
    agent.batch(&door, 1).await;
    assert_eq!(next(&mut submissions).await.record.seq, 1);
}

#[tokio::test]
async fn who_does_not_say_hello_is_told_why_the_session_ends() {
    let (door, _submissions) = door(WhenRedisIsAway::Refuse);
    let mut agent = Agent::connect(&door);
    agent.batch(&door, 1).await;
    assert!(matches!(agent.frame().await, Frame::Reject(reject) if reject.reason() == Reason::HelloMissing));
    assert!(matches!(agent.heard().await, Said::Closed(words) if words == validate::label(Reason::HelloMissing)));
}

/// Bytes as they come from broken or hostile clients: noise, and good frames with bytes changed, cut off or added.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        Just(client_frame::Frame::Hello(Hello { site: "shop".into(), ..Default::default() })),
        Just(client_frame::Frame::Bye(Bye {})),
        (any::<Vec<u8>>(), any::<u64>(), "[a-z]{0,4}")
            .prop_map(|(batch, sent_ms, site)| { Envelope { site, sent_ms, batch, ..Default::default() } })
            .prop_map(client_frame::Frame::Batch),
        (any::<[u8; 16]>(), any::<u32>(), any::<[i64; 3]>(), any::<[u32; 8]>(), any::<u64>()).prop_map(
            |(sid, seq, deltas, references, base_ms)| {
                let event = |delta_ms| Event {
                    delta_ms,
                    name: references[0] % 4,
                    url: references[1] % 4,
                    referrer: references[2] % 4,
                    props: references[3..6].iter().map(|reference| reference % 4).collect(),
                    engaged_ms: references[6],
                };
                let strings = vec!["pageview".into(), "https://shop.example/".into(), "\u{0}".into()];
                let events = deltas.into_iter().map(event).collect();
                let batch = Batch {
                    sid: sid.to_vec(),
                    seq,
                    base_ms,
                    strings,
                    events,
                    class: references[7] as i32,
                    ..Default::default()
                };
                client_frame::Frame::Batch(Envelope { batch: batch.encode_to_vec(), ..Default::default() })
            }
        ),
    ];
    let bytes = good.prop_map(|frame| ClientFrame { frame: Some(frame) }.encode_to_vec());
    let changed =
        (bytes.clone(), any::<usize>(), any::<u8>(), any::<Vec<u8>>()).prop_map(|(mut bytes, at, byte, more)| {
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] = byte;
                if byte % 3 == 0 {
                    bytes.truncate(at);
                }
            }
            bytes.extend(more);
            bytes
        });
    prop_oneof![any::<Vec<u8>>(), bytes, changed]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes, the session answers or closes, and the next one is served.
    #[test]
    fn no_bytes_bring_a_session_down(frames in proptest::collection::vec(frames(), 1..12), hello in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (door, mut submissions) = door(WhenRedisIsAway::Refuse);
            let log = tokio::spawn(async move {
                while let Some(submission) = submissions.recv().await {
                    submission.waiter.answer();
                }
            });
            let mut agent = Agent::connect(&door);
            if hello {
                agent.hello().await;
            }
            for frame in frames {
                agent.send(frame).await;
            }
            agent.say(client_frame::Frame::Bye(Bye {})).await;
            loop {
                if let Said::Closed(words) = agent.heard().await {
                    assert!(!words.is_empty());
                    break;
                }
            }
            let mut next = Agent::connect(&door);
            next.hello().await;
            next.batch(&door, 1).await;
            assert!(matches!(next.frame().await, Frame::Ack(ack) if ack.seqs == [1]));
            log.abort();
        });
    }
}

#[tokio::test]
async fn sessions_of_one_address_beyond_its_limit_are_refused_and_a_place_is_free_again() {
    let (mut door, _submissions) = door(WhenRedisIsAway::Refuse);
    let limits = Limits { connections_per_address: 2, ..Default::default() };
    Arc::get_mut(&mut door).unwrap().crowd = Crowd::new(&limits, TrustedProxies::default());
    let (mut first, mut second) = (Agent::connect(&door), Agent::connect(&door));
    first.hello().await;
    second.hello().await;
    let mut third = Agent::connect(&door);
    assert!(
        matches!(third.frame().await, Frame::Reject(reject) if reject.reason() == Reason::Unavailable && !reject.r#final)
    );
    assert!(matches!(third.heard().await, Said::Closed(words) if words == "unavailable"));
    first.say(client_frame::Frame::Bye(Bye {})).await;
    assert!(matches!(first.heard().await, Said::Closed(words) if words == "done"));
    timeout(ANSWER_MAX, first.from.recv()).await.expect("it ends");
    Agent::connect(&door).hello().await;
}

#[tokio::test]
async fn a_session_of_a_site_in_debug_mode_is_told_of_each_event_and_others_are_not() {
    let (door, mut submissions) = door(WhenRedisIsAway::Refuse);
    let now_ms = door.ingest.clock.now_ms();
    let batch = Batch {
        sid: Sid::from_parts(now_ms, [1; 10]).as_bytes().to_vec(),
        seq: 1,
        base_ms: now_ms,
        strings: ["pageview", "https://shop.example/jane@shop.example", "Jane@shop.example"].map(String::from).into(),
        events: vec![Event { name: 1, url: 2, ..Default::default() }, Event { name: 3, url: 2, ..Default::default() }],
        ..Default::default()
    };
    let envelope = Envelope { sent_ms: now_ms, batch: batch.encode_to_vec(), ..Default::default() };
    let mut agent = Agent::connect(&door);
    agent.hello().await;
    for debug in [false, true] {
        let schema = Some(uplink::Schema { mode: uplink::SchemaMode::Enforce.into(), ..Default::default() });
        let rules = Some(uplink::Rules { schema, debug, ..Default::default() });
        configure(&door, rules);
        agent.say(client_frame::Frame::Batch(envelope.clone())).await;
        let submission = next(&mut submissions).await;
        if debug {
            let mut notices = Vec::new();
            for _ in 0..2 {
                let Frame::Notice(notice) = agent.frame().await else { panic!("no notice") };
                assert_eq!((&notice.sid, notice.seq), (&batch.sid, 1));
                assert!(!notice.message.to_lowercase().contains("jane"), "{}", notice.message);
                notices.push((notice.event, notice.reason(), notice.message.contains(": counted")));
            }
            assert_eq!(notices, [(0, Reason::PersonalData, true), (1, Reason::SchemaEvent, false)]);
        }
        submission.waiter.answer();
        assert!(matches!(agent.frame().await, Frame::Ack(ack) if ack.seqs == [1]));
    }
}
