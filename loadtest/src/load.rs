//! The load itself: all agents from the first event to the last answer.

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    gateway::Gateways,
    progress,
    scenario::Scenario,
    schedule::{Schedule, start_of},
    session::{Ends, Habits, Session, Stay},
    tally::Tally,
    visitor::{Addresses, Visitor},
    walk::Walk,
};

/// How a load ended.
#[derive(Debug)]
pub struct Load {
    /// How long events were made.
    pub duration: Duration,
    /// A signal ended it.
    pub interrupted: bool,
    /// The gateway knows the site not, or not with this origin.
    pub refused: bool,
}

/// Lets the scenario's agents do their work, until its time is over, the gateway refuses them, or a SIGINT; then lets
/// them flush and waits for the answers, until the scenario's limit or another SIGINT.
pub async fn run(scenario: Arc<Scenario>, site: &str, gateway: Gateways, tally: &Arc<Tally>) -> Load {
    let ends = Ends::default();
    let begin = Instant::now();
    let mut sessions = start(&scenario, site, gateway, tally, &ends, begin);

    let (mut interrupted, mut refused) = (false, false);
    tokio::select! {
        () = tokio::time::sleep_until(begin + scenario.duration()) => {}
        () = progress::show(tally, begin, scenario.duration()) => {}
        () = ends.refused.cancelled() => refused = true,
        _ = tokio::signal::ctrl_c() => interrupted = true,
    }
    let duration = begin.elapsed();
    ends.flush.cancel();

    let drain = if refused { Duration::ZERO } else { Duration::from_secs_f64(scenario.drain_s) };
    tokio::select! {
        () = all(&mut sessions) => {}
        () = tokio::time::sleep(drain) => {}
        () = ends.refused.cancelled(), if !refused => refused = true,
        _ = tokio::signal::ctrl_c() => interrupted = true,
    }
    ends.leave.cancel();
    all(&mut sessions).await;
    Load { duration, interrupted, refused }
}

fn start(
    scenario: &Arc<Scenario>,
    site: &str,
    gateway: Gateways,
    tally: &Arc<Tally>,
    ends: &Ends,
    begin: Instant,
) -> JoinSet<()> {
    let gateway = Arc::new(gateway);
    let addresses = Addresses::of_run(&mut rand::rng());
    let ramp = Duration::from_secs_f64(scenario.ramp_s);
    let mut sessions = JoinSet::new();
    for index in 0..scenario.agents {
        // Each agent draws from its own stream, so that the number of agents changes nothing for any one of them.
        let mut random = SmallRng::seed_from_u64(scenario.seed ^ (u64::from(index) << 32));
        let visitor = Visitor::of_agent(index, &addresses, &mut random);
        let begins = start_of(index, scenario.agents, ramp);
        let schedule = Schedule::new(scenario.arrivals, begins, scenario.duration(), scenario.gap(), random.fork());
        let walk = Walk::new(scenario.clone(), schedule, random);
        let stay = Stay { begin, until: scenario.duration() };
        let habits = Habits::of(scenario);
        let (site, gateway, tally, ends) = (site.to_owned(), gateway.clone(), tally.clone(), ends.clone());
        sessions.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep_until(begin + begins) => {}
                () = ends.flush.cancelled() => return,
            }
            Session::new(&site, visitor, walk, stay, gateway, tally, ends).with_habits(habits).run().await;
        });
    }
    sessions
}

/// Until every session is over. A session that panicked has said so, and its events stay without an outcome.
async fn all(sessions: &mut JoinSet<()>) {
    while sessions.join_next().await.is_some() {}
}
