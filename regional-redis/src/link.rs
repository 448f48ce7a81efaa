//! A connection to the Redis of one shard.

use std::fmt;

use redis::{Cmd, Value};

use crate::Shard;
use crate::connect::{Connection, Server};
use crate::reply::Reply;

/// The functions; [`Link::load_functions`] puts them into a Redis.
pub const FUNCTIONS: &str = include_str!("functions.lua");

/// One connection, to one process of Redis: the run id is part of what a leader approves.
pub struct Link {
    pub(crate) connection: Box<dyn Connection>,
    pub(crate) shard: Shard,
    pub(crate) server: Server,
    pub(crate) run: String,
    /// What a barrier waits for; `None`: what the leader wrote down.
    pub(crate) replicas: Option<u32>,
}

/// Why Redis could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not reached, or the connection broke.
    #[error("redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// It runs, but would lose what it acknowledged.
    #[error("this Redis cannot be trusted with counts: {0}")]
    Unfit(String),
    /// It follows another one, which may become otherwise.
    #[error("this Redis is a replica: `redis` must name its master (it may be promoted meanwhile)")]
    Replica,
    /// What was written is not durable yet, for all that is known.
    #[error("redis did not make its writes durable in time: {0}")]
    NotDurable(String),
    /// Not what `functions.lua` answers.
    #[error("redis answered {0}, which no function of this version does: is an older tideline library loaded?")]
    Unknown(String),
    /// What is stored was not written by this version.
    #[error(transparent)]
    Field(#[from] crate::counter::UnknownField),
}

impl Link {
    /// Connects, and learns which process it is.
    pub async fn connect(server: &Server, shard: Shard) -> Result<Self, LinkError> {
        let mut connection = server.connect().await?;
        let info = Info::ask(&mut connection, "server").await?;
        let run = info.get("run_id").filter(|run| !run.is_empty());
        let run = run.ok_or_else(|| LinkError::Unfit("INFO names no `run_id`: connect to Redis itself".into()))?;
        let version = info.version();
        if version.0 < 7 {
            let version = info.get("redis_version").unwrap_or("of an unknown version");
            return Err(LinkError::Unfit(format!("it is Redis {version}, which has no functions: use 7.0 or newer")));
        }
        let replication = Info::ask(&mut connection, "replication").await?;
        if replication.get("role").is_some_and(|role| role != "master") {
            return Err(LinkError::Replica);
        }
        Ok(Self { connection, shard, server: server.clone(), run: run.to_owned(), replicas: None })
    }

    /// The process behind the connection.
    pub fn run_id(&self) -> &str {
        &self.run
    }

    /// `epoch:run id` if a leader approved this very process.
    pub async fn approved(&mut self) -> Result<Option<String>, LinkError> {
        let approved: Option<String> =
            redis::cmd("GET").arg(self.shard.key("e")).query_async(&mut self.connection).await?;
        Ok(approved.filter(|approved| self.is_of_this_process(approved)))
    }

    /// A restarted Redis still holds what approved the process before it, and a caller may still remember it.
    pub(crate) fn is_of_this_process(&self, approved: &str) -> bool {
        approved.split_once(':').is_some_and(|(_, run)| run == self.run)
    }

    /// Puts this version's functions into Redis, in place of any other's.
    pub async fn load_functions(&mut self) -> Result<(), LinkError> {
        // A full Redis refuses to load, and must be led all the same: only settling empties it.
        let mut list = redis::cmd("FUNCTION");
        list.arg("LIST").arg("LIBRARYNAME").arg("tideline").arg("WITHCODE");
        let loaded: Value = list.query_async(&mut self.connection).await?;
        if holds(&loaded, FUNCTIONS.as_bytes()) {
            return Ok(());
        }
        Ok(redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(FUNCTIONS).exec_async(&mut self.connection).await?)
    }

    /// True while Redis answers.
    pub async fn ping(&mut self) -> bool {
        redis::cmd("PING").exec_async(&mut self.connection).await.is_ok()
    }

    pub(crate) fn function(&self, name: &str) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(name).arg(1).arg(self.shard.key("e")).arg(self.shard.0);
        command
    }

    pub(crate) async fn call(&mut self, command: Cmd) -> Result<Reply, LinkError> {
        let value: Value = command.query_async(&mut self.connection).await?;
        Reply::read(value)
    }
}

impl Clone for Link {
    fn clone(&self) -> Self {
        Self {
            connection: self.connection.duplicate(),
            shard: self.shard,
            server: self.server.clone(),
            run: self.run.clone(),
            replicas: self.replicas,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("shard", &self.shard).field("run", &self.run).finish_non_exhaustive()
    }
}

/// One section of what Redis tells about itself: lines of `name:value`.
pub(crate) struct Info(String);

impl Info {
    pub(crate) async fn ask(connection: &mut Box<dyn Connection>, section: &str) -> Result<Self, LinkError> {
        Ok(Self(redis::cmd("INFO").arg(section).query_async(connection).await?))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    }

    /// Major and minor; 0.0 where it names none.
    pub(crate) fn version(&self) -> (u32, u32) {
        let mut numbers =
            self.get("redis_version").unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// Whether these bytes are somewhere in an answer.
fn holds(value: &Value, wanted: &[u8]) -> bool {
    match value {
        Value::BulkString(bytes) => bytes == wanted,
        Value::Array(values) => values.iter().any(|value| holds(value, wanted)),
        _ => false,
    }
}
