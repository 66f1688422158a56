use std::sync::Arc;

use coord_db::{Database, ManualClock};
use proptest::prelude::*;
use test_support::NOW;

use super::*;

fn database() -> (Database, ManualClock) {
    let clock = ManualClock::new(NOW);
    (Database::in_memory(Arc::new(clock.clone())).unwrap(), clock)
}

fn look(db: &Database, memory: &mut Memory) -> DetectorSnapshot {
    let (snapshot, next) = db.read(|tx| load(tx, &DeadlockConfig::default(), memory)).unwrap();
    *memory = next;
    snapshot
}

fn insert(waiter: &str, holder: &str) -> String {
    format!("INSERT OR IGNORE INTO wait_graph(waiter, holder, resource) VALUES ('{waiter}', '{holder}', 'r');")
}

/// Ten thousand edges that are part of no cycle: a crowd behind one loop, and a long queue.
fn standing(db: &Database) {
    let crowd = (0..5_000).map(|at| insert(&format!("crowd{at}"), "hub"));
    let queue = (0..5_000).map(|at| insert(&format!("queue{at}"), &format!("queue{}", at + 1)));
    let sql: String = crowd.chain(queue).collect();
    db.execute_foreign(&format!("BEGIN; {sql} COMMIT;")).unwrap();
}

#[test]
fn standing_edges_are_read_once_and_not_again() {
    let (db, _) = database();
    standing(&db);
    let mut memory = Memory::default();
    assert_eq!(look(&db, &mut memory).edges_read, 10_000);
    assert_eq!(look(&db, &mut memory).edges_read, 0);
    db.execute_foreign(&(insert("a", "b") + &insert("b", "a"))).unwrap();
    let snapshot = look(&db, &mut memory);
    assert_eq!((snapshot.edges_read, snapshot.edges.len()), (2, 2));
    // The cycle is watched from now on, and nothing else is.
    assert_eq!(look(&db, &mut memory).edges_read, 2);
    db.execute_foreign("DELETE FROM wait_graph WHERE waiter = 'b'").unwrap();
    assert_eq!(look(&db, &mut memory).edges.len(), 0);
    assert_eq!(look(&db, &mut memory).edges_read, 0);
}

#[test]
fn a_cycle_through_a_loop_that_a_crowd_waits_for_does_not_read_the_crowd() {
    let (db, _) = database();
    standing(&db);
    let mut memory = Memory::default();
    look(&db, &mut memory);
    db.execute_foreign(&(insert("hub", "a") + &insert("a", "hub"))).unwrap();
    let snapshot = look(&db, &mut memory);
    assert_eq!((snapshot.edges_read, snapshot.edges.len()), (2, 2));
}

#[test]
fn who_joins_a_long_queue_does_not_read_all_of_it() {
    let (db, _) = database();
    standing(&db);
    let mut memory = Memory::default();
    look(&db, &mut memory);
    db.execute_foreign(&insert("late", "queue0")).unwrap();
    assert!(look(&db, &mut memory).edges_read < 1_000);
}

#[test]
fn everything_is_read_now_and_then_and_after_the_numbers_went_back() {
    let (db, clock) = database();
    let mut memory = Memory::default();
    look(&db, &mut memory);
    db.execute_foreign(&(insert("a", "b") + &insert("c", "a"))).unwrap();
    look(&db, &mut memory);
    // An external tool turns an edge around in place: it gets no new number.
    db.execute_foreign("UPDATE wait_graph SET waiter = 'b', holder = 'c' WHERE waiter = 'a'").unwrap();
    db.execute_foreign("UPDATE wait_graph SET holder = 'b' WHERE waiter = 'c'").unwrap();
    clock.advance_millis(59_999);
    assert_eq!(look(&db, &mut memory).edges.len(), 0);
    clock.advance_millis(1);
    assert_eq!(look(&db, &mut memory).edges.len(), 2);

    let (db, _) = database();
    let mut memory = Memory::default();
    db.execute_foreign(&(insert("a", "b") + &insert("b", "a"))).unwrap();
    memory.full_scan_at = Some(db.now());
    memory.last_edge = 99;
    assert_eq!(look(&db, &mut memory).edges.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens between two looks, and however many looks are left out, memory changes nothing.
    #[test]
    fn what_is_remembered_saves_reading_and_nothing_else(
        steps in prop::collection::vec((0_u8..4, 0_u8..6, 0_u8..6, any::<bool>()), 1..40)
    ) {
        let (db, _) = database();
        let mut memory = Memory::default();
        for (kind, from, to, looks) in steps {
            let sql = match kind {
                0 | 1 if from != to => insert(&format!("l{from}"), &format!("l{to}")),
                2 => format!("DELETE FROM wait_graph WHERE waiter = 'l{from}'"),
                3 => format!("DELETE FROM wait_graph WHERE holder = 'l{to}' AND waiter = 'l{from}'"),
                _ => continue,
            };
            db.execute_foreign(&sql).unwrap();
            if looks {
                let mut remembered = look(&db, &mut memory).edges;
                let mut fresh = look(&db, &mut Memory::default()).edges;
                remembered.sort_by_key(|edge| edge.seq);
                fresh.sort_by_key(|edge| edge.seq);
                prop_assert_eq!(remembered, fresh);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// As above, with tests that depend on each other, are claimed, end and ask for leave. What only a full scan finds
    /// (a loop comes to rest, a dependency that was reset) is found by memory later, and never the other way round.
    #[test]
    fn circles_of_tests_are_found_where_they_close(
        steps in prop::collection::vec((0_u8..7, 0_u8..5, 0_u8..5, any::<bool>()), 1..40)
    ) {
        let (db, _) = database();
        let loops: String = (0..5)
            .map(|id| format!("INSERT INTO loops(id, name, priority, status) VALUES ('l{id}', '', 1, 'running');
                               INSERT INTO tests(id, loop_id) VALUES ('t{id}', 'l{id}'), ('u{id}', 'l{id}');
                               INSERT INTO resources(path, owner_loop) VALUES ('r{id}', 'l{id}');"))
            .collect();
        db.execute_foreign(&loops).unwrap();
        let mut memory = Memory::default();
        look(&db, &mut memory);
        for (at, (kind, from, to, looks)) in steps.into_iter().enumerate() {
            let sql = match kind {
                0 if from != to => insert(&format!("l{from}"), &format!("l{to}")),
                1 if from != to => format!("UPDATE tests SET depends_on = 't{to}' WHERE id = 't{from}' AND status = 'pending'"),
                2 => format!("UPDATE tests SET depends_on = 't{to}' WHERE id = 'u{from}' AND status = 'pending'"),
                3 => format!("UPDATE tests SET status = 'in_progress' WHERE id = 't{from}'"),
                4 => format!("UPDATE tests SET status = 'pending' WHERE id = 't{from}'"),
                5 if from != to => format!(
                    "INSERT INTO change_requests(id, resource_path, requestor_loop, owner_loop) VALUES ('c{at}', 'r{to}', 'l{from}', 'l{to}');
                     INSERT INTO change_request_tests(test_id, request_id) VALUES ('u{from}', 'c{at}')"
                ),
                6 => format!("DELETE FROM wait_graph WHERE waiter = 'l{from}'"),
                _ => continue,
            };
            db.execute_foreign(&sql).unwrap();
            if looks {
                let remembered = look(&db, &mut memory);
                let fresh = look(&db, &mut Memory::default());
                prop_assert!(remembered.waits.iter().all(|wait| fresh.waits.contains(wait)));
                prop_assert!(remembered.edges.iter().all(|edge| fresh.edges.contains(edge)));
                // Cycles of nothing but tests close with a test that begins to wait.
                prop_assert_eq!(test_cycles(&remembered.waits), test_cycles(&fresh.waits));
            }
        }
    }
}
