//! One worktree: what has changed in it, saving that, committing, rebasing and going back.
//!
//! It must never change the repository's main checkout, which is the user's, and never throw away a file that is ignored:
//! these are builds and settings, not work.

mod checkout;

pub(crate) use checkout::LAST_SECOND;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::commit::build_message;
use crate::git::{Git, fields, to_path};
use crate::repository::{branch_being_rebased, changed_between, symbolic_head, tree_of};
use crate::staging::{changes, commit_tree, remove_locks, snapshot, stage, write_tree};
use crate::{CommitHash, Error, RefExpectation, Repository, Result, Trailer};

/// What the log of HEAD says where a worktree was restored.
const RESTORE: &str = "coding-loops: restore";

/// A worktree, with its place pinned: losing its `.git` makes calls fail and never leads them to another repository.
#[derive(Clone, Debug)]
pub struct WorkTree {
    git: Git,
    root: PathBuf,
    git_dir: PathBuf,
    common_dir: PathBuf,
    /// A clone that is for checks alone, so that its files are nobody's, and its `.git` is not the one that is used here.
    for_checks: bool,
}

/// A pattern, as `.gitignore` has them, for exactly one path.
fn as_pattern(path: &[u8]) -> OsString {
    let mut pattern = b"/".to_vec();
    for &byte in path {
        if b"*?[]\\!# ".contains(&byte) {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    OsString::from_vec(pattern)
}

impl WorkTree {
    /// Opens the worktree whose top is exactly this path.
    ///
    /// # Errors
    /// [`Error::NotARepository`], also for a folder inside a worktree and for a bare repository.
    pub fn open(path: &Path) -> Result<Self> {
        let not_one = || Error::NotARepository { path: path.to_owned() };
        let root = path.canonicalize().map_err(|_| not_one())?;
        if !root.is_dir() {
            return Err(not_one());
        }
        let discovering = Git::discovering(&root);
        let resolved = |found: PathBuf| found.canonicalize().map_err(Error::io("resolve", found));
        let whats = ["--show-toplevel", "--git-dir", "--git-common-dir"];
        let answer = discovering.call(["rev-parse", "--path-format=absolute"]).args(whats).answer()?;
        let lines: Vec<&[u8]> = answer.stdout.split(|&byte| byte == b'\n').collect();
        // A path can hold line breaks: then each is asked for alone.
        let at_once = answer.code == Some(0) && lines.len() == 4;
        let ask = |what: &str| {
            let place = whats.iter().position(|each| *each == what).filter(|_| at_once);
            match place.and_then(|place| lines.get(place)) {
                Some(line) => resolved(to_path(line)),
                None => resolved(discovering.call(["rev-parse", "--path-format=absolute", what]).path()?),
            }
        };
        let top = match ask("--show-toplevel") {
            Ok(top) => top,
            Err(Error::GitFailed { stderr, .. }) if stderr.contains("work tree") => {
                return Err(not_one());
            }
            Err(error) => return Err(error),
        };
        if top != root {
            return Err(not_one());
        }
        let git_dir = ask("--git-dir")?;
        let common_dir = ask("--git-common-dir")?;
        Ok(Self { git: Git::in_work_tree(&git_dir, &root), root, git_dir, common_dir, for_checks: false })
    }

    /// A check-out in which nobody works, with a git folder that lies elsewhere.
    pub(crate) fn for_checks(git: Git, root: PathBuf, git_dir: PathBuf) -> Self {
        Self { git, root, common_dir: git_dir.clone(), git_dir, for_checks: true }
    }

    pub(crate) fn is_for_checks(&self) -> bool {
        self.for_checks
    }

    pub(crate) fn git(&self) -> &Git {
        &self.git
    }

    /// The top of its files.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The git folder that is this worktree's own.
    #[must_use]
    pub fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// The git folder that all worktrees of the repository share.
    #[must_use]
    pub fn common_dir(&self) -> &Path {
        &self.common_dir
    }

    /// Whether it is the repository's main checkout, which is read and never changed.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.git_dir == self.common_dir
    }

    /// The repository that it belongs to.
    pub fn repository(&self) -> Result<Repository> {
        Repository::open(&self.common_dir)
    }

    fn must_be_ours(&self) -> Result<()> {
        if self.is_main() && !self.for_checks { Err(Error::MainCheckout { path: self.root.clone() }) } else { Ok(()) }
    }

    // ---- looking ----

    /// The commit that is checked out.
    ///
    /// # Errors
    /// [`Error::UnknownRevision`] before the first commit.
    pub fn head(&self) -> Result<CommitHash> {
        let head = self.git.call(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).hash_if_any()?;
        head.ok_or_else(|| Error::UnknownRevision { rev: "HEAD".to_owned() })
    }

    /// The short name of the branch; none if detached, as in the middle of a rebase.
    pub fn branch(&self) -> Result<Option<String>> {
        symbolic_head(&self.git)
    }

    /// Whether nothing differs from HEAD: no change, nothing staged, no untracked file that is not ignored.
    pub fn is_clean(&self) -> Result<bool> {
        Ok(changes(&self.git)?.is_empty())
    }

    /// The files that differ from HEAD: modified, deleted, added, untracked and not ignored. Relative to the top, sorted, a
    /// renamed file under both names. Another repository that lies in the worktree counts as one file.
    pub fn changed_files(&self) -> Result<Vec<PathBuf>> {
        Ok(changes(&self.git)?.into_iter().map(|change| change.path).collect())
    }

    /// The files that differ from the merge base with `base`, committed or not (DESIGN, Conflict). So what others did on
    /// `base` meanwhile does not count. Sorted.
    pub fn changed_since(&self, base: &CommitHash) -> Result<Vec<PathBuf>> {
        let start = self.git.call(["merge-base", "HEAD", base.as_str()]).hash_if_any()?;
        let start = start.unwrap_or_else(|| base.clone());
        let options = ["diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-relative"];
        let mut paths = self.git.call(options).args(["--ignore-submodules=none", start.as_str(), "--"]).paths()?;
        paths.extend(self.git.call(["ls-files", "-z", "--others", "--exclude-standard"]).paths()?);
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    // ---- saving ----

    /// Makes a commit object of HEAD and everything beyond it: changes, staged content, untracked files that are not
    /// ignored. The index, HEAD and the files stay as they are, and nothing refers to it yet.
    ///
    /// Its first parent is HEAD. Staged content that is neither in HEAD nor in the files is kept through a second
    /// parent, as `git stash` does. A repository that lies in the worktree is left out.
    pub fn snapshot_commit(&self, message: &str) -> Result<CommitHash> {
        snapshot(&self.git, &self.git_dir, &self.head()?, &build_message(message, &[])?)
    }

    /// Saves everything that there is beyond `base`, commits and changes, under a reference (full name); none if there is
    /// nothing. Saving the same again gives the same commit.
    ///
    /// # Errors
    /// [`Error::RefMoved`] if other work is saved there: nothing saved is ever overwritten.
    pub fn save_under(&self, refname: &str, message: &str, base: &CommitHash) -> Result<Option<CommitHash>> {
        self.clear_flags(false)?;
        let head = self.head()?;
        let saved = if self.is_clean()? {
            if self.git.call(["merge-base", "--is-ancestor", head.as_str(), base.as_str()]).yes()? {
                return Ok(None);
            }
            head
        } else {
            let snapshot = self.snapshot_commit(message)?;
            // A repository that lies in the worktree makes it unclean, and is not saved.
            let nothing_new =
                tree_of(&self.git, &snapshot)? == tree_of(&self.git, &head)? && !self.has_second_parent(&snapshot)?;
            if nothing_new && self.git.call(["merge-base", "--is-ancestor", head.as_str(), base.as_str()]).yes()? {
                return Ok(None);
            }
            snapshot
        };
        let repository = self.repository()?;
        match repository.set_ref(refname, &saved, &RefExpectation::Absent) {
            Ok(()) => Ok(Some(saved)),
            Err(Error::RefMoved { found: Some(found), .. }) if self.same_work(&found, &saved)? => Ok(Some(found)),
            Err(error) => Err(error),
        }
    }

    fn has_second_parent(&self, commit: &CommitHash) -> Result<bool> {
        let parent = self.git.call(["rev-parse", "--verify", "--quiet"]).arg(format!("{commit}^2")).hash_if_any()?;
        Ok(parent.is_some())
    }

    /// What was committed here since the worktree was restored last, and nothing names any more: commits that were amended,
    /// reset away or left behind on no branch. One commit that has them all as ancestors and HEAD's files; none if there are
    /// none. Nothing refers to it yet.
    ///
    /// It is told by the log that git keeps of HEAD.
    pub fn forgotten_commits(&self, message: &str) -> Result<Option<CommitHash>> {
        let log =
            self.git.call(["log", "--walk-reflogs", "-z", "--max-count=1000", "--format=%H %gs", "HEAD", "--"]).answer()?;
        if log.code != Some(0) {
            return Ok(None);
        }
        let mut seen = Vec::new();
        for entry in fields(&log.stdout) {
            let entry = String::from_utf8_lossy(entry);
            let (hash, subject) = entry.trim().split_once(' ').unwrap_or((entry.trim(), ""));
            if subject == RESTORE {
                break;
            }
            seen.extend(CommitHash::new(hash).ok());
        }
        seen.sort();
        seen.dedup();
        if seen.is_empty() {
            return Ok(None);
        }
        let list: String = seen.iter().map(|hash| format!("{hash}\n")).collect();
        let unnamed = self
            .git
            // A reference that names nothing (somebody else's, broken) hides nothing either.
            .call(["rev-list", "--ignore-missing", "--parents", "--stdin", "--not", "--all", "HEAD"])
            .stdin(list)
            .ok()?;
        let unnamed = String::from_utf8_lossy(&unnamed).into_owned();
        let parents: BTreeSet<&str> = unnamed.lines().flat_map(|line| line.split(' ').skip(1)).collect();
        let tips: Vec<CommitHash> = unnamed
            .lines()
            .filter_map(|line| line.split(' ').next())
            .filter(|hash| !parents.contains(hash))
            .filter_map(|hash| CommitHash::new(hash).ok())
            .collect();
        let head = self.head()?;
        match tips.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            many => {
                let tips: Vec<&CommitHash> = many.iter().collect();
                let tree = tree_of(&self.git, &head)?;
                Ok(Some(commit_tree(&self.git, &tree, &tips, &build_message(message, &[])?)?))
            }
        }
    }

    fn same_work(&self, a: &CommitHash, b: &CommitHash) -> Result<bool> {
        let essence = |commit: &CommitHash| {
            let parent = self.git.call(["rev-parse", "--verify", "--quiet"]).arg(format!("{commit}^1")).hash_if_any()?;
            Ok::<_, Error>((tree_of(&self.git, commit)?, parent))
        };
        Ok(a == b || essence(a)? == essence(b)?)
    }

    // ---- committing ----

    /// Commits everything that is not ignored and that `filter` (all, if none) wants; none if that is nothing.
    ///
    /// No hook runs and nothing is signed. What the filter does not want stays in the files, unstaged. A repository that
    /// lies in the worktree is left out.
    ///
    /// # Errors
    /// [`Error::OperationInProgress`], [`Error::BadName`] for a trailer's key.
    pub fn commit_all(
        &self,
        message: &str,
        trailers: &[Trailer],
        filter: Option<&dyn Fn(&Path) -> bool>,
    ) -> Result<Option<CommitHash>> {
        let head = self.head()?;
        self.commit_onto(&head, message, trailers, filter)
    }

    /// Makes exactly one commit on top of `base` out of everything since: commits, changes, untracked files that are not
    /// ignored. None if that adds up to nothing; then the branch is back at `base`.
    ///
    /// Messages and trailers of the commits in between are dropped, so that nobody but the caller speaks in a
    /// trailer.
    ///
    /// # Errors
    /// [`Error::NotAncestor`] if `base` is not part of what is checked out, [`Error::OperationInProgress`],
    /// [`Error::BadName`] for a trailer's key.
    pub fn squash_since(&self, base: &CommitHash, message: &str, trailers: &[Trailer]) -> Result<Option<CommitHash>> {
        let head = self.head()?;
        if !self.git.call(["merge-base", "--is-ancestor", base.as_str(), head.as_str()]).yes()? {
            return Err(Error::NotAncestor { base: base.clone(), head });
        }
        self.commit_onto(base, message, trailers, None)
    }

    fn commit_onto(
        &self,
        parent: &CommitHash,
        message: &str,
        trailers: &[Trailer],
        filter: Option<&dyn Fn(&Path) -> bool>,
    ) -> Result<Option<CommitHash>> {
        self.must_be_ours()?;
        self.must_not_be_rebasing()?;
        let message = build_message(message, trailers)?;
        self.clear_flags(false)?;
        let head = self.head()?;
        let unwanted = |path: &Path| filter.is_some_and(|wanted| !wanted(path));
        let excluded: Vec<PathBuf> = changes(&self.git)?
            .into_iter()
            .filter(|change| change.nested_repository || unwanted(&change.path))
            .map(|change| change.path)
            .collect();
        if filter.is_some() {
            self.read_head_into_index()?;
        }
        stage(&self.git, None, &excluded, false)?;
        let tree = write_tree(&self.git, None)?;
        let commit =
            if tree == tree_of(&self.git, parent)? { None } else { Some(commit_tree(&self.git, &tree, &[parent], &message)?) };
        let target = commit.as_ref().unwrap_or(parent);
        if *target != head {
            let call = self.git.call(["update-ref", "-m", "coding-loops: commit", "HEAD", target.as_str(), head.as_str()]);
            call.with_identity().ok()?;
        }
        self.forget_operations();
        Ok(commit)
    }

    /// Sets trailers on the commit that is checked out: those of the same keys are replaced, others kept. Tree, author and
    /// the rest of the message stay. Gives the new commit.
    ///
    /// # Errors
    /// [`Error::OperationInProgress`], [`Error::BadName`] for a key.
    pub fn amend_trailers(&self, trailers: &[Trailer]) -> Result<CommitHash> {
        self.must_be_ours()?;
        self.must_not_be_rebasing()?;
        let show = |format: &str| {
            let bytes = self.git.call(["log", "-1", "--no-mailmap", format, "HEAD", "--"]).ok()?;
            Ok::<_, Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let body = show("--format=format:%B")?;
        let old = show("--format=format:%(trailers:only,unfold)")?;
        let old: Vec<Trailer> = old
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect();
        let text = match body.trim_end().rsplit_once("\n\n") {
            Some((text, _)) if !old.is_empty() => text,
            _ => body.as_str(),
        };
        let replaced = |key: &str| trailers.iter().any(|(new, _)| new.eq_ignore_ascii_case(key));
        let mut all: Vec<Trailer> = old.into_iter().filter(|(key, _)| !replaced(key)).collect();
        all.extend_from_slice(trailers);
        let message = build_message(text, &all)?;
        let options = ["commit", "--quiet", "--amend", "--only", "--allow-empty", "--no-verify", "--cleanup=verbatim"];
        self.git.call(options).args(["--file", "-"]).stdin(message).with_identity().ok()?;
        self.head()
    }

    /// Undoes a commit of the history with a commit on top; none if that changes nothing.
    ///
    /// # Errors
    /// [`Error::RebaseConflict`] if it cannot be undone as it stands; the worktree is then as it was.
    /// [`Error::OperationInProgress`]. The worktree must be clean.
    pub fn revert_commit(&self, commit: &CommitHash, message: &str, trailers: &[Trailer]) -> Result<Option<CommitHash>> {
        self.must_be_ours()?;
        self.must_not_be_rebasing()?;
        let head = self.head()?;
        let parents = self.git.call(["rev-parse", "--verify", "--quiet"]).arg(format!("{commit}^2")).hash_if_any()?;
        let mut call = self.git.call(["revert", "--no-commit"]).with_identity();
        if parents.is_some() {
            call = call.args(["--mainline", "1"]);
        }
        let call = call.arg(commit.as_str());
        let answer = call.answer()?;
        if answer.code == Some(0) {
            return self.commit_all(message, trailers, None);
        }
        let files = self.unmerged()?;
        if files.is_empty() && self.head()? == head && self.git.call(["diff", "--quiet", "--cached", "HEAD", "--"]).yes()? {
            // It was refused before anything was touched.
            self.forget_operations();
            return Err(call.failed(answer));
        }
        if self.git.call(["revert", "--abort"]).answer()?.code != Some(0) {
            self.git.call(["reset", "--quiet", "--merge", head.as_str()]).ok()?;
        }
        self.forget_operations();
        Err(if files.is_empty() { call.failed(answer) } else { Error::RebaseConflict { files } })
    }

    /// Rebases the commits since `upstream` onto `new_base`; gives the new head. Commits that change nothing there any
    /// more are dropped, so rebasing again after it has landed gives `new_base`.
    ///
    /// # Errors
    /// [`Error::RebaseConflict`] with the files; branch and files are then as they were. [`Error::OperationInProgress`].
    /// [`Error::GitFailed`] if the worktree is not clean.
    pub fn rebase_onto(&self, new_base: &CommitHash, upstream: &CommitHash) -> Result<CommitHash> {
        self.must_be_ours()?;
        self.must_not_be_rebasing()?;
        let (head, branch) = (self.head()?, self.branch()?);
        let options = ["rebase", "--quiet", "--no-stat", "--no-verify", "--no-fork-point", "--empty=drop", "--merge"];
        let call = self.git.call(options).args(["--onto", new_base.as_str(), upstream.as_str()]).with_identity();
        let answer = call.answer()?;
        if answer.code == Some(0) {
            return self.head();
        }
        let started = self.rebasing().is_some();
        let files = if started { self.unmerged()? } else { Vec::new() };
        if started && self.git.call(["rebase", "--abort"]).answer()?.code != Some(0) {
            self.leave_rebase()?;
            self.git.call(["reset", "--quiet", "--hard", head.as_str()]).ok()?;
        }
        if self.head()? != head || self.branch()? != branch {
            return Err(call.unexpected("the rebase could not be undone"));
        }
        Err(if files.is_empty() { call.failed(answer) } else { Error::RebaseConflict { files } })
    }

    // ---- going back ----

    /// Brings the worktree to a commit, whatever state it is in: ends a rebase, merge, cherry-pick, revert or bisect in
    /// progress, resets what is checked out (the branch moves along), deletes untracked files. Ignored files and
    /// repositories that lie in the worktree stay. Save the work first.
    ///
    /// Call it only when nobody else works in the worktree: it removes the locks that a killed git has left, and nothing
    /// in a lock tells whether its owner lives.
    pub fn restore_to(&self, commit: &CommitHash) -> Result<()> {
        self.must_be_ours()?;
        remove_locks(&self.git_dir)?;
        self.restore_dot_git()?;
        self.leave_rebase()?;
        let bisected = fs::read_to_string(self.git_dir.join("BISECT_START")).unwrap_or_default();
        self.drop_bisect()?;
        let branch = format!("refs/heads/{}", bisected.trim());
        if self.git.call(["show-ref", "--verify", "--quiet", "--", &branch]).yes()? {
            self.git.call(["symbolic-ref", "HEAD", &branch]).ok()?;
        }
        self.forget_operations();
        self.reset_and_clean(commit)
    }

    /// As [`Self::restore_to`], and with this branch checked out and moved to the commit, even if the worktree has left
    /// it meanwhile; the branch that it is on instead does not move.
    ///
    /// # Errors
    /// [`Error::BranchCheckedOut`] if another worktree has it.
    pub fn restore_branch_to(&self, branch: &str, commit: &CommitHash) -> Result<()> {
        self.must_be_ours()?;
        let repository = self.repository()?;
        if let Some(path) = repository.branch_checked_out(branch)?
            && path.canonicalize().unwrap_or_else(|_| path.clone()) != self.root
        {
            return Err(Error::BranchCheckedOut { branch: branch.to_owned(), path });
        }
        remove_locks(&self.git_dir)?;
        self.restore_dot_git()?;
        self.leave_rebase()?;
        self.forget_operations();
        self.drop_bisect()?;
        repository.ensure_branch(branch, commit.as_str())?;
        let call = self.git.call(["symbolic-ref", "-m", RESTORE, "HEAD"]);
        call.arg(format!("refs/heads/{branch}")).with_identity().ok()?;
        self.reset_and_clean(commit)
    }

    /// Undoes what a commit has changed, in the files and the index, without committing that. False if what came after does
    /// not allow it; then nothing has changed. Only where nothing differs from HEAD.
    ///
    /// # Errors
    /// [`Error::GitFailed`] for what is no commit.
    pub fn take_back(&self, commit: &CommitHash) -> Result<bool> {
        self.must_be_ours()?;
        let head = self.head()?;
        let revert = self.git.call(["revert", "--no-commit", "--no-edit", commit.as_str()]).with_identity();
        let answer = revert.answer()?;
        self.forget_operations();
        match answer.code {
            Some(0) => Ok(true),
            Some(1) => self.reset_and_clean(&head).map(|()| false),
            _ => Err(revert.failed(answer)),
        }
    }

    fn reset_and_clean(&self, commit: &CommitHash) -> Result<()> {
        self.clear_flags(true)?;
        let index = self.git_dir.join("index");
        let ignored = self.others(true)?;
        let clean = self.git.call(["clean", "--quiet", "--force", "-d"]);
        if self.attributes_differ(commit)? {
            // Files that were written under other rules (line ends, filters) look unchanged to git and are not: all are
            // written anew.
            drop(fs::remove_file(&index));
            clean.ok()?;
        }
        let reset = self.git.call(["reset", "--quiet", "--hard", commit.as_str()]).with_identity();
        if let Err(error) = reset.ok() {
            // A damaged index is made anew.
            if !matches!(error, Error::GitFailed { .. }) || fs::remove_file(index).is_err() {
                return Err(error);
            }
            reset.ok()?;
        }
        // What was ignored stays, also if the rules that come back do not ignore it: it has not been saved.
        let untracked = if ignored.is_empty() { Vec::new() } else { self.others(false)? };
        let inside = |path: &[u8], folder: &[u8]| path == folder || folder.ends_with(b"/") && path.starts_with(folder);
        let kept = ignored.iter().filter(|path| untracked.iter().any(|other| inside(path, other) || inside(other, path)));
        clean.args(kept.flat_map(|path| [OsString::from("--exclude"), as_pattern(path)])).ok().map(drop)
    }

    /// What is not tracked: ignored, or not. Folders that hold nothing else come as one.
    fn others(&self, ignored: bool) -> Result<Vec<Vec<u8>>> {
        let mut call = self.git.call(["ls-files", "-z", "--others", "--exclude-standard", "--directory"]);
        if ignored {
            call = call.arg("--ignored");
        }
        match call.answer()? {
            answer if answer.code == Some(0) => Ok(fields(&answer.stdout).map(<[u8]>::to_vec).collect()),
            // A damaged index, which is dealt with elsewhere.
            _ => Ok(Vec::new()),
        }
    }

    /// Has git see every changed file again, also those that somebody has told it to overlook.
    pub fn overlook_nothing(&self) -> Result<()> {
        self.clear_flags(false)
    }

    /// What is here is landed or saved: from now on [`Self::forgotten_commits`] tells only of what comes.
    pub fn mark_saved(&self) -> Result<()> {
        let Some(branch) = self.branch()? else { return Ok(()) };
        self.git
            .call(["symbolic-ref", "-m", RESTORE, "HEAD"])
            .arg(format!("refs/heads/{branch}"))
            .with_identity()
            .ok()
            .map(drop)
    }

    /// Takes back what makes git overlook changed files: `assume-unchanged`, and `skip-worktree` where the file is there, or
    /// of `all`.
    fn clear_flags(&self, all: bool) -> Result<()> {
        let Ok(listed) = self.git.call(["ls-files", "-v", "-z"]).ok() else {
            // A damaged index is dealt with elsewhere.
            return Ok(());
        };
        let (mut assumed, mut skipped) = (Vec::new(), Vec::new());
        for entry in fields(&listed) {
            let (Some(&flag), Some(path)) = (entry.first(), entry.get(2..)) else { continue };
            let ended = path.iter().copied().chain([0]);
            if flag.is_ascii_lowercase() {
                assumed.extend(ended.clone());
            }
            if flag.eq_ignore_ascii_case(&b'S') && (all || self.root.join(to_path(path)).symlink_metadata().is_ok()) {
                skipped.extend(ended);
            }
        }
        for (option, paths) in [("--no-assume-unchanged", assumed), ("--no-skip-worktree", skipped)] {
            if !paths.is_empty() {
                self.git.call(["update-index", option, "-z", "--stdin"]).stdin(paths).ok()?;
            }
        }
        Ok(())
    }

    /// Whether the rules by which git writes files differ between what is there and a commit.
    fn attributes_differ(&self, commit: &CommitHash) -> Result<bool> {
        let Ok(mut paths) = changes(&self.git) else { return Ok(false) };
        let head = self.head()?;
        paths.retain(|change| change.path.file_name().is_some_and(|name| name == ".gitattributes"));
        Ok(!paths.is_empty()
            || changed_between(&self.git, &head, commit)?
                .iter()
                .any(|path| path.file_name().is_some_and(|name| name == ".gitattributes")))
    }

    /// Makes the index hold HEAD, with the files as they are.
    pub(crate) fn read_head_into_index(&self) -> Result<()> {
        self.git.call(["reset", "--quiet", "--mixed"]).ok().map(drop)
    }

    /// Writes the worktree's `.git` file again if somebody has removed it.
    fn restore_dot_git(&self) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let file = self.root.join(".git");
        if self.for_checks || file.symlink_metadata().is_ok() {
            return Ok(());
        }
        let content = [b"gitdir: ", self.git_dir.as_os_str().as_bytes(), b"\n"].concat();
        fs::write(&file, content).map_err(Error::io("write", &file))
    }

    fn rebasing(&self) -> Option<&'static str> {
        let apply = self.git_dir.join("rebase-apply");
        if self.git_dir.join("rebase-merge").exists() || apply.join("rebasing").exists() {
            Some("rebase")
        } else {
            apply.exists().then_some("am")
        }
    }

    fn must_not_be_rebasing(&self) -> Result<()> {
        match self.rebasing() {
            Some(operation) => Err(Error::OperationInProgress { path: self.root.clone(), operation }),
            None => Ok(()),
        }
    }

    /// Ends a rebase where it stands, back on its branch.
    fn leave_rebase(&self) -> Result<()> {
        let Some(operation) = self.rebasing() else {
            return Ok(());
        };
        let branch = branch_being_rebased(&self.git_dir);
        drop(self.git.call([operation, "--quit"]).answer()?);
        for folder in ["rebase-merge", "rebase-apply"] {
            let folder = self.git_dir.join(folder);
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
            }
        }
        if let Some(branch) = branch {
            self.git.call(["symbolic-ref", "HEAD", &branch]).ok()?;
        }
        Ok(())
    }

    /// Forgets merges, picks and reverts in progress: git keeps them as files that say what the next commit concludes.
    fn forget_operations(&self) {
        for name in
            ["MERGE_HEAD", "MERGE_MODE", "MERGE_MSG", "MERGE_AUTOSTASH", "SQUASH_MSG", "CHERRY_PICK_HEAD", "REVERT_HEAD"]
        {
            drop(fs::remove_file(self.git_dir.join(name)));
        }
        drop(fs::remove_dir_all(self.git_dir.join("sequencer")));
    }

    /// Forgets a bisection in progress, with what is checked out as it is.
    fn drop_bisect(&self) -> Result<()> {
        if self.git_dir.join("BISECT_START").exists() {
            self.git.call(["bisect", "reset", "HEAD"]).answer()?;
        }
        Ok(())
    }

    fn unmerged(&self) -> Result<Vec<PathBuf>> {
        let mut files = self.git.call(["diff", "--name-only", "-z", "--diff-filter=U", "--no-relative", "--"]).paths()?;
        files.sort();
        files.dedup();
        Ok(files)
    }
}
