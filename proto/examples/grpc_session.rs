//! A session by gRPC, as a server or an app has one: Hello, one batch with one event, its acknowledgement.
//!
//! `cargo run -p proto --features native --example grpc_session -- http://127.0.0.1:8080 demo http://127.0.0.1:8090`

use std::time::{SystemTime, UNIX_EPOCH};

use proto::Message;
use proto::agent::agent_client::AgentClient;
use proto::agent::{Batch, Bye, ClientFrame, Envelope, Event, Hello, client_frame, server_frame};
use proto::sid::Sid;
use tonic::Request;
use tonic::transport::Endpoint;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(gateway), Some(site), Some(origin)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: grpc_session GATEWAY SITE ORIGIN".into());
    };
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    // Kept, and sent again under the same number, until it is acknowledged: then it counts once, whatever happens meanwhile.
    let sid = Sid::from_parts(now_ms, rand::random());
    let batch = Batch {
        sid: sid.as_bytes().to_vec(),
        seq: 1,
        base_ms: now_ms,
        strings: vec!["Order shipped".into(), format!("{origin}/orders")],
        events: vec![Event { name: 1, url: 2, ..Default::default() }],
        ..Default::default()
    };
    let envelope = Envelope { sent_ms: now_ms, batch: batch.encode_to_vec(), ..Default::default() };
    let frames = [
        client_frame::Frame::Hello(Hello { site, agent_version: "example".into(), ..Default::default() }),
        client_frame::Frame::Batch(envelope),
        client_frame::Frame::Bye(Bye {}),
    ];
    let frames: Vec<_> = frames.into_iter().map(|frame| ClientFrame { frame: Some(frame) }).collect();

    let mut request = Request::new(tokio_stream::iter(frames));
    // One of the site's own, and whoever the event is about.
    request.metadata_mut().insert("origin", origin.parse()?);
    request.metadata_mut().insert("tideline-user-agent", "Example/1.0 (Linux; Android 15; Mobile)".parse()?);
    let mut client = AgentClient::new(Endpoint::from_shared(gateway)?.connect().await?);
    let mut answers = client.connect(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        match answer.frame {
            Some(server_frame::Frame::Welcome(welcome)) => println!("welcome to region {}", welcome.region),
            Some(server_frame::Frame::Ack(ack)) => println!("counted: {:?}", ack.seqs),
            Some(other) => println!("{other:?}"),
            None => {}
        }
    }
    Ok(())
}
