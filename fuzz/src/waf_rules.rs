//! What an operator writes as rules, and what they are asked about. Input: a file of rules up to the first zero byte; then a client's
//! address (16 bytes), a path, and a header a line.

use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;

use gateway::door::waf::{Asked, BadRules, Waf};
use gateway::ingest::geo::Geo;
use gateway::metrics::Metrics;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use prometheus_client::registry::Registry;

thread_local! {
    static GEO: Arc<Geo> = {
        let places = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/tests/data/places-city.mmdb");
        Arc::new(Geo::try_open(&places).expect("the database of the tests"))
    };
}

/// Rules are taken whole or refused with a reason; what is asked of them twice is answered the same, unless they count requests.
pub fn run(bytes: &[u8]) {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (rules, request) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let folder = tempfile::tempdir().expect("a folder for the rules");
    let file = folder.path().join("waf.toml");
    std::fs::write(&file, rules).expect("room for the rules");
    let waf = match (waf(&file, Some(GEO.with(Arc::clone))), waf(&file, None)) {
        (Ok(waf), _) => waf,
        (Err(error), Ok(_)) => panic!("with places to look up less is taken than without: {error}"),
        (Err(error), Err(_)) => return assert!(error.to_string().starts_with("the rules in ")),
    };
    let Some((address, request)) = request.split_first_chunk::<16>() else { return };
    let request = String::from_utf8_lossy(request);
    let (path, lines) = request.split_once('\n').unwrap_or((&request, ""));
    let headers = headers(lines);
    let asked = || Asked::new(Ipv6Addr::from(*address).to_canonical(), &Method::POST, path, &headers);
    let verdict = waf.judge(&asked());
    // What a word escapes in TOML is not looked for.
    let text = String::from_utf8_lossy(rules);
    let says = |word| text.contains('\\') || text.contains(word);
    if let Err(blocked) = &verdict {
        let named = blocked.rule.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        assert!(named && !blocked.rule.is_empty(), "what a client is told is the rule's name");
        assert!(says("block"), "rules that only observe turn nobody away");
    }
    if !says("rate") {
        assert_eq!(waf.judge(&asked()), verdict);
    }
}

fn waf(file: &Path, geo: Option<Arc<Geo>>) -> Result<Waf, BadRules> {
    Waf::try_new(Some(file), geo, Arc::new(Metrics::new(&mut Registry::default())))
}

fn headers(lines: &str) -> HeaderMap {
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value.trim()).ok()?))
    };
    lines.lines().filter_map(header).take(64).collect()
}
