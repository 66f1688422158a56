//! Moves integration to a state that has passed, and gives works back to their loops.

use std::path::PathBuf;
use std::time::Duration;

use coord_db::{
    AlertType, BaseRun, BaseState, Batch, CheckOutcome, Counts, ErrorCategory, FailedAttempt, LandedWork, LoopId, NewAlert,
    Proof, ProofRun, ProofStage, RunKind, Severity, StringList, TestId, WriteTx, new_id,
};
use crash_point::{Point, reach};
use git::{CommitHash, RefExpectation};
use serde_json::json;

use super::build::{Put, Work};
use super::drive::{Drive, Judged};
use super::judge::{Ran, Verdict};
use super::plan::State;
use super::{Pulse, Train};
use crate::auto_lease::{ignored, lease_path};
use crate::context::Context;
use crate::end::error_of;
use crate::operation::{Integrate, Member, Operation};
use crate::{Error, Result};

/// Maximum number of tests named in a message.
const MAX_NAMED: usize = 5;

impl Train<'_> {
    /// Moves integration to the first works of the queue, which have passed together, and records their passes.
    pub(super) async fn land(&self, drive: &mut Drive, works: &[String], pulse: &mut Pulse) -> Result<()> {
        let state = State { head: drive.plan.head(), works: works.to_vec() };
        let (head, built) = (drive.head().clone(), drive.commits(&self.context, &state).map_err(error_of)?);
        let Ok(commits) = built else { return Err(Error::SetUp("a state that has passed cannot be built".to_owned())) };
        let tip = commits.last().cloned().unwrap_or_else(|| head.clone());
        let Some(judged) = drive.judged.get(&tip).cloned() else {
            return Err(Error::SetUp("a state without a verdict does not land".to_owned()));
        };
        let mut members = Vec::new();
        for (id, commit) in works.iter().zip(&commits) {
            let Some(work) = drive.works.get(id) else { continue };
            if let Some(why) = self.not_landing(work, &head)? {
                self.settle_back(work, why, &[], None)?;
                drive.plan.remove(id);
                return Ok(());
            }
            members.push((work.clone(), commit.clone()));
        }
        let batch = self.batch_of(&judged, &head, &tip, &members)?;
        let landing = Integrate {
            commit: tip.clone(),
            old: head.clone(),
            batch: Some(batch),
            members: members.iter().map(|(work, commit)| member(work, commit, &judged.verdict)).collect(),
        };
        let Some(entry) = self.intend(&landing, &members, &judged, &tip)? else {
            // A test was taken from its loop meanwhile; the queue is read again.
            return Ok(());
        };
        reach(Point::IntegrateIntended);
        if tip != head {
            let moved = pulse.unless_stopped(self.context.move_integration(&tip, &head)).await;
            let cut_off = || Err(Error::Waiting("a stop was requested while the work was pushed".to_owned()));
            match moved.unwrap_or_else(cut_off) {
                Ok(true) => {}
                Err(error @ Error::Waiting(_)) => return Err(error),
                // It may have moved: the entry is settled once the remote says so.
                Err(error @ Error::Git(git::Error::RemoteUnreachable { .. })) => return Err(error),
                not_moved => {
                    self.context.db.write(|tx| tx.end_operation(&entry, false))?;
                    not_moved?;
                    self.context.refresh().await?;
                    if self.context.store.remote().is_some() && self.context.integration_head()? == head {
                        return Err(Error::NotJudged("integration cannot be moved, and nobody else has moved it".to_owned()));
                    }
                    // What has landed there may be work that is in the queue here.
                    drive.starts_again = true;
                    return Ok(());
                }
            }
        }
        reach(Point::IntegrateMoved);
        self.go_on(false)?;
        // Published before the passes are recorded, so that readers of a pass find it on the branch.
        self.context.publish();
        self.record(&entry, &landing, pulse).await?;
        reach(Point::IntegrateRecorded);
        for (work, _) in &members {
            tracing::info!(test = %work.test.id, commit = tip.short(), "test passed and landed");
            self.forget_ref(work);
        }
        drive.landed(works, tip);
        if judged.verdict.is_reused {
            drive.plan.doubt_head();
        }
        self.judge.news.settled.notify_one();
        Ok(())
    }

    /// The row of a batch that lands. Works that were judged together with others that have landed since are a batch of their
    /// own, which needed no run.
    fn batch_of(&self, judged: &Judged, head: &CommitHash, tip: &CommitHash, members: &[(Work, CommitHash)]) -> Result<String> {
        let known = self.context.db.read(|tx| tx.batch(&judged.batch))?;
        let Some(known) = known.filter(|known| known.base_commit != head.as_str()) else { return Ok(judged.batch.clone()) };
        let batch = Batch {
            id: new_id(),
            base_commit: head.to_string(),
            commit_hash: tip.to_string(),
            tests: StringList(members.iter().map(|(work, _)| work.test.id.to_string()).collect()),
            duration_ms: 0,
            reused: true,
            judged_by: self.judge.loop_id.clone(),
            judged_at: self.context.db.now(),
            landed_at: None,
            ..known
        };
        self.context.db.write(|tx| tx.record_batch(&batch))?;
        Ok(batch.id)
    }

    /// Why a work that has passed must not land, if anything has changed since it was queued.
    fn not_landing(&self, work: &Work, head: &CommitHash) -> Result<Option<FailedAttempt>> {
        match self.context.end_if_dropped(&work.test, head) {
            Ok(()) => {}
            Err(crate::end::Stop::End(crate::end::End::Moot(reason))) => {
                return Ok(Some(FailedAttempt::new(ErrorCategory::Permanent, reason)));
            }
            Err(stop) => return Err(error_of(stop)),
        }
        let free = ignored(&self.context.config.monitor.conflict_ignore);
        let train = LoopId::train();
        self.context.db.read(|tx| {
            for file in work.landing.files.0.iter().filter(|file| !free.is_match(file)) {
                let Ok(path) = lease_path(&PathBuf::from(file)) else { continue };
                let other = tx.leases_overlapping(&path)?.into_iter().find(|lease| lease.locked_by != train.as_str());
                if let Some(lease) = other.filter(|lease| lease.expires_at.is_none_or(|at| at > tx.now())) {
                    let text = format!(
                        "{} holds {} now: the lease of the queued work was lost; the work is saved and the test is done again",
                        lease.locked_by, lease.file_path
                    );
                    return Ok(Some(FailedAttempt::new(ErrorCategory::Conflict, text)));
                }
            }
            Ok(None)
        })
    }

    /// Records the intent, with the proofs of the batch. None if a test was taken from its loop.
    fn intend(
        &self,
        landing: &Integrate,
        members: &[(Work, CommitHash)],
        judged: &Judged,
        tip: &CommitHash,
    ) -> Result<Option<String>> {
        let operation = Operation::Integrate(landing.clone());
        let intent = self.judge.own_intent(&operation);
        let tree = self.context.history().tree_of(tip)?.to_string();
        let works: Vec<(&TestId, &str)> = members.iter().map(|(work, _)| (&work.test.id, work.landing.id.as_str())).collect();
        let role = self.role.borrow();
        let Some(role) = role.as_ref() else { return Ok(None) };
        let entry = self.context.db.write_durably(|tx| {
            let Some(entry) = tx.begin_landing(role, &works, &intent)? else { return Ok(None) };
            for (work, _) in members {
                add_proofs(tx, work, judged, (tip, &tree))?;
            }
            Ok::<_, coord_db::Error>(Some(entry))
        })?;
        Ok(entry)
    }

    /// Records the passes of a batch that is on integration. Waits while the database cannot be written, because
    /// integration has already moved.
    async fn record(&self, entry: &str, landing: &Integrate, pulse: &mut Pulse) -> Result<()> {
        loop {
            let recorded = self.context.db.write(|tx| {
                self.context.record_members(tx, landing, &self.judge.loop_id)?;
                match tx.end_operation(entry, true) {
                    // Another process took this one for dead before integration moved; it has moved all the same.
                    Err(error) if error.is_refusal() => {
                        tracing::warn!(%error, "the journal entry was already settled by another process");
                        Ok(())
                    }
                    other => other.map(drop),
                }
            });
            match recorded {
                Ok(()) => return Ok(()),
                Err(error) if error.is_temporary() => {
                    tracing::warn!(%error, "a batch has landed, but its passes cannot be recorded yet; trying again");
                    pulse.rest(Duration::from_millis(500)).await;
                    if pulse.is_stopping() {
                        // The journal entry is open: the next judge records it.
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives a work back that fails on a state that passes without it. If it fails with what had landed before, the work of
    /// whom is searched first.
    pub(super) fn give_back(&self, drive: &mut Drive, id: &str, clashes: &[String], state: &State<String>) -> Result<()> {
        let commit = drive.commit(&self.context, state).map_err(error_of)?;
        let judged = commit.and_then(|commit| drive.judged.get(&commit).cloned());
        if let Some(work) = drive.works.get(id).cloned() {
            let failed = judged.as_ref().and_then(|judged| judged.verdict.failed.clone());
            let failed = failed.unwrap_or_else(|| ("the checks".to_owned(), "failed".to_owned(), String::new()));
            let batch = judged.map(|judged| judged.batch);
            if clashes.is_empty() {
                let hunt = self.hunt(work, &drive.head_at(state.head), failed, batch)?;
                drive.hunts.push_back(hunt);
            } else {
                let mut others = Vec::new();
                for other in clashes {
                    others.extend(self.context.db.read(|tx| tx.landing(other))?.map(|other| (other.test_id, other.loop_id)));
                }
                self.give_back_clashing(&work, others, failed, batch.as_deref())?;
            }
        }
        drive.plan.remove(&id.to_owned());
        Ok(())
    }

    /// Gives a work back, and names those with which it fails.
    pub(super) fn give_back_clashing(
        &self,
        work: &Work,
        others: Vec<(TestId, LoopId)>,
        (check, why, output): (String, String, String),
        batch: Option<&str>,
    ) -> Result<()> {
        let named: Vec<String> = others.iter().take(MAX_NAMED).map(|(test, of)| format!("{test} of loop {of}")).collect();
        let more = if others.len() > MAX_NAMED { ", …" } else { "" };
        let with = if named.is_empty() { String::new() } else { format!(" together with {}{more}", named.join(", ")) };
        let text = format!(
            "the work passes alone and fails{with}: check {check}: {why}\n{output}\nThe change is in the workspace again, on what \
             has landed."
        );
        let caused_by = match others.first() {
            Some((test, _)) => self.pass_of(test)?,
            None => None,
        };
        let failed =
            FailedAttempt { counts: Counts::GivenBack, caused_by, ..FailedAttempt::new(ErrorCategory::Conflict, text) };
        let tests: Vec<TestId> = others.into_iter().map(|(test, _)| test).collect();
        self.settle_back(work, failed, &tests, batch)
    }

    /// Gives a work back that cannot be put on the head.
    pub(super) fn give_back_unmerged(&self, drive: &mut Drive, id: &str, put: &Put) -> Result<()> {
        if let Some(work) = drive.works.get(id).cloned() {
            let (base, head) = (CommitHash::new(&work.landing.head)?, drive.head().clone());
            let failed = match put {
                Put::Conflict(files) if !files.is_empty() => self.context.conflict(&base, &head, files)?,
                Put::Nothing => {
                    let files: Vec<PathBuf> = work.landing.files.0.iter().map(PathBuf::from).collect();
                    let by = self.context.landed_same(&base, &head, &files)?;
                    let text = format!("nothing of its work is left to change, because {by} has landed the same change");
                    FailedAttempt::new(ErrorCategory::Conflict, text)
                }
                Put::Conflict(_) | Put::Commit(_) => {
                    FailedAttempt::new(ErrorCategory::Conflict, "the work cannot be merged with what has landed since")
                }
            };
            self.settle_back(&work, FailedAttempt { counts: Counts::GivenBack, ..failed }, &[], None)?;
        }
        drive.plan.remove(&id.to_owned());
        Ok(())
    }

    /// Ends the wait of a work without a landing; the work stays saved.
    pub(super) fn settle_back(&self, work: &Work, why: FailedAttempt, clashes: &[TestId], batch: Option<&str>) -> Result<()> {
        let Work { landing, test } = work;
        let first = why.message.lines().next().unwrap_or_default();
        tracing::info!(test = %test.id, error = first, "queued work is given back");
        self.context.db.write(|tx| tx.return_landing(landing, &why, batch, clashes))?;
        reach(Point::TrainReturned);
        self.judge.news.settled.notify_one();
        Ok(())
    }

    fn pass_of(&self, test: &TestId) -> Result<Option<coord_db::EventId>> {
        let commit = self.context.db.read(|tx| tx.find_test(test.as_str()))?.and_then(|test| test.commit_hash);
        match commit.map(CommitHash::new) {
            Some(Ok(commit)) => self.context.pass_of(test.as_str(), &commit),
            _ => Ok(None),
        }
    }

    /// Records that the head fails although it has passed before, and asks the human. Until then only works that mend it land.
    pub(super) fn record_failing_head(&self, drive: &Drive) -> Result<()> {
        let Some(judged) = drive.judged.get(drive.head()) else { return Ok(()) };
        let head = drive.head();
        tracing::warn!(head = head.short(), "the checks fail at the head of integration, although they passed there before");
        let is_red = |ran: &&Ran| ran.run.state == BaseState::Red && ran.test.is_none();
        let red: Vec<BaseRun> = judged.verdict.ran.iter().filter(is_red).map(|ran| ran.run.clone()).collect();
        self.context.db.write(|tx| red.iter().try_for_each(|run| tx.take_back_base_run(run)))?;
        let tree = self.context.history().tree_of(head)?.to_string();
        self.judge.ask_about_red(head, &tree, &red)
    }

    /// Reports a check that failed and passed on the same files; nobody is blamed for it.
    pub(super) fn report_flaky(&self, batch: &Batch, before: Option<&Verdict>) -> Result<()> {
        let failed = before.and_then(|verdict| verdict.failed.clone()).map(|(check, why, _)| (check, why));
        let (check, why) = match (failed, &batch.check_name) {
            (Some(failed), _) => failed,
            (None, Some(check)) => (check.clone(), batch.why.clone()),
            (None, None) => return Ok(()),
        };
        let alert = NewAlert {
            fingerprint: format!("train_flaky:{check}"),
            severity: Severity::Warning,
            alert_type: AlertType::Regression,
            source: "coding-loop".to_owned(),
            message: format!(
                "check {check} is flaky: on the same files of {} queued works it failed and passed ({why}); no work was given back for it",
                batch.tests.0.len()
            ),
            context: json!({ "kind": "train_flaky", "check": check, "commit": batch.commit_hash, "tests": batch.tests.0 }),
            event_id: None,
        };
        self.context.db.write(|tx| tx.raise_alert(&alert))?;
        Ok(())
    }

    /// Deletes the reference of a work that has landed.
    fn forget_ref(&self, work: &Work) {
        if let Some(git_ref) = work.landing.git_ref()
            && let Err(error) = self.context.history().delete_ref(&git_ref, &RefExpectation::Any)
        {
            tracing::debug!(%error, git_ref, "cannot delete the reference of landed work; its loop deletes it at its next start");
        }
    }
}

fn member(work: &Work, commit: &CommitHash, verdict: &Verdict) -> Member {
    let mut checks = work.landing.check_results();
    for (name, passed) in verdict.checks_of(&work.test.id) {
        match checks.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = passed,
            None => checks.push((name, passed)),
        }
    }
    Member {
        test: work.test.id.clone(),
        landing: Some(work.landing.id.clone()),
        author: Some(work.landing.loop_id.clone()),
        commit: commit.clone(),
        checks,
        seconds: work.landing.seconds,
        tokens: work.landing.tokens,
        files: work.landing.files.0.clone(),
    }
}

/// The proofs of a work as a part of a batch.
fn add_proofs(tx: &WriteTx<'_>, work: &Work, judged: &Judged, (tip, tree): (&CommitHash, &str)) -> coord_db::Result<()> {
    for (at, ran) in judged.verdict.of(&work.test.id).enumerate() {
        let id = format!("{}-{}-{}", work.landing.proof, judged.batch, at + 1);
        if tx.has_proof(&id)? {
            continue;
        }
        let passed = ran.run.state != BaseState::Red;
        let proof = Proof {
            id: id.clone(),
            test_id: work.test.id.clone(),
            attempt: work.landing.attempt,
            commit_hash: tip.to_string(),
            tree_hash: tree.to_owned(),
            check_name: ran.run.check_name.clone(),
            outcome: if passed { CheckOutcome::Pass } else { CheckOutcome::Fail },
            exit_code: ran.run.exit_code,
            duration_ms: ran.run.duration_ms,
            output_sha256: ran.run.output_sha256.clone(),
            output_tail: ran.run.output_tail.clone(),
            created_at: tx.now(),
        };
        let run = ProofRun {
            proof_id: id,
            kind: if passed { RunKind::Passed } else { RunKind::Failed },
            why: ran.run.why.clone(),
            check_hash: ran.run.check_hash.clone(),
            reused_from: Some(judged.batch.clone()),
            stage: ProofStage::Batch,
            base_tree: None,
            let_through: !passed && ran.is_accepted,
        };
        tx.add_proof(&proof, Some(&run))?;
    }
    Ok(())
}

impl Context<'_> {
    /// Records the passes of a batch that is on integration. `author` is the loop of members without one.
    pub(crate) fn record_members(&self, tx: &WriteTx<'_>, landing: &Integrate, author: &LoopId) -> coord_db::Result<()> {
        let works = landing.members.iter().map(|member| LandedWork {
            test: member.test.clone(),
            landing: member.landing.clone(),
            author: member.author.clone().unwrap_or_else(|| author.clone()),
            passed: member.passed(),
        });
        let works: Vec<LandedWork> = works.collect();
        for (test, error) in tx.record_landed(&works, landing.batch.as_deref())? {
            tracing::warn!(%test, %error, commit = %landing.commit, "landing not recorded");
        }
        works.iter().try_for_each(|work| tx.close_alert(&format!("checkout:{}", work.author)).map(drop))
    }
}
