//! Events per CPU-second through each station of the gateway that works on bytes: `make bench`.
//!
//! Batches of 20 events of one page, as an agent sends them; the median of 7 interleaved rounds.

use std::collections::HashSet;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use gateway::clock::Clock;
use gateway::config::Limits;
use gateway::delivery::log::Logged;
use gateway::door::sites::{Credentials, Sites};
use gateway::ingest::cardinality::Cardinality;
use gateway::ingest::in_flight::InFlight;
use gateway::ingest::user_agent::Agents;
use gateway::ingest::{Client, Ingest};
use proto::Message;
use proto::agent::{Batch, Envelope, Event};
use proto::record::Record;
use proto::sid::Sid;
use proto::uplink::{Configuration, Salt, Site};
use regional_redis::Lsn;
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 7;
const BATCHES: usize = 2_000;
const EVENTS: usize = 20;
const USER_AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36";

fn main() {
    let ingest = ingest();
    let now_ms = ingest.clock.now_ms();
    let envelopes: Vec<Envelope> = (0..BATCHES as u32).map(|i| envelope(now_ms, i)).collect();
    let client = Client {
        address: IpAddr::from([192, 0, 2, 7]),
        user_agent: USER_AGENT.into(),
        origin: Some("https://shop.example".into()),
        device: ingest.agents.look_up(USER_AGENT),
    };
    let records: Vec<Record> = envelopes.iter().map(|it| take(&ingest, &client, it)).collect();
    let logged: Vec<Logged> =
        (1..).zip(&records).map(|(lsn, it)| Logged { lsn: Lsn(lsn), record: it.clone(), waiter: None }).collect();

    let stations: [(&str, &dyn Fn()); 3] = [
        ("decode, validate, enrich", &|| envelopes.iter().for_each(|it| drop(black_box(take(&ingest, &client, it))))),
        ("encode a record for the log", &|| records.iter().for_each(|it| drop(black_box(it.encode_to_vec())))),
        ("merge 1,000 records into a call", &|| {
            for chunk in logged.chunks(1_000) {
                drop(black_box(gateway::delivery::apply::merge(Lsn(chunk[0].lsn.0 - 1), chunk, &HashSet::new())));
            }
        }),
    ];
    let mut seconds = vec![Vec::new(); stations.len()];
    for _ in 0..ROUNDS {
        for ((_, run), taken) in stations.iter().zip(&mut seconds) {
            let began = cpu_seconds();
            run();
            taken.push(cpu_seconds() - began);
        }
    }
    println!("{:<34} {:>22} {:>14}", "", "events/CPU-second", "ns an event");
    for ((name, _), mut taken) in stations.iter().zip(seconds) {
        taken.sort_by(f64::total_cmp);
        let events = (BATCHES * EVENTS) as f64;
        println!("{name:<34} {:>22.0} {:>14.0}", events / taken[ROUNDS / 2], taken[ROUNDS / 2] / events * 1e9);
    }
}

fn ingest() -> Ingest {
    let clock = Clock::new();
    let day = |ms| gateway::ingest::visitor::LocalDay::at(ms, &jiff::tz::TimeZone::UTC).to_string();
    let now_ms = clock.now_ms();
    let sites = Sites::default();
    let site = Site {
        name: "shop".into(),
        origins: vec!["https://shop.example".into()],
        timezone: "UTC".into(),
        ..Default::default()
    };
    let salts = vec![
        Salt { day: day(now_ms), key: vec![7; 16] },
        Salt { day: day(now_ms - 24 * 60 * 60 * 1000), key: vec![8; 16] },
    ];
    sites.replace(&Configuration { sites: vec![site], salts, ..Default::default() }).expect("a good configuration");
    Ingest {
        sites,
        clock,
        in_flight: InFlight::default(),
        data_centres: Arc::default(),
        cardinality: Cardinality::new(&Limits::default()),
        agents: Arc::new(Agents::try_new().expect("the embedded lists")),
        geo: None,
    }
}

fn envelope(now_ms: u64, i: u32) -> Envelope {
    let strings = [
        "pageview",
        "https://shop.example/products/storm-lantern.html?utm_source=letters",
        "https://www.google.com/",
        "Add to cart",
        "product",
        "Storm lantern",
    ];
    let event = |n: usize| match n % 4 {
        0 => Event { name: 1, url: 2, referrer: 3, delta_ms: 10, ..Default::default() },
        _ => Event { name: 4, url: 2, delta_ms: 10, props: vec![5, 6], ..Default::default() },
    };
    let batch = Batch {
        sid: Sid::from_parts(now_ms, [(i % 251) as u8; 10]).as_bytes().to_vec(),
        seq: i % 4096 + 1,
        base_ms: now_ms - 1_000,
        strings: strings.map(str::to_owned).to_vec(),
        events: (0..EVENTS).map(event).collect(),
        ..Default::default()
    };
    Envelope { site: "shop".into(), sent_ms: now_ms, batch: batch.encode_to_vec(), ..Default::default() }
}

fn take(ingest: &Ingest, client: &Client, envelope: &Envelope) -> Record {
    let table = ingest.sites.table();
    let site = table.admit(Credentials::from(envelope), client.origin.as_deref()).expect("the site's own origin").site;
    ingest.take(&table, &site, client, envelope).expect("a good batch").record
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
