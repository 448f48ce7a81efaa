-- Times are Unix milliseconds. A secret is kept as its SHA-256 only.

CREATE TABLE sites (
    name        TEXT PRIMARY KEY,
    timezone    TEXT NOT NULL,              -- IANA
    origins     TEXT NOT NULL,              -- a JSON array of scheme://host[:port]
    created_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    hash        BLOB PRIMARY KEY,
    name        TEXT NOT NULL,
    site        TEXT REFERENCES sites (name) ON DELETE CASCADE,    -- NULL is every site
    created_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE sign_in_links (
    hash        BLOB PRIMARY KEY,
    name        TEXT NOT NULL,              -- of the person who will be signed in
    expires_ms  INTEGER NOT NULL            -- the row goes when the link is used
) STRICT;

CREATE TABLE sessions (
    hash        BLOB PRIMARY KEY,
    name        TEXT NOT NULL,
    expires_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE salts (
    day         TEXT PRIMARY KEY,           -- YYYY-MM-DD
    key         BLOB NOT NULL CHECK (length(key) = 16)
) STRICT;

CREATE TABLE gateways (
    id             TEXT PRIMARY KEY,        -- UUID of the log folder
    region         TEXT NOT NULL,
    registered_ms  INTEGER NOT NULL,
    retired_ms     INTEGER                  -- NULL is in service
) STRICT;

CREATE TABLE shards (
    region      TEXT NOT NULL,
    shard       INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    term        INTEGER NOT NULL,           -- of the newest leader
    open_flush  INTEGER NOT NULL,           -- the highest number of an open flush that central was told
    PRIMARY KEY (region, shard)
) STRICT, WITHOUT ROWID;

-- What central was told is durable in the shard's Redis, in the shard's epoch.
CREATE TABLE durable (
    region      TEXT NOT NULL,
    shard       INTEGER NOT NULL,
    gateway     TEXT NOT NULL,
    lsn         INTEGER NOT NULL,
    PRIMARY KEY (region, shard, gateway)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 1;
