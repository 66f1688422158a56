//! Check-outs for checks alone: clones of the store in which nobody works.
//!
//! A check is code of the user's and of agents: whatever it does to the clone's references, config and stash stays there.

use std::fs;
use std::path::Path;

use crate::folders::{FolderLock, absolute, beside, relative, remove_all};
use crate::git::{Git, LONG_TIME_LIMIT};
use crate::repository::short_name;
use crate::settings::{Settings, pairs, render_config, replace_file};
use crate::store::{init, own_format};
use crate::{CommitHash, Error, Result, Store, WorkTree};

impl Store {
    /// Checks a commit out at a path that is for checks alone. What differs there is undone and what is not tracked is
    /// removed, ignored files apart (builds). What is there and no such check-out is replaced.
    ///
    /// # Errors
    /// [`Error::GitFailed`] for what is no commit of the store.
    pub fn check_out(&self, path: &Path, commit: &CommitHash) -> Result<WorkTree> {
        let path = absolute(path)?;
        let _lock = FolderLock::acquire(&beside(&path, ".lock"))?;
        if let Some(tree) = self.open_check_out(&path)
            && self.bring_to(&tree, commit).is_ok()
        {
            return Ok(tree);
        }
        let making = beside(&path, ".new");
        remove_all(&making)?;
        self.clone_to(&making, commit)?;
        remove_all(&path)?;
        fs::rename(&making, &path).map_err(Error::io("rename", &making))?;
        self.open_check_out(&path).ok_or(Error::NotARepository { path })
    }

    fn open_check_out(&self, path: &Path) -> Option<WorkTree> {
        let git_dir = path.join(".git");
        let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let alternates = fs::read(git_dir.join("objects/info/alternates")).ok()?;
        let ours = is_folder(path) && is_folder(&git_dir) && alternates == self.alternates_of(&git_dir);
        if !ours {
            return None;
        }
        self.write_clone_settings(&git_dir).ok()?;
        WorkTree::open(path).ok().map(WorkTree::for_checks)
    }

    fn bring_to(&self, tree: &WorkTree, commit: &CommitHash) -> Result<()> {
        if tree.head()? != *commit || tree.branch()?.is_some() || !tree.is_clean()? {
            tree.detach_at(commit)?;
        }
        self.write_clone_refs(tree.git_dir())
    }

    fn clone_to(&self, making: &Path, commit: &CommitHash) -> Result<()> {
        init(self.git(), making, &["--initial-branch=checks"])?;
        let git_dir = making.join(".git");
        fs::create_dir_all(git_dir.join("objects/info")).map_err(Error::io("create", &git_dir))?;
        replace_file(&git_dir.join("objects/info/alternates"), &self.alternates_of(&git_dir))?;
        self.write_clone_settings(&git_dir)?;
        let shallow = self.path().join("shallow");
        if shallow.exists() {
            fs::copy(&shallow, git_dir.join("shallow")).map_err(Error::io("copy", shallow))?;
        }
        let git = Git::in_work_tree(&git_dir, making);
        git.call(["update-ref", "--no-deref", "HEAD", commit.as_str()]).with_identity().ok()?;
        git.call(["read-tree", "--reset", "-u", commit.as_str()]).time_limit(LONG_TIME_LIMIT).ok()?;
        self.write_clone_refs(&git_dir)
    }

    fn alternates_of(&self, git_dir: &Path) -> Vec<u8> {
        let way = relative(&git_dir.join("objects"), &self.path().join("objects"));
        [way.into_os_string().into_encoded_bytes(), b"\n".to_vec()].concat()
    }

    /// Settings, ignored files and attributes as the store has them, whatever a check has made of them.
    fn write_clone_settings(&self, git_dir: &Path) -> Result<()> {
        let settings = Settings::of_clone(self.path())?;
        let mut config = own_format(git_dir)?;
        config.retain(|(key, _)| key != b"core.bare");
        config.extend(pairs(&[("core.bare", "false")]));
        config.extend(settings.pairs.iter().cloned());
        config.extend(pairs(&[("gc.auto", "0"), ("maintenance.auto", "false"), ("core.fsmonitor", "false")]));
        settings.write_info(git_dir)?;
        replace_file(&git_dir.join("config"), &render_config(&config))
    }

    /// Tags, and branches below `origin/`: builds name versions by the one and compare with the other.
    fn write_clone_refs(&self, git_dir: &Path) -> Result<()> {
        let mut lines = String::from("# pack-refs with: sorted\n");
        let mut refs: Vec<(String, CommitHash)> = self.repository().list_refs("refs/tags")?;
        for (name, hash) in self.repository().list_refs("refs/heads")? {
            refs.push((format!("refs/remotes/origin/{}", short_name(&name)), hash));
        }
        refs.sort();
        for (name, hash) in refs {
            lines.push_str(&format!("{hash} {name}\n"));
        }
        if git_dir.join("reftable").exists() {
            return Ok(());
        }
        replace_file(&git_dir.join("packed-refs"), lines.as_bytes())
    }
}
