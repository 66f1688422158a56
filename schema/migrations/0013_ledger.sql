-- ---------------------------------------------------------------------------------------------------------------
-- The ledger: what was passed and stays watched, and what is to be taken back

-- How each check last fared for one test that had passed, asked about that test alone.
CREATE TABLE baseline_runs (
  check_name  TEXT NOT NULL,
  test_id     TEXT NOT NULL,
  commit_hash TEXT NOT NULL,
  outcome     TEXT NOT NULL CHECK (outcome IN ('pass', 'fail', 'flaky', 'error')),
  runs        INTEGER NOT NULL DEFAULT 1 CHECK (runs >= 0),
  ran_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CHECK (ran_at IS datetime(ran_at, '+0 days') OR ran_at IS strftime('%Y-%m-%d %H:%M:%f', ran_at, '+0 days')),
  PRIMARY KEY (check_name, test_id)
) STRICT;

-- The commit that the next attempt at a test takes back, instead of an agent's work; done once the test has passed since.
CREATE TABLE reverts (
  test_id     TEXT PRIMARY KEY NOT NULL,
  commit_hash TEXT NOT NULL CHECK (commit_hash <> ''),
  asked_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CHECK (asked_at IS datetime(asked_at, '+0 days') OR asked_at IS strftime('%Y-%m-%d %H:%M:%f', asked_at, '+0 days')),
  event_id    TEXT
) STRICT;
