//! A real database that the `sqlite3` shell fills, and the real program on it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use coord_db::wake::Listener;
use coord_db::{Database, OpenOptions};

/// How long a fact may take to come about before the test fails.
const BOUND: Duration = Duration::from_secs(20);

pub struct World {
    folder: tempfile::TempDir,
    pub path: PathBuf,
    pub db: Database,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordination.db");
        let db = Database::create(&path, &OpenOptions::default()).unwrap();
        Self { folder, path, db }
    }

    /// A world that the shell has filled.
    pub fn filled(sql: &str) -> Self {
        let world = Self::new();
        world.sql(sql);
        world
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the settings beside the database.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.folder().join("config.toml"), text).unwrap();
    }

    /// Runs SQL in the `sqlite3` shell and gives what it prints, one row a line, columns joined by `|`.
    pub fn sql(&self, sql: &str) -> String {
        let output =
            Command::new("sqlite3").args(["-bail", "-cmd", ".timeout 5000"]).arg(&self.path).arg(sql).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pm-agent"));
        command.arg("--db").arg(&self.path).env("RUST_LOG", "warn");
        command
    }

    /// Lets the program do what is due now.
    pub fn once(&self) {
        let output = self.command().arg("--once").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts the program and waits until it beats.
    pub fn daemon(&self) -> Daemon {
        let child = self.command().stderr(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let daemon = Daemon { child };
        self.until(&format!("SELECT count(*) FROM component_health WHERE component = 'pm' AND pid = {pid}"), "1");
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

    /// Says something, as the shell does.
    pub fn say(&self, source: &str, event_type: &str, payload: &str) {
        self.sql(&format!(
            "INSERT INTO events(id, source, event_type, payload)
             VALUES (lower(hex(randomblob(8))), '{source}', '{event_type}', '{payload}')"
        ));
    }

    /// Answers the open decision of a type.
    pub fn answer(&self, decision_type: &str, choice: &str) {
        let id = self.sql(&format!("SELECT id FROM decisions WHERE decision_type = '{decision_type}' AND status = 'pending'"));
        self.say(
            "human",
            "human_message",
            &format!(r#"{{"message_type":"decision_response","decision_id":"{id}","choice":"{choice}","source":"cli"}}"#),
        );
    }

    /// What pm has said, in order: type and loop.
    pub fn requests(&self) -> String {
        self.sql(
            "SELECT event_type, json_extract(payload, '$.loop_id') FROM events
             WHERE source = 'pm' AND event_type IN ('pause_requested', 'resume_requested', 'restart_requested') ORDER BY rowid",
        )
    }

    /// Nothing of what pm has said lacks its cause, but for what the program says of itself.
    pub fn all_explained(&self) {
        let unexplained = self.sql(
            "SELECT event_type, payload FROM events WHERE source = 'pm' AND caused_by IS NULL AND event_type NOT LIKE 'component_%'",
        );
        assert_eq!(unexplained, "");
    }

    /// A second start changes nothing.
    pub fn settled(&self) {
        let state = "SELECT count(*) FROM events WHERE event_type NOT LIKE 'component_%';
                     SELECT * FROM decisions ORDER BY id; SELECT * FROM tests ORDER BY id; SELECT * FROM conflicts ORDER BY id;
                     SELECT * FROM transaction_log ORDER BY id; SELECT * FROM alerts ORDER BY id";
        let before = self.sql(state);
        self.once();
        assert_eq!(self.sql(state), before);
    }
}

pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(mut self) -> ExitStatus {
        let told = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
