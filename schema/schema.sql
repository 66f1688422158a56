-- The whole schema: what the numbered migrations add up to. A test proves it.

-- The whole of version 1. Migrations are only ever appended; schema.sql is what they add up to.
-- Nothing here is newer than SQLite 3.37, so that distributions' shells and Python can write.
-- Times are UTC text, 'YYYY-MM-DD HH:MM:SS.SSS' (or without milliseconds), so that text order is time order.

-- ---------------------------------------------------------------------------------------------------------------
-- Loops and their tests

CREATE TABLE loops (
  id              TEXT PRIMARY KEY NOT NULL CHECK (length(id) BETWEEN 1 AND 64 AND id GLOB '[A-Za-z0-9]*' AND id NOT GLOB '*[^A-Za-z0-9._-]*') CHECK (id NOT IN ('monitor', 'deadlock-detector', 'regression-checker', 'pm-agent', 'pm', 'heartbeat', 'human', 'all')),
  name            TEXT NOT NULL DEFAULT '',
  priority        INTEGER NOT NULL DEFAULT 5 CHECK (priority >= 1),
  branch          TEXT,
  status          TEXT NOT NULL DEFAULT 'stopped' CHECK (status IN ('running', 'stopped', 'paused', 'error')),
  current_test_id TEXT,
  pid             INTEGER CHECK (pid > 0),
  created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT loops_created_at_is_utc CHECK (created_at IS datetime(created_at, '+0 days') OR created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days')),
  updated_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT loops_updated_at_is_utc CHECK (updated_at IS datetime(updated_at, '+0 days') OR updated_at IS strftime('%Y-%m-%d %H:%M:%f', updated_at, '+0 days')),
  died_at         TEXT CONSTRAINT loops_died_at_is_utc CHECK (died_at IS datetime(died_at, '+0 days') OR died_at IS strftime('%Y-%m-%d %H:%M:%f', died_at, '+0 days'))
, agent TEXT, vain_runs INTEGER NOT NULL DEFAULT 0 CHECK (vain_runs >= 0)) STRICT;

CREATE TABLE tests (
  id              TEXT PRIMARY KEY NOT NULL CHECK (length(id) BETWEEN 1 AND 64 AND id GLOB '[A-Za-z0-9]*' AND id NOT GLOB '*[^A-Za-z0-9._-]*'),
  loop_id         TEXT NOT NULL REFERENCES loops (id),
  category        TEXT NOT NULL DEFAULT '',
  status          TEXT NOT NULL DEFAULT 'pending'
                  CHECK (status IN ('pending', 'in_progress', 'passed', 'failed', 'blocked', 'skipped')),
  attempts        INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  max_attempts    INTEGER NOT NULL DEFAULT 3 CHECK (max_attempts >= 1),
  last_result     TEXT CHECK (last_result IN ('pass', 'fail', 'blocked')),
  depends_on      TEXT CHECK (depends_on <> id),
  automatable     INTEGER NOT NULL DEFAULT 1 CHECK (automatable IN (0, 1)),
  notes           TEXT,
  spec_content    TEXT,
  last_attempt_at TEXT CONSTRAINT tests_last_attempt_at_is_utc CHECK (last_attempt_at IS datetime(last_attempt_at, '+0 days') OR last_attempt_at IS strftime('%Y-%m-%d %H:%M:%f', last_attempt_at, '+0 days')),
  passed_at       TEXT CONSTRAINT tests_passed_at_is_utc CHECK (passed_at IS datetime(passed_at, '+0 days') OR passed_at IS strftime('%Y-%m-%d %H:%M:%f', passed_at, '+0 days')),
  verified_at     TEXT CONSTRAINT tests_verified_at_is_utc CHECK (verified_at IS datetime(verified_at, '+0 days') OR verified_at IS strftime('%Y-%m-%d %H:%M:%f', verified_at, '+0 days')),
  created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT tests_created_at_is_utc CHECK (created_at IS datetime(created_at, '+0 days') OR created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days')),
  scope           TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(scope)),
  last_error      TEXT,
  error_category  TEXT CHECK (error_category IN
                  ('transient', 'permanent', 'system', 'code', 'spec', 'resource', 'dependency', 'human', 'conflict')),
  not_before      TEXT CONSTRAINT tests_not_before_is_utc CHECK (not_before IS datetime(not_before, '+0 days') OR not_before IS strftime('%Y-%m-%d %H:%M:%f', not_before, '+0 days')),
  commit_hash     TEXT,
  give_backs      INTEGER NOT NULL DEFAULT 0 CHECK (give_backs >= 0), no_change TEXT NOT NULL DEFAULT 'ask' CHECK (no_change IN ('ask', 'allowed', 'accepted')),
  -- Verified or not passed: no client, whichever it is, can mark a test passed without the gate's time.
  CHECK (status <> 'passed' OR verified_at IS NOT NULL)
) STRICT;
CREATE INDEX tests_loop_id ON tests (loop_id, status, id);
CREATE INDEX tests_status ON tests (status);
CREATE INDEX tests_depends_on ON tests (depends_on);
CREATE INDEX tests_error_category ON tests (error_category) WHERE error_category IS NOT NULL;

CREATE TABLE proofs (
  id             TEXT PRIMARY KEY NOT NULL,
  test_id        TEXT NOT NULL,
  attempt        INTEGER NOT NULL,
  commit_hash    TEXT NOT NULL,
  tree_hash      TEXT NOT NULL,
  check_name     TEXT NOT NULL,
  outcome        TEXT NOT NULL CHECK (outcome IN ('pass', 'fail', 'error')),
  exit_code      INTEGER,
  duration_ms    INTEGER NOT NULL CHECK (duration_ms >= 0),
  output_sha256  TEXT NOT NULL,
  output_tail    TEXT NOT NULL DEFAULT '',
  created_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT proofs_created_at_is_utc CHECK (created_at IS datetime(created_at, '+0 days') OR created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days'))
) STRICT;
CREATE INDEX proofs_test_id ON proofs (test_id, attempt);
CREATE INDEX proofs_tree ON proofs (tree_hash, check_name);

-- ---------------------------------------------------------------------------------------------------------------
-- Events, subscriptions, deliveries

CREATE TABLE events (
  id              TEXT PRIMARY KEY NOT NULL CHECK (id <> ''),
  timestamp       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT events_timestamp_is_utc CHECK (timestamp IS datetime(timestamp, '+0 days') OR timestamp IS strftime('%Y-%m-%d %H:%M:%f', timestamp, '+0 days')),
  source          TEXT NOT NULL CHECK (source <> ''),
  event_type      TEXT NOT NULL CHECK (event_type <> ''),
  payload         TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(payload)),
  correlation_id  TEXT,
  priority        INTEGER NOT NULL DEFAULT 5 CHECK (priority >= 1),
  acknowledged    INTEGER NOT NULL DEFAULT 0 CHECK (acknowledged IN (0, 1)),
  acknowledged_by TEXT,
  acknowledged_at TEXT CONSTRAINT events_acknowledged_at_is_utc CHECK (acknowledged_at IS datetime(acknowledged_at, '+0 days') OR acknowledged_at IS strftime('%Y-%m-%d %H:%M:%f', acknowledged_at, '+0 days')),
  caused_by       TEXT
) STRICT;
CREATE INDEX events_timestamp ON events (timestamp);
CREATE INDEX events_source ON events (source);
CREATE INDEX events_event_type ON events (event_type);
CREATE INDEX events_acknowledged ON events (acknowledged) WHERE acknowledged = 0;
CREATE INDEX events_correlation_id ON events (correlation_id);
CREATE INDEX events_caused_by ON events (caused_by) WHERE caused_by IS NOT NULL;

CREATE TABLE subscriptions (
  id             TEXT PRIMARY KEY NOT NULL CHECK (id <> ''),
  subscriber     TEXT NOT NULL CHECK (subscriber <> ''),
  event_types    TEXT NOT NULL CHECK (json_valid(event_types) AND json_type(event_types) = 'array'),
  filter_sources TEXT CHECK (filter_sources IS NULL OR (json_valid(filter_sources) AND json_type(filter_sources) = 'array')),
  last_poll_at   TEXT CONSTRAINT subscriptions_last_poll_at_is_utc CHECK (last_poll_at IS datetime(last_poll_at, '+0 days') OR last_poll_at IS strftime('%Y-%m-%d %H:%M:%f', last_poll_at, '+0 days')),
  active         INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1)),
  max_priority   INTEGER CHECK (max_priority >= 1)
) STRICT;
CREATE INDEX subscriptions_subscriber ON subscriptions (subscriber);

-- What the active subscriptions ask for, one row for each (type, source); source '' is every source.
-- Kept by triggers; the delivery trigger reads nothing else.
CREATE TABLE subscription_matches (
  event_type      TEXT NOT NULL,
  source          TEXT NOT NULL,
  subscription_id TEXT NOT NULL,
  max_priority    INTEGER NOT NULL,
  PRIMARY KEY (event_type, subscription_id, source)
) STRICT, WITHOUT ROWID;
CREATE INDEX subscription_matches_subscription ON subscription_matches (subscription_id);

-- A delivery's seq is its event's place in the order of commits.
CREATE TABLE deliveries (
  event_id        TEXT NOT NULL,
  subscription_id TEXT NOT NULL,
  seq             INTEGER NOT NULL,
  priority        INTEGER NOT NULL,
  status          TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'acknowledged', 'set_aside')),
  tries           INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
  last_error      TEXT,
  settled_at      TEXT CONSTRAINT deliveries_settled_at_is_utc CHECK (settled_at IS datetime(settled_at, '+0 days') OR settled_at IS strftime('%Y-%m-%d %H:%M:%f', settled_at, '+0 days')),
  PRIMARY KEY (event_id, subscription_id),
  CHECK ((status = 'pending') = (settled_at IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_pending ON deliveries (subscription_id, priority, seq) WHERE status = 'pending';

-- A table whose one row, while it stands, lets settled events be deleted: archiving puts it there and takes it away
-- in its own transaction. Nobody else deletes events.
CREATE TABLE maintenance (
  operation TEXT PRIMARY KEY NOT NULL CHECK (operation IN ('archive', 'restore'))
) STRICT;

CREATE TRIGGER events_refuse_existing BEFORE INSERT ON events
WHEN EXISTS (SELECT 1 FROM events WHERE id = NEW.id)
BEGIN
  SELECT RAISE(ABORT, 'events are append-only: an event with this id exists');
END;

-- Cause and story stand once both are filled in.
CREATE TRIGGER events_refuse_change BEFORE UPDATE OF
  id, timestamp, source, event_type, payload, correlation_id, priority, caused_by ON events
WHEN NEW.id IS NOT OLD.id OR NEW.timestamp IS NOT OLD.timestamp OR NEW.source IS NOT OLD.source
  OR NEW.event_type IS NOT OLD.event_type OR NEW.payload IS NOT OLD.payload OR NEW.priority IS NOT OLD.priority
  OR (NEW.caused_by IS NOT OLD.caused_by AND (OLD.caused_by IS NOT NULL OR OLD.correlation_id IS NOT NULL))
  OR (NEW.correlation_id IS NOT OLD.correlation_id AND OLD.correlation_id IS NOT NULL)
BEGIN
  SELECT RAISE(ABORT, 'events are append-only: only the acknowledgement columns change');
END;

CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events
WHEN NOT EXISTS (SELECT 1 FROM maintenance)
BEGIN
  SELECT RAISE(ABORT, 'events are append-only: loopctl archive moves settled events away');
END;

-- An event without a story joins that of its cause; one of an attempt that names no cause was caused by the attempt's start.
-- What is left begins a story.
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

CREATE TRIGGER events_deliver AFTER INSERT ON events
WHEN NEW.acknowledged = 0 AND NOT (NEW.event_type >= 'custom.' AND NEW.event_type < 'custom/')
BEGIN
  INSERT INTO deliveries (event_id, subscription_id, seq, priority)
  SELECT NEW.id, subscription_id, NEW.rowid, NEW.priority FROM subscription_matches
  WHERE event_type = NEW.event_type AND (source = '' OR source = NEW.source) AND max_priority >= NEW.priority;
END;

-- 'custom.*' in a subscription asks for every type of that prefix.
CREATE TRIGGER events_deliver_custom AFTER INSERT ON events
WHEN NEW.acknowledged = 0 AND NEW.event_type >= 'custom.' AND NEW.event_type < 'custom/'
BEGIN
  INSERT INTO deliveries (event_id, subscription_id, seq, priority)
  SELECT DISTINCT NEW.id, subscription_id, NEW.rowid, NEW.priority FROM subscription_matches
  WHERE event_type IN (NEW.event_type, 'custom.*') AND (source = '' OR source = NEW.source) AND max_priority >= NEW.priority;
END;

-- The seed's one flag, set by a foreign hand, acknowledges that consumer's delivery; the flag stands only once no
-- delivery is open.
CREATE TRIGGER events_acknowledge AFTER UPDATE OF acknowledged ON events
WHEN NEW.acknowledged = 1 AND OLD.acknowledged = 0
BEGIN
  UPDATE deliveries SET status = 'acknowledged', settled_at = strftime('%Y-%m-%d %H:%M:%f', 'now')
  WHERE event_id = NEW.id AND status = 'pending'
    AND subscription_id IN (SELECT id FROM subscriptions WHERE subscriber = NEW.acknowledged_by);
  UPDATE events SET acknowledged = 0, acknowledged_by = NULL, acknowledged_at = NULL
  WHERE id = NEW.id AND EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.id AND status = 'pending');
  UPDATE events SET acknowledged_at = strftime('%Y-%m-%d %H:%M:%f', 'now')
  WHERE id = NEW.id AND acknowledged = 1 AND acknowledged_at IS NULL;
END;

CREATE TRIGGER deliveries_settle AFTER UPDATE OF status ON deliveries
WHEN OLD.status = 'pending' AND NEW.status = 'acknowledged'
BEGIN
  UPDATE events SET acknowledged = 1, acknowledged_at = NEW.settled_at,
    acknowledged_by = (SELECT subscriber FROM subscriptions WHERE id = NEW.subscription_id)
  WHERE id = NEW.event_id AND acknowledged = 0
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.event_id AND status = 'pending');
END;

-- Set aside or withdrawn as the last one open: the event still counts as acknowledged if anyone has taken it.
CREATE TRIGGER deliveries_set_aside AFTER UPDATE OF status ON deliveries
WHEN OLD.status = 'pending' AND NEW.status = 'set_aside'
BEGIN
  UPDATE events SET acknowledged = 1, acknowledged_at = NEW.settled_at,
    acknowledged_by = (SELECT s.subscriber FROM deliveries AS d JOIN subscriptions AS s ON s.id = d.subscription_id
                       WHERE d.event_id = NEW.event_id AND d.status = 'acknowledged'
                       ORDER BY d.settled_at DESC, d.seq DESC LIMIT 1)
  WHERE id = NEW.event_id AND acknowledged = 0
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.event_id AND status = 'pending')
    AND EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.event_id AND status = 'acknowledged');
END;

CREATE TRIGGER subscriptions_insert AFTER INSERT ON subscriptions
BEGIN
  DELETE FROM subscription_matches WHERE subscription_id = NEW.id;
  INSERT INTO subscription_matches (event_type, source, subscription_id, max_priority)
  SELECT DISTINCT t.value, s.value, NEW.id, coalesce(NEW.max_priority, 9223372036854775807)
  FROM json_each(NEW.event_types) AS t, json_each(coalesce(NEW.filter_sources, '[""]')) AS s
  WHERE NEW.active = 1 AND t.type = 'text' AND s.type = 'text';
END;

CREATE TRIGGER subscriptions_update AFTER UPDATE OF id, event_types, filter_sources, active, max_priority ON subscriptions
BEGIN
  DELETE FROM subscription_matches WHERE subscription_id IN (OLD.id, NEW.id);
  INSERT INTO subscription_matches (event_type, source, subscription_id, max_priority)
  SELECT DISTINCT t.value, s.value, NEW.id, coalesce(NEW.max_priority, 9223372036854775807)
  FROM json_each(NEW.event_types) AS t, json_each(coalesce(NEW.filter_sources, '[""]')) AS s
  WHERE NEW.active = 1 AND t.type = 'text' AND s.type = 'text';
  UPDATE deliveries SET status = 'set_aside', last_error = 'subscription ended',
    settled_at = strftime('%Y-%m-%d %H:%M:%f', 'now')
  WHERE subscription_id = OLD.id AND status = 'pending' AND (NEW.active = 0 OR NEW.id <> OLD.id);
END;

CREATE TRIGGER subscriptions_delete AFTER DELETE ON subscriptions
BEGIN
  DELETE FROM subscription_matches WHERE subscription_id = OLD.id;
  UPDATE deliveries SET status = 'set_aside', last_error = 'subscription ended',
    settled_at = strftime('%Y-%m-%d %H:%M:%f', 'now')
  WHERE subscription_id = OLD.id AND status = 'pending';
END;

-- Whoever registers a loop, its subscription comes with it, so that nothing said to it before its first start is missed.
CREATE TRIGGER loops_subscribe AFTER INSERT ON loops
BEGIN
  INSERT OR IGNORE INTO subscriptions (id, subscriber, event_types) VALUES (NEW.id, NEW.id,
    '["pause_requested","resume_requested","restart_requested","rollback_triggered","force_release","digression_detected",'
    || '"priority_changed","knowledge_recorded","knowledge_conflict","decision_resolved","change_resolved",'
    || '"component_degraded","component_recovered"]');
END;

CREATE TRIGGER loops_unsubscribe AFTER DELETE ON loops
BEGIN
  DELETE FROM subscriptions WHERE subscriber = OLD.id;
END;

-- ---------------------------------------------------------------------------------------------------------------
-- Leases and waiting

CREATE TABLE counters (
  name  TEXT PRIMARY KEY NOT NULL,
  value INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO counters (name, value) VALUES ('fencing_token', 0), ('wait_edge', 0);

CREATE TABLE file_locks (
  file_path     TEXT PRIMARY KEY NOT NULL CHECK (length(file_path) BETWEEN 1 AND 4096 AND file_path NOT GLOB '/*' AND instr(file_path, char(0)) = 0 AND '/' || file_path || '/' NOT LIKE '%/../%'),
  locked_by     TEXT NOT NULL CHECK (locked_by <> ''),
  locked_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT file_locks_locked_at_is_utc CHECK (locked_at IS datetime(locked_at, '+0 days') OR locked_at IS strftime('%Y-%m-%d %H:%M:%f', locked_at, '+0 days')),
  lock_reason   TEXT,
  expires_at    TEXT CONSTRAINT file_locks_expires_at_is_utc CHECK (expires_at IS datetime(expires_at, '+0 days') OR expires_at IS strftime('%Y-%m-%d %H:%M:%f', expires_at, '+0 days')),
  test_id       TEXT,
  fencing_token INTEGER NOT NULL DEFAULT 0 CHECK (fencing_token >= 0),
  ttl_seconds   INTEGER CHECK (ttl_seconds > 0),
  automatic     INTEGER NOT NULL DEFAULT 0 CHECK (automatic IN (0, 1))
) STRICT, WITHOUT ROWID;

-- Acquires that wait. Their edges in wait_graph are derived from these rows and the leases.
CREATE TABLE lease_requests (
  id            TEXT PRIMARY KEY NOT NULL,
  loop_id       TEXT NOT NULL,
  paths         TEXT NOT NULL CHECK (json_valid(paths) AND json_type(paths) = 'array'),
  test_id       TEXT,
  waiting_since TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT lease_requests_waiting_since_is_utc CHECK (waiting_since IS datetime(waiting_since, '+0 days') OR waiting_since IS strftime('%Y-%m-%d %H:%M:%f', waiting_since, '+0 days')),
  wait_until    TEXT NOT NULL CONSTRAINT lease_requests_wait_until_is_utc CHECK (wait_until IS datetime(wait_until, '+0 days') OR wait_until IS strftime('%Y-%m-%d %H:%M:%f', wait_until, '+0 days')),
  freed_at      TEXT CONSTRAINT lease_requests_freed_at_is_utc CHECK (freed_at IS datetime(freed_at, '+0 days') OR freed_at IS strftime('%Y-%m-%d %H:%M:%f', freed_at, '+0 days'))
) STRICT;
CREATE INDEX lease_requests_loop_id ON lease_requests (loop_id);

CREATE TABLE lease_request_paths (
  request_id TEXT NOT NULL REFERENCES lease_requests (id) ON DELETE CASCADE,
  file_path  TEXT NOT NULL,
  PRIMARY KEY (file_path, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_request_paths_request ON lease_request_paths (request_id);

CREATE TABLE wait_graph (
  waiter        TEXT NOT NULL CHECK (waiter <> ''),
  holder        TEXT NOT NULL CHECK (holder <> ''),
  resource      TEXT NOT NULL CHECK (resource <> ''),
  waiting_since TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT wait_graph_waiting_since_is_utc CHECK (waiting_since IS datetime(waiting_since, '+0 days') OR waiting_since IS strftime('%Y-%m-%d %H:%M:%f', waiting_since, '+0 days')),
  wait_until    TEXT CONSTRAINT wait_graph_wait_until_is_utc CHECK (wait_until IS datetime(wait_until, '+0 days') OR wait_until IS strftime('%Y-%m-%d %H:%M:%f', wait_until, '+0 days')),
  seq           INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (waiter, holder, resource),
  CHECK (waiter <> holder)
) STRICT;
CREATE INDEX wait_graph_holder ON wait_graph (holder);
CREATE INDEX wait_graph_resource ON wait_graph (resource);
CREATE INDEX wait_graph_seq ON wait_graph (seq);

-- Every edge gets a number that grows, so that a reader can ask for the edges that are new to it.
CREATE TRIGGER wait_graph_number AFTER INSERT ON wait_graph
BEGIN
  UPDATE counters SET value = value + 1 WHERE name = 'wait_edge';
  UPDATE wait_graph SET seq = (SELECT value FROM counters WHERE name = 'wait_edge')
  WHERE waiter = NEW.waiter AND holder = NEW.holder AND resource = NEW.resource;
END;

-- A lease that another tool inserted without a token gets one.
CREATE TRIGGER file_locks_fence AFTER INSERT ON file_locks
WHEN NEW.fencing_token = 0
BEGIN
  UPDATE counters SET value = value + 1 WHERE name = 'fencing_token';
  UPDATE file_locks SET fencing_token = (SELECT value FROM counters WHERE name = 'fencing_token')
  WHERE file_path = NEW.file_path;
END;

-- Deleting a lease deletes the edges that wait for it, and starts the clock of the waiters it has come free for.
CREATE TRIGGER file_locks_delete AFTER DELETE ON file_locks
BEGIN
  DELETE FROM wait_graph WHERE holder = OLD.locked_by
    AND (resource = OLD.file_path OR resource || '/' = OLD.file_path OR OLD.file_path || '/' = resource OR (substr(resource, -1) = '/' AND substr(OLD.file_path, 1, length(resource)) = resource) OR (substr(OLD.file_path, -1) = '/' AND substr(resource, 1, length(OLD.file_path)) = OLD.file_path))
    AND NOT EXISTS (SELECT 1 FROM file_locks AS l WHERE l.locked_by = OLD.locked_by
                    AND (l.file_path = wait_graph.resource OR l.file_path || '/' = wait_graph.resource OR wait_graph.resource || '/' = l.file_path OR (substr(l.file_path, -1) = '/' AND substr(wait_graph.resource, 1, length(l.file_path)) = l.file_path) OR (substr(wait_graph.resource, -1) = '/' AND substr(l.file_path, 1, length(wait_graph.resource)) = wait_graph.resource)));
  UPDATE lease_requests SET freed_at = strftime('%Y-%m-%d %H:%M:%f', 'now')
  WHERE id IN (SELECT request_id FROM lease_request_paths WHERE (file_path = OLD.file_path OR file_path || '/' = OLD.file_path OR OLD.file_path || '/' = file_path OR (substr(file_path, -1) = '/' AND substr(OLD.file_path, 1, length(file_path)) = file_path) OR (substr(OLD.file_path, -1) = '/' AND substr(file_path, 1, length(OLD.file_path)) = OLD.file_path)));
END;

CREATE TABLE deadlocks (
  id            TEXT PRIMARY KEY NOT NULL,
  victim        TEXT NOT NULL,
  cycle         TEXT NOT NULL CHECK (json_valid(cycle)),
  locks         TEXT NOT NULL CHECK (json_valid(locks)),
  reason        TEXT NOT NULL,
  detected_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT deadlocks_detected_at_is_utc CHECK (detected_at IS datetime(detected_at, '+0 days') OR detected_at IS strftime('%Y-%m-%d %H:%M:%f', detected_at, '+0 days')),
  revoke_at     TEXT NOT NULL CONSTRAINT deadlocks_revoke_at_is_utc CHECK (revoke_at IS datetime(revoke_at, '+0 days') OR revoke_at IS strftime('%Y-%m-%d %H:%M:%f', revoke_at, '+0 days')),
  resolved_at   TEXT CONSTRAINT deadlocks_resolved_at_is_utc CHECK (resolved_at IS datetime(resolved_at, '+0 days') OR resolved_at IS strftime('%Y-%m-%d %H:%M:%f', resolved_at, '+0 days')),
  outcome       TEXT CHECK (outcome IN ('released', 'revoked', 'dissolved')),
  event_id      TEXT NOT NULL,
  CHECK ((resolved_at IS NULL) = (outcome IS NULL))
) STRICT;
CREATE INDEX deadlocks_open ON deadlocks (victim) WHERE resolved_at IS NULL;
CREATE INDEX deadlocks_detected_at ON deadlocks (detected_at);

-- ---------------------------------------------------------------------------------------------------------------
-- Knowledge, ownership, migrations

CREATE TABLE knowledge (
  id             TEXT PRIMARY KEY NOT NULL,
  loop_id        TEXT REFERENCES loops (id),
  item_type      TEXT NOT NULL CHECK (item_type IN ('fact', 'decision', 'pattern', 'warning')),
  topic          TEXT,
  content        TEXT NOT NULL,
  confidence     REAL NOT NULL DEFAULT 1.0 CHECK (confidence BETWEEN 0.0 AND 1.0),
  evidence       TEXT,
  affected_areas TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(affected_areas)),
  superseded_by  TEXT CHECK (superseded_by <> id),
  created_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT knowledge_created_at_is_utc CHECK (created_at IS datetime(created_at, '+0 days') OR created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days'))
) STRICT;
CREATE INDEX knowledge_topic ON knowledge (topic);

-- A number for each item of knowledge: what the two indexes below know it by. Row numbers of `knowledge` itself would do,
-- if they outlived a dump and were promised to outlive a VACUUM. None is given twice.
CREATE TABLE knowledge_numbers (
  seq          INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  knowledge_id TEXT NOT NULL UNIQUE
) STRICT;

-- The files that each item which stands is about. `prefix` is the beginning of the glob that holds no wildcard, up to its
-- last slash (the whole of it if it has none), so that what touches a file is found by its folders. An item about no file
-- in particular has one row, with an empty area under the prefix '/', which no path in the repository has.
CREATE TABLE knowledge_areas (
  prefix TEXT NOT NULL,
  seq    INTEGER NOT NULL,
  area   TEXT NOT NULL,
  PRIMARY KEY (prefix, seq, area)
) STRICT, WITHOUT ROWID;
CREATE INDEX knowledge_areas_seq ON knowledge_areas (seq);

-- It keeps its own copy of the texts: an index over another table's is damaged by any hand that replaces a row
-- without its delete trigger (INSERT OR REPLACE does).
CREATE VIRTUAL TABLE knowledge_words USING fts5 (topic, content, evidence, tokenize = 'porter unicode61 remove_diacritics 2');

CREATE INDEX knowledge_standing ON knowledge (topic COLLATE NOCASE, item_type) WHERE superseded_by IS NULL;
CREATE INDEX knowledge_superseded_by ON knowledge (superseded_by) WHERE superseded_by IS NOT NULL;

-- What an item is found by, as it should be: from here the triggers fill the indexes, and `loopctl check` compares.
CREATE VIEW knowledge_index AS
  SELECT n.seq AS seq, k.id AS knowledge_id, coalesce(k.topic, '') AS topic, k.content AS content,
    coalesce(k.evidence, '') AS evidence
  FROM knowledge_numbers AS n JOIN knowledge AS k ON k.id = n.knowledge_id;

CREATE VIEW knowledge_scopes AS
  SELECT seq, knowledge_id, area,
    CASE WHEN area = '' THEN '/' WHEN head = area THEN area ELSE rtrim(head, replace(head, '/', '')) END AS prefix
  FROM (
    SELECT seq, knowledge_id, area,
      substr(area, 1, min(instr(area || '*', '*'), instr(area || '?', '?'), instr(area || '[', '['),
        instr(area || '{', '{'), instr(area || '\', '\')) - 1) AS head
    FROM (
      SELECT n.seq AS seq, n.knowledge_id AS knowledge_id, a.value AS area
      FROM knowledge_numbers AS n JOIN knowledge AS k ON k.id = n.knowledge_id,
        json_each(CASE json_type(k.affected_areas) WHEN 'array' THEN k.affected_areas ELSE '[]' END) AS a
      WHERE k.superseded_by IS NULL AND a.type = 'text'
      UNION ALL
      SELECT n.seq, n.knowledge_id, ''
      FROM knowledge_numbers AS n JOIN knowledge AS k ON k.id = n.knowledge_id
      WHERE k.superseded_by IS NULL AND NOT EXISTS (
        SELECT 1 FROM json_each(CASE json_type(k.affected_areas) WHEN 'array' THEN k.affected_areas ELSE '[]' END) AS a
        WHERE a.type = 'text')
    )
  );

CREATE TRIGGER knowledge_insert AFTER INSERT ON knowledge
BEGIN
  INSERT INTO knowledge_numbers (knowledge_id)
    SELECT NEW.id WHERE NOT EXISTS (SELECT 1 FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  DELETE FROM knowledge_words WHERE rowid = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  INSERT INTO knowledge_words (rowid, topic, content, evidence)
    SELECT seq, topic, content, evidence FROM knowledge_index WHERE knowledge_id = NEW.id;
  DELETE FROM knowledge_areas WHERE seq = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  INSERT OR IGNORE INTO knowledge_areas (prefix, seq, area)
    SELECT prefix, seq, area FROM knowledge_scopes WHERE knowledge_id = NEW.id;
END;

CREATE TRIGGER knowledge_update AFTER UPDATE OF id, topic, content, evidence, affected_areas, superseded_by ON knowledge
BEGIN
  UPDATE knowledge_numbers SET knowledge_id = NEW.id WHERE knowledge_id = OLD.id AND NEW.id <> OLD.id;
  DELETE FROM knowledge_words WHERE rowid = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  INSERT INTO knowledge_words (rowid, topic, content, evidence)
    SELECT seq, topic, content, evidence FROM knowledge_index WHERE knowledge_id = NEW.id;
  DELETE FROM knowledge_areas WHERE seq = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  INSERT OR IGNORE INTO knowledge_areas (prefix, seq, area)
    SELECT prefix, seq, area FROM knowledge_scopes WHERE knowledge_id = NEW.id;
END;

CREATE TRIGGER knowledge_delete AFTER DELETE ON knowledge
BEGIN
  DELETE FROM knowledge_words WHERE rowid = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = OLD.id);
  DELETE FROM knowledge_areas WHERE seq = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = OLD.id);
  DELETE FROM knowledge_numbers WHERE knowledge_id = OLD.id;
END;

CREATE TABLE resources (
  path          TEXT PRIMARY KEY NOT NULL CHECK (path <> ''),
  owner_loop    TEXT NOT NULL REFERENCES loops (id),
  resource_type TEXT NOT NULL DEFAULT 'file'
                CHECK (resource_type IN ('file', 'type', 'interface', 'endpoint', 'migration')),
  description   TEXT,
  created_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT resources_created_at_is_utc CHECK (created_at IS datetime(created_at, '+0 days') OR created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days'))
) STRICT;
CREATE INDEX resources_owner_loop ON resources (owner_loop);

CREATE TABLE change_requests (
  id             TEXT PRIMARY KEY NOT NULL,
  resource_path  TEXT NOT NULL REFERENCES resources (path),
  requestor_loop TEXT NOT NULL REFERENCES loops (id),
  owner_loop     TEXT NOT NULL REFERENCES loops (id),
  request_type   TEXT NOT NULL DEFAULT 'modify' CHECK (request_type IN ('modify', 'extend', 'delete')),
  description    TEXT NOT NULL DEFAULT '',
  status         TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'applied')),
  requested_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT change_requests_requested_at_is_utc CHECK (requested_at IS datetime(requested_at, '+0 days') OR requested_at IS strftime('%Y-%m-%d %H:%M:%f', requested_at, '+0 days')),
  resolved_at    TEXT CONSTRAINT change_requests_resolved_at_is_utc CHECK (resolved_at IS datetime(resolved_at, '+0 days') OR resolved_at IS strftime('%Y-%m-%d %H:%M:%f', resolved_at, '+0 days')),
  resolved_by    TEXT CHECK (resolved_by IN ('human', 'pm')),
  CHECK ((status = 'pending') = (resolved_at IS NULL))
) STRICT;
CREATE INDEX change_requests_status ON change_requests (status);
CREATE INDEX change_requests_resource ON change_requests (resource_path);

-- The change requests that a test waits for: it is not claimed while one of them has no answer, and takes the leave with it
-- when it passes.
CREATE TABLE change_request_tests (
  test_id    TEXT NOT NULL,
  request_id TEXT NOT NULL REFERENCES change_requests (id) ON DELETE CASCADE,
  PRIMARY KEY (test_id, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX change_request_tests_request ON change_request_tests (request_id);

CREATE TABLE migrations (
  number       INTEGER PRIMARY KEY NOT NULL CHECK (number >= 1),
  name         TEXT NOT NULL CHECK (name <> ''),
  loop_id      TEXT REFERENCES loops (id),
  file_path    TEXT,
  status       TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'applied', 'failed')),
  allocated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT migrations_allocated_at_is_utc CHECK (allocated_at IS datetime(allocated_at, '+0 days') OR allocated_at IS strftime('%Y-%m-%d %H:%M:%f', allocated_at, '+0 days')),
  applied_at   TEXT CONSTRAINT migrations_applied_at_is_utc CHECK (applied_at IS datetime(applied_at, '+0 days') OR applied_at IS strftime('%Y-%m-%d %H:%M:%f', applied_at, '+0 days')),
  CHECK (status <> 'applied' OR applied_at IS NOT NULL)
) STRICT;

-- The largest migration number there ever was: a number whose row is gone is not handed out again.
INSERT INTO counters (name, value) VALUES ('migration_number', 0);

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

-- ---------------------------------------------------------------------------------------------------------------
-- Checkpoints, baselines, regressions

CREATE TABLE checkpoints (
  id              TEXT PRIMARY KEY NOT NULL,
  loop_id         TEXT NOT NULL REFERENCES loops (id),
  test_id         TEXT REFERENCES tests (id),
  git_ref         TEXT NOT NULL CHECK (git_ref <> ''),
  checkpoint_type TEXT NOT NULL DEFAULT 'branch' CHECK (checkpoint_type IN ('branch', 'stash', 'tag')),
  created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT checkpoints_created_at_is_utc CHECK (created_at IS datetime(created_at, '+0 days') OR created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days')),
  deleted_at      TEXT CONSTRAINT checkpoints_deleted_at_is_utc CHECK (deleted_at IS datetime(deleted_at, '+0 days') OR deleted_at IS strftime('%Y-%m-%d %H:%M:%f', deleted_at, '+0 days')),
  commit_hash     TEXT,
  reason          TEXT
) STRICT;
CREATE INDEX checkpoints_loop_id ON checkpoints (loop_id, created_at);

CREATE TABLE passing_tests (
  test_id     TEXT NOT NULL CHECK (test_id <> ''),
  commit_hash TEXT NOT NULL CHECK (commit_hash <> ''),
  passed_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT passing_tests_passed_at_is_utc CHECK (passed_at IS datetime(passed_at, '+0 days') OR passed_at IS strftime('%Y-%m-%d %H:%M:%f', passed_at, '+0 days')),
  PRIMARY KEY (test_id, commit_hash)
) STRICT;
CREATE INDEX passing_tests_passed_at ON passing_tests (test_id, passed_at);

-- What the standing check knows of each test that has passed: its state and, once it regressed, the blame.
CREATE TABLE regressions (
  id               TEXT PRIMARY KEY NOT NULL,
  test_id          TEXT NOT NULL,
  check_name       TEXT NOT NULL,
  last_good_commit TEXT NOT NULL,
  bad_commit       TEXT NOT NULL,
  first_bad_commit TEXT,
  blamed_loop      TEXT,
  blamed_test      TEXT,
  status           TEXT NOT NULL CHECK (status IN ('suspected', 'bisecting', 'regressed', 'unknown', 'flaky', 'cleared')),
  bisect           TEXT CHECK (bisect IS NULL OR json_valid(bisect)),
  output_tail      TEXT NOT NULL DEFAULT '',
  detected_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT regressions_detected_at_is_utc CHECK (detected_at IS datetime(detected_at, '+0 days') OR detected_at IS strftime('%Y-%m-%d %H:%M:%f', detected_at, '+0 days')),
  resolved_at      TEXT CONSTRAINT regressions_resolved_at_is_utc CHECK (resolved_at IS datetime(resolved_at, '+0 days') OR resolved_at IS strftime('%Y-%m-%d %H:%M:%f', resolved_at, '+0 days')),
  event_id         TEXT
) STRICT;
CREATE UNIQUE INDEX regressions_once ON regressions (test_id, first_bad_commit) WHERE first_bad_commit IS NOT NULL;
CREATE INDEX regressions_open ON regressions (test_id) WHERE resolved_at IS NULL;

-- The newest commit of the integration branch at which each check was run, and what came of it.
CREATE TABLE check_runs (
  check_name  TEXT NOT NULL,
  commit_hash TEXT NOT NULL,
  outcome     TEXT NOT NULL CHECK (outcome IN ('pass', 'fail', 'flaky', 'error')),
  runs        INTEGER NOT NULL DEFAULT 1,
  output_tail TEXT NOT NULL DEFAULT '',
  ran_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT check_runs_ran_at_is_utc CHECK (ran_at IS datetime(ran_at, '+0 days') OR ran_at IS strftime('%Y-%m-%d %H:%M:%f', ran_at, '+0 days')),
  PRIMARY KEY (check_name, commit_hash)
) STRICT;
CREATE INDEX check_runs_ran_at ON check_runs (ran_at);

-- ---------------------------------------------------------------------------------------------------------------
-- People, usage, health, alerts, journal

CREATE TABLE decisions (
  id              TEXT PRIMARY KEY NOT NULL,
  decision_type   TEXT NOT NULL CHECK (decision_type <> ''),
  summary         TEXT NOT NULL,
  options         TEXT NOT NULL CHECK (json_valid(options) AND json_type(options) = 'array'),
  default_option  TEXT,
  context         TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(context)),
  timeout_minutes INTEGER CHECK (timeout_minutes >= 0),
  status          TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'decided', 'auto_resolved', 'expired')),
  requested_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT decisions_requested_at_is_utc CHECK (requested_at IS datetime(requested_at, '+0 days') OR requested_at IS strftime('%Y-%m-%d %H:%M:%f', requested_at, '+0 days')),
  requested_by    TEXT,
  decided_at      TEXT CONSTRAINT decisions_decided_at_is_utc CHECK (decided_at IS datetime(decided_at, '+0 days') OR decided_at IS strftime('%Y-%m-%d %H:%M:%f', decided_at, '+0 days')),
  decided_by      TEXT CHECK (decided_by IN ('human', 'auto')),
  choice          TEXT,
  comment         TEXT,
  fingerprint     TEXT,
  expires_at      TEXT CONSTRAINT decisions_expires_at_is_utc CHECK (expires_at IS datetime(expires_at, '+0 days') OR expires_at IS strftime('%Y-%m-%d %H:%M:%f', expires_at, '+0 days')),
  event_id        TEXT,
  CHECK ((status = 'pending') = (decided_at IS NULL)),
  CHECK (status NOT IN ('decided', 'auto_resolved') OR choice IS NOT NULL)
) STRICT;
CREATE INDEX decisions_status ON decisions (status);
CREATE UNIQUE INDEX decisions_fingerprint ON decisions (fingerprint) WHERE status = 'pending' AND fingerprint IS NOT NULL;
CREATE INDEX decisions_about ON decisions (fingerprint, requested_at) WHERE fingerprint IS NOT NULL;
CREATE INDEX decisions_decided_at ON decisions (decided_at) WHERE decided_at IS NOT NULL;
CREATE INDEX decisions_type ON decisions (decision_type, requested_by);

CREATE TABLE usage (
  id               TEXT PRIMARY KEY NOT NULL,
  loop_id          TEXT REFERENCES loops (id),
  test_id          TEXT,
  tokens_estimated INTEGER NOT NULL DEFAULT 0 CHECK (tokens_estimated >= 0),
  duration_seconds INTEGER NOT NULL DEFAULT 0 CHECK (duration_seconds >= 0),
  files_modified   TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(files_modified)),
  recorded_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT usage_recorded_at_is_utc CHECK (recorded_at IS datetime(recorded_at, '+0 days') OR recorded_at IS strftime('%Y-%m-%d %H:%M:%f', recorded_at, '+0 days'))
, agent TEXT, model TEXT, input_tokens INTEGER NOT NULL DEFAULT 0 CHECK (input_tokens >= 0), output_tokens INTEGER NOT NULL DEFAULT 0 CHECK (output_tokens >= 0), cache_read_tokens INTEGER NOT NULL DEFAULT 0 CHECK (cache_read_tokens >= 0), cache_write_tokens INTEGER NOT NULL DEFAULT 0 CHECK (cache_write_tokens >= 0), cost_microusd INTEGER CHECK (cost_microusd >= 0)) STRICT;
CREATE INDEX usage_loop_id ON usage (loop_id, recorded_at);
CREATE INDEX usage_test_id ON usage (test_id);
CREATE INDEX usage_recorded_at ON usage (recorded_at);

CREATE TABLE component_health (
  component      TEXT PRIMARY KEY NOT NULL CHECK (component <> ''),
  last_heartbeat TEXT CONSTRAINT component_health_last_heartbeat_is_utc CHECK (last_heartbeat IS datetime(last_heartbeat, '+0 days') OR last_heartbeat IS strftime('%Y-%m-%d %H:%M:%f', last_heartbeat, '+0 days')),
  status         TEXT NOT NULL DEFAULT 'unknown' CHECK (status IN ('healthy', 'degraded', 'dead', 'unknown')),
  metadata       TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
  pid            INTEGER CHECK (pid > 0),
  pid_start_time INTEGER,
  boot_id        TEXT,
  pid_namespace  INTEGER,
  started_at     TEXT CONSTRAINT component_health_started_at_is_utc CHECK (started_at IS datetime(started_at, '+0 days') OR started_at IS strftime('%Y-%m-%d %H:%M:%f', started_at, '+0 days')),
  version        TEXT,
  child_pid            INTEGER CHECK (child_pid > 0),
  child_pid_start_time INTEGER
, host TEXT) STRICT;

-- The pauses that stand on a loop, kept by the loop itself as it takes requests; it works when none is left.
CREATE TABLE pauses (
  loop_id      TEXT NOT NULL,
  requested_by TEXT NOT NULL,
  reason       TEXT NOT NULL DEFAULT '',
  event_id     TEXT,
  since        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT pauses_since_is_utc CHECK (since IS datetime(since, '+0 days') OR since IS strftime('%Y-%m-%d %H:%M:%f', since, '+0 days')),
  PRIMARY KEY (loop_id, requested_by)
) STRICT;

-- What two loops have both changed and pm has settled: the loser waits until the winner's test has ended.
CREATE TABLE conflicts (
  id          TEXT PRIMARY KEY NOT NULL,
  file_path   TEXT NOT NULL,
  loop_a      TEXT NOT NULL,
  loop_b      TEXT NOT NULL,
  detected_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT conflicts_detected_at_is_utc CHECK (detected_at IS datetime(detected_at, '+0 days') OR detected_at IS strftime('%Y-%m-%d %H:%M:%f', detected_at, '+0 days')),
  event_id    TEXT,
  winner      TEXT,
  loser       TEXT,
  winner_test TEXT,
  resolved_at TEXT CONSTRAINT conflicts_resolved_at_is_utc CHECK (resolved_at IS datetime(resolved_at, '+0 days') OR resolved_at IS strftime('%Y-%m-%d %H:%M:%f', resolved_at, '+0 days')),
  resolution  TEXT
) STRICT;
CREATE UNIQUE INDEX conflicts_open ON conflicts (file_path, loop_a, loop_b) WHERE resolved_at IS NULL;

-- The files that each loop's worktree differs in from its merge base, as monitor saw them last.
CREATE TABLE worktree_changes (
  loop_id         TEXT NOT NULL,
  file_path       TEXT NOT NULL,
  first_seen_at   TEXT NOT NULL CONSTRAINT worktree_changes_first_seen_at_is_utc CHECK (first_seen_at IS datetime(first_seen_at, '+0 days') OR first_seen_at IS strftime('%Y-%m-%d %H:%M:%f', first_seen_at, '+0 days')),
  last_changed_at TEXT NOT NULL CONSTRAINT worktree_changes_last_changed_at_is_utc CHECK (last_changed_at IS datetime(last_changed_at, '+0 days') OR last_changed_at IS strftime('%Y-%m-%d %H:%M:%f', last_changed_at, '+0 days')),
  fingerprint     TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (loop_id, file_path)
) STRICT, WITHOUT ROWID;
CREATE INDEX worktree_changes_file_path ON worktree_changes (file_path);

CREATE TABLE agent_outputs (
  loop_id    TEXT PRIMARY KEY NOT NULL,
  log        TEXT NOT NULL,
  read_bytes INTEGER NOT NULL CHECK (read_bytes >= 0),
  read_at    TEXT NOT NULL CONSTRAINT agent_outputs_read_at_is_utc CHECK (read_at IS datetime(read_at, '+0 days') OR read_at IS strftime('%Y-%m-%d %H:%M:%f', read_at, '+0 days')),
  news_at    TEXT NOT NULL CONSTRAINT agent_outputs_news_at_is_utc CHECK (news_at IS datetime(news_at, '+0 days') OR news_at IS strftime('%Y-%m-%d %H:%M:%f', news_at, '+0 days')),
  errors     TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(errors))
) STRICT, WITHOUT ROWID;

CREATE TABLE alerts (
  id              TEXT PRIMARY KEY NOT NULL,
  severity        TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'error', 'critical')),
  alert_type      TEXT NOT NULL CHECK (alert_type IN ('stuck', 'conflict', 'digression', 'resource', 'regression')),
  source          TEXT NOT NULL DEFAULT '',
  message         TEXT NOT NULL,
  context         TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(context)),
  acknowledged    INTEGER NOT NULL DEFAULT 0 CHECK (acknowledged IN (0, 1)),
  acknowledged_by TEXT,
  acknowledged_at TEXT CONSTRAINT alerts_acknowledged_at_is_utc CHECK (acknowledged_at IS datetime(acknowledged_at, '+0 days') OR acknowledged_at IS strftime('%Y-%m-%d %H:%M:%f', acknowledged_at, '+0 days')),
  created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT alerts_created_at_is_utc CHECK (created_at IS datetime(created_at, '+0 days') OR created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days')),
  closed_at       TEXT CONSTRAINT alerts_closed_at_is_utc CHECK (closed_at IS datetime(closed_at, '+0 days') OR closed_at IS strftime('%Y-%m-%d %H:%M:%f', closed_at, '+0 days')),
  updated_at      TEXT CONSTRAINT alerts_updated_at_is_utc CHECK (updated_at IS datetime(updated_at, '+0 days') OR updated_at IS strftime('%Y-%m-%d %H:%M:%f', updated_at, '+0 days')),
  fingerprint     TEXT,
  event_id        TEXT
) STRICT;
CREATE UNIQUE INDEX alerts_fingerprint ON alerts (fingerprint) WHERE closed_at IS NULL AND fingerprint IS NOT NULL;
CREATE INDEX alerts_created_at ON alerts (created_at);

CREATE TABLE transaction_log (
  id           TEXT PRIMARY KEY NOT NULL,
  operation    TEXT NOT NULL CHECK (operation <> ''),
  loop_id      TEXT REFERENCES loops (id),
  steps        TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(steps)),
  status       TEXT NOT NULL DEFAULT 'in_progress' CHECK (status IN ('in_progress', 'committed', 'rolled_back')),
  started_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT transaction_log_started_at_is_utc CHECK (started_at IS datetime(started_at, '+0 days') OR started_at IS strftime('%Y-%m-%d %H:%M:%f', started_at, '+0 days')),
  completed_at TEXT CONSTRAINT transaction_log_completed_at_is_utc CHECK (completed_at IS datetime(completed_at, '+0 days') OR completed_at IS strftime('%Y-%m-%d %H:%M:%f', completed_at, '+0 days')),
  component    TEXT,
  event_id     TEXT,
  CHECK ((status = 'in_progress') = (completed_at IS NULL))
) STRICT;
CREATE INDEX transaction_log_open ON transaction_log (component) WHERE status = 'in_progress';
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

-- What each host's clocks said when someone looked last: a difference to now shows a suspend or a jump.
CREATE TABLE clock (
  host         TEXT PRIMARY KEY NOT NULL,
  boot_id      TEXT NOT NULL,
  suspended_ms INTEGER NOT NULL,
  wall_ms      INTEGER NOT NULL,
  boot_ms      INTEGER NOT NULL,
  grace_until  TEXT CONSTRAINT clock_grace_until_is_utc CHECK (grace_until IS datetime(grace_until, '+0 days') OR grace_until IS strftime('%Y-%m-%d %H:%M:%f', grace_until, '+0 days'))
) STRICT;

-- When a host slept or its clock was set forward: time that counts against nobody who had beaten before.
CREATE TABLE clock_changes (
  host    TEXT NOT NULL,
  seen_at TEXT NOT NULL CHECK (seen_at IS strftime('%Y-%m-%d %H:%M:%f', seen_at, '+0 days')),
  millis  INTEGER NOT NULL,
  PRIMARY KEY (host, seen_at)
) STRICT;

-- ---------------------------------------------------------------------------------------------------------------
-- Views: the seed's queries, exact and by name

CREATE VIEW pending_tests AS
  SELECT t.* FROM tests AS t
  WHERE t.status = 'pending'
    AND (t.depends_on IS NULL OR EXISTS (SELECT 1 FROM tests AS d WHERE d.id = t.depends_on AND d.status = 'passed'))
  ORDER BY t.id;

CREATE VIEW undelivered_events AS
  SELECT s.subscriber, d.subscription_id, d.seq, e.*
  FROM deliveries AS d
  JOIN subscriptions AS s ON s.id = d.subscription_id
  JOIN events AS e ON e.id = d.event_id
  WHERE d.status = 'pending' AND s.active = 1
  ORDER BY d.priority, d.seq;

CREATE VIEW active_locks AS
  SELECT * FROM file_locks
  WHERE expires_at IS NULL OR expires_at > strftime('%Y-%m-%d %H:%M:%f', 'now');

CREATE VIEW loop_progress AS
  SELECT
    loop_id,
    COUNT(*) AS total,
    SUM(CASE WHEN status = 'passed' THEN 1 ELSE 0 END) AS passed,
    SUM(CASE WHEN status = 'blocked' THEN 1 ELSE 0 END) AS blocked,
    SUM(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS failed,
    SUM(CASE WHEN status = 'skipped' THEN 1 ELSE 0 END) AS skipped,
    SUM(CASE WHEN status = 'in_progress' THEN 1 ELSE 0 END) AS in_progress,
    SUM(CASE WHEN status = 'pending' THEN 1 ELSE 0 END) AS pending
  FROM tests
  GROUP BY loop_id;

-- ---------------------------------------------------------------------------------------------------------------
-- Who listens to what, from the start: nothing published before a process's first start is missed.

INSERT INTO subscriptions (id, subscriber, event_types) VALUES
  ('monitor', 'monitor',
   '["test_started","test_passed","test_failed","file_locked","file_unlocked","component_degraded"]'),
  ('deadlock-detector', 'deadlock-detector', '[]'),
  ('regression-checker', 'regression-checker', '["test_passed"]'),
  ('pm', 'pm',
   '["test_passed","test_blocked","file_conflict","stuck_detected","digression_detected","resource_warning",'
   || '"regression_detected","regression_cleared","human_message","summary_requested","loop_paused","loop_resumed",'
   || '"rollback_done","knowledge_conflict","change_requested","component_degraded","component_recovered"]'),
  ('heartbeat', 'heartbeat', '["component_started","component_stopped"]'),
  ('human', 'human',
   '["decision_needed","stuck_detected","test_blocked","file_conflict","digression_detected","resource_warning",'
   || '"regression_detected","component_degraded","force_release"]');
INSERT INTO subscriptions (id, subscriber, event_types, max_priority) VALUES
  ('human-urgent', 'human',
   '["test_started","test_passed","test_failed","file_locked","file_unlocked","regression_cleared","decision_resolved",'
   || '"priority_changed","pause_requested","resume_requested","loop_paused","loop_resumed","restart_requested",'
   || '"rollback_triggered","rollback_done","human_message","summary_requested","knowledge_recorded",'
   || '"knowledge_conflict","change_requested","change_resolved","component_started","component_stopped",'
   || '"component_recovered","custom.*"]', 2);

-- Those that decide by rows alone read no delivery.
UPDATE subscriptions SET active = 0 WHERE subscriber IN ('monitor', 'deadlock-detector', 'regression-checker', 'heartbeat');

-- ---------------------------------------------------------------------------------------------------------------
-- Archiving

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

-- How the run behind a proof ended, in more words than pass, fail and error, and exactly which command it was; so that the same
-- check on the same files is not run twice, and a changed one is.
CREATE TABLE proof_runs (
  proof_id     TEXT PRIMARY KEY NOT NULL REFERENCES proofs (id) ON DELETE CASCADE,
  kind         TEXT NOT NULL CHECK (kind IN ('passed', 'failed', 'timed_out', 'changed_files', 'missing', 'not_executable', 'not_started', 'signaled', 'lost', 'cancelled')),
  why          TEXT NOT NULL DEFAULT '',
  check_hash   TEXT NOT NULL DEFAULT '',
  reused_from  TEXT
, stage TEXT NOT NULL DEFAULT 'alone' CHECK (stage IN ('alone', 'base', 'red_before', 'batch')), base_tree TEXT, let_through INTEGER NOT NULL DEFAULT 0 CHECK (let_through IN (0, 1))) STRICT;
CREATE INDEX proofs_commit ON proofs (commit_hash);

-- ---------------------------------------------------------------------------------------------------------------
-- The ledger: what was passed and stays watched, and what is to be taken back

-- How each check last fared for one test that had passed, asked about that test alone.
CREATE TABLE baseline_runs (
  check_name  TEXT NOT NULL,
  test_id     TEXT NOT NULL,
  commit_hash TEXT NOT NULL,
  outcome     TEXT NOT NULL CHECK (outcome IN ('pass', 'fail', 'flaky', 'error')),
  runs        INTEGER NOT NULL DEFAULT 1 CHECK (runs >= 0),
  ran_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT baseline_runs_ran_at_is_utc CHECK (ran_at IS datetime(ran_at, '+0 days') OR ran_at IS strftime('%Y-%m-%d %H:%M:%f', ran_at, '+0 days')),
  PRIMARY KEY (check_name, test_id)
) STRICT;

-- The commit that the next attempt at a test takes back, instead of an agent's work; done once the test has passed since.
CREATE TABLE reverts (
  test_id     TEXT PRIMARY KEY NOT NULL,
  commit_hash TEXT NOT NULL CHECK (commit_hash <> ''),
  asked_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT reverts_asked_at_is_utc CHECK (asked_at IS datetime(asked_at, '+0 days') OR asked_at IS strftime('%Y-%m-%d %H:%M:%f', asked_at, '+0 days')),
  event_id    TEXT
) STRICT;

-- ---------------------------------------------------------------------------------------------------------------
-- Holds: why no attempt starts

-- One row for each agent or loop that starts no attempt for now. All loops with the same agent share its row.
CREATE TABLE holds (
  subject    TEXT PRIMARY KEY NOT NULL CHECK (subject GLOB 'agent:?*' OR subject GLOB 'loop:?*' OR subject = 'setup'),
  kind       TEXT NOT NULL CHECK (kind IN ('limit', 'outage', 'human', 'repeated')),
  reason     TEXT NOT NULL,
  since      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT holds_since_is_utc CHECK (since IS datetime(since, '+0 days') OR since IS strftime('%Y-%m-%d %H:%M:%f', since, '+0 days')),
  -- NULL: until the question about it is answered.
  until      TEXT CONSTRAINT holds_until_is_utc CHECK (until IS datetime(until, '+0 days') OR until IS strftime('%Y-%m-%d %H:%M:%f', until, '+0 days')),
  tries      INTEGER NOT NULL DEFAULT 1 CHECK (tries >= 1),
  loop_id    TEXT NOT NULL,
  -- The loop that finds out whether it is over.
  probe_loop TEXT,
  event_id   TEXT
) STRICT;

-- ---------------------------------------------------------------------------------------------------------------
-- Attempts: the event that began each, so that every event of an attempt names it

-- The newest attempt at each test: its test_started, and the story that this belongs to.
CREATE TABLE attempts (
  test_id        TEXT PRIMARY KEY NOT NULL,
  event_id       TEXT NOT NULL,
  correlation_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- `loopctl check` holds what was published after this place in the order of commits to its rule about attempts.
INSERT INTO counters (name, value) VALUES ('attempts_since', 0);

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

-- ---------------------------------------------------------------------------------------------------------------
-- Leases that were granted together

-- What a fencing token was granted for, where that is more than one path: a set of which a path is lost is not renewed.
-- What its holder releases leaves the set.
CREATE TABLE lease_sets (
  fencing_token INTEGER NOT NULL,
  file_path     TEXT NOT NULL,
  PRIMARY KEY (fencing_token, file_path)
) STRICT, WITHOUT ROWID;

-- ---------------------------------------------------------------------------------------------------------------
-- The store

-- Each making of the store, which holds integration, checkpoints and saved work. `cause`: new; brought_over from the user's
-- repository, where an older version kept them; rebuilt after it was lost. `integration` is where integration was then. Each host
-- has its own; NULL: written by an earlier version, on this one.
CREATE TABLE stores (
  made_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
    CONSTRAINT stores_made_at_is_utc CHECK (made_at IS datetime(made_at, '+0 days') OR made_at IS strftime('%Y-%m-%d %H:%M:%f', made_at, '+0 days')),
  cause       TEXT NOT NULL CHECK (cause IN ('new', 'brought_over', 'rebuilt')),
  path        TEXT NOT NULL,
  integration TEXT
, host TEXT) STRICT;

-- ---------------------------------------------------------------------------------------------------------------
-- Runs

-- Each run of an agent or a check for a loop, from before it starts. `log` is the name of a file in the loop's folder for logs,
-- used once. `ended_at` NULL: it runs, or nobody saw it end; a loop ends what it finds open before it begins another.
CREATE TABLE runs (
  id         TEXT PRIMARY KEY NOT NULL,
  loop_id    TEXT NOT NULL,
  test_id    TEXT,
  attempt    INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
  kind       TEXT NOT NULL CHECK (kind IN ('agent', 'check')),
  name       TEXT NOT NULL,
  log        TEXT NOT NULL CHECK (log <> '' AND log NOT GLOB '*/*'),
  started_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
    CONSTRAINT runs_started_at_is_utc CHECK (started_at IS datetime(started_at, '+0 days') OR started_at IS strftime('%Y-%m-%d %H:%M:%f', started_at, '+0 days')),
  ended_at   TEXT
    CONSTRAINT runs_ended_at_is_utc CHECK (ended_at IS datetime(ended_at, '+0 days') OR ended_at IS strftime('%Y-%m-%d %H:%M:%f', ended_at, '+0 days')),
  outcome    TEXT
, session TEXT, session_used TEXT CHECK (session_used IS NULL OR json_valid(session_used)), progress TEXT) STRICT, WITHOUT ROWID;
CREATE INDEX runs_loop_id ON runs (loop_id, started_at);
CREATE INDEX runs_test_id ON runs (test_id, started_at);
CREATE INDEX runs_started_at ON runs (started_at);

-- ---------------------------------------------------------------------------------------------------------------
-- Set-up of workspaces

-- A port for each loop, for what its agent starts. It stays the loop's own.
CREATE TABLE loop_ports (
  loop_id TEXT PRIMARY KEY NOT NULL,
  port    INTEGER NOT NULL UNIQUE CHECK (port BETWEEN 1024 AND 65535)
) STRICT, WITHOUT ROWID;

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
  ran_at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT base_runs_ran_at_is_utc CHECK (ran_at IS datetime(ran_at, '+0 days') OR ran_at IS strftime('%Y-%m-%d %H:%M:%f', ran_at, '+0 days')), failures TEXT CHECK (failures IS NULL OR json_valid(failures)),
  PRIMARY KEY (tree_hash, check_hash)
) STRICT;
CREATE INDEX base_runs_ran_at ON base_runs (ran_at);
CREATE INDEX base_runs_state ON base_runs (state) WHERE state = 'red';
CREATE INDEX base_runs_check ON base_runs (check_hash, ran_at);

-- Checks that fail at the base and keep nothing from landing until they pass again.
CREATE TABLE ignored_checks (
  check_name  TEXT PRIMARY KEY NOT NULL,
  since       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CONSTRAINT ignored_checks_since_is_utc CHECK (since IS datetime(since, '+0 days') OR since IS strftime('%Y-%m-%d %H:%M:%f', since, '+0 days')),
  reason      TEXT NOT NULL DEFAULT ''
) STRICT;

-- Tests that were created to make the base pass: their attempts start in spite of it.
CREATE TABLE base_mends (
  test_id     TEXT PRIMARY KEY NOT NULL
) STRICT;

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

-- The leases of queued work belong to the train, which is no loop.
CREATE TRIGGER loops_refuse_train BEFORE INSERT ON loops
WHEN NEW.id = 'landing-train' OR NEW.id GLOB 'landing-train-*'
BEGIN
  SELECT RAISE(ABORT, 'this id is reserved for the landing train');
END;

PRAGMA application_id = 1665953616;
PRAGMA user_version = 28;
