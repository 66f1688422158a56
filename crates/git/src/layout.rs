//! The paths of our repositories and folders, below one folder outside the user's checkout.
//!
//! | place | what |
//! | --- | --- |
//! | `store.git` | the [`Store`] |
//! | `loops/<loop>` | a loop's [`Workspace`](crate::Workspace) |
//! | `state/<loop>` | our index and record of that workspace |
//! | `gates/<loop>` | the check-out for the loop's checks; `human`: of `loopctl sync`; `landing-train-<n>`: of the landing train |
//! | `checker/<n>` | the check-outs of the regression-checker |
//! | `left/<loop>/…` | files of saved work that are not in the store: too large, or not storable in git |
//! | `database` | a file that names the database, so that tools find it from a workspace |
//! | `README` | a description for the user |
//!
//! All paths in it are relative, so that it can be moved together with the user's repository.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::folders::{FolderLock, absolute, relative, remove_all};
use crate::refs;
use crate::settings::replace_file;
use crate::workspace::State;
use crate::{CommitHash, Error, Rebuilt, Repository, Result, Store, StoreMade, WorkspaceSpec};

/// The file that names the database.
const DATABASE: &str = "database";

/// The entries that our programs create in the folder, in the order in which they are removed. A workspace is invalid
/// without its record in `state`, and nothing is valid without the store.
const MADE: &[&str] =
    &["state", "loops", "gates", "checker", "left", "trial", "store.git", "store.git.new", "store.git.lock", "database.new"];

/// The file that describes the folder.
const README_FILE: &str = "README";

const README: &str = "\
coding-loops keeps its repositories here, beside the repository that its agents work on. Nothing here is edited by hand.

  store.git   every commit that the loops have made, integration, checkpoints and saved work
  loops/      one folder for each loop, in which its agent works
  gates/      where finished work is checked
  checker/    where landed work is checked again
  left/       files of saved work that are too large for the store
  state/      notes about the folders in loops/
  database    where the database is

loopctl workspaces shows what each folder is for and how large it is.
";

/// Our folder with its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below a folder; creates nothing.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of the store.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.root.join("store.git")
    }

    /// The folder of the workspaces.
    #[must_use]
    pub fn workspaces(&self) -> PathBuf {
        self.root.join("loops")
    }

    /// The folder of our records of the workspaces.
    #[must_use]
    pub fn states(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The paths of a loop's workspace. `branch` is the short name of the branch on which its agent starts.
    #[must_use]
    pub fn workspace(&self, id: &str, branch: &str) -> WorkspaceSpec {
        WorkspaceSpec { path: self.workspaces().join(id), state: self.states().join(id), branch: branch.to_owned() }
    }

    /// True if a loop's workspace is based on the head of integration, as their files show without a call of git. False if
    /// they do not.
    #[must_use]
    pub fn is_at_head(&self, id: &str, integration_branch: &str) -> bool {
        let head = refs::target(&self.store_path(), &format!("refs/heads/{integration_branch}")).flatten();
        head.is_some() && head == State::read(&self.workspace(id, integration_branch)).map(|state| state.base)
    }

    /// The folder of the gates' check-outs.
    #[must_use]
    pub fn gates(&self) -> PathBuf {
        self.root.join("gates")
    }

    /// The check-out for a loop's checks.
    #[must_use]
    pub fn gate(&self, id: &str) -> PathBuf {
        self.gates().join(id)
    }

    /// The folder for files of a loop that git cannot store or that are too large.
    #[must_use]
    pub fn left(&self, id: &str) -> PathBuf {
        self.root.join("left").join(id)
    }

    /// The folder of the regression-checker's check-outs.
    #[must_use]
    pub fn checker(&self) -> PathBuf {
        self.root.join("checker")
    }

    /// The folder in which checks are tried for the human; nothing remains there.
    #[must_use]
    pub fn trial(&self) -> PathBuf {
        self.root.join("trial")
    }

    /// The database to which the folder belongs; none if it is not one of ours.
    #[must_use]
    pub fn database(&self) -> Option<PathBuf> {
        let text = fs::read(self.root.join(DATABASE)).ok()?;
        let way = Path::new(std::ffi::OsStr::from_bytes(text.trim_ascii_end()));
        Some(self.root.join(way)).filter(|_| !way.as_os_str().is_empty())
    }

    /// True if a folder without a database name contains more than our files and therefore is not ours. The name of the
    /// database alone may be lost, and running programs may write to the folder while it is removed.
    #[must_use]
    pub fn holds_something_else(&self) -> bool {
        self.entries(|name| !is_made_by_us(name)).next().is_some() && self.open_store().is_err()
    }

    /// Opens the store.
    ///
    /// # Errors
    /// [`Error::NotARepository`] if there is none.
    pub fn open_store(&self) -> Result<Store> {
        Store::open(&self.store_path())
    }

    /// Creates the folder for a database, and the store of the user's repository in it, unless they exist.
    ///
    /// # Errors
    /// [`Error::InTheWay`] if the folder contains something else, or belongs to another existing database;
    /// [`Error::InsideCheckout`] if it would be in the user's checkout.
    pub fn create(&self, user: &Repository, database: &Path, integration_branch: &str) -> Result<(Store, StoreMade)> {
        let root = absolute(&self.root)?;
        let database = absolute(database)?;
        if root.starts_with(user.root()) {
            return Err(Error::InsideCheckout { path: root, checkout: user.root().to_owned() });
        }
        if root.symlink_metadata().is_ok() && !root.is_dir() {
            return Err(Error::InTheWay { path: root });
        }
        fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
        // Loops that start at the same time create it together.
        let _lock = FolderLock::of_folder(&root)?;
        let resolved = |path: &Path| path.canonicalize().ok();
        match self.database() {
            Some(other) if resolved(&other).is_some_and(|other| Some(&other) != resolved(&database).as_ref()) => {
                return Err(Error::InTheWay { path: root });
            }
            Some(_) => {}
            None if self.holds_something_else() => return Err(Error::InTheWay { path: root }),
            None => {}
        }
        let way = relative(&root, &database);
        replace_file(&root.join(DATABASE), &[way.as_os_str().as_bytes(), b"\n"].concat())?;
        replace_file(&root.join(README_FILE), README.as_bytes())?;
        Store::create(user, &root.join("store.git"), integration_branch)
    }

    /// Removes everything that our programs have created in the folder, and the folder if nothing else is in it. The
    /// database name goes last, so that an interrupted removal can be repeated.
    ///
    /// # Errors
    /// [`Error::Io`] if something cannot be deleted.
    pub fn remove(&self) -> Result<()> {
        let mut ours: Vec<PathBuf> = self.entries(is_made_by_us).collect();
        ours.sort_by_key(|path| MADE.iter().position(|made| path.ends_with(made)));
        for path in ours.iter().chain(&[self.root.join(README_FILE), self.root.join(DATABASE)]) {
            remove_all(path)?;
        }
        drop(fs::remove_dir(&self.root));
        Ok(())
    }

    /// The entries of the folder that our programs have not created.
    #[must_use]
    pub fn foreign(&self) -> Vec<PathBuf> {
        self.entries(|name| !is_made_by_us(name) && name != README_FILE && name != DATABASE).collect()
    }

    fn entries(&self, is_wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter(move |entry| is_wanted(&entry.file_name().to_string_lossy())).map(|entry| entry.path())
    }

    /// Creates the store again if it is damaged, with the objects that the workspaces and our records of them still
    /// have.
    ///
    /// # Errors
    /// If it cannot be created; the damaged store stays unchanged.
    pub fn rebuild_store(&self, user: &Repository, branch: &str, landed: &[CommitHash]) -> Result<(Store, Rebuilt)> {
        let root = absolute(&self.root)?;
        let entries = fs::read_dir(root.join("loops")).into_iter().flatten().flatten();
        let folders: Vec<(PathBuf, PathBuf)> =
            entries.map(|entry| (entry.path().join(".git"), root.join("state").join(entry.file_name()))).collect();
        Store::rebuild(user, &root.join("store.git"), branch, landed, &folders)
    }
}

fn is_made_by_us(name: &str) -> bool {
    MADE.contains(&name) || name.starts_with("store.git.damaged-")
}
