//! The workspace of a loop, as its agent names files in it.

use std::path::{Component, Path, PathBuf};

use coord_db::{Config, LeasePath, LoopId};
use git::Layout;

use crate::exit::{Failure, Outcome};
use crate::place::{existing, has_scheme};

/// The workspace of a loop.
#[derive(Debug, Clone)]
pub(crate) struct Workplace {
    root: PathBuf,
}

impl Workplace {
    pub(crate) fn of(config: &Config, loop_id: &LoopId) -> Self {
        let root = Layout::new(config.workspace_root()).workspaces().join(loop_id.as_str());
        Self { root: root.canonicalize().unwrap_or(root) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The file that a write to `given`, named in the folder `from`, changes: relative to the workspace, with symbolic links
    /// followed. None outside of it, and in its git folder.
    pub(crate) fn file(&self, given: &Path, from: &Path) -> Option<PathBuf> {
        let path = from.join(given);
        let there = existing_path(&path);
        let real = there.canonicalize().ok()?;
        let rest = path.strip_prefix(there).ok()?;
        let mut whole = real;
        for part in rest.components() {
            match part {
                Component::ParentDir => drop(whole.pop()),
                Component::Normal(name) => whole.push(name),
                _ => {}
            }
        }
        let inside = whole.strip_prefix(&self.root).ok()?;
        (inside != Path::new("") && !inside.starts_with(".git")).then(|| inside.to_owned())
    }

    /// What an agent wants to lease: a file, a folder, or a resource under a scheme.
    ///
    /// # Errors
    /// Exit 2 for what is not in the workspace.
    pub(crate) fn lease(&self, given: &str) -> Outcome<LeasePath> {
        if has_scheme(given) {
            return Ok(given.parse()?);
        }
        let outside = || Failure::usage(format!("{given:?} is not a file in the workspace {}", self.root.display()));
        let path = self.file(Path::new(given), &self.root).ok_or_else(outside)?;
        let mut text = path.to_str().ok_or_else(outside)?.to_owned();
        if given.ends_with('/') || self.root.join(&path).is_dir() {
            text.push('/');
        }
        Ok(text.parse()?)
    }

    /// A glob of files, or a name, relative to the workspace.
    pub(crate) fn relative(&self, given: &str) -> String {
        let below = Path::new(given).strip_prefix(&self.root).ok().and_then(Path::to_str).unwrap_or(given);
        below.strip_prefix("./").unwrap_or(below).to_owned()
    }
}

/// The nearest part of a path that exists, be it a file.
fn existing_path(path: &Path) -> &Path {
    if path.exists() { path } else { existing(path) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_named_by_where_it_really_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("loop");
        fs::create_dir_all(root.join("src/deep")).unwrap();
        fs::write(root.join("src/a"), "").unwrap();
        fs::write(folder.path().join("outside"), "").unwrap();
        symlink("src", root.join("link")).unwrap();
        symlink("src/a", root.join("alias")).unwrap();
        symlink("../outside", root.join("out")).unwrap();
        let place = Workplace { root: root.clone() };
        let file = |given: &str| place.file(Path::new(given), &root.join("src")).map(|path| path.display().to_string());
        for (given, expected) in [
            ("a", "src/a"),
            ("new/b", "src/new/b"),
            ("../link/a", "src/a"),
            ("../link/new", "src/new"),
            ("../alias", "src/a"),
            ("gone/../c", "src/c"),
            (root.join("x").to_str().unwrap(), "x"),
        ] {
            assert_eq!(file(given).as_deref(), Some(expected), "{given}");
        }
        for outside in ["/etc/passwd", "../../x", "../out", "../.git/config", "..", "/tmp/none/x"] {
            assert_eq!(file(outside), None, "{outside}");
        }
        assert_eq!(place.lease("src").unwrap().as_str(), "src/");
        assert_eq!(place.lease("new/").unwrap().as_str(), "new/");
        assert_eq!(place.lease("port:5432").unwrap().as_str(), "port:5432");
        assert!(place.lease("/etc/passwd").unwrap_err().sentence().contains("is not a file in the workspace"));
        assert_eq!(place.relative(root.join("src/**").to_str().unwrap()), "src/**");
    }
}
