//! Changes that land only with a human's approval: protected files, very large or very many files, and text that looks
//! like a secret.

use std::path::PathBuf;
use std::time::Duration;

use coord_db::payload::DecisionOption;
use coord_db::{ActorId, DecisionStatus, ErrorCategory, NewDecision};
use git::{CommitHash, Finding, shown};
use serde_json::json;

use crate::Result;
use crate::auto_lease::exactly;
use crate::context::{Attempt, Context};
use crate::control::Waiter;
use crate::end::{Step, Stop};
use crate::secrets;
use crate::work::Work;

/// Maximum number of files named in a message.
const MAX_NAMED: usize = 10;

/// The parts of a change that a human has to approve.
#[derive(Debug, Default)]
struct Unusual {
    protected: Vec<String>,
    large: Vec<String>,
    secret: Vec<String>,
    /// The number of files, if there are very many.
    many: Option<usize>,
}

impl Unusual {
    fn is_empty(&self) -> bool {
        self.protected.is_empty() && self.large.is_empty() && self.secret.is_empty() && self.many.is_none()
    }

    fn text(&self) -> String {
        let named = |list: &[String]| {
            let shown = list.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
            match list.len().saturating_sub(MAX_NAMED) {
                0 => shown,
                more => format!("{shown} and {more} more"),
            }
        };
        let mut parts = Vec::new();
        if !self.protected.is_empty() {
            parts.push(format!("changes protected files: {}", named(&self.protected)));
        }
        if !self.large.is_empty() {
            parts.push(format!("contains large files: {}", named(&self.large)));
        }
        if let Some(many) = self.many {
            parts.push(format!("changes {many} files"));
        }
        if !self.secret.is_empty() {
            parts.push(format!("contains text that looks like a secret: {}", named(&self.secret)));
        }
        parts.join("; ")
    }
}

impl Context<'_> {
    /// Asks the human for approval if the change needs it, and waits for the answer.
    pub(crate) async fn approve(&self, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<()> {
        let Some(work) = attempt.work.clone() else { return Ok(()) };
        let unusual = self.unusual(&work)?;
        if unusual.is_empty() {
            return Ok(());
        }
        let question = self.question(attempt, &work, &unusual);
        let id = self.db.write(|tx| tx.ask(&question, tx.attempt_started(&attempt.test.id)?.as_ref()))?;
        loop {
            waiter.looked(self);
            let decision = self.db.read(|tx| tx.decision(&id))?;
            if decision.status != DecisionStatus::Pending {
                if decision.choice.as_deref() != Some("approve") {
                    let text = format!("the human did not approve the work, which {}", unusual.text());
                    return Err(Stop::failed(ErrorCategory::Human, text));
                }
                break;
            }
            self.check_interrupt(Some(attempt), waiter)?;
            waiter.wait(self, Duration::from_secs(5)).await;
        }
        if !unusual.large.is_empty() {
            // Large files were left out until they were approved.
            let whole = self.see_work(&attempt.workspace, u64::MAX)?;
            self.lease_files(attempt, &whole.files)?;
            attempt.work = Some(whole);
            self.await_leases(attempt, waiter).await?;
        }
        Ok(())
    }

    fn unusual(&self, work: &Work) -> Result<Unusual> {
        let protected = exactly(&self.config.gate.protected);
        let name = |file: &PathBuf| shown(file);
        let large = work.findings.iter().filter_map(|found| match found {
            Finding::TooLarge { path, bytes } => Some(format!("{} ({} MB)", shown(path), bytes / 1_000_000)),
            _ => None,
        });
        let many = work.files.len() > self.config.landing.files;
        let mut unusual = Unusual {
            protected: work.files.iter().filter(|file| protected.is_match(file)).map(name).collect(),
            large: large.collect(),
            secret: Vec::new(),
            many: many.then_some(work.files.len()),
        };
        if self.config.landing.secrets && !many {
            unusual.secret = self.secrets_in(work)?;
        }
        Ok(unusual)
    }

    /// Added text that looks like a secret, with masked values.
    fn secrets_in(&self, work: &Work) -> Result<Vec<String>> {
        self.secrets_between(&work.change.base, &work.change.tree, &work.files)
    }

    fn secrets_between(&self, base: &CommitHash, tree: &CommitHash, files: &[PathBuf]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for file in files.iter().filter(|file| secrets::is_secret_name(file)) {
            let at = |tree| self.history().read_file_at(tree, file);
            if at(tree)?.is_some() && at(base)?.is_none() {
                found.push(shown(file));
            }
        }
        for line in self.history().added_lines(base, tree)? {
            let secrets = secrets::find(&line.text);
            found.extend(secrets.iter().map(|secret| format!("{}:{} ({secret})", line.file, line.number)));
        }
        Ok(found)
    }

    /// True if the human would be asked about what is between two commits: a secret, or a protected file.
    pub(crate) fn is_asked_about(&self, base: &CommitHash, commit: &CommitHash) -> Result<bool> {
        let (files, protected) = (self.history().changed_between(base, commit)?, exactly(&self.config.gate.protected));
        Ok(files.iter().any(|file| protected.is_match(file))
            || self.config.landing.secrets && !self.secrets_between(base, commit, &files)?.is_empty())
    }

    fn question(&self, attempt: &Attempt, work: &Work, unusual: &Unusual) -> NewDecision {
        let test = &attempt.test.id;
        let option = |id: &str, description: &str| DecisionOption { id: id.to_owned(), description: description.to_owned() };
        let decision_type = if unusual.protected.is_empty() { "unusual_change" } else { "protected_change" };
        let kind = if unusual.protected.is_empty() { "unusual" } else { "protected" };
        NewDecision {
            decision_type: decision_type.to_owned(),
            summary: format!("test {test} {}", unusual.text()),
            options: vec![
                option("approve", "run the gate on the change"),
                option("reject", "fail the attempt; its work is saved under a reference"),
            ],
            default_option: Some("reject".to_owned()),
            context: json!({
                "test_id": test, "loop_id": self.loop_id, "files": unusual.protected, "large": unusual.large,
                "secrets": unusual.secret, "count": work.files.len(), "tree": work.change.tree.as_str(),
            }),
            timeout_minutes: Some(self.config.pm.decision_timeout_minutes),
            requested_by: ActorId::from(&self.loop_id),
            fingerprint: Some(format!("{kind}:{test}:{}", work.change.tree)),
        }
    }
}
