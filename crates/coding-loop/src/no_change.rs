//! Attempts that prove nothing: a claim without a change (the human is asked once for each test, and a second such
//! claim is a failed attempt), and a check that passes before the work that it has to verify.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coord_db::config::{CheckConfig, SandboxBy};
use coord_db::payload::DecisionOption;
use coord_db::{
    ActorId, AlertType, Counts, ErrorCategory, FailedAttempt, GREEN_BEFORE_QUESTION, NO_CHANGE_QUESTION, NewAlert, NewDecision,
    Severity, Test, WriteTx,
};
use git::{WorkTree, shown};
use serde_json::json;

use crate::Result;
use crate::agents::NOTHING_PRINTED;
use crate::context::{Attempt, Context};
use crate::process::record_end;

/// Maximum number of files named in a message.
const MAX_NAMED: usize = 5;

impl Context<'_> {
    /// Records a claim without a change. `elsewhere` lists files of the user's checkout that changed meanwhile.
    pub(crate) fn record_unchanged(&self, attempt: &Attempt, elsewhere: &[String]) -> Result<()> {
        let test = &attempt.test;
        let words = Some(attempt.last_words.as_str()).filter(|words| !words.is_empty() && *words != NOTHING_PRINTED);
        let last_output = words.map(|words| format!("; its last output: {words}")).unwrap_or_default();
        let elsewhere = match elsewhere {
            [] => String::new(),
            files => format!(", while {} in your own checkout changed", files.join(", ")),
        };
        let message = match &attempt.landed_by {
            Some(by) => format!("nothing of its work is left to change, because {by} has landed the same change{last_output}"),
            None => format!("the agent claimed success and changed nothing{elsewhere}{last_output}"),
        };
        let fingerprint = format!("test:{}", test.id);
        let asked = self.db.read(|tx| tx.was_asked(&fingerprint, NO_CHANGE_QUESTION))?;
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

    /// The first files of the user's checkout that changed during an attempt without a change of its own: an agent can
    /// leave its workspace by absolute paths. The checkout is examined only in this case, and not for a sandboxed
    /// agent.
    pub(crate) fn watch_checkout(&self, attempt: &Attempt) -> Result<Vec<String>> {
        let is_free = self.config.agent_of(&self.loop_id).sandbox == SandboxBy::None;
        if !self.managed || !is_free || attempt.changed || attempt.last_words.is_empty() {
            return Ok(Vec::new());
        }
        let files = self.changed_in_the_checkout(attempt);
        if !files.is_empty() {
            let message = format!(
                "{} in your own checkout changed while {} worked on {} without a change in its workspace; look at them with \
                 git diff, and use relative paths in the goal",
                files.join(", "),
                self.loop_id,
                attempt.test.id
            );
            tracing::warn!(message);
            let alert = NewAlert {
                fingerprint: self.checkout_alert(),
                severity: Severity::Warning,
                alert_type: AlertType::Digression,
                source: self.loop_id.to_string(),
                message,
                context: json!({"loop_id": self.loop_id, "test_id": attempt.test.id, "files": files}),
                event_id: None,
            };
            self.db.write(|tx| tx.raise_alert(&alert))?;
        }
        Ok(files)
    }

    /// Fingerprint of the alert about changes in the user's checkout. The loop's next pass closes it.
    pub(crate) fn checkout_alert(&self) -> String {
        format!("checkout:{}", self.loop_id)
    }

    fn changed_in_the_checkout(&self, attempt: &Attempt) -> Vec<String> {
        let (Some(begun), Ok(checkout)) = (attempt.test.last_attempt_at, WorkTree::open(&self.config.repository_path())) else {
            return Vec::new();
        };
        let ahead = self.db.ahead_of_host();
        // For a deleted file, the time of its folder counts.
        let seen = |path: &Path| path.ancestors().find_map(|path| path.symlink_metadata().ok());
        let changed_since = |file: &PathBuf| {
            let millis = seen(&checkout.root().join(file)).map(|meta| meta.ctime() * 1000 + meta.ctime_nsec() / 1_000_000);
            millis.is_some_and(|millis| millis + ahead >= begun.as_millis())
        };
        let is_ours = |file: &PathBuf| file.starts_with(self.own_folder());
        let files = checkout.changed_files().unwrap_or_default();
        let files = files.iter().filter(|file| !is_ours(file) && changed_since(file));
        files.take(MAX_NAMED).map(|file| shown(file)).collect()
    }

    fn ask_about_no_change(
        &self,
        tx: &WriteTx<'_>,
        attempt: &Attempt,
        message: &str,
        fingerprint: String,
    ) -> coord_db::Result<()> {
        let options = [
            ("pass", "nothing has to change; run the checks on the present state"),
            ("retry", "make another attempt; the next claim without a change counts as failed"),
            ("skip", "remove the test from the queue; tests that depend on it stay blocked"),
        ];
        self.ask_about_test(tx, attempt, (NO_CHANGE_QUESTION, fingerprint), message, &options, Some("retry"))
    }

    // ---- green before ----

    /// True if the human has accepted that a check passes before this test's work.
    pub(crate) fn may_be_green(&self, test: &Test, check: &CheckConfig) -> Result<bool> {
        let asked = self.db.read(|tx| tx.last_decisions_about(&[green_before(test, &check.name)]))?;
        Ok(asked.first().is_some_and(|decision| decision.choice.as_deref() == Some("go_on")))
    }

    /// Records that a check passes before the work although it should fail, and asks the human.
    pub(crate) fn record_green_before(&self, attempt: &Attempt, check: &str) -> Result<()> {
        let test = &attempt.test;
        let message = format!(
            "check {check} passes at {} before any work, but its setting fails_before requires it to fail",
            attempt.base.short()
        );
        let why = FailedAttempt { counts: Counts::GivenBack, ..FailedAttempt::new(ErrorCategory::Human, message.clone()) };
        let options = [
            ("go_on", "run the agent anyway; the check verifies its work"),
            ("pass", "the goal is already reached; run the checks on the present state"),
            ("skip", "remove the test from the queue; tests that depend on it stay blocked"),
        ];
        record_end(self, &test.id, &why, Some(attempt), |tx| {
            // Only the human knows whether the check or the test is wrong.
            self.ask_about_test(tx, attempt, (GREEN_BEFORE_QUESTION, green_before(test, check)), &message, &options, None)
        })
    }

    /// Asks about a pending test, and delays it until the answer or the timeout of the question.
    fn ask_about_test(
        &self,
        tx: &WriteTx<'_>,
        attempt: &Attempt,
        (decision_type, fingerprint): (&str, String),
        message: &str,
        options: &[(&str, &str)],
        default: Option<&str>,
    ) -> coord_db::Result<()> {
        let (test, loop_id) = (&attempt.test.id, &self.loop_id);
        let minutes = self.config.pm.decision_timeout_minutes.max(0);
        let option =
            |(id, description): &(&str, &str)| DecisionOption { id: (*id).to_owned(), description: (*description).to_owned() };
        let question = NewDecision {
            decision_type: decision_type.to_owned(),
            summary: format!("test {test} of {loop_id}: {message}"),
            options: options.iter().map(option).collect(),
            default_option: default.map(str::to_owned),
            context: json!({"test_id": test, "loop_id": loop_id, "last_words": attempt.last_words}),
            timeout_minutes: default.map(|_| minutes),
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

/// Fingerprint of the question about a check that passes before a test's work.
fn green_before(test: &Test, check: &str) -> String {
    format!("{GREEN_BEFORE_QUESTION}:{}:{check}", test.id)
}
