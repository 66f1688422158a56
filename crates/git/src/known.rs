//! What git has found in a repository and need not be asked about again.
//!
//! References move and stores get damaged: the target of a reference is read each time, and an object counts as found only
//! while its file is the same as when git found it; git is asked about packed objects each time. What hashes alone determine, as
//! the tree of a commit or the difference of two trees, never changes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::CommitHash;

/// Maximum number of entries of each kind; then all are forgotten.
const MAX_ENTRIES: usize = 1000;

/// Maximum size of an output that is remembered, in bytes.
const MAX_OUTPUT: usize = 16 << 10;

/// How git has found an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Found {
    /// It exists.
    Object,
    /// It is a commit.
    Commit,
}

/// The identity of a file and of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileId {
    /// None if there is no regular file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// The answers of git about one repository.
#[derive(Debug, Default)]
pub(crate) struct Known {
    found: Mutex<BTreeMap<(CommitHash, Found), FileId>>,
    /// Indexes that git could read.
    indexes: Mutex<BTreeMap<PathBuf, FileId>>,
    /// The outputs of calls that name nothing but objects, by the arguments.
    outputs: Mutex<BTreeMap<Vec<OsString>, Vec<u8>>>,
}

fn insert<K: Ord, V>(map: &Mutex<BTreeMap<K, V>>, key: K, value: V) {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if map.len() >= MAX_ENTRIES {
        map.clear();
    }
    map.insert(key, value);
}

impl Known {
    /// True if git has found this object, and its file is still the same.
    pub(crate) fn is_found(&self, hash: &CommitHash, how: Found, file: Option<FileId>) -> bool {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        file.is_some() && found.get(&(hash.clone(), how)) == file.as_ref()
    }

    /// Remembers an answer of git. `file` is the object's file before git was asked.
    pub(crate) fn remember(&self, hash: &CommitHash, how: Found, file: Option<FileId>) {
        if let Some(file) = file {
            insert(&self.found, (hash.clone(), how), file);
        }
    }

    /// True if git can read this index, by the answer of `ask` if the file is not the same as when it could.
    pub(crate) fn can_read_index(&self, path: &Path, ask: impl FnOnce() -> bool) -> bool {
        let file = FileId::of(path);
        let is_same = file.is_some() && {
            let indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
            indexes.get(path) == file.as_ref()
        };
        let can_read = is_same || ask();
        if let Some(file) = file.filter(|_| can_read && !is_same) {
            insert(&self.indexes, path.to_owned(), file);
        }
        can_read
    }

    /// The output of an earlier call with these arguments.
    pub(crate) fn output(&self, args: &[OsString]) -> Option<Vec<u8>> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner).get(args).cloned()
    }

    pub(crate) fn remember_output(&self, args: &[OsString], output: &[u8]) {
        if output.len() <= MAX_OUTPUT {
            insert(&self.outputs, args.to_owned(), output.to_owned());
        }
    }
}

/// The file of an object that is not packed, if it exists.
pub(crate) fn object_file(git_dir: &Path, hash: &CommitHash) -> Option<FileId> {
    let (folder, name) = hash.as_str().split_at(2);
    FileId::of(&git_dir.join("objects").join(folder).join(name))
}

/// The target of a reference with a file of its own; none if git has to be asked.
pub(crate) fn loose_target(git_dir: &Path, name: &str) -> Option<CommitHash> {
    if !is_ref_name(name) {
        return None;
    }
    let path: PathBuf = git_dir.join(name);
    let text = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()).then(|| fs::read_to_string(&path).ok())??;
    CommitHash::new(text.strip_suffix('\n')?).ok()
}

/// True if git allows this as the full name of a reference, by the rules of `git check-ref-format`.
pub(crate) fn is_ref_name(name: &str) -> bool {
    let allowed = |each: char| !each.is_ascii_control() && !" ~^:?*[\\".contains(each);
    let is_component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.strip_prefix("refs/").is_some_and(|rest| rest.split('/').all(is_component))
        && name.chars().all(allowed)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_references_as_git_allows_them() {
        let parts =
            ["a", ".a", "a.", "a.lock", "a.lock.b", "", "a..b", "@", "@{", "a@{b", "{", "é", "a b", "-", "\u{7f}", "\n"];
        let parts = parts.iter().chain(&["a~", "^a", "a:b", "a?", "*", "[a", "a]", "a\\b", "HEAD", ".lock", ".", ".."]);
        let names =
            parts.flat_map(|part| [format!("refs/{part}"), format!("refs/heads/{part}"), format!("refs/heads/{part}/x")]);
        let git = crate::call::Git::discovering(Path::new("/"));
        for name in names {
            let by_git = git.call(["check-ref-format", &name]).answer().unwrap().code == Some(0);
            assert_eq!(is_ref_name(&name), by_git, "{name:?}");
        }
        for name in ["", "refs", "refs/", "a", "heads/a", "/refs/a"] {
            assert!(!is_ref_name(name), "{name:?}");
        }
    }

    #[test]
    fn an_object_counts_as_found_only_while_its_file_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let hash = CommitHash::new("ab".repeat(20)).unwrap();
        let path = folder.path().join("objects/ab").join("ab".repeat(19));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let known = Known::default();
        let is_found = |how| known.is_found(&hash, how, object_file(folder.path(), &hash));
        known.remember(&hash, Found::Object, object_file(folder.path(), &hash));
        assert!(!is_found(Found::Object), "there is no file");
        fs::write(&path, "object").unwrap();
        known.remember(&hash, Found::Object, object_file(folder.path(), &hash));
        assert!(is_found(Found::Object));
        assert!(!is_found(Found::Commit));
        fs::write(&path, "").unwrap();
        assert!(!is_found(Found::Object), "it was cut");
        fs::remove_file(&path).unwrap();
        assert!(!is_found(Found::Object), "it was removed");
    }
}
