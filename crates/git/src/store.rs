//! The store: our bare repository, which holds every object and reference that we make. Integration's truth is a
//! reference of it.
//!
//! It is written by our programs alone and nothing in it is ever pruned. It changes nothing in the user's repository,
//! from which it is made, and goes on without it: it borrows no objects.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crash_point::{Point, reach};

use crate::bare::{init, keep_objects, link_objects, own_format};
use crate::call::Git;
use crate::commit::build_message;
use crate::folders::{FolderLock, absolute, beside, put_aside, remove_all};
use crate::lfs::copy_lfs;
use crate::repository::{commit_tree, published_note, short_name};
use crate::settings::{Settings, pairs, read_config, render_config, replace_file};
use crate::submodules;
use crate::transfer::{missing, remove_abandoned, retried, transfer, transfer_objects};
use crate::{CommitHash, Error, RefExpectation, Repository, Result, Trailer};

/// What marks a repository as a store: the full name of its integration branch.
const MARK: &str = "codingloops.integration";

/// Branches that no human makes.
const OURS: &str = "refs/heads/coding-loops/";

/// Our bare repository.
#[derive(Clone, Debug)]
pub struct Store {
    repository: Repository,
    integration: String,
}

/// How a store was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMade {
    /// False if it was there already.
    pub is_new: bool,
    /// References of the user's repository that were left out because what they name is missing.
    pub skipped_refs: Vec<String>,
}

impl Store {
    /// Makes the store at a path, or opens the one that is there, and brings its settings up to date.
    ///
    /// The integration branch (short name, such as `coding-loops/integration`) has the same name in the store, in the user's
    /// repository where it is published, and below `origin/` in workspaces. A new store holds the user's objects, branches and tags, of our own references the published branch: so a lost store
    /// is rebuilt by the same call. A store in which integration has not started takes the name that is given now. Another process that makes it at the same time is waited for.
    ///
    /// # Errors
    /// [`Error::InTheWay`] if something else is there, [`Error::BadName`].
    pub fn create(user: &Repository, path: &Path, integration_branch: &str) -> Result<(Self, StoreMade)> {
        let path = absolute(path)?;
        let _lock = FolderLock::acquire(&beside(&path, ".lock"))?;
        if is_rest(&path) {
            let kept = put_aside(&path)?;
            tracing::warn!(?kept, "what is left of a store that was removed is kept under another name");
        }
        if path.symlink_metadata().is_ok() {
            let mut store = Self::open(&path).map_err(|_| Error::InTheWay { path: path.clone() })?;
            store.rename_integration(user.branch_ref(integration_branch)?)?;
            store.refresh_settings(user)?;
            remove_abandoned(&path, &[&path, user.common_dir()]);
            return Ok((store, StoreMade { is_new: false, skipped_refs: Vec::new() }));
        }
        let making = beside(&path, ".new");
        let integration = user.branch_ref(integration_branch)?;
        let skipped_refs = retried(|| build(user, &making, &integration))?;
        fs::rename(&making, &path).map_err(Error::io("rename", &making))?;
        reach(Point::StoreMade);
        Ok((Self::open(&path)?, StoreMade { is_new: true, skipped_refs }))
    }

    /// Opens a store.
    ///
    /// # Errors
    /// [`Error::NotARepository`] if there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let not_one = || Error::NotARepository { path: path.to_owned() };
        let common_dir = path.canonicalize().map_err(|_| not_one())?;
        let config = read_config(&common_dir.join("config")).map_err(|_| not_one())?;
        let mark = config.iter().find(|(key, _)| key == MARK.as_bytes()).ok_or_else(not_one)?;
        let integration = String::from_utf8_lossy(&mark.1).into_owned();
        let git = Git::in_repository(&common_dir);
        let store = Self { repository: Repository { git, root: common_dir.clone(), common_dir }, integration };
        if store.is_there() { Ok(store) } else { Err(not_one()) }
    }

    /// Whether its files are there still: somebody may have removed them since it was opened.
    #[must_use]
    pub fn is_there(&self) -> bool {
        ["HEAD", "config", "objects", "refs"].iter().all(|part| self.path().join(part).exists())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.repository.common_dir
    }

    /// It as a repository: history, checkpoints, saved work.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    pub(crate) fn git(&self) -> &Git {
        &self.repository.git
    }

    /// Takes a lock of what depends on the store. Nothing is made where the store was removed: the folder around it may be
    /// gone too, and what is made there before the store would take its place.
    pub(crate) fn lock(&self, path: &Path) -> Result<FolderLock> {
        if !self.path().is_dir() {
            return Err(Error::NotARepository { path: self.path().to_owned() });
        }
        FolderLock::acquire(path)
    }

    /// Takes another name for the integration branch while nothing has landed.
    fn rename_integration(&mut self, name: String) -> Result<()> {
        if name != self.integration && self.integration()?.is_none() {
            for (taken, _) in self.repository.list_refs("refs/heads")? {
                if is_ours(&taken, &name) {
                    self.repository.delete_ref(&taken, &RefExpectation::Any)?;
                }
            }
            self.git().call(["symbolic-ref", "HEAD", &name]).ok()?;
            self.integration = name;
        }
        Ok(())
    }

    /// Copies the user's settings again; existing workspaces get them at their next reset.
    pub fn refresh_settings(&self, user: &Repository) -> Result<()> {
        write_settings(user, self.path(), &self.integration)?;
        submodules::bring(user, self.path())?;
        copy_lfs(user, self.path())
    }

    // ---- integration ----

    /// The full name of the integration branch.
    #[must_use]
    pub fn integration_ref(&self) -> &str {
        &self.integration
    }

    /// Where integration is; none before [`Self::start_integration`].
    pub fn integration(&self) -> Result<Option<CommitHash>> {
        self.repository.resolve(&self.integration)
    }

    /// Starts integration at a commit unless it has started; gives where it is.
    pub fn start_integration(&self, commit: &CommitHash) -> Result<CommitHash> {
        match self.repository.set_ref(&self.integration, commit, &RefExpectation::Absent) {
            Err(Error::RefMoved { found: Some(found), .. }) => Ok(found),
            result => result.map(|()| commit.clone()),
        }
    }

    /// Restores integration if its reference was deleted or cannot be read: to what was published last, or to the newest of
    /// these commits that contains it. Gives where it is; none if it has never started.
    pub fn recover_integration(&self, landed: &[CommitHash]) -> Result<Option<CommitHash>> {
        // Only one process restores it.
        let _lock = self.lock(&beside(self.path(), ".lock"))?;
        if let Some(head) = self.integration()? {
            return Ok(Some(head));
        }
        let published = self.repository.resolve(&published_note(&short_name(&self.integration)))?;
        let lost = self.missing(landed)?;
        let mut newest: Option<CommitHash> = None;
        for commit in published.iter().chain(landed.iter().filter(|commit| !lost.contains(commit))) {
            let is_newer = match &newest {
                Some(newest) => self.repository.is_ancestor(newest, commit)?,
                None => true,
            };
            if is_newer {
                newest = Some(commit.clone());
            }
        }
        let Some(newest) = newest else { return Ok(None) };
        // git does not replace a reference that holds no hash.
        let file = self.path().join(&self.integration);
        if file.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            fs::remove_file(&file).map_err(Error::io("remove", &file))?;
        }
        self.repository.set_ref(&self.integration, &newest, &RefExpectation::Any)?;
        Ok(Some(newest))
    }

    /// Moves integration: compare-and-swap.
    ///
    /// # Errors
    /// [`Error::RefMoved`] if it is not where the caller expects; nothing has changed.
    pub fn move_integration(&self, new: &CommitHash, expected: &CommitHash) -> Result<()> {
        self.repository.set_ref(&self.integration, new, &RefExpectation::At(expected.clone()))
    }

    /// Makes a commit of a tree; no reference names it yet.
    ///
    /// # Errors
    /// [`Error::BadName`] for a trailer's key.
    pub fn commit(
        &self,
        tree: &CommitHash,
        parents: &[&CommitHash],
        message: &str,
        trailers: &[Trailer],
    ) -> Result<CommitHash> {
        commit_tree(self.git(), tree, parents, &build_message(message, trailers)?)
    }

    // ---- the user's commits ----

    /// Brings a commit of the user's repository, and all it contains, into the store; a branch that is named so moves
    /// along in the store, for workspaces to see.
    ///
    /// # Errors
    /// [`Error::UnknownRevision`].
    pub fn fetch_from_user(&self, user: &Repository, rev: &str) -> Result<CommitHash> {
        let (commit, known) = (user.commit(rev)?, self.tips()?);
        user.must_have_files_of(&commit)?;
        let _kept =
            retried(|| transfer(&user.git, (self.git(), self.path()), self.path(), std::slice::from_ref(&commit), &known))?;
        if user.is_partial()? {
            self.complete(user, &commit)?;
        }
        submodules::bring(user, self.path())?;
        let branch = format!("refs/heads/{}", rev.strip_prefix("refs/heads/").unwrap_or(rev));
        if !self.is_ours(&branch) && user.resolve(&branch)?.as_ref() == Some(&commit) {
            self.repository.set_ref(&branch, &commit, &RefExpectation::Any)?;
        }
        Ok(commit)
    }

    /// Brings the files of a commit that the store lacks: the user's repository had not fetched them when the commit came.
    fn complete(&self, user: &Repository, commit: &CommitHash) -> Result<()> {
        loop {
            let lost = self.repository.missing_of(commit)?;
            if lost.is_empty() {
                return Ok(());
            }
            let _kept = retried(|| transfer_objects(&user.git, (self.git(), self.path()), self.path(), &lost))?;
        }
    }

    /// Copies references of the user's repository, with what they name, under the same names: those of an installation
    /// that kept them there. References that the store has already stay as they are. Gives the names that could not be
    /// copied because what they name is missing.
    ///
    /// # Errors
    /// [`Error::BadName`] for a prefix that holds a wildcard.
    pub fn import_refs(&self, user: &Repository, prefix: &str) -> Result<Vec<String>> {
        let (sound, broken) = sound_refs(user, prefix)?;
        let (known, wanted) = (self.tips()?, hashes_of(&sound));
        let _kept = retried(|| transfer(&user.git, (self.git(), self.path()), self.path(), &wanted, &known))?;
        for (name, commit) in &sound {
            match self.repository.set_ref(name, commit, &RefExpectation::Absent) {
                Ok(()) | Err(Error::RefMoved { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(broken)
    }

    /// Those of these commits that the store does not have: what was lost with a store that had to be rebuilt.
    pub fn missing(&self, commits: &[CommitHash]) -> Result<Vec<CommitHash>> {
        missing(self.git(), commits)
    }

    /// Whether a branch is one that only we write, or would take the place of one.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        is_ours(name, &self.integration)
    }

    fn tips(&self) -> Result<Vec<CommitHash>> {
        Ok(hashes_of(&self.repository.list_refs("refs")?))
    }
}

/// Whether a branch of the store is one that only we write, or would take the place of one: git has no branch
/// `coding-loops/integration` beside `coding-loops`.
fn is_ours(name: &str, integration: &str) -> bool {
    let (path, ours) = (Path::new(name), Path::new(integration));
    name.starts_with(OURS) || path.starts_with(ours) || ours.starts_with(path)
}

/// Whether a folder holds only what is written to a store while it is removed.
fn is_rest(path: &Path) -> bool {
    let is_written = |entry: &fs::DirEntry| ["objects", "logs"].iter().any(|name| entry.file_name() == *name);
    fs::read_dir(path).is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| is_written(&entry))))
}

/// The full name of a reference, and what it names.
pub(crate) type NamedRef = (String, CommitHash);

pub(crate) fn hashes_of(refs: &[NamedRef]) -> Vec<CommitHash> {
    refs.iter().map(|(_, hash)| hash.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The references whose object is there, and the names of those whose object is not.
pub(crate) fn sound_refs(user: &Repository, prefix: &str) -> Result<(Vec<NamedRef>, Vec<String>)> {
    let all = user.list_refs(prefix)?;
    let lost: BTreeSet<CommitHash> = missing(&user.git, &hashes_of(&all))?.into_iter().collect();
    let (broken, sound): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, hash)| lost.contains(hash));
    Ok((sound, broken.into_iter().map(|(name, _)| name).collect()))
}

/// Builds a store under a temporary name; gives the references that were left out.
pub(crate) fn build(user: &Repository, making: &Path, integration: &str) -> Result<Vec<String>> {
    remove_all(making)?;
    init(&user.git, making, &["--bare", &format!("--initial-branch={}", short_name(integration))])?;
    let git = Git::in_repository(making);
    let (heads, mut skipped) = sound_refs(user, "refs/heads")?;
    let (tags, broken) = sound_refs(user, "refs/tags")?;
    skipped.extend(broken);
    let heads = heads.into_iter().filter(|(name, _)| name == integration || !is_ours(name, integration));
    let refs: Vec<_> = heads.chain(tags).collect();
    if !link_objects(user.common_dir(), making)? {
        let mut wanted = hashes_of(&refs);
        wanted.extend(user.resolve("HEAD")?);
        let _kept = transfer(&user.git, (&git, making), making, &wanted, &[])?;
    }
    let shallow = user.common_dir().join("shallow");
    if shallow.exists() {
        fs::copy(&shallow, making.join("shallow")).map_err(Error::io("copy", shallow))?;
    }
    let lines: String = refs.iter().map(|(name, hash)| format!("create {name} {hash}\n")).collect();
    git.call(["update-ref", "--stdin"]).stdin(lines).with_identity().ok()?;
    write_settings(user, making, integration)?;
    submodules::bring(user, making)?;
    copy_lfs(user, making)?;
    Ok(skipped)
}

/// Writes config, excludes and attributes of a store.
fn write_settings(user: &Repository, path: &Path, integration: &str) -> Result<()> {
    let settings = Settings::of_user(user)?;
    let mut config = own_format(path)?;
    keep_objects(&mut config);
    config.extend(settings.pairs.iter().cloned());
    config.extend(pairs(&[
        (MARK, integration),
        ("core.logallrefupdates", "always"),
        ("gc.auto", "0"),
        ("gc.pruneexpire", "never"),
        ("gc.reflogexpire", "never"),
        ("maintenance.auto", "false"),
        // Workspaces read it and cannot push to it.
        ("receive.hiderefs", "refs"),
        ("uploadpack.hiderefs", "refs/coding-loops"),
        ("uploadpack.allowanysha1inwant", "true"),
    ]));
    settings.write_info(path)?;
    replace_file(&path.join("config"), &render_config(&config))
}
