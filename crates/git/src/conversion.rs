//! Files that git reports as changed although they are exactly what a checkout writes: its conversions (line endings,
//! encodings, filters) would store them differently than the commit does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::call::{Git, LONG_TIME_LIMIT};
use crate::difference::nul_terminated;
use crate::folders::remove_all;
use crate::{CommitHash, Error, Result};

/// The paths whose regular file below `root` is byte for byte what checking out `tree` writes. `scratch` is a folder
/// for temporary use.
pub(crate) fn as_checked_out(
    git: &Git,
    root: &Path,
    scratch: &Path,
    tree: &CommitHash,
    paths: &[&Path],
) -> Result<BTreeSet<PathBuf>> {
    if paths.is_empty() {
        return Ok(BTreeSet::new());
    }
    let files = scratch.join("files");
    remove_all(scratch)?;
    fs::create_dir_all(&files).map_err(Error::io("create", &files))?;
    let git = git.with_work_tree(&files).with_env("GIT_INDEX_FILE", scratch.join("index"));
    git.call(["read-tree", tree.as_str()]).ok()?;
    // A file that cannot be checked out is missing and therefore not equal.
    let call = git.call(["checkout-index", "-q", "-f", "-z", "--stdin"]).stdin(nul_terminated(paths.iter().copied()));
    call.time_limit(LONG_TIME_LIMIT).answer()?;
    let is_same = |path: &&Path| have_same_content(&root.join(path), &files.join(path));
    let same = paths.iter().copied().filter(is_same).map(Path::to_owned).collect();
    remove_all(scratch)?;
    Ok(same)
}

fn have_same_content(a: &Path, b: &Path) -> bool {
    let size = |path: &Path| path.symlink_metadata().ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
    size(a).is_some() && size(a) == size(b) && matches!((fs::read(a), fs::read(b)), (Ok(a), Ok(b)) if a == b)
}
