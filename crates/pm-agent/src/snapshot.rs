//! The input of the decision, read in one transaction: the inbox, and the rows to which it and open subjects refer.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::{
    Alert, BASE_QUESTION, BASE_SLOW_QUESTION, ChangeRequest, ClockChangeSeen, Config, Conflict, Decision, ErrorCategory,
    EventFilter, EventId, HealthStatus, Knowledge, Loop, LoopId, LoopProgress, LoopStatus, Pause, Payload, ReadTx, Regression,
    RequestStatus, Result, Test, TestId, TestStatus, Timestamp, silent_millis,
};
use serde_json::Value;
use supervisor::Inbound;

use crate::matters::{
    CYCLE_OF_TESTS, REGRESSION, SYSTEM, about_commit, about_test, budget_fingerprint, is_own, tests_in_cycle, text_of,
};
use crate::perform::OPERATION;
use crate::report::{self, DailyReport};

/// Maximum number of questions asked in one pass because of rows alone.
pub const MAX_QUESTIONS: usize = 20;
/// Maximum number of failed tests read in one pass.
const MAX_FAILURES: usize = 100;
/// Maximum number of notify commands that run in parallel.
pub const MAX_NOTIFYING: usize = 4;
/// Age up to which decisions settled by another process are announced.
const ANNOUNCE_SECONDS: i64 = 7 * 24 * 3600;

/// An open conflict.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenConflict {
    /// The row.
    pub row: Conflict,
    /// When each loop changed the file first, if the event still exists.
    pub times: Option<[(LoopId, Timestamp); 2]>,
    /// The event with which the human has resumed the loser since.
    pub resumed_by_human: Option<EventId>,
}

/// An active pause of a loop by pm.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnPause {
    /// The row.
    pub row: Pause,
    /// The pause was lifted, but the loop has not noticed it yet.
    pub lifted: bool,
}

/// A pending test whose last attempt failed in a category that pm handles.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The test.
    pub test: Test,
    /// The event of the failure.
    pub event: Option<EventId>,
    /// The human was asked about this attempt.
    pub asked: bool,
    /// pm has paused the loop since this attempt.
    pub paused: bool,
}

impl Failure {
    /// Start of the attempt.
    #[must_use]
    pub fn attempted(&self) -> Timestamp {
        self.test.last_attempt_at.unwrap_or(self.test.created_at)
    }
}

/// A pending notification.
#[derive(Debug, Clone, PartialEq)]
pub enum Unnotified {
    /// A question.
    Decision(Decision),
    /// A critical alert.
    Alert(Alert),
}

/// The input of the decision.
#[derive(Debug, Clone, PartialEq)]
pub struct PmSnapshot {
    /// The time of the transaction.
    pub now: Timestamp,
    /// The unread events.
    pub inbox: Vec<Inbound>,
    /// All loops.
    pub loops: BTreeMap<LoopId, Loop>,
    /// Progress of each queue; read only if needed.
    pub progress: BTreeMap<LoopId, LoopProgress>,
    /// The current test of each loop.
    pub current_tests: BTreeMap<LoopId, Test>,
    /// The tests to which the inbox and open subjects refer, if they exist.
    pub tests: BTreeMap<TestId, Test>,
    /// The dependents of blocked tests.
    pub dependents: BTreeMap<TestId, Vec<TestId>>,
    /// Open conflicts, oldest first.
    pub conflicts: Vec<OpenConflict>,
    /// Open decisions, oldest first.
    pub decisions: Vec<Decision>,
    /// The subjects of all holds.
    pub holds: BTreeSet<String>,
    /// A check that is not ignored fails at the head of integration.
    pub base_is_red: bool,
    /// Tree and check of the slow checks with an open question that have ended.
    pub base_known: BTreeSet<(String, String)>,
    /// Decisions that another process settled without an event.
    pub settled_elsewhere: Vec<Decision>,
    /// The last decision for each possible question, by fingerprint.
    pub questions: BTreeMap<String, Decision>,
    /// Blocked tests without a question, at most [`MAX_QUESTIONS`].
    pub blocked: Vec<Test>,
    /// The last event that reported each of them as blocked, if any.
    pub blocked_by: BTreeMap<TestId, EventId>,
    /// Pending tests whose dependency cannot pass by itself.
    pub stalled: Vec<Test>,
    /// Pending tests whose last attempt failed in a category that pm handles.
    pub failures: Vec<Failure>,
    /// The pending tests of loops that have been dead for long, or about which there is an open question.
    pub queues: BTreeMap<LoopId, Vec<Test>>,
    /// Running loops that have been idle for a while.
    pub idle: BTreeSet<LoopId>,
    /// The event after which each of them became idle, if known; read only if a loop is overloaded.
    pub ran_dry: BTreeMap<LoopId, EventId>,
    /// The queues of overloaded running loops; read only if a loop is idle.
    pub overloaded: BTreeMap<LoopId, Vec<Test>>,
    /// The pauses of pm.
    pub own_pauses: Vec<OwnPause>,
    /// Loops with any active pause.
    pub paused: BTreeSet<LoopId>,
    /// The event that reported the death of each loop in [`PmSnapshot::queues`].
    pub deaths: BTreeMap<LoopId, EventId>,
    /// Loops that are not dead according to heartbeat.
    pub beating: BTreeSet<LoopId>,
    /// Loops that a budget has paused and nobody has resumed.
    pub stopped_by_budget: BTreeSet<LoopId>,
    /// Pending change requests.
    pub change_requests: Vec<ChangeRequest>,
    /// Items of knowledge to which the inbox and open decisions refer.
    pub knowledge: BTreeMap<String, Knowledge>,
    /// When the regression of each event was detected first.
    pub seen_to_fail: BTreeMap<EventId, Timestamp>,
    /// Open regressions; read only if the inbox reports one.
    pub regressions: Vec<Regression>,
    /// End of the grace period after a sleep or a change of the clock, in which no loop counts as lost.
    pub grace_until: Option<Timestamp>,
    /// Recent sleeps and clock changes.
    pub clock_changes: Vec<ClockChangeSeen>,
    /// Open alerts of pm.
    pub alerts: Vec<Alert>,
    /// Pending notifications, if there is a notify command.
    pub unnotified: Vec<Unnotified>,
    /// Number of running notify commands.
    pub notifying: usize,
    /// The report at a time of day, if there is to be one.
    pub report: Option<DailyReport>,
}

impl PmSnapshot {
    /// An empty snapshot.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            inbox: Vec::new(),
            loops: BTreeMap::new(),
            progress: BTreeMap::new(),
            current_tests: BTreeMap::new(),
            tests: BTreeMap::new(),
            dependents: BTreeMap::new(),
            conflicts: Vec::new(),
            decisions: Vec::new(),
            holds: BTreeSet::new(),
            base_is_red: false,
            base_known: BTreeSet::new(),
            settled_elsewhere: Vec::new(),
            questions: BTreeMap::new(),
            blocked: Vec::new(),
            blocked_by: BTreeMap::new(),
            stalled: Vec::new(),
            failures: Vec::new(),
            queues: BTreeMap::new(),
            idle: BTreeSet::new(),
            ran_dry: BTreeMap::new(),
            overloaded: BTreeMap::new(),
            own_pauses: Vec::new(),
            paused: BTreeSet::new(),
            deaths: BTreeMap::new(),
            beating: BTreeSet::new(),
            stopped_by_budget: BTreeSet::new(),
            change_requests: Vec::new(),
            knowledge: BTreeMap::new(),
            seen_to_fail: BTreeMap::new(),
            regressions: Vec::new(),
            grace_until: None,
            clock_changes: Vec::new(),
            alerts: Vec::new(),
            unnotified: Vec::new(),
            notifying: 0,
            report: None,
        }
    }

    /// The row of a registered and running loop.
    #[must_use]
    pub fn running(&self, id: &LoopId) -> Option<&Loop> {
        self.loops.get(id).filter(|row| row.status == LoopStatus::Running)
    }
}

/// When the queue of a dead loop may be moved. The time for which the machine has slept since is added.
pub(crate) fn lost_at(config: &Config, snapshot: &PmSnapshot, row: &Loop) -> Timestamp {
    let since = row.died_at.unwrap_or(row.updated_at);
    let silent = silent_millis(snapshot.now, since, &snapshot.clock_changes);
    let left = config.pm.reassign_after_seconds.max(0).saturating_mul(1000).saturating_sub(silent);
    Timestamp::from_millis(snapshot.now.as_millis().saturating_add(left))
}

/// The ids to which the inbox and open subjects refer.
#[derive(Default)]
struct Named {
    tests: BTreeSet<String>,
    dependents_of: BTreeSet<TestId>,
    knowledge: BTreeSet<String>,
    matters: BTreeSet<String>,
    cleared: bool,
}

impl Named {
    fn by_inbox(&mut self, inbox: &[Inbound]) {
        for inbound in inbox {
            match &inbound.payload {
                Payload::TestBlocked(payload) => {
                    self.tests.insert(payload.test_id.to_string());
                    self.dependents_of.insert(payload.test_id.clone());
                    self.matters.insert(about_test(payload.test_id.as_str()));
                }
                Payload::StuckDetected(payload) => self.tests.extend(payload.test_id.as_ref().map(ToString::to_string)),
                Payload::RegressionDetected(payload) => {
                    self.tests.insert(payload.test_id.to_string());
                    self.tests.extend(payload.blamed_test.as_ref().map(ToString::to_string));
                    let matter = payload.first_bad_commit.as_deref().unwrap_or(payload.test_id.as_str());
                    self.matters.insert(about_commit(matter));
                }
                Payload::RegressionCleared(_) => self.cleared = true,
                Payload::ResourceWarning(_) => {
                    self.tests.extend(text_of(&inbound.event.payload, "test_id").map(str::to_owned));
                }
                Payload::KnowledgeConflict(payload) => {
                    self.knowledge.insert(payload.new_knowledge_id.clone());
                    self.knowledge.insert(payload.existing_knowledge_id.clone());
                }
                _ => {}
            }
        }
    }

    fn by_decision(&mut self, decision: &Decision) {
        for key in ["test_id", "blamed_test", "dependency"] {
            self.tests.extend(text_of(&decision.context, key).map(str::to_owned));
        }
        for key in ["new_knowledge_id", "existing_knowledge_id"] {
            self.knowledge.extend(text_of(&decision.context, key).map(str::to_owned));
        }
        if decision.decision_type == CYCLE_OF_TESTS {
            self.tests.extend(tests_in_cycle(&decision.context).map(|(id, _)| id.to_owned()));
        }
    }
}

/// Reads the snapshot.
pub fn load(config: &Config, tx: &ReadTx<'_>, inbox: Vec<Inbound>) -> Result<PmSnapshot> {
    let mut snapshot = PmSnapshot::at(tx.now());
    snapshot.clock_changes = tx.clock_changes()?;
    let mut named = Named::default();
    named.by_inbox(&inbox);
    snapshot.loops = tx.loops()?.into_iter().map(|row| (row.id.clone(), row)).collect();
    for test in tx.current_tests()? {
        let current = snapshot.loops.get(&test.loop_id).and_then(|row| row.current_test_id.as_ref()) == Some(&test.id);
        if current || !snapshot.current_tests.contains_key(&test.loop_id) {
            snapshot.current_tests.insert(test.loop_id.clone(), test);
        }
    }
    load_conflicts(tx, &mut snapshot, &mut named)?;
    snapshot.alerts = tx.open_alerts_of("pm")?;
    snapshot.decisions = tx.decisions(true)?;
    snapshot.holds = tx.all_holds()?.into_iter().map(|hold| hold.subject).collect();
    if snapshot.decisions.iter().any(|decision| decision.decision_type == BASE_QUESTION) {
        snapshot.base_is_red = !tx.red_base()?.is_empty();
    }
    for decision in snapshot.decisions.iter().filter(|decision| decision.decision_type == BASE_SLOW_QUESTION) {
        if let Some(tree) = text_of(&decision.context, "tree") {
            let runs = tx.base_runs(tree)?.into_iter().map(|run| (run.tree_hash, run.check_hash));
            snapshot.base_known.extend(runs);
        }
    }
    snapshot.settled_elsewhere = tx.unannounced_decisions(snapshot.now.plus_seconds(-ANNOUNCE_SECONDS), MAX_QUESTIONS)?;
    for decision in snapshot.decisions.iter().chain(&snapshot.settled_elsewhere).filter(|decision| is_own(decision)) {
        named.by_decision(decision);
    }
    snapshot.blocked = tx.unasked_blocked_tests(MAX_QUESTIONS)?;
    for test in &snapshot.blocked {
        named.dependents_of.insert(test.id.clone());
        let filter = EventFilter {
            event_type: Some("test_blocked".to_owned()),
            test_id: Some(test.id.to_string()),
            limit: Some(1),
            ..EventFilter::default()
        };
        snapshot.blocked_by.extend(tx.events(&filter)?.pop().map(|event| (test.id.clone(), event.id)));
    }
    snapshot.stalled = tx.stalled_tests()?;
    for test in &snapshot.stalled {
        named.matters.insert(about_test(test.id.as_str()));
        if let Some(dependency) = &test.depends_on {
            named.tests.insert(dependency.to_string());
            named.matters.insert(about_test(dependency.as_str()));
        }
    }
    load_failures(tx, &mut snapshot, &mut named)?;
    for test in named.dependents_of {
        let dependents = tx.dependents(&test)?.into_iter().map(|test| test.id).collect();
        snapshot.dependents.insert(test, dependents);
    }
    for id in named.tests {
        if let Some(test) = tx.find_test(&id)? {
            snapshot.tests.insert(test.id.clone(), test);
        }
    }
    for id in named.knowledge {
        if let Ok(item) = tx.knowledge(&id) {
            snapshot.knowledge.insert(id, item);
        }
    }
    if named.cleared {
        snapshot.regressions = tx.regressions(true)?;
    }
    snapshot.change_requests = tx.change_requests(Some(RequestStatus::Pending))?;
    let has_conflict = inbox.iter().any(|inbound| matches!(inbound.payload, Payload::FileConflict(_)));
    load_lost(config, tx, &mut snapshot, &mut named.matters, has_conflict)?;
    for inbound in &inbox {
        if let Payload::ResourceWarning(payload) = &inbound.payload {
            named.matters.insert(budget_fingerprint(inbound, payload, &snapshot.current_tests));
        }
    }
    for inbound in &inbox {
        if let Payload::RegressionDetected(payload) = &inbound.payload
            && let Some(commit) = &payload.first_bad_commit
            && let Some(row) = tx.regression_since(&payload.test_id, commit)?
        {
            snapshot.seen_to_fail.insert(inbound.event.id.clone(), row.detected_at);
        }
    }
    let matters: Vec<String> = named.matters.into_iter().collect();
    for decision in tx.last_decisions_about(&matters)? {
        // The effect of an answer about a commit shows in the test that is done again.
        for key in ["test_id", "blamed_test"] {
            let named = decision.context.get(key).and_then(Value::as_str);
            let named = named.filter(|_| decision.decision_type == REGRESSION);
            if let Some(test) = named.map(|id| tx.find_test(id)).transpose()?.flatten() {
                snapshot.tests.insert(test.id.clone(), test);
            }
        }
        if let Some(fingerprint) = decision.fingerprint.clone() {
            snapshot.questions.insert(fingerprint, decision);
        }
    }
    load_pauses(tx, &mut snapshot)?;
    load_unnotified(config, tx, &mut snapshot)?;
    snapshot.report = report::load(config, tx)?;
    snapshot.inbox = inbox;
    Ok(snapshot)
}

fn load_failures(tx: &ReadTx<'_>, snapshot: &mut PmSnapshot, named: &mut Named) -> Result<()> {
    let asking = snapshot.alerts.iter().any(|alert| alert.fingerprint.as_deref() == Some(SYSTEM));
    let tests = tx.tests_that_failed(MAX_FAILURES)?;
    if asking || tests.iter().any(|test| test.error_category == Some(ErrorCategory::System)) {
        named.matters.insert(SYSTEM.to_owned());
    }
    for test in tests {
        let attempted = test.last_attempt_at.unwrap_or(test.created_at);
        let filter = EventFilter {
            event_type: Some("test_failed".to_owned()),
            test_id: Some(test.id.to_string()),
            limit: Some(1),
            ..EventFilter::default()
        };
        let event = tx.events(&filter)?.pop().map(|event| event.id);
        let asked = tx.asked_about_test_since(&test.id, attempted)?;
        let paused = test.error_category == Some(ErrorCategory::Resource)
            && tx.newest_event_for_loop("pause_requested", "pm", test.loop_id.as_str(), attempted)?.is_some();
        named.matters.insert(about_test(test.id.as_str()));
        snapshot.failures.push(Failure { test, event, asked, paused });
    }
    Ok(())
}

fn load_conflicts(tx: &ReadTx<'_>, snapshot: &mut PmSnapshot, named: &mut Named) -> Result<()> {
    for row in tx.conflicts(true)? {
        let mut times = None;
        let mut resumed_by_human = None;
        if let Some(loser) = &row.loser {
            named.tests.extend(row.winner_test.as_ref().map(ToString::to_string));
            resumed_by_human =
                tx.newest_event_for_loop("resume_requested", "human", loser.as_str(), row.detected_at)?.map(|event| event.id);
        } else if let Some(event) = &row.event_id
            && let Some(event) = tx.event(event.as_str())?
            && let Ok(Payload::FileConflict(payload)) = event.parse()
        {
            times = Some([(payload.loop_a, payload.time_a), (payload.loop_b, payload.time_b)]);
        }
        snapshot.conflicts.push(OpenConflict { row, times, resumed_by_human });
    }
    Ok(())
}

fn load_lost(
    config: &Config,
    tx: &ReadTx<'_>,
    snapshot: &mut PmSnapshot,
    matters: &mut BTreeSet<String>,
    compare: bool,
) -> Result<()> {
    let mut wanted: BTreeSet<LoopId> = snapshot
        .decisions
        .iter()
        .filter(|decision| is_own(decision) && decision.decision_type == "lost_loop")
        .filter_map(|decision| text_of(&decision.context, "loop_id")?.parse().ok())
        .collect();
    let dead = snapshot.loops.values().filter(|row| row.status == LoopStatus::Error);
    wanted.extend(dead.filter(|row| lost_at(config, snapshot, row) <= snapshot.now).map(|row| row.id.clone()));
    for id in wanted {
        let queue = tx.tests(Some(&id), Some(TestStatus::Pending))?;
        if !queue.is_empty() {
            matters.insert(format!("lost:{id}"));
            if let Some(died) = snapshot.loops.get(&id).and_then(|row| row.died_at) {
                let filter = EventFilter {
                    event_type: Some("component_degraded".to_owned()),
                    since: Some(died),
                    ..EventFilter::default()
                };
                let event =
                    tx.events(&filter)?.into_iter().find(|event| text_of(&event.payload, "component") == Some(id.as_str()));
                snapshot.deaths.extend(event.map(|event| (id.clone(), event.id)));
            }
            snapshot.queues.insert(id, queue);
        }
    }
    if tx.in_clock_grace()? {
        snapshot.grace_until = Some(tx.clock_grace_until()?.unwrap_or_else(|| snapshot.now.plus_seconds(30)));
    }
    if compare || !snapshot.conflicts.is_empty() || !snapshot.queues.is_empty() {
        snapshot.progress = tx.loop_progress()?.into_iter().map(|row| (row.loop_id.clone(), row)).collect();
    }
    load_load(config, tx, snapshot)?;
    if !snapshot.queues.is_empty() || !snapshot.overloaded.is_empty() {
        let (degraded, dead) = (config.heartbeat.degraded_seconds, config.heartbeat.dead_seconds);
        for component in tx.components()? {
            let verdict = component.verdict(snapshot.now, degraded, dead);
            if matches!(verdict, HealthStatus::Healthy | HealthStatus::Degraded)
                && let Ok(id) = component.component.parse::<LoopId>()
            {
                snapshot.beating.insert(id);
            }
        }
    }
    Ok(())
}

/// Reads which loops are idle and which are overloaded.
fn load_load(config: &Config, tx: &ReadTx<'_>, snapshot: &mut PmSnapshot) -> Result<()> {
    let Ok(most) = usize::try_from(config.pm.overloaded_tests) else { return Ok(()) };
    if most == 0 {
        return Ok(());
    }
    let busy = |id: &LoopId| snapshot.current_tests.contains_key(id);
    let running = || snapshot.loops.values().filter(|row| row.status == LoopStatus::Running);
    let mut idle = BTreeSet::new();
    for row in running().filter(|row| !busy(&row.id) && lost_at(config, snapshot, row) <= snapshot.now) {
        if tx.tests(Some(&row.id), Some(TestStatus::Pending))?.is_empty() {
            idle.insert(row.id.clone());
        }
    }
    if idle.is_empty() {
        return Ok(());
    }
    let owners: BTreeSet<LoopId> = tx.resources()?.into_iter().map(|resource| resource.owner_loop).collect();
    let mut overloaded = BTreeMap::new();
    for row in running().filter(|row| busy(&row.id) && !owners.contains(&row.id)) {
        let queue = tx.tests(Some(&row.id), Some(TestStatus::Pending))?;
        if queue.len() > most {
            overloaded.insert(row.id.clone(), queue);
        }
    }
    for id in idle.iter().filter(|_| !overloaded.is_empty()) {
        for event_type in ["test_passed", "component_started"] {
            let event = tx.newest_event(event_type, id.as_str(), Timestamp::from_millis(0))?;
            if let Some(event) = event.filter(|_| !snapshot.ran_dry.contains_key(id)) {
                snapshot.ran_dry.insert(id.clone(), event.id);
            }
        }
    }
    (snapshot.idle, snapshot.overloaded) = (idle, overloaded);
    Ok(())
}

fn load_pauses(tx: &ReadTx<'_>, snapshot: &mut PmSnapshot) -> Result<()> {
    for row in tx.pauses(None)? {
        snapshot.paused.insert(row.loop_id.clone());
        if row.requested_by == "pm" {
            // A pause in the future is ignored until its time.
            let lifted = row.since > snapshot.now || tx.pause_is_lifted(&row)?;
            snapshot.own_pauses.push(OwnPause { row, lifted });
        }
    }
    let budget_asked = snapshot.decisions.iter().any(|decision| is_own(decision) && decision.decision_type == "budget");
    if budget_asked || !snapshot.own_pauses.is_empty() || !snapshot.conflicts.is_empty() {
        snapshot.stopped_by_budget = tx.loops_stopped_by_budget()?.iter().filter_map(|id| id.parse().ok()).collect();
    }
    Ok(())
}

fn load_unnotified(config: &Config, tx: &ReadTx<'_>, snapshot: &mut PmSnapshot) -> Result<()> {
    if config.notify.is_silent() {
        return Ok(());
    }
    snapshot.notifying = tx.open_journal(Some("pm"))?.iter().filter(|entry| entry.operation == OPERATION).count();
    let room = MAX_NOTIFYING.saturating_sub(snapshot.notifying);
    if room > 0 {
        snapshot.unnotified.extend(tx.unnotified_decisions(room)?.into_iter().map(Unnotified::Decision));
        snapshot.unnotified.extend(tx.unnotified_alerts(room)?.into_iter().map(Unnotified::Alert));
        snapshot.unnotified.truncate(room);
    }
    Ok(())
}
