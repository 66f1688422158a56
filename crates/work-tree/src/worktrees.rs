//! The worktrees of a repository: finding, making, mending and removing them.
//!
//! It must never change the main checkout, nor the registration of a worktree that it was not asked about: a worktree on
//! a disk that is not mounted just now looks like one that is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::folders::absolute;
use crate::git::{fields, to_path};
use crate::repository::short_name;
use crate::{CommitHash, Error, Repository, Result, WorkTree};

/// How often git is asked again to make a worktree, and how much longer each time.
const MOST_TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(100);

/// A registered worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorktreeEntry {
    /// The top of its files; for a bare repository's own entry the repository.
    pub path: PathBuf,
    /// What is checked out; none before the first commit.
    pub head: Option<CommitHash>,
    /// The short name of the branch; none if detached.
    pub branch: Option<String>,
    /// Whether it is the bare repository itself, which has no files.
    pub bare: bool,
    /// Whether it is locked, and why.
    pub locked: Option<String>,
    /// Whether its folder is gone, so that git would drop the entry.
    pub prunable: bool,
}

impl Repository {
    /// All registered worktrees, the main checkout (or the bare repository) first.
    pub fn worktrees(&self) -> Result<Vec<WorktreeEntry>> {
        let stdout = self.git.call(["worktree", "list", "--porcelain", "-z"]).ok()?;
        let mut list: Vec<WorktreeEntry> = Vec::new();
        for line in fields(&stdout) {
            let cut = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
            let (key, value) = (&line[..cut], line.get(cut + 1..).unwrap_or_default());
            let text = || String::from_utf8_lossy(value).into_owned();
            if key == b"worktree" {
                let path = to_path(value);
                list.push(WorktreeEntry { path, head: None, branch: None, bare: false, locked: None, prunable: false });
                continue;
            }
            let Some(entry) = list.last_mut() else {
                continue;
            };
            match key {
                b"HEAD" => entry.head = CommitHash::new(text()).ok().filter(|hash| *hash.as_str() != *hash.zero_like()),
                b"branch" => entry.branch = Some(short_name(&text())),
                b"bare" => entry.bare = true,
                b"locked" => entry.locked = Some(text()),
                b"prunable" => entry.prunable = true,
                _ => {}
            }
        }
        Ok(list)
    }

    /// The git folder and the top of each worktree; the main checkout's are the common folder and the root.
    pub(crate) fn git_dirs(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut list = vec![(self.common_dir.clone(), self.root.clone())];
        let below = self.common_dir.join("worktrees");
        let Ok(entries) = fs::read_dir(&below) else {
            return Ok(list);
        };
        for entry in entries {
            let git_dir = entry.map_err(Error::io("list", &below))?.path();
            let top = fs::read(git_dir.join("gitdir")).unwrap_or_default();
            let top = to_path(top.strip_suffix(b"\n").unwrap_or(&top));
            list.push((git_dir.clone(), top.parent().unwrap_or(&git_dir).to_owned()));
        }
        Ok(list)
    }

    /// Makes a worktree at `path` on `branch`, which is made at `start` unless it exists.
    ///
    /// A healthy worktree that is already there is handed out as it is, whatever it has checked out and changed: it may
    /// hold work, so compare [`WorkTree::branch`] and use [`WorkTree::restore_branch_to`] once that work is saved. One
    /// whose registration is lost is registered again, with its files kept. One that is registered but gone is made new.
    ///
    /// # Errors
    /// [`Error::InTheWay`] if something else is there, [`Error::BranchCheckedOut`], [`Error::BadName`],
    /// [`Error::UnknownRevision`].
    pub fn add_worktree(&self, path: &Path, branch: &str, start: &str) -> Result<WorkTree> {
        self.ensure_branch(branch, start)?;
        self.make_worktree(path, &[branch], Some(branch))
    }

    /// Makes a worktree at `path` with a commit checked out and no branch. What is there is brought to that commit with
    /// every change undone (ignored files stay), so use a path that is for this purpose alone.
    ///
    /// # Errors
    /// [`Error::InTheWay`] if something else is there.
    pub fn add_detached_worktree(&self, path: &Path, commit: &CommitHash) -> Result<WorkTree> {
        let fresh = path.symlink_metadata().is_err();
        let tree = self.make_worktree(path, &["--detach", commit.as_str()], None)?;
        if fresh {
            return Ok(tree);
        }
        if tree.head()? != *commit || tree.branch()?.is_some() || !tree.is_clean()? {
            tree.detach_at(commit)?;
        }
        Ok(tree)
    }

    /// git fails on a worktree that another git is just making. Ours are made one after the other, whichever process makes
    /// them; the user's are waited for.
    fn make_worktree(&self, path: &Path, what: &[&str], branch: Option<&str>) -> Result<WorkTree> {
        let lock = self.common_dir.join("coding-loops.lock");
        let file = fs::File::options().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(Error::io("open", &lock))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| Error::io("lock", &lock)(error.into()))?;
        let mut tries = 0;
        loop {
            match self.make_worktree_alone(path, what, branch) {
                Err(Error::GitFailed { .. }) if tries < MOST_TRIES => tries += 1,
                made => return made,
            }
            std::thread::park_timeout(PAUSE * tries);
        }
    }

    fn make_worktree_alone(&self, path: &Path, what: &[&str], branch: Option<&str>) -> Result<WorkTree> {
        let path = absolute(path)?;
        if self.is_half_made(&path) {
            // It was killed while git filled it: nobody has worked in it yet.
            self.git.call(["worktree", "remove", "--force", "--force", "--"]).arg(&path).ok()?;
        }
        if let Some(tree) = self.open_own(&path) {
            return Ok(tree);
        }
        if path.join(".git").is_file() {
            // The repository or the worktree may have been moved.
            let repaired = self.git.call(["worktree", "repair", "--"]).arg(&path).answer()?;
            if repaired.code == Some(0)
                && let Some(tree) = self.open_own(&path)
            {
                return Ok(tree);
            }
            self.check_branch_is_free(branch, &path)?;
            return self.adopt(&path, what);
        }
        let exists = path.symlink_metadata().is_ok();
        let empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
        if exists && !empty {
            return Err(Error::InTheWay { path });
        }
        if self.git_dirs()?.iter().any(|(_, top)| *top == path) {
            self.git.call(["worktree", "remove", "--force", "--force", "--"]).arg(&path).answer()?;
        }
        self.check_branch_is_free(branch, &path)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        // The path comes first, so that the options may stand before it and nothing after it.
        let (options, rest): (Vec<&str>, Vec<&str>) = what.iter().partition(|arg| arg.starts_with("--"));
        self.git.call(["worktree", "add", "--quiet"]).args(&options).arg("--").arg(&path).args(&rest).ok()?;
        self.open_own(&path).ok_or(Error::NotARepository { path })
    }

    /// Registers a folder whose registration is lost as a worktree again, without touching its files.
    fn adopt(&self, path: &Path, what: &[&str]) -> Result<WorkTree> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".adopt-{}", std::process::id()));
        let beside = path.with_file_name(name);
        let (options, rest): (Vec<&str>, Vec<&str>) = what.iter().partition(|arg| arg.starts_with("--"));
        let add = self.git.call(["worktree", "add", "--quiet", "--no-checkout"]);
        add.args(&options).arg("--").arg(&beside).args(&rest).ok()?;
        fs::rename(beside.join(".git"), path.join(".git")).map_err(Error::io("replace", path.join(".git")))?;
        self.git.call(["worktree", "repair", "--"]).arg(path).ok()?;
        fs::remove_dir(&beside).map_err(Error::io("remove", &beside))?;
        let tree = self.open_own(path).ok_or_else(|| Error::NotARepository { path: path.to_owned() })?;
        tree.read_head_into_index()?;
        Ok(tree)
    }

    /// A healthy worktree of this repository, other than the main checkout, whose top is exactly this path.
    fn open_own(&self, path: &Path) -> Option<WorkTree> {
        let tree = WorkTree::open(path).ok()?;
        (tree.common_dir() == self.common_dir && !tree.is_main()).then_some(tree)
    }

    fn is_half_made(&self, path: &Path) -> bool {
        let reason = |git_dir: &Path| fs::read_to_string(git_dir.join("locked")).unwrap_or_default();
        let entries = self.git_dirs().unwrap_or_default();
        entries.iter().any(|(git_dir, top)| top == path && reason(git_dir).trim_end() == "initializing")
    }

    fn check_branch_is_free(&self, branch: Option<&str>, path: &Path) -> Result<()> {
        let Some(branch) = branch else { return Ok(()) };
        match self.branch_checked_out(branch)? {
            Some(other) if other != path => Err(Error::BranchCheckedOut { branch: branch.to_owned(), path: other }),
            _ => Ok(()),
        }
    }

    /// Removes a worktree with everything in it, and its registration. Only strictly below `managed`; what is not there is
    /// removed already. Save its work first.
    ///
    /// # Errors
    /// [`Error::NotManaged`], [`Error::Io`] if something in it cannot be deleted.
    pub fn remove_worktree(&self, path: &Path, managed: &Path) -> Result<()> {
        let refused = || Error::NotManaged { path: path.to_owned(), managed: managed.to_owned() };
        let managed_dir = managed.canonicalize().map_err(Error::io("resolve", managed))?;
        let path = absolute(path)?;
        let inside = path.starts_with(&managed_dir) && path != managed_dir;
        if !inside || self.common_dir.starts_with(&path) || self.root.starts_with(&path) {
            return Err(refused());
        }
        if path.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            // git would follow a link.
            return fs::remove_file(&path).map_err(Error::io("remove", &path));
        }
        let unregister = || self.git.call(["worktree", "remove", "--force", "--force", "--"]).arg(&path).answer();
        if unregister()?.code == Some(0) {
            return Ok(());
        }
        if path.symlink_metadata().is_ok() {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        if self.worktrees()?.iter().any(|entry| entry.path == path) {
            unregister()?;
        }
        Ok(())
    }
}
