-- ---------------------------------------------------------------------------------------------------------------
-- Attempts: the event that began each, so that every event of an attempt names it

-- The newest attempt at each test: its test_started, and the story that this belongs to.
CREATE TABLE attempts (
  test_id        TEXT PRIMARY KEY NOT NULL,
  event_id       TEXT NOT NULL,
  correlation_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO attempts (test_id, event_id, correlation_id)
  SELECT t.id, e.id, coalesce(e.correlation_id, e.id) FROM tests AS t
  JOIN events AS e ON e.rowid = (SELECT max(s.rowid) FROM events AS s
                                 WHERE s.event_type = 'test_started' AND json_extract(s.payload, '$.test_id') = t.id)
  WHERE t.status = 'in_progress';

-- `loopctl check` holds what was published after this place in the order of commits to its rule about attempts.
INSERT INTO counters (name, value) SELECT 'attempts_since', coalesce(max(rowid), 0) FROM events;

CREATE TRIGGER events_start_attempt AFTER INSERT ON events
WHEN NEW.event_type = 'test_started'
BEGIN
  INSERT INTO attempts (test_id, event_id, correlation_id)
  SELECT id, NEW.id, coalesce(NEW.correlation_id, (SELECT correlation_id FROM events WHERE id = NEW.caused_by), NEW.id)
  FROM tests WHERE id = json_extract(NEW.payload, '$.test_id')
  ON CONFLICT (test_id) DO UPDATE SET event_id = excluded.event_id, correlation_id = excluded.correlation_id;
END;

-- The attempt that each loop is working on.
CREATE VIEW running_attempts AS
  SELECT l.id AS loop_id, a.test_id AS test_id, a.event_id AS event_id, a.correlation_id AS correlation_id
  FROM loops AS l JOIN tests AS t ON t.id = l.current_test_id AND t.status = 'in_progress' JOIN attempts AS a ON a.test_id = t.id;

-- An event without a story joins that of its cause; one of an attempt that names no cause was caused by the attempt's start.
-- What is left begins a story.
DROP TRIGGER events_correlate;
CREATE TRIGGER events_correlate AFTER INSERT ON events
WHEN NEW.correlation_id IS NULL
BEGIN
  UPDATE events SET caused_by = CASE
    WHEN NEW.event_type IN ('test_passed', 'test_failed', 'test_blocked') THEN
      (SELECT event_id FROM attempts WHERE test_id = json_extract(NEW.payload, '$.test_id'))
    WHEN NEW.event_type = 'file_unlocked' THEN
      (SELECT caused_by FROM events
       WHERE event_type = 'file_locked' AND json_extract(payload, '$.file_path') = json_extract(NEW.payload, '$.file_path')
         AND json_extract(payload, '$.loop_id') = json_extract(NEW.payload, '$.loop_id')
       ORDER BY rowid DESC LIMIT 1)
    WHEN NEW.event_type NOT IN ('test_started', 'component_started', 'component_stopped') THEN
      (SELECT event_id FROM running_attempts WHERE loop_id = NEW.source)
    END
  WHERE id = NEW.id AND caused_by IS NULL;
  UPDATE events SET correlation_id = coalesce(
    (SELECT c.correlation_id FROM events AS e JOIN events AS c ON c.id = e.caused_by WHERE e.id = NEW.id), NEW.id)
  WHERE id = NEW.id;
END;

-- Cause and story stand once both are filled in.
DROP TRIGGER events_refuse_change;
CREATE TRIGGER events_refuse_change BEFORE UPDATE OF
  id, timestamp, source, event_type, payload, correlation_id, priority, caused_by ON events
WHEN NEW.id IS NOT OLD.id OR NEW.timestamp IS NOT OLD.timestamp OR NEW.source IS NOT OLD.source
  OR NEW.event_type IS NOT OLD.event_type OR NEW.payload IS NOT OLD.payload OR NEW.priority IS NOT OLD.priority
  OR (NEW.caused_by IS NOT OLD.caused_by AND (OLD.caused_by IS NOT NULL OR OLD.correlation_id IS NOT NULL))
  OR (NEW.correlation_id IS NOT OLD.correlation_id AND OLD.correlation_id IS NOT NULL)
BEGIN
  SELECT RAISE(ABORT, 'events are append-only: only the acknowledgement columns change');
END;
