//! A real repository with its store, a real database that the `sqlite3` shell fills, and the real program on them.

use std::fmt::Write as _;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

use git::{Layout, Repository, Store};
use test_support::{Process, git_command, make_repository, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_regression-checker");
pub const BRANCH: &str = "coding-loops/integration";

/// Judges `state/*`: each file must hold `ok`. With TEST_ID only the file of that name. Writes down each run.
const JUDGE: &str = r#"
echo "${TEST_ID:-suite} $(git rev-parse HEAD)" >> "$RUNS"
judge() { case "$(cat "$1")" in ok) ;; untestable) exit 125 ;; *) echo "$1 is broken"; exit 1 ;; esac }
if [ -n "$TEST_ID" ]; then judge "state/$TEST_ID"; else for each in state/*; do judge "$each"; done; fi
"#;

pub struct World {
    base: test_support::World,
    /// The user's checkout.
    pub repository: PathBuf,
    /// The folder of the store and of the check-outs.
    pub layout: Layout,
    /// The files of the integration branch, as it is worked on.
    work: PathBuf,
}

impl Deref for World {
    type Target = test_support::World;

    fn deref(&self) -> &Self::Target {
        &self.base
    }
}

impl World {
    /// A repository and a store whose integration branch has one commit, with the tests `t1` and `t2` of loop `a` in order.
    pub fn new() -> Self {
        let base = test_support::World::below("repository/coding-loops");
        let repository = base.path.ancestors().nth(2).unwrap().to_owned();
        let layout = Layout::new(repository.with_file_name("repository-loops"));
        let world = Self { base, work: repository.with_file_name("work"), repository, layout };
        let ignored = (".gitignore", "coding-loops/\ncache/\n");
        make_repository(&world.repository, &[ignored, ("state/t1", "ok\n"), ("state/t2", "ok\n")]);
        world.make_store();
        std::fs::create_dir(&world.work).unwrap();
        world.in_store(&["reset", "--quiet", "--hard"]);
        world.sql("INSERT INTO loops(id, name, priority, status) VALUES ('a', '', 1, 'stopped'), ('b', '', 1, 'stopped')");
        world.configure("");
        world
    }

    /// Makes the store of the user's repository, with integration where `main` is.
    pub fn make_store(&self) -> Store {
        let user = Repository::open(&self.repository).unwrap();
        let store = self.layout.create(&user, &self.path, BRANCH).unwrap().0;
        store.start_integration(&user.commit("main").unwrap()).unwrap();
        store
    }

    /// git in the store, with the files that integration is worked on in.
    pub fn in_store(&self, args: &[&str]) -> String {
        let (store, work) = (self.layout.store_path(), &self.work);
        let index = work.with_file_name("work.index");
        let place = [("GIT_DIR", &store), ("GIT_WORK_TREE", work), ("GIT_INDEX_FILE", &index)];
        run(git_command(work).envs(place).args(args))
    }

    /// As [`World::new`], with baselines of `t1` at the first commit.
    pub fn with_baseline() -> Self {
        let world = Self::new();
        world.passed("t1", "a", &world.head());
        world
    }

    /// Writes the config: the judge as the check `tests`, and more.
    pub fn configure(&self, more: &str) {
        self.configure_with(&self.script(JUDGE), more);
    }

    /// A command for the config that runs a script.
    pub fn script(&self, script: &str) -> String {
        let script = script.replace("\"$RUNS\"", &format!("'{}'", self.runs_file().display()));
        format!("[\"sh\", \"-c\", '''{script}''']")
    }

    pub fn configure_with(&self, command: &str, more: &str) {
        let text = format!(
            "{more}\n[[gate.check]]\nname = \"tests\"\ncommand = {command}\n\
             [[gate.check]]\nname = \"never\"\ncommand = [\"sh\", \"-c\", \"exit 1\"]\nbaseline = false\n"
        );
        std::fs::write(self.path.with_file_name("config.toml"), text).unwrap();
    }

    fn runs_file(&self) -> PathBuf {
        self.path.with_file_name("runs")
    }

    /// What the judge was run for, one `TEST COMMIT` each.
    pub fn runs(&self) -> Vec<String> {
        std::fs::read_to_string(self.runs_file()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub fn forget_runs(&self) {
        let _ = std::fs::remove_file(self.runs_file());
    }

    pub fn head(&self) -> String {
        self.in_store(&["rev-parse", BRANCH])
    }

    /// Commits `content` as `state/<test>` on the integration branch.
    pub fn commit(&self, test: &str, content: &str, trailers: &str) -> String {
        self.commit_file(&format!("state/{test}"), &format!("{content}\n"), trailers)
    }

    /// Commits a file on the integration branch.
    pub fn commit_file(&self, path: &str, content: &str, trailers: &str) -> String {
        let file = self.work.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self.in_store(&["add", "."]);
        self.in_store(&["commit", "--quiet", "--allow-empty", "-m", &format!("Work on {path}\n\n{trailers}")]);
        self.in_store(&["rev-parse", "HEAD"])
    }

    /// Commits a submodule on the integration branch that is at some commit.
    pub fn commit_link(&self, path: &str, at: &str) {
        std::fs::create_dir(self.work.join(path)).unwrap();
        self.in_store(&["update-index", "--add", "--cacheinfo", &format!("160000,{at},{path}")]);
        self.in_store(&["commit", "--quiet", "-m", "A submodule"]);
    }

    /// Adds `length` commits, one of which breaks `t1`, and returns all of them.
    pub fn history(&self, length: usize, breaks_at: usize) -> Vec<String> {
        (1..=length)
            .map(|n| {
                let trailers = format!("Loop: b\nTest: t-{n}\nProof: p-{n}");
                let (test, content) = if n == breaks_at { ("t1", "broken") } else { ("other", "ok") };
                self.commit(test, content, &trailers)
            })
            .collect()
    }

    /// Moves the integration branch.
    pub fn move_to(&self, commit: &str) {
        self.in_store(&["reset", "--quiet", "--hard", commit]);
    }

    /// A test that has passed at a commit.
    pub fn passed(&self, test: &str, by: &str, commit: &str) {
        self.sql(&format!(
            "INSERT OR IGNORE INTO tests(id, loop_id, category, status, verified_at) VALUES ('{test}', '{by}', 'build', 'passed', datetime('now'));
             INSERT INTO passing_tests(test_id, commit_hash, passed_at) VALUES ('{test}', '{commit}', datetime('now', '-1 hour'));"
        ));
    }

    /// What a loop says when a test has landed; gives the event's id.
    pub fn say_passed(&self, test: &str, by: &str, commit: &str) -> String {
        let mut payload = format!("{{\"test_id\":\"{test}\",\"loop_id\":\"{by}\",\"attempt\":1,\"duration_seconds\":1,");
        let _ =
            write!(payload, "\"files_modified\":[],\"verified\":true,\"verification_checks\":{{}},\"commit\":\"{commit}\"}}");
        self.sql(&format!(
            "INSERT INTO events(id, source, event_type, payload) VALUES ('passed-{test}', '{by}', 'test_passed', '{payload}')"
        ));
        format!("passed-{test}")
    }

    fn command(&self) -> Command {
        self.base.command(PROGRAM)
    }

    /// Lets the program do what is due now; gives its log.
    pub fn once(&self) -> String {
        self.once_with(&[])
    }

    /// As [`Self::once`], with more variables.
    pub fn once_with(&self, variables: &[(&str, &str)]) -> String {
        let output = self.command().arg("--once").envs(variables.iter().copied()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        eprintln!("{errors}");
        assert!(output.status.success(), "{errors}");
        assert_eq!(self.sql("SELECT count(*) FROM transaction_log WHERE status = 'in_progress'"), "0");
        errors.into_owned()
    }

    pub fn daemon(&self) -> Process {
        self.base.daemon(PROGRAM)
    }

    /// Alerts that are open: fingerprint and severity, in order.
    pub fn alerts(&self) -> String {
        self.sql("SELECT fingerprint, severity FROM alerts WHERE closed_at IS NULL ORDER BY 1")
    }

    /// The interval has passed since the last run of every check.
    pub fn let_interval_pass(&self) {
        self.sql("UPDATE check_runs SET ran_at = datetime('now', '-1 day')");
    }
}
