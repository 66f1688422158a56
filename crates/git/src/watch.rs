//! Watches workspaces for changes with inotify.
//!
//! `.git` is not watched, and ignored folders only on request, to detect activity. A notice is only a hint: without
//! inotify watches there is none, so its receiver must also read at intervals.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::Workspace;

const GIT: &str = ".git";
/// Maximum number of events that are read before they are handled.
const MAX_EVENTS: usize = 10_000;

/// A notice about a watched workspace. `root` is its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// A file or folder was changed, created or deleted.
    Changed {
        /// The workspace.
        root: &'a Path,
        /// The path relative to the root.
        path: &'a Path,
    },
    /// Something has changed in an ignored folder.
    Ignored {
        /// The workspace.
        root: &'a Path,
    },
    /// Changes are reported from now on, or some were missed: read the whole workspace.
    Unknown {
        /// The workspace.
        root: &'a Path,
    },
    /// It is not watched, because its folder is missing or there are no watches left: read it at intervals.
    Unwatched {
        /// The workspace.
        root: &'a Path,
    },
}

enum Order {
    Watch(Box<Workspace>),
    Unwatch(PathBuf),
}

/// Watches any number of workspaces on a thread that ends when this is dropped.
#[derive(Debug)]
pub struct Watches {
    orders: Sender<Order>,
    bell: UnixStream,
}

impl Watches {
    /// Starts the thread. It calls `notice` for every change, in ignored folders too if `with_ignored`. Fails if the
    /// kernel has no inotify.
    pub fn new(with_ignored: bool, notice: impl FnMut(Notice<'_>) + Send + 'static) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let (bell, receiver) = UnixStream::pair()?;
        for end in [&bell, &receiver] {
            end.set_nonblocking(true)?;
        }
        let (orders, taken) = channel();
        let keeper = Keeper {
            inotify,
            with_ignored,
            notice,
            workspaces: BTreeMap::new(),
            given_up: BTreeSet::new(),
            folders: BTreeMap::new(),
            by_watch: HashMap::new(),
        };
        std::thread::Builder::new().name("watches".to_owned()).spawn(move || keeper.keep(&taken, receiver))?;
        Ok(Self { orders, bell })
    }

    /// Watches a workspace. Cheap if it is already watched; a replaced workspace is watched again.
    pub fn watch(&self, workspace: &Workspace) {
        self.order(Order::Watch(Box::new(workspace.clone())));
    }

    /// Ends the watch of the workspace with this root.
    pub fn unwatch(&self, root: &Path) {
        self.order(Order::Unwatch(root.to_owned()));
    }

    fn order(&self, order: Order) {
        // If the thread has ended, only the intervals remain; a full bell will be read.
        let _ = self.orders.send(order);
        let _ = (&self.bell).write(&[0]);
    }
}

/// A watched folder.
struct Watched {
    /// The kernel's watch descriptor.
    watch: i32,
    is_ignored: bool,
}

struct Keeper<F> {
    inotify: OwnedFd,
    with_ignored: bool,
    notice: F,
    workspaces: BTreeMap<PathBuf, Workspace>,
    /// Workspaces for which there were no watches left.
    given_up: BTreeSet<PathBuf>,
    folders: BTreeMap<PathBuf, Watched>,
    by_watch: HashMap<i32, PathBuf>,
}

/// New folders of one workspace.
#[derive(Default)]
struct New {
    folders: Vec<PathBuf>,
    ignored: Vec<PathBuf>,
    rules_changed: bool,
}

impl<F: FnMut(Notice<'_>)> Keeper<F> {
    fn keep(mut self, orders: &Receiver<Order>, mut bell: UnixStream) {
        loop {
            {
                let mut wanted = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&bell, PollFlags::IN)];
                if poll(&mut wanted, None).is_err_and(|error| error != Errno::INTR) {
                    return;
                }
            }
            while bell.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
            loop {
                match orders.try_recv() {
                    Ok(Order::Watch(workspace)) => self.watch(*workspace),
                    Ok(Order::Unwatch(root)) => {
                        self.workspaces.remove(&root);
                        self.given_up.remove(&root);
                        self.forget(&root);
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.read_events();
        }
    }

    fn watch(&mut self, workspace: Workspace) {
        let root = workspace.root().to_owned();
        if self.folders.contains_key(&root) || self.given_up.contains(&root) {
            return;
        }
        self.workspaces.insert(root.clone(), workspace);
        self.refresh(&root);
    }

    /// Watches exactly the required folders of a workspace.
    fn refresh(&mut self, root: &Path) {
        let Some(kept) = self.descend(root, vec![root.to_owned()], false) else { return };
        let stale: Vec<PathBuf> = below(&self.folders, root).filter(|folder| !kept.contains(*folder)).cloned().collect();
        for folder in stale {
            self.remove(&folder);
        }
        (self.notice)(if kept.contains(root) { Notice::Unknown { root } } else { Notice::Unwatched { root } });
    }

    /// Watches folders recursively; returns them. None if they cannot be watched.
    fn descend(&mut self, root: &Path, mut level: Vec<PathBuf>, is_ignored: bool) -> Option<BTreeSet<PathBuf>> {
        let (mut found, mut ignored) = (BTreeSet::new(), Vec::new());
        while !level.is_empty() {
            let mut next = Vec::new();
            for folder in level {
                // Watched before it is listed, so that nothing created in between is missed.
                match self.add(&folder, is_ignored) {
                    Ok(()) => {}
                    Err(Errno::NOSPC | Errno::NOMEM) if is_ignored => return Some(found),
                    Err(Errno::NOSPC | Errno::NOMEM) => {
                        tracing::warn!(
                            workspace = ?root,
                            "no inotify watches left; changes are found at intervals; raise fs.inotify.max_user_watches"
                        );
                        self.workspaces.remove(root);
                        self.given_up.insert(root.to_owned());
                        self.forget(root);
                        (self.notice)(Notice::Unwatched { root });
                        return None;
                    }
                    // It was deleted, or is no longer a folder.
                    Err(_) => continue,
                }
                let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
                let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                next.extend(folders.filter(|entry| entry.file_name() != GIT).map(|entry| entry.path()));
                found.insert(folder);
            }
            level = next;
            if !is_ignored {
                let by_git = self.ignored_of(root, &level);
                ignored.extend(level.extract_if(.., |folder| by_git.contains(folder)));
            }
        }
        if self.with_ignored && !ignored.is_empty() {
            found.extend(self.descend(root, ignored, true)?);
        }
        Some(found)
    }

    /// The folders that git ignores.
    fn ignored_of(&self, root: &Path, folders: &[PathBuf]) -> BTreeSet<PathBuf> {
        let Some(workspace) = self.workspaces.get(root) else { return BTreeSet::new() };
        // The slash tells git that it is a folder even if it was deleted meanwhile.
        let slashed = |path: &PathBuf| Some(path.strip_prefix(root).ok()?.join(""));
        let relative: Vec<PathBuf> = folders.iter().filter_map(slashed).collect();
        let ignored = workspace.ignored_paths(relative.iter()).unwrap_or_else(|error| {
            tracing::debug!(%error, workspace = ?root, "cannot determine the ignored folders; watching all folders");
            BTreeSet::new()
        });
        ignored.iter().map(|path| root.join(path)).collect()
    }

    fn add(&mut self, folder: &Path, is_ignored: bool) -> rustix::io::Result<()> {
        let changes = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::MOVE;
        let place = WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW | WatchFlags::EXCL_UNLINK;
        let watch = inotify::add_watch(&self.inotify, folder, changes | place)?;
        if let Some(before) = self.by_watch.insert(watch, folder.to_owned()).filter(|before| before != folder) {
            self.folders.remove(&before);
        }
        self.folders.insert(folder.to_owned(), Watched { watch, is_ignored });
        Ok(())
    }

    fn remove(&mut self, folder: &Path) {
        if let Some(Watched { watch, .. }) = self.folders.remove(folder) {
            self.by_watch.remove(&watch);
            // If the folder was deleted, the kernel has already removed the watch.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }

    /// Ends the watches of a folder recursively.
    fn forget(&mut self, folder: &Path) {
        let gone: Vec<PathBuf> = below(&self.folders, folder).cloned().collect();
        for folder in gone {
            self.remove(&folder);
        }
    }

    fn read_events(&mut self) {
        let mut new: BTreeMap<PathBuf, New> = BTreeMap::new();
        for (watch, flags, name) in self.read() {
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                let all = self.workspaces.keys().map(|root| (root.clone(), New { rules_changed: true, ..New::default() }));
                new = all.collect();
                continue;
            }
            let Some(folder) = self.by_watch.get(&watch).cloned() else { continue };
            let Some(root) = folder.ancestors().find(|path| self.workspaces.contains_key(*path)).map(Path::to_owned) else {
                continue;
            };
            match name {
                // The folder itself was deleted or moved.
                None if flags.intersects(ReadFlags::IGNORED | ReadFlags::MOVE_SELF) => {
                    self.forget(&folder);
                    if folder == root {
                        new.entry(root).or_default().rules_changed = true;
                    }
                }
                Some(name) if name != GIT => {
                    let is_ignored = self.folders.get(&folder).is_some_and(|folder| folder.is_ignored);
                    self.changed(&root, &folder.join(&name), flags, is_ignored, new.entry(root.clone()).or_default());
                }
                _ => {}
            }
        }
        for (root, new) in new {
            if new.rules_changed {
                self.refresh(&root);
                continue;
            }
            let by_git = self.ignored_of(&root, &new.folders);
            let (below_ignored, shown): (Vec<_>, Vec<_>) = new.folders.into_iter().partition(|path| by_git.contains(path));
            let ignored: Vec<PathBuf> = new.ignored.into_iter().chain(below_ignored).collect();
            if self.with_ignored && !ignored.is_empty() {
                self.descend(&root, ignored, true);
                (self.notice)(Notice::Ignored { root: &root });
            }
            if !shown.is_empty() && self.descend(&root, shown.clone(), false).is_some() {
                for path in shown.iter().filter_map(|path| path.strip_prefix(&root).ok()) {
                    (self.notice)(Notice::Changed { root: &root, path });
                }
            }
        }
    }

    fn changed(&mut self, root: &Path, path: &Path, flags: ReadFlags, is_ignored: bool, new: &mut New) {
        if flags.contains(ReadFlags::ISDIR) {
            if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                let list = if is_ignored { &mut new.ignored } else { &mut new.folders };
                list.push(path.to_owned());
                return;
            }
            let went = flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
            // A folder without a watch was ignored or empty.
            if !went || !self.folders.contains_key(path) {
                return;
            }
            self.forget(path);
        }
        new.rules_changed |= path.file_name() == Some(OsStr::new(".gitignore"));
        let Ok(path) = path.strip_prefix(root) else { return };
        (self.notice)(if is_ignored { Notice::Ignored { root } } else { Notice::Changed { root, path } });
    }

    /// Reads the events, without consecutive duplicates.
    fn read(&self) -> Vec<(i32, ReadFlags, Option<OsString>)> {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut events = Vec::new();
        while events.len() < MAX_EVENTS || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                    events.push((event.wd(), event.events(), name));
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        events.dedup();
        events
    }
}

/// The folder and everything below it; names are ordered by component.
fn below<'a>(folders: &'a BTreeMap<PathBuf, Watched>, folder: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
    folders.range(folder.to_owned()..).map(|(path, _)| path).take_while(move |path| path.starts_with(folder))
}
