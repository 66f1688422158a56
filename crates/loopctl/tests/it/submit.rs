//! A loop that is driven by hand: next, work, submit, through the same gate as every other.

use test_support::wait_until;

use crate::common::{Place, ran};

fn place() -> Place {
    let place = Place::with_loops();
    std::fs::write(
        place.home().join("config.toml"),
        "[[gate.check]]\nname = \"made\"\ncommand = [\"sh\", \"-c\", \"grep right made\"]\nper_test = true\n",
    )
    .unwrap();
    place.run(&["test", "add", "t1", "--loop", "a", "--notes", "make it"]).ok();
    place
}

#[test]
fn a_refused_submission_leaves_the_work_where_it_is_and_a_mended_one_passes() {
    let place = place();
    let worktree = place.json(&["next", "--loop", "a"])["worktree"].as_str().unwrap().to_owned();
    let made = std::path::Path::new(&worktree).join("made");
    std::fs::write(&made, "wrong\n").unwrap();
    place.run(&["submit", "t1"]).fails(1).says("check made failed with exit code 1");
    assert_eq!(place.json(&["status", "t1"])["test"]["status"], "pending");
    assert_eq!(place.json(&["next", "--loop", "a"])["worktree"], worktree.as_str());
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "wrong\n");
    std::fs::write(&made, "right\n").unwrap();
    let passed = place.json(&["submit", "t1"]);
    assert_eq!(passed["status"], "passed");
    assert_eq!(passed["proofs"].as_array().unwrap().len(), 2);
    let test = place.json(&["status", "t1"]);
    assert_eq!((&test["test"]["status"], &test["test"]["attempts"]), (&"passed".into(), &2.into()));
    assert_eq!(place.json(&["locks"]), serde_json::json!([]));
    // It never had a process, so nobody calls it dead.
    assert!(place.json(&["health"]).as_array().unwrap().iter().all(|row| row["component"] != "a"));
    place.run(&["submit", "t1"]).fails(1).says("not in progress");
    place.run(&["submit", "nothing"]).fails(4);
    place.run(&["check"]).ok();
}

#[test]
fn the_chain_of_proof_is_shown_for_the_commit_for_its_trailer_and_for_the_event() {
    let place = place();
    let worktree = place.json(&["next", "--loop", "a"])["worktree"].as_str().unwrap().to_owned();
    let made = std::path::Path::new(&worktree).join("made");
    std::fs::write(&made, "wrong\n").unwrap();
    place.run(&["submit", "t1"]).fails(1);
    let failed = place.json(&["timeline", "--type", "test_failed"])[0]["id"].as_str().unwrap().to_owned();
    let why = place.json(&["why", &failed]);
    assert_eq!(why["evidence"]["proofs"][0]["outcome"], "fail");
    assert_eq!(why["evidence"]["proofs"][0]["run"]["kind"], "failed");
    place.json(&["next", "--loop", "a"]);
    std::fs::write(&made, "right\n").unwrap();
    place.run(&["submit", "t1"]).ok();
    let passed = place.json(&["timeline", "--type", "test_passed"])[0].clone();
    let commit = passed["payload"]["commit"].as_str().unwrap();
    let output = std::process::Command::new("git")
        .args(["log", "-1", "--format=%(trailers:key=Proof,valueonly)", "coding-loops/integration"])
        .current_dir(place.repository())
        .output()
        .unwrap();
    let trailer = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    for given in [passed["id"].as_str().unwrap(), commit, &commit[..10], &trailer, &format!("{trailer}-1")] {
        let why = place.json(&["why", given]);
        assert_eq!(why["event"]["id"], passed["id"], "{given}");
        let proofs = why["evidence"]["proofs"].as_array().unwrap();
        assert_eq!(proofs.len(), 1, "{given}");
        assert_eq!((&proofs[0]["commit_hash"], &proofs[0]["outcome"]), (&commit.into(), &"pass".into()));
        assert_eq!(proofs[0]["id"], format!("{trailer}-1"));
        assert_eq!(why["evidence"]["baselines"][0]["commit_hash"], commit);
    }
    let shown = place.run(&["why", commit]).ok().stdout;
    for part in ["test_passed", "pass  made at", "), alone, attempt", "right", "good  last passed at"] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    for unknown in ["0123456789", "nothing", "%", "zzzzzzzz"] {
        place.run(&["why", unknown]).fails(4);
    }
    place.run(&["why", ""]).fails(4);
}

#[test]
fn how_a_check_ended_is_shown_in_words() {
    let place = place();
    for (command, words) in [
        ("[\"no-such-program\"]", "error  made at"),
        ("[\"sh\", \"-c\", \"kill -SEGV $$\"]", "signaled"),
        (
            "[\"sh\", \"-c\", \"echo > changed; git add changed; git -c user.name=n -c user.email=e commit -qm x\"]",
            "changed files",
        ),
    ] {
        let settings = format!("[[gate.check]]\nname = \"made\"\ncommand = {command}\nper_test = true\n");
        std::fs::write(place.home().join("config.toml"), settings).unwrap();
        place.run(&["reset", "t1"]).ok();
        place.sql("UPDATE tests SET no_change = 'allowed'");
        place.run(&["next", "--loop", "a"]).ok();
        place.run(&["submit", "t1"]).fails(1);
        let shown = place.run(&["status", "t1"]).ok().stdout;
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
    assert!(place.run(&["status", "t1"]).ok().stdout.contains("no-such-program is missing"));
}

#[test]
fn a_loop_that_is_driven_by_hand_has_its_checkpoints_and_goes_back() {
    let place = place();
    assert_eq!(place.json(&["checkpoints"]), serde_json::json!([]));
    let worktree = place.json(&["next", "--loop", "a"])["worktree"].as_str().unwrap().to_owned();
    let made = std::path::Path::new(&worktree).join("made");
    std::fs::write(&made, "half\n").unwrap();
    place.run(&["give-back", "t1", "--category", "code"]).ok();
    place.run(&["reset", "t1"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    std::fs::write(&made, "astray\n").unwrap();
    let said = place.run(&["rollback", "a", "--reason", "astray"]).ok();
    assert!(said.stdout.contains("a is rolled back"), "{}", said.stdout);
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "half\n", "as the attempt began");
    let rows = place.json(&["checkpoints", "--loop", "a"]);
    let kinds: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["checkpoint_type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["stash", "branch", "branch"]);
    assert!(rows[0]["reason"].as_str().unwrap().contains("astray") && rows[0]["kept_until"].is_null());
    assert!(rows.as_array().unwrap().iter().all(|row| row["in_store"] == true), "{rows}");
    let said = place.run(&["checkpoints"]).ok().stdout;
    assert!(said.contains("until its test lands") && said.contains("the refs are in the store; show one with "), "{said}");
    assert_eq!(place.json(&["checkpoints", "--loop", "b"]), serde_json::json!([]));
    place.run(&["checkpoints", "--loop", "nobody"]).fails(4);
    place.run(&["rollback", "a", "--checkpoint", rows[0]["id"].as_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "astray\n", "what was given up can be gone back to");
    // What pm asks of it while nobody looks is obeyed when its next test is taken.
    place.run(&["reset", "t1"]).ok();
    let payload = r#"{"loop_id": "a", "reason": "by pm", "triggered_by": "pm"}"#;
    place.run(&["publish", "rollback_triggered", "--source", "pm", "--payload", payload]).ok();
    place.run(&["next", "--loop", "a"]).ok().says("carried out: by pm");
    assert!(!made.exists());
    place.run(&["check"]).ok();
}

#[test]
fn a_leased_file_is_brought_up_to_what_has_landed_unless_it_was_changed() {
    let place = place();
    place.run(&["test", "add", "t2", "--loop", "b", "--notes", "add to it"]).ok();
    let workspace = |id: &str| std::path::PathBuf::from(place.json(&["next", "--loop", id])["workspace"].as_str().unwrap());
    let (a, b) = (workspace("a"), workspace("b"));
    std::fs::write(a.join("made"), "right\n").unwrap();
    std::fs::write(a.join("other"), "a\n").unwrap();
    std::fs::write(b.join("other"), "b\n").unwrap();
    place.run(&["submit", "t1"]).ok();
    assert!(!b.join("made").exists());
    let locked = place.json(&["lock", "made", "--loop", "b"]);
    assert_eq!(locked["updated"], serde_json::json!(["made"]));
    assert_eq!(std::fs::read_to_string(b.join("made")).unwrap(), "right\n");
    assert_eq!(place.json(&["lock", "other", "--loop", "b"])["updated"], serde_json::json!([]));
    assert_eq!(std::fs::read_to_string(b.join("other")).unwrap(), "b\n", "what it has changed is its own");
    std::fs::remove_file(b.join("other")).unwrap();
    std::fs::write(b.join("made"), "right\nand more\n").unwrap();
    assert_eq!(place.json(&["submit", "t2"])["status"], "passed");
}

#[test]
fn one_that_judges_the_work_of_others_renews_its_lease() {
    let place = place();
    let top = place.outside().display().to_string();
    let together = format!(
        "test -n \\\"$TEST_ID\\\" || ! test -e a || ! test -e b || {{ touch {top}/judging; while ! test -e {top}/go; do sleep 0.05; done; }}"
    );
    let settings = format!(
        "[heartbeat]\nbeat_seconds = 1\n[[gate.check]]\nname = \"suite\"\ncommand = [\"sh\", \"-c\", \"{together}\"]\nper_test = false\n"
    );
    std::fs::write(place.home().join("config.toml"), settings).unwrap();
    place.run(&["test", "add", "t2", "--loop", "b"]).ok();
    for id in ["a", "b"] {
        let workspace = place.json(&["next", "--loop", id])["workspace"].as_str().unwrap().to_owned();
        std::fs::write(std::path::Path::new(&workspace).join(id), "").unwrap();
    }
    // Both wait before one of them can land alone.
    place.sql("INSERT INTO file_locks (file_path, locked_by) VALUES ('git:integration', 'human')");
    let submitted = ["t1", "t2"].map(|test| place.spawn(&["submit", test]));
    place.until("SELECT count(*) FROM landings", "2");
    place.sql("DELETE FROM file_locks WHERE locked_by = 'human'");
    wait_until("the judge", || place.outside().join("judging").exists());
    let lease = || place.sql("SELECT locked_by, expires_at FROM file_locks WHERE file_path = 'git:integration'");
    let first = lease();
    wait_until("the lease to be renewed", || lease() != first);
    assert_eq!(lease()[..2], first[..2], "by the same process");
    std::fs::write(place.outside().join("go"), "").unwrap();
    for submitted in submitted {
        ran(submitted.wait_with_output().unwrap()).ok();
    }
    place.run(&["check"]).ok();
}
