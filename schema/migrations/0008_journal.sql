-- The journal keeps its own state machine, whoever writes it: an intent stands as it was written, an entry is settled once,
-- and one that is open is settled and not deleted.

CREATE TRIGGER transaction_log_refuse_existing BEFORE INSERT ON transaction_log
WHEN EXISTS (SELECT 1 FROM transaction_log WHERE id = NEW.id)
BEGIN
  SELECT RAISE(ABORT, 'this entry of the journal exists already');
END;
CREATE TRIGGER transaction_log_refuse_change BEFORE UPDATE ON transaction_log
WHEN OLD.status <> 'in_progress'
  OR NEW.id IS NOT OLD.id OR NEW.operation IS NOT OLD.operation OR NEW.component IS NOT OLD.component
  OR NEW.started_at IS NOT OLD.started_at OR NEW.event_id IS NOT OLD.event_id
BEGIN
  SELECT RAISE(ABORT, 'an intent stands as it was written, and a settled entry of the journal does not change');
END;
CREATE TRIGGER transaction_log_refuse_delete BEFORE DELETE ON transaction_log
WHEN OLD.status = 'in_progress'
BEGIN
  SELECT RAISE(ABORT, 'an open entry of the journal is settled, not deleted');
END;
