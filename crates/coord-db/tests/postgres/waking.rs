//! Waking by the server.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use coord_db::Error;
use coord_db::wake::{Listener, Wake, Watcher, Woken};
use test_support::{BOUND, Postgres};

use super::{new_database, note};

/// A watcher of a database, and what it was woken by.
fn watch(address: &str) -> (Watcher, mpsc::Receiver<Wake>) {
    let (sender, wakes) = mpsc::channel();
    let watcher = Watcher::new(Path::new(address), move |wake| sender.send(wake).unwrap_or_default()).unwrap();
    (watcher, wakes)
}

#[test]
fn each_commit_wakes_also_a_foreign_one_and_a_quiet_one_does_not() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let (_watcher, wakes) = watch(&address);
    for _ in 0..3 {
        db.write(|tx| tx.publish(&note("own"))).unwrap();
        assert_eq!(wakes.recv_timeout(BOUND), Ok(Wake::Bell));
    }
    server.sql(&address, "INSERT INTO loops (id) VALUES ('l')");
    assert_eq!(wakes.recv_timeout(BOUND), Ok(Wake::Bell));
    // What is not committed, and what nobody waits for, comes before what is heard next.
    let undone = db.write(|tx| {
        tx.publish(&note("undone"))?;
        Err::<(), _>(Error::Refused("measured".to_owned()))
    });
    assert!(undone.is_err());
    db.write_quietly(|tx| tx.publish(&note("quiet"))).unwrap();
    db.write(|tx| tx.publish(&note("loud"))).unwrap();
    assert_eq!(wakes.recv_timeout(BOUND), Ok(Wake::Bell));
    assert_eq!(wakes.recv_timeout(Duration::from_millis(100)), Err(mpsc::RecvTimeoutError::Timeout));
}

#[test]
fn a_connection_that_listens_again_is_a_wake() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let (_watcher, wakes) = watch(&address);
    server.sql(
        &address,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'",
    );
    assert_eq!(wakes.recv_timeout(BOUND), Ok(Wake::Bell));
    db.write(|tx| tx.publish(&note("heard"))).unwrap();
    assert_eq!(wakes.recv_timeout(BOUND), Ok(Wake::Bell));
}

#[test]
fn a_listener_hears_the_server_and_ends_with_its_connection() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let listening = || {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        server.sql(&address, query)
    };
    let mut listener = Listener::new(Path::new(&address));
    assert_eq!(listening(), "1");
    db.write(|tx| tx.publish(&note("heard"))).unwrap();
    assert_eq!(listener.wait(Duration::from_secs(4)), Woken::By(Wake::Bell));
    drop(listener);
    test_support::wait_until_equal("its connection", "0", listening);
}

#[test]
fn where_no_server_answers_nobody_listens() {
    assert!(matches!(Watcher::new(Path::new("postgres://me@127.0.0.1:1/loops"), |_| ()), Err(Error::Unreachable { .. })));
}
