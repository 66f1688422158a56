//! Waking without polling: the bell and those who listen for it.
//!
//! After each commit the writer writes one byte into `<database>.bell/ring`. It means nothing; it only wakes. A foreign
//! writer rings no bell, so the `-wal` is watched too: its last change is seen *before* the commit is visible, therefore
//! a [`Ladder`] of a few short waits follows it. A slow timer backs both up. A lost or merged wake-up may delay a reader,
//! never change what it sees.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecursiveMode, Watcher as _};

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
    file: Mutex<Option<File>>,
}

impl Bell {
    pub(crate) fn new(database: &Path) -> Self {
        Self { folder: bell_folder(database), file: Mutex::new(None) }
    }

    /// Wakes everyone who listens. A failure only means that they wake later, by the `-wal` or their timers.
    pub(crate) fn ring(&self) {
        let Ok(mut slot) = self.file.lock() else { return };
        // A folder that was deleted leaves a file that nobody can hear.
        if slot.as_ref().is_some_and(|file| file.metadata().map_or(true, |meta| meta.nlink() == 0)) {
            *slot = None;
        }
        if slot.is_none() {
            *slot = open_ring(&self.folder).inspect_err(|error| tracing::debug!(%error, "cannot open the bell")).ok();
        }
        if let Some(file) = slot.as_ref()
            && let Err(error) = file.write_at(b"!", 0)
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

/// Watches one database's bell and `-wal`, and calls back from a thread of its own.
pub struct Watcher {
    inner: notify::RecommendedWatcher,
    database: PathBuf,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Watcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// If the kernel gives no more inotify watches, or the folder is gone. The caller then lives by its timer.
    pub fn new(database: &Path, on_wake: impl Fn(Wake) + Send + 'static) -> Result<Self> {
        // Writers ring beside the file itself, not beside a link to it.
        let database = &database.canonicalize().unwrap_or_else(|_| database.to_owned());
        let failed = |error: notify::Error| Error::io("cannot watch the database for changes", std::io::Error::other(error));
        let wal = with_suffix(database, "-wal");
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
        let mut watcher = Self { inner, database: database.to_owned() };
        open_ring(&bell_folder(database)).map_err(|error| Error::io("cannot make the bell", error))?;
        watcher.inner.watch(&bell_folder(database), RecursiveMode::NonRecursive).map_err(failed)?;
        if wal.exists() {
            watcher.inner.watch(&wal, RecursiveMode::NonRecursive).map_err(failed)?;
        }
        Ok(watcher)
    }

    /// Watches again what was deleted and made anew. Cheap; to be called by the slow timer.
    pub fn refresh(&mut self) {
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
#[derive(Debug, Default)]
pub struct Ladder {
    step: Option<usize>,
}

const STEPS_MICROS: [u64; 6] = [200, 500, 1_000, 2_000, 5_000, 20_000];

impl Ladder {
    /// Takes note of a wake. A burst of them is one ladder.
    pub fn woken(&mut self, wake: Wake) {
        if wake == Wake::Wal && self.step.is_none() {
            self.step = Some(0);
        }
    }

    /// How long to wait for the next wake, `most` at the longest; climbs one step.
    #[must_use]
    pub fn timeout(&mut self, most: Duration) -> Duration {
        let Some(step) = self.step else { return most };
        self.step = (step + 1 < STEPS_MICROS.len()).then_some(step + 1);
        most.min(Duration::from_micros(STEPS_MICROS[step]))
    }
}

/// How often a listener looks without having been woken.
pub const SLOW_LOOK: Duration = Duration::from_secs(5);
/// How often it looks where the kernel gives it no watch.
pub const BLIND_LOOK: Duration = Duration::from_millis(250);

/// A listener for programs without a runtime: blocks the thread until something may have changed.
#[derive(Debug)]
pub struct Listener {
    wakes: mpsc::Receiver<Wake>,
    watcher: Option<Watcher>,
    ladder: Ladder,
}

impl Listener {
    /// Listens to one database. Where that cannot be, [`Listener::wait`] becomes a short timer.
    #[must_use]
    pub fn new(database: &Path) -> Self {
        let (sender, wakes) = mpsc::channel();
        let watcher = Watcher::new(database, move |wake| {
            let _ = sender.send(wake);
        })
        .inspect_err(|error| tracing::warn!(%error, "no wake-ups; looking at short intervals instead"))
        .ok();
        Self { wakes, watcher, ladder: Ladder::default() }
    }

    /// Returns when something may have changed, after `most` at the latest.
    pub fn wait(&mut self, most: Duration) {
        let most = most.min(if self.watcher.is_some() { SLOW_LOOK } else { BLIND_LOOK });
        match self.wakes.recv_timeout(self.ladder.timeout(most)) {
            Ok(wake) => {
                self.ladder.woken(wake);
                while let Ok(wake) = self.wakes.try_recv() {
                    self.ladder.woken(wake);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::park_timeout(BLIND_LOOK.min(most)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}
