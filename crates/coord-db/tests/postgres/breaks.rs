//! Connections that break, before, while and after a commit: what took place is known, or the process is not to go on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use coord_db::{Database, Error};
use test_support::Postgres;

use super::{new_database, note, notes, open};

/// What happens to the next connection that sends COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Cut {
    Never,
    /// The server does not hear of it.
    Before,
    /// The client does not hear the answer.
    After,
    /// As `Before`, and the server cannot be reached any more.
    ForGood,
    /// It takes no connection.
    Closed,
}

/// A relay between clients and the server, which cuts connections.
struct Relay {
    cut: Arc<AtomicU8>,
    address: String,
}

impl Relay {
    fn new(server: &Postgres, address: &str) -> Self {
        let (listener, cut) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(AtomicU8::new(Cut::Never as u8)));
        let name = address.rsplit('/').next().unwrap();
        let address = format!("postgres://tests@{}/{name}", listener.local_addr().unwrap());
        let (socket, shared) = (server.socket(), Arc::clone(&cut));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, socket, cut) = (client.unwrap(), socket.clone(), Arc::clone(&shared));
                std::thread::spawn(move || relay(&client, socket, &cut));
            }
        });
        Self { cut, address }
    }

    fn set(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    fn has_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst) == Cut::Never as u8
    }
}

fn relay(client: &TcpStream, socket: PathBuf, cut: &AtomicU8) {
    let is = |wanted: Cut| cut.load(Ordering::SeqCst) == wanted as u8;
    if is(Cut::Closed) {
        return client.shutdown(Shutdown::Both).unwrap_or_default();
    }
    let server = UnixStream::connect(socket).unwrap();
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let (mut from, mut back, mut buffer) = (&server, client, [0; 65_536]);
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let unheard = is(Cut::After) && buffer[..length].windows(6).any(|part| part == b"COMMIT");
                if unheard {
                    cut.store(Cut::Never as u8, Ordering::SeqCst);
                }
                if unheard || back.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        });
        let (mut from, mut to, mut buffer) = (client, &server, [0; 65_536]);
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let commits = buffer[..length].windows(6).any(|part| part == b"COMMIT");
            if commits && (is(Cut::Before) || is(Cut::ForGood)) {
                let next = if is(Cut::ForGood) { Cut::Closed } else { Cut::Never };
                cut.store(next as u8, Ordering::SeqCst);
                break;
            }
            let is_last = commits && is(Cut::After);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
            if is_last {
                // The server's end of it is closed once it has answered.
                let _ = answers.join();
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// A database that is reached by way of a relay, and directly.
fn relayed() -> Option<(Relay, Database, Database)> {
    let (server, (direct, address)) = (Postgres::get()?, new_database()?);
    let relay = Relay::new(server, &address);
    let db = open(&relay.address).unwrap();
    Some((relay, db, direct))
}

#[test]
fn a_commit_that_the_server_never_heard_has_not_happened() {
    let Some((relay, db, direct)) = relayed() else { return };
    relay.set(Cut::Before);
    let lost = db.write(|tx| tx.publish(&note("lost"))).unwrap_err();
    assert!(matches!(lost, Error::Unreachable { .. }) && relay.has_cut(), "{lost}");
    db.write(|tx| tx.publish(&note("kept"))).unwrap();
    assert_eq!((notes(&db), notes(&direct)), (vec!["kept".to_owned()], vec!["kept".to_owned()]));
}

#[test]
fn a_commit_whose_answer_is_lost_has_happened() {
    let Some((relay, db, direct)) = relayed() else { return };
    relay.set(Cut::After);
    db.write(|tx| tx.publish(&note("kept"))).unwrap();
    assert!(relay.has_cut());
    db.write(|tx| tx.publish(&note("next"))).unwrap();
    assert_eq!(notes(&direct), ["kept", "next"]);
}

#[test]
fn a_commit_of_unknown_outcome_is_no_temporary_error() {
    let Some((relay, db, _)) = relayed() else { return };
    relay.set(Cut::ForGood);
    let lost = db.write(|tx| tx.publish(&note("lost"))).unwrap_err();
    assert!(matches!(lost, Error::CommitUnknown { .. }) && !lost.is_temporary(), "{lost}");
}

#[test]
fn a_connection_that_broke_between_two_transactions_is_opened_again_unnoticed() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    let name = address.rsplit('/').next().unwrap();
    let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    for _ in 0..3 {
        server.sql("postgres", &kill);
        db.write(|tx| tx.publish(&note("kept"))).unwrap();
        server.sql("postgres", &kill);
        assert!(!notes(&db).is_empty());
    }
    let lost = db.write(|tx| {
        tx.publish(&note("lost"))?;
        server.sql("postgres", &kill);
        tx.publish(&note("lost too"))
    });
    assert!(matches!(lost, Err(Error::Unreachable { .. })), "{lost:?}");
    // Also where the body hides it.
    let hidden = db.write(|tx| {
        tx.publish(&note("lost"))?;
        server.sql("postgres", &kill);
        let _ = tx.publish(&note("lost too"));
        Ok::<_, Error>(())
    });
    assert!(hidden.is_err());
    assert_eq!(notes(&db), ["kept", "kept", "kept"]);
}
