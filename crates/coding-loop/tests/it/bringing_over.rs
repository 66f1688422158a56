//! An installation of version 0.1, which kept everything in the user's repository, is brought over in the middle of work.
//!
//! `fixtures/installation-0.1.tar.gz` was made by the programs of that version: `t1` has landed; a landing of `t2` by loop
//! `two` was killed after the branch had moved; loop `one` was killed while its agent worked on `t3`, with a file `half`; and
//! loop `hand`, driven by hand, has `t4` in progress, with the file `t4` written.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use coord_db::{Config, Database, TestStatus};
use test_support::{Process, git, run};

const BRANCH: &str = "coding-loops/integration";

struct Old {
    folder: tempfile::TempDir,
    repository: PathBuf,
}

impl Old {
    fn unpack() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/installation-0.1.tar.gz");
        run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()));
        let repository = folder.path().canonicalize().unwrap().join("repository");
        // It was made elsewhere: git keeps the places of linked worktrees as absolute paths.
        for worktree in ["one", "two", "hand", ".gate-one", ".gate-two"] {
            let folder = repository.join("coding-loops/worktrees").join(worktree);
            git(&repository, ["worktree", "repair", "--", folder.to_str().unwrap()]);
        }
        Self { folder, repository }
    }

    fn db(&self) -> Database {
        let config = Config::load(&self.repository.join("coding-loops/coordination.db"), None).unwrap();
        Database::open(&self.repository.join("coding-loops/coordination.db"), &config.open_options()).unwrap()
    }

    fn command(&self, loop_id: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coding-loop"));
        command.args([loop_id, "--once"]).current_dir(&self.repository).env_remove("CODING_LOOPS_DB");
        command
    }

    fn once(&self, loop_id: &str) -> Output {
        self.command(loop_id).output().unwrap()
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(&self.repository, arguments)
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("repository-loops")
    }

    fn store(&self, arguments: &[&str]) -> String {
        run(Command::new("git").args(arguments).env("GIT_DIR", self.root().join("store.git")))
    }

    fn status(&self, test: &str) -> TestStatus {
        self.db().read(|tx| tx.test(&test.parse()?)).unwrap().status
    }
}

#[test]
fn an_installation_of_the_version_before_goes_on_in_the_middle_of_its_work() {
    let old = Old::unpack();
    let before = old.git(&["for-each-ref", "refs/coding-loops"]);
    assert_eq!(before.lines().count(), 4, "{before}");
    let main = old.git(&["rev-parse", "main"]);

    // The loop that was killed with its agent at work: what the agent had done is saved, and the test is done again.
    let output = old.once("one");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((old.status("t1"), old.status("t3")), (TestStatus::Passed, TestStatus::Passed));
    assert_eq!(old.status("t2"), TestStatus::Passed, "the landing that was cut off is recorded");
    let saved = old.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/one"]);
    assert_eq!(saved.lines().count(), 1, "{saved}");
    assert_eq!(old.store(&["show", &format!("{saved}:half")]), "half");

    // Everything that was kept in the user's repository is in the store, and only the published branch is left there.
    for line in before.lines() {
        let (commit, name) = (line.split(' ').next().unwrap(), line.split('\t').nth(1).unwrap());
        assert_eq!(old.store(&["rev-parse", name]), commit);
    }
    assert_eq!(old.git(&["for-each-ref", "refs/coding-loops"]), "");
    let landed = old.git(&["log", "--format=%(trailers:key=Test,valueonly,separator=%x20)", &format!("main..{BRANCH}")]);
    assert_eq!(landed.split_whitespace().collect::<Vec<_>>(), ["t3", "t2", "t1"]);
    assert_eq!(old.store(&["rev-parse", BRANCH]), old.git(&["rev-parse", BRANCH]));

    // The others follow when they start.
    assert!(old.once("two").status.success());
    let worktrees = old.git(&["worktree", "list", "--porcelain"]);
    assert_eq!(worktrees.matches("worktree ").count(), 2, "the user's own and that of the loop driven by hand: {worktrees}");
    assert_eq!(old.git(&["rev-parse", "main"]), main);
    assert_eq!(old.db().check().unwrap(), []);
    assert_eq!(old.db().read(|tx| tx.store_makings()).unwrap()[0].cause, "brought_over");
}

#[test]
fn work_by_hand_is_put_into_the_workspace() {
    let old = Old::unpack();
    let config = Config::load(&old.repository.join("coding-loops/coordination.db"), None).unwrap();
    let folder = coding_loop::prepare_workspace(&old.db(), &config, &"hand".parse().unwrap()).unwrap().0;
    assert_eq!(folder, old.root().canonicalize().unwrap().join("loops/hand"));
    assert_eq!(std::fs::read_to_string(folder.join("t4")).unwrap(), "t4\n", "ready to be submitted");
    let saved = old.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/hand/t4"]);
    assert_eq!(old.store(&["show", &format!("{saved}:t4")]), "t4");
    assert!(!old.repository.join("coding-loops/worktrees/hand").exists());
    assert_eq!(old.git(&["branch", "--list", "coding-loops/hand"]), "");
}

#[test]
fn nothing_is_brought_over_while_an_older_loop_runs() {
    let old = Old::unpack();
    let sleeper = Process::start(Command::new("sleep").arg("300"));
    let identity = coord_db::process::ProcessIdentity::of(i64::from(sleeper.pid()));
    old.db().write(|tx| tx.start_component(&"two".parse()?, &identity, "0.1.0")).unwrap();
    let mut waiting = Process::start_logged(&mut old.command("one"), &old.folder.path().join("log"));
    waiting.until_logged("loop two still runs version 0.1.0");
    assert!(!old.root().join("store.git").exists());
    sleeper.kill();
    assert!(waiting.wait().success(), "{}", waiting.log());
    assert_eq!(old.status("t3"), TestStatus::Passed);
}
