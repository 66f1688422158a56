//! The judgement: a pure function of settings and snapshot.
//!
//! The order within a pass: conflicts that are over let their losers go; answers, time limits and questions that have
//! become idle are settled; new conflicts are settled; new questions are asked; lost queues are handed on, overloaded ones shared; pauses of pm's
//! own that have no cause left are lifted; the human is notified. Each step sees what those before it have decided.

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
use crate::snapshot::{PmSnapshot, Unnotified};

/// Who goes first on a file, and who waits for which test of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Works on.
    pub winner: LoopId,
    /// Waits.
    pub loser: LoopId,
    /// What the winner has in hand.
    pub winner_test: TestId,
    /// In a sentence, for the loser and the human.
    pub reason: String,
}

/// What becomes of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One goes first.
    Settle(Settlement),
    /// Nobody needs to wait (any more), and why.
    Over(String),
    /// Both wait for others already; it is settled when one of them works again.
    Later,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Writes down a conflict, and what becomes of it.
    OpenConflict {
        /// The file.
        file: String,
        /// One loop.
        one: LoopId,
        /// The other.
        other: LoopId,
        /// What becomes of it.
        verdict: Verdict,
    },
    /// Writes down what becomes of a conflict whose row stands.
    JudgeConflict {
        /// Its row.
        id: String,
        /// What becomes of it.
        verdict: Verdict,
    },
    /// Does what follows from an answer about the base.
    FollowBase {
        /// The answer.
        answer: BaseAnswer,
        /// In a sentence.
        reason: String,
    },
    /// Tells a loop to stop working and keep its work.
    Pause {
        /// Which.
        loop_id: LoopId,
        /// In a sentence.
        reason: String,
        /// The human, if it was the human's choice: then only the human lifts it.
        by_human: bool,
    },
    /// Lifts pm's pause.
    Resume {
        /// Whose.
        loop_id: LoopId,
        /// In a sentence.
        reason: String,
    },
    /// Tells a loop to give up its attempt and begin afresh.
    Restart {
        /// Which.
        loop_id: LoopId,
        /// In a sentence.
        reason: String,
        /// True if it was the human's choice.
        by_human: bool,
    },
    /// Asks the human.
    Ask(Box<NewDecision>),
    /// Settles a decision and applies what follows, caused by the settlement.
    Resolve {
        /// Which.
        id: DecisionId,
        /// The answer; none expires it.
        choice: Option<String>,
        /// Whose answer.
        by_human: bool,
        /// In words.
        comment: Option<String>,
        /// What follows.
        then: Vec<Act>,
    },
    /// Says how a decision was settled by another hand, and applies what follows.
    Announce {
        /// Which.
        id: DecisionId,
        /// What follows.
        then: Vec<Act>,
    },
    /// Puts a blocked test back to its beginning.
    ResetTest {
        /// Which.
        test: TestId,
    },
    /// Puts a test that was done back to its beginning, and says why.
    RedoTest {
        /// Which.
        test: TestId,
        /// Its last error from now on.
        reason: String,
    },
    /// Takes a commit back: the test that it broke is done again by the loop that made it, and lands like any other change.
    RollBack {
        /// The test that it broke.
        test: TestId,
        /// Whose commit it is.
        to: LoopId,
        /// The commit.
        commit: String,
        /// The test that the commit was made for; it is done again afterwards.
        undone: Option<TestId>,
        /// Its last error from now on.
        reason: String,
    },
    /// Takes a test out of its queue.
    SkipTest {
        /// Which.
        test: TestId,
        /// In words.
        reason: String,
    },
    /// Takes all pending tests of a loop out of its queue.
    SkipQueue {
        /// Whose.
        loop_id: LoopId,
        /// In words.
        reason: String,
    },
    /// Keeps a pending test from being tried before a moment, or lets it be tried again.
    HoldTest {
        /// Which.
        test: TestId,
        /// Not before this.
        until: Timestamp,
    },
    /// Accepts what a claim without a change left as it was.
    AcceptNoChange {
        /// Whose.
        test: TestId,
    },
    /// Lets the loops that a hold is on start attempts again.
    LiftHold {
        /// Which.
        subject: String,
    },
    /// Tells the human of an error of the system.
    TellOfSystem {
        /// What.
        message: String,
        /// Which test it hit.
        test: TestId,
    },
    /// Lets a test run without the one that it waits for.
    ClearDependency {
        /// Which.
        test: TestId,
    },
    /// Hands a lost or overloaded loop's tests on, and tells the human.
    HandOn {
        /// The lost or overloaded loop.
        from: LoopId,
        /// `reassigned` or `shared`: what names the alert.
        kind: &'static str,
        /// In a sentence.
        why: String,
        /// Which test goes to whom.
        moves: Vec<(TestId, LoopId)>,
    },
    /// One item of knowledge takes another's place.
    Supersede {
        /// The one that no longer stands.
        id: String,
        /// The one that does.
        by: String,
    },
    /// Answers a change request.
    AnswerChange {
        /// Which.
        id: String,
        /// Approved or rejected.
        to: RequestStatus,
        /// Whose answer.
        by_human: bool,
    },
    /// The cause of an alert is gone.
    CloseAlert {
        /// Which.
        fingerprint: String,
    },
    /// Notifies the human through their own command.
    Notify {
        /// The journal entry, which names the matter.
        id: String,
        /// What the command gets.
        message: Value,
    },
    /// Does nothing, and says why.
    Ignore(String),
}

/// One thing to do, and the event that led to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// What.
    pub act: Act,
    /// Why.
    pub cause: Option<EventId>,
}

/// A pass in the making.
struct Work<'a> {
    config: &'a Config,
    at: &'a PmSnapshot,
    plan: Plan<Action>,
    /// Conflicts that this pass ends.
    ended: BTreeSet<String>,
    /// Decisions that this pass settles.
    settled: BTreeSet<DecisionId>,
    /// Loops that this pass makes wait, or leaves stopped.
    newly_held: BTreeSet<LoopId>,
    /// Loops that this pass lets go.
    resumed: BTreeSet<LoopId>,
    /// Matters that this pass asks about.
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

    /// True while pm itself has a reason to keep a loop from working.
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

    /// Asks, unless the matter is open or was asked about in this pass.
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

/// True for a test that is blocked or failed. A row that only names a test, as other tools write it, is taken at the
/// event's word: it never says that it was attempted.
pub(crate) fn counts_as_blocked(test: &Test) -> bool {
    match test.status {
        TestStatus::Blocked | TestStatus::Failed => true,
        TestStatus::Pending | TestStatus::InProgress => test.last_attempt_at.is_none(),
        TestStatus::Passed | TestStatus::Skipped => false,
    }
}

/// The first line of a text, as a sentence can hold it.
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
    conflicts::let_go(&mut work);
    answers::settle(&mut work);
    conflicts::judge(&mut work);
    questions::ask(&mut work);
    failures::handle(&mut work);
    lost::hand_on(&mut work);
    share::share(&mut work);
    conflicts::lift_idle_pauses(&mut work);
    notify(&mut work);
    work.plan
}

fn notify(work: &mut Work<'_>) {
    if work.config.notify.command.is_empty() {
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
