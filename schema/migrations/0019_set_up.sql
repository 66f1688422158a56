-- ---------------------------------------------------------------------------------------------------------------
-- Set-up of workspaces

-- A port for each loop, for what its agent starts. It stays the loop's own.
CREATE TABLE loop_ports (
  loop_id TEXT PRIMARY KEY NOT NULL,
  port    INTEGER NOT NULL UNIQUE CHECK (port BETWEEN 1024 AND 65535)
) STRICT, WITHOUT ROWID;

-- Holds of all loops: set-up fails at the base.
ALTER TABLE holds RENAME TO older_holds;
CREATE TABLE holds (
  subject    TEXT PRIMARY KEY NOT NULL CHECK (subject GLOB 'agent:?*' OR subject GLOB 'loop:?*' OR subject = 'setup'),
  kind       TEXT NOT NULL CHECK (kind IN ('limit', 'outage', 'human', 'repeated')),
  reason     TEXT NOT NULL,
  since      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CHECK (since IS datetime(since, '+0 days') OR since IS strftime('%Y-%m-%d %H:%M:%f', since, '+0 days')),
  -- NULL: until the question about it is answered.
  until      TEXT CHECK (until IS datetime(until, '+0 days') OR until IS strftime('%Y-%m-%d %H:%M:%f', until, '+0 days')),
  tries      INTEGER NOT NULL DEFAULT 1 CHECK (tries >= 1),
  loop_id    TEXT NOT NULL,
  -- The loop that finds out whether it is over.
  probe_loop TEXT,
  event_id   TEXT
) STRICT;
INSERT INTO holds SELECT * FROM older_holds;
DROP TABLE older_holds;
