//! Finds what the files of a commit need but the user's repository or this machine lacks: LFS objects, filter programs,
//! submodules. Our clones work without them, and the human is informed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::call::{fields, to_path};
use crate::lfs;
use crate::settings::missing_filters;
use crate::submodules::{self, Submodule};
use crate::{CommitHash, Repository, Result, nested};

/// The missing things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Filters in the attributes of the commit whose programs are not on the PATH.
    pub filters: Vec<String>,
    /// Files whose LFS object is missing.
    pub lfs: Vec<PathBuf>,
    /// Submodules whose commit is missing.
    pub submodules: Vec<Submodule>,
}

impl Repository {
    /// Finds what a commit needs but the repository lacks.
    pub fn lacking(&self, commit: &CommitHash) -> Result<Lacking> {
        let listed = self.git.call(["ls-tree", "-r", "-z", "-l", "--full-tree", commit.as_str()]).ok()?;
        let (mut attributes, mut small) = (Vec::new(), Vec::new());
        for entry in fields(&listed) {
            let Some(tab) = entry.iter().position(|&byte| byte == b'\t') else { continue };
            let head = String::from_utf8_lossy(&entry[..tab]).into_owned();
            let words: Vec<&str> = head.split_whitespace().collect();
            let (["100644" | "100755", "blob", hash, size], path) = (words.as_slice(), to_path(&entry[tab + 1..])) else {
                continue;
            };
            if path.file_name().is_some_and(|name| name == ".gitattributes") {
                attributes.push((*hash).to_owned());
            }
            if size.parse::<u64>().is_ok_and(|size| size <= lfs::MAX_POINTER_BYTES) {
                small.push((path, (*hash).to_owned()));
            }
        }
        let mut rules = std::fs::read(self.common_dir().join("info/attributes")).unwrap_or_default();
        for hash in attributes {
            rules.extend(self.git.call(["cat-file", "blob", hash.as_str()]).ok()?);
        }
        let rules = String::from_utf8_lossy(&rules).into_owned();
        let named: BTreeSet<&str> = rules.split_whitespace().filter_map(|word| word.strip_prefix("filter=")).collect();
        let listed = self.git.call(["config", "--list", "-z"]).ok()?;
        let pairs: Vec<_> = fields(&listed)
            .filter_map(|entry| {
                let end = entry.iter().position(|&byte| byte == b'\n')?;
                Some((entry[..end].to_vec(), entry[end + 1..].to_vec()))
            })
            .collect();
        let missing = missing_filters(&pairs).into_iter().map(|name| String::from_utf8_lossy(&name).into_owned());
        let filters = missing.filter(|name| named.contains(name.as_str())).collect();
        let lfs = if named.contains("lfs") { self.lost_objects_of_lfs(&small)? } else { Vec::new() };
        Ok(Lacking { filters, lfs, submodules: self.lost_submodules(commit)? })
    }

    fn lost_objects_of_lfs(&self, small: &[(PathBuf, String)]) -> Result<Vec<PathBuf>> {
        let storage = lfs::objects_of(self);
        let blobs: Vec<String> = small.iter().map(|(_, hash)| hash.clone()).collect();
        let lost: BTreeSet<String> = lfs::pointers(&self.git, &blobs)?
            .into_iter()
            .filter(|(_, oid)| !storage.join(lfs::way_to(oid)).is_file())
            .map(|(blob, _)| blob)
            .collect();
        Ok(small.iter().filter(|(_, hash)| lost.contains(hash)).map(|(path, _)| path.clone()).collect())
    }

    fn lost_submodules(&self, commit: &CommitHash) -> Result<Vec<Submodule>> {
        let mut lost = Vec::new();
        for submodule in submodules::of_tree(&self.git, commit)? {
            let (name, path) = (Some(submodule.name.as_str()), submodule.path.as_path());
            // The commit is searched only in the user's repository.
            let nowhere = self.common_dir().join("none");
            if nested::can_be_fetched(&self.git, &nowhere, name, path, &submodule.commit, Some(self))?.is_none() {
                lost.push(submodule);
            }
        }
        Ok(lost)
    }

    /// True if git ignores a path of the checkout, by the ignore rules alone; a path that ends in `/` is a folder.
    pub fn ignores(&self, path: &str) -> Result<bool> {
        let git = self.git.in_files(self.root());
        git.call(["check-ignore", "--quiet", "--no-index", "--", path]).yes()
    }
}
