//! The real program on databases in which loops wait for more than leases. Only the `sqlite3` shell has filled them.

use serde_json::json;
use test_support::World;

const DETECTOR: &str = env!("CARGO_BIN_EXE_deadlock-detector");

const LOOPS: &str = "INSERT INTO loops(id, name, priority, status) VALUES ('a', '', 1, 'running'), ('b', '', 2, 'running'), ('c', '', 3, 'running');";

/// a keeps a lease and can begin nothing but a2, which needs b1; b works on b1. What closes the cycle is missing.
const NEARLY: &str = "
    INSERT INTO file_locks(file_path, locked_by) VALUES ('src/a.rs', 'a');
    INSERT INTO tests(id, loop_id, status) VALUES ('b1', 'b', 'in_progress');
    INSERT INTO tests(id, loop_id, depends_on) VALUES ('a2', 'a', 'b1');";

const TOLD: &str = "SELECT victim FROM deadlocks WHERE resolved_at IS NULL ORDER BY 1";
const ASKED: &str = "SELECT decision_type, fingerprint, default_option, status FROM decisions";
const OPEN_ALERTS: &str = "SELECT json_extract(context, '$.kind') FROM alerts WHERE closed_at IS NULL";

#[test]
fn a_lease_and_a_dependency_close_a_cycle_whichever_comes_last() {
    // The edge comes last, and the daemon sees it at once.
    let world = World::filled(&format!("{LOOPS}{NEARLY}"));
    let daemon = world.daemon(DETECTOR);
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('b', 'a', 'src/a.rs')");
    world.until(TOLD, "a");
    let told = world.events("force_release").remove(0);
    assert_eq!((&told.payload["loop_id"], &told.payload["cycle"]), (&json!("a"), &json!(["a", "b"])));
    assert_eq!(told.payload["locks_held"], json!(["src/a.rs"]));
    // It lets go, and the cycle is over.
    world.sql("DELETE FROM file_locks WHERE locked_by = 'a'");
    world.until("SELECT outcome FROM deadlocks", "released");
    assert_eq!(daemon.terminate().code(), Some(0));

    // The dependency comes last.
    let world = World::filled(&format!("{LOOPS}{NEARLY} UPDATE tests SET depends_on = NULL;"));
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('b', 'a', 'src/a.rs')");
    let daemon = world.daemon(DETECTOR);
    // Another cycle shows that it has looked.
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('x', 'y', 'z'), ('y', 'x', 'z')");
    world.until(TOLD, "x");
    world.sql("UPDATE tests SET depends_on = 'b1' WHERE id = 'a2'");
    world.until(TOLD, "a\nx");
    assert_eq!(world.events("force_release").len(), 2);
    drop(daemon);
}

#[test]
fn a_loop_that_can_begin_something_else_is_left_alone() {
    let world = World::filled(&format!("{LOOPS}{NEARLY}"));
    world.sql(
        "INSERT INTO wait_graph(waiter, holder, resource) VALUES ('b', 'a', 'src/a.rs');
         INSERT INTO tests(id, loop_id) VALUES ('a3', 'a');",
    );
    world.once(DETECTOR);
    assert_eq!(world.sql(TOLD), "");
    // Nothing is ready now, but c1 is being worked on, by a loop that waits for nobody.
    world.sql(
        "INSERT INTO tests(id, loop_id, status) VALUES ('c1', 'c', 'in_progress');
         UPDATE tests SET depends_on = 'c1' WHERE id = 'a3'",
    );
    world.once(DETECTOR);
    assert_eq!(world.sql(TOLD), "");
    world.sql("UPDATE tests SET status = 'skipped' WHERE id = 'a3'");
    world.once(DETECTOR);
    assert_eq!(world.sql(TOLD), "a");
}

#[test]
fn tests_that_depend_on_each_other_become_one_question_however_often_it_runs() {
    let world = World::filled(LOOPS);
    let daemon = world.daemon(DETECTOR);
    // No program lets such tests in; the shell does.
    world.sql("INSERT INTO tests(id, loop_id, depends_on) VALUES ('t1', 'a', 't2'), ('t2', 'b', 't3'), ('t3', 'c', 't1')");
    world.until(ASKED, "dependency_cycle|ring:t1|drop:t1|pending");
    daemon.kill();
    for _ in 0..2 {
        world.once(DETECTOR);
    }
    let asked = world.events("decision_needed");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].source, "deadlock-detector");
    let ids: Vec<&str> = asked[0].payload["options"].as_array().unwrap().iter().map(|o| o["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["drop:t1", "drop:t2", "drop:t3", "skip:t1", "skip:t2", "skip:t3"]);
    assert_eq!(asked[0].payload["timeout_minutes"], 60);
    assert_eq!(world.events("force_release"), []);
    assert_eq!(world.sql("SELECT subscriber FROM undelivered_events WHERE event_type = 'decision_needed'"), "human");
    // Two cycles that do not meet are two questions.
    world.sql("INSERT INTO tests(id, loop_id, depends_on) VALUES ('u1', 'a', 'u2'), ('u2', 'a', 'u1')");
    world.once(DETECTOR);
    assert_eq!(world.events("decision_needed").len(), 2);
}

#[test]
fn a_cycle_of_leave_is_the_humans_to_end_and_told_once() {
    let world = World::filled(&format!(
        "{LOOPS}
         INSERT INTO resources(path, owner_loop) VALUES ('api', 'a'), ('store', 'b');
         INSERT INTO tests(id, loop_id) VALUES ('ta', 'a'), ('tb', 'b');
         INSERT INTO change_requests(id, resource_path, requestor_loop, owner_loop) VALUES ('r1', 'store', 'a', 'b'), ('r2', 'api', 'b', 'a');
         INSERT INTO change_request_tests(test_id, request_id) VALUES ('ta', 'r1'), ('tb', 'r2');"
    ));
    for _ in 0..2 {
        world.once(DETECTOR);
    }
    assert_eq!(world.sql(OPEN_ALERTS), "deadlock_awaits_leave");
    let message = world.sql("SELECT message FROM alerts");
    assert!(
        message.starts_with("deadlock of a and b (")
            && message.contains("test ta of a needs the permission of b to change store"),
        "{message}"
    );
    assert_eq!((world.events("force_release").len(), world.events("decision_needed").len()), (0, 0));
    world.sql("UPDATE change_requests SET status = 'rejected', resolved_at = datetime('now') WHERE id = 'r2'");
    world.once(DETECTOR);
    assert_eq!(world.sql(OPEN_ALERTS), "");
}

#[test]
fn who_waits_for_the_human_closes_no_cycle() {
    // a lands something protected and waits for an answer, and the human waits for a's lease.
    let world = World::filled(&format!(
        "{LOOPS}
         INSERT INTO file_locks(file_path, locked_by) VALUES ('src/a.rs', 'a');
         INSERT INTO tests(id, loop_id, status) VALUES ('ta', 'a', 'in_progress');
         INSERT INTO tests(id, loop_id, status) VALUES ('tb', 'b', 'blocked');
         INSERT INTO tests(id, loop_id, depends_on) VALUES ('ta2', 'a', 'tb');
         INSERT INTO decisions(id, decision_type, summary, options, context, requested_by)
         VALUES ('d', 'protected_change', 'may it?', '[\"approve\",\"reject\"]', '{{\"test_id\":\"ta\",\"loop_id\":\"a\"}}', 'a');
         INSERT INTO wait_graph(waiter, holder, resource) VALUES ('human', 'a', 'src/a.rs'), ('b', 'a', 'src/a.rs');"
    ));
    world.once(DETECTOR);
    assert_eq!((world.sql(TOLD), world.sql(OPEN_ALERTS)), (String::new(), String::new()));
    assert_eq!(world.events("decision_needed"), []);
}

#[test]
fn a_recent_victim_is_spared() {
    let cycle = "INSERT INTO file_locks(file_path, locked_by) VALUES ('x', 'a'), ('y', 'b');
                  INSERT INTO wait_graph(waiter, holder, resource) VALUES ('a', 'b', 'y'), ('b', 'a', 'x');";
    let world = World::filled(&format!("{LOOPS}{cycle}"));
    world.once(DETECTOR);
    assert_eq!(world.sql(TOLD), "b");
    world
        .sql(&format!("DELETE FROM file_locks WHERE locked_by = 'b'; DELETE FROM wait_graph; DELETE FROM file_locks; {cycle}"));
    world.sql("UPDATE deadlocks SET resolved_at = datetime('now'), outcome = 'released'");
    world.once(DETECTOR);
    assert_eq!(world.sql(TOLD), "a");
    // Long ago is long ago.
    world.sql(
        "UPDATE deadlocks SET detected_at = datetime('now', '-11 minutes'), resolved_at = datetime('now'), outcome = 'released'",
    );
    world.once(DETECTOR);
    assert_eq!(world.sql(TOLD), "b");
}

#[test]
fn a_thousand_loops_in_one_entanglement_are_told_in_a_bounded_time() {
    let world = World::filled(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999), k(j) AS (VALUES (1), (7), (31), (101))
         INSERT INTO wait_graph(waiter, holder, resource) SELECT 'w' || i, 'w' || ((i + j) % 1000), 'r' || i FROM n, k;",
    );
    world.once(DETECTOR);
    // Without the victims no cycle is left, and none of them is named twice.
    let left = "WITH RECURSIVE
        live(w, h) AS (SELECT waiter, holder FROM wait_graph
                       WHERE waiter NOT IN (SELECT victim FROM deadlocks) AND holder NOT IN (SELECT victim FROM deadlocks)),
        walk(s, at) AS (SELECT w, h FROM live UNION SELECT s, h FROM walk JOIN live ON w = at)
        SELECT count(*) FROM walk WHERE s = at";
    assert_eq!(world.sql(left), "0");
    assert_eq!(world.sql("SELECT count(*) = count(DISTINCT victim) FROM deadlocks"), "1");
    assert!(world.events("force_release").len() < 1_000);
}
