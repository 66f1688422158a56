//! Each rule of `loopctl check`, broken by the shell and named.

use crate::common::Place;
use test_support::sql;

/// What breaks a rule, past what the database refuses.
const BREAKS: &[(&str, &str)] = &[
    ("every foreign key has its row", "INSERT INTO tests (id, loop_id) VALUES ('orphan', 'nobody')"),
    (
        "a passed test is verified",
        "PRAGMA ignore_check_constraints = 1; UPDATE tests SET status = 'passed', verified_at = NULL WHERE id = 't'",
    ),
    ("a loop's current test is its own and in progress", "UPDATE loops SET current_test_id = 't' WHERE id = 'a'"),
    ("a loop has at most one test in progress", "UPDATE tests SET status = 'in_progress'; UPDATE loops SET status = 'running'"),
    (
        "queued work belongs to a test in progress",
        "INSERT INTO landings (id, test_id, loop_id, attempt, base_tree, tree, head, commit_hash, proof)
         VALUES ('l', 't', 'a', 1, 'b', 'c', 'd', 'e', 'f')",
    ),
    (
        "a passed test's work has landed",
        "INSERT INTO landings (id, test_id, loop_id, attempt, base_tree, tree, head, commit_hash, proof, state, ended_at)
         VALUES ('l', 't', 'a', 1, 'b', 'c', 'd', 'e', 'f', 'withdrawn', datetime('now'));
         UPDATE tests SET status = 'passed', verified_at = datetime('now'), commit_hash = 'e' WHERE id = 't'",
    ),
    ("a test in progress belongs to a loop that is at work", "UPDATE tests SET status = 'in_progress' WHERE id = 't'"),
    ("a lease belongs to a registered loop", "INSERT INTO file_locks (file_path, locked_by) VALUES ('x', 'nobody')"),
    ("no two loops hold overlapping leases", "INSERT INTO file_locks (file_path, locked_by) VALUES ('d/', 'a'), ('d/x', 'b')"),
    (
        "no fencing token is ahead of the counter",
        "INSERT INTO file_locks (file_path, locked_by, fencing_token) VALUES ('x', 'a', 99)",
    ),
    (
        "a leased path belongs to one loop under a token",
        "INSERT INTO file_locks (file_path, locked_by) VALUES ('x', 'a'), ('y', 'b'); UPDATE file_locks SET fencing_token = 1",
    ),
    ("a wait edge joins registered loops", "INSERT INTO wait_graph (waiter, holder, resource) VALUES ('a', 'nobody', 'x')"),
    (
        "no edge's number is ahead of the counter",
        "INSERT INTO wait_graph (waiter, holder, resource) VALUES ('a', 'b', 'x'); UPDATE wait_graph SET seq = 99",
    ),
    ("both counters stand", "DELETE FROM counters WHERE name = 'wait_edge'"),
    ("a delivery has its event", "INSERT INTO deliveries (subscription_id, event_id, seq, priority) VALUES ('a', 'none', 9, 1)"),
    (
        "an acknowledged event has no open delivery",
        "INSERT INTO events (id, source, event_type, acknowledged, acknowledged_at) VALUES ('e', 'a', 'custom.x', 1, datetime('now'));
         INSERT INTO deliveries (subscription_id, event_id, seq, priority) VALUES ('a', 'e', 9, 1)",
    ),
    (
        "an open delivery has a subscription that stands",
        "INSERT INTO events (id, source, event_type) VALUES ('e', 'a', 'custom.x');
         INSERT INTO deliveries (subscription_id, event_id, seq, priority) VALUES ('nobody', 'e', 9, 1)",
    ),
    (
        "an event's cause comes before it",
        "INSERT INTO events (id, source, event_type, caused_by) VALUES ('e', 'a', 'custom.x', 'f'), ('f', 'a', 'custom.x', NULL)",
    ),
    (
        "an event of an attempt belongs to its story",
        "INSERT INTO events (id, source, event_type, payload) VALUES ('s', 'a', 'test_started', '{\"test_id\": \"t\"}');
         INSERT INTO events (id, source, event_type, payload, correlation_id) VALUES ('p', 'a', 'test_passed', '{\"test_id\": \"t\"}', 'p')",
    ),
    (
        "an event of an attempt belongs to its story",
        "INSERT INTO events (id, source, event_type, payload) VALUES ('s', 'a', 'test_started', '{\"test_id\": \"t\"}');
         INSERT INTO events (id, source, event_type, payload, correlation_id)
           VALUES ('l', 'a', 'file_locked', '{\"test_id\": \"t\", \"loop_id\": \"a\", \"file_path\": \"x\"}', 'l');
         INSERT INTO events (id, source, event_type, payload) VALUES ('f', 'a', 'test_failed', '{\"test_id\": \"t\"}')",
    ),
    (
        "an event of an attempt belongs to its story",
        "INSERT INTO events (id, source, event_type, payload) VALUES ('s', 'a', 'test_started', '{\"test_id\": \"t\"}');
         INSERT INTO events (id, source, event_type, payload, caused_by)
           VALUES ('l', 'a', 'file_locked', '{\"test_id\": \"t\", \"loop_id\": \"a\", \"file_path\": \"x\"}', 's');
         INSERT INTO events (id, source, event_type, payload, correlation_id)
           VALUES ('u', 'a', 'file_unlocked', '{\"loop_id\": \"a\", \"file_path\": \"x\"}', 'u')",
    ),
    ("an archived event is no longer here", "INSERT INTO archived_events SELECT id FROM events LIMIT 1"),
    ("archiving has ended", "INSERT INTO maintenance VALUES ('archive')"),
    ("a test depends on a test that exists", "UPDATE tests SET depends_on = 'none' WHERE id = 't'"),
    (
        "no test depends on itself by way of others",
        "UPDATE tests SET depends_on = 'u' WHERE id = 't'; UPDATE tests SET depends_on = 't' WHERE id = 'u'",
    ),
    ("subscriptions are matched by their present event types", "DELETE FROM subscription_matches WHERE subscription_id = 'a'"),
    (
        "subscriptions are matched by their present event types",
        "INSERT INTO subscription_matches VALUES ('custom.x', '', 'nobody', 9)",
    ),
    (
        "a passed test names its commit's proofs that passed, or were let through",
        "UPDATE tests SET status = 'passed', verified_at = datetime('now'), commit_hash = 'c' WHERE id = 't';
         INSERT INTO proofs (id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, duration_ms, output_sha256)
         VALUES ('p', 't', 1, 'c', 'h', 'tests', 'fail', 1, '')",
    ),
    (
        "a waiting acquire belongs to a registered loop",
        "INSERT INTO lease_requests (id, loop_id, paths, wait_until) VALUES ('r', 'nobody', '[]', datetime('now'))",
    ),
    (
        "a waiting acquire's paths are its own",
        "INSERT INTO lease_requests (id, loop_id, paths, wait_until) VALUES ('r', 'a', '[\"x\"]', datetime('now'))",
    ),
    (
        "knowledge is superseded by an item that is there",
        "INSERT INTO knowledge (id, item_type, content, superseded_by) VALUES ('k', 'fact', 'x', 'none')",
    ),
    (
        "superseded knowledge has no cycle",
        "INSERT INTO knowledge (id, item_type, content, superseded_by) VALUES ('k', 'fact', 'x', 'l'), ('l', 'fact', 'x', 'k')",
    ),
    ("knowledge is found by its present words", "DELETE FROM knowledge_words"),
    ("knowledge is found by its present areas", "INSERT INTO knowledge_areas VALUES ('', 99, '*')"),
    ("every item of knowledge has its number", "DELETE FROM knowledge_numbers"),
    (
        "a decision's answer is one of its options",
        "INSERT INTO decisions (id, decision_type, summary, options, status, decided_at, choice)
         VALUES ('d', 'x', 's', '[{\"id\":\"yes\"}]', 'decided', datetime('now'), 'no')",
    ),
    ("a standing pause is a registered loop's", "INSERT INTO pauses (loop_id, requested_by) VALUES ('nobody', 'human')"),
    (
        "a dead loop holds nothing",
        "INSERT INTO file_locks (file_path, locked_by) VALUES ('x', 'a');
         UPDATE loops SET status = 'error', died_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '+1 minute') WHERE id = 'a'",
    ),
];

#[test]
fn each_rule_is_broken_and_named() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a"]).ok();
    place.run(&["test", "add", "u", "--loop", "a"]).ok();
    place.run(&["publish", "custom.first"]).ok();
    place.sql("INSERT INTO knowledge (id, item_type, topic, content) VALUES ('known', 'fact', 't', 'words')");
    assert_eq!(place.json(&["check"]), serde_json::json!([]));
    let sound = place.outside().join("sound.db");
    place.run(&["backup", sound.to_str().unwrap()]).ok();
    for (at, (rule, breaks)) in BREAKS.iter().enumerate() {
        let broken = place.outside().join(format!("broken{at}.db"));
        std::fs::copy(&sound, &broken).unwrap();
        // As a database in use: the numbers of a copy jump when it is opened first.
        sql(&broken, &format!("PRAGMA journal_mode = wal; {breaks}"));
        let ran = place.run(&["--db", broken.to_str().unwrap(), "--json", "check"]).fails(1);
        let rules: Vec<String> =
            ran.json().as_array().unwrap().iter().map(|row| row["rule"].as_str().unwrap().to_owned()).collect();
        assert!(rules.iter().any(|found| found == rule), "{breaks}: {rules:?}");
    }
    let rules: std::collections::BTreeSet<&str> = BREAKS.iter().map(|(rule, _)| *rule).collect();
    let known: std::collections::BTreeSet<&str> =
        coord_db::Problem::rules().filter(|rule| *rule != "the file is sound").collect();
    assert_eq!(rules, known, "each rule has something here that breaks it");
}

#[test]
fn an_index_that_does_not_fit_its_table_is_named() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a"]).ok();
    sql(
        &place.database(),
        "PRAGMA writable_schema = 1;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX tests_status ON tests (category)' WHERE name = 'tests_status'",
    );
    let ran = place.run(&["--json", "check"]).fails(1);
    assert!(ran.json().as_array().unwrap().iter().any(|row| row["rule"] == "the file is sound"), "{}", ran.stdout);
}
