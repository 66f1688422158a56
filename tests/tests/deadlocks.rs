//! Deadlocks from beginning to end, with the real loops, detector, pm and `loopctl`.

use system_tests::binaries;
use system_tests::processes::World;
use test_support::{Process, Signal, commit, git};

/// Loop `one` edits `a` and then `b`, `two` the other way round, each its own line; in between it waits for the test.
const AGENT: &str = r#"cat >/dev/null
set -e
case $LOOP_ID in one) first=a; second=b; line=3;; *) first=b; second=a; line=15;; esac
sed -i "${line}s/.*/$TEST_ID/" $first
while [ ! -e "$FOLDER/go-${TEST_ID#*-}" ]; do sleep 0.05; done
sed -i "${line}s/.*/$TEST_ID/" $second
"#;

/// Edits what it is named after; `b1` first gets hold of `src`, which somebody else has.
const PLAIN: &str = r#"cat >/dev/null
set -e
case $TEST_ID in b1) "$LOOPCTL" --quiet lock src --loop "$LOOP_ID" --wait 60;; esac
echo done > "$TEST_ID"
"#;

fn world(agent: &str, check: &str) -> World {
    let world = World::new();
    let script = world.folder().join("agent.sh");
    std::fs::write(&script, agent).unwrap();
    world.settings(&format!(
        "[agent]\ncommand = [\"sh\", \"{}\"]\nkill_after_seconds = 1\nenvironment = [\"PATH\", \"HOME\", \"LOOPCTL\", \"FOLDER\"]\n\
         [[gate.check]]\nname = \"named\"\ncommand = [\"sh\", \"-c\", \"{check}\"]\n",
        script.display()
    ));
    let lines: String = (1..=20).map(|line| format!("{line}\n")).collect();
    commit(world.repository(), "files", &[("a", &lines), ("b", &lines)]);
    world
}

fn loopctl(world: &World, arguments: &[&str]) -> String {
    let output = world.loopctl(arguments);
    assert!(output.status.success(), "loopctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn sql(world: &World, query: &str) -> String {
    world.sql(query).unwrap_or_else(|| panic!("{query}"))
}

/// A loop that works until the test ends.
fn start(world: &World, id: &str) -> Process {
    let mut command = world.program("coding-loop");
    command.arg(id).current_dir(world.repository()).env("FOLDER", world.folder()).env("LOOPCTL", binaries().join("loopctl"));
    Process::start_logged(&mut command, &world.folder().join(format!("{id}.log"))).ending_by(Signal::SIGTERM)
}

fn stop(running: Process) {
    assert_eq!(running.terminate().code(), Some(0));
}

#[test]
fn a_victim_keeps_its_work_and_finishes_later_and_is_spared_the_next_time() {
    let world = world(AGENT, "grep -q $TEST_ID a && grep -q $TEST_ID b");
    let detector = world.supervisor("deadlock-detector");
    let heartbeat = world.supervisor("heartbeat");
    loopctl(&world, &["loop", "add", "one", "--priority", "5"]);
    loopctl(&world, &["loop", "add", "two", "--priority", "9"]);
    let (one, two) = (start(&world, "one"), start(&world, "two"));
    // Both want the same files twice. The first time the victim is the loop with the lower priority, the second time the other
    // one, since a recent victim is spared.
    for (round, victim, survivor) in [(1, "two", "one"), (2, "one", "two")] {
        for id in ["one", "two"] {
            loopctl(&world, &["test", "add", &format!("{id}-{round}"), "--loop", id]);
        }
        world.until("SELECT locked_by || ' ' || file_path FROM file_locks ORDER BY 1", "one a\ntwo b");
        let seen = sql(&world, "SELECT max(rowid) FROM events");
        std::fs::write(world.folder().join(format!("go-{round}")), "").unwrap();
        world.until(&format!("SELECT count(*) FROM tests WHERE status = 'passed' AND id LIKE '%-{round}'"), "2");

        let told = format!(
            "SELECT json_extract(payload, '$.loop_id') FROM events WHERE event_type = 'force_release' AND rowid > {seen}"
        );
        assert_eq!(sql(&world, &told), victim);
        // Nothing of its work was lost: it stands under a ref, and the attempt was given back.
        let saved = "SELECT count(*) FROM checkpoints WHERE checkpoint_type = 'stash' AND loop_id = ";
        assert_eq!(sql(&world, &format!("{saved}'{victim}'")), "1");
        assert_eq!(sql(&world, &format!("{saved}'{survivor}'")), if round == 1 { "0" } else { "1" });
        assert_eq!(sql(&world, "SELECT count(*) FROM tests WHERE attempts <> 1"), "0");
        // What it gave back was because of the order, the survivor got hold of it after that, and landed first.
        let order = format!(
            "SELECT u.rowid < l.rowid AND l.rowid < s.rowid AND s.rowid < v.rowid
             FROM events AS f
             JOIN events AS u ON u.caused_by = f.id AND u.event_type = 'file_unlocked'
             JOIN events AS l ON l.event_type = 'file_locked' AND l.source = '{survivor}' AND l.rowid > f.rowid
               AND json_extract(l.payload, '$.file_path') = json_extract(u.payload, '$.file_path')
             JOIN events AS s ON s.event_type = 'test_passed' AND s.source = '{survivor}' AND s.rowid > f.rowid
             JOIN events AS v ON v.event_type = 'test_passed' AND v.source = '{victim}' AND v.rowid > f.rowid
             WHERE f.event_type = 'force_release' AND f.rowid > {seen} ORDER BY l.rowid LIMIT 1"
        );
        assert_eq!(sql(&world, &order), "1", "{}", world.logs());
        world.until("SELECT count(*) FROM deadlocks WHERE resolved_at IS NULL", "0");
    }
    // Everybody's work is there, one after the other, and `why` tells how that came.
    for file in ["a", "b"] {
        let landed = git(world.repository(), ["show", &format!("coding-loops/integration:{file}")]);
        let lines: Vec<&str> = landed.lines().collect();
        assert_eq!((lines[2], lines[14]), ("one-2", "two-2"));
    }
    let event = sql(&world, "SELECT id FROM events WHERE event_type = 'force_release' ORDER BY rowid LIMIT 1");
    let why = loopctl(&world, &["why", &event]);
    for part in ["deadlock of ", "two has to release its leases", "it has the lowest priority (9)", "two releases b"] {
        assert!(why.contains(part), "{part} is not in {why}");
    }
    let shown = loopctl(&world, &["deadlocks"]);
    // A victim whose agent is ended lets go of its request first: then no cycle is left before it has released.
    for part in ["no waits and no deadlocks\n", "resolved in the last 24 hours\n", "two and one: ", "one and two: "] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    drop((one, two));
    assert_eq!(world.open().check().unwrap(), []);
    stop(detector);
    stop(heartbeat);
}

#[test]
fn a_lease_kept_while_its_tests_wait_is_given_back_and_the_other_loop_goes_on() {
    let world = world(PLAIN, "test -e $TEST_ID");
    let detector = world.supervisor("deadlock-detector");
    loopctl(&world, &["loop", "add", "hand"]);
    loopctl(&world, &["loop", "add", "real"]);
    loopctl(&world, &["test", "add", "b1", "--loop", "real"]);
    loopctl(&world, &["test", "add", "h1", "--loop", "hand", "--depends-on", "b1"]);
    loopctl(&world, &["lock", "src", "--loop", "hand"]);
    let real = start(&world, "real");
    // b1 needs what hand keeps, and hand can begin nothing before b1.
    world.until("SELECT victim FROM deadlocks WHERE resolved_at IS NULL", "hand");
    let drawn = loopctl(&world, &["deadlocks"]);
    for part in [
        "hand can start no test before test h1 of hand",
        "test h1 of hand depends on test b1 of real",
        "test b1 of real is being worked on by real",
        "real waits for hand to release src",
        "victim hand: asked",
    ] {
        assert!(drawn.contains(part), "{part} is not in {drawn}");
    }
    // The person who drives it by hand obeys.
    loopctl(&world, &["unlock", "--all", "--loop", "hand"]);
    world.until("SELECT status FROM tests WHERE id = 'b1'", "passed");
    world.until("SELECT victim || ' ' || outcome FROM deadlocks", "hand released");
    assert_eq!(sql(&world, "SELECT id FROM pending_tests"), "h1");
    drop(real);
    stop(detector);
}

#[test]
fn tests_that_wait_for_each_other_are_asked_about_and_the_answer_is_applied_once() {
    let world = world(PLAIN, "test -e $TEST_ID");
    let detector = world.supervisor("deadlock-detector");
    for id in ["one", "two"] {
        loopctl(&world, &["loop", "add", id]);
    }
    // loopctl refuses such tests; other tools can write them.
    let file = world.folder().join("cycle.jsonl");
    let cycle = "{\"id\": \"t1\", \"loop_id\": \"one\", \"depends_on\": \"t2\"}\n{\"id\": \"t2\", \"loop_id\": \"two\", \"depends_on\": \"t1\"}\n";
    std::fs::write(&file, cycle.replace("loop_id", "loop")).unwrap();
    let refused = world.loopctl(&["test", "import", &file.to_string_lossy()]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("depends on itself"), "{refused:?}");
    sql(
        &world,
        "INSERT INTO tests(id, loop_id, depends_on) VALUES ('t1', 'one', 't2'), ('t2', 'two', 't1'), ('u1', 'one', 'u2'), ('u2', 'one', 'u1')",
    );
    world.until("SELECT fingerprint FROM decisions WHERE status = 'pending' ORDER BY 1", "ring:t1\nring:u1");
    let drawn = loopctl(&world, &["deadlocks"]);
    assert!(
        drawn.contains("test t1 of one depends on test t2 of two") && drawn.contains("a question is open which one goes first"),
        "{drawn}"
    );

    // The human answers while nobody applies it, and pm is killed as soon as it may have begun to.
    let id = sql(&world, "SELECT id FROM decisions WHERE fingerprint = 'ring:t1'");
    loopctl(&world, &["decide", &id, "drop:t2"]);
    drop(world.supervisor("pm-agent"));
    let pm = world.supervisor("pm-agent");
    let (one, two) = (start(&world, "one"), start(&world, "two"));
    world.until("SELECT count(*) FROM tests WHERE status = 'passed' AND id IN ('t1', 't2')", "2");
    let order = "SELECT group_concat(test) FROM (SELECT json_extract(payload, '$.test_id') AS test FROM events WHERE event_type = 'test_passed' ORDER BY rowid)";
    assert_eq!(sql(&world, order), "t2,t1");
    let resolved =
        "SELECT count(*) FROM events WHERE event_type = 'decision_resolved' AND json_extract(payload, '$.decision_id') = ";
    assert_eq!(sql(&world, &format!("{resolved}'{id}'")), "1");
    assert_eq!(
        sql(&world, "SELECT status || ' ' || choice || ' ' || decided_by FROM decisions WHERE fingerprint = 'ring:t1'"),
        "decided drop:t2 human"
    );
    let asked = sql(&world, &format!("SELECT event_id FROM decisions WHERE id = '{id}'"));
    let why = loopctl(&world, &["why", &asked]);
    for part in [
        "2 tests depend on each other in a cycle, so none of them can start: t1 of one depends on t2",
        "with drop:t2",
        "resolved: drop:t2 (answered by the human): test t2 no longer depends on test t1 and runs first",
    ] {
        assert!(why.contains(part), "{part} is not in {why}");
    }

    // Nobody answers the other one: its time is over, one test goes first, and nothing is left out.
    sql(
        &world,
        "UPDATE decisions SET expires_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 second') WHERE fingerprint = 'ring:u1'",
    );
    world.until("SELECT count(*) FROM tests WHERE status = 'passed'", "4");
    assert_eq!(
        sql(&world, "SELECT status || ' ' || choice FROM decisions WHERE fingerprint = 'ring:u1'"),
        "auto_resolved drop:u1"
    );

    drop((one, two));

    // A cycle that somebody else opens needs no answer any more.
    sql(&world, "INSERT INTO tests(id, loop_id, depends_on) VALUES ('v1', 'one', 'v2'), ('v2', 'one', 'v1')");
    world.until("SELECT status FROM decisions WHERE fingerprint = 'ring:v1'", "pending");
    sql(&world, "UPDATE tests SET depends_on = NULL WHERE id = 'v2'");
    world.until("SELECT status FROM decisions WHERE fingerprint = 'ring:v1'", "expired");
    stop(detector);
    stop(pm);
}
