//! Waking without polling: the bell and those who listen for it.
//!
//! After each commit the writer writes one byte into `<database>.bell/ring`. It means nothing; it only wakes. A foreign
//! writer rings no bell, so the `-wal` is watched too: its last change is seen *before* the commit is visible, therefore
//! a [`Ladder`] of a few short waits follows it. A slow timer backs both up. A lost or merged wake-up may delay a reader,
//! never change what it sees.
//!
//! On a server, a writer's transaction notifies when it commits, a foreign one too, and a connection of its own listens.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use notify::event::ModifyKind;
use notify::{EventKind, RecursiveMode, Watcher as _};

use crate::engine::postgres::wake::Listening;
use crate::locate::Location;
use crate::{Error, Result};

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// A commit is visible now.
    Bell,
    /// Something is being written; a commit may be visible soon.
    Wal,
}

/// `<database>.bell`
#[must_use]
pub fn bell_folder(database: &Path) -> PathBuf {
    with_suffix(database, ".bell")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Bell {
    folder: PathBuf,
    ring: PathBuf,
    file: Mutex<Option<Ring>>,
}

/// The open file, and which one it is.
#[derive(Debug)]
struct Ring {
    file: File,
    identity: (u64, u64),
}

fn identity(meta: &std::fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

impl Bell {
    pub(crate) fn new(database: &Path) -> Self {
        let folder = bell_folder(database);
        Self { ring: folder.join("ring"), folder, file: Mutex::new(None) }
    }

    /// Wakes everyone who listens. A failure only means that they wake later, by the `-wal` or their timers.
    pub(crate) fn ring(&self) {
        let Ok(mut slot) = self.file.lock() else { return };
        // A folder that was deleted, moved away or replaced leaves a file that nobody hears.
        if slot.as_ref().is_some_and(|ring| std::fs::metadata(&self.ring).map_or(true, |meta| identity(&meta) != ring.identity))
        {
            *slot = None;
        }
        if slot.is_none() {
            *slot = open_ring(&self.folder)
                .and_then(|file| Ok(Ring { identity: identity(&file.metadata()?), file }))
                .inspect_err(|error| tracing::debug!(%error, "cannot open the bell"))
                .ok();
        }
        if let Some(ring) = slot.as_ref()
            && let Err(error) = ring.file.write_at(b"!", 0)
        {
            tracing::debug!(%error, "cannot ring the bell");
        }
    }
}

fn open_ring(folder: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if !folder.is_dir() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join("ring"))
}

/// Watches one database, and calls back from a thread of its own: a file's bell and `-wal`, or what a server notifies.
#[derive(Debug)]
pub struct Watcher {
    watched: Watched,
}

#[derive(Debug)]
enum Watched {
    File(FileWatcher),
    Server(#[expect(dead_code, reason = "dropped, it ends")] Listening),
}

impl Watcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// If the kernel gives no more inotify watches, the folder is missing, or the server cannot be reached. The caller then lives by
    /// its timer.
    pub fn new(database: &Path, on_wake: impl Fn(Wake) + Send + 'static) -> Result<Self> {
        let watched = match Location::of(database) {
            Location::File(path) => Watched::File(FileWatcher::new(&path, on_wake)?),
            Location::Server(address) => Watched::Server(Listening::new(&address, move || on_wake(Wake::Bell))?),
        };
        Ok(Self { watched })
    }

    /// Watches again what was deleted and recreated. Cheap; to be called by the slow timer, and before a look: what happens
    /// while it works wakes nobody.
    pub fn refresh(&mut self) {
        match &mut self.watched {
            Watched::File(watcher) => watcher.refresh(),
            // It listens again by itself.
            Watched::Server(_) => {}
        }
    }
}

/// Watches the bell and the `-wal` of a file.
struct FileWatcher {
    inner: notify::RecommendedWatcher,
    database: PathBuf,
}

impl std::fmt::Debug for FileWatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWatcher").field("database", &self.database).finish_non_exhaustive()
    }
}

impl FileWatcher {
    fn new(database: &Path, on_wake: impl Fn(Wake) + Send + 'static) -> Result<Self> {
        // Writers ring beside the file itself, not beside a link to it.
        let database = database.canonicalize().unwrap_or_else(|_| database.to_owned());
        let failed = |error: notify::Error| Error::io("cannot watch the database for changes", std::io::Error::other(error));
        let wal = with_suffix(&database, "-wal");
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => on_wake(Wake::Bell),
            // Reacting to open, close or metadata events would feed itself.
            Ok(event) if matches!(event.kind, EventKind::Modify(ModifyKind::Data(_))) => {
                let is_wal = event.paths.iter().any(|path| path.as_os_str().as_encoded_bytes().ends_with(b"-wal"));
                on_wake(if is_wal { Wake::Wal } else { Wake::Bell });
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "watching the database"),
        };
        let inner = notify::recommended_watcher(handler).map_err(failed)?;
        let mut watcher = Self { inner, database };
        let folder = bell_folder(&watcher.database);
        open_ring(&folder).map_err(|error| Error::io("cannot make the bell", error))?;
        watcher.inner.watch(&folder, RecursiveMode::NonRecursive).map_err(failed)?;
        if wal.exists() {
            watcher.inner.watch(&wal, RecursiveMode::NonRecursive).map_err(failed)?;
        }
        Ok(watcher)
    }

    fn refresh(&mut self) {
        let folder = bell_folder(&self.database);
        let wal = with_suffix(&self.database, "-wal");
        if let Err(error) = open_ring(&folder) {
            tracing::debug!(%error, "cannot make the bell");
        }
        for path in [folder, wal] {
            if path.exists() {
                let _ = self.inner.unwatch(&path);
                if let Err(error) = self.inner.watch(&path, RecursiveMode::NonRecursive) {
                    tracing::debug!(%error, path = %path.display(), "cannot watch");
                }
            }
        }
    }
}

/// The short coalesced retries after a [`Wake::Wal`].
///
/// A foreign writer's last change of the `-wal` comes before its commit is visible: by microseconds, or by as long as its
/// disk takes to sync. So each such wake is followed by looks at growing intervals, about two seconds in all. A burst is one
/// ladder, counted from its last wake. A bell says that a commit is visible already; what may still be under way then is
/// somebody else's, so the ladder goes on, without its quick steps.
#[derive(Debug, Default)]
pub struct Ladder {
    /// The step that is being waited for, and when it is due.
    step: Option<(usize, Instant)>,
}

const STEPS: [Duration; 11] = [
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];
/// The first step after a bell.
const AFTER_BELL: usize = 4;

impl Ladder {
    /// Takes note of a wake. A burst of them is one ladder.
    pub fn woken(&mut self, wake: Wake) {
        self.woken_at(wake, Instant::now());
    }

    /// How long to wait for the next wake, `most` at the longest. The caller looks after each wait, however it ended.
    #[must_use]
    pub fn timeout(&mut self, max: Duration) -> Duration {
        self.timeout_at(max, Instant::now())
    }

    fn woken_at(&mut self, wake: Wake, now: Instant) {
        match (wake, self.step) {
            (Wake::Wal, _) => self.step = Some((0, now + STEPS[0])),
            (Wake::Bell, Some((step, _))) if step < AFTER_BELL => self.step = Some((AFTER_BELL, now + STEPS[AFTER_BELL])),
            (Wake::Bell, _) => {}
        }
    }

    fn timeout_at(&mut self, max: Duration, now: Instant) -> Duration {
        if let Some((step, due)) = self.step
            && due <= now
        {
            self.step = STEPS.get(step + 1).map(|wait| (step + 1, now + *wait));
        }
        self.step.map_or(max, |(_, due)| max.min(due.saturating_duration_since(now)))
    }
}

/// How often a listener looks without having been woken.
pub const SLOW_LOOK: Duration = Duration::from_secs(5);
/// How often it looks where the kernel gives it no watch.
pub const BLIND_LOOK: Duration = Duration::from_millis(250);

/// Why a wait of a [`Listener`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Something was seen.
    By(Wake),
    /// Something was seen not long ago: a step of the [`Ladder`].
    Again,
    /// Nothing was seen; the time is over.
    Timer,
}

/// A listener for programs without a runtime: blocks the thread until something may have changed.
#[derive(Debug)]
pub struct Listener {
    database: PathBuf,
    sender: mpsc::Sender<Wake>,
    wakes: mpsc::Receiver<Wake>,
    watcher: Option<Watcher>,
    refreshed: Instant,
    ladder: Ladder,
}

impl Listener {
    /// Listens to one database. Where that cannot be, [`Listener::wait`] becomes a short timer.
    #[must_use]
    pub fn new(database: &Path) -> Self {
        let (sender, wakes) = mpsc::channel();
        let watcher = watch(database, &sender)
            .inspect_err(|error| tracing::warn!(%error, "no wake-ups; looking at short intervals instead"))
            .ok();
        let database = database.to_owned();
        Self { database, sender, wakes, watcher, refreshed: Instant::now(), ladder: Ladder::default() }
    }

    /// Returns when something may have changed, after `most` at the latest, and says why. The caller looks in any case.
    pub fn wait(&mut self, max: Duration) -> Woken {
        let max = max.min(if self.watcher.is_some() { SLOW_LOOK } else { BLIND_LOOK });
        let pause = self.ladder.timeout(max);
        let Ok(first) = self.wakes.recv_timeout(pause) else {
            if self.refreshed.elapsed() >= SLOW_LOOK {
                self.refresh();
            }
            return if pause < max { Woken::Again } else { Woken::Timer };
        };
        // All that came is one wake, and the bell is the one that says most.
        let mut woken = first;
        self.ladder.woken(first);
        while let Ok(wake) = self.wakes.try_recv() {
            self.ladder.woken(wake);
            if wake == Wake::Bell {
                woken = wake;
            }
        }
        Woken::By(woken)
    }

    fn refresh(&mut self) {
        match &mut self.watcher {
            Some(watcher) => watcher.refresh(),
            None => self.watcher = watch(&self.database, &self.sender).ok(),
        }
        self.refreshed = Instant::now();
    }
}

fn watch(database: &Path, sender: &mpsc::Sender<Wake>) -> Result<Watcher> {
    let sender = sender.clone();
    Watcher::new(database, move |wake| {
        let _ = sender.send(wake);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(5);

    /// The moments, counted from the wake, at which one looks who is woken by nothing else.
    fn looks(ladder: &mut Ladder, start: Instant) -> Vec<Duration> {
        let mut now = start;
        let mut looks = Vec::new();
        loop {
            let pause = ladder.timeout_at(MOST, now);
            if pause == MOST {
                return looks;
            }
            now += pause;
            looks.push(now - start);
        }
    }

    #[test]
    fn a_ladder_looks_soon_and_outlasts_a_slow_disk() {
        let start = Instant::now();
        let mut ladder = Ladder::default();
        ladder.woken_at(Wake::Wal, start);
        let looks = looks(&mut ladder, start);
        assert_eq!(looks[0], STEPS[0]);
        assert_eq!(*looks.last().unwrap(), STEPS.iter().sum());
        assert!(*looks.last().unwrap() > Duration::from_secs(1));
    }

    #[test]
    fn a_burst_is_one_ladder_from_its_last_wake() {
        let start = Instant::now();
        let mut ladder = Ladder::default();
        for at in 0..100 {
            let now = start + Duration::from_micros(at * 50);
            ladder.woken_at(Wake::Wal, now);
            assert_eq!(ladder.timeout_at(MOST, now), STEPS[0]);
        }
        let last = start + Duration::from_micros(99 * 50);
        assert_eq!(looks(&mut ladder, last).len(), STEPS.len());
    }

    #[test]
    fn wakes_that_say_nothing_use_up_no_step() {
        let start = Instant::now();
        let mut ladder = Ladder::default();
        ladder.woken_at(Wake::Wal, start);
        ladder.woken_at(Wake::Bell, start);
        for _ in 0..100 {
            ladder.woken_at(Wake::Bell, start);
            assert_eq!(ladder.timeout_at(MOST, start), STEPS[AFTER_BELL]);
        }
        assert_eq!(looks(&mut ladder, start).len(), STEPS.len() - AFTER_BELL);
        // A bell alone needs no second look.
        ladder.woken_at(Wake::Bell, start);
        assert_eq!(ladder.timeout_at(MOST, start), MOST);
    }
}
