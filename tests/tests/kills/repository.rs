//! Real loops that work, land and publish, killed at random moments while `git gc --prune=now`, `git prune`, `git pack-refs
//! --all` and `git worktree prune` run without pause in the user's repository and in the workspaces. Nothing is lost, and
//! nothing lands twice.
//!
//! `KILLS_GIT_SECONDS=600` goes on for so long; `KILLS_SEED=…` repeats a run's choices.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coord_db::{Database, NewTest, TestStatus};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use system_tests::binaries;
use system_tests::repositories::{self, INTEGRATION};
use test_support::{BOUND, git, make_database, make_repository, new_loop, new_test, wait_for};

const LOOPS: [&str; 3] = ["a", "b", "c"];
const SECONDS: u64 = 6;
/// What the user and their tools do in a repository, again and again.
const TIDYING: [&[&str]; 4] =
    [&["gc", "--prune=now", "--quiet"], &["prune", "--expire=now"], &["pack-refs", "--all"], &["worktree", "prune"]];

/// Each run leaves files, a commit and a stash of its own, and says what it has written. Its git may fail: somebody prunes. If
/// its commit and its stash fail, its own stash has deleted the file, and it reports that.
const AGENT: &str = r#"cat > /dev/null
token=$TEST_ID-$ATTEMPT-$$-$(date +%s%N)
echo $token >> work-$TEST_ID
echo $token >> "TOP/tokens"
{ git checkout -b own-$TEST_ID; git add --all; git commit --message own; } > /dev/null 2>&1
echo more >> shared-$LOOP_ID
{ git stash; git stash pop; } > /dev/null 2>&1
test -e work-$TEST_ID || { echo $token >> "TOP/deleted"; exit 1; }
"#;

struct World {
    folder: tempfile::TempDir,
    repository: PathBuf,
    db: Database,
    loops: BTreeMap<&'static str, Child>,
    tests: u32,
    random: fastrand::Rng,
}

impl World {
    fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository");
        let home = repository.join("coding-loops");
        make_repository(&repository, &[(".gitignore", "/coding-loops/\n")]);
        std::fs::create_dir(&home).unwrap();
        let agent = folder.path().join("agent.sh");
        std::fs::write(&agent, AGENT.replace("TOP", &folder.path().to_string_lossy())).unwrap();
        let config = format!(
            "[agent]\ncommand = [\"sh\", {agent:?}]\nkill_after_seconds = 1\n[heartbeat]\nbeat_seconds = 1\n\
             [[gate.check]]\nname = \"work\"\ncommand = [\"sh\", \"-c\", \"test -f work-$TEST_ID\"]\n"
        );
        std::fs::write(home.join("config.toml"), config).unwrap();
        let db = make_database(&home.join("coordination.db"));
        db.write(|tx| {
            // Loops go slower where nobody watches.
            tx.start_component(&"monitor".parse()?, &coord_db::process::ProcessIdentity::own(), "0")?;
            for id in LOOPS {
                tx.add_loop(&new_loop(id))?;
            }
            Ok::<_, coord_db::Error>(())
        })
        .unwrap();
        Self { folder, repository, db, loops: BTreeMap::new(), tests: 0, random: fastrand::Rng::with_seed(seed) }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binaries().join(program));
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        command.args(arguments).current_dir(&self.repository).env_remove("CODING_LOOPS_DB");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        command
    }

    fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(200_000)..]).into_owned()
    }

    /// Two tests wait for each loop, and every loop is there.
    fn keep_busy(&mut self) {
        for id in LOOPS {
            let waiting = self.db.read(|tx| tx.tests(Some(&id.parse().unwrap()), Some(TestStatus::Pending))).unwrap();
            for _ in waiting.len()..2 {
                self.tests += 1;
                let test = NewTest { max_attempts: 1_000, ..new_test(&format!("t{}", self.tests), id) };
                assert_eq!(self.db.write(|tx| tx.import_tests(&[test])).unwrap(), []);
            }
            let ended = self.loops.get_mut(id).map(|child| child.try_wait().unwrap());
            if let Some(Some(status)) = ended {
                panic!("loop {id} has ended by itself with {status}\n{}", self.log());
            }
            if ended.is_none() {
                let child = self.command("coding-loop", &[id]).spawn().unwrap();
                self.loops.insert(id, child);
            }
        }
    }

    /// SIGKILL for the loop alone, whose git goes on, or for both.
    fn kill(&mut self, id: &'static str) {
        let Some(mut child) = self.loops.remove(id) else { return };
        if self.random.bool() {
            let _ = killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL);
        }
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// Runs the loops until nothing is left to do.
    fn drain(&mut self) {
        let deadline = Instant::now() + BOUND;
        loop {
            let all: Vec<Child> = LOOPS.map(|id| self.command("coding-loop", &[id, "--once"]).spawn().unwrap()).into();
            for mut child in all {
                let status = wait_for("a loop to end", || child.try_wait().unwrap());
                assert!(status.success(), "{status}\n{}", self.log());
            }
            let left = self.db.read(|tx| tx.tests(None, None)).unwrap();
            let left: Vec<_> = left.iter().filter(|test| test.status != TestStatus::Passed).collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{left:#?}\n{}", self.log());
        }
    }

    fn audit(&self) -> (usize, usize) {
        let root = repositories::root(&self.repository);
        let store = root.join("store.git");
        let problems = repositories::problems(&self.repository, &LOOPS);
        assert!(problems.is_empty(), "{problems:#?}\n{}", self.log());
        assert_eq!(self.db.check().unwrap(), [], "{}", self.log());
        let count = |sql: &str| self.db.query_foreign(sql).unwrap()[0][0].clone().unwrap_or_default();
        for sql in [
            "SELECT count(*) FROM transaction_log WHERE status = 'in_progress'",
            "SELECT count(*) FROM file_locks",
            "SELECT count(*) FROM decisions",
        ] {
            assert_eq!(count(sql), "0", "{sql}\n{}", self.log());
        }
        let deleted = std::fs::read_to_string(self.folder.path().join("deleted")).unwrap_or_default();
        let failed = "SELECT payload ->> '$.test_id' || '-' || (payload ->> '$.attempt') || '-', payload FROM events
                      WHERE event_type = 'test_failed' AND payload ->> '$.error_category' <> 'system'";
        for row in self.db.query_foreign(failed).unwrap() {
            let attempt = row[0].as_deref().unwrap();
            assert!(deleted.lines().any(|token| token.starts_with(attempt)), "{row:?}\n{}", self.log());
        }
        // Verified and landed once, each, in the store and thereby where it is published.
        let log = git(&store, ["log", "--format=%H %(trailers:key=Test,valueonly,separator=%x20)", INTEGRATION]);
        let mut landed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (commit, test) in log.lines().filter_map(|line| line.split_once(' ')) {
            landed.entry(test.trim()).or_default().push(commit);
        }
        let tests = self.db.read(|tx| tx.tests(None, None)).unwrap();
        for test in &tests {
            let commit = test.commit_hash.as_deref().unwrap();
            assert_eq!(landed.get(test.id.as_str()), Some(&vec![commit]), "{}\n{}", test.id, self.log());
        }
        assert_eq!(count("SELECT count(*) FROM events WHERE event_type = 'test_passed'"), tests.len().to_string());
        // Whatever an agent has written is landed or saved.
        let refs = git(&store, ["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved", INTEGRATION]);
        let kept = refs.lines().map(|name| git(&store, ["grep", "--no-color", "-h", "-e", "-", name, "--", "work-*"]));
        let kept: String = kept.collect::<Vec<_>>().join("\n");
        let kept: std::collections::BTreeSet<&str> = kept.lines().collect();
        let tokens = std::fs::read_to_string(self.folder.path().join("tokens")).unwrap();
        for token in tokens.lines().filter(|token| !deleted.lines().any(|line| line == *token)) {
            assert!(kept.contains(token), "{token} is lost\n{}", self.log());
        }
        (tests.len(), tokens.lines().count())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for id in LOOPS {
            self.kill(id);
        }
    }
}

/// Tidies the user's repository, and commits there now and then as its user; tidies the workspaces.
fn tidy(repository: &Path, is_over: &AtomicBool, rounds: &AtomicU32, by_hand: &Mutex<()>) {
    let run = |at: &Path, arguments: &[&str]| drop(Command::new("git").args(arguments).current_dir(at).output().unwrap());
    while !is_over.load(Ordering::SeqCst) {
        for what in TIDYING {
            // A commit by hand loses its objects to a prune beside it, as with every git.
            let _one = by_hand.lock().unwrap();
            run(repository, what);
            for id in LOOPS {
                let workspace = repositories::root(repository).join("loops").join(id);
                if workspace.join(".git/HEAD").exists() {
                    run(&workspace, what);
                }
            }
        }
        let number = rounds.fetch_add(1, Ordering::SeqCst);
        run(repository, &["commit", "--quiet", "--allow-empty", "--message", &format!("by hand {number}")]);
    }
}

#[test]
fn loops_killed_beside_a_gc_lose_nothing() {
    let seconds = crate::number("KILLS_GIT_SECONDS").unwrap_or(SECONDS);
    let seed = crate::number("KILLS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("KILLS_SEED={seed}");
    let mut world = World::new(seed);
    let (is_over, rounds, by_hand) = (AtomicBool::new(false), AtomicU32::new(0), Mutex::new(()));
    let repository = world.repository.clone();
    let mut kills = 0;
    std::thread::scope(|scope| {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        scope.spawn(|| tidy(&repository, &is_over, &rounds, &by_hand));
        let over = Over(&is_over);
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            world.keep_busy();
            let pause = Duration::from_millis(world.random.u64(20..900));
            std::thread::park_timeout(pause);
            let id = LOOPS[world.random.usize(..LOOPS.len())];
            world.kill(id);
            kills += 1;
        }
        for id in LOOPS {
            world.kill(id);
        }
        drop(over);
    });
    world.drain();
    let (tests, runs) = world.audit();
    println!("{kills} kills, {} rounds of gc: {tests} tests landed once each, after {runs} runs", rounds.into_inner());
    assert!(tests >= 6, "only {tests} tests");
}
