//! Runs one trace: things happen at their times, supervisors look when they asked to and when something was written, and
//! every alert is noted with its time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use coord_db::{Alert, AlertType, Config, EventFilter, Payload, Severity, Timestamp};
use deadlock_detector::DeadlockDetector;
use heartbeat::Heartbeat;
use monitor::Monitor;
use pm_agent::PmAgent;
use supervisor::{Look, Supervisor, look, pass};

use super::script::{self, time};
use super::world::World;
use super::{Expected, Trace};

/// Who waits for nothing looks all the same after so long.
const SLOW_LOOK_MILLIS: i64 = 60_000;
/// Passes in a row before one is said never to come to rest.
const MAX_PASSES: usize = 20;

/// A supervisor that looks at traces: what it sees outside of the database.
pub trait Watched: Supervisor {
    /// Looks at the world outside of the database.
    fn see(&mut self, world: &World) -> coord_db::Result<Self::Observation>;
}

impl Watched for Monitor {
    fn see(&mut self, world: &World) -> coord_db::Result<monitor::Observation> {
        let mut seen = monitor::Observation {
            database_bytes: world.database_bytes,
            disk: Some(monitor::Disk { free_bytes: world.disk.0, total_bytes: world.disk.1 }),
            ..monitor::Observation::default()
        };
        for (id, outside) in &world.loops {
            let file = |(path, (content, at)): (&String, &(u64, Timestamp))| coord_db::ChangedFile {
                path: path.clone(),
                fingerprint: content.to_string(),
                changed_at: Some(*at),
            };
            let workspace = monitor::WorkspaceChanges {
                base: format!("{:016x}", outside.base),
                files: outside.files.iter().map(file).collect(),
                fresh: true,
                active_at: outside.active_at,
            };
            seen.workspaces.insert(id.clone(), monitor::WorkspaceState::Seen(workspace));
            seen.outputs.extend(output(outside).map(|output| (id.clone(), output)));
        }
        Ok(seen)
    }
}

fn output(outside: &super::world::Outside) -> Option<monitor::Output> {
    const TAIL_BYTES: usize = 64 << 10;
    let (test, attempt) = outside.current.as_ref()?;
    let written_at = outside.said_at?;
    let bytes = outside.log.as_bytes();
    Some(monitor::Output {
        written_at,
        log: format!("{test}-{attempt}.log"),
        bytes: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        changed_at: written_at,
        tail: bytes[bytes.len().saturating_sub(TAIL_BYTES)..].into(),
    })
}

impl Watched for Heartbeat {
    fn see(&mut self, world: &World) -> coord_db::Result<heartbeat::Observation> {
        let mut seen = self.observe(&world.db)?;
        for (identity, liveness) in seen.processes.values_mut() {
            *liveness = world.liveness(identity.pid);
        }
        Ok(seen)
    }
}

impl Watched for DeadlockDetector {
    fn see(&mut self, _: &World) -> coord_db::Result<()> {
        Ok(())
    }
}

impl Watched for PmAgent {
    fn see(&mut self, _: &World) -> coord_db::Result<()> {
        Ok(())
    }
}

/// A supervisor on its seat.
trait Seat {
    fn id(&self) -> &'static str;
    /// Passes until nothing is due; true if anything was done.
    fn look(&mut self, world: &World) -> Result<bool, String>;
    /// When it wants to look again, in milliseconds since the beginning.
    fn again(&self) -> i64;
}

struct Seated<S> {
    supervisor: S,
    again: i64,
}

impl<S: Watched> Seat for Seated<S> {
    fn id(&self) -> &'static str {
        S::ID
    }

    fn look(&mut self, world: &World) -> Result<bool, String> {
        let said = |error: coord_db::Error| format!("{}: {error}", S::ID);
        for passes in 0..MAX_PASSES {
            let seen = self.supervisor.see(world).map_err(said)?;
            match look(&mut self.supervisor, &world.db, &seen).map_err(said)? {
                Look::Due => pass(&mut self.supervisor, &world.db, &seen).map_err(said).map(drop)?,
                Look::NothingDue(again) => {
                    let wait = again.map_or(SLOW_LOOK_MILLIS, |at| at.millis_since(world.now()));
                    self.again = world.elapsed() + wait.clamp(1000, SLOW_LOOK_MILLIS);
                    return Ok(passes > 0);
                }
            }
        }
        Err(format!("{} never comes to rest", S::ID))
    }

    fn again(&self) -> i64 {
        self.again
    }
}

fn seats(trace: &Trace, config: &Arc<Config>) -> Result<Vec<Box<dyn Seat>>, String> {
    fn seat<S: Watched>(config: &Arc<Config>) -> Box<dyn Seat> {
        Box::new(Seated { supervisor: S::new(Arc::clone(config), Path::new("/nowhere/coordination.db")), again: 0 })
    }
    let known = |id: &String| match id.as_str() {
        "monitor" => Ok(seat::<Monitor>(config)),
        "heartbeat" => Ok(seat::<Heartbeat>(config)),
        "deadlock-detector" => Ok(seat::<DeadlockDetector>(config)),
        "pm" => Ok(seat::<PmAgent>(config)),
        other => Err(format!("nobody is called {other:?} here")),
    };
    trace.supervisors.iter().map(known).collect()
}

/// Something that was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What can have reported it, the likeliest first.
    pub detectors: Vec<String>,
    /// Whom or what it is about.
    pub of: String,
    /// When, in milliseconds since the beginning.
    pub at: i64,
    /// When it was over.
    pub over: Option<i64>,
    /// For people.
    pub message: String,
    alert: String,
}

/// The result of a trace.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its name.
    pub trace: String,
    /// It is well.
    pub healthy: bool,
    /// Each that had to be reported: its detector, and how long after its cause it was, if it was in time.
    pub expected: Vec<(String, Option<i64>)>,
    /// What was reported and should not have been: its detector, and a sentence.
    pub false_alarms: Vec<(String, String)>,
    /// What went wrong, in sentences.
    pub mistakes: Vec<String>,
}

/// The names of what tells an alert: one for each of its reasons.
#[must_use]
pub fn detectors(alert: &Alert) -> Vec<String> {
    let fingerprint = alert.fingerprint.as_deref().unwrap_or_default();
    let reasons = alert.context.get("reasons").and_then(|reasons| reasons.as_array()).into_iter().flatten();
    let reasons: Vec<&str> = reasons.filter_map(|reason| reason.as_str()).collect();
    let name = |reason: &&str| match (alert.alert_type, *reason) {
        (AlertType::Stuck, "failures") => "stuck: failures in a row",
        (AlertType::Stuck, "silence") => "stuck: silence",
        (AlertType::Stuck, "attempt") => "stuck: nothing new in an attempt",
        (AlertType::Stuck, "no_pass") => "stuck: no pass",
        (AlertType::Digression, "files") => "digression: too many files",
        (AlertType::Digression, "scope") => "digression: outside of the scope",
        (AlertType::Digression, "same_error") => "digression: the same error",
        (AlertType::Conflict, "changed") => "conflict: both changed",
        (AlertType::Conflict, "leased") => "conflict: changed what is leased",
        _ => "unknown",
    };
    if !reasons.is_empty() {
        return reasons.iter().map(name).map(str::to_owned).collect();
    }
    let level = if alert.severity == Severity::Warning { "warning" } else { "alert" };
    let what = match fingerprint.split(':').collect::<Vec<_>>()[..] {
        ["resource", "database"] => format!("database size: {level}"),
        ["resource", "disk"] => format!("disk: {level}"),
        ["resource", ..] => format!("budget: {level}"),
        ["component", "heartbeat"] if alert.source == "monitor" => "heartbeat is lost".to_owned(),
        ["component", ..] if level == "warning" => "a component is late".to_owned(),
        ["component", ..] => "a component is dead".to_owned(),
        ["deadlock", ..] => "deadlock".to_owned(),
        ["deadlock_revoked", ..] => "deadlock: the victim does not answer".to_owned(),
        ["system"] => "pm: an error of the system".to_owned(),
        _ => fingerprint.to_owned(),
    };
    vec![what]
}

fn note(world: &World, told: &mut Vec<Told>, known: &mut BTreeMap<String, Severity>) -> Result<(), String> {
    let alerts = world.db.read(|tx| tx.alerts(false)).map_err(|error| error.to_string())?;
    // What pm hands on is heard from its events, test by test.
    for alert in alerts.into_iter().filter(|alert| alert.source != PmAgent::ID || alert.severity != Severity::Info) {
        if alert.closed_at.is_some() {
            for told in told.iter_mut().filter(|told| told.alert == alert.id && told.over.is_none()) {
                told.over = Some(world.elapsed());
            }
        }
        // The next level of an alert is a report of its own.
        if known.get(&alert.id).is_some_and(|severity| *severity == alert.severity) {
            continue;
        }
        known.insert(alert.id.clone(), alert.severity);
        let fingerprint = alert.fingerprint.as_deref().unwrap_or_default();
        let rest = fingerprint.split_once(':').map_or(fingerprint, |(_, rest)| rest);
        let victim = alert.context.get("victim").and_then(|victim| victim.as_str());
        told.push(Told {
            detectors: detectors(&alert),
            of: victim.unwrap_or(rest).to_owned(),
            at: world.elapsed(),
            over: alert.closed_at.map(|_| world.elapsed()),
            message: alert.message.clone(),
            alert: alert.id.clone(),
        });
    }
    Ok(())
}

/// What pm does: whom it has paused and let go, what it has handed on, what it asks.
fn note_acts(world: &World, told: &mut Vec<Told>, position: &mut i64) -> Result<(), String> {
    let since = EventFilter { source: Some(PmAgent::ID.to_owned()), after_position: Some(*position), ..EventFilter::default() };
    let read = |tx: &coord_db::ReadTx<'_>| -> coord_db::Result<_> {
        let mut acts = Vec::new();
        for event in tx.events(&since)? {
            let act = match event.parse()? {
                Payload::PauseRequested(said) => Some(("pm: pause", said.loop_id.to_string(), said.reason)),
                Payload::ResumeRequested(said) => Some(("pm: go on", said.loop_id.to_string(), said.reason)),
                Payload::RestartRequested(said) => Some(("pm: begin afresh", said.loop_id.to_string(), said.reason)),
                Payload::TestMoved(said) => Some(("pm: hand on", format!("{}:{}", said.test_id, said.to_loop), said.reason)),
                Payload::DecisionNeeded(said) => {
                    let about = tx.decision(&said.decision_id)?.fingerprint.unwrap_or_default();
                    Some(("pm: ask", format!("{}:{about}", said.decision_type), said.summary))
                }
                Payload::DecisionResolved(said) => {
                    for told in told.iter_mut().filter(|told| told.alert == said.decision_id.as_str()) {
                        told.over = Some(world.elapsed());
                    }
                    None
                }
                _ => None,
            };
            let about = event.payload.get("decision_id").and_then(|id| id.as_str()).unwrap_or_default().to_owned();
            acts.extend(act.map(|act| (act, about)));
        }
        *position = tx.last_event_position()?;
        Ok(acts)
    };
    let acts = world.db.read(read).map_err(|error| error.to_string())?;
    told.extend(acts.into_iter().map(|((detector, of, message), alert)| Told {
        detectors: vec![detector.to_owned()],
        of,
        at: world.elapsed(),
        over: None,
        message,
        alert,
    }));
    Ok(())
}

/// Runs a trace.
///
/// # Errors
/// If the trace itself is wrong: it says what cannot be.
pub fn run(trace: &Trace) -> Result<Outcome, String> {
    play(trace).and_then(|told| judge(trace, &told)).map_err(|error| format!("{}: {error}", trace.name))
}

/// Everything that is reported in a trace.
///
/// # Errors
/// As [`run`].
pub fn play(trace: &Trace) -> Result<Vec<Told>, String> {
    let config = Arc::new(Config::parse(&trace.settings, Path::new("settings")).map_err(|error| error.to_string())?);
    let happenings = script::read(&trace.script)?;
    let mut world = World::new()?;
    // Beats matter to heartbeat alone, and to who looks after it.
    world.beats = trace.supervisors.iter().any(|id| id == Heartbeat::ID) || trace.script.contains("heartbeat-");
    let mut seats = seats(trace, &config)?;
    let (mut told, mut known) = (Vec::new(), BTreeMap::new());
    let mut position = 0;
    let obeys = trace.supervisors.iter().any(|id| id == PmAgent::ID);
    let mut next = happenings.iter().peekable();
    loop {
        let mut written = false;
        while let Some(happening) = next.next_if(|happening| happening.at <= world.elapsed()) {
            world.happen(happening).map_err(|error| format!("{happening:?}: {error}"))?;
            // Nothing rings when an agent writes; it is looked at when its time comes.
            written |= !matches!(happening.what.as_str(), "says" | "nothing" | "hangs" | "dies" | "disk" | "database");
        }
        world.beat()?;
        let mut acted = false;
        for seat in &mut seats {
            if (seat.id() != "heartbeat" || world.heartbeat) && (written || seat.again() <= world.elapsed()) {
                acted |= seat.look(&world)?;
            }
        }
        if acted {
            note(&world, &mut told, &mut known)?;
            // Each hears what another has written, and a loop does what it is asked.
            for _ in 0..if obeys { 3 } else { 1 } {
                for seat in &mut seats {
                    if (seat.id() != "heartbeat" || world.heartbeat) && seat.look(&world)? {
                        note(&world, &mut told, &mut known)?;
                    }
                }
                if !obeys || !world.obey()? {
                    break;
                }
            }
            note_acts(&world, &mut told, &mut position)?;
        }
        let Some(happening) = next.peek() else { return Ok(told) };
        let running = seats.iter().filter(|seat| seat.id() != "heartbeat" || world.heartbeat);
        let again = running.map(|seat| seat.again()).min().unwrap_or(i64::MAX);
        let until = happening.at.min(again).max(world.elapsed() + 1);
        world.clock.advance_millis(until - world.elapsed());
    }
}

/// Compares what was reported with what had to be.
fn judge(trace: &Trace, told: &[Told]) -> Result<Outcome, String> {
    let minutes = |millis: i64| format!("{}m{:02}s", millis / 60_000, millis / 1000 % 60);
    let mut outcome = Outcome {
        trace: trace.name.clone(),
        healthy: trace.expect.is_empty(),
        expected: Vec::new(),
        false_alarms: Vec::new(),
        mistakes: Vec::new(),
    };
    let mut wanted = vec![false; told.len()];
    for expected in &trace.expect {
        let Expected { detector, of, cause, by, over } = expected;
        let (cause, by) = (time(cause)?, time(by)?);
        let meant =
            |told: &Told| told.detectors.contains(detector) && (told.of == *of || told.of.starts_with(&format!("{of}:")));
        let found = told.iter().zip(&mut wanted).find(|(told, wanted)| meant(told) && !**wanted && told.at >= cause);
        let Some((told, wanted)) = found else {
            outcome.expected.push((detector.clone(), None));
            outcome.mistakes.push(format!("{}: {detector} of {of} was never reported", trace.name));
            continue;
        };
        *wanted = true;
        outcome.expected.push((detector.clone(), (told.at <= by).then_some(told.at - cause)));
        if told.at > by {
            outcome.mistakes.push(format!("{}: {detector} of {of} was reported after {}", trace.name, minutes(told.at)));
        }
        if let Some(over) = over
            && told.over.is_none_or(|at| at > time(over).unwrap_or_default())
        {
            let when = told.over.map_or_else(|| "never".to_owned(), minutes);
            outcome.mistakes.push(format!("{}: {detector} of {of} was over {when}", trace.name));
        }
    }
    let mut known: Vec<&String> = trace.known_false_alarms.iter().collect();
    for (told, _) in told.iter().zip(&wanted).filter(|(_, wanted)| !**wanted) {
        let name = told.detectors.first().cloned().unwrap_or_default();
        let sentence = format!("{}: after {} {} ({name} of {})", trace.name, minutes(told.at), told.message, told.of);
        match known.iter().position(|known| **known == name) {
            Some(at) => drop(known.remove(at)),
            None => outcome.mistakes.push(format!("false alarm: {sentence}")),
        }
        outcome.false_alarms.push((name, sentence));
    }
    outcome
        .mistakes
        .extend(known.iter().map(|known| format!("{}: {known} is wrong no longer; say so in the trace", trace.name)));
    Ok(outcome)
}
