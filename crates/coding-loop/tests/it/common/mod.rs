//! A repository with a loop or two, agents that are shell scripts, and the real binary.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use coord_db::process::ProcessIdentity;
use coord_db::{Config, Error, LoopId, LoopStatus, Test, TestId, WriteTx};
use test_support::{Process, git, make_repository, new_loop, new_test, run};

pub struct World {
    base: test_support::World,
    pub repository: PathBuf,
    pub home: PathBuf,
}

impl Deref for World {
    type Target = test_support::World;

    fn deref(&self) -> &Self::Target {
        &self.base
    }
}

/// A check that looks for the file that a test is named after.
pub const CHECK: &str = r#"
[[gate.check]]
name = "file"
command = ["sh", "-c", "test -f $TEST_ID && echo there"]
"#;

impl World {
    /// `agent` is a shell script; `rest` is appended to the settings.
    pub fn new(agent: &str, rest: &str) -> Self {
        let base = test_support::World::below("repository/coding-loops");
        let (repository, home) = (base.folder().join("repository"), base.folder().join("repository/coding-loops"));
        make_repository(&repository, &[("shared", "1\n2\n3\n4\n5\n6\n7\n8\n9\n"), (".gitignore", "/coding-loops/\n")]);
        let script = base.folder().join("agent.sh");
        std::fs::write(&script, agent).unwrap();
        let config = format!(
            "[agent]\ncommand = [\"sh\", \"{}\"]\nkill_after_seconds = 1\n[heartbeat]\nbeat_seconds = 1\ndegraded_seconds = 5\ndead_seconds = 10\n{rest}",
            script.display()
        );
        let world = Self { base, repository, home };
        world.configure(|_| config);
        world.watch();
        world
    }

    /// The same, with the loop `one`, whose queue is the test `t1`.
    pub fn with_test(agent: &str, rest: &str) -> Self {
        let world = Self::new(agent, rest);
        world.add_loop("one");
        world.add_test("t1", "one");
        world
    }

    /// Registers this process as monitor, with heartbeats for an hour: loops pause after each test while it is not running.
    fn watch(&self) {
        let own = ProcessIdentity::own();
        self.db.write(|tx| tx.start_component(&"monitor".parse()?, &own, "0")).unwrap();
        self.sql("UPDATE component_health SET last_heartbeat = datetime('now', '+1 hour')");
    }

    /// Changes the settings.
    pub fn configure(&self, change: impl FnOnce(&str) -> String) {
        let path = self.home.join("config.toml");
        let config = change(&std::fs::read_to_string(&path).unwrap_or_default());
        Config::parse(&config, Path::new("test")).unwrap();
        std::fs::write(path, config).unwrap();
    }

    pub fn add_loop(&self, id: &str) {
        self.db.write(|tx| tx.add_loop(&new_loop(id))).unwrap();
    }

    pub fn add_test(&self, id: &str, loop_id: &str) {
        assert_eq!(self.db.write(|tx| tx.import_tests(&[new_test(id, loop_id)])).unwrap(), []);
    }

    pub fn test(&self, id: &str) -> Test {
        let id: TestId = id.parse().unwrap();
        self.db.read(|tx| tx.test(&id)).unwrap()
    }

    pub fn command(&self, loop_id: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coding-loop"));
        command.arg(loop_id).current_dir(&self.repository).env_remove("CODING_LOOPS_DB").env("FOLDER", self.folder());
        command.stdin(Stdio::null());
        command
    }

    /// Runs a loop until nothing is ready.
    pub fn once(&self, loop_id: &str) -> Output {
        self.command(loop_id).arg("--once").output().unwrap()
    }

    /// Runs a loop for one attempt.
    pub fn attempt(&self, loop_id: &str) -> Output {
        self.command(loop_id).args(["--max-tests", "1"]).output().unwrap()
    }

    pub fn start(&self, loop_id: &str) -> Process {
        Process::start_logged(&mut self.command(loop_id), &self.folder().join("loop.log"))
    }

    /// Whether a started loop has logged this.
    pub fn logged(&self, part: &str) -> Option<()> {
        std::fs::read_to_string(self.folder().join("loop.log")).ok()?.contains(part).then_some(())
    }

    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.repository, arguments)
    }

    /// git in the store.
    pub fn store(&self, arguments: &[&str]) -> String {
        run(Command::new("git").args(arguments).env("GIT_DIR", self.root().join("store.git")).current_dir(self.folder()))
    }

    /// The store, made if a loop has not made it yet.
    pub fn make_store(&self) -> git::Store {
        let user = git::Repository::open(&self.repository).unwrap();
        let layout = git::Layout::new(self.root());
        let (store, _) = layout.create(&user, &self.home.join("coordination.db"), "coding-loops/integration").unwrap();
        store.start_integration(&user.commit("main").unwrap()).unwrap();
        store
    }

    /// A commit on top of another, made from outside by `change` in a clone and brought into the store. No ref names it.
    pub fn commit_elsewhere(&self, on: &str, message: &str, change: impl FnOnce(&Path)) -> String {
        let clone = self.folder().join(format!("elsewhere-{}", coord_db::new_id()));
        let store = self.root().join("store.git");
        run(Command::new("git").args(["clone", "--quiet", "--no-checkout"]).args([&store, &clone]));
        git(&clone, ["checkout", "--quiet", "--detach", on]);
        change(&clone);
        let commit = test_support::commit(&clone, message, &[]);
        self.store(&["fetch", "--quiet", clone.to_str().unwrap(), &commit]);
        std::fs::remove_dir_all(&clone).unwrap();
        commit
    }

    /// What `one` leaves if it dies while it lands this commit of `t1` on `old`.
    pub fn leave_landing(&self, commit: &str, old: &str) {
        let id: LoopId = "one".parse().unwrap();
        let steps = serde_json::json!({"test": "t1", "attempt": 1, "commit": commit, "old": old, "checks": [["file", true]],
            "seconds": 3, "files": ["t1"], "proof": "p"});
        let begin = |tx: &WriteTx<'_>| {
            tx.set_loop_status(&id, LoopStatus::Running)?;
            tx.claim_next_test(&id, true)?;
            tx.begin_operation("integrate", "one", Some(&id), &steps, None)
        };
        self.db.write(begin).unwrap();
    }

    /// The folder of store and workspaces.
    pub fn root(&self) -> PathBuf {
        self.folder().join("repository-loops")
    }

    /// A loop's workspace.
    pub fn workspace(&self, id: &str) -> PathBuf {
        self.root().join("loops").join(id)
    }

    pub fn exists(&self, name: &str) -> Option<()> {
        self.folder().join(name).exists().then_some(())
    }

    pub fn assert_tidy(&self) {
        assert_eq!(self.db.check().unwrap(), []);
        assert_eq!(self.db.read(|tx| Ok::<_, Error>((tx.leases(false)?.len(), tx.wait_edges()?.len()))).unwrap(), (0, 0));
        assert_eq!(self.git(&["status", "--porcelain"]), "");
        assert_eq!(self.git(&["log", "--format=%s", "main"]), "begin");
    }
}
