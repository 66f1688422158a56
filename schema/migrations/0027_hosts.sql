-- A process belongs to a host; one of another host cannot be judged by its pid. NULL: written by an earlier version, on this host.
ALTER TABLE component_health ADD COLUMN host TEXT;
-- Each host has its own clocks. What was known of them is worth nothing after the restart that a migration needs.
DROP TABLE clock;
CREATE TABLE clock (
  host         TEXT PRIMARY KEY NOT NULL,
  boot_id      TEXT NOT NULL,
  suspended_ms INTEGER NOT NULL,
  wall_ms      INTEGER NOT NULL,
  boot_ms      INTEGER NOT NULL,
  grace_until  TEXT CONSTRAINT clock_grace_until_is_utc CHECK (grace_until IS datetime(grace_until, '+0 days') OR grace_until IS strftime('%Y-%m-%d %H:%M:%f', grace_until, '+0 days'))
) STRICT;
DROP TABLE clock_changes;
CREATE TABLE clock_changes (
  host    TEXT NOT NULL,
  seen_at TEXT NOT NULL CHECK (seen_at IS strftime('%Y-%m-%d %H:%M:%f', seen_at, '+0 days')),
  millis  INTEGER NOT NULL,
  PRIMARY KEY (host, seen_at)
) STRICT;
