use jiff::{SignedDuration, Timestamp};
use proto::uplink::{Outcome, Outcomes};

use super::{
    access::{LINK_LIFETIME, SESSION_LIFETIME},
    gateways::{Gateways, Introduction, Registration, Retirement},
    shards::ShardId,
    sites::SiteChange,
    *,
};
use crate::secret::{Secret, SecretHash};

async fn control() -> (tempfile::TempDir, Control) {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::open(folder.path()).await.unwrap();
    (folder, control)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn noon() -> Timestamp {
    at("2026-11-22T12:00:00Z")
}

fn shard() -> ShardId {
    ShardId { region: "local".to_owned(), shard: 0 }
}

#[tokio::test]
async fn a_link_signs_in_once() {
    let (_folder, control) = control().await;
    let (token, expires) = control.create_link("owner", noon()).await.unwrap();
    assert_eq!(expires, at("2026-11-23T12:00:00Z"));
    assert!(control.sign_in(&Secret::random().hash(), noon()).await.unwrap().is_none());

    let session = control.sign_in(&token.hash(), noon()).await.unwrap().unwrap();
    assert!(control.sign_in(&token.hash(), noon()).await.unwrap().is_none());

    let holder = control.session_holder(&session.hash(), noon()).await.unwrap().unwrap();
    assert_eq!((holder.name.as_str(), holder.sees_all()), ("owner", true));
    control.sign_out(&session.hash()).await.unwrap();
    assert!(control.session_holder(&session.hash(), noon()).await.unwrap().is_none());
}

#[tokio::test]
async fn two_who_use_a_link_at_once_do_not_both_get_in() {
    let (_folder, control) = control().await;
    let (token, _) = control.create_link("owner", noon()).await.unwrap();
    let hash = token.hash();
    let (a, b) = tokio::join!(control.sign_in(&hash, noon()), control.sign_in(&hash, noon()));
    assert_ne!(a.unwrap().is_some(), b.unwrap().is_some());
}

#[tokio::test]
async fn links_and_sessions_expire() {
    let (_folder, control) = control().await;
    let (late, expires) = control.create_link("owner", noon()).await.unwrap();
    assert!(control.sign_in(&late.hash(), expires).await.unwrap().is_none());

    let (token, _) = control.create_link("owner", noon()).await.unwrap();
    let session = control.sign_in(&token.hash(), noon()).await.unwrap().unwrap();
    let end = noon() + SESSION_LIFETIME;
    assert!(control.session_holder(&session.hash(), end - SignedDuration::from_secs(1)).await.unwrap().is_some());
    assert!(control.session_holder(&session.hash(), end).await.unwrap().is_none());

    control.create_link("owner", noon()).await.unwrap();
    control.forget_expired(end + LINK_LIFETIME).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT (SELECT count(*) FROM sessions) + (SELECT count(*) FROM sign_in_links)")
        .fetch_one(&control.pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_key_of_one_site_sees_that_site_alone() {
    let (_folder, control) = control().await;
    let site = SiteChange::try_new("a.example", &["https://a.example".to_owned()], None).unwrap();
    control.put_site(&site, noon()).await.unwrap();
    let narrow = control.create_key("export", Some("a.example"), noon()).await.unwrap();
    let wide = control.create_key("script", None, noon()).await.unwrap();

    let holder = control.key_holder(&narrow.hash()).await.unwrap().unwrap();
    assert!(holder.may_see("a.example") && !holder.may_see("b.example") && !holder.sees_all());
    let holder = control.key_holder(&wide.hash()).await.unwrap().unwrap();
    assert!(holder.may_see("b.example") && holder.sees_all());
    assert!(control.key_holder(&SecretHash::of("guess")).await.unwrap().is_none());
}

#[tokio::test]
async fn no_secret_is_kept_as_it_is() {
    let (folder, control) = control().await;
    let key = control.create_key("script", None, noon()).await.unwrap();
    let (token, _) = control.create_link("owner", noon()).await.unwrap();
    control.close().await;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for secret in [&key, &token] {
            assert!(!bytes.windows(43).any(|window| window == secret.reveal().as_bytes()));
        }
    }
}

#[tokio::test]
async fn a_changed_site_is_published_and_kept() {
    let (folder, control) = control().await;
    let mut published = control.published();
    published.mark_unchanged();
    let site = |origin: &str| SiteChange::try_new("shop", &[origin.to_owned()], Some("Europe/Berlin")).unwrap();
    control.put_site(&site("https://a.example"), noon()).await.unwrap();
    assert!(published.has_changed().unwrap());
    published.mark_unchanged();
    control.put_site(&site("https://a.example"), noon()).await.unwrap();
    assert!(!published.has_changed().unwrap(), "nothing changed, so nobody is told");
    control.put_site(&site("https://b.example"), noon()).await.unwrap();
    assert!(published.has_changed().unwrap());
    control.close().await;

    let reopened = Control::open(folder.path()).await.unwrap();
    let kept = reopened.site("shop").unwrap();
    assert_eq!((kept.origins, kept.timezone), (vec!["https://b.example".to_owned()], "Europe/Berlin".to_owned()));
}

#[tokio::test]
async fn what_a_change_leaves_out_stays_and_the_rest_is_published_and_kept() {
    let (folder, control) = control().await;
    let new =
        serde_json::from_str(r#"{"schema": {"mode": "enforce", "events": {"Signup": {}}}, "debug": true}"#).unwrap();
    let rules = rules::Rules::try_new(new).unwrap();
    let site = |timezone| SiteChange::try_new("shop", &["https://a.example".to_owned()], timezone).unwrap();
    let made = control.put_site(&site(None), noon()).await.unwrap().unwrap();
    assert_eq!((&*made.timezone, made.raw, &*made.tenant), ("UTC", sites::Raw::Central, ""));
    assert_eq!((made.rules, made.key_required), (rules::Rules::default(), false));
    let published = control.published();
    let changes = [
        site(Some("Europe/Berlin")),
        SiteChange { rules: Some(rules.clone()), ..site(None) },
        site(None).of_tenant("acme").unwrap(),
        SiteChange { raw: Some(sites::Raw::None), ..site(None) },
        SiteChange { raw: Some(sites::Raw::Central), ..site(None) },
    ];
    for change in changes {
        let before = control.site("shop");
        let changed = control.put_site(&change, noon()).await.unwrap();
        assert!(changed != before && published.borrow().sites.get("shop") == changed.as_ref(), "gateways are told");
    }
    let whole_from = control.raw_whole_from_ms("shop");
    assert!(whole_from.is_some_and(|from_ms| from_ms > 0), "it did without them for a while");
    control.put_site(&site(None), noon() + SignedDuration::from_hours(9)).await.unwrap();
    control.close().await;
    let reopened = Control::open(folder.path()).await.unwrap();
    let kept = reopened.site("shop").unwrap();
    assert_eq!((&*kept.timezone, kept.rules, &*kept.tenant), ("Europe/Berlin", rules, "acme"));
    assert_eq!((kept.raw, reopened.raw_whole_from_ms("shop")), (sites::Raw::Central, whole_from));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_changes_at_once_none_takes_the_other_back() {
    let (_folder, control) = control().await;
    let control = Arc::new(control);
    let site = |timezone| SiteChange::try_new("shop", &["https://a.example".to_owned()], timezone).unwrap();
    for round in 0..20 {
        let timezone = if round % 2 == 0 { "Europe/Berlin" } else { "Asia/Tokyo" };
        let tenant = format!("tenant-{round}");
        let changes = [site(Some(timezone)), site(None).of_tenant(&tenant).unwrap()].map(|change| {
            let control = control.clone();
            tokio::spawn(async move { control.put_site(&change, noon()).await.unwrap() })
        });
        for change in changes {
            change.await.unwrap();
        }
        let site = control.site("shop").unwrap();
        assert_eq!((&*site.timezone, site.tenant), (timezone, tenant));
    }
}

#[tokio::test]
async fn keys_of_a_site_are_kept_as_hashes_and_the_last_that_is_required_stays() {
    use site_keys::{Deletion, NewKey, SITE_KEYS_MAX};
    let (folder, control) = control().await;
    assert!(matches!(control.create_site_key("shop", noon()).await.unwrap(), NewKey::UnknownSite));
    let mut site = SiteChange::try_new("shop", &["https://a.example".to_owned()], None).unwrap();
    let made = control.put_site(&site, noon()).await.unwrap();
    let shut = SiteChange { key_required: Some(true), ..site.clone() };
    assert_eq!(control.put_site(&shut, noon()).await.unwrap(), None, "it has no key yet");
    assert!(made.is_some() && control.site("shop") == made);
    let mut published = control.published();
    let mut ids = Vec::new();
    for _ in 0..SITE_KEYS_MAX {
        published.mark_unchanged();
        let NewKey::Made(key, id) = control.create_site_key("shop", noon()).await.unwrap() else { panic!("no key") };
        assert!(published.has_changed().unwrap(), "gateways are told");
        assert!(key.reveal().len() == 47 && key.reveal().starts_with(&id), "{id}");
        let kept = control.site("shop").unwrap().keys.into_iter().find(|kept| kept.id == id).unwrap();
        assert_eq!((&kept.hash[..], kept.created), (key.hash().as_bytes(), noon()));
        ids.push(id);
    }
    assert!(matches!(control.create_site_key("shop", noon()).await.unwrap(), NewKey::TooMany));

    // What changes a site leaves its keys.
    site.key_required = Some(true);
    assert!(control.put_site(&site, noon()).await.unwrap().is_some());
    control.close().await;
    let control = Control::open(folder.path()).await.unwrap();
    let kept = control.site("shop").unwrap();
    assert!(kept.key_required && kept.keys.len() == ids.len());

    assert_eq!(control.delete_site_key("shop", "tlk_none").await.unwrap(), Deletion::Unknown);
    let last = ids.pop().unwrap();
    for id in &ids {
        assert_eq!(control.delete_site_key("shop", id).await.unwrap(), Deletion::Deleted);
    }
    assert_eq!(control.delete_site_key("shop", &last).await.unwrap(), Deletion::Last);
    assert_eq!(control.site("shop").unwrap().keys.len(), 1);
    site.key_required = Some(false);
    control.put_site(&site, noon()).await.unwrap();
    assert_eq!(control.delete_site_key("shop", &last).await.unwrap(), Deletion::Deleted);
    assert_eq!(control.site("shop").unwrap().keys, []);
}

#[tokio::test]
async fn raw_rows_are_whole_from_an_hour_after_a_site_wanted_them_again() {
    let (folder, control) = control().await;
    let put = async |raw, now| {
        let mut site = SiteChange::try_new("shop", &["https://a.example".to_owned()], None).unwrap();
        site.raw = Some(raw);
        control.put_site(&site, at(now)).await.unwrap();
        control.raw_whole_from_ms("shop")
    };
    use sites::Raw::{Central, None as Nowhere};
    let hour_after_noon = (noon() + SignedDuration::from_hours(1)).as_millisecond() as u64;
    assert_eq!(put(Central, "2026-11-20T12:00:00Z").await, Some(0), "from its first event on");
    assert_eq!(put(Central, "2026-11-21T12:00:00Z").await, Some(0));
    assert_eq!(put(Nowhere, "2026-11-21T12:00:00Z").await, None);
    assert_eq!(put(Central, "2026-11-22T12:00:00Z").await, Some(hour_after_noon));
    assert_eq!(put(Central, "2026-11-23T12:00:00Z").await, Some(hour_after_noon));
    control.close().await;
    let reopened = Control::open(folder.path()).await.unwrap();
    assert_eq!(reopened.raw_whole_from_ms("shop"), Some(hour_after_noon));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sites_made_at_once_none_is_missing_from_what_is_published() {
    const AT_ONCE: usize = 8;
    let (_folder, control) = control().await;
    let control = Arc::new(control);
    for round in 0..20 {
        let made = (0..AT_ONCE).map(|n| {
            let site =
                SiteChange::try_new(&format!("site-{round}-{n}"), &["https://a.example".to_owned()], None).unwrap();
            let control = control.clone();
            tokio::spawn(async move { control.put_site(&site, noon()).await.unwrap() })
        });
        for made in made.collect::<Vec<_>>() {
            made.await.unwrap();
        }
        assert_eq!(control.published().borrow().sites.len(), (round + 1) * AT_ONCE);
    }
}

#[tokio::test]
async fn salts_last_from_the_day_before_yesterday_until_their_time_is_over() {
    let (_folder, control) = control().await;
    let days = |control: &Control| control.published.borrow().salts.keys().cloned().collect::<Vec<_>>();
    control.renew_salts(at("2026-11-22T11:59:59Z")).await.unwrap();
    assert_eq!(days(&control), ["2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23", "2026-11-24"]);
    let before = control.published.borrow().salts.clone();

    control.renew_salts(at("2026-11-23T11:59:59Z")).await.unwrap();
    assert_eq!(days(&control).first().unwrap(), "2026-11-20");
    control.renew_salts(at("2026-11-23T12:00:00Z")).await.unwrap();
    assert_eq!(days(&control), ["2026-11-21", "2026-11-22", "2026-11-23", "2026-11-24", "2026-11-25"]);
    assert_eq!(control.published.borrow().salts["2026-11-22"], before["2026-11-22"], "a salt never changes");
    assert_ne!(before["2026-11-22"], before["2026-11-23"]);
}

#[tokio::test]
async fn every_leader_gets_a_higher_term_even_after_a_restart() {
    let (folder, control) = control().await;
    let first = control.lead(&shard(), 0).await.unwrap();
    assert_eq!((first.epoch, first.term, first.open_flush), (1, 1, 0));
    assert_eq!(control.lead(&shard(), 1).await.unwrap().term, 2);
    control.close().await;

    let reopened = Control::open(folder.path()).await.unwrap();
    let third = reopened.lead(&shard(), 4).await.unwrap();
    assert_eq!((third.epoch, third.term), (4, 3), "the store has accepted epoch 4");
}

#[tokio::test]
async fn of_what_is_durable_the_highest_is_kept() {
    let (_folder, control) = control().await;
    control.lead(&shard(), 0).await.unwrap();
    let vector = |lsn| [("g1".to_owned(), lsn), ("g2".to_owned(), 7)];
    assert_eq!(control.keep_durable(&shard(), 5, vector(90)).await.unwrap(), 5);
    assert_eq!(control.keep_durable(&shard(), 4, vector(80)).await.unwrap(), 5);
    let state = control.lead(&shard(), 0).await.unwrap();
    assert_eq!(state.open_flush, 5);
    assert_eq!(state.durable, BTreeMap::from(vector(90)));
    assert_eq!(control.durable_of("local", "g1").await.unwrap(), BTreeMap::from([(0, 90)]));
    assert!(matches!(control.keep_durable(&shard(), u64::MAX, []).await, Err(ControlError::TooLarge(_))));
}

fn gateways(entered: &[&str], retired: &[&str]) -> Gateways {
    let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    Gateways { entered: owned(entered), retired: owned(retired) }
}

#[tokio::test]
async fn nothing_waits_for_a_gateway_before_it_entered_or_after_it_was_retired() {
    let (_folder, control) = control().await;
    let mut published = control.published();
    let introduced = |entered| Introduction { region: "local", id: "g", replaces: None, entered };
    assert_eq!(control.retire_gateway("g", noon()).await.unwrap(), Retirement::Unknown);
    for (entered, waited_for) in [(false, &[][..]), (true, &["g"]), (false, &["g"])] {
        control.register_gateway(introduced(entered), noon()).await.unwrap();
        assert_eq!(control.gateways("local").await.unwrap(), gateways(waited_for, &[]), "{entered}");
    }
    published.mark_unchanged();
    assert_eq!(control.retire_gateway("g", noon()).await.unwrap(), Retirement::Retired);
    assert!(published.has_changed().unwrap() && published.borrow().retired.contains("g"));
    assert_eq!(control.retire_gateway("g", noon()).await.unwrap(), Retirement::Before);
    assert_eq!(control.gateways("local").await.unwrap(), gateways(&[], &["g"]));
    assert_eq!(control.register_gateway(introduced(true), noon()).await.unwrap(), Registration::Retired);
}

#[tokio::test]
async fn outcomes_are_kept_until_their_gateway_has_them_or_is_retired() {
    let (_folder, control) = control().await;
    let call = |gateway: &str, epoch, prev, last| {
        let counted = vec![Outcome { lsn: last, visit: vec![epoch as u8] }];
        Outcomes { gateway: gateway.to_owned(), epoch, prev, last, counted }
    };
    let calls = [call("a", 1, 0, 5), call("a", 2, 0, 5), call("a", 1, 5, 9), call("b", 1, 0, 3)];
    for _ in 0..2 {
        control.keep_outcomes(&shard(), &calls).await.unwrap();
    }
    assert_eq!(control.outcomes(&shard(), "a", 0).await.unwrap(), calls[..3]);
    assert_eq!(control.outcomes(&shard(), "a", 5).await.unwrap(), calls[2..3]);
    control.forget_outcomes(&shard(), "a", 5).await.unwrap();
    assert_eq!(control.outcomes(&shard(), "a", 0).await.unwrap(), calls[2..3]);

    let b = Introduction { region: "local", id: "b", replaces: None, entered: true };
    control.register_gateway(b, noon()).await.unwrap();
    assert_eq!(control.outcomes(&shard(), "b", 0).await.unwrap(), calls[3..]);
    control.retire_gateway("b", noon()).await.unwrap();
    assert_eq!(control.outcomes(&shard(), "b", 0).await.unwrap(), []);
    control.keep_outcomes(&shard(), &calls).await.unwrap();
    assert_eq!(control.outcomes(&shard(), "b", 0).await.unwrap(), []);
    assert_eq!(control.outcomes(&shard(), "a", 0).await.unwrap(), calls[..3]);
}

#[tokio::test]
async fn a_new_epoch_begins_with_nothing_durable() {
    let (folder, control) = control().await;
    control.lead(&shard(), 0).await.unwrap();
    control.keep_durable(&shard(), 5, [("g".to_owned(), 90)]).await.unwrap();
    assert_eq!(control.open_epoch(&shard()).await.unwrap(), 2);
    control.close().await;

    let reopened = Control::open(folder.path()).await.unwrap();
    assert_eq!(reopened.shards("local").await.unwrap(), BTreeMap::from([(0, 2)]));
    let state = reopened.lead(&shard(), 1).await.unwrap();
    assert_eq!((state.epoch, state.term, state.open_flush, state.durable.len()), (2, 2, 0, 0));
}

#[tokio::test]
async fn a_replaced_gateway_does_not_come_back() {
    let (_folder, control) = control().await;
    let register = |region, id, replaces| {
        let entered = true;
        control.register_gateway(Introduction { region, id, replaces, entered }, noon())
    };
    assert_eq!(register("local", "old", None).await.unwrap(), Registration::Registered);
    assert_eq!(register("local", "new", Some("old")).await.unwrap(), Registration::Registered);
    assert_eq!(control.gateways("local").await.unwrap(), gateways(&["new"], &["old"]));
    assert_eq!(register("local", "old", None).await.unwrap(), Registration::Retired);
    assert_eq!(register("elsewhere", "new", None).await.unwrap(), Registration::Elsewhere);
    assert_eq!(control.gateways("local").await.unwrap(), gateways(&["new"], &["old"]));
}

#[tokio::test]
async fn a_file_of_a_later_version_is_left_alone() {
    let (folder, control) = control().await;
    sqlx::query("PRAGMA user_version = 99").execute(&control.pool).await.unwrap();
    control.close().await;
    let error = Control::open(folder.path()).await.unwrap_err();
    assert!(matches!(error, ControlError::Newer { found: 99, known: 6 }), "{error}");
}

#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(folder.path().join("control.sqlite")).create_if_missing(true);
    let old = SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(SCHEMA[0]).execute(&old).await.unwrap();
    let rows = "INSERT INTO sites VALUES ('shop', 'UTC', '[\"https://shop.example\"]', 1);
                INSERT INTO gateways VALUES ('g', 'local', 7, NULL);";
    sqlx::raw_sql(rows).execute(&old).await.unwrap();
    old.close().await;

    let control = Control::open(folder.path()).await.unwrap();
    assert!(control.site("shop").is_some());
    let raw: String = sqlx::query_scalar("SELECT raw FROM sites").fetch_one(&control.pool).await.unwrap();
    assert_eq!(raw, "central");
    let since = control.raw_whole_from_ms("shop").unwrap();
    assert!(since > noon().as_millisecond() as u64 / 2, "it has events from before raw rows: {since}");
    let entered: i64 = sqlx::query_scalar("SELECT entered_ms FROM gateways").fetch_one(&control.pool).await.unwrap();
    assert_eq!(entered, 7, "an older version registered in Redis what it registered here");
    let site = control.site("shop").unwrap();
    assert_eq!((site.rules, site.tenant), (rules::Rules::default(), String::new()));
    assert_eq!((site.keys, site.key_required), (Vec::new(), false));
}
