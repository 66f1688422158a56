//! A repository with a loop or two, agents that are shell scripts, and the real binary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use coord_db::{Config, Database, Error, LoopId, NewLoop, NewTest, OpenOptions, Test, TestId};

pub struct World {
    folder: tempfile::TempDir,
    pub repository: PathBuf,
    pub home: PathBuf,
    pub db: Database,
}

/// Waits for a fact, with a bound.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A coding-loop that is killed when the test ends, whichever way.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub fn end(mut self) -> i32 {
        wait_for("the loop to end", || self.0.try_wait().unwrap()).code().unwrap_or(-1)
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
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository");
        std::fs::create_dir(&repository).unwrap();
        let world_git = |arguments: &[&str]| run(Command::new("git").args(arguments).current_dir(&repository));
        world_git(&["init", "--quiet", "--initial-branch", "main"]);
        world_git(&["config", "user.email", "a@example.org"]);
        world_git(&["config", "user.name", "A"]);
        std::fs::write(repository.join("shared"), "1\n2\n3\n4\n5\n6\n7\n8\n9\n").unwrap();
        std::fs::write(repository.join(".gitignore"), "/coding-loops/\n").unwrap();
        world_git(&["add", "--all"]);
        world_git(&["commit", "--quiet", "--message", "begin"]);
        let home = repository.join("coding-loops");
        std::fs::create_dir(&home).unwrap();
        let script = folder.path().join("agent.sh");
        std::fs::write(&script, agent).unwrap();
        let config = format!(
            "[agent]\ncommand = [\"sh\", \"{}\"]\nkill_after_seconds = 1\n[heartbeat]\nbeat_seconds = 1\ndegraded_seconds = 5\ndead_seconds = 10\n{rest}",
            script.display()
        );
        Config::parse(&config, Path::new("test")).unwrap();
        std::fs::write(home.join("config.toml"), config).unwrap();
        let db = Database::create(&home.join("coordination.db"), &OpenOptions::default()).unwrap();
        Self { folder, repository, home, db }
    }

    /// Changes the settings.
    pub fn configure(&self, change: impl FnOnce(&str) -> String) {
        let path = self.home.join("config.toml");
        let config = change(&std::fs::read_to_string(&path).unwrap());
        Config::parse(&config, Path::new("test")).unwrap();
        std::fs::write(path, config).unwrap();
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn add_loop(&self, id: &str) {
        let id: LoopId = id.parse().unwrap();
        self.db.write(|tx| tx.add_loop(&NewLoop { id, name: String::new(), priority: 5, branch: None })).unwrap();
    }

    pub fn add_test(&self, id: &str, loop_id: &str) {
        let test = NewTest {
            id: id.parse().unwrap(),
            loop_id: loop_id.parse().unwrap(),
            category: String::new(),
            max_attempts: 2,
            depends_on: None,
            automatable: true,
            notes: Some(format!("make {id}")),
            spec_content: None,
            scope: Vec::new(),
            allow_no_change: false,
        };
        assert_eq!(self.db.write(|tx| tx.import_tests(&[test])).unwrap(), []);
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

    pub fn start(&self, loop_id: &str) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(self.folder().join("loop.log")).unwrap();
        Running(self.command(loop_id).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Whether a started loop has logged this.
    pub fn logged(&self, part: &str) -> Option<()> {
        std::fs::read_to_string(self.folder().join("loop.log")).ok()?.contains(part).then_some(())
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        run(Command::new("git").args(arguments).current_dir(&self.repository))
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
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=b@example.org"];
            run(Command::new("git").args(identity).args(arguments).current_dir(&clone))
        };
        git(&["checkout", "--quiet", "--detach", on]);
        change(&clone);
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        let commit = git(&["rev-parse", "HEAD"]);
        self.store(&["fetch", "--quiet", clone.to_str().unwrap(), &commit]);
        std::fs::remove_dir_all(&clone).unwrap();
        commit
    }

    /// The folder of store and workspaces.
    pub fn root(&self) -> PathBuf {
        self.folder().join("repository-loops")
    }

    /// A loop's workspace.
    pub fn workspace(&self, id: &str) -> PathBuf {
        self.root().join("loops").join(id)
    }

    /// A foreign hand.
    pub fn sql(&self, sql: &str) -> String {
        run(Command::new("sqlite3").arg(self.home.join("coordination.db")).arg(sql))
    }

    pub fn events(&self, event_type: &str) -> Vec<coord_db::Event> {
        let filter = coord_db::EventFilter { event_type: Some(event_type.to_owned()), ..Default::default() };
        self.db.read(|tx| tx.events(&filter)).unwrap()
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
