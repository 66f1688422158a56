//! Waits for commits of other connections without polling.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coord_db::Database;
use coord_db::wake::{BLIND_LOOK, Ladder, SLOW_LOOK, Wake, Watcher};
use tokio::sync::Notify;

/// Interval at which files that were deleted and created again are watched again.
const REFRESH_INTERVAL: Duration = Duration::from_secs(15);

/// The events of the watching thread, merged.
#[derive(Debug, Default)]
struct Seen {
    notify: Notify,
    wal: AtomicBool,
    bell: AtomicBool,
    writing: Arc<Mutex<()>>,
}

/// Waits for commits to one database from a task.
#[derive(Debug)]
pub struct Wakes {
    database: PathBuf,
    seen: Arc<Seen>,
    watcher: Option<Watcher>,
    refreshed: Instant,
    ladder: Ladder,
    version: i64,
}

impl Wakes {
    /// Starts to watch the database. If that fails, waits are short instead.
    #[must_use]
    pub fn new(database: &Path) -> Self {
        let seen = Arc::new(Seen::default());
        let watcher = watch(database, &seen);
        let database = database.to_owned();
        Self { database, seen, watcher, refreshed: Instant::now(), ladder: Ladder::default(), version: 0 }
    }

    /// Records the current version of the data. To be called *before* reading it, never after. True if another connection
    /// has committed since the last call.
    pub fn looked(&mut self, db: &Database) -> bool {
        let before = self.version;
        self.version = db.data_version().unwrap_or(before);
        self.version != before
    }

    /// To be locked while this process writes: the watching thread waits for it after each wake, so that the process's
    /// own writes wake that thread once and not for every page.
    #[must_use]
    pub fn writing(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.seen.writing)
    }

    /// Returns true when another connection has committed since [`Wakes::looked`], or false after `most`, at the latest
    /// after the slow timer. Own commits and open transactions do not count. True at the end of that time if the database cannot be
    /// asked.
    pub async fn changed(&mut self, db: &Database, most: Duration) -> bool {
        let slow = if self.watcher.is_some() { SLOW_LOOK } else { BLIND_LOOK };
        let deadline = Instant::now() + most.min(slow);
        loop {
            match db.data_version() {
                Ok(version) if version == self.version => {}
                Ok(_) => return true,
                Err(_) => {
                    // It is for the next look to say so. To return at once would keep the processor, and all other tasks from theirs.
                    tokio::time::sleep_until(deadline.into()).await;
                    return true;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.refresh();
                return false;
            }
            tokio::select! {
                () = self.seen.notify.notified() => {
                    for (flag, wake) in [(&self.seen.wal, Wake::Wal), (&self.seen.bell, Wake::Bell)] {
                        if flag.swap(false, Ordering::Relaxed) {
                            self.ladder.woken(wake);
                        }
                    }
                }
                () = tokio::time::sleep(self.ladder.timeout(left)) => {}
            }
        }
    }

    fn refresh(&mut self) {
        if self.refreshed.elapsed() < REFRESH_INTERVAL {
            return;
        }
        match &mut self.watcher {
            Some(watcher) => watcher.refresh(),
            None => self.watcher = watch(&self.database, &self.seen),
        }
        self.refreshed = Instant::now();
    }
}

fn watch(database: &Path, seen: &Arc<Seen>) -> Option<Watcher> {
    let seen = Arc::clone(seen);
    Watcher::new(database, move |wake| {
        let flag = if wake == Wake::Wal { &seen.wal } else { &seen.bell };
        flag.store(true, Ordering::Relaxed);
        seen.notify.notify_one();
        drop(seen.writing.lock());
    })
    .inspect_err(|error| tracing::warn!(%error, "cannot watch the database for commits; polling it at short intervals"))
    .ok()
}
