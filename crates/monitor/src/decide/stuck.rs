//! Loops that make no progress: consecutive failures, an attempt without progress, silence, or no passed test for a
//! long time.
//!
//! A long attempt alone is no fault: a large change, a long suite and a slow model take their time. An attempt counts
//! as stuck once it has changed nothing in its workspace and printed nothing new for `monitor.stuck_attempt_minutes`.
//!
//! Of a loop on another machine only rows are visible: what its run reports, its events, its usage. They say less than files, so its
//! silence does not count, and neither does the attempt of an agent whose run reports nothing.

use coord_db::payload::StuckDetected;
use coord_db::{AlertType, EventId, LoopStatus, Severity, TestId, TestStatus, Timestamp};
use serde_json::{Value, json};

use super::{AlertEvent, Finding, Work, first_line};
use crate::snapshot::{LoopView, TestView, prefix};

/// The duration in an open alert is updated at this interval.
const UPDATE_MINUTES: i64 = 10;

/// Why a loop counts as stuck.
struct Reasons {
    /// Keywords for the alert's context.
    words: Vec<&'static str>,
    /// The same as text.
    texts: Vec<String>,
    since: Timestamp,
    cause: Option<EventId>,
}

impl Reasons {
    fn none(now: Timestamp) -> Self {
        Self { words: Vec::new(), texts: Vec::new(), since: now, cause: None }
    }

    fn add(&mut self, word: &'static str, text: String, since: Timestamp, cause: Option<&EventId>) {
        self.words.push(word);
        self.texts.push(text);
        self.since = self.since.min(since);
        self.cause = self.cause.take().or_else(|| cause.cloned());
    }
}

pub(super) fn judge(work: &mut Work<'_>, view: &LoopView) {
    let at = work.at;
    let loop_id = &view.row.id;
    let without_test = format!("{}{loop_id}:-", prefix::STUCK);
    if view.row.status != LoopStatus::Running || view.waiting || at.in_grace {
        // Nothing can be judged now; open alerts about unfinished tests stay open.
        for seen in &view.tests {
            work.keep(&fingerprint(loop_id.as_str(), &seen.test.id));
        }
        work.keep(&without_test);
        return;
    }
    let is_open = work.open(&without_test).is_some();
    let no_pass = no_pass(work, view, is_open);
    let is_open = is_open && no_pass.is_some();
    let mut reported = false;
    for seen in &view.tests {
        let name = fingerprint(loop_id.as_str(), &seen.test.id);
        let open = work.open(&name);
        let reasons = reasons(work, view, seen, open.is_some());
        if reasons.words.is_empty() {
            if is_unknown(view) {
                work.keep(&name);
            }
            continue;
        }
        // An open "no test passed" alert already covers the other durations.
        if open.is_none() && is_open && !reasons.words.contains(&"failures") {
            continue;
        }
        reported = true;
        let failures = &seen.failures;
        let error = failures.last_error.as_deref().or(seen.test.last_error.as_deref());
        let finding = finding(&name, view, Some(&seen.test.id), failures.count, &reasons, error, at.now);
        match open {
            Some(alert) => {
                work.renew(alert, finding, &["reasons", "consecutive_failures", "told_at_minutes"]);
            }
            None => {
                let event = stuck_event(work, view, Some(&seen.test.id), failures.count, &reasons, error);
                work.raise(finding, Some(event));
            }
        }
    }
    let Some(since) = no_pass else { return };
    if is_open || !reported {
        let mut reasons = Reasons::none(at.now);
        let minutes = minutes(at.now, since);
        let cause =
            view.current_test().and_then(|seen| seen.started.as_ref()).or(view.last_event.as_ref().map(|(event, _)| event));
        reasons.add("no_pass", format!("no test passed for {minutes} minutes although the loop has work"), since, cause);
        let test = view.current_test().map(|seen| &seen.test.id);
        let failures = view.current_test().map_or(0, |seen| seen.failures.count);
        let error = view.current_test().and_then(|seen| seen.test.last_error.as_deref());
        let finding = finding(&without_test, view, test, failures, &reasons, error, at.now);
        if let Some(alert) = work.open(&without_test) {
            work.renew(alert, finding, &["test_id", "consecutive_failures", "told_at_minutes"]);
            return;
        }
        let event = stuck_event(work, view, test, failures, &reasons, error);
        work.raise(finding, Some(event));
    }
}

fn fingerprint(loop_id: &str, test: &TestId) -> String {
    format!("{}{loop_id}:{test}", prefix::STUCK)
}

fn minutes(now: Timestamp, since: Timestamp) -> i64 {
    (now.seconds_since(since) / 60).max(0)
}

fn reasons(work: &mut Work<'_>, view: &LoopView, seen: &TestView, open: bool) -> Reasons {
    let now = work.at.now;
    let settings = &work.config.monitor;
    let mut reasons = Reasons::none(now);
    let failures = &seen.failures;
    if failures.count >= settings.stuck_failures {
        let text = format!("{} consecutive failures", failures.count);
        reasons.add("failures", text, failures.since.unwrap_or(now), failures.last_event.as_ref());
    }
    if seen.test.status != TestStatus::InProgress {
        return reasons;
    }
    if let Some(since) = seen.attempt_since.filter(|_| !is_unknown(view)) {
        let new = after_rest(view, progress(view, seen).map_or(since, |new| new.max(since)), open).min(now);
        if work.is_over(new, settings.stuck_attempt_minutes) {
            let (runs, new_for) = (minutes(now, since), minutes(now, new));
            let text = format!("the attempt has run for {runs} minutes, the last {new_for} without progress");
            reasons.add("attempt", text, new, seen.started.as_ref());
        }
    }
    if !view.elsewhere && view.current_test().is_some_and(|current| current.test.id == seen.test.id) {
        let (since, event) = last_sign_of_life(view, seen);
        let since = after_rest(view, since, open).min(now);
        if work.is_over(since, settings.stuck_silence_minutes) {
            let text = format!("no activity for {} minutes", minutes(now, since));
            reasons.add("silence", text, since, event.or(seen.started.as_ref()));
        }
    }
    reasons
}

/// An idle period with an external reason restarts the time. It is no progress, so an open alert is not closed by it.
fn after_rest(view: &LoopView, since: Timestamp, open: bool) -> Timestamp {
    let rests = [view.excused_at, view.trail.resumed_at];
    if open { since } else { rests.into_iter().flatten().fold(since, Timestamp::max) }
}

/// True if nothing here says whether the current attempt makes progress.
fn is_unknown(view: &LoopView) -> bool {
    view.elsewhere && view.output.is_none()
}

/// Time of the last progress of the current attempt: a change in its workspace or new output; elsewhere, any row.
fn progress(view: &LoopView, seen: &TestView) -> Option<Timestamp> {
    view.current_test().filter(|current| current.test.id == seen.test.id)?;
    let changed = view.files.rows.iter().map(|row| row.last_changed_at).max();
    let rows = [view.last_event.as_ref().map(|(_, at)| *at), view.used_at];
    let rows = rows.into_iter().filter(|_| view.elsewhere).flatten().max();
    changed.max(view.output.as_ref().map(|output| output.news_at)).max(rows)
}

/// Time of the last activity: an event, a change in the workspace, agent output, a usage record, a heartbeat by hand.
fn last_sign_of_life<'a>(view: &'a LoopView, seen: &TestView) -> (Timestamp, Option<&'a EventId>) {
    let last_event = view.last_event.as_ref().map(|(_, at)| *at);
    let changed = view.files.rows.iter().map(|row| row.last_changed_at).max();
    let written = view.output.as_ref().map(|output| output.written_at);
    let signs = [last_event, changed, written, view.files.active_at, view.used_at, view.beat_at, seen.attempt_since];
    let newest = signs.into_iter().flatten().max();
    // Rows written by an external tool may have only a creation time.
    let newest = newest.unwrap_or_else(|| seen.test.created_at.max(view.row.updated_at));
    (newest, view.last_event.as_ref().map(|(event, _)| event))
}

/// Since when a loop with work has passed no test, if that exceeds the limit.
fn no_pass(work: &mut Work<'_>, view: &LoopView, open: bool) -> Option<Timestamp> {
    let current = view.current_test();
    let work_since = [current.map(|seen| seen.test.created_at), view.ready_since].into_iter().flatten().min()?;
    let settled = view.trail.settled_at.max(view.passed_at);
    let began = view.trail.began_at.filter(|began| settled.is_none_or(|settled| *began >= settled));
    // A loop without an attempt is judged from the time at which it could have started one.
    let began = began.or_else(|| current?.attempt_since).unwrap_or(view.row.updated_at);
    let since = Some(work_since).max(Some(began)).max(settled).max(view.started_at);
    let since = match current {
        // After repeated attempts the progress of a single attempt does not count.
        _ if view.trail.begun >= work.config.monitor.stuck_failures.max(2) => since,
        Some(_) if is_unknown(view) => return None,
        Some(seen) => since.max(seen.attempt_since).max(progress(view, seen)),
        None if view.trail.begun > 0 => since.max(Some(view.row.updated_at)),
        None => since,
    };
    let since = after_rest(view, since.unwrap_or(work.at.now), open).min(work.at.now);
    work.is_over(since, work.config.monitor.stuck_no_pass_minutes).then_some(since)
}

fn finding(
    name: &str,
    view: &LoopView,
    test: Option<&TestId>,
    failures: i64,
    reasons: &Reasons,
    error: Option<&str>,
    now: Timestamp,
) -> Finding {
    let on = test.map_or_else(String::new, |test| format!(" on test {test}"));
    let error = error.map(first_line).filter(|error| !error.is_empty());
    let last = error.as_ref().map_or_else(String::new, |error| format!("; last error: {error}"));
    Finding {
        fingerprint: name.to_owned(),
        severity: Severity::Warning,
        alert_type: AlertType::Stuck,
        message: format!("{} makes no progress{on}: {}{last}", view.row.id, reasons.texts.join(", ")),
        context: json!({
            "loop_id": view.row.id, "test_id": test, "reasons": reasons.words, "consecutive_failures": failures,
            "since": reasons.since, "told_at_minutes": minutes(now, reasons.since) / UPDATE_MINUTES * UPDATE_MINUTES,
            "last_error": error.map_or(Value::Null, Value::String),
        }),
    }
}

fn stuck_event(
    work: &Work<'_>,
    view: &LoopView,
    test: Option<&TestId>,
    failures: i64,
    reasons: &Reasons,
    error: Option<&str>,
) -> AlertEvent {
    let payload = StuckDetected {
        loop_id: view.row.id.clone(),
        test_id: test.cloned(),
        consecutive_failures: failures,
        stuck_for_minutes: minutes(work.at.now, reasons.since),
        last_error: error.map(first_line).filter(|error| !error.is_empty()),
    };
    AlertEvent::new(payload, reasons.cause.clone()).with("reasons", json!(reasons.words))
}
