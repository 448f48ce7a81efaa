//! Batch by batch: sums can be right where one batch is lost and another counted twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{COUNT_MAX, LOOK_AGAIN, number, text};
use crate::SITE;
use crate::load::{Held, Sent};
use crate::region::Region;

/// Stream and number.
type Name = ([u8; 16], u32);

/// Waits until central lists every batch: raw rows come behind the counts. Each once, with its events, and nothing else.
pub async fn each_once(region: &Region, sent: &Sent) -> Result<(), String> {
    let asked = Instant::now();
    loop {
        let difference = match batches(region).await {
            Some(listed) => difference(sent, &listed?),
            None => Some("central does not answer".into()),
        };
        let Some(difference) = difference else { return Ok(()) };
        if asked.elapsed() > COUNT_MAX {
            return Err(format!("the batches that central lists: {difference}\n{}", region.words()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// `GET /api/v2/batches`. An error: one is listed twice.
async fn batches(region: &Region) -> Option<Result<BTreeMap<Name, Held>, String>> {
    let mut listed = BTreeMap::new();
    for row in region.ask_lines(&format!("batches?site_id={SITE}")).await? {
        let sid = u128::from_str_radix(&text(&row, "sid"), 16).expect("a sid is hexadecimal").to_be_bytes();
        let seq = number(&row, "seq").try_into().expect("a number of a batch has 32 bits");
        let held = Held { counted: number(&row, "events"), dropped: number(&row, "dropped") };
        if listed.insert((sid, seq), held).is_some() {
            return Some(Err(format!("central lists a batch twice: {row}")));
        }
    }
    Some(Ok(listed))
}

/// How many are wrong, and the first of them.
fn difference(sent: &Sent, listed: &BTreeMap<Name, Held>) -> Option<String> {
    let names: BTreeSet<&Name> = sent.batches.keys().chain(listed.keys()).collect();
    let wrong: Vec<_> = names.into_iter().filter(|&name| sent.batches.get(name) != listed.get(name)).collect();
    let words = |name: &&Name| {
        let (sid, seq) = name;
        let (sent, listed) = (sent.batches.get(*name), listed.get(*name));
        format!("{:032x} {seq}: sent {sent:?}, listed {listed:?}", u128::from_be_bytes(*sid))
    };
    let first: Vec<_> = wrong.iter().take(5).map(words).collect();
    (!wrong.is_empty()).then(|| format!("{} of {} are wrong: {}", wrong.len(), sent.batches.len(), first.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: Name = ([7; 16], 1);

    fn held(counted: u64, dropped: u64) -> Held {
        Held { counted, dropped }
    }

    fn sent(batches: impl IntoIterator<Item = (Name, Held)>) -> Sent {
        Sent { batches: batches.into_iter().collect(), ..Default::default() }
    }

    #[test]
    fn a_loss_and_a_double_do_not_cancel() {
        let (one, two) = (NAME, (NAME.0, 2));
        let sent = sent([(one, held(2, 1)), (two, held(2, 1))]);
        assert_eq!(difference(&sent, &sent.batches), None);
        for wrong in [
            BTreeMap::from([(one, held(4, 2))]),
            BTreeMap::from([(one, held(4, 0)), (two, held(0, 2))]),
            BTreeMap::from([(one, held(2, 1)), ((NAME.0, 3), held(2, 1))]),
            BTreeMap::from([(one, held(2, 1)), (two, held(2, 1)), ((NAME.0, 3), held(0, 0))]),
        ] {
            assert!(difference(&sent, &wrong).is_some(), "{wrong:?}");
        }
    }
}
