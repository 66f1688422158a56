//! Where the database is: named, in the environment, or found from the current folder.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The folder in a repository that holds everything.
pub const FOLDER: &str = "coding-loops";
/// The database's file name in it.
pub const FILE: &str = "coordination.db";
/// The environment variable that names the database.
pub const VARIABLE: &str = "CODING_LOOPS_DB";
/// Maximum length of a file that holds an address: less than the smallest page of SQLite.
const MAX_ADDRESS_BYTES: u64 = 511;

/// A database: a file, or one on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// An SQLite file.
    File(PathBuf),
    /// The address of a PostgreSQL database, which may have a password in it.
    Server(String),
}

impl Location {
    /// What a path names: `postgres://user@host/name` is an address, all else a file. A file that holds an address, and no SQLite
    /// database, stands for the database there: a project on a server keeps its folder, its settings and its logs.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let named = path.to_str().filter(|text| is_address(text.as_bytes())).map(str::to_owned);
        named.or_else(|| address_in(path)).map_or_else(|| Self::File(path.to_owned()), Self::Server)
    }
}

fn is_address(text: &[u8]) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme.as_bytes()))
}

/// The address that a file holds.
fn address_in(path: &Path) -> Option<String> {
    // To open a pipe would wait. A database must not even be opened: closing it would release SQLite's locks of this process. The
    // smallest one is larger, but for an empty one.
    std::fs::metadata(path).ok().filter(|meta| meta.is_file() && (1..=MAX_ADDRESS_BYTES).contains(&meta.len()))?;
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_ADDRESS_BYTES).read_to_end(&mut text).ok()?;
    let address = text.trim_ascii_end();
    is_address(address).then(|| String::from_utf8_lossy(address).into_owned())
}

/// Makes a file that holds the address of a database, which its owner alone can read: there may be a password in it.
///
/// # Errors
/// [`Error::Exists`] if there is a file; [`Error::Io`].
pub fn write_address(path: &Path, address: &str) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.create_new(true).write(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(address.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists { what: "file", id: path.display().to_string() },
        _ => Error::io(format!("cannot write {}", path.display()), error),
    })
}

/// Puts a file that holds the address of a database in the place of another file, which is replaced as a whole or not at all.
///
/// # Errors
/// [`Error::Io`]; the file is then as it was.
pub(crate) fn replace_with_address(path: &Path, address: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let part = folder.join(format!(".{FILE}.{}.part", crate::new_id()));
    let io = |error| Error::io(format!("cannot replace {}", path.display()), error);
    let replaced = write_address(&part, address).and_then(|()| std::fs::rename(&part, path).map_err(io));
    if replaced.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    replaced?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
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
