//! The journal's own state machine, through the operations and past them, and what earlier versions have written.

use std::sync::Arc;

use coord_db::process::ProcessIdentity;
use coord_db::{Database, Error, JournalEntry, JournalStatus, JournalSteps, LoopId, ManualClock, owned_intent};
use serde_json::{Value, json};
use test_support::{NOW, Postgres, new_loop};

fn world() -> Database {
    let db = test_support::in_memory(Arc::new(ManualClock::new(NOW)));
    let new = new_loop("a");
    db.write(|tx| tx.add_loop(&new)).unwrap();
    db
}

fn begin(db: &Database, intent: &Value) -> String {
    let id = "a".parse().unwrap();
    db.write_durably(|tx| tx.begin_operation("move", "a", Some(&id), intent, None)).unwrap()
}

fn entry(db: &Database, id: &str) -> JournalEntry {
    db.read(|tx| tx.journal_entry(id)).unwrap().unwrap()
}

fn row(db: &Database) -> Vec<Vec<Option<String>>> {
    db.query_foreign("SELECT * FROM transaction_log").unwrap()
}

fn illegal<T: std::fmt::Debug>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::IllegalMove { .. }))
}

#[test]
fn an_entry_is_settled_once_and_gets_on_only_before() {
    for first in [true, false] {
        let db = world();
        let id = begin(&db, &json!({"branch": "b"}));
        db.write(|tx| tx.note_step(&id, "made", json!({"commit": "c0ffee"}))).unwrap();
        db.write(|tx| tx.note_step(&id, "moved", Value::Null)).unwrap();
        assert_eq!(db.read(|tx| tx.open_journal(Some("a"))).unwrap(), [entry(&db, &id)]);
        assert!(db.write(|tx| tx.end_operation(&id, first)).unwrap());
        let settled = entry(&db, &id);
        assert_eq!(settled.status, if first { JournalStatus::Committed } else { JournalStatus::RolledBack });
        assert!(settled.completed_at.is_some() && settled.steps.has("made") && settled.steps.has("moved"));
        assert_eq!(settled.steps.done[0].detail["commit"], "c0ffee");
        let before = row(&db);
        assert!(!db.write(|tx| tx.end_operation(&id, first)).unwrap());
        assert!(illegal(&db.write(|tx| tx.end_operation(&id, !first))));
        assert!(illegal(&db.write(|tx| tx.note_step(&id, "late", Value::Null))));
        assert!(illegal(&db.write(|tx| tx.update_steps(&id, &json!({})))));
        assert_eq!(row(&db), before);
        assert_eq!(db.read(|tx| tx.open_journal(None)).unwrap(), []);
        assert_eq!(db.read(|tx| tx.journal(Some("a"), 10)).unwrap(), [settled]);
        assert_eq!(db.read(|tx| tx.journal(Some("b"), 10)).unwrap(), []);
    }
    let db = world();
    assert!(matches!(db.write(|tx| tx.end_operation("none", true)), Err(Error::NotFound { .. })));
    assert!(matches!(db.write(|tx| tx.note_step("none", "s", Value::Null)), Err(Error::NotFound { .. })));
}

#[test]
fn every_pair_of_states_is_in_the_table_or_not() {
    use JournalStatus::{Committed, InProgress, RolledBack};
    for from in JournalStatus::ALL {
        for to in JournalStatus::ALL {
            assert_eq!(from.may_become(*to), *from == InProgress && matches!(to, Committed | RolledBack), "{from} to {to}");
        }
    }
}

#[test]
fn steps_are_an_array_of_the_intent_and_what_is_done() {
    let db = world();
    let id = begin(&db, &json!({"branch": "b"}));
    db.write(|tx| tx.note_step(&id, "made", json!({"commit": "c"}))).unwrap();
    db.write(|tx| tx.update_steps(&id, &json!({"branch": "b", "progress": 1}))).unwrap();
    let shape = "SELECT json_type(steps), json_array_length(steps), json_extract(steps, '$[0].progress'),
                   json_extract(steps, '$[1].step'), json_extract(steps, '$[1].commit') FROM transaction_log";
    let texts: Vec<String> = db.query_foreign(shape).unwrap().remove(0).into_iter().flatten().collect();
    assert_eq!(texts, ["array", "2", "1", "made", "c"]);
    let shown = serde_json::to_value(entry(&db, &id)).unwrap();
    assert_eq!(shown["steps"][0], json!({"branch": "b", "progress": 1}));
    assert_eq!(shown["steps"][1]["at"], "2027-01-15T08:00:00.000Z");

    // As an earlier version wrote it, and as an external tool may.
    db.execute_foreign(
        r#"INSERT INTO transaction_log (id, operation, component, steps) VALUES ('old', 'integrate', 'a', '{"commit": "c0ffee"}');
           INSERT INTO transaction_log (id, operation, component) VALUES ('bare', 'x', 'a');
           INSERT INTO transaction_log (id, operation, component, steps) VALUES ('odd', 'x', 'a', '["begin", 7, {"step": 1}]');"#,
    )
    .unwrap();
    assert_eq!(entry(&db, "old").steps.text("commit"), Some("c0ffee"));
    assert_eq!((entry(&db, "bare").steps.intent, entry(&db, "odd").steps.intent), (Value::Null, json!("begin")));
    for id in ["old", "bare", "odd"] {
        db.write(|tx| tx.note_step(id, "made", Value::Null)).unwrap();
        assert_eq!(entry(&db, id).steps.done.len(), 1);
        assert!(db.write(|tx| tx.end_operation(id, true)).unwrap());
    }
    assert_eq!(entry(&db, "old").steps.text("commit"), Some("c0ffee"));
}

#[test]
fn a_matter_is_begun_once() {
    let db = world();
    let once = |intent: Value| db.write(|tx| tx.begin_operation_once("notify:1", "notify", "pm", &intent, None)).unwrap();
    assert!(once(json!({"n": 1})));
    assert!(!once(json!({"n": 2})));
    db.write(|tx| tx.end_operation("notify:1", false)).unwrap();
    assert!(!once(json!({"n": 3})));
    assert_eq!(entry(&db, "notify:1").steps.intent, json!({"n": 1}));
}

#[test]
fn while_its_process_lives_an_entry_is_left_to_it() {
    let db = world();
    let own = ProcessIdentity::own();
    let by = |owner: &ProcessIdentity| entry(&db, &begin(&db, &owned_intent(json!({}), owner, None))).steps;
    let is_owned_by_other =
        |steps: &JournalSteps, asker: &ProcessIdentity| db.read(|tx| tx.is_owned_by_other(steps, asker)).unwrap();
    let mine = by(&own);
    assert_eq!(mine.owner().as_ref(), Some(&own));
    assert!(!is_owned_by_other(&mine, &own));
    let other = ProcessIdentity { pid: own.pid + 1, ..own.clone() };
    assert!(is_owned_by_other(&mine, &other));
    let former = ProcessIdentity { pid_start_time: own.pid_start_time.map(|time| time - 1), ..own.clone() };
    assert!(!is_owned_by_other(&by(&former), &other));
    let earlier_boot = ProcessIdentity { boot_id: Some("earlier".to_owned()), ..own };
    assert!(!is_owned_by_other(&by(&earlier_boot), &other));
    assert!(!is_owned_by_other(&entry(&db, &begin(&db, &json!({}))).steps, &other));
}

#[test]
fn an_entry_of_another_host_is_left_to_its_process_until_its_loop_is_dead_or_has_another() {
    let db = world();
    let own = ProcessIdentity::own();
    let id: LoopId = "away".parse().unwrap();
    db.write(|tx| tx.add_loop(&new_loop("away"))).unwrap();
    let away = ProcessIdentity {
        pid: 77,
        boot_id: Some("another".to_owned()),
        host: Some("build-3/1a2b3c4d".to_owned()),
        ..own.clone()
    };
    let is_owned = |runs_as: Option<&LoopId>| {
        let steps = entry(&db, &begin(&db, &owned_intent(json!({}), &away, runs_as))).steps;
        assert_eq!(steps.owner().as_ref(), Some(&away));
        db.read(|tx| tx.is_owned_by_other(&steps, &own)).unwrap()
    };
    db.write(|tx| tx.start_loop(&id, &away, "1")).unwrap();
    let refused = db.write(|tx| tx.start_loop(&id, &own, "1")).unwrap_err().to_string();
    assert!(refused.contains("pid 77 on build-3"), "{refused}");
    assert!(is_owned(Some(&id)));
    // Silent for long, and found dead by a heartbeat elsewhere.
    db.execute_foreign("UPDATE component_health SET last_heartbeat = '2020-01-01 00:00:00'").unwrap();
    assert!(is_owned(Some(&id)), "silence alone is no proof");
    db.execute_foreign("UPDATE component_health SET status = 'dead'").unwrap();
    assert!(!is_owned(Some(&id)));
    assert!(is_owned(None), "a command has no loop whose heartbeats say anything");
    db.write(|tx| tx.start_loop(&id, &own, "1")).unwrap();
    assert!(!is_owned(Some(&id)), "it has another process now");
    // The former one may come back.
    let component = coord_db::ComponentId::from(&id);
    let refused = db.write(|tx| tx.beat_of(&component, &away)).unwrap_err();
    assert!(matches!(&refused, Error::Replaced { process, .. } if *process == own.to_string()), "{refused}");
    db.write(|tx| tx.beat_of(&component, &own)).unwrap();
}

#[test]
fn silence_is_what_the_settings_say_and_a_namesake_is_never_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let (clock, own) = (Arc::new(ManualClock::new(NOW)), ProcessIdentity::own());
    let options = coord_db::OpenOptions { silent_seconds: 240, clock: clock.clone(), ..Default::default() };
    let db = Database::create(&path, &options).unwrap();
    let id: LoopId = "away".parse().unwrap();
    // Its name and machine id are this host's, as on a copied disk image.
    let namesake = ProcessIdentity { boot_id: Some("another".to_owned()), ..own.clone() };
    db.write(|tx| {
        tx.add_loop(&new_loop("a"))?;
        tx.add_loop(&new_loop("away"))?;
        tx.start_loop(&id, &namesake, "1")
    })
    .unwrap();
    let runs = || db.read(|tx| tx.running_process("away", &own)).unwrap();
    let steps = entry(&db, &begin(&db, &owned_intent(json!({}), &namesake, Some(&id)))).steps;
    clock.advance_millis(239_000);
    assert_eq!(runs(), Some(namesake));
    assert!(db.read(|tx| tx.is_owned_by_other(&steps, &own)).unwrap());
    clock.advance_millis(2_000);
    assert_eq!(runs(), None);
    assert!(db.read(|tx| tx.is_owned_by_other(&steps, &own)).unwrap(), "silence alone is no proof");
    // A beat from before this host has started is of its earlier boot.
    db.execute_foreign("UPDATE component_health SET last_heartbeat = '2020-01-01 00:00:00'").unwrap();
    assert!(!db.read(|tx| tx.is_owned_by_other(&steps, &own)).unwrap());
}

#[test]
fn foreign_hands_keep_to_it_too() {
    let db = world();
    let id = begin(&db, &json!({"branch": "b"}));
    let refused = |sql: &str, because: &str| {
        let before = row(&db);
        let error = db.execute_foreign(sql).unwrap_err();
        let text = coord_db::error_chain(&error);
        assert!(text.contains(because), "{sql}: {text}");
        assert_eq!(row(&db), before, "{sql}");
    };
    refused("DELETE FROM transaction_log", "is settled, not deleted");
    refused("UPDATE transaction_log SET operation = 'other'", "stands as it was written");
    refused("UPDATE transaction_log SET component = 'b'", "stands as it was written");
    refused("UPDATE transaction_log SET status = 'committed'", "constraint");
    let or_replace = if Postgres::under_test().is_some() { "" } else { "OR REPLACE" };
    refused(&format!("INSERT {or_replace} INTO transaction_log (id, operation) VALUES ('{id}', 'x')"), "exists already");
    db.execute_foreign("UPDATE transaction_log SET status = 'rolled_back', completed_at = datetime('now')").unwrap();
    refused("UPDATE transaction_log SET status = 'in_progress', completed_at = NULL", "does not change");
    refused("UPDATE transaction_log SET steps = '[]'", "does not change");
    // What is settled may be archived.
    db.execute_foreign("DELETE FROM transaction_log").unwrap();
}
