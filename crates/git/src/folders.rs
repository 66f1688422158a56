//! Our folders: locks, atomic replacement, moving aside, removal.
//!
//! It must never remove what it cannot replace, and never follow a symbolic link out of the given folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// An exclusive lock between processes, held until it is dropped. The kernel releases it if its holder dies.
#[derive(Debug)]
pub(crate) struct FolderLock {
    file: fs::File,
    is_marked: bool,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if self.is_marked {
            let _ = self.file.set_len(0);
        }
    }
}

impl FolderLock {
    pub(crate) fn acquire(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        let file = fs::File::options().create(true).truncate(false).write(true).open(path).map_err(Error::io("open", path))?;
        Self::lock(file, path)
    }

    /// Locks an existing folder, without a lock file.
    pub(crate) fn of_folder(path: &Path) -> Result<Self> {
        Self::lock(fs::File::open(path).map_err(Error::io("open", path))?, path)
    }

    fn lock(file: fs::File, path: &Path) -> Result<Self> {
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| Error::io("lock", path)(error.into()))?;
        Ok(Self { file, is_marked: false })
    }

    /// Marks the lock as held. Returns true if the mark of a dead holder existed, whose children may still run.
    pub(crate) fn mark(&mut self) -> bool {
        use std::io::Write;
        let has_holder_died = self.file.metadata().is_ok_and(|meta| meta.len() > 0);
        // On a full disk there is no mark.
        self.is_marked = has_holder_died || self.file.write_all(b"held\n").is_ok();
        has_holder_died
    }
}

/// The path with something appended to its last component.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Renames a file or folder to a dated name beside it; returns that name.
pub(crate) fn put_aside(path: &Path) -> Result<PathBuf> {
    let date = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut name = beside(path, &format!(".damaged-{date}"));
    let mut number = 2;
    while name.symlink_metadata().is_ok() {
        name = beside(path, &format!(".damaged-{date}-{number}"));
        number += 1;
    }
    fs::rename(path, &name).map_err(Error::io("rename", path))?;
    Ok(name)
}

/// Removes a file, a link or a whole folder, even if its permissions forbid it; nothing happens if it does not exist.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    let Ok(meta) = path.symlink_metadata() else { return Ok(()) };
    let remove = || if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match remove() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && meta.is_dir() => {
            make_writable(path);
            remove().map_err(Error::io("remove", path))
        }
        result => result.map_err(Error::io("remove", path)),
    }
}

fn make_writable(folder: &Path) {
    drop(fs::set_permissions(folder, fs::Permissions::from_mode(0o700)));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// The relative path from a folder to another path, both absolute and without symbolic links.
pub(crate) fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

/// The absolute path of something that need not exist, with symbolic links resolved except in its last component.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let plain = std::path::absolute(path).map_err(Error::io("resolve", path))?;
    let ends_in_a_name = matches!(plain.components().next_back(), Some(Component::Normal(_)));
    let on_the_way = plain.components().count() - usize::from(ends_in_a_name);
    let mut resolved = PathBuf::new();
    for (at, part) in plain.components().enumerate() {
        // The part before is resolved, so that `..` is its parent folder.
        if part == Component::ParentDir {
            resolved.pop();
        } else {
            resolved.push(part);
        }
        if at < on_the_way {
            resolved = resolved.canonicalize().unwrap_or(resolved);
        }
    }
    Ok(resolved)
}

/// Copies an index of git, with its time: by that git knows which files may have changed in the moment in which they were read.
pub(crate) fn copy_index(from: &Path, to: &Path) -> std::io::Result<()> {
    let time = from.metadata()?.modified()?;
    fs::copy(from, to)?;
    fs::File::options().write(true).open(to)?.set_modified(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths() {
        assert_eq!(relative(Path::new("/a/b/c"), Path::new("/a/x/y")), Path::new("../../x/y"));
        assert_eq!(relative(Path::new("/a"), Path::new("/a/b")), Path::new("b"));
    }

    #[test]
    fn absolute_paths() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("far/away")).unwrap();
        std::os::unix::fs::symlink("far/away", top.join("link")).unwrap();
        for (given, meant) in [
            ("none", "none"),
            ("none/../new", "new"),
            ("link/../new", "far/new"),
            ("link/x", "far/away/x"),
            ("link", "link"),
            ("link/..", "far"),
            ("./far/../none/x", "none/x"),
        ] {
            assert_eq!(absolute(&top.join(given)).unwrap(), top.join(meant), "{given}");
        }
        assert_eq!(absolute(Path::new("/..")).unwrap(), Path::new("/"));
    }
}
