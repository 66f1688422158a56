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

    /// What another machine has asked.
    fn asked_elsewhere(&self, kind: &str, fingerprint: &str, context: serde_json::Value) -> coord_db::DecisionId {
        let option = |id: &str| coord_db::payload::DecisionOption { id: id.to_owned(), description: id.to_owned() };
        let question = coord_db::NewDecision {
            decision_type: kind.to_owned(),
            summary: "asked elsewhere".to_owned(),
            options: vec![option("one"), option("other")],
            default_option: None,
            context,
            timeout_minutes: None,
            requested_by: coord_db::ActorId::human(),
            fingerprint: Some(fingerprint.to_owned()),
        };
        self.world.db.write(|tx| tx.ask(&question, None)).unwrap()
    }

    fn open_questions(&self) -> Vec<coord_db::Decision> {
        self.world.db.read(|tx| tx.decisions(true)).unwrap()
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
    let old = world.git(&["rev-parse", "main"]);
    world.make_store();
    let commit = world.commit_elsewhere(&old, "t1\n\nLoop: one\nTest: t1\nProof: p", |_| {});
    // The process died when the remote had moved, and its own store had not.
    world.store(&["push", "--quiet", shared.remote.to_str().unwrap(), &format!("{commit}:{INTEGRATION}")]);
    world.leave_landing(&commit, &old);
    world.db.write(|tx| tx.give_back(&"t1".parse()?, &"one".parse()?, "died")).unwrap();
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
fn a_remote_that_refuses_to_answer_is_waited_for_by_a_loop_that_starts() {
    let shared = Shared::new("cat >/dev/null; echo > $TEST_ID\n");
    let world = &shared.world;
    let refuse = |version: &str| shared.remote(&["config", "--file", "config", "core.repositoryFormatVersion", version]);
    refuse("99");
    let running = world.start("one");
    wait_for("a line in the log", || world.logged("cannot continue; trying again"));
    refuse("0");
    wait_for("the landing", || shared.landed("t1"));
    assert_eq!(running.terminate().code(), Some(0));
    // A loop that knows integration works meanwhile.
    refuse("99");
    world.add_test("t2", "one");
    let running = world.start("one");
    wait_until("the alert", || shared.alerts().contains("finished work cannot land"));
    assert_eq!(world.test("t2").attempts, 1);
    refuse("0");
    world.sql("UPDATE alerts SET context = json_set(context, '$.next_try', 0) WHERE fingerprint LIKE 'train_halted:%'");
    let commit = wait_for("the landing", || shared.landed("t2"));
    assert!(shared.is_on_integration(&commit));
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

#[test]
fn a_check_that_cannot_run_on_this_machine_says_nothing_to_the_others_and_is_tried_again_later() {
    let shared = Shared::new("cat >/dev/null; echo > $TEST_ID\n");
    let world = &shared.world;
    let program = world.folder().join("suite");
    world.configure(|config| format!("{config}[[gate.check]]\nname = \"suite\"\ncommand = [{program:?}]\n"));
    let ended = world.once("one");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("check suite cannot run on"), "{said}");
    let red = || world.sql("SELECT count(*) FROM base_runs WHERE state = 'red'");
    let questions = || world.sql("SELECT count(*) FROM decisions");
    let alert = |column: &str| {
        let from = "FROM alerts WHERE closed_at IS NULL AND fingerprint LIKE 'base_unrunnable:%:suite'";
        world.sql(&format!("SELECT {column} {from}"))
    };
    let state = || [red(), questions(), alert("count(*)"), alert("json_extract(context, '$.tries')")];
    assert_eq!(state(), ["0", "0", "1", "1"]);
    assert_eq!(world.test("t1").attempts, 0);
    // Before its time nothing is tried, and the pause grows.
    world.once("one");
    assert_eq!(state(), ["0", "0", "1", "1"]);
    let due = || world.sql("UPDATE alerts SET context = json_set(context, '$.next_try', 0)");
    due();
    world.once("one");
    assert_eq!(state(), ["0", "0", "1", "2"]);
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    due();
    assert_eq!(world.once("one").status.code(), Some(0));
    assert!(shared.landed("t1").is_some());
    assert_eq!(alert("count(*)"), "0");
    world.assert_tidy();
}

#[test]
fn a_machine_leaves_the_questions_about_the_branches_of_other_machines() {
    let shared = Shared::new("cat >/dev/null; echo > $TEST_ID\n");
    let world = &shared.world;
    assert_eq!(world.once("one").status.code(), Some(0));
    let theirs =
        shared.asked_elsewhere("published_branch", "published:elsewhere/12345678:123456789012:", serde_json::json!({}));
    let open = || shared.open_questions();
    let is_theirs = |asked: &coord_db::Decision| asked.id == theirs;
    world.add_test("t2", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert!(open().iter().any(is_theirs), "a landing is published here, and says nothing of their branch");
    // The own one names the machine, and ends with its cause.
    let branch = "refs/heads/coding-loops/integration";
    world.git(&["update-ref", branch, "main"]);
    world.once("one");
    let asked = open();
    let own = asked.iter().find(|asked| !is_theirs(asked)).unwrap();
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert!(asked.len() == 2 && own.summary.contains(&format!("in the repository on {}", name.trim())), "{asked:?}");
    world.git(&["update-ref", branch, &shared.head()]);
    world.once("one");
    assert_eq!(open().iter().map(|asked| &asked.id).collect::<Vec<_>>(), [&theirs]);
}

#[test]
fn a_machine_leaves_the_question_about_the_commits_of_another_until_they_are_brought_in() {
    let shared = Shared::new("cat >/dev/null; sed -i 's/^5$/five/' shared; echo > $TEST_ID\n");
    let world = &shared.world;
    world.configure(|config| config.replacen("remote =", "follow = \"main\"\nfollow_automatically = true\nremote =", 1));
    assert_eq!(world.once("one").status.code(), Some(0));
    let commit = |name: &str| test_support::commit(&world.repository, name, &[(name, "1\n")]);
    world.git(&["checkout", "--quiet", "-b", "side"]);
    let theirs = commit("theirs");
    world.git(&["checkout", "--quiet", "main"]);
    let context = serde_json::json!({ "host": "elsewhere/12345678", "branch": "main", "theirs": theirs });
    let asked = shared.asked_elsewhere("sync", "sync:main", context);
    let hotfix = commit("hotfix");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert!(shared.is_on_integration(&hotfix));
    assert_eq!(shared.open_questions().iter().map(|open| &open.id).collect::<Vec<_>>(), [&asked], "it is about others");
    // An own conflict is asked about when theirs is settled.
    let text = fs::read_to_string(world.repository.join("shared")).unwrap();
    test_support::commit(&world.repository, "conflict", &[("shared", &text.replace("5\n", "V\n"))]);
    let running = world.start("one");
    wait_for("the conflict", || world.logged("the question of elsewhere about its branch has to be answered first"));
    assert_eq!(shared.open_questions().iter().map(|open| &open.id).collect::<Vec<_>>(), [&asked]);
    world.db.write(|tx| tx.resolve_decision(&asked, Some("other"), true, None, None)).unwrap();
    wait_until("the own question", || shared.open_questions().iter().any(|open| open.summary.contains("in shared")));
    assert_eq!(running.terminate().code(), Some(0));
    // Brought in from here too, the commits have no question left.
    world.git(&["reset", "--quiet", "--hard", &hotfix]);
    world.once("one");
    assert_eq!(shared.open_questions(), [], "the commits of the own question were dropped");
    let context = serde_json::json!({ "host": "elsewhere/12345678", "branch": "main", "theirs": theirs });
    shared.asked_elsewhere("sync", "sync:main", context);
    world.git(&["merge", "--quiet", "--no-edit", "side"]);
    assert_eq!(world.once("one").status.code(), Some(0));
    assert!(shared.is_on_integration(&theirs));
    assert_eq!(shared.open_questions(), []);
}

#[test]
fn a_loop_at_work_settles_a_landing_that_was_left_after_it_has_asked_the_remote() {
    let shared = Shared::new("cat >/dev/null; echo > $TEST_ID\n");
    let world = &shared.world;
    let running = world.start("one");
    wait_for("the landing", || shared.landed("t1"));
    // Two: each is asked about, and none keeps the loop from its work.
    let (old, commit) = (world.git(&["rev-parse", "main"]), "1".repeat(40));
    let intent = serde_json::json!({ "commit": commit, "old": old, "batch": null, "members": [],
        "owner": { "pid": 1, "boot_id": "another" } });
    for _ in 0..2 {
        world.db.write(|tx| tx.begin_operation("integrate", coord_db::LoopId::train().as_str(), None, &intent, None)).unwrap();
    }
    wait_until("both to be settled", || world.sql("SELECT count(*) FROM transaction_log WHERE status = 'in_progress'") == "0");
    world.add_test("t2", "one");
    wait_for("the next landing", || shared.landed("t2"));
    assert_eq!(running.terminate().code(), Some(0));
    world.assert_tidy();
}
