//! What a run does to its processes, their disks, their network and their clocks.

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use rand::RngExt;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep};

use super::{GATEWAYS, Lasts, MINUTE_MS, Simulation};
use crate::disk;
use crate::gateway as process;
use crate::network::Weather;
use gateway::door::capacity::WhenRedisIsAway;

/// `ValueEnum` lists them.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Fault {
    /// `kill -9`.
    KillGateway,
    /// Its machine loses power: what was not flushed is gone.
    LosePower,
    /// Redis does not hear it, nor it Redis.
    SilenceGateway,
    /// Nor do gateways and central each other.
    SilenceCentral,
    /// Emptied, or as it was before.
    LoseFolder,
    /// To another machine, where a gateway starts with it beside the first one.
    CopyFolder,
    /// To a state since its last barrier.
    RollRedisBack,
    /// From a backup that is older.
    RestoreRedis,
    /// With its disk.
    LoseRedis,
    /// Beside the one that leads, or in its place.
    AnotherAggregator,
    /// The aggregator stands still for a while and goes on, perhaps after another one took over.
    PauseAggregator,
    /// `kill -9`.
    KillCentral,
    /// By a day, or a little.
    MoveRedisClock,
    /// Of all machines of the region: gateways that start meanwhile know no better.
    MoveRegionClock,
}

impl Fault {
    fn is_of_a_gateway(self) -> bool {
        matches!(self, Self::KillGateway | Self::LosePower | Self::SilenceGateway | Self::LoseFolder)
    }

    fn is_of_redis(self) -> bool {
        matches!(self, Self::RollRedisBack | Self::RestoreRedis | Self::LoseRedis)
    }
}

/// What a run has instead of the faults of its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Only {
    /// A bit a fault; without any they are the seed's.
    faults: u32,
    /// Very many messages to central come late, when their sender has gone, and central has not heard of it.
    late_messages: bool,
}

impl Only {
    const LATE_MESSAGES: &str = "late-messages";

    /// Those of these names, with commas in between.
    pub fn of(names: &str) -> Result<Self, String> {
        let mut only = Self::default();
        for name in names.split(',') {
            match Fault::from_str(name, false) {
                _ if name == Self::LATE_MESSAGES => only.late_messages = true,
                Ok(fault) => only.faults |= 1 << fault as u32,
                Err(error) => {
                    let all = Fault::value_variants().iter().filter_map(Fault::to_possible_value);
                    let all: Vec<_> = all.map(|fault| fault.get_name().to_owned()).collect();
                    return Err(format!("{error}; there are {}, and {}", all.join(", "), Self::LATE_MESSAGES));
                }
            }
        }
        Ok(only)
    }

    fn weight(self, fault: Fault, by_seed: u32) -> u32 {
        if self.faults == 0 { by_seed } else { self.faults >> fault as u32 & 1 }
    }
}

impl Simulation {
    /// Faults, for as long as the run lasts; how many.
    pub(super) async fn chaos(&mut self, lasts: &Lasts, only: Only) -> u64 {
        let ends = Instant::now() + Duration::from_millis(lasts.minutes * MINUTE_MS);
        let delay_ms = *[20, 300, 3000].choose(&mut self.random).expect("three");
        let loss = *[0.0, 0.002, 0.02].choose(&mut self.random).expect("three");
        let late = *[0.0, 0.01, 0.05].choose(&mut self.random).expect("three");
        let half_open = only.late_messages;
        self.weather = Weather { delay_ms, loss, late: if half_open { 0.2 } else { late }, half_open };
        self.networks.iter().chain(self.leaders.iter().map(|it| &it.network)).for_each(|it| it.set(self.weather));
        self.books.fail(*[0.0, 0.05, 0.3].choose(&mut self.random).expect("three"));
        // Each seed has faults of its own.
        let mut weigh = |fault| only.weight(fault, *[0, 1, 3].choose(&mut self.random).expect("three"));
        let weighed: Vec<_> = Fault::value_variants().iter().map(|fault| (*fault, weigh(*fault))).collect();
        let pause_ms = *lasts.pauses_ms.choose(&mut self.random).expect("some");
        let mut faults = 0;
        while Instant::now() < ends {
            sleep(Duration::from_millis(self.random.random_range(500..pause_ms))).await;
            self.tend();
            if self.random.random_bool(0.3) {
                let durable = self.redis().history()[0].clone();
                self.redis_backup = Some(durable);
            }
            let Ok((fault, _)) = weighed.choose_weighted(&mut self.random, |(_, weight)| *weight) else { continue };
            faults += u64::from(self.inflict(*fault, lasts));
        }
        faults
    }

    /// False: it is not inflicted now.
    fn inflict(&mut self, fault: Fault, lasts: &Lasts) -> bool {
        let gateway = self.random.random_range(self.machines());
        let mut most_s = 90;
        if self.lasts_hours && self.random.random_bool(0.2) {
            most_s = lasts.minutes * 60 * 4 / 5; // long enough for bitmaps to go and logs to be trimmed
        }
        let for_a_while = Duration::from_secs(self.random.random_range(1..most_s));
        let twins = self.twins();
        if fault.is_of_redis() && !twins.is_empty() || fault.is_of_a_gateway() && twins.contains(&gateway) {
            return false; // two copies meet while both run and Redis loses nothing: more is not promised
        }
        match fault {
            Fault::KillGateway => self.kill(gateway, for_a_while),
            Fault::LosePower => {
                let log = self.gateways[gateway].as_ref().and_then(|gateway| gateway.seen.log());
                self.kill(gateway, for_a_while);
                if let Some(log) = log {
                    self.trace("its machine has lost power");
                    disk::lose_power(&log, &mut self.random).expect("its log is there");
                }
            }
            Fault::SilenceGateway => self.networks[2 + gateway].silence(for_a_while),
            Fault::SilenceCentral => self.networks[1].silence(for_a_while),
            Fault::LoseFolder => self.lose_folder(gateway),
            Fault::CopyFolder => self.twin(gateway),
            Fault::RollRedisBack => {
                let history = self.redis().history().to_vec();
                let state = history.choose(&mut self.random).cloned();
                self.trace("redis falls back to a state since its barrier");
                self.redis().restart(state);
            }
            Fault::RestoreRedis => {
                if let Some(backup) = self.redis_backup.clone() {
                    self.trace("redis is restored from an older backup");
                    self.redis().restart(Some(backup));
                }
            }
            Fault::LoseRedis => {
                if self.random.random_bool(0.3) {
                    self.trace("redis is lost");
                    self.redis().restart(None);
                }
            }
            Fault::AnotherAggregator => {
                self.trace("another aggregator starts");
                self.lead();
                if self.random.random_bool(0.7) {
                    drop(self.leaders.remove(0));
                }
            }
            Fault::PauseAggregator => {
                self.trace(&format!("the aggregators stand still for {} s", for_a_while.as_secs()));
                self.leaders.iter().for_each(|leader| leader.network.silence(for_a_while));
                self.lead();
            }
            Fault::KillCentral => {
                self.trace("central is killed");
                self.central.kill();
            }
            Fault::MoveRedisClock => {
                let ahead_ms = *[0, 0, 1_500, 86_400_000, -86_400_000].choose(&mut self.random).expect("five");
                self.trace(&format!("the clock of redis is {ahead_ms} ms ahead"));
                self.world.set_redis_ahead(ahead_ms);
                self.clocks_jumped |= ahead_ms.abs() > MINUTE_MS as i64;
            }
            Fault::MoveRegionClock => {
                // Forward by so much, the acceptance of everything is over.
                let hours = [0, 0, -24, -3, 3, 30].choose(&mut self.random).expect("six");
                let ahead_ms = hours * 60 * MINUTE_MS as i64;
                self.trace(&format!("the clocks of the region are {ahead_ms} ms ahead"));
                self.world.set_region_ahead(ahead_ms);
                self.clocks_jumped |= ahead_ms != 0;
            }
        }
        true
    }

    /// Emptied, or as an older copy has it. Nothing is promised for what had not left it.
    fn lose_folder(&mut self, number: usize) {
        let shipped = self.gateways[number].as_ref().is_some_and(|gateway| gateway.seen.is_shipped());
        if !shipped {
            return self.copy_folder(number);
        }
        let id = self.gateways[number].as_ref().and_then(|gateway| gateway.seen.id());
        self.kill(number, Duration::from_secs(20));
        // It could be removed before the process is quite gone: its tasks end at their next step, and take nothing any more.
        let folder = self.folder(number);
        let _ =
            std::fs::rename(&folder, self.folders.path().join(format!("lost-{number}-{}", self.world.elapsed_ms())));
        // What runs on another machine is no gateway that is lost.
        let run: Vec<_> = self.machines().map(|other| id_of(&self.folder(other))).collect();
        let copy = self.copies[number].take().filter(|copy| !run.contains(&id_of(copy)));
        match (copy, id) {
            (Some(copy), id) => {
                self.trace(&format!("gateway {number} has its folder from an older copy"));
                // The copy may be of a gateway before this one, which then is lost and never comes back by itself.
                let of_copy = id_of(&copy).unwrap_or_default();
                if let Some(lost) = id.filter(|id| *id != of_copy) {
                    self.trace(&format!("{lost} is retired"));
                    self.books.retire(&lost);
                }
                self.copied.insert(&of_copy);
                let _ = std::fs::rename(copy, folder);
            }
            (None, Some(id)) if !self.rules.holds("4-id") => {
                let _ = std::fs::create_dir_all(&folder);
                let _ = std::fs::write(folder.join("id"), format!("{id}\n"));
            }
            (None, Some(id)) => {
                self.trace(&format!("gateway {number} has lost its folder; {id} is retired"));
                self.books.retire(&id);
            }
            _ => {}
        }
    }

    /// Where the log alone is answered for, what a copy logged under the numbers of the other one may be lost.
    fn twin(&mut self, number: usize) {
        let there = self.folder(GATEWAYS);
        let possible = self.redis().counts() && self.folder(number).is_dir() && !there.is_dir();
        if !possible || self.policy == WhenRedisIsAway::StoreAndForward {
            return;
        }
        self.kill(number, Duration::ZERO);
        self.trace(&format!("the folder of gateway {number} is copied, and both start"));
        self.back[number] = Instant::now();
        if process::copy_folder(&self.folder(number), &there).is_ok() {
            self.copied.insert(&id_of(&there).unwrap_or_default());
            self.networks[2 + number].end_silence();
            self.networks[2 + GATEWAYS].end_silence();
        }
    }

    /// Machines whose folders have one id.
    fn twins(&self) -> Vec<usize> {
        let ids: Vec<_> = self.machines().map(|number| id_of(&self.folder(number))).collect();
        let is_twin =
            |number: &usize| ids[*number].is_some() && ids.iter().filter(|id| **id == ids[*number]).count() > 1;
        self.machines().filter(is_twin).collect()
    }

    fn copy_folder(&mut self, number: usize) {
        if self.gateways[number].is_none() && self.folder(number).is_dir() {
            let copy = self.folders.path().join(format!("copy-{number}-{}", self.world.elapsed_ms()));
            if process::copy_folder(&self.folder(number), &copy).is_ok() {
                self.copies[number] = Some(copy);
            }
        }
    }
}

/// Whose folder it is.
fn id_of(folder: &Path) -> Option<String> {
    std::fs::read_to_string(folder.join("id")).ok()?.lines().next().map(str::to_owned)
}
