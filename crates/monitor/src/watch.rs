//! Wakes the loop when something changes in a workspace. Only a hint: what counts is what the next look sees, and where the
//! kernel gives no watches the timer alone makes looks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use git::{Notice, Workspace};
use supervisor::Waker;

/// What has happened in a workspace since it was asked for last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stir {
    /// Its files may have changed.
    pub(crate) touched: bool,
    /// Something has happened, in folders that git ignores too: a build.
    pub(crate) active: bool,
    /// It would have been noticed.
    pub(crate) watched: bool,
}

/// By the top of each watched workspace.
#[derive(Debug, Default)]
struct Roots(Mutex<BTreeMap<PathBuf, Stir>>);

impl Roots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Stir>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the loop has to look.
    fn note(&self, notice: Notice<'_>) -> bool {
        let (Notice::Changed { root, .. } | Notice::Ignored { root } | Notice::Unknown { root } | Notice::Unwatched { root }) =
            notice;
        let mut roots = self.lock();
        let Some(stir) = roots.get_mut(root) else { return false };
        match notice {
            Notice::Changed { .. } | Notice::Ignored { .. } => stir.active = true,
            Notice::Unknown { .. } => stir.watched = true,
            Notice::Unwatched { .. } => stir.watched = false,
        }
        !matches!(notice, Notice::Ignored { .. }) && !std::mem::replace(&mut stir.touched, true)
    }
}

/// The watches of a daemon.
#[derive(Debug)]
pub(crate) struct Watches {
    watches: git::Watches,
    roots: Arc<Roots>,
}

impl Watches {
    pub(crate) fn new(waker: &Waker) -> Option<Self> {
        let roots = Arc::new(Roots::default());
        let (noted, waker) = (Arc::clone(&roots), waker.clone());
        let watches = git::Watches::new(true, move |notice| {
            if noted.note(notice) {
                waker.wake();
            }
        });
        let watches = watches.inspect_err(|error| tracing::warn!(%error, "no inotify; looking at workspaces at intervals"));
        Some(Self { watches: watches.ok()?, roots })
    }

    /// From now on these are watched and no others.
    pub(crate) fn watch_only(&self, wanted: &[&Workspace]) {
        let tops: BTreeSet<&Path> = wanted.iter().map(|workspace| workspace.root()).collect();
        let mut roots = self.roots.lock();
        roots.retain(|root, _| {
            let keep = tops.contains(root.as_path());
            if !keep {
                self.watches.unwatch(root);
            }
            keep
        });
        for workspace in wanted.iter().filter(|workspace| !roots.contains_key(workspace.root())).collect::<Vec<_>>() {
            roots.insert(workspace.root().to_owned(), Stir::default());
            self.watches.watch(workspace);
        }
    }

    /// What has happened in each since it was asked for last; that it was touched stands until it is settled.
    pub(crate) fn stirred(&self) -> Vec<(PathBuf, Stir)> {
        let mut roots = self.roots.lock();
        roots
            .iter_mut()
            .map(|(root, stir)| (root.clone(), Stir { active: std::mem::take(&mut stir.active), ..*stir }))
            .collect()
    }

    /// The workspace is about to be looked at: what happens from now on is news again. Until then it wakes nobody twice. One
    /// that was replaced is watched again.
    pub(crate) fn settle(&self, workspace: &Workspace) {
        if let Some(stir) = self.roots.lock().get_mut(workspace.root()) {
            stir.touched = false;
            self.watches.watch(workspace);
        }
    }
}
