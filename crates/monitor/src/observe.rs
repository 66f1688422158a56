//! What is seen outside of the database: the files that worktrees differ in, agents' output, the disk.
//!
//! It only ever reads. Looking at a worktree costs a few runs of git, so what was seen is kept until something has changed
//! there or `monitor.interval_seconds` are over; a kept sight delays a finding and never makes one: before two loops are
//! said to be in conflict, both have been looked at since the integration branch moved last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coord_db::{Config, Database, LoopId, LoopStatus, ReadTx, Result, Test, Timestamp};
use globset::{Glob, GlobSet, GlobSetBuilder};
use sha2::{Digest, Sha256};
use supervisor::Waker;
use work_tree::{CommitHash, Repository, WorkTree};

use crate::output::tail;
use crate::watch::Watches;

/// So many files of one worktree are kept.
pub const MOST_FILES: usize = 2_000;
/// The least time between two looks at one worktree.
const LEAST_PAUSE: Duration = Duration::from_millis(500);
/// The most time between two looks at a worktree in which something happens that changes nothing: a build.
const MOST_PAUSE: Duration = Duration::from_secs(8);
/// A look may take this share of the time.
const SHARE: u32 = 20;
/// A daemon goes on to other work after looking for so long; the rest comes next.
const LOOKING_AT_ONCE: Duration = Duration::from_millis(400);
/// The least time between two looks at an agent's output.
const OUTPUT_PAUSE: Duration = Duration::from_secs(1);
/// Content of larger files is told apart by size and time alone.
const MOST_HASHED_BYTES: u64 = 1 << 20;
const MOST_LOGS: usize = 5_000;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// The worktree of each loop that has a test in hand, or had changes when it was seen last.
    pub worktrees: BTreeMap<LoopId, Sight>,
    /// What each loop's agent writes, where it writes.
    pub outputs: BTreeMap<LoopId, Output>,
    /// The size of the database's files.
    pub database_bytes: i64,
    /// The disk that the database is on.
    pub disk: Option<Disk>,
    /// Something has changed that will be looked at then.
    pub look_again_at: Option<Timestamp>,
}

/// A look at a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// There is none: nobody manages it.
    Absent,
    /// In the middle of a rebase, or git failed: what was known before stands.
    Unclear,
    /// As it is.
    Seen(Worktree),
}

impl Sight {
    fn shows_the_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Seen(one), Self::Seen(other)) => one.base == other.base && one.files == other.files,
            _ => self == other,
        }
    }
}

/// What a worktree differs in from its merge base with the integration branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Worktree {
    /// The merge base.
    pub base: String,
    /// The files, without those that may be changed by two.
    pub files: Vec<SeenFile>,
    /// The integration branch has not moved since the look.
    pub fresh: bool,
    /// When something happened in it last, builds included, as far as was noticed.
    pub active_at: Option<Timestamp>,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// Relative to the repository.
    pub path: String,
    /// Stands for its content.
    pub fingerprint: String,
    /// When it was changed last, by the file system; none for one that is gone.
    pub changed_at: Option<Timestamp>,
}

/// What an agent writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// When it, or a check on its work, wrote last.
    pub written_at: Timestamp,
    /// The file of the attempt in hand, or the newest one.
    pub log: String,
    /// Its length in bytes.
    pub bytes: i64,
    /// When that file was written last.
    pub changed_at: Timestamp,
    /// Its end.
    pub tail: Arc<[u8]>,
}

/// A disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// What we can still write.
    pub free_bytes: i64,
    /// All of it.
    pub total_bytes: i64,
}

/// A loop to be looked at.
#[derive(Debug)]
struct Wanted {
    id: LoopId,
    in_hand: Option<Test>,
}

fn wanted(tx: &ReadTx<'_>) -> Result<Vec<Wanted>> {
    let mut in_hand: BTreeMap<LoopId, Test> = BTreeMap::new();
    let loops: BTreeMap<LoopId, _> = tx.loops()?.into_iter().map(|row| (row.id.clone(), row)).collect();
    for test in tx.tests_in_progress()? {
        let Some(row) = loops.get(&test.loop_id) else { continue };
        let at_work = matches!(row.status, LoopStatus::Running | LoopStatus::Paused);
        if at_work && (row.current_test_id.as_ref() == Some(&test.id) || !in_hand.contains_key(&row.id)) {
            in_hand.insert(row.id.clone(), test);
        }
    }
    let mut ids: BTreeSet<LoopId> = in_hand.keys().cloned().collect();
    ids.extend(tx.loops_with_worktree_changes()?.into_iter().filter(|id| loops.contains_key(id)));
    Ok(ids.into_iter().map(|id| Wanted { in_hand: in_hand.remove(&id), id }).collect())
}

/// Files that may be changed by two: each glob also holds in every folder.
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

/// What is remembered of the last look at one worktree.
#[derive(Debug)]
struct Look {
    tree: Option<WorkTree>,
    sight: Sight,
    /// The head of the integration branch then.
    tip: Option<CommitHash>,
    at: Instant,
    /// How long what happens there waits to be looked at.
    pause: Duration,
    touched: bool,
    active_at: Option<Timestamp>,
    /// Head and tip, and their merge base: it is asked for again only when one of them has moved.
    base: Option<(CommitHash, CommitHash, CommitHash)>,
    contents: HashMap<String, (u64, i128, String)>,
}

#[derive(Debug)]
struct OutputLook {
    at: Instant,
    /// Log, length and time whose errors were counted.
    counted: Option<(PathBuf, u64, i128)>,
    output: Option<Output>,
}

/// What is kept between looks.
#[derive(Debug, Default)]
pub struct Eyes {
    waker: Option<Waker>,
    watches: Option<Watches>,
    /// Word of changes was asked for.
    asked: bool,
    looks: BTreeMap<LoopId, Look>,
    outputs: BTreeMap<LoopId, OutputLook>,
    repositories: HashMap<PathBuf, Repository>,
}

impl Eyes {
    /// From now on changes wake the loop.
    pub fn attach(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    /// The settings have changed: what was seen may count differently.
    pub fn forget(&mut self) {
        self.looks.clear();
        self.outputs.clear();
    }

    /// Looks at what is due, and remembers the rest.
    ///
    /// # Errors
    /// What the database says; a worktree that cannot be looked at is no error.
    pub fn observe(&mut self, config: &Config, db: &Database) -> Result<Observation> {
        let Some(folder) = db.path().and_then(Path::parent).map(Path::to_owned) else { return Ok(Observation::default()) };
        let wanted = db.read(wanted)?;
        let now = db.clock().now();
        let mut observation = Observation {
            database_bytes: db.path().map_or(0, size_of_database),
            disk: disk(&folder),
            ..Observation::default()
        };
        self.looks.retain(|id, _| wanted.iter().any(|wanted| wanted.id == *id));
        self.outputs.retain(|id, _| wanted.iter().any(|wanted| wanted.id == *id && wanted.in_hand.is_some()));
        self.hear(now);
        observation.look_again_at = self.look_at_worktrees(config, &folder.join("worktrees"), &wanted, now);
        self.watch(&wanted);
        for Wanted { id, in_hand } in &wanted {
            if let Some(look) = self.looks.get(id) {
                observation.worktrees.insert(id.clone(), look.sight.clone());
            }
            if let Some(test) = in_hand {
                let output = self.look_at_output(&folder.join("logs").join(id.as_str()), id, test, now);
                observation.outputs.extend(output.map(|output| (id.clone(), output)));
            }
        }
        Ok(observation)
    }

    fn hear(&mut self, now: Timestamp) {
        let Some(watches) = &self.watches else { return };
        for root in watches.touched() {
            for look in self.looks.values_mut().filter(|look| look.tree.as_ref().is_some_and(|tree| tree.root() == root)) {
                look.touched = true;
                look.active_at = Some(now);
                if let Sight::Seen(worktree) = &mut look.sight {
                    worktree.active_at = Some(now);
                }
            }
        }
    }

    fn watch(&mut self, wanted: &[Wanted]) {
        let Some(waker) = &self.waker else { return };
        let busy = wanted.iter().filter(|wanted| wanted.in_hand.is_some()).filter_map(|wanted| self.looks.get(&wanted.id));
        let roots: BTreeSet<PathBuf> = busy.filter_map(|look| look.tree.as_ref()).map(|tree| tree.root().to_owned()).collect();
        if self.watches.is_none() && !self.asked && !roots.is_empty() {
            self.asked = true;
            self.watches = Watches::new(waker);
        }
        if let Some(watches) = &self.watches {
            watches.watch_only(&roots);
        }
    }

    /// When something that waits for its look is due.
    fn look_at_worktrees(&mut self, config: &Config, folder: &Path, wanted: &[Wanted], now: Timestamp) -> Option<Timestamp> {
        let interval = Duration::from_secs(config.monitor.interval_seconds);
        let due = |look: Option<&Look>| {
            look.is_none_or(|look| {
                let stale = matches!(&look.sight, Sight::Seen(worktree) if !worktree.fresh);
                look.at.elapsed() >= if look.touched || stale { look.pause.min(interval) } else { interval }
            })
        };
        if wanted.iter().any(|wanted| due(self.looks.get(&wanted.id))) {
            let ignored = ignored(&config.monitor.conflict_ignore);
            let begun = Instant::now();
            let mut tips = Tips::new(&config.repository.integration_branch);
            for Wanted { id, .. } in wanted {
                let moved = self.looks.get(id).is_some_and(|look| self.has_moved(look, &mut tips));
                if !due(self.looks.get(id)) && !moved {
                    continue;
                }
                if self.waker.is_some() && begun.elapsed() > LOOKING_AT_ONCE {
                    break;
                }
                let last = self.looks.remove(id);
                let look = self.look(&folder.join(id.as_str()), last, &mut tips, &ignored, interval);
                self.looks.insert(id.clone(), look);
            }
            let stale: Vec<LoopId> =
                self.looks.iter().filter(|(_, look)| self.has_moved(look, &mut tips)).map(|(id, _)| id.clone()).collect();
            for (id, look) in &mut self.looks {
                if let Sight::Seen(worktree) = &mut look.sight {
                    worktree.fresh = !stale.contains(id);
                }
            }
        }
        let left = |wanted: &Wanted| match self.looks.get(&wanted.id) {
            None => Some(Duration::ZERO),
            Some(look) if due(Some(look)) => Some(Duration::ZERO),
            Some(look) => look.touched.then(|| look.pause.min(interval).saturating_sub(look.at.elapsed())),
        };
        let next = wanted.iter().filter_map(left).min()?;
        Some(now.plus_millis(i64::try_from(next.as_millis()).unwrap_or(i64::MAX).saturating_add(1)))
    }

    fn has_moved(&self, look: &Look, tips: &mut Tips<'_>) -> bool {
        let Some(tree) = &look.tree else { return false };
        let repository = self.repositories.get(tree.common_dir());
        repository.is_some_and(|repository| tips.of(repository) != look.tip)
    }

    fn look(&mut self, path: &Path, last: Option<Look>, tips: &mut Tips<'_>, ignored: &GlobSet, interval: Duration) -> Look {
        let begun = Instant::now();
        let mut look = last.unwrap_or_else(|| Look {
            tree: None,
            sight: Sight::Absent,
            tip: None,
            at: begun,
            pause: LEAST_PAUSE,
            touched: false,
            active_at: None,
            base: None,
            contents: HashMap::new(),
        });
        let sight = if path.is_dir() {
            self.see(path, &mut look, tips, ignored).unwrap_or_else(|error| {
                tracing::debug!(%error, path = %path.display(), "cannot look at a worktree");
                look.tree = None;
                // What is no worktree of ours tells nothing, and what was one shows itself again.
                if matches!(error, work_tree::Error::NotARepository { .. }) { Sight::Absent } else { Sight::Unclear }
            })
        } else {
            look.tree = None;
            Sight::Absent
        };
        let unchanged = sight.shows_the_same_as(&look.sight);
        let least = LEAST_PAUSE.max(begun.elapsed() * SHARE);
        look.pause = if unchanged { (look.pause * 2).clamp(least, MOST_PAUSE.max(least)) } else { least }.min(interval);
        look.sight = sight;
        look.touched = false;
        look.at = Instant::now();
        look
    }

    fn see(&mut self, path: &Path, look: &mut Look, tips: &mut Tips<'_>, ignored: &GlobSet) -> work_tree::Result<Sight> {
        let tree = match look.tree.take() {
            Some(tree) => tree,
            None => WorkTree::open(path)?,
        };
        if tree.is_main() {
            return Ok(Sight::Absent);
        }
        let tree = look.tree.insert(tree);
        if let Some(watches) = &self.watches {
            watches.settle(tree.root());
        }
        let repository = match self.repositories.get(tree.common_dir()) {
            Some(repository) => repository,
            None => {
                let opened = tree.repository()?;
                self.repositories.entry(tree.common_dir().to_owned()).or_insert(opened)
            }
        };
        let Some(tip) = tips.of(repository) else { return Ok(Sight::Unclear) };
        let head = tree.head()?;
        let in_progress = ["rebase-merge", "rebase-apply"].iter().any(|name| tree.git_dir().join(name).exists());
        if in_progress {
            return Ok(Sight::Unclear);
        }
        let base = match &look.base {
            Some((of_head, of_tip, base)) if *of_head == head && *of_tip == tip => base.clone(),
            _ => repository.merge_base(&head, &tip)?.unwrap_or_else(|| tip.clone()),
        };
        look.base = Some((head.clone(), tip.clone(), base.clone()));
        let changed = tree.changed_since(&base)?;
        let root = tree.root().to_owned();
        if tree.head()? != head {
            return Ok(Sight::Unclear);
        }
        look.tip = Some(tip);
        let mut contents = HashMap::new();
        let mut files = Vec::new();
        for path in changed.into_iter().filter(|path| !ignored.is_match(path)).take(MOST_FILES) {
            let text = path.to_string_lossy().into_owned();
            let (content, changed_at) = content(&root.join(&path), look.contents.get(&text));
            let fingerprint = content.2.clone();
            contents.insert(text.clone(), content);
            files.push(SeenFile { path: text, fingerprint, changed_at });
        }
        look.contents = contents;
        Ok(Sight::Seen(Worktree { base: base.to_string(), files, fresh: true, active_at: look.active_at }))
    }

    fn look_at_output(&mut self, folder: &Path, id: &LoopId, test: &Test, now: Timestamp) -> Option<Output> {
        if let Some(look) = self.outputs.get(id)
            && self.waker.is_some()
            && look.at.elapsed() < OUTPUT_PAUSE
        {
            return look.output.clone();
        }
        let last = self.outputs.remove(id);
        let seen = output(folder, test, now, last.as_ref());
        let (counted, output) = seen.map_or((None, None), |(counted, output)| (Some(counted), Some(output)));
        self.outputs.insert(id.clone(), OutputLook { at: Instant::now(), counted, output: output.clone() });
        output
    }
}

/// The head of the integration branch, asked for once in a round of looks.
struct Tips<'a> {
    branch: &'a str,
    known: HashMap<PathBuf, Option<CommitHash>>,
}

impl<'a> Tips<'a> {
    fn new(branch: &'a str) -> Self {
        Self { branch, known: HashMap::new() }
    }

    fn of(&mut self, repository: &Repository) -> Option<CommitHash> {
        if let Some(known) = self.known.get(repository.common_dir()) {
            return known.clone();
        }
        let branch = repository.resolve(&format!("refs/heads/{}", self.branch)).ok().flatten();
        // Until something has landed the branch would begin at what is checked out.
        let tip = branch.or_else(|| repository.resolve("HEAD").ok().flatten());
        self.known.insert(repository.common_dir().to_owned(), tip.clone());
        tip
    }
}

fn stamp(seconds: i64, nanos: i64) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
}

fn nanos(meta: &std::fs::Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}

type Content = (u64, i128, String);

/// What stands for a file's content, and when it was changed: the time of the inode, which no archive sets back.
fn content(path: &Path, last: Option<&Content>) -> (Content, Option<Timestamp>) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return ((0, 0, "gone".to_owned()), None) };
    let changed_at = Some(stamp(meta.ctime(), meta.ctime_nsec()));
    let (size, modified) = (meta.len(), nanos(&meta));
    if let Some(last) = last
        && (last.0, last.1) == (size, modified)
        && last.2 != "gone"
    {
        return (last.clone(), changed_at);
    }
    let bytes = if meta.is_symlink() {
        std::fs::read_link(path).ok().map(|target| target.into_os_string().into_encoded_bytes())
    } else if meta.is_file() && size <= MOST_HASHED_BYTES {
        std::fs::read(path).ok()
    } else {
        None
    };
    let text = match bytes {
        Some(bytes) => Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
        None => format!("{size}-{modified}"),
    };
    ((size, modified, text), changed_at)
}

type Counted = (PathBuf, u64, i128);

fn output(folder: &Path, test: &Test, now: Timestamp, last: Option<&OutputLook>) -> Option<(Counted, Output)> {
    let mut newest: Option<Counted> = None;
    let mut own: Option<Counted> = None;
    let agent = format!("{}-{}.log", test.id, test.attempts);
    for entry in std::fs::read_dir(folder).ok()?.take(MOST_LOGS).flatten() {
        let path = entry.path();
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_file() || path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let log = (path, meta.len(), nanos(&meta));
        if entry.file_name() == *agent {
            own = Some(log.clone());
        }
        if newest.as_ref().is_none_or(|newest| log.2 > newest.2) {
            newest = Some(log);
        }
    }
    let newest = newest?;
    let time = |nanos: i128| {
        let millis = i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX);
        Timestamp::from_millis(millis).min(now)
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
    // What is kept for the administrator counts as used.
    let total = bytes(stat.f_blocks).saturating_sub(bytes(stat.f_bfree).saturating_sub(bytes(stat.f_bavail)));
    Some(Disk { free_bytes: bytes(stat.f_bavail), total_bytes: total })
}
