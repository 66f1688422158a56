//! A repository, a database, agents that are shell scripts, and the binaries of this build.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coord_db::payload::DecisionOption;
use coord_db::process::ProcessIdentity;
use coord_db::{ActorId, ComponentId, Database, JournalStatus, NewDecision, NewTest};
use serde_json::json;
use system_tests::{binaries, repositories};
use test_support::{Process, git, make_database, make_repository, new_loop, new_test};

const INTEGRATION: &str = "coding-loops/integration";
/// The subject of the user's own new commit.
const HOTFIX: &str = "hotfix";

/// Writes down what it has written, so that lost work is found out. `t1` fails first, with work in every state that files can
/// be in, one of them too large to be saved as a commit; at its second attempt something of somebody else's lands meanwhile. It
/// resolves what its work clashes with as soon as it sees it.
const AGENT: &str = r#"cat > /dev/null
top=../../..
store=../../store.git
token=$TEST_ID-$ATTEMPT-$$-$(date +%s%N)
echo $token >> work-$TEST_ID
if [ $TEST_ID = t1 ] && [ $ATTEMPT = 1 ]; then
    echo $token staged > staged-$TEST_ID; git add staged-$TEST_ID; echo $token > staged-$TEST_ID
    git commit --quiet --message own; echo $token-stashed > stashed; git stash --quiet --include-untracked
    echo $token > staged-$TEST_ID
    (head -c 5000 /dev/zero; echo $token-large) > large
    echo "$token $token-stashed $token-large" | tr ' ' '\n' >> $top/tokens; exit 1
fi
echo "$token" >> $top/tokens
if [ -e clash ]; then echo resolved >> work-$TEST_ID; fi
if [ $TEST_ID = t1 ]; then
    export GIT_DIR=$store
    head=$(git rev-parse coding-loops/integration)
    if ! git cat-file -e $head:elsewhere 2> /dev/null; then
        blob=$(echo elsewhere | git hash-object -w --stdin)
        tree=$( (git ls-tree $head; printf '100644 blob %s\telsewhere\n' $blob) | git mktree)
        git update-ref refs/heads/coding-loops/integration $(git commit-tree $tree -p $head -m elsewhere) $head
    fi
fi
"#;

/// The check. With the file `clashes` in the folder of the world, something of somebody else's lands while the work of `t1` is judged
/// alone, and the two fail together.
const CHECK: &str = r#"test -e broken && exit 1
test -z "$TEST_ID" || test -f work-$TEST_ID || exit 1
if [ "$TEST_ID" = t1 ] && [ -e "$FOLDER/clashes" ] && ! [ -e clash ]; then
    store=$FOLDER/repository-loops/store.git
    head=$(git --git-dir=$store rev-parse coding-loops/integration)
    blob=$(echo clash | git --git-dir=$store hash-object -w --stdin)
    tree=$( (git --git-dir=$store ls-tree $head; printf '100644 blob %s\tclash\n' $blob) | git --git-dir=$store mktree)
    commit=$(git --git-dir=$store commit-tree $tree -p $head -m clash)
    git --git-dir=$store cat-file -e $head:clash 2> /dev/null ||
        git --git-dir=$store update-ref refs/heads/coding-loops/integration $commit $head
fi
if [ -e clash ] && [ -f work-t1 ]; then grep -q resolved work-t1 || exit 1; fi
exit 0
"#;

/// How a process ended.
pub enum Ending {
    Killed,
    /// With this code, having said this.
    Exited(i32, String),
}

pub struct World {
    folder: tempfile::TempDir,
    repository: PathBuf,
    home: PathBuf,
    db: Database,
    /// The user's configuration as it was.
    config: Vec<u8>,
}

pub fn points_in(log: &str) -> Vec<String> {
    log.lines().filter_map(|line| line.strip_prefix(crash_point::LOGGED)).map(str::to_owned).collect()
}

/// The first time it goes back and forth in its work, asks for a rollback and waits for it; later it is quick.
const ROLLED_BACK: &str = r#"cat > /dev/null
top=../../..
token=$TEST_ID-$ATTEMPT-$$-$(date +%s%N)
echo $token >> work-$TEST_ID
echo "$token" >> $top/tokens
if mkdir $top/asked 2> /dev/null; then
    git add --all; git commit --quiet --message own; echo more >> work-$TEST_ID; git commit --quiet --all --amend --message amended
    echo $token staged > staged; git add staged; rm staged; echo $token untracked > untracked
    LOOPCTL rollback $LOOP_ID --reason astray > /dev/null
    sleep 300
fi
"#;

impl World {
    /// A world whose agent rolls its loop back while it works.
    pub fn with_rollback() -> Self {
        let world = Self::new();
        let script = ROLLED_BACK.replace("LOOPCTL", &binaries().join("loopctl").display().to_string());
        std::fs::write(world.folder().join("agent.sh"), script).unwrap();
        world
    }

    /// A world in which the work of `t1` clashes with what lands while it is judged alone: the landing train gives it back once.
    pub fn with_clash() -> Self {
        let world = Self::new();
        std::fs::write(world.folder().join("clashes"), "").unwrap();
        world
    }

    /// However often the loop was killed while it went back: it went back once, nothing is lost, and the work landed once.
    pub fn assert_rolled_back(&self, case: &impl std::fmt::Debug) {
        let said = |what: &str| format!("{case:?}: {what}\n{}", self.log());
        let landed = self.landings("t1");
        assert_eq!(landed.len(), 1, "{}", said("landings"));
        let rows = self.sql("SELECT status, commit_hash, attempts FROM tests WHERE id = 't1'");
        assert_eq!(rows, [["passed", landed[0].as_str(), "1"]], "{}", said("the test"));
        let count = |event: &str| self.sql(&format!("SELECT count(*) FROM events WHERE event_type = '{event}'"))[0][0].clone();
        assert_eq!(
            (count("rollback_triggered"), count("rollback_done")),
            ("1".to_owned(), "1".to_owned()),
            "{}",
            said("orders")
        );
        assert_eq!(
            self.store_git(&["show", &format!("{INTEGRATION}:work-t1")]).lines().count(),
            1,
            "{}",
            said("what has landed")
        );
        // Every state of the work that was given up is named by some ref.
        let token = std::fs::read_to_string(self.folder().join("tokens")).unwrap();
        let token = token.lines().next().unwrap();
        for (text, what) in [(token.to_owned(), "work"), (format!("{token} untracked"), "untracked")] {
            assert!(self.is_kept(&text), "{}", said(&format!("{what} is lost")));
        }
        let all = self.store_git(&["log", "--all", "--format=%s"]);
        for subject in ["own", "amended"] {
            assert!(all.lines().any(|line| line == subject), "{}", said(&format!("the commit {subject} is lost")));
        }
        self.assert_nothing_held(case, &["one"]);
    }

    /// Adds `commits` commits to what the loops have landed, of which the one at `bad` breaks the check. Returns that one
    /// and the newest.
    pub fn break_t1(&self, commits: usize, bad: usize) -> (String, String) {
        let mut head = self.store_git(&["rev-parse", INTEGRATION]);
        let mut culprit = String::new();
        for number in 0..commits {
            let tree = self.store_git(&["ls-tree", &head]);
            let mut lines: Vec<String> = tree.lines().map(str::to_owned).collect();
            let blob = lines[0].split_whitespace().nth(2).unwrap().to_owned();
            let name = if number == bad { "broken".to_owned() } else { format!("other-{number}") };
            lines.push(format!("100644 blob {blob}\t{name}"));
            let tree = self.git_with(&["mktree"], &(lines.join("\n") + "\n"));
            let message = format!("other {number}\n\nLoop: two\nTest: other-{number}\nProof: none\n");
            head = self.git_with(&["commit-tree", &tree, "-p", &head], &message);
            if number == bad {
                culprit = head.clone();
            }
        }
        let name = format!("refs/heads/{INTEGRATION}");
        self.store_git(&["update-ref", &name, &head]);
        self.git(&["fetch", "--quiet", "--no-write-fetch-head", &self.store().to_string_lossy(), &name]);
        self.git(&["update-ref", &name, &head]);
        (culprit, head)
    }

    fn git_with(&self, arguments: &[&str], input: &str) -> String {
        let mut command = Command::new("git");
        let mut child =
            command.args(arguments).current_dir(self.store()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {arguments:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// However often the checker was killed: one regression, with the right culprit, told once, and the branch where it was.
    pub fn assert_blamed(&self, case: &impl std::fmt::Debug, culprit: &str, head: &str) {
        let said = |what: &str| format!("{case:?}: {what}\n{}", self.log());
        let rows = self.sql("SELECT test_id, first_bad_commit, blamed_loop FROM regressions");
        assert_eq!(rows, [["t1", culprit, "two"]], "{}", said("blame"));
        let told =
            self.sql("SELECT json_extract(payload, '$.first_bad_commit') FROM events WHERE event_type = 'regression_detected'");
        assert_eq!(told, [[culprit]], "{}", said("told once"));
        assert_eq!(self.store_git(&["rev-parse", INTEGRATION]), head, "{}", said("the branch"));
        self.assert_nothing_held(case, &["one"]);
    }

    pub fn commit_of_the_user(&self) {
        std::fs::write(self.repository.join("hotfix"), "fixed\n").unwrap();
        self.git(&["add", "hotfix"]);
        self.git(&["commit", "--quiet", "--message", HOTFIX]);
    }

    /// However often bringing the user's commit in was killed: it is on integration once, known once, and nothing is left.
    pub fn assert_synced(&self, case: &impl std::fmt::Debug, loops: &[&str]) {
        let said = |what: &str| format!("{case:?}: {what}\n{}", self.log());
        let brought = self.store_git(&["log", "--format=%H", "--grep=^Synced: ", INTEGRATION]);
        let events = self.sql("SELECT json_extract(payload, '$.commit') FROM events WHERE event_type = 'synced'");
        assert_eq!(events, [[brought.as_str()]], "{}", said("one commit, one event"));
        assert_eq!(self.store_git(&["show", &format!("{INTEGRATION}:hotfix")]), "fixed", "{}", said("what was brought in"));
        let main = self.git(&["rev-parse", "main"]);
        assert_eq!(self.store_git(&["rev-parse", &format!("{brought}^2")]), main, "{}", said("its second parent"));
        assert_eq!(self.store_git(&["rev-parse", "main"]), main, "{}", said("how far it has come"));
        self.assert_nothing_held(case, loops);
    }

    fn assert_nothing_held(&self, case: &impl std::fmt::Debug, loops: &[&str]) {
        let said = |what: &str| format!("{case:?}: {what}\n{}", self.log());
        for (sql, what) in [
            ("SELECT count(*) FROM transaction_log WHERE status = 'in_progress'", "journal"),
            ("SELECT count(*) FROM file_locks", "leases"),
            ("SELECT count(*) FROM tests WHERE status = 'in_progress'", "in progress"),
        ] {
            assert_eq!(self.sql(sql), [["0"]], "{}", said(what));
        }
        assert_eq!(self.db.check().unwrap(), [], "{}", said("check"));
        self.assert_nothing_stray(loops);
    }

    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository");
        let home = repository.join("coding-loops");
        make_repository(&repository, &[(".gitignore", "/coding-loops/\n")]);
        std::fs::create_dir(&home).unwrap();
        let script = folder.path().join("agent.sh");
        std::fs::write(&script, AGENT).unwrap();
        let check = folder.path().join("check.sh");
        std::fs::write(&check, CHECK).unwrap();
        let check = format!("FOLDER={} TEST_ID=$TEST_ID sh {}", folder.path().display(), check.display());
        let notify = format!("cat >> {}", folder.path().join("notified").display());
        let config = format!(
            "[agent]\ncommand = [\"sh\", {script:?}]\nkill_after_seconds = 1\n[heartbeat]\ndegraded_seconds = 600\ndead_seconds = 1200\n\
             [landing]\nfile_bytes = 4000\n\
             [notify]\ncommand = [\"sh\", \"-c\", {notify:?}]\n\
             [[gate.check]]\nname = \"work\"\ncommand = [\"sh\", \"-c\", {check:?}]\nbaseline = true\n"
        );
        std::fs::write(home.join("config.toml"), config).unwrap();
        let db = make_database(&home.join("coordination.db"));
        let mut world = Self { folder, repository, home, db, config: Vec::new() };
        world.config = std::fs::read(world.repository.join(".git/config")).unwrap();
        world
            .db
            .write(|tx| {
                // Loops go slower where nobody watches.
                let monitor: ComponentId = "monitor".parse()?;
                tx.start_component(&monitor, &ProcessIdentity::own(), "0")?;
                let mut tests = Vec::new();
                for (id, test) in [("one", "t1"), ("two", "t2")] {
                    tx.add_loop(&new_loop(id))?;
                    tests.push(NewTest { max_attempts: 3, ..new_test(test, id) });
                }
                assert_eq!(tx.import_tests(&tests)?, []);
                Ok::<_, coord_db::Error>(())
            })
            .unwrap();
        world
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(&self.repository, arguments)
    }

    /// The folder of store and workspaces.
    fn root(&self) -> PathBuf {
        repositories::root(&self.repository)
    }

    fn store(&self) -> PathBuf {
        self.root().join("store.git")
    }

    /// git in the store.
    fn store_git(&self, arguments: &[&str]) -> String {
        self.git(&[&["--git-dir", &*self.store().to_string_lossy()], arguments].concat())
    }

    /// Whether a text is in a file that is landed or saved: under a reference of the store, or too large for it.
    fn is_kept(&self, text: &str) -> bool {
        let refs =
            ["refs/coding-loops/saved".to_owned(), "refs/coding-loops/queued".to_owned(), format!("refs/heads/{INTEGRATION}")];
        let refs: Vec<&str> = refs.iter().map(String::as_str).collect();
        let commits =
            self.store_git(&[&["rev-list"], &*self.refs_below(&refs).iter().map(String::as_str).collect::<Vec<_>>()].concat());
        let mut grep = vec!["grep", "--quiet", "--text", "--fixed-strings", "-e", text];
        grep.extend(commits.lines());
        let is_in_store = Command::new("git").args(&grep).current_dir(self.store()).status().unwrap().success();
        let left = || Command::new("grep").args(["-r", "-q", "-F", "-e", text]).arg(self.root().join("left")).status().unwrap();
        is_in_store || left().success()
    }

    fn refs_below(&self, prefixes: &[&str]) -> Vec<String> {
        let listed = self.store_git(&[&["for-each-ref", "--format=%(refname)"], prefixes].concat());
        listed.lines().map(str::to_owned).collect()
    }

    pub fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        let rows = self.db.query_foreign(sql).unwrap();
        rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect()
    }

    /// What all processes have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    fn process(&self, program: &str, arguments: &[&str], kill: Option<&str>) -> Ending {
        let before = self.log().len();
        let mut command = Command::new(binaries().join(program));
        command.args(arguments).current_dir(&self.repository).env_remove("CODING_LOOPS_DB").env_remove(crash_point::VARIABLE);
        if let Some(kill) = kill {
            command.env(crash_point::VARIABLE, kill);
        }
        let status = Process::start_logged(&mut command, &self.folder().join("log")).wait();
        match (status.signal(), status.code()) {
            (Some(9), _) => Ending::Killed,
            (_, code) => Ending::Exited(code.unwrap_or(-1), self.log().split_off(before)),
        }
    }

    pub fn coding_loop(&self, id: &str, kill: Option<&str>) -> Ending {
        self.process("coding-loop", &[id, "--once"], kill)
    }

    pub fn supervisor(&self, program: &str, kill: Option<&str>) -> Ending {
        self.process(program, &["--once"], kill)
    }

    pub fn loopctl(&self, arguments: &[&str], kill: Option<&str>) -> Ending {
        self.process("loopctl", arguments, kill)
    }

    /// A loop without an agent takes its test. Gives its workspace.
    pub fn take_by_hand(&self) -> PathBuf {
        let mut config = std::fs::File::options().append(true).open(self.home.join("config.toml")).unwrap();
        std::io::Write::write_all(&mut config, b"[loop.hand.agent]\ncommand = []\n").unwrap();
        for arguments in [
            &["loop", "add", "hand"][..],
            &["test", "add", "t3", "--loop", "hand", "--spec", "make it"],
            &["next", "--loop", "hand"],
        ] {
            assert!(matches!(self.loopctl(arguments, None), Ending::Exited(0, _)), "{arguments:?}\n{}", self.log());
        }
        self.root().join("loops/hand")
    }

    pub fn assert_landed_by_hand(&self) {
        let landed = self.landings("t3");
        assert_eq!(landed.len(), 1, "{}", self.log());
        let rows = self.sql("SELECT status, commit_hash FROM tests WHERE id = 't3'");
        assert_eq!(rows, [["passed", landed[0].as_str()]], "{}", self.log());
        let passes = self
            .sql("SELECT count(*) FROM events WHERE event_type = 'test_passed' AND json_extract(payload, '$.test_id') = 't3'");
        assert_eq!(passes, [["1"]]);
        assert_eq!(self.sql("SELECT count(*) FROM file_locks"), [["0"]], "{}", self.log());
        assert_eq!(
            self.sql("SELECT operation FROM transaction_log WHERE status = 'in_progress' AND operation = 'integrate'"),
            [[""; 0]; 0]
        );
        self.assert_nothing_stray(&["hand", "two"]);
    }

    pub fn heartbeat(&self) {
        assert!(matches!(self.supervisor("heartbeat", None), Ending::Exited(0, _)), "{}", self.log());
    }

    /// A question that the human is to be notified of.
    pub fn ask(&self) {
        let option = |id: &str| DecisionOption { id: id.to_owned(), description: id.to_owned() };
        let question = NewDecision {
            decision_type: "other".to_owned(),
            summary: "which one?".to_owned(),
            options: vec![option("a"), option("b")],
            default_option: None,
            context: json!({}),
            timeout_minutes: Some(600),
            requested_by: ActorId::human(),
            fingerprint: None,
        };
        self.db.write(|tx| tx.ask(&question, None)).unwrap();
    }

    /// Heartbeat has been there: nothing is held by the dead.
    pub fn assert_given_back(&self, case: &impl std::fmt::Debug) {
        // But queued work: it waits for another process that judges.
        let held = "SELECT count(*) FROM file_locks WHERE locked_by <> 'landing-train'";
        assert_eq!(self.sql(held)[0][0], "0", "{case:?}");
        let in_progress = "SELECT count(*) FROM tests WHERE status = 'in_progress' AND id NOT IN
            (SELECT test_id FROM landings WHERE ended_at IS NULL)";
        assert_eq!(self.sql(in_progress)[0][0], "0", "{case:?}");
        let dead = self.sql("SELECT count(*) FROM component_health WHERE component = 'one' AND status = 'dead'");
        let started = self.sql("SELECT count(*) FROM component_health WHERE component = 'one'");
        assert_eq!(dead, started, "{case:?}");
    }

    /// Another loop has been there: what has landed is known, and nothing is open.
    pub fn assert_settled_for_the_dead(&self, case: &impl std::fmt::Debug) {
        let open = self.sql("SELECT operation FROM transaction_log WHERE status = 'in_progress'");
        let known = self.sql("SELECT count(*) FROM component_health WHERE component = 'one'")[0][0] != "0";
        assert!(open.is_empty() || !known, "{case:?}: {open:?}\n{}", self.log());
        let landed = self.landings("t1");
        let passed = self.sql("SELECT count(*) FROM tests WHERE id = 't1' AND status = 'passed'")[0][0].clone();
        assert_eq!(landed.len().to_string(), passed, "{case:?}\n{}", self.log());
    }

    /// The commits of a test on the integration branch.
    fn landings(&self, test: &str) -> Vec<String> {
        if !self.store().exists() || self.refs_below(&[&format!("refs/heads/{INTEGRATION}")]).is_empty() {
            return Vec::new();
        }
        let all = self.store_git(&["log", "--format=%H %(trailers:key=Test,valueonly,separator=%x20)", INTEGRATION]);
        all.lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, of)| of.trim() == test)
            .map(|(hash, _)| hash.to_owned())
            .collect()
    }

    /// Everything is as if nobody had ever been killed.
    pub fn assert_in_order(&self, case: &impl std::fmt::Debug, kills: usize) {
        let log = self.log();
        let said = |what: &str| format!("{case:?}: {what}\n{log}");
        // Verified and landed once.
        let landed = self.landings("t1");
        assert_eq!(landed.len(), 1, "{}", said("landings"));
        let rows = self.sql("SELECT status, commit_hash, attempts FROM tests WHERE id = 't1'");
        assert_eq!(rows, [["passed", landed[0].as_str(), "2"]], "{}", said("the test"));
        let count = |event: &str, more: &str| {
            let sql = format!(
                "SELECT count(*) FROM events WHERE event_type = '{event}' AND json_extract(payload, '$.loop_id') = 'one' {more}"
            );
            self.sql(&sql)[0][0].parse::<usize>().unwrap()
        };
        assert_eq!(count("test_passed", ""), 1, "{}", said("passes"));
        assert_eq!(count("test_failed", "AND json_extract(payload, '$.error_category') = 'code'"), 1, "{}", said("failures"));
        assert!(
            count("test_failed", "AND json_extract(payload, '$.error_category') = 'system'") <= kills,
            "{}",
            said("returns")
        );
        // The landing train ends leases that a loop has acquired.
        let all = |event: &str| self.sql(&format!("SELECT count(*) FROM events WHERE event_type = '{event}'"));
        assert_eq!(all("file_locked"), all("file_unlocked"), "{}", said("leases"));
        let foreign = self.store_git(&["log", "--format=%s", INTEGRATION]);
        for other in ["clash", "elsewhere"] {
            assert_eq!(foreign.lines().filter(|line| *line == other).count(), 1, "{}", said("what others have landed"));
        }
        // Given back once because of what it clashes with, unless it was killed before it was queued.
        let ways: Vec<String> =
            self.sql("SELECT state FROM landings WHERE test_id = 't1' ORDER BY queued_at").into_iter().flatten().collect();
        assert!(ways == ["returned", "landed"] || (kills > 0 && ways == ["landed"]), "{}", said(&format!("{ways:?}")));
        // Nothing is lost: whatever an agent has written is landed or saved.
        for token in std::fs::read_to_string(self.folder().join("tokens")).unwrap_or_default().lines() {
            assert!(self.is_kept(token), "{}", said(&format!("{token} is lost")));
        }
        // Refs and rows agree.
        let kept = ["refs/coding-loops/checkpoints", "refs/coding-loops/queued", "refs/coding-loops/saved"];
        let refs = self.store_git(&[&["for-each-ref", "--format=%(refname) %(objectname)"], &kept[..]].concat());
        let mut refs: Vec<String> = refs.lines().map(str::to_owned).collect();
        refs.sort();
        let rows = self.sql("SELECT git_ref || ' ' || commit_hash FROM checkpoints WHERE deleted_at IS NULL ORDER BY 1");
        assert_eq!(refs, rows.into_iter().flatten().collect::<Vec<_>>(), "{}", said("refs and their rows"));
        // Nothing is held, open or half-done.
        assert_eq!(
            self.sql("SELECT count(*) FROM transaction_log WHERE status = 'in_progress'"),
            [["0"]],
            "{}",
            said("journal")
        );
        assert_eq!(self.sql("SELECT count(*) FROM file_locks"), [["0"]], "{}", said("leases"));
        assert_eq!(self.sql("SELECT count(*) FROM tests WHERE status = 'in_progress'"), [["0"]], "{}", said("in progress"));
        assert_eq!(
            self.sql("SELECT status, coalesce(current_test_id, '-') FROM loops WHERE id = 'one'"),
            [["stopped", "-"]],
            "{}",
            said("loop")
        );
        assert_eq!(self.db.check().unwrap(), [], "{}", said("check"));
        self.assert_nothing_stray(&["one", "two"]);
        // Nothing lies in the workspace that has not landed.
        let status = self.git(&["-C", "../repository-loops/loops/one", "status", "--porcelain"]);
        assert!(status.is_empty(), "{}", said(&status));
        assert!(!self.refs_below(&["refs/coding-loops/published"]).is_empty(), "{}", said("published"));
    }

    /// No workspace but of these loops, no lock, no half of an operation; what is published is what has landed; and the rest of
    /// the user's repository is as it was.
    pub fn assert_nothing_stray(&self, loops: &[&str]) {
        let log = self.log();
        let problems = repositories::problems(&self.repository, loops);
        assert!(problems.is_empty(), "{problems:#?}\n{log}");
        assert_eq!(std::fs::read(self.repository.join(".git/config")).unwrap(), self.config, "the user's config\n{log}");
        assert_eq!(self.git(&["status", "--porcelain"]), "");
        let subjects = self.git(&["log", "--format=%s", "main"]);
        assert_eq!(subjects.lines().filter(|subject| *subject != HOTFIX).collect::<Vec<_>>(), ["begin"]);
    }

    /// What the journal has of a component.
    pub fn assert_journal(&self, component: &str, expected: &[(&str, &str)]) {
        let found = self.db.read(|tx| tx.journal(Some(component), 100)).unwrap();
        assert!(found.iter().all(|entry| entry.status != JournalStatus::InProgress));
        let found: Vec<(&str, &str)> = found.iter().map(|entry| (entry.operation.as_str(), entry.status.as_str())).collect();
        assert_eq!(found, expected, "{}", self.log());
    }
}
