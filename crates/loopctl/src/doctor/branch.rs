//! The published branch: that it is nobody's but the loops', and where it stands against what has landed.

use std::collections::BTreeSet;
use std::path::Path;

use coord_db::{Config, Loop, ReadTx};
use git::{Layout, Published, Repository};
use views::published;
use views::sentence::count;

use super::Report;

/// The integration branches that loops have worked on, by the journal.
///
/// # Errors
/// If the database cannot be read.
pub fn made_by_loops(tx: &ReadTx<'_>) -> coord_db::Result<BTreeSet<String>> {
    let entries = tx.journal(None, usize::MAX / 2)?;
    Ok(entries.iter().filter_map(|entry| entry.steps.text("integration_branch").map(str::to_owned)).collect())
}

/// What the commits are that are on the branch and on no branch of the user's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Commits {
    pub(crate) ours: usize,
    pub(crate) foreign: Vec<String>,
}

const OTHER: &str = "set repository.integration_branch in config.toml to a name that no branch has yet";

/// Looks at the branch that work lands on.
pub fn examine(config: &Config, root: &Path, loops: &[Loop], made: &BTreeSet<String>, report: &mut Report) {
    let name = config.repository.integration_branch.as_str();
    let repository = match Repository::open(root) {
        Ok(repository) => repository,
        Err(error) => return report.problem("branch", error.to_string(), "run git status in the repository"),
    };
    if !repository.is_branch_name(name) {
        return report.problem("branch", format!("{name:?} is not a valid branch name"), OTHER);
    }
    if ["main", "master", "trunk"].contains(&name) || is_default_of_a_remote(&repository, name) {
        return report.problem("branch", format!("the integration branch {name} is your own main branch"), OTHER);
    }
    if let Some(other) = published::in_the_way(&repository, name) {
        return report.problem("branch", published::cannot_have(name, &other), OTHER);
    }
    let checked_out = repository.branch_checked_out(name).ok().flatten();
    match published(config, &repository) {
        Ok(None) => before_landing(&repository, name, loops, made, checked_out.as_deref(), report),
        Ok(Some(found)) => match (published::trouble(&found, name), checked_out) {
            (Some((what, remedy)), _) => report.warning("branch", what, remedy),
            (None, Some(path)) => waits(name, &path, report),
            (None, None) => report.ok("branch", state(&found, name, commits(&repository, name, loops).ours)),
        },
        Err(error) => report.problem("branch", error.to_string(), "run git status in the repository"),
    }
}

/// Looks at the user's branch whose new commits are brought in.
pub fn examine_followed(config: &Config, root: &Path, report: &mut Report) {
    let Ok(repository) = Repository::open(root) else { return };
    match coding_loop::followed_branch(config, &repository) {
        Ok(branch) => {
            let by = if config.repository.follow_automatically { "the loops merge" } else { "loopctl sync merges" };
            report.ok("follow", format!("{by} new commits of {branch}"));
        }
        // The loops work without it.
        Err(error) => {
            let error = error.to_string();
            let (what, remedy) = error.split_once("; ").unwrap_or((&error, "set follow in [repository] of config.toml"));
            report.warning("follow", what, remedy);
        }
    }
}

/// Asks the remote at which integration is kept; nothing without one.
pub fn examine_remote(config: &Config, root: &Path, report: &mut Report) {
    let named = &config.repository.remote;
    if named.is_empty() {
        return;
    }
    let address = Repository::open(root).and_then(|user| git::address_of(&user, named));
    let shown = match address {
        Ok(address) => git::without_password(&address),
        Err(error) => return report.problem("remote", error.to_string(), "git remote -v shows the remotes of your repository"),
    };
    let store = Layout::new(config.workspace_root()).open_store().ok().filter(|store| store.remote().as_ref() == Some(&shown));
    let Some(store) = store else {
        return report.ok("remote", format!("{shown}; the next loop that starts connects to it"));
    };
    match store.sent() {
        Ok(sent) => {
            let copies = count(i64::try_from(sent.len()).unwrap_or(i64::MAX), "reference");
            report.ok("remote", format!("integration is kept at {shown}, with copies of {copies}"));
        }
        Err(error) => report.problem(
            "remote",
            error.to_string(),
            "try git ls-remote with this address; work is done meanwhile, and lands once the remote answers",
        ),
    }
}

/// What publishing would find; none while nothing has landed that the store knows of.
fn published(config: &Config, repository: &Repository) -> git::Result<Option<Published>> {
    match Layout::new(config.workspace_root()).open_store() {
        Ok(store) => published::look(&store, repository, config),
        // What there is instead is said of the store.
        Err(_) => Ok(None),
    }
}

fn state(found: &Published, name: &str, ahead: usize) -> String {
    match found {
        Published::Moved { to, .. } => format!("{name}; the next loop publishes {}", to.short()),
        _ => ahead_of_users(name, ahead),
    }
}

fn ahead_of_users(name: &str, commits: usize) -> String {
    format!("{name}, {} ahead of your branches", count(i64::try_from(commits).unwrap_or(i64::MAX), "commit"))
}

fn waits(name: &str, path: &Path, report: &mut Report) {
    report.warning(
        "branch",
        format!("the integration branch {name} is checked out at {}; landed work is not published to it", path.display()),
        "switch that checkout to another branch; the loops continue meanwhile",
    );
}

/// The branch before the store has any work: whose it is.
fn before_landing(
    repository: &Repository,
    name: &str,
    loops: &[Loop],
    made: &BTreeSet<String>,
    checked_out: Option<&Path>,
    report: &mut Report,
) {
    if !exists(repository, name) {
        return report.ok("branch", format!("{name}; the first loop creates it"));
    }
    let commits = commits(repository, name, loops);
    let count = commits.foreign.len();
    let example = commits.foreign.first().map(String::as_str).unwrap_or_default();
    let is_known = commits.ours > 0 || made.contains(name);
    if count > 0 && commits.ours == 0 {
        let detail = format!(
            "the integration branch {name} is your own: its {count} commits are not of the loops, for example {example}"
        );
        return report.problem("branch", detail, OTHER);
    }
    match checked_out {
        Some(path) if !is_known => {
            let detail = format!("the integration branch {name} is your own, checked out at {}", path.display());
            return report.problem("branch", detail, OTHER);
        }
        Some(path) => return waits(name, path, report),
        None => {}
    }
    if count > 0 {
        report.warning(
            "branch",
            format!("{count} commits on the integration branch {name} are not of the loops, for example {example}"),
            "commit on your own branch; these commits are not verified",
        );
    } else if !is_known && !name.starts_with("coding-loops/") {
        report.warning(
            "branch",
            format!("the branch {name} existed before the loops, and they will move it"),
            format!("if it is yours, {OTHER}"),
        );
    } else {
        report.ok("branch", ahead_of_users(name, commits.ours));
    }
}

fn exists(repository: &Repository, name: &str) -> bool {
    repository.resolve(&format!("refs/heads/{name}")).is_ok_and(|found| found.is_some())
}

fn is_default_of_a_remote(repository: &Repository, name: &str) -> bool {
    let remotes = repository.list_refs("refs/remotes/").unwrap_or_default();
    remotes.iter().filter_map(|(full, _)| full.strip_suffix("/HEAD")).any(|remote| {
        let target = repository.symbolic_target(&format!("{remote}/HEAD"));
        target.is_ok_and(|target| target.is_some_and(|target| target == format!("{remote}/{name}")))
    })
}

/// The commits of the branch that are on no other branch but the loops' own. What lands carries the trailers Loop and Test.
pub(crate) fn commits(repository: &Repository, name: &str, loops: &[Loop]) -> Commits {
    let mut found = Commits::default();
    let Ok(Some(head)) = repository.resolve(&format!("refs/heads/{name}")) else { return found };
    let is_own = |branch: &str| {
        branch == name || branch.starts_with("coding-loops/") || loops.iter().any(|row| row.branch.as_deref() == Some(branch))
    };
    let is_others = |full: &str| match (full.strip_prefix("refs/heads/"), full.strip_prefix("refs/remotes/")) {
        (Some(branch), _) => !is_own(branch),
        (None, Some(remote)) => !remote.split_once('/').is_some_and(|(_, branch)| is_own(branch)),
        (None, None) => false,
    };
    let refs = repository.list_refs("refs").unwrap_or_default();
    let others: Vec<_> = refs.into_iter().filter(|(full, _)| is_others(full)).map(|(_, hash)| hash).collect();
    for commit in repository.commits_beyond(&head, &others).unwrap_or_default() {
        match (commit.trailer("Loop"), commit.trailer("Test")) {
            (Some(by), Some(test)) if !by.is_empty() && !test.is_empty() => found.ours += 1,
            _ => found.foreign.push(format!("{} {}", commit.hash.short(), commit.subject)),
        }
    }
    // The newest first, as git log has them.
    found.foreign.reverse();
    found
}
