//! The `-wal` stays bounded: what grew behind a long read is emptied once that has ended, while others go on writing.

use std::path::Path;

use coord_db::{Database, Error, OpenOptions};

const MEGABYTE: u64 = 1 << 20;

fn grow(db: &Database, megabytes: usize) {
    for _ in 0..megabytes {
        db.execute_foreign(
            "INSERT INTO events (id, source, event_type, payload)
             VALUES (hex(randomblob(16)), 'them', 'custom.large', json_quote(hex(zeroblob(500000))))",
        )
        .unwrap();
    }
}

fn bytes(database: &Path) -> u64 {
    let mut wal = database.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(wal).map_or(0, |meta| meta.len())
}

#[test]
fn a_wal_that_grew_behind_a_long_read_is_emptied_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.db");
    let db = Database::create(&path, &OpenOptions::default()).unwrap();
    grow(&db, 1);
    let reader = Database::open(&path, &OpenOptions::default()).unwrap();
    reader
        .read(|tx| {
            let before = tx.last_event_position()?;
            grow(&db, 24);
            assert!(bytes(&path) > 18 * MEGABYTE, "the reader holds it: {}", bytes(&path));
            assert_eq!(tx.last_event_position()?, before, "and sees what it saw");
            Ok::<_, Error>(())
        })
        .unwrap();
    until_emptied(&db, &path);
    assert_eq!(db.check().unwrap(), []);
}

/// A checkpoint that was blocked by a reader is retried a little later, at the next commit of any process.
#[allow(clippy::disallowed_methods)]
fn until_emptied(db: &Database, path: &Path) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while bytes(path) > 8 * MEGABYTE {
        assert!(std::time::Instant::now() < end, "{} bytes", bytes(path));
        db.write_quietly(|tx| tx.record_poll("human")).unwrap();
    }
}
