//! What the aggregator tells about itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// One a process. Cloning shares the figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// 1 while this process leads its shard: Redis is approved, and the stream to central is up.
    pub leading: Gauge,
    /// 1 while Redis and central do not know the same history, and nothing is counted: someone must act.
    pub mismatch: Gauge,
    /// The epoch under which Redis counts; it grows when a Redis was lost.
    pub epoch: Gauge,
    /// 1 while Redis is being rebuilt and waits for gateways: nothing is applied meanwhile.
    pub rebuilding: Gauge,
    /// Gateways that the rebuild waits for.
    pub waiting_gateways: Gauge,
    /// Rebuilds that this process began.
    pub rebuilds: Counter,
    /// What Redis holds, bytes.
    pub redis_memory_used: Gauge,
    /// What it may hold, bytes; 0: it has no limit.
    pub redis_memory_max: Gauge,
    /// Leaderships that ended otherwise than by a stop.
    pub interruptions: Counter,
    /// Settled flushes.
    pub flushes: Counter,
    /// Rows of settled flushes.
    pub flush_rows: Counter,
    /// Bytes of the rows of settled flushes, as they travelled.
    pub flush_bytes: Counter,
    /// From a cut's start to its settling, seconds.
    pub flush_seconds: Histogram,
    /// The number of the flush that was settled last.
    pub settled_flush: Gauge,
    /// Live figures sent.
    pub live: Counter,
    /// Live figures not sent because the stream was busy or there were too many of them for one frame.
    pub live_skipped: Counter,
}

impl Metrics {
    /// Makes them and enters them into the registry.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            leading: Gauge::default(),
            mismatch: Gauge::default(),
            epoch: Gauge::default(),
            rebuilding: Gauge::default(),
            waiting_gateways: Gauge::default(),
            rebuilds: Counter::default(),
            redis_memory_used: Gauge::default(),
            redis_memory_max: Gauge::default(),
            interruptions: Counter::default(),
            flushes: Counter::default(),
            flush_rows: Counter::default(),
            flush_bytes: Counter::default(),
            // 1 ms to 33 s: a bucket on loopback, and one that gathered while central was away.
            flush_seconds: Histogram::new((0..16).map(|step| 0.001 * f64::from(1 << step))),
            settled_flush: Gauge::default(),
            live: Counter::default(),
            live_skipped: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("tideline_aggregator");
        let m = &metrics;
        registry.register("leading", "1 while this process leads its shard", m.leading.clone());
        let help = "1 while Redis and central do not know the same history";
        registry.register("mismatch", help, m.mismatch.clone());
        registry.register("epoch", "Under which Redis counts: it grows when a Redis was lost", m.epoch.clone());
        let help = "1 while Redis is being rebuilt and waits for gateways";
        registry.register("rebuilding", help, m.rebuilding.clone());
        registry.register("waiting_gateways", "That the rebuild waits for", m.waiting_gateways.clone());
        registry.register("rebuilds", "Rebuilds of a lost Redis begun", m.rebuilds.clone());
        let (used, max) = (m.redis_memory_used.clone(), m.redis_memory_max.clone());
        registry.register_with_unit("redis_memory_used", "What Redis holds", Unit::Bytes, used);
        registry.register_with_unit("redis_memory_max", "What Redis may hold; 0: no limit", Unit::Bytes, max);
        registry.register("interruptions", "Leaderships that broke", m.interruptions.clone());
        registry.register("flushes", "Settled flushes", m.flushes.clone());
        registry.register("flush_rows", "Rows of settled flushes", m.flush_rows.clone());
        let help = "Rows of settled flushes as they travelled";
        registry.register_with_unit("flush", help, Unit::Bytes, m.flush_bytes.clone());
        let help = "From a cut's start to its settling";
        registry.register_with_unit("flush_duration", help, Unit::Seconds, m.flush_seconds.clone());
        registry.register("settled_flush", "The flush that was settled last", m.settled_flush.clone());
        registry.register("live", "Live figures sent", m.live.clone());
        registry.register("live_skipped", "Live figures not sent", m.live_skipped.clone());
        metrics
    }
}
