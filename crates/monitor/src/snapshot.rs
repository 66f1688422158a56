//! The input of the decision, read in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::{
    AgentOutput, Alert, ClockChange, Component, Config, EventId, Hold, Lease, LeasePath, Loop, LoopId, LoopStatus, ReadTx,
    Result, RunOf, Test, TestStatus, Timestamp, UsageTotal, WaitEdge, WorktreeChange, supervisors,
};
use globset::GlobSet;
use serde_json::{Value, json};

use crate::observe::{Disk, Observation, WorkspaceState, ignored};
use crate::output::{Repeated, most_repeated, read_on};
use crate::trail::{Failures, LoopTrail, Trail};

/// Id of the monitor as component and as source of events.
pub(crate) const ID: &str = supervisors::MONITOR.id;

/// Maximum number of unfinished tests examined in one pass.
const MAX_TESTS: usize = 1_000;
const DAY_MILLIS: i64 = 86_400_000;
/// The age at which the stored clocks count as old. Heartbeat stores them more often; if it does not run, the monitor stores
/// them, because otherwise the end of a sleep would never be noticed.
const CLOCK_OLD_MILLIS: i64 = 150_000;

/// Prefixes of the fingerprints of alerts.
pub mod prefix {
    /// No progress.
    pub const STUCK: &str = "stuck:";
    /// Two loops change one file.
    pub const CONFLICT: &str = "conflict:";
    /// A loop digresses from its test.
    pub const DIGRESSION: &str = "digression:";
    /// Agents that cannot work.
    pub const AGENT: &str = "agent:";
    /// Budgets, disk and database.
    pub const RESOURCE: &str = "resource:";
    /// A disk, before its host, where several may share the database. Each host's monitor judges its own.
    pub const DISK: &str = "resource:disk:";
    /// The heartbeat service.
    pub const HEARTBEAT: &str = "component:heartbeat";
    /// All that the monitor's alerts begin with.
    pub const OF_ALERTS: [&str; 6] = [STUCK, CONFLICT, DIGRESSION, AGENT, RESOURCE, HEARTBEAT];
}

/// Use of an agent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// LLM tokens.
    pub tokens: i64,
    /// Millionths of a US dollar, if known.
    pub microusd: i64,
}

/// A cache between two passes.
#[derive(Debug, Default)]
pub struct Memory {
    trail: Trail,
    /// The start of the day, the position of the last usage record read, and the sums up to it.
    day: Option<(Timestamp, i64, Spent)>,
    /// The patterns of files that two loops may change, with their compiled form: compiling is slow.
    ignored: Option<(Vec<String>, GlobSet)>,
}

impl Memory {
    fn ignored(&mut self, patterns: &[String]) -> GlobSet {
        match &self.ignored {
            Some((known, set)) if known == patterns => set.clone(),
            _ => {
                let set = ignored(patterns);
                self.ignored = Some((patterns.to_vec(), set.clone()));
                set
            }
        }
    }
}

/// The files that a loop has changed in its workspace, as they are stored after the pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Files {
    /// By path.
    pub rows: Vec<WorktreeChange>,
    /// The rows in the database differ and have to be written.
    pub store: bool,
    /// The loop has a workspace that can be read.
    pub observed: bool,
    /// The workspace was read after the last move of integration.
    pub fresh: bool,
    /// Time of the last activity in the workspace.
    pub active_at: Option<Timestamp>,
    /// Without a workspace: the files that the loop has leased for its test, and since when. A lease announces a change.
    pub leased: Vec<(String, Timestamp)>,
}

/// The state of the output of a loop's agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentActivity {
    /// Time of the last write by the agent or by a check of its work.
    pub written_at: Timestamp,
    /// Time of the last write with a line that is new.
    pub news_at: Timestamp,
    /// The error that the output repeats.
    pub repeated: Option<Repeated>,
    /// The read position, if it has to be stored.
    pub store: Option<AgentOutput>,
}

/// A file or a subtree that a loop has leased.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The file or subtree.
    pub path: LeasePath,
    /// When the lease was acquired.
    pub since: Timestamp,
}

/// An unfinished test.
#[derive(Debug, Clone, PartialEq)]
pub struct TestView {
    /// The row.
    pub test: Test,
    /// Its consecutive failures.
    pub failures: Failures,
    /// Start of the current attempt, if known.
    pub attempt_since: Option<Timestamp>,
    /// The event that reported this start.
    pub started: Option<EventId>,
    /// Use recorded for the test.
    pub spent: Spent,
    /// Seconds recorded for the test.
    pub seconds: i64,
    /// The part of `seconds` that belongs to the current attempt.
    pub seconds_in_attempt: i64,
}

/// A loop.
#[derive(Debug, Clone, PartialEq)]
pub struct LoopView {
    /// The row.
    pub row: Loop,
    /// The unfinished tests with at least one attempt.
    pub tests: Vec<TestView>,
    /// Index in `tests` of the current test.
    pub current: Option<usize>,
    /// The loop waits for another loop.
    pub waiting: bool,
    /// The loop is another machine's: its files and its output are not visible, and `output` is what its run reports.
    pub elsewhere: bool,
    /// The loop starts no attempt, because its agent cannot work or its runs have no effect.
    pub held: bool,
    /// Last time at which the loop was known to be idle for an external reason: waiting, paused, or the machine asleep.
    pub excused_at: Option<Timestamp>,
    /// The last event that the loop published, and its time.
    pub last_event: Option<(EventId, Timestamp)>,
    /// Time of its last usage record.
    pub used_at: Option<Timestamp>,
    /// Last heartbeat of a client that drives the loop by hand.
    pub beat_at: Option<Timestamp>,
    /// Start of its process.
    pub started_at: Option<Timestamp>,
    /// Since when one of its pending tests is ready.
    pub ready_since: Option<Timestamp>,
    /// When one of its tests passed last, according to the rows.
    pub passed_at: Option<Timestamp>,
    /// What the events report about the loop.
    pub trail: LoopTrail,
    /// The files changed in its workspace.
    pub files: Files,
    /// The output of its agent.
    pub output: Option<AgentActivity>,
    /// Its live leases on files and subtrees.
    pub leases: Vec<Claim>,
    /// The paths for whose leases it queues.
    pub queued: Vec<LeasePath>,
}

/// The input of the decision.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitorSnapshot {
    /// The time of the snapshot.
    pub now: Timestamp,
    /// True in the grace period: the machine has slept or was off, or its clock was set.
    pub in_grace: bool,
    /// The clocks have to be stored: they have jumped, or nobody else stores them.
    pub write_clock: bool,
    /// End of the grace period.
    pub grace_until: Option<Timestamp>,
    /// All loops, by id.
    pub loops: Vec<LoopView>,
    /// Loops that are no longer registered but still have rows of changed files.
    pub gone: Vec<LoopId>,
    /// Loops that are no longer registered but still have a row of agent output.
    pub gone_outputs: Vec<String>,
    /// The holds: reasons why attempts do not start.
    pub holds: Vec<Hold>,
    /// The open alerts, by fingerprint.
    pub alerts: BTreeMap<String, Alert>,
    /// The heartbeat service.
    pub heartbeat: Option<Component>,
    /// The day, `YYYY-MM-DD`.
    pub day: String,
    /// Start of the next day.
    pub next_day: Timestamp,
    /// Number of tests attempted today.
    pub tests_today: i64,
    /// Use of today.
    pub used_today: Spent,
    /// Size of the database files.
    pub database_bytes: i64,
    /// The file system of the database, or of the file with its address.
    pub disk: Option<Disk>,
    /// This host, if several may share the database.
    pub host: Option<String>,
    /// When a change in a workspace is due to be read.
    pub look_again_at: Option<Timestamp>,
}

impl LoopView {
    /// The current test.
    #[must_use]
    pub fn current_test(&self) -> Option<&TestView> {
        self.tests.get(self.current?)
    }
}

pub(crate) fn load(
    config: &Config,
    memory: &mut Memory,
    tx: &ReadTx<'_>,
    observation: &Observation,
) -> Result<MonitorSnapshot> {
    memory.trail.catch_up(tx)?;
    let now = tx.now();
    let midnight = Timestamp::from_millis(now.as_millis().div_euclid(DAY_MILLIS) * DAY_MILLIS);
    let mut alerts = BTreeMap::new();
    for prefix in prefix::OF_ALERTS {
        for alert in tx.open_alerts_with(prefix)? {
            alerts.extend(alert.fingerprint.clone().map(|fingerprint| (fingerprint, alert)));
        }
    }
    let mut read: BTreeMap<String, AgentOutput> =
        tx.agent_outputs()?.into_iter().map(|row| (row.loop_id.clone(), row)).collect();
    let ignored = memory.ignored(&config.monitor.conflict_ignore);
    let (loops, gone) = load_loops(config, memory, tx, observation, &alerts, &ignored, &mut read)?;
    let clock_change = tx.clock_change()?;
    let clock_is_old = tx.clock_seen_at()?.is_none_or(|at| now.millis_since(at).abs() >= CLOCK_OLD_MILLIS);
    Ok(MonitorSnapshot {
        now,
        in_grace: tx.in_clock_grace()? || clock_change != ClockChange::None,
        write_clock: clock_change != ClockChange::None || clock_is_old,
        grace_until: tx.clock_grace_until()?,
        loops,
        gone,
        gone_outputs: read.into_keys().collect(),
        holds: tx.all_holds()?,
        alerts,
        heartbeat: tx.newest_beat_of("heartbeat")?,
        day: now.to_rfc3339()[..10].to_owned(),
        next_day: midnight.plus_millis(DAY_MILLIS),
        tests_today: tx.tests_tried_since(midnight)?,
        used_today: used_today(memory, tx, midnight)?,
        database_bytes: observation.database_bytes,
        disk: observation.disk,
        host: observation.host.clone(),
        look_again_at: observation.look_again_at,
    })
}

fn used_today(memory: &mut Memory, tx: &ReadTx<'_>, midnight: Timestamp) -> Result<Spent> {
    let (position, before) = match memory.day {
        Some((day, position, used)) if day == midnight => (position, used),
        _ => (0, Spent::default()),
    };
    let (used, last) = tx.usage_since(midnight, position)?;
    // If records were deleted, the remaining ones are summed again.
    let (before, used, last) = if last < position {
        let (used, last) = tx.usage_since(midnight, 0)?;
        (Spent::default(), used, last)
    } else {
        (before, used, last)
    };
    let used = Spent {
        tokens: before.tokens.saturating_add(used.tokens_estimated),
        microusd: before.microusd.saturating_add(used.cost_microusd),
    };
    memory.day = Some((midnight, last, used));
    Ok(used)
}

fn load_loops(
    config: &Config,
    memory: &Memory,
    tx: &ReadTx<'_>,
    observation: &Observation,
    alerts: &BTreeMap<String, Alert>,
    ignored: &GlobSet,
    read: &mut BTreeMap<String, AgentOutput>,
) -> Result<(Vec<LoopView>, Vec<LoopId>)> {
    let mut known: BTreeMap<LoopId, Vec<WorktreeChange>> = BTreeMap::new();
    for row in tx.worktree_changes()? {
        known.entry(row.loop_id.clone()).or_default().push(row);
    }
    let mut tests = unfinished(config, memory, tx, alerts)?;
    let ready: BTreeMap<_, _> = tx.ready_since()?.into_iter().collect();
    let passes: BTreeMap<_, _> = tx.last_passes()?.into_iter().collect();
    let excused = tx.component(ID)?.map(|own| own.metadata);
    let interval = i64::try_from(config.monitor.interval_seconds).unwrap_or(i64::MAX);
    // No loop starts an attempt before the checks have passed at the head of integration.
    let base_holds = !tx.red_base()?.is_empty() || !tx.base_runners()?.is_empty();
    let mut loops = Vec::new();
    for row in tx.loops()? {
        let mine = tests.remove(&row.id).unwrap_or_default();
        let current = mine
            .iter()
            .position(|test| test.status == TestStatus::InProgress && row.current_test_id.as_ref() == Some(&test.id))
            .or_else(|| mine.iter().position(|test| test.status == TestStatus::InProgress));
        let running = row.status == LoopStatus::Running;
        let component = if running { tx.component(row.id.as_str())? } else { None };
        let current_id = current.map(|at| &mine[at].id);
        let elsewhere = observation.elsewhere.contains(&row.id);
        let known_files = known.remove(&row.id).unwrap_or_default();
        let at_work = running && current_id.is_some();
        let mut files = match elsewhere {
            true => reported(known_files, current.filter(|_| running).map(|at| &mine[at])),
            false => files(tx, &row, known_files, observation),
        };
        if at_work && (elsewhere || !files.observed) {
            files.leased = leased(tx, &row, ignored)?;
            let is_changed = |path: &str| files.rows.binary_search_by(|row| row.file_path.as_str().cmp(path)).is_ok();
            files.leased.retain(|(path, _)| !is_changed(path));
        }
        let (leases, queued) = if running { claims(tx, &row, ignored)? } else { Default::default() };
        let known_output = read.remove(row.id.as_str());
        let reported =
            if elsewhere && running && current_id.is_some() { progress(tx, &row, known_output.as_ref())? } else { None };
        let output = observation.outputs.get(&row.id).map(|seen| {
            let now_known = read_on(&row.id, known_output.as_ref(), seen, interval);
            AgentActivity {
                written_at: seen.written_at,
                news_at: now_known.news_at,
                repeated: most_repeated(&now_known),
                store: (known_output.as_ref() != Some(&now_known)).then_some(now_known),
            }
        });
        let output = output.or(reported);
        let views = mine.iter().map(|test| view(config, memory, tx, test)).collect::<Result<_>>()?;
        loops.push(LoopView {
            waiting: running && waits(tx, &row)?,
            elsewhere,
            held: running && current.is_none() && (base_holds || !tx.holds_on(&row.id)?.is_empty()),
            excused_at: excused
                .as_ref()
                .and_then(|metadata| metadata.get("excused")?.get(row.id.as_str())?.as_str()?.parse().ok()),
            last_event: if running && current.is_some() { tx.last_event_of(row.id.as_str())? } else { None },
            used_at: if running && current.is_some() { tx.last_usage_of(&row.id)? } else { None },
            beat_at: component.as_ref().filter(|_| row.pid.is_none()).and_then(|component| component.last_heartbeat),
            started_at: component.and_then(|component| component.started_at),
            ready_since: ready.get(&row.id).copied(),
            passed_at: passes.get(&row.id).copied(),
            trail: memory.trail.of_loop(row.id.as_str()),
            output,
            leases,
            queued,
            tests: views,
            current,
            files,
            row,
        });
    }
    Ok((loops, known.into_keys().collect()))
}

/// Key of what a run reported last, in the place of the errors that its output repeats.
const REPORTED: &str = "reported";

/// What the agent's run of a loop on another machine reports. None if no agent runs there, or its output says nothing.
fn progress(tx: &ReadTx<'_>, row: &Loop, known: Option<&AgentOutput>) -> Result<Option<AgentActivity>> {
    let Some(run) = tx.open_run(&row.id)?.filter(|run| run.kind == RunOf::Agent) else { return Ok(None) };
    let Some(doing) = run.progress else { return Ok(None) };
    let known = known.filter(|known| known.log == run.log);
    if let Some(known) = known.filter(|known| known.errors[REPORTED] == json!(doing)) {
        return Ok(Some(AgentActivity { written_at: known.news_at, news_at: known.news_at, repeated: None, store: None }));
    }
    let now = tx.now();
    let errors = json!({ REPORTED: doing });
    let store = AgentOutput { loop_id: row.id.to_string(), log: run.log, read_bytes: 0, read_at: now, news_at: now, errors };
    Ok(Some(AgentActivity { written_at: now, news_at: now, repeated: None, store: Some(store) }))
}

/// The unfinished tests with an attempt, by loop: known from their rows, from the events, or from an open alert.
fn unfinished(
    config: &Config,
    memory: &Memory,
    tx: &ReadTx<'_>,
    alerts: &BTreeMap<String, Alert>,
) -> Result<BTreeMap<LoopId, Vec<Test>>> {
    let mut tests: BTreeMap<_, Test> =
        tx.tests_under_way(MAX_TESTS)?.into_iter().map(|test| (test.id.to_string(), test)).collect();
    let mut named: BTreeSet<&str> = memory.trail.failing(config.monitor.stuck_failures).collect();
    let under_way = |alert: &&Alert| alert.alert_type != coord_db::AlertType::Conflict;
    named.extend(alerts.values().filter(under_way).filter_map(|alert| alert.context.get("test_id").and_then(Value::as_str)));
    for id in named {
        if !tests.contains_key(id)
            && let Some(test) = tx.find_test(id)?
        {
            let tried = test.attempts > 0 || test.give_backs > 0 || memory.trail.failures(&test).count > 0;
            if matches!(test.status, TestStatus::Pending | TestStatus::InProgress) && tried {
                tests.insert(id.to_owned(), test);
            }
        }
    }
    let mut by_loop: BTreeMap<LoopId, Vec<Test>> = BTreeMap::new();
    for test in tests.into_values() {
        by_loop.entry(test.loop_id.clone()).or_default().push(test);
    }
    Ok(by_loop)
}

fn view(config: &Config, memory: &Memory, tx: &ReadTx<'_>, test: &Test) -> Result<TestView> {
    let attempt_since = memory.trail.attempt_since(test).map(|at| at.min(tx.now()));
    let budget = &config.budget;
    let is_limited = budget.tokens_per_test > 0 || budget.minutes_per_test > 0 || budget.usd_per_test > 0.0;
    let used = if is_limited { tx.usage_of_test(&test.id)? } else { UsageTotal::default() };
    let seconds = used.duration_seconds;
    let seconds_in_attempt = match attempt_since {
        Some(since) if seconds > 0 => tx.seconds_of_test_since(&test.id, since)?,
        _ => 0,
    };
    Ok(TestView {
        failures: memory.trail.failures(test),
        attempt_since,
        started: memory.trail.started(test).map(|(event, _)| event),
        spent: Spent { tokens: used.tokens_estimated, microusd: used.cost_microusd },
        seconds,
        seconds_in_attempt,
        test: test.clone(),
    })
}

/// True if the loop waits for a lease that the holder named in the wait edge still holds.
fn waits(tx: &ReadTx<'_>, row: &Loop) -> Result<bool> {
    for edge in tx.wait_edges_of(row.id.as_str())? {
        if edge.wait_until.is_some_and(|until| until <= tx.now()) {
            continue;
        }
        let leases = tx.leases_overlapping(&edge.resource)?;
        if stands(&edge, &leases, tx.now()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A wait edge for a path without a lease counts: external tools may write edges too.
fn stands(edge: &WaitEdge, leases: &[Lease], now: Timestamp) -> bool {
    let live = |lease: &&Lease| lease.expires_at.is_none_or(|at| at > now);
    leases.is_empty() || leases.iter().filter(live).any(|lease| lease.locked_by == edge.holder)
}

/// The leases and queue entries of a loop. Leases of schemes (`port:…`) are left out: they name no file.
fn claims(tx: &ReadTx<'_>, row: &Loop, ignored: &GlobSet) -> Result<(Vec<Claim>, Vec<LeasePath>)> {
    let live = |until: Option<Timestamp>| until.is_none_or(|until| until > tx.now());
    let of_files = |path: &LeasePath| !path.as_str().contains(':') && !ignored.is_match(path.as_str());
    let leases = tx.leases_of(row.id.as_str())?;
    let leases = leases.into_iter().filter(|lease| live(lease.expires_at) && of_files(&lease.file_path));
    let edges = tx.wait_edges_of(row.id.as_str())?;
    let queued = edges.into_iter().filter(|edge| live(edge.wait_until)).map(|edge| edge.resource);
    Ok((leases.map(|lease| Claim { path: lease.file_path, since: lease.locked_at }).collect(), queued.collect()))
}

fn leased(tx: &ReadTx<'_>, row: &Loop, ignored: &GlobSet) -> Result<Vec<(String, Timestamp)>> {
    let live = |lease: &Lease| lease.expires_at.is_none_or(|at| at > tx.now());
    // A leased subtree does not mean that each file in it changes, and a scheme names no file.
    let a_file = |lease: &Lease| !lease.file_path.is_subtree() && !lease.file_path.as_str().contains(':');
    let leases = tx.leases_of(row.id.as_str())?;
    let files = leases.into_iter().filter(|lease| live(lease) && a_file(lease) && !ignored.is_match(lease.file_path.as_str()));
    Ok(files.map(|lease| (lease.file_path.to_string(), lease.locked_at)).collect())
}

/// The files of a workspace on another machine: what its loop has reported for the current attempt. Its leases say more, of files that
/// it is about to change.
fn reported(known: Vec<WorktreeChange>, current: Option<&Test>) -> Files {
    let Some(test) = current else { return Files::default() };
    let is_of_attempt = |row: &WorktreeChange| test.last_attempt_at.is_none_or(|began| row.last_changed_at >= began);
    let rows: Vec<WorktreeChange> = known.into_iter().filter(is_of_attempt).collect();
    Files { observed: !rows.is_empty(), fresh: true, rows, ..Files::default() }
}

fn files(tx: &ReadTx<'_>, row: &Loop, known: Vec<WorktreeChange>, observation: &Observation) -> Files {
    match observation.workspaces.get(&row.id) {
        Some(WorkspaceState::Seen(workspace)) => {
            let rows = WorktreeChange::merge(&row.id, &known, &workspace.base, &workspace.files, tx.now());
            Files {
                store: rows != known,
                rows,
                observed: true,
                fresh: workspace.fresh,
                active_at: workspace.active_at.map(|at| at.min(tx.now())),
                leased: Vec::new(),
            }
        }
        Some(WorkspaceState::Unclear) => Files { rows: known, observed: true, ..Files::default() },
        Some(WorkspaceState::Absent) => Files { store: !known.is_empty(), ..Files::default() },
        None => Files { rows: known, ..Files::default() },
    }
}
