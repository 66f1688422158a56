//! Finding the store, or making it: for a new installation, after it was lost, and for an installation of an older version,
//! which kept everything in the user's repository.
//!
//! An older program knows nothing of the store and would go on landing on the user's branch, so nothing is brought over while
//! one runs. Every step can be done twice, and the row that says that the store is made is written last.

use std::path::{Path, PathBuf};

use coord_db::process::Liveness;
use coord_db::{
    Acquire, AcquireRequest, AlertType, Config, Database, LoopId, NewAlert, Severity, StoreMaking, TestId, TestStatus,
};
use git::{CommitHash, Depth, Layout, Repository, Store};
use serde_json::json;

use crate::work::integration_lease;
use crate::{Error, Result};

/// References of ours.
pub(crate) const OURS: &str = "refs/coding-loops";
/// How long others are kept from landing at most while the store is made, in seconds.
const TURN_SECONDS: i64 = 600;
/// Tests that are named one by one.
const MAX_NAMED: usize = 5;

/// Makes the store of an installation unless it is there.
///
/// # Errors
/// If its place is taken or in the user's checkout; [`Error::Waiting`] while an older program runs or somebody lands; what git
/// or the database says.
pub fn make_store(db: &Database, config: &Config) -> Result<Store> {
    let user = Repository::open(&config.repository_path())?;
    store(db, config, &user, &Layout::new(config.workspace_root()), None)
}

/// As [`make_store`], in the name of a loop.
pub(crate) fn store(
    db: &Database,
    config: &Config,
    user: &Repository,
    layout: &Layout,
    loop_id: Option<&LoopId>,
) -> Result<Store> {
    // A human waits for a whole look, which is also what repairs.
    let depth = if loop_id.is_some() { Depth::Tips } else { Depth::All };
    let makings = db.read(|tx| tx.store_makings())?;
    let branch = &config.repository.integration_branch;
    let integration = format!("refs/heads/{branch}");
    match layout.open_store() {
        Ok(store) if !makings.is_empty() && store.integration_ref() == integration => {
            if store.damage(user, depth)?.is_some() {
                return rebuild(db, user, layout, branch);
            }
            return match recover_integration(db, &store) {
                Err(_) if store.damage(user, Depth::All)?.is_some() => rebuild(db, user, layout, branch),
                recovered => recovered.map(|_| store),
            };
        }
        Err(_) if is_ours(layout, &makings) => return rebuild(db, user, layout, branch),
        // Another name counts as long as nothing has landed.
        Ok(_) if !makings.is_empty() => return make(db, user, layout, branch),
        _ => {}
    }
    if let Some(last) = makings.last()
        && layout.open_store().is_err()
        && Store::open(Path::new(&last.path)).is_ok()
    {
        return Err(Error::SetUp(format!(
            "the store of this installation is {}, and [workspace] root means {}; move that folder here, or set root to where it is",
            last.path,
            layout.root().display()
        )));
    }
    let is_older = !user.list_refs(OURS)?.is_empty() || user.resolve(&integration)?.is_some();
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
    let made = make(db, user, layout, branch);
    if let (Some(token), Some(loop_id)) = (turn, loop_id) {
        match db.write(|tx| tx.release_all(loop_id, Some(token))) {
            // It ran out while the store was made, which the store's own lock guards too.
            Ok(_) | Err(coord_db::Error::LeaseLost { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let store = made?;
    let integration = if cause == "new" { None } else { store.recover_integration(&commits_of(&passed(db)?))? };
    tracing::info!(path = %store.path().display(), cause, "the store is there");
    // Whoever restores a backup has more to put into it first.
    if cause != "new" && loop_id.is_some() {
        name_what_is_lost(db, &store, cause)?;
    }
    let (path, integration) = (store.path().display().to_string(), integration.map(|commit| commit.to_string()));
    db.write(|tx| {
        // Another program may have been at it too.
        if tx.store_makings()?.len() == makings.len() {
            tx.record_store(cause, &path, integration.as_deref())?;
        }
        Ok::<_, coord_db::Error>(())
    })?;
    Ok(store)
}

fn make(db: &Database, user: &Repository, layout: &Layout, branch: &str) -> Result<Store> {
    let database = db.path().ok_or_else(|| Error::SetUp("a loop needs a database file".to_owned()))?;
    let (store, made) = layout.create(user, database, branch).map_err(|error| place_refused(error, layout, database))?;
    let broken = store.import_refs(user, OURS)?;
    for name in made.skipped_refs.iter().chain(&broken) {
        tracing::warn!(name, "not in the store: what the reference names is missing in the user's repository");
    }
    Ok(store)
}

fn place_refused(error: git::Error, layout: &Layout, database: &Path) -> Error {
    let remedy =
        "set root in [workspace] of config.toml to an empty folder on the same disk, outside of the checkout, and try again";
    match error {
        git::Error::InTheWay { path } => {
            if path == layout.store_path() {
                return Error::SetUp(format!(
                    "{} is not the store that this installation has made; move it to another place, and loopctl init makes one",
                    path.display()
                ));
            }
            let resolved = |path: PathBuf| path.canonicalize().ok();
            let other =
                layout.database().and_then(resolved).filter(|other| Some(other) != database.canonicalize().ok().as_ref());
            let what = other.map_or_else(
                || "holds files that coding-loops did not make".to_owned(),
                |other| format!("belongs to the database {}", other.display()),
            );
            Error::SetUp(format!("{} {what}; {remedy}", path.display()))
        }
        git::Error::InsideCheckout { path, checkout } => Error::SetUp(format!(
            "the workspaces cannot lie at {}, in the checkout {}, where tools would find copies of every file; {remedy}",
            path.display(),
            checkout.display()
        )),
        error => error.into(),
    }
}

/// A loop of an older version would land on the user's branch after the store was made.
fn older_programs_must_be_gone(db: &Database) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let running = db.read(|tx| {
        let mut running = Vec::new();
        for row in tx.loops()? {
            running.extend(tx.component(row.id.as_str())?);
        }
        Ok::<_, coord_db::Error>(running)
    })?;
    let older = running.iter().find(|component| {
        let is_alive = component.identity().is_some_and(|identity| identity.liveness() != Liveness::Gone);
        is_alive && component.version.as_deref() != Some(own)
    });
    match older {
        None => Ok(()),
        Some(component) => Err(Error::Waiting(format!(
            "loop {} still runs as version {} (pid {}) and works in the old place; stop it, and this one goes on",
            component.component,
            component.version.as_deref().unwrap_or("unknown"),
            component.pid.unwrap_or_default()
        ))),
    }
}

/// Keeps everybody from landing while refs are brought over: gives the token of a loop, none where nobody is to be kept off.
fn take_turn(db: &Database, config: &Config, loop_id: Option<&LoopId>) -> Result<Option<i64>> {
    let path = integration_lease()?;
    let silent = config.lease.silent_waiter_seconds;
    if let Some(loop_id) = loop_id {
        let request = AcquireRequest {
            loop_id: loop_id.clone(),
            paths: vec![path.clone()],
            ttl_seconds: TURN_SECONDS,
            reason: Some("bringing the installation over to the store".to_owned()),
            test_id: None,
            automatic: true,
        };
        if let Acquire::Granted(grant) = db.write(|tx| tx.acquire(&request, silent))? {
            return Ok(Some(grant.fencing_token));
        }
    }
    // One that is gone lands no more, whatever lease it has left.
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
        Some(holder) => Err(Error::Waiting(format!("{holder} is landing; the store is made once that has ended"))),
    }
}

/// Whether what is in the store's place is the store of this installation, or what is left of it.
fn is_ours(layout: &Layout, makings: &[StoreMaking]) -> bool {
    let path = layout.store_path();
    let is_left = path.is_dir() && std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
    let same = |made: &StoreMaking| Path::new(&made.path).canonicalize().ok() == path.canonicalize().ok();
    is_left && makings.last().is_some_and(same)
}

/// Makes a damaged store again, and names what is lost with it.
pub(crate) fn rebuild(db: &Database, user: &Repository, layout: &Layout, branch: &str) -> Result<Store> {
    let landed = passed(db)?;
    let (store, rebuilt) = layout.rebuild_store(user, branch, &commits_of(&landed))?;
    let Some(damage) = rebuilt.damage else { return Ok(store) };
    let integration = store.recover_integration(&commits_of(&landed))?;
    let kept =
        rebuilt.kept_as.as_ref().map(|kept| format!("; what is left of it is in {}", kept.display())).unwrap_or_default();
    let refs = &rebuilt.lost_refs;
    let lost = match refs.len() {
        0 => "nothing of saved work and checkpoints is lost".to_owned(),
        count => {
            let more = if count > MAX_NAMED { ", …" } else { "" };
            let named = refs.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("{count} references of saved work and checkpoints are lost ({named}{more})")
        }
    };
    let message = format!(
        "the store {} was damaged: {damage}; it was made again from your repository and what was whole, and {lost}{kept}",
        layout.store_path().display()
    );
    let severity = if refs.is_empty() { Severity::Warning } else { Severity::Critical };
    raise(db, "damaged", severity, message, json!({ "lost_refs": refs }))?;
    name_what_is_lost(db, &store, "rebuilt")?;
    let (path, integration) = (store.path().display().to_string(), integration.map(|commit| commit.to_string()));
    db.write(|tx| tx.record_store("rebuilt", &path, integration.as_deref()))?;
    Ok(store)
}

/// The passed tests and their commits.
pub(crate) fn passed(db: &Database) -> Result<Vec<(TestId, CommitHash)>> {
    let passed = db.read(|tx| tx.tests(None, Some(TestStatus::Passed)))?;
    Ok(passed.into_iter().filter_map(|test| Some((test.id, CommitHash::new(test.commit_hash?).ok()?))).collect())
}

fn commits_of(passed: &[(TestId, CommitHash)]) -> Vec<CommitHash> {
    passed.iter().map(|(_, commit)| commit.clone()).collect()
}

/// The passed tests whose commits are not part of integration, in words; none if there are none.
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

/// Where integration is, restored if its reference was lost after it had started.
pub(crate) fn recover_integration(db: &Database, store: &Store) -> Result<Option<CommitHash>> {
    if let Some(head) = store.integration()? {
        return Ok(Some(head));
    }
    let passed = passed(db)?;
    let Some(head) = store.recover_integration(&commits_of(&passed))? else { return Ok(None) };
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

/// Names the passed tests whose commits are not part of integration in a store that was made again.
fn name_what_is_lost(db: &Database, store: &Store, cause: &str) -> Result<()> {
    let Some((lost, words)) = lost(&passed(db)?, store, store.integration()?.as_ref())? else { return Ok(()) };
    let message = format!(
        "the store was {} and does not have {words}; loopctl restore --store-only brings back what a backup has, and loopctl reset \
         TEST has a test done again",
        cause.replace('_', " "),
    );
    raise(db, cause, Severity::Critical, message, json!({ "tests": lost }))
}
