//! Questions about the user's commits that cannot be brought in: one open question for each branch, the consequences of
//! its answer, and the test that merges them.

use coord_db::payload::DecisionOption;
use coord_db::process::{host, host_name};
use coord_db::{
    ActorId, Decision, DecisionId, DecisionStatus, ErrorCategory, EventId, LoopId, LoopStatus, NewDecision, NewTest, Test,
    TestId, TestStatus, WriteTx,
};
use git::{CommitHash, Incoming, shown};
use serde_json::json;

use crate::Result;
use crate::context::Context;
use crate::end::{End, Step, Stop};
use crate::followed::{SyncOutcome, followed_branch, named};
use crate::sync_gate::Red;

/// Type of the question.
const QUESTION: &str = "sync";
/// Where the context of a question names the machine, if several share the database.
const HOST: &str = "host";
/// Prefix of the ids of tests that merge the user's commits.
const TEST_PREFIX: &str = "sync-";
/// Maximum number of files named in a message.
const MAX_NAMED: usize = 10;

/// Why commits cannot be brought in.
pub(crate) enum Trouble {
    Conflict(Vec<std::path::PathBuf>),
    Red(Box<Red>),
}

/// The state of the question about a branch.
pub(crate) enum Standing {
    /// These commits can be tried.
    Free,
    /// The question about these commits is open.
    Asked,
    /// This test merges them.
    Test(TestId),
    /// These commits are left out for now.
    Left,
}

fn fingerprint(branch: &str) -> String {
    format!("{QUESTION}:{branch}")
}

fn text<'a>(decision: &'a Decision, key: &str) -> Option<&'a str> {
    decision.context.get(key)?.as_str()
}

/// True unless a question is another machine's, which has its own branch.
fn is_own(decision: &Decision) -> bool {
    text(decision, HOST).is_none_or(|asked_on| Some(asked_on) == host())
}

/// The id of the test that was decided on.
fn chosen_test(decision: &Decision) -> Option<TestId> {
    let is_chosen = decision.status != DecisionStatus::Pending && decision.choice.as_deref() == Some("test");
    text(decision, "test_id").filter(|_| is_chosen)?.parse().ok()
}

impl Context<'_> {
    fn last_sync_question(&self, branch: &str) -> Result<Option<Decision>> {
        Ok(self.db.read(|tx| tx.last_decisions_about(&[fingerprint(branch)]))?.pop())
    }

    /// The state of the question about a branch, for commits up to `theirs`. Creates a test that was decided on.
    pub(crate) fn sync_standing(&self, branch: &str, theirs: &CommitHash) -> Result<Standing> {
        let Some(decision) = self.last_sync_question(branch)? else { return Ok(Standing::Free) };
        let is_about_these = text(&decision, "theirs") == Some(theirs.as_str());
        if let Some(test) = chosen_test(&decision) {
            match self.db.read(|tx| tx.find_test(test.as_str()))?.map(|test| test.status) {
                None if self.is_on(branch, &decision)? => {
                    self.create_sync_test(&decision, &test)?;
                    return Ok(Standing::Test(test));
                }
                Some(TestStatus::Pending | TestStatus::InProgress) => return Ok(Standing::Test(test)),
                Some(TestStatus::Blocked) if is_about_these => return Ok(Standing::Test(test)),
                // Later commits are compared with what it has merged.
                Some(TestStatus::Passed) => {
                    if let Some(Ok(merged)) = text(&decision, "theirs").map(CommitHash::new) {
                        self.store.note_followed(branch, &merged)?;
                    }
                    return Ok(Standing::Free);
                }
                // Newer commits may solve the problem.
                None | Some(TestStatus::Failed | TestStatus::Skipped | TestStatus::Blocked) => {}
            }
        }
        Ok(match (is_about_these, decision.status) {
            // It was closed without an answer: its commits were brought in otherwise, or replaced.
            (false, _) | (_, DecisionStatus::Expired) => Standing::Free,
            (true, DecisionStatus::Pending) => Standing::Asked,
            (true, _) => Standing::Left,
        })
    }

    /// Creates the test that was decided on, unless it exists.
    pub(crate) fn settle_sync_answer(&self) -> Result<()> {
        // git runs only if there is an answer.
        if !self.db.read(|tx| tx.has_decided(QUESTION))? {
            return Ok(());
        }
        let branch = &self.config.repository.follow;
        let branch =
            if branch.is_empty() { followed_branch(self.config, &self.user).unwrap_or_default() } else { branch.clone() };
        let Some(decision) = self.last_sync_question(&branch)? else { return Ok(()) };
        match chosen_test(&decision) {
            Some(test) if self.db.read(|tx| tx.find_test(test.as_str()))?.is_none() && self.is_on(&branch, &decision)? => {
                self.create_sync_test(&decision, &test)
            }
            _ => Ok(()),
        }
    }

    /// True if the commits of the question are still on the user's branch; dropped commits are not merged.
    fn is_on(&self, branch: &str, decision: &Decision) -> Result<bool> {
        let theirs = text(decision, "theirs").map(CommitHash::new);
        match (theirs, self.user.resolve(&format!("refs/heads/{branch}"))?) {
            (Some(Ok(theirs)), Some(head)) => Ok(self.user.is_ancestor(&theirs, &head)?),
            _ => Ok(false),
        }
    }

    fn create_sync_test(&self, decision: &Decision, id: &TestId) -> Result<()> {
        let Some(loop_id) = self.loop_for_sync()? else {
            return Err(crate::Error::SetUp(
                "there is no loop to merge the commits; create one with loopctl loop add".to_owned(),
            ));
        };
        let word = |key| text(decision, key).unwrap_or_default();
        let (branch, theirs) = (word("branch"), word("theirs"));
        let short: String = theirs.chars().take(12).collect();
        let files: Vec<&str> =
            decision.context["files"].as_array().into_iter().flatten().filter_map(|file| file.as_str()).collect();
        let what = match files.is_empty() {
            true => format!("Check {} fails on the merge result:\n\n{}", word("check"), word("output")),
            false => format!("These files conflict: {}", files.join(", ")),
        };
        let spec = format!(
            "Merge the commits of the user's branch {branch}, up to {theirs}, into the work of the loops.\n\n\
             Their objects are here: run `git merge {theirs}` in this folder. {what}\n\n\
             Preserve the intent of both sides, and leave no conflict markers. Take all other changes of these commits unchanged: work \
             that leaves some of them out is rejected."
        );
        let checks = &self.config.gate.check;
        let general = checks.iter().any(|check| check.categories.is_empty());
        let category = checks.iter().filter(|_| !general).find_map(|check| check.categories.first().cloned());
        let new = NewTest {
            id: id.clone(),
            loop_id: loop_id.clone(),
            category: category.unwrap_or_default(),
            max_attempts: 3,
            depends_on: None,
            automatable: true,
            notes: Some(format!("merge {branch} up to {short} (git merge {short})")),
            spec_content: Some(spec),
            scope: Vec::new(),
            allow_no_change: true,
        };
        self.db.write(|tx| {
            if tx.find_test(id.as_str())?.is_some() {
                return Ok(());
            }
            match tx.import_tests(std::slice::from_ref(&new))?.into_iter().next() {
                Some((_, why)) => Err(coord_db::Error::Invalid(why)),
                None => Ok(()),
            }
        })?;
        tracing::info!(test = %id, %loop_id, branch, "test created to merge the user's commits, by the human's decision");
        Ok(())
    }

    /// The loop that merges commits: this one, else a running one, else the one with the highest priority.
    fn loop_for_sync(&self) -> Result<Option<LoopId>> {
        if !self.has_no_loop() {
            return Ok(Some(self.loop_id.clone()));
        }
        let rows = self.db.read(|tx| tx.loops())?;
        let rank = |row: &coord_db::Loop| (row.status != LoopStatus::Running, row.priority);
        Ok(rows.into_iter().min_by_key(rank).map(|row| row.id))
    }

    /// Asks about commits that cannot be brought in. An open question about other commits is closed.
    pub(crate) fn ask_about_sync(
        &self,
        branch: &str,
        theirs: &CommitHash,
        ours: &CommitHash,
        incoming: &Incoming,
        trouble: Trouble,
    ) -> Result<SyncOutcome> {
        let integration = self.integration_branch();
        let count = if incoming.commits == 1 { "1 new commit".to_owned() } else { format!("{} new commits", incoming.commits) };
        let what = format!("{count} of {branch} (up to {})", theirs.short());
        let conflict = if incoming.commits == 1 { "conflicts" } else { "conflict" };
        let (summary, files, red) = match trouble {
            Trouble::Conflict(files) => {
                let summary = format!("{what} {conflict} with the integration branch in {}", named(&files, MAX_NAMED));
                (summary, files, None)
            }
            Trouble::Red(red) => {
                (format!("the checks fail on the integration branch merged with {what}: {}", red.why), Vec::new(), Some(red))
            }
        };
        let test = format!("{TEST_PREFIX}{}", theirs.short());
        let option = |id: &str, description: String| DecisionOption { id: id.to_owned(), description };
        let mut options = vec![
            option("by_hand", format!("merge {integration} into {branch} yourself, then run loopctl sync")),
            option("later", format!("do nothing until {branch} has newer commits or loopctl sync runs again")),
        ];
        if !self.db.read(|tx| tx.loops())?.is_empty() {
            options.insert(0, option("test", format!("create test {test}, in which a loop merges them")));
        }
        let files: Vec<String> = files.iter().map(|file| shown(file)).collect();
        let question = NewDecision {
            decision_type: QUESTION.to_owned(),
            summary: summary.clone(),
            options,
            default_option: None,
            context: json!({
                HOST: host().filter(|_| self.store.remote().is_some()),
                "branch": branch, "theirs": theirs.as_str(), "ours": ours.as_str(), "test_id": test, "files": files,
                "base": incoming.base.as_ref().map(CommitHash::as_str),
                "check": red.as_ref().map(|red| red.check.clone()), "output": red.as_ref().map(|red| red.output.clone()),
            }),
            timeout_minutes: None,
            requested_by: ActorId::from(&self.loop_id),
            fingerprint: Some(fingerprint(branch)),
        };
        let (decision, before) = self.db.write(|tx| {
            if let Some(open) = tx.open_decision(&fingerprint(branch))?
                && (text(&open, "theirs") != Some(theirs.as_str()) || open.summary != question.summary)
            {
                if !is_own(&open) {
                    let machine = text(&open, HOST).map(|host| host_name(host).to_owned());
                    return Ok((open.id, machine));
                }
                self.expire(tx, &open, "the branch has newer commits, or integration has changed", None)?;
            }
            Ok::<_, coord_db::Error>((tx.ask(&question, None)?, None))
        })?;
        let summary = match before {
            None => summary,
            Some(machine) => format!("{summary}; the question of {machine} about its branch has to be answered first"),
        };
        tracing::warn!(summary, "asked the human");
        Ok(SyncOutcome::Asked { decision, summary })
    }

    pub(crate) fn close_sync_question(&self, branch: &str) -> Result<()> {
        if self.db.read(|tx| tx.open_decision(&fingerprint(branch)))?.is_some() {
            self.db.write(|tx| self.close_sync_question_in(tx, branch, None))?;
        }
        Ok(())
    }

    /// The open question about the branch.
    pub(crate) fn open_sync_question(&self, branch: &str) -> Result<Option<DecisionId>> {
        Ok(self.db.read(|tx| tx.open_decision(&fingerprint(branch)))?.map(|open| open.id))
    }

    /// Closes the question if its commits are on integration. Another machine's is about another branch, which may be newer than
    /// the one that was brought in.
    pub(crate) fn close_sync_question_in(
        &self,
        tx: &WriteTx<'_>,
        branch: &str,
        cause: Option<&EventId>,
    ) -> coord_db::Result<()> {
        match tx.open_decision(&fingerprint(branch))? {
            Some(open) if is_own(&open) || self.has_brought_in(&open) => {
                self.expire(tx, &open, "the commits are on integration", cause)
            }
            _ => Ok(()),
        }
    }

    /// True if the commits of a question are known to be on integration.
    fn has_brought_in(&self, question: &Decision) -> bool {
        let theirs = text(question, "theirs").map(CommitHash::new);
        matches!(theirs, Some(Ok(theirs)) if self.is_on_integration(&theirs).is_ok_and(|is_on| is_on))
    }

    fn expire(&self, tx: &WriteTx<'_>, open: &Decision, why: &str, cause: Option<&EventId>) -> coord_db::Result<()> {
        let cause = match cause {
            Some(cause) => tx.event(cause.as_str())?,
            None => None,
        };
        match tx.resolve_decision(&open.id, None, false, Some(why), cause.as_ref()) {
            // It was answered meanwhile: the answer is applied.
            Err(error) if error.is_refusal() => Ok(()),
            other => other.map(drop),
        }
    }

    // ---- the test that merges ----

    /// The commits that a test merges: they become the second parent of its landing. None if they are on integration
    /// already, or if it is another test.
    pub(crate) fn merged_by(&self, test: &Test, head: &CommitHash) -> Result<Option<Merged>> {
        if !test.id.as_str().starts_with(TEST_PREFIX) {
            return Ok(None);
        }
        let all = self.db.read(|tx| tx.decisions(false))?;
        let is_its =
            |decision: &&Decision| decision.decision_type == QUESTION && chosen_test(decision).as_ref() == Some(&test.id);
        let Some(decision) = all.iter().find(is_its) else { return Ok(None) };
        let Some(Ok(theirs)) = text(decision, "theirs").map(CommitHash::new) else { return Ok(None) };
        if self.history().resolve(theirs.as_str())?.is_none() || self.history().is_ancestor(&theirs, head)? {
            return Ok(None);
        }
        let branch = text(decision, "branch").unwrap_or_default().to_owned();
        Ok(Some(Merged { branch, theirs }))
    }

    /// Ends the attempt at a merge test if the user has dropped its commits from the branch.
    pub(crate) fn end_if_dropped(&self, test: &Test, head: &CommitHash) -> Step<()> {
        let Some(Merged { branch, theirs }) = self.merged_by(test, head)? else { return Ok(()) };
        let now = self.user.resolve(&format!("refs/heads/{branch}"))?;
        if now.map_or(Ok(false), |now| self.user.is_ancestor(&theirs, &now))? {
            return Ok(());
        }
        Err(Stop::End(End::Moot(format!(
            "the commits up to {} are no longer on {branch}, so there is nothing to merge; loopctl sync brings in its present commits",
            theirs.short()
        ))))
    }

    /// Rejects work that claims to have merged commits but leaves some of their changes out.
    pub(crate) fn refuse_what_is_left_out(&self, merged: &Merged, head: &CommitHash, tree: &CommitHash) -> Step<()> {
        let Merged { branch, theirs } = merged;
        let last = self.store.followed(branch)?;
        let Some(base) = self.store.incoming(head, theirs, last.as_ref())?.base else { return Ok(()) };
        let left = self.store.left_out(&base, theirs, tree)?;
        if left.is_empty() {
            return Ok(());
        }
        let files = named(&left, MAX_NAMED);
        let text =
            format!("the changes of {branch} (up to {}) in {files} are not merged; run git merge {theirs}", theirs.short());
        Err(Stop::failed(ErrorCategory::Code, text))
    }
}

/// The user's commits that a test merges.
pub(crate) struct Merged {
    pub(crate) branch: String,
    pub(crate) theirs: CommitHash,
}
