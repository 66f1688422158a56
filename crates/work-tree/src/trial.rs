//! Trying commit after commit in one check-out, with as few calls of git as that takes: searching through a long history
//! is little else.
//!
//! It must never judge files that are not those of the commit: whatever a check leaves is found before the next run. What it
//! has built stays for the next run at the same commit, and for no other.

use std::path::PathBuf;

use tokio::sync::watch;

use crate::check::{CheckEnd, CheckResult, CheckSpec, CheckVerdict, verdict_of};
use crate::git::fields;
use crate::keeper::KeeperId;
use crate::{CommandSpec, CommitHash, End, Error, Result, Store, WorkTree, run};

/// A check-out of the caller's own, for checks alone.
#[derive(Debug)]
pub struct TrialTree {
    store: Store,
    path: PathBuf,
    /// Open, with this commit checked out and nothing beside it but ignored files of its own; none if that is not known.
    ready: Option<(WorkTree, CommitHash)>,
}

/// What lies in the worktree after a check.
struct Left {
    /// What of the tracked state differs, in words.
    tampered: Option<String>,
    clean: bool,
}

impl TrialTree {
    /// The check-out at a path; nothing is made before it is needed.
    #[must_use]
    pub fn new(store: Store, path: PathBuf) -> Self {
        Self { store, path, ready: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Checks a commit out.
    fn bring_to(&mut self, commit: &CommitHash) -> Result<WorkTree> {
        if let Some((tree, at)) = self.ready.take()
            && tree.root().is_dir()
            && (at == *commit || tree.move_to(&at, commit).unwrap_or(false))
        {
            return Ok(tree);
        }
        let tree = self.store.check_out(&self.path, commit)?;
        tree.remove_untracked()?;
        Ok(tree)
    }

    /// Runs a check at a commit, as [`run_check`] does in a worktree that is there already.
    ///
    /// # Errors
    /// If git cannot check the commit out, or tell what the check has changed.
    ///
    /// [`run_check`]: crate::check::run_check
    pub async fn run_check(
        &mut self,
        spec: &CheckSpec,
        commit: &CommitHash,
        cancel: &mut watch::Receiver<bool>,
        on_keeper: impl FnOnce(KeeperId),
    ) -> Result<CheckResult> {
        // git is waited for elsewhere: other checks run on this thread meanwhile.
        let mut own = Self { store: self.store.clone(), path: self.path.clone(), ready: self.ready.take() };
        let target = commit.clone();
        let tree = blocking(move || own.bring_to(&target)).await?;
        let mut command = CommandSpec::new(spec.argv.iter().map(std::ffi::OsString::from), tree.root());
        command.env.clone_from(&spec.env);
        command.env.push(("CHECK_NAME".to_owned(), std::ffi::OsString::from(&spec.name)));
        command.timeout = spec.timeout;
        command.nice = spec.nice;
        command.log_path.clone_from(&spec.log_path);
        command.output_bytes = spec.output_bytes;
        let outcome = run(&command, cancel, on_keeper).await;
        let (mut end, mut verdict) = verdict_of(spec, &outcome);
        let (looked, target) = (tree.clone(), commit.clone());
        let left = blocking(move || {
            let left = left_of(&looked, &target)?;
            if !left.clean {
                looked.detach_at(&target)?;
            }
            if left.tampered.is_some() {
                // What was built of other files.
                looked.remove_untracked()?;
            }
            Ok(left)
        })
        .await?;
        if let (CheckVerdict::Pass, Some(what)) = (&verdict, left.tampered) {
            verdict = CheckVerdict::Fail(format!("check {} changed {what}", spec.name));
            end = CheckEnd::ChangedFiles;
        }
        self.ready = Some((tree, commit.clone()));
        Ok(CheckResult {
            verdict,
            end,
            exit_code: if let End::Exited(code) = outcome.end { Some(code) } else { None },
            duration: outcome.duration,
            output_sha256: outcome.output_sha256,
            output_tail: outcome.tail,
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::io("wait for git in", std::path::Path::new("."))(std::io::Error::other(error))),
    }
}

/// What differs from the commit, in one call.
fn left_of(tree: &WorkTree, commit: &CommitHash) -> Result<Left> {
    let stdout = tree.status()?;
    let (mut tracked, mut clean, mut at) = (Vec::new(), true, None);
    for entry in fields(&stdout) {
        let text = String::from_utf8_lossy(entry);
        if let Some(head) = text.strip_prefix("# branch.oid ") {
            at = Some(head.to_owned());
        } else if let Some(branch) = text.strip_prefix("# branch.head ") {
            clean &= branch == "(detached)";
        } else if !text.starts_with('#') {
            clean = false;
            // Changed entries have eight fields before the path, unmerged ones ten.
            let before = match text.as_bytes().first() {
                Some(b'1') => 8,
                Some(b'u') => 10,
                _ => continue,
            };
            // What the check has only added to the index was not tracked at the commit.
            if !text.starts_with("1 A") {
                tracked.extend(text.splitn(before + 1, ' ').nth(before).map(str::to_owned));
            }
        }
    }
    let moved = at.as_deref() != Some(commit.as_str());
    let tampered = if moved {
        Some("the commit that it was to judge".to_owned())
    } else {
        (!tracked.is_empty()).then(|| format!("tracked files: {}", tracked.join(", ")))
    };
    Ok(Left { tampered, clean: clean && !moved })
}
