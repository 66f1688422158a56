//! The names in git's index, read without git: for a caller who waits. What this does not understand is for git to answer.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The size of an entry before its hash: times, device, inode, mode, owner, size.
const STAT: usize = 40;
/// The size of a hash. An index with longer ones lists no name that is looked for.
const HASH: usize = 20;
/// The flag of an entry with two more bytes of flags.
const EXTENDED: u16 = 0x4000;
/// The bits of the flags that hold the length of the name, if it is shorter.
const LENGTH: u16 = 0x0fff;

/// True if an index lists a file. False if it does not, or is not understood.
pub(crate) fn is_listed(index: &[u8], file: &Path) -> bool {
    find(index, file.as_os_str().as_bytes()).unwrap_or(false)
}

fn find(index: &[u8], wanted: &[u8]) -> Option<bool> {
    let number = |at: usize| Some(u32::from_be_bytes(index.get(at..at + 4)?.try_into().ok()?));
    // Version 4 shortens the names.
    if !index.starts_with(b"DIRC") || !(2..=3).contains(&number(4)?) {
        return None;
    }
    let (count, mut at) = (number(8)?, 12);
    for _ in 0..count {
        let flags = u16::from_be_bytes(index.get(at + STAT + HASH..at + STAT + HASH + 2)?.try_into().ok()?);
        let name = at + STAT + HASH + if flags & EXTENDED == 0 { 2 } else { 4 };
        let length = match flags & LENGTH {
            LENGTH => index.get(name..)?.iter().position(|byte| *byte == 0)?,
            length => usize::from(length),
        };
        if index.get(name..name + length)? == wanted {
            return Some(true);
        }
        // One to eight NULs align the next entry.
        at += (name + length - at) / 8 * 8 + 8;
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn names_are_found_as_git_has_written_them() {
        let folder = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let output = Command::new("git").args(arguments).current_dir(folder.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        git(&["init", "--quiet"]);
        let long = format!("long/{}", "x".repeat(200)).replace("xx", "y/") + "z";
        let names: Vec<String> = (1..40).map(|length| "n".repeat(length)).chain(["é x/ü".to_owned(), long]).collect();
        for name in &names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        git(&["add", "."]);
        git(&["add", "--intent-to-add", "."]);
        std::fs::write(folder.path().join("later"), "").unwrap();
        git(&["add", "--intent-to-add", "later"]);
        let index = || std::fs::read(folder.path().join(".git/index")).unwrap();
        let read = index();
        for name in names.iter().map(String::as_str).chain(["later"]) {
            assert!(is_listed(&read, Path::new(name)), "{name}");
        }
        for name in ["", "x", "é x", "ü", "nn ", "late"] {
            assert!(!is_listed(&read, Path::new(name)), "{name}");
        }
        for cut in (0..read.len()).step_by(7) {
            assert!(!is_listed(&read[..cut], Path::new("none")));
        }
        git(&["update-index", "--index-version", "4"]);
        assert_eq!(find(&index(), b"n"), None, "for git to answer");
        assert_eq!((find(b"", b"n"), find(b"DIRC\0\0\0\x02\xff\xff\xff\xff", b"n")), (None, None));
    }
}
