//! Loops whose integration is kept at a remote, where other machines land too.

use std::fs;
use std::path::PathBuf;

use crate::common::{CHECK, World};
use coord_db::TestStatus;
use test_support::{git, git_command, run, wait_for, wait_until};

const INTEGRATION: &str = "refs/heads/coding-loops/integration";

struct Shared {
    world: World,
    remote: PathBuf,
}

impl Shared {
    fn new(agent: &str) -> Self {
        let world = World::new(agent, CHECK);
        let remote = world.folder().join("remote.git");
        run(git_command(world.folder()).args(["init", "--quiet", "--bare"]).arg(&remote));
        world.git(&["remote", "add", "team", remote.to_str().unwrap()]);
        world.configure(|config| format!("[repository]\nremote = \"team\"\n{config}"));
        world.add_loop("one");
        world.add_test("t1", "one");
        Self { world, remote }
    }

    fn remote(&self, arguments: &[&str]) -> String {
        git(&self.remote, arguments)
    }

    fn hook(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let hook = self.remote.join("hooks").join(name);
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn alerts(&self) -> String {
        self.world.sql("SELECT message FROM alerts WHERE closed_at IS NULL")
    }

    fn head(&self) -> String {
        self.remote(&["rev-parse", INTEGRATION])
    }

    /// What somebody on another machine lands.
    fn land_elsewhere(&self, file: &str) -> String {
        let clone = self.world.folder().join(format!("clone-{file}"));
        run(git_command(self.world.folder())
            .args(["clone", "--quiet", "--branch", "coding-loops/integration"])
            .args([&self.remote, &clone]));
        let commit = test_support::commit(&clone, file, &[(file, "theirs\n")]);
        git(&clone, ["push", "--quiet"]);
        commit
    }

    fn is_on_integration(&self, commit: &str) -> bool {
        self.remote(&["branch", "--contains", commit]).contains("coding-loops/integration")
    }

    fn landed(&self, test: &str) -> Option<String> {
        let row = self.world.test(test);
        (row.status == TestStatus::Passed).then(|| row.commit_hash.unwrap())
    }
}

#[test]
fn work_lands_on_what_others_have_landed_and_what_is_kept_has_a_copy() {
    let shared = Shared::new("cat >/dev/null; echo > $TEST_ID; test $TEST_ID != t3 || { echo half > half; exit 1; }\n");
    let world = &shared.world;
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(shared.landed("t1").unwrap(), shared.head());
    let theirs = shared.land_elsewhere("theirs");
    world.add_test("t2", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    let second = shared.landed("t2").unwrap();
    assert_eq!((shared.head(), shared.remote(&["rev-parse", &format!("{second}^")])), (second, theirs));
    let copies = |of: &str| shared.remote(&["for-each-ref", "--format=%(refname)", &format!("refs/coding-loops/{of}")]);
    assert!(!copies("checkpoints").is_empty());
    assert_eq!(copies("queued"), "", "it has landed");
    // The work of a failed attempt is saved, and has a copy; with a key in it, it stays here.
    world.add_test("t3", "one");
    world.once("one");
    let saved = |where_from: &str| where_from.lines().filter(|name| name.contains("/t3/")).count();
    let here = || saved(&world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved"]));
    let (kept, copied) = (here(), saved(&copies("saved")));
    assert!(kept > 0 && copied == kept, "{kept} {copied}");
    let key = "AKIA''Q3EGRT5HJX7PLM2K";
    for does in [format!("printf 'key {key}\\n' > key"), format!("printf 'a\\0b {key}\\n' > binary")] {
        fs::write(world.folder().join("agent.sh"), format!("cat >/dev/null; {does}; exit 1\n")).unwrap();
        let kept = here();
        world.db.write(|tx| tx.reset_test(&"t3".parse()?)).unwrap();
        world.once("one");
        assert!(here() > kept, "{does}");
        assert_eq!(saved(&copies("saved")), copied, "{does}");
    }
    // Nor does a message of the agent's own commits leave it.
    let does = format!("cat >/dev/null; echo x > x; git add x; git commit --quiet -m 'with {key}'; exit 1\n");
    fs::write(world.folder().join("agent.sh"), does).unwrap();
    world.db.write(|tx| tx.reset_test(&"t3".parse()?)).unwrap();
    world.once("one");
    assert!(!shared.remote(&["log", "--all", "--format=%B"]).contains("AKIA"));
}

#[test]
fn a_landing_whose_push_arrived_is_recorded_by_the_next_life_and_one_that_did_not_is_done_again() {
    let shared = Shared::new("cat >/dev/null; exit 1\n");
    let world = &shared.world;
    let (loop_id, test): (coord_db::LoopId, coord_db::TestId) = ("one".parse().unwrap(), "t1".parse().unwrap());
    let old = world.git(&["rev-parse", "main"]);
    world.make_store();
    let commit = world.commit_elsewhere(&old, "t1\n\nLoop: one\nTest: t1\nProof: p", |_| {});
    // The process died when the remote had moved, and its own store had not.
    world.store(&["push", "--quiet", shared.remote.to_str().unwrap(), &format!("{commit}:{INTEGRATION}")]);
    world
        .db
        .write(|tx| {
            tx.set_loop_status(&loop_id, coord_db::LoopStatus::Running)?;
            tx.claim_next_test(&loop_id, true)?;
            let steps = serde_json::json!({"test": "t1", "attempt": 1, "commit": commit, "old": old, "checks": [["file", true]],
                "seconds": 3, "files": ["t1"], "proof": "p"});
            tx.begin_operation("integrate", "one", Some(&loop_id), &steps, None)?;
            tx.give_back(&test, &loop_id, "died")
        })
        .unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(shared.landed("t1"), Some(commit));
    assert_eq!(world.events("test_passed").len(), 1);
}

#[test]
fn while_the_remote_is_away_work_waits_and_then_lands_by_itself() {
    let shared = Shared::new("cat >/dev/null; echo > $TEST_ID\n");
    let world = &shared.world;
    assert_eq!(world.once("one").status.code(), Some(0));
    let away = shared.remote.with_extension("away");
    fs::rename(&shared.remote, &away).unwrap();
    world.add_test("t2", "one");
    let running = world.start("one");
    let alert = "SELECT message FROM alerts WHERE closed_at IS NULL AND message LIKE 'finished work cannot land: the remote%'";
    wait_until("the alert", || !world.sql(alert).is_empty());
    assert_eq!(world.test("t2").status, TestStatus::InProgress);
    fs::rename(&away, &shared.remote).unwrap();
    let commit = wait_for("the landing", || shared.landed("t2"));
    assert!(shared.is_on_integration(&commit));
    wait_until("the alert to be closed", || world.sql(alert).is_empty());
    assert_eq!(running.terminate().code(), Some(0));
    world.assert_tidy();
}

#[test]
fn a_branch_that_somebody_else_has_moved_at_the_remote_is_asked_about() {
    let shared = Shared::new("cat >/dev/null; echo > $TEST_ID\n");
    let world = &shared.world;
    assert_eq!(world.once("one").status.code(), Some(0));
    let (first, main) = (shared.head(), world.git(&["rev-parse", "main"]));
    let question = || world.sql("SELECT id FROM decisions WHERE decision_type = 'remote_branch' AND status = 'pending'");
    let answer = |choice: &str| {
        let id = question();
        world.sql(&format!(
            "UPDATE decisions SET status = 'decided', choice = '{choice}', decided_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE id = '{id}'"
        ))
    };
    world.add_test("t2", "one");
    shared.remote(&["update-ref", INTEGRATION, &main]);
    let running = world.start("one");
    wait_until("the question", || !question().is_empty());
    let summary = world.sql("SELECT summary FROM decisions WHERE decision_type = 'remote_branch'");
    assert!(summary.contains("at the remote") && summary.contains("without 1 passed tests (t1)"), "{summary}");
    assert_eq!(shared.head(), main, "nothing was put over it");
    answer("publish_again");
    let second = wait_for("the landing", || shared.landed("t2"));
    assert!(shared.is_on_integration(&second) && shared.is_on_integration(&first));
    assert_eq!(running.terminate().code(), Some(0));
    // Or their state is taken: what it lacks is done again.
    shared.remote(&["update-ref", INTEGRATION, &first]);
    world.add_test("t3", "one");
    let running = world.start("one");
    wait_until("the question", || !question().is_empty());
    answer("take_theirs");
    wait_for("the landing", || shared.landed("t3"));
    let again = wait_for("the lost test to be done again", || shared.landed("t2").filter(|commit| *commit != second));
    assert!(shared.is_on_integration(&again) && !shared.is_on_integration(&second));
    assert_eq!(running.terminate().code(), Some(0));
    world.assert_tidy();
}

#[test]
fn a_refusal_of_the_remote_is_reported_until_the_work_lands() {
    let shared = Shared::new("cat >/dev/null; echo > $TEST_ID\n");
    let world = &shared.world;
    assert_eq!(world.once("one").status.code(), Some(0));
    // Another branch whose name ends in the same way is none of ours.
    shared.remote(&["update-ref", "refs/a/refs/heads/coding-loops/integration", &shared.head()]);
    shared.hook("pre-receive", "echo 'the branch is protected; it timed out' >&2; exit 1");
    world.add_test("t2", "one");
    let running = world.start("one");
    wait_until("the alert", || shared.alerts().contains("the branch is protected"));
    // It is tried again after a pause that grows, and the alert stays.
    let tries = || {
        world.sql(
            "SELECT json_extract(context, '$.tries') FROM alerts WHERE closed_at IS NULL AND fingerprint LIKE 'train_halted:%'",
        )
    };
    wait_until("the second try", || tries() == "2");
    fs::remove_file(shared.remote.join("hooks/pre-receive")).unwrap();
    world.sql("UPDATE alerts SET context = json_set(context, '$.next_try', 0) WHERE fingerprint LIKE 'train_halted:%'");
    let commit = wait_for("the landing", || shared.landed("t2"));
    assert!(shared.is_on_integration(&commit));
    assert_eq!(tries(), "");
    assert_eq!(running.terminate().code(), Some(0));
    world.assert_tidy();
}

#[test]
fn a_remote_that_hangs_stops_neither_heartbeats_nor_a_stop() {
    let shared = Shared::new("cat >/dev/null; echo > $TEST_ID\n");
    let world = &shared.world;
    assert_eq!(world.once("one").status.code(), Some(0));
    shared.hook("pre-receive", "echo > hangs; while ! test -e go; do sleep 0.1; done");
    world.add_test("t2", "one");
    let running = world.start("one");
    wait_until("the push", || shared.remote.join("hangs").exists());
    let beat = || world.sql("SELECT last_heartbeat FROM component_health WHERE component = 'one'");
    for _ in 0..2 {
        let before = beat();
        wait_until("a heartbeat", || beat() > before);
    }
    assert_eq!(running.terminate().code(), Some(0));
    assert_ne!(world.test("t2").status, TestStatus::Passed);
    // The push arrives after all, and is recorded; else the work lands now.
    fs::write(shared.remote.join("go"), "").unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    let commit = shared.landed("t2").unwrap();
    assert!(shared.is_on_integration(&commit));
    assert_eq!(world.events("test_passed").len(), 2);
    world.assert_tidy();
}

#[test]
fn a_store_that_was_lost_gets_saved_work_back() {
    let shared = Shared::new("cat >/dev/null; echo half > half; exit 1\n");
    let world = &shared.world;
    world.once("one");
    let saved = || world.store(&["for-each-ref", "--format=%(refname) %(objectname)", "refs/coding-loops/saved"]);
    let before = saved();
    assert!(!before.is_empty());
    fs::remove_dir_all(world.root().join("store.git")).unwrap();
    fs::remove_dir_all(world.root().join("loops")).unwrap();
    world.once("one");
    for line in before.lines() {
        assert!(saved().contains(line), "{line} is not in {}", saved());
    }
}
