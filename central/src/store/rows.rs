//! The rows of a flush as blocks of the tables. Nothing in a flush is refused: it has been accepted from the page, and a
//! row that held it up would hold up its shard. Numbers out of a column's range are clamped to it.

use proto::uplink::{FlushRows, Kind, LedgerRow, RollupRow, UniqueRow, VisitDimensions, VisitRow};

use super::native::Block;

/// Rows in one block: a few MiB, far below what the engine gathers before it writes a part.
pub(super) const BLOCK_ROWS: usize = 65_536;

/// The identity that every row of a flush carries.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) src: u16,
    pub(super) n: u64,
    pub(super) epoch: u64,
    /// Unix seconds.
    pub(super) cut: u32,
}

pub(super) fn rollups(rows: &FlushRows, origin: Origin) -> impl Iterator<Item = Block> {
    rows.rollups.chunks(BLOCK_ROWS).map(move |rows| {
        let Origin { src, n, cut, .. } = origin;
        let column = |of: fn(&RollupRow) -> u64| rows.iter().map(of);
        Block::of(rows.len())
            .text("site", rows.iter().map(|row| row.site.as_str()))
            .u8("kind", rows.iter().map(|row| kind(row.kind)))
            .text("value", rows.iter().map(|row| row.value.as_str()))
            .time("t", rows.iter().map(|row| row.minute.saturating_mul(60)))
            .u64("pageviews", column(|row| row.pageviews))
            .u64("events", column(|row| row.events))
            .u64("engaged_ms", column(|row| row.engaged_ms))
            .u16("src", rows.iter().map(move |_| src))
            .u64("n", rows.iter().map(move |_| n))
            .time("cut", rows.iter().map(move |_| cut))
    })
}

pub(super) fn uniques(rows: &FlushRows, origin: Origin) -> impl Iterator<Item = Block> {
    rows.uniques.chunks(BLOCK_ROWS).map(move |rows| {
        let Origin { src, n, .. } = origin;
        Block::of(rows.len())
            .text("site", rows.iter().map(|row| row.site.as_str()))
            .u8("kind", rows.iter().map(|row: &UniqueRow| kind(row.kind)))
            .text("value", rows.iter().map(|row| row.value.as_str()))
            .time("t", rows.iter().map(|row| row.quarter.saturating_mul(15 * 60)))
            .u64_lists("visitors", rows.iter().map(|row| row.visitors.as_slice()))
            .u16("src", rows.iter().map(move |_| src))
            .u64("n", rows.iter().map(move |_| n))
    })
}

pub(super) fn ledger(rows: &FlushRows, origin: Origin) -> impl Iterator<Item = Block> {
    rows.ledger.chunks(BLOCK_ROWS).map(move |rows| {
        let Origin { src, n, cut, .. } = origin;
        let column = |of: fn(&LedgerRow) -> u64| rows.iter().map(of);
        Block::of(rows.len())
            .text("site", rows.iter().map(|row| row.site.as_str()))
            .u32("day", rows.iter().map(|row| row.day))
            .u32("reason", rows.iter().map(|row| row.reason))
            .u64("events", column(|row| row.events))
            .u64("batches", column(|row| row.batches))
            .u64("duplicates", column(|row| row.duplicates))
            .u16("src", rows.iter().map(move |_| src))
            .u64("n", rows.iter().map(move |_| n))
            .time("cut", rows.iter().map(move |_| cut))
    })
}

pub(super) fn visits(rows: &FlushRows, origin: Origin) -> impl Iterator<Item = Block> {
    rows.visits.chunks(BLOCK_ROWS).map(move |rows| {
        let Origin { src, n, epoch, .. } = origin;
        let none = VisitDimensions::default();
        let text = |of: fn(&VisitRow) -> &str| rows.iter().map(of);
        let dimension = |of: fn(&VisitDimensions) -> &str| {
            let none = &none;
            rows.iter().map(move |row| of(row.dimensions.as_ref().unwrap_or(none)))
        };
        Block::of(rows.len())
            .text("site", text(|row| &row.site))
            .time("stamp", rows.iter().map(|row| stamp(&row.sid)))
            .bytes16("sid", rows.iter().map(|row| sid(&row.sid)))
            .u32("seq", rows.iter().map(|row| row.seq))
            .u64("visitor", rows.iter().map(|row| row.visitor))
            .u128("ver", rows.iter().map(|row| u128::from(epoch) << 64 | u128::from(row.version)))
            .u64("start_ms", rows.iter().map(|row| row.start_ms))
            .u64("last_ms", rows.iter().map(|row| row.last_ms))
            .u32("pageviews", rows.iter().map(|row| row.pageviews))
            .u32("events", rows.iter().map(|row| row.events))
            .u64("engaged_ms", rows.iter().map(|row| row.engaged_ms))
            .text("entry_page", text(|row| &row.entry_page))
            .text("exit_page", text(|row| &row.exit_page))
            .text("source", dimension(|of| &of.source))
            .text("referrer", dimension(|of| &of.referrer))
            .text("utm_source", dimension(|of| &of.utm_source))
            .text("utm_medium", dimension(|of| &of.utm_medium))
            .text("utm_campaign", dimension(|of| &of.utm_campaign))
            .text("utm_content", dimension(|of| &of.utm_content))
            .text("utm_term", dimension(|of| &of.utm_term))
            .text("country", dimension(|of| &of.country))
            .text("region", dimension(|of| &of.region))
            .text("city", dimension(|of| &of.city))
            .text("browser", dimension(|of| &of.browser))
            .text("browser_version", dimension(|of| &of.browser_version))
            .text("os", dimension(|of| &of.os))
            .text("os_version", dimension(|of| &of.os_version))
            .text("device", dimension(|of| &of.device))
            .text("screen", dimension(|of| &of.screen))
            .text("language", dimension(|of| &of.language))
            .text("channel", dimension(|of| &of.channel))
            .text("hostname", dimension(|of| &of.hostname))
            .u64("entry_ms", rows.iter().map(|row| row.entry_ms))
            .u64("exit_ms", rows.iter().map(|row| row.exit_ms))
            .u16("src", rows.iter().map(move |_| src))
            .u64("n", rows.iter().map(move |_| n))
    })
}

/// A kind that this build does not know keeps its number, beside the known ones and out of their reports.
fn kind(kind: i32) -> u8 {
    Kind::try_from(kind).map_or(u8::try_from(kind).unwrap_or(u8::MAX), |kind| kind as u8)
}

pub(super) fn sid(bytes: &[u8]) -> [u8; 16] {
    let mut sid = [0; 16];
    let length = bytes.len().min(16);
    sid[..length].copy_from_slice(&bytes[..length]);
    sid
}

/// The first 48 bits of a sid are Unix milliseconds.
pub(super) fn stamp(bytes: &[u8]) -> u32 {
    let mut stamp_ms = [0; 8];
    stamp_ms[2..].copy_from_slice(&sid(bytes)[..6]);
    u32::try_from(u64::from_be_bytes(stamp_ms) / 1000).unwrap_or(u32::MAX)
}
