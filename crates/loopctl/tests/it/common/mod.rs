//! A git repository in a temporary folder, and the real binary run in it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use git::{CommitHash, Layout, Repository, Store};
use serde_json::Value;
use test_support::{Postgres, git, sql, wait_until_equal};

pub struct Place {
    folder: tempfile::TempDir,
}

pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        assert!(self.stderr.contains(part), "{part:?} is not in {:?}", self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

impl Place {
    /// A git repository without a commit.
    pub fn empty() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        // The workspaces lie beside it, in the temporary folder too.
        std::fs::create_dir(place.repository()).unwrap();
        place.git(&["init", "--quiet"]);
        place
    }

    /// A git repository without a database.
    pub fn bare() -> Self {
        let place = Self::empty();
        place.git(&["commit", "--quiet", "--allow-empty", "-m", "first"]);
        place
    }

    /// A repository with a database, on the engine under test.
    pub fn new() -> Self {
        let place = Self::bare();
        match Postgres::under_test() {
            None => place.run(&["init"]).ok(),
            Some(server) => place.run(&["init", "--database", &server.new_address()]).ok(),
        };
        place
    }

    /// … in a file, whatever is under test.
    pub fn in_a_file() -> Self {
        let place = Self::bare();
        place.run(&["init"]).ok();
        place.run(&["loop", "add", "a"]).ok();
        place.run(&["loop", "add", "b"]).ok();
        place
    }

    /// … and the loops `a` and `b`.
    pub fn with_loops() -> Self {
        let place = Self::new();
        place.run(&["loop", "add", "a"]).ok();
        place.run(&["loop", "add", "b"]).ok();
        place
    }

    pub fn outside(&self) -> &Path {
        self.folder.path()
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    /// The folder of store and workspaces.
    pub fn workspaces(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("repo-loops")
    }

    pub fn home(&self) -> PathBuf {
        self.repository().join("coding-loops")
    }

    pub fn database(&self) -> PathBuf {
        self.home().join("coordination.db")
    }

    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.repository(), arguments)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopctl"));
        command.args(arguments).current_dir(self.repository()).stdin(Stdio::null());
        command.env_remove("CODING_LOOPS_DB").env_remove("RUST_LOG").env_remove("NO_COLOR");
        // The temporary folder may lie in a repository of its own.
        command.env("GIT_CEILING_DIRECTORIES", self.folder.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    pub fn run_in(&self, folder: &Path, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).current_dir(folder).output().unwrap())
    }

    pub fn run_with(&self, input: &str, arguments: &[&str]) -> Ran {
        use std::io::Write;
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        ran(child.wait_with_output().unwrap())
    }

    /// The document that a command prints with `--json`.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[&["--json"], arguments].concat()).ok().json()
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The `sqlite3` shell, a foreign client.
    #[track_caller]
    pub fn sql(&self, query: &str) -> String {
        sql(&self.database(), query)
    }

    /// Lands `t1` of the loop `a` in the store, as a commit of the tree that `make` gives. Nothing is published.
    pub fn land(&self, make: impl FnOnce(&Store, &CommitHash) -> CommitHash) -> (Store, CommitHash) {
        let user = Repository::open(&self.repository()).unwrap();
        let store = Layout::new(self.workspaces()).open_store().unwrap();
        let head = store.fetch_from_user(&user, "HEAD").unwrap();
        store.start_integration(&head).unwrap();
        let trailers = [("Loop", "a"), ("Test", "t1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let commit = store.commit(&make(&store, &head), &[&head], "t1: done", &trailers).unwrap();
        store.move_integration(&commit, &head).unwrap();
        self.run(&["test", "add", "t1", "--loop", "a"]).ok();
        self.sql(&format!("UPDATE tests SET status = 'passed', verified_at = datetime('now'), commit_hash = '{commit}'"));
        (store, commit)
    }

    /// Waits until a query of the shell gives `expected`.
    #[track_caller]
    pub fn until(&self, query: &str, expected: &str) {
        wait_until_equal(query, expected, || self.sql(query));
    }
}

/// The loops `a` and `b`, each with its test in progress and `calc.py` in its workspace. Two checks read that file: it must not
/// be bad. `protected` is the setting of the gate.
pub fn agents(protected: &str) -> Place {
    let place = Place::empty();
    std::fs::write(place.repository().join("calc.py"), "one\ntwo\n").unwrap();
    std::fs::write(place.repository().join(".gitignore"), "*.log\nbuild/\n").unwrap();
    place.git(&["add", "."]);
    place.git(&["commit", "--quiet", "-m", "first"]);
    place.run(&["init"]).ok();
    let checks = "\n[[gate.check]]\nname = \"suite\"\ncommand = [\"sh\", \"-c\", \"echo the file says: $(cat calc.py); ! grep -q bad calc.py\"]\n\
                  \n[[gate.check]]\nname = \"second\"\ncommand = [\"true\"]\n";
    let config = place.home().join("config.toml");
    let written = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, written.replacen("protected = []", &format!("protected = [{protected}]"), 1) + checks).unwrap();
    for (loop_id, test) in [("a", "t-a"), ("b", "t-b")] {
        place.run(&["loop", "add", loop_id]).ok();
        place.run(&["test", "add", test, "--loop", loop_id]).ok();
        place.run(&["next", "--loop", loop_id]).ok();
    }
    place
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// No byte that a terminal acts on.
#[track_caller]
pub fn is_harmless(text: &str) {
    let hostile: Vec<char> = text.chars().filter(|c| c.is_control() && *c != '\n').collect();
    assert!(hostile.is_empty(), "{hostile:?} in {text:?}");
}
