use std::fs::write;

use http::HeaderValue;
use prometheus_client::registry::Registry;
use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = include_str!("../../../../edge-config/waf.toml");

fn geo() -> Option<Arc<Geo>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/places-city.mmdb");
    Some(Arc::new(Geo::try_open(&path).unwrap()))
}

/// A request as it comes from a browser.
struct Request {
    address: &'static str,
    method: Method,
    path: &'static str,
    headers: HeaderMap,
}

impl Default for Request {
    fn default() -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("Mozilla/5.0 Chrome/140.0"));
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("de,en"));
        Self { address: "203.0.113.1", method: Method::POST, path: "/v1/batch", headers }
    }
}

impl Request {
    fn user_agent(user_agent: &'static [u8]) -> Self {
        let mut request = Self::default();
        request.headers.insert(header::USER_AGENT, HeaderValue::from_bytes(user_agent).unwrap());
        request
    }

    fn without(name: &str) -> Self {
        let mut request = Self::default();
        request.headers.remove(name);
        request
    }

    fn judged(&self, waf: &Waf) -> Result<(), Blocked> {
        waf.judge(&Asked::new(self.address.parse().unwrap(), &self.method, self.path, &self.headers))
    }
}

/// Rules in a file, and what the metrics say of them.
struct Running {
    waf: Arc<Waf>,
    registry: Registry,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start(rules: &str) -> Self {
        Self::try_start(rules, geo()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_start(rules: &str, geo: Option<Arc<Geo>>) -> Result<Self, BadRules> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("waf.toml");
        write(&file, rules).unwrap();
        let mut registry = Registry::default();
        let waf = Arc::new(Waf::try_new(Some(&file), geo, Arc::new(Metrics::new(&mut registry)))?);
        Ok(Self { waf, registry, file, _folder: folder })
    }

    /// The lines of the rules' metrics.
    fn told(&self) -> Vec<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let name = "tideline_gateway_waf_";
        let mut lines: Vec<_> = text.lines().filter_map(|line| Some(line.strip_prefix(name)?.to_owned())).collect();
        lines.sort();
        lines
    }

    async fn until(&self, what: &str, true_of: impl Fn(&Self) -> bool) {
        let done = async {
            while !true_of(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), done)
            .await
            .unwrap_or_else(|_| panic!("{what}: {:?}", self.told()));
    }
}

/// One blocking rule with these conditions.
fn rule(conditions: &str) -> String {
    format!("[[rule]]\nname = 'it'\nmode = 'block'\n{conditions}\n")
}

fn refusal(rules: &str) -> String {
    Running::try_start(rules, None).err().unwrap_or_else(|| panic!("taken: {rules}")).to_string()
}

#[test]
fn without_a_file_everybody_passes() {
    let waf = Waf::try_new(None, None, Arc::new(Metrics::new(&mut Registry::default()))).unwrap();
    assert_eq!(Request::user_agent(b"sqlmap").judged(&waf), Ok(()));
}

#[test]
fn each_condition_hits_what_it_names_and_nothing_else() {
    let from = |address| Request { address, ..Default::default() };
    let to = |path| Request { path, ..Default::default() };
    for (conditions, hit, spared) in [
        ("networks = ['203.0.113.0/24']", vec![from("203.0.113.255")], vec![from("203.0.114.0"), from("2001:db8::1")]),
        (
            "networks = ['2001:db8::/32', '192.0.2.7']",
            vec![from("2001:db8:9::1"), from("192.0.2.7")],
            vec![from("192.0.2.8")],
        ),
        (
            "countries = ['de', 'SG']",
            vec![from("2001:db8:1::5"), from("198.51.100.1")],
            vec![from("192.0.2.1"), from("203.0.113.1")],
        ),
        (
            "user_agents = ['(?i)SQLMAP', '^curl/']",
            vec![Request::user_agent(b"x sqlmap"), Request::user_agent(b"curl/8")],
            vec![Request::user_agent(b"a curl/8"), Request::without("user-agent"), Request::default()],
        ),
        ("user_agents = ['^$']", vec![Request::without("user-agent")], vec![Request::default()]),
        ("user_agents = ['\\xff']", vec![Request::user_agent(b"\xff")], vec![Request::default()]),
        (
            "headers = [{ name = 'Accept-Language', absent = true }]",
            vec![Request::without("accept-language")],
            vec![Request::default()],
        ),
        (
            "headers = [{ name = 'accept-language', value = '^de' }]",
            vec![Request::default()],
            vec![Request::without("accept-language")],
        ),
        (
            "paths = ['/v1/b', '/wp-']",
            vec![to("/v1/batch"), to("/wp-login.php")],
            vec![to("/v1/stream"), to("/a/wp-"), to("/")],
        ),
        (
            "methods = ['GET', 'CONNECT']",
            vec![Request { method: Method::CONNECT, ..Default::default() }],
            vec![Request::default()],
        ),
    ] {
        let running = Running::start(&rule(conditions));
        for request in &hit {
            let blocked = request.judged(&running.waf).unwrap_err();
            assert_eq!(blocked.to_string(), "blocked by rule it", "{conditions}");
        }
        for request in &spared {
            assert_eq!(request.judged(&running.waf), Ok(()), "{conditions}: {} {}", request.address, request.path);
        }
        assert_eq!(
            running.told(),
            [
                format!("hits_total{{rule=\"it\",mode=\"block\"}} {}", hit.len()),
                "reload_failures_total 0".into(),
                "unremembered_total 0".into()
            ]
        );
    }
}

#[test]
fn all_conditions_of_a_rule_must_hold() {
    let running = Running::start(&rule("methods = ['POST']\npaths = ['/v1/batch']\nnetworks = ['203.0.113.0/24']"));
    assert!(Request::default().judged(&running.waf).is_err());
    for spared in [
        Request { method: Method::GET, ..Default::default() },
        Request { path: "/v1/stream", ..Default::default() },
        Request { address: "192.0.2.1", ..Default::default() },
    ] {
        assert_eq!(spared.judged(&running.waf), Ok(()));
    }
}

#[test]
fn an_observing_rule_only_counts_and_the_first_blocking_one_wins() {
    let one = |name: &str, mode: &str| format!("[[rule]]\nname = '{name}'\nmode = '{mode}'\nmethods = ['POST']\n");
    let rules = ["seen", "first", "second", "never"].map(|name| match name {
        "seen" | "never" => one(name, "observe"),
        _ => one(name, "block"),
    });
    let running = Running::start(&rules.concat());
    assert_eq!(Request::default().judged(&running.waf).unwrap_err().to_string(), "blocked by rule first");
    let told = running.told();
    for line in [
        "\"seen\",mode=\"observe\"} 1",
        "\"first\",mode=\"block\"} 1",
        "\"second\",mode=\"block\"} 0",
        "\"never\",mode=\"observe\"} 0",
    ] {
        assert!(told.contains(&format!("hits_total{{rule={line}")), "{line}: {told:?}");
    }
    let observing = Running::start(&one("seen", "observe"));
    assert_eq!(Request::default().judged(&observing.waf), Ok(()));
}

#[test]
fn a_rate_hits_what_exceeds_it_among_what_the_rule_is_about() {
    let running = Running::start(&rule("paths = ['/v1/batch']\nrate = { requests = 2, per_s = 3600 }"));
    let other = Request { path: "/v1/stream", ..Default::default() };
    for _ in 0..5 {
        assert_eq!(other.judged(&running.waf), Ok(()), "what the rule is not about is not counted");
    }
    for _ in 0..2 {
        assert_eq!(Request::default().judged(&running.waf), Ok(()));
    }
    assert!(Request::default().judged(&running.waf).is_err());
    assert_eq!(Request { address: "203.0.113.2", ..Default::default() }.judged(&running.waf), Ok(()));
    assert_eq!(other.judged(&running.waf), Ok(()));
}

#[test]
fn what_cannot_be_a_rule_is_answered_with_file_rule_and_what_would_be_right() {
    for (conditions, said) in [
        ("", "it would hit every request: give it `methods`"),
        (
            "netwroks = ['10.0.0.1']",
            "unknown field `netwroks`, expected one of `name`, `mode`, `methods`, `paths`, `networks`",
        ),
        ("networks = []", "`networks` is empty"),
        ("networks = ['10.0.0.0/33']", "`10.0.0.0/33` is no network"),
        ("networks = '10.0.0.1'", "invalid type: string \"10.0.0.1\", expected a sequence"),
        ("countries = ['Germany']", "\"Germany\": write two letters"),
        ("countries = ['DE']", "needs `geo_database`"),
        ("user_agents = ['(']", "the pattern \"(\" in `user_agents`"),
        ("user_agents = ['(?:a{1000}){1000}']", "exceeds size limit"),
        ("headers = [{ name = 'x y', absent = true }]", "the name \"x y\""),
        ("headers = [{ name = 'x' }]", "of \"x\" write either `value`"),
        ("headers = [{ name = 'x', value = 'y', absent = true }]", "of \"x\" write either `value`"),
        ("headers = [{ name = 'x', vlaue = 'y' }]", "unknown field `vlaue`, expected one of `name`, `value`, `absent`"),
        ("headers = { x = 'y' }", "expected a sequence"),
        ("paths = ['v1/']", "\"v1/\": write the beginning of a path"),
        ("methods = ['post']", "\"post\": write a method in capitals"),
        ("rate = { requests = 0, per_s = 1 }", "write 1 to 1000000 requests"),
        ("rate = { requests = 1 }", "missing field `per_s`"),
        ("rate = { requests = 1, per_s = 1, by = 'site' }", "expected `address` or `network`"),
    ] {
        let error = refusal(&rule(conditions));
        assert!(error.contains("waf.toml: rule 1 \"it\": ") && error.contains(said), "{conditions}: {error}");
    }
    for (rules, said) in [
        ("[[rules]]\nname = 'a'", "unknown key `rules`: the file holds tables [[rule]]"),
        ("[rule]\nname = 'a'", "begin each rule with [[rule]]"),
        ("[[rule]", "not TOML"),
        ("[[rule]]\nmode = 'block'", "rule 1: missing field `name`"),
        (
            "[[rule]]\nname = 'a'\nmode = 'blokc'",
            "rule 1 \"a\": unknown variant `blokc`, expected `observe` or `block`",
        ),
        ("[[rule]]\nname = 'a b'\nmode = 'block'", "1 to 64 of the characters"),
        (&format!("{0}{0}", rule("methods = ['GET']")), "rule 2 \"it\": an earlier rule has this name"),
        (&"[[rule]]\nname = ''\nmode = 'block'\n".repeat(1_001), "1001 rules: 1000 at most"),
        (&rule("rate = { requests = 1, per_s = 1 }").repeat(33), "33 rules have a `rate`: 32 at most"),
        (&rule(&format!("user_agents = [{}]", "'a',".repeat(1_001))), "1001 patterns of 1001 bytes"),
        (&rule(&format!("user_agents = ['{}']", "a".repeat(64 * 1024 + 1))), "1 patterns of 65537 bytes"),
        (&"#".repeat(1024 * 1024 + 1), "more than 1048576 bytes"),
    ] {
        let error = refusal(rules);
        assert!(error.contains("waf.toml: ") && error.contains(said), "{said}: {error}");
    }
    let missing =
        Waf::try_new(Some(Path::new("/nowhere/waf.toml")), None, Arc::new(Metrics::new(&mut Registry::default())));
    let missing = missing.err().unwrap().to_string();
    assert!(missing.starts_with("the rules in /nowhere/waf.toml: cannot be read: No such file"), "{missing}");
}

#[tokio::test]
async fn a_changed_file_takes_effect_and_a_wrong_one_changes_nothing() {
    let running = Running::start(&rule("methods = ['POST']"));
    let _following = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(Arc::clone(&running.waf).follow()));
    let blocked = |running: &Running| Request::default().judged(&running.waf).is_err();
    assert!(blocked(&running));

    write(&running.file, rule("methods = ['PUT']").replace("'it'", "'new'")).unwrap();
    running.until("the new rules", |running| !blocked(running)).await;
    assert_eq!(
        running.told(),
        ["hits_total{rule=\"new\",mode=\"block\"} 0", "reload_failures_total 0", "unremembered_total 0"],
        "the old count is gone"
    );

    let failures = |running: &Running| running.told().into_iter().find(|line| line.starts_with("reload")).unwrap();
    write(&running.file, "[[rule]]\nname = 'new'").unwrap();
    running.until("the failure", |running| failures(running) == "reload_failures_total 1").await;
    std::fs::remove_file(&running.file).unwrap();
    running.until("the missing file", |running| failures(running) == "reload_failures_total 2").await;
    let put = Request { method: Method::PUT, ..Default::default() };
    assert!(put.judged(&running.waf).is_err(), "the last good rules are in force");

    write(&running.file, "").unwrap();
    running.until("no rules", |running| put.judged(&running.waf).is_ok()).await;
    assert_eq!(running.told(), ["reload_failures_total 2", "unremembered_total 0"], "each failure is told of once");
}

#[test]
fn the_example_is_true_and_only_observes() {
    let complete: String = EXAMPLE.lines().map(|line| shown(line) + "\n").collect();
    for (text, geo) in [(EXAMPLE, None), (complete.as_str(), geo())] {
        let running = Running::try_start(text, geo).unwrap_or_else(|error| panic!("{error}"));
        let rules = Arc::clone(&running.waf.rules.read().unwrap());
        assert!(rules.all.iter().all(|rule| rule.mode == Mode::Observe));
        let scanner = Request::user_agent(b"sqlmap/1.8");
        assert_eq!(scanner.judged(&running.waf), Ok(()));
        assert!(running.told().contains(&"hits_total{rule=\"scanners\",mode=\"observe\"} 1".to_owned()));
    }
    for key in ["networks", "countries", "user_agents", "headers", "paths", "methods", "rate"] {
        assert!(complete.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key} is not shown");
    }
}

/// A line of the example with its mark gone, where it is a key or a table.
fn shown(line: &str) -> String {
    let is_key = |rest: &str| rest == "[[rule]]" || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line).to_owned()
}

/// Something that a rule's key may be given, right or wrong.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "'[a-z(){}*+?^$\\\\0-9|\\[\\]]{0,12}'",
        "\\['[a-zA-Z/.:0-9(){}*+?|]{0,12}', '[A-Z]{0,3}'\\]",
        "\\{ (requests|per_s|name|value) = [0-9]{1,12}, (per_s|by|absent) = (true|1|'address') \\}",
        "\\[\\{ name = '[a-z ]{0,6}', value = '[a-z(){}*+]{0,9}' \\}\\]",
        any::<i64>().prop_map(|number| number.to_string()),
        Just("[]".to_owned()),
        Just("true".to_owned()),
    ]
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "name",
        "mode",
        "networks",
        "countries",
        "user_agents",
        "headers",
        "paths",
        "methods",
        "rate",
        "other",
    ])
}

proptest! {
    /// Whatever is in the file: it is rules or an error that says something.
    #[test]
    fn any_file_is_rules_or_an_error(
        text in prop_oneof![
            ".*",
            "(\\[\\[rule\\]\\]|[a-z\\[\\]=\"'{},.\n ]){0,40}",
            prop::collection::vec(prop::collection::vec((key(), value()), 0..6), 0..4).prop_map(|rules| {
                let rule = |keys: Vec<(&str, String)>| keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect::<String>();
                rules.into_iter().enumerate().map(|(at, keys)| format!("[[rule]]\nname = 'r{at}'\nmode = 'block'\n{}", rule(keys))).collect()
            }),
        ],
        user_agent in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        match Rules::parse(&text, true) {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(rules) => {
                let mut request = Request::default();
                if let Ok(user_agent) = HeaderValue::from_bytes(&user_agent) {
                    request.headers.insert(header::USER_AGENT, user_agent);
                }
                let asked = Asked::new([192, 0, 2, 1].into(), &request.method, request.path, &request.headers);
                let named = rules.all.iter().filter(|rule| rule.hits(&asked, None)).all(|rule| !rule.name.is_empty());
                prop_assert!(named);
                match Rules::parse(&text, false) {
                    Ok(without_places) => prop_assert_eq!(without_places.all.len(), rules.all.len()),
                    Err(error) => prop_assert!(error.to_string().contains("geo_database"), "{}", error),
                }
            }
        }
    }
}
