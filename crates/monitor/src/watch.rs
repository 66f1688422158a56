//! Wakes the loop when something changes in a worktree. Only a hint: what counts is what the next look sees, and where the
//! kernel gives no watches the timer alone makes looks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use supervisor::Waker;

/// The watched folders, and whether something has happened in each since it was looked at.
#[derive(Debug, Default)]
struct Roots(Mutex<BTreeMap<PathBuf, bool>>);

impl Roots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if it was untouched until now.
    fn touch(&self, path: Option<&Path>) -> bool {
        let mut roots = self.lock();
        let meant = roots.iter_mut().filter(|(root, _)| path.is_none_or(|path| path.starts_with(root)));
        meant.fold(false, |news, (_, touched)| !std::mem::replace(touched, true) || news)
    }
}

enum Order {
    Watch(PathBuf),
    Unwatch(PathBuf),
}

/// The watches of a daemon. Making them walks the whole worktree, which a thread of their own does.
#[derive(Debug)]
pub(crate) struct Watches {
    orders: Sender<Order>,
    roots: Arc<Roots>,
}

impl Watches {
    pub(crate) fn new(waker: &Waker) -> Option<Self> {
        let roots = Arc::new(Roots::default());
        let (orders, taken) = channel();
        let watcher = watcher(&roots, waker)
            .inspect_err(|error| tracing::warn!(%error, "no word of changes in worktrees; looking at intervals instead"))
            .ok()?;
        let keeper = Keeper { watcher, roots: Arc::clone(&roots), waker: waker.clone() };
        std::thread::Builder::new().name("watches".to_owned()).spawn(move || keeper.keep(&taken)).ok()?;
        Some(Self { orders, roots })
    }

    /// From now on these are watched and no others.
    pub(crate) fn watch_only(&self, wanted: &BTreeSet<PathBuf>) {
        let mut roots = self.roots.lock();
        let order = |order| {
            // A keeper that is gone leaves everything to the timer.
            let _ = self.orders.send(order);
        };
        roots.retain(|root, _| {
            let keep = wanted.contains(root);
            if !keep {
                order(Order::Unwatch(root.clone()));
            }
            keep
        });
        for root in wanted {
            if !roots.contains_key(root) {
                roots.insert(root.clone(), false);
                order(Order::Watch(root.clone()));
            }
        }
    }

    /// The folders in which something has happened since each was settled.
    pub(crate) fn touched(&self) -> Vec<PathBuf> {
        let roots = self.roots.lock();
        roots.iter().filter(|(_, touched)| **touched).map(|(root, _)| root.clone()).collect()
    }

    /// The folder is about to be looked at: what happens from now on is news again. Until then it wakes nobody twice.
    pub(crate) fn settle(&self, root: &Path) {
        if let Some(touched) = self.roots.lock().get_mut(root) {
            *touched = false;
        }
    }
}

struct Keeper {
    watcher: RecommendedWatcher,
    roots: Arc<Roots>,
    waker: Waker,
}

impl Keeper {
    fn keep(mut self, orders: &Receiver<Order>) {
        for order in orders {
            match order {
                Order::Watch(path) => self.watch(&path),
                Order::Unwatch(path) => {
                    let _ = self.watcher.unwatch(&path);
                }
            }
        }
    }

    fn watch(&mut self, path: &Path) {
        match self.watcher.watch(path, RecursiveMode::Recursive) {
            Ok(()) => {
                // What changed before the watches stood was not told.
                if self.roots.touch(Some(path)) {
                    self.waker.wake();
                }
            }
            Err(error) => {
                tracing::info!(%error, path = %path.display(), "cannot watch a worktree; looking at intervals instead");
                let _ = self.watcher.unwatch(path);
            }
        }
    }
}

fn watcher(roots: &Arc<Roots>, waker: &Waker) -> notify::Result<RecommendedWatcher> {
    let (roots, waker) = (Arc::clone(roots), waker.clone());
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let news = match event {
            Ok(event) if event.need_rescan() => roots.touch(None),
            // Our own looks open and read; answering those would never end.
            Ok(event) => {
                let kind = event.kind;
                let changes = matches!(kind, EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(_))
                    && !matches!(kind, EventKind::Modify(ModifyKind::Metadata(_)));
                changes && event.paths.iter().filter(|path| roots.touch(Some(path))).count() > 0
            }
            Err(_) => roots.touch(None),
        };
        if news {
            waker.wake();
        }
    })
}
