//! Loops: they go through the program's own attempt ([`coding_loop::attempt`]) and perform its commands with the floor's
//! operations, one transaction a step, around an agent, a workspace and a gate that exist only here. Some lie, are slow, stray,
//! ask, fall silent, or are driven by hand.

mod landing;

use std::cell::RefCell;
use std::rc::Rc;

use coding_loop::attempt::{self, Close, Command, Input};
use coord_db::process::ProcessIdentity;
use coord_db::{
    AcquireRequest, ActorId, ComponentId, DecisionId, DecisionStatus, Delivery, Error, ErrorCategory, Event, EventId,
    HealthStatus, LeasePath, LoopId, LoopStatus, NewEvent, Payload, Result, TestId, TestStatus, Waiting, WriteTx, payload,
};

use super::engine::{Actor, Step};
use super::world::World;

/// What there is to lease; two of these exclude a third.
const PATHS: [&str; 6] = ["src/a.rs", "src/b.rs", "src/", "Cargo.toml", "docs/guide.md", "port:5432"];
/// How many files a straying loop changes that its tests say nothing of.
const STRAY_FILES: usize = 5;
/// How long a victim of a deadlock holds back, in seconds.
const VICTIM_SECONDS: i64 = 2;
/// How often a queued acquire asks again without being woken, in milliseconds.
const ASK_MILLIS: i64 = 4_000;

/// How a loop behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    /// Does its work; the gate decides.
    Honest,
    /// Claims what is not so; the gate never agrees.
    Lying,
    /// Takes many minutes.
    Slow,
    /// Changes files that its tests say nothing of.
    Straying,
    /// Asks the human before it goes on, and waits for the answer.
    Asking,
    /// Falls silent now and then without ending, and goes on as if nothing had been.
    Hanging,
    /// Somebody drives it with `loopctl`: no process, no beat, walks away now and then.
    ByHand,
}

/// What a loop does wrong on purpose, so that a law can be seen to catch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoopFault {
    /// Nothing.
    #[default]
    None,
    /// Records a pass that no gate has seen.
    PassesWithoutGate,
    /// Takes note of a forced release and keeps everything.
    ReleasesNothing,
    /// Acts on an event in one transaction and acknowledges it in a later one.
    AcknowledgesLater,
    /// Writes its own status over a pause.
    RunsWhilePaused,
    /// Counts a failure of its agent as nobody's.
    GivesFailuresBack,
}

/// An acquire that waits.
type Queued = (String, AcquireRequest);

#[derive(Debug)]
struct Attempt {
    /// Where it stands.
    machine: attempt::Attempt,
    test: TestId,
    number: i64,
    begun_at: i64,
    to_touch: Vec<LeasePath>,
    next_touch_at: i64,
    done_at: i64,
    queued: Vec<Queued>,
    /// What it still has to ask, and what it has asked.
    to_ask: bool,
    asked: Option<DecisionId>,
    /// What was granted, and under which token.
    held: Vec<(LeasePath, i64)>,
    /// What integration was when the work was put on it; empty at the beginning.
    head: String,
    /// The gate runs until then.
    gate_until: Option<i64>,
}

/// The process of a loop, which its part of the landing train shares.
pub type Process = Rc<RefCell<Option<ProcessIdentity>>>;

/// One loop.
#[derive(Debug)]
pub struct LoopActor {
    id: LoopId,
    /// How it behaves.
    pub temper: Temper,
    fault: LoopFault,
    process: Process,
    registered: bool,
    next_beat: i64,
    attempt: Option<Attempt>,
    unacknowledged: Vec<EventId>,
}

fn path(text: &str) -> LeasePath {
    text.parse().expect("a path")
}

/// The outcome of an attempt. It depends on the seed, the test and the attempt's number alone: an attempt that was given
/// back ends the same way when it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Fails(ErrorCategory),
}

impl LoopActor {
    /// A loop that is registered already.
    #[must_use]
    pub fn new(id: LoopId, temper: Temper, fault: LoopFault) -> Self {
        Self {
            id,
            temper,
            fault,
            process: Process::default(),
            registered: false,
            next_beat: 0,
            attempt: None,
            unacknowledged: Vec::new(),
        }
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> Process {
        Rc::clone(&self.process)
    }

    fn actor(&self) -> ActorId {
        ActorId::from(&self.id)
    }

    fn fate(&self, world: &World, test: &TestId, number: i64) -> Fate {
        if self.temper == Temper::Lying {
            return Fate::Fails(ErrorCategory::Code);
        }
        let transients = world.outside.transients.get(test).copied().unwrap_or_default();
        if u64::from(transients) < world.fate((test, "transient"), 12).saturating_sub(9) {
            return Fate::Fails(ErrorCategory::Transient);
        }
        match world.fate((test, number, "fate"), 100) {
            0..70 => Fate::Passes,
            70..90 => Fate::Fails(ErrorCategory::Code),
            90..96 => Fate::Fails(ErrorCategory::Spec),
            _ => Fate::Fails(ErrorCategory::Permanent),
        }
    }

    fn start(&mut self, world: &mut World) -> Result<Step> {
        if self.temper == Temper::ByHand {
            let id = self.id.clone();
            world.write(|tx| tx.touch_by_hand(&id))?;
            self.registered = true;
            return Ok(Step::now("takes over the loop"));
        }
        let identity = self.process.borrow().clone().unwrap_or_else(|| world.spawn());
        let id = self.id.clone();
        match world.write(|tx| tx.start_loop(&id, &identity, "0")) {
            Ok(()) => {
                self.process.replace(Some(identity));
                self.registered = true;
                self.next_beat = world.elapsed() + self.beat_millis(world);
                Ok(Step::now("starts"))
            }
            Err(error) => {
                world.kill(identity.pid);
                self.process.replace(None);
                match error {
                    Error::AlreadyRunning { .. } => Ok(Step::after(5_000, "is refused: another process has it")),
                    error => Err(error),
                }
            }
        }
    }

    fn beat_millis(&self, world: &World) -> i64 {
        i64::try_from(world.config.heartbeat.beat_seconds * 1000).unwrap_or(i64::MAX)
    }

    fn beat(&mut self, world: &mut World) -> Result<Step> {
        let (id, ttl) = (self.id.clone(), world.config.lease.ttl_seconds);
        world.db.write_quietly(|tx| {
            tx.beat(&ComponentId::from(&id), HealthStatus::Healthy, None)?;
            tx.renew_all(&id, ttl)
        })?;
        self.next_beat = world.elapsed() + self.beat_millis(world);
        Ok(Step::now("beats"))
    }

    /// Ends what the loop has, in the transaction of the event that asks for it.
    fn let_go(tx: &WriteTx<'_>, id: &LoopId, reason: &str, cause: Option<&Event>) -> Result<()> {
        tx.release_work(id, cause)?;
        for test in tx.tests(Some(id), Some(TestStatus::InProgress))? {
            if tx.open_landing(&test.id)?.is_some() {
                continue;
            }
            tx.give_back(&test.id, id, reason)?;
            if reason == "force_release" {
                tx.delay_test(&test.id, tx.now().plus_seconds(VICTIM_SECONDS))?;
            }
        }
        Ok(())
    }

    fn inbox(&mut self, world: &mut World) -> Result<Step> {
        if !self.unacknowledged.is_empty() {
            world.write(|tx| tx.acknowledge(self.id.as_str(), &self.unacknowledged))?;
            self.unacknowledged.clear();
            return Ok(Step::now("acknowledges late"));
        }
        let (id, fault) = (self.id.clone(), self.fault);
        let (handled, done, stopped) = world.write(|tx| {
            let mut done = Vec::new();
            let mut handled = Vec::new();
            let mut stop: Option<Event> = None;
            for Delivery { event, .. } in tx.pending_deliveries(id.as_str(), usize::MAX)? {
                match event.parse() {
                    Ok(Payload::PauseRequested(_) | Payload::ResumeRequested(_)) => {
                        handled.push(event);
                        continue;
                    }
                    Ok(Payload::RollbackTriggered(rollback)) if rollback.loop_id == id => {
                        let done = payload::RollbackDone {
                            loop_id: id.clone(),
                            checkpoint_id: rollback.checkpoint_id,
                            git_ref: "refs/coding-loops/checkpoint".to_owned(),
                        };
                        tx.publish(&NewEvent::new(ActorId::from(&id), done).caused_by(&event))?;
                        stop = Some(event.clone());
                    }
                    Ok(Payload::ForceRelease(payload::ForceRelease { loop_id, .. }))
                        if loop_id == id && fault != LoopFault::ReleasesNothing =>
                    {
                        stop = Some(event.clone());
                    }
                    Ok(Payload::RestartRequested(payload::RestartRequested { loop_id, .. })) if loop_id == id => {
                        stop = Some(event.clone());
                    }
                    _ => {}
                }
                done.push(event.id.clone());
                handled.push(event);
            }
            let pauses = tx.settle_pauses(&id)?;
            let paused = tx.apply_pauses(&id, &pauses)?;
            if paused || stop.is_some() {
                let reason = stop.as_ref().map_or("paused", |event| event.event_type.as_str());
                Self::let_go(tx, &id, reason, stop.as_ref())?;
            }
            if fault != LoopFault::AcknowledgesLater {
                tx.acknowledge(id.as_str(), &done)?;
            }
            let stopped = if paused { Some("paused".to_owned()) } else { stop.map(|event| event.event_type) };
            Ok((handled, done, stopped))
        })?;
        if fault == LoopFault::RunsWhilePaused && stopped.as_deref() == Some("paused") {
            // No operation of the database does this.
            let sql = format!("UPDATE loops SET status = 'running' WHERE id = '{id}'");
            world.db.execute_foreign(&sql)?;
        }
        let kinds: Vec<&str> = handled.iter().map(|event| event.event_type.as_str()).collect();
        let what = format!("takes {}{}", kinds.join(", "), stopped.map(|why| format!(", lets go: {why}")).unwrap_or_default());
        for event in &handled {
            world.carried_out(self.id.as_str(), event.id.as_str());
        }
        if fault == LoopFault::AcknowledgesLater && world.chance(50) {
            self.unacknowledged = done;
        }
        if what.contains("lets go") {
            self.attempt = None;
        }
        Ok(Step::now(what))
    }

    fn claim(&mut self, world: &mut World) -> Result<Step> {
        let id = self.id.clone();
        let by_hand = self.temper == Temper::ByHand;
        let (ready, retry) = world.read(|tx| Ok((tx.next_ready_test(&id, !by_hand)?, tx.next_retry_at(&id)?)));
        if ready.is_none() {
            let wait = retry.map_or(i64::MAX, |at| at.millis_since(world.now()).max(1));
            return Ok(Step::after(wait.min(15_000), "has no test ready"));
        }
        let Some(test) = world.write(|tx| tx.claim_next_test(&id, !by_hand))? else {
            return Ok(Step::after(1_000, "finds nothing to claim"));
        };
        let now = world.elapsed();
        let name = test.id.to_string();
        let many = 1 + usize::try_from(world.fate((&name, "files"), 3)).unwrap_or_default();
        let mut paths: Vec<LeasePath> = Vec::new();
        for at in 0..many {
            let wanted = path(PATHS[usize::try_from(world.fate((&name, at), PATHS.len() as u64)).unwrap_or_default()]);
            if !paths.iter().any(|known| known.overlaps(&wanted)) {
                paths.push(wanted);
            }
        }
        // Attempts touch their files in an order of their own.
        let turn = usize::try_from(world.fate((&name, test.attempts, "turn"), 3)).unwrap_or_default() % paths.len();
        paths.rotate_left(turn);
        if self.temper == Temper::Straying {
            // Taken from the end: before its own.
            paths.extend((0..STRAY_FILES).map(|at| path(&format!("elsewhere/{}-{at}.rs", self.id))));
        }
        let work = match self.temper {
            Temper::Slow => world.millis(120_000, 420_000),
            _ => world.millis(5_000, 40_000),
        };
        self.attempt = Some(Attempt {
            machine: attempt::Attempt::new(),
            test: test.id,
            number: test.attempts,
            begun_at: now,
            to_touch: paths,
            next_touch_at: now + work / 8,
            done_at: now + work,
            queued: Vec::new(),
            to_ask: self.temper == Temper::Asking,
            asked: None,
            held: Vec::new(),
            head: String::new(),
            gate_until: None,
        });
        Ok(Step::after(work / 8, format!("claims {name}, attempt {}", test.attempts)))
    }

    fn request(&self, world: &World, wanted: LeasePath, test: &TestId) -> AcquireRequest {
        AcquireRequest {
            loop_id: self.id.clone(),
            paths: vec![wanted],
            ttl_seconds: world.config.lease.ttl_seconds,
            reason: Some("changed by the agent".to_owned()),
            test_id: Some(test.clone()),
            automatic: true,
        }
    }

    fn acquire(&mut self, world: &mut World, wanted: LeasePath) -> Result<String> {
        let silent = world.config.lease.silent_waiter_seconds;
        let Some(attempt) = self.attempt.as_ref() else { return Ok(String::new()) };
        let request = self.request(world, wanted.clone(), &attempt.test);
        if !wanted.as_str().contains(':') && !wanted.is_subtree() {
            // The agent has changed it already; that is how the loop knows of it.
            let changed_at = world.now();
            world.outside.worktrees.entry(self.id.clone()).or_default().insert(wanted.to_string(), changed_at);
        }
        let (queued, answer) = world.write(|tx| tx.acquire_or_queue(&request, tx.now().plus_seconds(60), silent))?;
        let Some(attempt) = self.attempt.as_mut() else { return Ok(String::new()) };
        Ok(match answer {
            Waiting::Granted(grant) => {
                attempt.held.retain(|(known, _)| *known != wanted);
                attempt.held.push((wanted.clone(), grant.fencing_token));
                format!("leases {wanted} under {}", grant.fencing_token)
            }
            Waiting::Queued(blockers) | Waiting::GaveUp(blockers) => {
                attempt.queued.extend(queued.map(|id| (id, request)));
                let holders: Vec<&str> = blockers.iter().map(|blocker| blocker.locked_by.as_str()).collect();
                format!("queues for {wanted} behind {}", holders.join(", "))
            }
        })
    }

    fn ask_again(&mut self, world: &mut World, at: usize) -> Result<String> {
        let silent = world.config.lease.silent_waiter_seconds;
        let Some((id, request)) = self.attempt.as_ref().and_then(|attempt| attempt.queued.get(at)).cloned() else {
            return Ok(String::new());
        };
        let wanted = request.paths[0].clone();
        let answer = world.write(|tx| {
            // Putting it off at every asking would be a change that wakes the others, who ask, and so on for ever.
            let runs_out = tx.now().plus_seconds(30);
            if tx.lease_requests()?.iter().any(|known| known.id == id && known.wait_until < runs_out) {
                tx.extend_request(&id, tx.now().plus_seconds(60))?;
            }
            tx.retry_request(&id, &request, silent)
        })?;
        let Some(attempt) = self.attempt.as_mut() else { return Ok(String::new()) };
        Ok(match answer {
            Waiting::Granted(grant) => {
                attempt.queued.remove(at);
                attempt.held.retain(|(known, _)| *known != wanted);
                attempt.held.push((wanted.clone(), grant.fencing_token));
                format!("is granted {wanted} under {}", grant.fencing_token)
            }
            Waiting::Queued(_) => format!("asks again for {wanted}"),
            Waiting::GaveUp(_) => {
                attempt.queued.remove(at);
                attempt.to_touch.push(wanted.clone());
                format!("has lost its place for {wanted}")
            }
        })
    }

    /// Performs the command that the attempt has come to.
    fn work(&mut self, world: &mut World) -> Result<Step> {
        let Some(attempt) = self.attempt.as_ref() else { return Ok(Step::now("")) };
        let command = attempt.machine.doing();
        if self.has_lost_leases(world)? {
            return self.give_back_what_was_lost(world);
        }
        match command {
            Command::Begin => self.done(Step::now("begins")),
            Command::Work => self.agent(world),
            Command::Look | Command::AskOwners | Command::Approve => self.done(Step::now(format!("{command:?}"))),
            Command::LeaseFiles => self.lease_what_is_left(world),
            Command::AwaitLeases => self.await_leases(world),
            Command::PutOnHead => {
                let head = world.outside.head();
                if let Some(attempt) = self.attempt.as_mut() {
                    attempt.head = head;
                }
                self.done(Step::now("puts the work on integration"))
            }
            Command::Gate => self.gate(world),
            Command::Queue => self.queue(world),
            Command::Close(Close::Queued) => {
                self.attempt = None;
                Ok(Step::now("goes on to its next test"))
            }
            Command::Close(close) => {
                let test = self.attempt.take().map(|attempt| attempt.test);
                let id = self.id.clone();
                world.write(|tx| Self::let_go(tx, &id, "ended", None))?;
                Ok(Step::now(format!("gives {} back: {close:?}", test.map(|test| test.to_string()).unwrap_or_default())))
            }
        }
    }

    /// The command is done; the attempt goes on.
    fn done(&mut self, step: Step) -> Result<Step> {
        if let Some(attempt) = self.attempt.as_mut() {
            attempt.machine.next(Input::Done);
        }
        Ok(step)
    }

    fn has_lost_leases(&self, world: &World) -> Result<bool> {
        let (Some(attempt), id) = (&self.attempt, &self.id) else { return Ok(false) };
        let holds = |tx: &coord_db::ReadTx<'_>| {
            attempt.held.iter().map(|(path, token)| tx.holds(id, path, *token)).collect::<Result<Vec<bool>>>()
        };
        // While the agent works it is seen at its end.
        Ok(attempt.machine.doing() != Command::Work && world.read(holds).contains(&false))
    }

    fn give_back_what_was_lost(&mut self, world: &mut World) -> Result<Step> {
        let id = self.id.clone();
        world.write(|tx| Self::let_go(tx, &id, "its leases were lost", None))?;
        let test = self.attempt.take().map(|attempt| attempt.test.to_string()).unwrap_or_default();
        Ok(Step::after(1_000, format!("has lost its leases, gives {test} back")))
    }

    /// The agent changes files, each of which is leased, and may have to ask.
    fn agent(&mut self, world: &mut World) -> Result<Step> {
        let now = world.elapsed();
        let Some(attempt) = self.attempt.as_mut() else { return Ok(Step::now("")) };
        if now >= attempt.next_touch_at
            && let Some(wanted) = attempt.to_touch.last().cloned()
        {
            let what = self.acquire(world, wanted)?;
            if let Some(attempt) = self.attempt.as_mut() {
                attempt.to_touch.pop();
                attempt.next_touch_at = now + (attempt.done_at - now).max(0) / 4;
            }
            return Ok(Step::after(500, what));
        }
        if !attempt.queued.is_empty() {
            return self.ask_again_for_one(world);
        }
        if attempt.to_touch.is_empty() && attempt.to_ask {
            return self.ask(world);
        }
        if let Some(question) = &attempt.asked
            && world.read(|tx| tx.decision(question)).status == DecisionStatus::Pending
        {
            return Ok(Step::after(15_000, "waits for an answer"));
        }
        let next = if attempt.to_touch.is_empty() { attempt.done_at } else { attempt.next_touch_at };
        if now < next {
            return Ok(Step::after(next - now, "works"));
        }
        if !attempt.to_touch.is_empty() {
            return Ok(Step::after(1, "works"));
        }
        self.done(Step::now("says that it is done"))
    }

    fn ask_again_for_one(&mut self, world: &mut World) -> Result<Step> {
        let Some(attempt) = self.attempt.as_ref() else { return Ok(Step::now("")) };
        let at = usize::try_from(world.elapsed() / ASK_MILLIS).unwrap_or_default() % attempt.queued.len().max(1);
        let what = self.ask_again(world, at)?;
        let granted = what.starts_with("is granted");
        Ok(Step::after(if granted { 0 } else { ASK_MILLIS }, what))
    }

    /// What the agent has changed is leased already, unless a place in a queue was lost.
    fn lease_what_is_left(&mut self, world: &mut World) -> Result<Step> {
        let Some(wanted) = self.attempt.as_mut().and_then(|attempt| attempt.to_touch.pop()) else {
            return self.done(Step::now("has leased what it changed"));
        };
        let what = self.acquire(world, wanted)?;
        Ok(Step::after(500, what))
    }

    fn await_leases(&mut self, world: &mut World) -> Result<Step> {
        let Some(attempt) = self.attempt.as_mut() else { return Ok(Step::now("")) };
        if !attempt.queued.is_empty() {
            return self.ask_again_for_one(world);
        }
        if let Some(wanted) = attempt.to_touch.pop() {
            let what = self.acquire(world, wanted)?;
            return Ok(Step::after(500, what));
        }
        self.done(Step::now("holds what it needs"))
    }
}

impl Actor for LoopActor {
    fn name(&self) -> &str {
        self.id.as_str()
    }

    fn step(&mut self, world: &mut World) -> Result<Step> {
        world.ledger.acting.insert(self.id.to_string());
        if self.registered && self.temper != Temper::ByHand && self.process.borrow().is_none() {
            // It has died as a judge.
            self.crash(world);
        }
        if self.attempt.is_none() {
            world.outside.worktrees.remove(&self.id);
        }
        let by_hand = self.temper == Temper::ByHand;
        let (row, told) = world.read(|tx| Ok((tx.loop_row(&self.id)?, tx.has_deliveries(self.id.as_str())?)));
        let taken_for_dead = !matches!(row.status, LoopStatus::Running | LoopStatus::Paused)
            || (!by_hand && row.pid != self.process.borrow().as_ref().map(|process| process.pid));
        if !self.registered || taken_for_dead {
            self.attempt = None;
            return self.start(world);
        }
        if !world.calm && matches!(self.temper, Temper::Hanging | Temper::ByHand) && world.chance(3) {
            let away = world.millis(60_000, 400_000);
            return Ok(Step::deaf(away, if by_hand { "walks away" } else { "falls silent" }));
        }
        if !by_hand && world.elapsed() >= self.next_beat {
            return self.beat(world);
        }
        if told {
            return self.inbox(world);
        }
        if row.status == LoopStatus::Paused {
            return Ok(Step::after(15_000, "is paused"));
        }
        if self.attempt.as_ref().is_some_and(|attempt| row.current_test_id.as_ref() != Some(&attempt.test)) {
            let id = self.id.clone();
            world.write(|tx| Self::let_go(tx, &id, "taken away", None))?;
            self.attempt = None;
            return Ok(Step::now("finds its test taken away"));
        }
        // An actor that has lost its memory in a crash has a current test that it does not know.
        if let (None, Some(test)) = (&self.attempt, row.current_test_id) {
            let id = self.id.clone();
            world.write(|tx| Self::let_go(tx, &id, "unknown current test", None))?;
            return Ok(Step::now(format!("gives {test} back")));
        }
        let step = match self.attempt {
            None => self.claim(world),
            Some(_) => self.work(world),
        }?;
        Ok(if by_hand { step } else { step.at_most(self.next_beat - world.elapsed()) })
    }

    fn crash(&mut self, world: &mut World) {
        if let Some(process) = self.process.take() {
            world.kill(process.pid);
        }
        self.registered = false;
        self.attempt = None;
        self.unacknowledged.clear();
    }

    fn actor_id(&self) -> ActorId {
        self.actor()
    }
}
