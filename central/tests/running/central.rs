//! A central of its own in a folder of its own, on free ports, with the real engine.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{path::Path, time::Duration};

use central::{Config, Error};
use proto::uplink::{
    AggregatorHello, CentralFrame, FlushChunk, FlushEnd, FlushId, FlushRows, GatewayPosition, Leadership, RegionFrame,
    central_frame, region_frame, uplink_client::UplinkClient,
};
use proto::{Message as _, uplink::RollupRow};
use serde_json::Value;
use tokio::{
    sync::{Mutex, MutexGuard, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

pub const KEY: &str = "a-key-for-all-sites-of-this-test";
pub const TOKEN: &str = "a-token-for-the-uplink-of-this-test";
/// Of the log folder of a gateway.
pub const GATEWAY: &str = "6b3f0f0e-8f43-4d5e-9d6c-0a8d6f1f0001";

/// Long enough for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// The engine is one a process, so centrals take turns.
static ENGINE: Mutex<()> = Mutex::const_new(());

pub struct Running {
    _engine: MutexGuard<'static, ()>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    addresses: Value,
    pub http: reqwest::Client,
}

/// A config with free ports and all its files in the folder.
pub fn config(folder: &Path) -> Config {
    std::fs::write(folder.join("api-key"), KEY).unwrap();
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    let at = |name: &str| folder.join(name);
    serde_json::from_value(serde_json::json!({
        "listen": "127.0.0.1:0", "uplink": "127.0.0.1:0", "admin": "127.0.0.1:0",
        "data": at("data"), "gateway_url": "http://127.0.0.1:8080/",
        "api_key_file": at("api-key"), "uplink_token_file": at("token"), "address_file": at("addresses"),
    }))
    .unwrap()
}

impl Running {
    pub async fn start(folder: &Path) -> Self {
        let engine = ENGINE.lock().await;
        let stop = CancellationToken::new();
        let _ = std::fs::remove_file(folder.join("addresses"));
        let mut task = tokio::spawn(central::run(config(folder), stop.clone()));
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let ready = async {
            loop {
                let addresses = std::fs::read_to_string(folder.join("addresses")).ok();
                if let Some(addresses) = addresses.and_then(|text| serde_json::from_str::<Value>(&text).ok()) {
                    let url = format!("http://{}/ready", addresses["admin"].as_str().unwrap());
                    if http.get(url).send().await.is_ok_and(|answer| answer.status() == 200) {
                        return addresses;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let addresses = tokio::select! {
            addresses = timeout(PATIENCE, ready) => addresses.expect("central is ready in time"),
            ended = &mut task => panic!("central did not start: {ended:?}"),
        };
        Self { _engine: engine, stop, task, addresses, http }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("central stops in time").unwrap().unwrap();
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address("listen"))
    }

    pub fn address(&self, socket: &str) -> &str {
        self.addresses[socket].as_str().unwrap()
    }

    /// A question of the API with the key, and its answer.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(self.url(path)).bearer_auth(KEY).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let answer = self.http.post(self.url(path)).bearer_auth(KEY).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn put_site(&self, name: &str) {
        let body = serde_json::json!({"site_id": name, "origins": ["https://shop.example"], "timezone": "UTC"});
        assert_eq!(self.post("/api/v2/sites", body).await.0, 200);
    }

    /// An uplink stream that has said nothing yet.
    pub async fn uplink(&self, token: &str) -> Result<Peer, Status> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address("uplink"))).unwrap();
        let mut client = UplinkClient::new(endpoint.connect().await.unwrap());
        let (outgoing, frames) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(frames));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let incoming = client.forward(request).await?.into_inner();
        Ok(Peer { outgoing, incoming })
    }

    /// An aggregator's stream, and what it was told.
    pub async fn aggregator(&self) -> (Peer, Leadership) {
        let mut peer = self.uplink(TOKEN).await.unwrap();
        let hello = AggregatorHello { region: "local".to_owned(), shard: 0 };
        match peer.ask(region_frame::Frame::Aggregator(hello)).await {
            central_frame::Frame::Leadership(leadership) => (peer, leadership),
            other => panic!("{other:?}"),
        }
    }
}

/// The other end of an uplink stream.
pub struct Peer {
    outgoing: mpsc::Sender<RegionFrame>,
    incoming: Streaming<CentralFrame>,
}

impl Peer {
    pub async fn send(&self, frame: region_frame::Frame) {
        self.outgoing.send(RegionFrame { frame: Some(frame) }).await.unwrap();
    }

    pub async fn send_empty(&self) {
        self.outgoing.send(RegionFrame { frame: None }).await.unwrap();
    }

    pub async fn next(&mut self) -> Result<Option<central_frame::Frame>, Status> {
        let frame = timeout(PATIENCE, self.incoming.message()).await.expect("central answers in time")?;
        Ok(frame.map(|frame| frame.frame.unwrap()))
    }

    pub async fn ask(&mut self, frame: region_frame::Frame) -> central_frame::Frame {
        self.send(frame).await;
        self.next().await.unwrap().expect("the stream goes on")
    }

    /// Sends a flush and waits for its ack.
    pub async fn flush(&mut self, chunks: Vec<FlushChunk>) {
        let id = chunks[0].id.clone();
        for chunk in chunks {
            self.send(region_frame::Frame::Flush(chunk)).await;
        }
        match self.next().await.unwrap() {
            Some(central_frame::Frame::FlushAck(ack)) => assert_eq!(ack.id, id),
            other => panic!("{other:?}"),
        }
    }

    /// Sends chunks that are refused; the refusal must be the last frame of the stream.
    pub async fn refused(&mut self, chunks: Vec<FlushChunk>) -> String {
        for chunk in chunks {
            self.send(region_frame::Frame::Flush(chunk)).await;
        }
        self.refusal().await
    }

    pub async fn refusal(&mut self) -> String {
        let message = match self.next().await.unwrap() {
            Some(central_frame::Frame::Refusal(refusal)) => refusal.message,
            other => panic!("{other:?}"),
        };
        assert!(matches!(self.next().await, Ok(None)), "a stream ends with its refusal");
        message
    }
}

pub fn totals(site: &str, minute: u32, pageviews: u64) -> RollupRow {
    RollupRow { site: site.to_owned(), minute, pageviews, ..RollupRow::default() }
}

/// A flush of shard local/0, in two chunks.
pub fn flush(epoch: u64, term: u64, n: u64, rows: Vec<RollupRow>) -> Vec<FlushChunk> {
    let count = rows.len() as u64;
    let (first, second) = rows.split_at(rows.len() / 2);
    let parts: Vec<Vec<u8>> = [first, second]
        .map(|rollups| FlushRows { rollups: rollups.to_vec(), ..FlushRows::default() }.encode_to_vec())
        .into();
    let id = FlushId { region: "local".to_owned(), shard: 0, epoch, n };
    let end = FlushEnd {
        chunks: 2,
        rows: count,
        crc32c: crc32c::crc32c(&parts.concat()),
        vector: vec![GatewayPosition { gateway: GATEWAY.to_owned(), lsn: 100 + n, ..Default::default() }],
        watermark_ms: 1_000 + n,
        cut_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap(),
    };
    let chunk = |(index, rows)| FlushChunk { id: Some(id.clone()), term, index, rows, end: None };
    let mut chunks: Vec<FlushChunk> = (0..).zip(parts).map(chunk).collect();
    chunks[1].end = Some(end);
    chunks
}

/// Unix minutes.
pub fn this_minute() -> u32 {
    u32::try_from(jiff::Timestamp::now().as_second() / 60).unwrap()
}
