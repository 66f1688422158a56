//! What a loop remembers between two looks at references, so that most looks cost a few file stamps.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is known of the published branch.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    /// The files of the references when the branch was found, or put, where it belongs.
    pub(crate) settled: Option<Vec<Stamp>>,
    /// What was last reported as being in the way.
    pub(crate) reported: Option<String>,
}

/// What a loop remembers of the branch that it follows.
#[derive(Debug, Default)]
pub(crate) struct Following {
    /// The files of the references when all of it was on integration, or there was nothing more to be done about it.
    pub(crate) settled: Option<Vec<Stamp>>,
}

/// Device, inode, size and time of a file; none if it is not there.
pub(crate) type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Whatever way references are kept in, a move replaces one of these files.
pub(crate) fn stamps(common_dir: &Path, branch: &str) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    let name = format!("refs/heads/{branch}");
    [name.as_str(), "packed-refs", "reftable/tables.list"].iter().map(|name| stamp(&common_dir.join(name))).collect()
}
