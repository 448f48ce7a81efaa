//! What central tells about itself.

use std::{
    fmt::{self, Write as _},
    sync::atomic::AtomicU64,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// One a process. Cloning shares the figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Flushes, by what became of them.
    pub flushes: Family<FlushLabels, Counter>,
    /// Rows of accepted flushes.
    pub flush_rows: Counter,
    /// Bytes of the rows of accepted flushes, as they travelled.
    pub flush_bytes: Counter,
    /// Rows of accepted flushes whose site central does not know. They are stored all the same.
    pub unknown_site_rows: Counter,
    /// From a whole flush in memory to its acknowledgement, seconds.
    pub accept_seconds: Histogram,
    /// From the cut in the region to the acceptance here, by both clocks, seconds: how far reports lag behind.
    pub flush_age_seconds: Gauge<f64, AtomicU64>,
    /// Raw rows that are durable, repeats among them.
    pub raw_rows: Counter,
    /// Epochs that were opened: a Redis was lost, or fell behind what central was told.
    pub epochs: Counter,
    /// Open uplink streams, by who is at their other end.
    pub uplink_streams: Family<PeerLabels, Gauge>,
    /// Uplink streams that ended with a refusal.
    pub uplink_refusals: Counter,
    /// Uplink calls without the right token.
    pub uplink_unauthorized: Counter,
    /// Requests of the dashboard and the API, by route and status.
    pub http_requests: Family<RequestLabels, Counter>,
    /// From a request's head to its answer's, by route, seconds.
    pub http_seconds: Family<RouteLabels, Histogram>,
}

/// Label of [`Metrics::flushes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlushLabels {
    /// What became of it.
    pub result: FlushResult,
}

/// What becomes of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlushResult {
    /// In the store, for the first time.
    Accepted,
    /// Accepted before; acknowledged again.
    Repeated,
    /// Not one, or not the one that is due.
    Refused,
    /// The store could not take it.
    Failed,
}

impl EncodeLabelValue for FlushResult {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self {
            Self::Accepted => "accepted",
            Self::Repeated => "repeated",
            Self::Refused => "refused",
            Self::Failed => "failed",
        })
    }
}

/// Label of [`Metrics::uplink_streams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabels {
    /// The process at the other end.
    pub peer: Peer,
}

/// Who is at the other end of an uplink stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Sends flushes.
    Aggregator,
    /// Is told sites and salts.
    Gateway,
}

impl EncodeLabelValue for Peer {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self {
            Self::Aggregator => "aggregator",
            Self::Gateway => "gateway",
        })
    }
}

/// Labels of [`Metrics::http_requests`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's pattern, or "file" for the dashboard's files.
    pub route: String,
    /// The answer's status.
    pub status: u16,
}

/// Label of [`Metrics::http_seconds`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's pattern, or "file" for the dashboard's files.
    pub route: String,
}

/// 1 ms to 33 s: an in-memory answer and the slowest report.
fn seconds() -> Histogram {
    Histogram::new((0..16).map(|step| 0.001 * f64::from(1 << step)))
}

impl Metrics {
    /// Makes them and enters them into the registry.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            flushes: Family::default(),
            flush_rows: Counter::default(),
            flush_bytes: Counter::default(),
            unknown_site_rows: Counter::default(),
            accept_seconds: seconds(),
            flush_age_seconds: Gauge::default(),
            raw_rows: Counter::default(),
            epochs: Counter::default(),
            uplink_streams: Family::default(),
            uplink_refusals: Counter::default(),
            uplink_unauthorized: Counter::default(),
            http_requests: Family::default(),
            http_seconds: Family::new_with_constructor(seconds),
        };
        let registry = registry.sub_registry_with_prefix("tideline_central");
        let m = &metrics;
        registry.register("flushes", "Flushes, by what became of them", m.flushes.clone());
        registry.register("flush_rows", "Rows of accepted flushes", m.flush_rows.clone());
        let help = "Rows of accepted flushes as they travelled";
        registry.register_with_unit("flush", help, Unit::Bytes, m.flush_bytes.clone());
        let help = "Rows of accepted flushes whose site is not known here";
        registry.register("unknown_site_rows", help, m.unknown_site_rows.clone());
        let help = "From a whole flush in memory to its acknowledgement";
        registry.register_with_unit("accept", help, Unit::Seconds, m.accept_seconds.clone());
        let help = "From the newest accepted cut in the region to its acceptance";
        registry.register_with_unit("flush_age", help, Unit::Seconds, m.flush_age_seconds.clone());
        registry.register("raw_rows", "Raw rows that are durable", m.raw_rows.clone());
        registry.register("epochs", "Epochs opened to rebuild a lost Redis", m.epochs.clone());
        registry.register("uplink_streams", "Open uplink streams", m.uplink_streams.clone());
        registry.register("uplink_refusals", "Uplink streams ended with a refusal", m.uplink_refusals.clone());
        let help = "Uplink calls without the right token";
        registry.register("uplink_unauthorized", help, m.uplink_unauthorized.clone());
        registry.register("http_requests", "Requests, by route and status", m.http_requests.clone());
        let help = "From a request's head to its answer's";
        registry.register_with_unit("http", help, Unit::Seconds, m.http_seconds.clone());
        metrics
    }

    /// Counts a flush.
    pub fn flush(&self, result: FlushResult) {
        self.flushes.get_or_create(&FlushLabels { result }).inc();
    }

    /// Counts a stream as open until what this returns is dropped.
    pub fn stream(&self, peer: Peer) -> OpenStream {
        let gauge = self.uplink_streams.get_or_create(&PeerLabels { peer }).clone();
        gauge.inc();
        OpenStream(gauge)
    }
}

/// An open uplink stream in the figures.
#[derive(Debug)]
pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}
