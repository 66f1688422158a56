-- ---------------------------------------------------------------------------------------------------------------
-- Holds: why no attempt starts

-- One row for each agent or loop that starts no attempt for now. All loops with the same agent share its row.
CREATE TABLE holds (
  subject    TEXT PRIMARY KEY NOT NULL CHECK (subject GLOB 'agent:?*' OR subject GLOB 'loop:?*'),
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

-- Which agent a loop runs, as its process said last, and how many runs in a row came to nothing.
ALTER TABLE loops ADD COLUMN agent TEXT;
ALTER TABLE loops ADD COLUMN vain_runs INTEGER NOT NULL DEFAULT 0 CHECK (vain_runs >= 0);

-- What a claim without a change comes to: the human is asked, it is allowed, or the human has accepted it.
ALTER TABLE tests ADD COLUMN no_change TEXT NOT NULL DEFAULT 'ask' CHECK (no_change IN ('ask', 'allowed', 'accepted'));
