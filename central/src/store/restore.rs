//! What a lost Redis is rebuilt from: running visits, and the batches of gateways whose logs are gone.

use proto::limits::{ACCEPT_LONG_MS, ACCEPT_SHORT_MS};
use proto::uplink::{GatewayPosition, Remembered, VisitDimensions, VisitRow};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{RawFrame, Statement, Store, StoreError, number, table, text};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// The longest that a visit can have run.
const LONGEST_MS: u64 = 31 * 24 * HOUR_MS;

/// Rows of one answer: a few tens of MiB.
const SLICE_ROWS: u64 = 50_000;

/// A rebuild waits for as long as it takes; a report does not.
const PATIENT: &str = " SETTINGS max_execution_time = 0";

impl Store {
    /// Gives the newest states of the visits of a shard whose last event is not before `from_ms`.
    pub async fn running_visits(
        &self,
        region: &str,
        shard: u32,
        from_ms: u64,
        out: mpsc::Sender<VisitRow>,
    ) -> Result<(), StoreError> {
        // Spares old months. A visit that has gone on for longer is another one after a rebuild.
        let stamped = format!("stamp >= toDateTime({}, 'UTC')", from_ms.saturating_sub(LONGEST_MS) / 1000);
        let condition = |read: &str| {
            let mut condition = Statement::new(&format!(" FROM {} {read} WHERE last_ms >= {from_ms}", table::VISITS));
            condition.push(&format!(" AND {stamped} AND src IN (SELECT src FROM {} FINAL", table::STREAMS));
            condition.push(&format!(" WHERE shard = {shard} AND region = ")).bind(region).push(")");
            condition
        };
        // Names first, of any state that fits: only what is behind them is then read whole, and in its newest state.
        let slices = self.slices("count()", condition("")).await?;
        for slice in 0..slices {
            let mut question = condition("FINAL").after(&format!("SELECT {VISIT}"));
            question.push(" AND (site, stamp, sid, seq) IN (SELECT site, stamp, sid, seq FROM ").push(table::VISITS);
            question.push(&format!(" WHERE last_ms >= {from_ms} AND {stamped}"));
            question.push(&format!(" AND cityHash64(site, sid, seq) % {slices} = {slice}){PATIENT}"));
            for row in self.rows(question).await? {
                if out.send(visit(&row)?).await.is_err() {
                    return Ok(()); // nobody needs them any more
                }
            }
        }
        Ok(())
    }

    /// Gives the batches of these gateways whose acceptance may not be over at `watermark_ms`, each sid once. Rows behind a
    /// gateway's position left before a flush covered them: they were lost with their Redis, and count when they come again.
    pub async fn remembered(
        &self,
        shard: u32,
        gateways: &[GatewayPosition],
        watermark_ms: u64,
        out: mpsc::Sender<Remembered>,
    ) -> Result<(), StoreError> {
        if gateways.is_empty() {
            return Ok(());
        }
        // Rows that these gateways sent before they were retired may still be on their way to the tables.
        self.take_raw(RawFrame::default()).await?.await?;
        let condition = || {
            let over = format!(
                "(intDiv(toUnixTimestamp(stamp), 3600) + 1) * {HOUR_MS} + if(class = 0, {ACCEPT_SHORT_MS}, {ACCEPT_LONG_MS})"
            );
            let mut condition = Statement::new(&format!(" FROM {} FINAL WHERE shard = {shard}", table::BATCHES));
            // The stamp's bound says nothing new, but it spares old months.
            let stamped = (watermark_ms / 1000).saturating_sub((HOUR_MS + ACCEPT_LONG_MS) / 1000).min(u32::MAX.into());
            condition.push(&format!(" AND {over} >= {watermark_ms} AND stamp >= toDateTime({stamped}, 'UTC')"));
            condition.push(" AND (");
            for (at, GatewayPosition { gateway, lsn, .. }) in gateways.iter().enumerate() {
                condition.push(if at > 0 { " OR " } else { "" }).push(&format!("lsn <= {lsn} AND gateway = "));
                condition.bind(gateway);
            }
            condition.push(")");
            condition
        };
        let slices = self.slices("uniq(sid)", condition()).await?;
        for slice in 0..slices {
            let mut question = condition().after("SELECT class, hex(sid), groupArray(seq)");
            question.push(&format!(" AND cityHash64(sid) % {slices} = {slice} GROUP BY class, sid{PATIENT}"));
            for row in self.rows(question).await? {
                if out.send(remembered(&row)?).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// In how many slices an answer comes.
    async fn slices(&self, count: &str, condition: Statement) -> Result<u64, StoreError> {
        let mut question = condition.after(&format!("SELECT {count}"));
        question.push(PATIENT);
        let rows = self.rows(question).await?;
        Ok(rows.first().map_or(Ok(0), |row| number(row, 0))? / SLICE_ROWS + 1)
    }
}

/// The epoch is the upper half of `ver`.
const VISIT: &str = "site, hex(sid), seq, visitor, toUInt64(bitAnd(ver, toUInt128(18446744073709551615))), start_ms, \
    last_ms, pageviews, events, engaged_ms, entry_page, exit_page, entry_ms, exit_ms, source, referrer, utm_source, \
    utm_medium, utm_campaign, utm_content, utm_term, country, region, city, browser, browser_version, os, os_version, \
    device, screen, language, channel, hostname";

fn visit(row: &[Value]) -> Result<VisitRow, StoreError> {
    let number = |column| number(row, column);
    let small = |column| number(column).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    let owned = |column| text(row, column).map(str::to_owned);
    Ok(VisitRow {
        site: owned(0)?,
        sid: bytes(text(row, 1)?)?,
        seq: small(2)?,
        visitor: number(3)?,
        version: number(4)?,
        start_ms: number(5)?,
        last_ms: number(6)?,
        pageviews: small(7)?,
        events: small(8)?,
        engaged_ms: number(9)?,
        entry_page: owned(10)?,
        exit_page: owned(11)?,
        entry_ms: number(12)?,
        exit_ms: number(13)?,
        dimensions: Some(VisitDimensions {
            source: owned(14)?,
            referrer: owned(15)?,
            utm_source: owned(16)?,
            utm_medium: owned(17)?,
            utm_campaign: owned(18)?,
            utm_content: owned(19)?,
            utm_term: owned(20)?,
            country: owned(21)?,
            region: owned(22)?,
            city: owned(23)?,
            browser: owned(24)?,
            browser_version: owned(25)?,
            os: owned(26)?,
            os_version: owned(27)?,
            device: owned(28)?,
            screen: owned(29)?,
            language: owned(30)?,
            channel: owned(31)?,
            hostname: owned(32)?,
        }),
    })
}

fn remembered(row: &[Value]) -> Result<Remembered, StoreError> {
    let seqs = row.get(2).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_u64);
    Ok(Remembered {
        class: number(row, 0)? as u32,
        sid: bytes(text(row, 1)?)?,
        seqs: seqs.map(|seq| u32::try_from(seq).unwrap_or(u32::MAX)).collect(),
    })
}

/// Of two hexadecimal digits each.
fn bytes(digits: &str) -> Result<Vec<u8>, StoreError> {
    let wrong = || StoreError::unexpected("bytes that are not hexadecimal");
    let byte = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(wrong);
    (0..digits.len()).step_by(2).map(byte).collect()
}
