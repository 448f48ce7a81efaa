ALTER TABLE sites ADD COLUMN tenant TEXT NOT NULL DEFAULT '';    -- whose batches gateways limit together; '' is nobody's

PRAGMA user_version = 5;
