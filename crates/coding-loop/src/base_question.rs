//! The questions about checks that fail at the base: taken back once their cause is gone, named where a loop ends before the
//! answer, and answered by the loop itself while pm is not there.

use std::collections::BTreeSet;

use coord_db::{BaseAnswer, Decision, GivenAnswer, Hold, LoopId, ReadTx};
use serde_json::Value;

use crate::Result;
use crate::context::Context;

impl Context<'_> {
    /// Takes a question back whose cause is gone, unless it has been answered.
    pub(crate) fn withdraw(&self, question: &Decision, why: &str) -> Result<()> {
        match self.db.write(|tx| tx.resolve_decision(&question.id, None, false, Some(why), None)) {
            Err(coord_db::Error::Settled { .. }) => Ok(()),
            other => {
                tracing::info!(decision = %question.id, why, "a question is withdrawn");
                Ok(other.map(drop)?)
            }
        }
    }

    /// What is waited for, where a question is open: its id, and how it is answered.
    pub(crate) fn words_of_question(&self, question: &Decision, why: &str) -> Result<String> {
        let options = question.option_ids().join("|");
        let answered = self.db.read(|tx| tx.waiting_answer(question))?;
        Ok(match answered.and_then(|given| given.choice) {
            Some(choice) => {
                format!("{why}; decision {} was answered with {choice}, which pm-agent has yet to apply", question.id)
            }
            None => format!("{why}; no attempt starts before your answer: loopctl decide {} {options}", question.id),
        })
    }

    /// What is waited for, where an agent cannot work before the human has answered.
    pub(crate) fn words_of_hold(&self, hold: &Hold) -> Result<String> {
        match self.db.read(|tx| tx.open_decision(&hold.question()))? {
            Some(question) => self.words_of_question(&question, &hold.reason),
            None => Ok(hold.reason.clone()),
        }
    }

    /// Applies the answers to questions about the base, while pm is not there to do it.
    pub(crate) fn take_base_answers(&self) -> Result<bool> {
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
            tracing::info!(decision = %decision.id, choice, "applied an answer, as pm is not there");
            match tx.apply_base_answer(&answer, &reason) {
                Err(error) if error.is_refusal() => tracing::warn!(%error, "what was chosen cannot be done"),
                other => other?,
            }
            Ok::<_, coord_db::Error>(())
        })?;
        Ok(true)
    }
}

/// Whether a question about the base is about other checks than those that fail.
pub(crate) fn is_of_others(question: &Decision, names: &[&str]) -> bool {
    let asked = question.context.get("checks").and_then(Value::as_array);
    let asked: Option<BTreeSet<&str>> = asked.map(|names| names.iter().filter_map(Value::as_str).collect());
    asked.is_some_and(|asked| names.iter().any(|name| !asked.contains(name)))
}
