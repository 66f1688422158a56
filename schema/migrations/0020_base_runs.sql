-- ---------------------------------------------------------------------------------------------------------------
-- The base: what the checks show at the head of integration, before any agent is paid

-- One row for each check, by everything that it is (command and limits), at each tree; from a run at the head, or of work that was judged.
CREATE TABLE base_runs (
  tree_hash      TEXT NOT NULL,
  check_hash     TEXT NOT NULL,
  check_name     TEXT NOT NULL,
  commit_hash    TEXT NOT NULL,
  -- flaky: failed and then passed; skipped: the human did not wait for it.
  state          TEXT NOT NULL CHECK (state IN ('green', 'red', 'flaky', 'skipped')),
  why            TEXT NOT NULL DEFAULT '',
  exit_code      INTEGER,
  runs           INTEGER NOT NULL DEFAULT 1 CHECK (runs >= 0),
  duration_ms    INTEGER NOT NULL DEFAULT 0 CHECK (duration_ms >= 0),
  output_sha256  TEXT NOT NULL DEFAULT '',
  output_tail    TEXT NOT NULL DEFAULT '',
  -- The proof of the work that it was run for; NULL: run at the head.
  proof_id       TEXT,
  ran_at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CHECK (ran_at IS datetime(ran_at, '+0 days') OR ran_at IS strftime('%Y-%m-%d %H:%M:%f', ran_at, '+0 days')),
  PRIMARY KEY (tree_hash, check_hash)
) STRICT;
CREATE INDEX base_runs_ran_at ON base_runs (ran_at);
CREATE INDEX base_runs_state ON base_runs (state) WHERE state = 'red';
CREATE INDEX base_runs_check ON base_runs (check_hash, ran_at);

-- Checks that fail at the base and keep nothing from landing until they pass again.
CREATE TABLE ignored_checks (
  check_name  TEXT PRIMARY KEY NOT NULL,
  since       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CHECK (since IS datetime(since, '+0 days') OR since IS strftime('%Y-%m-%d %H:%M:%f', since, '+0 days')),
  reason      TEXT NOT NULL DEFAULT ''
) STRICT;

-- Tests that were created to make the base pass: their attempts start in spite of it.
CREATE TABLE base_mends (
  test_id     TEXT PRIMARY KEY NOT NULL
) STRICT;

-- What a proof is of: the work as it was judged (alone); the test at the base, where it has to fail (red_before).
ALTER TABLE proof_runs ADD COLUMN stage TEXT NOT NULL DEFAULT 'alone' CHECK (stage IN ('alone', 'base', 'red_before'));
-- The tree that the judged work was put on: its rows of base_runs say how the checks fared there.
ALTER TABLE proof_runs ADD COLUMN base_tree TEXT;
-- It failed, and the human has decided to let the check through until it passes at the base again.
ALTER TABLE proof_runs ADD COLUMN let_through INTEGER NOT NULL DEFAULT 0 CHECK (let_through IN (0, 1));
