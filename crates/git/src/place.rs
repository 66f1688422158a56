//! Finds the repository of a folder.

use std::path::{Path, PathBuf};

use crate::call::{Git, to_path};
use crate::{Error, Result};

/// The repository that git finds from a folder.
pub(crate) struct Place {
    git: Git,
    /// The answers to [`Place::WHATS`]; none if they have to be asked for one by one.
    lines: Option<Vec<PathBuf>>,
}

impl Place {
    const WHATS: [&str; 3] = ["--show-toplevel", "--git-dir", "--git-common-dir"];

    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let git = Git::discovering(folder);
        let answer = git.call(["rev-parse", "--path-format=absolute"]).args(Self::WHATS).answer()?;
        let lines: Vec<PathBuf> = answer.stdout.split(|&byte| byte == b'\n').map(to_path).collect();
        // A path may contain line breaks, and a bare repository has no top.
        let is_whole = answer.code == Some(0) && lines.len() == Self::WHATS.len() + 1;
        Ok(Self { git, lines: is_whole.then_some(lines) })
    }

    /// One of [`Place::WHATS`], without links.
    pub(crate) fn path(&self, what: &str) -> Result<PathBuf> {
        let known = self.lines.iter().flatten().zip(Self::WHATS).find(|(_, each)| *each == what);
        let path = match known {
            Some((path, _)) => path.clone(),
            None => self.git.call(["rev-parse", "--path-format=absolute", what]).path()?,
        };
        path.canonicalize().map_err(Error::io("resolve", path))
    }
}
