//! Observes what is outside the database: the files that loops have changed in their workspaces, the agents' output,
//! the disk.
//!
//! It must only read, and must never make a loop wait. Reading a workspace runs git once or twice, so the result is
//! cached until something changes there or `monitor.interval_seconds` have passed. A cached result can delay a finding
//! but not cause one: a conflict is reported only if both workspaces were read after the last move of integration.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coord_db::process::host;
use coord_db::{ChangedFile, Config, Database, LoopId, LoopStatus, MAX_CHANGED_FILES, ReadTx, Result, RunOf, Test, Timestamp};
use git::{CommitHash, Contents, Layout, Store, Workspace, WorkspaceSpec};
use globset::{Glob, GlobSet, GlobSetBuilder};
use supervisor::Waker;

use crate::output::{Output, tail};
use crate::watch::Watches;

/// Minimum time between two reads of one workspace.
const MIN_PAUSE: Duration = Duration::from_millis(500);
/// Delay between a change and reading it, so that the loop can first lease the file or queue for it.
const SETTLE: Duration = Duration::from_millis(500);
/// Maximum time between two reads of a workspace with activity but without new changes.
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// Number of intervals for which a result stays valid if the workspace is fully watched and shows no activity.
const QUIET_INTERVALS: u32 = 10;
/// Reading workspaces may take at most one part in this number of the time.
const SHARE: u32 = 20;
/// Maximum time that a daemon spends on workspaces in one pass; the next pass reads the rest.
const MAX_READING: Duration = Duration::from_millis(400);
/// Minimum time between two reads of an agent's output.
const OUTPUT_PAUSE: Duration = Duration::from_secs(1);
const MAX_LOGS: usize = 5_000;
/// In milliseconds.
const AHEAD_TOLERANCE: i64 = 1_000;

/// The result of an observation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// The workspace of each loop that has a current test or had changes at the last observation.
    pub workspaces: BTreeMap<LoopId, WorkspaceState>,
    /// The loops of other machines, of whose workspaces and output nothing is visible here.
    pub elsewhere: BTreeSet<LoopId>,
    /// The output of each loop's agent, if there is any.
    pub outputs: BTreeMap<LoopId, Output>,
    /// Size of the database files.
    pub database_bytes: i64,
    /// The file system of the database, or of the file with its address.
    pub disk: Option<Disk>,
    /// This host, if several may share the database.
    pub host: Option<String>,
    /// When a change that was noticed is due to be read.
    pub look_again_at: Option<Timestamp>,
}

/// The state of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkspaceState {
    /// The loop has no workspace in the store's folder.
    Absent,
    /// The loop is changing it, or git failed: the stored rows stay valid.
    Unclear,
    /// The changes read.
    Seen(WorkspaceChanges),
}

impl WorkspaceState {
    fn has_same_changes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Seen(one), Self::Seen(other)) => one.base == other.base && one.files == other.files,
            _ => self == other,
        }
    }
}

/// The files that a loop has changed and not landed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspaceChanges {
    /// The commit against which files are compared.
    pub base: String,
    /// The changed files, without those of `monitor.conflict_ignore`.
    pub files: Vec<ChangedFile>,
    /// Integration has not moved since the workspace was read.
    pub fresh: bool,
    /// Time of the last activity that was noticed.
    pub active_at: Option<Timestamp>,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that this user can still write.
    pub free_bytes: i64,
    /// Its size for this user.
    pub total_bytes: i64,
}

/// A loop whose workspace and output are observed.
#[derive(Debug)]
struct Wanted {
    id: LoopId,
    branch: String,
    current: Option<Test>,
    /// The log of the agent's run on the current test.
    log: Option<String>,
}

/// The loops that run, or ran last, on another host. A loop that has stopped has left its workspace there.
fn elsewhere(tx: &ReadTx<'_>) -> Result<BTreeSet<LoopId>> {
    let components = tx.components()?.into_iter().filter(|row| row.host.is_some() && row.host.as_deref() != host());
    Ok(components.filter_map(|row| row.component.parse().ok()).collect())
}

fn wanted(tx: &ReadTx<'_>, elsewhere: &BTreeSet<LoopId>) -> Result<Vec<Wanted>> {
    let mut current: BTreeMap<LoopId, Test> = BTreeMap::new();
    let loops = tx.loops()?.into_iter().filter(|row| !elsewhere.contains(&row.id));
    let loops: BTreeMap<LoopId, _> = loops.map(|row| (row.id.clone(), row)).collect();
    for test in tx.current_tests()? {
        let Some(row) = loops.get(&test.loop_id) else { continue };
        let at_work = matches!(row.status, LoopStatus::Running | LoopStatus::Paused);
        if at_work && (row.current_test_id.as_ref() == Some(&test.id) || !current.contains_key(&row.id)) {
            current.insert(row.id.clone(), test);
        }
    }
    let mut ids: BTreeSet<LoopId> = current.keys().cloned().collect();
    ids.extend(tx.loops_with_worktree_changes()?.into_iter().filter(|id| loops.contains_key(id)));
    let branch = |id: &LoopId| loops.get(id).and_then(|row| row.branch.clone()).unwrap_or_else(|| format!("coding-loops/{id}"));
    ids.into_iter()
        .map(|id| {
            let current = current.remove(&id);
            let runs = current.as_ref().map(|test| tx.runs_of_test(&test.id)).transpose()?.unwrap_or_default();
            let run = runs.into_iter().rfind(|run| run.kind == RunOf::Agent && run.loop_id == id);
            Ok(Wanted { current, log: run.map(|run| run.log), branch: branch(&id), id })
        })
        .collect()
}

/// Files that two loops may change without a conflict: each glob matches in every folder.
#[must_use]
pub fn ignored(patterns: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        for glob in [pattern.clone(), format!("**/{pattern}")] {
            if let Ok(glob) = Glob::new(&glob) {
                set.add(glob);
            }
        }
    }
    set.build().unwrap_or_else(|_| GlobSet::empty())
}

/// The cached state of one workspace.
#[derive(Debug)]
struct Look {
    workspace: Option<Workspace>,
    state: WorkspaceState,
    /// The head of integration at that time.
    integration: Option<CommitHash>,
    at: Instant,
    /// Minimum time until the next read.
    pause: Duration,
    /// When the first change that has not been read was noticed.
    touched: Option<Instant>,
    /// inotify covers the whole workspace.
    watched: bool,
    /// No activity since the last read.
    quiet: bool,
    active_at: Option<Timestamp>,
    contents: Contents,
}

impl Look {
    /// Time until a noticed change is read.
    fn until_due(&self, touched: Instant, interval: Duration) -> Duration {
        let pause = self.pause.min(interval).saturating_sub(self.at.elapsed());
        pause.max(SETTLE.saturating_sub(touched.elapsed()))
    }
}

impl Look {
    fn new() -> Self {
        Self {
            workspace: None,
            state: WorkspaceState::Absent,
            integration: None,
            at: Instant::now(),
            pause: MIN_PAUSE,
            touched: None,
            watched: false,
            quiet: false,
            active_at: None,
            contents: Contents::default(),
        }
    }

    fn is_of(&self, root: &Path) -> bool {
        self.workspace.as_ref().is_some_and(|workspace| workspace.root() == root)
    }
}

#[derive(Debug)]
struct OutputLook {
    at: Instant,
    /// Path, length and modification time of the log whose errors were counted.
    counted: Option<(PathBuf, u64, i128)>,
    output: Option<Output>,
}

/// Observes the workspaces and logs, and caches what it has read.
#[derive(Debug, Default)]
pub struct Observer {
    waker: Option<Waker>,
    watches: Option<Watches>,
    /// Setting up inotify was tried.
    tried: bool,
    looks: BTreeMap<LoopId, Look>,
    /// When the head of integration was read last.
    head_read_at: Option<Instant>,
    outputs: BTreeMap<LoopId, OutputLook>,
    /// By how many milliseconds the database's time is ahead of that of files.
    ahead: i64,
}

impl Observer {
    /// Makes changes wake the supervisor from now on.
    pub fn attach(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    /// Clears the cache after a change of settings.
    pub fn forget(&mut self) {
        self.looks.clear();
        self.outputs.clear();
    }

    /// Reads what is due and takes the rest from the cache. A workspace that cannot be read is no error.
    pub fn observe(&mut self, config: &Config, db: &Database) -> Result<Observation> {
        // Processes that share a file share its folder, whatever names their hosts have.
        let elsewhere = if db.server().is_some() { db.read(elsewhere)? } else { BTreeSet::new() };
        let Some(folder) = db.path().and_then(Path::parent).map(Path::to_owned) else {
            return Ok(Observation { elsewhere, ..Observation::default() });
        };
        let wanted = db.read(|tx| wanted(tx, &elsewhere))?;
        let now = db.now();
        // Its measure differs by milliseconds each time, which is no change of a file.
        let ahead = db.ahead_of_host();
        if (ahead - self.ahead).abs() > AHEAD_TOLERANCE {
            self.ahead = ahead;
        }
        let mut observation = Observation {
            database_bytes: db.path().map_or(0, size_of_database),
            disk: disk(&folder),
            host: db.server().and(host()).map(str::to_owned),
            elsewhere,
            ..Observation::default()
        };
        self.looks.retain(|id, _| wanted.iter().any(|wanted| wanted.id == *id));
        self.outputs.retain(|id, _| wanted.iter().any(|wanted| wanted.id == *id && wanted.current.is_some()));
        self.note_activity(now);
        observation.look_again_at = self.look_at_workspaces(config, &wanted, now);
        self.watch(&wanted);
        for Wanted { id, current, log, .. } in &wanted {
            if let Some(look) = self.looks.get(id) {
                observation.workspaces.insert(id.clone(), look.state.clone());
            }
            if current.is_some() {
                let output = self.look_at_output(&folder.join("logs").join(id.as_str()), id, log.as_deref(), now);
                observation.outputs.extend(output.map(|output| (id.clone(), output)));
            }
        }
        Ok(observation)
    }

    fn note_activity(&mut self, now: Timestamp) {
        let Some(watches) = &self.watches else { return };
        for (root, activity) in watches.take_activity() {
            for look in self.looks.values_mut().filter(|look| look.is_of(&root)) {
                if activity.touched {
                    look.touched.get_or_insert_with(Instant::now);
                }
                look.watched = activity.watched;
                if activity.active {
                    look.quiet = false;
                    look.active_at = Some(now);
                    if let WorkspaceState::Seen(workspace) = &mut look.state {
                        workspace.active_at = Some(now);
                    }
                }
            }
        }
    }

    fn watch(&mut self, wanted: &[Wanted]) {
        let Some(waker) = &self.waker else { return };
        let busy = wanted.iter().filter(|wanted| wanted.current.is_some()).filter_map(|wanted| self.looks.get(&wanted.id));
        let busy: Vec<&Workspace> = busy.filter_map(|look| look.workspace.as_ref()).collect();
        if self.watches.is_none() && !self.tried && !busy.is_empty() {
            self.tried = true;
            self.watches = Watches::new(waker);
        }
        if let Some(watches) = &self.watches {
            watches.watch_only(&busy);
        }
    }

    /// Reads the workspaces that are due. Returns when the next one is due.
    fn look_at_workspaces(&mut self, config: &Config, wanted: &[Wanted], now: Timestamp) -> Option<Timestamp> {
        let interval = Duration::from_secs(config.monitor.interval_seconds);
        let due = |look: Option<&Look>| {
            look.is_none_or(|look| {
                let stale = matches!(&look.state, WorkspaceState::Seen(workspace) if !workspace.fresh);
                let pause = if let Some(touched) = look.touched {
                    return look.until_due(touched, interval).is_zero();
                } else if stale {
                    look.pause.min(interval)
                } else if look.watched && look.quiet {
                    interval * QUIET_INTERVALS
                } else {
                    interval
                };
                look.at.elapsed() >= pause
            })
        };
        let head_is_known = self.head_read_at.is_some_and(|at| at.elapsed() < interval);
        if !wanted.is_empty() && !head_is_known || wanted.iter().any(|wanted| due(self.looks.get(&wanted.id))) {
            self.head_read_at = Some(Instant::now());
            let layout = Layout::new(config.workspace_root());
            let ignored = ignored(&config.monitor.conflict_ignore);
            // Without a store there are no workspaces.
            let store = layout.open_store().ok();
            let integration = integration(store.as_ref());
            let (begun, mut looked) = (Instant::now(), false);
            for Wanted { id, branch, .. } in wanted {
                let last = self.looks.get(id);
                if !due(last) && last.is_some_and(|look| look.integration == integration) {
                    continue;
                }
                if self.waker.is_some() && begun.elapsed() > MAX_READING {
                    break;
                }
                let last = self.looks.remove(id);
                let spec = layout.workspace(id.as_str(), branch);
                let mut look = last.unwrap_or_else(Look::new);
                look.integration.clone_from(&integration);
                self.refresh(&mut look, store.as_ref(), &spec, &ignored);
                look.pause = look.pause.min(interval);
                looked = true;
                self.looks.insert(id.clone(), look);
            }
            let integration = if looked { self::integration(store.as_ref()) } else { integration };
            for look in self.looks.values_mut() {
                if let WorkspaceState::Seen(workspace) = &mut look.state {
                    workspace.fresh = look.integration == integration;
                }
            }
        }
        let left = |wanted: &Wanted| match self.looks.get(&wanted.id) {
            None => Some(Duration::ZERO),
            Some(look) if due(Some(look)) => Some(Duration::ZERO),
            Some(look) => look.touched.map(|touched| look.until_due(touched, interval)),
        };
        let next = wanted.iter().filter_map(left).min()?;
        Some(now.plus_millis(i64::try_from(next.as_millis()).unwrap_or(i64::MAX).saturating_add(1)))
    }
    fn refresh(&self, look: &mut Look, store: Option<&Store>, spec: &WorkspaceSpec, ignored: &GlobSet) {
        let begun = Instant::now();
        (look.touched, look.quiet) = (None, true);
        let state = store.map_or(Ok(WorkspaceState::Absent), |store| self.read(look, store, spec, ignored));
        let state = state.unwrap_or_else(|error| {
            tracing::debug!(%error, path = %spec.path.display(), "cannot read a workspace");
            look.workspace = None;
            // A deleted folder has no changes; if it returns, its changes are found again.
            if matches!(error, git::Error::WorkspaceDamaged { .. }) { WorkspaceState::Absent } else { WorkspaceState::Unclear }
        });
        let unchanged = state.has_same_changes(&look.state);
        let least = MIN_PAUSE.max(begun.elapsed() * SHARE);
        look.pause = if unchanged { (look.pause * 2).clamp(least, MAX_PAUSE.max(least)) } else { least };
        look.state = state;
        look.at = Instant::now();
    }

    fn read(&self, look: &mut Look, store: &Store, spec: &WorkspaceSpec, ignored: &GlobSet) -> git::Result<WorkspaceState> {
        let opened = match look.workspace.take() {
            Some(workspace) => Some(workspace),
            None => Workspace::open(store, spec)?,
        };
        let Some(workspace) = opened else { return Ok(WorkspaceState::Absent) };
        let workspace = look.workspace.insert(workspace);
        if let Some(watches) = &self.watches {
            watches.settle(workspace);
        }
        let Some(glance) = workspace.glance()? else {
            look.touched.get_or_insert_with(Instant::now);
            return Ok(WorkspaceState::Unclear);
        };
        look.integration = glance.integration;
        let paths = glance.changed.into_iter().filter(|path| !ignored.is_match(path)).take(MAX_CHANGED_FILES);
        let files = look.contents.read(workspace.root(), paths).into_iter();
        let files = files.map(|content| ChangedFile {
            path: content.path.to_string_lossy().into_owned(),
            fingerprint: content.fingerprint,
            changed_at: content.changed_at.map(|millis| Timestamp::from_millis(millis).plus_millis(self.ahead)),
        });
        let files = files.collect();
        Ok(WorkspaceState::Seen(WorkspaceChanges {
            base: glance.start.to_string(),
            files,
            fresh: true,
            active_at: look.active_at,
        }))
    }

    fn look_at_output(&mut self, folder: &Path, id: &LoopId, agent: Option<&str>, now: Timestamp) -> Option<Output> {
        if let Some(look) = self.outputs.get(id)
            && self.waker.is_some()
            && look.at.elapsed() < OUTPUT_PAUSE
        {
            return look.output.clone();
        }
        let last = self.outputs.remove(id);
        let seen = output(folder, agent, (self.ahead, now), last.as_ref());
        let (counted, output) = seen.map_or((None, None), |(counted, output)| (Some(counted), Some(output)));
        self.outputs.insert(id.clone(), OutputLook { at: Instant::now(), counted, output: output.clone() });
        output
    }
}

/// The head of integration; none before the first landing.
fn integration(store: Option<&Store>) -> Option<CommitHash> {
    store.and_then(|store| store.integration().ok().flatten())
}

fn nanos(meta: &std::fs::Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}

type Counted = (PathBuf, u64, i128);

fn output(
    folder: &Path,
    agent: Option<&str>,
    (ahead, now): (i64, Timestamp),
    last: Option<&OutputLook>,
) -> Option<(Counted, Output)> {
    let mut newest: Option<Counted> = None;
    let mut own: Option<Counted> = None;
    for entry in std::fs::read_dir(folder).ok()?.take(MAX_LOGS).flatten() {
        let path = entry.path();
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_file() || path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let log = (path, meta.len(), nanos(&meta));
        if agent.is_some_and(|agent| entry.file_name() == agent) {
            own = Some(log.clone());
        }
        if newest.as_ref().is_none_or(|newest| log.2 > newest.2) {
            newest = Some(log);
        }
    }
    let newest = newest?;
    let time = |nanos: i128| {
        let millis = i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX);
        Timestamp::from_millis(millis).plus_millis(ahead).min(now)
    };
    let written_at = time(newest.2);
    let current = own.unwrap_or(newest);
    let output = match last {
        Some(OutputLook { counted: Some(counted), output: Some(output), .. }) if *counted == current => {
            Output { written_at, ..output.clone() }
        }
        _ => {
            let (tail, bytes) = tail(&current.0)?;
            Output {
                written_at,
                log: current.0.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
                changed_at: time(current.2),
                tail: tail.into(),
            }
        }
    };
    Some((current, output))
}

fn size_of_database(path: &Path) -> i64 {
    let size = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(PathBuf::from(name)).map_or(0, |meta| i64::try_from(meta.len()).unwrap_or(i64::MAX))
    };
    size("").saturating_add(size("-wal"))
}

fn disk(folder: &Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    // Blocks reserved for root count as used.
    let total = bytes(stat.f_blocks).saturating_sub(bytes(stat.f_bfree).saturating_sub(bytes(stat.f_bavail)));
    Some(Disk { free_bytes: bytes(stat.f_bavail), total_bytes: total })
}
