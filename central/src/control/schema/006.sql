-- What pages and apps present to gateways.
CREATE TABLE site_keys (
    site        TEXT NOT NULL REFERENCES sites (name) ON DELETE CASCADE,
    id          TEXT NOT NULL,              -- the key's beginning
    hash        BLOB NOT NULL CHECK (length(hash) = 32),
    created_ms  INTEGER NOT NULL,
    PRIMARY KEY (site, id)
) STRICT, WITHOUT ROWID;

ALTER TABLE sites ADD COLUMN key_required INTEGER NOT NULL DEFAULT 0 CHECK (key_required IN (0, 1));

PRAGMA user_version = 6;
