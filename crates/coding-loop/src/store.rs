//! Opens or creates the store: for a new installation, after it was lost, and for an installation of an older version,
//! which kept everything in the user's repository.
//!
//! An older program does not know the store and would continue to land on the user's branch, so nothing is imported
//! while one runs. Every step is idempotent, and the row that confirms the store is written last.

use std::path::{Path, PathBuf};

use coord_db::config::RepositoryConfig;
use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::{
    Acquire, AcquireRequest, AlertType, Config, Database, LeasePath, LoopId, NewAlert, Severity, StoreMaking, TestId,
    TestStatus,
};
use git::{CommitHash, Depth, Layout, Repository, Store};
use serde_json::json;

use crate::operation::{CHECKPOINTS, SAVED};
use crate::{Error, Result};

/// Prefix of our references.
pub(crate) const OURS: &str = "refs/coding-loops";
/// Maximum time in seconds for which others cannot land while the store is created.
const TURN_SECONDS: i64 = 600;
/// Maximum number of tests named in a message.
const MAX_NAMED: usize = 5;

/// Creates the store of an installation unless it exists.
///
/// # Errors
/// If its place is occupied or inside the user's checkout; [`Error::Waiting`] while an older program runs or somebody
/// lands.
pub fn make_store(db: &Database, config: &Config) -> Result<Store> {
    let user = Repository::open(&config.repository_path())?;
    store(db, config, &user, &Layout::new(config.workspace_root()), None)
}

/// Like [`make_store`], for a loop.
pub(crate) fn store(
    db: &Database,
    config: &Config,
    user: &Repository,
    layout: &Layout,
    loop_id: Option<&LoopId>,
) -> Result<Store> {
    // A command of the human checks the whole store, which also repairs it.
    let depth = if loop_id.is_some() { Depth::Tips } else { Depth::All };
    let (makings, is_first) = db.read(|tx| Ok::<_, coord_db::Error>((tx.store_makings()?, !tx.has_stores()?)))?;
    let settings = &config.repository;
    let integration = format!("refs/heads/{}", settings.integration_branch);
    match layout.open_store() {
        Ok(mut store) if !makings.is_empty() && store.integration_ref() == integration => {
            if store.damage(user, depth)?.is_some() {
                return rebuild(db, user, layout, settings);
            }
            connect(&mut store, user, settings)?;
            return match recover_integration(db, &store) {
                Err(_) if store.damage(user, Depth::All)?.is_some() => rebuild(db, user, layout, settings),
                recovered => recovered.map(|_| store),
            };
        }
        Err(_) if is_ours(layout, &makings) => return rebuild(db, user, layout, settings),
        // Another branch name is accepted while nothing has landed.
        Ok(_) if !makings.is_empty() => return make(db, user, layout, settings),
        _ => {}
    }
    if let Some(last) = makings.last()
        && layout.open_store().is_err()
        && Store::open(Path::new(&last.path)).is_ok()
    {
        return Err(Error::SetUp(format!(
            "the store of this installation is {}, but [workspace] root is {}; move the folder, or correct root",
            last.path,
            layout.root().display()
        )));
    }
    // Where another machine that shares the database has a store, none of an older version can be left.
    let is_older = is_first && (!user.list_refs(OURS)?.is_empty() || user.resolve(&integration)?.is_some());
    let cause = match (makings.is_empty(), is_older) {
        (false, _) => "rebuilt",
        (true, true) => "brought_over",
        (true, false) => "new",
    };
    let turn = if cause == "brought_over" {
        older_programs_must_be_gone(db)?;
        take_turn(db, config, loop_id)?
    } else {
        None
    };
    let made = make(db, user, layout, settings);
    if let (Some(token), Some(loop_id)) = (turn, loop_id) {
        match db.write(|tx| tx.release_all(loop_id, Some(token))) {
            // The lease expired while the store was created; the store has its own lock too.
            Ok(_) | Err(coord_db::Error::LeaseLost { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let store = made?;
    if cause == "rebuilt" {
        bring_back(&store);
    }
    let integration = if cause == "new" { None } else { store.recover_integration(&commits_of(&passed(db)?))? };
    tracing::info!(path = %store.path().display(), cause, "the store is ready");
    // A restore of a backup adds more to it first.
    if cause != "new" && loop_id.is_some() {
        name_what_is_lost(db, &store, cause)?;
    }
    let (path, integration) = (store.path().display().to_string(), integration.map(|commit| commit.to_string()));
    db.write(|tx| {
        // Another program may have created it too.
        if tx.store_makings()?.len() == makings.len() {
            tx.record_store(cause, &path, integration.as_deref())?;
        }
        Ok::<_, coord_db::Error>(())
    })?;
    Ok(store)
}

/// Names the remote to the store, and brings what others have landed there.
fn connect(store: &mut Store, user: &Repository, settings: &RepositoryConfig) -> Result<()> {
    store.set_remote(user, &settings.remote)?;
    match store.refresh() {
        // What is known of integration is enough to work on; nothing lands meanwhile.
        Err(error @ (git::Error::RemoteUnreachable { .. } | git::Error::RemoteRefused { .. }))
            if store.integration()?.is_some() =>
        {
            tracing::warn!(%error, "going on with what is known of integration");
            Ok(())
        }
        // The human is asked before the next landing.
        refreshed => Ok(refreshed.map(drop)?),
    }
}

fn make(db: &Database, user: &Repository, layout: &Layout, settings: &RepositoryConfig) -> Result<Store> {
    let database = db.path().ok_or_else(|| Error::SetUp("a loop needs a database file".to_owned()))?;
    let made = layout.create(user, database, &settings.integration_branch);
    let (mut store, made) = made.map_err(|error| place_refused(error, layout, database))?;
    connect(&mut store, user, settings)?;
    let broken = store.import_refs(user, OURS)?;
    for name in made.skipped_refs.iter().chain(&broken) {
        tracing::warn!(name, "reference not imported: its object is missing in the user's repository");
    }
    Ok(store)
}

fn place_refused(error: git::Error, layout: &Layout, database: &Path) -> Error {
    let remedy =
        "set root in [workspace] of config.toml to an empty folder on the same disk, outside the checkout, and try again";
    match error {
        git::Error::InTheWay { path } => {
            if path == layout.store_path() {
                return Error::SetUp(format!(
                    "{} is not the store of this installation; move it away and run loopctl init",
                    path.display()
                ));
            }
            let resolved = |path: PathBuf| path.canonicalize().ok();
            let other =
                layout.database().and_then(resolved).filter(|other| Some(other) != database.canonicalize().ok().as_ref());
            let what = other.map_or_else(
                || "contains files that coding-loops did not create".to_owned(),
                |other| format!("belongs to the database {}", other.display()),
            );
            Error::SetUp(format!("{} {what}; {remedy}", path.display()))
        }
        git::Error::InsideCheckout { path, checkout } => Error::SetUp(format!(
            "workspaces must not be at {}, inside the checkout {}, where tools would find copies of every file; {remedy}",
            path.display(),
            checkout.display()
        )),
        error => error.into(),
    }
}

/// Checks that no loop of an older version runs, which would continue to land on the user's branch.
fn older_programs_must_be_gone(db: &Database) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let running = db.read(|tx| {
        let mut running = Vec::new();
        for row in tx.loops()? {
            if let Some(process) = tx.running_process(row.id.as_str(), &ProcessIdentity::own())? {
                let version = tx.component(row.id.as_str())?.and_then(|component| component.version);
                running.push((row.id, process, version));
            }
        }
        Ok::<_, coord_db::Error>(running)
    })?;
    match running.iter().find(|(_, _, version)| version.as_deref() != Some(own)) {
        None => Ok(()),
        Some((id, process, version)) => Err(Error::Waiting(format!(
            "loop {id} still runs version {} ({process}), which does not use the store; stop it to continue",
            version.as_deref().unwrap_or("unknown"),
        ))),
    }
}

/// Prevents landings while references are imported: returns the token of a lease, or none if no landing is possible.
fn take_turn(db: &Database, config: &Config, loop_id: Option<&LoopId>) -> Result<Option<i64>> {
    let path = LeasePath::integration();
    let silent = config.lease.silent_waiter_seconds;
    if let Some(loop_id) = loop_id {
        let request = AcquireRequest {
            loop_id: loop_id.clone(),
            paths: vec![path.clone()],
            ttl_seconds: TURN_SECONDS,
            reason: Some("importing the installation to the store".to_owned()),
            test_id: None,
            automatic: true,
        };
        if let Acquire::Granted(grant) = db.write(|tx| tx.acquire(&request, silent))? {
            return Ok(Some(grant.fencing_token));
        }
    }
    // A dead process does not land, even if it still has a lease.
    let holder = db.read(|tx| {
        for lease in tx.leases_overlapping(&path)? {
            let identity = tx.component(&lease.locked_by)?.and_then(|component| component.identity());
            if identity.is_none_or(|identity| identity.liveness() != Liveness::Gone) {
                return Ok(Some(lease.locked_by));
            }
        }
        Ok::<_, coord_db::Error>(None)
    })?;
    match holder {
        None => Ok(None),
        Some(holder) => Err(Error::Waiting(format!("{holder} is landing; the store is created after that"))),
    }
}

/// True if the folder in the store's place is the store of this installation, or a remainder of it.
fn is_ours(layout: &Layout, makings: &[StoreMaking]) -> bool {
    let path = layout.store_path();
    let is_left = path.is_dir() && std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
    let same = |made: &StoreMaking| Path::new(&made.path).canonicalize().ok() == path.canonicalize().ok();
    is_left && makings.last().is_some_and(same)
}

/// Creates a damaged store again, and reports what is lost.
pub(crate) fn rebuild(db: &Database, user: &Repository, layout: &Layout, settings: &RepositoryConfig) -> Result<Store> {
    let landed = passed(db)?;
    let (mut store, rebuilt) = layout.rebuild_store(user, &settings.integration_branch, &commits_of(&landed))?;
    connect(&mut store, user, settings)?;
    let Some(damage) = rebuilt.damage else { return Ok(store) };
    let brought = bring_back(&store);
    let integration = store.recover_integration(&commits_of(&landed))?;
    let kept = rebuilt.kept_as.as_ref().map(|kept| format!("; its remains are in {}", kept.display())).unwrap_or_default();
    let refs: Vec<&String> = rebuilt.lost_refs.iter().filter(|name| !brought.contains(name)).collect();
    let lost = match refs.len() {
        0 => "no saved work or checkpoint is lost".to_owned(),
        count => {
            let more = if count > MAX_NAMED { ", …" } else { "" };
            let named = refs.iter().take(MAX_NAMED).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            format!("{count} references of saved work and checkpoints are lost ({named}{more})")
        }
    };
    let message = format!(
        "the store {} was damaged: {damage}; it was created again from your repository and its intact parts, and {lost}{kept}",
        layout.store_path().display()
    );
    let severity = if refs.is_empty() { Severity::Warning } else { Severity::Critical };
    raise(db, "damaged", severity, message, json!({ "lost_refs": refs }))?;
    name_what_is_lost(db, &store, "rebuilt")?;
    let (path, integration) = (store.path().display().to_string(), integration.map(|commit| commit.to_string()));
    db.write(|tx| tx.record_store("rebuilt", &path, integration.as_deref()))?;
    Ok(store)
}

/// Brings back what has copies at the remote. Gives the names of the references.
fn bring_back(store: &Store) -> Vec<String> {
    store.bring_back(&[SAVED, CHECKPOINTS]).unwrap_or_else(|error| {
        tracing::warn!(%error, "the copies of saved work at the remote cannot be brought back now");
        Vec::new()
    })
}

/// The passed tests and their commits.
pub(crate) fn passed(db: &Database) -> Result<Vec<(TestId, CommitHash)>> {
    let passed = db.read(|tx| tx.tests(None, Some(TestStatus::Passed)))?;
    Ok(passed.into_iter().filter_map(|test| Some((test.id, CommitHash::new(test.commit_hash?).ok()?))).collect())
}

fn commits_of(passed: &[(TestId, CommitHash)]) -> Vec<CommitHash> {
    passed.iter().map(|(_, commit)| commit.clone()).collect()
}

/// A message about passed tests whose commits are not part of integration; none if there are none.
fn lost(passed: &[(TestId, CommitHash)], store: &Store, head: Option<&CommitHash>) -> Result<Option<(Vec<TestId>, String)>> {
    let commits = commits_of(passed);
    let lost = match head {
        Some(head) => store.repository().not_contained(&commits, head)?,
        None => commits,
    };
    let lost: Vec<TestId> = passed.iter().filter(|(_, commit)| lost.contains(commit)).map(|(test, _)| test.clone()).collect();
    let named: Vec<&str> = lost.iter().take(MAX_NAMED).map(|test| test.as_str()).collect();
    let more = if lost.len() > MAX_NAMED { ", …" } else { "" };
    let words = format!("the commits of {} passed tests ({}{more})", lost.len(), named.join(", "));
    Ok((!lost.is_empty()).then_some((lost, words)))
}

fn raise(db: &Database, what: &str, severity: Severity, message: String, context: serde_json::Value) -> Result<()> {
    tracing::error!(message);
    let alert = NewAlert {
        fingerprint: format!("store:{what}"),
        severity,
        alert_type: AlertType::Regression,
        source: "coding-loop".to_owned(),
        message,
        context,
        event_id: None,
    };
    db.write(|tx| tx.raise_alert(&alert))?;
    Ok(())
}

/// The head of integration, restored if its reference was lost after it had started.
pub(crate) fn recover_integration(db: &Database, store: &Store) -> Result<Option<CommitHash>> {
    if let Some(head) = store.integration()? {
        return Ok(Some(head));
    }
    let passed = passed(db)?;
    let Some(head) = store.recover_integration(&commits_of(&passed))? else { return Ok(None) };
    // Another loop may have started integration at this moment; nothing has landed that could be lost.
    if passed.is_empty() {
        return Ok(Some(head));
    }
    let (lost, without) = match lost(&passed, store, Some(&head))? {
        Some((lost, words)) => (lost, format!(", without {words}")),
        None => Default::default(),
    };
    let message = format!(
        "the reference {} of the store {} was deleted or damaged; it was restored at {}{without}",
        store.integration_ref(),
        store.path().display(),
        head.short(),
    );
    let severity = if lost.is_empty() { Severity::Warning } else { Severity::Critical };
    raise(db, "integration", severity, message, json!({ "commit": head.as_str(), "tests": lost }))?;
    Ok(Some(head))
}

/// Reports the passed tests whose commits are missing in a store that was created again.
fn name_what_is_lost(db: &Database, store: &Store, cause: &str) -> Result<()> {
    let Some((lost, words)) = lost(&passed(db)?, store, store.integration()?.as_ref())? else { return Ok(()) };
    let message = format!(
        "the store was {} and does not contain {words}; loopctl restore --store-only restores a backup, and loopctl reset \
         TEST repeats a test",
        cause.replace('_', " "),
    );
    raise(db, cause, Severity::Critical, message, json!({ "tests": lost }))
}
