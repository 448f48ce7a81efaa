ALTER TABLE sites ADD COLUMN rules TEXT NOT NULL DEFAULT '{}';   -- a JSON object, as the sites API takes it

PRAGMA user_version = 4;
