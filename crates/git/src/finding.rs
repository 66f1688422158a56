//! Findings: why a path of a workspace may not land, or is not in its snapshot.

use std::path::{Path, PathBuf};

use crate::CommitHash;

/// Why a path may not land, or is not in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// It is at or below our own folder.
    OwnFolder(PathBuf),
    /// It is a symbolic link that points outside the repository or into a git folder.
    LinkLeadsOut {
        /// The link.
        path: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// It is a submodule at a commit that others cannot fetch.
    UnknownSubmoduleCommit {
        /// The submodule.
        path: PathBuf,
        /// Its commit; none if its HEAD cannot be read. Then it is not in the snapshot.
        commit: Option<CommitHash>,
    },
    /// Files of a submodule were edited and not committed there.
    EditedInSubmodule {
        /// The submodule.
        path: PathBuf,
        /// The files, relative to the submodule.
        files: Vec<PathBuf>,
    },
    /// It exceeds the maximum size and is not in the snapshot.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// git cannot store it, and it is not in the snapshot.
    Unstorable {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The base ignores it but the workspace does not; it is not in the snapshot unless requested.
    IgnoredAtBase(PathBuf),
}

impl Finding {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::OwnFolder(path) | Self::IgnoredAtBase(path) => path,
            Self::LinkLeadsOut { path, .. }
            | Self::UnknownSubmoduleCommit { path, .. }
            | Self::EditedInSubmodule { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Unstorable { path, .. } => path,
        }
    }
}

/// Parses a warning of git about an unreadable folder.
pub(crate) fn unreadable_folder(line: &str) -> Option<Finding> {
    let rest = line.strip_prefix("warning: could not open directory '")?;
    let (path, reason) = rest.rsplit_once("': ")?;
    Some(Finding::Unstorable { path: PathBuf::from(path.trim_end_matches('/')), reason: format!("the folder: {reason}") })
}
