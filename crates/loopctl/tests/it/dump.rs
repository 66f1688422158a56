//! Copies by other means: a dump fed to the shell, and what the shell itself makes.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::Place;
use test_support::sql;

/// Every row of every table, quoted so that nothing is lost.
fn everything(database: &Path) -> Vec<String> {
    let tables = sql(database, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    let mut rows = vec![
        sql(
            database,
            "PRAGMA application_id; PRAGMA user_version; SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name",
        ),
        sql(database, "SELECT rowid, id FROM events ORDER BY rowid"),
    ];
    for table in tables.lines() {
        let names = sql(database, &format!("SELECT name FROM pragma_table_info('{table}')"));
        let columns: Vec<String> = names
            .lines()
            .map(|name| format!("\"{}\"", name.replace('"', "\"\"")))
            .map(|name| {
                format!("typeof({name}) || iif(typeof({name}) = 'real', printf('%!.17g', {name}), quote(CAST({name} AS BLOB)))")
            })
            .collect();
        let columns = columns.join(" || ");
        rows.push(format!("{table}: {}", sql(database, &format!("SELECT {columns} AS x FROM \"{table}\" ORDER BY x"))));
    }
    rows
}

/// Feeds SQL to the shell as a file would be.
fn feed(database: &Path, sql: &[u8]) {
    use std::io::Write;
    let mut child =
        Command::new("sqlite3").arg("-bail").arg(database).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(sql).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn hostile() -> Place {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a", "--notes", "it's \"quoted\"; -- DROP\n.quit\nBEGIN"]).ok();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    place.sql(
        "UPDATE tests SET last_error = 'nul' || char(0) || 'after' || char(27) || '[31m' || char(13) || char(0x2028), spec_content = CAST(X'FFFE41' AS TEXT);
         INSERT INTO knowledge (id, item_type, content, confidence) VALUES ('k', 'fact', '', 0.1), ('l', 'fact', 'l', 1e-300), ('m', 'fact', 'm', 0.30000000000000004);
         INSERT INTO usage (id, tokens_estimated) VALUES ('u', 9223372036854775807);
         UPDATE loops SET name = '''' WHERE id = 'b';
         CREATE TABLE own (\"odd \"\" name\" BLOB, r REAL, i INTEGER);
         INSERT INTO own VALUES (X'00FF27', 9e999, -9223372036854775808), (zeroblob(3), -9e999, NULL), (NULL, 1e300, 0);
         INSERT INTO events (rowid, id, source, event_type) VALUES (500, 'late', 'a', 'custom.x')",
    );
    place
}

#[test]
fn a_dump_fed_to_the_shell_is_equal_row_by_row() {
    let place = hostile();
    let output = place.command(&["dump"]).output().unwrap();
    assert!(output.status.success());
    let copy = place.outside().join("copy.db");
    feed(&copy, &output.stdout);
    assert_eq!(everything(&copy), everything(&place.database()));
    let db = copy.to_str().unwrap();
    assert_eq!(place.json(&["--db", db, "check"]), serde_json::json!([]));
    place.run(&["--db", db, "publish", "custom.x"]).ok();
    // A copy goes on after a jump: what it was taken from may have gone on too.
    assert!(sql(&copy, "SELECT max(rowid) FROM events").parse::<i64>().unwrap() > 1_000_000_000);
}

#[test]
fn what_the_shell_copies_is_opened_or_told_how() {
    let place = hostile();
    place.sql("DROP TABLE own");
    let before = everything(&place.database());
    let path = |name: &str| place.outside().join(name);
    let opens = |copy: &Path| {
        assert_eq!(place.json(&["--db", copy.to_str().unwrap(), "check"]), serde_json::json!([]), "{}", copy.display());
        place.run(&["--db", copy.to_str().unwrap(), "timeline"]).ok();
    };
    place.sql(&format!("VACUUM INTO '{}'", path("into.db").display()));
    assert_eq!(everything(&path("into.db")), before);
    opens(&path("into.db"));
    let run = |command: &str| {
        let output = Command::new("sqlite3").arg(place.database()).arg(command).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&format!(".backup '{}'", path("backup.db").display()));
    assert_eq!(everything(&path("backup.db")), before);
    opens(&path("backup.db"));
    // Loses the marks, and says how to give them back.
    let bytes = run(".dump");
    feed(&path("dumped.db"), &bytes);
    let dumped = path("dumped.db");
    let name = dumped.to_str().unwrap();
    let ran = place.run(&["--db", name, "status"]).fails(3).says("PRAGMA application_id");
    place.run(&["restore", name]).fails(3).says("PRAGMA application_id");
    let command = ran.stderr.split('\'').nth(2).unwrap();
    assert!(command.starts_with("PRAGMA application_id"), "{}", ran.stderr);
    sql(&dumped, command);
    opens(&dumped);
}
