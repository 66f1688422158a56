//! The real program on databases that only the `sqlite3` shell has filled.

use std::process::Command;

use test_support::World;

const MONITOR: &str = env!("CARGO_BIN_EXE_monitor");

const OPEN: &str = "SELECT fingerprint, severity, alert_type FROM alerts WHERE closed_at IS NULL ORDER BY 1";

/// A loop with a test that it failed three times, in events alone.
const FAILING: &str = "
    INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running');
    INSERT INTO tests(id, loop_id, status) VALUES ('t1', 'one', 'in_progress');
    INSERT INTO events(id, source, event_type, payload) VALUES
      ('f1', 'one', 'test_failed', '{\"test_id\":\"t1\",\"loop_id\":\"one\",\"attempt\":1,\"error_category\":\"code\",\"error_message\":\"x\",\"will_retry\":true}'),
      ('f2', 'one', 'test_failed', '{\"test_id\":\"t1\",\"loop_id\":\"one\",\"attempt\":2,\"error_category\":\"code\",\"error_message\":\"y\",\"will_retry\":true}'),
      ('f3', 'one', 'test_failed', '{\"test_id\":\"t1\",\"loop_id\":\"one\",\"attempt\":3,\"error_category\":\"code\",\"error_message\":\"z\",\"will_retry\":true}');";

/// A loop at work: since when, in `datetime`'s words.
fn at_work(since: &str) -> String {
    format!(
        "INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running');
         INSERT INTO tests(id, loop_id, status, attempts, last_attempt_at)
           VALUES ('t1', 'one', 'in_progress', 1, datetime('now', '{since}'));"
    )
}

#[test]
fn failures_in_events_alone_are_told_once_and_end_with_a_pass() {
    let world = World::filled(FAILING);
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "stuck:one:t1|warning|stuck");
    let said = world.events("stuck_detected");
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].source.as_str(), said[0].caused_by.as_ref().unwrap().as_str()), ("monitor", "f3"));
    assert_eq!(said[0].correlation_id.as_deref(), Some("f3"));
    assert_eq!((&said[0].payload["consecutive_failures"], &said[0].payload["last_error"]), (&3.into(), &"z".into()));
    assert_eq!(world.sql("SELECT event_id FROM alerts"), said[0].id.as_str());
    world.once(MONITOR);
    world.sql("UPDATE tests SET status = 'passed', verified_at = datetime('now'), passed_at = datetime('now')");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
    assert_eq!(world.events("stuck_detected").len(), 1);
}

#[test]
fn failures_in_rows_alone_are_told_too() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running'), ('two', '', 1, 'paused');
         INSERT INTO tests(id, loop_id, status, attempts, max_attempts, last_result, last_error) VALUES
           ('t1', 'one', 'pending', 3, 9, 'fail', 'no luck'), ('t2', 'one', 'pending', 2, 9, 'fail', ''),
           ('t3', 'two', 'pending', 5, 9, 'fail', ''), ('t4', 'stranger', 'pending', 5, 9, 'fail', '');",
    );
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "stuck:one:t1|warning|stuck");
    assert_eq!(world.events("stuck_detected")[0].payload["last_error"], "no luck");
}

#[test]
fn a_blocked_test_is_not_stuck_and_a_reset_one_begins_again() {
    let world = World::filled(FAILING);
    world.sql("UPDATE tests SET status = 'blocked', attempts = 3, last_result = 'blocked'");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
    // As a reset leaves it, and as the next claim does.
    world.sql("UPDATE tests SET status = 'pending', attempts = 0, last_result = NULL, last_attempt_at = datetime('now')");
    world.once(MONITOR);
    let id = "one".parse().unwrap();
    world.db.write(|tx| tx.claim_next_test(&id, true)).unwrap().unwrap();
    world.once(MONITOR);
    assert_eq!(world.events("stuck_detected"), []);
}

#[test]
fn given_back_attempts_that_failed_count_although_no_attempt_is_used_up() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running');
         INSERT INTO tests(id, loop_id) VALUES ('t1', 'one');",
    );
    let (one, test) = ("one".parse().unwrap(), "t1".parse().unwrap());
    for failed in 1..=3 {
        world.sql("UPDATE tests SET not_before = NULL");
        world.once(MONITOR);
        assert_eq!(world.events("stuck_detected"), [], "after {failed}");
        let attempt = coord_db::FailedAttempt::new(coord_db::ErrorCategory::Transient, "no network");
        world.db.write(|tx| tx.claim_next_test(&one, true)).unwrap().unwrap();
        world.db.write(|tx| tx.record_failed(&test, &one, &attempt)).unwrap();
    }
    world.once(MONITOR);
    assert_eq!(world.events("stuck_detected").len(), 1);
}

#[test]
fn the_third_attempt_of_three_is_not_stuck_before_it_has_failed() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running');
         INSERT INTO tests(id, loop_id) VALUES ('t1', 'one');",
    );
    let (one, test) = ("one".parse().unwrap(), "t1".parse().unwrap());
    let attempt = coord_db::FailedAttempt::new(coord_db::ErrorCategory::Code, "x");
    for _ in 0..3 {
        world.db.write(|tx| tx.claim_next_test(&one, true)).unwrap().unwrap();
        world.once(MONITOR);
        world.db.write(|tx| tx.record_failed(&test, &one, &attempt)).unwrap();
        world.once(MONITOR);
    }
    // It is blocked now, and that is reported already.
    assert_eq!(world.events("test_blocked").len(), 1);
    assert_eq!(world.events("stuck_detected"), []);
}

#[test]
fn silence_is_reported_and_growing_output_counts_as_activity() {
    let world = World::filled(&at_work("-20 minutes"));
    let logs = world.path.parent().unwrap().join("logs/one");
    std::fs::create_dir_all(&logs).unwrap();
    std::fs::write(logs.join("t1-1.log"), "compiling\n").unwrap();
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
    assert!(Command::new("touch").args(["-d", "-11 minutes"]).arg(logs.join("t1-1.log")).status().unwrap().success());
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "stuck:one:t1|warning|stuck");
    assert_eq!(world.sql("SELECT json_extract(context, '$.reasons[0]') FROM alerts"), "silence");
    std::fs::write(logs.join("t1-1.log"), "compiling\nlinking\n").unwrap();
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
}

#[test]
fn the_same_error_in_round_after_round_of_the_output_is_a_digression() {
    let world = World::filled(&at_work("-1 minute"));
    let logs = world.path.parent().unwrap().join("logs/one");
    std::fs::create_dir_all(&logs).unwrap();
    let mut text = String::new();
    for round in 1..=5 {
        assert_eq!(world.sql(OPEN), "", "before round {round}");
        // However often one run shows it, that is once.
        text.extend((0..5).map(|at| format!("error: cannot find `thing` at line {}\n", at + round)));
        std::fs::write(logs.join("t1-1.log"), &text).unwrap();
        world.once(MONITOR);
        world.once(MONITOR);
        assert_eq!(world.sql("SELECT json_extract(value, '$.times') FROM agent_outputs, json_each(errors)"), round.to_string());
        world.sql("UPDATE agent_outputs SET read_at = datetime('now', '-31 seconds')");
    }
    assert_eq!(world.sql(OPEN), "digression:one:t1|warning|digression");
    let said = world.events("digression_detected");
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].payload["repeated_error"], "error: cannot find `thing` at line 5");
    std::fs::write(logs.join("t1-1.log"), text + "error: another one is in the way\n").unwrap();
    world.once(MONITOR);
    assert_eq!((world.sql(OPEN).as_str(), world.events("digression_detected").len()), ("", 1));
    world.sql("DELETE FROM tests; DELETE FROM loops");
    world.once(MONITOR);
    assert_eq!(world.sql("SELECT count(*) FROM agent_outputs"), "0");
}

#[test]
fn an_attempt_that_says_the_same_for_half_an_hour_is_stuck_and_one_that_says_something_new_is_not() {
    let world = World::filled(&at_work("-90 minutes"));
    let logs = world.path.parent().unwrap().join("logs/one");
    std::fs::create_dir_all(&logs).unwrap();
    std::fs::write(logs.join("t1-1.log"), "still waiting (1 s)\n").unwrap();
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
    world.sql("UPDATE agent_outputs SET read_at = datetime('now', '-31 minutes'), news_at = datetime('now', '-31 minutes')");
    std::fs::write(logs.join("t1-1.log"), "still waiting (1 s)\nstill waiting (2 s)\n").unwrap();
    world.once(MONITOR);
    assert_eq!(world.sql("SELECT json_extract(context, '$.reasons') FROM alerts WHERE closed_at IS NULL"), r#"["attempt"]"#);
    world.sql("UPDATE agent_outputs SET read_at = datetime('now', '-31 minutes')");
    std::fs::write(logs.join("t1-1.log"), "still waiting (1 s)\nstill waiting (2 s)\ngot it\n").unwrap();
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
}

#[test]
fn a_loop_that_waits_or_slept_is_not_stuck_and_its_time_begins_again() {
    let world = World::filled(&at_work("-50 minutes"));
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('one', 'two', 'a.rs')");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
    world.sql("DELETE FROM wait_graph");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");

    let world = World::filled(&at_work("-50 minutes"));
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    world.sql(
        "UPDATE clock SET suspended_ms = suspended_ms - 2400000, wall_ms = wall_ms - 2400000, boot_ms = boot_ms - 2400000",
    );
    world.once(MONITOR);
    assert_eq!(world.sql("SELECT grace_until > datetime('now', '+25 seconds') FROM clock"), "1");
    world.sql("UPDATE clock SET grace_until = NULL");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");

    // An edge that is over, or whose resource is another's, is no waiting.
    for edge in ["datetime('now', '-1 second')", "NULL"] {
        let world = World::filled(&at_work("-50 minutes"));
        world.sql(&format!(
            "INSERT INTO wait_graph(waiter, holder, resource, wait_until) VALUES ('one', 'two', 'a.rs', {edge});
             INSERT INTO file_locks(file_path, locked_by) VALUES ('a.rs', 'three');"
        ));
        world.once(MONITOR);
        assert_eq!(world.sql(OPEN), "stuck:one:t1|warning|stuck");
    }
}

#[test]
fn use_is_added_up_and_each_level_told_once() {
    let world = World::filled(&at_work("-1 minute"));
    let warnings = || world.events("resource_warning");
    world.sql("INSERT INTO usage(id, loop_id, test_id, tokens_estimated) VALUES ('u1', 'one', 't1', 400000)");
    world.once(MONITOR);
    world.once(MONITOR);
    assert_eq!(warnings().len(), 1);
    assert_eq!(world.sql(OPEN), "resource:tokens_per_test:one:t1|warning|resource");
    world.sql(
        "INSERT INTO usage(id, loop_id, test_id, tokens_estimated) VALUES ('u2', 'one', 't1', 4600000), ('u3', NULL, NULL, 1)",
    );
    world.once(MONITOR);
    world.once(MONITOR);
    let said = warnings();
    assert_eq!(said.len(), 3);
    assert_eq!((said[1].caused_by.as_ref(), &said[1].payload["percentage"]), (Some(&said[0].id), &1000.into()));
    assert_eq!((&said[2].payload["loop_id"], &said[2].payload["current"]), (&serde_json::Value::Null, &5_000_001.into()));
    let open = world.sql("SELECT severity FROM alerts WHERE closed_at IS NULL");
    assert_eq!(open, "error\nerror");
    world.sql("UPDATE tests SET status = 'skipped'");
    world.once(MONITOR);
    assert_eq!(world.sql("SELECT substr(fingerprint, 1, 24) FROM alerts WHERE closed_at IS NULL"), "resource:tokens_per_day:");
}

#[test]
fn the_loss_of_heartbeat_is_an_alert_and_no_event() {
    let world = World::filled(
        "INSERT INTO component_health(component, last_heartbeat, status) VALUES
           ('heartbeat', datetime('now', '-301 seconds'), 'healthy'), ('pm', datetime('now', '-301 seconds'), 'healthy');",
    );
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "component:heartbeat|error|resource");
    assert_eq!(world.events("component_degraded"), []);
    world.sql("UPDATE component_health SET last_heartbeat = datetime('now')");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
}

#[test]
fn misshapen_and_foreign_rows_stop_nothing() {
    let world = World::filled(FAILING);
    world.sql(
        "INSERT INTO events(id, source, event_type, payload) VALUES ('m1', 'x', 'test_failed', '[1,2]'),
           ('m2', 'x', 'test_started', '{\"test_id\":{\"a\":1},\"attempt\":\"many\"}'), ('m3', 'x', 'loop_resumed', '7'),
           ('m4', 'x', 'test_passed', 'null');
         INSERT INTO worktree_changes VALUES ('stranger', 'a', datetime('now'), datetime('now'), ''),
           ('one', 'b', datetime('now'), datetime('now'), 'x');
         INSERT INTO usage(id, loop_id, test_id, tokens_estimated) VALUES ('u', 'nobody', 'nothing', 9);
         INSERT INTO component_health(component, metadata) VALUES ('one', '[]'), ('monitor', '{\"excused\":{\"one\":7}}');
         INSERT INTO tests(id, loop_id, status, scope) VALUES ('t2', 'one', 'in_progress', '{}'), ('t3', 'stranger', 'in_progress', '[]');",
    );
    world.once(MONITOR);
    assert_eq!(
        world.sql(OPEN).lines().filter(|line| line.starts_with("stuck")).collect::<Vec<_>>(),
        ["stuck:one:t1|warning|stuck"]
    );
    assert_eq!(world.sql("SELECT count(*) FROM worktree_changes"), "0");
}

#[test]
fn a_killed_monitor_repeats_nothing_and_a_stopped_one_records_its_shutdown() {
    let world = World::new();
    world.daemon(MONITOR).kill();
    world.sql(FAILING);
    for _ in 0..3 {
        let daemon = world.daemon(MONITOR);
        world.until("SELECT count(*) FROM alerts WHERE closed_at IS NULL", "1");
        daemon.kill();
    }
    let daemon = world.daemon(MONITOR);
    world.sql("UPDATE tests SET status = 'skipped'");
    world.until("SELECT count(*) FROM alerts WHERE closed_at IS NULL", "0");
    assert_eq!(world.events("stuck_detected").len(), 1);
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(world.sql("SELECT status FROM component_health WHERE component = 'monitor'"), "unknown");
    assert_eq!(world.events("component_stopped").len(), 1);
}

/// Each setting, what happens, and the alert that is raised with this setting and not by default; none if only by default.
const SETTINGS: [(&str, &str, &str); 12] = [
    ("[monitor]\nstuck_failures = 4", FAILING, ""),
    ("[monitor]\nstuck_silence_minutes = 3", "-4 minutes", "stuck:one:t1"),
    ("[monitor]\nstuck_attempt_minutes = 3\nstuck_silence_minutes = 0", "-4 minutes", "stuck:one:t1"),
    ("[monitor]\nstuck_no_pass_minutes = 3\nstuck_silence_minutes = 0", LONG, "stuck:one:-"),
    (
        "[monitor]\ndigression_files = 1",
        "INSERT INTO file_locks(file_path, locked_by) VALUES ('a', 'one'), ('b', 'one')",
        "digression:one:t1",
    ),
    ("[budget]\ntokens_per_test = 100", USED, "resource:tokens_per_test:one:t1"),
    ("[budget]\nminutes_per_test = 5", "-4 minutes", "resource:minutes_per_test:one:t1"),
    ("[budget]\ntokens_per_day = 100", USED, "resource:tokens_per_day:"),
    ("[budget]\ntests_per_day = 1", "-1 second", "resource:tests_per_day:"),
    ("[budget]\ndatabase_megabytes = 1", BIG, "resource:database"),
    ("[budget]\ntokens_per_test = 200\nwarn_percent = 40", USED, "resource:tokens_per_test:one:t1"),
    (
        "[heartbeat]\ndead_seconds = 100",
        "INSERT INTO component_health(component, last_heartbeat, status) VALUES ('heartbeat', datetime('now', '-101 seconds'), 'healthy')",
        "component:heartbeat",
    ),
];

const LONG: &str =
    "UPDATE tests SET created_at = datetime('now', '-9 minutes'), last_attempt_at = datetime('now', '-4 minutes');
     UPDATE loops SET updated_at = datetime('now', '-9 minutes')";
const USED: &str = "INSERT INTO usage(id, loop_id, test_id, tokens_estimated) VALUES ('u', 'one', 't1', 90)";
const BIG: &str = "INSERT INTO knowledge(id, loop_id, item_type, content) VALUES ('k', 'one', 'fact', hex(zeroblob(450000)))";
#[test]
fn every_setting_is_read_and_acts() {
    for (setting, happens, told) in SETTINGS {
        let world = World::new();
        let since = if happens.ends_with("minutes") || happens.ends_with("second") { happens } else { "-1 second" };
        if happens != FAILING {
            world.sql(&at_work(since));
        }
        if since != happens {
            world.sql(happens);
        }
        let config = world.path.parent().unwrap().join("config.toml");
        let open = |text: &str| {
            std::fs::write(&config, text).unwrap();
            world.once(MONITOR);
            world.sql("SELECT fingerprint FROM alerts WHERE closed_at IS NULL")
        };
        let (by_default, by_setting) = (open(""), open(setting));
        if told.is_empty() {
            assert_ne!(by_default, "", "{setting}");
            assert_eq!(by_setting, "", "{setting}");
        } else {
            assert_eq!(by_default, "", "{setting}");
            assert!(by_setting.starts_with(told), "{setting}: {by_setting:?}");
        }
        // The cause has ended: the alert closes, and nothing is reported again.
        let said = || world.sql("SELECT count(*) FROM events WHERE event_type NOT LIKE 'component_%'");
        let before = said();
        open(if told.is_empty() { setting } else { "" });
        assert_eq!(said(), before, "{setting}");
    }
}

#[test]
fn a_budget_warns_then_alerts_and_says_how_it_is_in_between() {
    let world = World::filled(&at_work("-1 second"));
    let mut told = Vec::new();
    for (id, tokens) in [("a", 400_000), ("b", 20_000), ("c", 60_000), ("d", 0), ("e", 30_000)] {
        world.sql(&format!("INSERT INTO usage(id, loop_id, test_id, tokens_estimated) VALUES ('{id}', 'one', 't1', {tokens})"));
        world.once(MONITOR);
        let events = world.events("resource_warning").len();
        told.push(format!("{events} {}", world.sql("SELECT severity || ' ' || message FROM alerts")));
    }
    let said = |events: u32, severity: &str, percent: u32, tokens: u32| {
        format!("{events} {severity} one: {percent} % of the tokens for test t1 are used ({tokens} of 500000)")
    };
    assert_eq!(
        told,
        [
            said(1, "warning", 80, 400_000),
            said(1, "warning", 84, 420_000),
            said(2, "error", 96, 480_000),
            said(2, "error", 96, 480_000),
            said(3, "error", 102, 510_000),
        ]
    );
}
