//! The supervisors as they are, in the place of their processes: start, beat, look, pass, record effects. Between any two of
//! these a process may die, and a pass may be undone just before its commit.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use coord_db::process::ProcessIdentity;
use coord_db::supervisors::Program;
use coord_db::{ActorId, ComponentId, Config, Database, HealthStatus, JournalEntry, ReadTx, Result, RunOutcome, WriteTx};
use regression_checker::Found;
use supervisor::{Inbound, LocalFuture, Look, Plan, Supervisor, Waker, look, pass, pass_carefully};

use git::CommitHash;

use super::engine::{Actor, Step};
use super::world::{World, undone};

/// How long a process sleeps at most, in milliseconds.
const SLOW_LOOK_MILLIS: i64 = 10_000;

/// A supervisor that takes part: what it sees of the virtual world outside, and how its effects end there.
pub trait Joined: Supervisor {
    /// Looks at the world outside of the database.
    fn see(&mut self, world: &World) -> Self::Observation;

    /// Carries an effect out. Asked again after a crash.
    fn carry_out(&self, _world: &mut World, _entry: &JournalEntry) -> Option<Self::Outcome> {
        None
    }
}

/// What is done to a supervisor from outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tampering {
    /// Nothing.
    #[default]
    None,
    /// The transaction fails after this many actions.
    UndoneAfter(usize),
    /// Every action is left out; the deliveries are acknowledged all the same.
    Forgets,
    /// Every action is carried out twice.
    Doubles,
    /// It says something beside each action, and nobody knows why.
    Babbles,
    /// It runs and beats, and looks at nothing.
    Sleeps,
    /// It acknowledges every event, and does nothing.
    Nods,
    /// What it writes stays although its transaction is undone.
    Leaks,
}

/// A supervisor between whose decision and its effect somebody stands.
#[derive(Debug)]
pub struct Tampered<S> {
    inner: S,
    tampering: Rc<Cell<Tampering>>,
    applied: Cell<usize>,
}

impl<S: Supervisor> Supervisor for Tampered<S> {
    type Observation = S::Observation;
    type Snapshot = S::Snapshot;
    type Action = S::Action;
    type Outcome = S::Outcome;

    const PROGRAM: &'static Program = S::PROGRAM;
    const HAS_INBOX: bool = S::HAS_INBOX;
    const HAS_EFFECTS: bool = S::HAS_EFFECTS;

    fn new(config: Arc<Config>, database: &Path) -> Self {
        Self { inner: S::new(config, database), tampering: Rc::default(), applied: Cell::new(0) }
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.inner.configure(config);
    }

    fn attach(&mut self, waker: Waker) {
        self.inner.attach(waker);
    }

    fn observe(&mut self, db: &Database) -> Result<Self::Observation> {
        self.inner.observe(db)
    }

    fn deliver(&mut self, inbox: Vec<Inbound>) {
        self.inner.deliver(inbox);
    }

    fn snapshot(&mut self, tx: &ReadTx<'_>, seen: &Self::Observation) -> Result<Self::Snapshot> {
        self.applied.set(0);
        self.inner.snapshot(tx, seen)
    }

    fn decide(config: &Config, snapshot: &Self::Snapshot) -> Plan<Self::Action> {
        S::decide(config, snapshot)
    }

    fn apply(&self, tx: &WriteTx<'_>, snapshot: &Self::Snapshot, action: &Self::Action) -> Result<()> {
        self.applied.set(self.applied.get() + 1);
        match self.tampering.get() {
            Tampering::Forgets => return Ok(()),
            Tampering::UndoneAfter(actions) if self.applied.get() > actions => return Err(undone()),
            Tampering::Doubles => self.inner.apply(tx, snapshot, action)?,
            Tampering::Babbles => {
                let payload = coord_db::payload::SummaryRequested {
                    requested_by: ActorId::human(),
                    scope: "everything".to_owned(),
                    since_hours: 1,
                };
                tx.publish(&coord_db::NewEvent::new(S::ID.parse()?, payload))?;
            }
            _ => {}
        }
        self.inner.apply(tx, snapshot, action)
    }

    fn committed(&mut self, snapshot: &Self::Snapshot) {
        self.inner.committed(snapshot);
    }

    fn perform(&self, entry: JournalEntry) -> LocalFuture<Self::Outcome> {
        self.inner.perform(entry)
    }

    fn record(&self, tx: &WriteTx<'_>, entry: &JournalEntry, outcome: &Self::Outcome) -> Result<()> {
        self.inner.record(tx, entry, outcome)
    }

    fn config(&self) -> &Config {
        self.inner.config()
    }
}

struct Running<S: Joined> {
    supervisor: Tampered<S>,
    identity: ProcessIdentity,
    next_beat: i64,
    /// One delivery at a time.
    careful: bool,
    /// Something is due; this was seen when it was looked for.
    due: Option<S::Observation>,
    /// When each effect that was begun ends.
    effects: BTreeMap<String, (JournalEntry, i64)>,
}

/// The process of a supervisor.
pub struct SupervisorActor<S: Joined> {
    running: Option<Running<S>>,
    tampering: Tampering,
    /// Percent of the passes that are undone.
    undone_percent: u32,
}

impl<S: Joined> std::fmt::Debug for SupervisorActor<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SupervisorActor").field("id", &S::ID).finish_non_exhaustive()
    }
}

impl<S: Joined> SupervisorActor<S> {
    /// One that has yet to start.
    #[must_use]
    pub fn new(tampering: Tampering, undone_percent: u32) -> Self {
        Self { running: None, tampering, undone_percent }
    }

    fn start(&mut self, world: &mut World) -> Result<Step> {
        let identity = world.spawn();
        let id: ComponentId = S::ID.parse().expect("an id");
        match world.write(|tx| tx.start_component(&id, &identity, "0")) {
            Ok(unclean) => {
                let mut supervisor = Tampered::<S>::new(Arc::clone(&world.config), Path::new("/nowhere/coordination.db"));
                supervisor.tampering = Rc::new(Cell::new(self.tampering));
                self.running = Some(Running {
                    supervisor,
                    identity,
                    next_beat: world.elapsed(),
                    careful: unclean,
                    due: None,
                    effects: BTreeMap::new(),
                });
                world.up.insert(S::ID);
                Ok(Step::now(if unclean { "starts after an unclean end" } else { "starts" }))
            }
            Err(error) => {
                world.kill(identity.pid);
                Err(error)
            }
        }
    }
}

impl<S: Joined> Running<S> {
    fn take_up_effects(&mut self, world: &mut World) {
        if !S::HAS_EFFECTS {
            return;
        }
        for entry in world.read(|tx| tx.open_journal(Some(S::ID))) {
            if !self.effects.contains_key(&entry.id) {
                let ends_at = world.elapsed() + world.millis(100, 20_000);
                self.effects.insert(entry.id.clone(), (entry, ends_at));
            }
        }
    }

    fn end_effect(&mut self, world: &mut World) -> Result<Option<Step>> {
        let now = world.elapsed();
        let ended = self.effects.values().find(|(_, ends_at)| *ends_at <= now).map(|(entry, _)| entry.clone());
        let Some(entry) = ended else { return Ok(None) };
        if let Some(outcome) = self.supervisor.inner.carry_out(world, &entry) {
            world.write(|tx| self.supervisor.record(tx, &entry, &outcome))?;
        }
        self.effects.remove(&entry.id);
        Ok(Some(Step::now(format!("records the outcome of {}", entry.operation))))
    }

    fn pass(&mut self, world: &mut World, seen: &S::Observation, undo: bool) -> Result<Step> {
        let before = undo.then(|| dump(world));
        let usual = self.supervisor.tampering.get();
        if undo {
            let after = world.rng.usize(0..3);
            self.supervisor.tampering.set(Tampering::UndoneAfter(after));
        }
        // Events have no order of their own but that of their commits.
        let position = world.read(|tx| tx.last_event_position());
        let (careful, supervisor) = (self.careful, &mut self.supervisor);
        let passed = world.ringing(|world| {
            if careful { pass_carefully(supervisor, &world.db, seen) } else { pass(supervisor, &world.db, seen) }
        });
        self.supervisor.tampering.set(usual);
        match passed {
            Ok(outcome) => {
                if self.careful && outcome.handled == 0 {
                    self.careful = false;
                }
                let filter = coord_db::EventFilter { after_position: Some(position), ..Default::default() };
                let said: Vec<String> = world
                    .read(|tx| tx.events(&filter))
                    .iter()
                    .map(|event| {
                        let about =
                            ["loop_id", "component", "test_id"].iter().find_map(|field| event.payload.get(*field)?.as_str());
                        format!("{} {}", event.event_type, about.unwrap_or_default())
                    })
                    .collect();
                let said = said.join(", ");
                Ok(Step::now(format!("passes: {} handled, {} done; says {said}", outcome.handled, outcome.actions)))
            }
            Err(error) => {
                self.careful = true;
                if usual == Tampering::Leaks {
                    let id: ComponentId = S::ID.parse().expect("an id");
                    let leak = serde_json::json!({"left": "behind"});
                    world.db.write_quietly(|tx| tx.beat(&id, HealthStatus::Degraded, Some(&leak))).expect("leaking");
                }
                if let Some(before) = before
                    && dump(world) != before
                {
                    world.ledger.leak = Some(format!("an undone pass of {} changed the database", S::ID));
                }
                if undo { Ok(Step::after(100, "passes, and is undone")) } else { Err(error) }
            }
        }
    }
}

fn dump(world: &World) -> Vec<u8> {
    let mut text = Vec::new();
    world.db.dump(&mut text).expect("dumping");
    text
}

impl<S: Joined> Actor for SupervisorActor<S> {
    fn name(&self) -> &str {
        S::ID
    }

    fn actor_id(&self) -> ActorId {
        S::ID.parse().expect("an id")
    }

    fn step(&mut self, world: &mut World) -> Result<Step> {
        world.ledger.acting.insert(S::ID.to_owned());
        let Some(running) = &mut self.running else { return self.start(world) };
        if world.elapsed() >= running.next_beat {
            let id: ComponentId = S::ID.parse().expect("an id");
            world.db.write_quietly(|tx| tx.beat(&id, HealthStatus::Healthy, None))?;
            running.next_beat = world.elapsed() + i64::try_from(world.config.heartbeat.beat_seconds * 1000).unwrap_or(i64::MAX);
            return Ok(Step::now("beats"));
        }
        if self.tampering == Tampering::Sleeps {
            return Ok(Step::after(running.next_beat - world.elapsed(), ""));
        }
        if self.tampering == Tampering::Nods {
            let told = world.read(|tx| tx.pending_deliveries(S::ID, usize::MAX));
            world.write(|tx| tx.acknowledge(S::ID, told.iter().map(|delivery| &delivery.event.id)))?;
            return Ok(Step::after(running.next_beat - world.elapsed(), ""));
        }
        if let Some(seen) = running.due.take() {
            let undo = !world.calm && !running.careful && world.chance(self.undone_percent);
            let step = running.pass(world, &seen, undo);
            running.take_up_effects(world);
            return step;
        }
        if let Some(step) = running.end_effect(world)? {
            return Ok(step);
        }
        let seen = running.supervisor.inner.see(world);
        match look(&mut running.supervisor, &world.db, &seen)? {
            Look::Due => {
                running.due = Some(seen);
                Ok(Step::now("finds something due"))
            }
            Look::NothingDue(again) => {
                running.take_up_effects(world);
                let asked = again.map_or(SLOW_LOOK_MILLIS, |at| at.millis_since(world.now()).max(1));
                let effect = running.effects.values().map(|(_, ends_at)| ends_at - world.elapsed()).min();
                let wait = asked.min(SLOW_LOOK_MILLIS).min(effect.unwrap_or(i64::MAX)).min(running.next_beat - world.elapsed());
                Ok(Step::after(wait.max(1), ""))
            }
        }
    }

    fn crash(&mut self, world: &mut World) {
        if let Some(running) = self.running.take() {
            world.kill(running.identity.pid);
            world.up.remove(S::ID);
        }
        world.ledger.idle_passes.remove(S::ID);
    }
}

impl Joined for heartbeat::Heartbeat {
    fn see(&mut self, world: &World) -> heartbeat::Observation {
        // Which processes to look at is its own judgement; what the kernel says of them is the world's.
        let mut seen = self.observe(&world.db).expect("observing");
        for (identity, liveness) in seen.processes.values_mut() {
            *liveness = world.liveness(identity.pid);
        }
        seen
    }
}

impl Joined for deadlock_detector::DeadlockDetector {
    fn see(&mut self, _: &World) {}
}

impl Joined for pm_agent::PmAgent {
    fn see(&mut self, _: &World) {}

    fn carry_out(&self, world: &mut World, _: &JournalEntry) -> Option<pm_agent::Notified> {
        Some(if world.chance(80) { pm_agent::Notified::Succeeded } else { pm_agent::Notified::Failed("no bell".to_owned()) })
    }
}

impl Joined for monitor::Monitor {
    fn see(&mut self, world: &World) -> monitor::Observation {
        let mut seen = monitor::Observation::default();
        for row in world.read(|tx| tx.loops()) {
            let changed = world.outside.worktrees.get(&row.id);
            let file = |(path, at): (&String, &coord_db::Timestamp)| coord_db::ChangedFile {
                path: path.clone(),
                fingerprint: at.to_string(),
                changed_at: Some(*at),
            };
            let workspace = monitor::WorkspaceChanges {
                base: String::new(),
                files: changed.into_iter().flatten().map(file).collect(),
                fresh: true,
                active_at: changed.and_then(|files| files.values().max().copied()),
            };
            seen.workspaces.insert(row.id, monitor::WorkspaceState::Seen(workspace));
        }
        seen
    }
}

impl Joined for regression_checker::RegressionChecker {
    fn see(&mut self, world: &World) -> regression_checker::Observation {
        regression_checker::Observation {
            head: world.outside.integration.last().map(|commit| commit.id.clone()),
            lost: Vec::new(),
        }
    }

    fn carry_out(&self, world: &mut World, entry: &JournalEntry) -> Option<regression_checker::Outcome> {
        if !world.calm && world.chance(10) {
            return Some(regression_checker::Outcome::Failed("the disk is full".to_owned()));
        }
        let field = |name: &str| entry.steps.intent[name].as_str().unwrap_or_default();
        Some(match entry.operation.as_str() {
            regression_checker::notes::CHECK_HEAD | regression_checker::notes::ASK_TESTS => checked(world, field("commit")),
            _ => round(world, field("regression")),
        })
    }
}

/// Runs the one check at a commit: it says of every test with a baseline whether it is broken there.
fn checked(world: &mut World, commit: &str) -> regression_checker::Outcome {
    let Some(place) = world.outside.place(commit) else {
        return regression_checker::Outcome::Failed("there is no such commit".to_owned());
    };
    let mut tests = Vec::new();
    for baseline in world.read(|tx| tx.baseline_tests()) {
        let known = world.read(|tx| tx.baselines(Some(&baseline.test_id)));
        let Some(newest) = known.last() else { continue };
        let reached = |hash: &str| world.outside.place(hash).is_some_and(|at| at <= place);
        tests.push(regression_checker::TestVerdict {
            outcome: match world.outside.broken_by(&baseline.test_id, place) {
                Some(_) => RunOutcome::Fail,
                None => RunOutcome::Pass,
            },
            runs: 1,
            last_good: known.iter().rev().map(|row| row.commit_hash.clone()).find(|hash| reached(hash)),
            landed_again: None,
            newest_baseline: newest.commit_hash.clone(),
            exit_code: Some(1),
            output_tail: "it fails".to_owned(),
            test: baseline.test_id,
        });
    }
    tests.retain(|verdict| verdict.outcome == RunOutcome::Fail);
    let outcome = match tests.is_empty() {
        false => RunOutcome::Fail,
        true if !world.calm && world.chance(10) => RunOutcome::Flaky,
        true => RunOutcome::Pass,
    };
    let message = if outcome == RunOutcome::Pass { String::new() } else { "the check failed".to_owned() };
    regression_checker::Outcome::Checked(regression_checker::Checked {
        outcome,
        runs: 1,
        message,
        output_tail: String::new(),
        tests,
    })
}

/// A round of a bisection. It always finds the culprit, as git would.
fn round(world: &World, regression: &str) -> regression_checker::Outcome {
    let unknown = |why: &str| Found::Unknown { why: why.to_owned(), suspects: Vec::new() };
    let row = world.read(|tx| tx.regression(regression));
    let blamed = row.and_then(|row| world.outside.broken_by(&row.test_id, world.outside.place(&row.bad_commit)?));
    let found = blamed.map_or_else(
        || unknown("it does not fail there"),
        |commit| Found::FirstBad {
            commit: CommitHash::new(&*commit.id).expect("a hash"),
            blamed_loop: commit.loop_id.parse().ok(),
            blamed_test: Some(commit.test.clone()),
        },
    );
    regression_checker::Outcome::Round(regression_checker::Round { rounds: 1, tried: Vec::new(), runs: 3, found: Some(found) })
}
