//! A gateway and a central in one process, as small as the protocol allows, that misbehave as told: what they are told is
//! what the client has to survive. What a real gateway does is proved elsewhere, with real ones.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, extract::State, routing};
use futures_util::{SinkExt, StreamExt};
use proto::{
    Message as _,
    agent::{self, Batch, ClientFrame, Reason, ServerFrame, client_frame, server_frame},
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{
    Message,
    handshake::server::{Request, Response},
};

/// What the gateway does with the n-th transmission of a batch that it sees, counted from 1 over all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    Acknowledge,
    /// The events are counted, the connection breaks before the acknowledgement.
    CountAndBreak,
    /// The connection breaks and nothing is counted.
    Break,
    /// In the ledger as dropped.
    Drop(Reason),
    /// Refused before anything is looked at.
    Refuse(Reason),
    /// Acknowledged and forgotten: what must never happen, and what the audit is for.
    Lose,
}

#[derive(Default)]
pub struct Seen {
    pub transmissions: usize,
    pub connections: usize,
    /// Every distinct batch by identity, as first seen.
    pub batches: HashMap<(Vec<u8>, u32), Vec<u8>>,
    pub counted: HashMap<(Vec<u8>, u32), Batch>,
    /// Transmissions of a batch that was counted before.
    pub duplicates: usize,
    /// Addresses of which something was counted.
    pub people: HashSet<String>,
    /// Transmissions whose bytes were not those of the first.
    pub altered: usize,
    pub visitors: Vec<(String, String, String)>,
}

impl Seen {
    pub fn events(&self) -> Vec<String> {
        let name = |batch: &Batch, event: &agent::Event| batch.strings[event.name as usize - 1].clone();
        self.counted.values().flat_map(|batch| batch.events.iter().map(|event| name(batch, event))).collect()
    }

    /// Rows of a report by `event:page` or by `event:name`.
    fn by(&self, dimension: &str) -> BTreeMap<String, usize> {
        let mut rows = BTreeMap::new();
        for batch in self.counted.values() {
            for event in &batch.events {
                let string = |reference: u32| batch.strings[reference as usize - 1].as_str();
                let key = match dimension {
                    "event:page" if string(event.name) != "pageview" => continue,
                    "event:page" => path(string(event.url)),
                    "event:name" => string(event.name),
                    other => panic!("{other}"),
                };
                *rows.entry(key.to_owned()).or_default() += 1;
            }
        }
        rows
    }

    fn counts(&self) -> (usize, usize) {
        let events = self.events();
        (events.iter().filter(|name| *name == "pageview").count(), events.len())
    }
}

fn path(url: &str) -> &str {
    let page = url.split('?').next().unwrap();
    page.splitn(4, '/').nth(3).map_or("/", |rest| &page[page.len() - rest.len() - 1..])
}

pub struct Misbehaving {
    pub gateway: SocketAddr,
    pub central: SocketAddr,
    pub seen: Arc<Mutex<Seen>>,
}

pub const KEY: &str = "the-key";

pub async fn start(treat: impl Fn(usize) -> Treatment + Send + Sync + 'static) -> Misbehaving {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = listener.local_addr().unwrap();
    let treat = Arc::new(treat);
    let accepting = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, accepting.clone(), treat.clone()));
        }
    });

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let central = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/api/v2/query", routing::post(query))
        .route("/api/v2/live", routing::get(async || Json(json!({ "current_visitors": 0, "minutes": [] }))))
        .route("/api/v2/batches", routing::get(batches))
        .route("/api/v2/ledger", routing::get(ledger))
        .with_state(seen.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Misbehaving { gateway, central, seen }
}

async fn serve<T: Fn(usize) -> Treatment>(stream: TcpStream, seen: Arc<Mutex<Seen>>, treat: Arc<T>) -> Option<()> {
    let mut first = [0; 9];
    while stream.peek(&mut first).await.ok()? < first.len() {}
    if &first == b"GET /live" {
        stream.writable().await.ok()?;
        stream.try_write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
        return Some(());
    }
    let noting = seen.clone();
    let mut address = String::new();
    let from = &mut address;
    #[allow(clippy::result_large_err)] // the handshake's own signature
    let note = move |request: &Request, response: Response| {
        let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
        let visitor = (header("x-forwarded-for"), header("user-agent"), header("origin"));
        from.clone_from(&visitor.0);
        let mut seen = noting.lock().unwrap();
        seen.connections += 1;
        seen.visitors.push(visitor);
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, note).await.ok()?;
    let mut greeted = false;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else { continue };
        let answer = match ClientFrame::decode(bytes).unwrap().frame.unwrap() {
            client_frame::Frame::Hello(hello) => {
                assert_eq!(hello.site, "shop");
                greeted = true;
                server_frame::Frame::Welcome(agent::Welcome { server_ms: now_ms(), ..Default::default() })
            }
            client_frame::Frame::Batch(envelope) => {
                assert!(greeted, "Hello comes first");
                take(envelope, &address, &mut seen.lock().unwrap(), &*treat)?
            }
            client_frame::Frame::Bye(_) => break,
        };
        let frame = ServerFrame { frame: Some(answer) }.encode_to_vec();
        socket.send(Message::Binary(frame.into())).await.ok()?;
    }
    Some(())
}

/// The answer; none when the connection is to break.
fn take(
    envelope: agent::Envelope,
    address: &str,
    seen: &mut Seen,
    treat: &impl Fn(usize) -> Treatment,
) -> Option<server_frame::Frame> {
    seen.transmissions += 1;
    let batch = Batch::decode(envelope.batch.as_slice()).unwrap();
    let id = (batch.sid.clone(), batch.seq);
    if seen.batches.entry(id.clone()).or_insert_with(|| envelope.batch.clone()) != &envelope.batch {
        seen.altered += 1;
    }
    seen.duplicates += usize::from(seen.counted.contains_key(&id));
    let treatment = match treat(seen.transmissions) {
        _ if seen.counted.contains_key(&id) => Treatment::Acknowledge,
        treatment => treatment,
    };
    let reject = |reason: Reason, last: bool| {
        server_frame::Frame::Reject(agent::Reject {
            sid: id.0.clone(),
            seq: id.1,
            reason: reason.into(),
            message: "the site is not known here".to_owned(),
            server_ms: now_ms(),
            r#final: last,
        })
    };
    match treatment {
        Treatment::Break => return None,
        Treatment::Drop(reason) => return Some(reject(reason, true)),
        Treatment::Refuse(reason) => return Some(reject(reason, false)),
        Treatment::Acknowledge | Treatment::CountAndBreak => {
            seen.counted.insert(id.clone(), batch);
            seen.people.insert(address.to_owned());
        }
        Treatment::Lose => {}
    }
    let ack = agent::Ack { sid: id.0, seqs: vec![id.1], server_ms: now_ms(), ..Default::default() };
    (treatment != Treatment::CountAndBreak).then_some(server_frame::Frame::Ack(ack))
}

async fn query(
    State(seen): State<Arc<Mutex<Seen>>>,
    headers: axum::http::HeaderMap,
    Json(body): Json<Value>,
) -> (axum::http::StatusCode, Json<Value>) {
    if headers.get("authorization").is_none_or(|value| value != &format!("Bearer {KEY}")) {
        return (axum::http::StatusCode::UNAUTHORIZED, Json(json!({ "error": "no such key" })));
    }
    if body["site_id"] != "shop" {
        return (axum::http::StatusCode::NOT_FOUND, Json(json!({ "error": "no such site" })));
    }
    let seen = seen.lock().unwrap();
    if let Some(dimension) = body["dimensions"][0].as_str() {
        let rows = seen.by(dimension);
        let rows: Vec<Value> = rows.iter().map(|(key, n)| json!({ "metrics": [n], "dimensions": [key] })).collect();
        return (axum::http::StatusCode::OK, Json(json!({ "results": rows })));
    }
    let ((pageviews, events), agents) = (seen.counts(), seen.people.len());
    let metrics: Vec<usize> = body["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|metric| match metric.as_str().unwrap() {
            "pageviews" => pageviews,
            "events" => events,
            "visits" | "visitors" => agents,
            other => panic!("{other}"),
        })
        .collect();
    (axum::http::StatusCode::OK, Json(json!({ "results": [{ "metrics": metrics, "dimensions": [] }] })))
}

/// Every counted batch, a line each.
async fn batches(State(seen): State<Arc<Mutex<Seen>>>) -> String {
    let line = |((sid, seq), batch): (&(Vec<u8>, u32), &Batch)| {
        let sid: String = sid.iter().map(|byte| format!("{byte:02x}")).collect();
        let row = json!({ "sid": sid, "seq": seq, "events": batch.events.len(), "dropped": 0, "arrived_ms": now_ms() });
        format!("{row}\n")
    };
    seen.lock().unwrap().counted.iter().map(line).collect()
}

async fn ledger(State(seen): State<Arc<Mutex<Seen>>>) -> Json<Value> {
    let seen = seen.lock().unwrap();
    let nothing = json!({ "events": 0 });
    let (counted, duplicates) = (seen.events().len(), seen.duplicates);
    Json(json!({ "counted": counted, "dropped": nothing, "given_up": nothing, "duplicates": duplicates }))
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}
