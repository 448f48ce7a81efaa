//! What a run does to its processes, their disks, their network and their clocks.

use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep};

use super::{GATEWAYS, Lasts, MINUTE_MS, Simulation};
use crate::disk;
use crate::gateway as process;
use crate::network::Weather;

#[derive(Clone, Copy, Debug)]
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

use Fault::{
    AnotherAggregator, KillCentral, KillGateway, LoseFolder, LosePower, LoseRedis, MoveRedisClock, MoveRegionClock,
    PauseAggregator, RestoreRedis, RollRedisBack, SilenceCentral, SilenceGateway,
};

const FAULTS: [Fault; 13] = [
    KillGateway,
    LosePower,
    SilenceGateway,
    SilenceCentral,
    LoseFolder,
    RollRedisBack,
    RestoreRedis,
    LoseRedis,
    AnotherAggregator,
    PauseAggregator,
    KillCentral,
    MoveRedisClock,
    MoveRegionClock,
];

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
        let weights = FAULTS.map(|_| *[0, 1, 3].choose(&mut self.random).expect("three"));
        let pause_ms = *lasts.pauses_ms.choose(&mut self.random).expect("some");
        let mut faults = 0;
        while Instant::now() < ends {
            sleep(Duration::from_millis(self.random.random_range(500..pause_ms))).await;
            self.tend();
            if self.random.random_bool(0.3) {
                let durable = self.redis().history()[0].clone();
                self.redis_backup = Some(durable);
            }
            let indices: Vec<_> = (0..FAULTS.len()).collect();
            let Ok(fault) = indices.choose_weighted(&mut self.random, |at| weights[*at]) else { continue };
            faults += 1;
            self.inflict(FAULTS[*fault], lasts);
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
            KillGateway => self.kill(gateway, for_a_while),
            LosePower => {
                let log = self.gateways[gateway].as_ref().and_then(|gateway| gateway.seen.log());
                self.kill(gateway, for_a_while);
                if let Some(log) = log {
                    self.trace("its machine has lost power");
                    disk::lose_power(&log, &mut self.random).expect("its log is there");
                }
            }
            SilenceGateway => self.networks[2 + gateway].silence(for_a_while),
            SilenceCentral => self.networks[1].silence(for_a_while),
            LoseFolder => self.lose_folder(gateway),
            RollRedisBack => {
                let history = self.redis().history().to_vec();
                let state = history.choose(&mut self.random).cloned();
                self.trace("redis falls back to a state since its barrier");
                self.redis().restart(state);
            }
            RestoreRedis => {
                if let Some(backup) = self.redis_backup.clone() {
                    self.trace("redis is restored from an older backup");
                    self.redis().restart(Some(backup));
                }
            }
            LoseRedis => {
                if self.random.random_bool(0.3) {
                    self.trace("redis is lost");
                    self.redis().restart(None);
                }
            }
            AnotherAggregator => {
                self.trace("another aggregator starts");
                self.lead();
                if self.random.random_bool(0.7) {
                    drop(self.leaders.remove(0));
                }
            }
            PauseAggregator => {
                self.trace(&format!("the aggregators stand still for {} s", for_a_while.as_secs()));
                self.leaders.iter().for_each(|leader| leader.network.silence(for_a_while));
                self.lead();
            }
            KillCentral => {
                self.trace("central is killed");
                self.central.kill();
            }
            MoveRedisClock => {
                let ahead_ms = *[0, 0, 1_500, 86_400_000, -86_400_000].choose(&mut self.random).expect("five");
                self.trace(&format!("the clock of redis is {ahead_ms} ms ahead"));
                self.world.set_redis_ahead(ahead_ms);
                self.clocks_jumped |= ahead_ms.abs() > MINUTE_MS as i64;
            }
            MoveRegionClock => {
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
