//! The real program on databases that only the `sqlite3` shell has filled.

use std::os::unix::fs::PermissionsExt;

use crate::common::World;

const TWO_BUSY: &str = "
    INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running'), ('two', '', 5, 'running');
    INSERT INTO tests(id, loop_id, status, attempts) VALUES ('t1', 'one', 'in_progress', 1), ('t2', 'two', 'in_progress', 1);";
const CONFLICT: &str = r#"{"file_path":"src/a.rs","loop_a":"two","loop_b":"one",
    "time_a":"2026-11-22T00:00:00.000Z","time_b":"2026-11-22T00:00:01.000Z"}"#;
const BLOCKED: &str = r#"{"test_id":"t","loop_id":"one","attempts":3,"last_error":"it broke\nbadly","blocking_dependents":[]}"#;
const ONE_BLOCKED: &str = "
    INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running');
    INSERT INTO tests(id, loop_id, status, attempts) VALUES ('t', 'one', 'blocked', 3);
    INSERT INTO tests(id, loop_id, depends_on) VALUES ('u', 'one', 't');";

#[test]
fn an_empty_database_needs_nothing() {
    let world = World::new();
    world.once();
    assert_eq!(world.sql("SELECT status FROM component_health WHERE component = 'pm'"), "unknown");
    assert_eq!(world.sql("SELECT count(*) FROM decisions"), "0");
}

#[test]
fn a_conflict_pauses_the_loser_until_the_winners_test_has_ended() {
    let world = World::filled(TWO_BUSY);
    world.say("monitor", "file_conflict", CONFLICT);
    world.once();
    assert_eq!(world.requests(), "pause_requested|two");
    assert_eq!(
        world.sql("SELECT json_extract(payload, '$.reason'), json_extract(payload, '$.requested_by') FROM events WHERE event_type = 'pause_requested'"),
        "one and two have both changed src/a.rs; one continues (priority 1 before 5), and two waits until test t1 has ended|pm"
    );
    assert_eq!(world.sql("SELECT winner, loser, winner_test, resolved_at IS NULL FROM conflicts"), "one|two|t1|1");
    world.settled();
    // The loser has paused and the winner's test ends.
    world.sql(
        "UPDATE loops SET status = 'paused' WHERE id = 'two'; UPDATE tests SET status = 'pending' WHERE id = 't2';
         UPDATE tests SET status = 'passed', verified_at = datetime('now') WHERE id = 't1';",
    );
    world.once();
    assert_eq!(world.requests(), "pause_requested|two\nresume_requested|two");
    assert_eq!(world.sql("SELECT resolution FROM conflicts WHERE resolved_at IS NOT NULL"), "test t1 of one is passed");
    world.all_explained();
    world.settled();
}

#[test]
fn a_conflict_row_without_an_event_is_settled_too() {
    let world = World::filled(TWO_BUSY);
    world.sql("INSERT INTO conflicts(id, file_path, loop_a, loop_b) VALUES ('c', 'x', 'one', 'two')");
    world.once();
    assert_eq!(world.requests(), "pause_requested|two");
    world.sql("UPDATE loops SET status = 'error' WHERE id = 'one'");
    world.once();
    assert_eq!(world.requests(), "pause_requested|two\nresume_requested|two");
    world.settled();
}

#[test]
fn a_loop_resumed_by_the_human_is_not_paused_again() {
    let world = World::filled(TWO_BUSY);
    world.say("monitor", "file_conflict", CONFLICT);
    world.once();
    world.say("human", "resume_requested", r#"{"loop_id":"two","reason":"go","requested_by":"human"}"#);
    world.once();
    assert_eq!(world.requests(), "pause_requested|two");
    assert_eq!(world.sql("SELECT resolution FROM conflicts"), "the human has resumed two");
    world.settled();
}

#[test]
fn only_a_pause_of_its_own_without_a_cause_is_lifted() {
    let world = World::filled(TWO_BUSY);
    world.sql("INSERT INTO pauses(loop_id, requested_by) VALUES ('one', 'human'), ('two', 'pm'), ('two', 'human')");
    world.once();
    assert_eq!(world.requests(), "resume_requested|two");
    world.settled();
}

#[test]
fn a_blocked_test_is_asked_about_answered_and_reset() {
    let world = World::filled(ONE_BLOCKED);
    world.say("one", "test_blocked", BLOCKED);
    world.once();
    assert_eq!(
        world.sql("SELECT decision_type, summary, default_option, timeout_minutes, fingerprint FROM decisions"),
        "blocked|test t of one is blocked after 3 attempts; last error: it broke; tests that depend on it: u|leave|60|test:t"
    );
    assert_eq!(world.sql("SELECT count(*) FROM events WHERE event_type = 'decision_needed'"), "1");
    world.settled();
    world.answer("blocked", "retry");
    world.answer("blocked", "skip");
    world.once();
    assert_eq!(world.sql("SELECT status, choice, decided_by FROM decisions"), "decided|retry|human");
    assert_eq!(world.sql("SELECT status, attempts FROM tests WHERE id = 't'"), "pending|0");
    world.all_explained();
    world.settled();
}

#[test]
fn a_blocked_row_alone_is_asked_about_and_left_by_default() {
    let world = World::filled(ONE_BLOCKED);
    world.once();
    assert_eq!(world.sql("SELECT decision_type, status FROM decisions"), "blocked|pending");
    world.sql("UPDATE decisions SET expires_at = datetime('now', '-1 second')");
    world.once();
    assert_eq!(world.sql("SELECT status, choice, decided_by FROM decisions"), "auto_resolved|leave|auto");
    assert_eq!(world.sql("SELECT status FROM tests WHERE id = 't'"), "blocked");
    world.settled();
}

#[test]
fn what_waits_for_a_skipped_test_is_asked_about_once() {
    let world = World::filled(ONE_BLOCKED);
    world.once();
    world.answer("blocked", "skip");
    world.once();
    assert_eq!(
        world.sql("SELECT summary, default_option FROM decisions WHERE status = 'pending'"),
        "test u of one depends on test t, which is skipped|wait"
    );
    world.settled();
    world.answer("dependency", "run_anyway");
    world.once();
    assert_eq!(world.sql("SELECT depends_on IS NULL, status FROM tests WHERE id = 'u'"), "1|pending");
    let world = World::filled(ONE_BLOCKED);
    world.sql("UPDATE tests SET status = 'skipped' WHERE id = 't'");
    world.once();
    world.answer("dependency", "wait");
    world.once();
    world.settled();
    assert_eq!(world.sql("SELECT count(*) FROM decisions"), "1");
}

#[test]
fn foreign_decisions_run_out_and_are_settled_without_another_act() {
    let world = World::filled(ONE_BLOCKED);
    world.sql(
        r#"UPDATE tests SET status = 'pending';
           INSERT INTO decisions(id, decision_type, summary, options, default_option, timeout_minutes, requested_at) VALUES
             ('a', 'blocked', 's', '["retry","skip"]', 'skip', 1, datetime('now', '-2 minutes')),
             ('b', 'x', 's', '[{"id":"yes"}]', NULL, 1, datetime('now', '-2 minutes')),
             ('c', 'x', 's', '["yes"]', 'no option', 0, datetime('now', '-1 second')),
             ('d', 'x', 's', '["yes"]', NULL, NULL, datetime('now', '-1 year')),
             ('e', 'x', 's', '["yes"]', NULL, NULL, datetime('now'));
           UPDATE decisions SET status = 'decided', choice = 'yes', decided_at = datetime('now'), decided_by = 'human' WHERE id = 'e';"#,
    );
    world.once();
    assert_eq!(
        world.sql("SELECT id, status, choice FROM decisions ORDER BY id"),
        "a|auto_resolved|skip\nb|expired|\nc|expired|\nd|pending|\ne|decided|yes"
    );
    assert_eq!(world.sql("SELECT DISTINCT status FROM tests"), "pending");
    // The requester is notified, also of what somebody else has settled.
    assert_eq!(
        world
            .sql("SELECT json_extract(payload, '$.decision_id') FROM events WHERE event_type = 'decision_resolved' ORDER BY 1"),
        "a\nb\nc\ne"
    );
    world.settled();
}

#[test]
fn an_answer_written_into_the_row_is_applied_once() {
    let world = World::filled(ONE_BLOCKED);
    world.say("one", "test_blocked", BLOCKED);
    world.once();
    world.sql(
        "UPDATE decisions SET status = 'decided', choice = 'skip', decided_at = datetime('now'), decided_by = 'human'
         WHERE decision_type = 'blocked'",
    );
    world.once();
    assert_eq!(world.sql("SELECT status FROM tests WHERE id = 't'"), "skipped");
    world.sql("UPDATE tests SET status = 'pending' WHERE id = 't'");
    world.once();
    assert_eq!(world.sql("SELECT status FROM tests WHERE id = 't'"), "pending");
    world.settled();
    world.all_explained();
}

#[test]
fn a_regression_has_the_blamed_test_done_again() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running'), ('two', '', 1, 'running');
         INSERT INTO tests(id, loop_id, status, verified_at) VALUES ('r', 'one', 'passed', datetime('now')), ('b', 'two', 'passed', datetime('now'));",
    );
    world.say(
        "regression-checker",
        "regression_detected",
        r#"{"test_id":"r","last_passed_commit":"aaa","current_commit":"ccc","first_bad_commit":"bbb","blamed_loop":"two","blamed_test":"b","output_tail":"boom"}"#,
    );
    world.once();
    assert_eq!(world.sql("SELECT fingerprint, default_option FROM decisions"), "regression:bbb|fix_forward");
    world.sql("UPDATE decisions SET expires_at = datetime('now', '-1 second')");
    world.once();
    assert_eq!(
        world.sql("SELECT id, status, last_error FROM tests WHERE status = 'pending'"),
        "b|pending|regression: passed test r fails on the integration branch since commit bbb; make it pass again. boom"
    );
    world.all_explained();
    world.settled();
}

#[test]
fn a_used_up_day_pauses_everyone_until_the_human_says_go_on() {
    let world = World::filled(TWO_BUSY);
    let warning = r#"{"resource":"tokens","current":6,"limit":5,"percentage":120}"#;
    world.say("monitor", "resource_warning", warning);
    world.once();
    assert_eq!(world.requests(), "pause_requested|one\npause_requested|two");
    world.sql(
        "UPDATE loops SET status = 'paused'; INSERT INTO pauses(loop_id, requested_by) VALUES ('one', 'pm'), ('two', 'pm')",
    );
    world.settled();
    world.answer("budget", "continue");
    world.once();
    assert_eq!(world.requests(), "pause_requested|one\npause_requested|two\nresume_requested|one\nresume_requested|two");
    world.sql("DELETE FROM pauses; UPDATE loops SET status = 'running'");
    // Decided once for this day.
    world.say("monitor", "resource_warning", warning);
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM decisions"), "1");
    world.all_explained();
}

#[test]
fn a_budget_that_stops_a_loop_outlasts_a_conflict() {
    let world = World::filled(TWO_BUSY);
    world.say("monitor", "file_conflict", CONFLICT);
    world.say(
        "monitor",
        "resource_warning",
        r#"{"loop_id":"two","resource":"seconds","current":9,"limit":9,"percentage":100}"#,
    );
    world.once();
    world.sql(
        "UPDATE loops SET status = 'paused' WHERE id = 'two'; UPDATE tests SET status = 'pending' WHERE id = 't2';
         INSERT INTO pauses(loop_id, requested_by) VALUES ('two', 'pm')",
    );
    world.answer("budget", "stop");
    world.once();
    world.sql("UPDATE tests SET status = 'blocked' WHERE id = 't1'");
    world.once();
    assert_eq!(world.sql("SELECT resolved_at IS NULL FROM conflicts"), "0");
    assert_eq!(world.requests(), "pause_requested|two\npause_requested|two");
}

#[test]
fn knowledge_and_change_requests_are_decided_by_the_human() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running'), ('two', '', 1, 'running');
         INSERT INTO knowledge(id, item_type, topic, content) VALUES ('old', 'decision', 'x', 'tabs'), ('new', 'decision', 'x', 'spaces');
         INSERT INTO resources(path, owner_loop) VALUES ('api', 'one');
         INSERT INTO change_requests(id, resource_path, requestor_loop, owner_loop) VALUES ('c1', 'api', 'two', 'one'), ('c2', 'api', 'two', 'one');",
    );
    world.say(
        "two",
        "knowledge_conflict",
        r#"{"new_knowledge_id":"new","existing_knowledge_id":"old","conflict_description":"two decisions stand"}"#,
    );
    world.once();
    assert_eq!(
        world.sql("SELECT fingerprint, default_option FROM decisions ORDER BY 1"),
        "change:c1|reject\nchange:c2|reject\nknowledge:new:old|"
    );
    world.answer("knowledge", "keep_new");
    world.sql("UPDATE decisions SET expires_at = datetime('now', '-1 second') WHERE fingerprint = 'change:c1'");
    world.once();
    world.answer("change_request", "approve");
    world.once();
    assert_eq!(world.sql("SELECT id, superseded_by FROM knowledge ORDER BY id"), "new|\nold|new");
    assert_eq!(
        world.sql("SELECT id, status, resolved_by FROM change_requests ORDER BY id"),
        "c1|rejected|pm\nc2|approved|human"
    );
    world.settled();
}

#[test]
fn a_lost_loops_tests_are_handed_on() {
    let lost = "
        INSERT INTO loops(id, name, priority, status, died_at) VALUES ('dead', '', 1, 'error', datetime('now', '-301 seconds'));
        INSERT INTO loops(id, name, priority, status) VALUES ('idle', '', 1, 'running'), ('resting', '', 1, 'stopped');
        INSERT INTO tests(id, loop_id, status) VALUES ('q1', 'dead', 'pending'), ('q2', 'dead', 'blocked');";
    let world = World::filled(lost);
    world.sql("INSERT INTO component_health(component, last_heartbeat, status) VALUES ('idle', datetime('now'), 'healthy')");
    world.once();
    assert_eq!(world.sql("SELECT id, loop_id FROM tests ORDER BY id"), "q1|idle\nq2|dead");
    assert_eq!(
        world.sql("SELECT severity, alert_type, fingerprint, message FROM alerts"),
        "info|resource|reassigned:dead|dead is dead; its tests were moved: q1 to idle"
    );
    world.settled();
    world.sql("UPDATE loops SET status = 'running' WHERE id = 'dead'");
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM alerts WHERE closed_at IS NULL"), "0");

    // Nobody drives the other loop.
    let world = World::filled(lost);
    world.once();
    assert_eq!(world.sql("SELECT default_option FROM decisions WHERE fingerprint = 'lost:dead'"), "wait");
    world.answer("lost_loop", "wait");
    world.once();
    world.settled();
    assert_eq!(world.sql("SELECT count(*) FROM decisions WHERE decision_type = 'lost_loop'"), "1");
    // Still handed on as soon as someone is there.
    world.sql("INSERT INTO component_health(component, last_heartbeat, status) VALUES ('idle', datetime('now'), 'healthy')");
    world.once();
    assert_eq!(world.sql("SELECT loop_id FROM tests WHERE id = 'q1'"), "idle");
}

#[test]
fn orphans_and_odd_rows_are_borne() {
    let world = World::new();
    world.sql(
        r#"PRAGMA foreign_keys = off;
           INSERT INTO tests(id, loop_id, status, depends_on) VALUES ('o1', 'nobody', 'in_progress', NULL),
             ('o2', 'nobody', 'blocked', NULL), ('o3', 'nobody', 'pending', 'nothing');
           INSERT INTO conflicts(id, file_path, loop_a, loop_b, winner, loser) VALUES ('c', 'f', 'x', 'y', 'x', 'y');
           INSERT INTO pauses(loop_id, requested_by) VALUES ('nobody', 'pm');
           INSERT INTO decisions(id, decision_type, summary, options, context, requested_by) VALUES
             ('d', 'budget', 's', '[1, {}, "continue"]', '[]', 'pm'), ('e', 'regression', 's', '["fix_forward"]', '7', 'pm');
           INSERT INTO change_requests(id, resource_path, requestor_loop, owner_loop) VALUES ('cr', 'p', 'x', 'y');
           INSERT INTO transaction_log(id, operation, component) VALUES ('j', 'unheard of', 'pm');"#,
    );
    for (event_type, payload) in [
        ("test_blocked", r#"{"test_id":"nothing","loop_id":"x","attempts":1,"last_error":"","blocking_dependents":[]}"#),
        ("human_message", r#"{"message_type":"decision_response","decision_id":"d","choice":"continue","source":"cli"}"#),
        ("human_message", r#"{"message_type":"decision_response","decision_id":"e","choice":"fix_forward","source":"cli"}"#),
        ("human_message", r#"{"message_type":"note","comment":"hello","source":"cli"}"#),
        ("summary_requested", r#"{"requested_by":"human","scope":"all","since_hours":1}"#),
        ("file_conflict", "{}"),
    ] {
        world.say("human", event_type, payload);
    }
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM undelivered_events WHERE subscriber = 'pm'"), "0");
    assert_eq!(world.sql("SELECT status FROM decisions WHERE id IN ('d', 'e')"), "decided\ndecided");
    assert_eq!(world.sql("SELECT status FROM transaction_log WHERE id = 'j'"), "rolled_back");
    assert_eq!(world.sql("SELECT resolution FROM conflicts"), "x is no longer registered");
    world.settled();
}

/// A command that appends its input to a file.
fn ring(world: &World, more: &str) -> std::path::PathBuf {
    let (script, heard) = (world.folder().join("ring.sh"), world.folder().join("heard"));
    std::fs::write(&script, format!("#!/bin/sh\ncat >> '{}'\n{more}\n", heard.display())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    world.configure(&format!("[notify]\ncommand = [{:?}]\n", script.display().to_string()));
    heard
}

#[test]
fn the_human_is_notified_once_of_each_question_and_critical_alert() {
    let world = World::filled(ONE_BLOCKED);
    let heard = ring(&world, "");
    world.sql(
        r#"INSERT INTO decisions(id, decision_type, summary, options) VALUES ('foreign', 'x', 's', '["yes"]');
           INSERT INTO alerts(id, severity, alert_type, message) VALUES ('bad', 'critical', 'resource', 'm'), ('mild', 'error', 'resource', 'm');"#,
    );
    world.once();
    let lines = std::fs::read_to_string(&heard).unwrap();
    assert_eq!(lines.lines().count(), 3, "{lines}");
    assert!(lines.contains("notify:decision:foreign") && lines.contains("notify:alert:bad"), "{lines}");
    assert!(lines.contains(r#""decision_type":"blocked","summary":"test t of one is blocked"#), "{lines}");
    assert_eq!(world.sql("SELECT DISTINCT operation, status, component FROM transaction_log"), "notify|committed|pm");
    world.settled();
    assert_eq!(std::fs::read_to_string(&heard).unwrap(), lines);
}

#[test]
fn a_notifier_that_fails_is_tried_once() {
    let world = World::filled(ONE_BLOCKED);
    let heard = ring(&world, "exit 3");
    world.once();
    world.settled();
    assert_eq!(std::fs::read_to_string(&heard).unwrap().lines().count(), 1);
    assert_eq!(world.sql("SELECT status FROM transaction_log"), "rolled_back");
}

#[test]
fn without_a_command_nothing_is_written_down() {
    let world = World::filled(ONE_BLOCKED);
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM transaction_log"), "0");
}

#[test]
fn a_daemon_acts_on_what_the_shell_writes_and_stops_in_order() {
    let world = World::filled(TWO_BUSY);
    let daemon = world.daemon();
    world.say("monitor", "file_conflict", CONFLICT);
    world.until("SELECT count(*) FROM events WHERE event_type = 'pause_requested'", "1");
    world.sql(
        r#"INSERT INTO decisions(id, decision_type, summary, options, default_option, expires_at)
           VALUES ('soon', 'x', 's', '["yes"]', 'yes', strftime('%Y-%m-%d %H:%M:%f', 'now', '+1.5 seconds'))"#,
    );
    world.until("SELECT status FROM decisions", "auto_resolved");
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(world.sql("SELECT status FROM component_health WHERE component = 'pm'"), "unknown");
}

#[test]
fn killed_at_any_time_it_repeats_nothing() {
    let world = World::filled(TWO_BUSY);
    for round in 0..12_u64 {
        let daemon = world.daemon();
        world.say("monitor", "file_conflict", &CONFLICT.replace("src/a.rs", &format!("f{round}")));
        if round % 2 == 0 {
            world.until(&format!("SELECT count(*) FROM conflicts WHERE file_path = 'f{round}'"), "1");
        }
        daemon.kill();
    }
    world.once();
    assert_eq!(world.sql("SELECT count(*), count(DISTINCT file_path) FROM conflicts"), "12|12");
    assert_eq!(
        world.sql("SELECT count(*), count(DISTINCT caused_by) FROM events WHERE event_type = 'pause_requested'"),
        "12|12"
    );
    assert_eq!(world.sql("SELECT count(*) FROM undelivered_events WHERE subscriber = 'pm'"), "0");
    world.settled();
}

#[test]
fn a_notification_begun_before_a_kill_is_finished() {
    let world = World::filled(ONE_BLOCKED);
    let gate = world.folder().join("gate");
    let heard = ring(&world, &format!("[ -e '{}' ] || sleep 60", gate.display()));
    let daemon = world.daemon();
    world.until("SELECT count(*) FROM transaction_log WHERE status = 'in_progress'", "1");
    daemon.kill();
    std::fs::write(&gate, "").unwrap();
    world.once();
    assert_eq!(world.sql("SELECT status FROM transaction_log"), "committed");
    assert!(std::fs::read_to_string(&heard).unwrap().lines().count() <= 2);
    world.settled();
}
