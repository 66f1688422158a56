//! Lists the changes in a workspace without disturbing the loop that works there.
//!
//! It must write nothing and must not hold the workspace's lock, and it does not trust the agent's git. It stores no
//! objects, so it reports which paths differ and not their tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::call::{LONG_TIME_LIMIT, fields, to_path};
use crate::difference::{Difference, Entry, SUBMODULE, raw_differences};
use crate::nested;
use crate::plan::Plan;
use crate::workspace::State;
use crate::{CommitHash, Result, Workspace};

/// Maximum number of tries if the index is replaced meanwhile.
const MAX_TRIES: u32 = 3;

/// The changes in a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The tree with which the files are compared. It changes with a reset, and when files are updated.
    pub start: CommitHash,
    /// The head of integration; none before it has started.
    pub integration: Option<CommitHash>,
    /// The paths that differ from the start and from integration, sorted: landed files are no changes. Includes files
    /// that only the base ignores.
    pub changed: Vec<PathBuf>,
}

/// The result of `git status` for our index, the files, and integration.
#[derive(Default)]
struct Status {
    integration: Option<CommitHash>,
    /// Paths whose entry in our index differs from integration, with the entry of integration.
    unlanded: BTreeMap<PathBuf, Entry>,
    /// Tracked files that differ from our index.
    modified: Vec<PathBuf>,
    untracked: Vec<PathBuf>,
    /// Folders with a repository of their own.
    nested: Vec<PathBuf>,
}

impl Workspace {
    /// Lists the changes since the start. None while its loop takes a snapshot or resets it; try again later.
    ///
    /// # Errors
    /// [`crate::Error::WorkspaceDamaged`] if the folder or our record of it is missing.
    pub fn glance(&self) -> Result<Option<Glance>> {
        for _ in 0..MAX_TRIES {
            if self.is_locked() {
                return Ok(None);
            }
            let before = self.stamps();
            let seen = self.glance_once();
            if self.stamps() == before && !self.is_locked() {
                return seen.map(Some);
            }
        }
        Ok(None)
    }

    /// True if a process holds the workspace's lock.
    fn is_locked(&self) -> bool {
        let Ok(file) = fs::File::open(self.spec.state.join("lock")) else { return false };
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
    }

    /// Identifies the content of our record and index, which are replaced by renaming.
    fn stamps(&self) -> [Option<(u64, i64, i64)>; 2] {
        ["state.json", "index"].map(|name| {
            let meta = self.spec.state.join(name).metadata().ok()?;
            Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
        })
    }

    fn glance_once(&self) -> Result<Glance> {
        if !self.root().symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            return Err(self.damaged(crate::Damage::Missing));
        }
        let state = self.state()?;
        let staged: BTreeMap<PathBuf, Difference> = if state.index_tree.as_ref() == Some(&state.start_tree) {
            BTreeMap::new()
        } else {
            let call =
                ["diff-index", "--cached", "-z", "--raw", "--no-renames", "--no-abbrev", state.start_tree.as_str(), "--"];
            let call = self.git.call(call);
            let staged = raw_differences(&call, &call.ok()?)?;
            staged.into_iter().map(|difference| (difference.path.clone(), difference)).collect()
        };
        let mut status = self.status()?;
        let mut changed = self.nested_changes(&state, &mut status)?;
        let differ: BTreeSet<&PathBuf> = status.modified.iter().chain(&status.untracked).collect();
        let is_link = |entry: &Entry| entry.as_ref().is_some_and(|(mode, _)| mode == SUBMODULE);
        let in_index = staged.values().filter(|difference| !differ.contains(&difference.path));
        let in_index = in_index.filter(|difference| is_link(&difference.new) || status.unlanded.contains_key(&difference.path));
        changed.extend(in_index.map(|difference| difference.path.clone()));
        // A file that differs from the index may equal the start or integration.
        let mut doubtful = BTreeMap::new();
        for path in differ {
            let start = staged.get(path).map(|difference| &difference.old);
            let equals: Vec<&Entry> = start.into_iter().chain(status.unlanded.get(path)).collect();
            if equals.is_empty() {
                changed.insert(path.clone());
            } else {
                doubtful.insert(path, equals);
            }
        }
        let now = self.entries(doubtful.keys().copied())?;
        changed.extend(
            doubtful
                .into_iter()
                .filter(|(path, equals)| now.get(*path).is_none_or(|now| !equals.contains(&now)))
                .map(|(path, _)| path.clone()),
        );
        Ok(Glance { start: state.start_tree, integration: status.integration, changed: changed.into_iter().collect() })
    }

    /// The store's HEAD is integration, so one run of git compares it, our index and the files.
    fn status(&self) -> Result<Status> {
        let call = self.git.call([
            "status",
            "--porcelain=v2",
            "-z",
            "--branch",
            "--untracked-files=all",
            "--no-renames",
            "--ignore-submodules=all",
            "--no-ahead-behind",
        ]);
        let call = call.time_limit(LONG_TIME_LIMIT);
        let mut status = Status::default();
        for line in fields(&call.ok()?) {
            if let Some(hash) = line.strip_prefix(b"# branch.oid ") {
                status.integration = CommitHash::new(String::from_utf8_lossy(hash)).ok();
            } else if let Some(path) = line.strip_prefix(b"? ") {
                match path.strip_suffix(b"/") {
                    Some(folder) => status.nested.push(to_path(folder)),
                    None => status.untracked.push(to_path(path)),
                }
            } else if line.starts_with(b"1 ") {
                let words: Vec<&[u8]> = line.splitn(9, |&byte| byte == b' ').collect();
                let &[_, &[staged, modified], _, mode, _, _, hash, _, path] = words.as_slice() else {
                    return Err(call.unexpected("an entry without a path"));
                };
                let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
                if staged != b'.' {
                    let hash = CommitHash::new(text(hash)).map_err(|error| call.unexpected(error.to_string()))?;
                    status.unlanded.insert(to_path(path), (mode != b"000000").then(|| (text(mode), hash)));
                }
                if modified != b'.' {
                    status.modified.push(to_path(path));
                }
            }
        }
        Ok(status)
    }

    /// The changed submodules. Files of other nested repositories count as untracked.
    fn nested_changes(&self, state: &State, status: &mut Status) -> Result<BTreeSet<PathBuf>> {
        if !state.has_links && status.nested.is_empty() {
            return Ok(BTreeSet::new());
        }
        let modules = nested::declared_submodules(&self.git, self.root());
        let mut plan = Plan::default();
        for folder in &status.nested {
            self.plan_nested(folder, &modules, &mut plan, &mut status.untracked)?;
        }
        if state.has_links {
            self.plan_submodules(&modules, &mut plan, &mut status.untracked)?;
        }
        Ok(plan.links.into_iter().map(|(path, _)| path).chain(plan.removed).collect())
    }

    /// Files as tree entries; paths for which that is unknown are left out.
    fn entries<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>) -> Result<BTreeMap<PathBuf, Entry>> {
        let (mut entries, mut files, mut list) = (BTreeMap::new(), Vec::new(), Vec::new());
        for path in paths {
            match self.root().join(path).symlink_metadata() {
                Err(_) => drop(entries.insert(path.clone(), None)),
                Ok(meta) if meta.is_file() && is_one_line(path) => {
                    list.extend_from_slice(path.as_os_str().as_bytes());
                    list.push(b'\n');
                    files.push((path, if meta.permissions().mode() & 0o100 == 0 { "100644" } else { "100755" }));
                }
                Ok(_) => {}
            }
        }
        if files.is_empty() {
            return Ok(entries);
        }
        let call = self.git.call(["hash-object", "--stdin-paths"]).stdin(list).time_limit(LONG_TIME_LIMIT);
        let hashes = String::from_utf8_lossy(&call.ok()?).into_owned();
        for ((path, mode), hash) in files.into_iter().zip(hashes.lines()) {
            let hash = CommitHash::new(hash).map_err(|error| call.unexpected(error.to_string()))?;
            entries.insert(path.clone(), Some((mode.to_owned(), hash)));
        }
        Ok(entries)
    }
}

/// True if the path can be passed to git on one line.
fn is_one_line(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    !bytes.starts_with(b"\"") && !bytes.contains(&b'\n')
}
