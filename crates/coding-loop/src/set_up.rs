//! Finding the store, or making it: for a new installation, after it was lost, and for one that kept everything in the
//! user's repository.

use std::path::Path;

use coord_db::{Config, Database};
use work_tree::{Layout, Repository, Store};

use crate::{Error, Result};

/// The store of an installation. Made where there is none: with the user's branches, the published branch among them, and with
/// the references of ours that the user's repository has from an older version.
pub(crate) fn store(db: &Database, config: &Config, user: &Repository, layout: &Layout, database: &Path) -> Result<Store> {
    let _ = db;
    if let Ok(store) = layout.open_store() {
        return Ok(store);
    }
    let root = layout.root();
    let inside = |top: &Path| std::path::absolute(root).is_ok_and(|root| root.starts_with(top));
    if inside(user.root()) {
        return Err(Error::SetUp(format!(
            "{} is inside the repository, where tools would find copies of every file; set [workspace] root to a folder outside of it",
            root.display()
        )));
    }
    let (store, made) = layout.create(user, database, &config.repository.integration_branch).map_err(|error| match error {
        work_tree::Error::InTheWay { path } => Error::SetUp(format!(
            "{} is there and is not this installation's; set [workspace] root in config.toml to another folder",
            path.display()
        )),
        error => error.into(),
    })?;
    for name in &made.skipped_refs {
        tracing::warn!(name, "left out of the store: what the reference names is missing");
    }
    for name in store.import_refs(user, "refs/coding-loops")? {
        tracing::warn!(name, "not brought over: what the reference names is missing");
    }
    Ok(store)
}
