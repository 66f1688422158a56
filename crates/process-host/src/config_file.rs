//! Detects changes of the settings file.
//!
//! The file itself is watched and not its folder, in which the database is written constantly. Editors replace a file
//! by renaming another one over it, so the watch is renewed after each event. New content is used only after it has
//! been stable for a moment: a file that is being written is empty at first, which would be valid settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coord_db::Config;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Time for which the file must not change before it is read.
const SETTLED: Duration = Duration::from_millis(300);
/// Interval at which a watched file is read, in case an event was missed.
const WATCHED_LOOK: Duration = Duration::from_secs(60);
/// Interval at which the file is read if it cannot be watched.
const BLIND_LOOK: Duration = Duration::from_secs(5);

/// The settings file and its last known content.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    content: Option<Vec<u8>>,
}

impl ConfigFile {
    /// Reads the current content. To be called before the settings are loaded, so that no change is missed in between.
    pub(crate) fn note(database: &Path, named: Option<&Path>) -> Self {
        let path = named.map_or_else(|| Config::path_for(database), Path::to_owned);
        let content = std::fs::read(&path).ok();
        Self { path, content }
    }

    /// Calls back, on a thread of the runtime, after each change of the content.
    pub(crate) fn follow(mut self, changed: impl Fn() + Send + 'static) {
        tokio::spawn(async move {
            let touched = Arc::new(Notify::new());
            let mut watcher = watcher(&touched);
            loop {
                let watched = watcher.as_mut().is_some_and(|watcher| watch(watcher, &self.path));
                // Finds changes from before the watch was set.
                if self.settle().await {
                    changed();
                }
                let pause = if watched { WATCHED_LOOK } else { BLIND_LOOK };
                let _ = tokio::time::timeout(pause, touched.notified()).await;
            }
        });
    }

    /// Waits until the content is stable. True if it differs from the last known content.
    async fn settle(&mut self) -> bool {
        let read = |path: &Path| std::fs::read(path).ok();
        let mut now = read(&self.path);
        while now != self.content {
            tokio::time::sleep(SETTLED).await;
            let later = read(&self.path);
            if later == now {
                self.content = now;
                return true;
            }
            now = later;
        }
        false
    }
}

fn watcher(touched: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let touched = Arc::clone(touched);
    // Reading the file is an event too, which would wake the reader again.
    let handler = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
            touched.notify_one();
        }
    };
    notify::recommended_watcher(handler)
        .inspect_err(|error| tracing::debug!(%error, "cannot watch the settings file; reading it at intervals"))
        .ok()
}

/// Watches the file that has this name now. False if there is none.
fn watch(watcher: &mut RecommendedWatcher, path: &Path) -> bool {
    let _ = watcher.unwatch(path);
    watcher
        .watch(path, RecursiveMode::NonRecursive)
        .inspect_err(|error| tracing::debug!(%error, path = %path.display(), "cannot watch the settings file"))
        .is_ok()
}
