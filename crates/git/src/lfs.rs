//! LFS objects: files of which git stores only a pointer. They are stored beside the objects of git, and copied along
//! with them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::call::{Git, LONG_TIME_LIMIT};
use crate::effective::effective;
use crate::folders::beside;
use crate::{CommitHash, Error, Repository, Result};

/// Maximum size of a pointer.
pub(crate) const MAX_POINTER_BYTES: u64 = 1024;
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The folder of a repository's LFS objects.
pub(crate) fn objects_of(user: &Repository) -> PathBuf {
    let is_set = effective(&user.git).is_ok_and(|settings| settings.iter().any(|(_, (key, _))| key == b"lfs.storage"));
    let named = || user.git.call(["config", "--type=path", "--get", "lfs.storage"]).path().ok();
    let named =
        is_set.then(named).flatten().filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from("lfs"));
    user.common_dir().join(named).join("objects")
}

/// Copies the LFS objects that the store does not have.
pub(crate) fn copy_lfs(user: &Repository, store: &Path) -> Result<()> {
    let from = objects_of(user);
    if from.is_dir() { copy_missing(&from, &store.join("lfs/objects")) } else { Ok(()) }
}

/// Copies the LFS objects of commits to publish that only the store has to the user's repository; without them the
/// commits could not be checked out. `known` are commits that the repository already has.
pub(crate) fn publish_lfs(store: &Repository, user: &Repository, commit: &CommitHash, known: &[CommitHash]) -> Result<()> {
    let from = store.common_dir().join("lfs/objects");
    if !fs::read_dir(&from).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(());
    }
    let git = &store.git;
    let absent: BTreeSet<CommitHash> = crate::transfer::missing(git, known)?.into_iter().collect();
    let mut revs = format!("{commit}\n");
    known.iter().filter(|hash| !absent.contains(hash)).for_each(|hash| revs.push_str(&format!("^{hash}\n")));
    let listed = git.call(["rev-list", "--objects", "--no-object-names", "--stdin"]).stdin(revs);
    let listed = listed.time_limit(LONG_TIME_LIMIT).ok()?;
    let typed = git.call(["cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)"]).stdin(listed);
    let typed = typed.time_limit(LONG_TIME_LIMIT).ok()?;
    let typed = String::from_utf8_lossy(&typed).into_owned();
    let small = typed.lines().filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [hash, "blob", size] => size.parse().is_ok_and(|size: u64| size <= MAX_POINTER_BYTES).then(|| hash.to_owned()),
        _ => None,
    });
    let to = objects_of(user);
    for (_, oid) in pointers(git, &small.collect::<Vec<_>>())? {
        let way = way_to(&oid);
        if from.join(&way).is_file() {
            copy_one(&from.join(&way), &to.join(&way))?;
        }
    }
    Ok(())
}

/// The path of an object below a folder of objects.
pub(crate) fn way_to(oid: &str) -> PathBuf {
    Path::new(&oid[..2]).join(&oid[2..4]).join(oid)
}

/// The blobs that are pointers, with their objects.
pub(crate) fn pointers(git: &Git, blobs: &[String]) -> Result<Vec<(String, String)>> {
    let list: String = blobs.iter().map(|hash| format!("{hash}\n")).collect();
    let stdout = git.call(["cat-file", "--batch"]).stdin(list).ok()?;
    let (mut rest, mut found) = (stdout.as_slice(), Vec::new());
    for blob in blobs {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { break };
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 1..];
        let Some(size) = head.split(' ').nth(2).and_then(|size| size.parse::<usize>().ok()) else { continue };
        let Some((text, after)) = rest.split_at_checked(size) else { break };
        rest = after.get(1..).unwrap_or_default();
        if !text.starts_with(POINTER) {
            continue;
        }
        let text = String::from_utf8_lossy(text).into_owned();
        let oid = text.lines().find_map(|line| line.strip_prefix("oid sha256:")).map(|oid| oid.trim().to_owned());
        let is_hash = |oid: &String| oid.len() > 4 && oid.bytes().all(|byte| byte.is_ascii_hexdigit());
        found.extend(oid.filter(is_hash).map(|oid| (blob.clone(), oid)));
    }
    Ok(found)
}

fn copy_missing(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let entry = entry.map_err(Error::io("list", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() { copy_missing(&source, &target)? } else { copy_one(&source, &target)? }
    }
    Ok(())
}

/// Copies an object unless it exists.
fn copy_one(source: &Path, target: &Path) -> Result<()> {
    if target.exists() {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    // Not linked, because a workspace may link it from here.
    let making = beside(target, &format!(".new-{}", std::process::id()));
    fs::copy(source, &making).map_err(Error::io("copy", source))?;
    fs::rename(&making, target).map_err(Error::io("rename", &making))
}
