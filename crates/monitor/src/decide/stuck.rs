//! Loops that make no progress: failures in a row, an attempt without end, silence, no pass for long.
//!
//! That something takes long is no fault: a big change, a long suite and a slow model take their time. An attempt is without
//! end once it has done nothing new for so long: changed nothing in its workspace, and said nothing that it had not said before.

use coord_db::payload::StuckDetected;
use coord_db::{AlertType, EventId, LoopStatus, Severity, TestId, TestStatus, Timestamp};
use serde_json::{Value, json};

use super::{Finding, Said, Work, first_line};
use crate::snapshot::{LoopView, TestView, prefix};

/// How long it lasts is told anew after so many minutes.
const TOLD_ANEW_MINUTES: i64 = 10;

/// Why a loop counts as stuck.
struct Reasons {
    /// Short words, as the alert's context has them.
    words: Vec<&'static str>,
    /// For people.
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
    let idle = format!("{}{loop_id}:-", prefix::STUCK);
    if view.row.status != LoopStatus::Running || view.waiting || at.in_grace {
        // Nothing can be told now. What was told about an unfinished test stands.
        for seen in &view.tests {
            work.keep(&fingerprint(loop_id.as_str(), &seen.test.id));
        }
        work.keep(&idle);
        return;
    }
    let idle_is_open = work.open(&idle).is_some();
    let no_pass = no_pass(work, view, idle_is_open);
    let idle_is_open = idle_is_open && no_pass.is_some();
    let mut told = false;
    for seen in &view.tests {
        let name = fingerprint(loop_id.as_str(), &seen.test.id);
        let open = work.open(&name);
        let reasons = reasons(work, view, seen, open.is_some());
        if reasons.words.is_empty() {
            continue;
        }
        // That nothing passes was said already, and time alone says no more than that.
        if open.is_none() && idle_is_open && !reasons.words.contains(&"failures") {
            continue;
        }
        told = true;
        let failures = &seen.failures;
        let error = failures.last_error.as_deref().or(seen.test.last_error.as_deref());
        let finding = finding(&name, view, Some(&seen.test.id), failures.count, &reasons, error, at.now);
        match open {
            Some(alert) => {
                work.renew(alert, finding, &["reasons", "consecutive_failures", "told_at_minutes"]);
            }
            None => {
                let said = said(work, view, Some(&seen.test.id), failures.count, &reasons, error);
                work.raise(finding, Some(said));
            }
        }
    }
    let Some(since) = no_pass else { return };
    if idle_is_open || !told {
        let mut reasons = Reasons::none(at.now);
        let minutes = minutes(at.now, since);
        let cause = view.in_hand().and_then(|seen| seen.started.as_ref()).or(view.said.as_ref().map(|(event, _)| event));
        reasons.add("no_pass", format!("no test passed for {minutes} minutes although there is work"), since, cause);
        let test = view.in_hand().map(|seen| &seen.test.id);
        let failures = view.in_hand().map_or(0, |seen| seen.failures.count);
        let error = view.in_hand().and_then(|seen| seen.test.last_error.as_deref());
        let finding = finding(&idle, view, test, failures, &reasons, error, at.now);
        if let Some(alert) = work.open(&idle) {
            work.renew(alert, finding, &["test_id", "consecutive_failures", "told_at_minutes"]);
            return;
        }
        let said = said(work, view, test, failures, &reasons, error);
        work.raise(finding, Some(said));
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
        let text = format!("{} failures in a row", failures.count);
        reasons.add("failures", text, failures.since.unwrap_or(now), failures.last_event.as_ref());
    }
    if seen.test.status != TestStatus::InProgress {
        return reasons;
    }
    if let Some(since) = seen.attempt_since {
        let new = after_rest(view, progress(view, seen).map_or(since, |new| new.max(since)), open).min(now);
        if work.is_over(new, settings.stuck_attempt_minutes) {
            let (runs, new_for) = (minutes(now, since), minutes(now, new));
            let text = format!("one attempt runs for {runs} minutes and has done nothing new for {new_for}");
            reasons.add("attempt", text, new, seen.started.as_ref());
        }
    }
    if view.in_hand().is_some_and(|in_hand| in_hand.test.id == seen.test.id) {
        let (since, event) = last_sign_of_life(view, seen);
        let since = after_rest(view, since, open).min(now);
        if work.is_over(since, settings.stuck_silence_minutes) {
            let text = format!("no sign of life for {} minutes", minutes(now, since));
            reasons.add("silence", text, since, event.or(seen.started.as_ref()));
        }
    }
    reasons
}

/// A rest that was not its own doing starts the time anew. It is no progress: what was told before stands.
fn after_rest(view: &LoopView, since: Timestamp, open: bool) -> Timestamp {
    let rests = [view.excused_at, view.trail.resumed_at];
    if open { since } else { rests.into_iter().flatten().fold(since, Timestamp::max) }
}

/// When the attempt in hand did something new last: a change in its workspace, words that it had not said before.
fn progress(view: &LoopView, seen: &TestView) -> Option<Timestamp> {
    view.in_hand().filter(|in_hand| in_hand.test.id == seen.test.id)?;
    let changed = view.files.rows.iter().map(|row| row.last_changed_at).max();
    changed.max(view.output.as_ref().map(|output| output.news_at))
}

/// An event, a change in its workspace, its agent's output, use that it reports, a beat by hand.
fn last_sign_of_life<'a>(view: &'a LoopView, seen: &TestView) -> (Timestamp, Option<&'a EventId>) {
    let said = view.said.as_ref().map(|(_, at)| *at);
    let changed = view.files.rows.iter().map(|row| row.last_changed_at).max();
    let written = view.output.as_ref().map(|output| output.written_at);
    let signs = [said, changed, written, view.files.active_at, view.used_at, view.beat_at, seen.attempt_since];
    let newest = signs.into_iter().flatten().max();
    // Rows that another tool has filled may know no time but that of their making.
    let newest = newest.unwrap_or_else(|| seen.test.created_at.max(view.row.updated_at));
    (newest, view.said.as_ref().map(|(event, _)| event))
}

/// Since when a loop that has work has passed nothing, if that is too long.
fn no_pass(work: &mut Work<'_>, view: &LoopView, open: bool) -> Option<Timestamp> {
    let in_hand = view.in_hand();
    let work_since = [in_hand.map(|seen| seen.test.created_at), view.ready_since].into_iter().flatten().min()?;
    let settled = view.trail.settled_at.max(view.passed_at);
    let began = view.trail.began_at.filter(|began| settled.is_none_or(|settled| *began >= settled));
    // One that has begun nothing is judged from when it could have.
    let began = began.or_else(|| in_hand?.attempt_since).unwrap_or(view.row.updated_at);
    let since = Some(work_since).max(Some(began)).max(settled).max(view.started_at);
    let since = match in_hand {
        // It tries again and again; what each attempt does new says nothing.
        _ if view.trail.begun >= work.config.monitor.stuck_failures.max(2) => since,
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
            "since": reasons.since, "told_at_minutes": minutes(now, reasons.since) / TOLD_ANEW_MINUTES * TOLD_ANEW_MINUTES,
            "last_error": error.map_or(Value::Null, Value::String),
        }),
    }
}

fn said(
    work: &Work<'_>,
    view: &LoopView,
    test: Option<&TestId>,
    failures: i64,
    reasons: &Reasons,
    error: Option<&str>,
) -> Said {
    let payload = StuckDetected {
        loop_id: view.row.id.clone(),
        test_id: test.cloned(),
        consecutive_failures: failures,
        stuck_for_minutes: minutes(work.at.now, reasons.since),
        last_error: error.map(first_line).filter(|error| !error.is_empty()),
    };
    Said::new(payload, reasons.cause.clone()).with("reasons", json!(reasons.words))
}
