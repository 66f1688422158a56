//! Finds what is wrong, and says it once. Pure.
//!
//! What was said stands in open alerts. A finding that has no alert opens one and is said; one that has is not said again;
//! an alert whose finding is gone is closed. Where nothing can be told at the moment (the loop is paused or waits, the
//! machine has slept) an open alert stays as it is.

mod conflict;
mod digression;
mod hold;
mod resource;
mod stuck;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use coord_db::{
    AgentOutput, Alert, AlertType, Config, EventId, HealthStatus, LoopId, LoopStatus, Payload, Severity, WorktreeChange,
};
use serde_json::{Value, json};
use supervisor::Plan;

use crate::snapshot::{ID, LoopView, MonitorSnapshot, prefix};

/// That a loop rests for a reason that is not its own is written down this often while it lasts.
const EXCUSE_EVERY_SECONDS: i64 = 60;
/// So much of an error is told.
const ERROR_CHARS: usize = 300;

/// What is wrong, as an alert says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Names the cause; one alert is open for it.
    pub fingerprint: String,
    /// How bad.
    pub severity: Severity,
    /// What about.
    pub alert_type: AlertType,
    /// For people.
    pub message: String,
    /// Details.
    pub context: Value,
}

/// An event that goes with an alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// Its type.
    pub event_type: String,
    /// What it says.
    pub payload: Value,
    /// The event that led to it, if one did.
    pub caused_by: Option<EventId>,
}

impl Said {
    fn new(payload: impl Into<Payload>, caused_by: Option<EventId>) -> Self {
        let payload = payload.into();
        Self { event_type: payload.event_type().to_owned(), payload: payload.to_value(), caused_by }
    }

    /// With a field beyond the catalog's.
    fn with(mut self, field: &str, value: Value) -> Self {
        if let Value::Object(fields) = &mut self.payload {
            fields.insert(field.to_owned(), value);
        }
        self
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write down what a loop has changed in its workspace.
    StoreFiles {
        /// Whose.
        loop_id: LoopId,
        /// All of it.
        rows: Vec<WorktreeChange>,
    },
    /// Write down how far an agent's output was read.
    StoreOutput(AgentOutput),
    /// Forget how far the output of a loop was read that is not registered any more.
    ForgetOutput(String),
    /// Write down that these loops rest for a reason that is not their own.
    Excuse(Vec<LoopId>),
    /// Write down what the clocks say; after a sleep the grace begins.
    WriteClock {
        /// How long it is.
        grace_seconds: i64,
    },
    /// Open an alert, and say so.
    Raise(Finding, Option<Said>),
    /// Raise an open alert to its next level, and say so.
    Escalate(Finding, Said),
    /// Make an open alert say how it is by now.
    Amend(Finding),
    /// Close an alert whose cause is gone.
    Close {
        /// Which.
        fingerprint: String,
    },
}

/// A decision in the making.
struct Work<'a> {
    config: &'a Config,
    at: &'a MonitorSnapshot,
    plan: Plan<Action>,
    /// Alerts that stay open.
    kept: BTreeSet<String>,
}

/// Finds what is wrong at the snapshot's moment.
#[must_use]
pub fn decide(config: &Config, snapshot: &MonitorSnapshot) -> Plan<Action> {
    let mut work = Work { config, at: snapshot, plan: Plan::default(), kept: BTreeSet::new() };
    store_files(&mut work);
    excuse(&mut work);
    for view in &snapshot.loops {
        stuck::judge(&mut work, view);
        digression::judge(&mut work, view);
        resource::judge_loop(&mut work, view);
    }
    conflict::judge(&mut work);
    resource::judge_all(&mut work);
    hold::judge(&mut work);
    heartbeat(&mut work);
    close_what_is_over(&mut work);
    if snapshot.write_clock {
        work.plan.act(Action::WriteClock { grace_seconds: config.heartbeat.wake_grace_seconds });
    }
    look_again(&mut work);
    work.plan
}

impl<'a> Work<'a> {
    fn open(&self, fingerprint: &str) -> Option<&'a Alert> {
        self.at.alerts.get(fingerprint)
    }

    fn keep(&mut self, fingerprint: &str) {
        self.kept.insert(fingerprint.to_owned());
    }

    fn raise(&mut self, finding: Finding, said: Option<Said>) {
        self.keep(&finding.fingerprint);
        self.plan.act(Action::Raise(finding, said));
    }

    /// Keeps an open alert, and makes it say how things are if one of these fields of its context says something else by now.
    fn renew(&mut self, open: &Alert, finding: Finding, fields: &[&str]) {
        self.keep(&finding.fingerprint);
        if fields.iter().any(|field| open.context.get(*field) != finding.context.get(*field)) {
            self.plan.act(Action::Amend(finding));
        }
    }

    /// True once a duration in minutes is over; otherwise it is asked again then. Zero or less is no limit.
    fn is_over(&mut self, since: coord_db::Timestamp, minutes: i64) -> bool {
        if minutes <= 0 {
            return false;
        }
        let end = since.plus_seconds(minutes.saturating_mul(60));
        if end <= self.at.now {
            return true;
        }
        self.plan.look_again(end);
        false
    }
}

fn store_files(work: &mut Work<'_>) {
    let at = work.at;
    for view in at.loops.iter().filter(|view| view.files.store) {
        work.plan.act(Action::StoreFiles { loop_id: view.row.id.clone(), rows: view.files.rows.clone() });
    }
    for row in at.loops.iter().filter_map(|view| view.output.as_ref()?.store.as_ref()) {
        work.plan.act(Action::StoreOutput(row.clone()));
    }
    for loop_id in &at.gone_outputs {
        work.plan.act(Action::ForgetOutput(loop_id.clone()));
    }
    for loop_id in &at.gone {
        work.plan.act(Action::StoreFiles { loop_id: loop_id.clone(), rows: Vec::new() });
    }
}

/// True if its time does not count now.
fn rests(at: &MonitorSnapshot, view: &LoopView) -> bool {
    match view.row.status {
        LoopStatus::Running => at.in_grace || view.waiting || view.held,
        LoopStatus::Paused => view.in_hand.is_some(),
        LoopStatus::Stopped | LoopStatus::Error => false,
    }
}

/// Afterwards its time counts from here on, also for a monitor that starts later.
fn excuse(work: &mut Work<'_>) {
    let at = work.at;
    let mut loops = Vec::new();
    for view in at.loops.iter().filter(|view| rests(at, view) && (view.in_hand.is_some() || view.ready_since.is_some())) {
        let due = view.excused_at.map(|last| last.plus_seconds(EXCUSE_EVERY_SECONDS));
        match due {
            // What lies ahead is from before the clock was set back.
            Some(due) if due > at.now && due <= at.now.plus_seconds(EXCUSE_EVERY_SECONDS) => work.plan.look_again(due),
            _ => loops.push(view.row.id.clone()),
        }
    }
    if !loops.is_empty() {
        work.plan.act(Action::Excuse(loops));
    }
}

/// Nobody else would notice that heartbeat is lost; so this is told, and nothing more.
fn heartbeat(work: &mut Work<'_>) {
    let at = work.at;
    let Some(row) = at.heartbeat.as_ref().filter(|row| row.status != HealthStatus::Unknown) else { return };
    let Some(beat) = row.last_heartbeat else { return };
    let open = work.open(prefix::HEARTBEAT).is_some();
    if at.in_grace {
        work.keep(prefix::HEARTBEAT);
        return;
    }
    let end = beat.plus_seconds(work.config.heartbeat.dead_seconds);
    if end > at.now {
        work.plan.look_again(end);
    } else if open {
        work.keep(prefix::HEARTBEAT);
    } else {
        let minutes = at.now.seconds_since(beat) / 60;
        let finding = Finding {
            fingerprint: prefix::HEARTBEAT.to_owned(),
            severity: Severity::Error,
            alert_type: AlertType::Resource,
            message: format!(
                "heartbeat has not beaten for {minutes} minutes: until it runs again nobody notices who dies or cleans up after it"
            ),
            context: json!({"kind": "component", "component": "heartbeat", "last_heartbeat": beat}),
        };
        work.raise(finding, None);
    }
}

fn close_what_is_over(work: &mut Work<'_>) {
    for (fingerprint, alert) in &work.at.alerts {
        if alert.source == ID && !work.kept.contains(fingerprint) {
            work.plan.act(Action::Close { fingerprint: fingerprint.clone() });
        }
    }
}

fn look_again(work: &mut Work<'_>) {
    let at = work.at;
    if let Some(again) = at.look_again_at {
        work.plan.look_again(again);
    }
    if at.in_grace
        && let Some(until) = at.grace_until
    {
        work.plan.look_again(until);
    }
    if at.loops.iter().any(|view| view.in_hand.is_some()) {
        let seconds = i64::try_from(work.config.monitor.interval_seconds).unwrap_or(i64::MAX);
        work.plan.look_again(at.now.plus_seconds(seconds));
    }
}

/// The beginning of an error's first line that says something.
fn first_line(error: &str) -> String {
    let line = error.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|letter| !letter.is_control()).take(ERROR_CHARS).collect()
}
