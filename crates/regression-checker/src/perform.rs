//! Runs checks in the check-outs of the regression-checker, `checker/<n>` of the [`Layout`].
//!
//! The result of each run is stored in the journal entry at once, so that an entry that is performed again after a kill
//! continues. The commands come from the settings; the database contains only their names.

mod ask;
mod bisect;
mod head;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use command_runner::keeper::KeeperId;
use coord_db::config::CheckConfig;
use coord_db::{BaselineTest, ComponentId, Config, Database, JournalEntry, LoopId, WriteTx};
use git::check::{CheckSpec, CheckVerdict};
use git::{CommitHash, Layout, Ready, Repository, Store, TrialTree, filled_in, free_port};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use supervisor::{LocalFuture, when_available};

use crate::notes::{ASK_TESTS, BISECT, CHECK_COLD, CHECK_HEAD};
use crate::{BisectRound, HeadCheck, ID, Outcome, searched_check};

/// Reason for a failure, as text.
type Why = String;

/// State that is kept from one effect to the next.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    store: Option<Store>,
    trees: Trees,
}

/// Check-outs by number.
type Trees = BTreeMap<usize, TrialTree>;

/// Prefix of the names of fresh check-outs, which no other run uses.
const COLD: &str = "cold-";

/// Key in the steps under which the results of runs are stored while an entry is open.
const PROGRESS: &str = "progress";

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    verdict: NoteVerdict,
    #[serde(default)]
    exit_code: Option<i32>,
    /// Why it did not pass.
    #[serde(default)]
    message: String,
    #[serde(default)]
    output_tail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoteVerdict {
    Pass,
    Fail,
    Error,
}

/// The progress stored with an open entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Progress {
    /// The boot in which the keepers were started.
    boot_id: String,
    /// The keepers of the running commands.
    keepers: Vec<KeeperId>,
    /// The results of the completed runs, by their purpose.
    runs: BTreeMap<String, Note>,
}

/// The steps without the progress.
pub(crate) fn without_progress(steps: &Value) -> Value {
    let mut steps = steps.clone();
    if let Some(fields) = steps.as_object_mut() {
        fields.remove(PROGRESS);
    }
    steps
}

pub(crate) fn perform(
    config: Arc<Config>,
    database: PathBuf,
    turn: Arc<tokio::sync::Mutex<Bench>>,
    entry: JournalEntry,
) -> LocalFuture<Outcome> {
    Box::pin(async move {
        let mut bench = turn.lock().await;
        carry_out(config, database, &mut bench, &entry).await.unwrap_or_else(Outcome::Failed)
    })
}

async fn carry_out(config: Arc<Config>, database: PathBuf, bench: &mut Bench, entry: &JournalEntry) -> Result<Outcome, Why> {
    let layout = Layout::new(config.workspace_root());
    let store = match bench.store.take().filter(|store| store.path().is_dir()) {
        Some(store) => store,
        None => blocking(move || layout.open_store()).await?.map_err(error_text)?,
    };
    bench.store = Some(store.clone());
    let mut trees = std::mem::take(&mut bench.trees);
    if entry.operation == CHECK_HEAD {
        // Integration has moved; branches and tags may have moved too.
        trees.values_mut().for_each(TrialTree::mark_outdated);
    }
    let runner = Rc::new(Runner::new(config, &database, store, entry).await?);
    runner.trees.replace(trees);
    runner.end_leftovers().await;
    let steps = without_progress(&entry.steps.intent);
    let outcome = match entry.operation.as_str() {
        CHECK_HEAD => {
            let steps = HeadCheck::deserialize(&steps).map_err(error_text)?;
            head::check(&runner, &steps).await.map(Outcome::Checked)
        }
        ASK_TESTS => {
            let steps = HeadCheck::deserialize(&steps).map_err(error_text)?;
            head::ask(&runner, &steps).await.map(Outcome::Checked)
        }
        CHECK_COLD => {
            let steps = HeadCheck::deserialize(&steps).map_err(error_text)?;
            head::check_cold(&runner, &steps).await.map(Outcome::Cold)
        }
        BISECT => {
            let steps = BisectRound::deserialize(&steps).map_err(error_text)?;
            bisect::round(&runner, &steps).await.map(Outcome::Round)
        }
        other => Err(format!("unknown operation {other:?}")),
    };
    runner.write(|tx, id| tx.set_child(id, None));
    bench.trees = runner.trees.take();
    outcome
}

/// Removes the check-outs that only a bisection needs.
pub(crate) fn remove_spare_check_outs(config: &Config, bench: &mut Bench) {
    bench.trees.retain(|slot, _| *slot == 0);
    let folder = Layout::new(config.workspace_root()).checker();
    let names = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    // Each check-out has further files beside it, such as `1.lock`.
    let first = |name: OsString| Some(name.to_str()?.split('.').next()?.to_owned());
    let is_spare = |name: &String| name.starts_with(COLD) || name.parse::<usize>().is_ok_and(|slot| slot > 0);
    let spare: BTreeSet<String> = names.filter_map(first).filter(is_spare).collect();
    for name in spare {
        if let Err(error) = git::remove_check_out(&folder.join(name)) {
            tracing::warn!(error = error_text(error), "cannot remove an unused check-out");
        }
    }
}

/// An error with its causes.
fn error_text(error: impl std::error::Error) -> Why {
    coord_db::error_chain(&error)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Why> {
    tokio::task::spawn_blocking(work).await.map_err(error_text)
}

async fn remove(check_out: PathBuf) -> Result<(), Why> {
    blocking(move || git::remove_check_out(&check_out)).await?.map_err(error_text)
}

/// One run of a check.
struct Run<'a> {
    check: &'a CheckConfig,
    commit: &'a CommitHash,
    /// The test to run it for; none for the whole check.
    test: Option<&'a BaselineTest>,
    /// Number of the check-out.
    slot: usize,
    /// Run on a fresh clone without caches, with a new set-up.
    is_cold: bool,
}

/// Runs checks for one journal entry.
struct Runner {
    config: Arc<Config>,
    db: Database,
    database: PathBuf,
    /// The folder of the check-outs.
    folder: PathBuf,
    store: Store,
    trees: RefCell<Trees>,
    id: ComponentId,
    entry: String,
    steps: Value,
    progress: RefCell<Progress>,
    /// Number of runs in this performance.
    runs: Cell<u32>,
}

impl Runner {
    async fn new(config: Arc<Config>, database: &Path, store: Store, entry: &JournalEntry) -> Result<Self, Why> {
        let db = when_available(|| Database::open(database, &config.open_options())).await.map_err(error_text)?;
        let database = db.path().map_or_else(|| database.to_owned(), Path::to_owned);
        let folder = Layout::new(config.workspace_root()).checker();
        let progress = entry.steps.intent.get(PROGRESS).and_then(|kept| Progress::deserialize(kept).ok()).unwrap_or_default();
        Ok(Self {
            config,
            db,
            database,
            folder,
            store,
            trees: RefCell::default(),
            id: ID.parse().map_err(error_text)?,
            entry: entry.id.clone(),
            steps: without_progress(&entry.steps.intent),
            progress: RefCell::new(progress),
            runs: Cell::new(0),
        })
    }

    fn check(&self, name: &str) -> Result<&CheckConfig, Why> {
        searched_check(&self.config, name).ok_or_else(|| format!("the settings have no check {name:?} with baseline = true"))
    }

    /// Runs a read transaction, once the database is available.
    async fn read<T>(&self, body: impl Fn(&coord_db::ReadTx<'_>) -> coord_db::Result<T>) -> Result<T, Why> {
        when_available(|| self.db.read(&body)).await.map_err(error_text)
    }

    /// Stores progress for a later start. If that fails, the later start has to do more.
    fn write(&self, body: impl FnOnce(&WriteTx<'_>, &ComponentId) -> coord_db::Result<()>) {
        if let Err(error) = self.db.write_quietly(|tx| body(tx, &self.id)) {
            tracing::warn!(%error, "cannot store the progress of a check");
        }
    }

    fn keep_progress(&self, child: Option<KeeperId>) {
        let mut steps = self.steps.clone();
        steps[PROGRESS] = serde_json::to_value(&*self.progress.borrow()).unwrap_or_default();
        self.write(|tx, id| {
            tx.update_steps(&self.entry, &steps)?;
            match child {
                Some(keeper) => tx.set_child(id, Some((i64::from(keeper.pid), i64::try_from(keeper.start_time).ok()))),
                None => Ok(()),
            }
        });
    }

    /// Ends the commands that a killed predecessor has left running. Keepers do so by themselves; this ensures it
    /// before their check-outs are used.
    async fn end_leftovers(&self) {
        let keepers = {
            let mut progress = self.progress.borrow_mut();
            let same_boot = progress.boot_id == coord_db::process::boot_id();
            progress.boot_id = coord_db::process::boot_id().to_owned();
            let keepers = std::mem::take(&mut progress.keepers);
            if same_boot { keepers } else { Vec::new() }
        };
        for keeper in keepers {
            match blocking(move || command_runner::keeper::kill_leftover(keeper.pid, keeper.start_time)).await {
                Ok(Ok(0)) => {}
                Ok(Ok(count)) => tracing::warn!(count, "ended processes left by a previous run"),
                Ok(Err(error)) => tracing::warn!(%error, "cannot end processes left by a previous run"),
                Err(error) => tracing::warn!(error, "cannot end processes left by a previous run"),
            }
        }
    }

    /// The repository of the store.
    fn repository(&self) -> &Repository {
        self.store.repository()
    }

    fn check_out_path(&self, slot: usize) -> PathBuf {
        self.folder.join(slot.to_string())
    }

    /// Maximum number of checks that run in parallel.
    fn parallel(&self) -> usize {
        match self.config.regression.parallel {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            set => set,
        }
    }

    /// The environment of commands in a check-out, for a test or not.
    fn environment(&self, test: Option<&BaselineTest>, folder: &Path) -> Vec<(String, OsString)> {
        let mut env = self.config.agent.passed_on();
        env.push(("CODING_LOOPS_DB".to_owned(), self.database.clone().into_os_string()));
        if let Some(test) = test {
            env.push(("TEST_ID".to_owned(), test.test_id.as_str().into()));
            let owner = test.loop_id.as_ref().filter(|id| id.as_str().parse::<LoopId>().is_ok());
            env.extend(owner.map(|id| ("LOOP_ID".to_owned(), OsString::from(id.as_str()))));
        }
        if !self.config.agent.set.is_empty() {
            let port = free_port();
            let fill = |error_text: &str| filled_in(error_text, port, "regression-checker", folder);
            env.extend(self.config.agent.set.iter().map(|(name, error_text)| (name.clone(), fill(error_text))));
        }
        env
    }

    /// Sets what a check-out needs before a check, according to the present settings.
    fn set_preparation(&self, tree: &mut TrialTree, folder: &Path) {
        let workspace = &self.config.workspace;
        let path = self.config.repository_path();
        if workspace.setup.is_empty() && workspace.copy.is_empty() && !path.join(git::INCLUDE_FILE).is_file() {
            return;
        }
        let user = Repository::open(&path).ok();
        let ready = Ready {
            setup: workspace.setup.clone(),
            inputs: workspace.setup_inputs.clone(),
            timeout: Duration::from_secs(workspace.setup_timeout_seconds),
            copy: workspace.copy.clone(),
            env: self.environment(None, folder),
            log_path: None,
            output_bytes: 0,
            nice: Some(self.config.regression.nice),
        };
        let own = self.database.parent().and_then(Path::file_name).unwrap_or_default();
        tree.make_ready_by(ready, user, own.to_string_lossy().into_owned());
    }

    /// Runs a check once, unless the entry already has the result. `key` identifies the purpose of the run.
    async fn once(self: &Rc<Self>, key: String, run: Run<'_>) -> Result<Note, Why> {
        if let Some(note) = self.progress.borrow().runs.get(&key) {
            return Ok(note.clone());
        }
        let limit = run.check.timeout_seconds.unwrap_or(self.config.gate.timeout_seconds);
        let spec = CheckSpec {
            name: run.check.name.clone(),
            argv: run.check.command.clone(),
            timeout: Duration::from_secs(limit),
            env: self.environment(run.test, &self.check_out_path(run.slot)),
            nice: Some(self.config.regression.nice),
            log_path: None,
            output_bytes: 0,
        };
        let keeper = Cell::new(None);
        let (_never, mut cancelled) = tokio::sync::watch::channel(false);
        // The set-up of a fresh clone is not shared with the other check-outs.
        let path = if run.is_cold { self.folder.join(format!("{COLD}{}", run.slot)) } else { self.check_out_path(run.slot) };
        let known = if run.is_cold { None } else { self.trees.borrow_mut().remove(&run.slot) };
        if run.is_cold {
            remove(path.clone()).await?;
        }
        let mut tree = known.unwrap_or_else(|| TrialTree::new(self.store.clone(), path.clone()));
        self.set_preparation(&mut tree, &path);
        let on_keeper = |id| {
            keeper.set(Some(id));
            self.progress.borrow_mut().keepers.push(id);
            self.keep_progress(Some(id));
        };
        let ran = tree.run_check(&spec, run.commit, &mut cancelled, on_keeper).await;
        if run.is_cold {
            drop(tree);
            remove(path).await?;
        } else {
            self.trees.borrow_mut().insert(run.slot, tree);
        }
        if let Some(ended) = keeper.get() {
            self.progress.borrow_mut().keepers.retain(|id| *id != ended);
        }
        let result = ran.map_err(error_text)?;
        self.runs.set(self.runs.get() + 1);
        let (verdict, message) = match result.verdict {
            CheckVerdict::Pass => (NoteVerdict::Pass, String::new()),
            CheckVerdict::Fail(why) => (NoteVerdict::Fail, why),
            CheckVerdict::Error(why) => (NoteVerdict::Error, why),
            CheckVerdict::Cancelled => return Err(format!("check {} was cancelled", run.check.name)),
        };
        let output_tail = if verdict == NoteVerdict::Pass { String::new() } else { result.output_tail.replace('\0', "") };
        let output_tail = if output_tail.trim().is_empty() { message.clone() } else { output_tail };
        crash_point::reach(crash_point::Point::RegressionRan);
        tracing::debug!(run = key, ?verdict, exit_code = result.exit_code, "check run");
        let note = Note { verdict, exit_code: result.exit_code, message, output_tail };
        self.progress.borrow_mut().runs.insert(key, note.clone());
        self.keep_progress(None);
        crash_point::reach(crash_point::Point::RegressionKept);
        Ok(note)
    }
}
