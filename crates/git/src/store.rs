//! The store: our bare repository with all objects and references that we create, including integration.
//!
//! Only our programs write to it, and nothing in it is pruned. It must change nothing in the user's repository, from
//! which it is created, and it works without it: it borrows no objects.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crash_point::{Point, reach};

use crate::bare::{init, keep_objects, link_objects, own_format};
use crate::call::Git;
use crate::commit::build_message;
use crate::folders::{FolderLock, absolute, beside, put_aside, remove_all};
use crate::lfs::copy_lfs;
use crate::repository::{commit_tree, published_note, short_name};
use crate::settings::{Pair, REMOTE, Settings, pairs, read_config, ways_of_connecting, write_store_config};
use crate::submodules;
use crate::transfer::{are_whole, missing, remove_abandoned, retried, transfer, transfer_objects};
use crate::{CommitHash, Error, RefExpectation, Repository, Result, Trailer};

/// The setting that marks a repository as a store: the full name of its integration branch.
const MARK: &str = "codingloops.integration";

/// Prefix of branches that only our programs create.
const OURS: &str = "refs/heads/coding-loops/";

/// Our bare repository.
#[derive(Clone, Debug)]
pub struct Store {
    repository: Repository,
    integration: String,
    /// The address of the remote at which integration's truth is.
    pub(crate) remote: Option<String>,
}

/// The result of creating a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMade {
    /// False if it existed.
    pub is_new: bool,
    /// References of the user's repository that were left out because their objects are missing.
    pub skipped_refs: Vec<String>,
}

impl Store {
    /// Creates the store at a path, or opens it if it exists, and updates its settings.
    ///
    /// The integration branch (short name, such as `coding-loops/integration`) has the same name in the store, in the
    /// user's repository where it is published, and below `origin/` in workspaces. A new store contains the user's
    /// objects, branches and tags, and the published branch, so this call also rebuilds a lost store. A store in which
    /// integration has not started takes the given name. Waits for another process that creates it at the same time.
    ///
    /// # Errors
    /// [`Error::InTheWay`] if something else exists at the path, [`Error::BadName`].
    pub fn create(user: &Repository, path: &Path, integration_branch: &str) -> Result<(Self, StoreMade)> {
        let path = absolute(path)?;
        let _lock = FolderLock::acquire(&beside(&path, ".lock"))?;
        if is_rest(&path) {
            let kept = put_aside(&path)?;
            tracing::warn!(?kept, "the remains of a removed store were moved aside");
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
        let remote = remote_in(&config);
        let git = Git::in_repository(&common_dir);
        let store = Self { repository: Repository { git, root: common_dir.clone(), common_dir }, integration, remote };
        if store.is_there() { Ok(store) } else { Err(not_one()) }
    }

    /// True if its files still exist: somebody may have removed them since it was opened.
    #[must_use]
    pub fn is_there(&self) -> bool {
        ["HEAD", "config", "objects", "refs"].iter().all(|part| self.path().join(part).exists())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.repository.common_dir
    }

    /// The store as a repository: history, checkpoints, saved work.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The same store, whose calls of git are killed once the flag is set.
    #[must_use]
    pub fn until(&self, cut_off: Arc<AtomicBool>) -> Self {
        let git = self.git().until(cut_off);
        Self { repository: Repository { git, ..self.repository.clone() }, ..self.clone() }
    }

    pub(crate) fn git(&self) -> &Git {
        &self.repository.git
    }

    /// Acquires a lock for something that depends on the store. Creates nothing if the store was removed: new files
    /// would take the place of the store's folder.
    pub(crate) fn lock(&self, path: &Path) -> Result<FolderLock> {
        if !self.path().is_dir() {
            return Err(Error::NotARepository { path: self.path().to_owned() });
        }
        FolderLock::acquire(path)
    }

    /// Renames the integration branch while nothing has landed.
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

    /// Copies the user's settings again; workspaces get them at their next reset.
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

    /// The head of integration; none before [`Self::start_integration`].
    pub fn integration(&self) -> Result<Option<CommitHash>> {
        self.repository.resolve(&self.integration)
    }

    /// Starts integration at a commit unless it has started; returns its head.
    ///
    /// # Errors
    /// As [`Self::refresh`], if it has a remote.
    pub fn start_integration(&self, commit: &CommitHash) -> Result<CommitHash> {
        if let Some(remote) = &self.remote {
            match self.push_integration(remote, commit, None) {
                Ok(()) | Err(Error::RefMoved { .. }) => {}
                Err(error) => return Err(error),
            }
            self.refresh()?;
        }
        match self.repository.set_ref(&self.integration, commit, &RefExpectation::Absent) {
            Err(Error::RefMoved { found: Some(found), .. }) => Ok(found),
            result => result.map(|()| commit.clone()),
        }
    }

    /// Restores integration if its reference was deleted or is unreadable: to the commit published last, or to the
    /// newest of these commits that contains it. Returns its head; none if it has never started.
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
        // git does not replace a reference without a hash.
        let file = self.path().join(&self.integration);
        if file.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            fs::remove_file(&file).map_err(Error::io("remove", &file))?;
        }
        self.repository.set_ref(&self.integration, &newest, &RefExpectation::Any)?;
        Ok(Some(newest))
    }

    /// Moves integration by compare-and-swap: at the remote first, if the store has one.
    ///
    /// # Errors
    /// [`Error::RefMoved`] if its head is not the expected one; nothing has changed. After [`Error::RemoteUnreachable`] it may
    /// have moved at the remote.
    pub fn move_integration(&self, new: &CommitHash, expected: &CommitHash) -> Result<()> {
        if let Some(remote) = &self.remote {
            self.push_integration(remote, new, Some(expected))?;
            return self.follow_remote(new, &RefExpectation::At(expected.clone()));
        }
        self.repository.set_ref(&self.integration, new, &RefExpectation::At(expected.clone()))
    }

    /// Creates a commit of a tree; no reference points to it yet.
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

    /// Copies a commit of the user's repository with its history to the store. If `rev` is a branch, the branch is
    /// updated in the store too, for workspaces.
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

    /// Copies missing files of a commit, which the user's partial clone had not fetched before.
    fn complete(&self, user: &Repository, commit: &CommitHash) -> Result<()> {
        loop {
            let lost = self.repository.missing_of(commit)?;
            if lost.is_empty() {
                return Ok(());
            }
            let _kept = retried(|| transfer_objects(&user.git, (self.git(), self.path()), self.path(), &lost))?;
        }
    }

    /// Copies references of the user's repository with their objects, under the same names: those of an installation
    /// that kept them there. Existing references of the store stay as they are. Returns the names whose objects are
    /// missing.
    ///
    /// # Errors
    /// [`Error::BadName`] for a prefix with a wildcard.
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

    /// The commits that the store does not have: they were lost with a store that had to be rebuilt.
    pub fn missing(&self, commits: &[CommitHash]) -> Result<Vec<CommitHash>> {
        missing(self.git(), commits)
    }

    /// True if the store has commits with everything that they refer to.
    pub fn are_whole(&self, commits: &[CommitHash]) -> Result<bool> {
        are_whole(self.git(), commits)
    }

    /// True if only our programs write a branch, or if it would collide with one.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        is_ours(name, &self.integration)
    }

    fn tips(&self) -> Result<Vec<CommitHash>> {
        Ok(hashes_of(&self.repository.list_refs("refs")?))
    }
}

/// True if only our programs write a branch of the store, or if it would collide with one: git cannot have
/// `coding-loops/integration` beside `coding-loops`.
fn is_ours(name: &str, integration: &str) -> bool {
    let (path, ours) = (Path::new(name), Path::new(integration));
    name.starts_with(OURS) || path.starts_with(ours) || ours.starts_with(path)
}

/// True if a folder contains only files that are written to a store while it is removed.
fn is_rest(path: &Path) -> bool {
    let is_written = |entry: &fs::DirEntry| ["objects", "logs"].iter().any(|name| entry.file_name() == *name);
    fs::read_dir(path).is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| is_written(&entry))))
}

/// The full name of a reference, and its target.
pub type NamedRef = (String, CommitHash);

pub(crate) fn hashes_of(refs: &[NamedRef]) -> Vec<CommitHash> {
    refs.iter().map(|(_, hash)| hash.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The references with existing objects, and the names of the others.
pub(crate) fn sound_refs(user: &Repository, prefix: &str) -> Result<(Vec<NamedRef>, Vec<String>)> {
    let all = user.list_refs(prefix)?;
    let lost: BTreeSet<CommitHash> = missing(&user.git, &hashes_of(&all))?.into_iter().collect();
    let (broken, sound): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, hash)| lost.contains(hash));
    Ok((sound, broken.into_iter().map(|(name, _)| name).collect()))
}

/// Builds a store under a temporary name; returns the references that were left out.
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

fn remote_in(config: &[Pair]) -> Option<String> {
    let found = config.iter().find(|(key, _)| key == REMOTE.as_bytes());
    found.map(|(_, address)| String::from_utf8_lossy(address).into_owned())
}

/// Writes config, excludes and attributes of a store.
pub(crate) fn write_settings(user: &Repository, path: &Path, integration: &str) -> Result<()> {
    let settings = Settings::of_user(user)?;
    let mut config = own_format(path)?;
    let remote = read_config(&path.join("config")).ok().and_then(|config| remote_in(&config));
    keep_objects(&mut config);
    config.extend(settings.pairs.iter().cloned());
    config.extend(pairs(&[
        (MARK, integration),
        ("core.logallrefupdates", "always"),
        ("gc.auto", "0"),
        ("gc.pruneexpire", "never"),
        ("gc.reflogexpire", "never"),
        ("maintenance.auto", "false"),
        // Workspaces can read it but not push to it.
        ("receive.hiderefs", "refs"),
        ("uploadpack.hiderefs", "refs/coding-loops"),
        ("uploadpack.allowanysha1inwant", "true"),
    ]));
    if let Some(remote) = remote {
        config.push((REMOTE.as_bytes().to_vec(), remote.into_bytes()));
        config.extend(ways_of_connecting(user)?);
    }
    settings.write_info(path)?;
    write_store_config(&path.join("config"), &config)
}
