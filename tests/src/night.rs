//! A night of many loops as rows, for looking at: everything that the page can show, also what is hostile.

/// How much happened.
#[derive(Debug, Clone, Copy)]
pub struct Night {
    /// Loops.
    pub loops: u32,
    /// Tests of each.
    pub tests: u32,
    /// Events.
    pub events: u32,
}

impl Night {
    /// What fits on a screen.
    pub const SMALL: Self = Self { loops: 6, tests: 12, events: 1_500 };
    /// What the page has to bear.
    pub const LARGE: Self = Self { loops: 20, tests: 50, events: 100_000 };

    /// The rows, for a new database.
    #[must_use]
    pub fn sql(self) -> String {
        let Self { loops, tests, events } = self;
        SQL.replace("LOOPS", &loops.to_string()).replace("TESTS", &tests.to_string()).replace("EVENTS", &events.to_string())
    }
}

const SQL: &str = r#"
PRAGMA foreign_keys = on;
BEGIN;
CREATE TEMP TABLE n (i INTEGER PRIMARY KEY);
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i < EVENTS - 1) INSERT INTO n SELECT i FROM r;
CREATE TEMP TABLE name (i INTEGER PRIMARY KEY, id TEXT);
INSERT INTO name SELECT i, (CASE i % 20 WHEN 0 THEN 'backend' WHEN 1 THEN 'frontend' WHEN 2 THEN 'database' WHEN 3 THEN 'search'
  WHEN 4 THEN 'billing' WHEN 5 THEN 'documentation' WHEN 6 THEN 'mobile' WHEN 7 THEN 'reports' ELSE 'loop-' || i END) FROM n WHERE i < LOOPS;
INSERT INTO loops (id, name, priority, status, created_at)
  SELECT id, id, 1 + i % 5, CASE WHEN i = 4 THEN 'paused' ELSE 'running' END, strftime('%Y-%m-%d %H:%M:%f', 'now', '-8 hours') FROM name;
-- Each test is in one of ten states, by its number.
CREATE TEMP TABLE t AS SELECT a.id || '-' || printf('%02d', b.i + 1) || '-' || (CASE b.i % 5 WHEN 0 THEN 'parser' WHEN 1 THEN 'login-form'
    WHEN 2 THEN 'migration' WHEN 3 THEN 'search-index' ELSE 'totals' END) AS id, a.id AS loop, a.i AS l, b.i AS k
  FROM name AS a, n AS b WHERE b.i < TESTS;
INSERT INTO tests (id, loop_id, category, status, attempts, last_result, notes, spec_content, scope, last_attempt_at, passed_at, verified_at,
    created_at, commit_hash, last_error, error_category)
  SELECT id, loop, 'build',
    CASE WHEN k * 10 < TESTS * 5 THEN 'passed' WHEN k * 10 = TESTS * 5 OR k = TESTS / 2 THEN 'in_progress' WHEN k = TESTS - 1 THEN 'blocked'
      WHEN k = TESTS - 2 THEN 'skipped' ELSE 'pending' END,
    CASE WHEN k < TESTS / 2 + 1 THEN 1 + k % 2 WHEN k = TESTS - 1 THEN 3 WHEN k = TESTS - 3 THEN 1 ELSE 0 END, NULL,
    'Make ' || id || ' work as the specification says', 'The component **' || id || '** answers within 50 ms.' || char(10) || char(10)
      || '- It refuses what it does not know.' || char(10) || '- See docs/' || loop || '.md', '["src/' || loop || '/**"]',
    strftime('%Y-%m-%d %H:%M:%f', 'now', '-20 minutes'),
    CASE WHEN k * 10 < TESTS * 5 THEN strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (TESTS - k) || ' minutes') END,
    CASE WHEN k * 10 < TESTS * 5 THEN strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (TESTS - k) || ' minutes') END,
    strftime('%Y-%m-%d %H:%M:%f', 'now', '-8 hours'),
    CASE WHEN k * 10 < TESTS * 5 THEN printf('%08x%08x%024x', (l * 1000 + k + 1) * 2654435761 % 4294967296, (k + 1) * 40503 * 65599 % 4294967296, l * 1000 + k) END,
    CASE WHEN k = TESTS - 1 THEN 'check tests failed: expected 3 rows, found 2' || char(10) || '  at tests/test_totals.py:42' END,
    CASE WHEN k = TESTS - 1 THEN 'code' END
  FROM t;
UPDATE loops SET current_test_id = (SELECT id FROM tests WHERE loop_id = loops.id AND status = 'in_progress' ORDER BY id LIMIT 1) WHERE status = 'running';
INSERT INTO passing_tests (test_id, commit_hash, passed_at) SELECT id, commit_hash, passed_at FROM tests WHERE status = 'passed';
-- Attempts, one after another in each loop, with a run of the agent and one of the checks.
CREATE TEMP TABLE a AS SELECT id, loop, l, k, strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || ((TESTS / 2 - k) * 170 * 60 / TESTS + l * 7) || ' seconds') AS at,
    CASE WHEN k % 4 = 3 THEN 'test_failed' ELSE 'test_passed' END AS outcome FROM t WHERE k <= TESTS / 2;
INSERT INTO events (id, timestamp, source, event_type, payload, correlation_id)
  SELECT 'start-' || id, at, loop, 'test_started', json_object('test_id', id, 'loop_id', loop, 'attempt', 1, 'scope', json('[]')), 'story-' || id FROM a;
INSERT INTO runs (id, loop_id, test_id, attempt, kind, name, log, started_at, ended_at, outcome, progress)
  SELECT 'agent-' || id, loop, id, 1, 'agent', 'claude', 'agent-' || id || '.log', strftime('%Y-%m-%d %H:%M:%f', at, '+5 seconds'),
    CASE WHEN k < TESTS / 2 THEN strftime('%Y-%m-%d %H:%M:%f', at, '+' || (5 + 9000 / TESTS / 2) || ' seconds') END,
    CASE WHEN k < TESTS / 2 THEN 'succeeded' END, CASE WHEN k = TESTS / 2 THEN 'edits src/' || loop || '/parser.rs' END
  FROM a WHERE l <> 4 OR k < TESTS / 2;
INSERT INTO runs (id, loop_id, test_id, attempt, kind, name, log, started_at, ended_at, outcome)
  SELECT 'check-' || id, loop, id, 1, 'check', 'tests', 'check-' || id || '.log', strftime('%Y-%m-%d %H:%M:%f', at, '+' || (30 + 4500 / TESTS) || ' seconds'),
    strftime('%Y-%m-%d %H:%M:%f', at, '+' || (30 + 6500 / TESTS) || ' seconds'), CASE outcome WHEN 'test_passed' THEN 'passed' ELSE 'failed' END
  FROM a WHERE k < TESTS / 2;
INSERT INTO events (id, timestamp, source, event_type, payload, correlation_id, caused_by, priority)
  SELECT 'end-' || id, strftime('%Y-%m-%d %H:%M:%f', at, '+' || (31 + 6500 / TESTS) || ' seconds'), loop, outcome,
    CASE outcome WHEN 'test_passed' THEN json_object('test_id', id, 'loop_id', loop, 'attempt', 1, 'duration_seconds', 90, 'files_modified', json('["src/a.rs"]'),
      'verified', json('true'), 'verification_checks', json('{"tests": true}'), 'commit', (SELECT commit_hash FROM tests WHERE tests.id = a.id))
    ELSE json_object('test_id', id, 'loop_id', loop, 'attempt', 1, 'error_category', 'code', 'error_message', 'expected 3 rows, found 2',
      'will_retry', json('true')) END, 'story-' || id, 'start-' || id, CASE outcome WHEN 'test_passed' THEN 5 ELSE 3 END
  FROM a WHERE k < TESTS / 2;
-- The rest of the events: leases, as most are.
INSERT INTO events (id, timestamp, source, event_type, payload, correlation_id)
  SELECT 'lease-' || i, strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (28000 - i * 28000.0 / EVENTS) || ' seconds'), (SELECT id FROM name WHERE name.i = n.i % LOOPS), 'file_locked',
    json_object('loop_id', (SELECT id FROM name WHERE name.i = n.i % LOOPS), 'file_path', 'src/file-' || (i % 97) || '.rs', 'ttl_seconds', 900,
      'test_id', (SELECT loop || '-' || printf('%02d', 1 + n.i / LOOPS % TESTS) || '-parser' FROM t WHERE l = n.i % LOOPS LIMIT 1)), 'story-' || (i / 40) FROM n;
INSERT INTO proofs (id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, exit_code, duration_ms, output_sha256, output_tail, created_at)
  SELECT 'proof-' || id, id, 1, coalesce(commit_hash, 'c'), printf('%040x', rowid), 'tests', 'pass', 0, 4211, printf('%064x', rowid), 'ran 214 tests in 4.1s' || char(10) || 'OK', passed_at
  FROM tests WHERE status = 'passed';
INSERT INTO regressions (id, test_id, check_name, last_good_commit, bad_commit, first_bad_commit, blamed_loop, blamed_test, status, output_tail, detected_at, resolved_at)
  SELECT 'regression-' || id, id, 'tests', commit_hash, 'c4f1e8a0b3d5' || printf('%028x', 77), 'c4f1e8a0b3d5' || printf('%028x', 77), 'database', 'database-02-login-form',
    CASE loop_id WHEN 'backend' THEN 'cleared' WHEN 'frontend' THEN 'regressed' ELSE 'flaky' END, 'AssertionError: 2 != 3', strftime('%Y-%m-%d %H:%M:%f', 'now', '-9 minutes'),
    CASE loop_id WHEN 'frontend' THEN NULL ELSE strftime('%Y-%m-%d %H:%M:%f', 'now', '-4 minutes') END
  FROM tests WHERE loop_id IN ('backend', 'frontend', 'search') AND id LIKE '%-01-parser';
INSERT INTO events (id, timestamp, source, event_type, payload) VALUES ('cleared-1', strftime('%Y-%m-%d %H:%M:%f', 'now', '-4 minutes'), 'regression-checker', 'regression_cleared',
  json_object('test_id', 'backend-01-parser', 'commit', '91d07be52f6a' || printf('%028x', 78)));
-- Who mended it: what broke it has landed again.
INSERT INTO events (id, timestamp, source, event_type, payload) VALUES ('mended-1', strftime('%Y-%m-%d %H:%M:%f', 'now', '-5 minutes'), 'database', 'test_passed',
  json_object('test_id', 'database-02-login-form', 'loop_id', 'database', 'attempt', 2, 'duration_seconds', 90, 'files_modified', json('[]'), 'verified', json('true'),
    'verification_checks', json('{"tests": true}'), 'commit', '5e1d2c3b4a59' || printf('%028x', 79)));
INSERT INTO landings (id, test_id, loop_id, attempt, state, base_tree, tree, head, commit_hash, proof, queued_at)
  SELECT 'landing-' || id, id, loop, 1, CASE WHEN l < 3 THEN 'judging' ELSE 'queued' END, 'b', 't', 'h', 'c', 'p', strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (20 + l * 9) || ' seconds')
  FROM t WHERE k = TESTS / 2 + 1;
INSERT INTO batches (id, base_commit, commit_hash, tree_hash, tests, outcome, check_name, why, output_tail, duration_ms, judged_by, judged_at, landed_at)
  SELECT 'batch-' || i, 'b', printf('%08x%032x', (900 + i) * 2654435761 % 4294967296, i), 't', json_array('backend-0' || (1 + i) || '-parser', 'frontend-0' || (1 + i) || '-totals', 'database-02-login-form'),
    CASE i WHEN 2 THEN 'failed' ELSE 'passed' END, CASE i WHEN 2 THEN 'tests' END, CASE i WHEN 2 THEN 'exit status 1: test_totals fails' ELSE '' END,
    CASE i WHEN 2 THEN 'FAIL: test_totals' || char(10) || 'AssertionError: 2 != 3' ELSE '' END, 64000, 'backend', strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (i * 3 + 1) || ' minutes'),
    CASE i WHEN 2 THEN NULL ELSE strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (i * 3 + 1) || ' minutes') END
  FROM n WHERE i < 6;
INSERT INTO wait_graph (waiter, holder, resource, waiting_since) SELECT a.id, b.id, 'src/' || b.id || '/journal.rs', strftime('%Y-%m-%d %H:%M:%f', 'now', '-95 seconds')
  FROM name AS a JOIN name AS b WHERE (a.i, b.i) IN ((0, 2), (2, 0), (1, 0), (3, 1), (5, 3));
INSERT INTO deadlocks (id, victim, cycle, locks, reason, revoke_at, event_id) VALUES ('deadlock-1', 'database', '["backend","database"]', '["src/database/journal.rs"]',
  'it has the lower priority', strftime('%Y-%m-%d %H:%M:%f', 'now', '+30 seconds'), 'lease-1');
INSERT INTO file_locks (file_path, locked_by, fencing_token) SELECT 'src/' || id || '/journal.rs', id, 1 + i FROM name;
INSERT INTO pauses (loop_id, requested_by, reason, since) VALUES ('billing', 'human', 'wait for the new prices', strftime('%Y-%m-%d %H:%M:%f', 'now', '-16 minutes'));
INSERT INTO holds (subject, kind, reason, loop_id, until) VALUES ('agent:claude', 'limit', 'the usage limit of five hours is reached', 'search', strftime('%Y-%m-%d %H:%M:%f', 'now', '+83 minutes'));
INSERT INTO usage (id, loop_id, test_id, tokens_estimated, duration_seconds, recorded_at, agent, model, input_tokens, output_tokens, cache_read_tokens, cost_microusd)
  SELECT 'usage-' || id, loop, id, 40000 + (l * 7919 + k * 104729) % 90000, 60 + k * 7, at, CASE l % 3 WHEN 0 THEN 'codex' ELSE 'claude' END, CASE l % 3 WHEN 0 THEN 'gpt-5' ELSE 'claude-opus' END,
    12000, 4000, 24000, CASE l % 3 WHEN 0 THEN 0 ELSE 310000 + k * 1000 END FROM a WHERE k < TESTS / 2;
INSERT INTO usage (id, loop_id, test_id, tokens_estimated, duration_seconds, recorded_at, agent, model)
  SELECT 'old-' || i, (SELECT id FROM name WHERE name.i = n.i % LOOPS), NULL, 20000 + (i * 7919) % 50000, 60, strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (i * 9) || ' minutes'), 'claude', 'claude-opus'
  FROM n WHERE i < 120;
INSERT INTO alerts (id, severity, alert_type, source, message) VALUES
  ('alert-1', 'warning', 'stuck', 'monitor', 'search has made no progress for 14 minutes: the same command failed five times'),
  ('alert-2', 'error', 'resource', 'monitor', '<img src=x onerror="document.title=''broken''"> the disk is almost full');
INSERT INTO decisions (id, decision_type, summary, options, default_option, context, timeout_minutes, requested_by) VALUES
  ('question-1', 'base_red', 'The check tests fails at the head of integration, without any change by an agent. What now?',
   '[{"id": "mend", "description": "A loop makes it pass first; the others wait"}, {"id": "ignore", "description": "Work that fails in the same way lands all the same"}, {"id": "retry", "description": "Run the check again, as it may have been the machine"}]',
   NULL, json_object('checks', json('["tests"]'), 'output', json_array(json_object('check', 'tests', 'why', 'exit status 1',
     'tail', 'test_login ... ok' || char(10) || 'test_totals ... FAIL' || char(10) || 'AssertionError: 2 != 3' || char(10) || 'ran 214 tests in 4.1s'))), NULL, 'backend'),
  ('question-2', 'no_change', 'The agent says that search-04-search-index is done, and has changed nothing. Is that right?',
   '[{"id": "accept", "description": "It has passed already"}, {"id": "retry", "description": "Try again with a stricter prompt"}]', 'retry',
   '{"test_id": "search-04-search-index", "loop_id": "search", "last_words": "The index is there already; all checks pass without a change."}', 25, 'search'),
  ('question-3', 'approval', 'mobile-03-migration changes files that are protected. Let it land?',
   '[{"id": "approve", "description": "It lands as it is"}, {"id": "retry", "description": "The agent tries again without these files"}]', 'retry',
   '{"test_id": "backend-03-migration", "files": [".github/workflows/ci.yml", "Cargo.lock"], "tree": "4b825dc642cb6eb9a060e54bf8d69288fbee4904"}', 45, 'backend'),
  ('question-4', 'custom', '<script>document.title = "broken"</script>' || char(8238) || 'evil', '["yes", "<b>no</b>"]', NULL, '{"note": "</pre><script>1</script>"}', NULL, 'x<y');
INSERT INTO decisions (id, decision_type, summary, options, context, status, decided_at, decided_by, choice, comment)
  SELECT 'settled-' || i, 'stuck', 'reports is stuck on reports-0' || (i + 1) || '-parser. Continue?', '["continue", "pause"]', '{}', 'decided',
    strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (i * 40 + 3) || ' minutes'), CASE i % 2 WHEN 0 THEN 'human' ELSE 'auto' END, 'continue', CASE i WHEN 0 THEN 'it was the network' END FROM n WHERE i < 5;
-- Hostile: markup, controls, marks of direction, and a payload of a megabyte.
INSERT INTO events (id, source, event_type, payload, priority) VALUES
  ('hostile-1', 'backend', 'custom.hostile', json_object('text', '<script>document.title = "broken"</script><img src=x onerror=alert(1)>' || char(27) || '[2J' || char(8238) || 'abc'), 1),
  ('hostile-2', '<b>source</b>', 'custom."type"', json_object('text', replace(hex(zeroblob(340000)), '00', '<b>')), 2);
INSERT INTO tests (id, loop_id, notes, spec_content, last_error) VALUES ('hostile-test', 'backend', '<script>1</script>', replace(hex(zeroblob(42000)), '00', '</pre><script>1</script>'), '<img src=x onerror=alert(1)>');
COMMIT;
"#;
