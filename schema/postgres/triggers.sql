-- What the triggers of ../schema.sql do, under their names. Those that run after a row in SQLite run after the whole statement here.

-- A trigger that refuses, with its argument as the message.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = 'restrict_violation';
END
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Events, subscriptions, deliveries

CREATE FUNCTION events_refuse_existing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM events WHERE id = NEW.id) THEN
    RAISE EXCEPTION 'events are append-only: an event with this id exists' USING ERRCODE = 'unique_violation';
  ELSIF EXISTS (SELECT 1 FROM archived_events WHERE id = NEW.id) THEN
    RAISE EXCEPTION 'events are append-only: an event with this id was archived' USING ERRCODE = 'unique_violation';
  ELSIF EXISTS (SELECT 1 FROM events WHERE rowid = NEW.rowid) THEN
    RAISE EXCEPTION 'events are append-only: an event stands at this place' USING ERRCODE = 'unique_violation';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER events_refuse_existing BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION events_refuse_existing();

CREATE TRIGGER events_refuse_change BEFORE UPDATE ON events FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id OR NEW.timestamp IS DISTINCT FROM OLD.timestamp OR NEW.source IS DISTINCT FROM OLD.source
  OR NEW.event_type IS DISTINCT FROM OLD.event_type OR NEW.payload IS DISTINCT FROM OLD.payload
  OR NEW.priority IS DISTINCT FROM OLD.priority
  OR (NEW.caused_by IS DISTINCT FROM OLD.caused_by AND (OLD.caused_by IS NOT NULL OR OLD.correlation_id IS NOT NULL))
  OR (NEW.correlation_id IS DISTINCT FROM OLD.correlation_id AND OLD.correlation_id IS NOT NULL))
EXECUTE FUNCTION refuse('events are append-only: only the acknowledgement columns change');

CREATE TRIGGER events_refuse_move BEFORE UPDATE ON events FOR EACH ROW WHEN (NEW.rowid IS DISTINCT FROM OLD.rowid)
EXECUTE FUNCTION refuse('events are append-only: their place does not change');

CREATE FUNCTION events_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM maintenance) THEN
    RAISE EXCEPTION 'events are append-only: loopctl archive moves settled events away' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN OLD;
END
$$;
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION events_refuse_delete();
CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON events FOR EACH STATEMENT
EXECUTE FUNCTION refuse('events are append-only: loopctl archive moves settled events away');

CREATE TRIGGER archived_events_refuse_delete BEFORE DELETE ON archived_events FOR EACH ROW
EXECUTE FUNCTION refuse('events are append-only: the id of an archived event stays taken');
CREATE TRIGGER archived_events_refuse_truncate BEFORE TRUNCATE ON archived_events FOR EACH STATEMENT
EXECUTE FUNCTION refuse('events are append-only: the id of an archived event stays taken');

-- Before the row stands: it need not be written twice.
CREATE FUNCTION events_correlate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.caused_by IS NULL THEN
    IF NEW.event_type IN ('test_passed', 'test_failed', 'test_blocked') THEN
      NEW.caused_by := (SELECT event_id FROM attempts WHERE test_id = json_extract(NEW.payload, '$.test_id'));
    ELSIF NEW.event_type = 'file_unlocked' THEN
      NEW.caused_by := (
        SELECT caused_by FROM events
        WHERE event_type = 'file_locked' AND json_extract(payload, '$.file_path') = json_extract(NEW.payload, '$.file_path')
          AND json_extract(payload, '$.loop_id') = json_extract(NEW.payload, '$.loop_id')
        ORDER BY rowid DESC LIMIT 1);
    ELSIF NEW.event_type NOT IN ('test_started', 'component_started', 'component_stopped') THEN
      NEW.caused_by := (SELECT event_id FROM running_attempts WHERE loop_id = NEW.source LIMIT 1);
    END IF;
  END IF;
  NEW.correlation_id := coalesce((SELECT correlation_id FROM events WHERE id = NEW.caused_by), NEW.id);
  RETURN NEW;
END
$$;
CREATE TRIGGER events_correlate BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.correlation_id IS NULL)
EXECUTE FUNCTION events_correlate();

CREATE FUNCTION events_deliver() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.event_type >= 'custom.' AND NEW.event_type < 'custom/' THEN
    INSERT INTO deliveries (event_id, subscription_id, seq, priority)
    SELECT DISTINCT NEW.id, subscription_id, NEW.rowid, NEW.priority FROM subscription_matches
    WHERE event_type IN (NEW.event_type, 'custom.*') AND (source = '' OR source = NEW.source) AND max_priority >= NEW.priority;
  ELSE
    INSERT INTO deliveries (event_id, subscription_id, seq, priority)
    SELECT NEW.id, subscription_id, NEW.rowid, NEW.priority FROM subscription_matches
    WHERE event_type = NEW.event_type AND (source = '' OR source = NEW.source) AND max_priority >= NEW.priority;
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER events_deliver AFTER INSERT ON events FOR EACH ROW WHEN (NEW.acknowledged = 0)
EXECUTE FUNCTION events_deliver();

CREATE FUNCTION events_start_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO attempts (test_id, event_id, correlation_id)
  SELECT id, NEW.id, NEW.correlation_id FROM tests WHERE id = json_extract(NEW.payload, '$.test_id')
  ON CONFLICT (test_id) DO UPDATE SET event_id = excluded.event_id, correlation_id = excluded.correlation_id;
  RETURN NULL;
END
$$;
CREATE TRIGGER events_start_attempt AFTER INSERT ON events FOR EACH ROW WHEN (NEW.event_type = 'test_started')
EXECUTE FUNCTION events_start_attempt();

CREATE FUNCTION events_acknowledge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE deliveries SET status = 'acknowledged', settled_at = utc_now()
  WHERE event_id = NEW.id AND status = 'pending'
    AND subscription_id IN (SELECT id FROM subscriptions WHERE subscriber = NEW.acknowledged_by);
  UPDATE events SET acknowledged = 0, acknowledged_by = NULL, acknowledged_at = NULL
  WHERE id = NEW.id AND EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.id AND status = 'pending');
  UPDATE events SET acknowledged_at = utc_now() WHERE id = NEW.id AND acknowledged = 1 AND acknowledged_at IS NULL;
  RETURN NULL;
END
$$;
CREATE TRIGGER events_acknowledge AFTER UPDATE OF acknowledged ON events FOR EACH ROW
WHEN (NEW.acknowledged = 1 AND OLD.acknowledged = 0) EXECUTE FUNCTION events_acknowledge();

CREATE FUNCTION deliveries_settle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE events SET acknowledged = 1, acknowledged_at = NEW.settled_at,
    acknowledged_by = (SELECT subscriber FROM subscriptions WHERE id = NEW.subscription_id)
  WHERE id = NEW.event_id AND acknowledged = 0
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.event_id AND status = 'pending');
  RETURN NULL;
END
$$;
CREATE TRIGGER deliveries_settle AFTER UPDATE OF status ON deliveries FOR EACH ROW
WHEN (OLD.status = 'pending' AND NEW.status = 'acknowledged') EXECUTE FUNCTION deliveries_settle();

CREATE FUNCTION deliveries_set_aside() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE events SET acknowledged = 1, acknowledged_at = NEW.settled_at,
    acknowledged_by = (SELECT s.subscriber FROM deliveries AS d JOIN subscriptions AS s ON s.id = d.subscription_id
                       WHERE d.event_id = NEW.event_id AND d.status = 'acknowledged'
                       ORDER BY d.settled_at DESC, d.seq DESC LIMIT 1)
  WHERE id = NEW.event_id AND acknowledged = 0
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.event_id AND status = 'pending')
    AND EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.event_id AND status = 'acknowledged');
  RETURN NULL;
END
$$;
CREATE TRIGGER deliveries_set_aside AFTER UPDATE OF status ON deliveries FOR EACH ROW
WHEN (OLD.status = 'pending' AND NEW.status = 'set_aside') EXECUTE FUNCTION deliveries_set_aside();

CREATE FUNCTION subscriptions_match() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    DELETE FROM subscription_matches WHERE subscription_id = OLD.id;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    DELETE FROM subscription_matches WHERE subscription_id = NEW.id;
    INSERT INTO subscription_matches (event_type, source, subscription_id, max_priority)
    SELECT DISTINCT t.value, s.value, NEW.id, coalesce(NEW.max_priority, 9223372036854775807)
    FROM json_each(NEW.event_types) AS t, json_each(coalesce(NEW.filter_sources, '[""]')) AS s
    WHERE NEW.active = 1 AND t.type = 'text' AND s.type = 'text';
  END IF;
  IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (NEW.active = 0 OR NEW.id <> OLD.id)) THEN
    UPDATE deliveries SET status = 'set_aside', last_error = 'subscription ended', settled_at = utc_now()
    WHERE subscription_id = OLD.id AND status = 'pending';
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER subscriptions_insert AFTER INSERT ON subscriptions FOR EACH ROW EXECUTE FUNCTION subscriptions_match();
CREATE TRIGGER subscriptions_update AFTER UPDATE OF id, event_types, filter_sources, active, max_priority ON subscriptions
FOR EACH ROW EXECUTE FUNCTION subscriptions_match();
CREATE TRIGGER subscriptions_delete AFTER DELETE ON subscriptions FOR EACH ROW EXECUTE FUNCTION subscriptions_match();

CREATE FUNCTION loops_subscribe() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO subscriptions (id, subscriber, event_types) VALUES (NEW.id, NEW.id,
    '["pause_requested","resume_requested","restart_requested","rollback_triggered","force_release","digression_detected",'
    '"priority_changed","knowledge_recorded","knowledge_conflict","decision_resolved","change_resolved",'
    '"component_degraded","component_recovered"]')
  ON CONFLICT DO NOTHING;
  RETURN NULL;
END
$$;
CREATE TRIGGER loops_subscribe AFTER INSERT ON loops FOR EACH ROW EXECUTE FUNCTION loops_subscribe();

CREATE FUNCTION loops_unsubscribe() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM subscriptions WHERE subscriber = OLD.id;
  RETURN NULL;
END
$$;
CREATE TRIGGER loops_unsubscribe AFTER DELETE ON loops FOR EACH ROW EXECUTE FUNCTION loops_unsubscribe();

CREATE TRIGGER loops_refuse_train BEFORE INSERT ON loops FOR EACH ROW
WHEN (NEW.id = 'landing-train' OR NEW.id LIKE 'landing-train-%')
EXECUTE FUNCTION refuse('this id is reserved for the landing train');

-- ---------------------------------------------------------------------------------------------------------------
-- Leases and waiting

-- The next number of a counter.
CREATE FUNCTION next_number(counter text) RETURNS bigint LANGUAGE sql VOLATILE
BEGIN ATOMIC
  UPDATE counters SET value = value + 1 WHERE name = counter RETURNING value;
END;

CREATE FUNCTION wait_graph_number() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE wait_graph SET seq = next_number('wait_edge')
  WHERE waiter = NEW.waiter AND holder = NEW.holder AND resource = NEW.resource;
  RETURN NULL;
END
$$;
CREATE TRIGGER wait_graph_number AFTER INSERT ON wait_graph FOR EACH ROW EXECUTE FUNCTION wait_graph_number();

CREATE FUNCTION file_locks_fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE file_locks SET fencing_token = next_number('fencing_token') WHERE file_path = NEW.file_path;
  RETURN NULL;
END
$$;
CREATE TRIGGER file_locks_fence AFTER INSERT ON file_locks FOR EACH ROW WHEN (NEW.fencing_token = 0)
EXECUTE FUNCTION file_locks_fence();

-- Whether two paths are one, or one is a folder that the other lies in.
CREATE FUNCTION paths_overlap(one text, other text) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT one = other OR one || '/' = other OR other || '/' = one
    OR (right(one, 1) = '/' AND starts_with(other, one)) OR (right(other, 1) = '/' AND starts_with(one, other));
END;

CREATE FUNCTION file_locks_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM wait_graph WHERE holder = OLD.locked_by AND paths_overlap(resource, OLD.file_path)
    AND NOT EXISTS (SELECT 1 FROM file_locks AS l
                    WHERE l.locked_by = OLD.locked_by AND paths_overlap(l.file_path, wait_graph.resource));
  UPDATE lease_requests SET freed_at = utc_now()
  WHERE id IN (SELECT request_id FROM lease_request_paths WHERE paths_overlap(file_path, OLD.file_path));
  RETURN NULL;
END
$$;
CREATE TRIGGER file_locks_delete AFTER DELETE ON file_locks FOR EACH ROW EXECUTE FUNCTION file_locks_delete();

CREATE FUNCTION note_wait(test text) RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
  INSERT INTO test_waits (test_id, seq) VALUES (test, next_number('test_wait'))
  ON CONFLICT (test_id) DO UPDATE SET seq = excluded.seq;
END;

CREATE FUNCTION tests_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM note_wait(NEW.id);
  RETURN NULL;
END
$$;
CREATE TRIGGER tests_wait_insert AFTER INSERT ON tests FOR EACH ROW WHEN (NEW.depends_on IS NOT NULL)
EXECUTE FUNCTION tests_wait();
CREATE TRIGGER tests_wait_update AFTER UPDATE OF depends_on, status, loop_id ON tests FOR EACH ROW
WHEN (NEW.status = 'pending'
  AND (OLD.status <> 'pending' OR NEW.depends_on IS DISTINCT FROM OLD.depends_on OR NEW.loop_id <> OLD.loop_id))
EXECUTE FUNCTION tests_wait();

CREATE FUNCTION change_request_tests_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM note_wait(NEW.test_id);
  RETURN NULL;
END
$$;
CREATE TRIGGER change_request_tests_wait AFTER INSERT ON change_request_tests FOR EACH ROW
EXECUTE FUNCTION change_request_tests_wait();

-- ---------------------------------------------------------------------------------------------------------------
-- Knowledge, migrations, the journal

CREATE FUNCTION knowledge_index_item() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  number bigint;
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
    UPDATE knowledge_numbers SET knowledge_id = NEW.id WHERE knowledge_id = OLD.id;
  ELSIF TG_OP = 'INSERT' THEN
    INSERT INTO knowledge_numbers (knowledge_id)
    SELECT NEW.id WHERE NOT EXISTS (SELECT 1 FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  END IF;
  number := (SELECT seq FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  DELETE FROM knowledge_words WHERE rowid = number;
  INSERT INTO knowledge_words (rowid, topic, content, evidence)
  SELECT seq, topic, content, evidence FROM knowledge_index WHERE knowledge_id = NEW.id;
  DELETE FROM knowledge_areas WHERE seq = number;
  INSERT INTO knowledge_areas (prefix, seq, area)
  SELECT prefix, seq, area FROM knowledge_scopes WHERE knowledge_id = NEW.id ON CONFLICT DO NOTHING;
  RETURN NULL;
END
$$;
CREATE TRIGGER knowledge_insert AFTER INSERT ON knowledge FOR EACH ROW EXECUTE FUNCTION knowledge_index_item();
CREATE TRIGGER knowledge_update AFTER UPDATE OF id, topic, content, evidence, affected_areas, superseded_by ON knowledge
FOR EACH ROW EXECUTE FUNCTION knowledge_index_item();

CREATE FUNCTION knowledge_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM knowledge_words WHERE rowid = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = OLD.id);
  DELETE FROM knowledge_areas WHERE seq = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = OLD.id);
  DELETE FROM knowledge_numbers WHERE knowledge_id = OLD.id;
  RETURN NULL;
END
$$;
CREATE TRIGGER knowledge_delete AFTER DELETE ON knowledge FOR EACH ROW EXECUTE FUNCTION knowledge_delete();

CREATE FUNCTION migrations_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO counters (name, value) VALUES ('migration_number', NEW.number)
  ON CONFLICT (name) DO UPDATE SET value = greatest(counters.value, excluded.value);
  RETURN NULL;
END
$$;
CREATE TRIGGER migrations_insert AFTER INSERT ON migrations FOR EACH ROW EXECUTE FUNCTION migrations_count();
CREATE TRIGGER migrations_renumber AFTER UPDATE OF number ON migrations FOR EACH ROW EXECUTE FUNCTION migrations_count();

CREATE FUNCTION transaction_log_refuse_existing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM transaction_log WHERE id = NEW.id) THEN
    RAISE EXCEPTION 'this entry of the journal exists already' USING ERRCODE = 'unique_violation';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER transaction_log_refuse_existing BEFORE INSERT ON transaction_log FOR EACH ROW
EXECUTE FUNCTION transaction_log_refuse_existing();
CREATE TRIGGER transaction_log_refuse_change BEFORE UPDATE ON transaction_log FOR EACH ROW
WHEN (OLD.status <> 'in_progress'
  OR NEW.id IS DISTINCT FROM OLD.id OR NEW.operation IS DISTINCT FROM OLD.operation
  OR NEW.component IS DISTINCT FROM OLD.component OR NEW.started_at IS DISTINCT FROM OLD.started_at
  OR NEW.event_id IS DISTINCT FROM OLD.event_id)
EXECUTE FUNCTION refuse('an intent stands as it was written, and a settled entry of the journal does not change');
CREATE TRIGGER transaction_log_refuse_delete BEFORE DELETE ON transaction_log FOR EACH ROW WHEN (OLD.status = 'in_progress')
EXECUTE FUNCTION refuse('an open entry of the journal is settled, not deleted');

-- ---------------------------------------------------------------------------------------------------------------
-- The landing train

CREATE TRIGGER landings_refuse_delete BEFORE DELETE ON landings FOR EACH ROW WHEN (OLD.ended_at IS NULL)
EXECUTE FUNCTION refuse('work that waits to land is withdrawn, not deleted: loopctl reset or loopctl skip');

CREATE FUNCTION tests_refuse_queued() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  test text := CASE TG_OP WHEN 'INSERT' THEN NEW.id ELSE OLD.id END;
BEGIN
  IF EXISTS (SELECT 1 FROM landings WHERE test_id = test AND ended_at IS NULL) THEN
    RAISE EXCEPTION 'the work of this test waits to land (loopctl landings): loopctl reset or loopctl skip'
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
CREATE TRIGGER tests_refuse_queued BEFORE UPDATE OF id, loop_id, status ON tests FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id OR NEW.loop_id IS DISTINCT FROM OLD.loop_id OR NEW.status IS DISTINCT FROM OLD.status)
EXECUTE FUNCTION tests_refuse_queued();
CREATE TRIGGER tests_refuse_queued_delete BEFORE DELETE ON tests FOR EACH ROW EXECUTE FUNCTION tests_refuse_queued();
CREATE TRIGGER tests_refuse_queued_replace BEFORE INSERT ON tests FOR EACH ROW EXECUTE FUNCTION tests_refuse_queued();

-- ---------------------------------------------------------------------------------------------------------------
-- One writer, and the bell

-- The key of the lock that every writer of this database holds until its transaction ends: "cLoP".
CREATE FUNCTION writer_key() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT 1665953616::bigint;
END;

-- Whether time has restarted at the server's clock; if not, it does so with this transaction. A transaction that is rolled back leaves
-- that to the next one: `moment` is no part of transactions, the row is. All hosts get the grace that follows a change of a clock.
CREATE FUNCTION restart_time(at bigint, last bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  seen text := to_char(to_timestamp(at / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS');
BEGIN
  IF EXISTS (SELECT 1 FROM counters WHERE name = 'time_restarted' AND value = last) THEN
    RETURN true;
  END IF;
  INSERT INTO counters (name, value) VALUES ('time_restarted', last + 1)
  ON CONFLICT (name) DO UPDATE SET value = excluded.value;
  INSERT INTO clock_changes (host, seen_at, millis) SELECT host, seen, at - last FROM clock
  ON CONFLICT (host, seen_at) DO UPDATE SET millis = clock_changes.millis + excluded.millis;
  UPDATE clock SET grace_until = to_char(utc(seen) + interval '30 seconds', 'YYYY-MM-DD HH24:MI:SS.MS');
  INSERT INTO events (id, timestamp, source, event_type, payload) VALUES (
    gen_random_uuid()::text, seen, 'human', 'human_message', json_build_object('message_type', 'note', 'source', 'server', 'comment',
      format('the clock of the PostgreSQL server is %s s behind the last change: time restarts from it, and leases have a grace of 30 s',
        (last - at) / 1000)));
  RAISE LOG 'coding-loops: the clock is % ms behind the last change; time restarts from it', last - at;
  RETURN false;
END
$$;

-- Takes the lock for this transaction and gives its moment in milliseconds since 1970, which is never before that of an earlier one,
-- and the moment of the writer before it. A server whose clock is set back, or a standby with a late clock that was promoted, stands
-- still for at most `standstill` milliseconds; behind that, time restarts. Rings the bell when the transaction commits, unless it is quiet.
CREATE FUNCTION take_writer_lock(quiet boolean, standstill bigint, OUT at bigint, OUT before bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  is_behind boolean;
BEGIN
  PERFORM pg_advisory_xact_lock(writer_key());
  -- A client that stands still with the lock loses it, psql too.
  PERFORM set_config('idle_in_transaction_session_timeout', '10s', true);
  at := floor(extract(epoch FROM clock_timestamp()) * 1000);
  SELECT last_value INTO before FROM moment;
  is_behind := before - at > standstill;
  IF before > at AND NOT is_behind THEN
    at := before;
  END IF;
  PERFORM set_config('coding_loops.moment', at::text, true);
  IF is_behind AND NOT restart_time(at, before) THEN
    -- Not yet: this transaction may not commit. Another moment than before, so that others see that somebody has written.
    PERFORM setval('moment', before + 1);
    NOTIFY coding_loops;
  ELSE
    PERFORM setval('moment', at);
  END IF;
  IF NOT quiet THEN
    NOTIFY coding_loops;
  END IF;
END
$$;

-- Begins to write: takes the lock, waiting at most `patience` milliseconds for it.
CREATE FUNCTION begin_write(patience bigint, quiet boolean, OUT at bigint, OUT before bigint) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM set_config('lock_timeout', greatest(patience, 1)::text, true);
  SELECT taken.at, taken.before INTO at, before FROM take_writer_lock(quiet, 5000) AS taken;
END
$$;

-- A statement of a client that has not begun so, psql for example, takes the lock before it changes a row.
CREATE FUNCTION begin_to_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF coalesce(current_setting('coding_loops.moment', true), '') = '' THEN
    PERFORM taken.at FROM take_writer_lock(false, 5000) AS taken;
  END IF;
  RETURN NULL;
END
$$;

-- The moment at which a reader begins: not before that of the last writer.
CREATE FUNCTION begin_read(standstill bigint DEFAULT 5000) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  at bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
  last bigint;
BEGIN
  SELECT last_value INTO last FROM moment;
  RETURN CASE WHEN last > at AND last - at <= standstill THEN last ELSE at END;
END
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Who listens to what, from the start: nothing published before a process's first start is missed.

INSERT INTO subscriptions (id, subscriber, event_types) VALUES
  ('monitor', 'monitor',
   '["test_started","test_passed","test_failed","file_locked","file_unlocked","component_degraded"]'),
  ('deadlock-detector', 'deadlock-detector', '[]'),
  ('regression-checker', 'regression-checker', '["test_passed"]'),
  ('pm', 'pm',
   '["test_passed","test_blocked","file_conflict","stuck_detected","digression_detected","resource_warning",'
   '"regression_detected","regression_cleared","human_message","summary_requested","loop_paused","loop_resumed",'
   '"rollback_done","knowledge_conflict","change_requested","component_degraded","component_recovered"]'),
  ('heartbeat', 'heartbeat', '["component_started","component_stopped"]'),
  ('human', 'human',
   '["decision_needed","stuck_detected","test_blocked","file_conflict","digression_detected","resource_warning",'
   '"regression_detected","component_degraded","force_release"]');
INSERT INTO subscriptions (id, subscriber, event_types, max_priority) VALUES
  ('human-urgent', 'human',
   '["test_started","test_passed","test_failed","file_locked","file_unlocked","regression_cleared","decision_resolved",'
   '"priority_changed","pause_requested","resume_requested","loop_paused","loop_resumed","restart_requested",'
   '"rollback_triggered","rollback_done","human_message","summary_requested","knowledge_recorded",'
   '"knowledge_conflict","change_requested","change_resolved","component_started","component_stopped",'
   '"component_recovered","custom.*"]', 2);

UPDATE subscriptions SET active = 0 WHERE subscriber IN ('monitor', 'deadlock-detector', 'regression-checker', 'heartbeat');
