//! Keeping the database: backup, restore, check, dump.

use std::io::{BufWriter, Write};
use std::path::Path;

use coord_db::{Archiver, Database, Error, archive_path};
use serde_json::json;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::{Table, plain};
use crate::when::When;

/// A path as JSON can have it.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// `loopctl backup`
///
/// # Errors
/// Exit 1 if the file is there already.
pub fn backup(cx: &Context, file: Option<&Path>) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let path = {
        let _working = cx.out.working("copying, then verifying the copy");
        db.back_up(file, config.database.backup_keep)?
    };
    cx.out.done(&json!({ "path": shown(&path) }), &format!("backed up and verified: {}", path.display()))
}

/// `loopctl restore`
///
/// # Errors
/// Exit 1 while a process is alive; 3 if the file is no backup. The database is then as it was.
pub fn restore(cx: &Context, file: &Path) -> Outcome {
    if !file.is_file() {
        return Err(Failure::usage(format!(
            "{} is no file; name a backup, coding-loops/backups/ holds the dated ones",
            file.display()
        )));
    }
    let config = cx.config()?;
    // A database that was lost with its file is what a backup is for.
    let lost = !cx.path.exists() && cx.path.parent().is_some_and(Path::is_dir);
    let options = config.open_options();
    let mut db = if lost { Database::create(&cx.path, &options)? } else { Database::open(&cx.path, &options)? };
    let working = cx.out.working("verifying the backup, keeping what is there, copying");
    let restored = db.restore(file, config.database.backup_keep);
    drop(working);
    let kept = match restored {
        Ok(kept) => kept,
        Err(error) if lost => {
            drop(db);
            forget(&cx.path);
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    };
    cx.out.done(
        &json!({ "restored": shown(file), "kept": shown(&kept) }),
        &format!("restored from {}; what was there before is kept as {}", file.display(), kept.display()),
    )
}

/// Removes the empty database that a failed restore made.
fn forget(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let _ = std::fs::remove_file(file);
    }
}

/// `loopctl check`
///
/// # Errors
/// Exit 1 if there is a problem, after the list of them.
pub fn check(cx: &Context) -> Outcome {
    let problems = {
        let _working = cx.out.working("looking at everything");
        cx.open()?.check()?
    };
    cx.out.list(&problems, "nothing is wrong", |rows| {
        Table::of(&["WHAT MUST HOLD", "WHERE IT DOES NOT"], rows, |row| vec![plain(row.rule), plain(&row.detail)])
    })?;
    if problems.is_empty() { Ok(()) } else { Err(Failure::Said) }
}

/// `loopctl dump`
///
/// # Errors
/// If the output cannot be written.
pub fn dump(cx: &Context) -> Outcome {
    let db = cx.open()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let result = db
        .dump(&mut out)
        .and_then(|()| out.flush().map_err(|source| Error::Io { context: "cannot write the dump".to_owned(), source }));
    match result {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::BrokenPipe),
        other => Ok(other?),
    }
}

/// `loopctl archive`
///
/// # Errors
/// Exit 2 for an age under a day, 3 if the file beside the database is no archive of ours.
pub fn archive(cx: &Context, older_than: Option<When>) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let now = db.clock().now();
    let before = older_than.map_or_else(|| config.retention.archive_before(now), |when| when.resolve(now));
    let archived = {
        let _working = cx.out.working("moving what is settled and old");
        Archiver::new(&db, before)?.run()?
    };
    let path = archive_path(db.path().unwrap_or(&cx.path));
    let rows: Vec<String> =
        archived.iter().filter(|(_, rows)| **rows > 0).map(|(table, rows)| format!("{rows} {table}")).collect();
    let said = if rows.is_empty() {
        "nothing is old and settled".to_owned()
    } else {
        format!("moved {} to {}", rows.join(", "), path.display())
    };
    cx.out.done(&json!({ "before": before, "archive": shown(&path), "archived": archived }), &said)
}
