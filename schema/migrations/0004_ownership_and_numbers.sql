-- The change requests that a test waits for: it is not claimed while one of them has no answer, and takes the leave with it
-- when it passes.
CREATE TABLE change_request_tests (
  test_id    TEXT NOT NULL,
  request_id TEXT NOT NULL REFERENCES change_requests (id) ON DELETE CASCADE,
  PRIMARY KEY (test_id, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX change_request_tests_request ON change_request_tests (request_id);
CREATE INDEX change_requests_resource ON change_requests (resource_path);

-- The largest migration number there ever was: a number whose row is gone is not handed out again.
INSERT INTO counters (name, value) VALUES ('migration_number', (SELECT coalesce(max(number), 0) FROM migrations));

CREATE TRIGGER migrations_insert AFTER INSERT ON migrations
BEGIN
  INSERT INTO counters (name, value) VALUES ('migration_number', NEW.number)
  ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value);
END;

CREATE TRIGGER migrations_renumber AFTER UPDATE OF number ON migrations
BEGIN
  INSERT INTO counters (name, value) VALUES ('migration_number', NEW.number)
  ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value);
END;
