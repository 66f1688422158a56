//! The folder of store and workspaces: that it can be used, and that the store has what has landed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use coord_db::{Config, TestId};
use git::{CommitHash, Depth, Layout, Repository};
use rustix::fs::{Access, access};
use views::sentence::count;

use super::{Report, disk};
use crate::place::existing;

/// Looks at the folder. `landed` are the passed tests and the commits that they landed as.
pub fn examine(config: &Config, root: &Path, database: &Path, landed: &[(TestId, String)], report: &mut Report) {
    let folder = config.workspace_root();
    let layout = Layout::new(&folder);
    let (shown, above) = (folder.display(), existing(&folder));
    let elsewhere = "set [workspace] root in config.toml to an empty folder on the same disk, outside the checkout";
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if resolved(above).starts_with(resolved(root)) {
        return report.problem(
            "workspaces",
            format!("{shown} is in the checkout, where tools would find your files"),
            elsewhere,
        );
    }
    match layout.database() {
        Some(other) if other.exists() && database.exists() && resolved(&other) != resolved(database) => {
            return report.problem("workspaces", format!("{shown} belongs to the database {}", other.display()), elsewhere);
        }
        None if layout.holds_something_else() => {
            return report.problem("workspaces", format!("{shown} contains files of other programs"), elsewhere);
        }
        _ => {}
    }
    if access(above, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return report.problem("workspaces", format!("{} is not writable", above.display()), elsewhere);
    }
    disk("workspaces", &folder, "free disk space; loopctl workspaces shows what is large", report);
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    if device(above) != device(root) {
        report.warning(
            "workspaces",
            format!("{shown} is on another file system than the repository; git objects are copied instead of linked"),
            "if disk space is short, set [workspace] root in config.toml to a folder on the same disk",
        );
    }
    store(&layout, config, root, landed, report);
}

fn tests(number: usize) -> String {
    count(i64::try_from(number).unwrap_or(i64::MAX), "passed test")
}

fn store(layout: &Layout, config: &Config, root: &Path, landed: &[(TestId, String)], report: &mut Report) {
    const REMAKE: &str = "loopctl init, or the next loop, creates it again from your repository and its intact parts";
    const RESTORE: &str = "loopctl restore FILE restores the refs of a backup";
    let path = layout.store_path();
    let Ok(store) = layout.open_store() else {
        if path.symlink_metadata().is_ok() {
            return report.problem(
                "store",
                format!("{} is not a readable store", path.display()),
                format!("{REMAKE}; {RESTORE}"),
            );
        }
        return match landed.len() {
            0 => report.ok("store", "loopctl init or the first loop creates it"),
            count => report.warning(
                "store",
                format!("{} is missing, but {} landed", path.display(), tests(count)),
                format!("loopctl init creates it from the published branch, and {RESTORE}"),
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
                    format!("work has landed on {}, but config.toml names another branch", store.integration_ref()),
                    "set repository.integration_branch to that branch",
                );
            } else if integration.is_none() && !landed.is_empty() {
                report.warning(
                    "store",
                    format!("it has no {}, but {} landed", store.integration_ref(), tests(landed.len())),
                    format!("the next loop restores it from the landed commits; {RESTORE}"),
                );
            }
            missing
        }
        (Err(error), _) | (_, Err(error)) => {
            return report.problem("store", format!("{}: {error}", path.display()), format!("run git fsck there; {RESTORE}"));
        }
    };
    let lost: Vec<&str> = landed
        .iter()
        .filter(|(_, commit)| missing.iter().any(|missing| missing.as_str() == commit))
        .map(|(test, _)| test.as_str())
        .collect();
    if lost.is_empty() {
        return report.ok("store", format!("{}, with the commits of {}", path.display(), tests(landed.len())));
    }
    report.warning(
        "store",
        format!("the commits of {} are missing, for example of {}", tests(lost.len()), lost[0]),
        format!("{RESTORE}; loopctl reset TEST --force runs a test again"),
    );
}
