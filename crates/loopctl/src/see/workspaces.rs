//! `loopctl workspaces`: the folders in which agents and checks work, who uses them, and how large they are.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use coord_db::{Loop, LoopId};
use git::Layout;
use serde::Serialize;
use views::text::safe;

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::{Cell, Paint, Table, painted, plain};

/// What follows a workspace's name where a damaged one is kept; a date follows it.
const DAMAGED: &str = ".damaged-";

/// What a folder is for.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Store,
    /// Where a loop's agent works.
    Loop,
    /// Where a loop's checks run.
    Gate,
    /// Where landed work is checked again.
    Checker,
    /// Notes about a workspace.
    State,
}

/// Who uses a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// Its loop works on a test.
    InUse,
    Idle,
    /// No loop of that name is registered.
    NoSuchLoop,
    /// It was damaged and has been replaced; nobody uses what is left of it.
    Damaged,
}

#[derive(Debug, Serialize)]
struct Folder {
    role: Role,
    #[serde(rename = "loop_id")]
    of_loop: Option<String>,
    /// None for what belongs to no loop.
    state: Option<Status>,
    test_id: Option<String>,
    /// Blocks on the disk; a file with several names counts once.
    bytes: u64,
    /// Whether some of it cannot be read, so that it is larger.
    incomplete: bool,
    path: String,
}

/// Whose the check-out is in which `loopctl sync` runs the checks.
const SYNC: &str = "human";

/// `loopctl workspaces`
///
/// # Errors
/// Exit 3 without a database.
pub fn show(cx: &Context) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let loops = db.read(|tx| tx.loops())?;
    let root = config.workspace_root();
    let root = root.canonicalize().unwrap_or(root);
    let mut rows = folders(&Layout::new(&root), &loops);
    {
        let _working = cx.out.working(format!("measuring {}", root.display()));
        measure(&mut rows);
    }
    let empty = format!(
        "no workspaces in {}; loopctl init creates the store, and each loop its workspace",
        safe(&root.display().to_string())
    );
    cx.out.list(&rows, &empty, |rows| {
        Table::of(&["WHAT", "STATE", "SIZE", "PATH"], rows, |row| {
            let what = match (row.role, &row.of_loop) {
                (Role::Store, _) => "store".to_owned(),
                (Role::Loop, name) => name.clone().unwrap_or_default(),
                (Role::Gate, name) if name.as_deref() == Some(SYNC) => "gate of loopctl sync".to_owned(),
                (Role::Gate, name) => {
                    let name = name.as_deref().unwrap_or_default();
                    match LoopId::slot_of_train(name) {
                        Some(slot) => format!("landing train, number {slot}"),
                        None => format!("gate of {name}"),
                    }
                }
                (Role::State, name) => format!("notes on {}", name.as_deref().unwrap_or_default()),
                (Role::Checker, _) => "regression-checker".to_owned(),
            };
            vec![plain(what), state(row), plain(size(row)), plain(&row.path)]
        })
    })?;
    if cx.out.json || cx.out.quiet || rows.is_empty() {
        return Ok(());
    }
    cx.out.text(&format!("\n{} in all", shown(rows.iter().map(|row| row.bytes).sum())))
}

fn state(row: &Folder) -> Cell {
    match (row.state, &row.test_id) {
        (Some(Status::InUse), test) => painted(Paint::Green, format!("in use by test {}", test.as_deref().unwrap_or_default())),
        (Some(Status::Idle), _) => plain("idle"),
        (Some(Status::NoSuchLoop), _) => painted(Paint::Yellow, "no such loop"),
        (Some(Status::Damaged), _) => painted(Paint::Yellow, "damaged, replaced"),
        (None, _) => plain("-"),
    }
}

fn size(row: &Folder) -> String {
    let least = if row.incomplete { "more than " } else { "" };
    format!("{least}{}", shown(row.bytes))
}

/// A number of bytes with a unit: `0 B`, `512 KB`, `1.5 GB`.
fn shown(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];
    let (mut tenths, mut unit) = (bytes.saturating_mul(10), 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    let fraction = if unit > 0 && tenths < 100 { format!(".{}", tenths % 10) } else { String::new() };
    format!("{}{fraction} {}", tenths / 10, UNITS[unit])
}

/// The folders that are there, not measured yet.
fn folders(layout: &Layout, loops: &[Loop]) -> Vec<Folder> {
    let loops: BTreeMap<&str, &Loop> = loops.iter().map(|row| (row.id.as_str(), row)).collect();
    let folder = |role, of_loop, state, test_id, path: PathBuf| Folder {
        role,
        of_loop,
        state,
        test_id,
        bytes: 0,
        incomplete: false,
        path: path.to_string_lossy().into_owned(),
    };
    let mut rows = Vec::new();
    if layout.store_path().is_dir() {
        rows.push(folder(Role::Store, None, None, None, layout.store_path()));
    }
    for (role, above) in [
        (Role::Loop, layout.workspaces()),
        (Role::Gate, layout.gates()),
        (Role::Checker, layout.checker()),
        (Role::State, layout.states()),
    ] {
        for path in folders_in(&above) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // The git folder of a gate's check-out lies beside it and is measured with it.
            let of_gate =
                name.strip_suffix(".git").filter(|_| matches!(role, Role::Gate) && !loops.contains_key(name.as_str()));
            if of_gate.is_some_and(|of| above.join(of).is_dir()) {
                continue;
            }
            if matches!(role, Role::Checker) {
                rows.push(folder(role, None, None, None, path));
                continue;
            }
            let damaged = name.rsplit_once(DAMAGED).map(|(id, _)| id.to_owned()).filter(|id| !id.is_empty());
            // A damaged git folder is kept without the agent's files.
            let of_git = damaged.as_ref().filter(|id| !loops.contains_key(id.as_str())).and_then(|id| id.strip_suffix(".git"));
            let damaged = of_git.map(str::to_owned).or(damaged);
            let of_loop = damaged.clone().unwrap_or(name);
            let known = loops.get(of_loop.as_str());
            let test = known.and_then(|row| row.current_test_id.as_ref()).map(ToString::to_string);
            let (state, test) = match (damaged, known, test) {
                (None, None, _)
                    if matches!(role, Role::Gate) && (of_loop == SYNC || LoopId::slot_of_train(&of_loop).is_some()) =>
                {
                    (Status::Idle, None)
                }
                (Some(_), ..) => (Status::Damaged, None),
                (None, None, _) => (Status::NoSuchLoop, None),
                (None, Some(_), Some(test)) => (Status::InUse, Some(test)),
                (None, Some(_), None) => (Status::Idle, None),
            };
            rows.push(folder(role, Some(of_loop), Some(state), test, path));
        }
    }
    rows
}

/// The folders in a folder, by name; a link is none.
fn folders_in(above: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(above).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Fills in the sizes, several folders at once.
fn measure(rows: &mut [Folder]) {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(rows.len());
    let rows = Mutex::new(rows.iter_mut());
    let next = || rows.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(row) = next() {
                    (row.bytes, row.incomplete) = size_of(Path::new(&row.path));
                    let beside = PathBuf::from(format!("{}.git", row.path));
                    if matches!(row.role, Role::Gate) && beside.is_dir() {
                        let (bytes, incomplete) = size_of(&beside);
                        row.bytes += bytes;
                        row.incomplete |= incomplete;
                    }
                }
            });
        }
    });
}

/// The bytes on the disk of all that is below a folder, on the same file system, and whether some of it cannot be read.
fn size_of(top: &Path) -> (u64, bool) {
    const BLOCK: u64 = 512;
    let Ok(meta) = top.symlink_metadata() else { return (0, true) };
    let device = meta.dev();
    let (mut bytes, mut incomplete) = (meta.blocks() * BLOCK, false);
    let mut seen: HashSet<u64> = HashSet::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            // One that has gone meanwhile has no size.
            incomplete |= folder.symlink_metadata().is_ok();
            continue;
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device || (meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * BLOCK;
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    (bytes, incomplete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KB"),
            (10 * 1024, "10 KB"),
            (1536 << 20, "1.5 GB"),
            (1023 << 20, "1023 MB"),
        ] {
            assert_eq!(shown(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn a_file_with_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(below.join("one"), vec![b'x'; 1 << 20]).unwrap();
        let before = size_of(folder.path());
        assert!(before.0 >= 1 << 20 && before.0 < 3 << 19, "{before:?}");
        std::fs::hard_link(below.join("one"), folder.path().join("two")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("link")).unwrap();
        assert_eq!(size_of(folder.path()), before);
        assert_eq!(size_of(&folder.path().join("none")), (0, true));
    }
}
