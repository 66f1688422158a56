//! Whatever an agent does with git in its workspace, nobody else has it: the user's repository keeps every ref, its config,
//! hooks, stash, index and files, the store keeps its integration, the other loop its work; and what lands is what lay in the
//! agent's files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{CHECK, World};
use coord_db::TestStatus;

const BRANCH: &str = "coding-loops/integration";

/// Everything in the user's repository: files with their content and mode, but for what belongs to the published branch.
fn users(world: &World) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![world.repository.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let inside = path.strip_prefix(&world.repository).unwrap().to_owned();
            let is_published =
                ["coding-loops", ".git/objects", ".git/refs/heads/coding-loops", ".git/logs/refs/heads/coding-loops"];
            if is_published.iter().any(|place| inside == Path::new(place)) {
                continue;
            }
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(path);
            } else {
                found.insert(inside, (meta.permissions().mode(), std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// Runs one agent's script and gives what of the user's has changed.
fn harmless(script: &str) -> World {
    let world = World::new(&format!("cat > /dev/null; user=../../../repository; {script}\n"), CHECK);
    world.configure(|config| config.replacen("[agent]\n", "[agent]\nenvironment = [\"PATH\", \"FOLDER\"]\n", 1));
    for id in ["one", "two"] {
        world.add_loop(id);
    }
    world.git(&["branch", "develop"]);
    std::fs::write(world.repository.join("shared"), "the user's own edit\n").unwrap();
    world.git(&["stash", "--quiet"]);
    std::fs::write(world.repository.join("mine"), "untracked\n").unwrap();
    let before = users(&world);
    world.add_test("t1", "one");
    let output = world.once("one");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{script}\n{said}");
    let now = users(&world);
    let changed: Vec<_> = now.iter().filter(|(name, what)| before.get(*name) != Some(*what)).map(|(name, _)| name).collect();
    let gone: Vec<_> = before.keys().filter(|name| !now.contains_key(*name)).collect();
    assert!(changed.is_empty() && gone.is_empty(), "{script}\nchanged: {changed:?}, gone: {gone:?}");
    // Another loop goes on as if nothing had been.
    std::fs::write(world.folder().join("agent.sh"), "cat > /dev/null; echo 2 > $TEST_ID\n").unwrap();
    world.add_test("t2", "two");
    assert_eq!(world.once("two").status.code(), Some(0));
    assert_eq!(world.test("t2").status, TestStatus::Passed, "{script}: {:?}", world.test("t2").last_error);
    assert_eq!(world.store(&["rev-parse", BRANCH]), world.git(&["rev-parse", BRANCH]));
    world.git(&["fsck", "--connectivity-only"]);
    world.store(&["fsck", "--connectivity-only"]);
    world
}

fn lands(script: &str) -> World {
    let world = harmless(script);
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{script}: {:?}", world.test("t1").last_error);
    let files = world.git(&["diff", "--name-only", "main", BRANCH]);
    assert_eq!(files.lines().collect::<Vec<_>>(), ["t1", "t2"], "{script}");
    world
}

#[test]
fn branches_stashes_and_pushes_stay_in_the_workspace() {
    const C: &str = "git -c user.name=a -c user.email=b commit -q";
    for script in [
        "git checkout -q coding-loops/integration; echo > t1".to_owned(),
        "git checkout -q develop; echo > t1".to_owned(),
        format!("git checkout -q -b other; echo > x; git add .; {C} -m x; git checkout -q -; echo > t1"),
        format!("echo > t1; git add .; {C} -m x; git push -q origin HEAD:main; git push -qf origin HEAD:{BRANCH}; true"),
        format!(
            "echo > t1; git add .; {C} -m x; git push -q $user HEAD:refs/heads/coding-loops/other 2> /dev/null || true; \
                 git -C $user update-ref -d refs/heads/coding-loops/other"
        ),
        "echo > x; git add .; git stash -q; git stash list; echo > t1".to_owned(),
        format!("echo > t1; git add .; {C} -m x; git reset -q --soft HEAD~1; git rebase -q HEAD || true"),
        format!(
            "git update-ref refs/heads/main HEAD; git symbolic-ref refs/heads/{BRANCH} refs/heads/main; git branch -f develop; echo > t1"
        ),
        "git worktree add -q ../../../elsewhere HEAD; git gc -q --prune=now; git reflog expire --expire=now --all; echo > t1"
            .to_owned(),
        "git tag v1; git notes add -m x; git bisect start -q 2> /dev/null; git remote remove origin; echo > t1".to_owned(),
    ] {
        lands(&script);
    }
}

#[test]
fn settings_hooks_and_filters_of_the_agents_run_nothing_of_ours() {
    let evil = "printf '#!/bin/sh\\ntouch $FOLDER/evil\\nexit 1\\n' > .git/evil; chmod +x .git/evil;";
    for script in [
        "for h in pre-commit reference-transaction post-checkout post-index-change pre-push; do cp .git/evil .git/hooks/$h; done; echo > t1",
        "git config core.hooksPath $PWD/.git; git config core.fsmonitor $PWD/.git/evil; echo > t1",
        "git config core.worktree /; git config core.bare true; echo > t1",
        "git config filter.x.clean $PWD/.git/evil; git config filter.x.required true; echo '* filter=x' > .git/info/attributes; echo > t1",
        "git config core.sshCommand $PWD/.git/evil; git config remote.origin.uploadpack $PWD/.git/evil; git config include.path $PWD/.git/none; echo > t1",
        "git config merge.x.driver $PWD/.git/evil; git config diff.external $PWD/.git/evil; git config core.pager $PWD/.git/evil; echo > t1",
        "git config core.excludesFile $PWD/.git/all; echo '*' > .git/all; echo '*' > .git/info/exclude; echo > t1",
        "git update-index --assume-unchanged shared; git update-index --skip-worktree .gitignore; echo > t1",
    ] {
        let world = lands(&format!("{evil} {script}"));
        assert!(!world.folder().join("evil").exists(), "{script}");
    }
}

#[test]
fn a_git_folder_that_is_damaged_replaced_or_gone_costs_nothing() {
    for script in [
        "rm -rf .git; echo > t1",
        "rm -rf .git; git init -q; echo > t1",
        "rm -rf .git; echo 'gitdir: ../../../repository/.git' > .git; echo > t1",
        "rm -rf .git; ln -s ../../../repository/.git .git; echo > t1",
        "mv .git .git2; mkdir .git; echo > t1; rm -rf .git2",
        "head -c 20 .git/index > i; mv i .git/index; echo > t1",
        "echo garbage > .git/config; echo garbage > .git/HEAD; echo > t1",
        "rm -rf .git/objects; echo > t1",
        "chmod -R a-w .git; echo > t1",
        "echo 1234567890123456789012345678901234567890 > .git/refs/heads/broken; touch .git/index.lock .git/HEAD.lock; echo > t1",
    ] {
        lands(script);
    }
}

#[test]
fn a_moved_or_replaced_workspace_is_created_again_and_its_content_is_kept() {
    for script in [
        "d=$PWD; mv $d $FOLDER/taken; exit 0",
        "d=$PWD; mv $d $FOLDER/taken; ln -s $FOLDER/taken $d; exit 0",
        "d=$PWD; mv $d $FOLDER/taken; echo > $d; exit 0",
    ] {
        let world = harmless(&format!("if ! [ -e $FOLDER/taken ]; then echo precious > t1; {script}; fi; echo > t1"));
        assert!(world.folder().join("taken/t1").exists(), "{script}");
        assert_eq!(world.test("t1").status, TestStatus::Passed, "{script}: {:?}", world.test("t1").last_error);
    }
}

#[test]
fn repositories_in_the_repository_are_plain_files() {
    let script = "git init -q app; echo > app/main; git -C app add .; git -C app -c user.name=a -c user.email=b commit -qm x; \
                  git -C app config core.fsmonitor 'touch $FOLDER/evil; false'; git clone -q . copy 2> /dev/null; rm -rf copy; echo > t1";
    let world = harmless(script);
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
    let files = world.git(&["diff", "--name-only", "main", BRANCH]);
    assert_eq!(files.lines().collect::<Vec<_>>(), ["app/main", "t1", "t2"]);
    assert!(!world.folder().join("evil").exists());
}

#[test]
fn an_agent_that_goes_back_to_an_older_commit_undoes_nobodys_work() {
    for back in ["git checkout -q origin/main", "git reset -q --hard origin/main"] {
        let agent = format!("cat > /dev/null; [ $TEST_ID = t1 ] || [ $ATTEMPT != 1 ] || {back}; echo > $TEST_ID\n");
        let world = World::with_test(&agent, CHECK);
        world.add_test("t2", "one");
        assert_eq!(world.once("one").status.code(), Some(0));
        for id in ["t1", "t2"] {
            assert_eq!(world.test(id).status, TestStatus::Passed, "{back}: {:?}", world.test(id).last_error);
        }
        assert_eq!(world.test("t2").attempts, 2);
        let causes = world.sql("SELECT payload FROM events WHERE event_type = 'test_failed'");
        assert!(causes.contains("would undo later landings of others: t1"), "{causes}");
        let files = world.git(&["diff", "--name-only", "main", BRANCH]);
        assert_eq!(files.lines().collect::<Vec<_>>(), ["t1", "t2"], "{back}");
    }
}
