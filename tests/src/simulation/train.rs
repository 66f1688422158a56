//! The landing train of a loop's process: takes the role of the judge, judges works put on one another for a virtual time,
//! moves the branch, gives works back. What it decides is decided by the program's own plan ([`coding_loop::train::plan`]);
//! what it does in the database is one transaction a step, so that it may die or stand still between any two.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use coding_loop::train::plan::{Action, Limits, RunId, State, Train};
use coding_loop::train::ranked;
use coord_db::process::ProcessIdentity;
use coord_db::{
    AcquireRequest, ActorId, Batch, BatchOutcome, CheckOutcome, Counts, ErrorCategory, FailedAttempt, JUDGE_OPERATION,
    JournalEntry, JudgeRole, LANDING_OPERATION, LandedWork, Landing, LandingState, LeasePath, LoopId, PassedAttempt, Proof,
    Result, StringList, TestId, new_id, owned_intent,
};
use serde_json::{Value, json};

use super::engine::{Actor, Step};
use super::loops::Process;
use super::world::{Commit, World};

/// How often a train that does not judge looks at the queue, in milliseconds.
const LOOK_MILLIS: i64 = 15_000;
/// How long a batch that is not full may wait for more, in milliseconds.
const CLOSES_MILLIS: i64 = 3_000;

/// What the landing trains do wrong on purpose, so that a law can be seen to catch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrainFault {
    /// Nothing.
    #[default]
    None,
    /// Lands the whole queue without a judgement.
    LandsUnjudged,
    /// Moves the branch again for what it finds open in the journal.
    LandsAgain,
    /// Gives the first of the queue back, whatever the judgement says.
    GivesAnyoneBack,
    /// Withdraws what it judges.
    Withdraws,
    /// Judges nothing.
    Sleeps,
}

#[derive(Debug)]
struct Run {
    /// The commits of the state, one for each work.
    commits: Vec<String>,
    state: State<String>,
    ends_at: i64,
}

/// A batch that is being landed.
#[derive(Debug)]
struct Landed {
    entry: JournalEntry,
    works: Vec<String>,
    moved: bool,
}

#[derive(Debug)]
struct Role {
    role: JudgeRole,
    plan: Train<String>,
    /// The newest commits of the heads, by number.
    heads: Vec<String>,
    /// The works that wait or have waited.
    works: BTreeMap<String, Landing>,
    /// The commits that were made of works, by parent and work.
    built: BTreeMap<(String, String), String>,
    running: BTreeMap<RunId, Run>,
    /// The judgements that states have passed, by their newest commit.
    judged: BTreeMap<String, String>,
    marked: BTreeSet<String>,
    todo: VecDeque<Action<String>>,
    landing: Option<Landed>,
}

/// The landing train of one loop's process.
#[derive(Debug)]
pub struct TrainActor {
    name: String,
    /// The loop in whose name it judges.
    judge: LoopId,
    process: Process,
    /// The process that its memory is of.
    own: Option<ProcessIdentity>,
    fault: TrainFault,
    next_beat: i64,
    role: Option<Role>,
}

impl Role {
    fn head(&self) -> String {
        self.heads[self.plan.head()].clone()
    }

    /// The commits of a state: made when they are first asked for.
    fn commits(&mut self, world: &mut World, state: &State<String>) -> Vec<String> {
        let mut parent = self.heads[state.head].clone();
        let mut commits = Vec::new();
        for work in &state.works {
            let commit = self.built.entry((parent, work.clone())).or_insert_with(|| world.commit()).clone();
            commits.push(commit.clone());
            parent = commit;
        }
        commits
    }

    fn tip(&mut self, world: &mut World, state: &State<String>) -> String {
        self.commits(world, state).pop().unwrap_or_else(|| self.heads[state.head].clone())
    }

    fn landings(&self, ids: &[String]) -> Vec<Landing> {
        ids.iter().filter_map(|id| self.works.get(id)).cloned().collect()
    }
}

impl TrainActor {
    /// The landing train in a loop's process.
    #[must_use]
    pub fn new(judge: LoopId, process: Process, fault: TrainFault) -> Self {
        Self { name: format!("train of {judge}"), judge, process, own: None, fault, next_beat: 0, role: None }
    }

    fn own(&self) -> ProcessIdentity {
        self.own.clone().expect("it runs")
    }

    fn beat(&mut self, world: &mut World) -> Result<Step> {
        let ttl = world.config.lease.ttl_seconds;
        world.db.write_quietly(|tx| tx.renew_all(&LoopId::train(), ttl))?;
        self.next_beat = world.elapsed() + i64::try_from(world.config.heartbeat.beat_seconds * 1000).unwrap_or(i64::MAX);
        Ok(Step::now("renews the leases of queued work"))
    }

    /// What it does while it is not the judge.
    fn idle(&mut self, world: &mut World) -> Result<Step> {
        if self.fault == TrainFault::Sleeps || !world.read(|tx| tx.has_open_landing(None)) {
            return Ok(Step::after(LOOK_MILLIS, ""));
        }
        if world.elapsed() >= self.next_beat {
            return self.beat(world);
        }
        let mut entries = world.read(|tx| tx.open_journal(Some(LoopId::train().as_str())));
        let overdue = overdue(world, &entries);
        // Landings before the role, so that nobody judges on a head that is not recorded.
        entries.sort_by_key(|entry| entry.operation == JUDGE_OPERATION);
        for entry in entries {
            if let Some(step) = self.settle(world, &entry, &overdue)? {
                return Ok(step);
            }
        }
        self.take_role(world)
    }

    /// Settles what a judge has left that has died or stands still, or whose process has given up.
    fn settle(&self, world: &mut World, entry: &JournalEntry, overdue: &[ProcessIdentity]) -> Result<Option<Step>> {
        let Some(owner) = entry.steps.owner() else { return Ok(None) };
        let has_ended = self.own.as_ref() == Some(&owner) || !world.lives(Some(owner.pid));
        let has_landed = world.outside.place(text(&entry.steps.intent, "commit")).is_some();
        // A train that stands still may move the branch yet.
        let is_left = overdue.contains(&owner) && (entry.operation == JUDGE_OPERATION || has_landed);
        if !has_ended && !is_left {
            return Ok(None);
        }
        if entry.operation == LANDING_OPERATION {
            if self.fault == TrainFault::LandsAgain {
                world.land(commits_of(&entry.steps.intent));
            }
            let landed = world.outside.place(text(&entry.steps.intent, "commit")).is_some();
            world.write(|tx| {
                if !tx.is_operation_open(&entry.id)? {
                    return Ok(());
                }
                if landed {
                    record(tx, &entry.steps.intent)?;
                }
                tx.end_operation(&entry.id, landed).map(drop)
            })?;
            return Ok(Some(Step::now(if landed { "records what has landed" } else { "settles that nothing has landed" })));
        }
        let Some(role) = JudgeRole::of(entry) else { return Ok(None) };
        world.write(|tx| tx.end_judge_role(&role))?;
        Ok(Some(Step::now(format!("finds that the judge {} has ended", role.judge))))
    }

    fn take_role(&mut self, world: &mut World) -> Result<Step> {
        let request = AcquireRequest {
            loop_id: self.judge.clone(),
            paths: vec![LeasePath::integration()],
            ttl_seconds: world.config.lease.ttl_seconds,
            reason: Some("judges the landing train".to_owned()),
            test_id: None,
            automatic: true,
        };
        let (silent, own) = (world.config.lease.silent_waiter_seconds, self.own());
        let taken = world.write(|tx| tx.take_judge_role(&request, silent, &own, None))?;
        let Some(role) = taken else { return Ok(Step::after(LOOK_MILLIS, "")) };
        let limits = Limits {
            batch: 1 + usize::try_from(world.fate("batch", 8)).unwrap_or_default(),
            parallel: 1 + usize::try_from(world.fate("parallel", 4)).unwrap_or_default(),
            failures: 2,
        };
        self.role = Some(Role {
            role,
            plan: Train::new(limits),
            heads: vec![world.outside.head()],
            works: BTreeMap::new(),
            built: BTreeMap::new(),
            running: BTreeMap::new(),
            judged: BTreeMap::new(),
            marked: BTreeSet::new(),
            todo: VecDeque::new(),
            landing: None,
        });
        Ok(Step::now("is the judge"))
    }

    fn give_role_up(&mut self, world: &mut World, why: &str) -> Result<Step> {
        let Some(role) = &self.role else { return Ok(Step::now("")) };
        world.write(|tx| tx.leave_judge_role(&role.role))?;
        self.role = None;
        Ok(Step::after(1_000, format!("judges no more: {why}")))
    }

    fn has_lease(&self, world: &World) -> bool {
        self.role.as_ref().is_some_and(|role| world.read(|tx| tx.judge_lease(&role.role)).is_some())
    }

    fn judge(&mut self, world: &mut World) -> Result<Step> {
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        if role.landing.is_some() {
            return self.land(world);
        }
        if let Some(action) = role.todo.front().cloned() {
            let step = self.act(world, action)?;
            if let Some(role) = self.role.as_mut() {
                role.todo.pop_front();
            }
            return Ok(step);
        }
        if world.elapsed() >= self.next_beat {
            return self.beat(world);
        }
        if !self.has_lease(world) {
            return self.give_role_up(world, "it has lost the lease on integration");
        }
        let now = world.elapsed();
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        if let Some(run) = role.running.iter().find(|(_, run)| run.ends_at <= now).map(|(run, _)| *run) {
            return self.ended(world, run);
        }
        self.plan(world)
    }

    /// Reads the queue, and takes the plan's next actions on itself.
    fn plan(&mut self, world: &mut World) -> Result<Step> {
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        let head = world.outside.head();
        if head != role.head() {
            role.plan.reset();
            role.heads.push(head);
        }
        let (landings, priorities, rate) =
            world.read(|tx| Ok((tx.open_landings()?, tx.landing_priorities()?, tx.landing_failure_rate()?)));
        let order = ranked(&landings, &priorities);
        role.plan.set_queue(&order);
        role.plan.set_failure_rate(rate);
        let oldest = landings.iter().map(|work| work.queued_at).min();
        role.works.extend(landings.into_iter().map(|landing| (landing.id.clone(), landing)));
        if order.is_empty() && role.running.is_empty() {
            return self.give_role_up(world, "nothing waits");
        }
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        let is_closing = oldest.is_none_or(|at| world.now().millis_since(at) > CLOSES_MILLIS);
        match self.fault {
            TrainFault::LandsUnjudged => role.todo.push_back(Action::Land(order)),
            TrainFault::GivesAnyoneBack => {
                let state = State { head: role.plan.head(), works: order[..1].to_vec() };
                role.todo.push_back(Action::GiveBack { work: order[0].clone(), clashes: Vec::new(), state });
            }
            _ => role.todo.extend(role.plan.next(is_closing)),
        }
        if !role.todo.is_empty() {
            return Ok(Step::now(""));
        }
        let judging = role.plan.judging();
        if judging != role.marked {
            let ids: Vec<String> = judging.iter().cloned().collect();
            world.write(|tx| tx.judge_landings(&ids))?;
            role.marked = judging;
            if self.fault == TrainFault::Withdraws
                && let Some(id) = ids.first()
            {
                world.write(|tx| tx.end_landing(id, LandingState::Withdrawn, None, None, &[]))?;
            }
            return Ok(Step::now(format!("judges {}", ids.join(", "))));
        }
        if role.running.is_empty() && is_closing {
            return self.give_role_up(world, "nothing can be judged");
        }
        let ends = role.running.values().map(|run| run.ends_at).min().unwrap_or(i64::MAX);
        Ok(Step::after(ends.min(self.next_beat).min(world.elapsed() + 1_000) - world.elapsed(), ""))
    }

    fn act(&mut self, world: &mut World, action: Action<String>) -> Result<Step> {
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        match action {
            Action::Land(works) => self.begin_to_land(world, works),
            Action::GiveBack { work, clashes, state } => self.give_back(world, &work, &clashes, &state),
            Action::HeadFails => panic!("the head passes always"),
            Action::Run(run, state) => {
                let commits = role.commits(world, &state);
                let ends_at = world.elapsed() + world.millis(1_000, 20_000);
                let what = format!("runs the checks on {}", state.works.join(", "));
                role.running.insert(run, Run { commits, state, ends_at });
                Ok(Step::now(what))
            }
            Action::Cancel(run) => {
                role.running.remove(&run);
                Ok(Step::now("stops a run"))
            }
        }
    }

    /// Records the verdict of a run, and tells the plan.
    fn ended(&mut self, world: &mut World, run: RunId) -> Result<Step> {
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        let Some(Run { state, commits, .. }) = role.running.get(&run) else { return Ok(Step::now("")) };
        let base = role.heads[state.head].clone();
        let works = role.landings(&state.works);
        let clash = works.iter().enumerate().find_map(|(at, work)| world.clashing(&base, &works[..at], work));
        let by_chance = works.last().filter(|last| {
            let id = &last.id;
            clash.is_none() && world.fate((id, "flaky"), 12) == 0 && !world.outside.flaked.contains(id)
        });
        let has_passed = clash.is_none() && by_chance.is_none();
        let tip = commits.last().unwrap_or(&base).clone();
        let batch = Batch {
            id: format!("batch-{}", world.number()),
            base_commit: base,
            commit_hash: tip.clone(),
            tree_hash: format!("tree-{tip}"),
            tests: StringList(works.iter().map(|work| work.test_id.to_string()).collect()),
            outcome: if has_passed { BatchOutcome::Passed } else { BatchOutcome::Failed },
            check_name: (!has_passed).then(|| "tests".to_owned()),
            why: if has_passed { String::new() } else { "exit status 1".to_owned() },
            output_tail: String::new(),
            duration_ms: 1_000,
            reused: false,
            judged_by: self.judge.clone(),
            judged_at: world.now(),
            landed_at: None,
        };
        world.write(|tx| tx.record_batch(&batch))?;
        if let Some(work) = by_chance {
            world.outside.flaked.insert(work.id.clone());
        }
        if has_passed {
            world.outside.passed.insert(tip.clone());
            world.outside.gated.extend(commits.iter().cloned().zip(works.iter().map(|work| work.test_id.clone())));
            role.judged.insert(tip, batch.id);
        }
        let names: Vec<&str> = works.iter().map(|work| work.test_id.as_str()).collect();
        let what = format!("judges that {} {}", names.join(", "), if has_passed { "pass" } else { "fail" });
        role.running.remove(&run);
        role.plan.ended(run, Some(has_passed));
        Ok(Step::now(what))
    }

    /// Writes the intent down; the branch moves in the next step.
    fn begin_to_land(&mut self, world: &mut World, works: Vec<String>) -> Result<Step> {
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        let (head, judge) = (role.head(), role.role.clone());
        let commits = role.commits(world, &State { head: role.plan.head(), works: works.clone() });
        let landings = role.landings(&works);
        let Some(tip) = commits.last().cloned().filter(|_| landings.len() == works.len()) else {
            return Ok(Step::now(""));
        };
        let batch = role.judged.get(&tip).cloned();
        let members: Vec<Value> = landings
            .iter()
            .zip(&commits)
            .map(|(work, commit)| {
                json!({"test": work.test_id, "author": work.loop_id, "landing": work.id, "commit": commit,
                    "seconds": work.seconds, "files": work.files.0, "attempt": work.attempt})
            })
            .collect();
        let intent = json!({"commit": tip, "old": head, "batch": batch, "members": members});
        let intent = owned_intent(intent, &self.own.clone().expect("it runs"), None);
        let named: Vec<(&TestId, &str)> = landings.iter().map(|work| (&work.test_id, work.id.as_str())).collect();
        let entry = world.write(|tx| {
            let Some(entry) = tx.begin_landing(&judge, &named, &intent)? else { return Ok(None) };
            for work in &landings {
                tx.add_proof(&proof(work, &tip, tx.now()), None)?;
            }
            tx.journal_entry(&entry)
        })?;
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        let Some(entry) = entry else { return Ok(Step::now("cannot land what was taken away")) };
        let what = format!("begins to land {}", works.join(", "));
        role.landing = Some(Landed { entry, works, moved: false });
        Ok(Step::now(what))
    }

    /// Moves the branch, and records the passes: a step each.
    fn land(&mut self, world: &mut World) -> Result<Step> {
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        let Some(landing) = role.landing.as_mut() else { return Ok(Step::now("")) };
        let intent = &landing.entry.steps.intent;
        if !landing.moved {
            if world.outside.head() != text(intent, "old") {
                settle_entry(world, &landing.entry.id, None)?;
                role.landing = None;
                return Ok(Step::now("finds that the branch has moved"));
            }
            world.land(commits_of_broken(world, intent));
            landing.moved = true;
            return Ok(Step::now("moves the branch"));
        }
        settle_entry(world, &landing.entry.id, Some(intent))?;
        let tip = text(intent, "commit").to_owned();
        let works = std::mem::take(&mut landing.works);
        role.landing = None;
        role.plan.landed(&works);
        role.heads.push(tip);
        Ok(Step::now(format!("records that {} have landed", works.join(", "))))
    }

    fn give_back(&mut self, world: &mut World, id: &str, clashes: &[String], state: &State<String>) -> Result<Step> {
        let Some(role) = self.role.as_mut() else { return Ok(Step::now("")) };
        let tip = role.tip(world, state);
        let Some(work) = role.works.get(id).cloned() else {
            role.plan.remove(&id.to_owned());
            return Ok(Step::now(""));
        };
        let before = role.landings(&state.works);
        let clashing = world.clashing(&role.heads[state.head], &before, &work);
        let tests: Vec<TestId> = role.landings(clashes).into_iter().map(|work| work.test_id).collect();
        let text = format!("the work passes alone and fails on {tip}");
        let failed = FailedAttempt { counts: Counts::GivenBack, ..FailedAttempt::new(ErrorCategory::Conflict, text) };
        let ended = world.write(|tx| tx.return_landing(&work, &failed, None, &tests))?;
        if ended && clashing.is_none() {
            world.ledger.wronged = Some(format!("{} was given back and clashes with nothing", work.test_id));
        }
        role.plan.remove(&id.to_owned());
        Ok(Step::now(format!("gives {} back", work.test_id)))
    }
}

/// The processes that judge without the lease on integration.
fn overdue(world: &World, entries: &[JournalEntry]) -> Vec<ProcessIdentity> {
    let lease = world.read(|tx| tx.lease(&LeasePath::integration()));
    let lease = lease.filter(|lease| lease.expires_at.is_none_or(|at| at > world.now()));
    let token = lease.map(|lease| lease.fencing_token);
    let judges = entries.iter().filter(|entry| entry.operation == JUDGE_OPERATION);
    judges.filter(|entry| entry.steps.intent["token"].as_i64() != token).filter_map(|entry| entry.steps.owner()).collect()
}

fn text<'a>(intent: &'a Value, key: &str) -> &'a str {
    intent[key].as_str().unwrap_or_default()
}

fn commits_of(intent: &Value) -> Vec<Commit> {
    let commit = |member: &Value| Commit {
        id: text(member, "commit").to_owned(),
        test: text(member, "test").parse().expect("a test"),
        loop_id: text(member, "author").to_owned(),
        breaks: None,
        landing: text(member, "landing").to_owned(),
    };
    intent["members"].as_array().into_iter().flatten().map(commit).collect()
}

/// The commits of a batch, some of which break what was there before, unnoticed; done again they no longer do.
fn commits_of_broken(world: &World, intent: &Value) -> Vec<Commit> {
    let mut commits = commits_of(intent);
    for commit in &mut commits {
        let again = world.outside.integration.iter().any(|known| known.test == commit.test);
        commit.breaks = (!again && world.fate((&commit.test, "breaks"), 100) < 15)
            .then(|| world.outside.integration.first().map(|first| first.test.clone()))
            .flatten();
    }
    commits
}

/// What a work was judged together on: the newest commit of the batch.
fn proof(work: &Landing, commit: &str, now: coord_db::Timestamp) -> Proof {
    Proof {
        id: new_id(),
        test_id: work.test_id.clone(),
        attempt: work.attempt,
        commit_hash: commit.to_owned(),
        tree_hash: format!("tree-{commit}"),
        check_name: "tests".to_owned(),
        outcome: CheckOutcome::Pass,
        exit_code: Some(0),
        duration_ms: 1,
        output_sha256: String::new(),
        output_tail: String::new(),
        created_at: now,
    }
}

/// Records the passes of a batch that is on the branch.
fn record(tx: &coord_db::WriteTx<'_>, intent: &Value) -> Result<()> {
    let work = |member: &Value| {
        let files = member["files"].as_array().into_iter().flatten().filter_map(|file| file.as_str().map(str::to_owned));
        LandedWork {
            test: text(member, "test").parse().expect("a test"),
            landing: Some(text(member, "landing").to_owned()),
            author: text(member, "author").parse().expect("a loop"),
            passed: PassedAttempt {
                commit: text(member, "commit").to_owned(),
                checks: vec![("tests".to_owned(), true)],
                duration_seconds: member["seconds"].as_i64().unwrap_or_default(),
                tokens_estimated: Some(100),
                files_modified: files.collect(),
            },
        }
    };
    let works: Vec<LandedWork> = intent["members"].as_array().into_iter().flatten().map(work).collect();
    tx.record_landed(&works, intent["batch"].as_str()).map(drop)
}

/// Ends the entry of a landing, with its passes if it has landed.
fn settle_entry(world: &mut World, entry: &str, landed: Option<&Value>) -> Result<()> {
    world.write(|tx| {
        if let Some(intent) = landed {
            record(tx, intent)?;
        }
        match tx.end_operation(entry, landed.is_some()) {
            // Another process took this one for dead.
            Err(error) if error.is_refusal() => Ok(()),
            other => other.map(drop),
        }
    })
}

impl Actor for TrainActor {
    fn name(&self) -> &str {
        &self.name
    }

    fn actor_id(&self) -> ActorId {
        ActorId::from(&LoopId::train())
    }

    fn step(&mut self, world: &mut World) -> Result<Step> {
        world.ledger.acting.extend([self.judge.to_string(), LoopId::train().to_string()]);
        let process = self.process.borrow().clone();
        if process != self.own {
            // What it knew is lost with its process.
            self.own = process;
            self.role = None;
            self.next_beat = 0;
        }
        match (&self.own, &self.role) {
            (None, _) => Ok(Step::after(LOOK_MILLIS, "")),
            (_, None) => self.idle(world),
            (_, Some(_)) => self.judge(world),
        }
    }

    fn crash(&mut self, world: &mut World) {
        if let Some(process) = self.process.take() {
            world.kill(process.pid);
        }
        self.own = None;
        self.role = None;
    }
}
