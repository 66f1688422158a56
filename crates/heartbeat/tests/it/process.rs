//! The real program on databases that only the `sqlite3` shell has filled.

use std::process::Command;

use coord_db::process::ProcessIdentity;
use test_support::{Process, Signal, World};

const HEARTBEAT: &str = env!("CARGO_BIN_EXE_heartbeat");

/// A process that stands for a loop's.
fn sleeper() -> Process {
    Process::start(Command::new("sleep").arg("1000"))
}

/// Rows for a loop that runs as this process, beat just now and holds a lease and a test.
fn rows(id: &str, process: &Process) -> String {
    let identity = ProcessIdentity::of(i64::from(process.pid()));
    format!(
        "INSERT INTO loops(id, name, priority, status, pid, current_test_id) VALUES ('{id}', '', 5, 'running', {pid}, 't-{id}');
         INSERT INTO component_health(component, last_heartbeat, status, pid, pid_start_time, boot_id, pid_namespace)
           VALUES ('{id}', datetime('now'), 'healthy', {pid}, {start}, '{boot}', {namespace});
         INSERT INTO tests(id, loop_id, status, attempts) VALUES ('t-{id}', '{id}', 'in_progress', 2);
         INSERT INTO file_locks(file_path, locked_by) VALUES ('src/{id}.rs', '{id}');",
        pid = process.pid(),
        start = identity.pid_start_time.unwrap(),
        boot = identity.boot_id.unwrap(),
        namespace = identity.pid_namespace.unwrap(),
    )
}

const SILENT: &str = "
    INSERT INTO loops(id, name, priority, status) VALUES ('dead', '', 1, 'running'), ('late', '', 1, 'running'),
      ('fine', '', 1, 'running'), ('by-hand', '', 1, 'running'), ('resting', '', 1, 'stopped');
    INSERT INTO component_health(component, last_heartbeat, status) VALUES
      ('dead', datetime('now', '-301 seconds'), 'healthy'), ('late', datetime('now', '-61 seconds'), 'healthy'),
      ('fine', datetime('now'), 'healthy'), ('resting', datetime('now', '-1 day'), 'unknown'),
      ('monitor', datetime('now', '-1 day'), 'healthy');
    INSERT INTO tests(id, loop_id, status, attempts) VALUES ('t1', 'dead', 'in_progress', 1), ('t2', 'by-hand', 'in_progress', 1);
    INSERT INTO file_locks(file_path, locked_by) VALUES ('a', 'dead'), ('b', 'by-hand'), ('c', 'late');
    INSERT INTO wait_graph(waiter, holder, resource) VALUES ('dead', 'by-hand', 'b'), ('fine', 'dead', 'a');";

#[test]
fn the_silent_are_judged_once_and_the_dead_cleaned_up_after() {
    let world = World::filled(SILENT);
    world.once(HEARTBEAT);
    let health = "SELECT component, status FROM component_health ORDER BY component";
    assert_eq!(world.sql(health), "dead|dead\nfine|healthy\nheartbeat|unknown\nlate|degraded\nmonitor|dead\nresting|unknown");
    assert_eq!(
        world.sql("SELECT id, status, pid IS NULL FROM loops ORDER BY id"),
        "by-hand|running|1\ndead|error|1\nfine|running|1\nlate|running|1\nresting|stopped|1"
    );
    assert_eq!(world.sql("SELECT id, status, attempts FROM tests ORDER BY id"), "t1|pending|0\nt2|in_progress|1");
    assert_eq!(world.sql("SELECT file_path FROM file_locks ORDER BY 1"), "b\nc");
    assert_eq!(world.sql("SELECT count(*) FROM wait_graph"), "0");
    assert_eq!(
        world.sql("SELECT fingerprint, severity, alert_type FROM alerts WHERE closed_at IS NULL ORDER BY 1"),
        "component:dead|error|resource\ncomponent:late|warning|resource\ncomponent:monitor|error|resource"
    );

    let said = world.events("component_degraded");
    let of: Vec<_> = said.iter().map(|event| event.payload["component"].as_str().unwrap()).collect();
    assert_eq!(of, ["dead", "late", "monitor"]);
    let unlocked = world.events("file_unlocked").remove(0);
    assert_eq!((&unlocked.payload["cause"], unlocked.caused_by.as_ref()), (&"owner_died".into(), Some(&said[0].id)));
    let failed = world.events("test_failed").remove(0);
    assert_eq!((failed.source.as_str(), failed.caused_by.as_ref()), ("heartbeat", Some(&said[0].id)));

    world.once(HEARTBEAT);
    assert_eq!(world.events("component_degraded").len(), 3);
}

#[test]
fn who_beats_again_is_back() {
    let world = World::filled(SILENT);
    world.once(HEARTBEAT);
    world.sql("UPDATE component_health SET last_heartbeat = datetime('now') WHERE component IN ('dead', 'monitor')");
    world.once(HEARTBEAT);
    let back = world.events("component_recovered");
    assert_eq!(back.len(), 2);
    assert_eq!(back[0].payload["component"], "dead");
    assert!(back[0].payload["down_for_seconds"].as_i64().unwrap() >= 301);
    assert!(back[0].caused_by.is_some());
    assert_eq!(world.sql("SELECT fingerprint FROM alerts WHERE closed_at IS NULL"), "component:late");
    assert_eq!(world.sql("SELECT status FROM component_health WHERE component IN ('dead', 'monitor')"), "healthy\nhealthy");
}

#[test]
fn a_killed_process_is_cleaned_up_after_at_once_and_the_others_are_left_alone() {
    let (one, two) = (sleeper(), sleeper());
    let world = World::filled(&(rows("one", &one) + &rows("two", &two)));
    let daemon = world.daemon(HEARTBEAT);
    one.signal(Signal::SIGKILL);
    world.until("SELECT file_path FROM file_locks", "src/two.rs");
    assert_eq!(world.sql("SELECT id, status, pid IS NULL, current_test_id FROM loops WHERE id = 'one'"), "one|error|1|");
    assert_eq!(world.sql("SELECT status, attempts FROM tests ORDER BY id"), "pending|1\nin_progress|2");
    assert_eq!(world.events("component_degraded").len(), 1);
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(world.sql("SELECT status FROM component_health WHERE component = 'heartbeat'"), "unknown");
    assert_eq!(world.events("component_stopped").len(), 1);
}

#[test]
fn a_death_that_nobody_saw_is_found_at_the_start_and_said_once_however_often_it_is_killed() {
    let one = sleeper();
    let world = World::filled(&rows("one", &one));
    world.daemon(HEARTBEAT).kill();
    one.signal(Signal::SIGKILL);
    for _ in 0..3 {
        let daemon = world.daemon(HEARTBEAT);
        world.until("SELECT count(*) FROM file_locks", "0");
        daemon.kill();
    }
    assert_eq!(world.events("component_degraded").len(), 1);
    assert_eq!(world.events("file_unlocked").len(), 1);
    assert_eq!(world.sql("SELECT attempts FROM tests"), "1");
}

#[test]
fn a_loop_that_only_names_a_pid_is_dead_when_the_kernel_says_so() {
    let (mut gone, alive) = (sleeper(), sleeper());
    gone.signal(Signal::SIGKILL);
    gone.wait();
    let world = World::filled(&format!(
        "INSERT INTO loops(id, name, priority, status, pid) VALUES ('gone', '', 1, 'running', {}), ('alive', '', 1, 'running', {});
         INSERT INTO file_locks(file_path, locked_by) VALUES ('a', 'gone'), ('b', 'alive');",
        gone.pid(),
        alive.pid(),
    ));
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT id, status FROM loops ORDER BY id"), "alive|running\ngone|error");
    assert_eq!(world.sql("SELECT file_path FROM file_locks"), "b");
    world.once(HEARTBEAT);
    assert_eq!(world.events("component_degraded").len(), 1);
    // Started again by hand.
    world.sql("UPDATE loops SET status = 'running' WHERE id = 'gone'");
    world.once(HEARTBEAT);
    assert_eq!(world.events("component_recovered").len(), 1);
    assert_eq!(world.sql("SELECT status FROM loops WHERE id = 'gone'"), "running");
}

#[test]
fn another_process_under_the_same_pid_and_one_of_another_namespace() {
    let (reused, foreign) = (sleeper(), sleeper());
    let world = World::filled(&(rows("reused", &reused) + &rows("foreign", &foreign)));
    world.sql(
        "UPDATE component_health SET pid_start_time = pid_start_time - 1 WHERE component = 'reused';
         UPDATE component_health SET pid_namespace = 1, pid = 999999 WHERE component = 'foreign';",
    );
    world.once(HEARTBEAT);
    assert_eq!(
        world.sql("SELECT component, status FROM component_health WHERE pid IS NOT NULL ORDER BY 1"),
        "foreign|healthy\nreused|dead"
    );
}

#[test]
fn expired_leases_are_swept_when_their_time_comes() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running');
         INSERT INTO file_locks(file_path, locked_by, expires_at) VALUES ('over', 'one', datetime('now', '-1 seconds')),
           ('soon', 'one', datetime('now', '+2 seconds')), ('later', 'one', datetime('now', '+1 hour')), ('never', 'one', NULL);",
    );
    let daemon = world.daemon(HEARTBEAT);
    world.until("SELECT file_path FROM file_locks ORDER BY 1", "later\nnever");
    let unlocked = world.events("file_unlocked");
    let causes: Vec<_> = unlocked.iter().map(|event| event.payload["cause"].as_str().unwrap()).collect();
    assert_eq!(causes, ["expired", "expired"]);
    assert_eq!(daemon.terminate().code(), Some(0));
}

/// Its pid is no process here, or is one that has nothing to do with it.
#[test]
fn a_process_of_another_host_is_judged_by_its_heartbeats_alone() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status, pid) VALUES ('away', '', 5, 'running', 2147483647), ('late', '', 5, 'running', 1);
         INSERT INTO component_health(component, last_heartbeat, status, pid, pid_start_time, boot_id, pid_namespace, host) VALUES
           ('away', datetime('now'), 'healthy', 2147483647, 5, 'another', 5, 'build-3/1a2b3c4d'),
           ('late', datetime('now', '-301 seconds'), 'healthy', 1, 5, 'another', 5, 'build-3/1a2b3c4d');
         INSERT INTO file_locks(file_path, locked_by) VALUES ('a', 'away'), ('b', 'late');",
    );
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT id, status FROM loops ORDER BY id"), "away|running\nlate|error");
    assert_eq!(world.sql("SELECT file_path FROM file_locks"), "a");
    let said = world.events("component_degraded");
    let cause = said[0].payload["cause"].as_str().unwrap();
    assert!(said.len() == 1 && cause.starts_with("no heartbeat for 30"), "{said:?}");
    // One that beats now, in another boot than this one, is of another machine with the same name.
    let host = coord_db::process::host().unwrap_or_default();
    world.sql(&format!("UPDATE component_health SET host = '{host}' WHERE component = 'away'"));
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT status FROM loops WHERE id = 'away'"), "running");
    // The last beat of an earlier boot of this host is from before this one.
    world.sql("UPDATE component_health SET last_heartbeat = '2020-01-01 00:00:00' WHERE component = 'away'");
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT status FROM loops WHERE id = 'away'"), "error");
    let causes = world.sql("SELECT json_extract(payload, '$.cause') FROM events WHERE event_type = 'component_degraded'");
    assert!(!causes.lines().any(|cause| cause.contains("no heartbeat") && !cause.contains("for 30")), "{causes}");
}

#[test]
fn after_a_suspend_nobody_is_judged_by_beats() {
    let world = World::filled(SILENT);
    world.sql(
        "INSERT INTO file_locks(file_path, locked_by, expires_at) VALUES ('over', 'fine', datetime('now', '-1 seconds'));",
    );
    // What the clocks say now, but for ten minutes of sleep.
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    world.sql("UPDATE clock SET suspended_ms = suspended_ms - 600000, wall_ms = wall_ms - 600000, boot_ms = boot_ms - 600000");
    world.once(HEARTBEAT);
    assert_eq!(world.events("component_degraded"), []);
    assert_eq!(world.sql("SELECT count(*) FROM file_locks WHERE file_path = 'over'"), "1");
    assert_eq!(world.sql("SELECT grace_until > datetime('now', '+25 seconds') FROM clock"), "1");
    world.sql("UPDATE clock SET grace_until = datetime('now')");
    world.once(HEARTBEAT);
    // The ten minutes count against nobody afterwards either: only what was silent long before is reported.
    let said = world.events("component_degraded");
    assert_eq!(said.iter().map(|event| event.payload["component"].as_str().unwrap()).collect::<Vec<_>>(), ["monitor"]);
    world.sql("UPDATE component_health SET last_heartbeat = datetime('now', '-910 seconds') WHERE component = 'dead'");
    world.once(HEARTBEAT);
    let cause = world.events("component_degraded")[1].payload["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains("without 600 s in which the machine slept"), "{cause}");
}

#[test]
fn what_nobody_works_on_or_waits_for_is_put_back_and_swept() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('resting', '', 1, 'stopped'), ('one', '', 1, 'running');
         INSERT INTO tests(id, loop_id, status, attempts) VALUES ('t1', 'resting', 'in_progress', 1), ('t2', 'stranger', 'in_progress', 0),
           ('t3', 'one', 'in_progress', 1);
         INSERT INTO wait_graph(waiter, holder, resource, wait_until) VALUES ('one', 'x', 'a', datetime('now', '-1 second')),
           ('one', 'x', 'b', datetime('now', '+1 hour')), ('one', 'x', 'c', NULL), ('stranger', 'x', 'd', datetime('now', '-1 second'));
         INSERT INTO lease_requests(id, loop_id, paths, wait_until) VALUES ('r1', 'stranger', '[\"a\"]', datetime('now', '+1 hour')),
           ('r2', 'one', '[\"a\"]', datetime('now', '+1 hour'));",
    );
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT id, status, attempts FROM tests ORDER BY id"), "t1|pending|0\nt2|pending|0\nt3|in_progress|1");
    assert_eq!(world.sql("SELECT resource FROM wait_graph ORDER BY 1"), "b\nc\nd");
    assert_eq!(world.sql("SELECT id FROM lease_requests"), "r2");
    assert_eq!(world.events("test_failed").len(), 2);
}

#[test]
fn a_second_copy_is_refused() {
    let world = World::new();
    let daemon = world.daemon(HEARTBEAT);
    let second = Command::new(HEARTBEAT).arg("--db").arg(&world.path).arg("--once").output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains(&daemon.pid().to_string()));
}

#[test]
fn a_copy_on_another_host_stands_by_and_takes_over() {
    let world = World::filled(
        "INSERT INTO component_health(component, last_heartbeat, status, pid, boot_id, host) VALUES
           ('heartbeat', datetime('now', '+1 hour'), 'healthy', 7, 'another', 'build-3/1a2b3c4d');",
    );
    let mut daemon = Process::start_logged(world.command(HEARTBEAT).env("RUST_LOG", "info"), &world.folder().join("log"));
    daemon.until_logged("standing by: heartbeat is running already as pid 7 on build-3");
    assert!(daemon.is_running());
    assert_eq!(world.sql("SELECT pid FROM component_health WHERE component = 'heartbeat'"), "7");
    world.sql("UPDATE component_health SET last_heartbeat = datetime('now', '-61 seconds') WHERE component = 'heartbeat'");
    world.until("SELECT pid FROM component_health WHERE component = 'heartbeat'", &daemon.pid().to_string());
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn what_a_dead_loops_agent_has_left_is_ended_after_its_time_and_nothing_else() {
    let (mut gone, mut left, living) = (sleeper(), sleeper(), sleeper());
    let rows = rows("one", &gone) + &rows("two", &living);
    gone.signal(Signal::SIGKILL);
    gone.wait();
    let world = World::filled(&rows);
    let child = |of: &str, process: &Process| {
        let start = ProcessIdentity::of(i64::from(process.pid())).pid_start_time.unwrap();
        format!(
            "UPDATE component_health SET child_pid = {}, child_pid_start_time = {start} WHERE component = '{of}'",
            process.pid()
        )
    };
    let other = sleeper();
    world.sql(&child("one", &left));
    world.sql(&child("two", &other));
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT status FROM loops WHERE id = 'one'"), "error");
    assert!(left.is_running(), "its keeper has its time");
    world.sql("UPDATE loops SET died_at = datetime('now', '-31 seconds') WHERE id = 'one'");
    world.once(HEARTBEAT);
    assert!(!left.wait().success());
    assert_eq!(world.sql("SELECT child_pid IS NULL FROM component_health WHERE component = 'one'"), "1");
    assert_eq!(world.sql("SELECT operation, status FROM transaction_log"), "end_leftovers|committed");
    assert_eq!(
        world.sql("SELECT message FROM alerts WHERE fingerprint LIKE 'leftovers:%'"),
        "1 processes left by the agent of the dead loop one were ended"
    );
    for mut process in [living, other] {
        assert!(process.is_running(), "of a living loop nothing is ended");
    }
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT count(*) FROM transaction_log"), "1");
}

#[test]
fn an_unfinished_operation_of_an_ended_process_is_reported_until_it_is_settled() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'stopped'), ('two', '', 1, 'running');
         INSERT INTO transaction_log(id, operation, component, loop_id, started_at) VALUES
           ('a', 'integrate', 'one', 'one', datetime('now', '-301 seconds')), ('b', 'integrate', 'two', 'two', datetime('now', '-1 day')),
           ('c', 'notify', 'pm', NULL, datetime('now', '-100 seconds'));
         INSERT INTO component_health(component, last_heartbeat, status) VALUES ('one', datetime('now', '-1 hour'), 'unknown'),
           ('two', datetime('now'), 'healthy');",
    );
    world.once(HEARTBEAT);
    let alerts = "SELECT fingerprint, severity, message FROM alerts WHERE closed_at IS NULL ORDER BY 1";
    assert_eq!(
        world.sql(alerts),
        "journal:one|warning|one ended during integrate (1 unfinished operations); they are finished or undone when it starts: \
         start coding-loop one, with --once to stop afterwards"
    );
    world.once(HEARTBEAT);
    world.sql(
        "UPDATE transaction_log SET status = 'committed', completed_at = datetime('now') WHERE id = 'a';
         INSERT INTO transaction_log(id, operation, component, started_at) VALUES ('d', 'notify', 'pm', datetime('now', '-301 seconds'))",
    );
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT fingerprint FROM alerts WHERE closed_at IS NULL"), "journal:pm");
}
