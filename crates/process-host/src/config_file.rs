//! Noticing that the file of the settings has changed.
//!
//! The file itself is watched and not its folder, where the database is written to all the time. Editors replace a file by
//! renaming another over it, so the watch is set again after each event. What is read counts once it has stood for a moment:
//! a file that is being written is empty first, which would be taken for settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coord_db::Config;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// How long the file must have stood unchanged.
const SETTLED: Duration = Duration::from_millis(300);
/// How often one looks at a file that is watched, in case that something was missed.
const WATCHED_LOOK: Duration = Duration::from_secs(60);
/// How often one looks where there is nothing to watch.
const BLIND_LOOK: Duration = Duration::from_secs(5);

/// The file of the settings, and what it held when it was looked at last.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    content: Option<Vec<u8>>,
}

impl ConfigFile {
    /// Takes note of what it holds. To be called before the settings are read, so that no change falls in between.
    pub(crate) fn note(database: &Path, named: Option<&Path>) -> Self {
        let path = named.map_or_else(|| Config::path_for(database), Path::to_owned);
        let content = std::fs::read(&path).ok();
        Self { path, content }
    }

    /// Calls back, on the runtime's own threads, each time that it holds something else.
    pub(crate) fn follow(mut self, changed: impl Fn() + Send + 'static) {
        tokio::spawn(async move {
            let touched = Arc::new(Notify::new());
            let mut watcher = watcher(&touched);
            loop {
                let watched = watcher.as_mut().is_some_and(|watcher| watch(watcher, &self.path));
                // What came before the watch was set is found here.
                if self.settle().await {
                    changed();
                }
                let pause = if watched { WATCHED_LOOK } else { BLIND_LOOK };
                let _ = tokio::time::timeout(pause, touched.notified()).await;
            }
        });
    }

    /// Waits until it stands still. True if it holds something else than before.
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
    // Reading it is an event as well, which would wake the reader again.
    let handler = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
            touched.notify_one();
        }
    };
    notify::recommended_watcher(handler)
        .inspect_err(|error| tracing::debug!(%error, "the settings cannot be watched; looking at intervals instead"))
        .ok()
}

/// Watches the file that has the name now. False if there is none.
fn watch(watcher: &mut RecommendedWatcher, path: &Path) -> bool {
    let _ = watcher.unwatch(path);
    watcher
        .watch(path, RecursiveMode::NonRecursive)
        .inspect_err(|error| tracing::debug!(%error, path = %path.display(), "cannot watch the settings"))
        .is_ok()
}
