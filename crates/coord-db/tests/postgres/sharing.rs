//! One writer at a time, one clock, and texts that PostgreSQL cannot hold.

use std::time::Instant;

use coord_db::{Clock, ClockReading, Error, ManualClock, OpenOptions, SystemClock, Timestamp};
use test_support::{NOW, Postgres, wait_until};

use super::{new_database, note, notes, open};

#[test]
fn one_writes_at_a_time_and_waiting_has_an_end() {
    let Some((db, address)) = new_database() else { return };
    let other = open(&address).unwrap();
    db.write(|tx| {
        let began = Instant::now();
        let refused = other.write(|tx| tx.publish(&note("other"))).unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }) && refused.is_temporary(), "{refused}");
        assert!((300..3_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        // Readers wait for nobody.
        assert_eq!(notes(&other), Vec::<String>::new());
        tx.publish(&note("own"))
    })
    .unwrap();
    other.write(|tx| tx.publish(&note("other"))).unwrap();
    assert_eq!(notes(&db), ["own", "other"]);
}

#[test]
fn a_reader_sees_one_state_whatever_others_commit() {
    let Some((db, address)) = new_database() else { return };
    let other = open(&address).unwrap();
    let events = |tx: &coord_db::ReadTx<'_>| tx.events(&coord_db::EventFilter::default()).map(|events| events.len());
    db.read(|tx| {
        let before = events(tx)?;
        other.write(|tx| tx.publish(&note("meanwhile")))?;
        assert_eq!(events(tx)?, before);
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(notes(&db), ["meanwhile"]);
}

#[test]
fn psql_waits_for_the_same_lock() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let insert =
        "INSERT INTO events (id, source, event_type, payload) VALUES ('p', 'x', 'custom.note', '{\"text\": \"psql\"}')";
    std::thread::scope(|scope| {
        let psql = db
            .write(|tx| {
                let psql = scope.spawn(|| server.sql(&address, insert));
                let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
                wait_until("psql waits", || server.sql(&address, waiting) == "1");
                tx.publish(&note("own"))?;
                Ok::<_, Error>(psql)
            })
            .unwrap();
        psql.join().unwrap();
    });
    assert_eq!(notes(&db), ["own", "psql"]);
}

#[test]
fn a_stalled_holder_loses_its_transaction_and_the_lock() {
    let Some((db, address)) = new_database() else { return };
    let other = open(&address).unwrap();
    let stalled = db.write(|tx| {
        tx.publish(&note("stalled"))?;
        wait_until("the lock is free", || other.write(|tx| tx.publish(&note("other"))).is_ok());
        tx.publish(&note("late"))
    });
    assert!(matches!(stalled, Err(Error::Unreachable { .. })), "{stalled:?}");
    db.write(|tx| tx.publish(&note("again"))).unwrap();
    assert_eq!(notes(&db), ["other", "again"]);
}

#[test]
fn time_is_the_servers_and_never_goes_back_at_once() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let now = || db.write(|tx| Ok::<_, Error>(tx.now())).unwrap();
    let ahead = |seconds: i64| {
        let set =
            format!("SELECT setval('moment', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + {seconds}000)");
        Timestamp::from_millis(server.sql(&address, &set).parse().unwrap())
    };
    // A server that is a little behind the last writer's waits for it.
    let last = ahead(3);
    assert_eq!((now(), now()), (last, last));
    assert_eq!(db.read(|tx| Ok::<_, Error>(tx.now())).unwrap(), last);
    // One that is an hour behind does not stand still for an hour.
    let last = ahead(3600);
    assert!(now() < last.plus_seconds(-3500));
    assert!(now() < last.plus_seconds(-3500));
    // A simulation brings its own time.
    let clock = ManualClock::new(NOW);
    let options = OpenOptions { clock: std::sync::Arc::new(clock.clone()), ..OpenOptions::default() };
    let simulated = coord_db::Database::open(std::path::Path::new(&address), &options).unwrap();
    assert_eq!(simulated.write(|tx| Ok::<_, Error>(tx.now())).unwrap(), clock.now());
}

/// A host whose clock is wrong.
struct WrongClock(i64);

impl Clock for WrongClock {
    fn read(&self) -> ClockReading {
        let right = SystemClock.read();
        ClockReading { wall: right.wall.plus_seconds(self.0), ..right }
    }

    fn yields_to_server(&self) -> bool {
        true
    }
}

#[test]
fn a_host_whose_clock_is_wrong_has_the_servers_time_between_transactions_too() {
    let Some((_, address)) = new_database() else { return };
    for seconds in [3600, -3600] {
        let options = OpenOptions { clock: std::sync::Arc::new(WrongClock(seconds)), ..OpenOptions::default() };
        let db = coord_db::Database::open(std::path::Path::new(&address), &options).unwrap();
        let is_right = |time: Timestamp| time.millis_since(SystemClock.now()).abs() < 60_000;
        assert!(is_right(db.now()), "{:?}", db.now());
        assert!(is_right(db.write(|tx| Ok::<_, Error>(tx.now())).unwrap()));
        // A file that was written now.
        let written = SystemClock.now().plus_seconds(seconds);
        assert!(is_right(written.plus_millis(db.ahead_of_host())));
        // Its clocks are looked at again when that is due by its own clock.
        db.write(|tx| tx.observe_clock(30)).unwrap();
        assert!(is_right(db.read(|tx| tx.clock_seen_at()).unwrap().unwrap()));
        // Time goes on without a transaction.
        let before = db.now();
        wait_until("the next millisecond", || db.now() > before);
    }
}

#[test]
fn time_that_restarts_is_recorded_once_and_gives_leases_grace() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let other = open(&address).unwrap();
    db.write(|tx| tx.observe_clock(30)).unwrap();
    server.sql(&address, "INSERT INTO clock VALUES ('elsewhere', 'b', 0, 0, 0, NULL)");
    server.sql(&address, "SELECT setval('moment', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + 3600000)");
    let recorded = || {
        server.sql(&address, "SELECT host = 'elsewhere', millis < -3590000, seen_at < utc_now() FROM clock_changes ORDER BY 1")
    };
    // Readers do not stand still either, and a transaction that is rolled back leaves it to the next one.
    assert!(db.read(|tx| Ok::<_, Error>(tx.now())).unwrap() < SystemClock.now().plus_seconds(60));
    assert!(!db.read(|tx| tx.in_clock_grace()).unwrap());
    db.write(|_| Err::<(), _>(Error::Refused("undone".to_owned()))).unwrap_err();
    assert_eq!(recorded(), "");
    let seen = other.data_version().unwrap();
    db.write_quietly(|tx| tx.publish(&note("first"))).unwrap();
    assert_ne!(other.data_version().unwrap(), seen);
    assert_eq!(recorded(), "f|t|t\nt|t|t");
    assert!(db.read(|tx| tx.in_clock_grace()).unwrap());
    let said = "SELECT payload::json ->> 'comment' FROM events WHERE event_type = 'human_message'";
    assert!(
        server.sql(&address, said).starts_with("the clock of the PostgreSQL server is 3"),
        "{}",
        server.sql(&address, said)
    );
    // Time goes on from there, for psql as well, and nothing more is recorded.
    db.write(|tx| tx.publish(&note("second"))).unwrap();
    server.sql(&address, "INSERT INTO loops (id) VALUES ('l')");
    assert_eq!((recorded().lines().count(), server.sql(&address, said).lines().count()), (2, 1));
    assert!(server.sql(&address, "SELECT last_value < extract(epoch FROM clock_timestamp()) * 1000 + 1000 FROM moment") == "t");
    // A second time, and by psql.
    server.sql(&address, "SELECT setval('moment', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + 3600000)");
    server.sql(&address, "UPDATE loops SET priority = 2");
    assert_eq!(recorded().lines().count(), 4);
    assert_eq!(notes(&db), ["first", "second"]);
    assert_eq!(db.check().unwrap(), []);
}

#[test]
fn only_what_nobody_waits_for_is_not_durable() {
    let Some((db, _)) = new_database() else { return };
    let setting = || Ok::<_, Error>(db.query_foreign("SHOW synchronous_commit")?.remove(0).remove(0).unwrap());
    assert_eq!(db.write(|_| setting()).unwrap(), "on");
    assert_eq!(db.write_durably(|_| setting()).unwrap(), "on");
    assert_eq!(db.write_quietly(|_| setting()).unwrap(), "off");
}

#[test]
fn a_change_of_another_connection_is_seen_by_its_number() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let other = open(&address).unwrap();
    let changes = |change: &dyn Fn()| {
        let before = db.data_version().unwrap();
        // Two writers of one millisecond have one moment.
        let before_change = SystemClock.now();
        wait_until("the next millisecond", || SystemClock.now() > before_change);
        change();
        db.data_version().unwrap() != before
    };
    assert!(!changes(&|| ()));
    assert!(!changes(&|| drop(db.write(|tx| tx.publish(&note("own"))).unwrap())));
    assert!(changes(&|| drop(other.write(|tx| tx.publish(&note("other"))).unwrap())));
    assert!(changes(&|| drop(server.sql(&address, "INSERT INTO loops (id) VALUES ('l')"))));
}

#[test]
fn texts_that_postgres_cannot_hold_are_kept_as_the_nearest_thing() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    db.write(|tx| tx.publish(&note("a\0b"))).unwrap();
    let mut loop_row = test_support::new_loop("l");
    loop_row.name = "a\0b".to_owned();
    db.write(|tx| tx.add_loop(&loop_row)).unwrap();
    assert_eq!(server.sql(&address, "SELECT name FROM loops"), "a\u{fffd}b");
    // JSON holds it escaped, and what reads a value from it sees the same.
    assert_eq!(notes(&db), ["a\0b"]);
    assert_eq!(server.sql(&address, "SELECT json_extract(payload, '$.text') FROM events WHERE source = 'x'"), "a\u{fffd}b");
    for (json, text) in [
        (r#"["\u0000\\u0000"]"#, "\u{fffd}\\u0000"),
        (r#"["\ud83d\ude00"]"#, "\u{1f600}"),
        (r#"["\ud83d"]"#, "\u{fffd}"),
        (r#"["\ude00x"]"#, "\u{fffd}x"),
    ] {
        assert_eq!(server.sql(&address, &format!("SELECT json_extract('{json}', '$[0]')")), text, "{json}");
    }
}

#[test]
fn a_failure_that_is_hidden_is_not_committed() {
    let Some((db, _)) = new_database() else { return };
    let refused = db.write(|tx| {
        tx.publish(&note("before"))?;
        let _ = db.execute_foreign("SELECT no_such_column FROM events");
        Ok::<_, Error>(())
    });
    assert!(refused.is_err());
    assert_eq!(notes(&db), Vec::<String>::new());
}
