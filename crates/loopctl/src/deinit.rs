//! `loopctl deinit`: removes from a repository what `init` and the loops have made of it.
//!
//! Without `--yes` it only shows what it would remove. It must never remove what coding-loops did not make, and removes
//! nothing while something runs. The files that locate the rest are removed last, so that an interrupted removal continues
//! when the command is repeated.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use coord_db::locate::Location;
use coord_db::process::ProcessIdentity;
use coord_db::{CheckpointType, Config, Database, Error, Loop, TestStatus, archive_path, locate};
use git::{CommitHash, FollowStep, Layout, Published, RefExpectation, Repository, Store, Workspace};
use serde::Serialize;
use views::published;
use views::sentence::count;
use views::text::safe;

use crate::context::Context;
use crate::doctor::commits_of_branch;
use crate::exit::{Failure, Outcome};
use crate::launch;
use crate::service;
use crate::setup::repository_of;
use crate::workspaces::failure;

/// References of an older version in the user's repository.
const OURS: &str = "refs/coding-loops";
/// Items of one kind that are named one by one.
const MAX_NAMED: usize = 5;

/// What is there, and what is done with it.
#[derive(Debug, Serialize)]
struct Plan {
    repository: String,
    removes: Vec<String>,
    /// What stays although it is where our things are, with the reason.
    keeps: Vec<String>,
    /// Work that would be lost, which takes `--force`.
    unlanded: Vec<String>,
    /// Why nothing can be removed now.
    obstacles: Vec<String>,
    removed: bool,
}

/// Where everything is.
struct Place {
    database: PathBuf,
    home: PathBuf,
    config: Config,
    user: Repository,
    /// The folder of store and workspaces; none if it is another repository's.
    layout: Option<Layout>,
    /// None once it is removed, or if it is damaged.
    store: Option<Store>,
    /// The published branch, where it is what we have published.
    branch: Option<(String, CommitHash)>,
    /// References of an older version.
    refs: Vec<(String, CommitHash)>,
}

/// `loopctl deinit`
///
/// # Errors
/// Exit 1 if it is to remove something and something runs, is enabled as a service, or would be lost without `--force`.
pub fn run(cx: &Context, yes: bool, force: bool) -> Outcome {
    let (mut place, mut plan) = Place::find(cx)?;
    let db = place.database.exists().then(|| Database::open(&place.database, &place.config.open_options())).transpose()?;
    if let Some(db) = &db {
        plan.obstacles.extend(in_use(db)?);
    }
    let loops = db.as_ref().map_or(Ok(Vec::new()), |db| db.read(|tx| tx.loops()))?;
    place.examine_branch(&mut plan)?;
    if let Some(store) = &place.store {
        plan.unlanded = place.unlanded(store, db.as_ref(), &loops)?;
    }
    place.list(&mut plan);
    let refused = refusal(&plan, yes, force);
    if yes && refused.is_none() {
        match &db {
            // While this transaction is open, nothing can begin to run.
            Some(db) => db.write(|tx| {
                let running = tx.running_components(&ProcessIdentity::own())?;
                if let Some((component, process)) = running.first() {
                    return Err(Failure::No(format!("{component} runs as {process}; {}", how_to_stop(db))));
                }
                place.remove_outside()
            })?,
            None => place.remove_outside()?,
        }
        drop(db);
        place.remove_home()?;
        plan.removed = true;
    }
    match (cx.out.json, cx.out.quiet) {
        (true, _) => cx.out.document(&plan)?,
        (false, true) => {}
        (false, false) => cx.out.text(&plan.text(force))?,
    }
    refused.map_or(Ok(()), |why| Err(Failure::No(why)))
}

/// Why nothing is removed although it was asked for.
fn refusal(plan: &Plan, yes: bool, force: bool) -> Option<String> {
    match (plan.obstacles.first(), plan.unlanded.len()) {
        _ if !yes => None,
        (Some(first), _) => Some(format!("nothing was removed: {first}")),
        (None, 0) => None,
        (None, _) if force => None,
        (None, lost) => {
            let lost = count(i64::try_from(lost).unwrap_or(i64::MAX), "piece");
            Some(format!("nothing was removed: {lost} of work would be lost; land or merge it, or add --force"))
        }
    }
}

impl Plan {
    fn text(&self, force: bool) -> String {
        if self.removes.is_empty() {
            return safe(&format!("nothing of coding-loops is left in {}", self.repository));
        }
        let mut text = String::new();
        for (title, lines) in [
            (if self.removed { "removed" } else { "would be removed" }, &self.removes),
            ("kept", &self.keeps),
            (if self.removed { "lost" } else { "would be lost" }, &self.unlanded),
            ("in the way", &self.obstacles),
        ] {
            if !lines.is_empty() {
                text.push_str(&format!("{title}:\n"));
                lines.iter().for_each(|line| text.push_str(&format!("  {}\n", safe(line))));
            }
        }
        if !self.removed && self.obstacles.is_empty() {
            let force = if self.unlanded.is_empty() || force { "" } else { " --force" };
            text.push_str(&format!("next:\n  loopctl deinit --yes{force}\n"));
        }
        text
    }
}

/// What to do with a process that runs.
fn how_to_stop(db: &Database) -> &'static str {
    let is_launched = db.path().is_some_and(launch::has_launched);
    if is_launched { "run loopctl down first" } else { "stop it first" }
}

/// What uses the database: processes, services, and a human's own command.
fn in_use(db: &Database) -> Outcome<Vec<String>> {
    let own = ProcessIdentity::own();
    let mut found = Vec::new();
    for enabled in service::enabled(db.path().unwrap_or(Path::new(""))) {
        found.push(format!("{} is enabled: run {} first", enabled.target, enabled.how_to_disable()));
    }
    db.read(|tx| {
        for (component, process) in tx.running_components(&own)? {
            found.push(format!("{component} runs as {process}: {}", how_to_stop(db)));
        }
        for entry in tx.open_journal(None)? {
            if let (Some(process), true) = (entry.steps.owner(), tx.is_owned_by_other(&entry.steps, &own)?) {
                found.push(format!(
                    "{} of {} is being done by {process}: wait until it ends",
                    entry.operation,
                    entry.component.as_deref().unwrap_or("a human")
                ));
            }
        }
        Ok::<_, Error>(())
    })?;
    Ok(found)
}

impl Place {
    fn find(cx: &Context) -> Outcome<(Self, Plan)> {
        // After a removal that was cut off there may be no database to find.
        let is_named = cx.global.db.is_some() || std::env::var_os(locate::VARIABLE).is_some_and(|value| !value.is_empty());
        let database = if is_named || cx.path.exists() {
            cx.folder.join(&cx.path)
        } else {
            repository_of(&cx.folder)?.join(locate::FOLDER).join(locate::FILE)
        };
        let home = database.parent().map(Path::to_owned).unwrap_or_default();
        let config = Config::load(&database, cx.global.config.as_deref())?;
        let top = if home.is_dir() { config.repository_path() } else { repository_of(&cx.folder)? };
        let user = Repository::open(&top).map_err(|error| failure(&error))?;
        let root = config.workspace_root();
        let layout = Layout::new(root.canonicalize().unwrap_or(root));
        let mut plan = Plan {
            repository: user.root().display().to_string(),
            removes: Vec::new(),
            keeps: Vec::new(),
            unlanded: Vec::new(),
            obstacles: Vec::new(),
            removed: false,
        };
        let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let is_other = match layout.database() {
            Some(named) => resolved(&named) != resolved(&database) && (named.exists() || database.exists()),
            None => layout.holds_something_else(),
        };
        if is_other {
            plan.keeps.push(format!("{}: it belongs to another repository", layout.root().display()));
        }
        let layout = Some(layout).filter(|_| !is_other);
        let store = layout.as_ref().and_then(|layout| layout.open_store().ok());
        if home.join("worktrees").is_dir() {
            plan.obstacles.push(format!(
                "{} holds work of an older version: run coding-loop LOOP --once for each loop, which saves it",
                home.join("worktrees").display()
            ));
        }
        let refs = user.list_refs(OURS).map_err(|error| failure(&error))?;
        Ok((Self { database, home, config, user, layout, store, branch: None, refs }, plan))
    }

    /// Whose the published branch is.
    fn examine_branch(&mut self, plan: &mut Plan) -> Outcome {
        let name = self.config.repository.integration_branch.clone();
        let Ok(Some(found)) = self.user.resolve(&format!("refs/heads/{name}")) else { return Ok(()) };
        let look = |store| published::look(store, &self.user, &self.config).map_err(|error| failure(&error));
        let kept = match self.store.as_ref().map(look).transpose()?.flatten() {
            None => "the store has nothing that was published under this name",
            Some(Published::Diverged(_)) => "another process moved it",
            Some(Published::Already(_) | Published::Moved { .. } | Published::Waiting(_)) => {
                if let Some(path) = self.user.branch_checked_out(&name).map_err(|error| failure(&error))? {
                    let shown = path.display();
                    plan.obstacles.push(format!("the branch {name} is checked out at {shown}: switch to another branch there"));
                }
                self.branch = Some((name, found));
                return Ok(());
            }
        };
        plan.keeps.push(format!("the branch {name}: {kept}; git branch -D {name} deletes it"));
        Ok(())
    }

    /// The work that is nowhere else.
    fn unlanded(&self, store: &Store, db: Option<&Database>, loops: &[Loop]) -> Outcome<Vec<String>> {
        let mut lost = Vec::new();
        if let Some(db) = db {
            lost.extend(current_and_saved(db, store)?);
        }
        lost.extend(self.layout.iter().flat_map(|layout| in_workspaces(layout, store)));
        if let Some(head) = store.integration().map_err(|error| failure(&error))? {
            let name = &self.config.repository.integration_branch;
            let is_published = self.user.resolve(&format!("refs/heads/{name}")).is_ok_and(|found| found == Some(head.clone()));
            let beyond = commits_of_branch(&self.user, name, loops).ours;
            let is_merged = is_published && beyond == 0;
            if !is_merged && !self.is_contained(store, &head).unwrap_or(false) {
                lost.push(if is_published {
                    let commits = count(i64::try_from(beyond).unwrap_or(i64::MAX), "commit");
                    format!("{commits} on the branch {name} that no branch of yours has: merge it")
                } else {
                    format!(
                        "what has landed, at {} in the store: it is not published, and no branch of yours has it",
                        head.short()
                    )
                });
            }
        }
        Ok(lost)
    }

    /// Whether the followed branch has the content of what has landed, whatever its history says: it was squashed or rebased.
    fn is_contained(&self, store: &Store, head: &CommitHash) -> Option<bool> {
        let branch = coding_loop::followed_branch(&self.config, &self.user).ok()?;
        let theirs = self.user.resolve(&format!("refs/heads/{branch}")).ok()??;
        let theirs = store.fetch_from_user(&self.user, theirs.as_str()).ok()?;
        let tree_of = |commit| store.repository().tree_of(commit).ok();
        let their_tree = tree_of(&theirs)?;
        Some(match store.incoming(head, &theirs, None).ok()?.step {
            FollowStep::Nothing => tree_of(head)? == their_tree,
            FollowStep::FastForward => true,
            FollowStep::Merge(tree) => tree == their_tree,
            FollowStep::Conflict(_) | FollowStep::Unrelated => false,
        })
    }

    /// Lists what is removed, and what else is there.
    fn list(&self, plan: &mut Plan) {
        if let Some((name, at)) = &self.branch {
            plan.removes.push(format!("the branch {name}, at {}", at.short()));
        }
        if !self.refs.is_empty() {
            let number = i64::try_from(self.refs.len()).unwrap_or(i64::MAX);
            plan.removes.push(format!("{} below {OURS}/", count(number, "reference")));
        }
        if let Some(layout) = self.layout.as_ref().filter(|layout| layout.root().is_dir()) {
            let workspaces = i64::try_from(entries(&layout.workspaces()).len()).unwrap_or(i64::MAX);
            let shown = layout.root().display();
            plan.removes.push(format!("{shown}: the store and {}", count(workspaces, "workspace")));
            plan.keeps.extend(layout.foreign().iter().map(|path| foreign(path)));
        }
        if let Some(remote) = self.store.as_ref().and_then(Store::remote) {
            let branch = &self.config.repository.integration_branch;
            plan.keeps
                .push(format!("at {remote}: the branch {branch} and references below {OURS}/, which other machines may use"));
        }
        let (ours, others) = self.home_entries();
        if !ours.is_empty() {
            plan.removes.push(match Location::of(&self.database) {
                Location::File(_) => format!("{}: database, settings, backups, logs", self.home.display()),
                Location::Server(_) => format!("{}: address of the database, settings, backups, logs", self.home.display()),
            });
            if let Location::Server(_) = Location::of(&self.database) {
                plan.keeps.push("the database on its PostgreSQL server; dropdb removes it".to_owned());
            }
            plan.keeps.extend(others.iter().map(|path| foreign(path)));
        }
    }

    /// What is in the folder of the database: ours, in the order in which it is removed, and what is not ours.
    fn home_entries(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = [name(&self.database), name(&archive_path(&self.database))];
        let mut ours: BTreeSet<String> = ["", "-wal", "-shm", "-journal", ".bell"]
            .iter()
            .flat_map(|end| files.each_ref().map(|file| format!("{file}{end}")))
            .collect();
        // In a folder of the user's own, these may hold other things.
        let is_own = self.home.file_name().is_some_and(|name| name == locate::FOLDER);
        if is_own {
            ours.extend(["backups", "logs"].map(str::to_owned));
        }
        let (config, ignore) = (Config::path_for(&self.database), self.home.join(".gitignore"));
        let is_ignored_by_us = fs::read(&ignore).is_ok_and(|text| text == b"*\n");
        let all = entries(&self.home).into_iter().filter(|path| *path != config && !(is_ignored_by_us && *path == ignore));
        let (mut removed, kept): (Vec<_>, Vec<_>) = all.partition(|path| ours.contains(&name(path)));
        // The settings say where the rest is.
        removed.extend([config].into_iter().filter(|file| file.exists()));
        if is_ignored_by_us && kept.is_empty() {
            removed.push(ignore);
        }
        (removed, kept)
    }

    fn remove_outside(&self) -> Outcome {
        let delete = |name: &str, at: &CommitHash| {
            self.user.delete_ref(name, &RefExpectation::At(at.clone())).map_err(|error| failure(&error))
        };
        if let Some((name, at)) = &self.branch {
            delete(&format!("refs/heads/{name}"), at)?;
        }
        for (name, at) in &self.refs {
            delete(name, at)?;
        }
        if let Some(layout) = self.layout.as_ref().filter(|layout| layout.root().is_dir()) {
            layout.remove().map_err(|error| failure(&error))?;
        }
        Ok(())
    }

    fn remove_home(&self) -> Outcome {
        for path in self.home_entries().0 {
            let is_folder = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
            let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| Failure::No(format!("cannot remove {}: {error}; then run this again", path.display())))?;
        }
        // It stays if something else is in it.
        let _ = fs::remove_dir(&self.home);
        Ok(())
    }
}

/// Tests that somebody works on, and saved work of tests that have not passed.
fn current_and_saved(db: &Database, store: &Store) -> Outcome<Vec<String>> {
    let refs = store.repository().list_refs(OURS).map_err(|error| failure(&error))?;
    let refs: BTreeSet<String> = refs.into_iter().map(|(name, _)| name).collect();
    let mut lost = Vec::new();
    db.read(|tx| {
        for test in tx.tests(None, Some(TestStatus::InProgress))? {
            lost.push(format!("test {} of loop {} is in progress", test.id, test.loop_id));
        }
        let mut saved = Vec::new();
        for row in tx.checkpoints(None, false)?.into_iter().filter(|row| row.checkpoint_type == CheckpointType::Stash) {
            let test = row.test_id.as_ref().map(|id| tx.find_test(id.as_str())).transpose()?.flatten();
            if refs.contains(&row.git_ref) && test.is_none_or(|test| test.status != TestStatus::Passed) {
                saved.push(row);
            }
        }
        for row in saved.iter().take(MAX_NAMED) {
            let test = row.test_id.as_ref().map_or("no test", |id| id.as_str());
            lost.push(format!("saved work of loop {} for {test}: {}", row.loop_id, row.git_ref));
        }
        if saved.len() > MAX_NAMED {
            lost.push(format!("{} more pieces of saved work: loopctl checkpoints lists them", saved.len() - MAX_NAMED));
        }
        Ok::<_, Error>(())
    })?;
    Ok(lost)
}

/// What is in workspaces, and nowhere else.
fn in_workspaces(layout: &Layout, store: &Store) -> Vec<String> {
    let mut lost = Vec::new();
    for path in entries(&layout.workspaces()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shown = path.display();
        if name.contains(".damaged-") {
            lost.push(format!("files of a workspace that was damaged: {shown}"));
            continue;
        }
        let spec = layout.workspace(&name, &format!("coding-loops/{name}"));
        match Workspace::open(store, &spec).and_then(|workspace| workspace.map(|it| it.glance()).transpose()) {
            Ok(Some(Some(glance))) if !glance.changed.is_empty() => {
                let number = i64::try_from(glance.changed.len()).unwrap_or(i64::MAX);
                let example = glance.changed[0].display();
                lost.push(format!("{} in {shown}, as {example}", count(number, "changed file")));
            }
            Ok(Some(None)) => lost.push(format!("{shown} is in use, so its changes are not known")),
            Err(error) => lost.push(format!("{shown} cannot be read: {error}")),
            Ok(_) => {}
        }
    }
    for path in entries(&layout.root().join("left")) {
        lost.push(format!("files of saved work that are not in the store: {}", path.display()));
    }
    lost
}

fn foreign(path: &Path) -> String {
    format!("{}: coding-loops did not make it", path.display())
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}
