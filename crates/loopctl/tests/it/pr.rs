//! Handing landed work over: with stand-ins for gh and glab that record their calls, and as files that git applies.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use test_support::{git, wait_until};

use crate::common::{Place, Ran, agents, ran};

const WORK: &str = "coding-loops-work";

/// A repository in which the works of `t-a` and `t-b` have landed.
fn landed() -> Place {
    let place = agents("");
    for (loop_id, test, file) in [("a", "t-a", "a.txt"), ("b", "t-b", "b.txt")] {
        std::fs::write(place.workspaces().join("loops").join(loop_id).join(file), "done\n").unwrap();
        place.sql(&format!("UPDATE tests SET notes = 'Goal *{test}* <b>`x`' WHERE id = '{test}'"));
        place.run(&["submit", test]).ok();
    }
    place
}

/// A program that records its arguments and standard input, and answers lists with what `open` says.
fn stand_in(folder: &Path, name: &str, open: &str) -> PathBuf {
    let (program, log) = (folder.join(name), folder.join(format!("{name}.log")));
    let script = format!(
        "#!/bin/sh\n{{ printf '%s\\n' \"$*\"; cat; }} >> '{}'\ncase \"$2\" in\nlist) echo '{open}' ;;\ncreate) echo opening; echo https://forge.example/1 ;;\nesac\n",
        log.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    log
}

/// Adds a remote whose address names a forge, and gives the folder for stand-ins.
fn remote(place: &Place, forge: &str) -> PathBuf {
    let at = place.outside().join(format!("{forge}.git"));
    git(place.outside(), ["init", "--quiet", "--bare", at.to_str().unwrap()]);
    place.git(&["remote", "add", "origin", at.to_str().unwrap()]);
    let programs = place.outside().join("programs");
    std::fs::create_dir_all(&programs).unwrap();
    programs
}

fn pr(place: &Place, programs: &Path, arguments: &[&str]) -> Ran {
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    ran(place.command(&[&["pr"], arguments].concat()).env("PATH", path).output().unwrap())
}

#[test]
fn a_dry_run_shows_everything_and_changes_nothing() {
    let place = landed();
    let before = place.git(&["for-each-ref"]);
    let said = place.run(&["pr", "--dry-run"]).ok().stdout;
    assert!(said.starts_with("2 tests: t-a and t-b\n"), "{said}");
    for part in ["2 verified tests on `master`", "| t-a | Goal \\*t-a\\* \\<b\\>\\`x\\` | second, suite | 1 |", "output sha256"]
    {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert_eq!(place.git(&["for-each-ref"]), before);
    let document = place.json(&["pr", "--dry-run", "--title", "Two goals"]);
    assert_eq!((&document["title"], &document["tests"]), (&"Two goals".into(), &serde_json::json!(["t-a", "t-b"])));
}

#[test]
fn a_test_that_landed_again_counts_once_and_what_is_known_to_fail_is_said() {
    let place = landed();
    place.run(&["reset", "--force", "t-a"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    std::fs::write(place.workspaces().join("loops/a/a.txt"), "done again\n").unwrap();
    place.run(&["submit", "t-a"]).ok();
    let ran = place.run(&["pr", "--dry-run"]).ok();
    assert!(ran.stdout.starts_with("2 tests: t-b and t-a\n"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("2 verified tests on") && ran.stdout.matches("done again below").count() == 1,
        "{}",
        ran.stdout
    );
    assert!(!ran.stdout.contains("Known to fail") && !ran.stderr.contains("known to fail"), "{}", ran.stderr);
    place.sql(
        "INSERT INTO regressions (id, test_id, check_name, status, last_good_commit, bad_commit, blamed_test, blamed_loop)
         VALUES ('r', 't-b', 'suite', 'regressed', 'b', 'c', 't-a', 'a')",
    );
    let ran = place.run(&["pr", "--dry-run"]).ok();
    assert!(ran.stdout.contains("**Known to fail:** test t-b fails suite on the branch, broken by t-a"), "{}", ran.stdout);
    assert_eq!(ran.stderr, "loopctl: known to fail: test t-b fails suite on the branch, broken by t-a\n");
    assert_eq!(place.json(&["pr", "--dry-run"])["tests"], serde_json::json!(["t-b", "t-a"]));
}

#[test]
fn gh_opens_one_pull_request_and_updates_it() {
    let place = landed();
    let programs = remote(&place, "github");
    let log = stand_in(&programs, "gh", "[]");
    let said = pr(&place, &programs, &["--draft"]).ok().stdout;
    assert_eq!(said, "2 tests in https://forge.example/1\n");
    let pushed = git(&place.outside().join("github.git"), ["log", "--format=%(trailers:key=Test,valueonly,separator=)", WORK]);
    assert_eq!(pushed.trim(), "t-b\nt-a");
    let calls = std::fs::read_to_string(&log).unwrap();
    let create = format!("pr create --base master --head {WORK} --title 2 tests: t-a and t-b --body-file - --draft");
    assert!(calls.contains(&create) && calls.contains("2 verified tests on `master`"), "{calls}");
    // Again, with one open.
    stand_in(&programs, "gh", "[{\"url\": \"https://forge.example/7\"}]");
    std::fs::remove_file(&log).unwrap();
    assert_eq!(pr(&place, &programs, &["--title", "Mine"]).ok().stdout, "2 tests in https://forge.example/7\n");
    let calls = std::fs::read_to_string(&log).unwrap();
    assert!(
        calls.contains("pr edit https://forge.example/7 --title Mine --body-file -") && !calls.contains("create"),
        "{calls}"
    );
    // What somebody has pushed to the branch meanwhile is not overwritten.
    let review = place.outside().join("review");
    let at = place.outside().join("github.git");
    git(place.outside(), ["clone", "--quiet", "-b", WORK, at.to_str().unwrap(), review.to_str().unwrap()]);
    test_support::commit(&review, "review", &[("review.txt", "x\n")]);
    git(&review, ["push", "--quiet", "origin", WORK]);
    pr(&place, &programs, &[]).fails(1).says("which loopctl pr has not pushed");
    assert_eq!(git(&at, ["log", "-1", "--format=%s", WORK]).trim(), "review");
}

#[test]
fn two_at_once_take_turns_and_open_one_pull_request() {
    let place = landed();
    let programs = remote(&place, "github");
    // The first one opens a pull request, which the second one finds.
    let (log, go) = (programs.join("gh.log"), programs.join("go"));
    let script = r#"#!/bin/sh
echo "$2" >> FOLDER/gh.log
case "$2" in
list) if [ -e FOLDER/opened ]; then echo '[{"url": "https://forge.example/1"}]'; else echo '[]'; fi ;;
create) until [ -e FOLDER/go ]; do sleep 0.05; done; : > FOLDER/opened; echo https://forge.example/1 ;;
esac
"#;
    std::fs::write(programs.join("gh"), script.replace("FOLDER", programs.to_str().unwrap())).unwrap();
    std::fs::set_permissions(programs.join("gh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let calls = || std::fs::read_to_string(&log).unwrap_or_default();
    let start = || {
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut command = place.command(&["pr"]);
        command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let first = start();
    wait_until("the first one is with gh", || calls().contains("create"));
    let second = start();
    let waits = format!(" {} ", second.id());
    wait_until("the second one waits, or is with gh too", || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.contains(&waits)) || calls().matches("list").count() == 2
    });
    std::fs::write(&go, "").unwrap();
    for child in [first, second] {
        assert_eq!(ran(child.wait_with_output().unwrap()).ok().stdout, "2 tests in https://forge.example/1\n");
    }
    assert_eq!(calls(), "list\ncreate\nlist\nedit\n");
    // Without a forge as well.
    let many: Vec<_> = (0..4).map(|_| place.spawn(&["pr", "--branch", "mine", "--files", "patches"])).collect();
    for child in many {
        ran(child.wait_with_output().unwrap()).ok();
    }
    assert_eq!(std::fs::read_to_string(place.repository().join("patches/series")).unwrap().lines().count(), 2);
}

#[test]
fn glab_serves_gitlab_and_a_program_that_fails_is_an_error() {
    let place = landed();
    let programs = remote(&place, "gitlab");
    let log = stand_in(&programs, "glab", "[]");
    stand_in(&programs, "gh", "[]");
    assert_eq!(pr(&place, &programs, &[]).ok().stdout, "2 tests in https://forge.example/1\n");
    let calls = std::fs::read_to_string(&log).unwrap();
    assert!(calls.contains(&format!("mr create --target-branch master --source-branch {WORK} --title")), "{calls}");
    assert!(!programs.join("gh.log").exists());
    std::fs::write(programs.join("glab"), "#!/bin/sh\necho no token >&2\nexit 4\n").unwrap();
    pr(&place, &programs, &[]).fails(1).says("glab mr failed (exit status: 4)");
}

#[test]
fn without_a_forge_there_are_patches_that_apply() {
    let place = landed();
    let document: Value = pr(&place, Path::new("/nowhere"), &["--files", "review", "--json"]).ok().json();
    let folder = place.repository().join("review");
    assert_eq!(document["folder"], folder.to_str().unwrap());
    assert!(std::fs::read_to_string(folder.join("body.md")).unwrap().starts_with("# 2 tests: t-a and t-b\n\n2 verified"));
    let mut patches: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .filter(|path| path.ends_with(".patch"))
        .collect();
    patches.sort();
    assert_eq!(patches.len(), 2);
    place.git(&["checkout", "--quiet", "-b", "applied"]);
    place.git(&[&["am", "--quiet"], &patches.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    assert_eq!(place.git(&["diff", "--stat", WORK]), "");
    // Without a remote the default is a folder of ours, and an old patch does not stay.
    place.git(&["checkout", "--quiet", "master"]);
    let document = place.json(&["pr"]);
    let folder = PathBuf::from(document["folder"].as_str().unwrap());
    assert_eq!(folder, place.home().join("pr"));
    std::fs::write(folder.join("0003-old.patch"), "").unwrap();
    std::fs::write(folder.join("mine.patch"), "").unwrap();
    let series = std::fs::read_to_string(folder.join("series")).unwrap();
    assert_eq!(series.lines().count(), 2);
    std::fs::write(folder.join("series"), format!("{series}0003-old.patch\n")).unwrap();
    place.run(&["pr"]).ok();
    assert!(!folder.join("0003-old.patch").exists() && folder.join("mine.patch").exists());
}

#[test]
fn what_cannot_be_handed_over_is_refused_with_its_remedy() {
    let place = Place::with_loops();
    place.run(&["pr"]).fails(1).says("nothing has landed");
    let place = landed();
    place.run(&["pr", "--base=-x"]).fails(2).says("not a valid branch name");
    place.git(&["branch", WORK]);
    place.run(&["pr"]).fails(1).says("name another one with --branch");
    place.run(&["pr", "--branch", "other"]).ok();
    std::fs::write(place.repository().join("new"), "").unwrap();
    place.git(&["add", "new"]);
    place.git(&["commit", "--quiet", "-m", "mine"]);
    place.run(&["pr", "--branch", "other"]).fails(1).says("loopctl sync");
    place.git(&["merge", "--quiet", "coding-loops/integration"]);
    place.run(&["sync"]).ok();
    place.run(&["pr", "--branch", "other"]).fails(1).says("master has everything that has landed");
}
