//! The folder of store and workspaces.

use std::path::{Path, PathBuf};

use coord_db::{Config, error_chain};
use work_tree::{Error, Layout, Repository, Store, StoreMade};

use crate::context::Context;
use crate::exit::{Failure, Outcome};

/// A failure of git or of the files below the folder.
pub fn failure(error: &Error) -> Failure {
    Failure::No(error_chain(error))
}

/// The store; none before the first `loopctl init` or start of a loop.
///
/// # Errors
/// If it is there and cannot be read.
pub fn open_store(config: &Config) -> Outcome<Option<Store>> {
    match Layout::new(config.workspace_root()).open_store() {
        Ok(store) => Ok(Some(store)),
        Err(Error::NotARepository { .. }) => Ok(None),
        Err(error) => Err(failure(&error)),
    }
}

/// The repository whose workspaces the current folder lies among, if it does.
pub fn repository_of(cx: &Context) -> Option<PathBuf> {
    let config = cx.path.exists().then(|| cx.config().ok())??;
    let (here, root) = (cx.folder.canonicalize().ok()?, config.workspace_root().canonicalize().ok()?);
    here.starts_with(root).then(|| config.repository_path().canonicalize().ok())?
}

/// Makes the folder and the store of the repository that the settings name, unless they are there.
///
/// # Errors
/// Exit 1 if something else is in its place, if it would lie in the user's checkout, or if it cannot be written.
pub fn create(config: &Config, database: &Path, config_file: &Path) -> Outcome<(Store, StoreMade)> {
    let root = config.workspace_root();
    let layout = Layout::new(&root);
    let remedy = format!(
        "set root in [workspace] of {} to an empty folder on the same disk, outside of the checkout, and try again",
        config_file.display()
    );
    let made = Repository::open(&config.repository_path())
        .and_then(|user| layout.create(&user, database, &config.repository.integration_branch));
    match made {
        Ok(made) => Ok(made),
        Err(Error::InTheWay { path }) => {
            let resolved = |path: PathBuf| path.canonicalize().ok();
            let other =
                layout.database().and_then(resolved).filter(|other| Some(other) != database.canonicalize().ok().as_ref());
            let what = other.map_or_else(
                || "holds files that coding-loops did not make".to_owned(),
                |other| format!("belongs to the database {}", other.display()),
            );
            Err(Failure::No(format!("{} {what}; {remedy}", path.display())))
        }
        Err(Error::InsideCheckout { path, checkout }) => Err(Failure::No(format!(
            "the workspaces cannot lie at {}, in the checkout {}, where tools would find your files; {remedy}",
            path.display(),
            checkout.display()
        ))),
        Err(error @ Error::Io { .. }) => Err(Failure::No(format!("{}; {remedy}", error_chain(&error)))),
        Err(error) => Err(failure(&error)),
    }
}
