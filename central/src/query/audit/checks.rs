//! What is compared with what. Each side selects `day`, `key` and `v`, an array of figures.

use proto::limits::PAGEVIEW;
use proto::uplink::Kind;

use super::Audited;
use crate::query::ledger;
use crate::store::{Statement, table};

/// Two sides that must be equal, key by key.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// The sides.
    pub(super) between: [&'static str; 2],
    /// What a key is.
    pub(super) key: &'static str,
    pub(super) figures: &'static [&'static str],
    pub(super) left: fn(&Audited<'_>, &mut Statement),
    pub(super) right: fn(&Audited<'_>, &mut Statement),
    /// A key as it is shown.
    pub(super) shown: fn(&str) -> String,
}

/// From the raw rows outwards.
pub(super) const ALL: [Check; 9] = [
    Check {
        name: "each batch is there once",
        between: ["batches", "distinct (sid, seq)"],
        key: "day of the sid",
        figures: &["batches"],
        left: |of, to| of.push_once(to, table::BATCHES, "count()"),
        right: |of, to| of.push_once(to, table::BATCHES, "uniqExact(sid, seq)"),
        shown: str::to_owned,
    },
    Check {
        name: "each event is there once",
        between: ["events", "distinct (sid, seq, index)"],
        key: "day of the sid",
        figures: &["events"],
        left: |of, to| of.push_once(to, table::EVENTS, "count()"),
        right: |of, to| of.push_once(to, table::EVENTS, "uniqExact(sid, seq, idx)"),
        shown: str::to_owned,
    },
    Check {
        name: "a batch is its events",
        between: ["batches", "events"],
        key: "sid/seq",
        figures: &["events", "pageviews", "custom events", "engaged ms"],
        left: |of, to| of.push_batches(to),
        right: |of, to| of.push_events_by_batch(to),
        shown: str::to_owned,
    },
    Check {
        name: "totals by minute",
        between: ["rollups", "events"],
        key: "minute (UTC)",
        figures: &["pageviews", "custom events", "engaged ms"],
        left: |of, to| of.push_rollups(to, Kind::Total, "toString(t)", "sum(pageviews), sum(events), sum(engaged_ms)"),
        right: |of, to| of.push_events(to, "toString(toDateTime(intDiv(at_ms, 60000) * 60, 'UTC'))", "1", COUNTS),
        shown: str::to_owned,
    },
    Check {
        name: "pages",
        between: ["rollups", "events"],
        key: "page",
        figures: &["pageviews", "custom events", "engaged ms"],
        left: |of, to| {
            of.push_rollups(to, Kind::Page, "toString(value)", "sum(pageviews), sum(events), sum(engaged_ms)")
        },
        right: |of, to| of.push_events(to, "toString(path)", "1", COUNTS),
        shown: str::to_owned,
    },
    Check {
        name: "names of events",
        between: ["rollups", "events"],
        key: "name",
        figures: &["custom events"],
        left: |of, to| of.push_rollups(to, Kind::Event, "toString(value)", "sum(events)"),
        right: |of, to| of.push_events(to, "toString(name)", "name != 'pageview'", "count()"),
        shown: str::to_owned,
    },
    Check {
        name: "the ledger by day of arrival",
        between: ["ledger", "batches"],
        key: "reason",
        figures: &["events", "batches"],
        left: |of, to| of.push_ledger(to),
        right: |of, to| of.push_batches_by_reason(to),
        shown: ledger::reason,
    },
    Check {
        name: "a visit is its events",
        between: ["visits", "events"],
        key: "visit (sid/seq of its first batch)",
        figures: &["pageviews", "custom events", "engaged ms", "start ms", "last ms"],
        left: |of, to| of.push_visits(to),
        right: |of, to| of.push_events_by_visit(to),
        shown: str::to_owned,
    },
    Check {
        name: "a visit's entry and exit page are of its first and last pageview",
        between: ["visits", "visits whose events say so"],
        key: "visit (sid/seq of its first batch)",
        figures: &["entry pages", "exit pages"],
        left: |of, to| of.push_visit_pages(to),
        right: |of, to| of.push_visit_pages_by_events(to),
        shown: str::to_owned,
    },
];

const DAY_S: u64 = 24 * 60 * 60;
const COUNTS: &str = "countIf(name = 'pageview'), countIf(name != 'pageview'), sum(engaged_ms)";
const BATCH: &str = "concat(lower(hex(sid)), '/', toString(seq))";
const VISIT: &str = "concat(lower(hex(visit_sid)), '/', toString(visit_seq))";
const STAMP_DAY: &str = "intDiv(toUInt32(stamp), 86400)";
/// The first 48 bits of a sid are Unix milliseconds. Events without a visit, which must not be, count by their own sid.
const VISIT_DAY: &str = "if(visit_seq = 0, intDiv(toUInt32(any(stamp)), 86400), \
    toUInt32(intDiv(reinterpretAsUInt64(reverse(substring(toString(visit_sid), 1, 6))), 86400000)))";

impl Audited<'_> {
    fn push_once(&self, to: &mut Statement, table: &str, count: &str) {
        to.push(&format!("SELECT {STAMP_DAY} AS day, '' AS key, [toUInt64({count})] AS v FROM {table} FINAL WHERE "));
        self.push_stamped(to);
        to.push(" GROUP BY day");
    }

    fn push_batches(&self, to: &mut Statement) {
        to.push(&format!(
            "SELECT {STAMP_DAY} AS day, {BATCH} AS key, \
             [toUInt64(events), toUInt64(pageviews), toUInt64(custom_events), toUInt64(engaged_ms)] AS v \
             FROM {} FINAL WHERE ",
            table::BATCHES
        ));
        self.push_stamped(to);
        to.push(" AND ");
        self.push_covered(to);
    }

    fn push_events_by_batch(&self, to: &mut Statement) {
        let figures = figures(&format!("count(), {COUNTS}"));
        to.push(&format!("SELECT {STAMP_DAY} AS day, {BATCH} AS key, {figures} AS v FROM "));
        self.push_counted(to);
        to.push(" AND ");
        self.push_stamped(to);
        to.push(" GROUP BY day, key");
    }

    fn push_rollups(&self, to: &mut Statement, kind: Kind, key: &str, sums: &str) {
        let (start, end) = (self.days.start(), self.days.end());
        let (figures, rollups, kind) = (figures(sums), table::ROLLUP_1M, kind as u8);
        to.push(&format!(
            "SELECT intDiv(toUInt32(t), {DAY_S}) AS day, {key} AS key, {figures} AS v FROM {rollups} FINAL"
        ));
        to.push(&format!(" WHERE kind = {kind} AND t >= toDateTime({start}) AND t < toDateTime({end}) AND site = "));
        to.bind(self.site).push(" GROUP BY day, key");
    }

    fn push_events(&self, to: &mut Statement, key: &str, which: &str, counts: &str) {
        let (start_ms, end_ms) = (self.days.start() * 1000, self.days.end() * 1000);
        let figures = figures(counts);
        to.push(&format!("SELECT toUInt32(intDiv(at_ms, {DAY_S}000)) AS day, {key} AS key, {figures} AS v FROM "));
        self.push_counted(to);
        to.push(&format!(" AND {which} AND at_ms >= {start_ms} AND at_ms < {end_ms} GROUP BY day, key"));
    }

    fn push_ledger(&self, to: &mut Statement) {
        to.push(&format!(
            "SELECT day, toString(reason) AS key, {} AS v FROM {} FINAL WHERE day >= {} AND day <= {} AND site = ",
            figures("sum(events), sum(batches)"),
            table::LEDGER,
            self.days.first,
            self.days.last
        ));
        to.bind(self.site).push(" GROUP BY day, key");
    }

    fn push_batches_by_reason(&self, to: &mut Statement) {
        let (start_ms, end_ms) = (self.days.start() * 1000, self.days.end() * 1000);
        let row = "(toUInt32(r), toUInt64(e), toUInt64(b))";
        to.push(&format!(
            "SELECT toUInt32(intDiv(arrived_ms, {DAY_S}000)) AS day, toString(entry.1) AS key, \
             [toUInt64(sum(entry.2)), toUInt64(sum(entry.3))] AS v FROM {} FINAL \
             ARRAY JOIN arrayConcat([(toUInt32(0), toUInt64(events), toUInt64(1))], \
             arrayMap((r, e, b) -> {row}, dropped_reasons, dropped_events, arrayWithConstant(length(dropped_events), 0)), \
             arrayMap((r, e, b) -> {row}, given_up_reasons, given_up_events, given_up_batches)) AS entry \
             WHERE arrived_ms >= {start_ms} AND arrived_ms < {end_ms} AND site = ",
            table::BATCHES
        ));
        to.bind(self.site).push(" AND ");
        self.push_covered(to);
        to.push(" GROUP BY day, key");
    }

    fn push_visits(&self, to: &mut Statement) {
        to.push(&format!(
            "SELECT {STAMP_DAY} AS day, {BATCH} AS key, [toUInt64(pageviews), toUInt64(events), toUInt64(engaged_ms), \
             toUInt64(start_ms), toUInt64(last_ms)] AS v FROM {} FINAL WHERE ",
            table::VISITS
        ));
        self.push_stamped(to);
    }

    fn push_events_by_visit(&self, to: &mut Statement) {
        let figures = figures(&format!("{COUNTS}, min(at_ms), max(at_ms)"));
        to.push(&format!("SELECT {VISIT_DAY} AS day, {VISIT} AS key, {figures} AS v FROM "));
        self.push_counted(to);
        let Self { days, .. } = self;
        to.push(&format!(" GROUP BY visit_sid, visit_seq HAVING day >= {} AND day <= {}", days.first, days.last));
    }

    fn push_visit_pages(&self, to: &mut Statement) {
        let one = "[toUInt64(1), toUInt64(1)]";
        to.push(&format!("SELECT {STAMP_DAY} AS day, {BATCH} AS key, {one} AS v FROM {} FINAL WHERE ", table::VISITS));
        self.push_stamped(to);
    }

    /// Pageviews of one millisecond have no order, so any of their pages is right.
    fn push_visit_pages_by_events(&self, to: &mut Statement) {
        let of_time = |time: &str| {
            format!(
                "if(empty(views), [''], arrayMap(x -> x.2, arrayFilter(x -> x.1 = {time}(y -> y.1, views), views)))"
            )
        };
        let (entries, exits) = (of_time("arrayMin"), of_time("arrayMax"));
        to.push(&format!(
            "SELECT {STAMP_DAY} AS day, {BATCH} AS key, \
             [toUInt64(has(entries, toString(entry_page))), toUInt64(has(exits, toString(exit_page)))] AS v \
             FROM (SELECT stamp, sid, seq, entry_page, exit_page FROM {} FINAL WHERE ",
            table::VISITS
        ));
        self.push_stamped(to);
        to.push(&format!(
            ") AS visits LEFT ANY JOIN (SELECT visit_sid, visit_seq, {entries} AS entries, {exits} AS exits FROM (\
             SELECT visit_sid, visit_seq, groupArrayIf((at_ms, toString(path)), name = '{PAGEVIEW}') AS views FROM "
        ));
        self.push_counted(to);
        to.push(
            " GROUP BY visit_sid, visit_seq)) AS told ON visits.sid = told.visit_sid AND visits.seq = told.visit_seq",
        );
    }

    /// The table and condition of all events that were counted in batches which accepted flushes cover.
    fn push_counted(&self, to: &mut Statement) {
        to.push(&format!("{} FINAL WHERE counted = 1 AND site = ", table::EVENTS)).bind(self.site);
        to.push(&format!(" AND (sid, seq) NOT IN (SELECT sid, seq FROM {} FINAL WHERE site = ", table::BATCHES));
        to.bind(self.site).push(" AND NOT ");
        self.push_covered(to);
        to.push(")");
    }

    /// The condition that a flush covers a batch: rollups, ledger and visits hold it.
    fn push_covered(&self, to: &mut Statement) {
        to.push("(");
        for (index, of) in self.positions.iter().enumerate() {
            to.push(if index > 0 { " OR " } else { "" });
            to.push(&format!("lsn <= {} AND shard = {} AND gateway = ", of.accepted, of.shard)).bind(&of.gateway);
        }
        to.push(if self.positions.is_empty() { "0)" } else { ")" });
    }

    /// The condition that a row is of the site and its sid of the days.
    fn push_stamped(&self, to: &mut Statement) {
        let (start, end) = (self.days.start(), self.days.end());
        to.push(&format!("stamp >= toDateTime({start}) AND stamp < toDateTime({end}) AND site = ")).bind(self.site);
    }
}

/// An array of these aggregates.
fn figures(aggregates: &str) -> String {
    format!("arrayMap(x -> toUInt64(x), [{aggregates}])")
}
