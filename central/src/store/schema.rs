//! The tables. The site comes first in every order: a report is about one. `src` is a (region, shard, epoch) of the
//! table `streams`; with the flush number `n` it names the flush a row came with, so a flush sent twice replaces itself.

/// Names, with their database.
pub(crate) mod table {
    pub(crate) const STREAMS: &str = "tideline.streams";
    pub(crate) const FLUSHES: &str = "tideline.flushes";
    pub(crate) const ROLLUP_1M: &str = "tideline.rollup_1m";
    pub(crate) const VISITS: &str = "tideline.visits";
    pub(crate) const VISITS_STAGED: &str = "tideline.visits_staged";
    pub(crate) const UNIQUES: &str = "tideline.uniques";
    pub(crate) const UNIQUES_STAGED: &str = "tideline.uniques_staged";
    pub(crate) const LEDGER: &str = "tideline.ledger";
    pub(crate) const BATCHES: &str = "tideline.batches";
    pub(crate) const EVENTS: &str = "tideline.events";
}

/// What makes an insert that returned survive a loss of power.
const DURABLE: &str = "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1";

/// Makes what is not there.
pub(super) fn statements() -> Vec<String> {
    let create = |table: &str, columns: &str, engine: &str| {
        format!("CREATE TABLE IF NOT EXISTS {table} ({columns}) ENGINE = {engine} {DURABLE}")
    };
    let staged = format!("{VISIT_COLUMNS}, src UInt16, n UInt64");
    vec![
        "CREATE DATABASE IF NOT EXISTS tideline ENGINE = Atomic".to_owned(),
        create(table::STREAMS, STREAM_COLUMNS, "ReplacingMergeTree ORDER BY src"),
        // The manifest: what is listed here is accepted, and nothing else is.
        create(table::FLUSHES, FLUSH_COLUMNS, "ReplacingMergeTree(at) PARTITION BY toYYYYMM(cut) ORDER BY (src, n)"),
        // By the month of the cut, which is the same in a repeat, and one whatever minutes a flush holds.
        create(
            table::ROLLUP_1M,
            ROLLUP_COLUMNS,
            "ReplacingMergeTree PARTITION BY toYYYYMM(cut) ORDER BY (site, kind, t, value, src, n)",
        ),
        create(
            table::LEDGER,
            LEDGER_COLUMNS,
            "ReplacingMergeTree PARTITION BY toYYYYMM(cut) ORDER BY (site, day, reason, src, n)",
        ),
        // By the stamp inside the sid, which never changes: every state of a visit meets in one partition.
        create(
            table::VISITS,
            &format!("{VISIT_COLUMNS}, INDEX start_range start_ms TYPE minmax GRANULARITY 1"),
            "ReplacingMergeTree(ver) PARTITION BY toYYYYMM(stamp) ORDER BY (site, stamp, sid, seq)",
        ),
        // A flush a partition: dropped as a whole once its rows were copied.
        create(table::VISITS_STAGED, &staged, "MergeTree PARTITION BY (src, n) ORDER BY (site, stamp, sid, seq)"),
        create(
            table::UNIQUES,
            UNIQUE_COLUMNS,
            "AggregatingMergeTree PARTITION BY toYYYYMM(t) ORDER BY (site, kind, value, t)",
        ),
        create(
            table::UNIQUES_STAGED,
            UNIQUE_STAGED_COLUMNS,
            "MergeTree PARTITION BY (src, n) ORDER BY (site, kind, value, t)",
        ),
        // Raw rows come without a flush: a repeat replaces itself, and of several outcomes of one batch the highest
        // epoch stays. The stamp is the second inside the batch's sid.
        create(
            table::BATCHES,
            BATCH_COLUMNS,
            "ReplacingMergeTree(epoch) PARTITION BY toYYYYMM(stamp) ORDER BY (site, stamp, sid, seq)",
        ),
        create(
            table::EVENTS,
            &format!("{EVENT_COLUMNS}, INDEX at_range at_ms TYPE minmax GRANULARITY 1"),
            "ReplacingMergeTree(epoch) PARTITION BY toYYYYMM(stamp) ORDER BY (site, toDate(stamp), sid, seq, idx)",
        ),
        // What later versions added to tables that a folder may have already.
        add_columns(table::VISITS, &["src UInt16 CODEC(ZSTD(1))", ENTRY_MS, EXIT_MS]),
        add_columns(table::VISITS_STAGED, &[ENTRY_MS, EXIT_MS]),
        add_columns(table::FLUSHES, &["applied_by Array(String)"]),
    ]
}

fn add_columns(table: &str, columns: &[&str]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("ADD COLUMN IF NOT EXISTS {column}")).collect();
    format!("ALTER TABLE {table} {}", columns.join(", "))
}

/// Of a visit: when its earliest and its latest pageview were, 0 if it had none.
const ENTRY_MS: &str = "entry_ms UInt64 CODEC(Delta, ZSTD(1))";
const EXIT_MS: &str = "exit_ms UInt64 CODEC(Delta, ZSTD(1))";

/// The columns of a visit, as the copy out of the staging table lists them.
pub(super) const VISIT_NAMES: &str = "site, stamp, sid, seq, visitor, ver, start_ms, last_ms, pageviews, events, \
    engaged_ms, entry_page, exit_page, source, referrer, utm_source, utm_medium, utm_campaign, utm_content, utm_term, \
    country, region, city, browser, browser_version, os, os_version, device, screen, language, channel, hostname, \
    src, entry_ms, exit_ms";

const STREAM_COLUMNS: &str = "src UInt16, region String, shard UInt32, epoch UInt64";

const FLUSH_COLUMNS: &str = "src UInt16, n UInt64, term UInt64, watermark_ms UInt64, cut DateTime('UTC'), \
    gateways Array(String), lsns Array(UInt64), at DateTime64(3, 'UTC') DEFAULT now64(3)";

const ROLLUP_COLUMNS: &str = "site LowCardinality(String), kind UInt8, t DateTime('UTC') CODEC(Delta, ZSTD(1)), \
    value LowCardinality(String) CODEC(ZSTD(1)), pageviews UInt64 CODEC(ZSTD(1)), events UInt64 CODEC(ZSTD(1)), \
    engaged_ms UInt64 CODEC(ZSTD(1)), src UInt16 CODEC(ZSTD(1)), n UInt64 CODEC(ZSTD(1)), \
    cut DateTime('UTC') CODEC(Delta, ZSTD(1))";

const LEDGER_COLUMNS: &str = "site LowCardinality(String), day UInt32, reason UInt32, events UInt64, batches UInt64, \
    duplicates UInt64, src UInt16, n UInt64, cut DateTime('UTC')";

/// `stamp`: the second inside the sid. `ver`: epoch and version.
const VISIT_COLUMNS: &str = "site LowCardinality(String), stamp DateTime('UTC') CODEC(Delta, ZSTD(1)), \
    sid FixedString(16), seq UInt32 CODEC(ZSTD(1)), visitor UInt64, ver UInt128 CODEC(ZSTD(1)), \
    start_ms UInt64 CODEC(Delta, ZSTD(1)), last_ms UInt64 CODEC(Delta, ZSTD(1)), pageviews UInt32 CODEC(ZSTD(1)), \
    events UInt32 CODEC(ZSTD(1)), engaged_ms UInt64 CODEC(ZSTD(1)), entry_page LowCardinality(String), \
    exit_page LowCardinality(String), source LowCardinality(String), referrer LowCardinality(String), \
    utm_source LowCardinality(String), utm_medium LowCardinality(String), utm_campaign LowCardinality(String), \
    utm_content LowCardinality(String), utm_term LowCardinality(String), country LowCardinality(String), \
    region LowCardinality(String), city LowCardinality(String), browser LowCardinality(String), \
    browser_version LowCardinality(String), os LowCardinality(String), os_version LowCardinality(String), \
    device LowCardinality(String), screen LowCardinality(String), language LowCardinality(String), \
    channel LowCardinality(String), hostname LowCardinality(String)";

/// `t`: the quarter of an hour.
const UNIQUE_COLUMNS: &str = "site LowCardinality(String), kind UInt8, value LowCardinality(String), \
    t DateTime('UTC') CODEC(Delta, ZSTD(1)), visitors AggregateFunction(uniqCombined64(14), UInt64)";

const UNIQUE_STAGED_COLUMNS: &str = "site LowCardinality(String), kind UInt8, value LowCardinality(String), \
    t DateTime('UTC'), visitors Array(UInt64), src UInt16, n UInt64";

/// A row a record of a gateway's log. `events`, `pageviews`, `custom_events` and `engaged_ms` are what was counted;
/// `dropped_*` what was not (a reason is a `tideline.agent.v1.Reason`), `given_up_*` what the agent reported beside the
/// batch. `visit_sid` and `visit_seq` name the visit; a `visit_seq` of 0 is none, since nothing was counted.
const BATCH_COLUMNS: &str = "site LowCardinality(String), stamp DateTime('UTC') CODEC(Delta, ZSTD(1)), \
    sid FixedString(16), seq UInt32 CODEC(ZSTD(1)), class UInt8, gateway LowCardinality(String), \
    shard UInt32 CODEC(ZSTD(1)), lsn UInt64 CODEC(Delta, ZSTD(1)), epoch UInt64 CODEC(ZSTD(1)), \
    arrived_ms UInt64 CODEC(Delta, ZSTD(1)), visitor UInt64, visit_sid FixedString(16) CODEC(ZSTD(1)), \
    visit_seq UInt32 CODEC(ZSTD(1)), events UInt32 CODEC(ZSTD(1)), pageviews UInt32 CODEC(ZSTD(1)), \
    custom_events UInt32 CODEC(ZSTD(1)), engaged_ms UInt64 CODEC(ZSTD(1)), \
    dropped_reasons Array(UInt32) CODEC(ZSTD(1)), dropped_events Array(UInt32) CODEC(ZSTD(1)), \
    given_up_reasons Array(UInt32) CODEC(ZSTD(1)), given_up_events Array(UInt32) CODEC(ZSTD(1)), \
    given_up_batches Array(UInt32) CODEC(ZSTD(1))";

/// A row an event that was counted. Behind the first epoch also a row an event that was dropped: it has `counted` 0 and
/// nothing else to say, and replaces the one of an earlier epoch that counted it. The visit's dimensions are in `visits`, under `visit_sid` and `visit_seq`.
const EVENT_COLUMNS: &str = "site LowCardinality(String), stamp DateTime('UTC') CODEC(Delta, ZSTD(1)), \
    sid FixedString(16) CODEC(ZSTD(1)), seq UInt32 CODEC(ZSTD(1)), idx UInt32 CODEC(ZSTD(1)), \
    epoch UInt64 CODEC(ZSTD(1)), counted UInt8, at_ms UInt64 CODEC(Delta, ZSTD(1)), name LowCardinality(String), \
    hostname LowCardinality(String), path LowCardinality(String), \
    prop_keys Array(LowCardinality(String)) CODEC(ZSTD(1)), prop_values Array(String) CODEC(ZSTD(1)), \
    engaged_ms UInt64 CODEC(ZSTD(1)), visitor UInt64 CODEC(ZSTD(1)), visit_sid FixedString(16) CODEC(ZSTD(1)), \
    visit_seq UInt32 CODEC(ZSTD(1))";
