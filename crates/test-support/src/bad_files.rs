//! Files in the place of the database, each with what a program must report of it, and that it changes nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use coord_db::{Database, OpenOptions};

use crate::sql;

/// A file and what is to be reported of it.
#[derive(Debug)]
pub struct Case {
    /// What kind of file it is.
    pub name: &'static str,
    /// Where it is.
    pub database: PathBuf,
    /// A part of what is said on stderr.
    pub says: &'static str,
    before: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

/// A name, what is said, and what makes the file.
type Make = (&'static str, &'static str, fn(&Path));

/// Makes the files, each in a folder of its own.
///
/// # Panics
/// If one cannot be made.
#[must_use]
pub fn cases(root: &Path) -> Vec<Case> {
    let make: &[Make] = &[
        ("nothing", "no database at", |_| {}),
        ("empty", "it is empty", |db| write(db, b"")),
        ("short text", "file is not a database", |db| write(db, b"a text")),
        ("long text", "file is not a database", |db| write(db, &b"a text that is no database ".repeat(500))),
        ("folder", "not a regular file", |db| std::fs::create_dir(db).unwrap()),
        ("fifo", "not a regular file", |db| assert!(Command::new("mkfifo").arg(db).status().unwrap().success())),
        ("dangling link", "no database at", |db| std::os::unix::fs::symlink("nowhere", db).unwrap()),
        ("other application", "another application", |db| drop(sql(db, "PRAGMA application_id = 7; CREATE TABLE x (y)"))),
        ("unmarked", "another application", |db| drop(sql(db, "CREATE TABLE x (y)"))),
        ("other application with a log", "another application", |db| {
            with_log(db, "PRAGMA application_id = 7; CREATE TABLE x (y);")
        }),
        ("unmarked with a log", "another application", |db| {
            sql(db, "CREATE TABLE first (x)");
            with_log(db, "CREATE TABLE x (y);");
        }),
        ("without marks", "PRAGMA application_id = 1665953616; PRAGMA user_version =", |db| {
            ours(db);
            sql(db, "PRAGMA application_id = 0; PRAGMA user_version = 0");
        }),
        ("newer", "newer than this program", |db| {
            ours(db);
            sql(db, "PRAGMA user_version = 999");
        }),
        ("newer in the log", "newer than this program", |db| {
            ours(db);
            with_log(db, "PRAGMA user_version = 999;");
        }),
        ("cut to half", "cut short", |db| {
            ours(db);
            let bytes = std::fs::read(db).unwrap();
            write(db, &bytes[..bytes.len() / 2]);
        }),
        ("cut to a few bytes", "file is not a database", |db| {
            ours(db);
            let bytes = std::fs::read(db).unwrap();
            write(db, &bytes[..50]);
        }),
        ("overwritten in the middle", "damaged", |db| {
            ours(db);
            let bytes = std::fs::read(db).unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(db).unwrap();
            file.write_all_at(&vec![0xAA; bytes.len() - 4096], 4096).unwrap();
        }),
        ("log of another application", "is another database's", |db| {
            let other = db.with_file_name("other.db");
            with_log(&other, "PRAGMA application_id = 7; CREATE TABLE x (y);");
            ours(db);
            take_log(&other, db);
        }),
        ("log with other pages", "is another database's", |db| {
            let other = db.with_file_name("other.db");
            sql(&other, "PRAGMA page_size = 1024; VACUUM");
            with_log(&other, "CREATE TABLE x (y);");
            ours(db);
            take_log(&other, db);
        }),
        ("backup in the place of a database in use", "is another database's", |db| {
            let backup = db.with_file_name("backup.db");
            Database::create(db, &OpenOptions::default()).unwrap().back_up(Some(&backup), 1).unwrap();
            with_log(db, "INSERT INTO loops (id) VALUES ('a');");
            std::fs::rename(&backup, db).unwrap();
        }),
    ];
    make.iter()
        .map(|(name, says, make)| {
            let folder = root.join(name.replace(' ', "-"));
            std::fs::create_dir(&folder).unwrap();
            let database = folder.join("coordination.db");
            make(&database);
            let before = contents(&folder);
            Case { name, database, says, before }
        })
        .collect()
}

impl Case {
    /// Checks that it was refused with exit status 3, and that everything is as it was.
    ///
    /// # Panics
    /// If not.
    pub fn check(&self, output: &Output) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{}: {said}", self.name);
        assert!(said.contains(self.says), "{}: {:?} is not in {said}", self.name, self.says);
        assert_eq!(said.trim_end().lines().count(), 1, "{}: {said}", self.name);
        let mut after = contents(self.database.parent().unwrap());
        // An empty log, and what is shared of it, say nothing.
        after.retain(|path, bytes| {
            self.before.contains_key(path)
                || !(path.to_string_lossy().ends_with("-shm") || bytes.as_ref().is_some_and(Vec::is_empty))
        });
        for (path, bytes) in &self.before {
            // The shared memory of a log is created again from it.
            assert!(
                after.get(path) == Some(bytes) || path.to_string_lossy().ends_with("-shm"),
                "{}: {} was changed",
                self.name,
                path.display()
            );
        }
        assert_eq!(after.len(), self.before.len(), "{}: {:?}", self.name, after.keys());
    }
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), path.is_file().then(|| std::fs::read(&path).unwrap()))).collect()
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// A database of ours that nobody uses.
fn ours(path: &Path) {
    drop(Database::create(path, &OpenOptions::default()).unwrap());
}

/// Runs SQL in WAL mode and leaves the log, as a killed process does.
fn with_log(path: &Path, text: &str) {
    let mut command = Command::new("sqlite3");
    command.arg("-bail").arg(path).arg(".dbconfig no_ckpt_on_close on").arg("PRAGMA journal_mode = wal");
    let output = command.arg(text).output().unwrap();
    assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::metadata(log_of(path)).unwrap().len() > 0);
}

fn log_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

fn take_log(from: &Path, to: &Path) {
    std::fs::rename(log_of(from), log_of(to)).unwrap();
    let shm = |path: &Path| format!("{}-shm", path.display());
    std::fs::rename(shm(from), shm(to)).unwrap();
}
