//! Decides which alerts to open, change and close. Pure.
//!
//! A finding without an open alert opens one and publishes an event; a finding with an open alert is not reported
//! again; an alert without a finding is closed. While a condition cannot be judged (the loop is paused or waits, the
//! machine has slept), an open alert stays open.

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

/// Interval at which the excused time of an idle loop is stored.
const EXCUSE_EVERY_SECONDS: i64 = 60;
/// Maximum length of an error message in an alert.
const ERROR_CHARS: usize = 300;

/// A problem, in the form of an alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Identifies the cause; at most one alert is open for each.
    pub fingerprint: String,
    /// Severity of the alert.
    pub severity: Severity,
    /// Type of the alert.
    pub alert_type: AlertType,
    /// The sentence for the reader.
    pub message: String,
    /// Details for programs.
    pub context: Value,
}

/// The event that is published with an alert.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertEvent {
    /// Its type.
    pub event_type: String,
    /// Its payload.
    pub payload: Value,
    /// The event that caused it, if there is one.
    pub caused_by: Option<EventId>,
}

impl AlertEvent {
    fn new(payload: impl Into<Payload>, caused_by: Option<EventId>) -> Self {
        let payload = payload.into();
        Self { event_type: payload.event_type().to_owned(), payload: payload.to_value(), caused_by }
    }

    /// Adds a field that the event catalog does not define.
    fn with(mut self, field: &str, value: Value) -> Self {
        if let Value::Object(fields) = &mut self.payload {
            fields.insert(field.to_owned(), value);
        }
        self
    }
}

/// One action of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Store the changed files of a loop.
    StoreFiles {
        /// The loop.
        loop_id: LoopId,
        /// All its changed files.
        rows: Vec<WorktreeChange>,
    },
    /// Store how far the output of an agent was read.
    StoreOutput(AgentOutput),
    /// Delete the row of agent output of a loop that is no longer registered.
    ForgetOutput(String),
    /// Store the current time as excused time of these loops.
    Excuse(Vec<LoopId>),
    /// Store the clocks; after a sleep this starts the grace period.
    WriteClock {
        /// Length of the grace period.
        grace_seconds: i64,
    },
    /// Open an alert and publish the event.
    Raise(Finding, Option<AlertEvent>),
    /// Raise an open alert to its next level and publish the event.
    Escalate(Finding, AlertEvent),
    /// Update the message and context of an open alert.
    Amend(Finding),
    /// Close an alert whose cause no longer exists.
    Close {
        /// Fingerprint of the alert.
        fingerprint: String,
    },
}

/// The state of one decision.
struct Work<'a> {
    config: &'a Config,
    at: &'a MonitorSnapshot,
    plan: Plan<Action>,
    /// Alerts that stay open.
    kept: BTreeSet<String>,
}

/// Decides what to report for this snapshot.
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

    fn raise(&mut self, finding: Finding, event: Option<AlertEvent>) {
        self.keep(&finding.fingerprint);
        self.plan.act(Action::Raise(finding, event));
    }

    /// Keeps an open alert, and updates it if one of these fields of its context has changed.
    fn renew(&mut self, open: &Alert, finding: Finding, fields: &[&str]) {
        self.keep(&finding.fingerprint);
        if fields.iter().any(|field| open.context.get(*field) != finding.context.get(*field)) {
            self.plan.act(Action::Amend(finding));
        }
    }

    /// True once a duration has passed; otherwise the plan asks for a pass at its end. Zero or less means no limit.
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

/// True if the loop is idle for an external reason, so that this time does not count.
fn rests(at: &MonitorSnapshot, view: &LoopView) -> bool {
    match view.row.status {
        LoopStatus::Running => at.in_grace || view.waiting || view.held,
        LoopStatus::Paused => view.current.is_some(),
        LoopStatus::Stopped | LoopStatus::Error => false,
    }
}

/// Stores the current time for loops that are idle for an external reason. Their times count from then on, also after a
/// restart.
fn excuse(work: &mut Work<'_>) {
    let at = work.at;
    let mut loops = Vec::new();
    for view in at.loops.iter().filter(|view| rests(at, view) && (view.current.is_some() || view.ready_since.is_some())) {
        let due = view.excused_at.map(|last| last.plus_seconds(EXCUSE_EVERY_SECONDS));
        match due {
            // A later time was stored before the clock was set back.
            Some(due) if due > at.now && due <= at.now.plus_seconds(EXCUSE_EVERY_SECONDS) => work.plan.look_again(due),
            _ => loops.push(view.row.id.clone()),
        }
    }
    if !loops.is_empty() {
        work.plan.act(Action::Excuse(loops));
    }
}

/// Reports a heartbeat service that does not run; no other component watches it.
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
                "heartbeat has not reported for {minutes} minutes; dead loops are not detected and not cleaned up until it runs: start it"
            ),
            context: json!({"kind": "component", "component": "heartbeat", "last_heartbeat": beat}),
        };
        work.raise(finding, None);
    }
}

fn close_what_is_over(work: &mut Work<'_>) {
    for (fingerprint, alert) in &work.at.alerts {
        let is_of_other_host = fingerprint.strip_prefix(prefix::DISK).is_some_and(|host| work.at.host.as_deref() != Some(host));
        if alert.source == ID && !work.kept.contains(fingerprint) && !is_of_other_host {
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
    if at.loops.iter().any(|view| view.current.is_some()) {
        let seconds = i64::try_from(work.config.monitor.interval_seconds).unwrap_or(i64::MAX);
        work.plan.look_again(at.now.plus_seconds(seconds));
    }
}

/// The first non-empty line of an error, shortened.
fn first_line(error: &str) -> String {
    let line = error.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|letter| !letter.is_control()).take(ERROR_CHARS).collect()
}
