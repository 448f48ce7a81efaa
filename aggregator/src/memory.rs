//! How full Redis is: said once when it crosses a line.

use regional_redis::{Link, LinkError, Memory};
use tracing::{error, info, warn};

use crate::metrics::Metrics;

/// Percent of `maxmemory` at which to act: central is away for long, or Redis is too small.
const WARN_PERCENT: u64 = 70;
/// Percent at which gateways refuse, or are about to.
const FULL_PERCENT: u64 = 85;

/// What was said last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Fine,
    High,
    Full,
}

impl Level {
    /// Looks, tells, and says what has changed since the last time.
    pub async fn look(&mut self, link: &mut Link, metrics: &Metrics) -> Result<(), LinkError> {
        let Memory { used, max } = link.memory().await?;
        metrics.redis_memory_used.set(used.try_into().unwrap_or(i64::MAX));
        metrics.redis_memory_max.set(max.try_into().unwrap_or(i64::MAX));
        let now = level(used, max);
        match now {
            _ if now == *self => {}
            Level::Fine => info!(used, max, "redis has room again"),
            Level::High => warn!(used, max, "redis is more than {WARN_PERCENT} % full: is central away?"),
            Level::Full => error!(used, max, "redis is more than {FULL_PERCENT} % full: gateways are about to refuse"),
        }
        *self = now;
        Ok(())
    }
}

/// Without a limit it is never full, as far as it knows itself.
fn level(used: u64, max: u64) -> Level {
    let at_least = |percent: u64| max > 0 && u128::from(used) * 100 >= u128::from(max) * u128::from(percent);
    match (at_least(FULL_PERCENT), at_least(WARN_PERCENT)) {
        (true, _) => Level::Full,
        (_, true) => Level::High,
        _ => Level::Fine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_at_seventy_and_eighty_five_percent() {
        let levels: Vec<_> = [0, 699, 700, 849, 850, 2000].into_iter().map(|used| level(used, 1000)).collect();
        assert_eq!(levels, [Level::Fine, Level::Fine, Level::High, Level::High, Level::Full, Level::Full]);
        assert_eq!(level(u64::MAX, 0), Level::Fine);
        assert_eq!(level(u64::MAX, u64::MAX), Level::Full);
    }
}
