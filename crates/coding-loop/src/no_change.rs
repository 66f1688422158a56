//! An agent that claims success and has changed nothing has done nothing that could be verified: the human is asked once for
//! each test, and a second such claim is a failed attempt.

use coord_db::payload::DecisionOption;
use coord_db::{ActorId, Counts, ErrorCategory, FailedAttempt, NewDecision, WriteTx};
use serde_json::json;

use crate::Result;
use crate::context::{Attempt, Context};
use crate::process::record_end;

/// The type of the question.
const QUESTION: &str = "no_change";

impl Context<'_> {
    /// Records a claim without a change.
    pub(crate) fn record_unchanged(&self, attempt: &Attempt) -> Result<()> {
        let test = &attempt.test;
        let words = Some(attempt.last_words.as_str()).filter(|words| !words.is_empty());
        let said = words.map(|words| format!("; it said: {words}")).unwrap_or_default();
        let message = format!("the agent claimed success and changed nothing{said}");
        let fingerprint = format!("test:{}", test.id);
        let asked = self.db.read(|tx| tx.was_asked(&fingerprint, QUESTION))?;
        let (category, counts) = match asked {
            true => (ErrorCategory::Code, Counts::ByCategory),
            false => (ErrorCategory::Human, Counts::GivenBack),
        };
        let why = FailedAttempt { counts, ..FailedAttempt::new(category, message.clone()) };
        record_end(self, &test.id, &why, Some(attempt), |tx| {
            if self.managed {
                tx.count_vain_run(&self.loop_id, &test.id, &message)?;
            }
            if asked { Ok(()) } else { self.ask_about_no_change(tx, attempt, &message, fingerprint.clone()) }
        })
    }

    fn ask_about_no_change(
        &self,
        tx: &WriteTx<'_>,
        attempt: &Attempt,
        message: &str,
        fingerprint: String,
    ) -> coord_db::Result<()> {
        let (test, loop_id) = (&attempt.test.id, &self.loop_id);
        let minutes = self.config.pm.decision_timeout_minutes.max(0);
        let option = |id: &str, description: &str| DecisionOption { id: id.to_owned(), description: description.to_owned() };
        let question = NewDecision {
            decision_type: QUESTION.to_owned(),
            summary: format!("test {test} of {loop_id}: {message}"),
            options: vec![
                option("pass", "nothing has to change: the checks judge what is there"),
                option("retry", "another attempt; the next claim without a change is a failed attempt"),
                option("skip", "the test is taken out of the queue; what depends on it keeps waiting"),
            ],
            default_option: Some("retry".to_owned()),
            context: json!({"test_id": test, "loop_id": loop_id, "last_words": attempt.last_words}),
            timeout_minutes: Some(minutes),
            requested_by: ActorId::from(loop_id),
            fingerprint: Some(fingerprint),
        };
        tx.ask(&question, tx.attempt_started(test)?.as_ref())?;
        if tx.test(test)?.status == coord_db::TestStatus::Pending {
            tx.delay_test(test, tx.now().plus_seconds(minutes.saturating_mul(60)))?;
        }
        Ok(())
    }
}
