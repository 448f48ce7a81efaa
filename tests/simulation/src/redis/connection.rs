//! Connections to a [`Redis`] over a [`Network`].

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{Arg, Cmd, Pipeline, RedisError, RedisFuture, Value};
use regional_redis::{Connect, Connection};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Redis, Reply};
use crate::network::{Fate, Network};
use crate::time::World;

/// As of a connection to a real one.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Where a Redis is reached.
#[derive(Clone)]
pub struct Server {
    redis: Arc<Mutex<Redis>>,
    network: Network,
    world: Option<World>,
    /// Its connections lead to the next process too, and nobody notices.
    survives: bool,
}

impl Server {
    /// Over this network. Its time stands still.
    pub fn new(redis: Arc<Mutex<Redis>>, network: Network) -> Self {
        Self { redis, network, world: None, survives: false }
    }

    /// Its time is the world's.
    pub fn with_time(self, world: World) -> Self {
        Self { world: Some(world), ..self }
    }

    /// Whether its connections outlive a process.
    pub fn with_connections_that_survive(self, survives: bool) -> Self {
        Self { survives, ..self }
    }

    fn redis(&self) -> MutexGuard<'_, Redis> {
        self.redis.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connect for Server {
    fn connect(&self) -> RedisFuture<'_, Box<dyn Connection>> {
        Box::pin(async {
            if !self.network.connect().await || self.network.fate() == Fate::Lost {
                return Err(broken("refused"));
            }
            let line =
                Line { server: self.clone(), run: self.redis().run, broken: false.into(), last: Instant::now().into() };
            Ok(Box::new(Handle(Arc::new(line))) as Box<dyn Connection>)
        })
    }
}

/// One connection to one process.
struct Line {
    server: Server,
    run: u64,
    broken: AtomicBool,
    /// When the last command arrives: none overtakes it.
    last: Mutex<Instant>,
}

struct Handle(Arc<Line>);

impl Connection for Handle {
    fn duplicate(&self) -> Box<dyn Connection> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl ConnectionLike for Handle {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let sent = self.0.send(vec![words(command)]);
        Box::pin(async move {
            let mut replies = sent.await?;
            Ok(value(replies.remove(0)))
        })
    }

    fn req_packed_commands<'a>(&'a mut self, all: &'a Pipeline, _: usize, _: usize) -> RedisFuture<'a, Vec<Value>> {
        let sent = self.0.send(all.cmd_iter().map(words).collect());
        Box::pin(async move {
            let values: Vec<_> = sent.await?.into_iter().map(value).collect();
            Ok(if all.is_transaction() { vec![Value::Array(values)] } else { values })
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

impl Line {
    /// What is sent is on its way: it is executed even if nobody waits for the answer any more.
    fn send(
        self: &Arc<Self>,
        commands: Vec<Vec<Vec<u8>>>,
    ) -> impl Future<Output = Result<Vec<Reply>, RedisError>> + use<> {
        let arrives = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = self.server.network.arrival().max(*last);
            *last
        };
        let (answer, answered) = oneshot::channel();
        let line = Arc::clone(self);
        tokio::spawn(async move {
            sleep_until(arrives).await;
            let fate = line.server.network.fate();
            if fate != Fate::Arrives {
                line.broken.store(true, Ordering::Relaxed);
            }
            let result = line.execute(&commands, fate);
            sleep_until(line.server.network.arrival()).await;
            let _ = answer.send(result);
        });
        async move {
            match timeout(ANSWER_MAX, answered).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(broken("gone")),
                Err(_) => Err(RedisError::from(io::Error::from(io::ErrorKind::TimedOut))),
            }
        }
    }

    fn execute(&self, commands: &[Vec<Vec<u8>>], fate: Fate) -> Result<Vec<Reply>, RedisError> {
        let mut redis = self.server.redis();
        if let Some(world) = &self.server.world {
            redis.set_time(world.redis_ms());
        }
        let gone = redis.run != self.run && !self.server.survives;
        if gone {
            self.broken.store(true, Ordering::Relaxed);
        }
        // What was sent before a connection broke at the other end may still arrive; a process that is gone takes nothing.
        if gone || fate == Fate::Lost {
            return Err(broken("reset"));
        }
        let replies = commands.iter().map(|command| redis.execute(command)).collect();
        if self.broken.load(Ordering::Relaxed) { Err(broken("reset")) } else { Ok(replies) }
    }
}

fn broken(how: &str) -> RedisError {
    RedisError::from(io::Error::new(io::ErrorKind::ConnectionReset, how.to_owned()))
}

fn words(command: &Cmd) -> Vec<Vec<u8>> {
    command
        .args_iter()
        .map(|word| match word {
            Arg::Simple(word) => word.to_vec(),
            _ => b"0".to_vec(), // a cursor at its beginning
        })
        .collect()
}

fn value(reply: Reply) -> Value {
    match reply {
        Reply::Nil => Value::Nil,
        Reply::Int(number) => Value::Int(number),
        Reply::Bulk(bytes) => Value::BulkString(bytes),
        Reply::Status("OK") => Value::Okay,
        Reply::Status(status) => Value::SimpleString(status.to_owned()),
        Reply::Array(replies) => Value::Array(replies.into_iter().map(value).collect()),
        Reply::Error(message) => {
            let line = format!("-{message}\r\n");
            ::redis::parse_redis_value(line.as_bytes()).expect("an error line is one")
        }
    }
}
