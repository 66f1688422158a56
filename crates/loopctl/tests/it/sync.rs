//! `loopctl sync` as a user runs it: the user's new commits, beside work that has landed by hand.

use std::path::PathBuf;

use crate::common::{Place, ran};
use serde_json::json;
use test_support::{wait_until, write};

const INTEGRATION: &str = "coding-loops/integration";

/// A repository with the file `shared`, in which the loop `a` has landed `made`.
fn place(check: &str) -> Place {
    let place = Place::empty();
    place.git(&["config", "user.name", "n"]);
    place.git(&["config", "user.email", "e@e"]);
    place.git(&["checkout", "--quiet", "-B", "main"]);
    commit(&place, &[("shared", "1\n2\n3\n4\n5\n")]);
    place.run(&["init"]).ok();
    place.run(&["loop", "add", "a"]).ok();
    let config = std::fs::read_to_string(place.home().join("config.toml")).unwrap();
    assert!(config.contains("follow = \"main\" "), "{config}");
    let check = format!("{config}\n[[gate.check]]\nname = \"suite\"\ncommand = [\"sh\", \"-c\", {check:?}]\n");
    std::fs::write(place.home().join("config.toml"), check).unwrap();
    land(&place, "t1", &[("made", "1\n")]);
    place
}

/// A commit of the user's.
fn commit(place: &Place, files: &[(&str, &str)]) -> String {
    test_support::commit(&place.repository(), "by the user", files)
}

fn take(place: &Place, test: &str) -> PathBuf {
    place.run(&["test", "add", test, "--loop", "a"]).ok();
    PathBuf::from(place.json(&["next", "--loop", "a"])["workspace"].as_str().unwrap())
}

fn land(place: &Place, test: &str, files: &[(&str, &str)]) {
    let workspace = take(place, test);
    files.iter().for_each(|(name, text)| write(&workspace, name, text));
    place.run(&["submit", test]).ok();
}

fn show(place: &Place, name: &str) -> String {
    place.git(&["show", &format!("{INTEGRATION}:{name}")])
}

/// Answers the open question, as pm does.
fn decide(place: &Place, choice: &str) {
    place.sql(&format!(
        "UPDATE decisions SET status = 'decided', choice = '{choice}', decided_by = 'human', decided_at = datetime('now')
         WHERE status = 'pending'"
    ));
}

fn assert_tidy(place: &Place) {
    assert_eq!(place.json(&["locks", "--all"]), json!([]));
    assert_eq!(place.json(&["journal"]), json!([]));
    place.run(&["check"]).ok();
}

#[test]
fn new_commits_land_with_their_event_and_the_next_work_has_them() {
    let place = place("test -f shared");
    assert_eq!(place.json(&["sync"])["status"], "up_to_date");
    let before = place.json(&["status"])["published"]["followed"].clone();
    assert_eq!(before, json!({"branch": "main", "behind": 0, "ahead": 1}));
    let theirs = commit(&place, &[("hotfix", "fix\n")]);
    commit(&place, &[("shared", "one\n2\n3\n4\n5\n")]);
    assert_eq!(place.json(&["status"])["published"]["followed"], json!({"branch": "main", "behind": 2, "ahead": 1}));
    let said = place.run(&["status"]).ok().stdout;
    assert!(
        said.contains("landed work is 1 commit ahead of main and 2 behind; merge the new commits with loopctl sync"),
        "{said}"
    );
    let landed = place.json(&["sync"]);
    assert_eq!((&landed["status"], &landed["behind"]), (&json!("landed"), &json!(2)));
    assert_eq!(place.git(&["rev-parse", INTEGRATION]), landed["commit"].as_str().unwrap(), "published");
    assert_eq!((show(&place, "hotfix"), show(&place, "made")), ("fix".to_owned(), "1".to_owned()));
    assert_eq!(place.json(&["status"])["published"]["followed"]["behind"], 0);
    let events = place.json(&["timeline", "--type", "synced"]);
    let payload = &events[0]["payload"];
    assert_eq!((&payload["branch"], &payload["behind"]), (&json!("main"), &json!(2)));
    assert_eq!((&payload["commit"], &payload["verification_checks"]), (&landed["commit"], &json!({"suite": true})));
    assert_eq!((events.as_array().unwrap().len(), &events[0]["source"]), (1, &json!("human")));
    for given in [landed["commit"].as_str().unwrap(), &landed["theirs"].as_str().unwrap()[..12]] {
        let said = place.run(&["why", given]).ok().stdout;
        assert!(said.contains("2 commits of main up to") && said.contains("verified by suite"), "{said}");
    }
    let journal = place.json(&["journal", "--all"]);
    let entry = journal.as_array().unwrap().iter().find(|entry| entry["operation"] == "sync" && entry["status"] == "committed");
    assert!(entry.is_some(), "{journal}");
    let workspace = take(&place, "t2");
    assert!(workspace.join("hotfix").exists());
    place.run(&["give-back", "t2", "--category", "human"]).ok();
    assert!(place.run(&["sync"]).ok().stdout.contains("up to date: "));
    assert!(
        place
            .run(&["workspaces"])
            .ok()
            .stdout
            .lines()
            .any(|line| line.contains("gate of loopctl sync") && line.contains("idle"))
    );
    // Nothing of the user's was touched.
    assert_eq!(place.git(&["status", "--porcelain"]), "");
    assert_ne!(place.git(&["rev-parse", "main"]), theirs);
    assert_tidy(&place);
}

#[test]
fn what_fails_together_is_asked_once_and_nothing_has_moved() {
    let place = place("if test -f made && test -f clash; then echo made and clash; exit 1; fi");
    commit(&place, &[("clash", "1\n")]);
    let before = place.git(&["rev-parse", INTEGRATION]);
    place.run(&["sync"]).fails(1).says("check suite failed").says("nothing is changed");
    place.run(&["sync"]).fails(1);
    let asked = place.json(&["decisions"]);
    assert_eq!((asked.as_array().unwrap().len(), &asked[0]["decision_type"]), (1, &json!("sync")));
    assert!(asked[0]["context"]["output"].as_str().unwrap().contains("made and clash"), "{asked}");
    let options: Vec<&str> =
        asked[0]["options"].as_array().unwrap().iter().map(|option| option["id"].as_str().unwrap()).collect();
    assert_eq!(options, ["test", "by_hand", "later"]);
    assert_eq!(place.git(&["rev-parse", INTEGRATION]), before);
    assert_tidy(&place);
    // Newer commits are tried, and the question goes with what it was about.
    place.git(&["rm", "--quiet", "clash"]);
    commit(&place, &[("fine", "1\n")]);
    place.run(&["sync"]).ok();
    assert_eq!(place.json(&["decisions"]), json!([]));
    // A check that is about one test says nothing of a state that fails it without one.
    let config = std::fs::read_to_string(place.home().join("config.toml")).unwrap();
    let own = "\n[[gate.check]]\nname = \"own\"\ncommand = [\"sh\", \"-c\", \"test -f of-$TEST_ID\"]\n";
    std::fs::write(place.home().join("config.toml"), config + own).unwrap();
    commit(&place, &[("more", "1\n")]);
    place.run(&["sync"]).ok();
    // One that cannot be run is nobody's fault, and no question.
    commit(&place, &[("again", "1\n")]);
    let broken = "\n[[gate.check]]\nname = \"broken\"\ncommand = [\"no-such-program\"]\n";
    let config = std::fs::read_to_string(place.home().join("config.toml")).unwrap();
    std::fs::write(place.home().join("config.toml"), config + broken).unwrap();
    place.run(&["sync"]).fails(1).says("no-such-program");
    assert_eq!(place.json(&["decisions"]), json!([]));
    assert_tidy(&place);
}

#[test]
fn a_conflict_is_merged_by_a_test_that_leaves_nothing_out() {
    let place = place("true");
    land(&place, "t2", &[("shared", "1\n2\nloop\n4\n5\n")]);
    let theirs = commit(&place, &[("shared", "1\n2\nuser\n4\n5\n"), ("hotfix", "fix\n")]);
    place.run(&["sync"]).fails(1).says("conflicts with the integration branch in shared");
    decide(&place, "test");
    let test = format!("sync-{}", &theirs[..12]);
    place.run(&["sync"]).fails(1).says(&format!("test {test} will merge these commits"));
    let row = &place.json(&["status", &test])["test"];
    assert!(row["spec_content"].as_str().unwrap().contains(&format!("git merge {theirs}")), "{row}");
    assert!(row["spec_content"].as_str().unwrap().contains("These files conflict: shared"), "{row}");
    let taken = place.json(&["next", "--loop", "a"]);
    let workspace = PathBuf::from(taken["workspace"].as_str().unwrap());
    // Without what merges by itself it does not count as merged.
    write(&workspace, "shared", "1\n2\nboth\n4\n5\n");
    place.run(&["submit", &test]).fails(1).says("the changes of main").says("in hotfix are not merged");
    place.json(&["next", "--loop", "a"]);
    let git = |args: &[&str]| {
        std::process::Command::new("git").args(args).current_dir(&workspace).output().unwrap();
    };
    git(&["checkout", "--quiet", "shared"]);
    git(&["merge", &theirs]);
    let merged = std::fs::read_to_string(workspace.join("shared")).unwrap();
    assert!(merged.contains("<<<<<<<") && workspace.join("hotfix").exists(), "the agent can merge: {merged}");
    write(&workspace, "shared", "1\n2\nboth\n4\n5\n");
    place.run(&["submit", &test]).ok();
    assert_eq!(place.git(&["rev-parse", &format!("{INTEGRATION}^2")]), theirs);
    assert_eq!((show(&place, "shared"), show(&place, "hotfix")), ("1\n2\nboth\n4\n5".to_owned(), "fix".to_owned()));
    assert_eq!(place.json(&["sync"])["status"], "up_to_date");
    // What comes later is compared with that.
    commit(&place, &[("shared", "1\n2\nuser\n4\nfive\n")]);
    place.run(&["sync"]).ok();
    assert_eq!(show(&place, "shared"), "1\n2\nboth\n4\nfive");
    assert_tidy(&place);
}

#[test]
fn a_conflict_is_left_or_merged_by_the_users_own_hand() {
    let place = place("true");
    land(&place, "t2", &[("shared", "1\n2\nloop\n4\n5\n")]);
    commit(&place, &[("shared", "1\n2\nuser\n4\n5\n")]);
    for choice in ["later", "by_hand"] {
        place.run(&["sync"]).fails(1).says("conflicts");
        decide(&place, choice);
    }
    // git's own merge, with the published branch.
    let merge = ran(place_git(&place, &["merge", INTEGRATION]));
    assert_ne!(merge.code, 0);
    commit(&place, &[("shared", "1\n2\nboth\n4\n5\n")]);
    place.run(&["sync"]).ok();
    assert_eq!(show(&place, "shared"), "1\n2\nboth\n4\n5");
    assert_eq!(place.json(&["decisions"]), json!([]));
    assert_tidy(&place);
}

fn place_git(place: &Place, args: &[&str]) -> std::process::Output {
    std::process::Command::new("git").args(args).current_dir(place.repository()).output().unwrap()
}

#[test]
fn merges_of_ours_in_every_form_are_no_conflict() {
    let place = place("true");
    land(&place, "t2", &[("shared", "1\n2\nloop\n4\n5\n")]);
    place.git(&["merge", "--quiet", "--squash", INTEGRATION]);
    commit(&place, &[]);
    land(&place, "t3", &[("shared", "1\n2\nlater\n4\n5\n")]);
    assert_eq!(place.json(&["sync"])["status"], "landed");
    assert_eq!(show(&place, "shared"), "1\n2\nlater\n4\n5");
    // An ordinary merge adds nothing.
    let head = place.git(&["rev-parse", INTEGRATION]);
    place.git(&["merge", "--quiet", "--no-ff", "-m", "merge", INTEGRATION]);
    assert_eq!(place.json(&["sync"])["status"], "up_to_date");
    assert_eq!(place.git(&["rev-parse", INTEGRATION]), head);
    assert_eq!(place.json(&["status"])["published"]["followed"], json!({"branch": "main", "behind": 0, "ahead": 0}));
    // A commit on top of ours moves integration forwards, without a merge.
    place.git(&["reset", "--quiet", "--hard", INTEGRATION]);
    let on_top = commit(&place, &[("hotfix", "fix\n")]);
    assert_eq!(place.json(&["sync"])["commit"], on_top);
    // One that is rewritten after it was brought in is taken as it is now.
    write(&place.repository(), "hotfix", "better\n");
    place.git(&["commit", "--quiet", "--all", "--amend", "-m", "better"]);
    place.run(&["sync"]).ok();
    assert_eq!(show(&place, "hotfix"), "better");
    assert_tidy(&place);
}

#[test]
fn one_command_at_a_time_and_none_waits_for_one_that_was_killed() {
    let place = place(
        "test ! -f hotfix || test -f ../../../go || { touch ../../../checking; while ! test -f ../../../go; do sleep 0.05; done; }",
    );
    commit(&place, &[("hotfix", "fix\n")]);
    let outside = |name: &str| place.outside().join(name);
    let mut killed = place.spawn(&["sync"]);
    wait_until("the check to run", || outside("checking").exists());
    assert_eq!(place.json(&["locks"])[0]["locked_by"], "human");
    assert_eq!(place.json(&["locks"])[0]["file_path"], "git:sync");
    place.run(&["check"]).ok();
    killed.kill().unwrap();
    killed.wait().unwrap();
    std::fs::remove_file(outside("checking")).unwrap();
    let first = place.spawn(&["sync"]);
    wait_until("the check to run again", || outside("checking").exists());
    let second = place.spawn(&["sync"]);
    std::fs::write(outside("go"), "").unwrap();
    let ended = [first, second].map(|child| ran(child.wait_with_output().unwrap()));
    assert!(ended.iter().all(|ran| ran.code == 0), "{} {}", ended[0].stderr, ended[1].stderr);
    assert_eq!(place.json(&["timeline", "--type", "synced"]).as_array().unwrap().len(), 1);
    assert_tidy(&place);
}

#[test]
fn a_published_branch_that_was_moved_by_hand_is_another_question() {
    let place = place("true");
    commit(&place, &[("hotfix", "fix\n")]);
    // Somebody commits on the published branch.
    place.git(&["checkout", "--quiet", INTEGRATION]);
    let foreign = commit(&place, &[("foreign", "1\n")]);
    place.git(&["checkout", "--quiet", "main"]);
    assert_eq!(place.json(&["status"])["published"]["behind"], 1);
    place.run(&["sync"]).ok();
    let asked = place.json(&["decisions"]);
    assert_eq!((asked.as_array().unwrap().len(), &asked[0]["decision_type"]), (1, &json!("published_branch")));
    assert_eq!(place.git(&["rev-parse", INTEGRATION]), foreign, "nobody moves it over what is there");
    decide(&place, "publish_again");
    assert_eq!(place.json(&["sync"])["status"], "up_to_date");
    assert_eq!(show(&place, "hotfix"), "fix");
    assert_eq!(
        (&place.json(&["status"])["published"]["behind"], &place.json(&["status"])["published"]["ahead"]),
        (&json!(0), &json!(0))
    );
    assert_tidy(&place);
}

#[test]
fn what_is_followed_is_proposed_and_looked_at() {
    let place = place("true");
    assert!(place.run(&["doctor"]).stdout.contains("loopctl sync merges new commits of main"));
    let configure = |from: &str, to: &str| {
        let path = place.home().join("config.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    configure("follow = \"main\"", "follow = \"develop\"");
    let said = place.run(&["doctor"]).stdout;
    assert!(said.contains("the branch develop to follow does not exist") && said.contains("set follow in"), "{said}");
    place.run(&["sync"]).fails(1).says("the branch develop to follow does not exist; set follow in");
    assert_eq!(place.json(&["status"])["published"]["followed"], json!(null));
    // Where none is named, the one that is checked out.
    configure("follow = \"develop\"", "follow = \"\"");
    commit(&place, &[("hotfix", "fix\n")]);
    assert_eq!(place.json(&["sync"])["branch"], "main");
    place.git(&["checkout", "--quiet", "--detach"]);
    place.run(&["sync"]).fails(1).says("no branch is checked out");
    for (wrong, why) in
        [("follow = \"coding-loops/integration\"", "must name a branch"), ("follow_automatically = true", "needs")]
    {
        let key = wrong.split(' ').next().unwrap();
        let text = std::fs::read_to_string(place.home().join("config.toml")).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{key} "))).unwrap().to_owned();
        configure(&line, wrong);
        place.run(&["sync"]).fails(2).says(why);
        configure(wrong, &line);
    }
    // Before anything has landed there is nothing to bring anything into.
    let fresh = Place::new();
    assert_eq!(fresh.json(&["sync"])["status"], "not_started");
}
