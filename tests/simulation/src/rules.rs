//! The rules of the delivery protocol that a run can leave out, to see that the oracle notices: each is needed, and each is
//! looked for. `docs/decisions/delivery.md` says where a rule is kept and what goes wrong without it.
//!
//! A rule of the functions is taken out of their text; one that is kept in Rust is taken out where the simulation wires the
//! processes together, or, for some of them, by a switch in the gateway that only the simulation compiles in.

/// One rule, and what became of the runs without it.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What a run without it does.
    pub without: &'static str,
    /// How it is known to be needed.
    pub needed: Needed,
    /// What is replaced in the functions, if it is a rule of theirs.
    patches: &'static [(&'static str, &'static str)],
}

/// How a rule is known to be needed.
#[derive(Clone, Copy, Debug)]
pub enum Needed {
    /// Without it this seed fails, and this is how one of the oracle's complaints begins.
    Fails(u64, &'static str),
    /// Without it this seed fails under these faults instead of its own.
    FailsUnder(&'static str, u64, &'static str),
    /// Another rule makes it unnecessary: only if that one is left out too this seed fails, under these faults.
    Beside(&'static str, &'static str, u64, &'static str),
    /// Another rule is held to make it unnecessary: an argument.
    Implied(&'static str),
    /// Searched, and no seed was seen to fail.
    NotSeen,
}

use Needed::{Beside, Fails, FailsUnder, Implied, NotSeen};

/// All of them, in the order of an event's way.
pub const RULES: &[Rule] = &[
    rule(
        "1-gap",
        "a call is applied whatever record came before it",
        Beside("4-anew", "roll-redis-back,kill-gateway", 7, "acknowledged and not counted"),
        &[("if have ~= prev then return {'GAP', have} end", "")],
    ),
    rule(
        "1-outcomes",
        "a repeated call is answered without its outcomes",
        Implied("4-incarnation: who got no answer registers anew, and reads the outcomes there"),
        &[(
            "if outcomes then return {'OK', outcomes} end",
            "if outcomes then return {'OK', cmsgpack.pack({tonumber(string.match(argv[6], '^%d+')), prev, {}})} end",
        )],
    ),
    rule(
        "1-void",
        "a GAP replays, and the outcomes above it stay in the gateway's log",
        Fails(9, "raw rows of a visit"),
        &[],
    ),
    rule(
        "2-fold",
        "a call may name a batch twice",
        Fails(2, "not drained"),
        &[("if twice then return {'REPEAT', twice} end", "")],
    ),
    rule(
        "3-bitmap",
        "the highest seq is kept instead of the bits",
        Fails(1, "acknowledged and not counted"),
        &[
            (
                "return math.floor(byte / 2 ^ (seq % 8)) % 2 == 1",
                "return byte ~= 0 and 2 ^ (seq % 8) <= byte or #bits > math.floor(seq / 8) + 1",
            ),
            (
                "string.char(string.byte(bits, at) + 2 ^ (seq % 8))",
                "string.char(bit_is_set(bits, seq) and string.byte(bits, at) or string.byte(bits, at) + 2 ^ (seq % 8))",
            ),
        ],
    ),
    rule("4-id", "an emptied folder keeps the gateway's id", Fails(3, "redis has applied record"), &[]),
    rule(
        "4-incarnation",
        "calls of an old incarnation are taken",
        FailsUnder("copy-folder,kill-gateway", 1, "acknowledged batches without a raw row"),
        &[("if redis.call('HGET', p .. 'i', gateway) ~= incarnation then return 'FENCED' end", "")],
    ),
    rule(
        "4-copy",
        "what a process of another copy applied passes for this one's",
        FailsUnder("copy-folder,kill-gateway,pause-aggregator", 66, "raw rows of a visit"),
        &[],
    ),
    rule(
        "4-accepted",
        "central does not say who applied what it accepted",
        Fails(3663, "raw rows of a visit"),
        &[("by[vector[i]] or ''", "''")],
    ),
    rule(
        "4-waited",
        "a record is counted however long another copy reported while it waited",
        Fails(3517, "counted twice"),
        &[],
    ),
    rule(
        "4-anew",
        "a gateway's connections outlive Redis's process, and it does not register anew",
        Implied("1-gap, as is shown there"),
        &[],
    ),
    rule("4-emptied", "what Redis answers while it is emptied is believed", NotSeen, &[]),
    rule(
        "4-central",
        "a starting gateway asks Redis only how far its id had come",
        Implied(
            "the rebuild, in which central says how far each log was accepted, and the comparison, without which no Redis counts \
             that stands lower than central was told. Losing folders and Redis, 300 seeds showed no difference",
        ),
        &[],
    ),
    rule("4-known", "registrations are kept in Redis only", Fails(3, "not drained"), &[]),
    rule(
        "4-report",
        "a watermark's report is not answered with GAP",
        Implied(
            "11-run: an idle gateway that registers nowhere is told to wait by a process that was approved meanwhile",
        ),
        &[(
            "if have ~= lsn then return {'GAP', have} end                  -- an idle",
            "if have ~= lsn then return {'OK', tonumber(redis.call('HGET', p .. 'k', gw) or 0)} end -- an idle",
        )],
    ),
    rule(
        "4-floor",
        "the clock of a starting gateway has no floor",
        FailsUnder("move-region-clock,kill-gateway,lose-power", 6, "counted twice"),
        &[("local floor = math.max(mark, tonumber(redis.call('GET', p .. 'h') or 0))", "local floor = 0")],
    ),
    rule(
        "5-vector",
        "the vector is read when the flush is sent, not at the cut",
        Fails(17, "acknowledged and not counted"),
        &[(
            "return flush_facts(unsettled[1], cmsgpack.unpack(unsettled[2]))",
            "local facts = cmsgpack.unpack(unsettled[2]); facts[3] = redis.call('HGETALL', p .. 'a'); \
         return flush_facts(unsettled[1], facts)",
        )],
    ),
    rule(
        "5-visits",
        "the states of visits are read when the flush is sent",
        Fails(1, "raw rows of a visit"),
        &[(
            "if #newest > 0 then in_chunks('HSET', p .. 'wv:' .. flush, newest) end",
            "if #newest > 0 then in_chunks('HSET', p .. 'wv:' .. (redis.call('HKEYS', p .. 'c')[1] or flush), newest) end",
        )],
    ),
    rule(
        "5-order",
        "a cut does not wait for the one before it",
        Fails(2, "acknowledged and not counted"),
        &[("if #unsettled > 0 then return", "if false then return")],
    ),
    rule("6-barrier", "buckets and k leave without a barrier", Implied("6-told and 6-number"), &[]),
    rule(
        "6-told",
        "k is advanced without telling central",
        Implied(
            "shipping again: rows whose outcome became void in a fall of Redis leave once more, and of one epoch the later row \
             holds. 300 seeds of falls showed no difference",
        ),
        &[],
    ),
    rule("6-number", "central is told the vector, not the number of the open flush", Fails(0, "not drained"), &[]),
    rule("7-manifest", "central inserts every flush that arrives", Fails(1, "counted twice"), &[]),
    rule(
        "7-resend",
        "rows of an earlier, unfinished try stay when a flush is sent again",
        Fails(3, "counted twice"),
        &[],
    ),
    rule("7-orphans", "rows of an unfinished flush stay when a new epoch opens", Fails(12, "counted twice"), &[]),
    rule("7-visits", "an unfinished flush replaces the states of visits", Fails(12, "raw rows of a visit"), &[]),
    rule(
        "7-epoch",
        "the term alone guards central, cut and settle",
        Beside("7-term", "lose-redis,pause-aggregator,another-aggregator", 54, "counted twice"),
        &[EPOCH_UNCHECKED],
    ),
    rule(
        "7-term",
        "the epoch alone guards central, cut and settle",
        Implied("7-epoch, as is shown there"),
        &[TERM_UNCHECKED],
    ),
    rule(
        "8-durable",
        "raw rows leave as soon as an outcome is known",
        Beside("8-again", "roll-redis-back,kill-gateway", 34, "raw rows of a visit"),
        &[],
    ),
    rule(
        "8-again",
        "raw rows whose outcome became void do not leave again",
        Implied("8-durable, as is shown there: nothing becomes void that was durable"),
        &[],
    ),
    rule("8-outcomes", "flushes carry no outcomes", Fails(48, "acknowledged batches without a raw row"), &[]),
    rule(
        "8-epoch",
        "a raw row replaces another in order of arrival, not of epoch",
        FailsUnder("restore-redis,lose-redis,late-messages", 86, "raw rows of a visit"),
        &[],
    ),
    rule("9-trim", "a record goes once it is applied", Fails(1, "not drained"), &[]),
    rule("9-covered", "trimming does not wait for an accepted flush", Implied("9-acked"), &[]),
    rule(
        "9-acked",
        "trimming does not wait for the raw rows",
        FailsUnder(
            "move-region-clock,kill-gateway,lose-redis,kill-central",
            9,
            "acknowledged batches without a raw row",
        ),
        &[],
    ),
    rule("9-acceptance", "trimming does not wait for the end of acceptance", Fails(17, "counted twice"), &[]),
    rule(
        "9-all",
        "trimming asks its own clock, not every gateway, whether acceptance is over",
        FailsUnder("move-region-clock,silence-gateway,lose-redis", 31, "counted twice"),
        &[],
    ),
    rule(
        "10-watermark",
        "bitmaps are deleted by time",
        Fails(0, "not drained"),
        &[("delete_bitmaps(p, mark)\n", "delete_bitmaps(p, tonumber(argv[4]))\n")],
    ),
    rule(
        "10-rebuild",
        "bitmaps are deleted during a rebuild too",
        Implied("10-watermark: a gateway that has not reported since the rebuild holds the watermark at 0"),
        &[(
            "if redis.call('SISMEMBER', p .. 'r', argv[2]) == 0 then return {'WAIT'} end",
            "if redis.call('SISMEMBER', p .. 'r', argv[2]) == 0 then return {'WAIT'} end delete_bitmaps(p, lowest_watermark(p))",
        )],
    ),
    rule("10-renumber", "one refusal is enough for a new number", Fails(1, "counted twice"), &[]),
    rule(
        "11-rebirth",
        "an empty or older Redis simply goes on counting",
        Fails(3, "acknowledged and not counted"),
        &[],
    ),
    rule(
        "11-run",
        "a restarted Redis counts before it was compared with central",
        Fails(3, "what redis and central know"),
        &[],
    ),
    rule(
        "11-wait",
        "a rebuild does not wait for gateways that are down",
        Fails(132, "counted twice"),
        &[(
            "local function rebuilding(p) return redis.call('EXISTS', p .. 'r') == 1 end",
            "local function rebuilding(p) return false end",
        )],
    ),
    rule(
        "11-cut",
        "a cut may happen during a rebuild",
        Implied("11-wait"),
        &[("if rebuilding(p) then return {'REBUILD'} end", "")],
    ),
    rule(
        "11-horizon",
        "a rebuilt Redis has no deletion horizon",
        Implied("4-floor"),
        &[("redis.call('SET', p .. 'h', argv[5])", "redis.call('SET', p .. 'h', '0')")],
    ),
    rule("11-outcome", "every covered record sets its bit, a duplicate too", Implied("1-void"), &[]),
    rule("11-visits", "running visits are not given to a rebuilt Redis", Fails(12, "a visit is split"), &[]),
    rule(
        "11-lost",
        "nothing stands in for the log of a lost folder",
        FailsUnder("lose-folder,lose-redis,kill-gateway", 9, "ledger differs from raw rows"),
        &[],
    ),
    rule("14-ack", "the acknowledgement is sent before the log", Fails(1, "acknowledged and not counted"), &[]),
];

const EPOCH_UNCHECKED: (&str, &str) = (
    "if redis.call('GET', p .. 'e') ~= approved then return 'WAIT' end                           -- another epoch",
    "if string.match(redis.call('GET', p .. 'e'), ':.*') ~= string.match(approved, ':.*') then return 'WAIT' end -- another epoch",
);
const TERM_UNCHECKED: (&str, &str) =
    ("then return 'FENCED' end     -- another leader", "and false then return 'FENCED' end     -- another leader");

const fn rule(
    name: &'static str,
    without: &'static str,
    needed: Needed,
    patches: &'static [(&'static str, &'static str)],
) -> Rule {
    Rule { name, without, needed, patches }
}

/// The rules that a run keeps: all of them, or all but one or two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kept {
    left_out: [Option<&'static Rule>; 2],
}

impl Kept {
    /// All but the one of this name, or the two, with a comma in between.
    pub fn all_but(names: &str) -> Result<Self, String> {
        let mut left_out = [None; 2];
        for (at, name) in names.split(',').enumerate() {
            let place = left_out.get_mut(at).ok_or("two rules can be left out, not more")?;
            *place = Some(RULES.iter().find(|rule| rule.name == name).ok_or_else(|| {
                let all: Vec<_> = RULES.iter().map(|rule| rule.name).collect();
                format!("there is no rule {name:?}; there are {}", all.join(", "))
            })?);
        }
        Ok(Self { left_out })
    }

    /// Whether the rule of this name is among them.
    pub fn holds(self, name: &str) -> bool {
        debug_assert!(RULES.iter().any(|rule| rule.name == name), "there is no rule {name:?}");
        self.left_out.iter().flatten().all(|rule| rule.name != name)
    }

    /// What to replace in the functions.
    pub fn patches(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.left_out.into_iter().flatten().flat_map(|rule| rule.patches).copied()
    }
}

/// A run that must fail without its rule.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// Its seed.
    pub seed: u64,
    /// Its faults, if they are not the seed's.
    pub only: Option<&'static str>,
    /// The rule that must be left out too; with either of them alone it must be exact.
    pub beside: Option<&'static str>,
    /// How one of the complaints begins.
    pub sign: &'static str,
}

impl Rule {
    /// The run that must fail.
    pub fn control(&self) -> Option<Control> {
        let (seed, only, beside, sign) = match self.needed {
            Fails(seed, sign) => (seed, None, None, sign),
            FailsUnder(only, seed, sign) => (seed, Some(only), None, sign),
            Beside(other, only, seed, sign) => (seed, Some(only), Some(other), sign),
            Implied(_) | NotSeen => return None,
        };
        Some(Control { seed, only, beside, sign })
    }
}
