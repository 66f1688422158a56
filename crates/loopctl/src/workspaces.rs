//! The folder of store and workspaces.

use std::path::PathBuf;

use coord_db::{Config, error_chain};
use git::{Error, Layout, Store};

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
