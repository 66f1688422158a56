//! Keeping the database and the store: backup, restore, check, dump.

use std::io::{BufWriter, Write};
use std::path::Path;

use coord_db::locate::Location;
use coord_db::{Archiver, Config, Database, Error, TestId, archive_path, bundle_of, error_chain};
use git::{CommitHash, Repository};
use serde::Serialize;
use serde_json::json;
use views::text::safe;
use views::when::When;

use crate::context::Context;
use crate::exit::{Failure, Outcome, eprintln_quietly};
use crate::output::{Table, plain};
use crate::submit::failure;
use crate::workspaces;

/// A path as JSON can have it.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Refuses what only a file can do, and says how a server does it.
fn must_be_a_file(db: &Database, on_a_server: impl FnOnce(&str) -> String) -> Outcome {
    match db.server() {
        Some(server) => Err(Failure::No(format!("the database is at {server}: {}", on_a_server(&server)))),
        None => Ok(()),
    }
}

/// `loopctl backup`
///
/// # Errors
/// Exit 1 if one of the files is there already.
pub fn backup(cx: &Context, file: Option<&Path>) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    must_be_a_file(&db, |server| {
        format!("back it up with pg_dump --file=FILE {server}, and then the store with loopctl backup --store-only FILE")
    })?;
    if let Some(bundle) = file.map(bundle_of).filter(|bundle| bundle.symlink_metadata().is_ok()) {
        return Err(Error::Exists { what: "file", id: bundle.display().to_string() }.into());
    }
    let store = workspaces::open_store(&config)?;
    let working = cx.out.working("copying, then verifying the copy");
    let path = db.back_up(file, config.database.backup_keep)?;
    // After the database: what that says has landed is in it.
    let bundle = match &store {
        Some(store) => {
            let bundle = bundle_of(&path);
            let written = Repository::open(&config.repository_path()).and_then(|user| store.write_bundle(&user, &bundle));
            let written = written.map_err(|error| {
                Failure::No(format!(
                    "the database is backed up to {}, but the store is not: {}",
                    path.display(),
                    error_chain(&error)
                ))
            })?;
            written.then_some(bundle)
        }
        None => None,
    };
    drop(working);
    let and = bundle
        .as_ref()
        .map_or_else(|| "; the store is empty".to_owned(), |bundle| format!(", refs of the store: {}", bundle.display()));
    cx.out.done(
        &json!({ "path": shown(&path), "bundle": bundle.as_deref().map(shown) }),
        &format!("backed up and verified: {}{and}", path.display()),
    )
}

/// `loopctl backup --store-only`: references of the store, beside a dump of a database on a server.
///
/// # Errors
/// Exit 1 if the bundle is there already or there is no store.
pub fn back_up_store(cx: &Context, file: &Path) -> Outcome {
    let config = cx.open_with_config()?.1;
    let bundle = bundle_of(file);
    if bundle.symlink_metadata().is_ok() {
        return Err(Error::Exists { what: "file", id: bundle.display().to_string() }.into());
    }
    let store = workspaces::open_store(&config)?
        .ok_or_else(|| Failure::No("there is no store yet; loopctl init creates it".to_owned()))?;
    let written = Repository::open(&config.repository_path()).and_then(|user| store.write_bundle(&user, &bundle));
    let written = written.map_err(|error| workspaces::failure(&error))?;
    let text = match written {
        true => format!("backed up and verified, refs of the store: {}", bundle.display()),
        false => "the store is empty; nothing was written".to_owned(),
    };
    cx.out.done(&json!({ "bundle": written.then(|| shown(&bundle)) }), &text)
}

/// `loopctl restore`
///
/// # Errors
/// Exit 1 while a process is alive; 3 if the file is no backup. The database is then as it was. Exit 1 too if the store's
/// bundle beside it cannot be used, with the database restored.
pub fn restore(cx: &Context, file: &Path) -> Outcome {
    if matches!(Location::of(&cx.path), Location::Server(_)) {
        must_be_a_file(&cx.open()?, |_| {
            format!(
                "restore a dump with psql to an empty database, write its address to coordination.db, and run loopctl after-failover; \
                 the store with loopctl restore --store-only {}",
                file.display()
            )
        })?;
    }
    if !file.is_file() {
        return Err(Failure::usage(format!(
            "{} is not a file; name a backup, for example one in coding-loops/backups/",
            file.display()
        )));
    }
    let config = cx.config()?;
    // A database that was lost with its file is what a backup is for.
    let lost = !cx.path.exists() && cx.path.parent().is_some_and(Path::is_dir);
    let options = config.open_options();
    let mut db = if lost { Database::create(&cx.path, &options)? } else { Database::open(&cx.path, &options)? };
    let working = cx.out.working("verifying the backup, backing up the current database, copying");
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
    let bundle = bundle_of(file);
    let restored =
        |failure: Failure| Failure::No(format!("the database is restored, but the store is not: {}", failure.sentence()));
    let store = if bundle.is_file() { Some(bring_back(cx, &db, &config, &bundle).map_err(restored)?) } else { None };
    let lost = lost_tests(&db, &config)?;
    let mut text = format!("restored from {}; the replaced database is kept as {}", file.display(), kept.display());
    match &store {
        Some(store) => text.push_str(&format!("\n{}", store.sentence())),
        None => text.push_str(&format!("\nno {} exists; the store is unchanged", bundle.display())),
    }
    cx.out.done(&json!({ "restored": shown(file), "kept": shown(&kept), "store": store, "lost": lost }), &text)?;
    name_lost(&lost);
    Ok(())
}

/// `loopctl restore --store-only`: references that the store lacks, from the bundle beside a backup.
///
/// # Errors
/// Exit 1 if the bundle is not sound or the store cannot be made; 2 if there is no bundle.
pub fn restore_store(cx: &Context, file: &Path) -> Outcome {
    let beside = bundle_of(file);
    let bundle = if beside.is_file() { beside.as_path() } else { file };
    if !bundle.is_file() || bundle.extension().is_none_or(|extension| extension != "bundle") {
        return Err(Failure::usage(format!("no {} exists; name a backup with a bundle", beside.display())));
    }
    let (db, config) = cx.open_with_config()?;
    let store = bring_back(cx, &db, &config, bundle)?;
    let lost = lost_tests(&db, &config)?;
    let text = store.sentence();
    cx.out.done(&json!({ "restored": shown(bundle), "store": store, "lost": lost }), &text)?;
    name_lost(&lost);
    Ok(())
}

/// What the store got back.
#[derive(Debug, Serialize)]
struct Back {
    path: String,
    /// It was lost, and was made of the repository first.
    rebuilt: bool,
    added: Vec<String>,
    /// Integration was brought forward from where it had been published.
    forwarded: bool,
}

impl Back {
    fn sentence(&self) -> String {
        let made = if self.rebuilt { "was created again from the repository; " } else { "" };
        let forward = if self.forwarded { "; integration is at its last published commit" } else { "" };
        format!("the store {} {made}{} missing refs are restored{forward}", self.path, self.added.len())
    }
}

fn bring_back(cx: &Context, db: &Database, config: &Config, bundle: &Path) -> Outcome<Back> {
    let _working = cx.out.working("restoring the missing refs of the store");
    let makings = || db.read(|tx| tx.store_makings()).map(|made| made.len());
    let before = makings()?;
    let store = coding_loop::make_store(db, config).map_err(failure)?;
    let rebuilt = makings()? > before;
    let read = store.read_bundle(bundle, rebuilt).map_err(|error| {
        let cause = error_chain(&error);
        Failure::No(format!("cannot read {}: {cause}; the store is unchanged", bundle.display()))
    })?;
    if lost_tests(db, config)?.is_empty() {
        db.write(|tx| tx.close_alert("store:rebuilt").and_then(|_| tx.close_alert("store:damaged")))?;
    }
    Ok(Back { path: shown(store.path()), rebuilt, added: read.added, forwarded: read.is_forwarded })
}

/// A passed test whose commit is not there any more.
#[derive(Debug, Serialize)]
struct Lost {
    test_id: TestId,
    commit: String,
}

fn lost_tests(db: &Database, config: &Config) -> Outcome<Vec<Lost>> {
    let landed = db.read(|tx| tx.landed_tests())?;
    let Some(store) = workspaces::open_store(config)? else { return Ok(Vec::new()) };
    let commits: Vec<CommitHash> = landed.iter().filter_map(|(_, commit)| CommitHash::new(commit).ok()).collect();
    let missing = store.missing(&commits).map_err(|error| workspaces::failure(&error))?;
    let is_missing = |commit: &str| missing.iter().any(|missing| missing.as_str() == commit);
    let lost = landed.into_iter().filter(|(_, commit)| is_missing(commit));
    Ok(lost.map(|(test_id, commit)| Lost { test_id, commit }).collect())
}

fn name_lost(lost: &[Lost]) {
    for Lost { test_id, commit } in lost {
        eprintln_quietly(&safe(&format!(
            "loopctl: the commit of test {test_id}, {commit}, is neither in the store nor in the backup; \
             run the test again with loopctl reset {test_id} --force"
        )));
    }
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
        let _working = cx.out.working("checking the database");
        cx.open()?.check()?
    };
    cx.out.list(&problems, "the database is consistent", |rows| {
        Table::of(&["RULE", "VIOLATION"], rows, |row| vec![plain(row.rule), plain(&row.detail)])
    })?;
    if problems.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}

/// `loopctl dump`
///
/// # Errors
/// If the output cannot be written.
pub fn dump(cx: &Context) -> Outcome {
    let db = cx.open()?;
    must_be_a_file(&db, |server| format!("print it with pg_dump {server}"))?;
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
    must_be_a_file(&db, |_| "there is no archive beside a server, which keeps all rows".to_owned())?;
    let now = db.now();
    let before = older_than.map_or_else(|| config.retention.archive_before(now), |when| when.resolve(now));
    let archived = {
        let _working = cx.out.working("moving old rows");
        Archiver::new(&db, before)?.run()?
    };
    let path = archive_path(db.path().unwrap_or(&cx.path));
    let rows: Vec<String> =
        archived.iter().filter(|(_, rows)| **rows > 0).map(|(table, rows)| format!("{rows} {table}")).collect();
    let said = if rows.is_empty() {
        "nothing to archive: no settled row is old enough".to_owned()
    } else {
        format!("moved {} to {}", rows.join(", "), path.display())
    };
    cx.out.done(&json!({ "before": before, "archive": shown(&path), "archived": archived }), &said)
}
