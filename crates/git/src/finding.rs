//! Why a path of a workspace may not land, or is not in its snapshot.

use std::path::{Path, PathBuf};

use crate::CommitHash;

/// Why a path may not land, or is not in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// It lies at or below our own folder.
    OwnFolder(PathBuf),
    /// It is a symbolic link that leads out of the repository, or into a git folder.
    LinkLeadsOut {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// It is a submodule at a commit that nobody else can fetch.
    UnknownSubmoduleCommit {
        /// The submodule.
        path: PathBuf,
        /// Its commit; none if its HEAD cannot be read. Then it is not in the snapshot.
        commit: Option<CommitHash>,
    },
    /// Files of a submodule were edited, and no commit there holds them.
    EditedInSubmodule {
        /// The submodule.
        path: PathBuf,
        /// The files, as they are named there.
        files: Vec<PathBuf>,
    },
    /// It is larger than allowed, and not in the snapshot.
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
        /// Why.
        reason: String,
    },
    /// The base ignores it, the workspace does not; it is not in the snapshot unless that was asked for.
    IgnoredAtBase(PathBuf),
}

impl Finding {
    /// The path that it is about.
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

/// What a line of git's complaints says of a folder that cannot be read.
pub(crate) fn unreadable_folder(line: &str) -> Option<Finding> {
    let rest = line.strip_prefix("warning: could not open directory '")?;
    let (path, reason) = rest.rsplit_once("': ")?;
    Some(Finding::Unstorable { path: PathBuf::from(path.trim_end_matches('/')), reason: format!("the folder: {reason}") })
}
