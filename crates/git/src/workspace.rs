//! A workspace: the clone in which a loop's agent works, and our record of it.
//!
//! The agent owns its `.git`: references, config, stash and hooks affect nobody else, and nothing done there reaches
//! the store. It must never be trusted: the agent's changes are found with our own index beside it
//! ([`Workspace::snapshot`]). A damaged workspace is repaired or replaced, and its old content is kept under a dated
//! name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crash_point::{Point, reach};
use serde::{Deserialize, Serialize};

use crate::bare::{init, own_format};
use crate::call::{Git, LONG_TIME_LIMIT, fields};
use crate::effective::effective;
use crate::folders::{FolderLock, absolute, beside, copy_index, put_aside, relative, remove_all};
use crate::nested;
use crate::refs;
use crate::repository::tree_of;
use crate::settings::{OWN_EXCLUDES, Pair, Settings, pairs, replace_file, write_config};
use crate::submodule_edits::Edit;
use crate::submodules::{self, Files, MODULES, Place};
use crate::{CommitHash, Damage, Error, Result, Store};

/// The setting that marks a clone as a workspace.
const MARK: (&str, &str) = ("codingloops.workspace", "true");

/// The push URL, which `git push` prints as the missing repository. It must not contain a colon, which would make it a
/// host.
const NO_PUSH: &str = "pushing is disabled in this workspace, coding-loops lands finished work itself";

/// Refuses a push to any other address too.
const PRE_PUSH: &str = "#!/bin/sh\ngit config --get remote.origin.pushurl >&2\nexit 1\n";

/// The paths of a workspace, and the branch of its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceSpec {
    /// The folder of the agent's files.
    pub path: PathBuf,
    /// Our folder, outside the workspace, for our index and record.
    pub state: PathBuf,
    /// The short name of the branch on which the agent starts.
    pub branch: String,
}

/// A workspace.
#[derive(Clone, Debug)]
pub struct Workspace {
    pub(crate) store: Store,
    pub(crate) spec: WorkspaceSpec,
    /// git with the store as repository, our index, and the workspace's files.
    pub(crate) git: Git,
}

/// The result of opening a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It did not exist and was created.
    Created,
    /// It exists and is intact, with the files that the agent has left.
    Kept,
    /// It was damaged; its git folder or index was created again, and the agent's files are unchanged.
    Repaired {
        /// The damage.
        damage: Damage,
        /// The path of the damaged part; none if it was missing.
        kept_as: Option<PathBuf>,
    },
    /// It was damaged and created again.
    Replaced {
        /// The damage.
        damage: Damage,
        /// The path of the damaged one; none if it was missing.
        kept_as: Option<PathBuf>,
    },
}

/// The settings of the user and of the machine that are in effect in the store and in workspaces.
#[derive(Default)]
pub(crate) struct Inherited {
    /// Global hooks.
    hooks: bool,
    name: bool,
    email: bool,
    /// git may convert content between files and objects.
    converts: bool,
}

/// Our record of a workspace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The commit to which it was reset, or to which the agent has moved.
    pub(crate) base: CommitHash,
    /// For each path the version from which the agent started.
    pub(crate) base_tree: CommitHash,
    /// The content before the agent started: the base with the effects of set-up and conversions.
    pub(crate) start_tree: CommitHash,
    /// Earlier base trees.
    #[serde(default)]
    pub(crate) older: Vec<CommitHash>,
    /// The tree of an older commit to which the agent has returned.
    #[serde(default)]
    pub(crate) behind: Option<CommitHash>,
    /// True if the agent has changed the ignore rules.
    #[serde(default)]
    pub(crate) has_new_rules: bool,
    /// True if there are submodules.
    pub(crate) has_links: bool,
    /// Edits in submodules from before the agent started.
    #[serde(default)]
    pub(crate) start_edits: Vec<Edit>,
    /// True if git may convert content between files and objects.
    pub(crate) converts: bool,
    /// The tree of our index; none while it is being changed.
    pub(crate) index_tree: Option<CommitHash>,
}

impl State {
    fn path(spec: &WorkspaceSpec) -> PathBuf {
        spec.state.join("state.json")
    }

    pub(crate) fn read(spec: &WorkspaceSpec) -> Option<Self> {
        Self::at(&spec.state)
    }

    /// Reads the record in our folder.
    pub(crate) fn at(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join("state.json")).ok()?).ok()
    }

    /// The trees to which only this record refers.
    pub(crate) fn into_trees(self) -> Vec<CommitHash> {
        let mut trees = vec![self.base_tree, self.start_tree];
        trees.extend(self.older.into_iter().chain(self.behind).chain(self.index_tree));
        trees
    }

    pub(crate) fn write(&self, spec: &WorkspaceSpec) -> Result<()> {
        let path = Self::path(spec);
        let text = serde_json::to_vec(self).map_err(|error| Error::io("write", &path)(error.into()))?;
        replace_file(&path, &text)
    }
}

impl Workspace {
    /// Opens the workspace of a loop, or creates it at a commit. Files that an agent has left stay; [`Self::reset_to`]
    /// discards them.
    ///
    /// # Errors
    /// [`Error::InTheWay`] if the path exists and is not a workspace of this store.
    pub fn open_or_create(store: &Store, spec: &WorkspaceSpec, base: &CommitHash) -> Result<(Self, Opened)> {
        let workspace = Self::at(store, spec)?;
        let _lock = workspace.lock()?;
        let exists = workspace.root().symlink_metadata().is_ok();
        let opened = match (exists, workspace.has_state()) {
            (false, false) => {
                workspace.make(base)?;
                Opened::Created
            }
            (false, true) => workspace.replace(Damage::Missing, base)?,
            (true, false) if workspace.is_empty_folder() => {
                fs::remove_dir(workspace.root()).map_err(Error::io("remove", workspace.root()))?;
                workspace.make(base)?;
                Opened::Created
            }
            (true, false) if workspace.is_marked() => workspace.replace(Damage::StateLost, base)?,
            (true, false) => return Err(Error::InTheWay { path: workspace.spec.path }),
            (true, true) => workspace.mend(base)?,
        };
        Ok((workspace, opened))
    }

    /// Opens an existing workspace without checking it; none if there is none.
    pub fn open(store: &Store, spec: &WorkspaceSpec) -> Result<Option<Self>> {
        let workspace = Self::at(store, spec)?;
        Ok(State::read(&workspace.spec).is_some().then_some(workspace))
    }

    fn at(store: &Store, spec: &WorkspaceSpec) -> Result<Self> {
        let spec = WorkspaceSpec { path: absolute(&spec.path)?, state: absolute(&spec.state)?, branch: spec.branch.clone() };
        store.repository().branch_ref(&spec.branch)?;
        let index = spec.state.join("index");
        let git = store.git().with_work_tree(&spec.path).with_env("GIT_INDEX_FILE", index);
        Ok(Self { store: store.clone(), spec, git })
    }

    /// The root of the agent's files.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.spec.path
    }

    /// The commit to which it was reset, or to which the agent has moved since.
    ///
    /// # Errors
    /// [`Error::WorkspaceDamaged`] if our record of it is lost.
    pub fn base(&self) -> Result<CommitHash> {
        Ok(self.state()?.base)
    }

    pub(crate) fn state(&self) -> Result<State> {
        State::read(&self.spec).ok_or_else(|| self.damaged(Damage::StateLost))
    }

    pub(crate) fn damaged(&self, damage: Damage) -> Error {
        Error::WorkspaceDamaged { path: self.spec.path.clone(), damage }
    }

    pub(crate) fn lock(&self) -> Result<FolderLock> {
        let mut lock = self.store.lock(&self.spec.state.join("lock"))?;
        if lock.mark() {
            self.wait_for_orphans();
        }
        // Only holders of the lock run git on our index, so an index lock was left by a killed process.
        drop(fs::remove_file(self.spec.state.join("index.lock")));
        Ok(lock)
    }

    /// Waits for the git of a dead process: two that write the same index and files would damage both.
    fn wait_for_orphans(&self) {
        const BOUND: Duration = Duration::from_secs(60);
        const PAUSE: Duration = Duration::from_millis(20);
        let ours = [b"GIT_INDEX_FILE=", self.spec.state.as_os_str().as_encoded_bytes(), b"/"].concat();
        let until = Instant::now() + BOUND;
        while command_runner::is_any_started_with(|entry| entry.starts_with(&ours)) && Instant::now() < until {
            std::thread::park_timeout(PAUSE);
        }
    }

    pub(crate) fn git_dir(&self) -> PathBuf {
        self.spec.path.join(".git")
    }

    fn has_state(&self) -> bool {
        State::path(&self.spec).exists()
    }

    fn is_empty_folder(&self) -> bool {
        fs::read_dir(self.root()).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// True if its git folder is marked as a workspace of this store.
    fn is_marked(&self) -> bool {
        let git_dir = self.git_dir();
        let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if !is_folder(self.root()) || !is_folder(&git_dir) {
            return false;
        }
        let alternates = fs::read(git_dir.join("objects/info/alternates")).unwrap_or_default();
        // Only the relative path survives a move of the folder.
        let first = |text: &[u8]| text.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec();
        first(&alternates) == first(&self.alternates())
    }

    fn alternates(&self) -> Vec<u8> {
        let objects = self.store.path().join("objects");
        let way = relative(&self.git_dir().join("objects"), &objects).into_os_string().into_encoded_bytes();
        let objects = objects.into_os_string().into_encoded_bytes();
        let mut text = [way.as_slice(), b"\n"].concat();
        // GitPython, which Aider uses, takes a relative path as relative to the current folder.
        if !objects.contains(&b'\n') {
            text.extend_from_slice(&[objects.as_slice(), b"\n"].concat());
        }
        text
    }

    /// The damage that matters to the agent, if any.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        if let Some(damage) = self.folder_damage() {
            return Some(damage);
        }
        let git_dir = self.git_dir();
        let Ok(meta) = git_dir.symlink_metadata() else { return Some(Damage::GitMissing) };
        if !meta.is_dir() {
            return Some(Damage::GitReplaced);
        }
        if nested::would_wait(self.root()) {
            return Some(Damage::GitUnreadable);
        }
        if self.state().is_ok_and(|state| self.would_wait_in(&self.submodules_by(&state))) {
            return Some(Damage::SubmoduleUnreadable);
        }
        let git = Git::in_work_tree(&git_dir, self.root());
        let works = |call: &[&str]| git.call(call).answer().is_ok_and(|answer| answer.code == Some(0));
        let is_marked = self.is_marked();
        let finds_head = || works(&["cat-file", "-e", "HEAD^{tree}"]);
        let has_head = is_marked && self.git.known().has_head(&git_dir, self.store.path(), finds_head);
        if !git_dir.join("config").is_file() || !has_head && !works(&["rev-parse", "--is-bare-repository"]) {
            return Some(Damage::GitUnreadable);
        }
        if !is_marked {
            return Some(Damage::Foreign);
        }
        if !has_head && !works(&["symbolic-ref", "--quiet", "HEAD"]) {
            return Some(Damage::GitUnreadable);
        }
        let index = git_dir.join("index");
        if !index.is_file() || !self.git.known().can_read_index(&index, || works(&["ls-files", "--unmerged", "-z"])) {
            return Some(Damage::IndexUnreadable);
        }
        None
    }

    /// The paths in `.gitmodules`, for a workspace with submodules.
    pub(crate) fn submodules_by(&self, state: &State) -> BTreeSet<PathBuf> {
        if state.has_links { nested::declared_submodules(&self.git, self.root()) } else { BTreeSet::new() }
    }

    pub(crate) fn would_wait_in(&self, modules: &BTreeSet<PathBuf>) -> bool {
        modules.iter().any(|path| nested::would_wait(&self.root().join(path)))
    }

    /// The damage that prevents our git from reading the files.
    pub(crate) fn folder_damage(&self) -> Option<Damage> {
        match self.root().symlink_metadata() {
            Err(_) => return Some(Damage::Missing),
            Ok(meta) if !meta.is_dir() => return Some(Damage::NotAFolder),
            Ok(_) => {}
        }
        let index = self.spec.state.join("index");
        let read = || self.git.call(["ls-files", "--unmerged", "-z"]).answer().is_ok_and(|answer| answer.code == Some(0));
        let readable = self.git.known().can_read_index(&index, read);
        let is_whole = |state: State| {
            // Only our record refers to the trees of a snapshot: a store that was created again may lack them.
            let trees = state.into_trees();
            self.store.missing(&trees).is_ok_and(|lost| lost.is_empty())
        };
        let is_known = readable && index.is_file() && State::read(&self.spec).is_some_and(is_whole);
        (!is_known).then_some(Damage::StateLost)
    }

    // ---- making ----

    pub(crate) fn replace(&self, damage: Damage, base: &CommitHash) -> Result<Opened> {
        tracing::warn!(workspace = ?self.root(), ?damage, "replacing a damaged workspace");
        let exists = self.root().symlink_metadata().is_ok();
        let kept_as = if exists { Some(put_aside(self.root())?) } else { None };
        self.make(base)?;
        Ok(Opened::Replaced { damage, kept_as })
    }

    /// Repairs the workspace if it is damaged.
    pub(crate) fn mend(&self, base: &CommitHash) -> Result<Opened> {
        let Some(damage) = self.damage() else { return Ok(Opened::Kept) };
        let kept_as = match damage {
            Damage::GitMissing => None,
            Damage::GitReplaced | Damage::GitUnreadable => {
                // Beside the workspace, where the agent's tools do not find it.
                let aside = beside(self.root(), ".git");
                fs::rename(self.git_dir(), &aside).map_err(Error::io("rename", self.git_dir()))?;
                Some(put_aside(&aside)?)
            }
            Damage::IndexUnreadable => {
                let index = self.git_dir().join("index");
                if index.symlink_metadata().is_ok() { Some(put_aside(&index)?) } else { None }
            }
            _ => return self.replace(damage, base),
        };
        tracing::warn!(workspace = ?self.root(), ?damage, "repairing a damaged workspace");
        if damage == Damage::IndexUnreadable {
            self.copy_index(&self.git_dir())?;
        } else {
            let base = self.state()?.base;
            let making = beside(self.root(), ".new");
            remove_all(&making)?;
            self.init_git(&making, &base, &self.inherited()?)?;
            fs::rename(making.join(".git"), self.git_dir()).map_err(Error::io("rename", &making))?;
            remove_all(&making)?;
            self.fill_submodules(self.root(), &base, Files::Keep, None)?;
        }
        Ok(Opened::Repaired { damage, kept_as })
    }

    /// Creates it under a temporary name and renames it, so that it is complete or missing.
    fn make(&self, base: &CommitHash) -> Result<()> {
        let making = beside(self.root(), ".new");
        remove_all(&making)?;
        for file in ["state.json", "index", "setup", MODULES] {
            remove_all(&self.spec.state.join(file))?;
        }
        if let Some(parent) = making.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        fs::create_dir(&making).map_err(Error::io("create", &making))?;
        let git = self.git.with_work_tree(&making);
        git.call(["read-tree", "--reset", "-u", base.as_str()]).time_limit(LONG_TIME_LIMIT).ok()?;
        let inherited = self.inherited()?;
        self.init_git(&making, base, &inherited)?;
        self.record(base, &inherited)?;
        self.fill_submodules(&making, base, Files::Reset, None)?;
        reach(Point::WorkspaceMade);
        fs::rename(&making, self.root()).map_err(Error::io("rename", &making))
    }

    /// Records that our index and the files are those of a commit.
    pub(crate) fn record(&self, base: &CommitHash, inherited: &Inherited) -> Result<()> {
        let base_tree = tree_of(self.store.git(), base)?;
        let (has_links, has_attributes) = self.special_entries(&base_tree)?;
        let info = fs::metadata(self.store.path().join("info/attributes")).is_ok_and(|meta| meta.len() > 0);
        let state = State {
            base: base.clone(),
            start_tree: base_tree.clone(),
            index_tree: Some(base_tree.clone()),
            base_tree,
            older: Vec::new(),
            behind: None,
            has_new_rules: false,
            has_links,
            start_edits: Vec::new(),
            converts: has_attributes || inherited.converts || info,
        };
        state.write(&self.spec)
    }

    /// Whether a tree has submodules, and files with attributes; our index is this tree.
    fn special_entries(&self, tree: &CommitHash) -> Result<(bool, bool)> {
        if let Some(known) = self.git.known().special_entries(tree) {
            return Ok(known);
        }
        // The workspace may have a temporary name still.
        let git = self.store.git().with_env("GIT_INDEX_FILE", self.spec.state.join("index"));
        let listed = git.call(["ls-files", "--stage", "-z"]).ok()?;
        let (mut has_links, mut has_attributes) = (false, false);
        for entry in fields(&listed) {
            has_links |= entry.starts_with(b"160000 ");
            has_attributes |= entry.ends_with(b"/.gitattributes") || entry.ends_with(b"\t.gitattributes");
        }
        self.git.known().note_special_entries(tree, (has_links, has_attributes));
        Ok((has_links, has_attributes))
    }

    /// Reads the settings that the store and its workspaces have from outside.
    pub(crate) fn inherited(&self) -> Result<Inherited> {
        let mut found = Inherited::default();
        for (scope, (key, _)) in effective(self.store.git())?.iter() {
            match key.as_slice() {
                b"core.hookspath" => found.hooks |= scope == b"global",
                b"core.autocrlf" | b"core.attributesfile" => found.converts = true,
                b"user.name" => found.name = true,
                b"user.email" => found.email = true,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Creates the agent's git folder in `making`, with a commit checked out.
    fn init_git(&self, making: &Path, base: &CommitHash, inherited: &Inherited) -> Result<()> {
        init(self.store.git(), making, &[&format!("--initial-branch={}", self.spec.branch)])?;
        let git_dir = making.join(".git");
        let settings = self.settings()?;
        let mut config = own_format(&git_dir)?;
        config.extend(settings.pairs.iter().cloned());
        config.extend(self.own_settings(&settings, inherited));
        write_config(&git_dir.join("config"), &config)?;
        fs::create_dir_all(git_dir.join("hooks")).map_err(Error::io("create", git_dir.join("hooks")))?;
        self.connect(&git_dir, base)
    }

    pub(crate) fn settings(&self) -> Result<Settings> {
        let mut settings = Settings::of_clone(self.store.path())?;
        if settings.exclude.is_empty() {
            settings.exclude = OWN_EXCLUDES.as_bytes().to_vec();
        }
        Ok(settings)
    }

    /// The settings of a workspace.
    pub(crate) fn own_settings(&self, settings: &Settings, inherited: &Inherited) -> Vec<Pair> {
        let store = relative(self.root(), self.store.path());
        let mut list = pairs(&[
            MARK,
            ("core.logallrefupdates", "true"),
            ("core.fsmonitor", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("commit.gpgsign", "false"),
            ("tag.gpgsign", "false"),
            ("push.gpgsign", "false"),
        ]);
        // Global hooks of the user must not run for the agent.
        if inherited.hooks {
            list.extend(pairs(&[("core.hookspath", ".git/hooks")]));
        }
        let named = [("user.name", "coding-loops", inherited.name), ("user.email", "coding-loops@localhost", inherited.email)];
        for (key, value, is_inherited) in named {
            if !settings.has(key) && !is_inherited {
                list.extend(pairs(&[(key, value)]));
            }
        }
        list.push((b"remote.origin.url".to_vec(), store.into_os_string().into_encoded_bytes()));
        list.extend(pairs(&[
            ("remote.origin.pushurl", NO_PUSH),
            ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
        ]));
        let branch = &self.spec.branch;
        list.extend(pairs(&[
            (&format!("branch.{branch}.remote"), "origin"),
            (&format!("branch.{branch}.merge"), self.store.integration_ref()),
        ]));
        list
    }

    /// Connects the agent's git folder to the store, updates its references, and copies our index.
    pub(crate) fn connect(&self, git_dir: &Path, base: &CommitHash) -> Result<()> {
        self.settings()?.write_info(git_dir)?;
        let hooks = git_dir.join("hooks");
        fs::create_dir_all(&hooks).map_err(Error::io("create", &hooks))?;
        let hook = hooks.join("pre-push");
        replace_file(&hook, PRE_PUSH.as_bytes())?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).map_err(Error::io("make executable", &hook))?;
        let info = git_dir.join("objects/info");
        fs::create_dir_all(&info).map_err(Error::io("create", &info))?;
        replace_file(&info.join("alternates"), &self.alternates())?;
        let shallow = self.store.path().join("shallow");
        if shallow.exists() {
            replace_file(&git_dir.join("shallow"), &fs::read(&shallow).map_err(Error::io("read", shallow))?)?;
        }
        let git = Git::in_repository(git_dir);
        let branch = format!("refs/heads/{}", self.spec.branch);
        let head = git_dir.join("HEAD");
        let is_file = head.symlink_metadata().is_ok_and(|meta| meta.is_file());
        if !is_file || fs::read(&head).ok() != Some(format!("ref: {branch}\n").into_bytes()) {
            git.call(["symbolic-ref", "HEAD", &branch]).ok()?;
        }
        let mut wanted = vec![(branch, base.clone())];
        for (name, hash) in self.store.repository().branches_and_tags()? {
            let name = match name.strip_prefix("refs/heads/") {
                Some(branch) => format!("refs/remotes/origin/{branch}"),
                None => name,
            };
            wanted.push((name, hash));
        }
        let there = refs::list(git_dir, &["refs/heads", "refs/remotes", "refs/tags"]).unwrap_or_default();
        wanted.retain(|wanted| there.binary_search(wanted).is_err());
        if !wanted.is_empty() {
            let lines: String = wanted.iter().map(|(name, hash)| format!("update {name} {hash}\n")).collect();
            // The settings of a workspace always name somebody.
            git.call(["update-ref", "--no-deref", "--stdin"]).stdin(lines).ok()?;
        }
        self.copy_index(git_dir)
    }

    /// Copies our index to the agent: the same files with the same times.
    fn copy_index(&self, git_dir: &Path) -> Result<()> {
        let (ours, theirs) = (self.spec.state.join("index"), git_dir.join("index"));
        let new = beside(&theirs, ".new");
        copy_index(&ours, &new).map_err(Error::io("copy", &ours))?;
        fs::rename(&new, &theirs).map_err(Error::io("replace", &theirs))?;
        for index in [ours, theirs] {
            self.git.known().note_index(&index);
        }
        Ok(())
    }

    /// Fills the submodules of a commit or tree in the workspace with files at `root`, or only those in `only`. The
    /// agent's commits there are saved in the store.
    pub(crate) fn fill_submodules(
        &self,
        root: &Path,
        tree: &CommitHash,
        files: Files,
        only: Option<&BTreeSet<PathBuf>>,
    ) -> Result<()> {
        if !self.state()?.has_links && only.is_none() {
            return Ok(());
        }
        let (git_dir, modules, own) = (root.join(".git"), self.store.path().join(MODULES), self.spec.state.join(MODULES));
        let place = Place { root, git_dir: &git_dir, store: &modules, own: &own };
        submodules::save_left_behind(&place)?;
        for submodule in submodules::fill(self.store.git(), tree, &place, files, only)? {
            tracing::warn!(
                submodule = %submodule.path.display(),
                commit = submodule.commit.short(),
                "submodule is empty, because your repository does not have it; run git submodule update --init --recursive there"
            );
        }
        Ok(())
    }

    /// Removes the workspace and our record of it. Save its work first.
    pub fn remove(self) -> Result<()> {
        let lock = self.lock()?;
        remove_all(&beside(self.root(), ".new"))?;
        remove_all(self.root())?;
        for file in ["state.json", "index", "setup", MODULES] {
            remove_all(&self.spec.state.join(file))?;
        }
        drop(lock);
        remove_all(&self.spec.state)
    }
}
