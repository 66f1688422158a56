//! After a promotion that has lost transactions, nothing is given out a second time.

use coord_db::{Database, Error, FAILOVER_JUMP, OpenOptions};
use test_support::Postgres;

use super::{new_database, note, notes};

#[test]
fn every_number_advances_and_leases_have_grace() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let read = |query: &str| server.sql(&address, query);
    db.write(|tx| tx.observe_clock(30)).unwrap();
    read("INSERT INTO loops (id) VALUES ('a'); INSERT INTO migrations (number, name) VALUES (7, 'm')");
    let lease = |path: &str| {
        read(&format!("INSERT INTO file_locks (file_path, locked_by) VALUES ('{path}', 'a')"));
        read(&format!("SELECT fencing_token FROM file_locks WHERE file_path = '{path}'")).parse::<i64>().unwrap()
    };
    let stored = || -> i64 {
        read("INSERT INTO stores (cause, path) VALUES ('new', '/s')");
        read("SELECT max(rowid) FROM stores").parse().unwrap()
    };
    let has_failed_over = || db.server_facts().unwrap().unwrap().has_failed_over;
    let place = || read("SELECT max(rowid) FROM events").parse::<i64>().unwrap();
    db.write(|tx| tx.publish(&note("before"))).unwrap();
    let (token, number, at) = (lease("x"), stored(), place());
    assert!(!has_failed_over());
    read("UPDATE coding_loops_schema SET timeline = timeline + 1");
    assert!(has_failed_over());
    let done = db.continue_after_failover(60).unwrap();
    assert!(!has_failed_over());
    assert_eq!((done.fencing_token, done.migration_number), (token + FAILOVER_JUMP, 1007));
    assert!(lease("y") > token + FAILOVER_JUMP && stored() > number + FAILOVER_JUMP);
    db.write(|tx| tx.publish(&note("after"))).unwrap();
    assert!(place() > at + FAILOVER_JUMP);
    assert_eq!(notes(&db), ["before", "after"]);
    assert!(db.read(|tx| tx.in_clock_grace()).unwrap());
    let said = read(&format!("SELECT payload::json ->> 'comment' FROM events WHERE id = '{}'", done.event_id));
    assert!(said.contains(&format!("fencing tokens continue after {}", done.fencing_token)), "{said}");
    assert_eq!(db.check().unwrap(), []);
}

#[test]
fn the_first_writer_after_a_promotion_lets_the_numbers_advance() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let token = || server.sql(&address, "SELECT value FROM counters WHERE name = 'fencing_token'").parse::<i64>().unwrap();
    let (before, promoted) = (token(), "UPDATE coding_loops_schema SET timeline = timeline + 1");
    server.sql(&address, promoted);
    // What was promoted has ended all connections. One that reads changes nothing.
    let open = || super::open(&address).unwrap();
    let new = open();
    assert_eq!((notes(&new).len(), token()), (0, before));
    new.write(|_| Err::<(), _>(Error::Refused("undone".to_owned()))).unwrap_err();
    assert_eq!(token(), before);
    for _ in 0..2 {
        new.write_quietly(|tx| tx.publish(&note("after"))).unwrap();
        assert_eq!(token(), before + FAILOVER_JUMP);
    }
    open().write(|tx| tx.publish(&note("after"))).unwrap();
    assert_eq!(token(), before + FAILOVER_JUMP);
    // The command itself may be the first.
    server.sql(&address, promoted);
    assert_eq!(open().continue_after_failover(60).unwrap().fencing_token, before + 2 * FAILOVER_JUMP);
    assert_eq!(token(), before + 2 * FAILOVER_JUMP);
    assert_eq!(db.check().unwrap(), []);
}

#[test]
fn a_file_has_no_standby() {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::create(&folder.path().join("coordination.db"), &OpenOptions::default()).unwrap();
    assert!(matches!(db.continue_after_failover(60), Err(Error::Refused(why)) if why.contains("has no standby")));
}
