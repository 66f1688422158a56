//! Waiting for others' commits without polling.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coord_db::Database;
use coord_db::wake::{BLIND_LOOK, Ladder, SLOW_LOOK, Wake, Watcher};
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Seen {
    notify: Notify,
    wal: AtomicBool,
    bell: AtomicBool,
}

/// Listens to one database from a task.
#[derive(Debug)]
pub(crate) struct Wakes {
    seen: Arc<Seen>,
    watcher: Option<Watcher>,
    ladder: Ladder,
    version: i64,
}

impl Wakes {
    /// Begins to listen; where that cannot be, waits are short instead.
    pub(crate) fn new(database: &Path) -> Self {
        let seen = Arc::new(Seen::default());
        let heard = Arc::clone(&seen);
        let watcher = Watcher::new(database, move |wake| {
            let flag = if wake == Wake::Wal { &heard.wal } else { &heard.bell };
            flag.store(true, Ordering::Relaxed);
            heard.notify.notify_one();
        })
        .inspect_err(|error| tracing::warn!(%error, "no wake-ups; looking at short intervals instead"))
        .ok();
        Self { seen, watcher, ladder: Ladder::default(), version: 0 }
    }

    /// What is committed up to now has been looked at.
    pub(crate) fn looked(&mut self, db: &Database) {
        self.version = db.data_version().unwrap_or(self.version);
    }

    /// Returns when another connection has committed since [`Wakes::looked`], after `most` at the latest.
    pub(crate) async fn changed(&mut self, db: &Database, most: Duration) {
        let slow = if self.watcher.is_some() { SLOW_LOOK } else { BLIND_LOOK };
        let deadline = Instant::now() + most.min(slow);
        loop {
            if db.data_version().map_or(true, |version| version != self.version) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if let Some(watcher) = &mut self.watcher {
                    watcher.refresh();
                }
                return;
            }
            tokio::select! {
                () = self.seen.notify.notified() => {
                    if self.seen.wal.swap(false, Ordering::Relaxed) {
                        self.ladder.woken(Wake::Wal);
                    }
                    if self.seen.bell.swap(false, Ordering::Relaxed) {
                        self.ladder.woken(Wake::Bell);
                    }
                }
                () = tokio::time::sleep(self.ladder.timeout(left)) => {}
            }
        }
    }
}
