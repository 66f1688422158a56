//! The context of a loop's work, shared by all its parts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use coord_db::{Config, Database, LeasePath, LoopId, Test, locate};
use git::{Change, CommitHash, Layout, Repository, SnapshotOptions, Store, Workspace, WorkspaceSpec};

use crate::memory::{Following, Publishing};
use crate::news::News;
use crate::work::{Session, Work};
use crate::{Error, Result};

/// One loop on one database and repository.
pub(crate) struct Context<'a> {
    pub(crate) db: &'a Database,
    pub(crate) config: &'a Config,
    pub(crate) loop_id: LoopId,
    /// The user's repository.
    pub(crate) user: Repository,
    pub(crate) layout: Layout,
    pub(crate) store: Store,
    /// The folder of the database.
    pub(crate) home: PathBuf,
    /// False for a loop that is driven by hand: it has no process that could send heartbeats.
    pub(crate) managed: bool,
    /// False beside the process that drives the loop, which obeys its orders.
    pub(crate) takes_orders: bool,
    pub(crate) publishing: RefCell<Publishing>,
    pub(crate) following: RefCell<Following>,
    /// Cache: whether a command runs for each test, according to the files of a commit.
    pub(crate) per_test: RefCell<BTreeMap<(Vec<String>, CommitHash), bool>>,
    /// Between the attempts and the landing train of this process.
    pub(crate) news: Rc<News>,
}

/// The attempt at a claimed test, in its workspace.
pub(crate) struct Attempt {
    pub(crate) test: Test,
    pub(crate) workspace: Workspace,
    /// The head of integration when the attempt began.
    pub(crate) base: CommitHash,
    pub(crate) checkpoint_ref: String,
    /// Its leases with their fencing tokens.
    pub(crate) tokens: BTreeMap<LeasePath, i64>,
    /// The queued requests.
    pub(crate) waiting: Vec<(String, coord_db::AcquireRequest)>,
    pub(crate) begun: std::time::Instant,
    /// The session in which the agent goes on.
    pub(crate) session: Option<Session>,
    /// Why its work was not accepted, for the next run in the same session.
    pub(crate) mend: Option<String>,
    /// Number of runs of the agent.
    pub(crate) runs: u32,
    /// The files that the agent has changed, as known so far.
    pub(crate) seen: Vec<PathBuf>,
    /// The agent left changes compared with the base.
    pub(crate) changed: bool,
    /// The change that lands instead of the content of the workspace: a revert.
    pub(crate) in_place: Option<Change>,
    /// The work to land, once it was read.
    pub(crate) work: Option<Work>,
    /// Its row in `landings`, once it is queued.
    pub(crate) landing: Option<String>,
    /// The last output of the agent, on one line.
    pub(crate) last_words: String,
    /// Token of the newest lease acquired by the agent whose files were updated.
    pub(crate) served_token: i64,
    /// The test or author that has landed the same change, so that nothing is left to change.
    pub(crate) landed_by: Option<String>,
}

impl Attempt {
    pub(crate) fn new(test: Test, workspace: Workspace, base: CommitHash, checkpoint_ref: String) -> Self {
        Self {
            test,
            workspace,
            base,
            checkpoint_ref,
            tokens: BTreeMap::new(),
            waiting: Vec::new(),
            begun: std::time::Instant::now(),
            session: None,
            mend: None,
            runs: 0,
            seen: Vec::new(),
            changed: false,
            in_place: None,
            work: None,
            landing: None,
            last_words: String::new(),
            served_token: 0,
            landed_by: None,
        }
    }
}

impl<'a> Context<'a> {
    pub(crate) fn new(db: &'a Database, config: &'a Config, loop_id: LoopId, managed: bool) -> Result<Self> {
        let path = db.path().ok_or_else(|| Error::SetUp("a loop needs a database file".to_owned()))?;
        let home = path.parent().unwrap_or_else(|| Path::new(".")).to_owned();
        let user = Repository::open(&config.repository_path())?;
        let layout = Layout::new(config.workspace_root());
        let store = crate::store::store(db, config, &user, &layout, Some(&loop_id))?;
        let context = Self {
            db,
            config,
            loop_id,
            user,
            layout,
            store,
            home,
            managed,
            takes_orders: true,
            publishing: RefCell::default(),
            following: RefCell::default(),
            per_test: RefCell::default(),
            news: Rc::default(),
        };
        context.bring_worktree_over()?;
        Ok(context)
    }

    /// The same for another actor that is no loop.
    pub(crate) fn acting_as(&self, actor: LoopId) -> Self {
        Self {
            db: self.db,
            config: self.config,
            loop_id: actor,
            user: self.user.clone(),
            layout: self.layout.clone(),
            store: self.store.clone(),
            home: self.home.clone(),
            managed: false,
            takes_orders: self.takes_orders,
            publishing: RefCell::default(),
            following: RefCell::default(),
            per_test: RefCell::default(),
            news: Rc::clone(&self.news),
        }
    }

    /// The short name of the integration branch.
    pub(crate) fn integration_branch(&self) -> &str {
        &self.config.repository.integration_branch
    }

    /// The repository of the store.
    pub(crate) fn history(&self) -> &Repository {
        self.store.repository()
    }

    /// The head of integration, which starts at the commit checked out by the user.
    pub(crate) fn integration_head(&self) -> Result<CommitHash> {
        match crate::store::recover_integration(self.db, &self.store)? {
            Some(head) => Ok(head),
            None => self.start_integration(),
        }
    }

    /// The branch on which the agent starts in its clone.
    pub(crate) fn branch(&self) -> Result<String> {
        let row = self.db.read(|tx| tx.loop_row(&self.loop_id))?;
        Ok(row.branch.unwrap_or_else(|| format!("coding-loops/{}", self.loop_id)))
    }

    pub(crate) fn workspace_spec(&self) -> Result<WorkspaceSpec> {
        Ok(self.layout.workspace(self.loop_id.as_str(), &self.branch()?))
    }

    /// Options for reading a workspace, with a maximum file size.
    pub(crate) fn look_options(&self, file_bytes: u64) -> SnapshotOptions<'_> {
        SnapshotOptions { own_folder: self.own_folder(), file_bytes, user: Some(&self.user), take_unignored: false }
    }

    /// The folder of the database relative to the repository: nothing at or below it lands.
    pub(crate) fn own_folder(&self) -> &str {
        let is_top = self.home.parent().and_then(|top| top.canonicalize().ok()).is_some_and(|top| top == self.user.root());
        let name = self.home.file_name().and_then(|name| name.to_str());
        name.filter(|_| is_top).unwrap_or(locate::FOLDER)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.logs_of(&self.loop_id)
    }

    fn logs_of(&self, loop_id: &LoopId) -> PathBuf {
        self.home.join("logs").join(loop_id.as_str())
    }

    /// The environment of a check without a test: the variables that the settings pass on.
    pub(crate) fn bare_environment(&self) -> Vec<(String, OsString)> {
        let mut environment = self.config.agent_of(&self.loop_id).passed_on();
        let database = self.db.path().map(Path::as_os_str).unwrap_or_default().to_owned();
        environment.push((locate::VARIABLE.to_owned(), database));
        environment
    }

    /// The environment of an agent or a check: the variables that the settings pass on, and those that describe the
    /// work.
    pub(crate) fn environment(&self, test: &Test) -> Vec<(String, OsString)> {
        let mut environment = self.bare_environment();
        environment.extend([
            ("LOOP_ID".to_owned(), OsString::from(test.loop_id.as_str())),
            ("TEST_ID".to_owned(), OsString::from(test.id.as_str())),
            ("ATTEMPT".to_owned(), OsString::from(test.attempts.to_string())),
            ("TEST_SPEC_FILE".to_owned(), self.spec_file(test).into_os_string()),
            ("KNOWLEDGE_FILE".to_owned(), self.knowledge_file(test).into_os_string()),
        ]);
        environment
    }

    pub(crate) fn spec_file(&self, test: &Test) -> PathBuf {
        self.logs_of(&test.loop_id).join(format!("{}.spec.md", test.id))
    }

    pub(crate) fn knowledge_file(&self, test: &Test) -> PathBuf {
        self.logs_of(&test.loop_id).join(format!("{}.knowledge.md", test.id))
    }
}
