//! A connection to the Redis of one shard, and every function but apply.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Value};

use crate::{Lsn, Shard};

/// The functions; [`Link::load_functions`] puts them into a Redis.
const FUNCTIONS: &str = include_str!("functions.lua");
/// A function call takes milliseconds; a Redis that has not answered by then is as good as gone.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// One connection, to one process of Redis: the run id is part of what a leader approves.
#[derive(Clone)]
pub struct Link {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) shard: Shard,
    run: String,
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
    /// Not what `functions.lua` answers.
    #[error("redis answered {0}, which no function of this version does: is an older tideline library loaded?")]
    Unknown(String),
    /// What is stored was not written by this version.
    #[error(transparent)]
    Field(#[from] crate::counter::UnknownField),
}

/// What a gateway learns when it registers.
#[derive(Debug, PartialEq, Eq)]
pub enum Registered {
    /// No leader has approved this Redis process yet.
    Wait,
    /// It counts from here on.
    At {
        /// The last record that Redis has applied.
        applied: Lsn,
        /// The region's clock does not start below this.
        clock_floor_ms: u64,
    },
}

/// What an idle gateway learns when it reports its watermark.
#[derive(Debug, PartialEq, Eq)]
pub enum Reported {
    /// Taken.
    Done,
    /// No leader has approved this Redis process yet.
    Wait,
    /// The incarnation is not the registered one.
    Fenced,
    /// Redis stands at this record: replay from the next.
    Gap(Lsn),
}

/// Term, epoch and process under which an aggregator leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Grows with every leader, in central and in Redis.
    pub term: u64,
    /// `epoch:run id`.
    pub approved: String,
}

/// A flush that is cut and not settled.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// The flush's number.
    pub n: u64,
    /// The leader's clock at the cut.
    pub cut_ms: u64,
    /// The lowest watermark of all registered gateways.
    pub watermark_ms: u64,
    /// Gateway and last applied record.
    pub vector: Vec<(String, Lsn)>,
}

impl Link {
    /// Connects, and learns which process it is.
    pub async fn connect(url: &str, shard: Shard) -> Result<Self, LinkError> {
        let settings = AsyncConnectionConfig::new()
            .set_response_timeout(Some(ANSWER_MAX))
            .set_connection_timeout(Some(CONNECT_MAX));
        let mut connection = Client::open(url)?.get_multiplexed_async_connection_with_config(&settings).await?;
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        let told = |name: &str| info.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        let run = told("run_id:").filter(|run| !run.is_empty());
        let run = run.ok_or_else(|| LinkError::Unfit("INFO names no `run_id`: connect to Redis itself".into()))?;
        let version = told("redis_version:").unwrap_or_default();
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        if major < 7 {
            return Err(LinkError::Unfit(format!("it is Redis {version}, which has no functions: use 7.0 or newer")));
        }
        Ok(Self { connection, shard, run })
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

    /// Registers a fresh incarnation of a gateway. The caller raises a barrier before it uses the answer.
    pub async fn register(
        &mut self,
        gateway: &str,
        incarnation: &str,
        approved: &str,
    ) -> Result<Registered, LinkError> {
        if !self.is_of_this_process(approved) {
            return Ok(Registered::Wait);
        }
        let mut command = self.function("tideline_register");
        command.arg(gateway).arg(incarnation).arg(approved);
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "WAIT" => Ok(Registered::Wait),
            "OK" => Ok(Registered::At { applied: reply.lsn(0)?, clock_floor_ms: reply.lsn(1)?.0 }),
            _ => Err(reply.unknown()),
        }
    }

    /// Takes a gateway id out of the watermark. What it counted stays counted. False: not approved yet.
    pub async fn retire(&mut self, gateway: &str, approved: &str) -> Result<bool, LinkError> {
        if !self.is_of_this_process(approved) {
            return Ok(false);
        }
        let mut command = self.function("tideline_retire");
        command.arg(gateway).arg(approved);
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "OK" => Ok(true),
            "WAIT" => Ok(false),
            _ => Err(reply.unknown()),
        }
    }

    /// Everything up to `applied` is applied, and nothing behind it arrived before `mark_ms`.
    pub async fn watermark(
        &mut self,
        gateway: &str,
        incarnation: &str,
        approved: &str,
        mark_ms: u64,
        applied: Lsn,
    ) -> Result<Reported, LinkError> {
        if !self.is_of_this_process(approved) {
            return Ok(Reported::Wait);
        }
        let mut command = self.function("tideline_watermark");
        command.arg(gateway).arg(incarnation).arg(approved).arg(mark_ms).arg(applied.0);
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "OK" => Ok(Reported::Done),
            "WAIT" => Ok(Reported::Wait),
            "FENCED" => Ok(Reported::Fenced),
            "GAP" => Ok(Reported::Gap(reply.lsn(0)?)),
            _ => Err(reply.unknown()),
        }
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

    /// Refuses a Redis that evicts, or acknowledges what it has not written to disk.
    pub async fn check_durable(&mut self) -> Result<(), LinkError> {
        let wants = [
            ("appendonly", "yes", "counts would be lost with the process"),
            ("appendfsync", "always", "a flush could leave before it is on disk"),
            ("no-appendfsync-on-rewrite", "no", "nothing is on disk while the log is rewritten"),
            ("maxmemory-policy", "noeviction", "counts would be evicted"),
        ];
        for (setting, wanted, otherwise) in wants {
            let found: Vec<String> =
                redis::cmd("CONFIG").arg("GET").arg(setting).query_async(&mut self.connection).await?;
            let found = found.get(1).map(String::as_str).unwrap_or_default();
            if found != wanted {
                return Err(LinkError::Unfit(format!(
                    "`{setting}` is `{found}`: set it to `{wanted}`, or {otherwise}"
                )));
            }
        }
        Ok(())
    }

    /// Lets this process count, under this term. False: a leader of a higher term was here.
    pub async fn approve(&mut self, term: u64, epoch: u64) -> Result<Option<Approval>, LinkError> {
        let mut command = self.function("tideline_approve");
        command.arg(term).arg(epoch).arg(&self.run);
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "OK" => Ok(Some(Approval { term, approved: format!("{epoch}:{}", self.run) })),
            "FENCED" => Ok(None),
            _ => Err(reply.unknown()),
        }
    }

    /// Closes the open bucket, or answers the flush that is not settled yet. `None`: deposed, or another process.
    pub async fn cut(&mut self, leader: &Approval, now_ms: u64) -> Result<Option<Cut>, LinkError> {
        if !self.is_of_this_process(&leader.approved) {
            return Ok(None);
        }
        let mut command = self.function("tideline_cut");
        command.arg(leader.term).arg(&leader.approved).arg(now_ms);
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "WAIT" | "FENCED" => Ok(None),
            "OK" => {
                let vector = (3..reply.rest.len()).step_by(2).map(|i| Ok((reply.text(i)?, reply.lsn(i + 1)?)));
                let vector = vector.collect::<Result<_, LinkError>>()?;
                Ok(Some(Cut { n: reply.lsn(0)?.0, cut_ms: reply.lsn(1)?.0, watermark_ms: reply.lsn(2)?.0, vector }))
            }
            _ => Err(reply.unknown()),
        }
    }

    /// The vector is durable and central has been told. False: deposed.
    pub async fn advance_durable(&mut self, leader: &Approval, vector: &[(String, Lsn)]) -> Result<bool, LinkError> {
        let mut command = self.function("tideline_durable");
        command.arg(leader.term).arg(&leader.approved);
        for (gateway, lsn) in vector {
            command.arg(gateway).arg(lsn.0);
        }
        self.leading(leader, command).await
    }

    /// Central has accepted flush `n`: its bucket goes. False: deposed.
    pub async fn settle(&mut self, leader: &Approval, n: u64) -> Result<bool, LinkError> {
        let mut command = self.function("tideline_settle");
        command.arg(leader.term).arg(&leader.approved).arg(n);
        self.leading(leader, command).await
    }

    /// What a leader compares with central before it approves.
    pub async fn position(&mut self) -> Result<Position, LinkError> {
        let shard = self.shard;
        // By itself: a Redis that is still loading says so in one line, not in one for each command of a transaction.
        let approved: Option<String> = redis::cmd("GET").arg(shard.key("e")).query_async(&mut self.connection).await?;
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("MGET").arg(shard.key("t")).arg(shard.key("n")).cmd("HKEYS").arg(shard.key("c"));
        pipe.cmd("HGETALL").arg(shard.key("a")).cmd("HKEYS").arg(shard.key("i"));
        type Answer = ((Option<u64>, Option<u64>), Vec<u64>, Vec<(String, u64)>, Vec<String>);
        let ((term, open), cut, applied, registered): Answer = pipe.query_async(&mut self.connection).await?;
        let epoch = approved.and_then(|it| it.split_once(':')?.0.parse().ok());
        let applied = applied.into_iter().map(|(gateway, lsn)| (gateway, Lsn(lsn))).collect();
        let (term, open_flush, unsettled) = (term.unwrap_or(0), open.unwrap_or(0), cut.first().copied());
        Ok(Position { epoch, term, open_flush, unsettled, applied, registered })
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

    async fn leading(&mut self, leader: &Approval, command: Cmd) -> Result<bool, LinkError> {
        if !self.is_of_this_process(&leader.approved) {
            return Ok(false);
        }
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "OK" => Ok(true),
            "WAIT" | "FENCED" => Ok(false),
            _ => Err(reply.unknown()),
        }
    }
}

/// Where a Redis stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Position {
    /// None: a Redis that no leader ever approved.
    pub epoch: Option<u64>,
    /// The highest term of a leader; 0 before the first.
    pub term: u64,
    /// The number of the open flush.
    pub open_flush: u64,
    /// The flush that is cut and not settled.
    pub unsettled: Option<u64>,
    /// Gateway and last applied record.
    pub applied: Vec<(String, Lsn)>,
    /// Gateways that the watermark waits for.
    pub registered: Vec<String>,
}

/// A function's answer: a word, and what belongs to it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) word: String,
    pub(crate) rest: Vec<Value>,
}

impl Reply {
    fn read(value: Value) -> Result<Self, LinkError> {
        let Value::Array(mut rest) = value else { return Err(LinkError::Unknown(format!("{value:?}"))) };
        if rest.is_empty() {
            return Err(LinkError::Unknown("an empty array".into()));
        }
        let word = match rest.remove(0) {
            Value::BulkString(word) => String::from_utf8_lossy(&word).into_owned(),
            Value::SimpleString(word) => word,
            other => return Err(LinkError::Unknown(format!("{other:?}"))),
        };
        Ok(Self { word, rest })
    }

    fn text(&self, at: usize) -> Result<String, LinkError> {
        match self.rest.get(at) {
            Some(Value::BulkString(text)) => String::from_utf8(text.clone()).map_err(|_| self.unknown()),
            _ => Err(self.unknown()),
        }
    }

    pub(crate) fn unknown(&self) -> LinkError {
        LinkError::Unknown(format!("{} {:?}", self.word, self.rest))
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
