//! Pause, release, rollback, death: what reaches a loop while its agent runs.

use crate::common::{CHECK, World};
use coord_db::payload::{ForceRelease, PauseRequested, ResumeRequested, RollbackTriggered};
use coord_db::{ActorId, LoopStatus, NewEvent, PassedAttempt, TestStatus};
use nix::sys::signal::Signal;
use test_support::{is_alive, wait_for, wait_until};

/// The first time it works for ever, in the background and in the foreground; later it is quick.
const SLOW_ONCE: &str = "cat >/dev/null; echo half > half-done
    if mkdir ../../../begun 2>/dev/null; then echo $$ > ../../../pid; (setsid sleep 300 &) ; sleep 300; fi
    rm -f half-done; echo > $TEST_ID\n";

fn world() -> World {
    World::with_test(SLOW_ONCE, CHECK)
}

fn await_agent(world: &World) -> u32 {
    wait_for("the agent to begin", || std::fs::read_to_string(world.folder().join("pid")).ok()?.trim().parse::<u32>().ok());
    // The file is leased as it first changes.
    wait_for("the automatic lease", || {
        let leases = world.db.read(|tx| tx.leases_of("one")).unwrap();
        leases.iter().any(|lease| lease.file_path.as_str() == "half-done" && lease.automatic).then_some(())
    });
    std::fs::read_to_string(world.folder().join("pid")).unwrap().trim().parse().unwrap()
}

/// No process works in the world's folder any more, but for these.
fn only(world: &World, pids: &[u32]) -> Option<()> {
    let others = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let pid = entry.file_name().to_string_lossy().parse::<u32>();
        pid.is_ok_and(|pid| !pids.contains(&pid))
            && std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(world.folder()))
    });
    (!others).then_some(())
}

fn publish(world: &World, event: NewEvent) {
    world.db.write(|tx| tx.publish(&event)).unwrap();
}

fn passed(world: &World) -> Option<()> {
    (world.test("t1").status == TestStatus::Passed).then_some(())
}

fn saved(world: &World) -> usize {
    world.store(&["for-each-ref", "--format=x", "refs/coding-loops/saved/"]).lines().count()
}

#[test]
fn a_pause_stops_the_agent_keeps_its_work_and_ends_by_a_resume() {
    let world = world();
    let running = world.start("one");
    let agent = await_agent(&world);
    let (loop_id, human) = ("one".parse().unwrap(), ActorId::human());
    let request = PauseRequested { loop_id, reason: "lunch".to_owned(), requested_by: human.clone() };
    publish(&world, NewEvent::new(human.clone(), request));
    wait_until("the pause", || !world.events("loop_paused").is_empty());
    assert!(!is_alive(agent), "the agent has ended");
    wait_for("its daemon to be gone", || only(&world, &[running.pid()]));
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts), (TestStatus::Pending, 0));
    assert_eq!(world.db.read(|tx| tx.find_loop("one")).unwrap().unwrap().status, LoopStatus::Paused);
    assert_eq!(saved(&world), 1);
    assert_eq!(world.db.read(|tx| tx.leases(false)).unwrap(), []);
    let other: ActorId = "pm".parse().unwrap();
    let loop_id: coord_db::LoopId = "one".parse().unwrap();
    let resume = |by: &ActorId| ResumeRequested { loop_id: loop_id.clone(), reason: "go".to_owned(), requested_by: by.clone() };
    publish(&world, NewEvent::new(other.clone(), resume(&other)));
    publish(&world, NewEvent::new(human.clone(), resume(&human)));
    wait_for("the pass", || passed(&world));
    assert_eq!(world.events("loop_resumed").len(), 1);
    assert_eq!(running.terminate().code(), Some(0));
    world.assert_tidy();
}

#[test]
fn a_victim_keeps_its_work_gives_up_its_leases_and_does_it_again() {
    let world = world();
    let running = world.start("one");
    let agent = await_agent(&world);
    let request = ForceRelease {
        loop_id: "one".parse().unwrap(),
        reason: "a cycle".to_owned(),
        locks_held: vec!["half-done".to_owned()],
        must_rollback: true,
        cycle: vec!["one".to_owned(), "two".to_owned()],
    };
    publish(&world, NewEvent::new("deadlock-detector".parse().unwrap(), request));
    wait_until("the release", || !world.events("file_unlocked").is_empty());
    assert!(!is_alive(agent), "the agent has ended");
    assert!(world.events("file_unlocked")[0].caused_by.is_some());
    wait_for("the pass", || passed(&world));
    assert_eq!(world.test("t1").attempts, 1);
    assert_eq!(saved(&world), 1);
    assert_eq!(running.terminate().code(), Some(0));
    world.assert_tidy();
}

#[test]
fn a_rollback_goes_back_and_says_so() {
    let world = world();
    let running = world.start("one");
    await_agent(&world);
    let request = RollbackTriggered {
        loop_id: "one".parse().unwrap(),
        checkpoint_id: None,
        reason: "wrong way".to_owned(),
        triggered_by: ActorId::human(),
    };
    publish(&world, NewEvent::new(ActorId::human(), request));
    wait_until("the rollback", || !world.events("rollback_done").is_empty());
    wait_for("the pass", || passed(&world));
    assert_eq!(saved(&world), 1);
    drop(running);
}

#[test]
fn a_killed_loop_leaves_no_agent_and_its_next_life_goes_on() {
    let world = world();
    let running = world.start("one");
    let agent = await_agent(&world);
    running.signal(Signal::SIGKILL);
    drop(running);
    wait_until("the agent to be gone", || !is_alive(agent));
    wait_for("its daemon to be gone", || only(&world, &[]));
    assert_eq!(world.once("one").status.code(), Some(0));
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts), (TestStatus::Passed, 1));
    // What the dead one had made is kept.
    assert_eq!(saved(&world), 1);
    assert_eq!(world.events("test_passed").len(), 1);
    world.assert_tidy();
}

#[test]
fn a_stopped_loop_gives_everything_back() {
    let world = world();
    let running = world.start("one");
    let agent = await_agent(&world);
    assert_eq!(running.terminate().code(), Some(0));
    assert!(!is_alive(agent), "the agent has ended");
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts), (TestStatus::Pending, 0));
    let row = world.db.read(|tx| tx.find_loop("one")).unwrap().unwrap();
    assert_eq!((row.status, row.pid), (LoopStatus::Stopped, None));
    assert_eq!(saved(&world), 1);
    // Neither heartbeat nor monitor runs here: the loop itself notes what would show that the machine slept.
    assert_eq!(world.sql("SELECT host FROM clock"), coord_db::process::host().unwrap_or_default());
    world.assert_tidy();
}

#[test]
fn a_landing_that_was_cut_off_after_the_branch_moved_is_recorded_by_the_next_life() {
    let world = World::with_test("cat >/dev/null; exit 1\n", CHECK);
    let (loop_id, test): (coord_db::LoopId, coord_db::TestId) = ("one".parse().unwrap(), "t1".parse().unwrap());
    let old = world.git(&["rev-parse", "main"]);
    let store = world.make_store();
    let commit = world.commit_elsewhere(&old, "t1\n\nLoop: one\nTest: t1\nProof: p", |_| {});
    let hash = |text: &str| git::CommitHash::new(text).unwrap();
    store.move_integration(&hash(&commit), &hash(&old)).unwrap();
    world.leave_landing(&commit, &old);
    // Heartbeat was faster: the test is pending again.
    world.db.write(|tx| tx.give_back(&test, &loop_id, "died")).unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    let row = world.test("t1");
    assert_eq!((row.status, row.commit_hash), (TestStatus::Passed, Some(commit.clone())));
    assert_eq!(world.events("test_passed").len(), 1);
    // Once more changes nothing.
    let again = PassedAttempt { commit, checks: vec![], duration_seconds: 0, tokens_estimated: None, files_modified: vec![] };
    assert_eq!(world.db.write(|tx| tx.adopt_landed(&test, &loop_id, &again)).unwrap(), None);
}

#[test]
fn a_landing_that_was_cut_off_before_the_branch_moved_is_done_again() {
    let world = World::with_test("cat >/dev/null; echo > $TEST_ID\n", CHECK);
    let old = world.git(&["rev-parse", "main"]);
    world.make_store();
    let commit = world.commit_elsewhere(&old, "t1", |_| {});
    world.leave_landing(&commit, &old);
    assert_eq!(world.once("one").status.code(), Some(0));
    let row = world.test("t1");
    assert_eq!((row.status, row.attempts), (TestStatus::Passed, 1));
    assert_ne!(row.commit_hash, Some(commit));
    world.assert_tidy();
}

#[test]
fn bad_starts_have_their_messages_and_exit_codes() {
    let world = world();
    let code = |output: std::process::Output| (output.status.code(), String::from_utf8(output.stderr).unwrap());
    let (status, said) = code(world.once("nobody"));
    assert_eq!(status, Some(4));
    assert!(said.contains("no loop \"nobody\"; see loopctl loop list"), "{said}");
    assert_eq!(code(world.once("no/body")).0, Some(2));
    let (status, said) = code(world.command("one").args(["--db", "nowhere.db"]).output().unwrap());
    assert_eq!(status, Some(3));
    assert!(said.contains("loopctl init"), "{said}");
    let running = world.start("one");
    await_agent(&world);
    let (status, said) = code(world.once("one"));
    assert_eq!(status, Some(1));
    assert!(said.contains(&format!("pid {}", running.pid())), "{said}");
    drop(running);
    std::fs::write(world.home.join("config.toml"), "").unwrap();
    let (status, said) = code(world.once("one"));
    assert_eq!(status, Some(2));
    assert!(said.contains("loopctl next"), "{said}");
}

/// A process in a pid namespace of its own, in which no process of another one is visible; none where there is no such thing.
fn in_another_namespace(command: &std::process::Command) -> Option<std::process::Command> {
    let kinds: [&[&str]; 2] = [&["--user", "--map-root-user", "--pid", "--fork"], &["--pid", "--fork"]];
    let with = |kind: &[&str]| {
        let mut wrapped = std::process::Command::new("unshare");
        wrapped.args(kind).args(["--mount-proc", "--kill-child"]);
        wrapped
    };
    let kind = kinds.into_iter().find(|kind| with(kind).arg("true").status().is_ok_and(|status| status.success()))?;
    let mut wrapped = with(kind);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped.current_dir(command.get_current_dir()?);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    Some(wrapped)
}

/// As two containers that share the database: neither sees the other's processes.
#[test]
fn a_process_that_stood_still_and_was_replaced_ends_and_touches_nothing() {
    let world = World::with_test(
        "cat >/dev/null; mkdir -p ../../../agents; mktemp ../../../agents/XXXXXX; while ! test -e ../../../go; do sleep 0.05; done; echo > $TEST_ID\n",
        CHECK,
    );
    world.configure(|config| config.replace("degraded_seconds = 5", "degraded_seconds = 2"));
    let agents = || std::fs::read_dir(world.folder().join("agents")).map_or(0, Iterator::count);
    let mut first = world.start("one");
    wait_until("the first attempt", || agents() == 1);
    let Some(mut second) = in_another_namespace(&world.command("one")) else {
        return eprintln!("SKIPPED, NOTHING WAS TESTED: no pid namespace can be had here");
    };
    // While the first one beats, the other is refused, however often it tries.
    let refused = second.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("one is running already as pid"), "{said}");
    first.signal(Signal::SIGSTOP);
    wait_until("its silence to be long enough", || {
        world.sql("SELECT unixepoch('now') - unixepoch(last_heartbeat) >= 3 FROM component_health WHERE component = 'one'")
            == "1"
    });
    let second = test_support::Process::start_logged(&mut second, &world.folder().join("second.log"));
    wait_until("the second attempt", || agents() == 2);
    let leased = world.sql("SELECT file_path, fencing_token FROM file_locks ORDER BY file_path");
    let row = || world.sql("SELECT pid, pid_namespace FROM component_health WHERE component = 'one'");
    let now = row();
    first.signal(Signal::SIGCONT);
    assert_eq!(first.wait().code(), Some(1));
    assert!(first.log().contains("one runs as pid"), "{}", first.log());
    assert_eq!(row(), now);
    assert_eq!(world.sql("SELECT file_path, fencing_token FROM file_locks ORDER BY file_path"), leased);
    assert_eq!((world.test("t1").status, world.test("t1").attempts), (TestStatus::InProgress, 1));
    assert_eq!(world.sql("SELECT status FROM loops WHERE id = 'one'"), "running");
    std::fs::write(world.folder().join("go"), "").unwrap();
    wait_for("the pass", || passed(&world));
    assert_eq!(world.test("t1").attempts, 1);
    // It is the first process of its namespace; `unshare` passes no signal on.
    second.kill();
}
