//! The gateway's own listener and routes, without and with TLS, and nothing behind them: what `make h2spec` speaks to.
//!
//! `cargo run -p gateway --example listener 127.0.0.1:9080 127.0.0.1:9443` says where it listens and serves until it is ended.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gateway::clock::Clock;
use gateway::config::Limits;
use gateway::door::address::{ForwardedHeader, TrustedProxies};
use gateway::door::capacity::{Capacity, WhenRedisIsAway};
use gateway::door::crowd::Crowd;
use gateway::door::sites::Sites;
use gateway::door::throttle::Throttles;
use gateway::door::waf::Waf;
use gateway::door::{Door, ROOM_KIB};
use gateway::ingest::Ingest;
use gateway::ingest::cardinality::Cardinality;
use gateway::ingest::in_flight::InFlight;
use gateway::ingest::user_agent::Agents;
use gateway::metrics::Metrics;
use gateway::transports::listen::{Ports, Secure, bind, serve};
use gateway::transports::tls::Certificates;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut addresses = std::env::args().skip(1);
    let mut address = || -> Result<SocketAddr, Box<dyn Error>> {
        Ok(addresses.next().ok_or("usage: listener ADDRESS:PORT ADDRESS:PORT-FOR-TLS")?.parse()?)
    };
    let (plain, mut plain_listeners) = bind(address()?, "the first argument", 1)?;
    let (tls, mut tls_listeners) = bind(address()?, "the second argument", 1)?;

    let folder = tempfile::tempdir()?;
    let (chain, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    std::fs::write(&chain, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let acceptor = Certificates::open(&chain, &key)?.acceptor()?;

    let secure = tls_listeners.pop().map(|listener| Secure { listener, acceptor, alt_svc: None });
    let plain_listener = plain_listeners.pop().ok_or("one listener was asked for")?;
    let ports = Ports { plain: plain_listener, tls: secure, quic: None };
    println!("listening on {plain} and with TLS on {tls}");
    Ok(serve(ports, door()?).await?)
}

/// It knows no site, so no batch passes it.
fn door() -> Result<Arc<Door>, Box<dyn Error>> {
    let ingest = Ingest {
        sites: Sites::default(),
        clock: Clock::new(),
        in_flight: InFlight::default(),
        data_centres: Arc::default(),
        cardinality: Cardinality::new(&Limits::default()),
        agents: Arc::new(Agents::try_new()?),
        geo: None,
    };
    let limits = Limits::default();
    let metrics = Arc::new(Metrics::new(&mut Registry::default()));
    Ok(Arc::new(Door {
        ingest: Arc::new(ingest),
        log: mpsc::channel(1).0,
        room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
        capacity: Arc::new(Capacity::new(WhenRedisIsAway::Refuse)),
        throttles: Arc::new(Throttles::new(&limits)),
        overload: Arc::default(),
        crowd: Crowd::new(&limits, TrustedProxies::default()),
        waf: Arc::new(Waf::try_new(None, None, Arc::clone(&metrics))?),
        limits: watch::channel(limits).1,
        trusted_proxies: TrustedProxies::new(Vec::new()),
        forwarded_header: ForwardedHeader::default(),
        proxy_protocol: false,
        region: "local".to_owned(),
        metrics,
        ready: Arc::new(AtomicBool::new(true)),
        sessions: TaskTracker::new(),
        stop: CancellationToken::new(),
    }))
}
