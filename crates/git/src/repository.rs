//! A repository: its commits and references.
//!
//! It must never change a checkout, nor move a reference from a value that the caller has not seen.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::call::{Call, Git, fields, to_path};
use crate::effective::effective;
use crate::known::Found;
use crate::place::Place;
use crate::refs;
use crate::transfer::missing;
use crate::{CommitHash, CommitInfo, Error, Result};

/// The time limit of what a person waits for.
const LOOK_TIME_LIMIT: Duration = Duration::from_secs(20);

/// A git repository.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(crate) git: Git,
    pub(crate) common_dir: PathBuf,
    pub(crate) root: PathBuf,
}

/// An added line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedLine {
    /// The file, for display.
    pub file: String,
    /// The line number, from 1.
    pub number: usize,
    /// The text, invalid UTF-8 replaced.
    pub text: String,
}

/// The condition for changing a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefExpectation {
    /// Any value.
    Any,
    /// It must not exist.
    Absent,
    /// It must point here.
    At(CommitHash),
}

impl Repository {
    /// Opens the repository of a path: its main checkout, a worktree, a folder in one of these, or a bare repository.
    ///
    /// # Errors
    /// [`Error::NotARepository`], [`Error::GitMissing`].
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::NotARepository { path: path.to_owned() });
        }
        let place = Place::of(path)?;
        let common_dir = place.path("--git-common-dir")?;
        let own_dir = place.path("--git-dir")?;
        let repository = Self { git: Git::in_repository(&common_dir), root: common_dir.clone(), common_dir };
        let root = match place.path("--show-toplevel") {
            Ok(top) if own_dir == repository.common_dir => top,
            _ => repository.main_root()?,
        };
        let root = root.canonicalize().unwrap_or(root);
        Ok(Self { root, ..repository })
    }

    fn main_root(&self) -> Result<PathBuf> {
        let first = self.worktrees()?.into_iter().next();
        Ok(first.map_or_else(|| self.common_dir.clone(), |entry| entry.path))
    }

    /// The top of the main checkout; the repository itself if it is bare.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// True if it has no checkout.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.root == self.common_dir
    }

    /// The folder shared by all worktrees (`.git` of the main checkout).
    #[must_use]
    pub fn common_dir(&self) -> &Path {
        &self.common_dir
    }

    // ---- commits ----

    /// The commit of a name or revision expression, if any.
    pub fn resolve(&self, rev: &str) -> Result<Option<CommitHash>> {
        if rev.is_empty() || rev.contains('\0') {
            return Ok(None);
        }
        let target = match refs::target(&self.common_dir, rev) {
            Some(None) => return Ok(None),
            found => CommitHash::new(rev).ok().or(found.flatten()),
        };
        if let Some(target) = target.as_ref().filter(|target| self.git.has_found(target, Found::Commit)) {
            return Ok(Some(target.clone()));
        }
        let files = target.as_ref().and_then(|target| self.git.object_files(target));
        let call = self.git.call(["rev-parse", "--verify", "--quiet", "--end-of-options"]).arg(format!("{rev}^{{commit}}"));
        let answer = call.answer()?;
        match answer.code {
            Some(0) => {
                let commit = call.parse_hash(&answer.stdout)?;
                if target.as_ref() == Some(&commit) {
                    self.git.note_found(&commit, Found::Commit, files);
                }
                Ok(Some(commit))
            }
            Some(1) => Ok(None),
            _ if answer.stderr.contains("not a git repository") => Err(call.failed(answer)),
            Some(128) => Ok(None),
            _ => Err(call.failed(answer)),
        }
    }

    /// Like [`Self::resolve`], but the commit must exist.
    ///
    /// # Errors
    /// [`Error::UnknownRevision`].
    pub fn commit(&self, rev: &str) -> Result<CommitHash> {
        self.resolve(rev)?.ok_or_else(|| Error::UnknownRevision { rev: rev.to_owned() })
    }

    /// The tree of a commit. Equal trees mean equal files.
    pub fn tree_of(&self, commit: &CommitHash) -> Result<CommitHash> {
        tree_of(&self.git, commit)
    }

    /// The best common ancestor, if any.
    pub fn merge_base(&self, a: &CommitHash, b: &CommitHash) -> Result<Option<CommitHash>> {
        if a == b {
            return Ok(Some(a.clone()));
        }
        self.git.call(["merge-base", a.as_str(), b.as_str()]).hash_if_any()
    }

    /// True if `descendant` contains `ancestor`; a commit contains itself.
    pub fn is_ancestor(&self, ancestor: &CommitHash, descendant: &CommitHash) -> Result<bool> {
        if ancestor == descendant {
            return Ok(true);
        }
        self.git.call(["merge-base", "--is-ancestor", ancestor.as_str(), descendant.as_str()]).yes()
    }

    /// The commits that `head` does not contain, in the given order; includes missing ones.
    pub fn not_contained(&self, commits: &[CommitHash], head: &CommitHash) -> Result<Vec<CommitHash>> {
        if commits.is_empty() {
            return Ok(Vec::new());
        }
        let absent = missing(&self.git, commits)?;
        let known: String =
            commits.iter().filter(|commit| !absent.contains(commit)).map(|commit| format!("{commit}\n")).collect();
        let beyond = self.git.call(["rev-list", "--stdin"]).stdin(format!("{known}^{head}\n")).ok()?;
        let beyond: BTreeSet<&str> = std::str::from_utf8(&beyond).unwrap_or_default().lines().collect();
        let lost = |commit: &&CommitHash| absent.contains(commit) || beyond.contains(commit.as_str());
        Ok(commits.iter().filter(lost).cloned().collect())
    }

    /// The commits of `inclusive` that `exclusive` does not contain, oldest first.
    pub fn commits_between(&self, exclusive: &CommitHash, inclusive: &CommitHash) -> Result<Vec<CommitInfo>> {
        self.commits_beyond(inclusive, std::slice::from_ref(exclusive))
    }

    /// The commits of `head` that none of the others contains, oldest first.
    pub fn commits_beyond(&self, head: &CommitHash, others: &[CommitHash]) -> Result<Vec<CommitInfo>> {
        let excluded: String = others.iter().map(|hash| format!("^{hash}\n")).collect();
        let call = self
            .git
            .call(["log", "-z", "--reverse", "--topo-order", "--no-mailmap", "--no-color", "--no-decorate", "--stdin"])
            .arg("--format=tformat:%H%x00%P%x00%s%x00%(trailers:only,unfold)")
            .stdin(format!("{head}\n{excluded}"));
        let stdout = call.ok()?;
        let all: Vec<&[u8]> = fields(&stdout).collect();
        if !all.len().is_multiple_of(4) {
            return Err(call.unexpected(format!("{} fields", all.len())));
        }
        let hash = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            CommitHash::new(text.trim()).map_err(|error| call.unexpected(error.to_string()))
        };
        all.chunks_exact(4)
            .map(|record| {
                let trailers = String::from_utf8_lossy(record[3]);
                let trailers = trailers.lines().filter_map(|line| line.split_once(':'));
                Ok(CommitInfo {
                    hash: hash(record[0])?,
                    parents: record[1]
                        .split(|&byte| byte == b' ')
                        .filter(|part| !part.is_empty())
                        .map(hash)
                        .collect::<Result<_>>()?,
                    subject: String::from_utf8_lossy(record[2]).into_owned(),
                    trailers: trailers.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect(),
                })
            })
            .collect()
    }

    /// The states between two commits, oldest first: the hashes of [`Self::commits_between`] along first parents. If
    /// paths are given, only the commits that touch one of them; a folder includes everything below it.
    pub fn hashes_between(&self, exclusive: &CommitHash, inclusive: &CommitHash, paths: &[PathBuf]) -> Result<Vec<CommitHash>> {
        let call =
            self.git.call(["rev-list", "--reverse", "--topo-order", "--first-parent"]).arg(format!("{exclusive}..{inclusive}"));
        let call = call.arg("--").args(paths);
        let stdout = call.ok()?;
        String::from_utf8_lossy(&stdout)
            .lines()
            .map(|line| CommitHash::new(line.trim()).map_err(|error| call.unexpected(error.to_string())))
            .collect()
    }

    /// The trailers of a commit, as in [`CommitInfo`].
    pub fn trailers_of(&self, commit: &CommitHash) -> Result<Vec<crate::Trailer>> {
        let format = "--format=tformat:%(trailers:only,unfold)";
        let call = self.git.call(["log", "-1", "--no-color", "--no-decorate", format, commit.as_str(), "--"]);
        let stdout = call.ok()?;
        let text = String::from_utf8_lossy(&stdout);
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect())
    }

    /// The files that differ between two commits, relative to the repository, sorted; a renamed file under both names.
    pub fn changed_between(&self, a: &CommitHash, b: &CommitHash) -> Result<Vec<PathBuf>> {
        changed_between(&self.git, a, b)
    }

    /// The whole message of a commit, invalid UTF-8 replaced.
    pub fn message(&self, commit: &CommitHash) -> Result<String> {
        let call = self.git.call(["log", "-1", "--no-color", "--no-decorate", "--format=tformat:%B", commit.as_str(), "--"]);
        Ok(String::from_utf8_lossy(&call.ok()?).into_owned())
    }

    /// The added and the deleted files of a commit compared with its first parent; a renamed file is in both lists.
    pub fn added_and_deleted(&self, commit: &CommitHash) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let options = ["diff-tree", "-r", "-z", "--name-status", "--no-renames", "--no-commit-id", "--root"];
        let stdout = self.git.call(options).args(["--diff-merges=first-parent", commit.as_str(), "--"]).ok()?;
        let (mut added, mut deleted) = (Vec::new(), Vec::new());
        let mut entries = fields(&stdout);
        while let (Some(state), Some(path)) = (entries.next(), entries.next()) {
            match state {
                b"A" => added.push(to_path(path)),
                b"D" => deleted.push(to_path(path)),
                _ => {}
            }
        }
        Ok((added, deleted))
    }

    /// The differences of these files between two commits or trees, as a patch.
    pub fn patch(&self, a: &CommitHash, b: &CommitHash, paths: &[PathBuf]) -> Result<String> {
        let stdout = self.patch_call(a, b, paths).ok()?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// The beginning of [`Self::patch`], of at most this many bytes, for somebody who waits for it.
    pub fn patch_beginning(&self, a: &CommitHash, b: &CommitHash, paths: &[PathBuf], max_bytes: usize) -> Result<String> {
        let call = self.patch_call(a, b, paths).time_limit(LOOK_TIME_LIMIT).stdout_limit(max_bytes as u64);
        let answer = call.answer()?;
        if answer.code != Some(0) && answer.stdout.len() < max_bytes {
            return Err(call.failed(answer));
        }
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    fn patch_call(&self, a: &CommitHash, b: &CommitHash, paths: &[PathBuf]) -> Call<'_> {
        let options =
            ["--literal-pathspecs", "diff-tree", "-r", "-p", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"];
        self.git.call(options).args([a.as_str(), b.as_str(), "--"]).args(paths)
    }

    /// The lines that a tree (or commit) adds to another one, with file and line number, of binary files too. A name with a
    /// line break is quoted as git does.
    pub fn added_lines(&self, base: &CommitHash, tree: &CommitHash) -> Result<Vec<AddedLine>> {
        let options = [
            "diff",
            "--text",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--no-renames",
            "--unified=0",
            "--dst-prefix=b/",
        ];
        let stdout = self.git.call(options).args(["--ignore-submodules=all", base.as_str(), tree.as_str(), "--"]).ok()?;
        let (mut lines, mut file, mut number) = (Vec::new(), String::new(), 0);
        let mut left = 0;
        for line in stdout.split(|&byte| byte == b'\n') {
            if left > 0 {
                if let Some(text) = line.strip_prefix(b"+") {
                    let text = String::from_utf8_lossy(text).into_owned();
                    lines.push(AddedLine { file: file.clone(), number, text });
                    number += 1;
                    left -= 1;
                }
            } else if let Some(name) = line.strip_prefix(b"+++ ") {
                let name = String::from_utf8_lossy(name).into_owned();
                file = name.strip_prefix("b/").unwrap_or(&name).trim_end_matches('\t').to_owned();
            } else if let Some((start, count)) = line.strip_prefix(b"@@ ").and_then(new_side) {
                (number, left) = (start, count);
            }
        }
        Ok(lines)
    }

    /// The content of a file at a commit; none if there is no file of that name (a folder does not count). The content
    /// of a symbolic link is its target.
    pub fn read_file_at(&self, commit: &CommitHash, path: &Path) -> Result<Option<Vec<u8>>> {
        let call = self.git.call(["ls-tree", "-z", "--full-tree", commit.as_str(), "--"]).arg(path);
        for entry in fields(&call.ok()?) {
            let Some(tab) = entry.iter().position(|&byte| byte == b'\t') else {
                return Err(call.unexpected("an entry without a tab"));
            };
            let words: Vec<String> = String::from_utf8_lossy(&entry[..tab]).split(' ').map(str::to_owned).collect();
            if let [_, kind, blob] = words.as_slice()
                && kind == "blob"
                && to_path(&entry[tab + 1..]) == path
            {
                return self.git.call(["cat-file", "blob", blob]).ok().map(Some);
            }
        }
        Ok(None)
    }

    /// True if one of these files contains this word at a commit. Missing files do not count.
    pub fn mentions(&self, commit: &CommitHash, word: &str, paths: &[PathBuf]) -> Result<bool> {
        if paths.is_empty() {
            return Ok(false);
        }
        let call = self.git.call(["grep", "--quiet", "--fixed-strings", "--word-regexp", "-e", word, commit.as_str(), "--"]);
        let call = call.args(paths);
        let answer = call.answer()?;
        match answer.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(call.failed(answer)),
        }
    }

    /// The files and folders of a commit that a partial clone has never fetched. The content of a missing folder is
    /// unknown.
    pub(crate) fn missing_of(&self, commit: &CommitHash) -> Result<Vec<String>> {
        let call = self.git.call(["rev-list", "--objects", "--no-walk", "--missing=print", commit.as_str()]);
        let stdout = call.ok()?;
        let text = String::from_utf8_lossy(&stdout);
        Ok(text.lines().filter_map(|line| line.strip_prefix('?')).map(str::to_owned).collect())
    }

    /// True if the repository may lack objects.
    pub(crate) fn is_partial(&self) -> Result<bool> {
        let is_promise = |key: &[u8]| key.starts_with(b"remote.") && key.ends_with(b".promisor");
        let settings = effective(&self.git)?;
        Ok(settings.iter().any(|(_, (key, _))| key == b"extensions.partialclone" || is_promise(key)))
    }

    /// Ensures that every file of a commit is present.
    ///
    /// # Errors
    /// [`Error::PartialClone`] if the repository is a partial clone that lacks some.
    pub fn must_have_files_of(&self, commit: &CommitHash) -> Result<()> {
        let count = if self.is_partial()? { self.missing_of(commit)?.len() } else { 0 };
        if count == 0 {
            return Ok(());
        }
        Err(Error::PartialClone { path: self.root.clone(), commit: commit.clone(), count })
    }

    // ---- references ----

    /// True if git allows this as the short name of a branch.
    #[must_use]
    pub fn is_branch_name(&self, name: &str) -> bool {
        self.branch_ref(name).is_ok()
    }

    /// The target (full name) of a symbolic reference (full name); none if it is not symbolic or does not exist.
    pub fn symbolic_target(&self, name: &str) -> Result<Option<String>> {
        let answer = self.git.call(["symbolic-ref", "--quiet", name]).answer()?;
        Ok((answer.code == Some(0)).then(|| String::from_utf8_lossy(&answer.stdout).trim_end().to_owned()))
    }

    /// Sets a reference by compare-and-swap.
    ///
    /// The name is the full one (`refs/…`). Moving a branch that is checked out leaves the files there unchanged; call
    /// [`Self::branch_checked_out`] first.
    ///
    /// # Errors
    /// [`Error::RefMoved`] if the value differs; nothing has changed then. [`Error::BadName`].
    pub fn set_ref(&self, name: &str, new: &CommitHash, old: &RefExpectation) -> Result<()> {
        check_ref_name(name)?;
        let call = self.git.call(["update-ref", "--no-deref", "-m", "coding-loops", "--", name, new.as_str()]);
        let call = match old {
            RefExpectation::Any => call,
            RefExpectation::Absent => call.arg(new.zero_like()),
            RefExpectation::At(commit) => call.arg(commit.as_str()),
        };
        self.finish_ref_change(name, old, &call.with_identity())
    }

    /// Deletes a reference by compare-and-swap. A missing reference counts as deleted, unless a value was expected.
    ///
    /// # Errors
    /// [`Error::RefMoved`] if the value differs; nothing has changed then. [`Error::BadName`].
    pub fn delete_ref(&self, name: &str, old: &RefExpectation) -> Result<()> {
        check_ref_name(name)?;
        let found = self.read_ref(name)?;
        match (old, found) {
            (RefExpectation::Any | RefExpectation::Absent, None) => return Ok(()),
            (RefExpectation::At(expected), None) => {
                return Err(Error::RefMoved { name: name.to_owned(), expected: Some(expected.clone()), found: None });
            }
            (RefExpectation::Absent, found) => {
                return Err(Error::RefMoved { name: name.to_owned(), expected: None, found });
            }
            (_, Some(_)) => {}
        }
        let call = self.git.call(["update-ref", "--no-deref", "-d", "--", name]);
        let call = if let RefExpectation::At(commit) = old { call.arg(commit.as_str()) } else { call };
        self.finish_ref_change(name, old, &call)
    }

    fn finish_ref_change(&self, name: &str, old: &RefExpectation, call: &Call<'_>) -> Result<()> {
        let mut answer = call.answer()?;
        if answer.code != Some(0) && self.remove_stale_lock(name) {
            answer = call.answer()?;
        }
        if answer.code == Some(0) {
            return Ok(());
        }
        let found = self.read_ref(name)?;
        let expected = match old {
            RefExpectation::Any => return Err(call.failed(answer)),
            RefExpectation::Absent => None,
            RefExpectation::At(commit) => Some(commit.clone()),
        };
        if found == expected {
            Err(call.failed(answer))
        } else {
            Err(Error::RefMoved { name: name.to_owned(), expected, found })
        }
    }

    /// Removes the lock of a reference left by a killed git. git holds it for milliseconds, so after minutes it is
    /// stale.
    fn remove_stale_lock(&self, name: &str) -> bool {
        const STALE_SECONDS: u64 = 300;
        let lock = self.common_dir.join(format!("{name}.lock"));
        let age = fs::metadata(&lock).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age.as_secs() >= STALE_SECONDS) && fs::remove_file(&lock).is_ok()
    }

    /// The target of a reference, by its full name; tags are not peeled.
    pub(crate) fn read_ref(&self, name: &str) -> Result<Option<CommitHash>> {
        if let Some(found) = refs::target(&self.common_dir, name) {
            return Ok(found);
        }
        self.git.call(["rev-parse", "--verify", "--quiet", "--end-of-options", name]).hash_if_any()
    }

    /// The references at or below a full name such as `refs/heads` or `refs/coding-loops/`, sorted by name.
    ///
    /// # Errors
    /// [`Error::BadName`] for a prefix with a wildcard.
    pub fn list_refs(&self, prefix: &str) -> Result<Vec<(String, CommitHash)>> {
        let prefix = prefix.trim_end_matches('/');
        if prefix.contains(['*', '?', '[', '\\']) || !prefix.starts_with("refs") {
            return Err(Error::BadName { name: prefix.to_owned() });
        }
        self.list_refs_below(&[prefix])
    }

    /// The branches and tags, sorted by full name.
    pub(crate) fn branches_and_tags(&self) -> Result<Vec<(String, CommitHash)>> {
        self.list_refs_below(&["refs/heads", "refs/tags"])
    }

    fn list_refs_below(&self, prefixes: &[&str]) -> Result<Vec<(String, CommitHash)>> {
        match refs::list(&self.common_dir, prefixes) {
            Some(found) => Ok(found),
            None => self.list_refs_by_git(prefixes),
        }
    }

    /// Like [`Self::list_refs`]; fails if git cannot read the repository.
    pub(crate) fn list_refs_by_git(&self, prefixes: &[&str]) -> Result<Vec<(String, CommitHash)>> {
        let call = self.git.call(["for-each-ref", "--format=%(objectname) %(refname)", "--"]).args(prefixes);
        let stdout = call.ok()?;
        let text = String::from_utf8_lossy(&stdout);
        text.lines()
            .map(|line| {
                let (hash, name) = line.split_once(' ').ok_or_else(|| call.unexpected("a line without a space"))?;
                let hash = CommitHash::new(hash).map_err(|error| call.unexpected(error.to_string()))?;
                Ok((name.to_owned(), hash))
            })
            .collect()
    }

    pub(crate) fn branch_ref(&self, name: &str) -> Result<String> {
        let full = format!("refs/heads/{name}");
        if name.starts_with('-') || name == "HEAD" || check_ref_name(&full).is_err() {
            return Err(Error::BadName { name: name.to_owned() });
        }
        Ok(full)
    }
}

/// Start and count of the new side, of `-1,2 +3,4 @@`.
fn new_side(hunk: &[u8]) -> Option<(usize, usize)> {
    let text = std::str::from_utf8(hunk)
        .ok()
        .or_else(|| std::str::from_utf8(hunk.get(..hunk.iter().position(|&b| b == b'@')?)?).ok())?;
    let side = text.split(' ').find_map(|word| word.strip_prefix('+'))?;
    let (start, count) = side.split_once(',').unwrap_or((side, "1"));
    Some((start.parse().ok()?, count.parse().ok()?))
}

/// The output of `git --version`.
///
/// # Errors
/// [`Error::GitMissing`].
pub fn git_version() -> Result<String> {
    let stdout = Git::discovering(Path::new("/")).call(["--version"]).ok()?;
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

/// True if git ignores a file; none if it is in no checkout.
pub fn is_ignored(file: &Path) -> Result<Option<bool>> {
    let (folder, name) = (file.parent().unwrap_or(file), file.file_name().unwrap_or_default());
    let answer = Git::discovering(folder).call(["check-ignore", "--quiet", "--"]).arg(name).answer()?;
    Ok(match answer.code {
        Some(0) => Some(true),
        Some(1) => Some(false),
        _ => None,
    })
}

/// The tree of a commit.
pub(crate) fn tree_of(git: &Git, commit: &CommitHash) -> Result<CommitHash> {
    let call = tree_call(git, commit);
    call.parse_hash(&call.ok_for_ever()?)
}

fn tree_call<'a>(git: &'a Git, commit: &CommitHash) -> Call<'a> {
    git.call(["rev-parse", "--verify", "--end-of-options"]).arg(format!("{commit}^{{tree}}"))
}

fn check_ref_name(name: &str) -> Result<()> {
    if refs::is_name(name) { Ok(()) } else { Err(Error::BadName { name: name.to_owned() }) }
}

/// Creates a commit object.
pub(crate) fn commit_tree(git: &Git, tree: &CommitHash, parents: &[&CommitHash], message: &str) -> Result<CommitHash> {
    let mut call = git.call(["commit-tree", tree.as_str(), "-F", "-"]).stdin(message).with_identity();
    for parent in parents {
        call = call.args(["-p", parent.as_str()]);
    }
    let commit = call.hash()?;
    git.note_object(&commit, Found::Commit);
    tree_call(git, &commit).note_output(tree.as_str());
    Ok(commit)
}

/// The files that differ between two commits or trees.
pub(crate) fn changed_between(git: &Git, a: &CommitHash, b: &CommitHash) -> Result<Vec<PathBuf>> {
    if a == b {
        return Ok(Vec::new());
    }
    let call = git.call(["diff-tree", "-r", "-z", "--name-only", "--no-renames", a.as_str(), b.as_str(), "--"]);
    let mut paths: Vec<PathBuf> = fields(&call.ok_for_ever()?).map(to_path).collect();
    paths.sort();
    Ok(paths)
}

pub(crate) fn short_name(full: &str) -> String {
    full.strip_prefix("refs/heads/").unwrap_or(full).to_owned()
}

/// Prefix of the references that record published commits in the store.
const PUBLISHED: &str = "refs/coding-loops/published";

/// The reference in the store that records the published commit of a branch.
pub(crate) fn published_note(branch: &str) -> String {
    format!("{PUBLISHED}/{branch}")
}
