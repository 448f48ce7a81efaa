//! What a shard's leader does: it compares, approves, cuts and settles.

use std::collections::BTreeMap;

use crate::Lsn;
use crate::link::{Link, LinkError};

/// Redis forgets a leader's sign of life after this time. Whoever waits for the leader goes by its own clock: that of Redis
/// may be set.
const SIGN_KEPT_MS: u64 = 3000;

/// Term, epoch and process under which an aggregator leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Grows with every leader, in central and in Redis.
    pub term: u64,
    /// `epoch:run id`; while a rebuild is prepared `epoch:`.
    pub approved: String,
}

/// A leader's sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// Under which it leads.
    pub term: u64,
    /// Differs from one sign to the next.
    pub count: u64,
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
    /// Gateway and the incarnation whose call applied it, where that is known.
    pub applied_by: BTreeMap<String, String>,
}

/// Where a Redis stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// None: a Redis that no leader ever approved.
    pub epoch: Option<u64>,
    /// Whom a leader approved.
    pub approved: Approved,
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
    /// Gateways that a rebuild waits for.
    pub waiting: Vec<String>,
    /// Gateways that were retired.
    pub retired: Vec<String>,
}

/// Whom a leader approved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Approved {
    /// Nobody: the preparation of a rebuild did not come to its end.
    Nobody,
    /// This very process.
    This,
    /// A process before this one.
    #[default]
    Another,
}

impl Link {
    /// Makes this Redis a region's, for ever; answers whose it is.
    pub async fn claim(&mut self, region: &str) -> Result<String, LinkError> {
        if let Some(owner) = self.region().await? {
            return Ok(owner);
        }
        let key = self.shard.key("g");
        redis::cmd("HSETNX").arg(key).arg("region").arg(region).exec_async(&mut self.connection).await?;
        Ok(self.region().await?.unwrap_or_default())
    }

    /// Whose Redis this is; `None`: no leader has claimed it yet.
    pub async fn region(&mut self) -> Result<Option<String>, LinkError> {
        let mut read = redis::cmd("HGET");
        read.arg(self.shard.key("g")).arg("region");
        Ok(read.query_async(&mut self.connection).await?)
    }

    /// What a leader compares with central before it approves.
    pub async fn position(&mut self) -> Result<Position, LinkError> {
        let shard = self.shard;
        // By itself: a Redis that is still loading says so in one line, not in one for each command of a transaction.
        let approved: Option<String> = redis::cmd("GET").arg(shard.key("e")).query_async(&mut self.connection).await?;
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("MGET").arg(shard.key("t")).arg(shard.key("n")).cmd("HKEYS").arg(shard.key("c"));
        pipe.cmd("HGETALL").arg(shard.key("a")).cmd("HKEYS").arg(shard.key("i"));
        pipe.cmd("SMEMBERS").arg(shard.key("r")).cmd("SMEMBERS").arg(shard.key("rg"));
        type Answer = ((Option<u64>, Option<u64>), Vec<u64>, Vec<(String, u64)>, Vec<String>, Vec<String>, Vec<String>);
        let ((term, open), cut, applied, registered, mut waiting, mut retired): Answer =
            pipe.query_async(&mut self.connection).await?;
        waiting.sort_unstable();
        retired.sort_unstable();
        let (epoch, run) = approved.as_deref().and_then(|it| it.split_once(':')).unwrap_or_default();
        let by = match run {
            "" if approved.is_some() => Approved::Nobody,
            run if run == self.run => Approved::This,
            _ => Approved::Another,
        };
        Ok(Position {
            epoch: epoch.parse().ok(),
            approved: by,
            term: term.unwrap_or(0),
            open_flush: open.unwrap_or(0),
            unsettled: cut.first().copied(),
            applied: applied.into_iter().map(|(gateway, lsn)| (gateway, Lsn(lsn))).collect(),
            registered,
            waiting,
            retired,
        })
    }

    /// Lets this process count, under this term. `None`: a leader of a higher term was here.
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

    /// Closes the open bucket, or answers the flush that is not settled yet. `None`: deposed, another process, or one that
    /// is being rebuilt.
    pub async fn cut(&mut self, leader: &Approval, now_ms: u64) -> Result<Option<Cut>, LinkError> {
        if !self.is_of_this_process(&leader.approved) {
            return Ok(None);
        }
        let mut command = self.function("tideline_cut");
        command.arg(leader.term).arg(&leader.approved).arg(now_ms);
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "WAIT" | "FENCED" | "REBUILD" => Ok(None),
            "OK" => {
                let (n, cut_ms, watermark_ms) = (reply.number(0)?, reply.number(1)?, reply.number(2)?);
                let (mut vector, mut applied_by) = (Vec::new(), BTreeMap::new());
                for i in (3..reply.rest.len()).step_by(3) {
                    let (gateway, by) = (reply.text(i)?, reply.text(i + 2)?);
                    if !by.is_empty() {
                        applied_by.insert(gateway.clone(), by);
                    }
                    vector.push((gateway, reply.lsn(i + 1)?));
                }
                Ok(Some(Cut { n, cut_ms, watermark_ms, vector, applied_by }))
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

    /// Says that the leader of this term is alive; `count` differs from one sign to the next. False: another leads since.
    pub async fn sign_of_life(&mut self, sign: Sign) -> Result<bool, LinkError> {
        let mut command = self.function("tideline_sign");
        command.arg(sign.term).arg(sign.count).arg(SIGN_KEPT_MS);
        self.ordered(command).await
    }

    /// The newest sign of a leader that was alive a short time ago.
    pub async fn last_sign_of_life(&mut self) -> Result<Option<Sign>, LinkError> {
        let key = self.shard.key("ld");
        let sign: Option<String> = redis::cmd("GET").arg(key).query_async(&mut self.connection).await?;
        let parse = |sign: &str| {
            let (term, count) = sign.split_once(':')?;
            Some(Sign { term: term.parse().ok()?, count: count.parse().ok()? })
        };
        Ok(sign.as_deref().and_then(parse))
    }

    /// The leader of this term stops: its successor need not wait. The sign of another stays.
    pub async fn leave(&mut self, term: u64) -> Result<(), LinkError> {
        if self.last_sign_of_life().await?.is_some_and(|sign| sign.term == term) {
            redis::cmd("DEL").arg(self.shard.key("ld")).exec_async(&mut self.connection).await?;
        }
        Ok(())
    }

    async fn leading(&mut self, leader: &Approval, command: redis::Cmd) -> Result<bool, LinkError> {
        if !self.is_of_this_process(&leader.approved) {
            return Ok(false);
        }
        self.ordered(command).await
    }

    /// A leader's order: true if it was taken.
    pub(crate) async fn ordered(&mut self, command: redis::Cmd) -> Result<bool, LinkError> {
        let reply = self.call(command).await?;
        match reply.word.as_str() {
            "OK" => Ok(true),
            "WAIT" | "FENCED" => Ok(false),
            _ => Err(reply.unknown()),
        }
    }
}
