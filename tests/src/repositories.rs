//! What must hold of the user's repository and of the folder of workspaces once everything has ended, however it ended.

use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::git;

/// The full name of the branch that everything lands on.
pub const INTEGRATION: &str = "refs/heads/coding-loops/integration";

/// The folder of store and workspaces of a repository.
#[must_use]
pub fn root(repository: &Path) -> PathBuf {
    let mut name = repository.as_os_str().to_owned();
    name.push("-loops");
    name.into()
}

/// What is wrong: folders and files that are not these loops', locks and halves of operations, objects that are missing, a
/// published branch that is not what has landed.
///
/// # Panics
/// If it cannot be looked at.
#[must_use]
pub fn problems(repository: &Path, loops: &[&str]) -> Vec<String> {
    let (root, mut problems) = (root(repository), Vec::new());
    let mut known = |folder: &str, is_known: &dyn Fn(&str) -> bool| {
        for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
            if !is_known(&entry.file_name().to_string_lossy()) {
                problems.push(format!("{} is stray", entry.path().display()));
            }
        }
    };
    let of_loop = |name: &str| loops.contains(&name);
    let of_check_out = |name: &str, is_known: &dyn Fn(&str) -> bool| {
        let of = [".git", ".lock", ".setup"].into_iter().find_map(|end| name.strip_suffix(end));
        is_known(of.unwrap_or(name))
    };
    let of_root =
        ["README", "database", "store.git.lock", "store.git", "loops", "state", "gates", "checker", "left"].as_slice();
    known("", &|name| of_root.contains(&name));
    for folder in ["loops", "state", "left"] {
        known(folder, &of_loop);
    }
    for id in loops {
        known(&format!("state/{id}"), &|name| ["index", "lock", "state.json", "setup", "modules"].contains(&name));
    }
    // The human's is of a command that brings commits in; the landing train has one for each state that it judges at once.
    let is_gate = |name: &str| name == "human" || name.starts_with("landing-train-") || of_loop(name);
    known("gates", &|name| of_check_out(name, &is_gate));
    known("checker", &|name| of_check_out(name, &|name| name.parse::<u32>().is_ok()));
    let store = root.join("store.git");
    let mut folders = vec![repository.join(".git"), store.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_half = [".lock", ".new", ".keep"].iter().any(|end| name.ends_with(end))
                || ["transfer-", "rebase-"].iter().any(|begin| name.starts_with(begin))
                || name == "worktrees"
                || name.ends_with("_HEAD") && name != "ORIG_HEAD";
            if is_half && name != "coding-loops.lock" {
                problems.push(format!("{} is left", entry.path().display()));
            }
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    for at in [repository, &store] {
        let output = Command::new("git").args(["fsck", "--strict", "--no-dangling"]).current_dir(at).output().expect("git");
        if !output.status.success() {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            problems.push(format!("{}: {out}{err}", at.display()));
        }
    }
    let (landed, main) = (git(&store, ["rev-parse", INTEGRATION]), git(repository, ["rev-parse", "main"]));
    let refs = git(repository, ["for-each-ref", "--format=%(refname) %(objectname)"]);
    let wanted = format!("{INTEGRATION} {landed}\nrefs/heads/main {main}");
    if refs != wanted {
        problems.push(format!("the user's references are\n{refs}\ninstead of\n{wanted}"));
    }
    problems
}
