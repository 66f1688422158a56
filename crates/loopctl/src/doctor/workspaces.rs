//! The folder of store and workspaces: that it can be used, and that the store has what has landed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use coord_db::{Config, TestId};
use git::{CommitHash, Depth, Layout, Repository};
use rustix::fs::{Access, access};

use super::{Report, disk};
use crate::place::existing;

/// Looks at the folder. `landed` are the passed tests and the commits that they landed as.
pub fn examine(config: &Config, root: &Path, database: &Path, landed: &[(TestId, String)], report: &mut Report) {
    let folder = config.workspace_root();
    let layout = Layout::new(&folder);
    let (shown, above) = (folder.display(), existing(&folder));
    let elsewhere = "set root in [workspace] of config.toml to an empty folder on the same disk, outside of the checkout";
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if resolved(above).starts_with(resolved(root)) {
        return report.problem(
            "workspaces",
            format!("{shown} lies in the checkout, where tools would find your files"),
            elsewhere,
        );
    }
    match layout.database() {
        Some(other) if other.exists() && database.exists() && resolved(&other) != resolved(database) => {
            return report.problem("workspaces", format!("{shown} belongs to the database {}", other.display()), elsewhere);
        }
        None if layout.holds_something_else() => {
            return report.problem("workspaces", format!("{shown} holds files that coding-loops did not make"), elsewhere);
        }
        _ => {}
    }
    if access(above, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return report.problem("workspaces", format!("{} cannot be written", above.display()), elsewhere);
    }
    disk("workspaces", &folder, "make room: loopctl workspaces shows what is large", report);
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    if device(above) != device(root) {
        report.warning(
            "workspaces",
            format!("{shown} is on another file system than the repository, so objects are copied and not linked"),
            "set root in [workspace] of config.toml to a folder on the same disk, if room is short",
        );
    }
    store(&layout, config, root, landed, report);
}

fn store(layout: &Layout, config: &Config, root: &Path, landed: &[(TestId, String)], report: &mut Report) {
    const REMAKE: &str = "loopctl init, or the next loop, makes it again from your repository and what is whole of it";
    const RESTORE: &str = "loopctl restore FILE brings back what a backup of the store holds";
    let path = layout.store_path();
    let Ok(store) = layout.open_store() else {
        if path.symlink_metadata().is_ok() {
            return report.problem(
                "store",
                format!("{} cannot be read as a store", path.display()),
                format!("{REMAKE}; {RESTORE}"),
            );
        }
        return match landed.len() {
            0 => report.ok("store", "made by loopctl init or the first loop"),
            count => report.warning(
                "store",
                format!("{} is missing, and {count} tests have landed", path.display()),
                format!("loopctl init makes it of the published branch, and {RESTORE}"),
            ),
        };
    };
    let damage = Repository::open(root).and_then(|user| store.damage(&user, Depth::All));
    if let Ok(Some(damage)) = damage {
        let remedy = format!("{REMAKE}; {RESTORE}");
        return report.problem("store", format!("{} is damaged: {damage}", path.display()), remedy);
    }
    let wanted = format!("refs/heads/{}", config.repository.integration_branch);
    let (integration, commits): (_, Vec<CommitHash>) =
        (store.integration(), landed.iter().filter_map(|(_, commit)| CommitHash::new(commit).ok()).collect());
    let missing = match (integration, store.missing(&commits)) {
        (Ok(integration), Ok(missing)) => {
            if integration.is_some() && store.integration_ref() != wanted {
                report.warning(
                    "store",
                    format!("work has landed on {}, and config.toml names another branch", store.integration_ref()),
                    "set repository.integration_branch back to it",
                );
            } else if integration.is_none() && !landed.is_empty() {
                report.warning(
                    "store",
                    format!("it has no {}, and {} tests have landed", store.integration_ref(), landed.len()),
                    format!("the next loop restores it from what has landed; {RESTORE}"),
                );
            }
            missing
        }
        (Err(error), _) | (_, Err(error)) => {
            return report.problem(
                "store",
                format!("{}: {error}", path.display()),
                format!("look with git fsck there; {RESTORE}"),
            );
        }
    };
    let lost: Vec<&str> = landed
        .iter()
        .filter(|(_, commit)| missing.iter().any(|missing| missing.as_str() == commit))
        .map(|(test, _)| test.as_str())
        .collect();
    if lost.is_empty() {
        return report.ok("store", format!("{}, with the commits of {} passed tests", path.display(), landed.len()));
    }
    report.warning(
        "store",
        format!("it lacks the commits of {} passed tests, as of {}", lost.len(), lost[0]),
        format!("{RESTORE}; loopctl reset TEST --force has one done again"),
    );
}
