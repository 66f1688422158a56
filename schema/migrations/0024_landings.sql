-- ---------------------------------------------------------------------------------------------------------------
-- The landing train

-- Finished work that waits until it lands together with others. It has passed the checks alone. `base_tree` and `tree` are the
-- change, from one tree to the other; `commit_hash` is the commit that was judged alone, on `head`. `theirs`: the commit of the
-- user that it merges. `urgent`: it mends what has landed. `passed_over`: number of landings of others since it was queued.
-- `clashes`: the tests without whose work it passes.
CREATE TABLE landings (
  id          TEXT PRIMARY KEY NOT NULL CHECK (id <> ''),
  test_id     TEXT NOT NULL,
  loop_id     TEXT NOT NULL,
  attempt     INTEGER NOT NULL CHECK (attempt >= 0),
  state       TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'judging', 'landed', 'returned', 'withdrawn')),
  urgent      INTEGER NOT NULL DEFAULT 0 CHECK (urgent IN (0, 1)),
  passed_over INTEGER NOT NULL DEFAULT 0 CHECK (passed_over >= 0),
  base_tree   TEXT NOT NULL,
  tree        TEXT NOT NULL,
  head        TEXT NOT NULL,
  commit_hash TEXT NOT NULL,
  theirs      TEXT,
  proof       TEXT NOT NULL,
  checks      TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(checks)),
  seconds     INTEGER NOT NULL DEFAULT 0,
  tokens      INTEGER,
  files       TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(files)),
  batch       TEXT,
  reason      TEXT,
  clashes     TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(clashes)),
  queued_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
    CONSTRAINT landings_queued_at_is_utc CHECK (queued_at IS datetime(queued_at, '+0 days') OR queued_at IS strftime('%Y-%m-%d %H:%M:%f', queued_at, '+0 days')),
  ended_at    TEXT
    CONSTRAINT landings_ended_at_is_utc CHECK (ended_at IS datetime(ended_at, '+0 days') OR ended_at IS strftime('%Y-%m-%d %H:%M:%f', ended_at, '+0 days')),
  CHECK ((state IN ('queued', 'judging')) = (ended_at IS NULL))
) STRICT;
CREATE UNIQUE INDEX landings_open ON landings (test_id) WHERE ended_at IS NULL;
CREATE INDEX landings_test_id ON landings (test_id, queued_at);
CREATE INDEX landings_ended_at ON landings (ended_at);

-- Each judgement of works put on one another: `tests` on `base_commit`. `reused`: the same files had passed before, nothing ran.
-- With `landed_at`, integration moved to `commit_hash`: a state that has passed, unlike the commits inside of the batch.
CREATE TABLE batches (
  id          TEXT PRIMARY KEY NOT NULL CHECK (id <> ''),
  base_commit TEXT NOT NULL,
  commit_hash TEXT NOT NULL,
  tree_hash   TEXT NOT NULL,
  tests       TEXT NOT NULL CHECK (json_valid(tests) AND json_type(tests) = 'array'),
  outcome     TEXT NOT NULL CHECK (outcome IN ('passed', 'failed', 'flaky')),
  check_name  TEXT,
  why         TEXT NOT NULL DEFAULT '',
  output_tail TEXT NOT NULL DEFAULT '',
  duration_ms INTEGER NOT NULL DEFAULT 0 CHECK (duration_ms >= 0),
  reused      INTEGER NOT NULL DEFAULT 0 CHECK (reused IN (0, 1)),
  judged_by   TEXT NOT NULL,
  judged_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
    CONSTRAINT batches_judged_at_is_utc CHECK (judged_at IS datetime(judged_at, '+0 days') OR judged_at IS strftime('%Y-%m-%d %H:%M:%f', judged_at, '+0 days')),
  landed_at   TEXT
    CONSTRAINT batches_landed_at_is_utc CHECK (landed_at IS datetime(landed_at, '+0 days') OR landed_at IS strftime('%Y-%m-%d %H:%M:%f', landed_at, '+0 days'))
) STRICT;
CREATE INDEX batches_judged_at ON batches (judged_at);
CREATE INDEX batches_tree ON batches (tree_hash);

-- An open row holds a test and leases: only its end lets them go.
CREATE TRIGGER landings_refuse_delete BEFORE DELETE ON landings
WHEN OLD.ended_at IS NULL
BEGIN
  SELECT RAISE(ABORT, 'work that waits to land is withdrawn, not deleted: loopctl reset or loopctl skip');
END;

-- The leases of queued work belong to the train, which is no loop.
CREATE TRIGGER loops_refuse_train BEFORE INSERT ON loops
WHEN NEW.id = 'landing-train' OR NEW.id GLOB 'landing-train-*'
BEGIN
  SELECT RAISE(ABORT, 'this id is reserved for the landing train');
END;

-- A proof can also be of a batch. Nothing that is stored changes, so only the text of the schema is edited (see 0022).
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, '(''alone'', ''base'', ''red_before'')', '(''alone'', ''base'', ''red_before'', ''batch'')')
WHERE type = 'table' AND name = 'proof_runs';
PRAGMA writable_schema = RESET;
CREATE TABLE schema_has_changed (at TEXT);
DROP TABLE schema_has_changed;
