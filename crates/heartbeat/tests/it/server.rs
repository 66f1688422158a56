//! The real program on a database on a server, which several machines share.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use coord_db::process::{host, host_name};
use test_support::{Process, Shared, Signal, printed};

const HEARTBEAT: &str = env!("CARGO_BIN_EXE_heartbeat");

fn command(path: &Path) -> Command {
    let mut command = Command::new(HEARTBEAT);
    command.arg("--db").arg(path).env("RUST_LOG", "info");
    command
}

#[test]
fn one_that_starts_in_an_outage_takes_no_silence_for_death_and_is_alive_for_its_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordination.db");
    let Some(shared) = Shared::at(&path) else { return };
    let mut gone = Process::start(Command::new("sleep").arg("1000"));
    let identity = coord_db::process::ProcessIdentity::of(i64::from(gone.pid()));
    gone.signal(Signal::SIGKILL);
    gone.wait();
    let sql = format!(
        "INSERT INTO loops(id, name, priority, status, pid) VALUES ('away', '', 5, 'running', 77), ('gone', '', 5, 'running', {pid});
         INSERT INTO component_health(component, last_heartbeat, status, pid, pid_start_time, boot_id, pid_namespace, host) VALUES
           ('away', datetime('now', '-400 seconds'), 'healthy', 77, 5, 'another', 5, 'build-3/1a2b3c4d'),
           ('gone', datetime('now', '-400 seconds'), 'healthy', {pid}, {start}, '{boot}', {namespace}, NULL);",
        pid = identity.pid,
        start = identity.pid_start_time.unwrap(),
        boot = identity.boot_id.unwrap(),
        namespace = identity.pid_namespace.unwrap(),
    );
    shared.db.execute_foreign(&sql).unwrap();
    shared.go_away();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let daemon = Process::start_logged(command(&path).env("NOTIFY_SOCKET", &socket), &folder.path().join("log"));
    daemon.until_logged("cannot continue; trying again");
    let mut message = [0; 1000];
    let length = manager.recv(&mut message).unwrap();
    let message = String::from_utf8_lossy(&message[..length]);
    assert!(message.contains("EXTEND_TIMEOUT_USEC=") && message.lines().any(|line| line == "WATCHDOG=1"), "{message}");
    shared.come_back();
    // Whose process has ended is dead, and in the same pass nobody else.
    shared.until("SELECT id || ' ' || status FROM loops ORDER BY id", "away running\ngone error");
    assert_eq!(printed(&shared.db, "SELECT status FROM component_health WHERE component = 'away'"), "healthy");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn the_alert_about_settings_is_that_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordination.db");
    let Some(shared) = Shared::at(&path) else { return };
    let Some(host) = host() else { return };
    let settings = path.with_file_name("config.toml");
    std::fs::write(&settings, "").unwrap();
    shared
        .db
        .execute_foreign(
            "INSERT INTO alerts(id, severity, alert_type, source, message, fingerprint)
             VALUES ('a1', 'warning', 'resource', 'one', 'broken there', 'config:build-3/1a2b3c4d')",
        )
        .unwrap();
    let daemon = Process::start_logged(&mut command(&path), &folder.path().join("log"));
    daemon.until_logged("is ready");
    let open = "SELECT fingerprint FROM alerts WHERE closed_at IS NULL AND fingerprint LIKE 'config%' ORDER BY created_at, fingerprint";
    assert_eq!(printed(&shared.db, open), "config:build-3/1a2b3c4d");
    std::fs::write(&settings, "[lease]\nttl_seconds = \"long\"\n").unwrap();
    shared.until(open, &format!("config:build-3/1a2b3c4d\nconfig:{host}"));
    let message = printed(&shared.db, &format!("SELECT message FROM alerts WHERE fingerprint = 'config:{host}'"));
    assert!(message.starts_with(&format!("the changed settings of {} are invalid: ", host_name(host))), "{message}");
    std::fs::write(&settings, "").unwrap();
    shared.until(open, "config:build-3/1a2b3c4d");
    assert_eq!(daemon.terminate().code(), Some(0));
}
