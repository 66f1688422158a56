//! A real database that the `sqlite3` shell fills, and the real program on it.

#![allow(dead_code)]

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use coord_db::wake::Listener;
use coord_db::{Database, Event, EventFilter, OpenOptions};

/// How long a fact may take to come about before the test fails.
const BOUND: Duration = Duration::from_secs(30);

pub struct World {
    _folder: tempfile::TempDir,
    pub path: PathBuf,
    pub db: Database,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordination.db");
        let db = Database::create(&path, &OpenOptions::default()).unwrap();
        Self { _folder: folder, path, db }
    }

    /// A world that the shell has filled.
    pub fn filled(sql: &str) -> Self {
        let world = Self::new();
        world.sql(sql);
        world
    }

    /// Runs SQL in the `sqlite3` shell and gives what it prints, one row a line, columns joined by `|`.
    pub fn sql(&self, sql: &str) -> String {
        let output =
            Command::new("sqlite3").args(["-bail", "-cmd", ".timeout 5000"]).arg(&self.path).arg(sql).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--db").arg(&self.path).env("RUST_LOG", "warn");
        command
    }

    /// Lets the program do what is due now.
    pub fn once(&self, program: &str) {
        let output = self.command(program).arg("--once").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts the program and waits until it beats.
    pub fn daemon(&self, program: &str) -> Daemon {
        // Outside the folder of the database, which daemons watch.
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = self.command(program).env("RUST_LOG", "debug").stderr(log.reopen().unwrap()).spawn().unwrap();
        let pid = child.id();
        let daemon = Daemon { child, log };
        self.until(&format!("SELECT count(*) FROM component_health WHERE pid = {pid}"), "1");
        daemon
    }

    /// Waits until a query in the shell's form prints this.
    pub fn until(&self, query: &str, expected: &str) {
        let mut listener = Listener::new(&self.path);
        let deadline = Instant::now() + BOUND;
        loop {
            let found = self.sql(query);
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{query}: {found:?} instead of {expected:?}");
            listener.wait(Duration::from_millis(50));
        }
    }

    /// All events of one type, oldest first.
    pub fn events(&self, event_type: &str) -> Vec<Event> {
        let filter = EventFilter { event_type: Some(event_type.to_owned()), ..EventFilter::default() };
        self.db.read(|tx| tx.events(&filter)).unwrap()
    }
}

pub struct Daemon {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Daemon {
    /// What it has logged so far, at debug level.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(mut self) -> ExitStatus {
        signal(self.child.id(), "TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}
