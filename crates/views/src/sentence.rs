//! Every event as one sentence for people.

use coord_db::{
    BatchOutcome, Event, Payload, dollars, payload, payload::DecisionOption, payload::amount, payload::resource_name, short_id,
};
use serde::Serialize;
use serde_json::Value;

use crate::text::{beginning, one_line, shortened};
use crate::when::span;

/// An event as JSON has it in every command: its row and its sentence.
#[derive(Debug, Serialize)]
pub struct JsonEvent<'a> {
    #[serde(flatten)]
    event: &'a Event,
    sentence: String,
}

impl<'a> From<&'a Event> for JsonEvent<'a> {
    fn from(event: &'a Event) -> Self {
        Self { event, sentence: sentence(event) }
    }
}

/// Events as JSON.
#[must_use]
pub fn json_events(events: &[Event]) -> Vec<JsonEvent<'_>> {
    events.iter().map(JsonEvent::from).collect()
}

/// Serializes events with their sentences.
///
/// # Errors
/// As the serializer.
pub fn as_told<S: serde::Serializer>(events: &[Event], serializer: S) -> Result<S::Ok, S::Error> {
    json_events(events).serialize(serializer)
}

/// The maximum length of a sentence, in characters.
const MAX_SENTENCE: usize = 600;

/// What an event says, in one line that is safe for a terminal. An event that does not fit the catalog (a foreign
/// writer's) is shown as its bare payload.
#[must_use]
pub fn sentence(event: &Event) -> String {
    let text = match event.parse() {
        Ok(Payload::StuckDetected(payload)) => stuck(&payload, &reasons(event)),
        Ok(Payload::FileConflict(p)) if reasons(event).contains(&"leased") => {
            format!("{} or {} changed {}, which the other has leased", p.loop_a, p.loop_b, p.file_path)
        }
        Ok(Payload::DigressionDetected(payload)) => digression(&payload, &reasons(event)),
        Ok(payload) => of_payload(&payload),
        Err(_) => format!("unknown payload: {}", beginning(&event.payload.to_string(), 8 * MAX_SENTENCE)),
    };
    shortened(&one_line(&text), MAX_SENTENCE)
}

fn of_payload(payload: &Payload) -> String {
    match payload {
        Payload::TestStarted(p) => {
            let summary = p.spec_summary.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
            format!("{} starts test {}, attempt {}{summary}", p.loop_id, p.test_id, p.attempt)
        }
        Payload::TestPassed(p) => test_passed(p),
        Payload::TestFailed(p) => {
            let next = if p.will_retry { "it is retried" } else { "it is not retried" };
            format!(
                "test {} of {} failed, attempt {} ({}): {}; {next}",
                p.test_id, p.loop_id, p.attempt, p.error_category, p.error_message
            )
        }
        Payload::TestBlocked(p) => {
            let waiting = match p.blocking_dependents.len() {
                0 => String::new(),
                _ => format!("; {} for it", and_verb(&names(&p.blocking_dependents), "waits", "wait")),
            };
            format!(
                "test {} of {} is blocked after {}: {}{waiting}",
                p.test_id,
                p.loop_id,
                count(p.attempts, "attempt"),
                p.last_error
            )
        }
        Payload::FileLocked(p) => {
            let test = p.test_id.as_ref().map(|test| format!(" for test {test}")).unwrap_or_default();
            let ttl = p.ttl_seconds.map(|ttl| format!(", for {}", span(ttl))).unwrap_or_default();
            format!("{} leases {}{test}{ttl}{}", p.loop_id, p.file_path, because(p.reason.as_deref()))
        }
        Payload::FileUnlocked(p) => {
            use coord_db::UnlockCause as Cause;
            let how = match p.cause {
                Cause::Released => "releases",
                Cause::Expired => "let the lease expire on",
                Cause::Revoked => "did not release in time and lost the lease on",
                Cause::OwnerDied => "is dead and lost the lease on",
                Cause::Forced => "lost to a forced unlock the lease on",
            };
            format!("{} {how} {}, held for {}", p.loop_id, p.file_path, span(p.held_for_seconds))
        }
        Payload::FileConflict(p) => format!("{} and {} both changed {}", p.loop_a, p.loop_b, p.file_path),
        Payload::StuckDetected(p) => stuck(p, &[]),
        Payload::DigressionDetected(p) => digression(p, &[]),
        Payload::ResourceWarning(p) => {
            let whose = p.loop_id.as_ref().map(|id| format!("{id}: ")).unwrap_or_default();
            let (resource, current, limit) =
                (resource_name(&p.resource), amount(&p.resource, p.current), amount(&p.resource, p.limit));
            format!("{whose}{resource} is at {} % of the limit ({current} of {limit})", p.percentage)
        }
        Payload::RegressionDetected(p) => regression(p),
        Payload::RegressionCleared(p) => format!("test {} passes again at {}", p.test_id, short(&p.commit)),
        Payload::DecisionNeeded(p) => {
            let default = p.default_option.as_deref().map(|option| format!("; by default {option}")).unwrap_or_default();
            let limit =
                p.timeout_minutes.map(|minutes| format!(" after {}", span(minutes.saturating_mul(60)))).unwrap_or_default();
            format!("asks: {} [{}]{default}{limit}", p.summary, options(&p.options))
        }
        Payload::DecisionResolved(p) => {
            let what = p
                .choice
                .as_deref()
                .map_or_else(|| "resolved without a choice".to_owned(), |choice| format!("resolved: {choice}"));
            let by = match p.decided_by.as_deref() {
                Some("auto") => " (default after the timeout)",
                Some("human") => " (answered by the human)",
                _ => "",
            };
            format!("decision {} is {what}{by}{}", short_id(p.decision_id.as_str()), because(p.comment.as_deref()))
        }
        Payload::TestMoved(p) => {
            format!("test {} is moved from {} to {}{}", p.test_id, p.from_loop, p.to_loop, because(Some(&p.reason)))
        }
        Payload::PriorityChanged(p) => {
            format!(
                "priority of {} changes from {} to {}{}",
                p.loop_id,
                p.old_priority,
                p.new_priority,
                because(Some(&p.reason))
            )
        }
        Payload::PauseRequested(p) => format!("{} asks {} to pause{}", p.requested_by, p.loop_id, because(Some(&p.reason))),
        Payload::ResumeRequested(p) => format!("{} asks {} to resume{}", p.requested_by, p.loop_id, because(Some(&p.reason))),
        Payload::LoopPaused(p) => format!("{} is paused{}", p.loop_id, because(Some(&p.reason))),
        Payload::LoopResumed(p) => format!("{} resumes work{}", p.loop_id, because(Some(&p.reason))),
        Payload::RestartRequested(p) => {
            format!("{} asks {} to restart{}", p.requested_by, p.loop_id, because(Some(&p.reason)))
        }
        Payload::RollbackTriggered(p) => {
            let to = p
                .checkpoint_id
                .as_deref()
                .map_or_else(|| "its newest checkpoint".to_owned(), |id| format!("checkpoint {}", short_id(id)));
            format!("{} asks {} to roll back to {to}{}", p.triggered_by, p.loop_id, because(Some(&p.reason)))
        }
        Payload::RollbackDone(p) => format!("{} is rolled back to {}", p.loop_id, p.git_ref),
        Payload::ForceRelease(p) => {
            let cycle = if p.cycle.is_empty() { String::new() } else { format!(" (deadlock of {})", list(&p.cycle)) };
            let back = if p.must_rollback { " and roll back to its checkpoint" } else { "" };
            format!("{} must release {}{back}{cycle}: {}", p.loop_id, or_nothing(&p.locks_held), p.reason)
        }
        Payload::HumanMessage(p) => {
            let comment = p.comment.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
            match (&p.decision_id, &p.choice) {
                (Some(id), Some(choice)) => format!("decision {} is answered with {choice}{comment}", short_id(id.as_str())),
                _ => format!("{} from {}{comment}", p.message_type, p.source),
            }
        }
        Payload::SummaryRequested(p) => {
            format!("{} asks for a summary of {} over {}", p.requested_by, p.scope, count(p.since_hours, "hour"))
        }
        Payload::KnowledgeRecorded(p) => {
            let who = p.loop_id.as_ref().map_or_else(|| "the human".to_owned(), ToString::to_string);
            let topic = p.topic.as_deref().map(|topic| format!(" on {topic}")).unwrap_or_default();
            format!("{who} records a {}{topic}: {}", p.item_type, p.content)
        }
        Payload::KnowledgeConflict(p) => format!("two knowledge items contradict each other: {}", p.conflict_description),
        Payload::ChangeRequested(p) => {
            format!("{} requests permission from {} to {} {}", p.requestor_loop, p.owner_loop, p.request_type, p.resource_path)
        }
        Payload::ChangeResolved(p) => {
            format!(
                "request of {} to {} {} of {} is {}",
                p.requestor_loop, p.request_type, p.resource_path, p.owner_loop, p.status
            )
        }
        Payload::AgentLimited(p) => {
            let until =
                p.until.map_or_else(|| " until the human answers".to_owned(), |at| format!(" until {}", at.to_rfc3339()));
            format!("agent {} cannot work for {}; its loops start no attempts{until}: {}", p.agent, p.loop_id, p.reason)
        }
        Payload::AgentAvailable(p) => format!("the loops of agent {} start attempts again: {}", p.agent, p.reason),
        Payload::Synced(p) => {
            let checks = match p.verification_checks.len() {
                0 => String::new(),
                _ => format!(", verified by {}", p.verification_checks.keys().cloned().collect::<Vec<_>>().join(", ")),
            };
            let (commits, theirs, at) = (count(p.behind, "commit"), short(&p.theirs), short(&p.commit));
            format!("{commits} of {} up to {theirs} landed as {at}{checks}", p.branch)
        }
        Payload::BaseRed(p) => format!(
            "check {} fails at {} without any change by an agent (run by {}); no attempt starts: {}",
            p.check,
            short(&p.commit),
            p.loop_id,
            p.output_tail
        ),
        Payload::BaseProven(p) => {
            let flaky = if p.flaky.is_empty() { String::new() } else { format!("; flaky: {}", p.flaky.join(", ")) };
            format!(
                "{} passed {} at {} in {}; attempts start{flaky}",
                p.loop_id,
                p.checks.join(", "),
                short(&p.commit),
                span(p.seconds)
            )
        }
        Payload::LandingQueued(p) => {
            format!(
                "test {} of {} is verified alone and waits to land, number {} in the queue",
                p.test_id, p.loop_id, p.position
            )
        }
        Payload::BatchJudged(p) => batch_judged(p),
        Payload::AgentGaveUp(p) => {
            format!("the agent of {} gives up test {}, attempt {}{}", p.loop_id, p.test_id, p.attempt, because(Some(&p.reason)))
        }
        Payload::WorkChecked(p) => work_checked(p),
        Payload::ComponentStarted(p) => format!("{} {} is started as pid {}", p.component, p.version, p.pid),
        Payload::ComponentStopped(p) => format!("{} is stopped{}", p.component, because(Some(&p.reason))),
        Payload::ComponentDegraded(p) => {
            let what = match p.status {
                coord_db::HealthStatus::Dead => "is dead",
                _ => "sends heartbeats late",
            };
            let last =
                p.last_heartbeat.map(|beat| format!(", last heartbeat {}", crate::when::clock(beat))).unwrap_or_default();
            format!("{} {what}{last}{}", p.component, because(p.cause.as_deref()))
        }
        Payload::ComponentRecovered(p) => format!("{} sends heartbeats again after {}", p.component, span(p.down_for_seconds)),
        Payload::Custom { value, .. } => match value {
            Value::Object(fields) if fields.is_empty() => String::new(),
            other => other.to_string(),
        },
    }
}

fn test_passed(p: &payload::TestPassed) -> String {
    let checks = match p.verification_checks.len() {
        0 => "verified".to_owned(),
        _ => format!("verified by {}", p.verification_checks.keys().cloned().collect::<Vec<_>>().join(", ")),
    };
    let tokens = p.tokens_estimated.map(|tokens| format!(", {tokens} tokens")).unwrap_or_default();
    let files = count(i64::try_from(p.files_modified.len()).unwrap_or(i64::MAX), "file");
    format!(
        "test {} of {} passed on attempt {}, {checks} at {} ({}, {files}{tokens})",
        p.test_id,
        p.loop_id,
        p.attempt,
        short(&p.commit),
        span(p.duration_seconds)
    )
}

/// The short words that monitor adds to what it finds: what it goes by.
fn reasons(event: &Event) -> Vec<&str> {
    let listed = event.payload.get("reasons").and_then(Value::as_array);
    listed.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn digression(p: &payload::DigressionDetected, reasons: &[&str]) -> String {
    let error = p.repeated_error.as_deref().map(|error| format!("; repeated error: {error}")).unwrap_or_default();
    let expected = if p.expected_scope.is_empty() {
        String::new()
    } else {
        let outside = if reasons.contains(&"scope") {
            format!(", changed outside the scope: {}", list(&p.actual_scope))
        } else {
            String::new()
        };
        format!(" (scope {}{outside})", p.expected_scope.join(", "))
    };
    format!("{} digresses from test {}: {} changed{expected}{error}", p.loop_id, p.test_id, count(p.files_modified, "file"))
}

fn stuck(p: &payload::StuckDetected, reasons: &[&str]) -> String {
    let on = p.test_id.as_ref().map(|test| format!(" on test {test}")).unwrap_or_default();
    let failures = if p.consecutive_failures > 0 {
        format!(", {} in a row", count(p.consecutive_failures, "failure"))
    } else {
        String::new()
    };
    let error = p.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    let signs = [
        ("attempt", ", no change in its attempt"),
        ("silence", ", no activity"),
        ("no_pass", ", no test passed although tests are pending"),
    ];
    let signs: String = signs.iter().filter(|(word, _)| reasons.contains(word)).map(|(_, text)| *text).collect();
    format!("{} is stuck{on} for {}{failures}{signs}{error}", p.loop_id, span(p.stuck_for_minutes.saturating_mul(60)))
}

fn regression(p: &payload::RegressionDetected) -> String {
    let blame = match (&p.first_bad_commit, &p.blamed_loop) {
        (Some(commit), Some(culprit)) => {
            let test = p.blamed_test.as_ref().map(|test| format!(" (test {test})")).unwrap_or_default();
            format!("broken by {} of {culprit}{test}", short(commit))
        }
        (Some(commit), None) => format!("broken by {} of an unknown loop", short(commit)),
        _ => "the first bad commit is unknown".to_owned(),
    };
    format!("test {} passed at {} and fails at {}; {blame}", p.test_id, short(&p.last_passed_commit), short(&p.current_commit))
}

fn work_checked(p: &payload::WorkChecked) -> String {
    let outcome = match (&p.check, p.passed) {
        (_, true) => "passes the checks".to_owned(),
        (Some(check), false) => format!("fails check {check}{}", because(p.why.as_deref())),
        (None, false) => format!("does not pass{}", because(p.why.as_deref())),
    };
    let sent_back = if p.session.is_some() { "; the agent is sent back to work" } else { "" };
    format!("the unfinished work of {} on {} {outcome}{sent_back}", p.loop_id, p.test_id)
}

/// `, because` in its shortest form: nothing if there is no reason.
fn batch_judged(p: &payload::BatchJudged) -> String {
    let works = match p.batch.as_slice() {
        [] => "the head of integration".to_owned(),
        tests => format!("the work of {}", list(&names(tests))),
    };
    let how = match p.outcome {
        BatchOutcome::Passed if p.reused => "passed without a run: the same files had passed before".to_owned(),
        BatchOutcome::Passed => format!("passed together in {}", span(p.seconds)),
        BatchOutcome::Flaky => format!("failed first and passed in another run, in {}", span(p.seconds)),
        BatchOutcome::Failed => format!("failed check {}{}", p.check.as_deref().unwrap_or("?"), because(p.why.as_deref())),
    };
    format!("{works} on {} {how}", short(&p.base))
}

fn because(reason: Option<&str>) -> String {
    match reason.map(str::trim) {
        None | Some("") => String::new(),
        Some(reason) => format!(": {reason}"),
    }
}

/// Tokens, and their cost if it is known.
#[must_use]
pub fn spent(tokens: i64, cost_microusd: i64) -> String {
    let cost = if cost_microusd > 0 { format!(" ({})", dollars(cost_microusd)) } else { String::new() };
    format!("{tokens} tokens{cost}")
}

/// `1 file`, `2 files`.
#[must_use]
pub fn count(number: i64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// The first twelve characters of a commit hash.
#[must_use]
pub fn short(commit: &str) -> String {
    commit.chars().take(12).collect()
}

fn names<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

/// `a`, `a and b`, `a, b and c`.
#[must_use]
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn or_nothing(items: &[String]) -> String {
    if items.is_empty() { "everything".to_owned() } else { list(items) }
}

fn and_verb(items: &[String], one: &str, many: &str) -> String {
    format!("{} {}", list(items), if items.len() == 1 { one } else { many })
}

fn options(options: &[DecisionOption]) -> String {
    options.iter().map(|option| option.id.as_str()).collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_support::sample_event;

    use super::*;

    /// One object with every field of all types whose meaning they share.
    fn event(event_type: &str) -> Event {
        let mut payload: Value = serde_json::from_str(
            r#"{
            "test_id": "t", "loop_id": "l", "attempt": 1, "duration_seconds": 61, "files_modified": ["f"], "verified": true,
            "verification_checks": {"unit": true}, "commit": "0123456789abcdef", "error_category": "code",
            "error_message": "broke\n\u001b[2J", "will_retry": true, "attempts": 3, "last_error": "e", "blocking_dependents": ["u", "v"],
            "file_path": "f", "held_for_seconds": 5, "cause": "expired", "loop_a": "a", "loop_b": "b",
            "time_a": "2026-11-22T00:00:00Z", "time_b": "2026-11-22T00:00:00Z", "consecutive_failures": 3, "stuck_for_minutes": 40,
            "expected_scope": ["src"], "actual_scope": [], "resource": "tokens", "current": 9, "limit": 10, "percentage": 90,
            "last_passed_commit": "aaa", "current_commit": "bbb", "first_bad_commit": "ccc", "blamed_loop": "a", "output_tail": "",
            "decision_id": "d", "decision_type": "x", "summary": "which?", "options": [{"id": "A", "description": "x"}],
            "default_option": "A", "timeout_minutes": 5, "context": {}, "choice": "A", "decided_by": "auto", "status": "pending",
            "old_priority": 5, "new_priority": 1, "reason": "why", "requested_by": "human", "triggered_by": "human",
            "checkpoint_id": "c", "git_ref": "refs/x", "locks_held": ["f"], "must_rollback": true, "cycle": ["a", "b"],
            "message_type": "note", "source": "cli", "scope": "all", "since_hours": 24, "knowledge_id": "k", "item_type": "fact",
            "content": "c", "new_knowledge_id": "k", "existing_knowledge_id": "j", "conflict_description": "both",
            "request_id": "r", "resource_path": "p", "requestor_loop": "a", "owner_loop": "b", "request_type": "modify",
            "agent": "claude", "until": "2026-11-22T00:00:00Z", "from_loop": "a", "to_loop": "b", "branch": "main", "theirs": "fedcba9876543210", "behind": 2, "component": "monitor", "pid": 1, "version": "1", "down_for_seconds": 70,
            "check": "suite", "checks": ["suite"], "flaky": ["f"], "seconds": 3, "landing_id": "n", "position": 2, "batch_id": "m",
            "batch": ["t", "u"], "base": "0123456789abcdef", "outcome": "failed", "why": "why", "reused": false, "tree": "abc", "passed": false, "session": "s"
        }"#,
        )
        .unwrap();
        match event_type {
            "digression_detected" => payload["files_modified"] = json!(30),
            "component_degraded" => payload["status"] = json!("dead"),
            _ => {}
        }
        Event { event_type: event_type.to_owned(), payload, ..sample_event("e") }
    }

    #[test]
    fn every_type_of_the_catalog_has_its_sentence() {
        for (event_type, _) in payload::CATALOG {
            let text = sentence(&event(event_type));
            assert!(text.len() > 8 && !text.contains("does not fit"), "{event_type}: {text}");
            assert!(!text.chars().any(char::is_control), "{event_type}: {text}");
        }
    }

    /// What a sentence must hold so that it says why, for each type that a supervisor or a loop publishes by itself.
    const REASONS: &[(&str, &[&str])] = &[
        ("test_failed", &["(code)", "broke", "is retried"]),
        ("test_blocked", &["3 attempts", "e"]),
        ("file_locked", &["why"]),
        ("file_unlocked", &["expire"]),
        ("file_conflict", &["a and b both changed f"]),
        ("stuck_detected", &["40", "3 failures", "no change in its attempt", "no activity", "no test passed", ": e"]),
        ("digression_detected", &["30 files", "scope src", "outside the scope: docs", "repeated error: r"]),
        ("resource_warning", &["tokens is at 90 %", "9 of 10"]),
        ("regression_detected", &["passed at aaa", "fails at bbb", "broken by ccc of a"]),
        ("regression_cleared", &["passes again at 0123456789ab"]),
        ("decision_needed", &["which?", "by default A", "5m"]),
        ("decision_resolved", &["resolved: A", "default after the timeout"]),
        ("test_moved", &["t is moved from a to b", ": why"]),
        ("priority_changed", &["from 5 to 1", ": why"]),
        ("pause_requested", &["human asks l to pause", ": why"]),
        ("resume_requested", &["human asks l to resume", ": why"]),
        ("restart_requested", &[": why"]),
        ("loop_paused", &[": why"]),
        ("loop_resumed", &[": why"]),
        ("rollback_triggered", &["checkpoint c", ": why"]),
        ("rollback_done", &["rolled back to refs/x"]),
        ("force_release", &["release f", "deadlock of a and b", ": why"]),
        ("change_resolved", &["modify p", "pending"]),
        ("agent_limited", &["agent claude", "until 2026", ": why"]),
        ("agent_available", &["agent claude", "why"]),
        ("synced", &["2 commits of main", "fedcba987654", "0123456789ab", "verified by unit"]),
        ("base_red", &["check suite fails at 0123456789ab", "no attempt starts"]),
        ("base_proven", &["attempts start", "flaky: f"]),
        ("landing_queued", &["waits to land", "number 2"]),
        ("agent_gave_up", &["gives up test t", ": why"]),
        ("work_checked", &["fails check suite", ": why", "sent back"]),
        ("batch_judged", &["t and u", "failed", "check suite", "why"]),
        ("component_stopped", &[": why"]),
        ("component_degraded", &["is dead", ": expired"]),
        ("component_recovered", &["heartbeats again after"]),
    ];

    /// What says what somebody does or wants, and needs no reason.
    const PLAIN: &[&str] = &[
        "test_started",
        "test_passed",
        "human_message",
        "summary_requested",
        "knowledge_recorded",
        "knowledge_conflict",
        "change_requested",
        "component_started",
    ];

    #[test]
    fn every_automatic_act_says_why() {
        for (event_type, _) in payload::CATALOG {
            let reasons = REASONS.iter().find(|(known, _)| known == event_type);
            assert!(
                reasons.is_some() != PLAIN.contains(event_type),
                "{event_type}: does it act by itself, and on what grounds?"
            );
            let mut event = event(event_type);
            event.payload["reasons"] = json!(["failures", "attempt", "silence", "no_pass", "scope", "same_error"]);
            event.payload["repeated_error"] = json!("r");
            event.payload["actual_scope"] = json!(["docs"]);
            let text = sentence(&event);
            for word in reasons.into_iter().flat_map(|(_, words)| *words) {
                assert!(text.contains(word), "{event_type}: {text:?} does not say {word:?}");
            }
        }
    }

    #[test]
    fn sentences_read_as_such() {
        let check = |event_type: &str, expected: &str| assert_eq!(sentence(&event(event_type)), expected);
        check("test_failed", "test t of l failed, attempt 1 (code): broke; \\x1b[2J; it is retried");
        check("test_blocked", "test t of l is blocked after 3 attempts: e; u and v wait for it");
        check("file_unlocked", "l let the lease expire on f, held for 5s");
        check("regression_detected", "test t passed at aaa and fails at bbb; broken by ccc of a");
        check("force_release", "l must release f and roll back to its checkpoint (deadlock of a and b): why");
        check("component_degraded", "monitor is dead: expired");
    }
}
