//! Settles decisions: the human's answers, timeouts, obsolete questions, and the consequences of each.

use coord_db::{
    BASE_QUESTION, BASE_SLOW_QUESTION, BaseAnswer, Decision, EventId, GREEN_BEFORE_QUESTION, HOLD_QUESTION, LoopId, LoopStatus,
    NO_CHANGE_QUESTION, Payload, RequestStatus, TestId, TestStatus,
};

use super::{Act, Work, counts_as_blocked, cycle};
use crate::matters::{CYCLE_OF_TESTS, is_own, loops_of, text_of};

/// The source of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Human,
    Time,
}

/// Settles every decision that is answered, settled by another process, due, or obsolete.
pub(super) fn settle(work: &mut Work<'_>) {
    take_answers(work);
    for decision in &work.at.settled_elsewhere {
        let by = if decision.decided_by.as_deref() == Some("human") { By::Human } else { By::Time };
        let then = match decision.choice.as_deref() {
            Some(choice) if is_own(decision) && has_option(decision, choice) => follow(work, decision, choice, by),
            _ => Vec::new(),
        };
        work.act(Act::Announce { id: decision.id.clone(), then }, decision.event_id.as_ref());
    }
    for decision in &work.at.decisions {
        if work.settled.contains(&decision.id) {
            continue;
        }
        let due = decision.due_at();
        if due.is_some_and(|at| at <= work.at.now) {
            // A default that is not an option, in a row of an external tool, is ignored.
            let default = decision.default_option.as_deref().filter(|choice| has_option(decision, choice));
            let comment = "no answer within the time limit".to_owned();
            resolve(work, decision, default, By::Time, Some(comment), decision.event_id.as_ref());
        } else if let Some((choice, why, cause)) = idle(work, decision) {
            let cause = cause.or_else(|| decision.event_id.clone());
            resolve(work, decision, choice, By::Time, Some(why), cause.as_ref());
        } else if let Some(at) = due {
            work.plan.look_again(at);
        }
    }
}

fn has_option(decision: &Decision, choice: &str) -> bool {
    decision.option_ids().iter().any(|option| option == choice)
}

fn take_answers(work: &mut Work<'_>) {
    for inbound in &work.at.inbox {
        let Payload::HumanMessage(payload) = &inbound.payload else { continue };
        if payload.message_type != "decision_response" {
            continue;
        }
        let Some(id) = &payload.decision_id else {
            work.ignore(inbound, "it names no decision");
            continue;
        };
        if work.at.loops.keys().any(|known| known.as_str() == inbound.event.source) {
            work.ignore(inbound, "a loop must not answer for the human");
            continue;
        }
        let open = work.at.decisions.iter().find(|decision| decision.id == *id && !work.settled.contains(id));
        let Some(decision) = open else {
            work.ignore(inbound, "the decision is not open");
            continue;
        };
        match payload.choice.as_deref() {
            Some(choice) if has_option(decision, choice) => {
                resolve(work, decision, Some(choice), By::Human, payload.comment.clone(), Some(&inbound.event.id));
            }
            _ => work.ignore(inbound, "its choice is not an option of the decision"),
        }
    }
}

fn resolve(
    work: &mut Work<'_>,
    decision: &Decision,
    choice: Option<&str>,
    by: By,
    comment: Option<String>,
    cause: Option<&EventId>,
) {
    work.settled.insert(decision.id.clone());
    let then = match choice {
        Some(choice) if is_own(decision) => follow(work, decision, choice, by),
        _ => Vec::new(),
    };
    let meant = choice.filter(|_| decision.decision_type == CYCLE_OF_TESTS && !then.is_empty());
    let comment = match meant.and_then(|choice| cycle::describe(&decision.context, choice)) {
        Some(meant) => Some(comment.map_or(meant.clone(), |comment| format!("{comment}; {meant}"))),
        None => comment,
    };
    let act =
        Act::Resolve { id: decision.id.clone(), choice: choice.map(str::to_owned), by_human: by == By::Human, comment, then };
    work.act(act, cause);
}

/// The consequences of an answer. Those that no longer fit the rows are left out.
fn follow(work: &mut Work<'_>, decision: &Decision, choice: &str, by: By) -> Vec<Act> {
    let by_human = by == By::Human;
    let context = &decision.context;
    let who = if by_human { "the human" } else { "the default" };
    let reason = format!("{who} chose {choice:?} in decision {}", decision.id);
    let test = text_of(context, "test_id").and_then(|id| work.test(id));
    let loop_id: Option<LoopId> = text_of(context, "loop_id").and_then(|id| id.parse().ok());
    match (decision.decision_type.as_str(), choice) {
        ("blocked", "retry") => {
            let blocked = test.filter(|test| counts_as_blocked(test) && test.status != TestStatus::InProgress);
            blocked.map(|test| Act::ResetTest { test: test.id.clone() }).into_iter().collect()
        }
        ("blocked" | "stuck" | "dependency" | "failure" | NO_CHANGE_QUESTION | GREEN_BEFORE_QUESTION, "skip") => {
            let Some(test) = test.filter(|test| !matches!(test.status, TestStatus::Passed | TestStatus::Skipped)) else {
                return Vec::new();
            };
            let mut then = vec![Act::SkipTest { test: test.id.clone(), reason: reason.clone() }];
            if test.status == TestStatus::InProgress {
                // The agent's work would be useless.
                then.push(Act::Restart { loop_id: test.loop_id.clone(), reason, by_human });
            }
            then
        }
        ("stuck", "restart") => {
            let known = loop_id.filter(|id| work.at.loops.contains_key(id));
            known.map(|loop_id| Act::Restart { loop_id, reason, by_human }).into_iter().collect()
        }
        ("stuck", "pause") => {
            let known = loop_id.filter(|id| work.at.loops.contains_key(id));
            known.map(|loop_id| Act::Pause { loop_id, reason, by_human }).into_iter().collect()
        }
        ("dependency", "run_anyway") => {
            let waiting = test.filter(|test| {
                test.status == TestStatus::Pending
                    && test.depends_on.as_ref().map(TestId::as_str) == text_of(context, "dependency")
            });
            waiting.map(|test| Act::ClearDependency { test: test.id.clone() }).into_iter().collect()
        }
        ("regression", "fix_forward") => {
            let blamed = text_of(context, "blamed_test").and_then(|id| work.test(id));
            let Some(redo) = blamed.or(test) else { return Vec::new() };
            let regressed = text_of(context, "test_id").unwrap_or_default();
            let since = text_of(context, "first_bad_commit").map(|commit| format!(" since commit {commit}"));
            let reason = format!(
                "regression: passed test {regressed} fails on the integration branch{}; make it pass again. {}",
                since.unwrap_or_default(),
                text_of(context, "output_tail").unwrap_or_default()
            );
            vec![Act::RedoTest { test: redo.id.clone(), reason: reason.trim_end().to_owned() }]
        }
        ("regression", "roll_back") => {
            let to = loop_id.filter(|id| work.at.loops.contains_key(id));
            let (Some(test), Some(to), Some(commit)) = (test, to, text_of(context, "first_bad_commit")) else {
                return Vec::new();
            };
            let undone = text_of(context, "blamed_test").and_then(|id| work.test(id)).filter(|undone| undone.id != test.id);
            let reason = format!("regression: revert commit {commit}, which broke test {}", test.id);
            vec![Act::RollBack {
                test: test.id.clone(),
                to,
                commit: commit.to_owned(),
                undone: undone.map(|undone| undone.id.clone()),
                reason,
            }]
        }
        (NO_CHANGE_QUESTION | GREEN_BEFORE_QUESTION, "pass") => {
            let pending = test.filter(|test| test.status == TestStatus::Pending);
            pending.map(|test| Act::AcceptNoChange { test: test.id.clone() }).into_iter().collect()
        }
        (BASE_QUESTION | BASE_SLOW_QUESTION, choice) => {
            let loops: Vec<LoopId> = work.at.loops.keys().cloned().collect();
            let answer = BaseAnswer::of(decision, choice, &loops);
            answer.map(|answer| Act::FollowBase { answer, reason }).into_iter().collect()
        }
        (HOLD_QUESTION, "try_again" | "stop") => {
            let Some(subject) = text_of(context, "hold").filter(|subject| work.at.holds.contains(*subject)) else {
                return Vec::new();
            };
            let held = work.at.loops.values().filter(|row| {
                subject == "setup"
                    || subject.contains(" on ") && loops_of(context).contains(&row.id)
                    || subject.strip_prefix("loop:") == Some(row.id.as_str())
                    || row.agent.is_some() && subject.strip_prefix("agent:") == row.agent.as_deref()
            });
            let mut then = Vec::new();
            if choice == "stop" {
                // The pause now belongs to the human: only they lift it.
                then.extend(held.map(|row| Act::Pause { loop_id: row.id.clone(), reason: reason.clone(), by_human: true }));
            }
            then.push(Act::LiftHold { subject: subject.to_owned() });
            then
        }
        ("failure" | NO_CHANGE_QUESTION | GREEN_BEFORE_QUESTION, "retry" | "leave" | "go_on") => {
            let pending = test.filter(|test| test.status == TestStatus::Pending);
            pending.map(|test| Act::HoldTest { test: test.id.clone(), until: work.at.now }).into_iter().collect()
        }
        ("system", "stop") => loops_of(context)
            .into_iter()
            .filter(|id| work.at.loops.contains_key(id))
            // The pause now belongs to the human: only they lift it.
            .map(|loop_id| Act::Pause { loop_id, reason: reason.clone(), by_human: true })
            .collect(),
        ("budget", "continue") => {
            let mut then = Vec::new();
            for loop_id in loops_of(context) {
                if work.at.loops.contains_key(&loop_id) && !work.held(&loop_id) && work.resumed.insert(loop_id.clone()) {
                    then.push(Act::Resume { loop_id, reason: reason.clone() });
                }
            }
            then
        }
        ("budget", "stop") => {
            work.newly_held.extend(loops_of(context));
            Vec::new()
        }
        ("knowledge", "keep_old" | "keep_new") => {
            let (new, old) = (text_of(context, "new_knowledge_id"), text_of(context, "existing_knowledge_id"));
            let (Some(new), Some(old)) = (new, old) else { return Vec::new() };
            let (id, by) = if choice == "keep_old" { (new, old) } else { (old, new) };
            vec![Act::Supersede { id: id.to_owned(), by: by.to_owned() }]
        }
        ("change_request", "approve" | "reject") => {
            let to = if choice == "approve" { RequestStatus::Approved } else { RequestStatus::Rejected };
            let id = text_of(context, "request_id").filter(|id| work.at.change_requests.iter().any(|row| row.id == **id));
            id.map(|id| Act::AnswerChange { id: id.to_owned(), to, by_human }).into_iter().collect()
        }
        (CYCLE_OF_TESTS, choice) => cycle::follow(work, context, choice, reason),
        ("lost_loop", "skip_tests") => {
            let lost = loop_id.filter(|id| work.at.loops.get(id).is_some_and(|row| row.status == LoopStatus::Error));
            lost.map(|loop_id| Act::SkipQueue { loop_id, reason }).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Checks whether a question of pm is obsolete because its subject was settled otherwise: the equivalent answer (or
/// none), the reason, and the event that reported it.
fn idle(work: &Work<'_>, decision: &Decision) -> Option<(Option<&'static str>, String, Option<EventId>)> {
    if !is_own(decision) {
        return None;
    }
    let context = &decision.context;
    let named_test = text_of(context, "test_id");
    let test = named_test.and_then(|id| work.test(id));
    let loop_id: Option<LoopId> = text_of(context, "loop_id").and_then(|id| id.parse().ok());
    let deleted = |id: &str| format!("test {id} no longer exists");
    let why = match decision.decision_type.as_str() {
        "blocked" => match (named_test, test) {
            (Some(id), None) => Some(deleted(id)),
            (_, Some(test)) if !counts_as_blocked(test) => Some(format!("test {} is {}", test.id, test.status)),
            _ => None,
        },
        "stuck" => match (named_test, test) {
            (Some(id), None) => Some(deleted(id)),
            (_, Some(test)) if matches!(test.status, TestStatus::Passed | TestStatus::Skipped) => {
                Some(format!("test {} is {}", test.id, test.status))
            }
            // None of its options fits any more; another question replaces it.
            (_, Some(test)) if matches!(test.status, TestStatus::Blocked | TestStatus::Failed) => {
                Some(format!("test {} is now {}, which raises a question of its own", test.id, test.status))
            }
            _ => loop_id.filter(|id| !work.at.loops.contains_key(id)).map(|id| format!("loop {id} is no longer registered")),
        },
        HOLD_QUESTION => text_of(context, "hold")
            .filter(|subject| !work.at.holds.contains(*subject))
            .map(|_| "the hold has ended".to_owned()),
        BASE_QUESTION => (!work.at.base_is_red).then(|| "the checks now pass at the head of integration".to_owned()),
        BASE_SLOW_QUESTION => {
            let key = text_of(context, "tree").zip(text_of(context, "check_hash"));
            let is_known = |(tree, hash): (&str, &str)| work.at.base_known.contains(&(tree.to_owned(), hash.to_owned()));
            key.is_some_and(is_known).then(|| "the check has ended".to_owned())
        }
        "failure" | NO_CHANGE_QUESTION | GREEN_BEFORE_QUESTION => match (named_test, test) {
            (Some(id), None) => Some(deleted(id)),
            (_, Some(test)) if !matches!(test.status, TestStatus::Pending | TestStatus::InProgress) => {
                Some(format!("test {} is {}", test.id, test.status))
            }
            _ => None,
        },
        "dependency" => match (named_test, test) {
            (Some(id), None) => Some(deleted(id)),
            (_, Some(test)) if test.status != TestStatus::Pending => Some(format!("test {} is {}", test.id, test.status)),
            (_, Some(test)) if !work.at.stalled.iter().any(|stalled| stalled.id == test.id) => {
                Some(format!("test {} can run, or depends on a test that can", test.id))
            }
            _ => None,
        },
        CYCLE_OF_TESTS => cycle::obsolete(work, context),
        "lost_loop" => loop_id.and_then(|id| {
            let back = work.at.loops.get(&id).is_none_or(|row| row.status != LoopStatus::Error);
            (back || !work.at.queues.contains_key(&id)).then(|| format!("loop {id} is running again, or its tests were moved"))
        }),
        "knowledge" => {
            let stands = |key| {
                text_of(context, key).and_then(|id| work.at.knowledge.get(id)).is_some_and(|item| item.superseded_by.is_none())
            };
            (!stands("new_knowledge_id") || !stands("existing_knowledge_id"))
                .then(|| "one of the two items is no longer valid".to_owned())
        }
        "change_request" => text_of(context, "request_id")
            .filter(|id| !work.at.change_requests.iter().any(|row| row.id == **id))
            .map(|id| format!("change request {id} was answered")),
        "regression" => return cleared(work, decision),
        _ => None,
    };
    why.map(|why| (None, why, None))
}

/// A question about a cleared regression is obsolete, unless the same commit broke another test too.
fn cleared(work: &Work<'_>, decision: &Decision) -> Option<(Option<&'static str>, String, Option<EventId>)> {
    let test = text_of(&decision.context, "test_id")?;
    let commit = text_of(&decision.context, "first_bad_commit");
    let inbound = work.at.inbox.iter().find(|inbound| match &inbound.payload {
        Payload::RegressionCleared(payload) => payload.test_id.as_str() == test,
        _ => false,
    })?;
    let another = work
        .at
        .regressions
        .iter()
        .any(|row| row.test_id.as_str() != test && commit.is_some() && row.first_bad_commit.as_deref() == commit);
    let choice = if has_option(decision, "accept") { Some("accept") } else { None };
    (!another).then(|| (choice, format!("test {test} passes again"), Some(inbound.event.id.clone())))
}
