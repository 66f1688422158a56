//! One process at a time is a supervisor: one whose connection has ended is replaced at once, one that is silent is thrown out, and
//! a process that was replaced writes no more.

use coord_db::process::ProcessIdentity;
use coord_db::{ComponentId, Database, Error, Result};
use test_support::{Postgres, wait_until};

use super::{new_database, open};

fn monitor() -> ComponentId {
    "monitor".parse().unwrap()
}

/// A process of another machine.
fn process(host: &str) -> ProcessIdentity {
    let elsewhere = |name: &str| Some(format!("{name}/1a2b3c4d"));
    ProcessIdentity { pid: 77, boot_id: elsewhere(host), host: elsewhere(host), ..ProcessIdentity::own() }
}

fn begin(db: &Database, process: &ProcessIdentity) -> Result<()> {
    db.claim_component(&monitor(), process)?;
    db.write(|tx| tx.start_component(&monitor(), process, "1")).map(drop)
}

fn beat(db: &Database, process: &ProcessIdentity) -> Result<()> {
    db.write(|tx| tx.beat_of(&monitor(), process))
}

fn runs_elsewhere(error: &Error) -> bool {
    matches!(error, Error::AlreadyRunning { is_elsewhere: true, .. })
}

/// Ends all sessions of a database but psql's own, as the server does when it is restarted.
fn cut(server: &Postgres, address: &str) {
    let others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    server.sql(address, &format!("SELECT pg_terminate_backend(pid) {others}"));
    wait_until("the sessions have ended", || server.sql(address, &format!("SELECT count(*) {others}")) == "0");
}

#[test]
fn a_process_whose_connection_has_ended_is_replaced_at_once() {
    let Some((first, address)) = new_database() else { return };
    let (a, b) = (process("a"), process("b"));
    begin(&first, &a).unwrap();
    let second = open(&address).unwrap();
    let refused = begin(&second, &b).unwrap_err();
    assert!(runs_elsewhere(&refused), "{refused}");
    assert_eq!(refused.to_string(), "monitor is running already as pid 77 on a");
    drop(first);
    wait_until("the place is free", || begin(&second, &b).is_ok());
    beat(&second, &b).unwrap();
}

#[test]
fn a_process_that_connects_again_keeps_its_place_unless_another_one_has_it() {
    let (Some(server), Some((first, address))) = (Postgres::get(), new_database()) else { return };
    let (a, b) = (process("a"), process("b"));
    begin(&first, &a).unwrap();
    cut(server, &address);
    beat(&first, &a).unwrap();
    let second = open(&address).unwrap();
    assert!(runs_elsewhere(&begin(&second, &b).unwrap_err()), "it has claimed its place again");
    cut(server, &address);
    begin(&second, &b).unwrap();
    for _ in 0..2 {
        let replaced = beat(&first, &a).unwrap_err();
        assert!(matches!(replaced, Error::Replaced { .. }), "{replaced}");
    }
    beat(&second, &b).unwrap();
}

#[test]
fn a_silent_process_is_thrown_out_although_it_is_connected() {
    let (Some(server), Some((first, address))) = (Postgres::get(), new_database()) else { return };
    let (a, b) = (process("a"), process("b"));
    begin(&first, &a).unwrap();
    server.sql(&address, "UPDATE component_health SET last_heartbeat = '2001-01-01 00:00:00.000'");
    let second = open(&address).unwrap();
    begin(&second, &b).unwrap();
    let replaced = beat(&first, &a).unwrap_err();
    assert!(matches!(replaced, Error::Replaced { .. }), "{replaced}");
    beat(&second, &b).unwrap();
}

#[test]
fn a_second_copy_on_the_same_machine_is_refused_even_while_the_first_is_not_connected() {
    let (Some(server), Some((first, address))) = (Postgres::get(), new_database()) else { return };
    let own = ProcessIdentity::own();
    begin(&first, &own).unwrap();
    let mut sleeper = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let other = ProcessIdentity::of(i64::from(sleeper.id()));
    let second = open(&address).unwrap();
    cut(server, &address);
    let refused = begin(&second, &other).unwrap_err();
    assert!(matches!(refused, Error::AlreadyRunning { is_elsewhere: false, .. }), "{refused}");
    beat(&first, &own).unwrap();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}
