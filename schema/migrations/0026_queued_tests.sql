-- A test whose work waits to land is settled by the landing train alone: another program that settled it would leave the work
-- outside of integration.
CREATE TRIGGER tests_refuse_queued BEFORE UPDATE OF id, loop_id, status ON tests
WHEN (NEW.id IS NOT OLD.id OR NEW.loop_id IS NOT OLD.loop_id OR NEW.status IS NOT OLD.status)
  AND EXISTS (SELECT 1 FROM landings WHERE test_id = OLD.id AND ended_at IS NULL)
BEGIN
  SELECT RAISE(ABORT, 'the work of this test waits to land (loopctl landings): loopctl reset or loopctl skip');
END;
CREATE TRIGGER tests_refuse_queued_delete BEFORE DELETE ON tests
WHEN EXISTS (SELECT 1 FROM landings WHERE test_id = OLD.id AND ended_at IS NULL)
BEGIN
  SELECT RAISE(ABORT, 'the work of this test waits to land (loopctl landings): loopctl reset or loopctl skip');
END;
-- A statement that replaces a row fires neither of them.
CREATE TRIGGER tests_refuse_queued_replace BEFORE INSERT ON tests
WHEN EXISTS (SELECT 1 FROM landings WHERE test_id = NEW.id AND ended_at IS NULL)
BEGIN
  SELECT RAISE(ABORT, 'the work of this test waits to land (loopctl landings): loopctl reset or loopctl skip');
END;
