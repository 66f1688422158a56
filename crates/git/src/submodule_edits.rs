//! Uncommitted edits in submodules. They cannot land: a commit of the repository refers to a commit of the submodule
//! and contains none of its files. So they are found and reported, and saved as commits in the store's copies.
//!
//! git must never run with a submodule's own git folder, of which only HEAD and objects are read: our git reads the
//! files with the store's copy of its repository and our own index.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::call::{Git, LONG_TIME_LIMIT, fields, to_path};
use crate::difference::{Difference, Entry, SUBMODULE, differences};
use crate::finding::unreadable_folder;
use crate::folders::remove_all;
use crate::nested;
use crate::plan::Plan;
use crate::repository::tree_of;
use crate::submodules::{self, MAX_DEPTH, Place, SAVED, Submodule, as_repository};
use crate::transfer::missing;
use crate::{CommitHash, Error, Finding, RefExpectation, Result};

/// A file of a submodule that differs from the commit of its HEAD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Edit {
    /// Its path relative to the workspace, in bytes.
    path: Vec<u8>,
    entry: Entry,
}

/// Examines the submodules of a workspace.
pub(crate) struct Looker<'a> {
    /// The store's git: new repositories get its format.
    pub(crate) like: &'a Git,
    pub(crate) file_bytes: u64,
    /// True if the edits are saved in the store's copies.
    pub(crate) save: bool,
    /// The edits from before the agent started.
    pub(crate) start: &'a [Edit],
    pub(crate) findings: Vec<Finding>,
    pub(crate) edits: Vec<Edit>,
}

impl Looker<'_> {
    /// Examines the submodules of a tree recursively. Returns each with the commit of its content: a saved commit of
    /// ours if saving, else its HEAD.
    pub(crate) fn look(
        &mut self,
        git: &Git,
        tree: &CommitHash,
        place: &Place<'_>,
        above: &Path,
        depth: usize,
    ) -> Result<Vec<(Submodule, CommitHash)>> {
        let mut seen = Vec::new();
        for submodule in submodules::of_tree(git, tree)? {
            let (source, own) = (place.store.join(&submodule.name), place.own.join(&submodule.name));
            let (root, git_dir) = (place.root.join(&submodule.path), place.git_dir.join("modules").join(&submodule.name));
            let inner = Place { root: &root, git_dir: &git_dir, store: &source.join("modules"), own: &own.join("modules") };
            let way = above.join(&submodule.path);
            let commit = self.look_at(&submodule, &source, &own, &inner, &way, depth)?;
            let commit = commit.unwrap_or_else(|| submodule.commit.clone());
            seen.push((submodule, commit));
        }
        Ok(seen)
    }

    fn look_at(
        &mut self,
        submodule: &Submodule,
        source: &Path,
        own: &Path,
        place: &Place<'_>,
        way: &Path,
        depth: usize,
    ) -> Result<Option<CommitHash>> {
        let root = place.root;
        let is_folder = root.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if !is_folder || fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none()) {
            return Ok(None);
        }
        let git_dir = nested::git_dir_of(root);
        let head = match &git_dir {
            Some(git_dir) => nested::head_in(git_dir),
            None => own.join("index").is_file().then(|| submodule.commit.clone()),
        };
        if git_dir.is_some() && head.is_none() {
            return Ok(None);
        }
        submodules::make_copy(self.like, source)?;
        let index = own.join("index.look");
        let git = Git::in_work_tree(source, root).with_env("GIT_INDEX_FILE", &index);
        let reader = match &git_dir {
            Some(git_dir) => git.with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", git_dir.join("objects")),
            None => git.clone(),
        };
        if let Some(head) = &head
            && !missing(&reader, std::slice::from_ref(head))?.is_empty()
        {
            self.findings.push(Finding::UnknownSubmoduleCommit { path: way.to_owned(), commit: None });
            return Ok(None);
        }
        copy_index(own, &index)?;
        let mut plan = plan(&git, root, self.file_bytes)?;
        if let (Some(head), true) = (&head, depth < MAX_DEPTH) {
            let inner = self.look(&reader, head, place, way, depth + 1)?;
            plan.links.extend(inner.into_iter().map(|(submodule, commit)| (submodule.path, commit)));
        }
        plan.apply(&git)?;
        let tree = git.call(["write-tree"]).hash()?;
        let base = match &head {
            Some(head) => tree_of(&reader, head)?,
            None => git.call(["mktree"]).stdin(Vec::new()).hash()?,
        };
        let mut changes = differences(&reader, &base, &tree)?;
        // Our index does not follow HEAD, so links that were not read are ignored.
        let is_read = |path: &PathBuf| plan.links.iter().any(|(link, _)| link == path);
        let is_link = |entry: &Entry| entry.as_ref().is_some_and(|(mode, _)| mode == SUBMODULE);
        changes.retain(|change| is_read(&change.path) || !(is_link(&change.old) || is_link(&change.new)));
        let not_taken =
            |path: &Path| Difference { path: path.to_owned(), old: None, new: Some(("not taken".to_owned(), base.clone())) };
        changes.extend(plan.findings.iter().map(|finding| not_taken(finding.path())));
        let mut edited = Vec::new();
        for change in changes {
            let full = way.join(&change.path);
            let edit = Edit { path: full.into_os_string().into_vec(), entry: change.new };
            if !self.start.contains(&edit) {
                edited.push(change.path);
            }
            self.edits.push(edit);
        }
        remove_all(&index)?;
        if edited.is_empty() {
            if let (true, Some(head), Some(git_dir)) = (self.save, &head, &git_dir) {
                take(source, git_dir, head, way)?;
            }
            return Ok(head);
        }
        edited.sort();
        let findings = plan.findings.into_iter().filter(|finding| edited.iter().any(|path| path == finding.path()));
        self.findings.extend(findings.map(|finding| below(way, finding)));
        self.findings.push(Finding::EditedInSubmodule { path: way.to_owned(), files: edited });
        if !self.save {
            return Ok(head);
        }
        let parent = match (&head, &git_dir) {
            (Some(head), Some(git_dir)) => take(source, git_dir, head, way)?.then_some(head),
            (head, _) => head.as_ref(),
        };
        save(&git, source, &tree, parent).map(Some)
    }
}

/// Copies our index of a submodule for temporary use; empty if the agent has filled the submodule itself.
fn copy_index(own: &Path, copy: &Path) -> Result<()> {
    fs::create_dir_all(own).map_err(Error::io("create", own))?;
    remove_all(copy)?;
    remove_all(&own.join("index.look.lock"))?;
    let index = own.join("index");
    match crate::folders::copy_index(&index, copy) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        copied => copied.map_err(Error::io("copy", &index)),
    }
}

/// The differences between our index of a submodule and its files, without nested submodules.
fn plan(git: &Git, root: &Path, file_bytes: u64) -> Result<Plan> {
    let mut plan = Plan::default();
    let modified = git.call(["diff-files", "-z", "--name-only", "--no-renames", "--ignore-submodules=all"]);
    let mut paths = modified.time_limit(LONG_TIME_LIMIT).paths()?;
    let others = git.call(["ls-files", "-z", "--others", "--exclude-standard"]);
    let others = others.time_limit(LONG_TIME_LIMIT).answer_of_success()?;
    plan.findings.extend(others.stderr.lines().filter_map(unreadable_folder));
    let declared = nested::declared_submodules(git, root);
    for path in fields(&others.stdout) {
        let Some(folder) = path.strip_suffix(b"/") else {
            paths.push(to_path(path));
            continue;
        };
        let folder = to_path(folder);
        match nested::head_of(&root.join(&folder)) {
            Some(commit) if declared.contains(&folder) => plan.links.push((folder, commit)),
            _ => plan.plain_files(git, root, &folder, &mut paths)?,
        }
    }
    for path in paths {
        plan.add_file(root, path, file_bytes);
    }
    Ok(plan)
}

/// Converts a finding in a submodule to one of the workspace.
fn below(way: &Path, finding: Finding) -> Finding {
    match finding {
        Finding::TooLarge { path, bytes } => Finding::TooLarge { path: way.join(path), bytes },
        Finding::Unstorable { path, reason } => Finding::Unstorable { path: way.join(path), reason },
        other => other,
    }
}

/// Copies the agent's commit to the store's copy; false if that is not possible.
fn take(source: &Path, git_dir: &Path, head: &CommitHash, way: &Path) -> Result<bool> {
    match submodules::take(&as_repository(source), git_dir, std::slice::from_ref(head)) {
        Err(error) if error.is_disk_full() => Err(error),
        Err(error) => {
            tracing::warn!(submodule = %way.display(), %error, "cannot save the agent's own commits in the submodule");
            Ok(false)
        }
        Ok(_) => Ok(true),
    }
}

/// Creates a commit of the content of a submodule; the same content gives the same commit.
fn save(git: &Git, source: &Path, tree: &CommitHash, parent: Option<&CommitHash>) -> Result<CommitHash> {
    let mut call = git.call(["commit-tree", tree.as_str(), "-F", "-"]).stdin("Edits in a submodule, saved\n").with_identity();
    for variable in ["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"] {
        call = call.env(variable, "2000-01-01T00:00:00Z");
    }
    if let Some(parent) = parent {
        call = call.args(["-p", parent.as_str()]);
    }
    let commit = call.hash()?;
    as_repository(source).set_ref(&format!("{SAVED}{commit}"), &commit, &RefExpectation::Any)?;
    Ok(commit)
}

/// The first nested submodule, below `way`, at a commit of the agent that nobody else can fetch.
pub(crate) fn unknown_inside(
    git: &Git,
    root: &Path,
    (name, way): (&str, &Path),
    (from, commit): (&Path, &CommitHash),
    user: Option<&crate::Repository>,
) -> Result<Option<(PathBuf, CommitHash)>> {
    let reader = git.with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", from.join("objects"));
    for inner in submodules::of_tree(&reader, commit)? {
        let path = way.join(&inner.path);
        let Some(git_dir) = nested::git_dir_of(&root.join(&path)) else { continue };
        let is_here = nested::head_in(&git_dir).as_ref() == Some(&inner.commit);
        if !is_here {
            continue;
        }
        let inner_name = format!("{name}/modules/{}", inner.name);
        match nested::can_be_fetched(git, root, Some(&inner_name), &path, &inner.commit, user)? {
            None => return Ok(Some((path, inner.commit))),
            Some(from) => {
                let found = unknown_inside(git, root, (&inner_name, &path), (&from, &inner.commit), user)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
    }
    Ok(None)
}
