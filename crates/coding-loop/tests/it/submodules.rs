//! Edits in submodules: named, refused and kept, never lost beside a test that passes.

use std::fs;
use std::path::Path;

use crate::common::{CHECK, World};
use coord_db::payload::RollbackTriggered;
use coord_db::{ActorId, ErrorCategory, NewEvent, TestStatus};
use test_support::run;

const ALLOWED: [&str; 2] = ["-c", "protocol.file.allow=always"];

fn git_in(folder: &Path, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new("git");
    command.args(ALLOWED).args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments).current_dir(folder);
    run(&mut command)
}

fn library(world: &World, name: &str) -> std::path::PathBuf {
    let library = world.folder().join(name);
    fs::create_dir(&library).unwrap();
    fs::write(library.join("l.txt"), "one\n").unwrap();
    fs::write(library.join(".gitignore"), "*.o\n").unwrap();
    git_in(&library, &["init", "--quiet", "-b", "main"]);
    git_in(&library, &["add", "--all"]);
    git_in(&library, &["commit", "--quiet", "-m", "one"]);
    library
}

/// `vendor` with `deep` in it, whose sources are bare and writable.
fn world(agent: &str) -> World {
    let world = World::new(agent, CHECK);
    let (inner, outer) = (library(&world, "inner"), library(&world, "outer"));
    git_in(&outer, &["submodule", "--quiet", "add", inner.to_str().unwrap(), "deep"]);
    git_in(&outer, &["commit", "--quiet", "-m", "two"]);
    git_in(&outer, &["config", "receive.denyCurrentBranch", "ignore"]);
    git_in(&world.repository, &["submodule", "--quiet", "add", outer.to_str().unwrap(), "vendor"]);
    git_in(&world.repository, &["submodule", "--quiet", "update", "--init", "--recursive"]);
    git_in(&world.repository, &["commit", "--quiet", "-m", "submodules"]);
    world.configure(|text| {
        format!("[workspace]\nsetup = [[\"sh\", \"-c\", \"echo x > vendor/made; echo x > vendor/deep/x.o\"]]\n{text}")
    });
    world.add_loop("one");
    world.add_test("t1", "one");
    world
}

/// Has the loop go back to what was saved last; no test may be ready.
fn roll_back_to_saved(world: &World) {
    let rows = world.db.read(|tx| tx.checkpoints(Some(&"one".parse()?), false)).unwrap();
    let saved = rows.into_iter().filter(|row| row.git_ref.starts_with("refs/coding-loops/saved/"));
    let saved = saved.max_by_key(|row| row.created_at).unwrap();
    let order = RollbackTriggered {
        loop_id: "one".parse().unwrap(),
        checkpoint_id: Some(saved.id),
        reason: "a look".to_owned(),
        triggered_by: ActorId::human(),
    };
    world.db.write(|tx| tx.publish(&NewEvent::new(ActorId::human(), order))).unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.events("rollback_done").len(), 1);
}

const REMEDY: &str = "commit them inside the submodule and push that commit to its remote, or undo them";

#[test]
fn edits_fail_the_attempt_by_name_and_are_kept() {
    let world = world(
        "cat >../../../prompt; echo two >vendor/l.txt; echo new >'vendor/a b'; echo two >vendor/deep/l.txt; echo x >$TEST_ID\n",
    );
    assert_eq!(world.once("one").status.code(), Some(0));
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts, test.error_category), (TestStatus::Blocked, 2, Some(ErrorCategory::Code)));
    assert_eq!(
        test.last_error.unwrap(),
        format!(
            "the changes to a b, l.txt in the submodule vendor are not committed; {REMEDY}; the changes to l.txt in the submodule \
             vendor/deep are not committed; {REMEDY}"
        )
    );
    let workspace = world.workspace("one");
    let read = |name: &str| fs::read_to_string(workspace.join(name)).ok();
    assert_eq!(read("vendor/l.txt").as_deref(), Some("one\n"));
    // The second attempt could read what the first one had made.
    let prompt = fs::read_to_string(world.folder().join("prompt")).unwrap();
    let diff = prompt.lines().find_map(|line| Some(line.split_once("git diff ")?.1.split_once(" shows it")?.0)).unwrap();
    let diff: Vec<&str> = diff.split(' ').collect();
    let shown = git_in(&workspace, &[&["diff", "--submodule=diff"], &diff[..]].concat());
    assert!(shown.contains("+two"), "{shown}");
    roll_back_to_saved(&world);
    assert_eq!(
        [read("vendor/l.txt"), read("vendor/a b"), read("vendor/deep/l.txt")].map(Option::unwrap),
        ["two\n", "new\n", "two\n"]
    );
    assert_eq!(git_in(&workspace.join("vendor"), &["status", "--porcelain"]).lines().count(), 3);
}

#[test]
fn a_commit_that_is_not_pushed_is_kept_and_one_that_is_pushed_lands() {
    let commit = "git add l.txt && git -c user.name=a -c user.email=a@b commit -qm mine";
    let world = world(&format!("cat >/dev/null; cd vendor; echo two >l.txt; {commit}; cd ..; echo x >$TEST_ID\n"));
    assert_eq!(world.once("one").status.code(), Some(0));
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts, test.error_category), (TestStatus::Blocked, 2, Some(ErrorCategory::Code)));
    let why = test.last_error.unwrap();
    assert!(why.ends_with("which is not on its remote; push that commit, or reset the submodule"), "{why}");
    roll_back_to_saved(&world);
    let vendor = world.workspace("one").join("vendor");
    assert_eq!(fs::read_to_string(vendor.join("l.txt")).unwrap(), "two\n");
    assert_eq!(git_in(&vendor, &["log", "-1", "--format=%s"]), "mine");
    let pushes = "git -c protocol.file.allow=always push -q origin HEAD:refs/heads/pushed";
    let agent = format!("cat >/dev/null; cd vendor; echo two >l.txt; {commit}; {pushes}; cd ..; echo x >$TEST_ID\n");
    fs::write(world.folder().join("agent.sh"), agent).unwrap();
    world.add_test("t2", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t2").status, TestStatus::Passed, "{:?}", world.test("t2").last_error);
    let landed = world.git(&["rev-parse", "coding-loops/integration:vendor"]);
    assert_eq!(git_in(&world.folder().join("outer"), &["rev-parse", "pushed"]), landed);
}

#[test]
fn what_set_up_and_builds_leave_there_is_nobodys_change() {
    let world = world("cat >/dev/null; echo x >vendor/built.o; echo x >vendor/deep/built.o; echo x >$TEST_ID\n");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
    assert_eq!(world.git(&["show", "--name-only", "--format=", "coding-loops/integration"]), "t1");
}

#[test]
fn a_named_pipe_in_its_git_folder_holds_nobody_up() {
    let break_it = "rm -rf vendor/.git; mkdir -p vendor/.git/refs vendor/.git/objects; mkfifo vendor/.git/HEAD";
    let world =
        world(&format!("cat >/dev/null\n[ -e $FOLDER/broken ] || {{ touch $FOLDER/broken; {break_it}; }}\necho x >$TEST_ID\n"));
    world.configure(|text| {
        text.replacen("[agent]\n", "[agent]\nset = { FOLDER = \"@\" }\n", 1).replace('@', world.folder().to_str().unwrap())
    });
    let running = world.start("one");
    test_support::wait_until("the attempt after it", || world.test("t1").status == TestStatus::Passed);
    running.kill();
}
