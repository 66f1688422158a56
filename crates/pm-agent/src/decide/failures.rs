//! The reaction to a failed attempt, by failure category.
//!
//! transient: nothing; the test is retried with increasing delays. spec, human: the human is asked, and the test waits
//! for the answer. resource: the loop pauses until the next try. dependency: the test waits, and after a while the
//! human is asked. system: an alert is raised; the same error in two loops pauses all loops and asks, while a loop with
//! repeated errors holds itself. Everything follows from the rows, so a restart repeats nothing.

use coord_db::{DecisionStatus, ErrorCategory, EventId, LoopId, Test};
use serde_json::json;

use super::questions::{Question, put};
use super::{Act, Work, first_line};
use crate::matters::{SYSTEM, about_test};
use crate::snapshot::Failure;

/// The test because of which a loop is paused until a resource is available.
pub(super) fn short_of_resources<'a>(work: &Work<'a>, id: &LoopId) -> Option<&'a Test> {
    let now = work.at.now;
    let waiting = work.at.failures.iter().map(|failure| &failure.test).filter(|test| {
        test.loop_id == *id
            && test.error_category == Some(ErrorCategory::Resource)
            && test.not_before.is_some_and(|until| until > now)
    });
    waiting.max_by_key(|test| test.not_before)
}

/// Handles each failure.
pub(super) fn handle(work: &mut Work<'_>) {
    let failures = &work.at.failures;
    for failure in failures {
        match failure.test.error_category {
            Some(ErrorCategory::Spec | ErrorCategory::Human) => ask_about(work, failure),
            Some(ErrorCategory::Resource) => pause(work, failure),
            Some(ErrorCategory::Dependency) => wait_then_ask(work, failure),
            _ => {}
        }
    }
    system(work);
}

fn error_text(test: &Test) -> String {
    first_line(test.last_error.as_deref().unwrap_or_default())
}

fn ask_about(work: &mut Work<'_>, failure: &Failure) {
    let test = &failure.test;
    if failure.asked || work.at.now < failure.attempted() {
        return;
    }
    let what = if test.error_category == Some(ErrorCategory::Spec) { "cannot be done as specified" } else { "needs a human" };
    let options = [
        ("retry", format!("{} tries it again (correct the specification first, if necessary)", test.loop_id)),
        ("skip", "skip the test; tests that depend on it stay blocked".to_owned()),
        ("leave", "end the delay; the test is tried again until its attempts are used up (default)".to_owned()),
    ];
    let question = Question {
        decision_type: "failure",
        fingerprint: about_test(test.id.as_str()),
        summary: format!(
            "test {} of {} {what}, according to attempt {} of {}: {}; it waits for your answer until the time limit",
            test.id,
            test.loop_id,
            test.attempts,
            test.max_attempts,
            error_text(test)
        ),
        options: &options,
        default: Some("leave"),
        context: json!({
            "test_id": test.id, "loop_id": test.loop_id, "error_category": test.error_category, "last_error": test.last_error,
        }),
    };
    let minutes = work.config.pm.decision_timeout_minutes.max(0);
    if put(work, question, failure.event.as_ref()) {
        let until = work.at.now.plus_seconds(minutes.saturating_mul(60));
        work.act(Act::HoldTest { test: test.id.clone(), until }, failure.event.as_ref());
    }
}

fn pause(work: &mut Work<'_>, failure: &Failure) {
    let test = &failure.test;
    let Some(until) = test.not_before.filter(|until| *until > work.at.now) else { return };
    work.plan.look_again(until);
    if failure.paused || work.at.running(&test.loop_id).is_none() || !work.newly_held.insert(test.loop_id.clone()) {
        return;
    }
    let reason = format!(
        "{} lacks a resource ({}) and pauses until test {} is retried at {until}",
        test.loop_id,
        error_text(test),
        test.id
    );
    work.act(Act::Pause { loop_id: test.loop_id.clone(), reason, by_human: false }, failure.event.as_ref());
}

fn wait_then_ask(work: &mut Work<'_>, failure: &Failure) {
    let test = &failure.test;
    // The change request has its own question.
    let requested = work.at.change_requests.iter().any(|request| request.requestor_loop == test.loop_id);
    let waited = test.backed_off_seconds();
    if failure.asked || requested || waited < work.config.pm.dependency_wait_minutes.saturating_mul(60) {
        return;
    }
    let options = [
        ("wait", "keep retrying with delays (default)".to_owned()),
        ("retry", format!("{} retries it at once", test.loop_id)),
        ("skip", "skip the test; tests that depend on it stay blocked".to_owned()),
    ];
    let question = Question {
        decision_type: "failure",
        fingerprint: about_test(test.id.as_str()),
        summary: format!(
            "test {} of {} waits for an external dependency; {} attempts in {} minutes failed: {}",
            test.id,
            test.loop_id,
            test.give_backs,
            waited / 60,
            error_text(test)
        ),
        options: &options,
        default: Some("wait"),
        context: json!({
            "test_id": test.id, "loop_id": test.loop_id, "error_category": test.error_category, "last_error": test.last_error,
        }),
    };
    put(work, question, failure.event.as_ref());
}

/// True for two errors that are equal except for the names of loop and test.
fn says_the_same(one: &Test, other: &Test) -> bool {
    let words = |test: &Test| -> Vec<String> {
        let own = [test.loop_id.as_str(), test.id.as_str()];
        let text = error_text(test);
        let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || "._-".contains(letter)));
        words.filter(|word| !own.contains(word)).map(str::to_owned).collect()
    };
    words(one) == words(other)
}

fn system(work: &mut Work<'_>) {
    let last = work.at.questions.get(SYSTEM);
    let open = last.is_some_and(|last| last.status == DecisionStatus::Pending && !work.settled.contains(&last.id));
    let standing: Vec<&Failure> =
        work.at.failures.iter().filter(|failure| failure.test.error_category == Some(ErrorCategory::System)).collect();
    let Some(newest) = standing.iter().max_by_key(|failure| (failure.attempted(), &failure.test.id)) else {
        if !open && work.at.alerts.iter().any(|alert| alert.fingerprint.as_deref() == Some(SYSTEM)) {
            work.act(Act::CloseAlert { fingerprint: SYSTEM.to_owned() }, None);
        }
        return;
    };
    let cause: Option<EventId> = newest.event.clone();
    let message =
        format!("a system error stops test {} of {}: {}", newest.test.id, newest.test.loop_id, error_text(&newest.test));
    let alert = work.at.alerts.iter().find(|alert| alert.fingerprint.as_deref() == Some(SYSTEM));
    if alert.is_none_or(|alert| alert.message != message) {
        work.act(Act::ReportSystemError { message: message.clone(), test: newest.test.id.clone() }, cause.as_ref());
    }
    // Since the last question about it, if any.
    let since = last.map(|last| last.decided_at.unwrap_or(last.requested_at));
    let fresh: Vec<&&Failure> =
        standing.iter().filter(|failure| since.is_none_or(|since| failure.attempted() > since)).collect();
    let shared =
        fresh.iter().any(|failure| failure.test.loop_id != newest.test.loop_id && says_the_same(&failure.test, &newest.test));
    if open || !shared {
        return;
    }
    let loops: Vec<LoopId> = work.at.loops.keys().filter(|id| work.at.running(id).is_some()).cloned().collect();
    let names = loops.iter().map(LoopId::as_str).collect::<Vec<_>>().join(", ");
    let options =
        [("go_on", "resume all loops (default)".to_owned()), ("stop", format!("keep {names} paused until you resume them"))];
    let question = Question {
        decision_type: SYSTEM,
        fingerprint: SYSTEM.to_owned(),
        summary: format!(
            "{message}; other loops have the same error, so all loops are paused until your answer or the time limit"
        ),
        options: &options,
        default: Some("go_on"),
        context: json!({ "loops": loops, "test_id": newest.test.id, "loop_id": newest.test.loop_id, "last_error": newest.test.last_error }),
    };
    if put(work, question, cause.as_ref()) {
        for loop_id in loops {
            work.newly_held.insert(loop_id.clone());
            let reason = format!("{message}; all loops wait for the human's answer");
            work.act(Act::Pause { loop_id, reason, by_human: false }, cause.as_ref());
        }
    }
}
