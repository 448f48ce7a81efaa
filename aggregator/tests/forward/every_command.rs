//! A leader whose connection to Redis breaks at any command of a rebuild, before or after Redis has executed it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aggregator::{Central, Leader, Metrics, Readiness};
use proto::dial::Dialer;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};
use regional_redis::{Connect, Connection, Server};
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;
use crate::central::TOKEN;

/// More than a leader sends from its first command to the first flush.
const COMMANDS: usize = 56;

#[tokio::test]
async fn a_rebuild_survives_a_break_before_any_command() {
    tokio::join!(breaks(0, false), breaks(1, false), breaks(2, false), breaks(3, false));
}

#[tokio::test]
async fn a_rebuild_survives_a_break_after_any_command() {
    tokio::join!(breaks(0, true), breaks(1, true), breaks(2, true), breaks(3, true));
}

/// Every fourth command from `first` on: Redis is lost, and the next leader's connection breaks there, once.
async fn breaks(first: usize, executed: bool) {
    let mut bench = Bench::new().await;
    let mut gateways = [bench.gateway("one"), bench.gateway("two")];
    let mut last = 0;
    for at in (first..COMMANDS).step_by(4) {
        bench.redis.lose_everything().await;
        let plan = Arc::new(Plan { left: AtomicUsize::new(at), executed });
        let leader = Leader {
            config: aggregator::Config { cut_interval_ms: 50, ..bench.config() },
            server: Server::Other(Arc::new(Breaking { url: bench.redis.url(), plan: plan.clone() })),
            central: Central::new(Arc::new(Dialer::try_new(&bench.config().uplink, TOKEN).unwrap())),
            metrics: Metrics::new(&mut Default::default()),
            readiness: Readiness::default(),
        };
        let stop = CancellationToken::new();
        let leading = tokio::spawn(leader.run(stop.clone()));
        last += 3;
        let [one, two] = &mut gateways;
        tokio::select! {
            () = bench.counted(2 * last) => {}
            never = one.keep_up(last) => match never {},
            never = two.keep_up(last) => match never {},
        }
        stop.cancel();
        leading.await.unwrap().unwrap();
        let left = plan.left.load(Ordering::Relaxed);
        assert!(left > COMMANDS, "the leader sent fewer commands than {at}: nothing broke");
        bench.central.look(|state| {
            assert_eq!(state.visits().iter().map(|visit| u64::from(visit.pageviews)).sum::<u64>(), 2 * last);
        });
    }
}

struct Breaking {
    url: String,
    plan: Arc<Plan>,
}

struct Plan {
    /// Commands of all connections until one breaks; below zero, which wraps, none does any more.
    left: AtomicUsize,
    /// Whether Redis executes the command whose answer is lost.
    executed: bool,
}

struct Breakable {
    inner: Box<dyn Connection>,
    plan: Arc<Plan>,
    broken: Arc<AtomicBool>,
}

impl Connect for Breaking {
    fn connect(&self) -> RedisFuture<'_, Box<dyn Connection>> {
        Box::pin(async move {
            let client = redis::Client::open(self.url.as_str())?;
            let inner = Box::new(client.get_multiplexed_async_connection().await?);
            let connection = Breakable { inner, plan: self.plan.clone(), broken: Arc::default() };
            Ok(Box::new(connection) as Box<dyn Connection>)
        })
    }
}

impl Connection for Breakable {
    fn duplicate(&self) -> Box<dyn Connection> {
        let (plan, broken) = (self.plan.clone(), self.broken.clone());
        Box::new(Self { inner: self.inner.duplicate(), plan, broken })
    }
}

enum Next {
    Sent,
    Lost,
    AnswerLost,
}

impl Breakable {
    fn next(&self) -> Next {
        if self.broken.load(Ordering::Relaxed) {
            return Next::Lost;
        }
        if self.plan.left.fetch_sub(1, Ordering::Relaxed) != 0 {
            return Next::Sent;
        }
        self.broken.store(true, Ordering::Relaxed);
        if self.plan.executed { Next::AnswerLost } else { Next::Lost }
    }
}

impl ConnectionLike for Breakable {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let gone = || Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into());
            match self.next() {
                Next::Sent => self.inner.req_packed_command(command).await,
                Next::Lost => gone(),
                Next::AnswerLost => {
                    let _ = self.inner.req_packed_command(command).await;
                    gone()
                }
            }
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipe: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            match self.next() {
                Next::Sent => self.inner.req_packed_commands(pipe, offset, count).await,
                // A transaction that only reads.
                Next::Lost | Next::AnswerLost => Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()),
            }
        })
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}
