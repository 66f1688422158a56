//! The questions of pm to the human, and the acts that go with them.

use std::collections::BTreeMap;

use coord_db::payload::{
    DecisionOption, KnowledgeConflict, MICROUSD, RegressionDetected, ResourceWarning, StuckDetected, TestBlocked, amount,
    resource_name,
};
use coord_db::{
    ActorId, DecisionStatus, EventId, LoopId, LoopStatus, NewDecision, Payload, Test, TestId, TestStatus, Timestamp,
};
use serde_json::{Value, json};
use supervisor::Inbound;

use super::{Act, Work, counts_as_blocked, first_line};
use crate::matters::{REGRESSION, about_commit, about_test, budget_fingerprint, text_of};
use crate::snapshot::MAX_QUESTIONS;

/// A question to be asked.
pub(super) struct Question<'a> {
    pub(super) decision_type: &'a str,
    pub(super) fingerprint: String,
    pub(super) summary: String,
    pub(super) options: &'a [(&'a str, String)],
    pub(super) default: Option<&'a str>,
    pub(super) context: Value,
}

pub(super) fn put(work: &mut Work<'_>, question: Question<'_>, cause: Option<&EventId>) -> bool {
    // "pm" is a valid id.
    let Ok(pm) = "pm".parse::<ActorId>() else { return false };
    let mut context = question.context;
    if let (Some(context), Some(cause)) = (context.as_object_mut(), cause) {
        context.insert("event_id".to_owned(), json!(cause));
    }
    let options = question.options.iter();
    let new = NewDecision {
        decision_type: question.decision_type.to_owned(),
        summary: question.summary,
        options: options.map(|(id, text)| DecisionOption { id: (*id).to_owned(), description: text.clone() }).collect(),
        default_option: question.default.map(str::to_owned),
        context,
        timeout_minutes: Some(work.config.pm.decision_timeout_minutes.max(0)),
        requested_by: pm,
        fingerprint: Some(question.fingerprint),
    };
    work.ask(new, cause)
}

/// Asks the questions that follow from the inbox and the rows.
pub(super) fn ask(work: &mut Work<'_>) {
    let mut changes: BTreeMap<&str, &EventId> = BTreeMap::new();
    for inbound in &work.at.inbox {
        match &inbound.payload {
            Payload::TestBlocked(payload) => on_test_blocked(work, inbound, payload),
            Payload::StuckDetected(payload) => stuck(work, inbound, payload),
            Payload::RegressionDetected(payload) => regression(work, inbound, payload),
            Payload::ResourceWarning(payload) => budget(work, inbound, payload),
            Payload::KnowledgeConflict(payload) => knowledge(work, inbound, payload),
            Payload::ChangeRequested(payload) => drop(changes.insert(&payload.request_id, &inbound.event.id)),
            _ => {}
        }
    }
    let mut room = MAX_QUESTIONS;
    for test in &work.at.blocked {
        let error = test.last_error.as_deref().unwrap_or_default();
        if room > 0 && blocked(work, test, test.attempts, error, work.at.blocked_by.get(&test.id)) {
            room -= 1;
        }
    }
    for request in &work.at.change_requests {
        if room == 0 {
            break;
        }
        let options = [
            ("approve", format!("allow {} to make the change", request.requestor_loop)),
            ("reject", "do not allow the change (default)".to_owned()),
        ];
        let question = Question {
            decision_type: "change_request",
            fingerprint: format!("change:{}", request.id),
            summary: format!(
                "{} requests to {} {}, which {} owns: {}",
                request.requestor_loop,
                request.request_type,
                request.resource_path,
                request.owner_loop,
                first_line(&request.description)
            ),
            options: &options,
            default: Some("reject"),
            context: json!({
                "request_id": request.id, "resource_path": request.resource_path,
                "requestor_loop": request.requestor_loop, "owner_loop": request.owner_loop,
            }),
        };
        if put(work, question, changes.get(request.id.as_str()).copied()) {
            room -= 1;
        }
    }
    for test in &work.at.stalled {
        if room > 0 && stalled(work, test) {
            room -= 1;
        }
    }
}

fn on_test_blocked(work: &mut Work<'_>, inbound: &Inbound, payload: &TestBlocked) {
    let Some(test) = work.at.tests.get(&payload.test_id) else {
        return work.ignore(inbound, "the test does not exist");
    };
    if !counts_as_blocked(test) {
        return work.ignore(inbound, &format!("test {} is now {}", test.id, test.status));
    }
    let attempted = test.last_attempt_at.unwrap_or(test.created_at);
    let last = work.at.questions.get(&about_test(test.id.as_str()));
    let asked = last.is_some_and(|last| last.decision_type == "blocked" && last.requested_at >= attempted);
    if asked || !blocked(work, test, payload.attempts, &payload.last_error, Some(&inbound.event.id)) {
        work.ignore(inbound, "the human was already asked about this test");
    }
}

fn blocked(work: &mut Work<'_>, test: &Test, attempts: i64, error: &str, cause: Option<&EventId>) -> bool {
    let waiting: Vec<String> = work.at.dependents.get(&test.id).into_iter().flatten().map(ToString::to_string).collect();
    let dependents = if waiting.is_empty() {
        "no test depends on it".to_owned()
    } else {
        format!("tests that depend on it: {}", waiting.join(", "))
    };
    let word = if test.status == TestStatus::Failed { "has failed" } else { "is blocked" };
    let error = first_line(error);
    let error_text = if error.is_empty() { String::new() } else { format!("; last error: {error}") };
    let skipped = if waiting.is_empty() {
        "skip the test".to_owned()
    } else {
        format!("skip the test; you will be asked about the tests that depend on it ({})", waiting.join(", "))
    };
    let options = [
        ("retry", format!("reset its attempts; {} tries it again", test.loop_id)),
        ("skip", skipped),
        ("leave", "leave it and the tests that depend on it blocked (default)".to_owned()),
    ];
    let question = Question {
        decision_type: "blocked",
        fingerprint: about_test(test.id.as_str()),
        summary: format!("test {} of {} {word} after {attempts} attempts{error_text}; {dependents}", test.id, test.loop_id),
        options: &options,
        default: Some("leave"),
        context: json!({
            "test_id": test.id, "loop_id": test.loop_id, "attempts": attempts, "last_error": error, "dependents": waiting,
        }),
    };
    put(work, question, cause)
}

fn stuck(work: &mut Work<'_>, inbound: &Inbound, payload: &StuckDetected) {
    let Some(row) = work.at.loops.get(&payload.loop_id) else {
        return work.ignore(inbound, "the loop does not exist");
    };
    if row.status != LoopStatus::Running {
        return work.ignore(inbound, &format!("{} is now {}", row.id, row.status));
    }
    let test = payload.test_id.as_ref().and_then(|id| work.at.tests.get(id));
    if let Some(test) = test
        && !matches!(test.status, TestStatus::InProgress | TestStatus::Pending)
    {
        return work.ignore(inbound, &format!("test {} is now {}", test.id, test.status));
    }
    let error = first_line(payload.last_error.as_deref().unwrap_or_default());
    let error_text = if error.is_empty() { String::new() } else { format!("; last error: {error}") };
    let on = payload.test_id.as_ref().map_or_else(String::new, |id| format!(" on test {id}"));
    let mut options = vec![
        ("wait", format!("let {} continue (default)", row.id)),
        ("restart", format!("restart the attempt of {}; its work is saved", row.id)),
        ("pause", format!("pause {} until you resume it", row.id)),
    ];
    if test.is_some() {
        options.push(("skip", "skip the test; tests that depend on it stay blocked".to_owned()));
    }
    let question = Question {
        decision_type: "stuck",
        fingerprint: payload.test_id.as_ref().map_or_else(|| format!("stuck:{}", row.id), |id| about_test(id.as_str())),
        summary: format!(
            "{} makes no progress{on}: {} consecutive failures, stuck for {} minutes{error_text}",
            row.id, payload.consecutive_failures, payload.stuck_for_minutes
        ),
        options: &options,
        default: Some("wait"),
        context: json!({ "test_id": test.map(|test| &test.id), "loop_id": row.id, "last_error": error }),
    };
    if !put(work, question, Some(&inbound.event.id)) {
        work.ignore(inbound, "a question about this is already open");
    }
}

/// The test that repairs a commit's breakage by an earlier answer, if it is not done, or was not done when the failure
/// was detected. One commit may break many tests, which are found one after the other, some of them at an earlier head.
fn mending(work: &Work<'_>, fingerprint: &str, seen: Option<Timestamp>) -> Option<TestId> {
    let decision = work.at.questions.get(fingerprint)?;
    let named = |key: &str| text_of(&decision.context, key).and_then(|id| work.test(id));
    let test = match decision.choice.as_deref()? {
        "roll_back" => named("test_id"),
        "fix_forward" => named("blamed_test").or_else(|| named("test_id")),
        _ => None,
    }?;
    let at_work = matches!(test.status, TestStatus::Pending | TestStatus::InProgress);
    let landed_since = test.status == TestStatus::Passed && test.verified_at > seen && seen.is_some();
    (at_work || landed_since).then(|| test.id.clone())
}

fn regression(work: &mut Work<'_>, inbound: &Inbound, payload: &RegressionDetected) {
    let matter = payload.first_bad_commit.clone().unwrap_or_else(|| payload.test_id.to_string());
    let fingerprint = about_commit(&matter);
    if let Some(test) = mending(work, &fingerprint, work.at.seen_to_fail.get(&inbound.event.id).copied()) {
        return work.ignore(inbound, &format!("the answer about this commit also covers this failure: test {test} repairs it"));
    }
    let blamed = payload.blamed_test.as_ref().filter(|id| work.at.tests.contains_key(*id));
    let redo: &TestId = blamed.unwrap_or(&payload.test_id);
    let since = payload
        .first_bad_commit
        .as_ref()
        .map_or_else(|| format!("; after commit {}", payload.last_passed_commit), |commit| format!(" since commit {commit}"));
    let by = match (&payload.blamed_loop, &payload.blamed_test) {
        (Some(loop_id), Some(test)) => format!(", by {loop_id} for test {test}"),
        (Some(loop_id), None) => format!(", which {loop_id} made"),
        (None, Some(test)) => format!(", for test {test}"),
        (None, None) => String::new(),
    };
    let paused = payload.blamed_loop.as_ref().filter(|id| work.at.running(id).is_some());
    let waits = paused.map_or_else(String::new, |id| format!("; {id} waits for your answer"));
    let mut options = vec![
        ("fix_forward", format!("do test {redo} again with the error as input (default)")),
        ("accept", "accept the failure".to_owned()),
    ];
    let registered = payload.blamed_loop.as_ref().filter(|id| work.at.loops.contains_key(*id));
    if let (Some(loop_id), Some(commit), true) =
        (registered, &payload.first_bad_commit, work.at.tests.contains_key(&payload.test_id))
    {
        let undone = blamed
            .filter(|id| **id != payload.test_id)
            .map_or_else(String::new, |id| format!("; test {id} is done again afterwards"));
        let roll_back = format!("{loop_id} reverts commit {commit}, which lands through the gate{undone}");
        options.insert(0, ("roll_back", roll_back));
    }
    let question = Question {
        decision_type: REGRESSION,
        fingerprint,
        summary: format!("passed test {} fails on the integration branch{since}{by}{waits}", payload.test_id),
        options: &options,
        default: Some("fix_forward"),
        context: json!({
            "test_id": payload.test_id, "loop_id": payload.blamed_loop, "blamed_test": blamed, "loops": Vec::from_iter(paused),
            "first_bad_commit": payload.first_bad_commit, "last_passed_commit": payload.last_passed_commit,
            "output_tail": payload.output_tail,
        }),
    };
    if !put(work, question, Some(&inbound.event.id)) {
        return work.ignore(inbound, "the question about this commit is already open");
    }
    if let Some(loop_id) = paused.cloned() {
        work.newly_held.insert(loop_id.clone());
        let reason = format!("test {} is broken{since}{by}; {loop_id} waits for an answer", payload.test_id);
        work.act(Act::Pause { loop_id, reason, by_human: false }, Some(&inbound.event.id));
    }
}

fn budget(work: &mut Work<'_>, inbound: &Inbound, payload: &ResourceWarning) {
    if payload.percentage < 100 || !matches!(payload.resource.as_str(), "tokens" | MICROUSD | "seconds" | "minutes" | "tests") {
        return;
    }
    let fingerprint = budget_fingerprint(inbound, payload, &work.at.current_tests);
    if let Some(last) = work.at.questions.get(&fingerprint) {
        if last.status == DecisionStatus::Pending {
            return work.ignore(inbound, "the question about this budget is already open");
        }
        if last.choice.as_deref() == Some("continue") {
            return work.ignore(inbound, "this budget may be exceeded by an earlier decision");
        }
    }
    let named = text_of(&inbound.event.payload, "test_id").and_then(|id| work.test(id));
    if let Some(test) = named
        && !matches!(test.status, TestStatus::InProgress | TestStatus::Pending)
    {
        return work.ignore(inbound, &format!("test {} is now {}", test.id, test.status));
    }
    let loops: Vec<LoopId> = match &payload.loop_id {
        Some(id) => work.at.running(id).map(|row| row.id.clone()).into_iter().collect(),
        None => work.at.loops.keys().filter(|id| work.at.running(id).is_some()).cloned().collect(),
    };
    if loops.is_empty() {
        return work.ignore(inbound, "none of its loops is running");
    }
    let names = loops.iter().map(LoopId::as_str).collect::<Vec<_>>().join(", ");
    let current_tests = payload.loop_id.as_ref().and_then(|id| work.at.current_tests.get(id));
    let test = named.or(current_tests).map(|test| &test.id);
    let of = match (&payload.loop_id, test) {
        (Some(id), Some(test)) => format!("for test {test} of {id}"),
        (Some(id), None) => format!("of {id}"),
        (None, _) => "for the day".to_owned(),
    };
    let spent = format!(
        "the budget {of} is used up: {} of {} {} ({} %)",
        amount(&payload.resource, payload.current),
        amount(&payload.resource, payload.limit),
        resource_name(&payload.resource),
        payload.percentage
    );
    let options = [
        ("continue", format!("let {names} exceed the budget")),
        ("stop", format!("keep {names} paused until you resume them (default)")),
    ];
    let question = Question {
        decision_type: "budget",
        fingerprint,
        summary: format!("{spent}; {names} paused"),
        options: &options,
        default: Some("stop"),
        context: json!({
            "loops": loops, "loop_id": payload.loop_id, "test_id": test, "resource": payload.resource,
            "current": payload.current, "limit": payload.limit, "percentage": payload.percentage,
        }),
    };
    if put(work, question, Some(&inbound.event.id)) {
        for loop_id in loops {
            work.newly_held.insert(loop_id.clone());
            let reason = format!("{spent}; {loop_id} waits for an answer");
            work.act(Act::Pause { loop_id, reason, by_human: false }, Some(&inbound.event.id));
        }
    }
}

fn knowledge(work: &mut Work<'_>, inbound: &Inbound, payload: &KnowledgeConflict) {
    let stands = |id: &str| work.at.knowledge.get(id).filter(|item| item.superseded_by.is_none());
    let (Some(new), Some(old)) = (stands(&payload.new_knowledge_id), stands(&payload.existing_knowledge_id)) else {
        return work.ignore(inbound, "one of the two items is no longer valid");
    };
    if new.id == old.id {
        return work.ignore(inbound, "an item cannot contradict itself");
    }
    let options = [
        ("keep_old", format!("keep: {}", first_line(&old.content))),
        ("keep_new", format!("keep: {}", first_line(&new.content))),
    ];
    let question = Question {
        decision_type: "knowledge",
        fingerprint: format!("knowledge:{}:{}", new.id, old.id),
        summary: first_line(&payload.conflict_description),
        options: &options,
        default: None,
        context: json!({
            "new_knowledge_id": new.id, "existing_knowledge_id": old.id, "loop_id": new.loop_id, "topic": new.topic,
        }),
    };
    if !put(work, question, Some(&inbound.event.id)) {
        work.ignore(inbound, "the question about these items is already open");
    }
}

/// Asks about a pending test whose dependency cannot pass by itself, once for each state of the dependency.
fn stalled(work: &mut Work<'_>, test: &Test) -> bool {
    let Some(named) = &test.depends_on else { return false };
    let dependency = work.at.tests.get(named);
    let state = dependency.map_or("missing", |dependency| dependency.status.as_str());
    // A time in the future would cause the question again and again.
    let attempted = dependency.and_then(|dependency| dependency.last_attempt_at).filter(|at| *at <= work.at.now);
    let of_dependency = work.at.questions.get(&about_test(named.as_str()));
    if let Some(last) = work.at.questions.get(&about_test(test.id.as_str())) {
        let same = last.decision_type == "dependency"
            && text_of(&last.context, "dependency") == Some(named.as_str())
            && text_of(&last.context, "dependency_status") == Some(state)
            && attempted.is_none_or(|at| last.requested_at >= at);
        if last.status == DecisionStatus::Pending || same {
            return false;
        }
    }
    if state != "skipped" {
        let open = of_dependency.is_some_and(|last| last.status == DecisionStatus::Pending)
            || work.asked.contains(&about_test(named.as_str()))
            || work.at.blocked.iter().any(|blocked| blocked.id == *named);
        if open {
            return false;
        }
        let since = [of_dependency.and_then(|last| last.decided_at), attempted].into_iter().flatten().max();
        let since = since.unwrap_or(test.created_at).max(test.created_at);
        let due = since.plus_seconds(work.config.pm.dependency_wait_minutes.saturating_mul(60));
        if due > work.at.now {
            work.plan.look_again(due);
            return false;
        }
    }
    let options = [
        ("run_anyway", format!("run {} without {named}", test.id)),
        ("skip", format!("skip {} too; tests that depend on it stay blocked", test.id)),
        ("wait", format!("let {} wait for {named} (default)", test.id)),
    ];
    let what = if dependency.is_some() { format!("is {state}") } else { "does not exist".to_owned() };
    let question = Question {
        decision_type: "dependency",
        fingerprint: about_test(test.id.as_str()),
        summary: format!("test {} of {} depends on test {named}, which {what}", test.id, test.loop_id),
        options: &options,
        default: Some("wait"),
        context: json!({
            "test_id": test.id, "loop_id": test.loop_id, "dependency": named, "dependency_status": state,
        }),
    };
    put(work, question, of_dependency.and_then(|last| last.event_id.as_ref()))
}
