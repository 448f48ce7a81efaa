//! One aggregator leads a shard. Another one that runs for it stands by: if it took the lead whenever it could, the two
//! would take it from each other for ever.
//!
//! A leader gives signs of life through Redis. They decide only who asks central for a term; what a leader may do is decided
//! by its term.

use std::time::Duration;

use regional_redis::{Link, Sign};
use tokio::time::Instant;

use crate::lead::Interrupted;

/// From one sign of life to the next.
const EVERY: Duration = Duration::from_secs(1);
/// Until the first one is taken: before the approval Redis may not know what a sign is.
const FIRST_EVERY: Duration = Duration::from_millis(100);
/// A leader that gave no new sign for so long, by the clock of whoever stands by, is as good as gone.
const SILENT_MAX: Duration = Duration::from_secs(3);
/// From one look at the signs to the next.
pub const POLL: Duration = Duration::from_millis(500);
/// Central names a new leader before that one has reached Redis. It does so within milliseconds.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(3);
const SUCCESSOR_POLL: Duration = Duration::from_millis(100);

/// What is known of other leaders.
#[derive(Debug, Default)]
pub struct Standby {
    /// The term of this process's own last leadership: its signs are no other's.
    led: Option<u64>,
    /// The newest sign, and since when it is the newest.
    seen: Option<(Sign, Instant)>,
    /// Who deposed this process, and when. Its first sign may take a while.
    deposed: Option<(u64, Instant)>,
}

impl Standby {
    /// This process led under this term.
    pub fn led(&mut self, term: u64) {
        self.led = Some(term);
    }

    /// The term of another leader that is alive.
    pub async fn another(&mut self, link: &mut Link) -> Result<Option<u64>, Interrupted> {
        let sign = link.last_sign_of_life().await?;
        Ok(self.another_at(sign, Instant::now()))
    }

    fn another_at(&mut self, sign: Option<Sign>, now: Instant) -> Option<u64> {
        if let Some((term, at)) = self.deposed {
            if now - at < SILENT_MAX {
                return Some(term);
            }
            self.deposed = None;
        }
        let sign = sign.filter(|sign| Some(sign.term) != self.led)?;
        let since = self.seen.filter(|(seen, _)| *seen == sign).map_or(now, |(_, since)| since);
        self.seen = Some((sign, since));
        (now - since < SILENT_MAX).then_some(sign.term)
    }

    /// The term of a later leader, once it has reached Redis.
    pub async fn successor(&mut self, link: &mut Link, term: u64) -> Option<u64> {
        let reached = async {
            loop {
                match link.position().await {
                    Ok(position) if position.term > term => return Some(position.term),
                    Ok(_) => tokio::time::sleep(SUCCESSOR_POLL).await,
                    Err(_) => return None,
                }
            }
        };
        let successor = tokio::time::timeout(SUCCESSOR_WAIT, reached).await.ok().flatten();
        self.deposed = successor.map(|term| (term, Instant::now()));
        successor
    }
}

/// Gives signs of life until Redis refuses them or is gone. Before the approval Redis may know a higher term: that is no
/// end.
pub async fn give_signs(mut link: Link, term: u64) -> Interrupted {
    let mut given = false;
    for count in 1.. {
        tokio::time::sleep(if given { EVERY } else { FIRST_EVERY }).await;
        match link.sign_of_life(Sign { term, count }).await {
            Ok(true) => given = true,
            // Not approved yet; the functions may not be loaded.
            Ok(false) | Err(_) if !given => {}
            Ok(false) => break,
            Err(error) => return error.into(),
        }
    }
    Interrupted::Fenced
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn sign(term: u64, count: u64) -> Option<Sign> {
        Some(Sign { term, count })
    }

    #[test]
    fn a_leader_is_waited_for_while_it_gives_signs() {
        let (mut standby, start) = (Standby::default(), Instant::now());
        let mut another = |sign, seconds| standby.another_at(sign, start + Duration::from_secs(seconds));
        assert_eq!(another(None, 0), None);
        assert_eq!(another(sign(7, 0), 1), Some(7));
        assert_eq!(another(sign(7, 0), 3), Some(7));
        assert_eq!(another(sign(7, 1), 5), Some(7));
        assert_eq!(another(sign(7, 1), 8), None, "no new one for three seconds");
        assert_eq!(another(sign(8, 0), 9), Some(8));
        assert_eq!(another(None, 10), None, "it has stopped");
    }

    #[test]
    fn ones_own_signs_are_no_others() {
        let (mut standby, start) = (Standby::default(), Instant::now());
        standby.led(7);
        assert_eq!(standby.another_at(sign(7, 3), start), None);
        assert_eq!(standby.another_at(sign(8, 0), start), Some(8));
    }

    #[test]
    fn whoever_was_deposed_waits_for_the_first_sign_of_the_other() {
        let (mut standby, start) = (Standby::default(), Instant::now());
        standby.led(7);
        standby.deposed = Some((8, start));
        assert_eq!(standby.another_at(sign(7, 3), start), Some(8));
        assert_eq!(standby.another_at(sign(8, 0), start + SILENT_MAX), Some(8));
        let mut alone = Standby { led: Some(7), seen: None, deposed: Some((8, start)) };
        assert_eq!(alone.another_at(sign(7, 3), start + SILENT_MAX), None);
    }
}
