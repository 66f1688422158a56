//! What the files of the repository need that is not here, so that workspaces and checks do without it.

use std::path::Path;

use coord_db::{Config, locate};
use git::{INCLUDE_FILE, Repository, Useless, shown, useless_patterns};

use super::Report;

/// Names that are shown of many.
const MAX_NAMED: usize = 3;

/// Looks at the commit that is checked out.
pub fn examine(config: &Config, root: &Path, report: &mut Report) {
    let Ok(repository) = Repository::open(root) else { return };
    let Ok(Some(head)) = repository.resolve("HEAD") else { return };
    let lacking = match repository.lacking(&head) {
        Ok(lacking) => lacking,
        Err(error) => return report.warning("files", error.to_string(), "run git status in the repository"),
    };
    for name in &lacking.filters {
        report.warning(
            "files",
            format!("the program of the git filter {name} is not on the PATH; its files stay unfiltered"),
            if name == "lfs" {
                "install git-lfs on the machine of the loops; without it, LFS files stay pointers".to_owned()
            } else {
                format!("install the program that filter.{name} names in the git config")
            },
        );
    }
    if !lacking.lfs.is_empty() {
        let names = lacking.lfs.iter().map(|path| shown(path)).collect();
        report.warning(
            "files",
            format!("the LFS objects of {} are missing; the files stay pointers", listed(names)),
            "fetch them with git lfs fetch",
        );
    }
    if !lacking.submodules.is_empty() {
        let names = lacking.submodules.iter().map(|one| format!("{} at {}", shown(&one.path), one.commit.short())).collect();
        report.warning(
            "submodules",
            format!("{} is missing in your repository; it stays empty in workspaces and checks", listed(names)),
            "fetch it with git submodule update --init --recursive; the next loop that starts copies it",
        );
    }
    let useless = useless_patterns(&repository, locate::FOLDER, &config.workspace.copy);
    for (pattern, why) in useless.unwrap_or_default() {
        let why = match why {
            Useless::MatchesNothing => "matches nothing in your checkout",
            Useless::Tracked => "matches only tracked files, which every workspace has",
            Useless::NotIgnored => "matches files that git does not ignore, which are not copied",
        };
        report.warning(
            "copy",
            format!("{pattern} {why}"),
            format!("correct it in [workspace] copy in config.toml or in {INCLUDE_FILE}; the patterns are those of .gitignore"),
        );
    }
    // uv puts a .gitignore into the environment that it makes.
    let made_by_uv = config.workspace.setup.iter().any(|argv| argv.first().is_some_and(|program| program == "uv"));
    for folder in &config.workspace.cache {
        if made_by_uv && folder.trim_end_matches('/') == ".venv" {
            continue;
        }
        if matches!(repository.ignores(folder), Ok(false)) && !folder.contains(['*', '?', '[', '!']) {
            report.warning(
                "cache",
                format!("git does not ignore {folder}; build output there would land as work"),
                format!("add {folder} to .gitignore, or remove it from [workspace] cache in config.toml"),
            );
        }
    }
}

fn listed(names: Vec<String>) -> String {
    let more = if names.len() > MAX_NAMED { format!(" and {} more", names.len() - MAX_NAMED) } else { String::new() };
    format!("{}{more}", names.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join(", "))
}
