-- Since when raw rows of the site come; 0 is since its first event, NULL is not now.
ALTER TABLE sites ADD COLUMN raw_since_ms INTEGER;

-- Of sites that are there already nobody knows when: from now on it is sure.
UPDATE sites SET raw_since_ms = CAST(strftime('%s', 'now') AS INTEGER) * 1000 WHERE raw = 'central';

PRAGMA user_version = 3;
