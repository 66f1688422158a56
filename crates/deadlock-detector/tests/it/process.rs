//! The real program on databases that only the `sqlite3` shell has filled.

use std::process::Command;

use test_support::World;

const DETECTOR: &str = env!("CARGO_BIN_EXE_deadlock-detector");

/// Two loops that hold what the other one waits for.
const CIRCLE: &str = "
    INSERT INTO loops(id, name, priority, status) VALUES ('a', '', 1, 'running'), ('b', '', 2, 'running'), ('c', '', 3, 'running');
    INSERT INTO file_locks(file_path, locked_by) VALUES ('src/a.rs', 'a'), ('src/b.rs', 'b'), ('src/c.rs', 'c');
    INSERT INTO wait_graph(waiter, holder, resource) VALUES ('a', 'b', 'src/b.rs'), ('b', 'a', 'src/a.rs'), ('c', 'a', 'src/a.rs');";

const OPEN: &str = "SELECT victim FROM deadlocks WHERE resolved_at IS NULL ORDER BY 1";
const OPEN_ALERTS: &str = "SELECT json_extract(context, '$.kind'), severity, alert_type FROM alerts WHERE closed_at IS NULL";

#[test]
fn a_cycle_written_by_the_shell_has_one_victim_however_often_it_runs() {
    let world = World::filled(CIRCLE);
    for _ in 0..3 {
        world.once(DETECTOR);
    }
    let told = world.events("force_release");
    assert_eq!(told.len(), 1);
    let payload = &told[0].payload;
    assert_eq!(payload["loop_id"], "b");
    assert_eq!(payload["locks_held"], serde_json::json!(["src/b.rs"]));
    assert_eq!(payload["cycle"], serde_json::json!(["b", "a"]));
    assert_eq!(payload["must_rollback"], true);
    assert!(payload["reason"].as_str().unwrap().contains("it has the lowest priority (2)"), "{payload}");
    assert_eq!((told[0].source.as_str(), told[0].priority), ("deadlock-detector", 1));
    assert_eq!(world.sql(OPEN), "b");
    assert_eq!(world.sql(OPEN_ALERTS), "deadlock|warning|conflict");
    // Every loop hears it; it names the one that is meant.
    assert_eq!(
        world.sql("SELECT subscriber FROM undelivered_events WHERE event_type = 'force_release' ORDER BY 1"),
        "a\nb\nc\nhuman"
    );
    assert_eq!(world.sql("SELECT count(*) FROM file_locks"), "3");
}

#[test]
fn edges_that_are_no_cycle_or_not_alive_have_no_victim() {
    let world = World::filled(CIRCLE);
    world.sql("DELETE FROM wait_graph WHERE waiter = 'b'");
    world.once(DETECTOR);
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('b', 'a', 'src/c.rs')");
    world.once(DETECTOR);
    world.sql("INSERT INTO wait_graph(waiter, holder, resource, wait_until) VALUES ('b', 'a', 'src/a.rs', datetime('now', '-1 second'))");
    world.once(DETECTOR);
    world.sql(
        "UPDATE wait_graph SET wait_until = NULL;
         UPDATE file_locks SET expires_at = datetime('now', '-1 second') WHERE locked_by = 'a'",
    );
    world.once(DETECTOR);
    assert_eq!(world.events("force_release"), []);
    world.sql("UPDATE file_locks SET expires_at = NULL");
    world.once(DETECTOR);
    assert_eq!(world.events("force_release").len(), 1);
}

#[test]
fn a_victim_that_releases_ends_the_deadlock() {
    let world = World::filled(CIRCLE);
    let daemon = world.daemon(DETECTOR);
    world.until(OPEN, "b");
    world.sql("DELETE FROM file_locks WHERE locked_by = 'b'");
    world.until("SELECT victim, outcome FROM deadlocks", "b|released");
    assert_eq!(world.sql(OPEN_ALERTS), "");
    assert_eq!(world.events("force_release").len(), 1);
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(world.sql("SELECT status FROM component_health WHERE component = 'deadlock-detector'"), "unknown");
}

#[test]
fn a_daemon_sees_a_cycle_that_the_shell_closes_and_is_killed_without_telling_twice() {
    let world = World::filled(CIRCLE);
    world.sql("DELETE FROM wait_graph WHERE waiter = 'b'");
    let daemon = world.daemon(DETECTOR);
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('b', 'a', 'src/a.rs')");
    world.until(OPEN, "b");
    daemon.kill();
    let daemon = world.daemon(DETECTOR);
    // Another cycle shows that it has looked.
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('x', 'y', 'z'), ('y', 'x', 'z')");
    world.until(OPEN, "b\nx");
    assert_eq!(world.events("force_release").len(), 2);
    daemon.kill();
}

#[test]
fn a_victim_that_does_not_answer_loses_its_leases_with_an_alert() {
    let world = World::filled(CIRCLE);
    std::fs::write(world.path.with_file_name("config.toml"), "[deadlock]\ngrace_seconds = 1\n").unwrap();
    let daemon = world.daemon(DETECTOR);
    world.until("SELECT victim, outcome FROM deadlocks", "b|revoked");
    assert_eq!(world.sql("SELECT file_path FROM file_locks ORDER BY 1"), "src/a.rs\nsrc/c.rs");
    // It still waits for what it asked for.
    assert_eq!(world.sql("SELECT waiter FROM wait_graph ORDER BY 1"), "b\nc");
    assert_eq!(world.sql(OPEN_ALERTS), "deadlock_revoked|warning|conflict");
    let (told, unlocked) = (world.events("force_release").remove(0), world.events("file_unlocked").remove(0));
    assert_eq!((unlocked.payload["cause"].as_str(), unlocked.caused_by), (Some("revoked"), Some(told.id)));
    assert_eq!(daemon.terminate().code(), Some(0));
    world.once(DETECTOR);
    assert_eq!(world.events("force_release").len(), 1);
}

#[test]
fn a_cycle_of_places_in_a_queue_ends_as_well() {
    let world = World::filled("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('a', 'b', 'x'), ('b', 'a', 'y')");
    world.once(DETECTOR);
    assert_eq!(world.sql(OPEN), "a");
    world.sql("UPDATE deadlocks SET revoke_at = datetime('now', '-1 second')");
    world.once(DETECTOR);
    assert_eq!(world.sql("SELECT victim, outcome FROM deadlocks"), "a|revoked");
    assert_eq!(world.sql("SELECT waiter FROM wait_graph"), "b");
}

#[test]
fn a_freed_lease_can_bring_a_queue_to_a_standstill() {
    // Both wait for all of their paths: a comes before b on x, and b holds y.
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('a', '', 1, 'running'), ('b', '', 2, 'running');
         INSERT INTO file_locks(file_path, locked_by) VALUES ('x', 'other'), ('y', 'b');
         INSERT INTO wait_graph(waiter, holder, resource) VALUES ('a', 'other', 'x'), ('a', 'b', 'y'), ('b', 'other', 'x'), ('b', 'a', 'x');",
    );
    let daemon = world.daemon(DETECTOR);
    world.sql("DELETE FROM file_locks WHERE locked_by = 'other'");
    world.until(OPEN, "b");
    drop(daemon);
}

#[test]
fn only_loops_are_named_and_a_cycle_without_one_raises_an_alert() {
    let world = World::filled(
        "INSERT INTO wait_graph(waiter, holder, resource) VALUES ('human', 'not an id!', 'x'), ('not an id!', 'human', 'y')",
    );
    world.once(DETECTOR);
    world.once(DETECTOR);
    assert_eq!(world.sql(OPEN), "");
    assert_eq!(world.sql(OPEN_ALERTS), "deadlock_unbreakable|warning|conflict");
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('human', 'a', 'x'), ('a', 'human', 'y'); DELETE FROM wait_graph WHERE holder = 'not an id!'");
    world.once(DETECTOR);
    assert_eq!(world.sql(OPEN), "a");
    assert_eq!(world.sql(OPEN_ALERTS), "deadlock|warning|conflict");
}

#[test]
fn after_a_suspend_a_victim_gets_its_time_and_is_asked_once() {
    let world = World::filled(CIRCLE);
    world.once(DETECTOR);
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    world.sql(
        "UPDATE clock SET suspended_ms = suspended_ms - 600000, wall_ms = wall_ms - 600000, boot_ms = boot_ms - 600000;
         UPDATE deadlocks SET revoke_at = datetime('now', '-1 second');
         UPDATE file_locks SET expires_at = datetime('now', '-1 second');",
    );
    world.once(DETECTOR);
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    world.once(DETECTOR);
    assert_eq!(world.sql(OPEN), "b");
    assert_eq!(world.events("force_release").len(), 1);
    assert_eq!(world.sql("SELECT count(*) FROM file_locks"), "3");
}

#[test]
fn ten_thousand_standing_edges_do_not_hide_a_cycle() {
    let world = World::filled(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
         INSERT INTO wait_graph(waiter, holder, resource) SELECT 'w' || i, 'w' || (i + 1), 'r' || i FROM n;",
    );
    let daemon = world.daemon(DETECTOR);
    world.sql(CIRCLE);
    world.until(OPEN, "b");
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('w10000', 'w0', 'last')");
    world.until("SELECT count(*) FROM deadlocks WHERE resolved_at IS NULL", "2");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_second_copy_is_refused() {
    let world = World::new();
    let daemon = world.daemon(DETECTOR);
    let second = Command::new(DETECTOR).arg("--db").arg(&world.path).arg("--once").output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains(&daemon.pid().to_string()));
}
