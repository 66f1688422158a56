//! Checks out one commit after another in a check-out for checks, in which nobody works.
//!
//! The judged files must be those of the commit. Python considers a source unchanged if its size and whole second of
//! modification are unchanged; make and cargo if it is older than the build result. So changed files get a whole second
//! of modification that no earlier commit there had and that is later than earlier build results. Caches elsewhere are
//! not misled either.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::call::{fields, to_path};
use crate::repository::changed_between;
use crate::{CommitHash, Error, Result, WorkTree};

/// The file with the last second that was used, in our git folder of the check-out.
pub(crate) const LAST_SECOND: &str = "coding-loops-checkout";
/// Maximum difference between the clocks of two file systems on one machine.
const LAG: Duration = Duration::from_millis(20);
/// The mode of another repository in the index.
const GITLINK: &[u8] = b"160000 ";

/// The seconds of modification that a check-out must not use again.
struct Seconds {
    file: PathBuf,
    last: i64,
    /// No file written from now on can have a second up to the last one.
    passed: bool,
}

impl Seconds {
    /// To be called before files are changed.
    fn begin(git_dir: &Path) -> Result<Self> {
        let file = git_dir.join(LAST_SECOND);
        let known = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let (second, lag) = Self::touch(&file, known)?;
        // Existing files may have been written just now.
        let last = known.unwrap_or(second);
        Ok(Self { file, last, passed: if lag { second - 1 > last } else { second > last } })
    }

    /// Stores the last second; returns the present one, and whether it has only just begun.
    fn touch(file: &Path, last: Option<i64>) -> Result<(i64, bool)> {
        let text = last.map_or_else(String::new, |last| format!("{last}\n"));
        fs::write(file, text).map_err(Error::io("write", file))?;
        let meta = fs::metadata(file).map_err(Error::io("look at", file))?;
        Ok((meta.mtime(), meta.mtime_nsec() < i64::try_from(LAG.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// To be called after files were changed: sets them to a second of their own, unless the clock has done so.
    fn end(self, root: &Path, changed: &[PathBuf]) -> Result<()> {
        let (now, _) = Self::touch(&self.file, Some(self.last))?;
        let mut last = self.last.max(now);
        if !self.passed && !changed.is_empty() {
            last += 1;
            let second = Timespec { tv_sec: last, tv_nsec: 0 };
            let times = Timestamps { last_access: second, last_modification: second };
            for path in changed.iter().map(|path| root.join(path)) {
                match utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(std::io::Error::from) {
                    Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                        return Err(Error::io("set the time of", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        Self::touch(&self.file, Some(last)).map(drop)
    }
}

impl WorkTree {
    /// Checks out a commit, discarding all changes. Untracked files are removed, except ignored ones (builds). Nobody
    /// else may be working in it.
    ///
    /// # Errors
    /// [`Error::NotForChecks`].
    pub(crate) fn bring_to(&self, commit: &CommitHash) -> Result<()> {
        self.must_be_for_checks()?;
        remove_locks(self.git_dir())?;
        let head = self.head()?;
        let mut seconds = Seconds::begin(self.git_dir())?;
        let beyond = self.changed_files().unwrap_or_default();
        // It is unknown in which second somebody else has changed a file.
        seconds.passed &= beyond.is_empty();
        let mut changed = changed_between(&self.git, &head, commit)?;
        changed.extend(beyond);
        let index = self.git_dir().join("index");
        if changed.iter().any(|path| is_attributes(path)) {
            // Files written under other rules (line endings, filters) look unchanged to git but are not: all are
            // written again.
            drop(fs::remove_file(&index));
            self.clean()?;
            changed = self.git.call(["ls-tree", "-r", "-z", "--name-only", "--full-tree", commit.as_str()]).paths()?;
        }
        let reset = self.git.call(["reset", "--quiet", "--hard", commit.as_str()]);
        if let Err(error) = reset.ok() {
            // A damaged index is created again.
            if !matches!(error, Error::GitFailed { .. }) || fs::remove_file(index).is_err() {
                return Err(error);
            }
            reset.ok()?;
        }
        self.clean()?;
        seconds.end(self.root(), &changed)
    }

    /// Moves from one commit to another if only untracked files differ from the first; they are removed. False if this
    /// requires [`Self::bring_to`]. Files that match these patterns stay.
    pub(crate) fn move_to(&self, from: &CommitHash, to: &CommitHash, kept: &[String]) -> Result<bool> {
        self.must_be_for_checks()?;
        let (changed, cleaned) = std::thread::scope(|scope| {
            let cleaned = scope.spawn(|| self.remove_untracked_but(kept));
            let changed = changed_between(&self.git, from, to);
            (changed, cleaned.join())
        });
        let (changed, Ok(Ok(()))) = (changed?, cleaned) else { return Ok(false) };
        if changed.iter().any(|path| is_attributes(path)) {
            return Ok(false);
        }
        let seconds = Seconds::begin(self.git_dir())?;
        // Without force, with which git would rewrite files whose times do not match the index.
        let moved = self.git.call(["checkout", "--quiet", "--detach", to.as_str(), "--"]).answer()?.code == Some(0);
        seconds.end(self.root(), &changed)?;
        Ok(moved)
    }

    /// The output of `git status --porcelain=v2 --branch -z`.
    pub(crate) fn status(&self) -> Result<Vec<u8>> {
        let call = self.git.call(["status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames"]);
        call.args([self.submodules(), "--no-ahead-behind"]).ok()
    }

    /// Removes everything that is neither tracked nor ignored, including repositories.
    fn clean(&self) -> Result<()> {
        self.git.call(["clean", "--quiet", "--force", "--force", "-d"]).ok().map(drop)
    }

    /// Removes everything that is not tracked, ignored or not: builds, caches, repositories, and files in submodules
    /// that are not filled from the store.
    pub(crate) fn remove_untracked(&self) -> Result<()> {
        self.remove_untracked_but(&[])
    }

    /// Like [`Self::remove_untracked`], but keeps ignored files that match one of these patterns.
    pub(crate) fn remove_untracked_but(&self, kept: &[String]) -> Result<()> {
        let kept = kept.iter().map(|pattern| format!("--exclude={pattern}"));
        let clean = self.git.call(["clean", "--quiet", "--force", "--force", "-d", "-x"]).args(kept);
        if let Err(error) = clean.ok() {
            // Package managers write-protect unpacked files.
            if !make_folders_writable(self.root()) {
                return Err(error);
            }
            clean.ok()?;
        }
        if self.root().join(".gitmodules").symlink_metadata().is_err() {
            return Ok(());
        }
        let listed = self.git.call(["ls-files", "--stage", "-z"]).ok()?;
        for entry in fields(&listed).filter(|entry| entry.starts_with(GITLINK)) {
            let Some(at) = entry.iter().position(|&byte| byte == b'\t') else { continue };
            let path = to_path(&entry[at + 1..]);
            let folder = self.root().join(&path);
            if self.is_filled(&path) {
                continue;
            }
            // The target of a link is not ours.
            if folder.canonicalize().is_ok_and(|real| real == folder && real.is_dir()) {
                make_folders_writable(&folder);
                fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
                fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
            }
        }
        Ok(())
    }
}

/// Makes folders writable if possible; false if none had to be changed.
fn make_folders_writable(folder: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    const OURS: u32 = 0o700;
    let Ok(meta) = folder.symlink_metadata() else { return false };
    let mut made = false;
    if meta.mode() & OURS != OURS {
        made = fs::set_permissions(folder, fs::Permissions::from_mode(meta.mode() | OURS)).is_ok();
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            made |= make_folders_writable(&entry.path());
        }
    }
    made
}

fn is_attributes(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ".gitattributes")
}

/// Removes locks of a killed git in our git folder.
fn remove_locks(git_dir: &Path) -> Result<()> {
    let entries = fs::read_dir(git_dir).map_err(Error::io("list", git_dir))?;
    for entry in entries {
        let path = entry.map_err(Error::io("list", git_dir))?.path();
        if path.extension() == Some(OsStr::new("lock")) && path.is_file() {
            tracing::warn!(file = ?path, "removing a stale lock of a dead process");
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("remove", path)(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
