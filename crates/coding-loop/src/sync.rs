//! Brings in the user's new commits: `[repository] follow` is merged with integration, judged, and integration moves to
//! the result. It is a landing like any other, for no test.
//!
//! One process at a time does it, under the lease `git:sync`; integration moves under `git:integration`. Nothing stays
//! half done: a conflict or a failing check becomes a question to the human.

use std::time::Duration;

use coord_db::payload::Synced;
use coord_db::process::ProcessIdentity;
use coord_db::{Acquire, ActorId, Config, Database, ErrorCategory, LeasePath, LoopId, NewEvent, UnlockCause, Waiting, WriteTx};
use crash_point::{Point, reach};
use git::{CommitHash, FollowStep, Incoming};
use serde_json::Value;
use tokio::sync::watch;

use crate::context::Context;
use crate::control::Waiter;
use crate::end::{End, Step, Stop, error_of};
use crate::followed::{SyncOutcome, followed_branch};
use crate::memory::{Following, stamps};
use crate::operation::{Operation, Sync, SyncLanding};
use crate::sync_gate::Verdict;
use crate::sync_question::{Standing, Trouble};
use crate::{Error, Result};

/// Maximum number of moves of integration during a sync; from the second on it is judged while holding the lease.
const MAX_ROUNDS: u32 = 5;
/// Maximum time in seconds to wait for the lease for moving integration.
const TURN_SECONDS: i64 = 3600;
/// Interval at which the end of another sync is checked.
const LOOK: Duration = Duration::from_secs(1);
/// Maximum number of commit subjects in a merge message.
const MAX_SUBJECTS: usize = 20;

/// The lease of the process that brings commits in.
fn sync_lease() -> Result<LeasePath> {
    Ok("git:sync".parse()?)
}

/// Brings in the user's new commits for a command of the human: this process judges and lands them itself, beside any
/// loops.
///
/// # Errors
/// If the branch does not exist, the checks cannot run, or `stop` becomes true.
pub async fn sync(db: &Database, config: &Config, stop: watch::Receiver<bool>) -> Result<SyncOutcome> {
    let context = Context::new(db, config, LoopId::human(), false)?;
    context.recover(None)?;
    context.refresh().await?;
    context.publish();
    let mut waiter = Waiter::new(&context, stop);
    Ok(context.bring_in(&mut waiter, true).await.map_err(error_of)?.unwrap_or(SyncOutcome::Left))
}

impl Context<'_> {
    /// True for a command of the human and for the landing train: they receive no orders and have no workspace.
    pub(crate) fn has_no_loop(&self) -> bool {
        self.loop_id.is_no_loop()
    }

    /// Between tests: applies answers, and brings in new commits if configured. True if integration or the queue has
    /// changed.
    pub(crate) async fn follow_between_tests(&self, waiter: &mut Waiter) -> Result<bool> {
        self.settle_sync_answer()?;
        if !self.config.repository.follow_automatically {
            return Ok(false);
        }
        let now = stamps(self.user.common_dir(), &self.config.repository.follow);
        let follow = &self.config.repository.follow;
        if self.following.borrow().settled.as_ref() == Some(&now) && !self.may_follow_again(follow)? {
            return Ok(false);
        }
        let (has_landed, is_settled) = match self.bring_in(waiter, false).await {
            Ok(Some(SyncOutcome::Landed { .. })) => (true, true),
            // Another process is doing it; tried again later.
            Ok(None) => (false, false),
            Ok(Some(_)) => (false, true),
            // The next turn obeys the order.
            Err(Stop::End(End::Interrupted(_))) => (true, false),
            Err(stop) => {
                let error = error_of(stop);
                if error.is_temporary() {
                    return Err(error);
                }
                let (branch, why) = (&self.config.repository.follow, coord_db::error_chain(&error));
                tracing::warn!(branch, why, "cannot bring in the new commits of the branch; loopctl sync tries it again");
                (false, true)
            }
        };
        // The landing train of this process may have waited for it.
        self.news.queued.notify_one();
        let asked = self.open_sync_question(follow)?;
        *self.following.borrow_mut() = Following { settled: is_settled.then_some(now), asked };
        Ok(has_landed)
    }

    /// True if the question that was open when the branch was looked at last is closed: it may have been another machine's, which
    /// comes first.
    fn may_follow_again(&self, branch: &str) -> Result<bool> {
        let asked = self.following.borrow().asked.clone();
        Ok(self.store.remote().is_some() && asked.is_some() && self.open_sync_question(branch)? != asked)
    }

    /// Brings in new commits. None if another process is doing it; a command waits for that.
    async fn bring_in(&self, waiter: &mut Waiter, by_hand: bool) -> Step<Option<SyncOutcome>> {
        let branch = followed_branch(self.config, &self.user)?;
        let theirs = self.user.commit(&format!("refs/heads/{branch}"))?;
        let Some(ours) = self.store.integration()? else { return Ok(Some(SyncOutcome::NotStarted { branch })) };
        let is_known = self.store.missing(std::slice::from_ref(&theirs))?.is_empty();
        if is_known && self.history().is_ancestor(&theirs, &ours)? {
            // A branch that was only reset may continue from there; its earlier head is the reference then.
            let last = self.store.followed(&branch)?;
            if last.map_or(Ok(true), |last| self.history().is_ancestor(&last, &theirs))? {
                self.store.note_followed(&branch, &theirs)?;
            }
            self.close_sync_question(&branch)?;
            return Ok(Some(SyncOutcome::UpToDate { branch, theirs }));
        }
        match self.sync_standing(&branch, &theirs)? {
            Standing::Free => {}
            Standing::Test(test) => return Ok(Some(SyncOutcome::Queued { test })),
            Standing::Asked | Standing::Left if by_hand => {}
            Standing::Asked | Standing::Left => return Ok(Some(SyncOutcome::Left)),
        }
        let entry = loop {
            waiter.looked(self);
            match self.begin_sync(&branch)? {
                Some(entry) => break entry,
                None if !by_hand => return Ok(None),
                None => {
                    self.check_interrupt(None, waiter)?;
                    waiter.wait(self, LOOK).await;
                }
            }
        };
        reach(Point::SyncBegun);
        let outcome = self.bring_in_under_lease(&entry, &branch, &theirs, waiter).await;
        if !matches!(outcome, Ok(SyncOutcome::Landed { .. })) {
            self.end_sync(&entry)?;
        }
        outcome.map(Some)
    }

    async fn bring_in_under_lease(
        &self,
        entry: &str,
        branch: &str,
        theirs: &CommitHash,
        waiter: &mut Waiter,
    ) -> Step<SyncOutcome> {
        let last = self.store.followed(branch)?;
        self.store.fetch_from_user(&self.user, theirs.as_str())?;
        self.store.refresh_settings(&self.user)?;
        reach(Point::SyncFetched);
        let mut judged: Option<(CommitHash, Verdict)> = None;
        let mut has_turn = false;
        for _ in 0..MAX_ROUNDS {
            let ours = self.integration_head()?;
            let incoming = self.store.incoming(&ours, theirs, last.as_ref())?;
            let conflict = match &incoming.step {
                FollowStep::Nothing => {
                    self.close_sync_question(branch)?;
                    return Ok(SyncOutcome::UpToDate { branch: branch.to_owned(), theirs: theirs.clone() });
                }
                FollowStep::Unrelated => {
                    let text = format!("{branch} and what has landed have no commit in common; merge them by hand on {branch}");
                    return Err(Stop::failed(ErrorCategory::Human, text));
                }
                FollowStep::Conflict(files) => Some(files.clone()),
                FollowStep::FastForward | FollowStep::Merge(_) => None,
            };
            if let Some(files) = conflict {
                return Ok(self.ask_about_sync(branch, theirs, &ours, &incoming, Trouble::Conflict(files))?);
            }
            let next = self.step_of(branch, &ours, theirs, &incoming)?;
            let tree = self.history().tree_of(&next)?;
            let verdict = match judged.take().filter(|(known, _)| *known == tree) {
                Some((_, verdict)) => verdict,
                None => self.judge_state(&next, &ours, waiter).await?,
            };
            let checks = match &verdict {
                Verdict::Green(checks) => checks.clone(),
                Verdict::Red(red) => {
                    return Ok(self.ask_about_sync(branch, theirs, &ours, &incoming, Trouble::Red(red.clone()))?);
                }
            };
            if !has_turn {
                self.await_turn(branch, waiter).await?;
                has_turn = true;
                reach(Point::SyncTurn);
                if self.integration_head()? != ours {
                    judged = Some((tree, verdict));
                    continue;
                }
            }
            let landing = SyncLanding {
                theirs: theirs.clone(),
                old: ours.clone(),
                commit: next.clone(),
                commits: incoming.commits,
                checks,
            };
            if self.land_sync(entry, branch, landing, waiter).await? {
                if incoming.is_rewritten {
                    tracing::warn!(branch, "the branch was rewritten since its commits were brought in last");
                }
                let (branch, theirs) = (branch.to_owned(), theirs.clone());
                return Ok(SyncOutcome::Landed { branch, theirs, commit: next, commits: incoming.commits });
            }
        }
        let text = format!("integration moved {MAX_ROUNDS} times during the sync of {branch}; try again");
        Err(Stop::failed(ErrorCategory::Transient, text))
    }

    /// The new commit of integration.
    fn step_of(&self, branch: &str, ours: &CommitHash, theirs: &CommitHash, incoming: &Incoming) -> Result<CommitHash> {
        let FollowStep::Merge(tree) = &incoming.step else { return Ok(theirs.clone()) };
        let new = self.history().commits_between(ours, theirs)?;
        let subjects =
            new.iter().rev().take(MAX_SUBJECTS).map(|commit| format!("- {} {}\n", commit.hash.short(), commit.subject));
        let more = match incoming.commits.saturating_sub(MAX_SUBJECTS) {
            0 => String::new(),
            more => format!("and {more} more\n"),
        };
        let count = if incoming.commits == 1 { "1 commit".to_owned() } else { format!("{} commits", incoming.commits) };
        let text = format!("Bring in {count} of {branch}\n\n{}{more}", subjects.collect::<String>());
        let trailers = [("Synced".to_owned(), format!("{branch} {theirs}"))];
        Ok(self.store.commit(tree, &[ours, theirs], &text, &trailers)?)
    }

    // ---- leases ----

    /// Duration of the leases; short for a command, which may be killed.
    pub(crate) fn lease_seconds(&self) -> i64 {
        const SHORT: i64 = 60;
        let ttl = self.config.lease.ttl_seconds;
        if !self.has_no_loop() || self.loop_id == LoopId::train() {
            return ttl;
        }
        let beats = i64::try_from(self.config.heartbeat.beat_seconds).unwrap_or(SHORT).saturating_mul(3);
        ttl.min(SHORT.max(beats))
    }

    /// Acquires the sync lease and records the start. None if another process is syncing.
    fn begin_sync(&self, branch: &str) -> Result<Option<String>> {
        let request = self.lease_request(vec![sync_lease()?], format!("bringing in {branch}"), None);
        let own = ProcessIdentity::own();
        let operation = Operation::Sync(Sync { branch: branch.to_owned(), landing: None });
        Ok(self.db.write_durably(|tx| {
            // Two commands of the human would share the same leases.
            let is_sync = |entry: &coord_db::JournalEntry| matches!(Operation::of(entry), Some(Operation::Sync(_)));
            let open = tx.open_journal(Some(self.loop_id.as_str()))?;
            for entry in open.iter().filter(|entry| is_sync(entry)) {
                if tx.is_owned_by_other(&entry.steps, &own)? {
                    return Ok(None);
                }
            }
            match tx.acquire(&request, self.config.lease.silent_waiter_seconds)? {
                Acquire::Granted(_) => self.intend_in(tx, &operation).map(Some),
                Acquire::Refused(_) => Ok(None),
            }
        })?)
    }

    /// Completes a sync without a landing.
    fn end_sync(&self, entry: &str) -> Result<()> {
        self.db.write(|tx| {
            tx.end_operation(entry, false)?;
            self.release_all_in(tx)
        })?;
        Ok(())
    }

    fn release_all_in(&self, tx: &WriteTx<'_>) -> coord_db::Result<()> {
        tx.release_everything(self.loop_id.as_str(), &ActorId::from(&self.loop_id), UnlockCause::Released, None).map(drop)
    }

    /// Waits for the lease for moving integration.
    async fn await_turn(&self, branch: &str, waiter: &mut Waiter) -> Step<()> {
        // The landing train of this process holds the same lease in the name of this loop.
        self.news.wants_turn.set(true);
        while self.news.is_judging.get() {
            waiter.looked(self);
            if let Err(stop) = self.check_interrupt(None, waiter) {
                self.news.wants_turn.set(false);
                return Err(stop);
            }
            waiter.wait(self, LOOK).await;
        }
        self.news.wants_turn.set(false);
        let request = self.lease_request(vec![LeasePath::integration()], format!("bringing in {branch}"), None);
        let silent = self.config.lease.silent_waiter_seconds;
        let (id, mut answer) =
            self.db.write(|tx| tx.acquire_or_queue(&request, tx.now().plus_seconds(TURN_SECONDS), silent))?;
        loop {
            match (&id, answer) {
                (_, Waiting::Granted(_)) => return Ok(()),
                (Some(id), Waiting::Queued(_)) => {
                    waiter.looked(self);
                    self.check_interrupt(None, waiter)?;
                    waiter.wait(self, Duration::from_secs(5)).await;
                    answer = self.db.write(|tx| tx.retry_request(id, &request, silent))?;
                }
                _ => {
                    let text = format!("cannot get the lease on integration within {} minutes; try again", TURN_SECONDS / 60);
                    return Err(Stop::failed(ErrorCategory::Transient, text));
                }
            }
        }
    }

    // ---- landing ----

    /// Moves integration and records the landing; false if integration has moved meanwhile.
    async fn land_sync(&self, entry: &str, branch: &str, landing: SyncLanding, waiter: &mut Waiter) -> Step<bool> {
        let operation = Operation::Sync(Sync { branch: branch.to_owned(), landing: Some(landing.clone()) });
        let intent = self.own_intent(&operation);
        let lease = LeasePath::integration();
        self.db.write_durably(|tx| {
            let leases = tx.leases_of(self.loop_id.as_str())?;
            if !leases.iter().any(|held| held.file_path == lease && held.expires_at.is_none_or(|at| at > tx.now())) {
                return Err(coord_db::Error::Refused(format!("the lease on {lease} was lost; try again")));
            }
            tx.update_steps(entry, &intent)
        })?;
        reach(Point::SyncIntended);
        if !self.move_integration(&landing.commit, &landing.old).await? {
            self.refresh().await?;
            return Ok(false);
        }
        reach(Point::SyncMoved);
        self.store.note_followed(branch, &landing.theirs)?;
        self.publish();
        loop {
            let recorded = self.db.write(|tx| self.record_sync(tx, entry, branch, &landing, &self.loop_id));
            match recorded {
                Ok(()) => break,
                // Integration has already moved, so this must succeed; after a stop the next start sees to that.
                Err(error) if error.is_temporary() && !waiter.stopping() => {
                    waiter.rest(self, None, Duration::from_millis(500)).await
                }
                Err(error) => return Err(Error::from(error).into()),
            }
        }
        reach(Point::SyncRecorded);
        tracing::info!(
            branch,
            commit = landing.commit.short(),
            commits = landing.commits,
            "the user's commits were brought in"
        );
        Ok(true)
    }

    /// Records commits that are on integration, for the actor that brought them in, and ends its work.
    pub(crate) fn record_sync(
        &self,
        tx: &WriteTx<'_>,
        entry: &str,
        branch: &str,
        landing: &SyncLanding,
        author: &LoopId,
    ) -> coord_db::Result<()> {
        let synced = Synced {
            branch: branch.to_owned(),
            theirs: landing.theirs.to_string(),
            commit: landing.commit.to_string(),
            behind: i64::try_from(landing.commits).unwrap_or(i64::MAX),
            verification_checks: landing.checks.iter().map(|(name, passed)| (name.clone(), Value::Bool(*passed))).collect(),
        };
        let event = tx.publish(&NewEvent::new(ActorId::from(author), synced))?;
        self.close_sync_question_in(tx, branch, Some(&event))?;
        match tx.end_operation(entry, true) {
            Err(error) if error.is_refusal() => {
                tracing::warn!(%error, "the journal entry was already settled by another process")
            }
            other => drop(other?),
        }
        tx.release_everything(author.as_str(), &ActorId::from(author), UnlockCause::Released, None)?;
        Ok(())
    }

    /// Settles an interrupted sync: commits that reached integration are recorded; otherwise nothing was done.
    pub(crate) fn settle_sync(&self, entry: &coord_db::JournalEntry, sync: &Sync) -> Result<()> {
        let author = entry.loop_id.clone().unwrap_or_else(LoopId::human);
        let landed = match &sync.landing {
            Some(landing) if self.is_on_integration(&landing.commit)? => Some(landing),
            _ => None,
        };
        if let Some(landing) = landed {
            reach(Point::RecoverLanded);
            self.store.note_followed(&sync.branch, &landing.theirs)?;
        }
        self.db.write(|tx| {
            if !tx.is_operation_open(&entry.id)? {
                return Ok(());
            }
            match landed {
                Some(landing) => {
                    tracing::info!(commit = %landing.commit, "interrupted sync recorded");
                    self.record_sync(tx, &entry.id, &sync.branch, landing, &author)
                }
                None => {
                    tx.end_operation(&entry.id, false)?;
                    let by = ActorId::from(&author);
                    tx.release_everything(author.as_str(), &by, UnlockCause::Released, None).map(drop)
                }
            }
        })?;
        Ok(())
    }

    pub(crate) fn is_on_integration(&self, commit: &CommitHash) -> Result<bool> {
        let history = self.history();
        Ok(match (history.resolve(commit.as_str())?, self.store.integration()?) {
            (Some(commit), Some(head)) => history.is_ancestor(&commit, &head)?,
            _ => false,
        })
    }
}
