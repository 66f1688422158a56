//! Where the database is: named, in the environment, or found from the current folder.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The folder in a repository that holds everything.
pub const FOLDER: &str = "coding-loops";
/// The database's file name in it.
pub const FILE: &str = "coordination.db";
/// The environment variable that names the database.
pub const VARIABLE: &str = "CODING_LOOPS_DB";

/// A database: a file, or one on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// An SQLite file.
    File(PathBuf),
    /// The address of a PostgreSQL database, which may have a password in it.
    Server(String),
}

impl Location {
    /// What a path names: `postgres://user@host/name` is an address, all else a file.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let is_address = |text: &&str| ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        match path.to_str().filter(is_address) {
            Some(address) => Self::Server(address.to_owned()),
            None => Self::File(path.to_owned()),
        }
    }
}

/// `named`, else the environment's, else the one of the nearest folder above `from` that has one. The folder of store and
/// workspaces names its database; a linked worktree of a repository finds the repository's. The answer may not exist; it is then where one would be made.
#[must_use]
pub fn database(named: Option<&Path>, from: &Path) -> PathBuf {
    if let Some(named) = named {
        return named.to_owned();
    }
    if let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return PathBuf::from(value);
    }
    for folder in from.ancestors() {
        let candidate = folder.join(FOLDER).join(FILE);
        if candidate.exists() {
            return candidate;
        }
        if let Some(named) = named_by(folder).filter(|named| named.exists()) {
            return named;
        }
        if let Some(main) = main_checkout(folder) {
            let candidate = main.join(FOLDER).join(FILE);
            if candidate.exists() {
                return candidate;
            }
        }
    }
    from.join(FOLDER).join(FILE)
}

/// The database that a folder of store and workspaces names.
fn named_by(folder: &Path) -> Option<PathBuf> {
    if !folder.join("store.git").is_dir() {
        return None;
    }
    let way = std::fs::read(folder.join("database")).ok()?;
    Some(folder.join(Path::new(std::ffi::OsStr::from_bytes(way.trim_ascii_end()))))
}

/// The main checkout of the repository that `folder` is a linked worktree of.
#[must_use]
pub fn main_checkout(folder: &Path) -> Option<PathBuf> {
    let link = std::fs::read_to_string(folder.join(".git")).ok()?;
    let git_dir = folder.join(link.strip_prefix("gitdir:")?.trim());
    let common = std::fs::read_to_string(git_dir.join("commondir")).ok()?;
    let common = git_dir.join(common.trim()).canonicalize().ok()?;
    common.parent().map(Path::to_owned)
}
