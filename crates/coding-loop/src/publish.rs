//! Copies integration to its branch in the user's repository, and asks the human if somebody else has moved that
//! branch.
//!
//! It must never stop a loop: a branch that is checked out, locked or obstructed is tried again later.

use coord_db::payload::DecisionOption;
use coord_db::{ActorId, Decision, DecisionStatus, LeasePath, NewDecision, TestId, TestStatus};
use git::{CommitHash, Divergence, Obstacle, Published, RefExpectation};
use serde_json::json;

use crate::Result;
use crate::context::Context;
use crate::memory::{Stamp, stamps};

/// Type of the question about a branch that somebody else has moved.
const QUESTION: &str = "published_branch";
/// Maximum number of tests named in a message.
const MAX_NAMED: usize = 5;

impl Context<'_> {
    fn stamps(&self) -> Vec<Stamp> {
        let branch = self.integration_branch();
        [stamps(self.user.common_dir(), branch), stamps(self.store.path(), branch)].concat()
    }

    /// Publishes if anything has moved since the last time.
    pub(crate) fn publish_if_moved(&self) {
        let settled = self.publishing.borrow().settled.as_ref().is_some_and(|settled| *settled == self.stamps());
        if !settled {
            self.publish();
        }
    }

    /// Publishes the head of integration.
    pub(crate) fn publish(&self) {
        if !matches!(crate::store::recover_integration(self.db, &self.store), Ok(Some(_))) {
            return;
        }
        // Read before git runs, so that a move in between is detected the next time.
        let before = self.stamps();
        let published = git::publish(&self.store, &self.user, self.integration_branch());
        let is_published = matches!(published, Ok(Published::Moved { .. } | Published::Already(_)));
        if is_published && let Err(error) = self.withdraw_branch_questions(None, "the branch is in its place again") {
            self.report(&coord_db::error_chain(&error));
        }
        let settled = match published {
            Ok(Published::Moved { .. }) => Some(self.stamps()),
            Ok(Published::Already(_)) => Some(before),
            Ok(Published::Waiting(obstacle)) => {
                self.report(&describe(&obstacle));
                None
            }
            Ok(Published::Diverged(divergence)) => {
                if let Err(error) = self.settle_divergence(&divergence) {
                    self.report(&coord_db::error_chain(&error));
                }
                None
            }
            Err(error) => {
                self.report(&coord_db::error_chain(&error));
                None
            }
        };
        let mut publishing = self.publishing.borrow_mut();
        if settled.is_some() {
            publishing.reported = None;
        }
        publishing.settled = settled;
    }

    fn report(&self, why: &str) {
        let branch = self.integration_branch();
        let mut publishing = self.publishing.borrow_mut();
        if publishing.reported.as_deref() != Some(why) {
            tracing::warn!(branch, why, "cannot publish the landed commits for now; the loops continue");
            publishing.reported = Some(why.to_owned());
        }
    }

    // ---- moved by somebody else ----

    /// Asks once about a branch that somebody else has moved, and applies the answer.
    fn settle_divergence(&self, divergence: &Divergence) -> Result<()> {
        let name = |commit: Option<&CommitHash>| commit.map_or("nothing", CommitHash::short).to_owned();
        let fingerprint =
            format!("published:{}:{}", name(divergence.found.as_ref()), divergence.symbolic.as_deref().unwrap_or_default());
        self.withdraw_branch_questions(Some(&fingerprint), "the branch was moved again")?;
        let asked = self.db.read(|tx| tx.last_decisions_about(std::slice::from_ref(&fingerprint)))?;
        match asked.first() {
            // An answer is valid only for the commit that was published then.
            Some(decision) if decision.choice.is_some() && decision.context["last"] == name(divergence.last.as_ref()) => {
                match (decision.choice.as_deref(), &divergence.found) {
                    (Some("take_theirs"), Some(found)) => self.take_theirs(found),
                    (Some("publish_again"), _) => {
                        let again = git::republish(&self.store, &self.user, self.integration_branch(), divergence)?;
                        tracing::info!(?again, "published again by the human's decision");
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            Some(decision) if decision.status == DecisionStatus::Pending => Ok(()),
            _ => self.ask_about_divergence(divergence, fingerprint),
        }
    }

    /// Withdraws the open questions about the branch whose cause no longer exists: all but the one about this move.
    fn withdraw_branch_questions(&self, but: Option<&str>, why: &str) -> Result<()> {
        let open = self.db.read(|tx| tx.decisions(true))?;
        let is_over = |asked: &&Decision| asked.decision_type == QUESTION && asked.fingerprint.as_deref() != but;
        open.iter().filter(is_over).try_for_each(|question| self.withdraw(question, why))
    }

    fn ask_about_divergence(&self, divergence: &Divergence, fingerprint: String) -> Result<()> {
        let branch = self.integration_branch();
        let found = match (&divergence.symbolic, &divergence.found) {
            (Some(target), _) => format!("points to {target}"),
            (None, Some(found)) => format!("is at {}", found.short()),
            (None, None) => "was deleted".to_owned(),
        };
        let lost = match &divergence.found {
            Some(found) => self.lost_by(found)?,
            None => Vec::new(),
        };
        let named: Vec<&str> = lost.iter().take(MAX_NAMED).map(|test| test.as_str()).collect();
        let without = match lost.len() {
            0 => String::new(),
            count => {
                format!(", without {count} passed tests ({}{})", named.join(", "), if count > MAX_NAMED { ", …" } else { "" })
            }
        };
        let option = |id: &str, description: &str| DecisionOption { id: id.to_owned(), description: description.to_owned() };
        let mut options = vec![
            option("publish_again", "reset the branch to the verified state; other commits on it are removed from it"),
            option("leave", "leave the branch as it is; nothing is published until it is back in its place"),
        ];
        if divergence.found.is_some() && divergence.symbolic.is_none() {
            options.push(option(
                "take_theirs",
                "continue from the moved branch; passed tests that it does not contain are done again",
            ));
        }
        let last = divergence.last.as_ref().map_or("nothing", CommitHash::short);
        let question = NewDecision {
            decision_type: QUESTION.to_owned(),
            summary: format!("somebody else has moved the branch {branch}: it {found}, not at {last}{without}"),
            options,
            default_option: None,
            context: json!({
                "branch": branch, "found": divergence.found.as_ref().map(CommitHash::as_str), "last": last,
                "symbolic": divergence.symbolic, "contains_ours": divergence.contains_ours, "lost_tests": lost,
            }),
            timeout_minutes: None,
            requested_by: ActorId::from(&self.loop_id),
            fingerprint: Some(fingerprint),
        };
        tracing::warn!(summary = question.summary, "asked the human");
        self.db.write(|tx| tx.ask(&question, None))?;
        Ok(())
    }

    /// The passed tests that a commit of the user's repository does not contain.
    fn lost_by(&self, found: &CommitHash) -> Result<Vec<TestId>> {
        let tests = self.db.read(|tx| tx.tests(None, Some(TestStatus::Passed)))?;
        let landed = |test: &coord_db::Test| CommitHash::new(test.commit_hash.clone()?).ok();
        let passed: Vec<(TestId, CommitHash)> =
            tests.iter().filter_map(|test| Some((test.id.clone(), landed(test)?))).collect();
        let commits: Vec<CommitHash> = passed.iter().map(|(_, commit)| commit.clone()).collect();
        let lost = self.user.not_contained(&commits, found)?;
        Ok(passed.into_iter().filter(|(_, commit)| lost.contains(commit)).map(|(test, _)| test).collect())
    }

    /// Moves integration to the commit that somebody else has put on the branch. If a landing is in progress, it is
    /// tried again.
    fn take_theirs(&self, found: &CommitHash) -> Result<()> {
        let Some(before) = self.store.integration()? else { return Ok(()) };
        let is_landing =
            self.db.read(|tx| Ok::<_, coord_db::Error>(!tx.leases_overlapping(&LeasePath::integration())?.is_empty()))?;
        if is_landing {
            return Ok(());
        }
        let theirs = self.store.fetch_from_user(&self.user, found.as_str())?;
        let lost = self.lost_by(found)?;
        self.store.repository().set_ref(
            &format!("refs/coding-loops/replaced/{}", before.short()),
            &before,
            &RefExpectation::Any,
        )?;
        self.store.move_integration(&theirs, &before)?;
        self.db.write(|tx| {
            for test in &lost {
                tx.reset_test_because(test, &format!("its commit was removed from the branch, which is at {}", found.short()))?;
            }
            Ok::<_, coord_db::Error>(())
        })?;
        tracing::warn!(
            from = before.short(),
            to = theirs.short(),
            reset = lost.len(),
            "integration moved by the human's decision"
        );
        Ok(())
    }
}

fn describe(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::CheckedOut(path) => format!("it is checked out at {}", path.display()),
        Obstacle::Locked(lock) => format!("another git holds {}", lock.display()),
        Obstacle::NameTaken(name) => {
            let other = name.strip_prefix("refs/heads/").unwrap_or(name);
            format!("its name collides with your branch {other}; rename that branch, or set repository.integration_branch")
        }
    }
}
