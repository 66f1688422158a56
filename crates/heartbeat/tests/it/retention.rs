//! What nobody takes, and what is old: the real program on databases that only the `sqlite3` shell has filled.

use test_support::World;

const HEARTBEAT: &str = env!("CARGO_BIN_EXE_heartbeat");

const OLD: &str = "
    INSERT INTO subscriptions (id, subscriber, event_types) VALUES ('s', 'sleeper', '[\"custom.x\"]'), ('t', 'taker', '[\"custom.x\"]');
    WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 500)
    INSERT INTO events (id, timestamp, source, event_type) SELECT printf('old%04d', x), datetime('now', '-31 days'), 'them', 'custom.x' FROM c;
    INSERT INTO events (id, timestamp, source, event_type) VALUES ('recent', datetime('now', '-29 days'), 'them', 'custom.x');
    UPDATE events SET acknowledged = 1, acknowledged_by = 'taker';";

#[test]
fn deliveries_that_nobody_takes_are_set_aside_once_with_one_alert_and_then_archived() {
    let world = World::filled(OLD);
    let open = "SELECT count(*) FROM deliveries WHERE subscription_id = 's' AND status = 'pending'";
    assert_eq!(world.sql(open), "501");
    world.once(HEARTBEAT);
    assert_eq!(world.sql(open), "1", "what is younger stays open");
    let alerts = "SELECT fingerprint, json_extract(context, '$.deliveries'), closed_at IS NULL FROM alerts";
    assert_eq!(world.sql(alerts), "untaken:s|500|1");
    assert_eq!(world.sql("SELECT group_concat(id) FROM events WHERE event_type = 'custom.x'"), "recent");
    let archive = coord_db::archive_path(&world.path);
    let mut shell = std::process::Command::new("sqlite3");
    let output = shell.arg(&archive).arg("SELECT status, count(*) FROM deliveries GROUP BY status").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "acknowledged|500\nset_aside|500\n");
    world.once(HEARTBEAT);
    assert_eq!(world.sql(alerts), "untaken:s|500|1");
    // It is back.
    world.sql("UPDATE subscriptions SET last_poll_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE id = 's'");
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT count(*) FROM alerts WHERE closed_at IS NULL"), "0");
    assert_eq!(world.db.check().unwrap(), []);
}

#[test]
fn a_file_in_the_place_of_the_archive_keeps_nobody_from_working() {
    let world = World::filled(OLD);
    let archive = coord_db::archive_path(&world.path);
    std::fs::write(&archive, "no database ".repeat(100)).unwrap();
    world.once(HEARTBEAT);
    assert_eq!(world.sql("SELECT count(*) FROM events WHERE event_type = 'custom.x'"), "501");
    assert_eq!(std::fs::read(&archive).unwrap(), "no database ".repeat(100).into_bytes());
}

#[test]
fn a_running_heartbeat_archives_by_itself() {
    let world = World::filled(&OLD.replacen("custom.x", "custom.y", 1));
    let daemon = world.daemon(HEARTBEAT);
    world.until("SELECT count(*) FROM events WHERE event_type = 'custom.x'", "1");
    assert!(daemon.terminate().success());
}
