-- The ids of the events that were moved into the archive beside the database: an id stays taken for ever.
CREATE TABLE archived_events (
  id TEXT PRIMARY KEY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER events_refuse_archived BEFORE INSERT ON events
WHEN EXISTS (SELECT 1 FROM archived_events WHERE id = NEW.id)
BEGIN
  SELECT RAISE(ABORT, 'events are append-only: an event with this id was archived');
END;

CREATE TRIGGER archived_events_refuse_delete BEFORE DELETE ON archived_events
BEGIN
  SELECT RAISE(ABORT, 'events are append-only: the id of an archived event stays taken');
END;
