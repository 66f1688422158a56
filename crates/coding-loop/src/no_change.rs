//! Attempts that show nothing: a claim of success without a change, of which nothing could be verified (the human is asked once
//! for each test, and a second such claim is a failed attempt), and a check that passes before the work that it has to judge.

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
use crate::context::{Attempt, Context};
use crate::process::record_end;
use crate::run_end::NOTHING_PRINTED;

/// Files that are named one by one.
const MAX_NAMED: usize = 5;

impl Context<'_> {
    /// Records a claim without a change. `elsewhere` are the files of the user's checkout that changed meanwhile.
    pub(crate) fn record_unchanged(&self, attempt: &Attempt, elsewhere: &[String]) -> Result<()> {
        let test = &attempt.test;
        let words = Some(attempt.last_words.as_str()).filter(|words| !words.is_empty() && *words != NOTHING_PRINTED);
        let said = words.map(|words| format!("; it said: {words}")).unwrap_or_default();
        let elsewhere = match elsewhere {
            [] => String::new(),
            files => format!(", while {} in your own checkout changed", files.join(", ")),
        };
        let message = match &attempt.landed_by {
            Some(by) => format!("nothing of its work is left to change, as {by} has landed the same{said}"),
            None => format!("the agent claimed success and changed nothing{elsewhere}{said}"),
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

    /// The first few files of the user's checkout that changed while an attempt ran that has changed nothing itself: an agent
    /// can leave its folder by an absolute path. Only then does the checkout have to be looked at. One in a sandbox cannot.
    pub(crate) fn watch_checkout(&self, attempt: &Attempt) -> Result<Vec<String>> {
        let is_free = self.config.agent_of(&self.loop_id).sandbox == SandboxBy::None;
        if !self.managed || !is_free || attempt.changed || attempt.last_words.is_empty() {
            return Ok(Vec::new());
        }
        let files = self.changed_in_the_checkout(attempt);
        if !files.is_empty() {
            let message = format!(
                "{} of your own checkout changed while {} worked on {} and changed nothing in its workspace; look at them with \
                 git diff, and name the paths in the goal as they are in the workspace",
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

    /// What names the alert about changes in the user's checkout. The loop's next pass closes it.
    pub(crate) fn checkout_alert(&self) -> String {
        format!("checkout:{}", self.loop_id)
    }

    fn changed_in_the_checkout(&self, attempt: &Attempt) -> Vec<String> {
        let (Some(begun), Ok(checkout)) = (attempt.test.last_attempt_at, WorkTree::open(&self.config.repository_path())) else {
            return Vec::new();
        };
        // Of a file that is gone, its folder says when.
        let seen = |path: &Path| path.ancestors().find_map(|path| path.symlink_metadata().ok());
        let changed_since = |file: &PathBuf| {
            let millis = seen(&checkout.root().join(file)).map(|meta| meta.ctime() * 1000 + meta.ctime_nsec() / 1_000_000);
            millis.is_some_and(|millis| millis >= begun.as_millis())
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
            ("pass", "nothing has to change: the checks judge what is there"),
            ("retry", "another attempt; the next claim without a change is a failed attempt"),
            ("skip", "the test is taken out of the queue; what depends on it keeps waiting"),
        ];
        self.ask_about_test(tx, attempt, (NO_CHANGE_QUESTION, fingerprint), message, &options, Some("retry"))
    }

    // ---- green before ----

    /// Whether a human has said that a check may pass before this test's work.
    pub(crate) fn may_be_green(&self, test: &Test, check: &CheckConfig) -> Result<bool> {
        let asked = self.db.read(|tx| tx.last_decisions_about(&[green_before(test, &check.name)]))?;
        Ok(asked.first().is_some_and(|decision| decision.choice.as_deref() == Some("go_on")))
    }

    /// Records that a check passes before the work although it has to fail then, and asks what that means.
    pub(crate) fn record_green_before(&self, attempt: &Attempt, check: &str) -> Result<()> {
        let test = &attempt.test;
        let message = format!(
            "check {check} passes at {} before any work, although it has to fail then (fails_before)",
            attempt.base.short()
        );
        let why = FailedAttempt { counts: Counts::GivenBack, ..FailedAttempt::new(ErrorCategory::Human, message.clone()) };
        let options = [
            ("go_on", "the agent works all the same, and the check judges its work"),
            ("pass", "what the test asks for is there already: the checks judge what is there"),
            ("skip", "the test is taken out of the queue; what depends on it keeps waiting"),
        ];
        record_end(self, &test.id, &why, Some(attempt), |tx| {
            // Nobody but the human knows whether the check or the test is wrong.
            self.ask_about_test(tx, attempt, (GREEN_BEFORE_QUESTION, green_before(test, check)), &message, &options, None)
        })
    }

    /// Asks about a test that is pending again, and holds it back until the answer or the end of the question's time.
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

/// What names the question about a check that passes before a test's work.
fn green_before(test: &Test, check: &str) -> String {
    format!("{GREEN_BEFORE_QUESTION}:{}:{check}", test.id)
}
