//! What lands only with a human's leave beside protected files: large files, very many files, what looks like a secret.

use crate::common::{CHECK, World};
use coord_db::{Decision, ErrorCategory, TestStatus};
use test_support::{Process, wait_for, wait_until};

const BRANCH: &str = "coding-loops/integration";

fn asked(agent: &str, settings: &str) -> (World, Process, Decision) {
    let world = World::with_test(&format!("cat > /dev/null; echo > $TEST_ID; {agent}\n"), &format!("{settings}{CHECK}"));
    let running = world.start("one");
    let asked = wait_for("the question", || world.db.read(|tx| tx.decisions(true)).unwrap().into_iter().next());
    assert_eq!((asked.decision_type.as_str(), asked.default_option.as_deref()), ("unusual_change", Some("reject")));
    assert_eq!(world.git(&["rev-list", "--count", &format!("main..{BRANCH}")]), "0");
    (world, running, asked)
}

/// What pm does with the answer.
fn answer(world: &World, asked: &Decision, choice: &str) {
    world.db.write(|tx| tx.resolve_decision(&asked.id, Some(choice), true, None, None)).unwrap();
}

fn end(running: Process) {
    assert_eq!(running.terminate().code(), Some(0));
}

#[test]
fn a_large_file_lands_once_it_is_approved() {
    let (world, running, question) = asked("head -c 3000000 /dev/zero > large", "[landing]\nfile_bytes = 1000000\n");
    assert!(question.summary.contains("contains large files: large (3 MB)"), "{}", question.summary);
    answer(&world, &question, "approve");
    wait_until("the landing", || world.test("t1").status == TestStatus::Passed);
    assert_eq!(world.git(&["cat-file", "-s", &format!("{BRANCH}:large")]), "3000000");
    end(running);
    world.assert_tidy();
}

#[test]
fn a_large_file_that_is_rejected_is_kept_outside_of_the_store() {
    let (world, running, question) = asked("head -c 3000000 /dev/zero > large", "[landing]\nfile_bytes = 1000000\n");
    answer(&world, &question, "reject");
    wait_until("the refusal", || world.test("t1").error_category == Some(ErrorCategory::Human));
    end(running);
    // The first: what the agent begins again with is saved too when its loop is stopped.
    let saved = world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/one/t1/"]);
    let saved = saved.lines().next().unwrap();
    let kept = world.root().join("left/one").join(saved.rsplit('/').next().unwrap());
    assert_eq!(std::fs::metadata(kept.join("large")).unwrap().len(), 3_000_000);
    let note = world.store(&["log", "-1", "--format=%b", saved]);
    assert!(note.contains(&kept.display().to_string()), "{note}");
}

#[test]
fn a_secret_is_asked_about_without_being_shown() {
    let token = format!("ghp_{}", "a1B2".repeat(9));
    let script = format!("echo 'token = {token}' > settings.ini; echo KEY=1 > .env; echo 'ghp_ is a prefix' > notes");
    let (world, running, question) = asked(&script, "");
    assert!(
        question.summary.contains("contains text that looks like a secret: .env, settings.ini:1 (ghp_…)"),
        "{}",
        question.summary
    );
    let context = question.context.to_string();
    assert!(!question.summary.contains(&token) && !context.contains(&token), "{context}");
    answer(&world, &question, "approve");
    wait_until("the landing", || world.test("t1").status == TestStatus::Passed);
    end(running);
}

#[test]
fn very_many_files_are_asked_about_and_settings_can_allow_them() {
    let (world, running, question) = asked("for i in 1 2 3 4 5; do echo > f$i; done", "[landing]\nfiles = 4\n");
    assert!(question.summary.contains("changes 6 files"), "{}", question.summary);
    answer(&world, &question, "approve");
    wait_until("the landing", || world.test("t1").status == TestStatus::Passed);
    end(running);
    let world = World::with_test(
        "cat > /dev/null; echo > $TEST_ID; echo KEY=1 > .env\n",
        &format!("[landing]\nsecrets = false\n{CHECK}"),
    );
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed);
}

#[test]
fn what_somebody_else_does_to_the_published_branch_is_asked_about_and_done_as_answered() {
    for choice in ["publish_again", "take_theirs", "leave"] {
        let world = World::new("cat > /dev/null; echo > $TEST_ID\n", CHECK);
        world.add_loop("one");
        for test in ["t1", "t2"] {
            world.add_test(test, "one");
        }
        assert_eq!(world.once("one").status.code(), Some(0));
        let ours = world.git(&["rev-parse", BRANCH]);
        let back = world.git(&["rev-parse", &format!("{BRANCH}~1")]);
        world.git(&["update-ref", &format!("refs/heads/{BRANCH}"), &back]);
        world.once("one");
        let question = world.db.read(|tx| tx.decisions(true)).unwrap().remove(0);
        assert_eq!(question.decision_type, "published_branch");
        assert!(question.summary.contains("without 1 passed tests (t2)"), "{}", question.summary);
        assert_eq!(world.git(&["rev-parse", BRANCH]), back, "nothing is done before the answer");
        answer(&world, &question, choice);
        world.once("one");
        let now = world.git(&["rev-parse", BRANCH]);
        let expected = if choice == "publish_again" { &ours } else { &back };
        match choice {
            "publish_again" | "leave" => {
                assert_eq!(&now, expected, "{choice}");
                assert_eq!(world.store(&["rev-parse", BRANCH]), ours);
                assert_eq!(world.test("t2").status, TestStatus::Passed);
            }
            _ => {
                // What was lost by it is done again.
                world.once("one");
                assert_eq!(world.test("t2").status, TestStatus::Passed);
                let now = world.git(&["rev-parse", BRANCH]);
                assert_eq!(world.git(&["rev-parse", &format!("{BRANCH}~1")]), back);
                assert_eq!(world.test("t2").commit_hash, Some(now));
            }
        }
        assert_eq!(world.db.read(|tx| tx.decisions(true)).unwrap(), [], "it is asked once: {choice}");
    }
}

#[test]
fn a_question_about_a_moved_branch_ends_with_its_cause() {
    let world = World::new("cat > /dev/null; echo > $TEST_ID\n", CHECK);
    world.add_loop("one");
    ["t1", "t2"].into_iter().for_each(|test| world.add_test(test, "one"));
    assert_eq!(world.once("one").status.code(), Some(0));
    let ours = world.git(&["rev-parse", BRANCH]);
    let asked_at = |commit: &str| {
        world.git(&["update-ref", &format!("refs/heads/{BRANCH}"), commit]);
        world.once("one");
        let open = world.db.read(|tx| tx.decisions(true)).unwrap();
        open.into_iter().map(|question| question.context["found"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let [back, main] = [format!("{BRANCH}~1"), "main".to_owned()].map(|name| world.git(&["rev-parse", &name]));
    assert_eq!(asked_at(&back), [back.as_str()]);
    assert_eq!(asked_at(&main), [main.as_str()], "the branch has moved again");
    assert_eq!(asked_at(&ours), [] as [String; 0], "the branch is back");
    assert_eq!(asked_at(&back), [back.as_str()], "it is asked again, because nobody has answered");
    assert_eq!(world.events("decision_resolved").len(), 2);
}
