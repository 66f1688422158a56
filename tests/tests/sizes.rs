//! The sizes of disk and database, as the real monitor sees them: told at each level, once, and over when there is room.

use system_tests::namespace::Namespace;
use system_tests::processes::World;
use test_support::Signal;

/// Passes follow each other within the time of a test.
const OFTEN: &str = "[monitor]\ninterval_seconds = 1\n";

/// The level of the open alert about a resource.
fn open(what: &str) -> String {
    format!("SELECT severity FROM alerts WHERE closed_at IS NULL AND fingerprint = 'resource:{what}'")
}

/// How often a resource was warned of.
fn warned(resource: &str) -> String {
    format!(
        "SELECT count(*) FROM events WHERE event_type = 'resource_warning' AND source = 'monitor'
         AND json_extract(payload, '$.resource') = '{resource}'"
    )
}

#[test]
fn a_filling_disk_raises_an_alert_at_each_level_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let Some(space) = Namespace::with_disk(&disk, 100_000) else { return };
    let world = World::within(folder, disk.join("repository/coding-loops"), space.prefix());
    world.settings(OFTEN);
    let shell = |script: &str| {
        let output = world.command("sh").args(["-c", script, "sh"]).arg(world.home()).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    };
    // Fills the disk but for this number of kilobytes.
    let leave = |name: &str, kilobytes: u32| {
        shell(&format!(
            r#"free=$(df -Pk "$1" | awk 'NR == 2 {{ print $4 }}'); head -c "$((free - {kilobytes}))k" /dev/zero > "$1/{name}""#
        ));
    };
    let monitor = world.supervisor("monitor");
    // A fifth of the disk is little, and a twentieth almost nothing.
    leave("first", 15_000);
    world.until(&open("disk"), "warning");
    leave("second", 3_500);
    world.until(&open("disk"), "error");
    shell(r#"rm "$1/first""#);
    world.until(&open("disk"), "");
    assert_eq!(world.sql(&warned("disk_bytes")).unwrap(), "2");
    assert_eq!(monitor.terminate().code(), Some(0));
}

#[test]
fn a_growing_database_raises_an_alert_at_each_level_until_its_budget_grows() {
    let world = World::new();
    world.settings(&format!("{OFTEN}[budget]\ndatabase_megabytes = 40\n"));
    let monitor = world.supervisor("monitor");
    // What is in the -wal counts as well, so it is emptied each time: the levels are two megabytes apart.
    let grow_beyond = |kilobytes: u64| {
        loop {
            let grown = world.sql(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
                 INSERT INTO events (id, source, event_type, payload)
                 SELECT lower(hex(randomblob(8))), 'human', 'custom.large', json_object('text', hex(zeroblob(5000))) FROM n;
                 PRAGMA wal_checkpoint(TRUNCATE)",
            );
            assert!(grown.is_some());
            if std::fs::metadata(world.path()).unwrap().len() > kilobytes * 1000 {
                break;
            }
        }
    };
    grow_beyond(32_300);
    world.until(&open("database"), "warning");
    grow_beyond(38_200);
    world.until(&open("database"), "error");
    world.settings(&format!("{OFTEN}[budget]\ndatabase_megabytes = 800\n"));
    monitor.signal(Signal::SIGHUP);
    world.until(&open("database"), "");
    assert_eq!(world.sql(&warned("database_bytes")).unwrap(), "2");
    assert_eq!(monitor.terminate().code(), Some(0));
}
