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
    ]
}

/// The columns of a visit, as the copy out of the staging table lists them.
pub(super) const VISIT_NAMES: &str = "site, stamp, sid, seq, visitor, ver, start_ms, last_ms, pageviews, events, \
    engaged_ms, entry_page, exit_page, source, referrer, utm_source, utm_medium, utm_campaign, utm_content, utm_term, \
    country, region, city, browser, browser_version, os, os_version, device, screen, language, channel, hostname";

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
