//! Check-outs for checks: clones of the store in which nobody works.
//!
//! A check runs code of the user and of agents, so its git is never trusted. Our git uses its own git folder beside the
//! files (`<path>.git`). The `.git` in the check-out is for the checks: a copy of ours that is renewed before each
//! check. Changes of a check to references, config, index, hooks and stash are discarded and do not reach the store.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::bare::{init, own_format};
use crate::call::{Git, LONG_TIME_LIMIT};
use crate::folders::{absolute, beside, relative, remove_all};
use crate::repository::short_name;
use crate::settings::{Settings, pairs, replace_file, write_config};
use crate::submodules::{self, Files, MODULES, Place};
use crate::work_tree::LAST_SECOND;
use crate::{CommitHash, Error, Result, Store, WorkTree};

/// The folder of our indexes of submodules, in our git folder of the check-out.
const OWN_MODULES: &str = "coding-loops-modules";

/// The entries of a check's git folder that are kept: fetched objects of other repositories and large files.
const KEPT: &[&str] = &["objects", "modules", "lfs"];

/// Our git folder of a check-out.
fn git_dir_of(path: &Path) -> PathBuf {
    beside(path, ".git")
}

/// Removes a check-out with all its files. Nobody may be using it.
pub fn remove_check_out(path: &Path) -> Result<()> {
    let path = absolute(path)?;
    remove_all(&path)?;
    remove_all(&git_dir_of(&path))?;
    remove_all(&beside(&path, ".setup"))?;
    remove_all(&beside(&path, ".lock"))
}

impl Store {
    /// Checks out a commit at a path used only for checks. Changes there are undone and all untracked files are
    /// removed, ignored or not, because build results of another commit prove nothing about this one. Anything else at
    /// the path is replaced.
    ///
    /// # Errors
    /// [`Error::UnknownRevision`] for an unknown commit; the check-out is unchanged then.
    pub fn check_out(&self, path: &Path, commit: &CommitHash) -> Result<WorkTree> {
        self.check_out_with_caches(path, commit, &[])
    }

    /// Like [`Store::check_out`], but keeps ignored files and folders that match these patterns, as in `.gitignore`.
    pub fn check_out_with_caches(&self, path: &Path, commit: &CommitHash, caches: &[String]) -> Result<WorkTree> {
        let path = absolute(path)?;
        let _lock = self.lock(&beside(&path, ".lock"))?;
        let tree = self.check_out_at(path);
        let ready = match self.is_check_out(&tree) {
            true => self.refresh_check_out(&tree).and_then(|_| bring_to(&tree, commit, caches)).map(|()| true),
            false => Ok(false),
        };
        // A full disk is no reason to delete the caches.
        let is_ready = match ready {
            Err(error) if error.is_disk_full() => return Err(error),
            ready => ready.unwrap_or(false),
        };
        if !is_ready {
            self.repository().commit(commit.as_str())?;
            self.make_check_out(&tree, commit)?;
        }
        tree.renew_git()?;
        tree.fill_submodules(commit, Files::Clean)?;
        Ok(tree)
    }

    fn check_out_at(&self, path: PathBuf) -> WorkTree {
        let git_dir = git_dir_of(&path);
        let git = Git::in_work_tree(&git_dir, &path)
            .with_env("GIT_CONFIG_COUNT", "2")
            // The reflog of a check-out is never used.
            .with_env("GIT_CONFIG_KEY_0", "core.logAllRefUpdates")
            .with_env("GIT_CONFIG_VALUE_0", "false")
            .with_env("GIT_CONFIG_KEY_1", "lfs.storage")
            .with_env("GIT_CONFIG_VALUE_1", self.path().join("lfs"));
        WorkTree::for_checks(git, path, git_dir, self.path().join(MODULES))
    }

    /// A check-out, existing or not, as a folder to prepare.
    pub(crate) fn check_out_folder(&self, path: &Path) -> Result<crate::Folder> {
        Ok(self.check_out_at(absolute(path)?).folder())
    }

    fn is_check_out(&self, tree: &WorkTree) -> bool {
        let alternates = fs::read(tree.git_dir().join("objects/info/alternates"));
        is_folder(tree.root()) && is_folder(tree.git_dir()) && alternates.is_ok_and(|way| way == self.alternates_of(tree))
    }

    fn alternates_of(&self, tree: &WorkTree) -> Vec<u8> {
        let way = relative(&tree.git_dir().join("objects"), &self.path().join("objects"));
        [way.into_os_string().into_encoded_bytes(), b"\n".to_vec()].concat()
    }

    fn make_check_out(&self, tree: &WorkTree, commit: &CommitHash) -> Result<()> {
        let (root, git_dir) = (tree.root(), tree.git_dir());
        remove_all(root)?;
        remove_all(git_dir)?;
        remove_all(&beside(root, ".setup"))?;
        init(self.git(), git_dir, &["--bare", "--initial-branch=checks"])?;
        let info = git_dir.join("objects/info");
        fs::create_dir_all(&info).map_err(Error::io("create", &info))?;
        replace_file(&info.join("alternates"), &self.alternates_of(tree))?;
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        self.refresh_check_out(tree)?;
        tree.git().call(["update-ref", "--no-deref", "HEAD", commit.as_str()]).ok()?;
        tree.git().call(["read-tree", "--reset", "-u", commit.as_str()]).time_limit(LONG_TIME_LIMIT).ok().map(drop)
    }

    /// Updates settings, attributes, branches and tags from the store. True if files may have to be written
    /// differently: then the index is removed, so that they are written again.
    pub(crate) fn refresh_check_out(&self, tree: &WorkTree) -> Result<bool> {
        let git_dir = tree.git_dir();
        let rules = || ["config", "info/attributes"].map(|name| fs::read(git_dir.join(name)).ok());
        let before = rules();
        let settings = Settings::of_clone(self.path())?;
        let mut config = own_format(git_dir)?;
        config.retain(|(key, _)| key != b"core.bare");
        config.extend(pairs(&[("core.bare", "false")]));
        config.extend(settings.pairs.iter().cloned());
        config.extend(pairs(&[("gc.auto", "0"), ("maintenance.auto", "false"), ("core.fsmonitor", "false")]));
        settings.write_info(git_dir)?;
        write_config(&git_dir.join("config"), &config)?;
        let shallow = self.path().join("shallow");
        if shallow.exists() {
            replace_file(&git_dir.join("shallow"), &fs::read(&shallow).map_err(Error::io("read", shallow))?)?;
        }
        self.write_check_out_refs(tree)?;
        let differ = rules() != before;
        if differ {
            remove_all(&git_dir.join("index"))?;
        }
        Ok(differ)
    }

    /// Writes tags and branches below `origin/`: builds derive versions from tags and compare with branches.
    fn write_check_out_refs(&self, tree: &WorkTree) -> Result<()> {
        let mut refs = self.repository().branches_and_tags()?;
        for (name, _) in refs.iter_mut().filter(|(name, _)| name.starts_with("refs/heads/")) {
            *name = format!("refs/remotes/origin/{}", short_name(name));
        }
        refs.sort();
        if !tree.git_dir().join("reftable").exists() {
            let lines: String = refs.iter().map(|(name, hash)| format!("{hash} {name}\n")).collect();
            return replace_file(&tree.git_dir().join("packed-refs"), format!("# pack-refs with: sorted\n{lines}").as_bytes());
        }
        let own = Git::in_repository(tree.git_dir()).call(["for-each-ref", "--format=%(refname)"]).ok()?;
        let gone = String::from_utf8_lossy(&own)
            .lines()
            .filter(|name| !refs.iter().any(|(kept, _)| kept == name))
            .map(|name| format!("delete {name}\n"))
            .collect::<String>();
        let lines: String = refs.iter().map(|(name, hash)| format!("update {name} {hash}\n")).collect();
        tree.git().call(["update-ref", "--no-deref", "--stdin"]).stdin(gone + &lines).ok().map(drop)
    }
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

fn bring_to(tree: &WorkTree, commit: &CommitHash, caches: &[String]) -> Result<()> {
    if tree.head()? != *commit || !tree.is_clean()? {
        tree.bring_to(commit)?;
    }
    tree.remove_untracked_but(caches)
}

impl WorkTree {
    /// True if the folder of its files is in place.
    pub(crate) fn is_in_place(&self) -> bool {
        is_folder(self.root())
    }

    /// Renews the `.git` for checks from ours, whatever it contains.
    pub(crate) fn renew_git(&self) -> Result<()> {
        let theirs = self.root().join(".git");
        let copied = copy_git(self.git_dir(), &theirs);
        if let Err(error) = copied {
            tracing::debug!(%error, folder = ?theirs, "creating the git folder of a check-out again");
            remove_all(&theirs)?;
            copy_git(self.git_dir(), &theirs)?;
        }
        Ok(())
    }

    /// Updates the submodules that are in the store to the versions of a commit.
    pub(crate) fn fill_submodules(&self, commit: &CommitHash, files: Files) -> Result<()> {
        let submodules = self.with_submodules(|place| submodules::fill(self.git(), commit, place, files, None));
        for submodule in submodules?.unwrap_or_default() {
            tracing::warn!(path = %submodule.path.display(), commit = submodule.commit.short(),
                "a submodule is empty in check-outs, because your repository does not have its commit");
            // Its files belong to another commit, which the checks must not see.
            let folder = self.root().join(&submodule.path);
            remove_all(&folder)?;
            remove_all(&self.git_dir().join(OWN_MODULES).join(&submodule.name))?;
            remove_all(&self.root().join(".git").join(MODULES).join(&submodule.name))?;
            fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        }
        Ok(())
    }

    /// Marks the submodules as initialized in the git folder for checks.
    pub(crate) fn note_submodules(&self, commit: &CommitHash) -> Result<()> {
        self.with_submodules(|place| submodules::note(place, &submodules::of_tree(self.git(), commit)?)).map(drop)
    }

    /// The tracked files in submodules that a check has changed.
    pub(crate) fn changed_in_submodules(&self, commit: &CommitHash) -> Result<Vec<PathBuf>> {
        Ok(self.with_submodules(|place| submodules::changed(self.git(), commit, place))?.unwrap_or_default())
    }

    /// True if a submodule's files come from the store.
    pub(crate) fn is_filled(&self, path: &Path) -> bool {
        let named = crate::nested::named_submodules(self.git(), self.root());
        let name = named.into_iter().find_map(|(name, found)| (found == path).then_some(name));
        name.is_some_and(|name| self.git_dir().join(OWN_MODULES).join(name).join("index").is_file())
    }

    /// Runs `body` if there are submodules, without calling git.
    fn with_submodules<T>(&self, body: impl FnOnce(&Place<'_>) -> Result<T>) -> Result<Option<T>> {
        let Some(store) = self.modules() else { return Ok(None) };
        if self.root().join(".gitmodules").symlink_metadata().is_err() {
            return Ok(None);
        }
        let (git_dir, own) = (self.root().join(".git"), self.git_dir().join(OWN_MODULES));
        body(&Place { root: self.root(), git_dir: &git_dir, store, own: &own }).map(Some)
    }

    /// True if a check has checked out another commit.
    pub(crate) fn is_at_other_commit(&self, commit: &CommitHash) -> Result<bool> {
        let theirs = self.root().join(".git");
        let is_same = |name: &str| fs::read(theirs.join(name)).ok() == fs::read(self.git_dir().join(name)).ok();
        if is_same("HEAD") && is_same("reftable/tables.list") {
            return Ok(false);
        }
        // A missing or unreadable HEAD does not count.
        let head = Git::in_repository(&theirs).call(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).hash_if_any();
        Ok(head.is_ok_and(|head| head.is_some_and(|head| head != *commit)))
    }
}

/// The entries of a folder, with whether each is a folder.
type Entries = BTreeMap<OsString, bool>;

fn copy_git(ours: &Path, theirs: &Path) -> Result<()> {
    let is_copied = |name: &OsString| {
        let ending = Path::new(name).extension().and_then(OsStr::to_str);
        name != "objects" && name != LAST_SECOND && name != OWN_MODULES && !matches!(ending, Some("lock" | "new"))
    };
    let mut entries = entries(ours)?;
    entries.retain(|name, _| is_copied(name));
    mirror(ours, theirs, &entries, KEPT)?;
    let alternates = ours.join("objects/info/alternates");
    let way = fs::read(&alternates).map_err(Error::io("read", &alternates))?;
    let objects = theirs.join("objects");
    clear(&objects, &Entries::from([("info".into(), true)]), &[])?;
    clear(&objects.join("info"), &Entries::from([("alternates".into(), false)]), &[])?;
    // It is one folder deeper than ours.
    replace_file(&objects.join("info/alternates"), &[b"../", way.as_slice()].concat())
}

fn entries(folder: &Path) -> Result<Entries> {
    let list = fs::read_dir(folder).map_err(Error::io("list", folder))?;
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name(), entry.file_type()?.is_dir()))
    };
    list.map(entry).collect::<std::io::Result<_>>().map_err(Error::io("list", folder))
}

/// Mirrors these entries of a folder to another one, and removes all others except those to keep.
fn mirror(from: &Path, to: &Path, wanted: &Entries, kept: &[&str]) -> Result<()> {
    clear(to, wanted, kept)?;
    for (name, is_folder) in wanted {
        let (from, to) = (from.join(name), to.join(name));
        if *is_folder {
            mirror(&from, &to, &entries(&from)?, &[])?;
        } else {
            copy(&from, &to)?;
        }
    }
    Ok(())
}

/// Creates a folder, or removes all its entries except these.
fn clear(folder: &Path, wanted: &Entries, kept: &[&str]) -> Result<()> {
    if !is_folder(folder) {
        remove_all(folder)?;
        return fs::create_dir(folder).map_err(Error::io("create", folder));
    }
    for (name, is_folder) in entries(folder)? {
        if wanted.get(&name) != Some(&is_folder) && !kept.iter().any(|kept| name == *kept) {
            remove_all(&folder.join(name))?;
        }
    }
    Ok(())
}

/// Copies a file with its modification time, which git compares with the index.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).map_err(Error::io("read", from))?;
    if to.symlink_metadata().is_ok_and(|meta| meta.is_file()) && fs::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let making = beside(to, ".new");
    let write = || {
        let time = fs::metadata(from)?.modified()?;
        let mut file = fs::File::create(&making)?;
        file.write_all(&content)?;
        file.set_modified(time)
    };
    write().map_err(Error::io("write", &making))?;
    fs::rename(&making, to).map_err(Error::io("replace", to))
}
