//! A client in Python's standard library, beside the real programs: it registers a loop, works tests, and is in a deadlock
//! with a real `coding-loop` that the real `deadlock-detector` resolves, once as the victim and once as the survivor.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use system_tests::binaries;
use system_tests::processes::World;
use test_support::{BOUND, wait_for, wait_until};

/// The scripted loop, and what it says.
struct Python {
    child: Child,
    said: Receiver<String>,
}

impl Python {
    fn start(world: &World, arguments: [&str; 4]) -> Self {
        let mut command = world.python("loop.py");
        command.arg(world.path()).arg(world.repository()).args(arguments);
        let log = std::fs::File::create(world.folder().join("python.log")).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (say, said) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { child, said }
    }

    fn says(&self, world: &World, beginning: &str) -> String {
        let line = self.said.recv_timeout(BOUND).unwrap_or_else(|error| panic!("{beginning}: {error}\n{}", world.logs()));
        assert!(line.starts_with(beginning), "{line:?} instead of {beginning:?}\n{}", world.logs());
        line
    }

    fn go_on(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    fn ends(mut self, world: &World) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}", world.logs());
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The real loop's agent: leases `a`, tells so, and once the other holds `b` queues for it.
const AGENT: &str = r#"cat >/dev/null
set -e
lock() { "$LOOPCTL" --quiet lock "$1" --loop real --wait 60; }
lock a
touch "$FOLDER/real-holds-a"
while [ ! -e "$FOLDER/python-holds-b" ]; do sleep 0.05; done
lock b
echo "$TEST_ID by real" >> a
echo "$TEST_ID by real" >> b
"#;

fn deadlock(python_priority: &str, victim: &str) {
    let world = World::new();
    let agent = world.folder().join("agent.sh");
    std::fs::write(&agent, AGENT).unwrap();
    world.settings(&format!(
        "[agent]\ncommand = [\"sh\", \"{}\"]\nkill_after_seconds = 1\nenvironment = [\"PATH\", \"HOME\", \"LOOPCTL\", \"FOLDER\"]\n\
         [lease]\nautomatic = false\n[[gate.check]]\nname = \"named\"\ncommand = [\"sh\", \"-c\", \"grep -q $TEST_ID a && grep -q $TEST_ID b\"]\n",
        agent.display()
    ));
    let detector = world.supervisor("deadlock-detector");
    let heartbeat = world.supervisor("heartbeat");
    assert!(world.loopctl(&["loop", "add", "real", "--priority", "5"]).status.success());
    assert!(world.loopctl(&["test", "add", "r1", "--loop", "real"]).status.success());
    // Registered by its own hand; its tests come as anyone's do.
    let sql = format!("INSERT INTO loops (id, name, priority, status) VALUES ('python', '', {python_priority}, 'stopped')");
    assert!(world.sql(&sql).is_some());
    assert!(world.loopctl(&["test", "add", "p1", "--loop", "python"]).status.success());

    let mut python = Python::start(&world, ["python", python_priority, "b", "a"]);
    python.says(&world, "holds b");
    let mut real = world.program("coding-loop");
    let log = std::fs::File::create(world.folder().join("real.log")).unwrap();
    real.args(["real", "--once"])
        .current_dir(world.repository())
        .env("FOLDER", world.folder())
        .stdout(Stdio::null())
        .stderr(log);
    let mut real = real.env("LOOPCTL", binaries().join("loopctl")).stdin(Stdio::null()).spawn().unwrap();
    wait_until("the real loop to hold a", || world.folder().join("real-holds-a").exists());
    std::fs::write(world.folder().join("python-holds-b"), "").unwrap();
    world.until("SELECT waiter || ' ' || holder || ' ' || resource FROM wait_graph", "real python b");
    python.go_on();

    // The cycle closes here.
    // A victim whose agent is ended lets go of its request first: no cycle is left before it has released.
    world.until("SELECT victim, outcome IN ('released', 'dissolved') FROM deadlocks", &format!("{victim}|1"));
    if victim == "python" {
        python.says(&world, "gave up p1");
        python.says(&world, "holds b");
    }
    python.says(&world, "passed p1");
    python.ends(&world);
    let real_ended = wait_for("the real loop to end", || real.try_wait().unwrap());
    assert!(real_ended.success(), "{}", world.logs());

    let tests = "SELECT id, status, attempts, verified_at IS NOT NULL, (SELECT count(*) FROM proofs WHERE test_id = tests.id AND outcome = 'pass')
                 FROM tests ORDER BY id";
    assert_eq!(world.sql(tests).unwrap(), "p1|passed|1|1|1\nr1|passed|1|1|1");
    assert_eq!(world.sql("SELECT count(*) FROM events WHERE event_type = 'force_release'").unwrap(), "1");
    // Both loops' work has landed, one after the other.
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).current_dir(world.repository()).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let store = format!("{}-loops/store.git", world.repository().display());
    let heads = [&*store, "."].map(|at| git(&["-C", at, "rev-parse", "coding-loops/integration"]));
    assert_eq!(heads[0], heads[1], "what is in the store is published");
    for at in [&*store, "."] {
        git(&["-C", at, "fsck", "--strict", "--no-dangling"]);
    }
    let saved = git(&["-C", &store, "for-each-ref", "--format=%(refname)", "refs/coding-loops/saved"]);
    // If the real loop is the victim, its agent has changed nothing before.
    assert_eq!(saved.starts_with("refs/coding-loops/saved/python/p1/"), victim == "python", "{saved}");
    let landed = git(&["show", "coding-loops/integration:a"]);
    let mut landed: Vec<String> = landed.lines().map(ToOwned::to_owned).collect();
    landed.sort();
    assert_eq!(landed, ["p1 by python", "r1 by real"]);
    let db = world.open();
    assert_eq!(db.check().unwrap(), []);
    assert_eq!(world.sql("SELECT (SELECT count(*) FROM file_locks), (SELECT count(*) FROM wait_graph), (SELECT count(*) FROM lease_requests)").unwrap(), "0|0|0");
    // What the client said fits the catalog: nobody has set it aside.
    assert_eq!(world.sql("SELECT count(*) FROM deliveries WHERE status = 'set_aside'").unwrap(), "0");
    assert_eq!(detector.terminate().code(), Some(0));
    assert_eq!(heartbeat.terminate().code(), Some(0));
}

#[test]
fn a_client_in_python_is_the_victim_of_a_deadlock_obeys_and_finishes_later() {
    deadlock("9", "python");
}

#[test]
fn a_client_in_python_survives_a_deadlock_whose_victim_is_a_real_loop() {
    deadlock("1", "real");
}
