//! Runs the checks of the gate on unfinished work, for the agent that works on it. The result proves nothing: the gate
//! runs the checks again.
//!
//! It runs beside the process that drives the loop, in the check-out of the loop's gate, which is free while the agent
//! works.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::time::Instant;

use coord_db::payload::WorkChecked;
use coord_db::{Config, Database, LoopId, Test};
use git::check::CheckVerdict;
use git::{CommitHash, Layout, PutOn, Workspace, shown};
use tokio::sync::watch;

use crate::attempt::Input;
use crate::context::{Attempt, Context};
use crate::control::Waiter;
use crate::end::{End, Step, Stop};
use crate::{Error, Result};

/// The result of checks on unfinished work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// Nothing has changed since the attempt began.
    Unchanged,
    /// These checks pass.
    Passed(Vec<String>),
    /// The work would not land.
    Failed {
        /// The check that fails; none if something else prevents landing.
        check: Option<String>,
        /// The reason.
        why: String,
        /// The end of the output.
        output: String,
        /// The checks that were not run.
        not_run: Vec<String>,
    },
    /// The caller has stopped it.
    Stopped,
}

impl Checked {
    fn failed(why: impl Into<String>) -> Self {
        Self::Failed { check: None, why: why.into(), output: String::new(), not_run: Vec::new() }
    }
}

/// Runs the checks of the gate on the files of a loop's workspace, until one fails. `running` receives the name of each.
///
/// With the `session` of an agent that wants to end its work: files that have passed before do not run again, and a
/// failure is recorded as a reason to send it back.
///
/// # Errors
/// [`coord_db::Error::Refused`] if the loop works on no test; [`Error::Waiting`] if other checks of the loop are running.
pub async fn check_work(
    db: &Database,
    config: &Config,
    loop_id: &LoopId,
    session: Option<&str>,
    stop: watch::Receiver<bool>,
    running: impl FnMut(&str),
) -> Result<Checked> {
    let row = db.read(|tx| tx.loop_row(loop_id))?;
    let Some(test) = row.current_test_id else {
        return Err(coord_db::Error::Refused(format!("loop {loop_id} works on no test; there is nothing to check")).into());
    };
    let test = db.read(|tx| tx.test(&test))?;
    let _lock = lock(&Layout::new(config.workspace_root()), loop_id)?;
    let context = Context { takes_orders: false, ..Context::new(db, config, loop_id.clone(), false)? };
    let Some(workspace) = Workspace::open(&context.store, &context.workspace_spec()?)? else {
        return Err(Error::SetUp(format!("loop {loop_id} has no workspace")));
    };
    let base = workspace.base()?;
    let mut attempt = Attempt::new(test, workspace, base, String::new());
    // What the agent has leased is not leased again for a check, and not released after it.
    let held = db.read(|tx| tx.leases_of(loop_id.as_str()))?;
    attempt.tokens = held.into_iter().map(|lease| (lease.file_path, lease.fencing_token)).collect();
    let mut waiter = Waiter::new(&context, stop);
    let begun = Instant::now();
    let mut tree = None;
    let checked = match context.check(&mut attempt, session.is_some(), &mut tree, &mut waiter, running).await {
        Ok(checked) => checked,
        Err(Stop::End(End::Interrupted(_))) => Checked::Stopped,
        Err(Stop::End(End::Failed(why))) => Checked::failed(why.message),
        Err(Stop::End(End::SetUpFailed(why))) => Checked::failed(format!("the set-up fails without this work too: {why}")),
        Err(Stop::End(_)) => Checked::failed("the work cannot be checked"),
        Err(Stop::Error(error)) => return Err(error),
    };
    for (request, _) in &attempt.waiting {
        db.write(|tx| tx.withdraw_request(request))?;
    }
    if let Some(tree) = tree {
        record(db, &attempt.test, &checked, tree, session, begun)?;
    }
    Ok(checked)
}

/// Two runs would use one check-out.
fn lock(layout: &Layout, loop_id: &LoopId) -> Result<File> {
    let folder = layout.states().join(loop_id.as_str());
    let path = folder.join("check.lock");
    let opened = fs::create_dir_all(&folder).and_then(|()| File::options().create(true).append(true).open(&path));
    let file = opened.map_err(|error| match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            Error::SetUp("checks cannot run in the sandbox of the agent; they run when it has ended".to_owned())
        }
        _ => Error::io(format!("cannot open {}", path.display()), error),
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::Waiting(format!("checks of loop {loop_id} are running already; check again when they have ended")))
        }
        Err(TryLockError::Error(error)) => Err(Error::io(format!("cannot lock {}", path.display()), error)),
    }
}

fn record(
    db: &Database,
    test: &Test,
    checked: &Checked,
    tree: CommitHash,
    session: Option<&str>,
    begun: Instant,
) -> Result<()> {
    let (passed, check, why) = match checked {
        Checked::Passed(_) => (true, None, None),
        Checked::Failed { check, why, .. } => (false, check.clone(), Some(why.clone())),
        Checked::Unchanged | Checked::Stopped => return Ok(()),
    };
    let checked = WorkChecked {
        test_id: test.id.clone(),
        loop_id: test.loop_id.clone(),
        attempt: test.attempts,
        tree: tree.to_string(),
        passed,
        check,
        why,
        session: session.filter(|_| !passed).map(str::to_owned),
        seconds: i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX),
    };
    Ok(db.write(|tx| tx.record_work_check(checked))?)
}

impl Context<'_> {
    /// Checks the work of an attempt as it would land now. `tree` receives its files, once they are known.
    async fn check(
        &self,
        attempt: &mut Attempt,
        may_reuse: bool,
        tree: &mut Option<CommitHash>,
        waiter: &mut Waiter,
        mut running: impl FnMut(&str),
    ) -> Step<Checked> {
        if let Some(why) = self.unverifiable(&attempt.test) {
            return Ok(Checked::failed(why.message));
        }
        let problem = match self.look(attempt) {
            Ok(Input::NothingChanged) => return Ok(Checked::Unchanged),
            Ok(_) => None,
            Err(Stop::End(End::Failed(why))) => Some(why.message),
            Err(stop) => return Err(stop),
        };
        let Some(work) = attempt.work.clone() else {
            *tree = Some(self.history().tree_of(&attempt.base)?);
            return Ok(Checked::failed(problem.unwrap_or_default()));
        };
        let head = self.integration_head()?;
        let files = match self.store.put_on(&work.change, &head)? {
            PutOn::Tree(files) => files,
            PutOn::Conflict(paths) => {
                *tree = Some(work.change.tree);
                let paths: Vec<String> = paths.iter().map(|path| shown(path)).collect();
                return Ok(Checked::failed(format!(
                    "others have landed changes that conflict with this work in {}; lease these files to see the changes, \
                     and include them",
                    paths.join(", ")
                )));
            }
        };
        *tree = Some(files.clone());
        let test = attempt.test.clone();
        if may_reuse {
            let before = self.db.read(|tx| tx.work_checks(&test.id))?;
            if before.last().is_some_and(|last| last.passed && last.tree == files.as_str()) {
                *tree = None;
                return Ok(Checked::Passed(Vec::new()));
            }
        }
        let commit = self.store.commit(&files, &[&head], "unfinished work", &[])?;
        let problems = self.misnumbered(Some(&commit))?;
        if !problems.is_empty() {
            return Ok(Checked::failed(problems.join("; ")));
        }
        let base_tree = self.history().tree_of(&head)?;
        let checks = self.touched(&test, (&head, &commit), (base_tree.as_str(), files.as_str()))?;
        let ignored = self.db.read(|tx| tx.ignored_checks())?;
        let worktree = self.gate_check_out(&commit)?;
        self.make_gate_ready(&worktree, &commit, &head, Some(attempt), waiter).await?;
        let mut passed = Vec::new();
        for (at, check) in checks.iter().enumerate() {
            running(&check.name);
            let (result, _) = self.run_for(check, &self.check_spec(check, &test)?, attempt, &worktree, waiter).await?;
            match result.verdict {
                CheckVerdict::Pass => passed.push(check.name.clone()),
                CheckVerdict::Cancelled => return Ok(Checked::Stopped),
                CheckVerdict::Fail(_) if ignored.iter().any(|ignored| ignored.check_name == check.name) => {
                    passed.push(format!(
                        "{} (fails, and is ignored while it fails without this work in the same way)",
                        check.name
                    ));
                }
                CheckVerdict::Fail(why) | CheckVerdict::Error(why) => {
                    let not_run = checks[at + 1..].iter().map(|check| check.name.clone()).collect();
                    let (check, output) = (Some(check.name.clone()), result.output_tail);
                    return Ok(Checked::Failed { check, why, output, not_run });
                }
            }
        }
        Ok(Checked::Passed(passed))
    }
}
