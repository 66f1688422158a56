//! A database in a temporary folder, the real programs on it, and other tools beside them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use coord_db::{Database, OpenOptions};
use test_support::{Process, wait_until_equal};

use crate::{binaries, project};

/// Beats that are noticed within the time of a test.
const SETTINGS: &str = "[heartbeat]\nbeat_seconds = 1\n[deadlock]\ngrace_seconds = 30\n";

/// A repository with a database, in a folder that goes away with it.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    home: PathBuf,
    /// Words that come before each program: what runs it in a mount namespace, or with limits.
    prefix: Vec<String>,
}

impl World {
    /// A git repository with one commit, and an empty database in it.
    ///
    /// # Panics
    /// If any of it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path().join("repository/coding-loops");
        Self::within(folder, home, Vec::new())
    }

    /// As [`World::new`], in a given folder below the temporary one, with words before each program.
    ///
    /// # Panics
    /// If any of it cannot be made.
    #[must_use]
    pub fn within(folder: tempfile::TempDir, home: PathBuf, prefix: Vec<String>) -> Self {
        let world = Self { folder, home, prefix };
        let repository = world.repository().to_owned();
        for arguments in [
            ["init", "--quiet", "--initial-branch=main"].as_slice(),
            &[
                "-c",
                "user.name=A",
                "-c",
                "user.email=a@example.org",
                "commit",
                "--quiet",
                "--allow-empty",
                "--message",
                "begin",
            ],
        ] {
            world.tool("mkdir", &["-p", &world.home.to_string_lossy()]);
            world.tool("git", &[&["-C", &*repository.to_string_lossy()], arguments].concat());
        }
        let init = world.loopctl(&["init", "--repository", &repository.to_string_lossy()]);
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        world.settings("");
        world
    }

    /// Replaces the settings: quick beats, and `more`.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn settings(&self, more: &str) {
        let text = format!("{SETTINGS}{more}");
        let mut child = self
            .command("tee")
            .arg(self.home.join("config.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("tee");
        child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("settings");
        assert!(child.wait().expect("tee").success());
    }

    /// The temporary folder, with everything in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the database.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The git repository.
    #[must_use]
    pub fn repository(&self) -> &Path {
        self.home.parent().unwrap_or(&self.home)
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.home.join("coordination.db")
    }

    /// The database, opened in this process.
    ///
    /// # Panics
    /// If it cannot be opened.
    #[must_use]
    pub fn open(&self) -> Database {
        Database::open(&self.path(), &OpenOptions::default()).expect("the database")
    }

    /// A command behind the prefix, in the repository.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = match self.prefix.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.env_remove("CODING_LOOPS_DB").env("NO_COLOR", "1");
        command
    }

    fn tool(&self, program: &str, arguments: &[&str]) {
        let output = self.command(program).args(arguments).output().expect(program);
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs `loopctl` on the database.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn loopctl(&self, arguments: &[&str]) -> Output {
        self.command(binaries().join("loopctl")).arg("--db").arg(self.path()).args(arguments).output().expect("loopctl")
    }

    /// A program of ours, on the database.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = self.command(binaries().join(name));
        command.arg("--db").arg(self.path());
        command
    }

    /// A python program of `tests/python`.
    #[must_use]
    pub fn python(&self, script: &str) -> Command {
        let mut command = self.command("python3");
        command.arg("-B").arg(project().join("tests/python").join(script));
        command
    }

    /// What the `sqlite3` shell prints, one row a line, columns joined by `|`; none if it fails.
    #[must_use]
    pub fn sql(&self, sql: &str) -> Option<String> {
        let output =
            self.command("sqlite3").args(["-bail", "-cmd", ".timeout 10000"]).arg(self.path()).arg(sql).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Waits until the shell prints this.
    ///
    /// # Panics
    /// If it does not within the bound.
    pub fn until(&self, sql: &str, expected: &str) {
        wait_until_equal(sql, expected, || self.sql(sql).unwrap_or_default());
    }

    /// Starts a program of ours with its log in the temporary folder.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self, name: &str, arguments: &[&str]) -> Process {
        // With its helpers in a group of their own, all of them can be ended.
        Process::start_group(self.program(name).args(arguments), &self.folder().join(format!("{name}.log")))
    }

    /// Starts a supervisor and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn supervisor(&self, name: &str) -> Process {
        let process = self.start(name, &[]);
        process.until_logged("is ready");
        process
    }

    /// What all programs have logged.
    #[must_use]
    pub fn logs(&self) -> String {
        let Ok(entries) = std::fs::read_dir(self.folder()) else { return String::new() };
        let logs = entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "log"));
        logs.map(|entry| {
            format!("--- {}\n{}", entry.path().display(), std::fs::read_to_string(entry.path()).unwrap_or_default())
        })
        .collect()
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
