//! The gate through the real binary: what each kind of end is called, that it leaves nothing running, that nothing is run
//! twice, and that a slow suite holds nobody up.

use crate::common::{CHECK, World};
use coord_db::{ErrorCategory, Regression, RegressionStatus, RunKind, Test, TestStatus};
use test_support::{Process, wait_for, wait_until};

const HONEST: &str = "cat >/dev/null; echo $TEST_ID > $TEST_ID\n";
const INTEGRATION: &str = "coding-loops/integration";

/// A check that is not run before the work.
fn check(command: &str, more: &str) -> String {
    format!("[[gate.check]]\nname = \"x\"\ncommand = {command}\nper_test = true\n{more}\n")
}

fn script(text: &str) -> String {
    format!("[\"sh\", \"-c\", {text:?}]")
}

/// One attempt under these checks. Gives the test, and how the last run of a check ended.
fn attempt(settings: &str) -> (World, Test, RunKind) {
    let world = World::with_test(HONEST, settings);
    world.attempt("one");
    let test = world.test("t1");
    let proofs = world.db.read(|tx| tx.proofs(&test.id, None)).unwrap();
    let runs = world.db.read(|tx| tx.proof_runs(&test.id)).unwrap();
    let run = runs.iter().find(|run| run.proof_id == proofs.last().unwrap().id).unwrap();
    assert_eq!(run.why.is_empty(), run.kind == RunKind::Passed, "{run:?}");
    assert_eq!(world.git(&["rev-parse", INTEGRATION]) == world.git(&["rev-parse", "main"]), run.kind != RunKind::Passed);
    let kind = run.kind;
    (world, test, kind)
}

/// No process works below the world's folder.
fn nothing_runs(world: &World) {
    wait_for("everything to have ended", || {
        let some = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(world.folder())));
        (!some).then_some(())
    });
}

#[test]
fn each_end_of_a_check_has_its_own_name_and_only_a_verdict_costs_an_attempt() {
    let plain = std::env::temp_dir().join(format!("not-executable-{}", std::process::id()));
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    let cases = [
        (check("[\"no-such-program\"]", ""), RunKind::Missing, None),
        (check(&format!("[{plain:?}]"), ""), RunKind::NotExecutable, None),
        (check(&script("kill -SEGV $$"), ""), RunKind::Signaled, None),
        (check(&script("exit 3"), ""), RunKind::Failed, Some("exit code 3")),
        (check(&script("echo x >> shared"), ""), RunKind::ChangedFiles, Some("changed tracked files: shared")),
        (check(&script("rm shared; mkdir shared; echo > shared/x"), ""), RunKind::ChangedFiles, Some("shared")),
        (check(&script("chmod +x shared"), ""), RunKind::ChangedFiles, Some("shared")),
        (
            check(&script("git update-index --assume-unchanged shared; echo x >> shared"), ""),
            RunKind::ChangedFiles,
            Some("shared"),
        ),
        (check(&script("git -c user.name=a -c user.email=b commit -qm own --allow-empty"), ""), RunKind::ChangedFiles, None),
        (check(&script("git init -q nested; echo > untracked; mkdir -p a/b"), ""), RunKind::Passed, None),
        (check(&script("rm -rf .git"), ""), RunKind::Passed, None),
        (check(&script("printf 'a\\\\000b'"), ""), RunKind::Passed, None),
    ];
    for (settings, kind, words) in cases {
        let (world, test, found) = attempt(&settings);
        assert_eq!(found, kind, "{settings}: {:?}", test.last_error);
        let costs = matches!(kind, RunKind::Failed | RunKind::ChangedFiles | RunKind::Passed);
        assert_eq!(test.attempts, i64::from(costs), "{settings}");
        let category = match kind {
            RunKind::Passed => None,
            RunKind::Failed | RunKind::ChangedFiles => Some(ErrorCategory::Code),
            _ => Some(ErrorCategory::System),
        };
        assert_eq!(test.error_category, category, "{settings}");
        if let Some(words) = words {
            assert!(test.last_error.as_deref().unwrap_or_default().contains(words), "{:?}", test.last_error);
        }
        // What a check leaves is not there for the next one.
        let gate = world.root().join("gates/one");
        let left: Vec<_> = std::fs::read_dir(&gate).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(!left.iter().any(|name| name == "nested" || name == "untracked" || name == "a"), "{left:?}");
        nothing_runs(&world);
        world.assert_tidy();
    }
    std::fs::remove_file(plain).unwrap();
}

#[test]
fn a_check_that_takes_too_long_ends_with_all_that_it_has_started() {
    // A daemon with a session of its own, a grandchild that nobody waits for, one that drops its environment, one stopped.
    let text = "(setsid sleep 300 &); (sh -c 'sleep 301 & exec env -i setsid sleep 302' &); sleep 303 & kill -STOP $!; \
                while :; do sleep 1; done";
    let (world, test, kind) = attempt(&check(&script(text), "timeout_seconds = 1"));
    assert_eq!(kind, RunKind::TimedOut);
    assert!(test.last_error.unwrap().starts_with("check x exceeded its time limit of 1 s"));
    assert_eq!((test.attempts, test.error_category), (0, Some(ErrorCategory::System)));
    nothing_runs(&world);
    world.assert_tidy();
}

#[test]
fn output_is_bounded_and_its_hash_is_of_all_of_it() {
    let text = "yes 0123456789abcde | head -c 20000000; echo end";
    let world = World::new(HONEST, &format!("[loop.one.agent]\noutput_bytes = 5000\n{}", check(&script(text), "")));
    let text = "cat > /dev/null; yes agent | head -c 30000000; echo $TEST_ID > $TEST_ID";
    std::fs::write(world.folder().join("agent.sh"), text).unwrap();
    let config = std::fs::read_to_string(world.home.join("config.toml")).unwrap();
    std::fs::write(world.home.join("config.toml"), config.replace("[agent]\n", "[agent]\noutput_bytes = 5000\n")).unwrap();
    world.add_loop("one");
    world.add_test("t1", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    let proof = world.db.read(|tx| tx.proofs(&"t1".parse()?, None)).unwrap().remove(0);
    let shown = test_support::run(
        std::process::Command::new("sh").args(["-c", "(yes 0123456789abcde | head -c 20000000; echo end) | sha256sum"]),
    );
    assert_eq!(Some(proof.output_sha256.as_str()), shown.split(' ').next());
    assert!(proof.output_tail.len() <= 4096 && proof.output_tail.ends_with("end\n"));
    for entry in std::fs::read_dir(world.home.join("logs/one")).unwrap().flatten() {
        assert!(entry.metadata().unwrap().len() < 5200, "{}", entry.path().display());
    }
}

#[test]
fn the_same_check_on_the_same_files_is_not_run_twice_and_a_changed_one_is() {
    // The second check fails until it may not; the first writes down each run.
    let first = script("echo run >> ../../../runs");
    let second = script("test -e ../../../go");
    let checks = |first: &str| {
        let each =
            |name: &str, command: &str| format!("[[gate.check]]\nname = {name:?}\ncommand = {command}\nper_test = true\n");
        each("first", first) + &each("second", &second)
    };
    let world = World::with_test(HONEST, &checks(&first));
    let runs = || std::fs::read_to_string(world.folder().join("runs")).unwrap_or_default().lines().count();
    let again = || {
        world.db.write(|tx| tx.reset_test(&"t1".parse()?)).unwrap();
        world.attempt("one");
    };
    world.attempt("one");
    assert_eq!((runs(), world.test("t1").status), (1, TestStatus::Pending));
    again();
    assert_eq!((runs(), world.test("t1").status), (2, TestStatus::Pending), "only as the second, which fails, may need it");
    let config = std::fs::read_to_string(world.home.join("config.toml")).unwrap();
    let other = script("echo run >> ../../../runs; true");
    std::fs::write(world.home.join("config.toml"), config.replace(&first, &other)).unwrap();
    again();
    assert_eq!((runs(), world.test("t1").status), (3, TestStatus::Pending), "another command under the same name");
    std::fs::write(world.folder().join("go"), "").unwrap();
    again();
    assert_eq!((runs(), world.test("t1").status), (3, TestStatus::Passed), "its files are the same");
    // The landed commit has its proofs all the same, and its trailer names them.
    let commit = world.git(&["rev-parse", INTEGRATION]);
    let trailer = world.git(&["log", "-1", "--format=%(trailers:key=Proof,valueonly)", INTEGRATION]);
    let proofs = world.db.read(|tx| tx.proofs_beginning(&trailer)).unwrap();
    let names: Vec<&str> = proofs.iter().map(|proof| proof.check_name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert!(proofs.iter().all(|proof| proof.commit_hash == commit));
    world.assert_tidy();
}

fn stop(running: impl IntoIterator<Item = Process>) {
    for each in running {
        assert_eq!(each.terminate().code(), Some(0));
    }
}

#[test]
fn a_slow_suite_holds_nobody_up_and_is_not_overtaken_for_ever() {
    // The suite of the slow loop's attempts runs until it may end; each of its runs is written down.
    let slow = "echo run >> ../../../runs; while ! [ -e ../../../go ]; do sleep 0.05; done";
    let only = format!("case $PWD in *gates/slow) {slow};; esac");
    let world = World::new(HONEST, &format!("{CHECK}{}", check(&script(&only), "")));
    for id in ["slow", "two", "three"] {
        world.add_loop(id);
        for number in 1..=3 {
            world.add_test(&format!("{id}-{number}"), id);
        }
    }
    let runs = || std::fs::read_to_string(world.folder().join("runs")).unwrap_or_default().lines().count();
    let passed = |id: &str| (world.test(id).status == TestStatus::Passed).then_some(());
    let first = world.start("slow");
    wait_until("the slow suite", || runs() == 1);
    let others = [world.start("two"), world.start("three")];
    for test in ["two-1", "two-2", "two-3", "three-1", "three-2", "three-3"] {
        wait_for(&format!("{test} to land beside the slow suite"), || passed(test));
    }
    assert_eq!((runs(), passed("slow-1")), (1, None));
    std::fs::write(world.folder().join("go"), "").unwrap();
    for test in ["slow-1", "slow-2", "slow-3"] {
        wait_for(&format!("{test} to land"), || passed(test));
    }
    // Each was judged alone once, however many works of others landed meanwhile.
    assert_eq!(runs(), 3);
    stop(others);
    stop([first]);
    assert_eq!(world.git(&["rev-list", "--count", &format!("main..{INTEGRATION}")]), "9");
    world.assert_tidy();
}

#[test]
fn a_failure_says_what_somebody_else_has_broken_on_the_branch() {
    let world = World::with_test(HONEST, &check(&script("echo it fails; exit 1"), ""));
    world.add_test("t2", "one");
    let broken = |test: &str, blamed: &str| {
        let row = |tx: &coord_db::WriteTx<'_>| {
            let id = tx.add_regression(&test.parse()?, "x", "a", "b", "")?;
            let row = tx.regression(&id)?.unwrap();
            tx.update_regression(&Regression {
                blamed_test: Some(blamed.to_owned()),
                status: RegressionStatus::Regressed,
                ..row
            })
        };
        world.db.write(row).unwrap();
    };
    let error = |test: &str| {
        world.attempt("one");
        world.test(test).last_error.unwrap()
    };
    // The error of the test that broke it does not mention the branch.
    broken("t9", "t1");
    assert!(!error("t1").contains("on the integration branch"));
    broken("t8", "t7");
    assert!(error("t1").contains("exit code 1 (as it does on the integration branch for t8; see loopctl regressions)"));
}

#[test]
fn what_only_conversion_makes_differ_is_not_changed_by_the_check() {
    let check =
        "\n[[gate.check]]\nname = \"file\"\ncommand = [\"sh\", \"-c\", \"touch *; git status --short; test -f $TEST_ID\"]\n";
    let world = World::with_test(HONEST, check);
    std::fs::write(world.repository.join("dos.txt"), "one\r\ntwo\r\n").unwrap();
    world.git(&["add", "dos.txt"]);
    world.git(&["commit", "--quiet", "--message", "stored with its line endings"]);
    std::fs::write(world.repository.join(".gitattributes"), "*.txt text eol=crlf\n").unwrap();
    world.git(&["add", ".gitattributes"]);
    world.git(&["commit", "--quiet", "--message", "rules", "--", ".gitattributes"]);
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
    assert_eq!(world.git(&["diff", "--name-only", "main", "coding-loops/integration"]), "t1");
}

#[test]
fn what_an_earlier_run_has_built_turns_no_suite_green() {
    // The first test's run builds; the second one's agent breaks the build script, which builds nothing then.
    let agent = "cat >/dev/null; if [ $TEST_ID = t1 ]; then echo 1 > one; else echo true > build.sh; fi\n";
    let suite = check(&script("sh build.sh && test -f gen/out && echo $TEST_ID"), "");
    let world = |settings: &str| {
        let world = World::with_test(agent, &format!("{settings}{suite}"));
        std::fs::write(world.repository.join(".gitignore"), "/coding-loops/\ngen/\n").unwrap();
        std::fs::write(world.repository.join("build.sh"), "mkdir -p gen; date > gen/out\n").unwrap();
        world.git(&["add", "--all"]);
        world.git(&["commit", "--quiet", "--amend", "--message", "begin"]);
        world.add_test("t2", "one");
        for _ in 0..2 {
            world.attempt("one");
        }
        assert_eq!(world.test("t1").status, TestStatus::Passed);
        world.test("t2")
    };
    let clean = world("");
    assert_eq!((clean.status, clean.error_category), (TestStatus::Pending, Some(ErrorCategory::Code)));
    // A cache is what the human says may stay.
    assert_eq!(world("[workspace]\ncache = [\"gen/\"]\n").status, TestStatus::Passed);
}
