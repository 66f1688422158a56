//! Copies integration to its branch in the user's repository, and asks the human if somebody else has moved that
//! branch.
//!
//! It must never stop a loop: a branch that is checked out, locked or obstructed is tried again later.

use coord_db::payload::DecisionOption;
use coord_db::process::{host, host_name};
use coord_db::{ActorId, Decision, DecisionStatus, LeasePath, NewDecision, TestId};
use git::{CommitHash, Divergence, Obstacle, Published, RefExpectation};
use serde_json::json;

use crate::Result;
use crate::context::Context;
use crate::memory::{Stamp, stamps};

/// Answers to the question about a branch that somebody else has moved.
pub(crate) const PUBLISH_AGAIN: &str = "publish_again";
pub(crate) const TAKE_THEIRS: &str = "take_theirs";
/// Maximum number of tests named in a message.
const MAX_NAMED: usize = 5;

/// Where integration has a branch that somebody else can move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The user's repository.
    Published,
    /// The remote.
    Remote,
}

impl Place {
    /// The type of the question about it.
    fn question(self) -> &'static str {
        match self {
            Self::Published => "published_branch",
            Self::Remote => "remote_branch",
        }
    }
}

/// A branch that somebody else has moved.
#[derive(Debug)]
pub(crate) struct MovedBranch {
    pub(crate) place: Place,
    /// Where it is; none if it was deleted.
    pub(crate) found: Option<CommitHash>,
    pub(crate) symbolic: Option<String>,
    /// Where it was left.
    pub(crate) last: Option<CommitHash>,
}

impl MovedBranch {
    fn last(&self) -> String {
        self.last.as_ref().map_or("nothing", CommitHash::short).to_owned()
    }
}

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
        if is_published
            && let Err(error) = self.withdraw_branch_questions(Place::Published, None, "the branch is in its place again")
        {
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

    /// What the fingerprints of the questions about a branch begin with. Each machine publishes to its own clone, and knows nothing
    /// of the branches in the others.
    fn questions_about(&self, place: Place) -> String {
        match (place, self.store.remote()) {
            (Place::Published, None) => "published:".to_owned(),
            (Place::Published, Some(_)) => format!("published:{}:", host().unwrap_or_default()),
            (Place::Remote, _) => "remote:".to_owned(),
        }
    }

    /// Asks once about a branch that somebody else has moved, and applies the answer.
    fn settle_divergence(&self, divergence: &Divergence) -> Result<()> {
        let moved = MovedBranch {
            place: Place::Published,
            found: divergence.found.clone(),
            symbolic: divergence.symbolic.clone(),
            last: divergence.last.clone(),
        };
        match self.answer_about(&moved)?.as_deref() {
            Some(TAKE_THEIRS) => match &divergence.found {
                Some(found) => self.take_theirs(Place::Published, found),
                None => Ok(()),
            },
            Some(PUBLISH_AGAIN) => {
                let again = git::republish(&self.store, &self.user, self.integration_branch(), divergence)?;
                tracing::info!(?again, "published again by the human's decision");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The human's answer about a branch that somebody else has moved; asks if nobody has.
    pub(crate) fn answer_about(&self, moved: &MovedBranch) -> Result<Option<String>> {
        let found = moved.found.as_ref().map_or("nothing", CommitHash::short);
        let about = self.questions_about(moved.place);
        let fingerprint = format!("{about}{found}:{}", moved.symbolic.as_deref().unwrap_or_default());
        self.withdraw_branch_questions(moved.place, Some(&fingerprint), "the branch was moved again")?;
        let asked = self.db.read(|tx| tx.last_decisions_about(std::slice::from_ref(&fingerprint)))?;
        match asked.first() {
            // An answer is valid only for the commit that was there then.
            Some(decision) if decision.choice.is_some() && decision.context["last"] == moved.last() => {
                Ok(decision.choice.clone())
            }
            Some(decision) if decision.status == DecisionStatus::Pending => Ok(None),
            _ => self.ask_about(moved, fingerprint).map(|()| None),
        }
    }

    /// Withdraws the open questions about the branch whose cause no longer exists: all but the one about this move.
    pub(crate) fn withdraw_branch_questions(&self, place: Place, but: Option<&str>, why: &str) -> Result<()> {
        let open = self.db.read(|tx| tx.decisions(true))?;
        let about = self.questions_about(place);
        let is_over = |asked: &&Decision| {
            let fingerprint = asked.fingerprint.as_deref();
            asked.decision_type == place.question()
                && fingerprint != but
                && fingerprint.is_some_and(|fingerprint| fingerprint.starts_with(&about))
        };
        open.iter().filter(is_over).try_for_each(|question| self.withdraw(question, why))
    }

    fn ask_about(&self, moved: &MovedBranch, fingerprint: String) -> Result<()> {
        let branch = self.integration_branch();
        let found = match (&moved.symbolic, &moved.found) {
            (Some(target), _) => format!("points to {target}"),
            (None, Some(found)) => format!("is at {}", found.short()),
            (None, None) => "was deleted".to_owned(),
        };
        let lost = match &moved.found {
            Some(found) => self.lost_by(moved.place, found)?,
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
        let (place, leave) = match moved.place {
            Place::Published => {
                let machine = host().filter(|_| self.store.remote().is_some()).map(host_name);
                let place = machine.map(|machine| format!(" in the repository on {machine}")).unwrap_or_default();
                (place, "nothing is published until it is back in its place")
            }
            Place::Remote => (
                format!(" at the remote {}", self.store.remote().unwrap_or_default()),
                "nothing lands until it is back in its place",
            ),
        };
        let mut options = vec![
            option(PUBLISH_AGAIN, "reset the branch to the verified state; other commits on it are removed from it"),
            option("leave", &format!("leave the branch as it is; {leave}")),
        ];
        if moved.found.is_some() && moved.symbolic.is_none() {
            options.push(option(
                TAKE_THEIRS,
                "continue from the moved branch; passed tests that it does not contain are done again",
            ));
        }
        let question = NewDecision {
            decision_type: moved.place.question().to_owned(),
            summary: format!(
                "somebody else has moved the branch {branch}{place}: it {found}, not at {}{without}",
                moved.last()
            ),
            options,
            default_option: None,
            context: json!({
                "branch": branch, "found": moved.found.as_ref().map(CommitHash::as_str), "last": moved.last(),
                "symbolic": moved.symbolic, "lost_tests": lost,
            }),
            timeout_minutes: None,
            requested_by: ActorId::from(&self.loop_id),
            fingerprint: Some(fingerprint),
        };
        tracing::warn!(summary = question.summary, "asked the human");
        self.db.write(|tx| tx.ask(&question, None))?;
        Ok(())
    }

    /// The passed tests that a commit at a place does not contain.
    fn lost_by(&self, place: Place, found: &CommitHash) -> Result<Vec<TestId>> {
        let passed = crate::store::passed(self.db)?;
        let commits: Vec<CommitHash> = passed.iter().map(|(_, commit)| commit.clone()).collect();
        let there = match place {
            Place::Published => &self.user,
            Place::Remote => self.history(),
        };
        let lost = there.not_contained(&commits, found)?;
        Ok(passed.into_iter().filter(|(_, commit)| lost.contains(commit)).map(|(test, _)| test).collect())
    }

    /// Moves integration to the commit that somebody else has put on the branch. If a landing is in progress, it is
    /// tried again.
    pub(crate) fn take_theirs(&self, place: Place, found: &CommitHash) -> Result<()> {
        let Some(before) = self.store.integration()? else { return Ok(()) };
        let is_landing =
            self.db.read(|tx| Ok::<_, coord_db::Error>(!tx.leases_overlapping(&LeasePath::integration())?.is_empty()))?;
        if is_landing {
            return Ok(());
        }
        let theirs = match place {
            Place::Published => self.store.fetch_from_user(&self.user, found.as_str())?,
            Place::Remote => found.clone(),
        };
        let lost = self.lost_by(place, found)?;
        self.store.repository().set_ref(
            &format!("refs/coding-loops/replaced/{}", before.short()),
            &before,
            &RefExpectation::Any,
        )?;
        match place {
            Place::Published => self.store.move_integration(&theirs, &before)?,
            Place::Remote => self.store.take_from_remote(&theirs, &before)?,
        }
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
