//! How far this gateway's records have come: decided by Redis, durable there, accepted by central, shipped as raw rows. The applier,
//! the uplink and the trimmer share it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::uplink::{Outcome, Outcomes, Progress};
use regional_redis::{Lsn, Shard};
use uuid::Uuid;

use crate::controls;
use crate::delivery::folder::write_durably;
use crate::delivery::log::{Allowed, LogError};
use crate::delivery::outcomes::{Decided, OutcomeLog, clip, decided};

/// Of one shard.
#[derive(Debug)]
pub struct Delivery(Mutex<State>);

#[derive(Debug)]
struct State {
    outcomes: OutcomeLog,
    path: PathBuf,
    raw: RawPosition,
    /// As it is on disk. It may be lower: rows that leave twice are one row.
    kept: RawPosition,
    /// Central was told that Redis will not forget these; of the epoch that this gateway is registered in.
    durable: Lsn,
    accepted: Lsn,
    watermark_ms: u64,
    first: Lsn,
    /// Redis and central know no newer log of this gateway. Until then it may be an older copy, with outcomes that did not last.
    current: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RawPosition {
    generation: u64,
    acked: Lsn,
}

/// Outcomes whose rows may leave.
#[derive(Debug)]
pub struct Shipment {
    /// An acknowledgement of another generation says nothing.
    pub generation: u64,
    /// Where they begin: below what was sent if that became void.
    pub after: Lsn,
    /// Central may forget outcomes up to here.
    pub logged: Lsn,
    /// In the order of the log.
    pub outcomes: Vec<Outcomes>,
}

impl Delivery {
    /// Of the log in `folder`, whose first record that is kept is `first`.
    pub fn open(folder: &Path, gateway: Uuid, shard: Shard, first: Lsn) -> Result<Self, LogError> {
        let outcomes = OutcomeLog::open(folder, gateway, shard)?;
        let path = folder.join("raw");
        let kept = match std::fs::read_to_string(&path) {
            Ok(text) => RawPosition::parse(&text).ok_or_else(|| LogError::Damaged {
                path: path.clone(),
                at: 0,
                what: "it does not hold a generation and a position",
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => RawPosition::default(),
            Err(source) => return Err(LogError::Io { path, source }),
        };
        // What was trimmed had been acknowledged; what was acknowledged had an outcome.
        let acked = kept.acked.max(Lsn(first.0 - 1)).min(outcomes.logged().max(Lsn(first.0 - 1)));
        let raw = RawPosition { acked, ..kept };
        let (durable, accepted, watermark_ms) = (Lsn(0), Lsn(0), 0);
        Ok(Self(Mutex::new(State {
            outcomes,
            path,
            raw,
            kept,
            durable,
            accepted,
            watermark_ms,
            first,
            current: false,
        })))
    }

    /// The first record that is kept.
    pub fn first(&self) -> Lsn {
        self.lock().first
    }

    /// The last record whose outcome is known.
    pub fn logged(&self) -> Lsn {
        self.lock().outcomes.logged()
    }

    /// What Redis decided; the flush comes with [`Self::sync`].
    pub fn append(&self, outcomes: &Outcomes) -> Result<(), LogError> {
        self.lock().outcomes.append(outcomes)
    }

    /// The last record whose outcome survives this machine, after a flush.
    pub fn sync(&self) -> Result<Lsn, LogError> {
        self.lock().outcomes.sync()
    }

    /// What was decided about the records behind `last` does not hold any more: they will be decided and shipped again. Durable
    /// when it returns.
    pub fn void_above(&self, last: Lsn) -> Result<(), LogError> {
        self.lock().void_above(last)
    }

    /// What Redis still holds of its decisions up to `applied`. Where it says something else than the log here, it is right. False, and
    /// nothing is taken, if neither says what was decided about some of them: Redis lets go only of what is on this disk.
    pub fn adopt(&self, stored: &[Outcomes], applied: Lsn) -> Result<bool, LogError> {
        let mut state = self.lock();
        let stored = stored.iter().map(|outcomes| clip(outcomes, Lsn(0), applied));
        let stored: Vec<_> = stored.filter(|outcomes| outcomes.prev < outcomes.last).collect();
        let mut reach = state.reach().0;
        for outcomes in &stored {
            if outcomes.prev > reach {
                break;
            }
            reach = reach.max(outcomes.last);
        }
        if reach < applied.0 {
            return state.outcomes.suspected(applied).map_or(Ok(false), Err);
        }
        for outcomes in stored {
            let both = clip(&outcomes, Lsn(0), state.outcomes.logged());
            if both.prev < both.last && state.known(Lsn(both.prev + 1), Lsn(both.last))? != decided(&both).collect() {
                state.void_above(Lsn(outcomes.prev))?;
            }
            state.outcomes.append(&outcomes)?;
        }
        Ok(true)
    }

    /// After a lost Redis, when nothing behind `accepted` holds any more: what flushes carried fills in what is not logged here, and
    /// of two outcomes of a record that of the higher epoch holds. False, and nothing is taken, if neither says what was decided
    /// about some of them: central lets go only of what is on this disk.
    pub fn fill_in(&self, carried: &[Outcomes], accepted: Lsn) -> Result<bool, LogError> {
        let mut state = self.lock();
        let mut merged = BTreeMap::new();
        for outcomes in carried.iter().map(|outcomes| clip(outcomes, Lsn(0), accepted)) {
            for lsn in outcomes.prev + 1..=outcomes.last {
                let at = merged.entry(Lsn(lsn)).or_insert((0, None));
                if outcomes.epoch >= at.0 {
                    let counted = outcomes.counted.binary_search_by_key(&lsn, |outcome| outcome.lsn);
                    *at = (outcomes.epoch, counted.ok().map(|i| outcomes.counted[i].visit.clone()));
                }
            }
        }
        if (state.reach().0 + 1..=accepted.0).any(|lsn| !merged.contains_key(&Lsn(lsn))) {
            return state.outcomes.suspected(accepted).map_or(Ok(false), Err);
        }
        let Some(from) = merged.keys().next().copied() else { return Ok(true) };
        let mut differs = None;
        let logged = state.outcomes.logged();
        let own = state.outcomes_between(from, logged)?;
        for outcomes in &own {
            let mut counted = outcomes.counted.iter().peekable();
            for lsn in outcomes.prev + 1..=outcomes.last {
                let visit = counted.next_if(|outcome| outcome.lsn == lsn).map(|outcome| outcome.visit.clone());
                match merged.get(&Lsn(lsn)) {
                    Some((epoch, other)) if *epoch > outcomes.epoch => {
                        if *other != visit {
                            differs.get_or_insert(Lsn(lsn));
                        }
                    }
                    _ => {
                        merged.insert(Lsn(lsn), (outcomes.epoch, visit));
                    }
                }
            }
        }
        // From the first change, or behind what is logged.
        let kept = differs.map_or(state.outcomes.logged(), |lsn| Lsn(lsn.0 - 1));
        state.void_above(kept)?;
        for outcomes in in_runs(merged.range(kept.next()..)) {
            state.outcomes.append(&outcomes)?;
        }
        state.outcomes.sync()?;
        Ok(true)
    }

    /// What is known about the records from `from` to `through`; one that is missing has no outcome.
    pub fn known(&self, from: Lsn, through: Lsn) -> Result<BTreeMap<Lsn, Decided>, LogError> {
        self.lock().known(from, through)
    }

    /// What central knows. It never goes back.
    pub fn progress(&self, progress: &Progress) {
        let mut state = self.lock();
        state.accepted = state.accepted.max(Lsn(progress.accepted));
        state.watermark_ms = state.watermark_ms.max(progress.watermark_ms);
    }

    /// Redis and central know no newer log of this gateway: rows may leave.
    pub fn begin_shipping(&self) {
        self.lock().current = true;
    }

    /// In the epoch that this gateway is registered in, Redis will not forget these.
    pub fn durable(&self, durable: Lsn) {
        self.lock().durable = durable;
    }

    /// What may leave, from `after` on; of another generation, from its acknowledged position on. `None` before
    /// [`Self::begin_shipping`].
    pub fn ship(&self, generation: u64, after: Lsn) -> Result<Option<Shipment>, LogError> {
        let mut state = self.lock();
        if !state.current {
            return Ok(None);
        }
        let after = if generation == state.raw.generation { after } else { state.raw.acked };
        let through = state.durable.max(state.accepted);
        let mut outcomes = if after < through { state.outcomes.read(after.next())? } else { Vec::new() };
        outcomes.retain_mut(|outcomes| {
            *outcomes = clip(outcomes, after, through);
            outcomes.prev < outcomes.last
        });
        Ok(Some(Shipment { generation: state.raw.generation, after, logged: state.outcomes.synced(), outcomes }))
    }

    /// Where shipping begins on a new stream: generation and position.
    pub fn shipped(&self) -> (u64, Lsn) {
        let state = self.lock();
        (state.raw.generation, state.raw.acked)
    }

    /// Central has the rows up to `last`. Of another generation it says nothing: false.
    pub fn acked(&self, generation: u64, last: Lsn) -> bool {
        let mut state = self.lock();
        if generation != state.raw.generation || last > state.outcomes.logged() {
            return false;
        }
        state.raw.acked = state.raw.acked.max(last);
        true
    }

    /// Writes down how far shipping is, so that the next start does not repeat it.
    /// On a full disk the next call tries again.
    pub fn keep(&self) -> Result<(), LogError> {
        match self.lock().keep() {
            Err(error) if error.is_full() => Ok(()),
            kept => kept,
        }
    }

    /// What decides about trimming.
    pub fn allowed(&self) -> Allowed {
        let state = self.lock();
        Allowed { accepted: state.accepted, shipped: state.raw.acked, watermark_ms: state.watermark_ms }
    }

    /// The log begins at `first`: what was decided about records before it goes.
    pub fn trim(&self, first: Lsn) -> Result<(), LogError> {
        let mut state = self.lock();
        state.first = state.first.max(first);
        state.outcomes.trim(first)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Up to here outcomes are known, or were trimmed with their records.
    fn reach(&self) -> Lsn {
        self.outcomes.logged().max(Lsn(self.first.0 - 1))
    }

    fn void_above(&mut self, last: Lsn) -> Result<(), LogError> {
        if self.outcomes.logged() <= last {
            return Ok(());
        }
        // First what says that rows were shipped: the other way round a crash would leave new outcomes that pass for shipped.
        if controls::keeps("8-again") {
            self.raw = RawPosition { generation: self.raw.generation + 1, acked: self.raw.acked.min(last) };
        }
        self.durable = self.durable.min(last);
        self.keep()?;
        self.outcomes.void_above(last)
    }

    fn keep(&mut self) -> Result<(), LogError> {
        if self.kept != self.raw {
            let text = format!("{} {}\n", self.raw.generation, self.raw.acked);
            write_durably(&self.path, text.as_bytes())
                .map_err(|source| LogError::Io { path: self.path.clone(), source })?;
            self.kept = self.raw;
        }
        Ok(())
    }

    fn outcomes_between(&mut self, from: Lsn, through: Lsn) -> Result<Vec<Outcomes>, LogError> {
        let (mut found, mut next) = (Vec::new(), from);
        while next <= through {
            let read = self.outcomes.read(next)?;
            let Some(last) = read.last() else { break };
            next = Lsn(last.last + 1);
            found.extend(read.iter().map(|outcomes| clip(outcomes, Lsn(from.0 - 1), through)));
        }
        found.retain(|outcomes| outcomes.prev < outcomes.last);
        Ok(found)
    }

    fn known(&mut self, from: Lsn, through: Lsn) -> Result<BTreeMap<Lsn, Decided>, LogError> {
        Ok(self.outcomes_between(from, through)?.iter().flat_map(decided).collect())
    }
}

impl RawPosition {
    fn parse(text: &str) -> Option<Self> {
        let (generation, acked) = text.trim().split_once(' ')?;
        Some(Self { generation: generation.parse().ok()?, acked: Lsn(acked.parse().ok()?) })
    }
}

/// Neighbours of one epoch together, some thousand at most.
fn in_runs<'a>(records: impl Iterator<Item = (&'a Lsn, &'a (u64, Option<Vec<u8>>))>) -> Vec<Outcomes> {
    const RUN_MAX: u64 = 1000;
    let mut runs: Vec<Outcomes> = Vec::new();
    for (lsn, (epoch, visit)) in records {
        let goes_on =
            |run: &&mut Outcomes| run.last + 1 == lsn.0 && run.epoch == *epoch && run.last - run.prev < RUN_MAX;
        let counted = visit.iter().map(|visit| Outcome { lsn: lsn.0, visit: visit.clone() });
        match runs.last_mut().filter(goes_on) {
            Some(run) => {
                run.last = lsn.0;
                run.counted.extend(counted);
            }
            None => runs.push(Outcomes {
                gateway: String::new(),
                epoch: *epoch,
                prev: lsn.0 - 1,
                last: lsn.0,
                counted: counted.collect(),
            }),
        }
    }
    runs
}
