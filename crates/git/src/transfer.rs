//! Copies objects from one repository to another as a pack.
//!
//! It works for any pair of repositories on this machine, whatever remotes, hooks, protocols and owners their configs
//! name, and tolerates broken references in either of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::call::{Git, LONG_TIME_LIMIT};
use crate::folders::remove_all;
use crate::known::Found;
use crate::{CommitHash, Error, Result};

/// Prefix of temporary files and folders in the store; the process id follows.
pub(crate) const SPOOL: &str = "transfer-";

/// The content of the `.keep` file of a pack that must not be pruned.
const KEEP_MESSAGE: &str = "coding-loops";

/// What git reports if a `git prune` has removed the pack that it was writing, and how often it is written again.
const PRUNED: &str = "unable to rename temporary '*.";
const MAX_UNPACKS: u32 = 10;

/// Protects copied objects from pruning until a reference points to them; then it is dropped.
#[derive(Debug)]
pub(crate) struct Kept {
    file: Option<PathBuf>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            drop(fs::remove_file(file));
        }
    }
}

/// The objects that a repository does not have, in order.
pub(crate) fn missing(git: &Git, objects: &[CommitHash]) -> Result<Vec<CommitHash>> {
    let unknown: Vec<_> = objects.iter().filter(|hash| !git.has_found(hash, Found::Object)).collect();
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let files: Vec<_> = unknown.iter().map(|hash| git.object_files(hash)).collect();
    let list: String = unknown.iter().map(|hash| format!("{hash}\n")).collect();
    let stdout = git.call(["cat-file", "--batch-check=%(objectname)"]).stdin(list).ok()?;
    let text = String::from_utf8_lossy(&stdout);
    let lost = |line: &str| line.ends_with(" missing").then(|| line.trim_end_matches(" missing").to_owned());
    let lost: Vec<CommitHash> = text.lines().filter_map(lost).filter_map(|hash| CommitHash::new(hash).ok()).collect();
    for (hash, file) in unknown.into_iter().zip(files).filter(|(hash, _)| !lost.contains(hash)) {
        git.note_found(hash, Found::Object, file);
    }
    Ok(lost)
}

/// True if commits are there with everything that they refer to. What references refer to counts as whole.
pub(crate) fn are_whole(git: &Git, commits: &[CommitHash]) -> Result<bool> {
    let unknown: Vec<_> = commits.iter().filter(|commit| !git.has_found(commit, Found::Whole)).collect();
    if unknown.is_empty() {
        return Ok(true);
    }
    let files: Vec<_> = unknown.iter().map(|commit| git.object_files(commit)).collect();
    let list: String = unknown.iter().map(|commit| format!("{commit}\n")).collect();
    let check = git.call(["rev-list", "--objects", "--quiet", "--stdin", "--not", "--all"]).stdin(list);
    let are_whole = check.time_limit(LONG_TIME_LIMIT).answer()?.code == Some(0);
    if are_whole {
        for (commit, files) in unknown.into_iter().zip(files) {
            git.note_found(commit, Found::Whole, files);
        }
    }
    Ok(are_whole)
}

/// Copies everything reachable from `wanted` but not from `known`, which the target has. Commits of `known` that the source
/// lacks are ignored.
///
/// Until the result is dropped, the copied objects are not pruned, not even by `gc --prune=now`.
pub(crate) fn transfer(
    from: &Git,
    to: (&Git, &Path),
    spool: &Path,
    wanted: &[CommitHash],
    known: &[CommitHash],
) -> Result<Kept> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    if wanted.iter().all(|hash| known.contains(hash)) {
        return Ok(Kept { file: None });
    }
    let (to, objects) = (to.0, to.1.join("objects/pack"));
    let absent = missing(from, known)?;
    let mut revs: String = wanted.iter().map(|hash| format!("{hash}\n")).collect();
    for hash in known.iter().filter(|hash| !absent.contains(hash)) {
        revs.push_str(&format!("^{hash}\n"));
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let pack = spool.join(format!("{SPOOL}{}-{number}.pack", std::process::id()));
    let message = format!("{KEEP_MESSAGE} {} {number}", std::process::id());
    let result = carry(from, to, &objects, &pack, revs, &message);
    drop(fs::remove_file(&pack));
    if result.is_err() {
        remove_keeps(&objects, |found| found == message);
    }
    result
}

/// Copies single objects that the target's history refers to but lacks, as after a partial clone.
pub(crate) fn transfer_objects(from: &Git, to: (&Git, &Path), spool: &Path, objects: &[String]) -> Result<Kept> {
    let pack = spool.join(format!("{SPOOL}{}-objects.pack", std::process::id()));
    let list: String = objects.iter().map(|hash| format!("{hash}\n")).collect();
    let message = format!("{KEEP_MESSAGE} {} objects", std::process::id());
    let call = from.call(["pack-objects", "--stdout", "-q"]).stdin(list);
    let packed = call.stdout_to(&pack).time_limit(LONG_TIME_LIMIT).ok();
    let kept = packed.and_then(|_| unpack(to.0, &to.1.join("objects/pack"), &pack, &message));
    drop(fs::remove_file(&pack));
    kept
}

fn carry(from: &Git, to: &Git, objects: &Path, pack: &Path, revs: String, message: &str) -> Result<Kept> {
    let call = from.call(["pack-objects", "--revs", "--stdout", "--delta-base-offset", "-q"]);
    call.stdin(revs).stdout_to(pack).time_limit(LONG_TIME_LIMIT).ok()?;
    unpack(to, objects, pack, message)
}

fn unpack(to: &Git, objects: &Path, pack: &Path, message: &str) -> Result<Kept> {
    let call = to.call(["index-pack", "--stdin", "--fix-thin"]).arg(format!("--keep={message}"));
    let call = call.stdin_from(pack).time_limit(LONG_TIME_LIMIT);
    let mut answer = call.answer()?;
    for _ in 1..MAX_UNPACKS {
        if answer.code == Some(0) || !answer.stderr.contains(PRUNED) {
            break;
        }
        remove_keeps(objects, |found| found == message);
        answer = call.answer()?;
    }
    if answer.code != Some(0) {
        return Err(call.failed(answer));
    }
    let text = String::from_utf8_lossy(&answer.stdout);
    // `keep` and the hash; `pack` if the same pack existed.
    let name = text.split_whitespace().nth(1).ok_or_else(|| call.unexpected("no name of a pack"))?;
    Ok(Kept { file: text.starts_with("keep").then(|| objects.join(format!("pack-{name}.keep"))) })
}

/// Removes remains of killed transfers in the store and in the repositories to which they copied.
pub(crate) fn remove_abandoned(store: &Path, common_dirs: &[&Path]) {
    let is_dead =
        |pid: Option<&str>| pid.and_then(|pid| pid.parse().ok()).is_some_and(|pid| command_runner::start_time(pid).is_none());
    for entry in fs::read_dir(store).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_dead(name.strip_prefix(SPOOL).and_then(|rest| rest.split('-').next())) {
            drop(remove_all(&entry.path()));
        }
    }
    for common_dir in common_dirs {
        let is_abandoned =
            |message: &str| is_dead(message.strip_prefix(KEEP_MESSAGE).and_then(|rest| rest.split_whitespace().next()));
        remove_keeps(&common_dir.join("objects/pack"), is_abandoned);
    }
}

fn remove_keeps(objects: &Path, is_wanted: impl Fn(&str) -> bool) {
    let entries = fs::read_dir(objects).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ext| ext == "keep")) {
        if fs::read_to_string(&path).is_ok_and(|content| is_wanted(content.trim_end())) {
            drop(fs::remove_file(&path));
        }
    }
}

/// Retries an operation with which another git can interfere: a `gc` that moves the objects being read.
pub(crate) fn retried<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    const MAX_TRIES: u32 = 5;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
    let mut tries = 1;
    loop {
        match work() {
            Err(Error::GitFailed { .. } | Error::Io { .. }) if tries < MAX_TRIES => {
                std::thread::park_timeout(PAUSE * tries);
                tries += 1;
            }
            result => return result,
        }
    }
}
