//! `loopctl deinit`: what it removes, what it refuses, and what it never touches.

use std::fs;
use std::path::PathBuf;

use crate::common::{Place, ran};
use git::{CommitHash, Layout, RefExpectation, Repository, Store, Workspace, publish};
use serde_json::Value;

const BRANCH: &str = "coding-loops/integration";

/// Every file, folder and reference that is not below the user's objects, with the files' contents.
fn all(place: &Place) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![place.outside().to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with(".git/objects") {
                folders.push(path.clone());
            }
            // An empty folder of references is nothing.
            if !path.is_dir() || !path.starts_with(place.repository().join(".git")) {
                found.push((path.clone(), fs::read(path).unwrap_or_default()));
            }
        }
    }
    found.sort();
    found
}

/// A commit with a file, landed as a loop's and published.
fn landed(place: &Place) -> (Store, CommitHash) {
    let (store, commit) = place.land(|store, head| {
        let spec = Layout::new(place.workspaces()).workspace("a", "coding-loops/a");
        let (workspace, _) = Workspace::open_or_create(store, &spec, head).unwrap();
        fs::write(workspace.root().join("new"), "new\n").unwrap();
        let options =
            git::SnapshotOptions { own_folder: "coding-loops", file_bytes: 1 << 20, user: None, take_unignored: false };
        workspace.snapshot(&options).unwrap().tree
    });
    publish(&store, &Repository::open(&place.repository()).unwrap(), BRANCH).unwrap();
    (store, commit)
}

fn lines(plan: &Value, of: &str) -> Vec<String> {
    plan[of].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_removed(place: &Place) {
    assert!(!place.home().exists() && !place.workspaces().exists());
    assert_eq!(place.git(&["for-each-ref", "--format=%(refname)", "refs/heads/coding-loops", "refs/coding-loops"]), "");
}

#[test]
fn after_init_and_deinit_the_repository_is_as_it_was() {
    let place = Place::bare();
    let before = all(&place);
    place.run(&["deinit"]).ok();
    place.run(&["init"]).ok();
    place.run(&["backup"]).ok();
    let made = all(&place);
    let shown = place.run(&["deinit"]).ok().stdout;
    assert!(shown.starts_with("would be removed:\n") && shown.ends_with("next:\n  loopctl deinit --yes\n"), "{shown}");
    let names = |list: &[(PathBuf, Vec<u8>)]| list.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&all(&place)), names(&made), "nothing is removed unless it is asked for");
    let plan = place.json(&["deinit", "--yes"]);
    assert_eq!((plan["removed"].as_bool(), lines(&plan, "removes").len()), (Some(true), 2), "{plan}");
    assert_eq!(all(&place), before);
    assert!(place.run(&["deinit", "--yes"]).ok().stdout.starts_with("nothing of coding-loops is left in "));
    place.run(&["init"]).ok();
}

#[test]
fn work_that_is_nowhere_else_takes_force() {
    let place = Place::with_loops();
    let (store, commit) = landed(&place);
    place.run(&["test", "add", "t2", "--loop", "b"]).ok();
    place.run(&["test", "add", "t3", "--loop", "b"]).ok();
    place.run(&["next", "--loop", "b"]).ok();
    let saved = |test: &str| {
        let name = format!("refs/coding-loops/saved/b/{test}/1");
        store.repository().set_ref(&name, &commit, &RefExpectation::Absent).unwrap();
        place.sql(&format!(
            "INSERT INTO checkpoints (id, loop_id, test_id, git_ref, checkpoint_type, created_at)
             VALUES ('{test}', 'b', '{test}', '{name}', 'stash', '2026-01-01 00:00:00.000')"
        ));
    };
    saved("t1");
    saved("t3");
    fs::write(place.workspaces().join("loops/a/more"), "more\n").unwrap();
    let plan = place.json(&["deinit"]);
    let lost = lines(&plan, "unlanded");
    let named = ["test t2 of loop b", "saved work of loop b for t3", "1 changed file in", "1 commit on the branch"];
    assert!(lost.len() == 4 && lost.iter().zip(named).all(|(line, named)| line.starts_with(named)), "{lost:?}");
    place.run(&["deinit", "--yes"]).fails(1).says("nothing was removed: 4 pieces of work would be lost");
    assert_eq!(place.git(&["rev-parse", BRANCH]), commit.as_str());
    assert!(place.run(&["deinit", "--yes", "--force"]).ok().stdout.contains("\nlost:\n"));
    assert_removed(&place);
}

#[test]
fn what_the_user_has_merged_or_squashed_is_not_lost() {
    for merge in [&["merge", "--quiet", BRANCH][..], &["merge", "--quiet", "--squash", BRANCH]] {
        let place = Place::with_loops();
        landed(&place);
        assert_eq!(lines(&place.json(&["deinit"]), "unlanded").len(), 1);
        place.git(merge);
        fs::write(place.repository().join("later"), "").unwrap();
        place.git(&["add", "later"]);
        place.git(&["commit", "--quiet", "-m", "later"]);
        place.run(&["deinit", "--yes"]).ok();
        assert_removed(&place);
        assert_eq!(place.git(&["status", "--porcelain"]), "");
        assert_eq!(place.git(&["show", "HEAD:new"]), "new");
    }
}

#[test]
fn nothing_is_removed_while_something_runs_or_is_a_service() {
    let place = Place::with_loops();
    let settings = place.outside().join("settings");
    let loopctl = |arguments: &[&str]| ran(place.command(arguments).env("XDG_CONFIG_HOME", &settings).output().unwrap());
    let pid = std::process::id();
    loopctl(&["beat", "--loop", "a", "--pid", &pid.to_string()]).ok();
    loopctl(&["deinit", "--yes", "--force"]).fails(1).says(&format!("nothing was removed: a runs as pid {pid}: stop it first"));
    place.sql("UPDATE component_health SET status = 'unknown'");
    loopctl(&["service", "enable", "--no-start", "--name", "shop"]).ok();
    let refused = loopctl(&["deinit", "--yes", "--force"]).fails(1);
    refused.says("coding-loops@shop.target is enabled: run loopctl service disable --name shop first");
    assert!(place.database().is_file() && place.workspaces().join("store.git").is_dir());
    fs::remove_dir_all(&settings).unwrap();
    loopctl(&["deinit", "--yes"]).ok();
    assert_removed(&place);
}

#[test]
fn what_coding_loops_did_not_make_stays() {
    let place = Place::with_loops();
    landed(&place);
    place.git(&["merge", "--quiet", BRANCH]);
    place.git(&["branch", "coding-loops/mine"]);
    fs::write(place.home().join("goals.toml"), "").unwrap();
    fs::write(place.workspaces().join("notes"), "").unwrap();
    place.git(&["checkout", "--quiet", BRANCH]);
    let refused = place.run(&["deinit", "--yes", "--force"]).fails(1);
    refused.says("is checked out at").says("switch to another branch there");
    // Somebody commits on the published branch: from then on it is theirs.
    place.git(&["commit", "--quiet", "--allow-empty", "-m", "mine"]);
    let mine = place.git(&["rev-parse", "HEAD"]);
    let plan = place.json(&["deinit", "--yes"]);
    let kept = lines(&plan, "keeps");
    assert!(kept.len() == 3 && kept[0].contains("another process moved it"), "{kept:?}");
    assert_eq!(place.git(&["rev-parse", BRANCH]), mine);
    place.git(&["rev-parse", "coding-loops/mine"]);
    let left = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left(place.workspaces()), ["notes"]);
    assert_eq!(left(place.home()).len(), 2, "with the .gitignore that hides it");
    assert_eq!(place.git(&["status", "--porcelain"]), "");

    // A folder that another repository's loops work in.
    let other = Place::with_loops();
    fs::write(other.workspaces().join("database"), place.repository().join("README").as_os_str().as_encoded_bytes()).unwrap();
    fs::write(place.repository().join("README"), "").unwrap();
    let plan = other.json(&["deinit", "--yes"]);
    assert!(lines(&plan, "keeps")[0].ends_with("it belongs to another repository"), "{plan}");
    assert!(other.workspaces().join("store.git").is_dir() && !other.home().exists());
}

#[test]
fn a_removal_that_was_cut_off_is_taken_up_again() {
    const STEPS: usize = 7;
    for cut_off_after in 1..=STEPS {
        let place = Place::with_loops();
        landed(&place);
        place.git(&["merge", "--quiet", BRANCH]);
        let steps: [&dyn Fn(); STEPS] = [
            &|| drop(place.git(&["branch", "--quiet", "-D", BRANCH])),
            &|| fs::remove_dir_all(place.workspaces().join("state")).unwrap(),
            &|| fs::remove_file(place.workspaces().join("loops/a/new")).unwrap(),
            &|| fs::remove_file(place.workspaces().join("store.git/HEAD")).unwrap(),
            &|| fs::remove_dir_all(place.workspaces()).unwrap(),
            &|| fs::remove_file(place.database()).unwrap(),
            &|| fs::remove_file(place.home().join("config.toml")).unwrap(),
        ];
        steps.iter().take(cut_off_after).for_each(|step| step());
        let below = place.repository().join("below");
        fs::create_dir(&below).unwrap();
        place.run_in(&below, &["deinit", "--yes"]).ok();
        assert_removed(&place);
    }
}
