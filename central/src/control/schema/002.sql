ALTER TABLE sites ADD COLUMN raw TEXT NOT NULL DEFAULT 'central' CHECK (raw IN ('central', 'none'));    -- where its raw rows go

ALTER TABLE gateways ADD COLUMN entered_ms INTEGER;  -- NULL until it is registered in Redis: a rebuild does not wait for it

-- What an older version registered has applied: it counts as entered.
UPDATE gateways SET entered_ms = registered_ms;

-- Outcomes that flushes carried because no gateway had reported them as logged. They go when their gateway has them.
CREATE TABLE outcomes (
    region      TEXT NOT NULL,
    shard       INTEGER NOT NULL,
    gateway     TEXT NOT NULL,
    last        INTEGER NOT NULL,           -- the last LSN of the call
    epoch       INTEGER NOT NULL,
    outcomes    BLOB NOT NULL,              -- an encoded tideline.uplink.v1.Outcomes
    PRIMARY KEY (region, shard, gateway, last, epoch)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 2;
