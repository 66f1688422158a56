-- ---------------------------------------------------------------------------------------------------------------
-- Runs

-- Each run of an agent or a check for a loop, from before it starts. `log` is the name of a file in the loop's folder for logs,
-- used once. `ended_at` NULL: it runs, or nobody saw it end; a loop ends what it finds open before it begins another.
CREATE TABLE runs (
  id         TEXT PRIMARY KEY NOT NULL,
  loop_id    TEXT NOT NULL,
  test_id    TEXT,
  attempt    INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
  kind       TEXT NOT NULL CHECK (kind IN ('agent', 'check')),
  name       TEXT NOT NULL,
  log        TEXT NOT NULL CHECK (log <> '' AND log NOT GLOB '*/*'),
  started_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
    CHECK (started_at IS datetime(started_at, '+0 days') OR started_at IS strftime('%Y-%m-%d %H:%M:%f', started_at, '+0 days')),
  ended_at   TEXT
    CHECK (ended_at IS datetime(ended_at, '+0 days') OR ended_at IS strftime('%Y-%m-%d %H:%M:%f', ended_at, '+0 days')),
  outcome    TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_loop_id ON runs (loop_id, started_at);
CREATE INDEX runs_test_id ON runs (test_id, started_at);
CREATE INDEX runs_started_at ON runs (started_at);
