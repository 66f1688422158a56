//! The changes of an attempt, applied to the head of integration.
//!
//! The base is kept for each path: a file that was updated in the workspace is compared with its updated version. It
//! must not touch a workspace's files except in [`Workspace::update_paths`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::call::{Git, fields};
use crate::difference::{Difference, Entry, SUBMODULE, differences, index_info, nul_terminated, write_changes};
use crate::folders::remove_all;
use crate::nested;
use crate::repository::tree_of;
use crate::submodules::Files;
use crate::transfer::{SPOOL, missing};
use crate::workspace::State;
use crate::{CommitHash, Error, Result, Snapshot, Store, Workspace};

/// The changes of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// For each path the version from which the agent started, as one tree.
    pub base: CommitHash,
    /// The base with the agent's versions of the changed files.
    pub tree: CommitHash,
    /// The changed paths, sorted.
    pub paths: Vec<PathBuf>,
    /// The changed paths with an older version than their base, which would undo landings of others.
    pub stale: Vec<PathBuf>,
}

/// The result of applying a change to a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOn {
    /// The resulting tree.
    Tree(CommitHash),
    /// These paths were changed on both sides and do not merge.
    Conflict(Vec<PathBuf>),
}

/// The result of [`Workspace::update_paths`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// Files that were updated to the newer commit.
    pub updated: Vec<PathBuf>,
    /// Files that the agent has changed: they keep their base and are merged when the work lands.
    pub kept: Vec<PathBuf>,
    /// The trees before and after, between which all of these differ.
    pub trees: Option<(CommitHash, CommitHash)>,
}

impl Workspace {
    /// The changes of a snapshot since the start, applied to the base.
    pub fn change(&self, snapshot: &Snapshot) -> Result<Change> {
        let _lock = self.lock()?;
        let state = self.state()?;
        let mut changes = differences(self.store.git(), &state.start_tree, &snapshot.tree)?;
        let mut tree = snapshot.tree.clone();
        if state.start_tree != state.base_tree {
            let entries = changes.into_iter().map(|change| (change.path, change.new)).collect();
            tree = with_entries(&self.store, &state.base_tree, entries)?;
            // A file that equals the base again is no change.
            changes = differences(self.store.git(), &state.base_tree, &tree)?;
        }
        let mut stale = BTreeSet::new();
        for older in &state.older {
            let moved = by_path(differences(self.store.git(), older, &state.base_tree)?);
            stale.extend(changes.iter().filter_map(|change| {
                let moved = moved.get(&change.path)?;
                (moved.old == change.new).then(|| change.path.clone())
            }));
        }
        if let Some(behind) = &state.behind {
            stale.extend(self.undone(behind, &state.base_tree, &changes)?);
        }
        let paths = changes.into_iter().map(|change| change.path).collect();
        Ok(Change { base: state.base_tree, tree, paths, stale: stale.into_iter().collect() })
    }

    /// The changed paths that would undo changes of others between the base and the older tree to which the agent has
    /// returned: files that are as in that tree, and files changed there without the changes of others.
    fn undone(&self, behind: &CommitHash, base: &CommitHash, changes: &[Difference]) -> Result<Vec<PathBuf>> {
        let moved = by_path(differences(self.store.git(), behind, base)?);
        let changed: Vec<(&Difference, &Difference)> =
            changes.iter().filter_map(|change| Some((change, moved.get(&change.path)?))).collect();
        // If a file is as in the base, only HEAD has moved back and the files have not.
        let have_files_gone_back = changed.len() == moved.len();
        let mut undone = Vec::new();
        for (change, moved) in changed {
            let is_undone = change.new == moved.old
                || have_files_gone_back && {
                    let own = Difference { old: moved.old.clone(), ..change.clone() };
                    self.store.merge_file(&own, &moved.new, base)?.is_none_or(|merged| Some(merged) != change.new)
                };
            if is_undone {
                undone.push(change.path.clone());
            }
        }
        Ok(undone)
    }

    /// Updates files (or all files below folders) that the agent has not changed to a newer commit, and records that as
    /// their base.
    pub fn update_paths(&self, paths: &[PathBuf], newer: &CommitHash) -> Result<Updated> {
        let _lock = self.lock()?;
        if let Some(damage) = self.folder_damage() {
            return Err(self.damaged(damage));
        }
        let mut state = self.state()?;
        let newer_tree = tree_of(self.store.git(), newer)?;
        let named = |path: &Path| paths.iter().any(|named| path.starts_with(named));
        let mut moved = differences(self.store.git(), &state.base_tree, &newer_tree)?;
        moved.retain(|change| named(&change.path));
        if moved.is_empty() {
            return Ok(Updated::default());
        }
        let touched = self.touched(&mut state)?;
        let (kept, moved): (Vec<_>, Vec<_>) = moved
            .into_iter()
            .partition(|change| touched.iter().any(|path| path.starts_with(&change.path) || change.path.starts_with(path)));
        let entries: BTreeMap<PathBuf, Entry> = moved.iter().map(|change| (change.path.clone(), change.new.clone())).collect();
        let base_tree = with_entries(&self.store, &state.base_tree, entries.clone())?;
        let start_tree = with_entries(&self.store, &state.start_tree, entries.clone())?;
        // From here on a file that is not updated yet counts as set back by the agent: it is found as stale.
        let older = std::mem::replace(&mut state.base_tree, base_tree);
        state.older.push(older.clone());
        state.start_tree = start_tree;
        state.index_tree = None;
        state.write(&self.spec)?;
        let info = index_info(newer, entries.iter().map(|(path, entry)| (path.as_path(), entry.clone())));
        self.git.call(["update-index", "-z", "--index-info"]).stdin(info).ok()?;
        let is_file = |entry: &Entry| entry.as_ref().is_some_and(|(mode, _)| mode != "160000");
        for (path, _) in entries.iter().filter(|(_, entry)| entry.is_none()) {
            drop(fs::remove_file(self.root().join(path)));
        }
        let list = nul_terminated(entries.iter().filter(|(_, entry)| is_file(entry)).map(|(path, _)| path));
        self.git.call(["checkout-index", "-q", "-f", "-u", "-z", "--stdin"]).stdin(list).ok()?;
        self.fill_links(&newer_tree, &moved)?;
        let names = |list: Vec<Difference>| list.into_iter().map(|change| change.path).collect();
        Ok(Updated { updated: names(moved), kept: names(kept), trees: Some((older, newer_tree)) })
    }

    /// Writes saved work to the files: those that differ between the base and a tree become as in the tree. The base
    /// stays, so the work counts as the agent's.
    pub fn put_back(&self, tree: &CommitHash) -> Result<()> {
        let _lock = self.lock()?;
        let state = self.state()?;
        let changes = differences(self.store.git(), &state.base_tree, tree)?;
        write_changes(&self.git, self.root(), &self.spec.state.join("index.put-back"), &changes, tree)?;
        self.fill_links(tree, &changes)
    }

    /// Updates the submodules among these to the versions in a tree.
    fn fill_links(&self, tree: &CommitHash, changes: &[Difference]) -> Result<()> {
        let is_link = |change: &&Difference| change.new.as_ref().is_some_and(|(mode, _)| mode == SUBMODULE);
        let links: BTreeSet<PathBuf> = changes.iter().filter(is_link).map(|change| change.path.clone()).collect();
        if links.is_empty() { Ok(()) } else { self.fill_submodules(self.root(), tree, Files::Reset, Some(&links)) }
    }

    /// Moves files or folders to the same relative paths below another folder, which must not contain them yet.
    pub fn set_aside(&self, paths: &[PathBuf], folder: &Path) -> Result<()> {
        for path in paths {
            let (from, to) = (self.root().join(path), folder.join(path));
            let parent = to.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            fs::rename(&from, &to).map_err(Error::io("move aside", &from))?;
        }
        Ok(())
    }

    /// All paths in the workspace that differ from the start.
    fn touched(&self, state: &mut State) -> Result<Vec<PathBuf>> {
        let mut touched = self.git.call(["diff-files", "-z", "--name-only", "--ignore-submodules=all"]).paths()?;
        touched.extend(self.git.call(["ls-files", "-z", "--others", "--directory"]).paths()?);
        let index_tree = self.index_tree(state)?;
        touched.extend(differences(&self.git, &state.start_tree, &index_tree)?.into_iter().map(|change| change.path));
        Ok(touched)
    }

    /// Uses the agent's HEAD as a hint: if it contains a newer commit of integration (`head` or before it), that
    /// becomes the base of all paths without a newer one of their own. Returns that commit. If the agent has returned
    /// to a commit before the base, this is recorded: files that would undo the changes since then are stale.
    pub fn follow_agent(&self, head: &CommitHash) -> Result<Option<CommitHash>> {
        let _lock = self.lock()?;
        let mut state = self.state()?;
        let Some(agent) = nested::head_of(self.root()) else { return Ok(None) };
        let objects = self.root().join(".git/objects");
        let reader = self.store.git().with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", &objects);
        let common = if agent == *head {
            Some(agent)
        } else {
            let answer = reader.call(["merge-base", agent.as_str(), head.as_str()]).answer()?;
            CommitHash::new(String::from_utf8_lossy(&answer.stdout).trim()).ok().filter(|_| answer.code == Some(0))
        };
        let Some(common) = common else { return Ok(None) };
        if !missing(self.store.git(), std::slice::from_ref(&common))?.is_empty() {
            return Ok(None);
        }
        if common == state.base || !self.store.repository().is_ancestor(&state.base, &common)? {
            let behind = if common == state.base { None } else { Some(tree_of(self.store.git(), &common)?) };
            if state.behind != behind {
                state.behind = behind;
                state.write(&self.spec)?;
            }
            return Ok(None);
        }
        let newer = common;
        let old = tree_of(self.store.git(), &state.base)?;
        let own: BTreeSet<PathBuf> = paths_of(differences(self.store.git(), &old, &state.base_tree)?);
        let dirty: BTreeSet<PathBuf> = paths_of(differences(self.store.git(), &state.base_tree, &state.start_tree)?);
        let moved = differences(self.store.git(), &old, &tree_of(self.store.git(), &newer)?)?;
        let pick = |skipped: &BTreeSet<PathBuf>| -> BTreeMap<PathBuf, Entry> {
            let wanted = moved.iter().filter(|change| !own.contains(&change.path) && !skipped.contains(&change.path));
            wanted.map(|change| (change.path.clone(), change.new.clone())).collect()
        };
        let base_tree = with_entries(&self.store, &state.base_tree, pick(&BTreeSet::new()))?;
        state.start_tree = with_entries(&self.store, &state.start_tree, pick(&dirty))?;
        let older = std::mem::replace(&mut state.base_tree, base_tree);
        state.older.push(older);
        state.base = newer.clone();
        state.behind = None;
        state.write(&self.spec)?;
        Ok(Some(newer))
    }
}

impl Store {
    /// The difference between two trees (or commits) as a change.
    pub fn change_between(&self, base: &CommitHash, tree: &CommitHash) -> Result<Change> {
        let (base, tree) = (tree_of(self.git(), base)?, tree_of(self.git(), tree)?);
        let paths = differences(self.git(), &base, &tree)?.into_iter().map(|change| change.path).collect();
        Ok(Change { base, tree, paths, stale: Vec::new() })
    }

    /// The tree that results from reverting a commit on another one.
    ///
    /// # Errors
    /// [`Error::UnknownRevision`] for a commit without a parent.
    pub fn take_back(&self, commit: &CommitHash, onto: &CommitHash) -> Result<PutOn> {
        let parent = self.repository().commit(&format!("{commit}^1"))?;
        self.put_on(&self.change_between(commit, &parent)?, onto)
    }

    /// Applies a change to a commit: if base and commit agree on a path, the change's file replaces it; otherwise the
    /// three versions are merged, with the merge driver of the attributes.
    pub fn put_on(&self, change: &Change, onto: &CommitHash) -> Result<PutOn> {
        self.put_on_tree(change, &tree_of(self.git(), onto)?)
    }

    /// Like [`Store::put_on`], on a tree.
    pub(crate) fn put_on_tree(&self, change: &Change, onto_tree: &CommitHash) -> Result<PutOn> {
        let git = self.git();
        if *onto_tree == change.base {
            return Ok(PutOn::Tree(change.tree.clone()));
        }
        let ours = differences(git, &change.base, &change.tree)?;
        let theirs = by_path(differences(git, &change.base, onto_tree)?);
        let (mut entries, mut conflicts) = (BTreeMap::new(), Vec::new());
        for change in ours {
            let clash = in_the_way(&change, &theirs);
            match theirs.get(&change.path) {
                _ if clash => conflicts.push(change.path),
                None => drop(entries.insert(change.path, change.new)),
                Some(their) if their.new == change.new => {}
                Some(their) => match self.merge_file(&change, &their.new, onto_tree)? {
                    Some(merged) => drop(entries.insert(change.path, Some(merged))),
                    None => conflicts.push(change.path),
                },
            }
        }
        if conflicts.is_empty() {
            with_entries(self, onto_tree, entries).map(PutOn::Tree)
        } else {
            Ok(PutOn::Conflict(conflicts))
        }
    }

    /// Merges one file that both sides have changed; none for a conflict.
    pub(crate) fn merge_file(
        &self,
        ours: &Difference,
        theirs: &Entry,
        onto_tree: &CommitHash,
    ) -> Result<Option<(String, CommitHash)>> {
        let (Some((our_mode, our_hash)), Some((their_mode, their_hash))) = (&ours.new, theirs) else { return Ok(None) };
        let regular = |mode: &str| mode.starts_with("100");
        if !regular(our_mode) || !regular(their_mode) || ours.old.as_ref().is_some_and(|(mode, _)| !regular(mode)) {
            return Ok(None);
        }
        let mode = match &ours.old {
            Some((old, _)) if our_mode == old => their_mode,
            Some((old, _)) if their_mode == old || our_mode == their_mode => our_mode,
            None if our_mode == their_mode => our_mode,
            _ => return Ok(None),
        };
        let old_hash = ours.old.as_ref().map(|(_, hash)| hash);
        if our_hash == their_hash || Some(their_hash) == old_hash {
            return Ok(Some((mode.clone(), our_hash.clone())));
        }
        if Some(our_hash) == old_hash {
            return Ok(Some((mode.clone(), their_hash.clone())));
        }
        let folder = Scratch::new(self)?;
        let write = |name: &str, hash: Option<&CommitHash>| -> Result<PathBuf> {
            let path = folder.path.join(name);
            let content = match hash {
                Some(hash) => self.git().call(["cat-file", "blob", hash.as_str()]).ok()?,
                None => Vec::new(),
            };
            fs::write(&path, content).map_err(Error::io("write", &path))?;
            Ok(path)
        };
        let files = [write("ours", Some(our_hash))?, write("base", old_hash)?, write("theirs", Some(their_hash))?];
        if !self.merge_contents(&folder, &files, &ours.path, onto_tree)? {
            return Ok(None);
        }
        // The contents are in git's stored form, so no filter may be applied again.
        let hash = self.git().call(["hash-object", "-w", "--no-filters", "--"]).arg(&files[0]).hash()?;
        Ok(Some((mode.clone(), hash)))
    }

    /// Merges into the first of three files; false for a conflict.
    fn merge_contents(&self, folder: &Scratch, files: &[PathBuf; 3], path: &Path, onto_tree: &CommitHash) -> Result<bool> {
        let tree = folder.path.join("tree");
        fs::create_dir_all(&tree).map_err(Error::io("create", &tree))?;
        let git = Git::in_work_tree(self.path(), &tree).with_env("GIT_INDEX_FILE", folder.path.join("index"));
        git.call(["read-tree", onto_tree.as_str()]).ok()?;
        // There are no files, so the attributes are those of the index.
        let attribute = |name: &str| -> Result<Vec<u8>> {
            let stdout = git.call(["check-attr", "-z", "--cached", name, "--"]).arg(path).ok()?;
            Ok(fields(&stdout).nth(2).unwrap_or_default().to_vec())
        };
        let driver = String::from_utf8_lossy(&attribute("merge")?).into_owned();
        let marker = String::from_utf8_lossy(&attribute("conflict-marker-size")?).parse::<u32>().unwrap_or(7);
        let command = match driver.as_str() {
            "unset" | "binary" => return Ok(false),
            "unspecified" | "set" | "text" | "union" => None,
            name => {
                let answer = self.git().call(["config", "--get", &format!("merge.{name}.driver")]).answer()?;
                (answer.code == Some(0)).then(|| String::from_utf8_lossy(&answer.stdout).trim_end_matches('\n').to_owned())
            }
        };
        if let Some(command) = command {
            return run_driver(&command, folder, path, marker);
        }
        let mut call = git.call(["merge-file", "-q"]);
        if driver == "union" {
            call = call.arg("--union");
        }
        let call = call.args(files);
        let answer = call.answer()?;
        match answer.code {
            Some(0) => Ok(true),
            // The number of conflicts, or a binary file.
            Some(1..=255) => Ok(false),
            _ => Err(call.failed(answer)),
        }
    }
}

/// Runs a merge driver of the user as git does: with a shell and placeholders.
fn run_driver(command: &str, folder: &Scratch, path: &Path, marker: u32) -> Result<bool> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let mut filled = String::new();
    let mut letters = command.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            filled.push(letter);
            continue;
        }
        match letters.next() {
            Some('O') => filled.push_str("base"),
            Some('A') => filled.push_str("ours"),
            Some('B') => filled.push_str("theirs"),
            Some('L') => filled.push_str(&marker.to_string()),
            Some('P') => filled.push_str(&quoted(&path.to_string_lossy())),
            Some('S' | 'X') => filled.push_str("base"),
            Some('Y') => filled.push_str("work"),
            Some(other) => filled.extend(if other == '%' { vec!['%'] } else { vec!['%', other] }),
            None => filled.push('%'),
        }
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", &filled]).current_dir(&folder.path).stdin(std::process::Stdio::null());
    let output = shell.output().map_err(Error::io("run a merge driver in", &folder.path))?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1..=128) => Ok(false),
        code => Err(Error::GitFailed {
            args: vec!["merge driver".to_owned(), command.to_owned()],
            code,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// True if a file on one side and a folder on the other have the same name.
fn in_the_way(change: &Difference, theirs: &BTreeMap<PathBuf, Difference>) -> bool {
    change.new.is_some()
        && theirs.values().any(|their| {
            let nested = their.path.starts_with(&change.path) || change.path.starts_with(&their.path);
            their.new.is_some() && their.path != change.path && nested
        })
}

pub(crate) fn by_path(list: Vec<Difference>) -> BTreeMap<PathBuf, Difference> {
    list.into_iter().map(|difference| (difference.path.clone(), difference)).collect()
}

fn paths_of(list: Vec<Difference>) -> BTreeSet<PathBuf> {
    list.into_iter().map(|difference| difference.path).collect()
}

/// A tree with some entries replaced.
pub(crate) fn with_entries(store: &Store, tree: &CommitHash, entries: BTreeMap<PathBuf, Entry>) -> Result<CommitHash> {
    if entries.is_empty() {
        return Ok(tree.clone());
    }
    let folder = Scratch::new(store)?;
    let git = store.git().with_env("GIT_INDEX_FILE", folder.path.join("index"));
    git.call(["read-tree", tree.as_str()]).ok()?;
    let info = index_info(tree, entries.iter().map(|(path, entry)| (path.as_path(), entry.clone())));
    git.call(["update-index", "-z", "--index-info"]).stdin(info).ok()?;
    git.call(["write-tree"]).hash()
}

/// A temporary folder.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(store: &Store) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = store.path().join(format!("{SPOOL}{}-{number}.folder", std::process::id()));
        remove_all(&path)?;
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(remove_all(&self.path));
    }
}
