//! Epochs open and flushes come while the process dies.

use super::*;
use crate::control::{Control, shards::ShardId};

fn shard() -> ShardId {
    ShardId { region: "r".to_owned(), shard: 3 }
}

/// Not a test by itself: what [`every_epoch_counts_its_accepted_flushes_once_whatever_dies`] kills.
#[test]
fn open_epochs_until_killed() {
    let Some(path) = child_of() else { return };
    run(async {
        let control = Control::open(&path).await.unwrap();
        let store = open(&path.join("clickhouse")).await;
        loop {
            let term = control.lead(&shard(), store.accepted("r", 3).await.unwrap().epoch).await.unwrap().term;
            let epoch = control.open_epoch(&shard()).await.unwrap();
            store.delete_unfinished().await.unwrap();
            std::fs::write(path.join("opened"), epoch.to_string()).unwrap();
            for n in [0, 0, 1] {
                store.accept(flush(epoch, n, term)).await.unwrap();
            }
        }
    });
}

#[test]
fn every_epoch_counts_its_accepted_flushes_once_whatever_dies() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let opened =
            || std::fs::read_to_string(path.join("opened")).ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        let mut before: u64 = 1;
        for round in 0..6 {
            let child = Child::start("epochs::open_epochs_until_killed", path);
            child.kill_after(|| opened() > before + 2, 23 * round).await;

            let control = Control::open(path).await.unwrap();
            let epoch = control.shards("r").await.unwrap()[&3];
            assert!(epoch >= opened() && opened() > before + 2, "an epoch that was opened stays open");
            before = epoch;
            let store = open(&path.join("clickhouse")).await;
            let accepted = store.accepted("r", 3).await.unwrap();
            assert!(accepted.epoch <= epoch && accepted.next_flush <= 2, "{accepted:?}, {epoch}");
            let flushes = rows_of(&store, "SELECT count() FROM tideline.flushes FINAL").await;
            let flushes = flushes[0][0].as_u64().unwrap();
            let counted = "SELECT (SELECT sum(pageviews) FROM tideline.rollup_1m FINAL), \
                 (SELECT sum(events) FROM tideline.ledger FINAL), (SELECT max(toUInt64(bitShiftRight(ver, 64))) \
                 FROM tideline.visits FINAL), (SELECT count() FROM tideline.visits_staged)";
            assert_eq!(rows_of(&store, counted).await, json!([[3 * flushes, 5 * flushes, accepted.epoch, 0]]));
            assert!(flushes >= 2 * round, "only {flushes} flushes");
            store.close().await;
            control.close().await;
        }
    });
}
