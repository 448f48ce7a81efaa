//! What a run claims, against a gateway that breaks, refuses and forgets.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on is over")]

mod gateway;

use std::{collections::HashSet, path::PathBuf};

use gateway::{KEY, Misbehaving, Treatment, start};
use loadtest::{Args, Error, Report};
use proto::agent::Reason;

const AGENTS: usize = 20;

/// Two seconds of 20 agents and 200 events a second.
const SCENARIO: &str = "agents = 20\nduration_s = 2\nevents_per_s = 200\ndrain_s = 8\ncount_s = 2\nsettle_s = 0.5\n";

struct Run {
    folder: tempfile::TempDir,
    args: Args,
}

fn args(system: &Misbehaving, scenario: &str) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let args = Args {
        scenario: file("scenario.toml", scenario),
        gateway: vec![format!("http://{}", system.gateway)],
        central: format!("http://{}", system.central),
        api_key_file: file("api-key", &format!("{KEY}\n")),
        site: "shop".to_owned(),
        origin: Some("https://other.example".to_owned()),
        batches: true,
        json: Some(folder.path().join("out.json")),
    };
    Run { folder, args }
}

async fn run(system: &Misbehaving) -> Report {
    loadtest::run(args(system, SCENARIO).args).await.unwrap()
}

#[tokio::test]
async fn every_event_is_acknowledged_once_and_every_agent_is_a_visitor() {
    let system = start(|_| Treatment::Acknowledge).await;
    let Run { folder, args } = args(&system, SCENARIO);
    let report = loadtest::run(args).await.unwrap();

    assert!(report.passed, "{report}");
    let seen = system.seen.lock().unwrap();
    assert_eq!(report.audit.sent, seen.events().len() as u64);
    assert_eq!(report.audit.acknowledged, report.audit.sent);
    assert_eq!(report.latency.count, report.audit.sent);
    assert_eq!((report.agents.acknowledged, report.agents.settled), (AGENTS as u64, AGENTS as u64));
    assert!((250..550).contains(&report.audit.sent), "{}", report.audit.sent);
    assert_eq!(seen.connections, AGENTS);
    let addresses: HashSet<&String> = seen.visitors.iter().map(|(address, ..)| address).collect();
    assert_eq!(addresses.len(), AGENTS);
    assert!(seen.visitors.iter().all(|(.., origin)| origin == "https://other.example"));

    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("out.json")).unwrap()).unwrap();
    for key in ["sent", "acknowledged", "counted", "dropped", "difference"] {
        assert!(json["audit"][key].is_i64(), "{key}: {json}");
    }
    assert_eq!((&json["passed"], &json["faults"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(json["audit"]["event_names"]["pageview"]["difference"], 0);
    assert!(json["audit"]["pages"].as_object().unwrap().len() > 1, "{json}");
}

#[tokio::test]
async fn broken_connections_cost_no_event_and_resends_keep_number_and_bytes() {
    let system = start(|n| match n % 7 {
        3 => Treatment::Break,
        5 => Treatment::CountAndBreak,
        _ => Treatment::Acknowledge,
    })
    .await;
    let report = run(&system).await;

    assert!(report.passed, "{report}");
    assert!(report.connections.reconnects > 10, "{:?}", report.connections);
    assert!(report.batches.transmissions > report.batches.numbered, "{:?}", report.batches);
    let seen = system.seen.lock().unwrap();
    assert_eq!((seen.altered, report.batches.altered), (0, 0));
    assert_eq!(seen.batches.len(), seen.counted.len(), "each batch that was ever seen is counted in the end");
    assert_eq!(report.audit.acknowledged, seen.events().len() as u64);
    assert_eq!(report.agents.settled, AGENTS as u64);
}

#[tokio::test]
async fn what_is_finally_refused_is_dropped_with_its_reason() {
    let system = start(|n| if n % 5 == 0 { Treatment::Drop(Reason::Bot) } else { Treatment::Acknowledge }).await;
    let scenario = format!("{SCENARIO}dropped_share_max = 0.9\n");
    let report = loadtest::run(args(&system, &scenario).args).await.unwrap();

    assert!(report.passed, "{report}");
    assert!(report.audit.dropped > 0);
    assert_eq!(report.audit.sent, report.audit.acknowledged + report.audit.dropped);
    assert_eq!(report.dropped["bot"], report.audit.dropped);
}

/// Pages that are closed and come back late, on a gateway that breaks connections.
#[tokio::test]
async fn what_a_closed_page_could_not_send_comes_late_and_once() {
    let system = start(|n| match n % 5 {
        2 => Treatment::CountAndBreak,
        4 => Treatment::Break,
        _ => Treatment::Acknowledge,
    })
    .await;
    let scenario = format!("{SCENARIO}moves_every_s = 0.7\naway = {{ every_s = 0.4, for_s = 0.3 }}\n")
        .replace("drain_s = 8", "drain_s = 30");
    let report = loadtest::run(args(&system, &scenario).args).await.unwrap();

    assert!(report.passed, "{report}");
    assert_eq!((report.audit.unacknowledged, report.agents.settled), (0, AGENTS as u64), "{report}");
    let seen = system.seen.lock().unwrap();
    assert_eq!(seen.altered, 0);
    let sids: HashSet<&Vec<u8>> = seen.counted.keys().map(|(sid, _)| sid).collect();
    assert!(sids.len() > AGENTS, "{} pages of {AGENTS} visitors", sids.len());
    assert!(seen.counted.values().all(|batch| batch.class() == proto::agent::Class::Long));
    let batches = report.audit.batches.as_ref().unwrap();
    assert_eq!(batches.listed, seen.counted.len() as u64);
    assert!(batches.ledger.duplicates > 0);
}

#[tokio::test]
async fn a_run_of_which_everything_is_refused_does_not_pass() {
    let system = start(|_| Treatment::Drop(Reason::Bot)).await;
    let report = run(&system).await;

    assert!(!report.passed, "{report}");
    assert_eq!((report.audit.dropped, report.audit.difference), (report.audit.sent, 0));
    let text = report.to_string();
    assert!(text.contains("FAULT: nothing was acknowledged") && text.contains("dropped_share_max is 0"), "{text}");
}

#[tokio::test]
async fn an_acknowledgement_without_a_count_is_a_difference() {
    let system = start(|n| if n == 9 { Treatment::Lose } else { Treatment::Acknowledge }).await;
    let report = run(&system).await;

    assert!(!report.passed);
    assert_eq!(report.audit.acknowledged, report.audit.sent);
    assert!(report.audit.difference > 0, "{report}");
    assert_eq!(report.audit.batches.as_ref().unwrap().missing, 1);
    assert_eq!(report.audit.sent - report.audit.counted, report.audit.difference as u64);
}

#[tokio::test]
async fn a_site_that_the_gateway_does_not_know_ends_the_run_with_its_words() {
    let system = start(|_| Treatment::Refuse(Reason::UnknownSite)).await;
    let error = loadtest::run(args(&system, SCENARIO).args).await.unwrap_err();
    assert_eq!(error.to_string(), "the gateway refuses this load: the site is not known here");
}

#[tokio::test]
async fn what_cannot_work_is_said_before_anything_is_sent() {
    let system = start(|_| Treatment::Acknowledge).await;
    let with = |change: fn(&mut Args)| {
        let Run { folder, mut args } = args(&system, SCENARIO);
        change(&mut args);
        async move {
            let error = loadtest::run(args).await.unwrap_err();
            drop(folder); // not before: the scenario is in it
            error
        }
    };
    let gone = |args: &mut Args| args.gateway = vec!["http://127.0.0.1:1".to_owned()];
    assert!(matches!(with(gone).await, Error::GatewayUnreachable { .. }));
    let silent = |args: &mut Args| args.central = "http://127.0.0.1:1".to_owned();
    assert!(with(silent).await.to_string().contains("is --central its address?"));
    let wrong_key = |args: &mut Args| std::fs::write(&args.api_key_file, "another").unwrap();
    assert!(with(wrong_key).await.to_string().contains("central refuses the API key: no such key"));
    let no_key = |args: &mut Args| args.api_key_file = PathBuf::from("no-such-file");
    assert!(with(no_key).await.to_string().contains("cannot read an API key from no-such-file"));
    let no_site = |args: &mut Args| args.site = "nobody".to_owned();
    assert!(with(no_site).await.to_string().contains("central has no site nobody"));
    assert_eq!(system.seen.lock().unwrap().transmissions, 0);
}

#[tokio::test]
async fn demo_visitors_arrive_at_once_and_leave_when_told() {
    let system = start(|_| Treatment::Acknowledge).await;
    let config = loadtest::VisitorsConfig::new(
        format!("http://{}", system.gateway),
        "shop".to_owned(),
        "http://127.0.0.1:8090".to_owned(),
    );
    let stop = tokio_util::sync::CancellationToken::new();
    let visitors = tokio::spawn(loadtest::simulate_visitors(config, stop.clone()));
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    stop.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(5), visitors).await.unwrap().unwrap().unwrap();

    let seen = system.seen.lock().unwrap();
    assert!(seen.connections >= 5, "{}", seen.connections);
    assert!(seen.events().iter().filter(|name| *name == "pageview").count() >= 5);
}
