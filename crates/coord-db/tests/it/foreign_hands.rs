//! The `sqlite3` shell beside us: the documented queries verbatim, and every kind of bad row that is refused.

use coord_db::{Database, OpenOptions};
use test_support::{Postgres, World, printed, sql, try_sql};

#[track_caller]
fn refused(world: &World, text: &str, because: &str) {
    // What SQLite calls it, and what PostgreSQL does.
    let others = [
        ("CHECK constraint failed", "violates check constraint"),
        ("cannot store TEXT value in INTEGER column", "invalid input syntax for type bigint"),
        ("NOT NULL constraint failed", "violates not-null constraint"),
    ];
    let other = others.iter().find(|(own, _)| *own == because).map_or(because, |(_, other)| other);
    let (text, because) = match Postgres::under_test() {
        Some(_) => (&text.replace("INSERT OR REPLACE", "INSERT")[..], other),
        None => (text, because),
    };
    let error = try_sql(&world.path, text).expect_err(text);
    assert!(error.contains(because), "{text}: {error}");
}

/// A query as it is documented, with its placeholder bound to a text.
fn bound(query: &str, value: &str) -> String {
    query.replacen('?', &format!("'{value}'"), 1)
}

#[test]
fn the_query_for_pending_tests_runs_verbatim() {
    let world = World::new();
    world.sql(
        "INSERT INTO loops(id, name, priority, status) VALUES ('loop-1', 'one', 1, 'running');
         INSERT INTO tests(id, loop_id) VALUES ('b', 'loop-1'), ('a', 'loop-1');
         INSERT INTO tests(id, loop_id, depends_on) VALUES ('c', 'loop-1', 'a'), ('e', 'loop-1', 'd');
         INSERT INTO tests(id, loop_id, status, verified_at) VALUES ('d', 'loop-1', 'passed', datetime('now'));",
    );
    let query = "SELECT * FROM tests
WHERE loop_id = ?
  AND status = 'pending'
  AND (depends_on IS NULL OR depends_on IN (
    SELECT id FROM tests WHERE status = 'passed'
  ))
ORDER BY id;";
    let ids = |rows: String| rows.lines().map(|row| row.split('|').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(world.sql(&bound(query, "loop-1"))), ["a", "b", "e"]);
    assert_eq!(ids(world.sql("SELECT * FROM pending_tests WHERE loop_id = 'loop-1'")), ["a", "b", "e"]);
}

#[test]
fn the_query_for_unacknowledged_events_gives_at_least_what_the_view_gives() {
    let world = World::new();
    world.sql(
        r#"INSERT INTO loops(id, name) VALUES ('loop-1', ''), ('loop-10', '');
           INSERT INTO subscriptions(id, subscriber, event_types, filter_sources) VALUES ('x', 'x', '["test_passed"]', '["loop-1"]');
           INSERT INTO subscriptions(id, subscriber, event_types, filter_sources) VALUES ('y', 'y', '["test_passed"]', '["loop-10"]');
           INSERT INTO events(id, source, event_type, payload) VALUES
             ('e1', 'loop-1', 'test_passed', '{}'), ('e2', 'loop-10', 'test_passed', '{}'), ('e3', 'loop-1', 'test_failed', '{}');"#,
    );
    let query = "SELECT e.* FROM events e
JOIN subscriptions s ON s.subscriber = ?
WHERE e.acknowledged = 0
  AND json_extract(s.event_types, '$') LIKE '%' || e.event_type || '%'
  AND (s.filter_sources IS NULL OR json_extract(s.filter_sources, '$') LIKE '%' || e.source || '%')
ORDER BY e.timestamp;";
    let ids = |rows: String| rows.lines().map(|row| row.split('|').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(world.sql(&bound(query, "x"))), ["e1"]);
    // Its LIKE finds loop-1 in loop-10; the view is exact.
    assert_eq!(ids(world.sql(&bound(query, "y"))), ["e1", "e2"]);
    assert_eq!(world.sql("SELECT subscriber, id FROM undelivered_events WHERE subscriber IN ('x', 'y')"), "x|e1\ny|e2");
}

#[test]
fn the_query_for_a_lock_and_the_view_agree() {
    let world = World::new();
    world.sql(
        "INSERT INTO file_locks(file_path, locked_by, expires_at) VALUES
           ('live', 'loop-1', datetime('now', '+1 minute')), ('over', 'loop-1', datetime('now', '-1 minute')), ('endless', 'loop-1', NULL);",
    );
    let query = "SELECT * FROM file_locks
WHERE file_path = ?
  AND (expires_at IS NULL OR expires_at > datetime('now'));";
    for (path, rows) in [("live", 1), ("over", 0), ("endless", 1)] {
        assert_eq!(world.sql(&bound(query, path)).lines().count(), rows, "{path}");
    }
    assert_eq!(world.sql("SELECT file_path FROM active_locks ORDER BY 1"), "endless\nlive");
}

#[test]
fn the_query_for_progress_runs_verbatim() {
    let world = World::new();
    world.sql(
        "INSERT INTO loops(id, name) VALUES ('l', '');
         INSERT INTO tests(id, loop_id, status, verified_at) VALUES ('a', 'l', 'passed', datetime('now')), ('b', 'l', 'blocked', NULL),
           ('c', 'l', 'pending', NULL);",
    );
    let query = "SELECT
  loop_id,
  COUNT(*) as total,
  SUM(CASE WHEN status = 'passed' THEN 1 ELSE 0 END) as passed,
  SUM(CASE WHEN status = 'blocked' THEN 1 ELSE 0 END) as blocked
FROM tests
GROUP BY loop_id;";
    assert_eq!(world.sql(query), "l|3|1|1");
    assert_eq!(world.sql("SELECT loop_id, total, passed, blocked FROM loop_progress"), "l|3|1|1");
}

#[test]
fn bad_rows_are_refused() {
    let world = World::new();
    world.sql(
        "INSERT INTO loops(id, name, priority, status) VALUES ('l', 'l', 1, 'running');
         INSERT INTO tests(id, loop_id) VALUES ('t', 'l');
         INSERT INTO events(id, source, event_type) VALUES ('e', 'l', 'custom.x');",
    );
    let check = "CHECK constraint failed";
    for (sql, because) in [
        ("INSERT INTO loops(id, name) VALUES ('human', '')", check),
        ("INSERT INTO loops(id, name) VALUES ('a/b', '')", check),
        ("INSERT INTO loops(id, name, status) VALUES ('a', '', 'asleep')", check),
        ("INSERT INTO loops(id, name, priority) VALUES ('a', '', 'high')", "cannot store TEXT value in INTEGER column"),
        ("INSERT INTO loops(id, name, priority) VALUES ('a', '', 0)", check),
        ("UPDATE tests SET status = 'passed' WHERE id = 't'", check),
        ("UPDATE tests SET status = 'done' WHERE id = 't'", check),
        ("UPDATE tests SET last_result = 'maybe' WHERE id = 't'", check),
        ("INSERT INTO tests(id, loop_id, depends_on) VALUES ('s', 'l', 's')", check),
        ("INSERT INTO events(id, source, event_type, payload) VALUES ('f', 'l', 'x', 'no json')", check),
        (
            "INSERT INTO events(id, source, event_type, timestamp) VALUES ('f', 'l', 'x', '2026-11-22T00:00:00Z')",
            "events_timestamp_is_utc",
        ),
        (
            "INSERT INTO events(id, source, event_type, timestamp) VALUES ('f', 'l', 'x', '2026-02-31 00:00:00')",
            "events_timestamp_is_utc",
        ),
        ("INSERT INTO events(id, source, event_type) VALUES ('e', 'l', 'x')", "append-only"),
        ("INSERT OR REPLACE INTO events(id, source, event_type) VALUES ('e', 'l', 'x')", "append-only"),
        ("UPDATE events SET payload = '[]' WHERE id = 'e'", "append-only"),
        ("UPDATE events SET id = 'f' WHERE id = 'e'", "append-only"),
        ("DELETE FROM events WHERE id = 'e'", "append-only"),
        ("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('l', 'l', 'x')", check),
        ("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('l', NULL, 'x')", "NOT NULL constraint failed"),
        ("INSERT INTO file_locks(file_path, locked_by) VALUES ('/etc/passwd', 'l')", check),
        ("INSERT INTO file_locks(file_path, locked_by) VALUES ('a/../b', 'l')", check),
        ("INSERT INTO file_locks(file_path, locked_by) VALUES ('', 'l')", check),
        ("INSERT INTO subscriptions(id, subscriber, event_types) VALUES ('s', 's', '{}')", check),
        ("INSERT INTO knowledge(id, loop_id, item_type, content) VALUES ('k', 'l', 'rumour', '')", check),
        ("INSERT INTO knowledge(id, loop_id, item_type, content, confidence) VALUES ('k', 'l', 'fact', '', 2.0)", check),
        ("INSERT INTO decisions(id, decision_type, summary, options, status) VALUES ('d', 'x', '', '[]', 'decided')", check),
        ("INSERT INTO decisions(id, decision_type, summary, options) VALUES ('d', 'x', '', 'a or b')", check),
        ("INSERT INTO component_health(component, status) VALUES ('c', 'fine')", check),
        ("INSERT INTO alerts(id, severity, alert_type, message) VALUES ('a', 'info', 'deadlock', '')", check),
        ("INSERT INTO transaction_log(id, operation, status) VALUES ('t', 'x', 'committed')", check),
        (
            "INSERT INTO change_requests(id, resource_path, requestor_loop, owner_loop, status) VALUES ('c', 'p', 'l', 'l', 'approved')",
            check,
        ),
        ("INSERT INTO checkpoints(id, loop_id, git_ref, checkpoint_type) VALUES ('c', 'l', 'r', 'photo')", check),
        ("INSERT INTO migrations(number, name, status) VALUES (1, 'm', 'applied')", check),
    ] {
        refused(&world, sql, because);
    }
    assert_eq!(world.db.check().unwrap(), []);
}

#[test]
fn the_one_flag_acknowledges_the_named_consumer_only() {
    let world = World::new();
    world.sql(
        r#"INSERT INTO subscriptions(id, subscriber, event_types)
           VALUES ('one', 'one', '["test_passed"]'), ('two', 'two', '["test_passed"]')"#,
    );
    world.sql(r#"INSERT INTO events(id, source, event_type, payload) VALUES ('e', 'loop-1', 'test_passed', '{}')"#);
    let flag = || world.sql("SELECT acknowledged, coalesce(acknowledged_by, '') FROM events WHERE id = 'e'");
    let open = || {
        let query =
            "SELECT coalesce(string_agg(subscriber, ',' ORDER BY subscriber), '') FROM undelivered_events WHERE id = 'e'";
        printed(&world.db, query)
    };
    assert_eq!(open(), "one,pm,two");
    world.sql("UPDATE events SET acknowledged = 1, acknowledged_by = 'pm' WHERE id = 'e'");
    assert_eq!((flag(), open()), ("0|".to_owned(), "one,two".to_owned()));
    world.sql("UPDATE events SET acknowledged = 1, acknowledged_by = 'stranger' WHERE id = 'e'");
    assert_eq!(flag(), "0|");
    world.sql("UPDATE events SET acknowledged = 1, acknowledged_by = 'one' WHERE id = 'e'");
    world.db.write(|tx| tx.acknowledge_event("two", "e")).unwrap();
    assert_eq!(flag(), "1|two");
    assert_eq!(open(), "");
}

#[test]
fn deleting_a_lease_deletes_the_edges_that_wait_for_it_and_no_others() {
    let world = World::new();
    world.sql(
        "INSERT INTO file_locks(file_path, locked_by) VALUES ('src/a', 'h'), ('src/b', 'h'), ('doc', 'h');
         INSERT INTO wait_graph(waiter, holder, resource) VALUES ('w', 'h', 'src/'), ('v', 'h', 'src/a'), ('u', 'h', 'doc'), ('x', 'g', 'src/a');
         DELETE FROM file_locks WHERE file_path = 'src/a';",
    );
    assert_eq!(world.sql("SELECT waiter FROM wait_graph ORDER BY 1"), "u\nw\nx");
    world.sql("DELETE FROM file_locks WHERE file_path = 'src/b';");
    assert_eq!(world.sql("SELECT waiter FROM wait_graph ORDER BY 1"), "u\nx");
}

#[test]
fn a_foreign_lease_gets_a_token_that_grows() {
    let world = World::new();
    world.sql("INSERT INTO file_locks(file_path, locked_by) VALUES ('a', 'l'); INSERT INTO file_locks(file_path, locked_by) VALUES ('b', 'l');");
    assert_eq!(world.sql("SELECT fencing_token FROM file_locks ORDER BY file_path"), "1\n2");
}

#[test]
fn a_dump_fed_to_the_shell_is_a_database_that_we_open() {
    // On a server, pg_dump makes dumps.
    if Postgres::under_test().is_some() {
        return;
    }
    let world = World::new();
    world.sql(
        "INSERT INTO loops(id, name) VALUES ('l', 'it''s' || char(10) || 'here');
         INSERT INTO events(id, source, event_type, payload) VALUES ('e', 'l', 'custom.x', '{\"a\": 1}');
         INSERT INTO knowledge(id, loop_id, item_type, content, confidence) VALUES ('k', 'l', 'fact', 'x', 0.1);",
    );
    let mut text = Vec::new();
    world.db.dump(&mut text).unwrap();
    let copy = world.path.with_file_name("copy.db");
    sql(&copy, std::str::from_utf8(&text).unwrap());
    let opened = Database::open(&copy, &OpenOptions::default()).unwrap();
    assert_eq!(opened.check().unwrap(), []);
    // Without the event that says why the numbers of a copy jump.
    let all =
        "SELECT * FROM loops; SELECT rowid, * FROM events WHERE id = 'e'; SELECT * FROM knowledge; SELECT * FROM subscriptions;
               SELECT * FROM deliveries WHERE event_id = 'e';
               SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name";
    assert_eq!(sql(&copy, all), sql(&world.path, all));
}
