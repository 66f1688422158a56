//! Looks at a file before SQLite does: opening what is not ours must leave it, and what lies beside it, untouched.
//!
//! SQLite would play another database's `-wal` into the file, and create and delete files beside it. So each file is judged
//! by its header the first time that a process opens it; later a plain read is forbidden, since closing any descriptor on
//! the file drops the process's locks on it.
//!
//! Writers may be at work meanwhile, and nothing is read at one moment here. So only what no writer of ours ever changes
//! counts (the marks, the page size, whether the file has a `-wal` at all), and only if several looks agree. Whether the
//! content is sound, SQLite alone says, under its own locks.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::migrate::{APPLICATION_ID, SCHEMA_VERSION};
use crate::{Error, Result};

/// The files that this process has judged, and may have open, by device and inode.
static JUDGED: Mutex<Option<HashMap<(u64, u64), Header>>> = Mutex::new(None);

/// How many looks must agree before a file is refused.
const LOOKS: u32 = 5;
/// The pause between two of them.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What the header of a file says.
#[derive(Debug, Clone, Copy)]
struct Header {
    /// It carries our mark.
    ours: bool,
    /// How many bytes the file had at least when the header was written.
    bytes: u64,
}

/// Judges the file by its first bytes, once in a process, and then lets `open` open it. Adds to SQLite's errors what the
/// first bytes explain.
///
/// # Errors
/// [`Error::NotOurs`], [`Error::Newer`], [`Error::Damaged`]; nothing has been touched then.
pub(crate) fn first_look<T>(path: &Path, create: bool, open: impl FnOnce() -> Result<T>) -> Result<T> {
    let meta = std::fs::metadata(path).map_err(|error| Error::io(format!("cannot look at {}", path.display()), error))?;
    let mut judged = JUDGED.lock().unwrap_or_else(PoisonError::into_inner);
    let judged = judged.get_or_insert_default();
    let identity = (meta.dev(), meta.ino());
    let header = match judged.get(&identity) {
        Some(header) => *header,
        None => {
            let header = judge(path, create)?;
            judged.insert(identity, header);
            header
        }
    };
    open().map_err(|error| header.explain(path, error))
}

#[allow(clippy::disallowed_methods)]
fn judge(path: &Path, create: bool) -> Result<Header> {
    for _ in 1..LOOKS {
        if let Ok(header) = look(path, create) {
            return Ok(header);
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    look(path, create)
}

fn look(path: &Path, create: bool) -> Result<Header> {
    let not_ours = |detail: &str| Err(Error::NotOurs { path: path.to_owned(), detail: detail.to_owned() });
    let unknown = Header { ours: false, bytes: 0 };
    // Before the header: a file that gets a log says so in its header first.
    let log_page_bytes = page_bytes_of_log(path);
    // SQLite says better what bars a file.
    let Ok(file) = File::open(path) else { return Ok(unknown) };
    if file.metadata().is_ok_and(|meta| meta.len() == 0) {
        return if create { Ok(unknown) } else { not_ours("it is empty") };
    }
    let mut header = [0; 100];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return not_ours("file is not a database"),
        Err(_) => return Ok(unknown),
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
        0 => return Ok(unknown),
        _ => return not_ours("it belongs to another application"),
    }
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        bytes => u64::from(bytes),
    };
    match log_page_bytes {
        Some(other) if other != page_bytes => return Err(foreign_log(path, "its pages have another size")),
        // A copy that was put in the place of a database in use is a plain file, and never had a log.
        Some(_) if header[18] == 1 => return Err(foreign_log(path, "the file has never had one")),
        _ => {}
    }
    // Other tools leave the number of pages as it was.
    let counted = number(&header, 24) == number(&header, 92);
    Ok(Header { ours: true, bytes: if counted { u64::from(number(&header, 28)) * page_bytes } else { 0 } })
}

impl Header {
    /// Says more of what SQLite refused.
    fn explain(self, path: &Path, error: Error) -> Error {
        let length = std::fs::metadata(path).map_or(u64::MAX, |meta| meta.len());
        match error {
            Error::NotOurs { .. } if self.ours => foreign_log(path, "it belongs to another application"),
            Error::Damaged { detail } if length < self.bytes => Error::Damaged {
                detail: format!("{detail}; {} is cut short, {length} of {} bytes are left", path.display(), self.bytes),
            },
            other => other,
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

fn foreign_log(path: &Path, why: &str) -> Error {
    Error::Damaged { detail: format!("{} is another database's ({why}); move it away", log_of(path).display()) }
}

/// The page size of the `-wal` beside the file, if it has content.
fn page_bytes_of_log(path: &Path) -> Option<u64> {
    let (mut header, mut frame) = ([0; 32], [0; 24]);
    let wal = File::open(log_of(path)).ok()?;
    wal.read_exact_at(&mut header, 0).ok()?;
    wal.read_exact_at(&mut frame, 32).ok()?;
    // What an earlier round of the file has left behind has other salts.
    let has_content = number(&header, 0) & !1 == 0x377f_0682 && frame[8..16] == header[16..24];
    has_content.then(|| u64::from(number(&header, 8)))
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
    use std::process::{Command, Stdio};

    use super::*;
    use crate::{Database, OpenOptions};

    /// Looks again and again while other processes let the file grow, empty its log and delete it.
    #[test]
    fn no_single_look_beside_writers_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordination.db");
        drop(Database::create(&path, &OpenOptions::default()).unwrap());
        let script = |writer: usize| {
            let insert =
                "INSERT INTO knowledge (id, item_type, content) VALUES (hex(randomblob(9)), 'fact', hex(randomblob(3000)));\n";
            let empty = ["PRAGMA wal_checkpoint(TRUNCATE);\n", "PRAGMA wal_checkpoint(RESTART);\n"][writer];
            format!(".timeout 5000\n{}", format!("{insert}{empty}").repeat(200))
        };
        let mut writers: Vec<_> = (0..2)
            .map(|writer| {
                let file = folder.path().join(format!("{writer}.sql"));
                std::fs::write(&file, script(writer)).unwrap();
                let mut command = Command::new("sqlite3");
                command.arg(&path).stdin(File::open(&file).unwrap()).stdout(Stdio::null()).spawn().unwrap()
            })
            .collect();
        let mut looks = 0;
        while writers.iter_mut().any(|writer| writer.try_wait().unwrap().is_none()) {
            look(&path, false).unwrap_or_else(|error| panic!("look {looks}: {error}"));
            looks += 1;
        }
        assert!(looks > 1_000, "{looks} looks");
        assert_eq!(Database::open(&path, &OpenOptions::default()).unwrap().check().unwrap(), []);
    }
}
