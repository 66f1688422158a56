//! Commits of an agent in its workspace that the store does not have: on branches, stashed, amended, reset away. They
//! are not part of its work, but are preserved.
//!
//! Its git folder is read as files; our git reads its objects with our settings only.

use std::collections::BTreeSet;
use std::fs;

use crate::nested;
use crate::transfer::{missing, transfer};
use crate::{CommitHash, Result, Workspace};

/// Maximum number of the newest reflog lines of HEAD that are read.
const MAX_LINES: usize = 1000;

impl Workspace {
    /// Copies the agent's own commits to the store; returns those that no other of them contains, oldest first. No
    /// reference points to them yet.
    pub fn left_behind(&self) -> Result<Vec<CommitHash>> {
        let Some(git_dir) = nested::git_dir_of(self.root()) else { return Ok(Vec::new()) };
        let mut seen: BTreeSet<CommitHash> =
            nested::tips(&git_dir, &["refs/heads", "refs/stash", "refs/tags"]).into_iter().collect();
        seen.extend(nested::head_of(self.root()));
        let log = fs::read(git_dir.join("logs/HEAD")).unwrap_or_default();
        let lines = log.rsplit(|&byte| byte == b'\n').take(MAX_LINES);
        // The old and the new commit of each move.
        seen.extend(lines.flat_map(|line| line.splitn(3, |&byte| byte == b' ').take(2)).filter_map(hash_of));
        let seen: Vec<CommitHash> = seen.into_iter().collect();
        let unknown = missing(self.store.git(), &seen)?;
        if unknown.is_empty() {
            return Ok(Vec::new());
        }
        let reader = self.store.git().with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", git_dir.join("objects"));
        let list: String = unknown.iter().map(|hash| format!("{hash}\n")).collect();
        let typed = reader.call(["cat-file", "--batch-check=%(objectname) %(objecttype)"]).stdin(list).ok()?;
        let typed = String::from_utf8_lossy(&typed).into_owned();
        let commits: String =
            typed.lines().filter_map(|line| line.strip_suffix(" commit")).map(|hash| format!("{hash}\n")).collect();
        if commits.is_empty() {
            return Ok(Vec::new());
        }
        // Descendants come before their ancestors; damaged commits are left out.
        let call = reader.call(["rev-list", "--ignore-missing", "--parents", "--topo-order", "--reverse", "--stdin"]);
        let known: String = self.store.repository().list_refs("refs")?.iter().map(|(_, hash)| format!("^{hash}\n")).collect();
        let answer = call.stdin(format!("{commits}{known}")).answer()?;
        if answer.code != Some(0) {
            return Ok(Vec::new());
        }
        let listed = String::from_utf8_lossy(&answer.stdout).into_owned();
        let parents: BTreeSet<&str> = listed.lines().flat_map(|line| line.split(' ').skip(1)).collect();
        let ends = listed.lines().filter_map(|line| line.split(' ').next()).filter(|hash| !parents.contains(hash));
        let ends: Vec<CommitHash> = ends.filter_map(|hash| CommitHash::new(hash).ok()).collect();
        let known: Vec<CommitHash> = self.store.repository().list_refs("refs")?.into_iter().map(|(_, hash)| hash).collect();
        let _kept = transfer(&reader, (self.store.git(), self.store.path()), self.store.path(), &ends, &known)?;
        Ok(ends)
    }
}

fn hash_of(word: &[u8]) -> Option<CommitHash> {
    let hash = CommitHash::new(String::from_utf8_lossy(word)).ok()?;
    hash.as_str().bytes().any(|digit| digit != b'0').then_some(hash)
}
