-- The schema for PostgreSQL: the tables, indexes and views of ../schema.sql under the same names, with the same rules. What is said
-- there about a table is not repeated here. compat.sql comes before it, triggers.sql after it.
-- Text is compared byte by byte (collation "C"), as SQLite does. Where an order of insertion is read, `rowid` is a column.

-- The server's timeline, which is another one after a standby was promoted or a backup was restored; 0 where it is not known.
CREATE FUNCTION server_timeline() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
EXCEPTION WHEN OTHERS THEN
  RETURN 0;
END
$$;

-- One row: which schema this is, by the number of SQLite's migrations that it is equal to, and the timeline on which its numbers were
-- given out.
CREATE TABLE coding_loops_schema (
  version  bigint NOT NULL,
  single   boolean UNIQUE NOT NULL DEFAULT true CHECK (single),
  timeline bigint NOT NULL DEFAULT server_timeline()
);

-- The last moment that a writer was given, in milliseconds since 1970; see take_writer_lock.
CREATE SEQUENCE moment MINVALUE 0 START 0;

-- The place after the newest event's. All writers hold one lock, so that it is the order of commits.
CREATE FUNCTION next_place() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (SELECT coalesce(max(rowid), 0) + 1 FROM events);
END
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Loops and their tests

CREATE TABLE loops (
  id              text COLLATE "C" PRIMARY KEY NOT NULL CHECK (length(id) <= 64 AND id ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$') CHECK (id NOT IN ('monitor', 'deadlock-detector', 'regression-checker', 'pm-agent', 'pm', 'heartbeat', 'human', 'all')),
  name            text COLLATE "C" NOT NULL DEFAULT '',
  priority        bigint NOT NULL DEFAULT 5 CHECK (priority >= 1),
  branch          text COLLATE "C",
  status          text COLLATE "C" NOT NULL DEFAULT 'stopped' CHECK (status IN ('running', 'stopped', 'paused', 'error')),
  current_test_id text COLLATE "C",
  pid             bigint CHECK (pid > 0),
  created_at      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT loops_created_at_is_utc CHECK (is_utc(created_at)),
  updated_at      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT loops_updated_at_is_utc CHECK (is_utc(updated_at)),
  died_at         text COLLATE "C" CONSTRAINT loops_died_at_is_utc CHECK (is_utc(died_at)),
  agent text COLLATE "C",
  vain_runs bigint NOT NULL DEFAULT 0 CHECK (vain_runs >= 0)
);

CREATE TABLE tests (
  id              text COLLATE "C" PRIMARY KEY NOT NULL CHECK (length(id) <= 64 AND id ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$'),
  loop_id         text COLLATE "C" NOT NULL REFERENCES loops (id),
  category        text COLLATE "C" NOT NULL DEFAULT '',
  status          text COLLATE "C" NOT NULL DEFAULT 'pending'
                  CHECK (status IN ('pending', 'in_progress', 'passed', 'failed', 'blocked', 'skipped')),
  attempts        bigint NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  max_attempts    bigint NOT NULL DEFAULT 3 CHECK (max_attempts >= 1),
  last_result     text COLLATE "C" CHECK (last_result IN ('pass', 'fail', 'blocked')),
  depends_on      text COLLATE "C" CHECK (depends_on <> id),
  automatable     bigint NOT NULL DEFAULT 1 CHECK (automatable IN (0, 1)),
  notes           text COLLATE "C",
  spec_content    text COLLATE "C",
  last_attempt_at text COLLATE "C" CONSTRAINT tests_last_attempt_at_is_utc CHECK (is_utc(last_attempt_at)),
  passed_at       text COLLATE "C" CONSTRAINT tests_passed_at_is_utc CHECK (is_utc(passed_at)),
  verified_at     text COLLATE "C" CONSTRAINT tests_verified_at_is_utc CHECK (is_utc(verified_at)),
  created_at      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT tests_created_at_is_utc CHECK (is_utc(created_at)),
  scope           text COLLATE "C" NOT NULL DEFAULT '[]' CHECK (json_valid(scope)),
  last_error      text COLLATE "C",
  error_category  text COLLATE "C" CHECK (error_category IN
                  ('transient', 'permanent', 'system', 'code', 'spec', 'resource', 'dependency', 'human', 'conflict')),
  not_before      text COLLATE "C" CONSTRAINT tests_not_before_is_utc CHECK (is_utc(not_before)),
  commit_hash     text COLLATE "C",
  give_backs      bigint NOT NULL DEFAULT 0 CHECK (give_backs >= 0),
  no_change text COLLATE "C" NOT NULL DEFAULT 'ask' CHECK (no_change IN ('ask', 'allowed', 'accepted')),
  CHECK (status <> 'passed' OR verified_at IS NOT NULL)
);
CREATE INDEX tests_loop_id ON tests (loop_id, status, id);
CREATE INDEX tests_status ON tests (status);
CREATE INDEX tests_depends_on ON tests (depends_on);
CREATE INDEX tests_error_category ON tests (error_category) WHERE error_category IS NOT NULL;

CREATE TABLE proofs (
  id             text COLLATE "C" PRIMARY KEY NOT NULL,
  test_id        text COLLATE "C" NOT NULL,
  attempt        bigint NOT NULL,
  commit_hash    text COLLATE "C" NOT NULL,
  tree_hash      text COLLATE "C" NOT NULL,
  check_name     text COLLATE "C" NOT NULL,
  outcome        text COLLATE "C" NOT NULL CHECK (outcome IN ('pass', 'fail', 'error')),
  exit_code      bigint,
  duration_ms    bigint NOT NULL CHECK (duration_ms >= 0),
  output_sha256  text COLLATE "C" NOT NULL,
  output_tail    text COLLATE "C" NOT NULL DEFAULT '',
  created_at     text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT proofs_created_at_is_utc CHECK (is_utc(created_at)),
  -- The order of insertion.
  rowid bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE
);
CREATE INDEX proofs_test_id ON proofs (test_id, attempt);
CREATE INDEX proofs_tree ON proofs (tree_hash, check_name);

-- ---------------------------------------------------------------------------------------------------------------
-- Events, subscriptions, deliveries

CREATE TABLE events (
  id              text COLLATE "C" PRIMARY KEY NOT NULL CHECK (id <> ''),
  timestamp       text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT events_timestamp_is_utc CHECK (is_utc(timestamp)),
  source          text COLLATE "C" NOT NULL CHECK (source <> ''),
  event_type      text COLLATE "C" NOT NULL CHECK (event_type <> ''),
  payload         text COLLATE "C" NOT NULL DEFAULT '{}' CHECK (json_valid(payload)),
  correlation_id  text COLLATE "C",
  priority        bigint NOT NULL DEFAULT 5 CHECK (priority >= 1),
  acknowledged    bigint NOT NULL DEFAULT 0 CHECK (acknowledged IN (0, 1)),
  acknowledged_by text COLLATE "C",
  acknowledged_at text COLLATE "C" CONSTRAINT events_acknowledged_at_is_utc CHECK (is_utc(acknowledged_at)),
  caused_by       text COLLATE "C",
  -- Its place in the order of commits.
  rowid bigint UNIQUE NOT NULL DEFAULT next_place()
);
CREATE INDEX events_timestamp ON events (timestamp);
CREATE INDEX events_source ON events (source);
CREATE INDEX events_event_type ON events (event_type);
CREATE INDEX events_acknowledged ON events (acknowledged) WHERE acknowledged = 0;
CREATE INDEX events_correlation_id ON events (correlation_id);
CREATE INDEX events_caused_by ON events (caused_by) WHERE caused_by IS NOT NULL;

CREATE TABLE subscriptions (
  id             text COLLATE "C" PRIMARY KEY NOT NULL CHECK (id <> ''),
  subscriber     text COLLATE "C" NOT NULL CHECK (subscriber <> ''),
  event_types    text COLLATE "C" NOT NULL CHECK (json_valid(event_types) AND json_type(event_types) = 'array'),
  filter_sources text COLLATE "C" CHECK (filter_sources IS NULL OR (json_valid(filter_sources) AND json_type(filter_sources) = 'array')),
  last_poll_at   text COLLATE "C" CONSTRAINT subscriptions_last_poll_at_is_utc CHECK (is_utc(last_poll_at)),
  active         bigint NOT NULL DEFAULT 1 CHECK (active IN (0, 1)),
  max_priority   bigint CHECK (max_priority >= 1)
);
CREATE INDEX subscriptions_subscriber ON subscriptions (subscriber);

CREATE TABLE subscription_matches (
  event_type      text COLLATE "C" NOT NULL,
  source          text COLLATE "C" NOT NULL,
  subscription_id text COLLATE "C" NOT NULL,
  max_priority    bigint NOT NULL,
  PRIMARY KEY (event_type, subscription_id, source)
);
CREATE INDEX subscription_matches_subscription ON subscription_matches (subscription_id);

CREATE TABLE deliveries (
  event_id        text COLLATE "C" NOT NULL,
  subscription_id text COLLATE "C" NOT NULL,
  seq             bigint NOT NULL,
  priority        bigint NOT NULL,
  status          text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'acknowledged', 'set_aside')),
  tries           bigint NOT NULL DEFAULT 0 CHECK (tries >= 0),
  last_error      text COLLATE "C",
  settled_at      text COLLATE "C" CONSTRAINT deliveries_settled_at_is_utc CHECK (is_utc(settled_at)),
  PRIMARY KEY (event_id, subscription_id),
  CHECK ((status = 'pending') = (settled_at IS NULL))
);
CREATE INDEX deliveries_pending ON deliveries (subscription_id, priority, seq) WHERE status = 'pending';

CREATE TABLE maintenance (
  operation text COLLATE "C" PRIMARY KEY NOT NULL CHECK (operation IN ('archive', 'restore'))
);

-- ---------------------------------------------------------------------------------------------------------------
-- Leases and waiting

CREATE TABLE counters (
  name  text COLLATE "C" PRIMARY KEY NOT NULL,
  value bigint NOT NULL DEFAULT 0
);
INSERT INTO counters (name, value) VALUES ('fencing_token', 0), ('wait_edge', 0);

CREATE TABLE file_locks (
  file_path     text COLLATE "C" PRIMARY KEY NOT NULL CHECK (length(file_path) BETWEEN 1 AND 4096 AND file_path NOT LIKE '/%' AND '/' || file_path || '/' NOT LIKE '%/../%'),
  locked_by     text COLLATE "C" NOT NULL CHECK (locked_by <> ''),
  locked_at     text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT file_locks_locked_at_is_utc CHECK (is_utc(locked_at)),
  lock_reason   text COLLATE "C",
  expires_at    text COLLATE "C" CONSTRAINT file_locks_expires_at_is_utc CHECK (is_utc(expires_at)),
  test_id       text COLLATE "C",
  fencing_token bigint NOT NULL DEFAULT 0 CHECK (fencing_token >= 0),
  ttl_seconds   bigint CHECK (ttl_seconds > 0),
  automatic     bigint NOT NULL DEFAULT 0 CHECK (automatic IN (0, 1))
);

CREATE TABLE lease_requests (
  id            text COLLATE "C" PRIMARY KEY NOT NULL,
  loop_id       text COLLATE "C" NOT NULL,
  paths         text COLLATE "C" NOT NULL CHECK (json_valid(paths) AND json_type(paths) = 'array'),
  test_id       text COLLATE "C",
  waiting_since text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT lease_requests_waiting_since_is_utc CHECK (is_utc(waiting_since)),
  wait_until    text COLLATE "C" NOT NULL CONSTRAINT lease_requests_wait_until_is_utc CHECK (is_utc(wait_until)),
  freed_at      text COLLATE "C" CONSTRAINT lease_requests_freed_at_is_utc CHECK (is_utc(freed_at))
);
CREATE INDEX lease_requests_loop_id ON lease_requests (loop_id);

CREATE TABLE lease_request_paths (
  request_id text COLLATE "C" NOT NULL REFERENCES lease_requests (id) ON DELETE CASCADE,
  file_path  text COLLATE "C" NOT NULL,
  PRIMARY KEY (file_path, request_id)
);
CREATE INDEX lease_request_paths_request ON lease_request_paths (request_id);

CREATE TABLE wait_graph (
  waiter        text COLLATE "C" NOT NULL CHECK (waiter <> ''),
  holder        text COLLATE "C" NOT NULL CHECK (holder <> ''),
  resource      text COLLATE "C" NOT NULL CHECK (resource <> ''),
  waiting_since text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT wait_graph_waiting_since_is_utc CHECK (is_utc(waiting_since)),
  wait_until    text COLLATE "C" CONSTRAINT wait_graph_wait_until_is_utc CHECK (is_utc(wait_until)),
  seq           bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (waiter, holder, resource),
  CHECK (waiter <> holder)
);
CREATE INDEX wait_graph_holder ON wait_graph (holder);
CREATE INDEX wait_graph_resource ON wait_graph (resource);
CREATE INDEX wait_graph_seq ON wait_graph (seq);

CREATE TABLE deadlocks (
  id            text COLLATE "C" PRIMARY KEY NOT NULL,
  victim        text COLLATE "C" NOT NULL,
  cycle         text COLLATE "C" NOT NULL CHECK (json_valid(cycle)),
  locks         text COLLATE "C" NOT NULL CHECK (json_valid(locks)),
  reason        text COLLATE "C" NOT NULL,
  detected_at   text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT deadlocks_detected_at_is_utc CHECK (is_utc(detected_at)),
  revoke_at     text COLLATE "C" NOT NULL CONSTRAINT deadlocks_revoke_at_is_utc CHECK (is_utc(revoke_at)),
  resolved_at   text COLLATE "C" CONSTRAINT deadlocks_resolved_at_is_utc CHECK (is_utc(resolved_at)),
  outcome       text COLLATE "C" CHECK (outcome IN ('released', 'revoked', 'dissolved')),
  event_id      text COLLATE "C" NOT NULL,
  CHECK ((resolved_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX deadlocks_open ON deadlocks (victim) WHERE resolved_at IS NULL;
CREATE INDEX deadlocks_detected_at ON deadlocks (detected_at);

-- ---------------------------------------------------------------------------------------------------------------
-- Knowledge, ownership, migrations

CREATE TABLE knowledge (
  id             text COLLATE "C" PRIMARY KEY NOT NULL,
  loop_id        text COLLATE "C" REFERENCES loops (id),
  item_type      text COLLATE "C" NOT NULL CHECK (item_type IN ('fact', 'decision', 'pattern', 'warning')),
  topic          text COLLATE "C",
  content        text COLLATE "C" NOT NULL,
  confidence     double precision NOT NULL DEFAULT 1.0 CHECK (confidence BETWEEN 0.0 AND 1.0),
  evidence       text COLLATE "C",
  affected_areas text COLLATE "C" NOT NULL DEFAULT '[]' CHECK (json_valid(affected_areas)),
  superseded_by  text COLLATE "C" CHECK (superseded_by <> id),
  created_at     text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT knowledge_created_at_is_utc CHECK (is_utc(created_at))
);
CREATE INDEX knowledge_topic ON knowledge (topic);

CREATE TABLE knowledge_numbers (
  seq          bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY NOT NULL,
  knowledge_id text COLLATE "C" NOT NULL UNIQUE
);

CREATE TABLE knowledge_areas (
  prefix text COLLATE "C" NOT NULL,
  seq    bigint NOT NULL,
  area   text COLLATE "C" NOT NULL,
  PRIMARY KEY (prefix, seq, area)
);
CREATE INDEX knowledge_areas_seq ON knowledge_areas (seq);

-- Words without accents, stemmed as English, none left out; all between letters and digits separates them.
CREATE TEXT SEARCH DICTIONARY knowledge_stem (TEMPLATE = snowball, LANGUAGE = english);
CREATE TEXT SEARCH CONFIGURATION knowledge_english (COPY = pg_catalog.english);
ALTER TEXT SEARCH CONFIGURATION knowledge_english ALTER MAPPING REPLACE english_stem WITH knowledge_stem;
CREATE FUNCTION plain_words(words text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT regexp_replace(regexp_replace(normalize(words, NFD), '[\u0300-\u036f]+', '', 'g'),
    '[\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]+', ' ', 'g');
END;
CREATE FUNCTION knowledge_vector(words text, weight "char") RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT setweight(to_tsvector('knowledge_english', plain_words(words)), weight);
END;

CREATE TABLE knowledge_words (
  rowid    bigint PRIMARY KEY NOT NULL,
  topic    text COLLATE "C" NOT NULL,
  content  text COLLATE "C" NOT NULL,
  evidence text COLLATE "C" NOT NULL,
  words    tsvector GENERATED ALWAYS AS
    (knowledge_vector(topic, 'A') || knowledge_vector(content, 'B') || knowledge_vector(evidence, 'C')) STORED
);
CREATE INDEX knowledge_words_words ON knowledge_words USING gin (words);

-- The words of a search as a query: all of them, or any of them. {"any": false, "words": ["one", "other"]}
CREATE FUNCTION word_query(word text) RETURNS tsquery LANGUAGE sql IMMUTABLE STRICT
BEGIN ATOMIC
  SELECT phraseto_tsquery('knowledge_english', plain_words(word));
END;
CREATE FUNCTION knowledge_query(search text) RETURNS tsquery LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
  word text;
  found tsquery;
BEGIN
  FOR word IN SELECT json_array_elements_text(search::json -> 'words') LOOP
    found := CASE
      WHEN found IS NULL THEN word_query(word)
      WHEN (search::json ->> 'any')::boolean THEN found || word_query(word)
      ELSE found && word_query(word)
    END;
  END LOOP;
  RETURN found;
END
$$;

-- SQLite's name for a comparison in which upper and lower case do not differ.
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE INDEX knowledge_standing ON knowledge (topic COLLATE NOCASE, item_type) WHERE superseded_by IS NULL;
CREATE INDEX knowledge_superseded_by ON knowledge (superseded_by) WHERE superseded_by IS NOT NULL;

CREATE VIEW knowledge_index AS
  SELECT n.seq AS seq, k.id AS knowledge_id, coalesce(k.topic, '') AS topic, k.content AS content,
    coalesce(k.evidence, '') AS evidence
  FROM knowledge_numbers AS n JOIN knowledge AS k ON k.id = n.knowledge_id;

CREATE VIEW knowledge_scopes AS
  SELECT seq, knowledge_id, area,
    CASE WHEN area = '' THEN '/' WHEN head = area THEN area ELSE rtrim(head, replace(head, '/', '')) END AS prefix
  FROM (
    SELECT seq, knowledge_id, area,
      substr(area, 1, least(strpos(area || '*', '*'), strpos(area || '?', '?'), strpos(area || '[', '['),
        strpos(area || '{', '{'), strpos(area || '\', '\')) - 1) AS head
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
    ) AS areas
  ) AS heads;

CREATE TABLE resources (
  path          text COLLATE "C" PRIMARY KEY NOT NULL CHECK (path <> ''),
  owner_loop    text COLLATE "C" NOT NULL REFERENCES loops (id),
  resource_type text COLLATE "C" NOT NULL DEFAULT 'file'
                CHECK (resource_type IN ('file', 'type', 'interface', 'endpoint', 'migration')),
  description   text COLLATE "C",
  created_at    text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT resources_created_at_is_utc CHECK (is_utc(created_at))
);
CREATE INDEX resources_owner_loop ON resources (owner_loop);

CREATE TABLE change_requests (
  id             text COLLATE "C" PRIMARY KEY NOT NULL,
  resource_path  text COLLATE "C" NOT NULL REFERENCES resources (path),
  requestor_loop text COLLATE "C" NOT NULL REFERENCES loops (id),
  owner_loop     text COLLATE "C" NOT NULL REFERENCES loops (id),
  request_type   text COLLATE "C" NOT NULL DEFAULT 'modify' CHECK (request_type IN ('modify', 'extend', 'delete')),
  description    text COLLATE "C" NOT NULL DEFAULT '',
  status         text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'applied')),
  requested_at   text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT change_requests_requested_at_is_utc CHECK (is_utc(requested_at)),
  resolved_at    text COLLATE "C" CONSTRAINT change_requests_resolved_at_is_utc CHECK (is_utc(resolved_at)),
  resolved_by    text COLLATE "C" CHECK (resolved_by IN ('human', 'pm')),
  CHECK ((status = 'pending') = (resolved_at IS NULL))
);
CREATE INDEX change_requests_status ON change_requests (status);
CREATE INDEX change_requests_resource ON change_requests (resource_path);

CREATE TABLE change_request_tests (
  test_id    text COLLATE "C" NOT NULL,
  request_id text COLLATE "C" NOT NULL REFERENCES change_requests (id) ON DELETE CASCADE,
  PRIMARY KEY (test_id, request_id)
);
CREATE INDEX change_request_tests_request ON change_request_tests (request_id);

CREATE TABLE migrations (
  number       bigint PRIMARY KEY NOT NULL CHECK (number >= 1),
  name         text COLLATE "C" NOT NULL CHECK (name <> ''),
  loop_id      text COLLATE "C" REFERENCES loops (id),
  file_path    text COLLATE "C",
  status       text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'applied', 'failed')),
  allocated_at text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT migrations_allocated_at_is_utc CHECK (is_utc(allocated_at)),
  applied_at   text COLLATE "C" CONSTRAINT migrations_applied_at_is_utc CHECK (is_utc(applied_at)),
  CHECK (status <> 'applied' OR applied_at IS NOT NULL)
);

INSERT INTO counters (name, value) VALUES ('migration_number', 0);

-- ---------------------------------------------------------------------------------------------------------------
-- Checkpoints, baselines, regressions

CREATE TABLE checkpoints (
  id              text COLLATE "C" PRIMARY KEY NOT NULL,
  loop_id         text COLLATE "C" NOT NULL REFERENCES loops (id),
  test_id         text COLLATE "C" REFERENCES tests (id),
  git_ref         text COLLATE "C" NOT NULL CHECK (git_ref <> ''),
  checkpoint_type text COLLATE "C" NOT NULL DEFAULT 'branch' CHECK (checkpoint_type IN ('branch', 'stash', 'tag')),
  created_at      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT checkpoints_created_at_is_utc CHECK (is_utc(created_at)),
  deleted_at      text COLLATE "C" CONSTRAINT checkpoints_deleted_at_is_utc CHECK (is_utc(deleted_at)),
  commit_hash     text COLLATE "C",
  reason          text COLLATE "C"
);
CREATE INDEX checkpoints_loop_id ON checkpoints (loop_id, created_at);

CREATE TABLE passing_tests (
  test_id     text COLLATE "C" NOT NULL CHECK (test_id <> ''),
  commit_hash text COLLATE "C" NOT NULL CHECK (commit_hash <> ''),
  passed_at   text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT passing_tests_passed_at_is_utc CHECK (is_utc(passed_at)),
  PRIMARY KEY (test_id, commit_hash),
  -- The order of insertion.
  rowid bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE
);
CREATE INDEX passing_tests_passed_at ON passing_tests (test_id, passed_at);

CREATE TABLE regressions (
  id               text COLLATE "C" PRIMARY KEY NOT NULL,
  test_id          text COLLATE "C" NOT NULL,
  check_name       text COLLATE "C" NOT NULL,
  last_good_commit text COLLATE "C" NOT NULL,
  bad_commit       text COLLATE "C" NOT NULL,
  first_bad_commit text COLLATE "C",
  blamed_loop      text COLLATE "C",
  blamed_test      text COLLATE "C",
  status           text COLLATE "C" NOT NULL CHECK (status IN ('suspected', 'bisecting', 'regressed', 'unknown', 'flaky', 'cleared')),
  bisect           text COLLATE "C" CHECK (bisect IS NULL OR json_valid(bisect)),
  output_tail      text COLLATE "C" NOT NULL DEFAULT '',
  detected_at      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT regressions_detected_at_is_utc CHECK (is_utc(detected_at)),
  resolved_at      text COLLATE "C" CONSTRAINT regressions_resolved_at_is_utc CHECK (is_utc(resolved_at)),
  event_id         text COLLATE "C",
  -- The order of insertion.
  rowid bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE
);
CREATE UNIQUE INDEX regressions_once ON regressions (test_id, first_bad_commit) WHERE first_bad_commit IS NOT NULL;
CREATE INDEX regressions_open ON regressions (test_id) WHERE resolved_at IS NULL;

CREATE TABLE check_runs (
  check_name  text COLLATE "C" NOT NULL,
  commit_hash text COLLATE "C" NOT NULL,
  outcome     text COLLATE "C" NOT NULL CHECK (outcome IN ('pass', 'fail', 'flaky', 'error')),
  runs        bigint NOT NULL DEFAULT 1,
  output_tail text COLLATE "C" NOT NULL DEFAULT '',
  ran_at      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT check_runs_ran_at_is_utc CHECK (is_utc(ran_at)),
  PRIMARY KEY (check_name, commit_hash),
  -- The order of insertion.
  rowid bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE
);
CREATE INDEX check_runs_ran_at ON check_runs (ran_at);

-- ---------------------------------------------------------------------------------------------------------------
-- People, usage, health, alerts, journal

CREATE TABLE decisions (
  id              text COLLATE "C" PRIMARY KEY NOT NULL,
  decision_type   text COLLATE "C" NOT NULL CHECK (decision_type <> ''),
  summary         text COLLATE "C" NOT NULL,
  options         text COLLATE "C" NOT NULL CHECK (json_valid(options) AND json_type(options) = 'array'),
  default_option  text COLLATE "C",
  context         text COLLATE "C" NOT NULL DEFAULT '{}' CHECK (json_valid(context)),
  timeout_minutes bigint CHECK (timeout_minutes >= 0),
  status          text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'decided', 'auto_resolved', 'expired')),
  requested_at    text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT decisions_requested_at_is_utc CHECK (is_utc(requested_at)),
  requested_by    text COLLATE "C",
  decided_at      text COLLATE "C" CONSTRAINT decisions_decided_at_is_utc CHECK (is_utc(decided_at)),
  decided_by      text COLLATE "C" CHECK (decided_by IN ('human', 'auto')),
  choice          text COLLATE "C",
  comment         text COLLATE "C",
  fingerprint     text COLLATE "C",
  expires_at      text COLLATE "C" CONSTRAINT decisions_expires_at_is_utc CHECK (is_utc(expires_at)),
  event_id        text COLLATE "C",
  CHECK ((status = 'pending') = (decided_at IS NULL)),
  CHECK (status NOT IN ('decided', 'auto_resolved') OR choice IS NOT NULL)
);
CREATE INDEX decisions_status ON decisions (status);
CREATE UNIQUE INDEX decisions_fingerprint ON decisions (fingerprint) WHERE status = 'pending' AND fingerprint IS NOT NULL;
CREATE INDEX decisions_about ON decisions (fingerprint, requested_at) WHERE fingerprint IS NOT NULL;
CREATE INDEX decisions_decided_at ON decisions (decided_at) WHERE decided_at IS NOT NULL;
CREATE INDEX decisions_type ON decisions (decision_type, requested_by);

CREATE TABLE usage (
  id               text COLLATE "C" PRIMARY KEY NOT NULL,
  loop_id          text COLLATE "C" REFERENCES loops (id),
  test_id          text COLLATE "C",
  tokens_estimated bigint NOT NULL DEFAULT 0 CHECK (tokens_estimated >= 0),
  duration_seconds bigint NOT NULL DEFAULT 0 CHECK (duration_seconds >= 0),
  files_modified   text COLLATE "C" NOT NULL DEFAULT '[]' CHECK (json_valid(files_modified)),
  recorded_at      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT usage_recorded_at_is_utc CHECK (is_utc(recorded_at)),
  agent text COLLATE "C",
  model text COLLATE "C",
  input_tokens bigint NOT NULL DEFAULT 0 CHECK (input_tokens >= 0),
  output_tokens bigint NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
  cache_read_tokens bigint NOT NULL DEFAULT 0 CHECK (cache_read_tokens >= 0),
  cache_write_tokens bigint NOT NULL DEFAULT 0 CHECK (cache_write_tokens >= 0),
  cost_microusd bigint CHECK (cost_microusd >= 0),
  -- The order of insertion.
  rowid bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE
);
CREATE INDEX usage_loop_id ON usage (loop_id, recorded_at);
CREATE INDEX usage_test_id ON usage (test_id);
CREATE INDEX usage_recorded_at ON usage (recorded_at);

CREATE TABLE component_health (
  component      text COLLATE "C" PRIMARY KEY NOT NULL CHECK (component <> ''),
  last_heartbeat text COLLATE "C" CONSTRAINT component_health_last_heartbeat_is_utc CHECK (is_utc(last_heartbeat)),
  status         text COLLATE "C" NOT NULL DEFAULT 'unknown' CHECK (status IN ('healthy', 'degraded', 'dead', 'unknown')),
  metadata       text COLLATE "C" NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
  pid            bigint CHECK (pid > 0),
  pid_start_time bigint,
  boot_id        text COLLATE "C",
  pid_namespace  bigint,
  started_at     text COLLATE "C" CONSTRAINT component_health_started_at_is_utc CHECK (is_utc(started_at)),
  version        text COLLATE "C",
  child_pid            bigint CHECK (child_pid > 0),
  child_pid_start_time bigint,
  host text COLLATE "C"
);

CREATE TABLE pauses (
  loop_id      text COLLATE "C" NOT NULL,
  requested_by text COLLATE "C" NOT NULL,
  reason       text COLLATE "C" NOT NULL DEFAULT '',
  event_id     text COLLATE "C",
  since        text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT pauses_since_is_utc CHECK (is_utc(since)),
  PRIMARY KEY (loop_id, requested_by)
);

CREATE TABLE conflicts (
  id          text COLLATE "C" PRIMARY KEY NOT NULL,
  file_path   text COLLATE "C" NOT NULL,
  loop_a      text COLLATE "C" NOT NULL,
  loop_b      text COLLATE "C" NOT NULL,
  detected_at text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT conflicts_detected_at_is_utc CHECK (is_utc(detected_at)),
  event_id    text COLLATE "C",
  winner      text COLLATE "C",
  loser       text COLLATE "C",
  winner_test text COLLATE "C",
  resolved_at text COLLATE "C" CONSTRAINT conflicts_resolved_at_is_utc CHECK (is_utc(resolved_at)),
  resolution  text COLLATE "C"
);
CREATE UNIQUE INDEX conflicts_open ON conflicts (file_path, loop_a, loop_b) WHERE resolved_at IS NULL;

CREATE TABLE worktree_changes (
  loop_id         text COLLATE "C" NOT NULL,
  file_path       text COLLATE "C" NOT NULL,
  first_seen_at   text COLLATE "C" NOT NULL CONSTRAINT worktree_changes_first_seen_at_is_utc CHECK (is_utc(first_seen_at)),
  last_changed_at text COLLATE "C" NOT NULL CONSTRAINT worktree_changes_last_changed_at_is_utc CHECK (is_utc(last_changed_at)),
  fingerprint     text COLLATE "C" NOT NULL DEFAULT '',
  PRIMARY KEY (loop_id, file_path)
);
CREATE INDEX worktree_changes_file_path ON worktree_changes (file_path);

CREATE TABLE agent_outputs (
  loop_id    text COLLATE "C" PRIMARY KEY NOT NULL,
  log        text COLLATE "C" NOT NULL,
  read_bytes bigint NOT NULL CHECK (read_bytes >= 0),
  read_at    text COLLATE "C" NOT NULL CONSTRAINT agent_outputs_read_at_is_utc CHECK (is_utc(read_at)),
  news_at    text COLLATE "C" NOT NULL CONSTRAINT agent_outputs_news_at_is_utc CHECK (is_utc(news_at)),
  errors     text COLLATE "C" NOT NULL DEFAULT '{}' CHECK (json_valid(errors))
);

CREATE TABLE alerts (
  id              text COLLATE "C" PRIMARY KEY NOT NULL,
  severity        text COLLATE "C" NOT NULL CHECK (severity IN ('info', 'warning', 'error', 'critical')),
  alert_type      text COLLATE "C" NOT NULL CHECK (alert_type IN ('stuck', 'conflict', 'digression', 'resource', 'regression')),
  source          text COLLATE "C" NOT NULL DEFAULT '',
  message         text COLLATE "C" NOT NULL,
  context         text COLLATE "C" NOT NULL DEFAULT '{}' CHECK (json_valid(context)),
  acknowledged    bigint NOT NULL DEFAULT 0 CHECK (acknowledged IN (0, 1)),
  acknowledged_by text COLLATE "C",
  acknowledged_at text COLLATE "C" CONSTRAINT alerts_acknowledged_at_is_utc CHECK (is_utc(acknowledged_at)),
  created_at      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT alerts_created_at_is_utc CHECK (is_utc(created_at)),
  closed_at       text COLLATE "C" CONSTRAINT alerts_closed_at_is_utc CHECK (is_utc(closed_at)),
  updated_at      text COLLATE "C" CONSTRAINT alerts_updated_at_is_utc CHECK (is_utc(updated_at)),
  fingerprint     text COLLATE "C",
  event_id        text COLLATE "C"
);
CREATE UNIQUE INDEX alerts_fingerprint ON alerts (fingerprint) WHERE closed_at IS NULL AND fingerprint IS NOT NULL;
CREATE INDEX alerts_created_at ON alerts (created_at);

CREATE TABLE transaction_log (
  id           text COLLATE "C" PRIMARY KEY NOT NULL,
  operation    text COLLATE "C" NOT NULL CHECK (operation <> ''),
  loop_id      text COLLATE "C" REFERENCES loops (id),
  steps        text COLLATE "C" NOT NULL DEFAULT '[]' CHECK (json_valid(steps)),
  status       text COLLATE "C" NOT NULL DEFAULT 'in_progress' CHECK (status IN ('in_progress', 'committed', 'rolled_back')),
  started_at   text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT transaction_log_started_at_is_utc CHECK (is_utc(started_at)),
  completed_at text COLLATE "C" CONSTRAINT transaction_log_completed_at_is_utc CHECK (is_utc(completed_at)),
  component    text COLLATE "C",
  event_id     text COLLATE "C",
  CHECK ((status = 'in_progress') = (completed_at IS NULL))
);
CREATE INDEX transaction_log_open ON transaction_log (component) WHERE status = 'in_progress';

CREATE TABLE clock (
  host         text COLLATE "C" PRIMARY KEY NOT NULL,
  boot_id      text COLLATE "C" NOT NULL,
  suspended_ms bigint NOT NULL,
  wall_ms      bigint NOT NULL,
  boot_ms      bigint NOT NULL,
  grace_until  text COLLATE "C" CONSTRAINT clock_grace_until_is_utc CHECK (is_utc(grace_until))
);

CREATE TABLE clock_changes (
  host    text COLLATE "C" NOT NULL,
  seen_at text COLLATE "C" NOT NULL CHECK (is_utc(seen_at) AND length(seen_at) = 23),
  millis  bigint NOT NULL,
  PRIMARY KEY (host, seen_at)
);

-- ---------------------------------------------------------------------------------------------------------------
-- Views: the seed's queries, exact and by name

CREATE VIEW pending_tests AS
  SELECT t.* FROM tests AS t
  WHERE t.status = 'pending'
    AND (t.depends_on IS NULL OR EXISTS (SELECT 1 FROM tests AS d WHERE d.id = t.depends_on AND d.status = 'passed'))
  ORDER BY t.id;

CREATE VIEW undelivered_events AS
  SELECT s.subscriber, d.subscription_id, d.seq, e.id, e.timestamp, e.source, e.event_type, e.payload, e.correlation_id, e.priority,
    e.acknowledged, e.acknowledged_by, e.acknowledged_at, e.caused_by
  FROM deliveries AS d
  JOIN subscriptions AS s ON s.id = d.subscription_id
  JOIN events AS e ON e.id = d.event_id
  WHERE d.status = 'pending' AND s.active = 1
  ORDER BY d.priority, d.seq;

CREATE VIEW active_locks AS
  SELECT * FROM file_locks
  WHERE expires_at IS NULL OR expires_at > utc_now();

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
-- Archiving

CREATE TABLE archived_events (
  id text COLLATE "C" PRIMARY KEY NOT NULL
);

-- ---------------------------------------------------------------------------------------------------------------
-- Waiting: tests

CREATE TABLE test_waits (
  test_id text COLLATE "C" PRIMARY KEY NOT NULL,
  seq     bigint NOT NULL
);
CREATE INDEX test_waits_seq ON test_waits (seq);

INSERT INTO counters (name, value) VALUES ('test_wait', 0);

CREATE TABLE proof_runs (
  proof_id     text COLLATE "C" PRIMARY KEY NOT NULL REFERENCES proofs (id) ON DELETE CASCADE,
  kind         text COLLATE "C" NOT NULL CHECK (kind IN ('passed', 'failed', 'timed_out', 'changed_files', 'missing', 'not_executable', 'not_started', 'signaled', 'lost', 'cancelled')),
  why          text COLLATE "C" NOT NULL DEFAULT '',
  check_hash   text COLLATE "C" NOT NULL DEFAULT '',
  reused_from  text COLLATE "C",
  stage text COLLATE "C" NOT NULL DEFAULT 'alone' CHECK (stage IN ('alone', 'base', 'red_before', 'batch')),
  base_tree text COLLATE "C",
  let_through bigint NOT NULL DEFAULT 0 CHECK (let_through IN (0, 1))
);
CREATE INDEX proofs_commit ON proofs (commit_hash);

-- ---------------------------------------------------------------------------------------------------------------
-- The ledger: what was passed and stays watched, and what is to be reverted

CREATE TABLE baseline_runs (
  check_name  text COLLATE "C" NOT NULL,
  test_id     text COLLATE "C" NOT NULL,
  commit_hash text COLLATE "C" NOT NULL,
  outcome     text COLLATE "C" NOT NULL CHECK (outcome IN ('pass', 'fail', 'flaky', 'error')),
  runs        bigint NOT NULL DEFAULT 1 CHECK (runs >= 0),
  ran_at      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT baseline_runs_ran_at_is_utc CHECK (is_utc(ran_at)),
  PRIMARY KEY (check_name, test_id)
);

CREATE TABLE reverts (
  test_id     text COLLATE "C" PRIMARY KEY NOT NULL,
  commit_hash text COLLATE "C" NOT NULL CHECK (commit_hash <> ''),
  asked_at    text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT reverts_asked_at_is_utc CHECK (is_utc(asked_at)),
  event_id    text COLLATE "C"
);

-- ---------------------------------------------------------------------------------------------------------------
-- Holds: why no attempt starts

CREATE TABLE holds (
  subject    text COLLATE "C" PRIMARY KEY NOT NULL CHECK (subject LIKE 'agent:_%' OR subject LIKE 'loop:_%' OR subject = 'setup'),
  kind       text COLLATE "C" NOT NULL CHECK (kind IN ('limit', 'outage', 'human', 'repeated')),
  reason     text COLLATE "C" NOT NULL,
  since      text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT holds_since_is_utc CHECK (is_utc(since)),
  until      text COLLATE "C" CONSTRAINT holds_until_is_utc CHECK (is_utc(until)),
  tries      bigint NOT NULL DEFAULT 1 CHECK (tries >= 1),
  loop_id    text COLLATE "C" NOT NULL,
  probe_loop text COLLATE "C",
  event_id   text COLLATE "C"
);

-- ---------------------------------------------------------------------------------------------------------------
-- Attempts: the event that began each, so that every event of an attempt names it

CREATE TABLE attempts (
  test_id        text COLLATE "C" PRIMARY KEY NOT NULL,
  event_id       text COLLATE "C" NOT NULL,
  correlation_id text COLLATE "C" NOT NULL
);

INSERT INTO counters (name, value) VALUES ('attempts_since', 0);

CREATE VIEW running_attempts AS
  SELECT l.id AS loop_id, a.test_id AS test_id, a.event_id AS event_id, a.correlation_id AS correlation_id
  FROM loops AS l JOIN tests AS t ON t.id = l.current_test_id AND t.status = 'in_progress' JOIN attempts AS a ON a.test_id = t.id;

-- ---------------------------------------------------------------------------------------------------------------
-- Leases that were granted together

CREATE TABLE lease_sets (
  fencing_token bigint NOT NULL,
  file_path     text COLLATE "C" NOT NULL,
  PRIMARY KEY (fencing_token, file_path)
);

-- ---------------------------------------------------------------------------------------------------------------
-- The store

CREATE TABLE stores (
  made_at     text COLLATE "C" NOT NULL DEFAULT utc_now()
    CONSTRAINT stores_made_at_is_utc CHECK (is_utc(made_at)),
  cause       text COLLATE "C" NOT NULL CHECK (cause IN ('new', 'brought_over', 'rebuilt')),
  path        text COLLATE "C" NOT NULL,
  integration text COLLATE "C",
  host        text COLLATE "C",
  -- The order of insertion.
  rowid bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE
);

-- ---------------------------------------------------------------------------------------------------------------
-- Runs

CREATE TABLE runs (
  id         text COLLATE "C" PRIMARY KEY NOT NULL,
  loop_id    text COLLATE "C" NOT NULL,
  test_id    text COLLATE "C",
  attempt    bigint NOT NULL DEFAULT 0 CHECK (attempt >= 0),
  kind       text COLLATE "C" NOT NULL CHECK (kind IN ('agent', 'check')),
  name       text COLLATE "C" NOT NULL,
  log        text COLLATE "C" NOT NULL CHECK (log <> '' AND log NOT LIKE '%/%'),
  started_at text COLLATE "C" NOT NULL DEFAULT utc_now()
    CONSTRAINT runs_started_at_is_utc CHECK (is_utc(started_at)),
  ended_at   text COLLATE "C"
    CONSTRAINT runs_ended_at_is_utc CHECK (is_utc(ended_at)),
  outcome    text COLLATE "C",
  session text COLLATE "C",
  session_used text COLLATE "C" CHECK (session_used IS NULL OR json_valid(session_used)),
  progress text COLLATE "C"
);
CREATE INDEX runs_loop_id ON runs (loop_id, started_at);
CREATE INDEX runs_test_id ON runs (test_id, started_at);
CREATE INDEX runs_started_at ON runs (started_at);

-- ---------------------------------------------------------------------------------------------------------------
-- Set-up of workspaces

CREATE TABLE loop_ports (
  loop_id text COLLATE "C" PRIMARY KEY NOT NULL,
  port    bigint NOT NULL UNIQUE CHECK (port BETWEEN 1024 AND 65535)
);

-- ---------------------------------------------------------------------------------------------------------------
-- The base: what the checks show at the head of integration, before any agent is paid

CREATE TABLE base_runs (
  tree_hash      text COLLATE "C" NOT NULL,
  check_hash     text COLLATE "C" NOT NULL,
  check_name     text COLLATE "C" NOT NULL,
  commit_hash    text COLLATE "C" NOT NULL,
  state          text COLLATE "C" NOT NULL CHECK (state IN ('green', 'red', 'flaky', 'skipped')),
  why            text COLLATE "C" NOT NULL DEFAULT '',
  exit_code      bigint,
  runs           bigint NOT NULL DEFAULT 1 CHECK (runs >= 0),
  duration_ms    bigint NOT NULL DEFAULT 0 CHECK (duration_ms >= 0),
  output_sha256  text COLLATE "C" NOT NULL DEFAULT '',
  output_tail    text COLLATE "C" NOT NULL DEFAULT '',
  proof_id       text COLLATE "C",
  ran_at         text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT base_runs_ran_at_is_utc CHECK (is_utc(ran_at)),
  failures text COLLATE "C" CHECK (failures IS NULL OR json_valid(failures)),
  PRIMARY KEY (tree_hash, check_hash)
);
CREATE INDEX base_runs_ran_at ON base_runs (ran_at);
CREATE INDEX base_runs_state ON base_runs (state) WHERE state = 'red';
CREATE INDEX base_runs_check ON base_runs (check_hash, ran_at);

CREATE TABLE ignored_checks (
  check_name  text COLLATE "C" PRIMARY KEY NOT NULL,
  since       text COLLATE "C" NOT NULL DEFAULT utc_now() CONSTRAINT ignored_checks_since_is_utc CHECK (is_utc(since)),
  reason      text COLLATE "C" NOT NULL DEFAULT ''
);

CREATE TABLE base_mends (
  test_id     text COLLATE "C" PRIMARY KEY NOT NULL
);

-- ---------------------------------------------------------------------------------------------------------------
-- The landing train

CREATE TABLE landings (
  id          text COLLATE "C" PRIMARY KEY NOT NULL CHECK (id <> ''),
  test_id     text COLLATE "C" NOT NULL,
  loop_id     text COLLATE "C" NOT NULL,
  attempt     bigint NOT NULL CHECK (attempt >= 0),
  state       text COLLATE "C" NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'judging', 'landed', 'returned', 'withdrawn')),
  urgent      bigint NOT NULL DEFAULT 0 CHECK (urgent IN (0, 1)),
  passed_over bigint NOT NULL DEFAULT 0 CHECK (passed_over >= 0),
  base_tree   text COLLATE "C" NOT NULL,
  tree        text COLLATE "C" NOT NULL,
  head        text COLLATE "C" NOT NULL,
  commit_hash text COLLATE "C" NOT NULL,
  theirs      text COLLATE "C",
  proof       text COLLATE "C" NOT NULL,
  checks      text COLLATE "C" NOT NULL DEFAULT '{}' CHECK (json_valid(checks)),
  seconds     bigint NOT NULL DEFAULT 0,
  tokens      bigint,
  files       text COLLATE "C" NOT NULL DEFAULT '[]' CHECK (json_valid(files)),
  batch       text COLLATE "C",
  reason      text COLLATE "C",
  clashes     text COLLATE "C" NOT NULL DEFAULT '[]' CHECK (json_valid(clashes)),
  queued_at   text COLLATE "C" NOT NULL DEFAULT utc_now()
    CONSTRAINT landings_queued_at_is_utc CHECK (is_utc(queued_at)),
  ended_at    text COLLATE "C"
    CONSTRAINT landings_ended_at_is_utc CHECK (is_utc(ended_at)),
  CHECK ((state IN ('queued', 'judging')) = (ended_at IS NULL))
);
CREATE UNIQUE INDEX landings_open ON landings (test_id) WHERE ended_at IS NULL;
CREATE INDEX landings_test_id ON landings (test_id, queued_at);
CREATE INDEX landings_ended_at ON landings (ended_at);

CREATE TABLE batches (
  id          text COLLATE "C" PRIMARY KEY NOT NULL CHECK (id <> ''),
  base_commit text COLLATE "C" NOT NULL,
  commit_hash text COLLATE "C" NOT NULL,
  tree_hash   text COLLATE "C" NOT NULL,
  tests       text COLLATE "C" NOT NULL CHECK (json_valid(tests) AND json_type(tests) = 'array'),
  outcome     text COLLATE "C" NOT NULL CHECK (outcome IN ('passed', 'failed', 'flaky')),
  check_name  text COLLATE "C",
  why         text COLLATE "C" NOT NULL DEFAULT '',
  output_tail text COLLATE "C" NOT NULL DEFAULT '',
  duration_ms bigint NOT NULL DEFAULT 0 CHECK (duration_ms >= 0),
  reused      bigint NOT NULL DEFAULT 0 CHECK (reused IN (0, 1)),
  judged_by   text COLLATE "C" NOT NULL,
  judged_at   text COLLATE "C" NOT NULL DEFAULT utc_now()
    CONSTRAINT batches_judged_at_is_utc CHECK (is_utc(judged_at)),
  landed_at   text COLLATE "C"
    CONSTRAINT batches_landed_at_is_utc CHECK (is_utc(landed_at))
);
CREATE INDEX batches_judged_at ON batches (judged_at);
CREATE INDEX batches_tree ON batches (tree_hash);

INSERT INTO coding_loops_schema (version) VALUES (28);
