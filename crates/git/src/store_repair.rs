//! Repairs a damaged store: objects deleted, files truncated or removed. It is created again from the user's repository
//! and from the intact parts of the damaged store and of the workspaces; the damaged one is kept under a dated name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::call::{Git, LONG_TIME_LIMIT};
use crate::folders::{FolderLock, absolute, beside, put_aside};
use crate::nested;
use crate::store::{build, hashes_of};
use crate::submodules::{self, MODULES, as_repository};
use crate::transfer::{missing, retried, transfer};
use crate::workspace::State;
use crate::{CommitHash, Error, RefExpectation, Repository, Result, Store};

/// How thoroughly a store is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The target of each reference, and the files at the head of integration. Fast.
    Tips,
    /// Everything reachable that the user's repository does not contain.
    All,
}

/// The result of repairing a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// The damage; none if another process has already repaired it.
    pub damage: Option<String>,
    /// The path of the damaged store.
    pub kept_as: Option<PathBuf>,
    /// References whose objects are lost.
    pub lost_refs: Vec<String>,
}

impl Store {
    /// Describes what is missing or unreadable; none if the store is intact.
    ///
    /// # Errors
    /// If git cannot run, or does not end.
    pub fn damage(&self, user: &Repository, depth: Depth) -> Result<Option<String>> {
        if !self.is_there() {
            return Ok(Some("parts of it are missing".to_owned()));
        }
        if let Some(damage) = damage_of(self.repository())? {
            return Ok(Some(damage));
        }
        let modules = self.path().join(MODULES);
        for (way, path) in submodules::copies(&modules) {
            if let Some(damage) = damage_of(&as_repository(&path))? {
                return Ok(Some(format!("its copy of the submodule {}: {damage}", way.display())));
            }
        }
        if let Some(head) = self.integration()? {
            let call = self.git().call(["rev-list", "--objects", "--quiet"]).arg(format!("{head}^{{tree}}"));
            if is_refused(&call.time_limit(LONG_TIME_LIMIT).answer()?) {
                return Ok(Some(format!("files of {} are missing", head.short())));
            }
        }
        if depth == Depth::Tips {
            return Ok(None);
        }
        let commits = self.git().call(["rev-list", "--quiet", "--all"]).time_limit(LONG_TIME_LIMIT);
        if is_refused(&commits.answer()?) {
            return Ok(Some("commits are missing".to_owned()));
        }
        // Objects that the user's partial clone lacks too are no damage.
        let (known, _) = crate::store::sound_refs(user, "refs")?;
        let known: Vec<CommitHash> = hashes_of(&known);
        let absent = missing(self.git(), &known)?;
        let revs: String = known.iter().filter(|hash| !absent.contains(hash)).map(|hash| format!("^{hash}\n")).collect();
        let call = self.git().call(["rev-list", "--objects", "--quiet", "--all", "--stdin"]).stdin(revs);
        let is_broken = is_refused(&call.time_limit(LONG_TIME_LIMIT).answer()?);
        Ok(is_broken.then(|| "objects are missing".to_owned()))
    }

    /// Creates the store at a path again if it is damaged. `landed` are commits that are copied without a reference.
    /// `folders` are git folders of workspaces, which may have lost objects, and our records of them.
    ///
    /// # Errors
    /// If it cannot be created; the damaged store stays unchanged.
    pub(crate) fn rebuild(
        user: &Repository,
        path: &Path,
        integration_branch: &str,
        landed: &[CommitHash],
        folders: &[(PathBuf, PathBuf)],
    ) -> Result<(Self, Rebuilt)> {
        let path = absolute(path)?;
        let _lock = FolderLock::acquire(&beside(&path, ".lock"))?;
        let damage = match Self::open(&path) {
            Err(_) => "parts of it are missing".to_owned(),
            Ok(store) => match store.damage(user, Depth::All)? {
                Some(damage) => damage,
                None => return Ok((store, Rebuilt::default())),
            },
        };
        let making = beside(&path, ".new");
        let integration = user.branch_ref(integration_branch)?;
        retried(|| build(user, &making, &integration))?;
        let objects: Vec<PathBuf> = folders.iter().map(|(git_dir, _)| git_dir.join("objects")).collect();
        let mut extra: BTreeSet<CommitHash> = landed.iter().cloned().collect();
        extra.extend(folders.iter().filter_map(|(_, state)| State::at(state)).flat_map(State::into_trees));
        let mut lost_refs = salvage(&path, &making, &objects, &extra)?;
        forward(&making, &path, &integration)?;
        for (way, old) in submodules::copies(&path.join(MODULES)) {
            let new = making.join(MODULES).join(&way);
            submodules::make_copy(&user.git, &new)?;
            let lost = salvage(&old, &new, &[], &BTreeSet::new())?;
            lost_refs.extend(lost.into_iter().map(|name| format!("{name} of {}", way.display())));
        }
        let kept_as = if path.symlink_metadata().is_ok() { Some(put_aside(&path)?) } else { None };
        fs::rename(&making, &path).map_err(Error::io("rename", &making))?;
        Ok((Self::open(&path)?, Rebuilt { damage: Some(damage), kept_as, lost_refs }))
    }
}

fn is_refused(answer: &crate::call::Answer) -> bool {
    answer.code != Some(0)
}

/// Describes the damage of the objects to which the references of a repository point.
fn damage_of(repository: &Repository) -> Result<Option<String>> {
    let refs = match repository.list_refs_by_git(&["refs"]) {
        Ok(refs) => refs,
        Err(error @ (Error::GitMissing | Error::GitTimedOut { .. } | Error::ForeignOwner { .. })) => return Err(error),
        Err(_) => return Ok(Some("git cannot read it".to_owned())),
    };
    // Their type is read too, because an empty file is no object.
    let list: String = hashes_of(&refs).iter().map(|hash| format!("{hash}\n")).collect();
    let call = repository.git.call(["cat-file", "--batch-check=%(objectname) %(objecttype)"]).stdin(list);
    let answer = call.answer()?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let found: BTreeSet<&str> =
        text.lines().filter(|line| !line.ends_with(" missing")).filter_map(|line| line.split(' ').next()).collect();
    let lost: Vec<&str> =
        refs.iter().filter(|(_, hash)| !found.contains(hash.as_str())).map(|(name, _)| name.as_str()).collect();
    Ok(lost.first().map(|name| format!("the objects of {} references are missing, for example of {name}", lost.len())))
}

/// Formats a list of folders for an environment variable of git.
fn joined(folders: &[PathBuf]) -> std::ffi::OsString {
    let mut list = std::ffi::OsString::new();
    for folder in folders {
        if !list.is_empty() {
            list.push(":");
        }
        match folder.to_str() {
            Some(text) if text.contains([':', '"', '\\']) => {
                list.push(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
            }
            _ => list.push(folder),
        }
    }
    list
}

/// Copies the references of a damaged repository, and these objects, to a new one, if everything that they reach is
/// there or in one of these folders of objects. Returns the lost references.
fn salvage(old: &Path, new: &Path, objects: &[PathBuf], extra: &BTreeSet<CommitHash>) -> Result<Vec<String>> {
    let to = Git::in_repository(new);
    let sources: Vec<PathBuf> = std::iter::once(old.join("objects")).chain(objects.iter().cloned()).collect();
    let reader = to.with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", joined(&sources));
    let mut known: Vec<CommitHash> = hashes_of(&as_repository(new).list_refs("refs")?);
    let refs = refs_of(old);
    let wanted: BTreeSet<CommitHash> = refs.iter().map(|(_, hash)| hash.clone()).chain(extra.iter().cloned()).collect();
    let wanted: Vec<CommitHash> = wanted.into_iter().collect();
    let absent: BTreeSet<CommitHash> = missing(&reader, &wanted)?.into_iter().collect();
    let wanted: Vec<CommitHash> = wanted.into_iter().filter(|hash| !absent.contains(hash)).collect();
    let mut lost = absent;
    let mut kept = Vec::new();
    // All at once, or one by one if that fails.
    match transfer(&reader, (&to, new), new, &wanted, &known) {
        Ok(all) => kept.push(all),
        Err(error) if error.is_disk_full() => return Err(error),
        Err(_) => {
            for hash in wanted {
                match transfer(&reader, (&to, new), new, std::slice::from_ref(&hash), &known) {
                    Ok(one) => {
                        kept.push(one);
                        known.push(hash);
                    }
                    Err(error) if error.is_disk_full() => return Err(error),
                    Err(_) => drop(lost.insert(hash)),
                }
            }
        }
    }
    let repository = as_repository(new);
    let mut lost_refs = Vec::new();
    for (name, hash) in refs {
        if lost.contains(&hash) {
            // Branches of the user are copied from the user's repository.
            if name.starts_with("refs/coding-loops/") {
                lost_refs.push(name);
            }
            continue;
        }
        match repository.set_ref(&name, &hash, &RefExpectation::Absent) {
            Ok(()) | Err(Error::RefMoved { .. } | Error::BadName { .. }) => {}
            // Another branch prevents its name.
            Err(Error::GitFailed { .. }) => tracing::warn!(name, "reference not copied"),
            Err(error) => return Err(error),
        }
    }
    Ok(lost_refs)
}

/// Moves integration forward to its head in the damaged store, if that commit exists: the published branch may be
/// behind.
fn forward(new: &Path, old: &Path, integration: &str) -> Result<()> {
    let repository = as_repository(new);
    let was = refs_of(old).into_iter().find(|(name, _)| name == integration).map(|(_, hash)| hash);
    let (Some(was), Some(now)) = (was, repository.resolve(integration)?) else { return Ok(()) };
    if was != now && missing(&repository.git, std::slice::from_ref(&was))?.is_empty() && repository.is_ancestor(&now, &was)? {
        repository.set_ref(integration, &was, &RefExpectation::At(now))?;
    }
    Ok(())
}

/// The references of a possibly damaged repository.
fn refs_of(git_dir: &Path) -> Vec<(String, CommitHash)> {
    let listed = as_repository(git_dir).list_refs("refs");
    listed.unwrap_or_else(|_| nested::named_tips(git_dir))
}
