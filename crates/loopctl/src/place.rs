//! Where in the repository a command is given. A path is relative to the current folder, as git's are: `zz.txt` typed below
//! `src/` is `src/zz.txt`. In a workspace, a check-out for checks or a linked worktree they are relative in the same way to its
//! top. Outside of all, paths are relative to the root.

use std::path::Path;

use coord_db::{Config, LeasePath, ReadTx, ResourceType, locate};
use git::Layout;

use crate::context::Context;
use crate::exit::{Failure, Outcome};

/// The current folder, as the repository names it.
#[derive(Debug, Default)]
pub struct Place {
    /// Empty in the root.
    folders: Vec<String>,
}

/// The nearest folder that exists: this one or one above.
pub fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
}

/// True for types of resources that are named by a path.
pub fn is_path(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::File | ResourceType::Migration)
}

/// True for what is no file: `port:5432`. A file of this form is written `./port:5432`.
pub fn has_scheme(given: &str) -> bool {
    let head = given.split_once(':').map(|(head, _)| head.as_bytes());
    head.is_some_and(|head| {
        head.first().is_some_and(u8::is_ascii_alphabetic)
            && head.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+.-_".contains(byte))
    })
}

impl Place {
    /// Where the command was given.
    ///
    /// # Errors
    /// If the folder's name is no UTF-8 text: no path in it can be named.
    pub fn of(cx: &Context, config: &Config) -> Outcome<Self> {
        let absolute = |path: &Path| {
            let path = cx.folder.join(path);
            path.canonicalize().unwrap_or(path)
        };
        let (here, root) = (absolute(&cx.folder), absolute(&config.repository_path()));
        let home = absolute(&cx.path).parent().map(Path::to_owned).unwrap_or_default();
        let layout = Layout::new(absolute(&config.workspace_root()));
        let tops = [layout.workspaces(), layout.gates(), layout.checker()];
        let is_top = |folder: &Path| {
            folder == root
                || folder.parent().is_some_and(|parent| tops.iter().any(|top| top == parent))
                || is_worktree(folder, &root, &home)
        };
        let Some(top) = here.ancestors().find(|folder| is_top(folder)) else {
            return Ok(Self::default());
        };
        let below = here.strip_prefix(top).unwrap_or(Path::new(""));
        let named = |part: std::path::Component<'_>| part.as_os_str().to_str().map(str::to_owned);
        let folders = below.components().map(named).collect::<Option<_>>();
        folders.map(|folders| Self { folders }).ok_or_else(|| {
            Failure::usage(format!(
                "the name of {} is not UTF-8; run the command in the root of the repository",
                below.display()
            ))
        })
    }

    /// A path from here as one from the root. What has a scheme stays as it is.
    fn rooted(&self, given: &str, folder: impl Fn(&str) -> String) -> Outcome<String> {
        if has_scheme(given) || given.starts_with('/') || given.is_empty() {
            return Ok(given.to_owned());
        }
        let (mut folders, mut rest) = (self.folders.as_slice(), given);
        loop {
            if let Some(below) = rest.strip_prefix("./") {
                rest = below;
            } else if let Some(above) = rest.strip_prefix("..").filter(|above| above.is_empty() || above.starts_with('/')) {
                rest = above.strip_prefix('/').unwrap_or(above);
                folders = folders
                    .split_last()
                    .map(|(_, folders)| folders)
                    .ok_or_else(|| Failure::usage(format!("path {given:?} is outside the repository; name a path in it")))?;
            } else {
                break;
            }
        }
        let mut path: String = folders.iter().map(|name| folder(name) + "/").collect();
        path.push_str(rest);
        Ok(path)
    }

    /// A file, subtree or resource under a scheme, given from here.
    ///
    /// # Errors
    /// Exit 2 for what is no path in the repository.
    pub fn path(&self, given: &str) -> Outcome<LeasePath> {
        Ok(self.rooted(given, str::to_owned)?.parse()?)
    }

    /// As [`Place::path`], for each.
    ///
    /// # Errors
    /// As there.
    pub fn paths(&self, given: &[String]) -> Outcome<Vec<LeasePath>> {
        given.iter().map(|given| self.path(given)).collect()
    }

    /// Globs of files, given from here.
    ///
    /// # Errors
    /// Exit 2 for one that leads out of the repository.
    pub fn globs(&self, given: Vec<String>) -> Outcome<Vec<String>> {
        given.iter().map(|glob| self.rooted(glob, globset::escape)).collect()
    }

    /// A file that is only written down: in its normal form if it has one.
    ///
    /// # Errors
    /// Exit 2 for one that leads out of the repository.
    pub fn name(&self, given: &str) -> Outcome<String> {
        let path = self.rooted(given, str::to_owned)?;
        Ok(path.parse::<LeasePath>().map_or(path, |path| path.to_string()))
    }

    /// What an owned resource is called: the name that was given, if that is no path and somebody owns it, else its path.
    ///
    /// # Errors
    /// Exit 2 for what is no path in the repository.
    pub fn resource(&self, tx: &ReadTx<'_>, given: &str) -> Outcome<String> {
        let owned = |name: &str| tx.resource(name);
        if owned(given)?.is_some_and(|row| self.folders.is_empty() || !is_path(row.resource_type)) {
            return Ok(given.to_owned());
        }
        self.name(given)
    }
}

/// True for a linked worktree of the repository, and for a checkout in the database's folder, where loops worked once.
fn is_worktree(folder: &Path, root: &Path, home: &Path) -> bool {
    if !folder.join(".git").exists() {
        return false;
    }
    let main = || locate::main_checkout(folder).map(|main| main.canonicalize().unwrap_or(main));
    folder.starts_with(home) || main().is_some_and(|main| main == root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_folder() {
        let place = |folders: &[&str]| Place { folders: folders.iter().map(|name| (*name).to_owned()).collect() };
        let below = place(&["src", "deep"]);
        for (given, meant) in [
            ("a", "src/deep/a"),
            ("./a", "src/deep/a"),
            ("../a", "src/a"),
            (".././../a", "a"),
            (".", "src/deep/"),
            ("..", "src/"),
            ("d/", "src/deep/d/"),
            ("..a", "src/deep/..a"),
            ("port:5432", "port:5432"),
            ("./port:5432", "src/deep/port:5432"),
            ("d/a:b", "src/deep/d/a:b"),
        ] {
            assert_eq!(below.path(given).unwrap().as_str(), meant, "{given}");
        }
        for bad in ["../../../a", "../..", "/a", "a/../b", ""] {
            assert!(below.path(bad).is_err(), "{bad:?}");
        }
        assert_eq!(place(&["app", "[id]"]).globs(vec!["*.ts".to_owned()]).unwrap(), ["app/[[]id[]]/*.ts"]);
    }
}
