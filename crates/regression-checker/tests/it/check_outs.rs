//! Whatever a check does with git in its check-out ends with it: nothing reaches the store, the user's repository or the
//! next check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{BRANCH, World};
use test_support::git;

/// Every file below a folder, with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.append(&mut files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

/// The store and the git folder of the user's repository.
fn repositories(world: &World) -> [BTreeMap<PathBuf, Vec<u8>>; 2] {
    [files(&world.layout.store_path()), files(&world.repository.join(".git"))]
}

/// Reports what an earlier check has left, and changes all that can be changed.
const HOSTILE: &str = r#"
expect() { [ "$2" = "$3" ] || echo "$1: $2 instead of $3" >> "$RUNS"; }
expect status "$(git status --porcelain)" ""
expect branches "$(git for-each-ref refs/heads refs/stash refs/replace)" ""
expect setting "$(git config core.autocrlf)" ""
expect setting "$(git config alias.left)" ""
expect identity "$(git config user.name)" "Zoë"
expect tag "$(git tag)" v1
expect flags "$(git ls-files -v | grep -v '^H')" ""
expect excluded "$(git check-ignore excluded)" ""
expect integration "$(git rev-parse origin/coding-loops/integration)" "$HEAD_OF_STORE"
[ -e .git/hooks/pre-commit ] && echo "hooks" >> "$RUNS"
echo junk > junk; echo junk >> state/t2
git stash --quiet --include-untracked
git config alias.left status
git config core.autocrlf true
git config core.fsmonitor ./evil
git config user.name Evil
git config core.worktree /nowhere
git config --unset core.worktree
mkdir -p .git/hooks; echo "exit 1" > .git/hooks/pre-commit
echo excluded > .git/info/exclude; echo "* text eol=crlf" > .git/info/attributes
git branch -f coding-loops/integration HEAD
git update-ref refs/remotes/origin/coding-loops/integration "$(git rev-list --max-parents=0 HEAD)"
git branch -f other; git tag -d v1; git tag v2
git update-index --assume-unchanged state/t2; git update-index --skip-worktree .gitignore
git replace HEAD "$(git commit-tree -m replaced "HEAD^{tree}")"
git reflog expire --expire=now --all; git gc --quiet --prune=now
test "$(cat state/t1)" = ok
"#;

#[test]
fn a_check_changes_its_own_git_folder_only() {
    let world = World::with_baseline();
    git(&world.repository, ["config", "user.name", "Zoë"]);
    git(&world.repository, ["config", "user.email", "zoe@localhost"]);
    git(&world.repository, ["tag", "v1"]);
    fs::remove_dir_all(world.layout.root()).unwrap();
    world.make_store();
    let commits = world.history(9, 5);
    let script = HOSTILE.replace("$HEAD_OF_STORE", &commits[8]);
    world.configure_with(&world.script(&script), "[regression]\nparallel = 2");
    let before = repositories(&world);
    world.once();
    assert_eq!(world.runs(), Vec::<String>::new());
    assert_eq!(world.sql("SELECT status, first_bad_commit FROM regressions"), format!("regressed|{}", commits[4]));
    assert!(repositories(&world) == before, "nothing has changed in the store and in the user's repository");
}

#[test]
fn a_check_sees_branches_and_tags_as_they_are_when_integration_moves() {
    let world = World::with_baseline();
    let script = format!(r#"echo "$(git rev-parse HEAD) $(git rev-parse origin/{BRANCH}) $(git tag | wc -l)" >> "$RUNS""#);
    world.configure_with(&world.script(&script), "");
    let daemon = world.daemon();
    for number in 0..3 {
        world.in_store(&["tag", &format!("v{number}")]);
        let head = world.commit("other", &number.to_string(), "");
        world.say_passed(&format!("t-{number}"), "b", &head);
        world.until(&format!("SELECT outcome FROM check_runs WHERE commit_hash = '{head}'"), "pass");
        let seen = world.runs().pop().unwrap();
        assert_eq!(seen, format!("{head} {head} {}", number + 1));
    }
    drop(daemon);
}

#[test]
fn a_change_that_a_check_hides_from_git_is_seen() {
    let world = World::with_baseline();
    // It makes pass what it has to judge.
    let script = r#"git update-index --assume-unchanged state/t1; echo ok > state/t1; exit 0"#;
    world.configure_with(&world.script(script), "[regression]\nparallel = 1");
    world.commit("other", "ok", "Loop: a");
    let bad = world.commit("t1", "broken", "Loop: b");
    world.once();
    assert_eq!(world.sql("SELECT status, first_bad_commit FROM regressions"), format!("regressed|{bad}"));
    assert!(world.sql("SELECT output_tail FROM check_runs").contains("changed tracked files: state/t1"));
}

#[test]
fn a_check_that_goes_on_to_another_commit_does_not_pass() {
    let world = World::with_baseline();
    world.commit("other", "ok", "");
    for leave in ["git checkout --quiet --detach HEAD~1", "git reset --quiet --soft HEAD~1", "rm -rf .git; ln -s '@USER@' .git"]
    {
        let leave = leave.replace("@USER@", world.repository.join(".git").to_str().unwrap());
        world.configure_with(&world.script(&leave), "");
        let before = repositories(&world);
        world.sql("DELETE FROM check_runs");
        world.once();
        let told = world.sql("SELECT outcome, output_tail FROM check_runs");
        assert_eq!(told, "fail|check tests changed the commit under test", "{leave}");
        assert!(repositories(&world) == before, "{leave}");
    }
}

#[test]
fn a_git_folder_that_is_removed_or_replaced_is_created_again() {
    let world = World::with_baseline();
    // Each run finds what the one before it has left.
    let leaves = [
        "rm -rf .git",
        "rm -rf .git; echo 'gitdir: /nowhere' > .git",
        "rm -rf .git; ln -s /nowhere .git",
        "rm -rf .git; git init --quiet .",
        "rm .git/index; mkdir .git/index .git/HEAD.new",
        ": > .git/HEAD",
        "rm -rf .git/objects; ln -s . .git/objects",
        "chmod -R a-w .git",
        "git checkout --quiet -b astray; git checkout --quiet --detach",
    ];
    for (number, leave) in leaves.iter().enumerate() {
        let head = world.commit("t1", &format!("broken {number}"), "");
        let script = format!(
            r#"found="$(git rev-parse --git-dir; git status --porcelain 2>&1)"; [ "$found" = .git ] || echo "$found" >> "$RUNS"
            {leave}
            exit 1"#
        );
        world.configure_with(&world.script(&script), "[regression]\nparallel = 1");
        let before = repositories(&world);
        world.once();
        assert_eq!(world.runs(), Vec::<String>::new(), "{leave}");
        assert_eq!(world.sql(&format!("SELECT runs FROM check_runs WHERE commit_hash = '{head}'")), "3");
        assert!(repositories(&world) == before, "{leave}");
    }
}

#[test]
fn a_check_out_that_is_damaged_between_two_starts_is_created_again() {
    let world = World::with_baseline();
    let script = r#"git rev-parse HEAD >> "$RUNS"; test -z "$(git status --porcelain)" && test "$(cat state/t1)" = ok"#;
    world.configure_with(&world.script(script), "");
    let folder = world.layout.checker();
    let (tree, own) = (folder.join("0"), folder.join("0.git"));
    let damages: [&dyn Fn(); 6] = [
        &|| (),
        &|| fs::remove_dir_all(&tree).unwrap(),
        &|| fs::remove_dir_all(&own).unwrap(),
        &|| fs::write(own.join("index"), "no index").unwrap(),
        &|| {
            fs::remove_dir_all(&tree).unwrap();
            std::os::unix::fs::symlink(&world.repository, &tree).unwrap();
        },
        &|| {
            fs::remove_dir_all(&own).unwrap();
            fs::write(&own, "a file").unwrap();
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let head = world.commit("other", &number.to_string(), "");
        if number > 0 {
            damage();
        }
        let before = files(&world.repository);
        world.once();
        assert_eq!(world.sql(&format!("SELECT outcome FROM check_runs WHERE commit_hash = '{head}'")), "pass", "{number}");
        let after = files(&world.repository);
        let is_own = |path: &&PathBuf| path.starts_with(world.repository.join("coding-loops"));
        let users = |all: &BTreeMap<PathBuf, Vec<u8>>| all.keys().filter(|path| !is_own(path)).cloned().collect::<Vec<_>>();
        assert_eq!(users(&after), users(&before), "{number}");
    }
}

#[test]
fn a_step_of_a_search_takes_four_calls_of_git() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::with_baseline();
    world.configure_with(&world.script(r#"echo >> "$RUNS"; test "$(cat state/t1)" = ok"#), "[regression]\nparallel = 1");
    let commits = world.history(60, 41);
    let folder = world.path.with_file_name("bin");
    fs::create_dir(&folder).unwrap();
    let (wrapper, calls) = (folder.join("git"), folder.join("calls"));
    let path = std::env::var("PATH").unwrap();
    let text = format!("#!/bin/sh\necho \"$*\" >> '{}'\nPATH='{path}'\nexec git \"$@\"\n", calls.display());
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    world.once_with(&[("PATH", &format!("{}:{path}", folder.display()))]);
    assert_eq!(world.sql("SELECT first_bad_commit FROM regressions"), commits[40]);
    let calls = fs::read_to_string(&calls).unwrap();
    let in_check_out = calls.lines().filter(|call| call.contains("--work-tree")).count();
    let runs = world.sql("SELECT json_extract(bisect, '$.runs') + 6 FROM regressions").parse::<usize>().unwrap();
    assert!(runs > 15, "{runs}");
    // The first run makes the check-out.
    assert!(in_check_out <= 4 * runs + 4, "{in_check_out} for {runs} runs:\n{calls}");
}

#[test]
fn a_check_may_fill_submodules_each_time() {
    let world = World::with_baseline();
    let other = world.path.with_file_name("other");
    fs::create_dir(&other).unwrap();
    git(&other, ["init", "--quiet"]);
    let versions = ["one", "two"].map(|version| {
        fs::write(other.join("version"), version).unwrap();
        git(&other, ["add", "."]);
        git(&other, ["commit", "--quiet", "-m", version]);
        git(&other, ["rev-parse", "HEAD"])
    });
    let modules = format!("[submodule \"vendor\"]\n\tpath = vendor\n\turl = {}\n", other.display());
    world.commit_file(".gitmodules", &modules, "");
    world.commit_link("vendor", &versions[0]);
    let good = world.commit("expected", "one", "");
    world.sql(&format!("DELETE FROM passing_tests; INSERT INTO passing_tests(test_id, commit_hash) VALUES ('t1', '{good}')"));
    world.commit("other", "ok", "Loop: a");
    let bad = world.commit("t1", "broken", "Loop: b");
    world.in_store(&["update-index", "--cacheinfo", &format!("160000,{},vendor", versions[1])]);
    world.in_store(&["commit", "--quiet", "-m", "A newer submodule"]);
    let script = r#"
git -c protocol.file.allow=always submodule update --quiet --init || { echo failed >> "$RUNS"; exit 125; }
[ "$(git rev-parse HEAD:vendor)" = "$(git -C vendor rev-parse HEAD)" ] || echo "another version" >> "$RUNS"
test -e vendor/version && test "$(cat state/t1)" = ok"#;
    world.configure_with(&world.script(script), "[regression]\nparallel = 1");
    world.once();
    assert_eq!(world.runs(), Vec::<String>::new());
    assert_eq!(world.sql("SELECT status, first_bad_commit FROM regressions"), format!("regressed|{bad}"));
}
