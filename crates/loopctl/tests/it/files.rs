//! Files of every kind in the place of the database, and databases in every place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use coord_db::{Database, OpenOptions};
use test_support::{bad_files, ends_within, sql};

fn loopctl(folder: &Path, database: &OsStr, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loopctl"));
    command.arg("--db").arg(database).args(arguments).current_dir(folder).env_remove("RUST_LOG").env_remove("CODING_LOOPS_DB");
    command.output().unwrap()
}

#[test]
fn a_file_that_cannot_be_used_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for case in bad_files::cases(folder.path()) {
        for command in ["status", "check"] {
            case.check(&loopctl(folder.path(), case.database.as_os_str(), &[command]));
        }
    }
}

#[test]
fn a_database_works_under_every_name() {
    let root = tempfile::tempdir().unwrap();
    let names: &[&[u8]] = &[
        b"with space",
        b"new\nline",
        b"q?mode=memory",
        b"h#ash",
        b"per%41cent",
        b"caf\xff",
        b"file:x?mode=ro",
        b"'quote\"",
        b":memory:",
        b"-dash",
    ];
    for name in names {
        let folder = root.path().join(OsStr::from_bytes(name));
        std::fs::create_dir(&folder).unwrap();
        {
            let file = name;
            let database = folder.join(OsStr::from_bytes(file));
            drop(Database::create(&database, &OpenOptions::default()).unwrap());
            let expect = |arguments: &[&str]| {
                // Relative, so that what it begins with is the name itself.
                let output = loopctl(
                    &folder,
                    &{
                        let mut relative = std::ffi::OsString::from("./");
                        relative.push(OsStr::from_bytes(file));
                        relative
                    },
                    arguments,
                );
                assert!(
                    output.status.success(),
                    "{arguments:?} on {}: {}",
                    database.display(),
                    String::from_utf8_lossy(&output.stderr)
                );
                output.stdout
            };
            expect(&["loop", "add", "a"]);
            expect(&["archive"]);
            expect(&["timeline"]);
            expect(&["check"]);
            assert!(coord_db::archive_path(&database).is_file());
            let kept = std::fs::read_dir(&folder).unwrap().count();
            expect(&["backup", "file:copy.db"]);
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), kept + 1);
            expect(&["restore", "file:copy.db"]);
            std::fs::remove_file(folder.join("file:copy.db")).unwrap();
        }
    }
}

#[test]
fn a_link_leads_to_the_database_and_all_that_lies_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let (real, link) = (root.path().join("real"), root.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    std::fs::create_dir(&link).unwrap();
    let database = real.join("c.db");
    drop(Database::create(&database, &OpenOptions::default()).unwrap());
    std::os::unix::fs::symlink(&database, link.join("l.db")).unwrap();
    for arguments in [&["loop", "add", "a"][..], &["archive"], &["backup"]] {
        assert!(loopctl(root.path(), link.join("l.db").as_os_str(), arguments).status.success());
    }
    assert!(real.join("c.archive.db").is_file() && real.join("backups").is_dir());
    assert_eq!(std::fs::read_dir(&link).unwrap().count(), 1);
}

/// A schema as each earlier version left it, with rows in it.
fn older(database: &Path, version: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema/migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in &files[..version] {
        sql(database, &std::fs::read_to_string(file).unwrap());
    }
    sql(
        database,
        &format!(
            "PRAGMA application_id = {}; PRAGMA user_version = {version}; PRAGMA journal_mode = wal;
             INSERT INTO loops (id) VALUES ('a'); INSERT INTO tests (id, loop_id) VALUES ('t', 'a');
             INSERT INTO events (id, source, event_type, payload) VALUES ('e', 'a', 'test_started', '{{}}');
             WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000)
             INSERT INTO knowledge (id, item_type, content) SELECT 'k' || x, 'fact', hex(randomblob(500)) FROM c;",
            coord_db::APPLICATION_ID
        ),
    );
}

fn backups(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder.join("backups")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| !path.file_name().unwrap().as_bytes().starts_with(b".")).collect()
}

/// SIGKILL once the time is over, unless it has ended.
fn kill_after(child: &mut std::process::Child, micros: u64) -> bool {
    let kill = !ends_within(child, std::time::Duration::from_micros(micros));
    if kill {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    kill
}

const ROWS: &str = "SELECT (SELECT count(*) FROM loops), (SELECT count(*) FROM tests), (SELECT count(*) FROM events),
    (SELECT count(*) FROM deliveries), (SELECT count(*) FROM knowledge); PRAGMA integrity_check";

#[test]
fn an_older_database_is_backed_up_and_migrated_by_one_of_many() {
    for version in 1..usize::try_from(coord_db::SCHEMA_VERSION).unwrap() {
        let root = tempfile::tempdir().unwrap();
        let database = root.path().join("coordination.db");
        older(&database, version);
        let before = sql(&database, ROWS);
        let spawn = |_| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_loopctl"));
            command.arg("--db").arg(&database).arg("status").stdout(std::process::Stdio::null());
            command.stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<_> = (0..6).map(spawn).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(sql(&database, "PRAGMA user_version"), coord_db::SCHEMA_VERSION.to_string());
        assert_eq!(sql(&database, ROWS), before);
        assert!(loopctl(root.path(), database.as_os_str(), &["check"]).status.success());
        let [backup] = &backups(root.path())[..] else { panic!("{:?}", backups(root.path())) };
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(backup).unwrap()) & 0o777, 0o600);
        assert_eq!(sql(backup, "PRAGMA user_version"), version.to_string());
        assert_eq!(sql(backup, ROWS), before);
        // It can be gone back to.
        let restored = loopctl(root.path(), database.as_os_str(), &["restore", backup.to_str().unwrap()]);
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        assert_eq!(sql(&database, ROWS), before);
    }
}

#[test]
fn a_migration_that_is_killed_leaves_the_old_or_the_new() {
    let root = tempfile::tempdir().unwrap();
    for round in 0..8u64 {
        let folder = root.path().join(round.to_string());
        std::fs::create_dir(&folder).unwrap();
        let database = folder.join("coordination.db");
        older(&database, 1);
        let before = sql(&database, ROWS);
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopctl"));
        let mut child = command.arg("--db").arg(&database).arg("status").stdout(std::process::Stdio::null()).spawn().unwrap();
        kill_after(&mut child, 5_000 * round);
        let version: i64 = sql(&database, "PRAGMA user_version").parse().unwrap();
        assert!(version == 1 || version == coord_db::SCHEMA_VERSION, "{version}");
        assert_eq!(version == 1, sql(&database, "SELECT count(*) FROM sqlite_schema WHERE name = 'archived_events'") == "0");
        assert_eq!(sql(&database, ROWS), before);
        for backup in backups(&folder) {
            assert_eq!(sql(&backup, ROWS), before, "a backup is whole or not there");
        }
        let output = loopctl(&folder, database.as_os_str(), &["status"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(sql(&database, "PRAGMA user_version"), coord_db::SCHEMA_VERSION.to_string());
    }
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_or_the_new() {
    let root = tempfile::tempdir().unwrap();
    let database = root.path().join("coordination.db");
    let fill = |n: usize, text: &str| {
        format!(
            "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {n})
             INSERT INTO knowledge (id, item_type, topic, content) SELECT '{text}' || x, 'fact', '{text}', hex(randomblob(1000)) FROM c"
        )
    };
    drop(Database::create(&database, &OpenOptions::default()).unwrap());
    sql(&database, &fill(3_000, "saved"));
    assert!(loopctl(root.path(), database.as_os_str(), &["backup", "saved.db"]).status.success());
    sql(&database, &format!("DELETE FROM knowledge; {}", fill(2_000, "old")));
    let state = "SELECT group_concat(topic || n) FROM (SELECT topic, count(*) AS n FROM knowledge GROUP BY topic); PRAGMA integrity_check";
    let (mut killed, mut round) = (0, 0u64);
    while killed < 6 {
        round += 1;
        assert!(round < 200, "{killed} kills in {round} rounds");
        sql(&database, &format!("DELETE FROM knowledge; {}", fill(2_000, "old")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopctl"));
        command.arg("--db").arg(&database).arg("restore").arg("saved.db").current_dir(root.path());
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        killed += usize::from(kill_after(&mut child, 20_000 + round * 17_000 % 150_000));
        let found = sql(&database, state);
        assert!(found == "old2000\nok" || found == "saved3000\nok", "{found}");
        let output = loopctl(root.path(), database.as_os_str(), &["check"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(sql(&database, "PRAGMA journal_mode"), "wal");
    }
}

#[test]
fn a_backup_is_whole_however_busy_the_database_is() {
    let root = tempfile::tempdir().unwrap();
    let database = root.path().join("coordination.db");
    let db = Database::create(&database, &OpenOptions::default()).unwrap();
    sql(
        &database,
        "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 8000)
         INSERT INTO knowledge (id, item_type, content) SELECT 'k' || x, 'fact', hex(randomblob(300)) FROM c",
    );
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let db = Database::open(&database, &OpenOptions::default()).unwrap();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // Two rows that always come together.
                db.execute_foreign(
                    "BEGIN IMMEDIATE; INSERT INTO counters (name) VALUES (hex(randomblob(8)));
                     INSERT INTO usage (id) VALUES (hex(randomblob(8))); COMMIT",
                )
                .unwrap();
            }
        });
        let results: Vec<_> = (0..3).map(|n| db.back_up(Some(&root.path().join(format!("{n}.db"))), 1)).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for path in results {
            let found = sql(
                &path.unwrap(),
                "SELECT (SELECT count(*) FROM counters WHERE name = upper(name)) = (SELECT count(*) FROM usage); PRAGMA integrity_check",
            );
            assert_eq!(found, "1\nok");
        }
    });
    assert_eq!(
        std::fs::read_dir(root.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().as_bytes().starts_with(b"."))
            .count(),
        0
    );
}

/// Runs as somebody who is not root, for whom permissions count; the same user where we are not root.
fn as_nobody(folder: &Path) -> (Command, u32) {
    let own = nix_uid();
    if own != 0 {
        return (Command::new(env!("CARGO_BIN_EXE_loopctl")), own);
    }
    for entry in walk(folder) {
        std::os::unix::fs::lchown(&entry, Some(65_534), Some(65_534)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", env!("CARGO_BIN_EXE_loopctl")]);
    (command, 65_534)
}

fn nix_uid() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap())
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap() {
        found.push(entry.unwrap().path());
    }
    found
}

#[test]
fn what_may_not_be_read_or_written_is_named_with_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    // (what is barred, its mode, its owner is another, what is said; reading may still work)
    for (what, mode, foreign, says) in [
        ("coordination.db", 0o400, false, "may not read and write"),
        ("coordination.db", 0o000, false, "may not read and write"),
        ("", 0o500, false, "may not read and write"),
        ("coordination.db", 0o600, true, "it belongs to user 0"),
    ] {
        if foreign && nix_uid() != 0 {
            continue;
        }
        let root = tempfile::tempdir().unwrap();
        let database = root.path().join("coordination.db");
        drop(Database::create(&database, &OpenOptions::default()).unwrap());
        let (mut command, _) = as_nobody(root.path());
        let barred = root.path().join(what);
        if foreign {
            std::os::unix::fs::chown(&barred, Some(0), Some(0)).unwrap();
        }
        std::fs::set_permissions(&barred, std::fs::Permissions::from_mode(mode)).unwrap();
        let before = std::fs::read(&database).ok();
        let output = command.arg("--db").arg(&database).args(["loop", "add", "a"]).current_dir("/").output().unwrap();
        std::fs::set_permissions(&barred, std::fs::Permissions::from_mode(0o700)).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what} {mode:o}: {said}");
        assert!(said.contains("cannot be written") && said.contains(says), "{what} {mode:o}: {said}");
        assert_eq!(sql(&database, "SELECT count(*) FROM loops"), "0");
        assert!(before.is_none_or(|before| std::fs::read(&database).unwrap() == before));
    }
}

#[test]
fn a_lock_that_stays_is_reported_and_one_that_ends_is_waited_for() {
    use std::io::Write;
    let root = tempfile::tempdir().unwrap();
    let database = root.path().join("coordination.db");
    drop(Database::create(&database, &OpenOptions::default()).unwrap());
    for hold in ["BEGIN EXCLUSIVE;", "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE counters SET value = value;"] {
        let mut shell = Command::new("sqlite3");
        shell.arg(&database).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut input = shell.stdin.take().unwrap();
        writeln!(input, "{hold} SELECT 'held';").unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(shell.stdout.take().unwrap()));
        assert!(lines.by_ref().map(Result::unwrap).any(|line| line == "held"));
        std::fs::write(root.path().join("config.toml"), "[database]\nbusy_deadline_seconds = 1\n").unwrap();
        let output = loopctl(root.path(), database.as_os_str(), &["loop", "add", "a"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("stayed locked by another writer for 1 s; try again"), "{said}");
        // One that waits longer gets its turn.
        std::fs::write(root.path().join("config.toml"), "[database]\nbusy_deadline_seconds = 60\n").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopctl"));
        let child = command.arg("--db").arg(&database).args(["subscribe", "x", "--types", "custom.x"]).spawn().unwrap();
        writeln!(input, "ROLLBACK;").unwrap();
        drop(input);
        shell.wait().unwrap();
        assert!(child.wait_with_output().unwrap().status.success());
    }
    assert_eq!(sql(&database, "SELECT count(*) FROM loops"), "0");
}
