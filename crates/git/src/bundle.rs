//! Backs up the store's own references in a git bundle.
//!
//! Commits of the user's branches are left out, because the store is rebuilt from the user's repository. Reading a
//! bundle adds missing references; it must never move an existing one.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::call::LONG_TIME_LIMIT;
use crate::folders::{absolute, remove_all};
use crate::store::{NamedRef, hashes_of, sound_refs};
use crate::transfer::missing;
use crate::{CommitHash, Error, RefExpectation, Repository, Result, Store};

/// Prefix of our own references besides integration.
const OURS: &str = "refs/coding-loops";

/// The result of reading a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleRead {
    /// Full names of the references that were added to the store.
    pub added: Vec<String>,
    /// True if integration was moved forward.
    pub is_forwarded: bool,
}

/// Temporary files, which are removed in any case.
struct Scraps(Vec<PathBuf>);

impl Drop for Scraps {
    fn drop(&mut self) {
        for path in &self.0 {
            drop(remove_all(path));
        }
    }
}

impl Store {
    /// Writes integration and our own references, with the objects that the user's branches do not contain, to a new
    /// file readable only by its owner. The file gets its name after it was verified. False if there is nothing to
    /// write.
    ///
    /// # Errors
    /// [`Error::InTheWay`] if the file exists.
    pub fn write_bundle(&self, user: &Repository, file: &Path) -> Result<bool> {
        let file = absolute(file)?;
        if file.symlink_metadata().is_ok() {
            return Err(Error::InTheWay { path: file });
        }
        let mut refs: Vec<NamedRef> = sound_refs(self.repository(), OURS)?.0;
        refs.extend(self.integration()?.map(|commit| (self.integration_ref().to_owned(), commit)));
        let Some((_, like)) = refs.first() else { return Ok(false) };
        let known = self.known_to(user)?;

        let beside = |suffix: &str| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            file.with_file_name(format!(".{name}.{}.{suffix}", std::process::id()))
        };
        let (pack, part, objects) = (beside("pack"), beside("part"), beside("objects"));
        let _scraps = Scraps(vec![pack.clone(), part.clone(), objects.clone()]);
        let mut revs: String = hashes_of(&refs).iter().map(|hash| format!("{hash}\n")).collect();
        revs.extend(known.iter().map(|hash| format!("^{hash}\n")));
        let call = self.git().call(["pack-objects", "--revs", "--thin", "--stdout", "--delta-base-offset", "-q"]);
        call.stdin(revs).stdout_to(&pack).time_limit(LONG_TIME_LIMIT).ok()?;

        // git itself would leave out references to commits that the user's branches contain.
        let mut head = match like.as_str().len() {
            64 => "# v3 git bundle\n@object-format=sha256\n".to_owned(),
            _ => "# v2 git bundle\n".to_owned(),
        };
        head.extend(known.iter().map(|hash| format!("-{hash} \n")));
        head.extend(refs.iter().map(|(name, hash)| format!("{hash} {name}\n")));
        head.push('\n');
        self.assemble(&head, &pack, &part)?;
        self.verify(&part, &pack, &objects)?;
        // Unlike a rename, a link replaces nothing.
        match fs::hard_link(&part, &file) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(Error::InTheWay { path: file }),
            Err(_) => fs::rename(&part, &file).map_err(Error::io("create", &file))?,
            Ok(()) => {}
        }
        Ok(true)
    }

    fn assemble(&self, head: &str, pack: &Path, part: &Path) -> Result<()> {
        drop(fs::remove_file(part));
        let write = || {
            let mut out = fs::File::options().create_new(true).write(true).mode(0o600).open(part)?;
            out.write_all(head.as_bytes())?;
            std::io::copy(&mut fs::File::open(pack)?, &mut out)?;
            out.sync_all()
        };
        write().map_err(Error::io("write", part))
    }

    /// Verifies header and pack with git, using a temporary folder.
    fn verify(&self, bundle: &Path, pack: &Path, objects: &Path) -> Result<()> {
        self.git().call(["bundle", "verify", "--quiet"]).arg(bundle).ok()?;
        fs::create_dir_all(objects.join("pack")).map_err(Error::io("create", objects))?;
        let aside = self.git().with_env("GIT_OBJECT_DIRECTORY", objects);
        let aside = aside.with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", self.path().join("objects"));
        let call = aside.call(["index-pack", "--stdin", "--fix-thin"]).stdin_from(pack);
        call.time_limit(LONG_TIME_LIMIT).ok().map(drop)
    }

    /// The commits of the copied user branches that the user's repository still has.
    fn known_to(&self, user: &Repository) -> Result<Vec<CommitHash>> {
        let copies = self.repository().list_refs("refs/heads")?;
        let copies: Vec<NamedRef> = copies.into_iter().filter(|(name, _)| !self.is_ours(name)).collect();
        let copies = hashes_of(&copies);
        let (heads, _) = sound_refs(user, "refs/heads")?;
        let heads: Vec<NamedRef> = heads.into_iter().filter(|(name, _)| !self.is_ours(name)).collect();
        let absent = missing(&user.git, &copies)?;
        let copies: Vec<CommitHash> = copies.into_iter().filter(|hash| !absent.contains(hash)).collect();
        if copies.is_empty() || heads.is_empty() {
            return Ok(Vec::new());
        }
        let mut revs: String = copies.iter().map(|hash| format!("{hash}\n")).collect();
        revs.extend(hashes_of(&heads).iter().map(|hash| format!("^{hash}\n")));
        let beyond = user.git.call(["rev-list", "--stdin"]).stdin(revs).ok()?;
        let beyond: BTreeSet<String> = String::from_utf8_lossy(&beyond).lines().map(str::to_owned).collect();
        Ok(copies.into_iter().filter(|hash| !beyond.contains(hash.as_str())).collect())
    }

    /// Adds missing references from a bundle, with their objects. With `forward`, integration also moves to the
    /// bundle's if that contains it: for a store that was rebuilt from the published branch, which may be behind.
    ///
    /// # Errors
    /// [`Error::GitFailed`] if the bundle is invalid or the store lacks its prerequisites; no reference has changed
    /// then.
    pub fn read_bundle(&self, file: &Path, forward: bool) -> Result<BundleRead> {
        let file = absolute(file)?;
        let call = self.git().call(["bundle", "unbundle"]).arg(&file).time_limit(LONG_TIME_LIMIT);
        let stdout = call.ok()?;
        let mut read = BundleRead::default();
        for line in String::from_utf8_lossy(&stdout).lines() {
            let Some((hash, name)) = line.split_once(' ') else { continue };
            let is_integration = name == self.integration_ref();
            if !is_integration && !name.starts_with(&format!("{OURS}/")) {
                continue;
            }
            let commit = CommitHash::new(hash).map_err(|error| call.unexpected(error.to_string()))?;
            match self.repository().set_ref(name, &commit, &RefExpectation::Absent) {
                Ok(()) => read.added.push(name.to_owned()),
                Err(Error::RefMoved { found: Some(found), .. }) if is_integration && forward && found != commit => {
                    if self.repository().is_ancestor(&found, &commit)? {
                        self.move_integration(&commit, &found)?;
                        read.is_forwarded = true;
                    }
                }
                Err(Error::RefMoved { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}
