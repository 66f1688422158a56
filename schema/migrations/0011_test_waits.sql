-- ---------------------------------------------------------------------------------------------------------------
-- Waiting: tests

-- Tests that may have begun to wait, each with a number that grows, so that a reader can ask for those that are new to it.
-- One row for a test, however often it does.
CREATE TABLE test_waits (
  test_id TEXT PRIMARY KEY NOT NULL,
  seq     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX test_waits_seq ON test_waits (seq);

INSERT INTO counters (name, value) VALUES ('test_wait', 0);

CREATE TRIGGER tests_wait_insert AFTER INSERT ON tests
WHEN NEW.depends_on IS NOT NULL
BEGIN
  UPDATE counters SET value = value + 1 WHERE name = 'test_wait';
  INSERT INTO test_waits (test_id, seq) VALUES (NEW.id, (SELECT value FROM counters WHERE name = 'test_wait'))
  ON CONFLICT (test_id) DO UPDATE SET seq = excluded.seq;
END;

CREATE TRIGGER tests_wait_update AFTER UPDATE OF depends_on, status, loop_id ON tests
WHEN NEW.status = 'pending' AND (OLD.status <> 'pending' OR NEW.depends_on IS NOT OLD.depends_on OR NEW.loop_id <> OLD.loop_id)
BEGIN
  UPDATE counters SET value = value + 1 WHERE name = 'test_wait';
  INSERT INTO test_waits (test_id, seq) VALUES (NEW.id, (SELECT value FROM counters WHERE name = 'test_wait'))
  ON CONFLICT (test_id) DO UPDATE SET seq = excluded.seq;
END;

CREATE TRIGGER change_request_tests_wait AFTER INSERT ON change_request_tests
BEGIN
  UPDATE counters SET value = value + 1 WHERE name = 'test_wait';
  INSERT INTO test_waits (test_id, seq) VALUES (NEW.test_id, (SELECT value FROM counters WHERE name = 'test_wait'))
  ON CONFLICT (test_id) DO UPDATE SET seq = excluded.seq;
END;
