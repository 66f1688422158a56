//! Questions about checks that fail at the base: withdrawn once their cause no longer exists, named when a loop ends
//! before the answer, and applied by the loop itself while pm is not running.

use std::collections::BTreeSet;

use coord_db::{BaseAnswer, Decision, GivenAnswer, Hold, LoopId, ReadTx};
use serde_json::Value;

use crate::Result;
use crate::context::Context;

impl Context<'_> {
    /// Withdraws a question whose cause no longer exists, unless it has been answered.
    pub(crate) fn withdraw(&self, question: &Decision, why: &str) -> Result<()> {
        match self.db.write(|tx| tx.resolve_decision(&question.id, None, false, Some(why), None)) {
            Err(coord_db::Error::Settled { .. }) => Ok(()),
            other => {
                tracing::info!(decision = %question.id, why, "question withdrawn");
                Ok(other.map(drop)?)
            }
        }
    }

    /// Describes the open question for which the loop waits, and how to answer it.
    pub(crate) fn describe_question(&self, question: &Decision, why: &str) -> Result<String> {
        let options = question.option_ids().join("|");
        let answered = self.db.read(|tx| tx.waiting_answer(question))?;
        Ok(match answered.and_then(|given| given.choice) {
            Some(choice) => {
                format!("{why}; decision {} was answered with {choice}, and pm-agent has not applied it yet", question.id)
            }
            None => format!("{why}; no attempt starts until you answer: loopctl decide {} {options}", question.id),
        })
    }

    /// Describes the hold until the human's answer.
    pub(crate) fn describe_hold(&self, hold: &Hold) -> Result<String> {
        match self.db.read(|tx| tx.open_decision(&hold.question()))? {
            Some(question) => self.describe_question(&question, &hold.reason),
            None => Ok(hold.reason.clone()),
        }
    }

    /// Applies the answers to questions about the base while pm is not running.
    pub(crate) fn apply_base_answers(&self) -> Result<bool> {
        let waiting = |tx: &ReadTx<'_>| {
            if self.has(tx, "pm")? {
                return Ok(None);
            }
            for decision in tx.decisions(true)? {
                if decision.is_of_base()
                    && let Some(given) = tx.waiting_answer(&decision)?
                {
                    return Ok(Some((decision, given)));
                }
            }
            Ok::<_, coord_db::Error>(None)
        };
        if self.db.read(waiting)?.is_none() {
            return Ok(false);
        }
        self.db.write(|tx| {
            let Some((decision, GivenAnswer { choice: Some(choice), event, .. })) = waiting(tx)? else { return Ok(()) };
            let cause = match &event {
                Some(event) => tx.event(event.as_str())?,
                None => None,
            };
            tx.resolve_decision(&decision.id, Some(&choice), true, None, cause.as_ref())?;
            let loops: Vec<LoopId> = tx.loops()?.into_iter().map(|row| row.id).collect();
            let Some(answer) = BaseAnswer::of(&decision, &choice, &loops) else { return Ok(()) };
            let reason = format!("the human chose {choice:?} in decision {}", decision.id);
            tracing::info!(decision = %decision.id, choice, "answer applied, because pm is not running");
            match tx.apply_base_answer(&answer, &reason) {
                Err(error) if error.is_refusal() => tracing::warn!(%error, "cannot apply the answer"),
                other => other?,
            }
            Ok::<_, coord_db::Error>(())
        })?;
        Ok(true)
    }
}

/// True if a question about the base names other checks than those that fail now.
pub(crate) fn is_of_others(question: &Decision, names: &[&str]) -> bool {
    let asked = question.context.get("checks").and_then(Value::as_array);
    let asked: Option<BTreeSet<&str>> = asked.map(|names| names.iter().filter_map(Value::as_str).collect());
    asked.is_some_and(|asked| names.iter().any(|name| !asked.contains(name)))
}
