//! What may land and what may not: every kind of change under any name, numbers of migrations, protected files, and branches
//! that are not the loop's. What may not lands nothing, says why, and keeps the work under a ref.

use crate::common::{CHECK, World};
use coord_db::{ErrorCategory, Test, TestStatus};
use std::path::Path;
use std::process::Command;
use test_support::{run, wait_for, wait_until};

const INTEGRATION: &str = "coding-loops/integration";

fn world(agent: &str, settings: &str) -> World {
    World::with_test(&format!("cat > /dev/null; top=../../..; {agent}"), &format!("{settings}{CHECK}"))
}

fn attempt(world: &World) -> Test {
    world.attempt("one");
    world.test("t1")
}

fn refused(world: &World, category: ErrorCategory, words: &[&str]) {
    let test = attempt(world);
    assert_ne!(test.status, TestStatus::Passed);
    assert_eq!(test.error_category, Some(category), "{:?}", test.last_error);
    let error = test.last_error.unwrap();
    for part in words {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    assert_eq!(world.git(&["rev-parse", INTEGRATION]), world.git(&["rev-parse", "main"]), "nothing has landed");
    let saved = world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/one/t1/"]);
    assert!(
        saved.lines().any(|name| world.store(&["ls-tree", "--name-only", name]).lines().any(|file| file == "t1")),
        "{saved}"
    );
    world.assert_tidy();
}

#[test]
fn every_kind_of_change_under_any_name_is_leased_and_lands() {
    let agent = r#"
        echo > $TEST_ID; printf x > ' sp ace '; printf x > '-rf'; printf x > "q\"uo'te\$(touch evil);\\"; printf x > "$(printf 'a\nb\tc')"
        printf x > '*?[a]'; printf x > 'port:5432'; printf x > 'ünï€'; mkdir -p deep/er; printf x > deep/er/-; ln -s deep/er link
        printf '#!/bin/sh\n' > run; chmod +x run; git mv shared renamed; chmod +x gone; git rm -q --cached gone; rm gone
        chmod +x mode; rm was-a-link; mkdir was-a-link; echo > was-a-link/file
        git init -q nested; git -C nested -c user.name=a -c user.email=b commit -q --allow-empty -m x"#;
    let world = world(agent, "");
    for file in ["gone", "mode"] {
        std::fs::write(world.repository.join(file), "x\n").unwrap();
    }
    std::os::unix::fs::symlink("shared", world.repository.join("was-a-link")).unwrap();
    world.git(&["add", "--all"]);
    world.git(&["commit", "--quiet", "--amend", "--message", "begin"]);
    let test = attempt(&world);
    assert_eq!(test.status, TestStatus::Passed, "{:?}", test.last_error);
    let changed = world.git(&["-c", "core.quotePath=on", "diff", "--no-renames", "--name-status", "main", INTEGRATION]);
    let mut changed: Vec<&str> = changed.lines().collect();
    changed.sort_unstable();
    let expected = [
        "A\t\" sp ace \"",
        "A\t\"*?[a]\"",
        "A\t\"a\\nb\\tc\"",
        "A\t\"q\\\"uo'te$(touch evil);\\\\\"",
        "A\t\"\\303\\274n\\303\\257\\342\\202\\254\"",
        "A\t-rf",
        "A\tdeep/er/-",
        "A\tlink",
        "A\tport:5432",
        "A\trenamed",
        "A\trun",
        "A\tt1",
        "A\twas-a-link/file",
        "D\tgone",
        "D\tshared",
        "D\twas-a-link",
        "M\tmode",
    ];
    let mut expected: Vec<String> = expected.iter().map(|line| line.to_string()).collect();
    // git quotes only what it must.
    for name in [" sp ace ", "*?[a]"] {
        let at = expected.iter().position(|line| *line == format!("A\t\"{name}\"")).unwrap();
        expected[at] = format!("A\t{name}");
    }
    expected.sort_unstable();
    assert_eq!(changed, expected);
    // Each under its own lease, and the event says so.
    let passed = world.events("test_passed").remove(0);
    assert_eq!(passed.payload["files_modified"].as_array().unwrap().len(), expected.len());
    let locked: Vec<String> =
        world.events("file_locked").iter().map(|event| event.payload["file_path"].as_str().unwrap().to_owned()).collect();
    for file in passed.payload["files_modified"].as_array().unwrap() {
        assert!(locked.iter().any(|path| path == file.as_str().unwrap()), "{file} was never leased: {locked:?}");
    }
    // A repository that the agent has made there is no more than its files, and makes no saved work out of nothing.
    world.add_test("t2", "one");
    attempt(&world);
    assert_eq!(world.test("t2").status, TestStatus::Passed);
    let saved = world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/"]);
    assert_eq!(saved, "");
    world.assert_tidy();
}

#[test]
fn names_that_cannot_be_leased_are_refused_in_words() {
    for (name, words) in
        [("$(printf '\\377')", "is not UTF-8"), ("git:integration", "reserved for the lease on the integration branch")]
    {
        let world = world(&format!("echo > $TEST_ID; echo > \"{name}\""), "");
        refused(&world, ErrorCategory::Code, &[words]);
    }
}

#[test]
fn a_migration_lands_with_a_number_of_its_loop_only() {
    let world = world("echo > $TEST_ID; mkdir -p db; cp $top/sql db/$(cat $top/name)", "[gate]\nmigrations = [\"db/*.sql\"]\n");
    std::fs::write(world.folder().join("sql"), "create table t (a);\n").unwrap();
    let name = |name: &str| std::fs::write(world.folder().join("name"), name).unwrap();
    let allocate =
        |loop_id: &str, file: Option<&str>| world.db.write(|tx| tx.allocate_migration("m", &loop_id.parse()?, file)).unwrap();
    let again = || world.db.write(|tx| tx.reset_test(&"t1".parse()?)).unwrap();
    world.add_loop("two");
    name("users.sql");
    refused(&world, ErrorCategory::Code, &["db/users.sql has no migration number that was allocated to loop one"]);
    again();
    assert_eq!((allocate("two", None), allocate("one", Some("db/0002_other.sql"))), (1, 2));
    for wrong in ["0001_users.sql", "0002_users.sql", "0003_users.sql"] {
        name(wrong);
        refused(&world, ErrorCategory::Code, &[wrong, "loopctl migration allocate"]);
        again();
    }
    assert_eq!(allocate("one", None), 3);
    name("0003_users.sql");
    assert_eq!(attempt(&world).status, TestStatus::Passed);
    // What has its number may be renamed and changed by anyone.
    world.add_test("t2", "two");
    let script =
        "cat > /dev/null; echo > $TEST_ID; git mv db/0003_users.sql db/0003_people.sql; echo '-- x' >> db/0003_people.sql";
    std::fs::write(world.folder().join("agent.sh"), script).unwrap();
    world.attempt("two");
    assert_eq!(world.test("t2").status, TestStatus::Passed, "{:?}", world.test("t2").last_error);
    world.assert_tidy();
}

#[test]
fn a_folder_with_allocated_numbers_is_one_of_migrations_without_being_named() {
    let world = world("echo > $TEST_ID; mkdir db; echo > db/README; echo > db/0009_x.sql", "");
    world.db.write(|tx| tx.allocate_migration("m", &"one".parse()?, Some("db/0001_x.sql"))).unwrap();
    refused(&world, ErrorCategory::Code, &["db/0009_x.sql has no migration number"]);
}

/// `pm-agent` applies what `loopctl decide` answers.
fn decide(world: &World, choice: &str) {
    let asked = wait_for("the question", || world.db.read(|tx| tx.decisions(true)).unwrap().into_iter().next());
    assert!(asked.summary.contains("changes protected files: shared"), "{}", asked.summary);
    world.db.write(|tx| tx.resolve_decision(&asked.id, Some(choice), true, None, None)).unwrap();
}

#[test]
fn what_is_protected_lands_by_approval_however_it_is_changed() {
    for change in
        ["echo x >> shared", "git mv shared other", "rm shared", "chmod +x shared", "rm shared; mkdir shared; echo > shared/x"]
    {
        for choice in ["approve", "reject"] {
            let world = world(&format!("echo > $TEST_ID; {change}"), "[gate]\nprotected = [\"shared\"]\n");
            let running = world.start("one");
            decide(&world, choice);
            if choice == "approve" {
                wait_until("the landing", || world.test("t1").status == TestStatus::Passed);
            } else {
                wait_until("the refusal", || world.test("t1").error_category == Some(ErrorCategory::Human));
                assert_eq!(world.git(&["rev-parse", INTEGRATION]), world.git(&["rev-parse", "main"]));
                assert_eq!(world.store(&["for-each-ref", "refs/coding-loops/saved/one/t1/"]).lines().count(), 1);
            }
            running.kill();
        }
    }
}

#[test]
fn a_branch_of_the_users_is_never_moved_whatever_the_loops_branch_is_called() {
    let world = world("echo > $TEST_ID", "");
    world.git(&["branch", "users-own"]);
    world.git(&["config", "receive.denyNonFastForwards", "true"]);
    for (at, branch) in ["users-own", INTEGRATION, "main", "mine"].into_iter().enumerate() {
        world.db.execute_foreign(&format!("UPDATE loops SET branch = '{branch}' WHERE id = 'one'")).unwrap();
        let test = format!("t{}", at + 1);
        if at > 0 {
            world.add_test(&test, "one");
        }
        assert_eq!(world.once("one").status.code(), Some(0));
        assert_eq!(world.test(&test).status, TestStatus::Passed);
        assert_eq!(run(Command::new("git").args(["branch", "--show-current"]).current_dir(world.workspace("one"))), branch);
        // It is created again if the folder is missing.
        std::fs::remove_dir_all(world.workspace("one")).unwrap();
    }
    assert_eq!(world.git(&["rev-parse", "users-own"]), world.git(&["rev-parse", "main"]));
    assert_eq!(world.git(&["branch", "--list", "mine"]), "");
    world.assert_tidy();
}

#[test]
fn nobody_slips_a_commit_in_between_the_claim_and_the_landing() {
    // While the gate judges, somebody commits to the loop's branch, and to what the gate's own clone calls integration.
    let slip = "if mkdir ../../../once 2> /dev/null; then (cd ../../loops/one && echo > slipped && git add slipped && \
                git -c user.name=a -c user.email=b commit -qm slipped); head=$(git rev-parse HEAD); \
                git update-ref refs/heads/coding-loops/integration $(git -c user.name=a -c user.email=b commit-tree $head^{tree} -p $head -m else); fi";
    let world = world(
        "echo > $TEST_ID",
        &format!("[[gate.check]]\nname = \"slip\"\ncommand = [\"sh\", \"-c\", {slip:?}]\nper_test = true\n"),
    );
    let test = attempt(&world);
    assert_eq!(test.status, TestStatus::Passed, "{:?}", test.last_error);
    assert_eq!(world.git(&["diff", "--name-only", "main", INTEGRATION]), "t1", "what was judged is what has landed");
    // What came later is no part of it, and is saved.
    let saved = world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/one/"]);
    assert!(world.store(&["ls-tree", "--name-only", &saved]).contains("slipped"), "{saved}");
}

#[test]
fn what_an_agent_has_git_ignore_is_not_lost_either() {
    let agent = "if mkdir $top/first 2> /dev/null; then printf 'notes*\\nsp?ce\\n' >> .gitignore; echo kept > 'notes [1]'; \
                 mkdir 'sp ce'; echo kept > 'sp ce/x'; echo lost > half; exit 1; fi; echo > $TEST_ID";
    let world = world(agent, "");
    assert_eq!(attempt(&world).status, TestStatus::Pending);
    assert_eq!(attempt(&world).status, TestStatus::Passed);
    assert_eq!(world.git(&["diff", "--name-only", "main", INTEGRATION]), "t1", "it is nobody's work");
    let saved = world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/"]);
    for file in ["half", "notes [1]", "sp ce/x"] {
        let holds = |name: &str| {
            let mut show = Command::new("git");
            show.args(["cat-file", "-e", &format!("{name}:{file}")])
                .env("GIT_DIR", world.root().join("store.git"))
                .output()
                .unwrap()
                .status
                .success()
        };
        assert!(saved.lines().any(holds), "{file} is in none of {saved}");
    }
    world.assert_tidy();
}

#[test]
fn commits_of_an_agent_whose_work_lands_are_not_saved_beside_it() {
    let commit = "git add --all; git -c user.name=a -c user.email=b commit -qm";
    let world =
        world(&format!("echo a > x; {commit} one; echo b > x; {commit} two --amend; echo > $TEST_ID; {commit} three"), "");
    assert_eq!(attempt(&world).status, TestStatus::Passed);
    world.add_test("t2", "one");
    attempt(&world);
    assert_eq!(world.test("t2").status, TestStatus::Passed, "{:?}", world.test("t2").last_error);
    assert_eq!(world.store(&["for-each-ref", "refs/coding-loops/saved/"]), "");
    assert_eq!(
        world.git(&["log", "--format=%(trailers:key=Test,valueonly,separator=%x20)", &format!("main..{INTEGRATION}")]),
        "t2\nt1"
    );
    world.assert_tidy();
}

#[test]
fn nothing_below_the_systems_own_folder_lands() {
    let evil = "mkdir -p coding-loops; echo evil > coding-loops/coordination.db; git add -f coding-loops; echo > $TEST_ID";
    // Where the folder is ignored, as init has it, it is no part of the work, also if the agent says otherwise.
    for more in ["", "echo > .gitignore;"] {
        let world = world(&format!("{more} {evil}"), "");
        let test = attempt(&world);
        assert_eq!(test.status, TestStatus::Passed, "{:?}", test.last_error);
        assert!(!world.git(&["ls-tree", "-r", "--name-only", INTEGRATION]).contains("coding-loops"));
        world.assert_tidy();
    }
    let world = world(evil, "");
    std::fs::write(world.repository.join(".gitignore"), "nothing\n").unwrap();
    std::fs::write(world.home.join(".gitignore"), "*\n").unwrap();
    world.git(&["commit", "--quiet", "--all", "--amend", "--message", "begin"]);
    let test = attempt(&world);
    assert_eq!(test.error_category, Some(ErrorCategory::Code));
    assert!(test.last_error.unwrap().starts_with("coding-loops/coordination.db belongs to coding-loops"));
    assert_eq!(world.git(&["rev-list", "--count", "main..coding-loops/integration"]), "0");
    world.assert_tidy();
}

#[test]
fn files_that_git_cannot_store_are_the_works_fault_and_do_not_stop_the_loop() {
    let agent = "cat >/dev/null; if [ $TEST_ID = t1 ]; then echo '*.txt text working-tree-encoding=UTF-16' > .gitattributes; printf plain > p.txt; fi; echo > $TEST_ID\n";
    let world = World::with_test(agent, CHECK);
    world.add_test("t2", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    let test = world.test("t1");
    assert_eq!((test.status, test.error_category), (TestStatus::Blocked, Some(ErrorCategory::Code)));
    assert!(test.last_error.unwrap().contains("p.txt"));
    assert_eq!(world.test("t2").status, TestStatus::Passed);
    // What could not be landed is kept all the same.
    let saved = world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/one/t1"]);
    let note = world.store(&["log", "-1", "--format=%b", saved.lines().next().unwrap()]);
    let folder = note.trim().rsplit(' ').next().unwrap();
    assert_eq!(std::fs::read_to_string(Path::new(folder).join("p.txt")).unwrap(), "plain");
    world.assert_tidy();
}

#[test]
fn a_broken_reference_of_somebody_else_stops_nobody() {
    let world = World::with_test("cat >/dev/null; echo > $TEST_ID\n", CHECK);
    let folder = world.repository.join(".git/refs/remotes/origin");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("old"), "1234567890123456789012345678901234567890\n").unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed);
}
