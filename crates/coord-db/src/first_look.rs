//! Looks at a file before SQLite does: opening what is not ours must leave it, and what lies beside it, untouched.
//!
//! SQLite would play another database's `-wal` into the file, and create and delete files beside it. So each file is judged
//! by its header the first time that a process opens it; later a plain read is forbidden, since closing any descriptor on
//! the file drops the process's locks on it.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::migrate::{APPLICATION_ID, SCHEMA_VERSION};
use crate::{Error, Result};

/// The files that this process has judged, and may have open.
static JUDGED: Mutex<Option<HashSet<(u64, u64)>>> = Mutex::new(None);

/// So many frames of a `-wal` are looked through for the first page.
const MOST_FRAMES: u64 = 2_000;

/// Judges the file by its first bytes, once in a process, and then lets `open` open it.
///
/// # Errors
/// [`Error::NotOurs`], [`Error::Newer`], [`Error::Damaged`]; nothing has been touched then. What SQLite has to say of it
/// comes later.
pub(crate) fn first_look<T>(path: &Path, create: bool, open: impl FnOnce() -> Result<T>) -> Result<T> {
    let meta = std::fs::metadata(path).map_err(|error| Error::io(format!("cannot look at {}", path.display()), error))?;
    let mut judged = JUDGED.lock().unwrap_or_else(PoisonError::into_inner);
    let judged = judged.get_or_insert_default();
    if !judged.contains(&(meta.dev(), meta.ino())) {
        judge(path, &meta, create)?;
        judged.insert((meta.dev(), meta.ino()));
    }
    open()
}

fn judge(path: &Path, meta: &Metadata, create: bool) -> Result<()> {
    let not_ours = |detail: &str| Err(Error::NotOurs { path: path.to_owned(), detail: detail.to_owned() });
    if meta.len() == 0 {
        return if create { Ok(()) } else { not_ours("it is empty") };
    }
    let mut header = [0; 100];
    match File::open(path).and_then(|file| file.read_exact_at(&mut header, 0)) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return not_ours("file is not a database"),
        // SQLite says it better.
        Err(_) => return Ok(()),
    }
    if &header[..16] != b"SQLite format 3\0" {
        return not_ours("file is not a database");
    }
    let version = i64::from(number(&header, 60));
    match i64::from(number(&header, 68)) {
        APPLICATION_ID if version > SCHEMA_VERSION => {
            return Err(Error::Newer { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
        }
        APPLICATION_ID => {}
        // Whether its marks are only lost is for the migrations to say.
        0 => return Ok(()),
        _ => return not_ours("it belongs to another application"),
    }
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        bytes => u64::from(bytes),
    };
    if wal_of(path, page_bytes, header[18])? {
        return Ok(());
    }
    let bytes = u64::from(number(&header, 28)) * page_bytes;
    if number(&header, 24) == number(&header, 92) && meta.len() < bytes {
        return Err(Error::Damaged {
            detail: format!("{} is cut short, {} of {bytes} bytes are left", path.display(), meta.len()),
        });
    }
    Ok(())
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Whether a `-wal` with content goes with the file.
///
/// # Errors
/// If it is another database's.
fn wal_of(path: &Path, page_bytes: u64, write_version: u8) -> Result<bool> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let name = PathBuf::from(name);
    let mut header = [0; 32];
    let Ok(wal) = File::open(&name) else { return Ok(false) };
    if wal.read_exact_at(&mut header, 0).is_err() || number(&header, 0) & !1 != 0x377f_0682 {
        return Ok(false);
    }
    let stale =
        |why: &str| Err(Error::Damaged { detail: format!("{} is another database's ({why}); move it away", name.display()) });
    if u64::from(number(&header, 8)) != page_bytes {
        return stale("its pages have another size");
    }
    let mut any = false;
    for frame in 0..MOST_FRAMES {
        let at = 32 + frame * (24 + page_bytes);
        let mut head = [0; 24];
        // What an earlier round of the file has left behind has other salts.
        if wal.read_exact_at(&mut head, at).is_err() || head[8..16] != header[16..24] {
            break;
        }
        any = true;
        let mut mark = [0; 4];
        if number(&head, 0) == 1
            && wal.read_exact_at(&mut mark, at + 24 + 68).is_ok()
            && i64::from(u32::from_be_bytes(mark)) != APPLICATION_ID
        {
            // A writer may be at work: what it has not written whole yet, or over what was read before, says nothing.
            if !is_whole(&wal, page_bytes, frame) {
                break;
            }
            return stale("it belongs to another application");
        }
    }
    // A copy that was put in the place of a database in use is a plain file, and never had a log.
    if any && write_version == 1 { stale("the file has never had one") } else { Ok(any) }
}

/// Whether a frame of a `-wal`, with all that comes before it, is as it was meant to be: the sums over it are right.
fn is_whole(wal: &File, page_bytes: u64, frame: u64) -> bool {
    let mut header = [0; 32];
    if wal.read_exact_at(&mut header, 0).is_err() {
        return false;
    }
    let little = number(&header, 0) & 1 == 0;
    let word = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    };
    let add = |(mut one, mut two): (u32, u32), bytes: &[u8]| {
        for pair in bytes.chunks_exact(8) {
            one = one.wrapping_add(word(pair)).wrapping_add(two);
            two = two.wrapping_add(word(&pair[4..])).wrapping_add(one);
        }
        (one, two)
    };
    let mut sums = add((0, 0), &header[..24]);
    if sums != (number(&header, 24), number(&header, 28)) {
        return false;
    }
    let frame_bytes = 24 + page_bytes;
    let mut bytes = vec![0; usize::try_from(frame_bytes).unwrap_or_default()];
    (0..=frame).all(|at| {
        if wal.read_exact_at(&mut bytes, 32 + at * frame_bytes).is_err() || bytes[8..16] != header[16..24] {
            return false;
        }
        sums = add(add(sums, &bytes[..8]), &bytes[24..]);
        sums == (number(&bytes, 16), number(&bytes, 20))
    })
}

/// Adds to an error of opening who may do what, where that is the cause.
pub(crate) fn explain(path: &Path, error: Error) -> Error {
    use nix::unistd::{AccessFlags, access, geteuid};
    let Error::Unwritable { detail } = error else { return error };
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut files = vec![folder.to_owned(), path.to_owned()];
    for suffix in ["-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        files.push(PathBuf::from(file));
    }
    let barred = files.iter().find(|file| file.exists() && access(*file, AccessFlags::R_OK | AccessFlags::W_OK).is_err());
    let Some(barred) = barred else { return Error::Unwritable { detail } };
    let (own, owner) = (geteuid().as_raw(), std::fs::metadata(barred).map_or(0, |meta| meta.uid()));
    let whose = if own == owner { String::new() } else { format!("; it belongs to user {owner}") };
    let shown = barred.display();
    Error::Unwritable { detail: format!("{detail}: user {own} may not read and write {shown}{whose}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Database, OpenOptions};

    /// A database and its `-wal`, copied while somebody has it open.
    fn copied(folder: &Path) -> (PathBuf, PathBuf) {
        let path = folder.join("original.db");
        drop(Database::create(&path, &OpenOptions::default()).unwrap());
        let open = rusqlite::Connection::open(&path).unwrap();
        open.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE another (a);").unwrap();
        let copy = folder.join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(folder.join("original.db-wal"), folder.join("copy.db-wal")).unwrap();
        (copy, folder.join("copy.db-wal"))
    }

    /// Where the first page stands in a `-wal`, last.
    fn first_page(wal: &[u8]) -> usize {
        let frames = (32..wal.len()).step_by(24 + 4096);
        frames.rev().find(|at| number(wal, *at) == 1).expect("the first page") + 24
    }

    fn look(path: &Path) -> Result<()> {
        judge(path, &std::fs::metadata(path).unwrap(), false)
    }

    #[test]
    fn a_page_that_is_being_written_is_not_taken_for_another_database() {
        let folder = tempfile::tempdir().unwrap();
        let (copy, wal) = copied(folder.path());
        look(&copy).unwrap();
        let mut bytes = std::fs::read(&wal).unwrap();
        let page = first_page(&bytes);
        // The head of the frame is there; below it still stands what another page was before.
        bytes[page..page + 4096].fill(7);
        std::fs::write(&wal, &bytes).unwrap();
        look(&copy).unwrap();
    }

    #[test]
    fn another_applications_log_is_known_by_its_first_page() {
        let folder = tempfile::tempdir().unwrap();
        let (copy, _) = copied(folder.path());
        let other = folder.path().join("other.db");
        let connection = rusqlite::Connection::open(&other).unwrap();
        connection
            .execute_batch(
                "PRAGMA page_size = 4096; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0;
                 PRAGMA application_id = 42; CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(90000));",
            )
            .unwrap();
        std::fs::copy(folder.path().join("other.db-wal"), folder.path().join("copy.db-wal")).unwrap();
        assert!(look(&copy).unwrap_err().to_string().contains("another application"));
    }
}
