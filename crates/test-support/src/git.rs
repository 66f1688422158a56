//! git, and a repository to work in.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::run;

/// git in a folder, as somebody.
#[must_use]
pub fn git_command(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(folder).args([
        "-c",
        "user.name=Test",
        "-c",
        "user.email=test@example.org",
        "-c",
        "commit.gpgSign=false",
        // It starts a git of its own after each commit.
        "-c",
        "maintenance.auto=false",
    ]);
    command
}

/// Runs git in a folder; gives what it prints, without its end of line.
///
/// # Panics
/// If it fails.
#[track_caller]
pub fn git<A: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = A>) -> String {
    run(git_command(folder).args(arguments))
}

/// Makes a repository with these files, committed on `main` as `begin`. Who commits in it is configured.
///
/// # Panics
/// If it cannot be made.
#[track_caller]
pub fn make_repository(folder: &Path, files: &[(&str, &str)]) {
    std::fs::create_dir_all(folder).expect("a folder");
    git(folder, ["init", "--quiet", "--template=", "--initial-branch=main"]);
    let mut config = std::fs::OpenOptions::new().append(true).open(folder.join(".git/config")).expect("a config");
    config.write_all(b"[user]\n\tname = A\n\temail = a@example.org\n").expect("a config");
    commit(folder, "begin", files);
}

/// Writes files and commits everything that has changed; gives the commit.
///
/// # Panics
/// If it cannot be written or committed.
#[track_caller]
pub fn commit(folder: &Path, message: &str, files: &[(&str, &str)]) -> String {
    for (name, content) in files {
        write(folder, name, content);
    }
    git(folder, ["add", "--all"]);
    git(folder, ["commit", "--quiet", "--allow-empty", "--message", message]);
    git(folder, ["rev-parse", "HEAD"])
}

/// Writes a file with the folders that it needs.
///
/// # Panics
/// If it cannot be written.
#[track_caller]
pub fn write(folder: &Path, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, content).expect("a file");
}
