use std::time::Instant;

use super::*;

/// User agents as browsers send them, and what reports say: browser, version, system, version, device.
pub(crate) const PEOPLE: &[(&str, [&str; 5])] = &[
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
        ["Chrome", "142", "Windows", "10", "Desktop"],
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
        ["Chrome", "142", "macOS", "10", "Desktop"],
    ),
    (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
        ["Chrome", "142", "Linux", "", "Desktop"],
    ),
    (
        "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
        ["Chrome", "142", "ChromeOS", "14541", "Desktop"],
    ),
    (
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
        ["Chrome", "142", "Android", "10", "Mobile"],
    ),
    (
        "Mozilla/5.0 (Linux; Android 13; SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
        ["Chrome", "142", "Android", "13", "Tablet"],
    ),
    (
        "Mozilla/5.0 (Linux; Android 11; CUBOT X30) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36",
        ["Chrome", "120", "Android", "11", "Mobile"],
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/142.0.7204.119 Mobile/15E148 Safari/604.1",
        ["Chrome", "142", "iOS", "18", "Mobile"],
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
        ["Safari", "18", "iOS", "18", "Mobile"],
    ),
    (
        "Mozilla/5.0 (iPad; CPU OS 12_5_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1.2 Mobile/15E148 Safari/604.1",
        ["Safari", "12", "iOS", "12", "Tablet"],
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
        ["Safari", "18", "macOS", "10", "Desktop"],
    ),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0",
        ["Firefox", "145", "Windows", "10", "Desktop"],
    ),
    (
        "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
        ["Firefox", "145", "Linux", "", "Desktop"],
    ),
    (
        "Mozilla/5.0 (Android 15; Mobile; rv:145.0) Gecko/145.0 Firefox/145.0",
        ["Firefox", "145", "Android", "15", "Mobile"],
    ),
    (
        "Mozilla/5.0 (Android 13; Tablet; rv:145.0) Gecko/145.0 Firefox/145.0",
        ["Firefox", "145", "Android", "13", "Tablet"],
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/145.0 Mobile/15E148 Safari/605.1.15",
        ["Firefox", "145", "iOS", "18", "Mobile"],
    ),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0",
        ["Edge", "142", "Windows", "10", "Desktop"],
    ),
    (
        "Mozilla/5.0 (Linux; Android 10; HD1913) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36 EdgA/142.0.0.0",
        ["Edge", "142", "Android", "10", "Mobile"],
    ),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 OPR/123.0.0.0",
        ["Opera", "123", "Windows", "10", "Desktop"],
    ),
    (
        "Opera/9.80 (J2ME/MIDP; Opera Mini/9.80 (S60; SymbOS; Opera Mobi/23.348; U; en) Presto/2.5.25 Version/10.54",
        ["Opera", "9", "Symbian OS", "", "Mobile"],
    ),
    (
        "Mozilla/5.0 (Linux; Android 13; SAMSUNG SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
        ["Samsung Internet", "28", "Android", "13", "Mobile"],
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/22F76 Instagram 385.0.0.40.75 (iPhone15,2; iOS 18_5; en_US)",
        ["Instagram", "385", "iOS", "18", "Mobile"],
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/22F76 [FBAN/FBIOS;FBAV/510.0.0.40.75;FBBV/1;FBDV/iPhone15,2;FBMD/iPhone;FBSN/iOS;FBSV/18.5]",
        ["Facebook", "510", "iOS", "18", "Mobile"],
    ),
    (
        "Mozilla/5.0 (Linux; Android 14; Pixel 8 Build/AP1A; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/142.0.0.0 Mobile Safari/537.36",
        ["Chrome", "142", "Android", "14", "Mobile"],
    ),
    (
        "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; Tablet PC 2.0; rv:11.0) like Gecko",
        ["Internet Explorer", "11", "Windows", "7", "Desktop"],
    ),
    (
        "Mozilla/5.0 (Linux; Android 9; AFTKA) AppleWebKit/537.36 (KHTML, like Gecko) Silk/120.1 like Chrome/120.0.0.0 Safari/537.36",
        ["Silk", "120", "Android", "9", "Desktop"],
    ),
    (
        "Mozilla/5.0 (SMART-TV; LINUX; Tizen 6.0) AppleWebKit/537.36 (KHTML, like Gecko) 76.0.3809.146/6.0 TV Safari/537.36",
        ["Safari", "", "Tizen", "6", "Desktop"],
    ),
];

#[test]
fn devices_have_the_names_people_expect() {
    let agents = Agents::try_new().unwrap();
    let wrong: Vec<_> = PEOPLE
        .iter()
        .filter_map(|(user_agent, expected)| {
            let info = agents.look_up(user_agent);
            let said = [&*info.browser, &info.browser_version, &info.os, &info.os_version, info.device.as_str()];
            (said != *expected || info.bot).then(|| (user_agent, expected, Arc::clone(&info)))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_not_known_is_empty() {
    let agents = Agents::try_new().unwrap();
    assert_eq!(*agents.look_up(""), DeviceInfo { bot: true, ..DeviceInfo::default() });
    let unknown = agents.look_up("\u{1f30a}".repeat(400).as_str());
    assert_eq!((unknown.browser.as_str(), unknown.os.as_str()), ("", ""));
}

#[test]
fn an_answer_is_kept_and_the_cache_stays_small() {
    let agents = Agents::try_new().unwrap();
    let start = Instant::now();
    let first = agents.look_up(PEOPLE[0].0);
    let missed = start.elapsed();
    for _ in 0..100 {
        agents.look_up(PEOPLE[0].0);
    }
    println!("a miss takes {missed:?}, a hit {:?}", (start.elapsed() - missed) / 100);
    assert!(Arc::ptr_eq(&first, &agents.look_up(PEOPLE[0].0)));

    let mut shard = Shard::default();
    let asked_again = Arc::new(DeviceInfo::default());
    shard.insert("asked again", Arc::clone(&asked_again));
    for i in 0..10 * GENERATION_ENTRIES_MAX {
        shard.insert(&format!("once: {i}"), Arc::default());
        if i % 100 == 0 {
            assert!(Arc::ptr_eq(&shard.get("asked again").unwrap(), &asked_again));
        }
        assert!(shard.young.len() <= GENERATION_ENTRIES_MAX && shard.old.len() <= GENERATION_ENTRIES_MAX);
    }
    assert!(shard.get("once: 0").is_none(), "what nobody asks for again is forgotten");
}

/// Run by itself to see what the compiled lists cost: `cargo test -p gateway compiling -- --nocapture`.
#[test]
fn compiling_the_lists_takes_a_moment() {
    let resident_kb = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
    };
    let (before_kb, start) = (resident_kb(), Instant::now());
    let agents = Agents::try_new().unwrap();
    println!("compiled in {:?}, {} KB resident", start.elapsed(), resident_kb().saturating_sub(before_kb));
    PEOPLE.iter().for_each(|(user_agent, _)| drop(agents.look_up(user_agent)));
    println!("after {} look-ups {} KB resident", PEOPLE.len(), resident_kb().saturating_sub(before_kb));
}
