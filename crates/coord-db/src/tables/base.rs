//! The base: what the checks show at the head of integration before any agent is paid, and what the human has decided where
//! they fail there.

use serde_json::{Value, json};

use crate::payload::{BaseProven, BaseRed, DecisionOption};
use crate::{
    ActorId, BaseState, Decision, DecisionId, EventId, Lease, LoopId, NewDecision, NewEvent, NewTest, ReadTx, Result,
    StringList, Test, TestId, Timestamp, WriteTx,
};

/// The type of the question about checks that fail at the base. It is one for the whole system.
pub const BASE_QUESTION: &str = "base_red";
/// The type of the question whether to wait for checks at the base that take very long.
pub const BASE_SLOW_QUESTION: &str = "base_slow";
/// Rows beyond these are forgotten, the oldest first.
const MAX_ROWS: i64 = 1_000;
/// Attempts that a test has which is created to make the base pass.
const MEND_ATTEMPTS: i64 = 3;

row! {
    /// What a check showed at a tree.
    BaseRun {
        tree_hash: String, check_hash: String, check_name: String, commit_hash: String, state: BaseState, why: String,
        exit_code: Option<i64>, runs: i64, duration_ms: i64, output_sha256: String, output_tail: String,
        proof_id: Option<String>, ran_at: Timestamp, failures: Option<StringList>,
    }
}

row! {
    /// A check that keeps nothing from landing where it fails as it does at the base, until it passes there again.
    IgnoredCheck { check_name: String, since: Timestamp, reason: String }
}

/// A check that fails at the base, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedCheck {
    /// Its name.
    pub name: String,
    /// Why, and the line of its output that says most.
    pub words: String,
    /// The end of its output.
    pub output_tail: String,
    /// The categories of tests that it applies to.
    pub categories: Vec<String>,
}

/// What follows from the answer to a question about the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseAnswer {
    /// The checks are ignored where they fail as they do at the base.
    Ignore {
        /// Their names.
        names: Vec<String>,
    },
    /// The checks run again.
    TryAgain,
    /// A test is created that makes the checks pass.
    Mend {
        /// The loop that works on it.
        to: LoopId,
        /// The tree at which they fail.
        tree: String,
        /// A category of tests that they apply to.
        category: String,
        /// What is to be done.
        specification: String,
    },
    /// Nobody waits for a check.
    Skip {
        /// The tree.
        tree: String,
        /// What the check is.
        hash: String,
        /// Its name.
        name: String,
        /// The commit.
        commit: String,
    },
}

impl Decision {
    /// Whether it is a question about the base.
    #[must_use]
    pub fn is_of_base(&self) -> bool {
        [BASE_QUESTION, BASE_SLOW_QUESTION].contains(&self.decision_type.as_str())
    }
}

impl BaseAnswer {
    /// The action for an answer; none if it needs none or is not valid. `loops` are the registered ones.
    #[must_use]
    pub fn of(decision: &Decision, choice: &str, loops: &[LoopId]) -> Option<Self> {
        let context = &decision.context;
        let text = |key: &str| context.get(key).and_then(Value::as_str).map(str::to_owned);
        let names = || {
            let items = context.get("checks").and_then(Value::as_array);
            items.into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        Some(match (decision.decision_type.as_str(), choice) {
            (BASE_QUESTION, "ignore") => Self::Ignore { names: names() },
            (BASE_QUESTION, "try_again") => Self::TryAgain,
            (BASE_QUESTION, "mend") => {
                // The loop that asked may be gone by now.
                let asked: Option<LoopId> = text("loop_id").and_then(|id| id.parse().ok());
                let to = asked.filter(|id| loops.contains(id)).or_else(|| loops.first().cloned())?;
                let category = text("category").unwrap_or_default();
                Self::Mend { to, tree: text("tree")?, category, specification: mending(context) }
            }
            (BASE_SLOW_QUESTION, "skip") => Self::Skip {
                tree: text("tree")?,
                hash: text("check_hash")?,
                name: names().into_iter().next().unwrap_or_default(),
                commit: text("base")?,
            },
            _ => return None,
        })
    }
}

/// The specification of a test that is to make the base pass.
fn mending(context: &Value) -> String {
    let mut text =
        "These checks fail at the head of integration, before any work. Make them pass; change nothing else, and do not \
                    weaken the checks.\n"
            .to_owned();
    for check in context.get("output").and_then(Value::as_array).into_iter().flatten() {
        let part = |key| check.get(key).and_then(Value::as_str).unwrap_or_default();
        text.push_str(&format!("\n## {}\n{}\n\n{}\n", part("check"), part("why"), part("tail").trim_end()));
    }
    text
}

impl ReadTx<'_> {
    /// What is known of the checks at a tree.
    pub fn base_runs(&self, tree: &str) -> Result<Vec<BaseRun>> {
        self.query(
            select!(BaseRun, "FROM base_runs WHERE tree_hash = ?1 ORDER BY check_name, check_hash"),
            [tree],
            BaseRun::from_row,
        )
    }

    /// The checks that fail at the base and that no answer lets through, newest first.
    pub fn red_base(&self) -> Result<Vec<BaseRun>> {
        self.query(
            select!(
                BaseRun,
                "FROM base_runs WHERE state = 'red' AND check_name NOT IN (SELECT check_name FROM ignored_checks)
                 ORDER BY ran_at DESC, check_name"
            ),
            [],
            BaseRun::from_row,
        )
    }

    /// The leases of loops that run checks at the base for all now.
    pub fn base_runners(&self) -> Result<Vec<Lease>> {
        self.query(
            select!(
                Lease,
                "FROM file_locks WHERE file_path >= 'gate:base:' AND file_path < 'gate:base;'
                   AND (expires_at IS NULL OR expires_at > ?1) ORDER BY file_path"
            ),
            [self.now()],
            Lease::from_row,
        )
    }

    /// How long a check took when it was run last, in milliseconds.
    pub fn last_duration(&self, check_hash: &str) -> Result<Option<i64>> {
        self.query_opt(
            "SELECT duration_ms FROM base_runs WHERE check_hash = ?1 AND state <> 'skipped' ORDER BY ran_at DESC, tree_hash DESC LIMIT 1",
            [check_hash],
            |row| row.get(0),
        )
    }

    /// Whether a check is known to fail by chance, for any test or at any commit.
    pub fn is_known_flaky(&self, check_name: &str, base_hash: &str) -> Result<bool> {
        self.value(
            "SELECT EXISTS (SELECT 1 FROM base_runs WHERE check_hash = ?2 AND state = 'flaky')
                 OR EXISTS (SELECT 1 FROM baseline_runs WHERE check_name = ?1 AND outcome = 'flaky')
                 OR EXISTS (SELECT 1 FROM check_runs WHERE check_name = ?1 AND outcome = 'flaky')
                 OR EXISTS (SELECT 1 FROM regressions WHERE check_name = ?1 AND status = 'flaky')",
            [check_name, base_hash],
        )
    }

    /// Whether the newest `runs` runs of a check at heads all passed without a retry.
    pub fn is_steady(&self, check_hash: &str, runs: u32) -> Result<bool> {
        self.value(
            "SELECT count(*) = ?2 AND count(*) FILTER (WHERE state <> 'green') = 0
             FROM (SELECT state FROM base_runs WHERE check_hash = ?1 AND state <> 'skipped'
                   ORDER BY ran_at DESC, tree_hash DESC LIMIT ?2) AS newest",
            params![check_hash, runs],
        )
    }

    /// The checks that are let through.
    pub fn ignored_checks(&self) -> Result<Vec<IgnoredCheck>> {
        self.query(select!(IgnoredCheck, "FROM ignored_checks ORDER BY check_name"), [], IgnoredCheck::from_row)
    }

    /// Whether a test was created to make the base pass.
    pub fn is_mending(&self, test: &TestId) -> Result<bool> {
        self.value("SELECT EXISTS (SELECT 1 FROM base_mends WHERE test_id = ?1)", [test])
    }

    /// The tests that were created to make the base pass and that can still do so.
    pub fn mending_tests(&self) -> Result<Vec<Test>> {
        self.query(
            select!(
                Test,
                "FROM tests WHERE id IN (SELECT test_id FROM base_mends) AND status IN ('pending', 'in_progress') ORDER BY id"
            ),
            [],
            Test::from_row,
        )
    }

    /// As [`Self::next_ready_test`], of those that were created to make the base pass.
    pub fn next_mending_test(&self, loop_id: &LoopId) -> Result<Option<Test>> {
        self.query_opt(
            select!(
                Test,
                "FROM tests WHERE loop_id = ?1 AND status = 'pending' AND (not_before IS NULL OR not_before <= ?2)
                   AND id IN (SELECT test_id FROM base_mends) ORDER BY id LIMIT 1"
            ),
            params![loop_id, self.now()],
            Test::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// As [`Self::claim_next_test`], of the tests that were created to make the base pass.
    pub fn claim_mending_test(&self, loop_id: &LoopId) -> Result<Option<Test>> {
        self.claim(loop_id, || self.next_mending_test(loop_id))
    }

    /// Records what a check showed at a tree. A pass there is never overwritten.
    pub fn record_base_run(&self, run: &BaseRun) -> Result<()> {
        self.execute(
            "INSERT INTO base_runs (tree_hash, check_hash, check_name, commit_hash, state, why, exit_code, runs, duration_ms,
               output_sha256, output_tail, proof_id, ran_at, failures)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
             ON CONFLICT (tree_hash, check_hash) DO UPDATE SET commit_hash = excluded.commit_hash, state = excluded.state,
               why = excluded.why, exit_code = excluded.exit_code, runs = excluded.runs, duration_ms = excluded.duration_ms,
               output_sha256 = excluded.output_sha256, output_tail = excluded.output_tail, proof_id = excluded.proof_id,
               ran_at = excluded.ran_at, failures = excluded.failures
             WHERE base_runs.state IN ('red', 'skipped') OR excluded.state = 'green'",
            params![
                run.tree_hash,
                run.check_hash,
                run.check_name,
                run.commit_hash,
                run.state,
                run.why,
                run.exit_code,
                run.runs,
                run.duration_ms,
                run.output_sha256,
                run.output_tail,
                run.proof_id,
                run.ran_at,
                run.failures.as_ref().map(|lines| super::json(&lines.0)),
            ],
        )?;
        self.execute(
            "DELETE FROM base_runs WHERE ran_at < (SELECT ran_at FROM base_runs ORDER BY ran_at DESC LIMIT 1 OFFSET ?1)",
            [MAX_ROWS],
        )?;
        Ok(())
    }

    /// Records that a check fails at a tree where it has passed before.
    pub fn take_back_base_run(&self, run: &BaseRun) -> Result<()> {
        self.execute("DELETE FROM base_runs WHERE tree_hash = ?1 AND check_hash = ?2", params![run.tree_hash, run.check_hash])?;
        self.record_base_run(run)
    }

    /// The work whose judgement showed this is about to land: what its checks showed holds for the next head.
    pub fn carry_base_run(&self, from_tree: &str, check_hash: &str, to_tree: &str, to_commit: &str) -> Result<()> {
        self.execute(
            "INSERT INTO base_runs (tree_hash, check_hash, check_name, commit_hash, state, why, exit_code, runs,
               duration_ms, output_sha256, output_tail, proof_id, ran_at)
             SELECT ?3, check_hash, check_name, ?4, state, why, exit_code, runs, duration_ms, output_sha256, output_tail,
               proof_id, ?5
             FROM base_runs WHERE tree_hash = ?1 AND check_hash = ?2 AND state IN ('green', 'flaky')
             ON CONFLICT DO NOTHING",
            params![from_tree, check_hash, to_tree, to_commit, self.now()],
        )?;
        Ok(())
    }

    /// Says that the checks were run at the head of integration and keep nobody from starting.
    pub fn publish_base_proven(&self, proven: BaseProven) -> Result<EventId> {
        self.publish(&NewEvent::new(ActorId::from(&proven.loop_id), proven))
    }

    /// The checks let attempts start at this tree: what they showed elsewhere keeps nobody any more, and one that was let
    /// through and passes here counts again. Gives the names of those.
    pub fn settle_base(&self, tree: &str, check_hashes: &[String]) -> Result<Vec<String>> {
        let current = super::json(&check_hashes);
        self.execute(
            "DELETE FROM base_runs WHERE state = 'red' AND NOT (tree_hash = ?1 AND check_hash IN (SELECT value FROM json_each(?2)))",
            params![tree, current],
        )?;
        let passing = self.query(
            "SELECT DISTINCT check_name FROM base_runs WHERE tree_hash = ?1 AND state = 'green'
               AND check_hash IN (SELECT value FROM json_each(?2))
               AND check_name IN (SELECT check_name FROM ignored_checks) ORDER BY check_name",
            params![tree, current],
            |row| row.get::<String>(0),
        )?;
        for name in &passing {
            self.execute("DELETE FROM ignored_checks WHERE check_name = ?1", [name])?;
        }
        Ok(passing)
    }

    /// Publishes which checks fail at the head of integration, and asks the human once for the whole system.
    pub fn ask_about_base(&self, loop_id: &LoopId, commit: &str, tree: &str, red: &[RedCheck]) -> Result<DecisionId> {
        if let Some(open) = self.open_decision(BASE_QUESTION)? {
            return Ok(open.id);
        }
        let mut cause = None;
        for check in red {
            let said = BaseRed {
                loop_id: loop_id.clone(),
                commit: commit.to_owned(),
                check: check.name.clone(),
                output_tail: check.output_tail.clone(),
            };
            cause = Some(self.publish(&NewEvent::new(ActorId::from(loop_id), said).caused_by_id(cause))?);
        }
        let cause = match &cause {
            Some(event) => self.event(event.as_str())?,
            None => None,
        };
        let words: Vec<String> = red.iter().map(|check| check.words.clone()).collect();
        let names: Vec<&str> = red.iter().map(|check| check.name.as_str()).collect();
        let option = |id: &str, description: String| DecisionOption { id: id.to_owned(), description };
        let question = NewDecision {
            decision_type: BASE_QUESTION.to_owned(),
            summary: format!(
                "no attempt starts, because the head of integration ({}) fails before any agent has changed it: {}",
                commit.get(..12).unwrap_or(commit),
                words.join("; ")
            ),
            options: vec![
                option("mend", format!("a test for loop {loop_id} is created to make it pass; only that test starts")),
                option(
                    "ignore",
                    "attempts start; a failure of these checks is accepted if it shows only what also fails at the base \
                     too, and what fails beyond that is the work's own; ends by itself once they pass at the base"
                        .to_owned(),
                ),
                option("try_again", "the cause is fixed: run the checks again".to_owned()),
            ],
            default_option: None,
            context: json!({
                "base": commit, "tree": tree, "loop_id": loop_id, "checks": names,
                // A test of this category is judged by what fails.
                "category": red.iter().flat_map(|check| &check.categories).next(),
                "output": red.iter().map(|check| json!({"check": check.name, "why": check.words, "tail": check.output_tail})).collect::<Vec<_>>(),
            }),
            timeout_minutes: None,
            requested_by: ActorId::from(loop_id),
            fingerprint: Some(BASE_QUESTION.to_owned()),
        };
        self.ask(&question, cause.as_ref())
    }

    /// Asks whether to wait for slow checks at the base.
    pub fn ask_about_slow_base(
        &self,
        loop_id: &LoopId,
        commit: &str,
        tree: &str,
        check: (&str, &str),
        minutes: i64,
    ) -> Result<DecisionId> {
        let (name, hash) = check;
        let option = |id: &str, description: &str| DecisionOption { id: id.to_owned(), description: description.to_owned() };
        let question = NewDecision {
            decision_type: BASE_SLOW_QUESTION.to_owned(),
            summary: format!(
                "loop {loop_id} runs check {name} at the head of integration ({}) before any attempt starts, and it takes {minutes} \
                 minutes or more; later heads are checked by each landing",
                commit.get(..12).unwrap_or(commit)
            ),
            options: vec![
                option("wait", "start attempts when it has passed"),
                option("skip", "start attempts now, without knowing whether it passes"),
            ],
            default_option: None,
            context: json!({
                "base": commit, "tree": tree, "loop_id": loop_id, "checks": [name], "check_hash": hash,
            }),
            timeout_minutes: None,
            requested_by: ActorId::from(loop_id),
            fingerprint: Some(format!("{BASE_SLOW_QUESTION}:{tree}:{hash}")),
        };
        self.ask(&question, None)
    }

    /// Applies an answer.
    pub fn apply_base_answer(&self, answer: &BaseAnswer, reason: &str) -> Result<()> {
        match answer {
            BaseAnswer::Ignore { names } => self.ignore_checks(names, reason),
            BaseAnswer::TryAgain => self.try_base_again(),
            BaseAnswer::Mend { to, tree, category, specification } => {
                self.add_mending_test(to, tree, category, specification).map(drop)
            }
            BaseAnswer::Skip { tree, hash, name, commit } => self.skip_base_check(tree, hash, name, commit),
        }
    }

    /// Records that the human does not wait for a check at the base.
    fn skip_base_check(&self, tree: &str, check_hash: &str, check_name: &str, commit: &str) -> Result<()> {
        self.execute(
            "INSERT INTO base_runs (tree_hash, check_hash, check_name, commit_hash, state, why, runs, ran_at)
             VALUES (?1, ?2, ?3, ?4, 'skipped', 'the human did not wait for it', 0, ?5) ON CONFLICT DO NOTHING",
            params![tree, check_hash, check_name, commit, self.now()],
        )?;
        Ok(())
    }

    /// Accepts failures of checks that also fail at the base in the same way, until they pass there again.
    fn ignore_checks(&self, names: &[String], reason: &str) -> Result<()> {
        for name in names {
            self.execute(
                "INSERT INTO ignored_checks (check_name, since, reason) VALUES (?1, ?2, ?3) ON CONFLICT (check_name) DO NOTHING",
                params![name, self.now(), reason],
            )?;
        }
        Ok(())
    }

    /// Makes the next attempt run the checks again that failed at the base.
    fn try_base_again(&self) -> Result<()> {
        self.execute("DELETE FROM base_runs WHERE state = 'red'", [])?;
        Ok(())
    }

    /// Creates a test whose work makes the base pass, or takes up the one that was created for the same tree.
    fn add_mending_test(&self, loop_id: &LoopId, tree: &str, category: &str, specification: &str) -> Result<TestId> {
        let id: TestId = format!("mend-base-{}", tree.get(..8).unwrap_or(tree)).parse()?;
        if self.find_test(id.as_str())?.is_some() {
            self.reset_test(&id)?;
        } else {
            let test = NewTest {
                id: id.clone(),
                loop_id: loop_id.clone(),
                category: category.to_owned(),
                max_attempts: MEND_ATTEMPTS,
                depends_on: None,
                automatable: true,
                notes: Some("make the checks pass that fail at the head of integration".to_owned()),
                spec_content: Some(specification.to_owned()),
                scope: Vec::new(),
                allow_no_change: false,
            };
            let refused = self.import_tests(&[test])?;
            if let Some((_, why)) = refused.into_iter().next() {
                return Err(crate::Error::Refused(why));
            }
        }
        self.execute("INSERT INTO base_mends (test_id) VALUES (?1) ON CONFLICT DO NOTHING", [&id])?;
        Ok(id)
    }
}
