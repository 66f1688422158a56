//! What the real program does about failed attempts, by whose fault they were; the attempts fail as a loop records them.

use crate::common::World;
use coord_db::{ErrorCategory, FailedAttempt, LoopId};

fn world() -> World {
    World::filled(
        "INSERT INTO loops(id, name, priority, status) VALUES ('one', '', 1, 'running'), ('two', '', 5, 'running');
         INSERT INTO tests(id, loop_id) VALUES ('t1', 'one'), ('t2', 'two'), ('t3', 'one');",
    )
}

/// A loop claims its next test, which fails so.
fn fail(world: &World, of: &str, category: ErrorCategory) -> String {
    let of: LoopId = of.parse().unwrap();
    // What waits for its next try is tried now.
    world.sql(&format!("UPDATE tests SET not_before = NULL WHERE loop_id = '{of}'"));
    let failed = FailedAttempt::new(category, format!("{category} went wrong\nbadly"));
    let test = world.db.write(|tx| {
        let test = tx.claim_next_test(&of, true)?.expect("a test that is ready");
        tx.record_failed(&test.id, &of, &failed)?;
        Ok::<_, coord_db::Error>(test)
    });
    test.unwrap().id.to_string()
}

#[test]
fn an_unclear_specification_is_asked_about_at_once_and_waits_for_the_answer() {
    let world = world();
    assert_eq!(fail(&world, "one", ErrorCategory::Spec), "t1");
    world.once();
    let summary = world.sql("SELECT summary FROM decisions WHERE decision_type = 'failure'");
    assert_eq!(
        summary,
        "test t1 of one cannot be done as specified, according to attempt 1 of 3: spec went wrong; it waits for your answer until \
         the time limit"
    );
    assert_eq!(world.sql("SELECT not_before > datetime('now', '+59 minutes') FROM tests WHERE id = 't1'"), "1");
    world.settled();
    world.answer("failure", "retry");
    world.once();
    assert_eq!(world.sql("SELECT not_before <= strftime('%Y-%m-%d %H:%M:%f', 'now') FROM tests WHERE id = 't1'"), "1");
    world.all_explained();
    world.settled();
    // The next attempt is another matter.
    assert_eq!(fail(&world, "one", ErrorCategory::Human), "t1");
    world.once();
    assert_eq!(
        world.sql("SELECT count(*) FROM decisions WHERE status = 'pending' AND summary LIKE 'test t1 of one needs a human%'"),
        "1"
    );
}

#[test]
fn a_transient_error_is_tried_again_later_and_later_and_nobody_is_asked() {
    let world = world();
    let wait = "SELECT CAST(round((julianday(not_before) - julianday('now')) * 86400 / 5) AS INTEGER), attempts FROM tests WHERE id = 't1'";
    for expected in ["1|0", "2|0", "4|0", "8|0"] {
        fail(&world, "one", ErrorCategory::Transient);
        assert_eq!(world.sql(wait), expected);
        world.once();
    }
    assert_eq!(world.sql("SELECT count(*) FROM decisions"), "0");
    assert_eq!(world.requests(), "");
}

#[test]
fn what_has_run_out_pauses_its_loop_until_it_may_be_there_again() {
    let world = world();
    fail(&world, "one", ErrorCategory::Resource);
    world.once();
    assert_eq!(world.requests(), "pause_requested|one");
    let reason = world.sql("SELECT json_extract(payload, '$.reason') FROM events WHERE event_type = 'pause_requested'");
    assert!(reason.starts_with("one lacks a resource (resource went wrong) and pauses until test t1"), "{reason}");
    world.settled();
    // The loop obeys, and the time passes.
    world
        .db
        .write(|tx| {
            let one = "one".parse()?;
            let pauses = tx.settle_pauses(&one)?;
            tx.apply_pauses(&one, &pauses)
        })
        .unwrap();
    world.settled();
    world.sql("UPDATE tests SET not_before = datetime('now', '-1 second') WHERE id = 't1'");
    world.once();
    assert_eq!(world.requests(), "pause_requested|one\nresume_requested|one");
    world.all_explained();
    world.settled();
}

#[test]
fn a_dependency_is_waited_for_and_then_asked_about() {
    let world = world();
    for _ in 0..10 {
        fail(&world, "one", ErrorCategory::Dependency);
        world.once();
    }
    assert_eq!(world.sql("SELECT count(*) FROM decisions"), "0");
    fail(&world, "one", ErrorCategory::Dependency);
    world.once();
    let summary = world.sql("SELECT summary FROM decisions");
    assert!(summary.contains("waits for an external dependency; 11 attempts in 30 minutes failed: dependency"), "{summary}");
    assert_eq!(world.sql("SELECT default_option FROM decisions"), "wait");
    world.settled();
}

#[test]
fn an_error_of_the_system_in_two_loops_stops_every_loop_until_an_answer() {
    let world = world();
    fail(&world, "one", ErrorCategory::System);
    world.once();
    let alert = "SELECT severity, alert_type, message FROM alerts WHERE closed_at IS NULL AND source = 'pm'";
    assert_eq!(world.sql(alert), "error|resource|a system error stops test t1 of one: system went wrong");
    assert_eq!(world.requests(), "");
    fail(&world, "one", ErrorCategory::System);
    world.once();
    assert_eq!(world.requests(), "", "one loop's trouble is its own");
    fail(&world, "two", ErrorCategory::System);
    world.once();
    assert_eq!(world.requests(), "pause_requested|one\npause_requested|two");
    world.settled();
    world.answer("system", "go_on");
    world
        .db
        .write(|tx| {
            for id in ["one", "two"] {
                let id = id.parse()?;
                let pauses = tx.settle_pauses(&id)?;
                tx.apply_pauses(&id, &pauses)?;
            }
            Ok::<_, coord_db::Error>(())
        })
        .unwrap();
    world.once();
    assert_eq!(world.requests(), "pause_requested|one\npause_requested|two\nresume_requested|one\nresume_requested|two");
    world.all_explained();
    world.settled();
    // It works again: the alert is over.
    world.sql("UPDATE tests SET error_category = NULL");
    world.once();
    assert_eq!(world.sql(alert), "");
}

#[test]
fn what_is_too_much_for_one_is_shared_with_who_has_nothing_to_do() {
    let world = World::filled(
        "INSERT INTO loops(id, name, priority, status, updated_at) VALUES ('full', '', 1, 'running', datetime('now')),
           ('idle', '', 1, 'running', datetime('now', '-301 seconds')), ('new', '', 1, 'running', datetime('now'));
         INSERT INTO component_health(component, last_heartbeat, status) VALUES ('full', datetime('now'), 'healthy'),
           ('idle', datetime('now'), 'healthy'), ('new', datetime('now'), 'healthy');
         INSERT INTO tests(id, loop_id, status, attempts) VALUES ('hand', 'full', 'in_progress', 1);
         INSERT INTO tests(id, loop_id) VALUES ('q1', 'full'), ('q2', 'full'), ('q3', 'full'), ('q4', 'full'), ('q5', 'full');",
    );
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM tests WHERE loop_id = 'full'"), "6", "five waiting are not too much");
    world.sql("INSERT INTO tests(id, loop_id) VALUES ('q6', 'full')");
    world.once();
    assert_eq!(
        world.sql("SELECT loop_id, group_concat(id) FROM tests WHERE status = 'pending' GROUP BY loop_id"),
        "full|q1,q2,q3\nidle|q4,q5,q6"
    );
    assert_eq!(
        world.sql("SELECT severity, message FROM alerts"),
        "info|full had 6 tests in its queue while other loops were idle; its tests were moved: q4 to idle, q5 to idle, q6 to idle"
    );
    world.settled();
}
