//! What a gateway tells Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use proto::agent::Reason;

use crate::door::sites::Unkeyed;
use crate::ingest::cardinality::{self, Replaced};
use crate::ingest::validate::{Remarks, label};

/// One reason of the ledger; there are some thirty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// How a batch came.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransportLabel {
    transport: &'static str,
}

/// Which limit a connection would have exceeded: `address`, `network` or `core`; or `overload`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabel {
    reason: &'static str,
}

/// What a gateway depends on: `redis` or `central`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DependencyLabel {
    to: &'static str,
}

/// How a gateway stands to what it depends on. While it does not answer nobody calls it but one, now and then, to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    /// Everything passes.
    Closed = 0,
    /// One call tries whether it answers again.
    HalfOpen = 1,
    /// Nothing is tried for a while.
    Open = 2,
}

/// A kind of what a site names: `path`, `event_name`, `prop_key` or `prop_value`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    kind: &'static str,
}

/// A site that has keys and does not require them, and what came: `missing` or `wrong`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnkeyedLabel {
    site: String,
    key: &'static str,
}

/// A rule of the operator's; there are 1,000 at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuleLabel {
    /// Its name.
    pub rule: String,
    /// `observe` or `block`.
    pub mode: &'static str,
}

/// Shared by the cores.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Open connections.
    pub connections: Gauge,
    /// Connections refused, by the limit that they would have exceeded.
    pub connections_refused: Family<LimitLabel, Counter>,
    /// 1: newcomers are turned away, so that who is connected is answered.
    pub overloaded: Gauge,
    /// Batches between their acceptance and Redis.
    pub in_flight: Gauge,
    /// How this gateway stands to what it depends on: a [`Breaker`].
    pub breakers: Family<DependencyLabel, Gauge>,
    /// Requests that a rule hit, by rule; those of rules that are gone are gone too.
    pub waf_hits: Family<RuleLabel, Counter>,
    /// Changed rules that could not be used.
    pub waf_reload_failures: Counter,
    /// Requests that passed a rule's rate because it could remember no more clients.
    pub waf_unremembered: Counter,
    /// Changed lists of data centres that could not be used.
    pub data_centres_reload_failures: Counter,
    /// Batches that went towards the log, by transport.
    pub batches: Family<TransportLabel, Counter>,
    /// Batches and frames not taken, and batches finally refused, by reason.
    pub refusals: Family<ReasonLabel, Counter>,
    /// Batches that a site which has keys would refuse if it required them, by site and by whether the key is missing or wrong.
    pub unkeyed_batches: Family<UnkeyedLabel, Counter>,
    /// Events that are counted and that their site's schema would drop if it were enforced, by reason.
    pub observed_events: Family<ReasonLabel, Counter>,
    /// Events in which personal data was redacted.
    pub redacted_events: Counter,
    /// What was beyond what a site may name, and became `(other)`, by kind.
    pub replaced_values: Family<KindLabel, Counter>,
    /// Batches asked to come later.
    pub throttled: Counter,
    /// Records that are in the log.
    pub log_records: Counter,
    /// Time of one group commit, seconds.
    pub log_flush_seconds: Histogram,
    /// 1: the disk has no room for the log's next segment, and no batch is taken.
    pub log_full: Gauge,
    /// Calls of the apply function.
    pub apply_calls: Counter,
    /// Records that Redis has counted.
    pub applied_records: Counter,
    /// Records that Redis had seen before.
    pub duplicate_records: Counter,
    /// Records read from the log again.
    pub replayed_records: Counter,
    /// How far this machine's clock was from the region's at the last report, milliseconds.
    pub clock_skew_ms: Gauge,
    /// Configurations that central sent and this gateway could not use.
    pub bad_configurations: Counter,
    /// The last record whose outcome is in the outcome log.
    pub outcomes_logged: Gauge,
    /// Raw rows sent to central, one a batch.
    pub raw_batches: Counter,
    /// Records too large for a frame to central: counted, and missing among the raw rows.
    pub raw_too_large: Counter,
    /// The last record whose raw row central has, or that has none.
    pub raw_position: Gauge,
    /// Records in the log whose raw row central does not have.
    pub raw_lag_records: Gauge,
    /// Segments of the log that were deleted.
    pub trimmed_segments: Counter,
    /// Bytes of the log's segments.
    pub log_bytes: Gauge,
}

impl Metrics {
    /// With every metric registered.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            connections: Gauge::default(),
            connections_refused: Family::default(),
            overloaded: Gauge::default(),
            in_flight: Gauge::default(),
            breakers: Family::default(),
            waf_hits: Family::default(),
            waf_reload_failures: Counter::default(),
            waf_unremembered: Counter::default(),
            data_centres_reload_failures: Counter::default(),
            batches: Family::default(),
            refusals: Family::default(),
            unkeyed_batches: Family::default(),
            observed_events: Family::default(),
            redacted_events: Counter::default(),
            replaced_values: Family::default(),
            throttled: Counter::default(),
            log_records: Counter::default(),
            log_flush_seconds: Histogram::new(exponential_buckets(0.00005, 2.0, 16)),
            log_full: Gauge::default(),
            apply_calls: Counter::default(),
            applied_records: Counter::default(),
            duplicate_records: Counter::default(),
            replayed_records: Counter::default(),
            clock_skew_ms: Gauge::default(),
            bad_configurations: Counter::default(),
            outcomes_logged: Gauge::default(),
            raw_batches: Counter::default(),
            raw_too_large: Counter::default(),
            raw_position: Gauge::default(),
            raw_lag_records: Gauge::default(),
            trimmed_segments: Counter::default(),
            log_bytes: Gauge::default(),
        };
        let m = metrics.clone();
        registry.register("tideline_gateway_connections", "Open connections", m.connections);
        registry.register(
            "tideline_gateway_connections_refused",
            "Connections refused by a limit",
            m.connections_refused,
        );
        registry.register("tideline_gateway_overloaded", "Newcomers are turned away", m.overloaded);
        registry.register("tideline_gateway_in_flight_batches", "Batches on their way to Redis", m.in_flight);
        registry.register("tideline_gateway_breaker", "0 closed, 1 half open, 2 open", m.breakers);
        registry.register("tideline_gateway_waf_hits", "Requests that a rule hit", m.waf_hits);
        registry.register(
            "tideline_gateway_waf_reload_failures",
            "Changed rules that could not be used",
            m.waf_reload_failures,
        );
        registry.register(
            "tideline_gateway_waf_unremembered",
            "Requests that passed a full table of clients",
            m.waf_unremembered,
        );
        registry.register(
            "tideline_gateway_data_centres_reload_failures",
            "Changed lists of data centres that could not be used",
            m.data_centres_reload_failures,
        );
        registry.register("tideline_gateway_batches", "Batches that went towards the log", m.batches);
        registry.register("tideline_gateway_refusals", "Batches and frames refused", m.refusals);
        registry.register(
            "tideline_gateway_unkeyed_batches",
            "Batches that would be refused if keys were required",
            m.unkeyed_batches,
        );
        registry.register(
            "tideline_gateway_observed_events",
            "Events counted that an enforced schema would drop",
            m.observed_events,
        );
        registry.register(
            "tideline_gateway_redacted_events",
            "Events in which personal data was redacted",
            m.redacted_events,
        );
        registry.register("tideline_gateway_replaced_values", "Values beyond a site's limits", m.replaced_values);
        registry.register("tideline_gateway_throttled", "Batches asked to come later", m.throttled);
        registry.register("tideline_gateway_log_records", "Records in the log", m.log_records);
        registry.register("tideline_gateway_log_flush_seconds", "Time of one group commit", m.log_flush_seconds);
        registry.register("tideline_gateway_log_full", "The disk has no room for the log", m.log_full);
        registry.register("tideline_gateway_apply_calls", "Calls of the apply function", m.apply_calls);
        registry.register("tideline_gateway_applied_records", "Records that Redis has counted", m.applied_records);
        registry.register(
            "tideline_gateway_duplicate_records",
            "Records that Redis had seen before",
            m.duplicate_records,
        );
        registry.register("tideline_gateway_replayed_records", "Records read from the log again", m.replayed_records);
        registry.register(
            "tideline_gateway_clock_skew_milliseconds",
            "Distance from the region's clock",
            m.clock_skew_ms,
        );
        registry.register(
            "tideline_gateway_bad_configurations",
            "Configurations that could not be used",
            m.bad_configurations,
        );
        registry.register("tideline_gateway_outcomes_logged", "Last record whose outcome is logged", m.outcomes_logged);
        registry.register("tideline_gateway_raw_batches", "Raw rows sent to central", m.raw_batches);
        registry.register("tideline_gateway_raw_too_large", "Records without a raw row: too large", m.raw_too_large);
        registry.register("tideline_gateway_raw_position", "Last record whose raw row central has", m.raw_position);
        registry.register("tideline_gateway_raw_lag_records", "Records whose raw row has not left", m.raw_lag_records);
        registry.register("tideline_gateway_trimmed_segments", "Segments of the log deleted", m.trimmed_segments);
        registry.register("tideline_gateway_log_bytes", "Bytes of the log", m.log_bytes);
        metrics
    }

    /// A refusal, by its reason.
    pub fn refused(&self, reason: Reason) {
        self.refusals.get_or_create(&ReasonLabel { reason: label(reason) }).inc();
    }

    /// A batch without one of its site's keys.
    pub fn unkeyed(&self, site: &str, unkeyed: Unkeyed) {
        let label = UnkeyedLabel { site: site.to_owned(), key: unkeyed.label() };
        self.unkeyed_batches.get_or_create(&label).inc();
    }

    /// How this gateway stands to `redis` or `central`.
    pub fn breaker(&self, to: &'static str, breaker: Breaker) {
        self.breakers.get_or_create(&DependencyLabel { to }).set(breaker as i64);
    }

    /// What a site's rules found.
    pub fn remarked(&self, remarks: &Remarks) {
        for &(reason, events) in &remarks.observed {
            self.observed_events.get_or_create(&ReasonLabel { reason: label(reason) }).inc_by(events.into());
        }
        self.redacted_events.inc_by(remarks.redacted.into());
    }

    /// What became `(other)`.
    pub fn replaced(&self, replaced: Replaced) {
        for kind in cardinality::Kind::ALL {
            let values = replaced.of(kind);
            if values > 0 {
                self.replaced_values.get_or_create(&KindLabel { kind: kind.label() }).inc_by(values.into());
            }
        }
    }

    /// A connection too many for this limit.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&LimitLabel { reason }).inc();
    }

    /// A batch that came this way.
    pub fn batch(&self, transport: &'static str) {
        self.batches.get_or_create(&TransportLabel { transport }).inc();
    }
}
