//! Tries one commit after another in a check-out with a minimum of git calls, which dominate the search through a long
//! history.
//!
//! It must never judge files that are not those of the commit: all changes of a check are found before the next run.
//! Build results stay for the next run at the same commit, and for no other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::check::{CheckEnd, CheckResult, CheckSpec, CheckVerdict, result_of, undo};
use crate::submodules::Files;
use crate::{CommitHash, Error, Ready, Repository, Result, SetUp, Store, WorkTree, looks_like_network};
use command_runner::keeper::KeeperId;
use command_runner::run;

/// A check-out of the caller, used only for checks.
#[derive(Debug)]
pub struct TrialTree {
    store: Store,
    path: PathBuf,
    /// The store's settings, branches and tags may have changed since they were copied.
    is_outdated: bool,
    /// The preparation before a check.
    readying: Option<Arc<Readying>>,
    /// The check-out with this commit and no other files except its ignored ones; none if unknown.
    ready: Option<(WorkTree, CommitHash)>,
}

/// The preparation of a check-out.
#[derive(Debug)]
struct Readying {
    ready: Ready,
    user: Option<Repository>,
    own: String,
}

/// The changes left by a check.
struct Left {
    /// A description of changed tracked files.
    tampered: Option<String>,
    /// The files were restored to those of the commit.
    is_in_place: bool,
}

impl TrialTree {
    /// A check-out at a path; it is created when needed.
    #[must_use]
    pub fn new(store: Store, path: PathBuf) -> Self {
        Self { store, path, is_outdated: false, readying: None, ready: None }
    }

    /// Sets the preparation before each check. Ignored files are copied from the checkout of `user`, except from its
    /// folder `own`.
    pub fn make_ready_by(&mut self, ready: Ready, user: Option<Repository>, own: String) {
        self.readying = Some(Arc::new(Readying { ready, user, own }));
    }

    /// Makes the next run copy the store's settings, branches and tags, as [`Store::check_out`] does.
    pub fn mark_outdated(&mut self) {
        self.is_outdated = true;
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Checks a commit out.
    fn bring_to(&mut self, commit: &CommitHash) -> Result<WorkTree> {
        let folder = self.store.check_out_folder(&self.path)?;
        let kept = self.readying.as_ref().map(|by| by.ready.kept(&folder, self.store.git(), commit)).unwrap_or_default();
        if let Some((tree, at)) = self.ready.take()
            && tree.is_in_place()
            && (!self.is_outdated || !self.store.refresh_check_out(&tree)?)
            && (at == *commit || tree.move_to(&at, commit, &kept).unwrap_or(false))
            && tree.renew_git().is_ok()
            && tree.fill_submodules(commit, if at == *commit { Files::Reset } else { Files::Clean }).is_ok()
        {
            return Ok(tree);
        }
        self.store.check_out_with_caches(&self.path, commit, &kept)
    }

    /// Runs a check at a commit, like [`run_check`] in an existing check-out.
    ///
    /// # Errors
    /// If git cannot check out the commit or compare the files.
    ///
    /// [`run_check`]: crate::check::run_check
    pub async fn run_check(
        &mut self,
        spec: &CheckSpec,
        commit: &CommitHash,
        cancel: &mut watch::Receiver<bool>,
        on_keeper: impl Fn(KeeperId),
    ) -> Result<CheckResult> {
        // git runs on another thread, so that other checks can run on this one.
        let (store, path) = (self.store.clone(), self.path.clone());
        let readying = self.readying.clone();
        let mut own = Self { store, path, is_outdated: self.is_outdated, readying: readying.clone(), ready: self.ready.take() };
        let target = commit.clone();
        let tree = blocking(move || own.bring_to(&target)).await?;
        self.is_outdated = false;
        if let Some(by) = readying {
            let source = (by.user.as_ref(), by.own.as_str());
            match by.ready.make(&tree.folder(), commit, source, cancel, &on_keeper).await? {
                SetUp::Ready(false) => {}
                SetUp::Ready(true) => {
                    let (tree, target) = (tree.clone(), commit.clone());
                    blocking(move || tree.settle_set_up(&target)).await?;
                }
                SetUp::Failed { why, tail } => return Ok(not_set_up(why, tail)),
                SetUp::Cancelled => {
                    return Ok(CheckResult { verdict: CheckVerdict::Cancelled, ..not_set_up(String::new(), String::new()) });
                }
            }
        }
        let outcome = run(&spec.command(tree.root()), cancel, on_keeper).await;
        let (looked, target) = (tree.clone(), commit.clone());
        let left = blocking(move || left_of(&looked, &target)).await?;
        // If the folder is missing, the state of the files is unknown.
        self.ready = left.is_in_place.then(|| (tree, commit.clone()));
        Ok(result_of(spec, outcome, left.tampered))
    }
}

/// The result of a check that did not run because its set-up failed.
fn not_set_up(why: String, tail: String) -> CheckResult {
    let is_network = looks_like_network(&tail);
    CheckResult {
        verdict: if is_network { CheckVerdict::Error(why) } else { CheckVerdict::Fail(why) },
        end: if is_network { CheckEnd::NotStarted } else { CheckEnd::Failed },
        exit_code: None,
        duration: Duration::ZERO,
        output_sha256: String::new(),
        output_tail: tail,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::io("wait for git in", std::path::Path::new("."))(std::io::Error::other(error))),
    }
}

/// Undoes the changes of a check, and removes its build results if it has changed tracked files.
fn left_of(tree: &WorkTree, commit: &CommitHash) -> Result<Left> {
    if !tree.is_in_place() {
        return Ok(Left { tampered: Some("the folder that it ran in".to_owned()), is_in_place: false });
    }
    let tampered = undo(tree, commit, true)?;
    if tampered.is_some() {
        // The build results belong to other files.
        tree.remove_untracked()?;
    }
    Ok(Left { tampered, is_in_place: true })
}
