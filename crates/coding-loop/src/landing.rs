//! The steps from a claim to the queue of the landing train: read the changes, lease, apply to the head, gate, queue.
//! Nothing is queued that has not passed the gate alone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use coord_db::{
    ErrorCategory, EventFilter, EventId, FailedAttempt, LeasePath, NewLanding, NoChange, Regression, RegressionStatus, Test,
    TestId, new_id, queued_refs,
};
use crash_point::{Point, reach};
use git::{CommitHash, CommitInfo, Finding, PutOn, RefExpectation, Trailer, Workspace, shown};
use process_host::BackOff;

use crate::attempt::{self, Close, Command, Input};
use crate::auto_lease::{ignored, lease_path};
use crate::context::{Attempt, Context};
use crate::control::{Interrupt, Order, Waiter, end_if_lost};
use crate::end::{End, Step, Stop};
use crate::gate::Proving;
use crate::work::Work;
use crate::{Error, Result, agent};

/// The trailers of a landed commit.
pub(crate) fn trailers(test: &Test, proof: &str) -> Vec<Trailer> {
    vec![
        ("Loop".to_owned(), test.loop_id.to_string()),
        ("Test".to_owned(), test.id.to_string()),
        ("Proof".to_owned(), proof.to_owned()),
    ]
}

/// The message of a landed commit.
pub(crate) fn message(test: &Test) -> String {
    let text = test.notes.as_deref().or(test.spec_content.as_deref()).unwrap_or_default();
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("done").trim();
    format!("{}: {}", test.id, first.chars().take(120).collect::<String>())
}

/// Maximum number of files named in a message.
const MAX_NAMED: usize = 5;

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", ")
}

/// Why a finding prevents landing, and what the agent has to do; none if a human decides or nothing has to be done.
fn refusal(finding: &Finding) -> Option<String> {
    let path = shown(finding.path());
    Some(match finding {
        Finding::OwnFolder(_) => {
            format!("{path} belongs to coding-loops, and changes of it do not land; undo the change")
        }
        Finding::LinkLeadsOut { target, .. } => {
            format!(
                "{path} is a symbolic link to {}, outside the repository; remove it or link to a file in the repository",
                shown(target)
            )
        }
        Finding::UnknownSubmoduleCommit { commit: Some(commit), .. } => {
            format!(
                "the submodule {path} is at {}, which is not on its remote; push that commit, or reset the submodule",
                commit.short()
            )
        }
        Finding::UnknownSubmoduleCommit { commit: None, .. } => {
            format!("cannot read the commit of the submodule {path}; reset the submodule")
        }
        Finding::EditedInSubmodule { files, .. } => {
            let more = files.len().saturating_sub(MAX_NAMED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!(
                "the changes to {}{more} in the submodule {path} are not committed; commit them inside the submodule and push that \
                 commit to its remote, or undo them",
                listed(&files[..files.len().min(MAX_NAMED)])
            )
        }
        Finding::Unstorable { reason, .. } => format!("git cannot store {path}: {reason}; remove it or ignore it"),
        Finding::TooLarge { .. } | Finding::IgnoredAtBase(_) => return None,
    })
}

impl Context<'_> {
    /// Performs the remaining steps of an attempt.
    pub(crate) async fn carry_out(&self, mut machine: attempt::Attempt, attempt: &mut Attempt, waiter: &mut Waiter) -> End {
        let mut proving = Proving::new();
        let (mut given, mut back_off) = (None, BackOff::default());
        if attempt.test.no_change != NoChange::Ask {
            machine.allow_no_change();
        }
        loop {
            let command = machine.doing();
            if let Command::Close(close) = command {
                return match (close, given, attempt.landing.clone()) {
                    (Close::Queued, _, Some(landing)) => End::Queued(landing),
                    (Close::Unchanged, ..) => End::Unchanged,
                    (_, Some(end), _) => end,
                    _ => End::Failed(FailedAttempt::new(ErrorCategory::System, "the attempt ended in an unexpected state")),
                };
            }
            let input = match self.perform(command, attempt, &mut proving, waiter).await {
                Ok(input) => input,
                // Nothing is done twice because of that. A run of the agent sees to itself.
                Err(Stop::Error(error))
                    if error.is_outage() && (command != Command::Work || attempt.runs == 0) && !waiter.stopping() =>
                {
                    waiter.rest(self, Some(attempt), back_off.after(&error)).await;
                    continue;
                }
                Err(Stop::End(End::Failed(why))) if machine.may_fix() && attempt.is_to_mend(command, &why) => {
                    tracing::info!(test = %attempt.test.id, error = why.message.lines().next().unwrap_or_default(), "back to the agent");
                    attempt.mend = Some(why.message);
                    Input::Red
                }
                Err(stop) => {
                    given = Some(match stop {
                        Stop::Error(error) => {
                            end_if_lost(&error);
                            End::Failed(self.failure_of(&error))
                        }
                        Stop::End(end) => end,
                    });
                    Input::Ended
                }
            };
            if attempt.in_place.is_some() {
                machine.allow_no_change();
            }
            machine.next(input);
        }
    }

    /// Performs one command.
    async fn perform(
        &self,
        command: Command,
        attempt: &mut Attempt,
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> Step<Input> {
        match command {
            // The attempt was begun when it was created.
            Command::Begin | Command::Close(_) => {}
            Command::Work => {
                self.end_if_dropped(&attempt.test, &attempt.base)?;
                agent::work(self, attempt, waiter).await?;
            }
            Command::Look => return self.look(attempt),
            Command::AskOwners => {
                let files = files_of(attempt);
                self.ask_owners(attempt, &files)?;
            }
            Command::LeaseFiles => self.lease_work(attempt)?,
            Command::AwaitLeases => self.await_leases(attempt, waiter).await?,
            Command::Approve => self.approve(attempt, waiter).await?,
            Command::PutOnHead => self.put_on_head(attempt, proving)?,
            Command::Gate => self.judge(attempt, proving, waiter).await?,
            Command::Queue => self.queue(attempt, proving, waiter).await?,
        }
        Ok(Input::Done)
    }

    // ---- what has changed ----

    /// Reads the changes in a workspace.
    pub(crate) fn see_work(&self, workspace: &Workspace, file_bytes: u64) -> Result<Work> {
        let head = self.integration_head()?;
        workspace.follow_agent(&head)?;
        let snapshot = workspace.snapshot(&self.look_options(file_bytes))?;
        reach(Point::WorkLooked);
        let change = workspace.change(&snapshot)?;
        Ok(Work::new(change, snapshot.findings, head))
    }

    /// Reads the work of an attempt. It fails if something in it prevents landing.
    pub(crate) fn look(&self, attempt: &mut Attempt) -> Step<Input> {
        let work = match &attempt.in_place {
            Some(change) => Work::new(change.clone(), Vec::new(), attempt.base.clone()),
            None => self.see_work(&attempt.workspace, self.config.landing.file_bytes)?,
        };
        let mut problems: Vec<String> = work.findings.iter().filter_map(refusal).collect();
        if !work.change.stale.is_empty() {
            problems.push(format!(
                "these files are based on an older version and would undo later landings of others: {}; update them",
                listed(&work.change.stale)
            ));
        }
        if !problems.is_empty() {
            return Err(Stop::failed(ErrorCategory::Code, problems.join("; ")));
        }
        let has_changed =
            !work.change.paths.is_empty() || work.findings.iter().any(|found| matches!(found, Finding::TooLarge { .. }));
        attempt.work = Some(work);
        Ok(if has_changed { Input::Done } else { Input::NothingChanged })
    }

    // ---- leases ----

    fn lease_work(&self, attempt: &mut Attempt) -> Step<()> {
        let files = files_of(attempt);
        self.forget_waits(attempt, &files)?;
        let problems = self.lease_files(attempt, &files)?;
        if problems.is_empty() { Ok(()) } else { Err(Stop::failed(ErrorCategory::Code, problems.join("; "))) }
    }

    /// Waits until all queued leases are granted.
    pub(crate) async fn await_leases(&self, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<()> {
        loop {
            waiter.looked(self);
            self.retry_requests(attempt)?;
            if attempt.waiting.is_empty() {
                return Ok(());
            }
            self.check_interrupt(Some(attempt), waiter)?;
            waiter.wait(self, Duration::from_secs(5)).await;
        }
    }

    /// Ends the step if the loop is interrupted.
    pub(crate) fn check_interrupt(&self, attempt: Option<&Attempt>, waiter: &mut Waiter) -> Step<()> {
        waiter.beat(self, attempt);
        self.pending_interrupt(attempt, waiter)?.map_or(Ok(()), |interrupt| Err(interrupt.into()))
    }

    /// The pending interrupt of the loop's work.
    pub(crate) fn pending_interrupt(&self, attempt: Option<&Attempt>, waiter: &Waiter) -> Result<Option<Interrupt>> {
        if waiter.stopping() {
            let stop = if self.has_no_loop() { Interrupt::plain(Order::Stop, "stopped") } else { Interrupt::stop() };
            return Ok(Some(stop));
        }
        // A command of the human receives no orders.
        if self.has_no_loop() || !self.takes_orders { Ok(None) } else { self.orders(attempt) }
    }

    // ---- on the head of integration ----

    /// Applies the work to the head of integration as one commit.
    fn put_on_head(&self, attempt: &mut Attempt, proving: &Proving) -> Step<()> {
        let head = self.integration_head()?;
        let Some(work) = &attempt.work else { return Err(Error::SetUp("the changes were not read".to_owned()).into()) };
        let merged = self.merged_by(&attempt.test, &head)?;
        let commit = match self.store.put_on(&work.change, &head)? {
            PutOn::Conflict(files) => return Err(self.conflict(&attempt.base, &head, &files)?.into()),
            PutOn::Tree(tree) if merged.is_none() && tree == self.history().tree_of(&head)? => None,
            PutOn::Tree(tree) => {
                if let Some(merged) = &merged {
                    self.refuse_what_is_left_out(merged, &head, &tree)?;
                }
                // The head has not moved since the gate, so the judged commit stays.
                let same = work.commit.as_ref().filter(|_| work.head == head);
                Some(match same {
                    Some(same) => same.clone(),
                    None => self.commit_for(&attempt.test, &proving.id, &tree, &head, merged.map(|merged| merged.theirs))?,
                })
            }
        };
        reach(Point::WorkPutOn);
        if commit.is_none() && !work.change.paths.is_empty() && attempt.in_place.is_none() {
            attempt.landed_by = Some(self.landed_same(&attempt.base, &head, &work.change.paths)?);
            // If no check decides about this test alone, a human has to.
            if attempt.test.no_change == NoChange::Ask && !self.has_own_check(&attempt.test, &head)? {
                return Err(Stop::End(End::Unchanged));
            }
        }
        let problems = self.misnumbered(commit.as_ref())?;
        if !problems.is_empty() {
            return Err(Stop::failed(ErrorCategory::Code, problems.join("; ")));
        }
        if let Some(work) = &mut attempt.work {
            (work.head, work.commit) = (head, commit);
        }
        Ok(())
    }

    /// Commits a tree as the work of a test on a head.
    pub(crate) fn commit_for(
        &self,
        test: &Test,
        proof: &str,
        tree: &CommitHash,
        head: &CommitHash,
        theirs: Option<CommitHash>,
    ) -> Result<CommitHash> {
        let trailers = trailers(test, proof);
        let parents: Vec<&CommitHash> = std::iter::once(head).chain(theirs.as_ref()).collect();
        let message = message(test);
        Ok(if self.config.landing.sign {
            self.store.signed_commit(&self.user, tree, &parents, &message, &trailers)?
        } else {
            self.store.commit(tree, &parents, &message, &trailers)?
        })
    }

    async fn judge(&self, attempt: &mut Attempt, proving: &mut Proving, waiter: &mut Waiter) -> Step<()> {
        let Some((head, judged)) = attempt.work.as_ref().map(|work| (work.head.clone(), work.judged().clone())) else {
            return Ok(());
        };
        let checks =
            self.gate(attempt, (&head, &judged), proving, waiter).await.map_err(|stop| with_left_out(stop, attempt))?;
        if let Some(work) = &mut attempt.work {
            work.checks = checks;
        }
        reach(Point::GatePassed);
        Ok(())
    }

    /// The author who has landed the same changes of these files.
    pub(crate) fn landed_same(&self, base: &CommitHash, head: &CommitHash, paths: &[PathBuf]) -> Result<String> {
        let wanted: BTreeSet<&PathBuf> = paths.iter().collect();
        for commit in self.history().commits_between(base, head)?.into_iter().rev() {
            if self.has_changed(&commit, base, &wanted)? {
                let who = match (commit.trailer("Test"), commit.trailer("Loop")) {
                    (Some(test), Some(loop_id)) => format!("test {test} of loop {loop_id}"),
                    _ => "somebody else".to_owned(),
                };
                return Ok(format!("{who} ({})", commit.hash.short()));
            }
        }
        Ok("somebody else".to_owned())
    }

    /// True if a commit after `base` has changed one of these files.
    fn has_changed(&self, commit: &CommitInfo, base: &CommitHash, wanted: &BTreeSet<&PathBuf>) -> Result<bool> {
        let parent = commit.parents.first().unwrap_or(base);
        Ok(self.history().changed_between(parent, &commit.hash)?.iter().any(|file| wanted.contains(file)))
    }

    pub(crate) fn conflict(&self, base: &CommitHash, head: &CommitHash, files: &[PathBuf]) -> Result<FailedAttempt> {
        let wanted: BTreeSet<&PathBuf> = files.iter().collect();
        let mut others = BTreeSet::new();
        let mut caused_by = None;
        for commit in self.history().commits_between(base, head)? {
            if self.has_changed(&commit, base, &wanted)? {
                others.insert(match (commit.trailer("Test"), commit.trailer("Loop")) {
                    (Some(test), Some(by)) => format!("{test} of loop {by} ({})", commit.hash.short()),
                    _ => format!("the user's commit {} ({})", commit.hash.short(), commit.subject),
                });
                if caused_by.is_none()
                    && let Some(test) = commit.trailer("Test")
                {
                    caused_by = self.pass_of(test, &commit.hash)?;
                }
            }
        }
        let others: Vec<String> = others.into_iter().collect();
        let message = format!("the work conflicts in {} with {}", listed(files), others.join(", "));
        Ok(FailedAttempt { caused_by, ..FailedAttempt::new(ErrorCategory::Conflict, message) })
    }

    /// The event of a commit's landing: the cost of a conflict is charged to that event's loop.
    pub(crate) fn pass_of(&self, test: &str, commit: &CommitHash) -> Result<Option<EventId>> {
        let (event_type, test_id) = (Some("test_passed".to_owned()), Some(test.to_owned()));
        let passes = self.db.read(|tx| tx.events(&EventFilter { event_type, test_id, ..EventFilter::default() }))?;
        let of_commit = |event: &coord_db::Event| event.payload["commit"].as_str() == Some(commit.as_str());
        Ok(passes.into_iter().rev().find(of_commit).map(|event| event.id))
    }

    // ---- into the queue ----

    /// Queues the judged work: from here on it belongs to the landing train.
    async fn queue(&self, attempt: &mut Attempt, proving: &Proving, waiter: &mut Waiter) -> Step<()> {
        reach(Point::LandingJudged);
        // The commit may have arrived whose answer was lost.
        if let Some(id) = &attempt.landing
            && self.db.read(|tx| tx.landing(id))?.is_some()
        {
            self.news.queue();
            return Ok(());
        }
        let Some(work) = &attempt.work else { return Err(Error::SetUp("the changes were not read".to_owned()).into()) };
        let files = match &work.commit {
            Some(commit) => self.history().changed_between(&work.head, commit)?,
            None => Vec::new(),
        };
        self.end_if_dropped(&attempt.test, &work.head)?;
        if let Some(why) = self.broken_rule(attempt, work, &files)? {
            return Err(why.into());
        }
        let test = &attempt.test;
        let id = attempt.landing.get_or_insert_with(new_id).clone();
        // Its objects must outlive the workspace.
        if let Some(commit) = &work.commit {
            let name = format!("{}{id}", queued_refs(&self.loop_id));
            self.history().set_ref(&name, commit, &RefExpectation::Any)?;
            // Any machine may judge it.
            waiter.during(self, self.send_queued(name, commit.clone())).await;
        }
        reach(Point::LandingKept);
        let seconds = i64::try_from(attempt.begun.elapsed().as_secs()).unwrap_or(i64::MAX);
        let (base_tree, tree) = match &work.commit {
            // Not those of the workspace, which may build on an older head: only what the commit refers to reaches other machines.
            Some(commit) => (self.history().tree_of(&work.head)?, self.history().tree_of(commit)?),
            // Others have landed the same. If that is reverted first, it is this work that lands.
            None => (work.change.base.clone(), work.change.tree.clone()),
        };
        let mut landing = NewLanding {
            id: id.clone(),
            test_id: test.id.clone(),
            loop_id: self.loop_id.clone(),
            attempt: test.attempts,
            urgent: attempt.in_place.is_some() || self.mends(&test.id)?,
            base_tree: base_tree.to_string(),
            tree: tree.to_string(),
            head: work.head.to_string(),
            commit_hash: work.judged().to_string(),
            theirs: self.merged_by(test, &work.head)?.map(|merged| merged.theirs.to_string()),
            proof: proving.id.clone(),
            checks: work.checks.clone(),
            seconds,
            tokens: None,
            files: files.iter().map(|file| shown(file)).collect(),
        };
        let leases = self.leases_on(attempt, &files);
        let begun = self.attempt_begun(test.last_attempt_at);
        self.db.write_durably(|tx| {
            let spent = tx.record_attempt_usage(&self.loop_id, &test.id, begun, seconds, &landing.files)?;
            landing.tokens = Some(spent).filter(|spent| *spent > 0);
            tx.queue_landing(&landing, &leases)?;
            tx.forget_vain_runs(&self.loop_id)?;
            tx.release_work(&self.loop_id, None)
        })?;
        reach(Point::LandingQueued);
        self.news.queue();
        Ok(())
    }

    /// True if a test repairs what has landed: the base, or a regression of it or by it.
    fn mends(&self, test: &TestId) -> Result<bool> {
        Ok(self.db.read(|tx| tx.is_mending(test))? || !self.regressions_of(test)?.is_empty())
    }

    /// The open regressions of a test or by it.
    pub(crate) fn regressions_of(&self, test: &TestId) -> Result<Vec<Regression>> {
        let mut open = self.db.read(|tx| tx.regressions(true))?;
        open.retain(|row| {
            let is_its = row.test_id == *test || row.blamed_test.as_deref() == Some(test.as_str());
            row.status == RegressionStatus::Regressed && is_its
        });
        Ok(open)
    }

    /// The leases of an attempt on files, or on folders above them, which land with it.
    fn leases_on(&self, attempt: &Attempt, files: &[PathBuf]) -> Vec<(LeasePath, i64)> {
        let free = ignored(&self.config.monitor.conflict_ignore);
        let paths: Vec<LeasePath> =
            files.iter().filter(|file| !free.is_match(file)).filter_map(|file| lease_path(file).ok()).collect();
        let is_needed = |held: &LeasePath| paths.iter().any(|path| held.covers(path));
        attempt.tokens.iter().filter(|(held, _)| is_needed(held)).map(|(held, token)| (held.clone(), *token)).collect()
    }
}

impl Attempt {
    /// True if the agent can mend its work in its session.
    fn is_to_mend(&self, command: Command, why: &FailedAttempt) -> bool {
        let judged = matches!(command, Command::Look | Command::PutOnHead | Command::Gate);
        judged && why.category == ErrorCategory::Code && self.session.is_some()
    }
}

/// The changed files of an attempt.
fn files_of(attempt: &Attempt) -> Vec<PathBuf> {
    attempt.work.as_ref().map(|work| work.files.clone()).unwrap_or_default()
}

/// Adds the files that were left out to the message of a gate failure.
fn with_left_out(stop: Stop, attempt: &Attempt) -> Stop {
    let Stop::End(End::Failed(mut why)) = stop else { return stop };
    let findings = attempt.work.iter().flat_map(|work| &work.findings);
    let ignored: Vec<PathBuf> = findings
        .filter_map(|found| match found {
            Finding::IgnoredAtBase(path) => Some(path.clone()),
            _ => None,
        })
        .collect();
    if !ignored.is_empty() {
        why.message.push_str(&format!(
            "\n(these files are not part of the work, because the base ignores them: {})",
            listed(&ignored)
        ));
    }
    Stop::End(End::Failed(why))
}
