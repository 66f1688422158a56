//! Wakes the supervisor when something changes in a workspace. Only a hint: the next read decides, and without inotify the
//! workspaces are read at intervals.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use git::{Notice, Workspace};
use supervisor::Waker;

/// Activity in a workspace since the last query.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Activity {
    /// Files may have changed.
    pub(crate) touched: bool,
    /// There was activity, also in ignored folders (a build).
    pub(crate) active: bool,
    /// inotify covers the whole workspace.
    pub(crate) watched: bool,
}

/// The activity of each watched workspace, by its root.
#[derive(Debug, Default)]
struct Roots(Mutex<BTreeMap<PathBuf, Activity>>);

impl Roots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Activity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a notice. True if the supervisor has to be woken.
    fn note(&self, notice: Notice<'_>) -> bool {
        let (Notice::Changed { root, .. } | Notice::Ignored { root } | Notice::Unknown { root } | Notice::Unwatched { root }) =
            notice;
        let mut roots = self.lock();
        let Some(activity) = roots.get_mut(root) else { return false };
        match notice {
            Notice::Changed { .. } | Notice::Ignored { .. } => activity.active = true,
            Notice::Unknown { .. } => activity.watched = true,
            Notice::Unwatched { .. } => activity.watched = false,
        }
        !matches!(notice, Notice::Ignored { .. }) && !std::mem::replace(&mut activity.touched, true)
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
        let watches =
            watches.inspect_err(|error| tracing::warn!(%error, "cannot use inotify; workspaces are read at intervals"));
        Some(Self { watches: watches.ok()?, roots })
    }

    /// Watches exactly these workspaces from now on.
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
            roots.insert(workspace.root().to_owned(), Activity::default());
            self.watches.watch(workspace);
        }
    }

    /// The activity of each workspace since the last call. `touched` stays set until [`Watches::settle`].
    pub(crate) fn take_activity(&self) -> Vec<(PathBuf, Activity)> {
        let mut roots = self.roots.lock();
        roots
            .iter_mut()
            .map(|(root, activity)| (root.clone(), Activity { active: std::mem::take(&mut activity.active), ..*activity }))
            .collect()
    }

    /// To be called before a workspace is read: later changes wake the supervisor again. Watches a replaced workspace again.
    pub(crate) fn settle(&self, workspace: &Workspace) {
        if let Some(activity) = self.roots.lock().get_mut(workspace.root()) {
            activity.touched = false;
            self.watches.watch(workspace);
        }
    }
}
