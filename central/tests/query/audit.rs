//! The audit over rows that agree, and over rows that do not.

use central::query::{audit, days::Days};
use serde_json::{Value, json};

use super::site::{NOW, Site};

async fn audited(site: &Site, positions: &[audit::Position]) -> Value {
    let days = Days::try_new(Some("2026-11-20"), Some("2026-11-23"), NOW.parse().unwrap()).unwrap();
    audit::answer(&site.store, &site.site.name, days, positions).await.unwrap()
}

#[tokio::test]
async fn nothing_differs_where_nothing_is() {
    let site = Site::new("audit-empty.example", "UTC").await;
    let position = audit::Position { gateway: "g".into(), shard: 0, accepted: 5, raw: 5 };
    for positions in [vec![], vec![position.clone(), position]] {
        let answer = audited(&site, &positions).await;
        assert_eq!((&answer["state"], &answer["difference"]), (&json!("clean"), &json!(0)));
        assert_eq!(answer["first_difference"], Value::Null);
        assert!(answer["checks"].as_array().unwrap().iter().all(|check| check["days"] == json!([])), "{answer}");
    }
}
