//! What is compared with what. Each side selects `day`, `key` and `v`, an array of figures.

use proto::limits::PAGEVIEW;
use proto::uplink::Kind;

use super::{Audited, Reach};
use crate::query::ledger;
use crate::store::{Statement, table};

/// What a check is made over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The days.
    Days,
    /// Those of the days that have raw rows.
    RawDays,
    /// Everything ever, as one day, if some of the days have no raw rows: a batch, its events and its visit each have
    /// their own day, and nothing else leads from one to the other.
    Ever,
}

/// Two sides that must be equal, key by key.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) over: Over,
    /// The sides.
    pub(super) between: [&'static str; 2],
    /// What a key is.
    pub(super) key: &'static str,
    pub(super) figures: &'static [&'static str],
    pub(super) left: fn(&Audited<'_>, &Reach, &mut Statement),
    pub(super) right: fn(&Audited<'_>, &Reach, &mut Statement),
    /// A key as it is shown.
    pub(super) shown: fn(&str) -> String,
}

/// From the raw rows outwards. No check compares what the engine makes equal by itself: it replaces batches by (sid, seq)
/// and events by (sid, seq, index), and knows nothing of logs, nor of how many events a batch says that it has.
pub(super) const ALL: [Check; 12] = [
    Check {
        name: "each record of a log is one batch",
        over: Over::RawDays,
        between: ["batches", "distinct (gateway, shard, record)"],
        key: "gateway/shard",
        figures: &["batches"],
        left: |of, reach, to| of.push_records(reach, to, "count()"),
        right: |of, reach, to| of.push_records(reach, to, "uniqExact(gateway, shard, lsn)"),
        shown: str::to_owned,
    },
    Check {
        name: "a batch is its events",
        over: Over::RawDays,
        between: ["batches", "events"],
        key: "sid/seq",
        figures: &["events", "pageviews", "custom events", "engaged ms"],
        left: |of, reach, to| of.push_batches(reach, to),
        right: |of, reach, to| of.push_events_by_batch(reach, to),
        shown: str::to_owned,
    },
    Check {
        name: "totals by minute",
        over: Over::RawDays,
        between: ["rollups", "events"],
        key: "minute (UTC)",
        figures: &["pageviews", "custom events", "engaged ms"],
        left: |of, reach, to| of.push_rollups(reach, to, Kind::Total, "toString(t)", SUMS),
        right: |of, reach, to| {
            of.push_events(reach, to, "toString(toDateTime(intDiv(at_ms, 60000) * 60, 'UTC'))", "1", COUNTS)
        },
        shown: str::to_owned,
    },
    Check {
        name: "pages",
        over: Over::RawDays,
        between: ["rollups", "events"],
        key: "page",
        figures: &["pageviews", "custom events", "engaged ms"],
        left: |of, reach, to| of.push_rollups(reach, to, Kind::Page, "toString(value)", SUMS),
        right: |of, reach, to| of.push_events(reach, to, "toString(path)", "1", COUNTS),
        shown: str::to_owned,
    },
    Check {
        name: "names of events",
        over: Over::RawDays,
        between: ["rollups", "events"],
        key: "name",
        figures: &["custom events"],
        left: |of, reach, to| of.push_rollups(reach, to, Kind::Event, "toString(value)", "sum(events)"),
        right: |of, reach, to| of.push_events(reach, to, "toString(name)", "name != 'pageview'", "count()"),
        shown: str::to_owned,
    },
    Check {
        name: "the ledger by day of arrival",
        over: Over::RawDays,
        between: ["ledger", "batches"],
        key: "reason",
        figures: &["events", "batches"],
        left: |of, reach, to| of.push_ledger(reach, to),
        right: |of, reach, to| of.push_batches_by_reason(reach, to),
        shown: ledger::reason,
    },
    Check {
        name: "a visit is its events",
        over: Over::RawDays,
        between: ["visits", "events"],
        key: "visit (sid/seq of its first batch)",
        figures: &["pageviews", "custom events", "engaged ms", "start ms", "last ms"],
        left: |of, _, to| {
            of.push_visits(to, "toUInt64(pageviews), toUInt64(events), toUInt64(engaged_ms), start_ms, last_ms");
        },
        right: |of, reach, to| of.push_events_by_visit(reach, to),
        shown: str::to_owned,
    },
    Check {
        name: "a visit's entry and exit page are of its first and last pageview",
        over: Over::RawDays,
        between: ["visits", "visits whose events say so"],
        key: "visit (sid/seq of its first batch)",
        figures: &["entry pages", "exit pages"],
        left: |of, _, to| of.push_visits(to, "toUInt64(1), toUInt64(1)"),
        right: |of, reach, to| of.push_visit_pages_by_events(reach, to),
        shown: str::to_owned,
    },
    Check {
        name: "a visit lies within one session of its visitor",
        over: Over::RawDays,
        between: ["visits", "sessions by the times of events alone"],
        key: "visit (sid/seq of its first batch)",
        figures: &["sessions"],
        left: |of, _, to| of.push_visits(to, "toUInt64(1)"),
        right: |of, reach, to| {
            to.push(&format!("SELECT day, {VISIT} AS key, [sessions] AS v FROM ("));
            of.push_sessions(to, reach);
            to.push(")");
        },
        shown: str::to_owned,
    },
    Check {
        name: "a minute is the sum of its pages",
        over: Over::Days,
        between: ["rollups", "rollups by page"],
        key: "minute (UTC)",
        figures: &["pageviews", "custom events", "engaged ms"],
        left: |of, reach, to| of.push_rollups(reach, to, Kind::Total, "toString(t)", SUMS),
        right: |of, reach, to| of.push_rollups(reach, to, Kind::Page, "toString(t)", SUMS),
        shown: str::to_owned,
    },
    Check {
        name: "what the ledger counted is in the rollups",
        over: Over::Ever,
        between: ["ledger", "rollups"],
        key: "",
        figures: &["events"],
        left: |of, reach, to| of.push_ever(to, "sum(events)", table::LEDGER, "reason = 0", Some(reach)),
        right: |of, reach, to| {
            of.push_ever(to, "sum(pageviews) + sum(events)", table::ROLLUP_1M, "kind = 0", Some(reach))
        },
        shown: str::to_owned,
    },
    Check {
        name: "all visits together are the rollups",
        over: Over::Ever,
        between: ["visits", "rollups"],
        key: "",
        figures: &["pageviews", "custom events", "engaged ms"],
        left: |of, _, to| of.push_ever(to, SUMS, table::VISITS, "1", None),
        right: |of, reach, to| of.push_ever(to, SUMS, table::ROLLUP_1M, "kind = 0", Some(reach)),
        shown: str::to_owned,
    },
];

const DAY_S: u64 = 24 * 60 * 60;
const SUMS: &str = "sum(pageviews), sum(events), sum(engaged_ms)";
const COUNTS: &str = "countIf(name = 'pageview'), countIf(name != 'pageview'), sum(engaged_ms)";
const BATCH: &str = "concat(lower(hex(sid)), '/', toString(seq))";
const VISIT: &str = "concat(lower(hex(visit_sid)), '/', toString(visit_seq))";
const STAMP_DAY: &str = "intDiv(toUInt32(stamp), 86400)";
/// The first 48 bits of a sid are Unix milliseconds. Events without a visit, which must not be, count by their own sid.
const VISIT_DAY: &str = "if(visit_seq = 0, intDiv(toUInt32(stamp), 86400), \
    toUInt32(intDiv(reinterpretAsUInt64(reverse(substring(toString(visit_sid), 1, 6))), 86400000)))";
/// An event's time is at most this far from the stamp of its batch: a sid rotates within the hour, a batch is accepted for 26
/// hours after that, and its events are then at most 26 hours old. So is a batch's arrival; the rest is for clocks.
const AROUND_S: u64 = 28 * 60 * 60;
/// As in the region's Redis.
const VISIT_GAP_MS: u64 = 30 * 60 * 1000;

impl Audited<'_> {
    fn push_records(&self, reach: &Reach, to: &mut Statement, count: &str) {
        to.push(&format!(
            "SELECT {STAMP_DAY} AS day, concat(toString(gateway), '/', toString(shard)) AS key, \
             [toUInt64({count})] AS v FROM {} FINAL WHERE ",
            table::BATCHES
        ));
        self.push_stamped(to);
        to.push(" AND ");
        push_covered(reach, to);
        to.push(" GROUP BY day, key");
    }

    fn push_batches(&self, reach: &Reach, to: &mut Statement) {
        to.push(&format!(
            "SELECT {STAMP_DAY} AS day, {BATCH} AS key, \
             [toUInt64(events), toUInt64(pageviews), toUInt64(custom_events), toUInt64(engaged_ms)] AS v \
             FROM {} FINAL WHERE ",
            table::BATCHES
        ));
        self.push_stamped(to);
        to.push(" AND ");
        push_covered(reach, to);
    }

    fn push_events_by_batch(&self, reach: &Reach, to: &mut Statement) {
        let figures = figures(&format!("count(), {COUNTS}"));
        to.push(&format!("SELECT {STAMP_DAY} AS day, {BATCH} AS key, {figures} AS v FROM "));
        self.push_counted(reach, to);
        to.push(" AND ");
        self.push_stamped(to);
        to.push(" GROUP BY day, key");
    }

    fn push_rollups(&self, reach: &Reach, to: &mut Statement, kind: Kind, key: &str, sums: &str) {
        let (start, end) = (self.days.start(), self.days.end());
        let (figures, rollups, kind) = (figures(sums), table::ROLLUP_1M, kind as u8);
        to.push(&format!(
            "SELECT intDiv(toUInt32(t), {DAY_S}) AS day, {key} AS key, {figures} AS v FROM {rollups} FINAL"
        ));
        to.push(&format!(" WHERE kind = {kind} AND t >= toDateTime({start}) AND t < toDateTime({end}) AND site = "));
        to.bind(self.site).push(" AND ");
        push_accepted(reach, to);
        to.push(" GROUP BY day, key");
    }

    fn push_events(&self, reach: &Reach, to: &mut Statement, key: &str, which: &str, counts: &str) {
        let (start_ms, end_ms) = (self.days.start() * 1000, self.days.end() * 1000);
        let figures = figures(counts);
        to.push(&format!("SELECT toUInt32(intDiv(at_ms, {DAY_S}000)) AS day, {key} AS key, {figures} AS v FROM "));
        self.push_counted(reach, to);
        to.push(&format!(" AND {which} AND at_ms >= {start_ms} AND at_ms < {end_ms} GROUP BY day, key"));
    }

    fn push_ledger(&self, reach: &Reach, to: &mut Statement) {
        to.push(&format!(
            "SELECT day, toString(reason) AS key, {} AS v FROM {} FINAL WHERE day >= {} AND day <= {} AND site = ",
            figures("sum(events), sum(batches)"),
            table::LEDGER,
            self.days.first,
            self.days.last
        ));
        to.bind(self.site).push(" AND ");
        push_accepted(reach, to);
        to.push(" GROUP BY day, key");
    }

    fn push_batches_by_reason(&self, reach: &Reach, to: &mut Statement) {
        let (start_ms, end_ms) = (self.days.start() * 1000, self.days.end() * 1000);
        let row = "(toUInt32(r), toUInt64(e), toUInt64(b))";
        to.push(&format!(
            "SELECT toUInt32(intDiv(arrived_ms, {DAY_S}000)) AS day, toString(entry.1) AS key, \
             [toUInt64(sum(entry.2)), toUInt64(sum(entry.3))] AS v FROM {} FINAL \
             ARRAY JOIN arrayConcat([(toUInt32(0), toUInt64(events), toUInt64(1))], \
             arrayMap((r, e, b) -> {row}, dropped_reasons, dropped_events, arrayWithConstant(length(dropped_events), 0)), \
             arrayMap((r, e, b) -> {row}, given_up_reasons, given_up_events, given_up_batches)) AS entry \
             WHERE arrived_ms >= {start_ms} AND arrived_ms < {end_ms} AND ",
            table::BATCHES
        ));
        self.push_around(to);
        to.push(" AND ");
        push_covered(reach, to);
        to.push(" GROUP BY day, key");
    }

    fn push_visits(&self, to: &mut Statement, figures: &str) {
        to.push(&format!(
            "SELECT {STAMP_DAY} AS day, {BATCH} AS key, [{figures}] AS v FROM {} FINAL WHERE ",
            table::VISITS
        ));
        self.push_stamped(to);
    }

    fn push_events_by_visit(&self, reach: &Reach, to: &mut Statement) {
        let figures = figures(&format!("{COUNTS}, min(at_ms), max(at_ms)"));
        to.push(&format!("SELECT {VISIT_DAY} AS day, {VISIT} AS key, {figures} AS v FROM "));
        self.push_counted(reach, to);
        to.push(" AND ");
        self.push_visit_days(to);
        to.push(" GROUP BY day, visit_sid, visit_seq");
    }

    /// Pageviews of one millisecond have no order, so any of their pages is right.
    fn push_visit_pages_by_events(&self, reach: &Reach, to: &mut Statement) {
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
        self.push_counted(reach, to);
        to.push(" AND ");
        self.push_visit_days(to);
        to.push(
            " GROUP BY visit_sid, visit_seq)) AS told ON visits.sid = told.visit_sid AND visits.seq = told.visit_seq",
        );
    }

    /// A row a visit of the days: how many sessions its events lie in, and whether another visit of its session began before it.
    /// A session goes on as long as the visitor's next event comes within half an hour; what was sent as one batch is not
    /// divided, as no visit divides it. Around midnight one visitor has two numbers, so a visit's batches all count for one.
    pub(super) fn push_sessions(&self, to: &mut Statement, reach: &Reach) {
        let order = "PARTITION BY who ORDER BY first_ms, last_ms, sid, seq ROWS BETWEEN UNBOUNDED PRECEDING AND";
        to.push(&format!(
            "SELECT * FROM (SELECT day, visit_sid, visit_seq, sessions, \
             row_number() OVER (PARTITION BY who, session ORDER BY begins_ms, visit_sid, visit_seq) > 1 AS later FROM (\
             SELECT day, who, visit_sid, visit_seq, uniqExact(number) AS sessions, min(number) AS session, \
             min(first_ms) AS begins_ms FROM (\
             SELECT *, sum(opens) OVER ({order} CURRENT ROW) AS number FROM (\
             SELECT *, first_ms > {VISIT_GAP_MS} + max(last_ms) OVER ({order} 1 PRECEDING) AS opens FROM (\
             SELECT *, min(visitor_of_batch) OVER (PARTITION BY visit_sid, visit_seq) AS who FROM (\
             SELECT {VISIT_DAY} AS day, visit_sid, visit_seq, sid, seq, min(visitor) AS visitor_of_batch, \
             min(at_ms) AS first_ms, max(at_ms) AS last_ms FROM "
        ));
        self.push_counted(reach, to);
        let Self { days, .. } = self;
        to.push(&format!(
            " AND visit_seq > 0 GROUP BY day, visit_sid, visit_seq, sid, seq)))) \
             GROUP BY day, who, visit_sid, visit_seq)) WHERE day >= {} AND day <= {}",
            days.first, days.last
        ));
    }

    /// Sums over all days, as of the last one.
    fn push_ever(&self, to: &mut Statement, sums: &str, table: &str, which: &str, reach: Option<&Reach>) {
        let (figures, last) = (figures(sums), self.days.last);
        to.push(&format!("SELECT toUInt32({last}) AS day, '' AS key, {figures} AS v FROM {table} FINAL WHERE {which}"));
        to.push(" AND site = ").bind(self.site);
        if let Some(reach) = reach {
            to.push(" AND ");
            push_accepted(reach, to);
        }
    }

    /// The table and condition of the events that were counted in batches which accepted flushes cover, around the days. A
    /// batch comes after its events: those whose batch is not there yet are not covered either.
    fn push_counted(&self, reach: &Reach, to: &mut Statement) {
        to.push(&format!("{} FINAL WHERE counted = 1 AND ", table::EVENTS));
        self.push_around(to);
        to.push(&format!(" AND (sid, seq) IN (SELECT sid, seq FROM {} FINAL WHERE ", table::BATCHES));
        self.push_around(to);
        to.push(" AND ");
        push_covered(reach, to);
        to.push(")");
    }

    /// The condition that an event is of a visit of the days.
    fn push_visit_days(&self, to: &mut Statement) {
        to.push(&format!("{VISIT_DAY} >= {} AND {VISIT_DAY} <= {}", self.days.first, self.days.last));
    }

    /// The condition that a row is of the site and its sid of the days.
    pub(super) fn push_stamped(&self, to: &mut Statement) {
        self.push_stamps(to, self.days.start(), self.days.end());
    }

    /// The condition that a row is of the site and its batch may have to do with the days, or with a visit that began on them.
    fn push_around(&self, to: &mut Statement) {
        self.push_stamps(to, self.days.start().saturating_sub(AROUND_S), self.end_s + AROUND_S);
    }

    fn push_stamps(&self, to: &mut Statement, start_s: u64, end_s: u64) {
        let end_s = end_s.min(u32::MAX.into());
        to.push(&format!("stamp >= toDateTime({start_s}) AND stamp < toDateTime({end_s}) AND site = ")).bind(self.site);
    }
}

/// The condition that an accepted flush covers a batch: rollups, ledger and visits hold it.
fn push_covered(reach: &Reach, to: &mut Statement) {
    to.push("(0");
    for of in &reach.positions {
        to.push(&format!(" OR lsn <= {} AND shard = {} AND gateway = ", of.accepted, of.shard)).bind(&of.gateway);
    }
    to.push(")");
}

/// The condition that a row came with an accepted flush of the reach.
fn push_accepted(reach: &Reach, to: &mut Statement) {
    to.push("(0");
    for (src, n) in &reach.flushes {
        to.push(&format!(" OR src = {src} AND n <= {n}"));
    }
    to.push(")");
}

/// An array of these aggregates.
fn figures(aggregates: &str) -> String {
    format!("arrayMap(x -> toUInt64(x), [{aggregates}])")
}
