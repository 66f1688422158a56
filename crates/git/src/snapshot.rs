//! Snapshots: the content of a workspace as a tree, read without trusting the agent's git.
//!
//! Our git reads the files with the store as repository and our own index. It must run nothing in a nested repository
//! or submodule, and no hook or monitor of a config there.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::call::{LONG_TIME_LIMIT, fields, to_path};
use crate::conversion::as_checked_out;
use crate::difference::{Difference, Entry, SUBMODULE, differences, index_info, nul_terminated};
use crate::finding::{Finding, unreadable_folder};
use crate::folders::remove_all;
use crate::known::Found;
use crate::nested;
use crate::plan::{Plan, ignored};
use crate::submodule_edits::{Edit, Looker, unknown_inside};
use crate::submodules::{self, MODULES, Place, Submodule};
use crate::workspace::State;
use crate::{CommitHash, Error, Repository, Result, Workspace};

/// The options of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotOptions<'a> {
    /// Our folder in the repository, such as `coding-loops`.
    pub own_folder: &'a str,
    /// Maximum size of a file in bytes.
    pub file_bytes: u64,
    /// The repository in which commits of submodules are searched, besides the workspace's remotes.
    pub user: Option<&'a Repository>,
    /// Include everything unless both the base and the workspace's `.gitignore` files ignore it: for saving, where a
    /// changed ignore rule must not lose anything. Otherwise files that either of them ignores are left out.
    pub take_unignored: bool,
}

/// The content of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its tree. Files that could not be included keep their earlier version.
    pub tree: CommitHash,
    /// The paths that differ from the start, sorted.
    pub changed: Vec<PathBuf>,
    /// Findings that prevent landing.
    pub findings: Vec<Finding>,
}

/// The mode of a symbolic link in a tree.
const LINK: &str = "120000";

impl Workspace {
    /// Takes a snapshot and records it as the start: existing differences from the base are not changes of the agent.
    /// Take it after the set-up and before the agent starts.
    ///
    /// # Errors
    /// [`Error::WorkspaceDamaged`].
    pub fn snapshot_start(&self, options: &SnapshotOptions<'_>) -> Result<Snapshot> {
        let _lock = self.lock()?;
        self.record_start(options)
    }

    pub(crate) fn record_start(&self, options: &SnapshotOptions<'_>) -> Result<Snapshot> {
        // Files as old as the index are compared by content each time; once the index is younger, by their times.
        self.git.call(["update-index", "-q", "--refresh", "--ignore-submodules"]).answer()?;
        let (mut snapshot, edits) = self.look(options)?;
        let mut state = self.state()?;
        state.start_tree.clone_from(&snapshot.tree);
        state.start_edits = edits;
        state.write(&self.spec)?;
        snapshot.changed.clear();
        Ok(snapshot)
    }

    /// Takes a snapshot of the workspace.
    ///
    /// Untracked files that are ignored by the workspace's `.gitignore` files, by those of the base, or by the store's
    /// excludes are left out. A repository that the agent has created inside is included as plain files.
    ///
    /// # Errors
    /// [`Error::WorkspaceDamaged`] if the folder is missing or replaced.
    pub fn snapshot(&self, options: &SnapshotOptions<'_>) -> Result<Snapshot> {
        let _lock = self.lock()?;
        self.look(options).map(|(snapshot, _)| snapshot)
    }

    fn look(&self, options: &SnapshotOptions<'_>) -> Result<(Snapshot, Vec<Edit>)> {
        match self.root().symlink_metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(self.damaged(crate::Damage::NotAFolder)),
            Err(_) => return Err(self.damaged(crate::Damage::Missing)),
        }
        let mut state = self.state()?;
        let modules = self.submodules_by(&state);
        if self.would_wait_in(&modules) {
            return Err(self.damaged(crate::Damage::SubmoduleUnreadable));
        }
        let mut plan = self.plan(&state, modules, options)?;
        if !plan.is_empty() {
            // The old tree is invalid until the index is written as a tree.
            state.index_tree = None;
            state.has_new_rules = plan.has_new_rules;
            state.has_links |= !plan.links.is_empty();
            state.write(&self.spec)?;
            plan.apply(&self.git)?;
        }
        let mut tree = self.index_tree(&mut state)?;
        let mut edits = Vec::new();
        if state.has_links {
            let saved = self.look_into_submodules(&state, &tree, options, &mut plan.findings, &mut edits)?;
            if !saved.is_empty() {
                state.index_tree = None;
                state.write(&self.spec)?;
                let names = saved.iter().map(|(submodule, commit)| (submodule.path.clone(), commit.clone())).collect();
                Plan { links: names, ..Plan::default() }.apply(&self.git)?;
                tree = self.index_tree(&mut state)?;
                let links = saved.into_iter().map(|(submodule, _)| (submodule.path, submodule.commit)).collect();
                Plan { links, ..Plan::default() }.apply(&self.git)?;
                state.index_tree = None;
                state.write(&self.spec)?;
            }
        }
        if !plan.once.is_empty() {
            let list = nul_terminated(plan.once.iter());
            self.git.call(["update-index", "-z", "--force-remove", "--stdin"]).stdin(list).ok()?;
            state.index_tree = None;
            state.write(&self.spec)?;
        }
        let changes = if tree == state.start_tree { Vec::new() } else { differences(&self.git, &state.start_tree, &tree)? };
        let mut findings = plan.findings;
        findings.extend(self.judge(&tree, &changes, options)?);
        findings.sort();
        findings.dedup();
        let changed = changes.into_iter().map(|change| change.path).collect();
        self.git.known().note_index(&self.spec.state.join("index"));
        Ok((Snapshot { tree, changed, findings }, edits))
    }

    /// Finds uncommitted edits in submodules. If requested, they are saved and returned with their commits.
    fn look_into_submodules(
        &self,
        state: &State,
        tree: &CommitHash,
        options: &SnapshotOptions<'_>,
        findings: &mut Vec<Finding>,
        edits: &mut Vec<Edit>,
    ) -> Result<Vec<(Submodule, CommitHash)>> {
        let (git_dir, modules, own) =
            (self.root().join(".git"), self.store.path().join(MODULES), self.spec.state.join(MODULES));
        let place = Place { root: self.root(), git_dir: &git_dir, store: &modules, own: &own };
        let mut looker = Looker {
            like: self.store.git(),
            file_bytes: options.file_bytes,
            save: options.take_unignored,
            start: &state.start_edits,
            findings: Vec::new(),
            edits: Vec::new(),
        };
        let mut saved = looker.look(self.store.git(), tree, &place, Path::new(""), 0)?;
        saved.retain(|(submodule, commit)| options.take_unignored && submodule.commit != *commit);
        findings.append(&mut looker.findings);
        edits.append(&mut looker.edits);
        Ok(saved)
    }

    // ---- looking ----

    /// `modules` are the submodules of a workspace with submodule links.
    fn plan(&self, state: &State, mut modules: BTreeSet<PathBuf>, options: &SnapshotOptions<'_>) -> Result<Plan> {
        let modified = self.git.call(["diff-files", "-z", "--name-status", "--no-renames", "--ignore-submodules=all"]);
        let others = self.git.call(["ls-files", "-z", "--others", "--exclude-standard"]);
        let (modified, others) = std::thread::scope(|scope| {
            let modified = scope.spawn(|| modified.time_limit(LONG_TIME_LIMIT).ok());
            let others = others.time_limit(LONG_TIME_LIMIT).answer_of_success();
            (modified.join().unwrap_or_else(|_| Err(Error::io("join", self.root())(std::io::Error::other("panic")))), others)
        });
        let (modified, others) = (modified?, others?);
        let mut plan = Plan::default();
        plan.findings.extend(others.stderr.lines().filter_map(unreadable_folder));
        let (mut tracked, mut untracked) = (Vec::new(), Vec::new());
        let mut words = fields(&modified);
        while let (Some(status), Some(path)) = (words.next(), words.next()) {
            let path = to_path(path);
            if status == b"D" { plan.removed.push(path) } else { tracked.push(path) }
        }
        if !state.has_links && others.stdout.windows(2).any(|pair| pair == b"/\0") {
            modules = nested::declared_submodules(&self.git, self.root());
        }
        for path in fields(&others.stdout) {
            match path.strip_suffix(b"/") {
                None => untracked.push(to_path(path)),
                Some(folder) => self.plan_nested(&to_path(folder), &modules, &mut plan, &mut untracked)?,
            }
        }
        if state.has_links {
            self.plan_submodules(&modules, &mut plan, &mut untracked)?;
        }
        let ignores = |path: &PathBuf| path.file_name().is_some_and(|name| name == ".gitignore");
        plan.has_new_rules = state.has_new_rules || plan.removed.iter().chain(&tracked).chain(&untracked).any(ignores);
        if plan.has_new_rules {
            let ignored = self.ignored_at_base(state, &untracked)?;
            if options.take_unignored {
                let newly = self.newly_ignored(state)?;
                plan.once = ignored.iter().chain(&newly).cloned().collect();
                untracked.extend(newly);
            } else {
                untracked.retain(|path| !ignored.contains(path));
            }
            plan.findings.extend(ignored.into_iter().map(Finding::IgnoredAtBase));
        }
        for path in tracked.into_iter().chain(untracked) {
            plan.add_file(self.root(), path, options.file_bytes);
        }
        self.allow_filtered(&mut plan)?;
        Ok(plan)
    }

    /// Includes large files whose filter stores something smaller.
    fn allow_filtered(&self, plan: &mut Plan) -> Result<()> {
        let large = |finding: &Finding| matches!(finding, Finding::TooLarge { .. });
        let mut list = Vec::new();
        for finding in plan.findings.iter().filter(|finding| large(finding)) {
            list.extend_from_slice(finding.path().as_os_str().as_bytes());
            list.push(0);
        }
        if list.is_empty() {
            return Ok(());
        }
        let stdout = self.git.call(["check-attr", "-z", "--stdin", "filter"]).stdin(list).ok()?;
        let words: Vec<&[u8]> = fields(&stdout).collect();
        let mut filtered = BTreeSet::new();
        for triple in words.chunks_exact(3) {
            let name = String::from_utf8_lossy(triple[2]).into_owned();
            let has = |part: &str| {
                let set = self.git.call(["config", "--get", &format!("filter.{name}.{part}")]).answer()?;
                Ok::<_, Error>(!set.stdout.trim_ascii().is_empty())
            };
            if !matches!(triple[2], b"unspecified" | b"unset" | b"set") && (has("clean")? || has("process")?) {
                filtered.insert(to_path(triple[0]));
            }
        }
        plan.findings.retain(|finding| !(large(finding) && filtered.contains(finding.path())));
        plan.added.extend(filtered);
        Ok(())
    }

    /// Plans a folder with a repository of its own that is not in the index.
    pub(crate) fn plan_nested(
        &self,
        folder: &Path,
        modules: &BTreeSet<PathBuf>,
        plan: &mut Plan,
        untracked: &mut Vec<PathBuf>,
    ) -> Result<()> {
        if modules.contains(folder) {
            match nested::head_of(&self.root().join(folder)) {
                Some(commit) => plan.links.push((folder.to_owned(), commit)),
                None => plan.findings.push(Finding::UnknownSubmoduleCommit { path: folder.to_owned(), commit: None }),
            }
            return Ok(());
        }
        plan.plain_files(&self.git, self.root(), folder, untracked)
    }

    /// Plans the submodules in the index; their commits are read directly.
    pub(crate) fn plan_submodules(
        &self,
        modules: &BTreeSet<PathBuf>,
        plan: &mut Plan,
        untracked: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let stdout = self.git.call(["ls-files", "--stage", "-z"]).ok()?;
        for entry in fields(&stdout).filter(|entry| entry.starts_with(SUBMODULE.as_bytes())) {
            let Some(tab) = entry.iter().position(|&byte| byte == b'\t') else { continue };
            let path = to_path(&entry[tab + 1..]);
            let recorded = String::from_utf8_lossy(&entry[..tab]).split(' ').nth(1).unwrap_or_default().to_owned();
            let folder = self.root().join(&path);
            let Ok(meta) = folder.symlink_metadata() else {
                plan.removed.push(path);
                continue;
            };
            if !meta.is_dir() {
                plan.removed.push(path.clone());
                untracked.push(path);
            } else if folder.join(".git").symlink_metadata().is_ok() {
                match nested::head_of(&folder) {
                    Some(commit) if commit.as_str() == recorded => {}
                    Some(commit) => plan.links.push((path, commit)),
                    None => plan.findings.push(Finding::UnknownSubmoduleCommit { path, commit: None }),
                }
            } else if !modules.contains(&path) && fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
                // The agent has replaced it by plain files.
                plan.removed.push(path.clone());
                plan.plain_files(&self.git, self.root(), &path, untracked)?;
            }
        }
        Ok(())
    }

    /// The paths that the base's `.gitignore` files or the store's excludes ignore.
    fn ignored_at_base(&self, state: &State, paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
        let rules = self.spec.state.join("rules");
        remove_all(&rules)?;
        fs::create_dir_all(&rules).map_err(Error::io("create", &rules))?;
        let listed = self.store.git().call(["ls-tree", "-r", "-z", "--name-only", state.start_tree.as_str()]).ok()?;
        let mut wanted = Vec::new();
        for path in fields(&listed).filter(|path| path.ends_with(b"/.gitignore") || *path == b".gitignore") {
            wanted.extend_from_slice(path);
            wanted.push(0);
        }
        let index = self.spec.state.join("index.rules");
        let git = crate::call::Git::in_work_tree(self.store.path(), &rules).with_env("GIT_INDEX_FILE", &index);
        git.call(["read-tree", state.start_tree.as_str()]).ok()?;
        git.call(["checkout-index", "-q", "-f", "-z", "--stdin"]).stdin(wanted).ok()?;
        let ignored = ignored(git.call(["check-ignore", "-z", "--stdin", "--no-index"]), paths.iter());
        remove_all(&rules)?;
        remove_all(&index)?;
        ignored
    }

    /// The files that the workspace's `.gitignore` files ignore but the base's do not.
    fn newly_ignored(&self, state: &State) -> Result<Vec<PathBuf>> {
        let call = self.git.call(["ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"]);
        let listed: Vec<PathBuf> = call.paths()?;
        let known = self.ignored_at_base(state, &listed)?;
        let mut files = Vec::new();
        for path in listed.into_iter().filter(|path| !known.contains(path)) {
            let mut places = vec![path];
            while let Some(place) = places.pop() {
                let full = self.root().join(&place);
                if !full.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                    files.push(place);
                    continue;
                }
                let entries = fs::read_dir(&full).into_iter().flatten().flatten().map(|entry| entry.file_name());
                places.extend(entries.filter(|name| !name.eq_ignore_ascii_case(".git")).map(|name| place.join(name)));
            }
        }
        let known = self.ignored_at_base(state, &files)?;
        files.retain(|path| !known.contains(path));
        Ok(files)
    }

    /// The paths that are ignored now; tracked files are not.
    pub(crate) fn ignored_paths<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>) -> Result<BTreeSet<PathBuf>> {
        ignored(self.git.call(["check-ignore", "-z", "--stdin"]), paths)
    }

    // ---- the index ----

    /// The tree of our index, without differences caused only by conversion.
    pub(crate) fn index_tree(&self, state: &mut State) -> Result<CommitHash> {
        if let Some(tree) = &state.index_tree {
            return Ok(tree.clone());
        }
        let mut tree = self.git.call(["write-tree"]).hash()?;
        if state.converts && self.put_back_unchanged(state, &tree)? {
            tree = self.git.call(["write-tree"]).hash()?;
        }
        self.git.note_object(&tree, Found::Object);
        state.index_tree = Some(tree.clone());
        state.write(&self.spec)?;
        Ok(tree)
    }

    /// Restores entries whose files are byte for byte what checking out the start gives: the file was touched, and only
    /// git's conversion makes it different.
    fn put_back_unchanged(&self, state: &State, tree: &CommitHash) -> Result<bool> {
        let changes = differences(&self.git, &state.start_tree, tree)?;
        let regular = |entry: &Entry| entry.as_ref().is_some_and(|(mode, _)| mode.starts_with("100"));
        let same_kind = |change: &&Difference| regular(&change.old) && regular(&change.new);
        let candidates: Vec<&Difference> = changes.iter().filter(same_kind).collect();
        if candidates.is_empty() {
            return Ok(false);
        }
        let paths: Vec<&Path> = candidates.iter().map(|change| change.path.as_path()).collect();
        let same = as_checked_out(&self.git, self.root(), &self.spec.state.join("compare"), &state.start_tree, &paths)?;
        let mut put_back = Vec::new();
        for change in candidates.into_iter().filter(|change| same.contains(&change.path)) {
            let (Some((_, old)), Some((mode, _))) = (&change.old, &change.new) else { continue };
            put_back.push((change.path.as_path(), Some((mode.clone(), old.clone()))));
        }
        if !put_back.is_empty() {
            self.git.call(["update-index", "-z", "--index-info"]).stdin(index_info(tree, put_back.iter().cloned())).ok()?;
        }
        Ok(!put_back.is_empty())
    }

    // ---- judging ----

    fn judge(&self, tree: &CommitHash, changes: &[Difference], options: &SnapshotOptions<'_>) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for change in changes {
            let path = &change.path;
            let first = path.components().next().map(|part| part.as_os_str().to_owned()).unwrap_or_default();
            // Some file systems ignore case.
            if first.eq_ignore_ascii_case(options.own_folder) {
                findings.push(Finding::OwnFolder(path.clone()));
            }
            match &change.new {
                Some((mode, hash)) if mode == LINK => {
                    let target = to_path(&self.store.git().call(["cat-file", "blob", hash.as_str()]).ok()?);
                    if leads_out(self.root(), path, &target) {
                        findings.push(Finding::LinkLeadsOut { path: path.clone(), target });
                    }
                }
                Some((mode, commit)) if mode == SUBMODULE => {
                    let (git, name) = (self.store.git(), nested::submodule_name(self.store.git(), tree, path));
                    match nested::can_be_fetched(git, self.root(), name.as_deref(), path, commit, options.user)? {
                        Some(from) => {
                            let Some(name) = name else { continue };
                            submodules::keep(self.store.path(), git, &name, &from, commit)?;
                            let inside = (name.as_str(), path.as_path());
                            if let Some((path, commit)) =
                                unknown_inside(git, self.root(), inside, (&from, commit), options.user)?
                            {
                                findings.push(Finding::UnknownSubmoduleCommit { path, commit: Some(commit) });
                            }
                        }
                        None => {
                            findings.push(Finding::UnknownSubmoduleCommit { path: path.clone(), commit: Some(commit.clone()) })
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(findings)
    }
}

/// True if a link points outside the workspace or into a git folder, by its text and by its present target.
fn leads_out(root: &Path, link: &Path, target: &Path) -> bool {
    if target.is_absolute() {
        return true;
    }
    let mut place: Vec<&OsStr> = link.parent().into_iter().flat_map(Path::components).map(Component::as_os_str).collect();
    for part in target.components() {
        match part {
            Component::ParentDir if place.pop().is_none() => return true,
            Component::Normal(name) => place.push(name),
            _ => {}
        }
    }
    if place.iter().any(|name| name.eq_ignore_ascii_case(".git")) {
        return true;
    }
    let now = root.join(link).canonicalize().ok();
    now.is_some_and(|now| match now.strip_prefix(root) {
        Ok(inside) => inside.components().any(|part| part.as_os_str().eq_ignore_ascii_case(".git")),
        Err(_) => true,
    })
}
