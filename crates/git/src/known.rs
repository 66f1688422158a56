//! What git has found in a repository and need not be asked about again.
//!
//! References move and stores get damaged: the target of a reference is read each time, and an object counts as found only
//! while its file, or the packs if it has none, are the same as when git found it. What hashes alone determine, as the tree of a
//! commit or the difference of two trees, never changes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{CommitHash, refs};

/// Maximum number of entries of each kind; then all are forgotten.
const MAX_ENTRIES: usize = 1000;

/// Maximum size of an output that is remembered, in bytes.
const MAX_OUTPUT: usize = 16 << 10;

/// Settings, each with its scope: scope, key and value.
pub(crate) type Effective = Arc<Vec<(Vec<u8>, (Vec<u8>, Vec<u8>))>>;
/// The files of settings, those that do not exist too.
pub(crate) type SettingsFiles = Vec<Option<FileId>>;

/// Maximum number of packs that are looked at for one object.
const MAX_PACKS: usize = 50;

/// The files that hold an object.
pub(crate) type ObjectFiles = Vec<FileId>;

/// How git has found an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Found {
    /// It exists.
    Object,
    /// It is a commit.
    Commit,
    /// Everything that it refers to exists too.
    Whole,
}

/// The identity of a file and of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileId {
    /// None if there is no regular file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// What decides whether git finds the commit of HEAD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    config: FileId,
    target: CommitHash,
    object: ObjectFiles,
}

impl Head {
    /// None if git has to be asked each time.
    pub(crate) fn of(git_dir: &Path, objects_of: &Path) -> Option<Self> {
        let config = FileId::of(&git_dir.join("config")).filter(|_| !git_dir.join("commondir").exists())?;
        FileId::of(&git_dir.join("HEAD"))?;
        let text = fs::read_to_string(git_dir.join("HEAD")).ok()?;
        let text = text.strip_suffix('\n')?;
        let target = match text.strip_prefix("ref: ") {
            Some(name) => refs::target(git_dir, name)??,
            None => CommitHash::new(text).ok()?,
        };
        let object = object_files(git_dir, &target).or_else(|| object_files(objects_of, &target))?;
        Some(Self { config, target, object })
    }
}

/// The answers of git about one repository.
#[derive(Debug, Default)]
pub(crate) struct Known {
    found: Mutex<BTreeMap<(CommitHash, Found), ObjectFiles>>,
    /// Indexes that git could read.
    indexes: Mutex<BTreeMap<PathBuf, FileId>>,
    /// Git folders in which git found HEAD.
    heads: Mutex<BTreeMap<PathBuf, Head>>,
    /// Trees, with whether they have submodules, and files with attributes.
    special_entries: Mutex<BTreeMap<CommitHash, (bool, bool)>>,
    /// The settings in effect, with the files that they are from.
    settings: Mutex<Option<(SettingsFiles, Effective)>>,
    /// The outputs of calls that name nothing but objects, by the arguments.
    outputs: Mutex<BTreeMap<Vec<OsString>, Vec<u8>>>,
}

fn insert<K: Ord, V>(map: &Mutex<BTreeMap<K, V>>, key: K, value: V) {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if map.len() >= MAX_ENTRIES {
        map.clear();
    }
    map.insert(key, value);
}

/// True if `now` is what the map has for a path, or else by the answer of `ask`, which is remembered with `now`.
fn same_or_asked<V: PartialEq>(
    map: &Mutex<BTreeMap<PathBuf, V>>,
    path: &Path,
    now: Option<V>,
    ask: impl FnOnce() -> bool,
) -> bool {
    let is_same = now.is_some() && map.lock().unwrap_or_else(PoisonError::into_inner).get(path) == now.as_ref();
    let is_so = is_same || ask();
    if let Some(now) = now.filter(|_| is_so && !is_same) {
        insert(map, path.to_owned(), now);
    }
    is_so
}

impl Known {
    /// True if git has found this object, and its files are still the same.
    pub(crate) fn is_found(&self, hash: &CommitHash, how: Found, files: Option<&ObjectFiles>) -> bool {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        files.is_some() && found.get(&(hash.clone(), how)) == files
    }

    /// Remembers an answer of git.
    pub(crate) fn remember(&self, hash: &CommitHash, how: Found, files: Option<ObjectFiles>) {
        if let Some(files) = files {
            insert(&self.found, (hash.clone(), how), files);
        }
    }

    /// True if git can read this index, by the answer of `ask` if the file is not the same as when it could.
    pub(crate) fn can_read_index(&self, path: &Path, ask: impl FnOnce() -> bool) -> bool {
        same_or_asked(&self.indexes, path, FileId::of(path), ask)
    }

    /// True if git finds the commit of HEAD in a git folder that borrows the objects of another one, by the answer of `ask`
    /// if it is not the same as when it did.
    pub(crate) fn has_head(&self, git_dir: &Path, objects_of: &Path, ask: impl FnOnce() -> bool) -> bool {
        same_or_asked(&self.heads, git_dir, Head::of(git_dir, objects_of), ask)
    }

    /// Remembers that git can read this index, because it has just written it.
    pub(crate) fn note_index(&self, path: &Path) {
        if let Some(file) = FileId::of(path) {
            insert(&self.indexes, path.to_owned(), file);
        }
    }

    /// The settings in effect, if they were read from these files.
    pub(crate) fn settings(&self, files: &SettingsFiles) -> Option<Effective> {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.as_ref().filter(|(known, _)| known == files).map(|(_, settings)| Arc::clone(settings))
    }

    pub(crate) fn note_settings(&self, files: SettingsFiles, found: &Effective) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Some((files, Arc::clone(found)));
    }

    /// Whether a tree has submodules, and files with attributes, if noted.
    pub(crate) fn special_entries(&self, tree: &CommitHash) -> Option<(bool, bool)> {
        self.special_entries.lock().unwrap_or_else(PoisonError::into_inner).get(tree).copied()
    }

    pub(crate) fn note_special_entries(&self, tree: &CommitHash, found: (bool, bool)) {
        insert(&self.special_entries, tree.clone(), found);
    }

    /// The output of an earlier call with these arguments.
    pub(crate) fn output(&self, args: &[OsString]) -> Option<Vec<u8>> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner).get(args).cloned()
    }

    pub(crate) fn remember_output(&self, args: &[OsString], output: &[u8]) {
        if output.len() <= MAX_OUTPUT {
            insert(&self.outputs, args.to_owned(), output.to_owned());
        }
    }
}

/// The file of an object, or else the packs, of a repository that borrows no objects; none if git has to be asked each time.
pub(crate) fn object_files(git_dir: &Path, hash: &CommitHash) -> Option<ObjectFiles> {
    let objects = git_dir.join("objects");
    let (folder, name) = hash.as_str().split_at(2);
    if let Some(own) = FileId::of(&objects.join(folder).join(name)) {
        return Some(vec![own]);
    }
    if objects.join("info/alternates").symlink_metadata().is_ok() {
        return None;
    }
    let entries = fs::read_dir(objects.join("pack")).ok()?;
    let mut packs: Vec<PathBuf> = entries.map(|entry| Some(entry.ok()?.path())).collect::<Option<_>>()?;
    packs.retain(|path| path.extension().is_some_and(|ext| ext == "pack"));
    packs.sort();
    let is_few = (1..=MAX_PACKS).contains(&packs.len());
    is_few.then(|| packs.iter().map(|path| FileId::of(path)).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_counts_as_found_only_while_its_file_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let hash = CommitHash::new("ab".repeat(20)).unwrap();
        let path = folder.path().join("objects/ab").join("ab".repeat(19));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let known = Known::default();
        let is_found = |how| known.is_found(&hash, how, object_files(folder.path(), &hash).as_ref());
        known.remember(&hash, Found::Object, object_files(folder.path(), &hash));
        assert!(!is_found(Found::Object), "there is no file");
        fs::write(&path, "object").unwrap();
        known.remember(&hash, Found::Object, object_files(folder.path(), &hash));
        assert!(is_found(Found::Object));
        assert!(!is_found(Found::Commit));
        fs::write(&path, "").unwrap();
        assert!(!is_found(Found::Object), "it was cut");
        fs::remove_file(&path).unwrap();
        assert!(!is_found(Found::Object), "it was removed");
        let pack = folder.path().join("objects/pack/pack-1.pack");
        fs::create_dir_all(pack.parent().unwrap()).unwrap();
        fs::write(&pack, "object").unwrap();
        known.remember(&hash, Found::Object, object_files(folder.path(), &hash));
        assert!(is_found(Found::Object));
        fs::write(&pack, "").unwrap();
        assert!(!is_found(Found::Object), "the pack was cut");
        fs::rename(&pack, pack.with_file_name("pack-2.pack")).unwrap();
        assert!(!is_found(Found::Object), "the pack was replaced");
    }
}
