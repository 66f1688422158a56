-- ---------------------------------------------------------------------------------------------------------------
-- Foreign hands: events by their place

-- A statement that replaces rows fires no delete trigger, and finds an event by its place (its rowid) as well as by its id.
CREATE TRIGGER events_refuse_place BEFORE INSERT ON events
WHEN NEW.rowid <> -1 AND EXISTS (SELECT 1 FROM events WHERE rowid = NEW.rowid)
BEGIN
  SELECT RAISE(ABORT, 'events are append-only: an event stands at this place');
END;

CREATE TRIGGER events_refuse_move BEFORE UPDATE OF rowid, oid, _rowid_ ON events
BEGIN
  SELECT RAISE(ABORT, 'events are append-only: their place does not change');
END;
