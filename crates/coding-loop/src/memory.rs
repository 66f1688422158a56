//! Caches between two reads of references, so that most reads cost only a few stat calls.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The cache for the published branch.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    /// The files of the references when the branch was last in its place.
    pub(crate) settled: Option<Vec<Stamp>>,
    /// The obstacle that was reported last.
    pub(crate) reported: Option<String>,
}

/// The cache for the followed branch.
#[derive(Debug, Default)]
pub(crate) struct Following {
    /// The files of the references when its commits were last on integration, or nothing had to be done.
    pub(crate) settled: Option<Vec<Stamp>>,
    /// The question about the branch that was open then.
    pub(crate) asked: Option<coord_db::DecisionId>,
}

/// Device, inode, size and modification time of a file; none if it does not exist.
pub(crate) type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// A move of the branch replaces one of these files, whatever the format of references.
pub(crate) fn stamps(common_dir: &Path, branch: &str) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    let name = format!("refs/heads/{branch}");
    [name.as_str(), "packed-refs", "reftable/tables.list"].iter().map(|name| stamp(&common_dir.join(name))).collect()
}
