//! Drives the plan of the train: starts and stops runs, lands what has passed, gives back what fails.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::time::{Duration, Instant};

use coord_db::config::CheckConfig;
use coord_db::process::ProcessIdentity;
use coord_db::{
    BaseState, Batch, BatchOutcome, ErrorCategory, FailedAttempt, Landing, LandingState, LeasePath, LoopId, StringList, new_id,
};
use crash_point::{Point, reach};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use git::CommitHash;
use tokio::sync::watch;

use super::build::{Built, Put, Work};
use super::hunt::Hunt;
use super::judge::{Job, Verdict};
use super::plan::{Action, Limits, RunId, State};
use super::queue::{expects_more, ranked};
use super::{Pulse, Train};
use crate::context::Context;
use crate::control::Waiter;
use crate::end::{End, Step, Stop, error_of};
use crate::{Error, Result};

/// Number of failed runs that confirm a failure, at most.
const MAX_FAILURES: u32 = 2;
/// Maximum number of times that the plan changes without a result before the judge gives up and starts again later.
const MAX_CHANGES: u32 = 1_000;
/// The run of a search, beside those of the plan.
const HUNT: RunId = RunId::MAX;
/// Time that a check is assumed to take before it has ever run.
const UNKNOWN_MILLIS: i64 = 60_000;

/// A verdict with its row.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) batch: String,
    pub(super) verdict: Verdict,
}

/// A run that has ended.
struct Ended {
    run: RunId,
    slot: usize,
    job: Job,
    verdict: Step<Verdict>,
}

type Running<'r> = FuturesUnordered<Pin<Box<dyn Future<Output = Ended> + 'r>>>;

/// What the judge knows while it has its role.
pub(super) struct Drive {
    pub(super) plan: super::plan::Train<String>,
    /// The commits of the heads, by number.
    heads: Vec<CommitHash>,
    /// The works that wait.
    pub(super) works: BTreeMap<String, Work>,
    /// Those, and all that have waited: what fails with landed works is still judged on them.
    seen: BTreeMap<String, Work>,
    built: Built,
    /// The verdicts, by commit.
    pub(super) judged: HashMap<CommitHash, Judged>,
    /// Works that do not merge with one before them, with the head at which that was found.
    held: BTreeMap<String, usize>,
    /// Searches for what a work fails with, one after another.
    pub(super) hunts: VecDeque<Hunt>,
    cancels: BTreeMap<RunId, watch::Sender<bool>>,
    free_slots: BTreeSet<usize>,
    marked: BTreeSet<String>,
    /// Somebody has landed at the remote: whether it is work of an interrupted landing is settled before anything else.
    pub(super) starts_again: bool,
}

impl Drive {
    /// The commit of the current head.
    pub(super) fn head(&self) -> &CommitHash {
        &self.heads[self.plan.head()]
    }

    /// The commit of a head, by number.
    pub(super) fn head_at(&self, number: usize) -> CommitHash {
        self.heads[number].clone()
    }

    pub(super) fn landed(&mut self, works: &[String], head: CommitHash) {
        self.plan.landed(works);
        self.heads.push(head);
    }

    fn moved(&mut self, head: CommitHash) {
        self.plan.reset();
        self.heads.push(head);
    }

    /// The commits of a state, one for each work; or the work that cannot be put on those before it.
    pub(super) fn commits(
        &mut self,
        context: &Context<'_>,
        state: &State<String>,
    ) -> Step<std::result::Result<Vec<CommitHash>, (String, usize, Put)>> {
        let (mut parent, mut commits) = (self.heads[state.head].clone(), Vec::new());
        for (at, id) in state.works.iter().enumerate() {
            let Some(work) = self.seen.get(id) else {
                return Ok(Err((id.clone(), at, Put::Conflict(Vec::new()))));
            };
            match self.built.put(context, work, &parent) {
                Ok(Put::Commit(commit)) => parent = commit,
                Ok(other) => return Ok(Err((id.clone(), at, other))),
                Err(Stop::End(End::Failed(_))) => return Ok(Err((id.clone(), at, Put::Conflict(Vec::new())))),
                Err(stop) => return Err(stop),
            }
            commits.push(parent.clone());
        }
        Ok(Ok(commits))
    }

    /// The commit of a state that was built before.
    pub(super) fn commit(&mut self, context: &Context<'_>, state: &State<String>) -> Step<Option<CommitHash>> {
        let head = self.heads[state.head].clone();
        Ok(self.commits(context, state)?.ok().map(|commits| commits.last().cloned().unwrap_or(head)))
    }
}

impl Train<'_> {
    /// Judges and lands until the queue is empty, somebody else waits for integration, or a stop is requested. True if
    /// anything has changed.
    pub(super) async fn drive(&self, pulse: &mut Pulse) -> Result<bool> {
        let gate = &self.context.config.gate;
        let parallel = gate.parallel.max(1);
        let failures = usize::try_from(self.context.config.regression.retries.saturating_add(1).min(MAX_FAILURES)).unwrap_or(1);
        let limits = Limits { batch: self.context.config.landing.batch.max(1), parallel, failures };
        // The last one is for searches: no two judgements ever share a check-out.
        let slots: Vec<Context<'_>> = (1..=parallel + 1).map(|slot| self.context.acting_as(LoopId::train_slot(slot))).collect();
        let mut drive = Drive {
            plan: super::plan::Train::new(limits),
            heads: vec![self.context.integration_head()?],
            works: BTreeMap::new(),
            seen: BTreeMap::new(),
            built: Built::default(),
            judged: HashMap::new(),
            held: BTreeMap::new(),
            hunts: VecDeque::new(),
            cancels: BTreeMap::new(),
            free_slots: (0..parallel).collect(),
            marked: BTreeSet::new(),
            starts_again: false,
        };
        let mut running: Running<'_> = FuturesUnordered::new();
        let driven = self.drive_on(&mut drive, &slots, &mut running, pulse).await;
        for cancel in drive.cancels.values() {
            cancel.send_replace(true);
        }
        while running.next().await.is_some() {}
        driven
    }

    async fn drive_on<'r>(
        &self,
        drive: &mut Drive,
        slots: &'r [Context<'r>],
        running: &mut Running<'r>,
        pulse: &mut Pulse,
    ) -> Result<bool> {
        let (mut has_progress, mut changes) = (false, 0);
        loop {
            pulse.beat(&self.context)?;
            if pulse.is_stopping() {
                return Ok(has_progress);
            }
            if !self.holds_role()? {
                tracing::warn!("the lease on integration was lost; the landing train starts again");
                return Ok(true);
            }
            if !self.missed.borrow().is_empty() {
                pulse.unless_stopped(self.context.refresh_if_reachable()).await;
            }
            let head = self.context.integration_head()?;
            if head != *drive.head() {
                drive.starts_again = self.context.store.remote().is_some();
                drive.moved(head);
            }
            if drive.starts_again {
                return Ok(true);
            }
            self.read_queue(drive)?;
            if drive.works.is_empty() && drive.hunts.is_empty() && running.is_empty() || self.is_turn_wanted()? {
                return Ok(has_progress);
            }
            has_progress |= self.go_on_hunting(drive, slots, running)?;
            let wait = self.time_to_wait(drive)?;
            let mut has_changed = false;
            for action in drive.plan.next(wait.is_none()) {
                match action {
                    Action::Land(works) => {
                        self.land(drive, &works, pulse).await?;
                        has_changed = true;
                    }
                    Action::GiveBack { work, clashes, state } => {
                        self.give_back(drive, &work, &clashes, &state)?;
                        has_changed = true;
                    }
                    Action::HeadFails => {
                        self.record_failing_head(drive)?;
                        return Ok(false);
                    }
                    Action::Run(run, state) => has_changed |= !self.start(drive, slots, running, run, &state)?,
                    Action::Cancel(run) => {
                        if let Some(cancel) = drive.cancels.get(&run) {
                            cancel.send_replace(true);
                        }
                    }
                }
            }
            self.mark(drive)?;
            if has_changed {
                has_progress = true;
                changes += 1;
                if changes > MAX_CHANGES {
                    return Err(Error::SetUp("the landing train changes its plan without end".to_owned()));
                }
                // The attempts of this process go on meanwhile.
                tokio::task::yield_now().await;
                continue;
            }
            changes = 0;
            if running.is_empty() && wait.is_none() {
                // Nothing can be judged before the queue changes.
                return Ok(has_progress);
            }
            // What needs no run has ended already.
            if let Some(Some(ended)) = running.next().now_or_never() {
                self.ended(drive, ended)?;
                continue;
            }
            self.judge.news.note_looked();
            tokio::select! {
                Some(ended) = running.next() => self.ended(drive, ended)?,
                () = pulse.wait(&self.context, wait.unwrap_or(Duration::from_secs(5))) => {}
            }
        }
    }

    /// True if something else waits for the lease on integration.
    fn is_turn_wanted(&self) -> Result<bool> {
        let path = LeasePath::integration();
        let requests = self.context.db.read(|tx| tx.lease_requests())?;
        Ok(self.judge.news.wants_turn.get()
            || requests.iter().any(|request| request.paths.0.iter().any(|wanted| wanted == path.as_str())))
    }

    /// Reads the queue. While checks fail at the head, only works that mend that are judged.
    fn read_queue(&self, drive: &mut Drive) -> Result<()> {
        let is_red = self.is_base_red(drive.head())?;
        if is_red {
            while self.judge.apply_base_answers()? {}
        }
        let head = drive.plan.head();
        drive.held.retain(|_, held_at| *held_at == head);
        let (landings, mut tests, priorities, rate) = self.context.db.read(|tx| {
            let (landings, tests) = (tx.open_landings()?, tx.queued_tests()?);
            Ok::<_, coord_db::Error>((landings, tests, tx.landing_priorities()?, tx.landing_failure_rate()?))
        })?;
        let mut works = BTreeMap::new();
        self.missed.borrow_mut().retain(|id, _| landings.iter().any(|landing| landing.id == *id));
        for landing in landings {
            let Some(test) = tests.remove(&landing.test_id) else {
                // Another program has changed the test.
                self.context.db.write(|tx| {
                    tx.end_landing(
                        &landing.id,
                        LandingState::Withdrawn,
                        None,
                        Some("the test was changed by another program"),
                        &[],
                    )
                })?;
                continue;
            };
            if !drive.works.contains_key(&landing.id) && !self.is_whole(&landing)? {
                if self.may_still_arrive(&landing)? {
                    continue;
                }
                let text = "what was queued is not in the store any more; the test is done again";
                let why = FailedAttempt::new(ErrorCategory::Transient, text);
                self.settle_back(&Work { landing, test }, why, &[], None)?;
                continue;
            }
            let mends = landing.urgent && self.context.db.read(|tx| tx.is_mending(&test.id))?;
            let is_hunted = drive.hunts.iter().any(|hunt| hunt.work.landing.id == landing.id);
            if is_red && !mends || is_hunted || drive.held.contains_key(&landing.id) {
                continue;
            }
            self.missed.borrow_mut().remove(&landing.id);
            works.insert(landing.id.clone(), Work { landing, test });
        }
        let ranked = ranked(&works.values().map(|work| work.landing.clone()).collect::<Vec<_>>(), &priorities);
        drive.plan.set_queue(&ranked);
        drive.plan.set_failure_rate(rate);
        drive.seen.extend(works.iter().map(|(id, work)| (id.clone(), work.clone())));
        drive.works = works;
        Ok(())
    }

    /// True if a work that is not in the store may come from the remote: until that was asked once more, and while the loop that
    /// has queued it runs on another machine, which sends it as soon as it can.
    fn may_still_arrive(&self, landing: &Landing) -> Result<bool> {
        if self.context.store.remote().is_none() {
            return Ok(false);
        }
        let since = *self.missed.borrow_mut().entry(landing.id.clone()).or_insert_with(Instant::now);
        if self.judge.news.asked_remote.get().is_none_or(|(asked, _)| asked <= since) {
            return Ok(true);
        }
        let process = self.context.db.read(|tx| tx.running_process(landing.loop_id.as_str(), &ProcessIdentity::own()))?;
        Ok(process.is_some_and(|process| process.is_elsewhere()))
    }

    /// True if everything that a queued work names is in the store.
    fn is_whole(&self, landing: &Landing) -> Result<bool> {
        let names = [&landing.base_tree, &landing.tree, &landing.head, &landing.commit_hash];
        let hashes: Vec<CommitHash> = names.iter().filter_map(|name| CommitHash::new(name.as_str()).ok()).collect();
        let [_, _, _, commit] = &hashes[..] else { return Ok(false) };
        let store = &self.context.store;
        // What another machine has sent may have arrived in part. The head is in the commit's history.
        Ok(store.missing(&hashes)?.is_empty() && (store.remote().is_none() || store.are_whole(std::slice::from_ref(commit))?))
    }

    /// True if a check that is the same for all tests is known to fail at a head and is not ignored.
    fn is_base_red(&self, head: &CommitHash) -> Result<bool> {
        let tree = self.context.history().tree_of(head)?.to_string();
        let (runs, ignored) =
            self.context.db.read(|tx| Ok::<_, coord_db::Error>((tx.base_runs(&tree)?, tx.ignored_checks()?)))?;
        let hashes: BTreeSet<String> =
            self.context.config.gate.check.iter().map(|check| self.context.base_hash(check)).collect();
        let is_ignored = |name: &str| ignored.iter().any(|check| check.check_name == name);
        Ok(runs
            .iter()
            .any(|run| run.state == BaseState::Red && hashes.contains(&run.check_hash) && !is_ignored(&run.check_name)))
    }

    /// How long a batch that is not full waits for more work; none if it leaves now.
    fn time_to_wait(&self, drive: &Drive) -> Result<Option<Duration>> {
        let config = self.context.config;
        let Some(oldest) = drive.works.values().map(|work| work.landing.queued_at).min() else { return Ok(None) };
        if config.landing.batch <= 1 {
            return Ok(None);
        }
        let db = self.context.db;
        let running = db.read(|tx| tx.running_checks())?;
        if running.is_empty() {
            return Ok(None);
        }
        let duration = |check: &CheckConfig| -> Result<i64> {
            Ok(db.read(|tx| tx.check_duration(&check.name))?.unwrap_or(UNKNOWN_MILLIS))
        };
        let checks: Vec<(&str, i64)> =
            config.gate.check.iter().map(|check| Ok((check.name.as_str(), duration(check)?))).collect::<Result<_>>()?;
        let suite: i64 = checks.iter().map(|(_, millis)| millis).sum();
        let now = db.now();
        let waited = now.as_millis() - oldest.as_millis();
        if waited > suite / 5 {
            return Ok(None);
        }
        let left = |name: &str, since: coord_db::Timestamp| {
            let rest: i64 = checks.iter().skip_while(|(other, _)| *other != name).map(|(_, millis)| millis).sum();
            rest - (now.as_millis() - since.as_millis())
        };
        let left: Vec<i64> = running.iter().map(|(_, name, since)| left(name, *since)).collect();
        let millis = u64::try_from((suite / 10).clamp(1, 5_000)).unwrap_or(1);
        Ok(expects_more(&left, suite).then(|| Duration::from_millis(millis)))
    }

    /// Starts a run. False if the state cannot be built: a work does not merge with what is before it.
    fn start<'r>(
        &self,
        drive: &mut Drive,
        slots: &'r [Context<'r>],
        running: &mut Running<'r>,
        run: RunId,
        state: &State<String>,
    ) -> Result<bool> {
        let built = drive.commits(&self.context, state).map_err(error_of)?;
        let commits = match built {
            Ok(commits) => commits,
            Err((work, at, put)) => {
                drive.plan.ended(run, None);
                if at == 0 && state.head == drive.plan.head() {
                    self.give_back_unmerged(drive, &work, &put)?;
                } else {
                    drive.held.insert(work.clone(), drive.plan.head());
                    drive.plan.remove(&work);
                }
                return Ok(false);
            }
        };
        let base = drive.heads[state.head].clone();
        let commit = commits.last().cloned().unwrap_or_else(|| base.clone());
        let Some(slot) = drive.free_slots.pop_first() else {
            drive.plan.ended(run, None);
            return Ok(true);
        };
        let works = state.works.iter().filter_map(|id| drive.seen.get(id).cloned()).collect();
        Self::judge_in(drive, &slots[slot], slot, running, run, Job { base, commit, works });
        Ok(true)
    }

    fn judge_in<'r>(drive: &mut Drive, context: &'r Context<'r>, slot: usize, running: &mut Running<'r>, run: RunId, job: Job) {
        let (cancel, cancelled) = watch::channel(false);
        drive.cancels.insert(run, cancel);
        tracing::info!(works = job.works.len(), commit = job.commit.short(), "judging works together");
        running.push(Box::pin(async move {
            let mut waiter = Waiter::new(context, cancelled);
            let verdict = context.judge_together(&job, &mut waiter).await;
            Ended { run, slot, job, verdict }
        }));
    }

    /// Goes on with the first search, and gives works back of which it is known with what they fail. True if one was.
    fn go_on_hunting<'r>(&self, drive: &mut Drive, slots: &'r [Context<'r>], running: &mut Running<'r>) -> Result<bool> {
        let mut has_ended = false;
        while !drive.cancels.contains_key(&HUNT)
            && let Some(mut hunt) = drive.hunts.pop_front()
        {
            match if hunt.is_over() { None } else { self.next_of_hunt(&mut drive.built, &hunt)? } {
                Some(job) => {
                    drive.hunts.push_front(hunt);
                    let slot = slots.len() - 1;
                    Self::judge_in(drive, &slots[slot], slot, running, HUNT, job);
                }
                None => {
                    if !hunt.is_over() {
                        hunt.judged(None);
                    }
                    let others = self.found(&hunt)?;
                    self.give_back_clashing(&hunt.work, others, hunt.failed.clone(), hunt.batch.as_deref())?;
                    has_ended = true;
                }
            }
        }
        Ok(has_ended)
    }

    /// Stores the verdict of a run, and tells the plan.
    fn ended(&self, drive: &mut Drive, ended: Ended) -> Result<()> {
        let Ended { run, slot, job, verdict } = ended;
        let is_hunt = run == HUNT;
        if !is_hunt {
            drive.free_slots.insert(slot);
        }
        let is_cancelled = drive.cancels.remove(&run).is_none_or(|cancel| *cancel.borrow());
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(Stop::End(End::Interrupted(_))) => {
                drive.plan.ended(run, None);
                return Ok(());
            }
            Err(stop) if is_hunt => {
                tracing::info!(error = coord_db::error_chain(&error_of(stop)), "cannot find with what a work fails");
                drive.hunts.iter_mut().take(1).for_each(|hunt| hunt.judged(None));
                return Ok(());
            }
            Err(stop) => {
                drive.plan.ended(run, None);
                return match stop {
                    _ if is_cancelled => Ok(()),
                    Stop::Error(error) => Err(error),
                    stop => Err(Error::NotJudged(error_of(stop).to_string())),
                };
            }
        };
        reach(Point::TrainJudged);
        let has_passed = verdict.has_passed();
        if is_hunt {
            drive.hunts.iter_mut().take(1).for_each(|hunt| hunt.judged(Some(has_passed)));
        }
        let tests = job.works.iter().map(|work| work.test.id.to_string()).collect();
        let (check_name, why, output_tail) = match verdict.failed.clone() {
            Some((check, why, output)) => (Some(check), why, output),
            None => (None, String::new(), String::new()),
        };
        // A state that fails after it has passed, or passes after it has failed, has a flaky check.
        let earlier = drive.judged.get(&job.commit).filter(|_| !job.works.is_empty());
        let before = earlier.map(|judged| judged.verdict.has_passed());
        let is_flaky = verdict.outcome == BatchOutcome::Flaky || before.is_some_and(|before| before != has_passed);
        let outcome = match (is_flaky, has_passed) {
            (true, true) => BatchOutcome::Flaky,
            (_, true) => BatchOutcome::Passed,
            (_, false) => BatchOutcome::Failed,
        };
        let batch = Batch {
            id: new_id(),
            base_commit: job.base.to_string(),
            commit_hash: job.commit.to_string(),
            tree_hash: self.context.history().tree_of(&job.commit)?.to_string(),
            tests: StringList(tests),
            outcome,
            check_name,
            why,
            output_tail,
            duration_ms: verdict.millis,
            reused: verdict.is_reused,
            judged_by: self.judge.loop_id.clone(),
            judged_at: self.context.db.now(),
            landed_at: None,
        };
        self.context.db.write(|tx| tx.record_batch(&batch))?;
        reach(Point::TrainRecorded);
        tracing::info!(works = job.works.len(), commit = job.commit.short(), outcome = %batch.outcome, check = batch.check_name, "judged");
        if is_hunt {
            return Ok(());
        }
        if is_flaky {
            self.report_flaky(&batch, drive.judged.get(&job.commit).map(|judged| &judged.verdict))?;
        }
        // The failing run is the informative one, the passing one the proof.
        let is_kept = before.is_some_and(|before| before && !has_passed);
        if !is_kept {
            drive.judged.insert(job.commit.clone(), Judged { batch: batch.id, verdict });
        }
        drive.plan.ended(run, Some(has_passed));
        Ok(())
    }

    /// Marks the works that are being judged: until the verdict they are not withdrawn.
    fn mark(&self, drive: &mut Drive) -> Result<()> {
        let mut judging = drive.plan.judging();
        judging.extend(drive.hunts.iter().map(|hunt| hunt.work.landing.id.clone()));
        if judging != drive.marked {
            let ids: Vec<String> = judging.iter().cloned().collect();
            self.context.db.write_quietly(|tx| tx.judge_landings(&ids))?;
            drive.marked = judging;
            reach(Point::TrainMarked);
        }
        Ok(())
    }
}
