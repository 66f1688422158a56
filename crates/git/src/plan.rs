//! Plans which files go into our index: git receives explicit names and decides nothing itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::call::{Call, Git, LONG_TIME_LIMIT, fields, to_path};
use crate::difference::{SUBMODULE, index_info, nul_terminated};
use crate::tracked::is_listed;
use crate::{CommitHash, Finding, Result};

/// The changes for an index.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) removed: Vec<PathBuf>,
    pub(crate) added: Vec<PathBuf>,
    pub(crate) links: Vec<(PathBuf, CommitHash)>,
    pub(crate) findings: Vec<Finding>,
    /// The ignore rules differ from those of the start.
    pub(crate) has_new_rules: bool,
    /// Files that are included only this time: a later snapshot judges them again.
    pub(crate) once: Vec<PathBuf>,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty() && self.links.is_empty()
    }

    /// Plans a file that differs from the index or is missing in it.
    pub(crate) fn add_file(&mut self, root: &Path, path: PathBuf, file_bytes: u64) {
        let unstorable = |path: PathBuf, reason: &str| Finding::Unstorable { path, reason: reason.to_owned() };
        match root.join(&path).symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.removed.push(path),
            Err(error) => self.findings.push(unstorable(path, &error.to_string())),
            Ok(meta) if meta.is_file() && meta.len() > file_bytes => {
                self.findings.push(Finding::TooLarge { path, bytes: meta.len() });
            }
            Ok(meta) if meta.is_file() || meta.is_symlink() => self.added.push(path),
            Ok(meta) if meta.is_dir() => self.removed.push(path),
            Ok(meta) => {
                let kind = meta.file_type();
                let kind = if kind.is_fifo() {
                    "a named pipe"
                } else if kind.is_socket() {
                    "a socket"
                } else {
                    "a device"
                };
                self.findings.push(unstorable(path, &format!("git cannot store {kind}")));
            }
        }
    }

    /// The files below a folder that git would not enter, without the ignored ones.
    pub(crate) fn plain_files(&mut self, git: &Git, root: &Path, folder: &Path, untracked: &mut Vec<PathBuf>) -> Result<()> {
        let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(root.join(&folder)) else {
                self.findings.push(Finding::Unstorable { path: folder, reason: "the folder cannot be read".to_owned() });
                continue;
            };
            let mut below = Vec::new();
            for entry in entries.flatten().filter(|entry| !entry.file_name().eq_ignore_ascii_case(".git")) {
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                below.push((folder.join(entry.file_name()), is_folder));
            }
            let call = git.call(["check-ignore", "-z", "--stdin", "--no-index"]);
            let ignored = ignored(call, below.iter().map(|(path, _)| path))?;
            for (path, is_folder) in below.into_iter().filter(|(path, _)| !ignored.contains(path)) {
                if is_folder { folders.push(path) } else { found.push(path) }
            }
        }
        untracked.extend(found);
        Ok(())
    }

    /// Writes the plan to the index. Files that git cannot store become findings.
    pub(crate) fn apply(&mut self, git: &Git) -> Result<()> {
        if !self.removed.is_empty() {
            let list = nul_terminated(self.removed.iter());
            git.call(["update-index", "-z", "--force-remove", "--stdin"]).stdin(list).ok()?;
        }
        if !self.links.is_empty() {
            let entries =
                self.links.iter().map(|(path, commit)| (path.as_path(), Some((SUBMODULE.to_owned(), commit.clone()))));
            git.call(["update-index", "-z", "--index-info"]).stdin(index_info(&self.links[0].1, entries)).ok()?;
        }
        let mut failed = Vec::new();
        add(git, &self.added, &mut failed)?;
        self.findings.extend(failed);
        Ok(())
    }
}

/// Adds files; if git fails, the list is halved until the files that it cannot store are known.
fn add(git: &Git, paths: &[PathBuf], failed: &mut Vec<Finding>) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let call = git.call(["update-index", "-z", "--add", "--remove", "--replace", "--stdin"]);
    let call = call.stdin(nul_terminated(paths.iter())).time_limit(LONG_TIME_LIMIT);
    let answer = call.answer()?;
    // git skips names that it reserves for its own folder, and still reports success.
    let has_left_out = answer.stderr.lines().any(|line| line.starts_with("Ignoring path "));
    match (answer.code, paths) {
        (Some(0), _) if !has_left_out => Ok(()),
        (Some(0), [path]) => {
            let reason = "git reserves this name for its own folder".to_owned();
            failed.push(Finding::Unstorable { path: path.clone(), reason });
            Ok(())
        }
        (Some(_), [path]) => {
            failed.push(Finding::Unstorable { path: path.clone(), reason: last_reason(&answer.stderr) });
            Ok(())
        }
        (Some(_), many) => {
            let (first, second) = many.split_at(many.len() / 2);
            add(git, first, failed)?;
            add(git, second, failed)
        }
        (None, _) => Err(call.failed(answer)),
    }
}

/// The paths that a call of `check-ignore -z --stdin` reports.
pub(crate) fn ignored<'a>(call: Call<'_>, paths: impl Iterator<Item = &'a PathBuf>) -> Result<BTreeSet<PathBuf>> {
    // With a leading dot, a name is not parsed as a pattern or an option.
    let paths: Vec<PathBuf> = paths.map(|path| Path::new(".").join(path)).collect();
    if paths.is_empty() {
        return Ok(BTreeSet::new());
    }
    let list = nul_terminated(paths.iter());
    let call = call.stdin(list);
    let answer = call.answer()?;
    match answer.code {
        Some(0 | 1) => Ok(fields(&answer.stdout).map(|path| to_path(path.strip_prefix(b"./").unwrap_or(path))).collect()),
        _ => Err(call.failed(answer)),
    }
}

/// The files, relative to a checkout, that git ignores there. Tracked files are not, which is seen without a call of git.
pub fn ignored_in(checkout: &Path, files: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let index = fs::read(checkout.join(".git/index")).unwrap_or_default();
    let unknown = files.iter().filter(|file| !is_listed(&index, file));
    ignored(Git::discovering(checkout).call(["check-ignore", "-z", "--stdin"]), unknown)
}

/// The line with git's error message.
fn last_reason(stderr: &str) -> String {
    let says = |line: &&str| line.starts_with("error: ");
    let line = stderr.lines().find(says).or_else(|| stderr.lines().last()).unwrap_or("git cannot store it");
    line.trim_start_matches("error: ").trim_start_matches("fatal: ").to_owned()
}
