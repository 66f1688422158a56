//! Differences between two trees: reads them, and writes them to an index or to files.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::call::{Call, Git, LONG_TIME_LIMIT, fields, to_path};
use crate::folders::remove_all;
use crate::{CommitHash, Result};

/// The mode of a submodule in a tree.
pub(crate) const SUBMODULE: &str = "160000";

/// One side of a difference: mode and hash; none if the path does not exist.
pub(crate) type Entry = Option<(String, CommitHash)>;

/// A path that differs between two trees.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) path: PathBuf,
    pub(crate) old: Entry,
    pub(crate) new: Entry,
}

/// The differing files of two trees, sorted by path.
pub(crate) fn differences(git: &Git, old: &CommitHash, new: &CommitHash) -> Result<Vec<Difference>> {
    if old == new {
        return Ok(Vec::new());
    }
    let options = ["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev"];
    let call = git.call(options).args([old.as_str(), new.as_str(), "--"]);
    raw_differences(&call, &call.ok_for_ever()?)
}

/// Parses the output of a call with `--raw -z --no-abbrev`, sorted by path.
pub(crate) fn raw_differences(call: &Call<'_>, stdout: &[u8]) -> Result<Vec<Difference>> {
    let (mut list, mut words) = (Vec::new(), fields(stdout));
    while let (Some(head), Some(path)) = (words.next(), words.next()) {
        let head = String::from_utf8_lossy(head).into_owned();
        let parts: Vec<&str> = head.trim_start_matches(':').split(' ').collect();
        let [old_mode, new_mode, old_hash, new_hash, _] = parts.as_slice() else {
            return Err(call.unexpected(format!("an entry {head:?}")));
        };
        let entry = |mode: &str, hash: &str| -> Result<Entry> {
            if mode == "000000" {
                return Ok(None);
            }
            let hash = CommitHash::new(hash).map_err(|error| call.unexpected(error.to_string()))?;
            Ok(Some((mode.to_owned(), hash)))
        };
        list.push(Difference { path: to_path(path), old: entry(old_mode, old_hash)?, new: entry(new_mode, new_hash)? });
    }
    list.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(list)
}

/// Formats the input of `update-index --index-info`: removals first, then entries. Hashes have the length of `like`.
pub(crate) fn index_info<'a>(like: &CommitHash, entries: impl IntoIterator<Item = (&'a Path, Entry)>) -> Vec<u8> {
    let (mut removals, mut additions) = (Vec::new(), Vec::new());
    for (path, entry) in entries {
        let list = if entry.is_some() { &mut additions } else { &mut removals };
        match entry {
            Some((mode, hash)) => list.extend_from_slice(format!("{mode} {hash}\t").as_bytes()),
            None => list.extend_from_slice(format!("0 {}\t", like.zero_like()).as_bytes()),
        }
        list.extend_from_slice(path.as_os_str().as_bytes());
        list.push(0);
    }
    removals.extend(additions);
    removals
}

pub(crate) fn nul_terminated<'a, P: AsRef<Path> + ?Sized + 'a>(paths: impl Iterator<Item = &'a P>) -> Vec<u8> {
    let mut list = Vec::new();
    for path in paths {
        list.extend_from_slice(path.as_ref().as_os_str().as_bytes());
        list.push(0);
    }
    list
}

/// Writes the differing files of a tree, using a temporary index.
pub(crate) fn write_changes(git: &Git, root: &Path, index: &Path, changes: &[Difference], tree: &CommitHash) -> Result<()> {
    let is_file = |change: &&Difference| change.new.as_ref().is_some_and(|(mode, _)| mode != SUBMODULE);
    for change in changes.iter().filter(|change| change.new.is_none()) {
        remove_all(&root.join(&change.path))?;
    }
    remove_all(index)?;
    let git = git.with_env("GIT_INDEX_FILE", index);
    git.call(["read-tree", tree.as_str()]).ok()?;
    let list = nul_terminated(changes.iter().filter(is_file).map(|change| &change.path));
    git.call(["checkout-index", "-q", "-f", "-z", "--stdin"]).stdin(list).time_limit(LONG_TIME_LIMIT).ok()?;
    remove_all(index)
}
