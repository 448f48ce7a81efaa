//! What a run does to its processes, their disks, their network and their clocks.

use std::time::Duration;

use clap::ValueEnum;
use rand::RngExt;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep};

use super::{GATEWAYS, Lasts, MINUTE_MS, Simulation};
use crate::disk;
use crate::gateway as process;
use crate::network::Weather;

/// `ValueEnum` lists them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fault {
    KillGateway,
    /// Its machine loses power: what was not flushed is gone.
    LosePower,
    /// Redis does not hear it, nor it Redis.
    SilenceGateway,
    /// Nor do gateways and central each other.
    SilenceCentral,
    LoseFolder,
    /// To a state since its last barrier.
    RollRedisBack,
    /// From a backup that is older.
    RestoreRedis,
    LoseRedis,
    AnotherAggregator,
    /// The aggregator stands still for a while and goes on, perhaps after another one took over.
    PauseAggregator,
    KillCentral,
    MoveRedisClock,
    /// Of all machines of the region, into the past: gateways that start meanwhile know no better.
    MoveRegionClock,
}

impl Simulation {
    /// Faults, for as long as the run lasts; how many.
    pub(super) async fn chaos(&mut self, lasts: &Lasts) -> u64 {
        let ends = Instant::now() + Duration::from_millis(lasts.minutes * MINUTE_MS);
        let delay_ms = *[20, 300, 3000].choose(&mut self.random).expect("three");
        let loss = *[0.0, 0.002, 0.02].choose(&mut self.random).expect("three");
        self.weather = Weather { delay_ms, loss };
        self.networks.iter().chain(self.leaders.iter().map(|it| &it.network)).for_each(|it| it.set(self.weather));
        self.books.fail(*[0.0, 0.05, 0.3].choose(&mut self.random).expect("three"));
        // Each seed has faults of its own.
        let weigh = |fault| (fault, *[0, 1, 3].choose(&mut self.random).expect("three"));
        let weighed: Vec<(&Fault, u32)> = Fault::value_variants().iter().map(weigh).collect();
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
            faults += 1;
            self.inflict(**fault, lasts);
        }
        faults
    }

    fn inflict(&mut self, fault: Fault, lasts: &Lasts) {
        let gateway = self.random.random_range(0..GATEWAYS);
        let mut most_s = 90;
        if self.lasts_hours && self.random.random_bool(0.2) {
            most_s = lasts.minutes * 60 * 4 / 5; // long enough for bitmaps to go and logs to be trimmed
        }
        let for_a_while = Duration::from_secs(self.random.random_range(1..most_s));
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
                let ahead_ms = *[0, 0, -3 * 3_600_000, -86_400_000].choose(&mut self.random).expect("four");
                self.trace(&format!("the clocks of the region are {ahead_ms} ms ahead"));
                self.world.set_region_ahead(ahead_ms);
                self.clocks_jumped |= ahead_ms != 0;
            }
        }
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
        match (self.copies[number].take(), id) {
            (Some(copy), id) => {
                self.trace(&format!("gateway {number} has its folder from an older copy"));
                // The copy may be of a gateway before this one, which then is lost and never comes back by itself.
                let of_copy = std::fs::read_to_string(copy.join("id")).unwrap_or_default();
                if let Some(lost) = id.filter(|id| !of_copy.starts_with(&id.to_string())) {
                    self.trace(&format!("{lost} is retired"));
                    self.books.retire(&lost);
                }
                self.folder_restored = true;
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

    fn copy_folder(&mut self, number: usize) {
        if self.gateways[number].is_none() && self.folder(number).is_dir() {
            let copy = self.folders.path().join(format!("copy-{number}-{}", self.world.elapsed_ms()));
            if process::copy_folder(&self.folder(number), &copy).is_ok() {
                self.copies[number] = Some(copy);
            }
        }
    }
}
