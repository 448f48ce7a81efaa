use std::time::Instant;

use super::*;

#[derive(Deserialize)]
struct Listed {
    pattern: String,
    #[serde(default)]
    instances: Vec<String>,
}

#[test]
fn every_crawler_of_the_list_is_one() {
    let start = Instant::now();
    let bots = Bots::try_new().unwrap();
    println!("the lists of bots compile in {:?}", start.elapsed());

    let listed: Vec<Listed> = serde_json::from_str(CRAWLERS).unwrap();
    let instances: Vec<&String> = listed.iter().flat_map(|crawler| &crawler.instances).collect();
    println!("{} patterns, {} user agents", listed.len(), instances.len());
    let start = Instant::now();
    let missed: Vec<_> = instances.iter().filter(|user_agent| !bots.is_bot(user_agent)).collect();
    println!("{:?} a user agent", start.elapsed() / instances.len() as u32);
    assert!(missed.is_empty(), "{missed:#?}");
    assert!(listed.len() > 1_000 && listed.iter().all(|crawler| !crawler.pattern.is_empty()));
}

#[test]
fn programs_that_no_list_names_are_bots() {
    let bots = Bots::try_new().unwrap();
    for user_agent in [
        "",
        " - ",
        "curl/8.5.0",
        "Wget/1.21.4",
        "python-requests/2.32.3",
        "Python/3.12 aiohttp/3.9.1",
        "Go-http-client/2.0",
        "Java/17.0.2",
        "okhttp/4.12.0",
        "axios/1.7.2",
        "node",
        "undici",
        "reqwest/0.12",
        "k6/0.49.0 (https://k6.io/)",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/130.0.0.0 Safari/537.36",
        "Mozilla/5.0 (compatible; SomeNewBot/1.0)",
        "Mozilla/5.0 (compatible; somenewcrawler; +https://crawler.example)",
        "acme-robot 2",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/109.0.0.0 Safari/537.36 Chrome-Lighthouse",
    ] {
        assert!(bots.is_bot(user_agent), "{user_agent:?}");
    }
}

#[test]
fn people_are_not() {
    let bots = Bots::try_new().unwrap();
    for user_agent in crate::ingest::user_agent::tests::PEOPLE.iter().map(|(user_agent, _)| user_agent) {
        assert!(!bots.is_bot(user_agent), "{user_agent}");
    }
}
