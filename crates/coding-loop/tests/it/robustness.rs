//! What goes wrong around an attempt without being its agent's fault, and what its agent does by itself: no attempt is lost
//! to it, no order blocks the loop, nobody is disturbed without need.

use crate::common::{CHECK, World};
use coord_db::payload::{ForceRelease, PauseRequested, RestartRequested, ResumeRequested, RollbackTriggered};
use coord_db::{
    AcquireRequest, ActorId, CleanUp, ErrorCategory, LoopId, LoopStatus, NewEvent, Payload, TestStatus, UnlockCause,
};
use test_support::{Process, acquire_request, wait_for, wait_until};

/// Begins, and waits with a child in a session of its own until it may go on.
const PATIENT: &str = "cat > /dev/null; top=../../..; echo half > work
    setsid sleep 300 & echo $$ > $top/pid
    while ! [ -e $top/go ]; do sleep 0.05; done
    kill $!; rm -f work; echo > $TEST_ID\n";

fn world() -> World {
    World::with_test(PATIENT, CHECK)
}

fn one() -> LoopId {
    "one".parse().unwrap()
}

fn leased(world: &World, file: &str) -> Option<()> {
    let leases = world.db.read(|tx| tx.leases_of("one")).unwrap();
    leases.iter().any(|lease| lease.file_path.as_str() == file).then_some(())
}

/// A loop whose agent works and whose file is leased; with the agent's pid.
fn at_work(world: &World) -> (Process, String) {
    let running = world.start("one");
    let pid = wait_for("the agent", || {
        std::fs::read_to_string(world.folder().join("pid")).ok().filter(|text| !text.trim().is_empty())
    });
    wait_for("the file's lease", || leased(world, "work"));
    (running, pid)
}

fn gone(pid: &str) {
    let pid: i64 = pid.trim().parse().unwrap();
    wait_until("the agent to be gone", || coord_db::process::start_time(pid).is_none());
}

fn go(world: &World) {
    std::fs::write(world.folder().join("go"), "").unwrap();
}

fn publish(world: &World, payload: impl Into<Payload>) {
    world.db.write(|tx| tx.publish(&NewEvent::new(ActorId::human(), payload))).unwrap();
}

fn wait_status(world: &World, status: TestStatus) {
    wait_until(&format!("the test to be {status}"), || world.test("t1").status == status);
}

fn all_taken(world: &World) -> bool {
    !world.db.read(|tx| tx.has_deliveries("one")).unwrap()
}

/// The agent goes on, the test passes at its first attempt, the loop ends well, in as many beginnings as expected.
fn passes(world: &World, running: Process, beginnings: usize) {
    go(world);
    wait_status(world, TestStatus::Passed);
    assert_eq!(world.test("t1").attempts, 1);
    assert_eq!(world.events("test_started").len(), beginnings);
    wait_until("every order to be taken", || all_taken(world));
    assert_eq!(running.terminate().code(), Some(0));
    world.assert_tidy();
}

/// The work that is saved holds the half-done file.
fn half_is_saved(world: &World) {
    let refs = world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/one/t1/"]);
    let holds = |name: &str| world.store(&["ls-tree", "--name-only", name]).lines().any(|file| file == "work");
    assert!(refs.lines().any(holds), "{refs}");
}

fn rollback(checkpoint_id: Option<&str>) -> RollbackTriggered {
    let checkpoint_id = checkpoint_id.map(str::to_owned);
    RollbackTriggered { loop_id: one(), checkpoint_id, reason: "astray".to_owned(), triggered_by: ActorId::human() }
}

#[test]
fn an_agent_that_leases_by_itself_is_left_alone() {
    let world = world();
    let (running, _) = at_work(&world);
    // As `loopctl lock work other --loop one` does: the file has another token now.
    let request = AcquireRequest { ttl_seconds: 600, ..acquire_request("one", &["work", "other"]) };
    world.db.write(|tx| tx.acquire(&request, 5)).unwrap();
    passes(&world, running, 1);
}

#[test]
fn what_the_agent_unlocks_is_leased_again_as_long_as_it_differs() {
    let world = world();
    let (running, _) = at_work(&world);
    world.db.write(|tx| tx.release(&one(), &["work".parse()?], None)).unwrap();
    wait_for("the file's lease", || leased(&world, "work"));
    passes(&world, running, 1);
}

#[test]
fn revoked_leases_end_the_attempt() {
    let world = world();
    let (running, agent) = at_work(&world);
    world.db.write(|tx| tx.release_everything("one", &ActorId::human(), UnlockCause::Revoked, None)).unwrap();
    gone(&agent);
    wait_status(&world, TestStatus::Pending);
    half_is_saved(&world);
    passes(&world, running, 2);
}

#[test]
fn taken_for_dead_it_takes_its_row_again() {
    let world = world();
    let (running, agent) = at_work(&world);
    // As heartbeat does with a loop that it takes for dead.
    let clean_up = CleanUp {
        source: ActorId::human(),
        cause: UnlockCause::OwnerDied,
        status: LoopStatus::Error,
        reason: "taken for dead".to_owned(),
    };
    world.db.write(|tx| tx.clean_up_loop(&one(), &clean_up, None)).unwrap();
    gone(&agent);
    wait_until("the second attempt", || world.events("test_started").len() == 2);
    let row = world.db.read(|tx| tx.loop_row(&one())).unwrap();
    assert_eq!((row.status, row.pid), (LoopStatus::Running, Some(i64::from(running.pid()))));
    half_is_saved(&world);
    passes(&world, running, 2);
}

#[test]
fn a_skipped_test_is_left() {
    let world = world();
    let (running, agent) = at_work(&world);
    world.db.write(|tx| tx.skip_test(&"t1".parse()?, Some("not needed"))).unwrap();
    gone(&agent);
    wait_until("the leases to end", || leased(&world, "work").is_none());
    half_is_saved(&world);
    assert_eq!(world.test("t1").status, TestStatus::Skipped);
    assert_eq!(running.terminate().code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Skipped);
    world.assert_tidy();
}

#[test]
fn a_restart_begins_afresh() {
    let world = world();
    let (running, agent) = at_work(&world);
    publish(&world, RestartRequested { loop_id: one(), reason: "again".to_owned(), requested_by: ActorId::human() });
    gone(&agent);
    wait_until("the second attempt", || world.events("test_started").len() == 2);
    half_is_saved(&world);
    passes(&world, running, 2);
}

#[test]
fn an_order_that_cannot_be_obeyed_blocks_nothing() {
    let world = world();
    publish(&world, rollback(Some("no such checkpoint")));
    let (running, agent) = at_work(&world);
    assert!(all_taken(&world));
    publish(&world, rollback(Some("nor this one")));
    gone(&agent);
    wait_until("the second attempt", || world.events("test_started").len() == 2);
    assert_eq!(world.events("rollback_done").len(), 0);
    passes(&world, running, 2);
}

#[test]
fn what_does_not_fit_or_is_for_others_blocks_nothing() {
    let world = world();
    world.add_loop("two");
    world
        .db
        .execute_foreign(
            "INSERT INTO events (id, timestamp, source, event_type, payload, priority)
             VALUES ('odd', '2026-01-01 00:00:00.000', 'human', 'force_release', '{\"loop_id\": 7}', 1)",
        )
        .unwrap();
    let (loop_id, reason) = ("two".parse().unwrap(), "not you".to_owned());
    publish(&world, ForceRelease { loop_id, reason, locks_held: Vec::new(), must_rollback: true, cycle: Vec::new() });
    let (running, _) = at_work(&world);
    assert!(all_taken(&world));
    passes(&world, running, 1);
}

#[test]
fn a_loop_that_was_paused_while_it_did_not_run_starts_paused() {
    let world = world();
    publish(&world, PauseRequested { loop_id: one(), reason: "a rest".to_owned(), requested_by: ActorId::human() });
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Pending);
    assert_eq!((world.events("loop_paused").len(), world.events("test_started").len()), (1, 0));
    publish(&world, ResumeRequested { loop_id: one(), reason: "enough".to_owned(), requested_by: ActorId::human() });
    let (running, _) = at_work(&world);
    passes(&world, running, 1);
}

#[test]
fn a_database_that_cannot_be_written_loses_nothing() {
    let world = World::with_test(PATIENT, &format!("[database]\nbusy_deadline_seconds = 1\n{CHECK}"));
    let (running, _) = at_work(&world);
    world
        .db
        .write(|_| {
            // The agent ends while another holds the write lock past the deadline of what it records of that.
            go(&world);
            wait_for("the end of the run to be recorded", || world.logged("cannot continue; trying again"));
            Ok::<_, coord_db::Error>(())
        })
        .unwrap();
    wait_status(&world, TestStatus::Passed);
    assert_eq!(running.terminate().code(), Some(0));
    assert_eq!(world.test("t1").attempts, 1);
    assert_eq!(world.git(&["rev-list", "--count", "main..coding-loops/integration"]), "1");
    assert_eq!(world.sql("SELECT (SELECT count(*) FROM usage), outcome FROM runs WHERE kind = 'agent'"), "1|exit code 0");
    world.assert_tidy();
}

#[test]
fn work_that_is_being_judged_waits_for_a_database_that_is_away() {
    let world = World::new("cat > /dev/null; echo > $TEST_ID\n", "");
    let folder = world.folder().display().to_string();
    let check = format!("touch {folder}/judging; while ! test -e {folder}/go; do sleep 0.05; done; test -f $TEST_ID");
    world.configure(|config| {
        let check = format!("[[gate.check]]\nname = \"file\"\ncommand = [\"sh\", \"-c\", \"{check}\"]\n");
        format!("{config}\n[database]\nbusy_deadline_seconds = 1\n{check}")
    });
    world.add_loop("one");
    world.add_test("t1", "one");
    let running = world.start("one");
    wait_for("the check", || world.folder().join("judging").exists().then_some(()));
    // Another writer has the database for longer than the loop waits for it.
    let held = world.db.write(|_| {
        go(&world);
        wait_for("the loop to wait", || world.logged("cannot continue; trying again"));
        Ok::<_, coord_db::Error>(())
    });
    held.unwrap();
    wait_status(&world, TestStatus::Passed);
    let test = world.test("t1");
    assert_eq!((test.attempts, test.give_backs), (1, 0), "{test:?}");
    assert_eq!(world.sql("SELECT count(*) FROM runs WHERE kind = 'agent'"), "1");
    assert_eq!(running.terminate().code(), Some(0));
    world.assert_tidy();
}

#[test]
fn an_agent_that_takes_too_long_or_cannot_be_started() {
    for (settings, category, words) in [
        ("[loop.one.agent]\ntimeout_seconds = 1\n", ErrorCategory::Code, "exceeded its time limit of 1 s"),
        ("[loop.one.agent]\ncommand = [\"/no/such/agent\"]\n", ErrorCategory::Human, "/no/such/agent"),
    ] {
        let world = World::with_test(PATIENT, &format!("{settings}{CHECK}"));
        world.attempt("one");
        let test = world.test("t1");
        assert_eq!((test.status, test.error_category), (TestStatus::Pending, Some(category)));
        assert_eq!(test.attempts, i64::from(category == ErrorCategory::Code));
        assert!(test.last_error.unwrap().contains(words));
        world.assert_tidy();
    }
}

#[test]
fn no_agent_works_on_what_cannot_pass() {
    let world = World::with_test(
        "echo > ../../../asked",
        "[[gate.check]]\nname = \"x\"\ncommand = [\"true\"]\ncategories = [\"docs\"]\n",
    );
    world.attempt("one");
    assert!(world.test("t1").last_error.unwrap().starts_with("no checks are configured"));
    assert!(world.exists("asked").is_none());
}
