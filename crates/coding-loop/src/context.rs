//! What every part of a loop's work needs at hand.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use coord_db::{Config, Database, LeasePath, LoopId, Test};
use work_tree::{CommitHash, Repository, WorkTree};

use crate::{Error, Result};

/// One loop on one database and repository.
pub(crate) struct Context<'a> {
    pub(crate) db: &'a Database,
    pub(crate) config: &'a Config,
    pub(crate) loop_id: LoopId,
    pub(crate) repository: Repository,
    /// The folder of the database.
    pub(crate) home: PathBuf,
    /// False for a loop that is driven by hand: it has no process that could beat.
    pub(crate) managed: bool,
}

/// A claimed test and where it is being worked on.
pub(crate) struct Attempt {
    pub(crate) test: Test,
    pub(crate) worktree: WorkTree,
    /// The head of the integration branch when the attempt began.
    pub(crate) base: CommitHash,
    pub(crate) checkpoint_ref: String,
    /// What it holds, under which token.
    pub(crate) tokens: BTreeMap<LeasePath, i64>,
    /// The acquires that still wait.
    pub(crate) waiting: Vec<(String, coord_db::AcquireRequest)>,
    pub(crate) begun: std::time::Instant,
    /// What the agent has cost, as far as its output tells.
    pub(crate) tokens_spent: i64,
    /// The agent left something behind that differs from the base.
    pub(crate) changed: bool,
    /// It may claim success without a change: no agent was asked for one.
    pub(crate) may_be_empty: bool,
    /// What the agent printed last, on one line.
    pub(crate) last_words: String,
}

impl<'a> Context<'a> {
    pub(crate) fn new(db: &'a Database, config: &'a Config, loop_id: LoopId, managed: bool) -> Result<Self> {
        let path = db.path().ok_or_else(|| Error::SetUp("a loop needs a database file".to_owned()))?;
        let home = path.parent().unwrap_or_else(|| Path::new(".")).to_owned();
        let repository = Repository::open(&config.repository_path())?;
        Ok(Self { db, config, loop_id, repository, home, managed })
    }

    /// The branch that verified work goes to.
    pub(crate) fn integration_branch(&self) -> &str {
        &self.config.repository.integration_branch
    }

    pub(crate) fn integration_ref(&self) -> String {
        format!("refs/heads/{}", self.integration_branch())
    }

    /// The head of the integration branch, which is made at the repository's current commit if there is none.
    pub(crate) fn integration_head(&self) -> Result<CommitHash> {
        if let Some(path) = self.repository.branch_checked_out(self.integration_branch())? {
            return Err(Error::SetUp(format!(
                "the integration branch {} is checked out at {}; switch that checkout to another branch",
                self.integration_branch(),
                path.display()
            )));
        }
        Ok(self.repository.ensure_branch(self.integration_branch(), "HEAD")?)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.home.join("logs").join(self.loop_id.as_str())
    }

    pub(crate) fn worktrees(&self) -> PathBuf {
        self.home.join("worktrees")
    }

    /// The environment of an agent or a check: what the settings let through, and what names the work.
    pub(crate) fn environment(&self, test: &Test) -> Vec<(String, OsString)> {
        let allowed = &self.config.agent_of(&self.loop_id).environment;
        let mut environment: Vec<(String, OsString)> =
            allowed.iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?))).collect();
        let database = self.db.path().map(Path::as_os_str).unwrap_or_default().to_owned();
        environment.extend([
            (coord_db::locate::VARIABLE.to_owned(), database),
            ("LOOP_ID".to_owned(), OsString::from(self.loop_id.as_str())),
            ("TEST_ID".to_owned(), OsString::from(test.id.as_str())),
            ("ATTEMPT".to_owned(), OsString::from(test.attempts.to_string())),
            ("TEST_SPEC_FILE".to_owned(), self.spec_file(test).into_os_string()),
            ("KNOWLEDGE_FILE".to_owned(), self.knowledge_file(test).into_os_string()),
        ]);
        environment
    }

    pub(crate) fn spec_file(&self, test: &Test) -> PathBuf {
        self.logs().join(format!("{}.spec.md", test.id))
    }

    pub(crate) fn knowledge_file(&self, test: &Test) -> PathBuf {
        self.logs().join(format!("{}.knowledge.md", test.id))
    }
}
