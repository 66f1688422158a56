//! Fingerprints of the files that a loop has changed, so that a further change is seen.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Larger files are not hashed: their size and time stand for the content.
const MAX_HASHED_BYTES: u64 = 1 << 20;

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Relative to the folder.
    pub path: PathBuf,
    /// Identifies its content.
    pub fingerprint: String,
    /// When its inode changed last, in milliseconds since 1970; unpacking an archive does not set it back. None for a deleted file.
    pub changed_at: Option<i64>,
}

/// The contents of files, each read again only when its size or its time has changed.
#[derive(Debug, Default)]
pub struct Contents(HashMap<PathBuf, Known>);

#[derive(Clone, Debug)]
struct Known {
    size: u64,
    modified: (i64, i64),
    fingerprint: String,
}

impl Contents {
    /// Reads these files of a folder, and forgets all others.
    pub fn read(&mut self, folder: &Path, paths: impl IntoIterator<Item = PathBuf>) -> Vec<Content> {
        let mut before = std::mem::take(&mut self.0);
        let mut all = Vec::new();
        for path in paths {
            let Ok(meta) = std::fs::symlink_metadata(folder.join(&path)) else {
                all.push(Content { path, fingerprint: "gone".to_owned(), changed_at: None });
                continue;
            };
            let (size, modified) = (meta.len(), (meta.mtime(), meta.mtime_nsec()));
            let known = before.remove(&path).filter(|known| (known.size, known.modified) == (size, modified));
            let known = known.unwrap_or_else(|| Known { size, modified, fingerprint: fingerprint(&folder.join(&path), &meta) });
            let changed_at = Some(meta.ctime().saturating_mul(1000).saturating_add(meta.ctime_nsec() / 1_000_000));
            all.push(Content { path: path.clone(), fingerprint: known.fingerprint.clone(), changed_at });
            self.0.insert(path, known);
        }
        all
    }
}

fn fingerprint(path: &Path, meta: &std::fs::Metadata) -> String {
    let bytes = if meta.is_symlink() {
        std::fs::read_link(path).ok().map(|target| target.into_os_string().into_encoded_bytes())
    } else if meta.is_file() && meta.len() <= MAX_HASHED_BYTES {
        std::fs::read(path).ok()
    } else {
        None
    };
    match bytes {
        Some(bytes) => Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
        None => format!("{}-{}.{}", meta.len(), meta.mtime(), meta.mtime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_has_another_fingerprint_and_what_is_missing_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (a, link) = (folder.path().join("a"), folder.path().join("link"));
        std::fs::write(&a, "one").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let mut contents = Contents::default();
        let mut read = || {
            let all = contents.read(folder.path(), ["a", "link", "none"].map(PathBuf::from));
            all.into_iter().map(|content| (content.fingerprint, content.changed_at.is_some())).collect::<Vec<_>>()
        };
        let first = read();
        assert_eq!(read(), first);
        assert_eq!(first[2], ("gone".to_owned(), false));
        assert!(first[0].1 && first[0].0 != first[1].0, "{first:?}");
        std::fs::write(&a, "three").unwrap();
        assert_ne!(read()[0], first[0]);
        // A large file is known by its size and its time.
        std::fs::File::create(&a).unwrap().set_len(MAX_HASHED_BYTES + 1).unwrap();
        assert!(read()[0].0.starts_with("1048577-"));
        std::fs::remove_file(&a).unwrap();
        assert_eq!(read()[0].0, "gone");
    }
}
