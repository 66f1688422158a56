//! The decision: a pure function of settings and snapshot.
//!
//! The order within a pass: losers of finished conflicts are resumed; answers, timeouts and obsolete questions are
//! settled; new conflicts are settled; new questions are asked; queues of lost loops are moved, those of overloaded
//! loops shared; pauses of pm without a cause are lifted; the human is notified. Each step takes the decisions of the
//! steps before into account.

mod answers;
mod conflicts;
mod cycle;
mod failures;
mod lost;
mod questions;
mod share;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use coord_db::{
    BaseAnswer, Config, DecisionId, EventId, LoopId, NewDecision, RequestStatus, Test, TestId, TestStatus, Timestamp,
};
use serde_json::{Value, json};
use supervisor::{Inbound, Plan};

use crate::matters::{SYSTEM, is_own, loops_of};
use crate::snapshot::{MAX_NOTIFYING, PmSnapshot, Unnotified};

/// The settlement of a conflict: which loop continues, and which one waits for which test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The loop that continues.
    pub winner: LoopId,
    /// The loop that waits.
    pub loser: LoopId,
    /// The current test of the winner.
    pub winner_test: TestId,
    /// The reason, for the loser and the human.
    pub reason: String,
}

/// The outcome for a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One loop continues.
    Settle(Settlement),
    /// No loop has to wait; with the reason.
    Over(String),
    /// Both already wait for others; the conflict is settled when one of them works again.
    Later,
}

/// One act of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Stores a conflict and its outcome.
    OpenConflict {
        /// The file.
        file: String,
        /// One loop.
        one: LoopId,
        /// The other.
        other: LoopId,
        /// The outcome.
        verdict: Verdict,
    },
    /// Stores the outcome for a known conflict.
    JudgeConflict {
        /// Id of the conflict.
        id: String,
        /// The outcome.
        verdict: Verdict,
    },
    /// Applies an answer about the base.
    FollowBase {
        /// The answer.
        answer: BaseAnswer,
        /// The reason.
        reason: String,
    },
    /// Pauses a loop, which keeps its work.
    Pause {
        /// The loop.
        loop_id: LoopId,
        /// The reason.
        reason: String,
        /// True if the human chose it: then only the human lifts it.
        by_human: bool,
    },
    /// Lifts a pause of pm.
    Resume {
        /// The loop.
        loop_id: LoopId,
        /// The reason.
        reason: String,
    },
    /// Restarts the attempt of a loop.
    Restart {
        /// The loop.
        loop_id: LoopId,
        /// The reason.
        reason: String,
        /// True if the human chose it.
        by_human: bool,
    },
    /// Asks the human.
    Ask(Box<NewDecision>),
    /// Settles a decision and applies its consequences, caused by the settlement.
    Resolve {
        /// The decision.
        id: DecisionId,
        /// The answer; none lets it expire.
        choice: Option<String>,
        /// True if the human answered.
        by_human: bool,
        /// A comment.
        comment: Option<String>,
        /// The consequences.
        then: Vec<Act>,
    },
    /// Publishes how another process settled a decision, and applies the consequences.
    Announce {
        /// The decision.
        id: DecisionId,
        /// The consequences.
        then: Vec<Act>,
    },
    /// Resets a blocked test.
    ResetTest {
        /// The test.
        test: TestId,
    },
    /// Resets a passed test, with a reason.
    RedoTest {
        /// The test.
        test: TestId,
        /// Its new last error.
        reason: String,
    },
    /// Schedules the revert of a commit: the broken test is done again by the loop that made the commit, and lands like
    /// any other change.
    RollBack {
        /// The broken test.
        test: TestId,
        /// The loop that made the commit.
        to: LoopId,
        /// The commit.
        commit: String,
        /// The test of the commit, which is done again afterwards.
        undone: Option<TestId>,
        /// The new last error of the broken test.
        reason: String,
    },
    /// Skips a test.
    SkipTest {
        /// The test.
        test: TestId,
        /// The reason.
        reason: String,
    },
    /// Skips all pending tests of a loop.
    SkipQueue {
        /// The loop.
        loop_id: LoopId,
        /// The reason.
        reason: String,
    },
    /// Delays the next attempt of a pending test, or ends a delay.
    HoldTest {
        /// The test.
        test: TestId,
        /// Earliest time of the next attempt.
        until: Timestamp,
    },
    /// Accepts a claim without a change.
    AcceptNoChange {
        /// The test.
        test: TestId,
    },
    /// Ends a hold.
    LiftHold {
        /// Subject of the hold.
        subject: String,
    },
    /// Raises an alert about a system error.
    ReportSystemError {
        /// The message.
        message: String,
        /// The affected test.
        test: TestId,
    },
    /// Removes the dependency of a test.
    ClearDependency {
        /// The test.
        test: TestId,
    },
    /// Moves the tests of a lost or overloaded loop, and raises an alert.
    HandOn {
        /// The lost or overloaded loop.
        from: LoopId,
        /// `reassigned` or `shared`: prefix of the alert's fingerprint.
        kind: &'static str,
        /// The reason.
        why: String,
        /// The tests with their new loops.
        moves: Vec<(TestId, LoopId)>,
    },
    /// Replaces an item of knowledge by another one.
    Supersede {
        /// The replaced item.
        id: String,
        /// The valid item.
        by: String,
    },
    /// Answers a change request.
    AnswerChange {
        /// The change request.
        id: String,
        /// Approved or rejected.
        to: RequestStatus,
        /// True if the human answered.
        by_human: bool,
    },
    /// Closes an alert whose cause no longer exists.
    CloseAlert {
        /// Fingerprint of the alert.
        fingerprint: String,
    },
    /// Runs the human's notify command.
    Notify {
        /// Id of the journal entry, unique for the subject.
        id: String,
        /// The input of the command.
        message: Value,
    },
    /// Notes that there was no report up to a time, so that the first one is the next one.
    BeginReports {
        /// Id of the journal entry.
        id: String,
        /// Its intent.
        message: Value,
    },
    /// Does nothing; logs the reason.
    Ignore(String),
}

/// An act and the event that caused it.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The act.
    pub act: Act,
    /// The event.
    pub cause: Option<EventId>,
}

/// The state of one decision.
struct Work<'a> {
    config: &'a Config,
    at: &'a PmSnapshot,
    plan: Plan<Action>,
    /// Conflicts that this pass ends.
    ended: BTreeSet<String>,
    /// Decisions that this pass settles.
    settled: BTreeSet<DecisionId>,
    /// Loops that this pass pauses or keeps paused.
    newly_held: BTreeSet<LoopId>,
    /// Loops that this pass resumes.
    resumed: BTreeSet<LoopId>,
    /// Fingerprints of the questions that this pass asks.
    asked: BTreeSet<String>,
    /// Conflicts that this pass opens: file and loops.
    opened: BTreeSet<(String, LoopId, LoopId)>,
}

impl Work<'_> {
    fn act(&mut self, act: Act, cause: Option<&EventId>) {
        self.plan.act(Action { act, cause: cause.cloned() });
    }

    fn ignore(&mut self, inbound: &Inbound, why: &str) {
        let text = format!("{} {}: {why}", inbound.event.event_type, inbound.event.id);
        self.act(Act::Ignore(text), Some(&inbound.event.id));
    }

    /// True while pm has a reason to keep a loop paused.
    fn held(&self, id: &LoopId) -> bool {
        self.newly_held.contains(id)
            || self.lost_a_conflict(id)
            || self.held_by_question(id)
            || failures::short_of_resources(self, id).is_some()
    }

    fn lost_a_conflict(&self, id: &LoopId) -> bool {
        self.at
            .conflicts
            .iter()
            .any(|open| open.row.winner.is_some() && open.row.loser.as_ref() == Some(id) && !self.ended.contains(&open.row.id))
    }

    fn held_by_question(&self, id: &LoopId) -> bool {
        self.at.stopped_by_budget.contains(id)
            || self.at.decisions.iter().any(|decision| {
                is_own(decision)
                    && matches!(decision.decision_type.as_str(), "budget" | "regression" | SYSTEM)
                    && !self.settled.contains(&decision.id)
                    && loops_of(&decision.context).contains(id)
            })
    }

    fn test(&self, id: &str) -> Option<&Test> {
        self.at.tests.get(&id.parse().ok()?)
    }

    /// Asks, unless the question is open or was asked in this pass.
    fn ask(&mut self, question: NewDecision, cause: Option<&EventId>) -> bool {
        let fingerprint = question.fingerprint.clone().unwrap_or_default();
        let open = self
            .at
            .decisions
            .iter()
            .any(|decision| decision.fingerprint.as_deref() == Some(&fingerprint) && !self.settled.contains(&decision.id));
        if open || !self.asked.insert(fingerprint) {
            return false;
        }
        self.act(Act::Ask(Box::new(question)), cause);
        true
    }
}

/// True for a blocked or failed test. For a row that was never attempted, as external tools write it, the event is
/// believed.
pub(crate) fn counts_as_blocked(test: &Test) -> bool {
    match test.status {
        TestStatus::Blocked | TestStatus::Failed => true,
        TestStatus::Pending | TestStatus::InProgress => test.last_attempt_at.is_none(),
        TestStatus::Passed | TestStatus::Skipped => false,
    }
}

/// The first line of a text, shortened for a sentence.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// Decides what to do.
#[must_use]
pub fn decide(config: &Config, snapshot: &PmSnapshot) -> Plan<Action> {
    let mut work = Work {
        config,
        at: snapshot,
        plan: Plan::default(),
        ended: BTreeSet::new(),
        settled: BTreeSet::new(),
        newly_held: BTreeSet::new(),
        resumed: BTreeSet::new(),
        asked: BTreeSet::new(),
        opened: BTreeSet::new(),
    };
    conflicts::end_conflicts(&mut work);
    answers::settle(&mut work);
    conflicts::judge(&mut work);
    questions::ask(&mut work);
    failures::handle(&mut work);
    lost::hand_on(&mut work);
    share::share(&mut work);
    conflicts::lift_idle_pauses(&mut work);
    notify(&mut work);
    report(&mut work);
    work.plan
}

fn report(work: &mut Work<'_>) {
    let Some(report) = &work.at.report else { return };
    work.plan.look_again(report.next);
    if report.is_begun {
        return;
    }
    let id = report.id.clone();
    let act = match report.since {
        None => Act::BeginReports { id, message: report.intent(report.due, report.due) },
        Some(since) if work.at.notifying < MAX_NOTIFYING => Act::Notify { id, message: report.intent(since, work.at.now) },
        Some(_) => return,
    };
    work.act(act, None);
}

fn notify(work: &mut Work<'_>) {
    if work.config.notify.is_silent() {
        return;
    }
    for matter in &work.at.unnotified {
        let (id, message, cause) = match matter {
            Unnotified::Decision(decision) if work.settled.contains(&decision.id) => continue,
            Unnotified::Decision(decision) => {
                let id = format!("notify:decision:{}", decision.id);
                let message = json!({
                    "kind": "decision", "notification": id, "decision_id": decision.id,
                    "decision_type": decision.decision_type, "summary": decision.summary, "options": decision.options,
                    "default_option": decision.default_option, "due_at": decision.due_at(), "context": decision.context,
                });
                (id, message, &decision.event_id)
            }
            Unnotified::Alert(alert) => {
                let id = format!("notify:alert:{}", alert.id);
                let message = json!({
                    "kind": "alert", "notification": id, "alert_id": alert.id, "severity": alert.severity,
                    "alert_type": alert.alert_type, "source": alert.source, "message": alert.message,
                    "context": alert.context,
                });
                (id, message, &alert.event_id)
            }
        };
        work.act(Act::Notify { id, message }, cause.as_ref());
    }
}
