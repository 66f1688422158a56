//! Landing for loops that are driven by hand: the same gate, the same integration.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use coord_db::{Config, Database, ErrorCategory, LandingState, LeasePath, LoopId, TestId, TestStatus};
use git::{CommitHash, Layout, Updated, Workspace};
use tokio::sync::watch;

use crate::context::{Attempt, Context};
use crate::control::Waiter;
use crate::end::End;
use crate::train::Train;
use crate::{Error, Result, attempt, process};

/// The result of a submitted test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// The work is verified and on the integration branch.
    Passed {
        /// The commit.
        commit: CommitHash,
    },
    /// The work has not landed; it is saved under a reference.
    Failed {
        /// The new status of the test.
        status: TestStatus,
        /// The failure category.
        category: ErrorCategory,
        /// The reason.
        message: String,
    },
    /// The work is verified alone and waits to land; another process lands it.
    Queued,
    /// An order (pause, release, rollback) arrived meanwhile; the test was given back.
    GivenBack {
        /// The reason.
        reason: String,
    },
}

/// The workspace of a loop that is driven by hand. It is brought to the head of integration, unless it contains work
/// that has not landed.
///
/// A new workspace is set up; returns the reason if that failed.
pub fn prepare_workspace(db: &Database, config: &Config, loop_id: &LoopId) -> Result<(PathBuf, Option<String>)> {
    let context = Context::new(db, config, loop_id.clone(), false)?;
    let workspace = context.workspace()?;
    context.recover(Some(&workspace))?;
    context.publish();
    let work = context.see_work(&workspace, config.landing.file_bytes)?;
    let head = context.integration_head()?;
    let landed = git::PutOn::Tree(context.history().tree_of(&head)?);
    if work.findings.is_empty() && context.store.put_on(&work.change, &head)? == landed {
        workspace.left_behind()?;
        context.restore(&workspace, &head)?;
        let problem = context.make_ready_by_hand(&workspace, &head)?;
        return Ok((workspace.root().to_owned(), problem));
    }
    Ok((workspace.root().to_owned(), None))
}

/// What others have landed in the files that an agent has leased.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BroughtUp {
    /// Files that were updated to the landed version.
    pub updated: Vec<PathBuf>,
    /// Files that the agent has changed too: they are unchanged, and are merged when the work lands.
    pub kept: Vec<PathBuf>,
    /// What others have changed in all of these, as a patch; empty if unknown.
    pub patch: String,
}

/// Updates leased and unchanged files, or all files below leased folders, to the landed version, so that the agent
/// works on the present state.
///
/// For an agent in a sandbox its loop does this; the function waits until the loop has done so for the lease with this
/// token.
pub fn bring_up_to_date(
    db: &Database,
    config: &Config,
    loop_id: &LoopId,
    paths: &[LeasePath],
    token: i64,
) -> Result<BroughtUp> {
    let layout = Layout::new(config.workspace_root());
    // Nothing has landed since, as almost always.
    if layout.is_at_head(loop_id.as_str(), &config.repository.integration_branch) {
        return Ok(BroughtUp::default());
    }
    let Ok(store) = layout.open_store() else { return Ok(BroughtUp::default()) };
    let row = db.read(|tx| tx.loop_row(loop_id))?;
    let branch = row.branch.unwrap_or_else(|| format!("coding-loops/{loop_id}"));
    let workspace = Workspace::open(&store, &layout.workspace(loop_id.as_str(), &branch))?;
    let (Some(workspace), Some(head), Some(_)) = (workspace, store.integration()?, row.current_test_id) else {
        return Ok(BroughtUp::default());
    };
    if workspace.base()? == head {
        return Ok(BroughtUp::default());
    }
    let files: Vec<PathBuf> = paths.iter().map(|path| PathBuf::from(path.as_str())).collect();
    match workspace.update_paths(&files, &head) {
        Err(git::Error::Io { source, .. }) if source.kind() == ErrorKind::ReadOnlyFilesystem => {
            let updated = await_served(&served_note(&layout, loop_id), token).ok_or_else(|| {
                Error::Waiting(format!("loop {loop_id} has not updated the files within {} s", SERVED_LIMIT.as_secs()))
            })?;
            Ok(BroughtUp { updated, ..BroughtUp::default() })
        }
        Err(error) => Err(error.into()),
        Ok(Updated { updated, kept, trees }) => {
            let moved = [updated.as_slice(), kept.as_slice()].concat();
            let patch = match trees {
                Some((before, after)) if !moved.is_empty() => store.repository().patch(&before, &after, &moved)?,
                _ => String::new(),
            };
            Ok(BroughtUp { updated, kept, patch })
        }
    }
}

/// Maximum time that an agent waits until its loop has updated files.
const SERVED_LIMIT: Duration = Duration::from_secs(30);

/// The file in which a loop records the newest lease of its agent whose files it has updated, and the updated files;
/// separated by NUL.
pub(crate) fn served_note(layout: &Layout, loop_id: &LoopId) -> PathBuf {
    layout.states().join(loop_id.as_str()).join("served")
}

fn await_served(note: &Path, token: i64) -> Option<Vec<PathBuf>> {
    const PAUSE: Duration = Duration::from_millis(20);
    let until = Instant::now() + SERVED_LIMIT;
    loop {
        let text = std::fs::read(note).unwrap_or_default();
        let mut words = text.split(|&byte| byte == 0);
        let served = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse::<i64>().ok());
        if served.is_some_and(|served| served >= token) {
            return Some(words.map(|word| PathBuf::from(OsStr::from_bytes(word))).collect());
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Creates a checkpoint of the workspace for an attempt by hand.
pub fn checkpoint(db: &Database, config: &Config, test: &TestId) -> Result<()> {
    let test = db.read(|tx| tx.test(test))?;
    let context = Context::new(db, config, test.loop_id.clone(), false)?;
    let workspace = context.workspace()?;
    let (base, change) = (workspace.base()?, context.see_work(&workspace, config.landing.file_bytes)?.change);
    let commit = if change.paths.is_empty() {
        base
    } else {
        context.store.commit(&change.tree, &[&base], "before an attempt by hand", &[])?
    };
    context.make_checkpoint(&test, &commit)?;
    Ok(())
}

/// Obeys the orders for a loop that is driven by hand. Returns the reason of each order that was obeyed, or why it
/// could not be obeyed.
pub fn obey_by_hand(db: &Database, config: &Config, loop_id: &LoopId) -> Result<Vec<std::result::Result<String, String>>> {
    let context = Context::new(db, config, loop_id.clone(), false)?;
    context.recover(None)?;
    let mut obeyed = Vec::new();
    while let Some(interrupt) = context.orders(None)? {
        let test = match db.read(|tx| tx.loop_row(loop_id))?.current_test_id {
            Some(test) => Some(db.read(|tx| tx.test(&test))?).filter(|test| test.status == TestStatus::InProgress),
            None => None,
        };
        let attempt = test.map(|test| by_hand(&context, test)).transpose()?;
        obeyed.push(context.obey(&interrupt, attempt.as_ref())?.map_or(Ok(interrupt.reason), Err));
    }
    Ok(obeyed)
}

impl Context<'_> {
    /// Waits until queued work has landed or was given back. If no other process judges, this one does.
    async fn await_landing(&self, id: &str, attempt: &Attempt, waiter: &mut Waiter) -> Result<SubmitOutcome> {
        let train = Train::new(self);
        let (halt, halted) = watch::channel(false);
        let mut judging = pin!(train.run(halted));
        let landing = loop {
            // The lease on integration too, if this process judges.
            waiter.beat(self, Some(attempt));
            waiter.looked(self);
            match self.db.read(|tx| tx.landing(id))? {
                Some(landing) if landing.ended_at.is_some() => break Some(landing),
                _ if waiter.stopping() => break None,
                _ => {}
            }
            tokio::select! {
                () = &mut judging => break None,
                () = waiter.wait(self, Duration::from_secs(1)) => {}
            }
        };
        halt.send_replace(true);
        judging.await;
        let Some(landing) = landing else { return Ok(SubmitOutcome::Queued) };
        let test = self.db.read(|tx| tx.test(&attempt.test.id))?;
        Ok(match (landing.state, test.commit_hash.as_deref().map(CommitHash::new)) {
            (LandingState::Landed, Some(Ok(commit))) => {
                // Its content has landed, so it is known and not saved again.
                let reset = attempt.workspace.left_behind().map_err(Error::from);
                let reason = "written while the work was landed";
                if let Err(error) =
                    reset.and_then(|_| self.save_work(&attempt.workspace, Some(&test.id), Some(&commit), reason))
                {
                    tracing::debug!(%error, "cannot reset the workspace now; it is reset before the next attempt");
                }
                SubmitOutcome::Passed { commit }
            }
            (LandingState::Returned, _) => SubmitOutcome::Failed {
                status: test.status,
                category: test.error_category.unwrap_or(ErrorCategory::Conflict),
                message: test.last_error.unwrap_or_default(),
            },
            _ => SubmitOutcome::GivenBack { reason: landing.reason.unwrap_or_else(|| "the work was withdrawn".to_owned()) },
        })
    }
}

/// The attempt at a test in progress, in its workspace.
fn by_hand(context: &Context<'_>, test: coord_db::Test) -> Result<Attempt> {
    let workspace = context.workspace()?;
    let base = workspace.base()?;
    let begun = context.db.read(|tx| tx.checkpoints(Some(&context.loop_id), false))?.into_iter().find(|checkpoint| {
        checkpoint.test_id.as_ref() == Some(&test.id) && checkpoint.checkpoint_type == coord_db::CheckpointType::Branch
    });
    let checkpoint_ref = begun.map_or_else(|| context.store.integration_ref().to_owned(), |checkpoint| checkpoint.git_ref);
    Ok(Attempt { changed: true, ..Attempt::new(test, workspace, base, checkpoint_ref) })
}

/// Gates, integrates and records the work on the current test of a loop that is driven by hand.
///
/// # Errors
/// [`coord_db::Error::Refused`] if the test is not in progress.
pub async fn submit(db: &Database, config: &Config, test: &TestId, stop: watch::Receiver<bool>) -> Result<SubmitOutcome> {
    let test = db.read(|tx| tx.test(test))?;
    let context = Context::new(db, config, test.loop_id.clone(), false)?;
    if test.status != TestStatus::InProgress {
        // An earlier submit may have been killed before it published.
        context.publish();
        let text =
            format!("test {} is {}, not in progress; claim it with loopctl next --loop {}", test.id, test.status, test.loop_id);
        return Err(coord_db::Error::Refused(text).into());
    }
    context.recover(None)?;
    context.recover_train()?;
    context.settle_queued_refs()?;
    let now = db.read(|tx| tx.test(&test.id))?;
    if let (TestStatus::Passed, Some(Ok(commit))) = (now.status, now.commit_hash.map(CommitHash::new)) {
        // An earlier submit was killed between landing and recording.
        context.publish();
        return Ok(SubmitOutcome::Passed { commit });
    }
    let mut attempt = by_hand(&context, test)?;
    let mut waiter = Waiter::new(&context, stop);
    // An earlier submit may have been killed after it queued the work.
    if let Some(landing) = db.read(|tx| tx.open_landing(&attempt.test.id))? {
        return context.await_landing(&landing.id, &attempt, &mut waiter).await;
    }
    let end = context.carry_out(attempt::Attempt::submitted(), &mut attempt, &mut waiter).await;
    let outcome = match &end {
        End::Queued(landing) => return context.await_landing(landing, &attempt, &mut waiter).await,
        End::Interrupted(interrupt) => SubmitOutcome::GivenBack { reason: interrupt.reason.clone() },
        End::Failed(why) => {
            SubmitOutcome::Failed { status: TestStatus::Pending, category: why.category, message: why.message.clone() }
        }
        End::Unchanged => SubmitOutcome::Failed {
            status: TestStatus::Pending,
            category: ErrorCategory::Human,
            message: "nothing was changed; answer the question about it (loopctl decisions)".to_owned(),
        },
        End::SetUpFailed(reason) => {
            SubmitOutcome::Failed { status: TestStatus::Pending, category: ErrorCategory::Human, message: reason.clone() }
        }
        End::GreenBefore(check) => SubmitOutcome::Failed {
            status: TestStatus::Pending,
            category: ErrorCategory::Human,
            message: format!("check {check} passes before the work; answer the question about it (loopctl decisions)"),
        },
        End::Moot(reason) => {
            SubmitOutcome::Failed { status: TestStatus::Skipped, category: ErrorCategory::Permanent, message: reason.clone() }
        }
        End::Trouble(trouble) => SubmitOutcome::Failed {
            status: TestStatus::Pending,
            category: ErrorCategory::Human,
            message: trouble.reason.clone(),
        },
    };
    process::finish(&context, &attempt, &end)?;
    Ok(match outcome {
        SubmitOutcome::Failed { category, message, .. } => {
            let status = db.read(|tx| tx.test(&attempt.test.id))?.status;
            SubmitOutcome::Failed { status, category, message }
        }
        other => other,
    })
}
