//! Visitors of the demo shop, for as long as somebody looks: they come at a natural pace from many places, think, wander,
//! put things into their cart, and leave, many of them at once.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    gateway::{Gateway, Gateways},
    session::{Ends, Session, Stay},
    tally::Tally,
    visitor::Visitor,
};

mod stroll;

pub use stroll::Stroll;

/// What the visitors need to know.
#[derive(Debug, Clone)]
pub struct VisitorsConfig {
    /// The gateway, such as `http://127.0.0.1:8080`.
    pub gateway_url: String,
    /// The site's name.
    pub site: String,
    /// The shop's origin, such as `http://127.0.0.1:8090`.
    pub origin: String,
    /// New visits a minute, on average. A visitor counts as current for five minutes after the last event: about six
    /// times as many current visitors as there are visits a minute.
    pub visitors_per_minute: f64,
    /// Visits that begin within the first seconds, so that there is something to see at once.
    pub opening_visitors: u32,
}

impl VisitorsConfig {
    /// Enough visitors for a living dashboard: 20 at once, then seven a minute, which gives about 40 current ones.
    pub fn new(gateway_url: String, site: String, origin: String) -> Self {
        Self { gateway_url, site, origin, visitors_per_minute: 7.0, opening_visitors: 20 }
    }
}

/// The opening visitors come within this time.
const OPENING: Duration = Duration::from_secs(8);
/// The pace swells and ebbs by half, once in this time.
const TIDE: Duration = Duration::from_secs(240);
/// No more visits at a time: beyond it, arrivals turn away. At a few visitors a minute it is never reached.
const VISITS_MAX: usize = 500;
/// Past visitors of whom some return.
const KNOWN_MAX: usize = 40;
/// Of the arrivals, these return: the same device, a new visit if half an hour has passed.
const RETURNING_SHARE: f64 = 0.15;
/// A gateway that has just started may not know the site yet: then everything begins again after this time.
const REFUSED: Duration = Duration::from_secs(2);
/// How long visits may take to get their last answers once `stop` is cancelled.
const DRAIN: Duration = Duration::from_secs(3);

/// Lets visitors walk through the shop until `stop`. A gateway that is away for a while is no error: visitors wait for
/// it as browsers do.
pub async fn simulate_visitors(config: VisitorsConfig, stop: CancellationToken) -> Result<(), Error> {
    crate::scenario::check_origin(&config.origin)?;
    let gateway = Arc::new(Gateways::from(Gateway::try_new(&config.gateway_url, &config.origin)?));
    // The figures of a demo interest nobody, but a session reports to somebody.
    let tally = Arc::new(Tally::default());
    let mut ends = Ends { flush: stop.clone(), ..Ends::default() };
    let mut random = SmallRng::seed_from_u64(rand::random());
    let mut known = VecDeque::with_capacity(KNOWN_MAX);
    let mut visits = JoinSet::new();
    let begin = Instant::now();

    let mut opening = config.opening_visitors;
    loop {
        let wait = if ends.refused.is_cancelled() {
            let reason = tally.lock().refusal.take();
            tracing::warn!(reason, "the gateway refuses the demo's visitors, they will try again");
            ends.refused = CancellationToken::new();
            opening = config.opening_visitors;
            REFUSED
        } else if opening > 0 {
            opening -= 1;
            OPENING.div_f64(f64::from(config.opening_visitors)).mul_f64(random.random_range(0.5..1.5))
        } else {
            gap(&config, begin.elapsed(), &mut random)
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
        while visits.try_join_next().is_some() {}
        if visits.len() >= VISITS_MAX {
            continue;
        }
        let visitor = arriving(&mut known, &mut random);
        let stroll = Stroll::new(&config.origin, &mut random);
        let stay = Stay { begin: Instant::now(), until: stroll.length() };
        let session =
            Session::new(&config.site, visitor, stroll.into_iter(), stay, gateway.clone(), tally.clone(), ends.clone());
        visits.spawn(session.run());
    }

    // The visits in progress flush and leave; what is not answered in time is left behind.
    if tokio::time::timeout(DRAIN, async { while visits.join_next().await.is_some() {} }).await.is_err() {
        ends.leave.cancel();
    }
    Ok(())
}

/// Until the next arrival: a Poisson process whose rate swells and ebbs.
fn gap(config: &VisitorsConfig, since_begin: Duration, random: &mut SmallRng) -> Duration {
    let tide = (since_begin.as_secs_f64() / TIDE.as_secs_f64() * std::f64::consts::TAU).sin();
    let per_s = config.visitors_per_minute.max(0.1) / 60.0 * (1.0 + 0.5 * tide);
    Duration::from_secs_f64(-(1.0 - random.random_range(0.0..1.0_f64)).ln() / per_s)
}

fn arriving(known: &mut VecDeque<Visitor>, random: &mut SmallRng) -> Visitor {
    if known.len() == KNOWN_MAX
        && random.random_bool(RETURNING_SHARE)
        && let Some(visitor) = known.make_contiguous().choose(random)
    {
        return visitor.clone();
    }
    let visitor = Visitor::from_somewhere(random);
    if known.len() == KNOWN_MAX {
        known.pop_front();
    }
    known.push_back(visitor.clone());
    visitor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_arrive_at_the_pace_asked_for() {
        let config = VisitorsConfig::new(String::new(), String::new(), String::new());
        let mut random = SmallRng::seed_from_u64(5);
        // Over whole tides the swell cancels out, but for the little more that gaps of a slow time last.
        let mut at = Duration::ZERO;
        let mut arrivals = 0;
        while at < TIDE * 100 {
            at += gap(&config, at, &mut random);
            arrivals += 1;
        }
        let per_minute = f64::from(arrivals) / (TIDE.as_secs_f64() * 100.0 / 60.0);
        assert!((6.0..8.0).contains(&per_minute), "{per_minute}");
    }
}
