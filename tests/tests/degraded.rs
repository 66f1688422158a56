//! Losing a supervisor degrades, never stops: real processes, the supervisor killed, its loss told once, what the loops do
//! then, and its end when the supervisor is back.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

use coord_db::payload::FileConflict;
use coord_db::{LoopStatus, NewEvent, NewLoop};
use system_tests::binaries;
use test_support::{Process, Signal, make_repository, new_loop, new_test, wait_until};

/// Waits for the word to go, then makes the file that its test is named after.
const AGENT: &str =
    "touch \"$FOLDER/at-$LOOP_ID-$TEST_ID\"\nwhile [ ! -e \"$FOLDER/go-$LOOP_ID\" ]; do sleep 0.1; done\ntouch \"$TEST_ID\"\n";

struct World {
    base: test_support::World,
    repository: PathBuf,
}

impl Deref for World {
    type Target = test_support::World;

    fn deref(&self) -> &Self::Target {
        &self.base
    }
}

impl World {
    fn new() -> Self {
        let base = test_support::World::below("repository/coding-loops");
        let repository = base.folder().join("repository");
        make_repository(&repository, &[(".gitignore", "/coding-loops/\n")]);
        std::fs::write(base.folder().join("agent.sh"), AGENT).unwrap();
        base.configure(&format!(
            "[agent]\ncommand = [\"sh\", \"{}\"]\nkill_after_seconds = 1\nenvironment = [\"PATH\", \"FOLDER\"]\n\
             [[gate.check]]\nname = \"file\"\ncommand = [\"sh\", \"-c\", \"test -f $TEST_ID\"]\n\
             [heartbeat]\nbeat_seconds = 1\n",
            base.folder().join("agent.sh").display()
        ));
        Self { base, repository }
    }

    fn add_loop(&self, id: &str, priority: i64, tests: &[&str]) {
        self.db.write(|tx| tx.add_loop(&NewLoop { priority, ..new_loop(id) })).unwrap();
        let tests: Vec<_> = tests.iter().map(|test| new_test(test, id)).collect();
        assert_eq!(self.db.write(|tx| tx.import_tests(&tests)).unwrap(), []);
    }

    fn start(&self, program: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(binaries().join(program));
        command.args(arguments).current_dir(&self.repository).env_remove("CODING_LOOPS_DB").env("FOLDER", self.folder());
        let log = self.folder().join(format!("{program}.log"));
        let process = Process::start_logged(&mut command, &log).ending_by(Signal::SIGTERM);
        self.until(&format!("SELECT count(*) FROM component_health WHERE pid = {}", process.pid()), "1");
        process
    }

    fn lost(&self, component: &str) -> usize {
        self.events("component_degraded").iter().filter(|event| event.payload["component"] == component).count()
    }

    fn await_lost(&self, component: &str) {
        wait_until("the loss to be told", || self.lost(component) == 1);
        let alert = self.db.read(|tx| tx.open_alert(&format!("component:{component}"))).unwrap().expect("an alert");
        assert!(alert.message.contains("; start it with "), "{}", alert.message);
    }

    fn await_found(&self, component: &str) {
        let open = || self.db.read(|tx| tx.open_alert(&format!("component:{component}"))).unwrap();
        wait_until("the loss to be over", || open().is_none());
        assert_eq!(self.lost(component), 1);
    }

    fn status(&self, id: &str) -> LoopStatus {
        self.db.read(|tx| tx.loop_row(&id.parse().unwrap())).unwrap().status
    }

    fn await_status(&self, id: &str, status: LoopStatus) {
        wait_until(&format!("{id} to be {status}"), || self.status(id) == status);
    }

    fn await_passed(&self, test: &str) {
        self.until(&format!("SELECT status FROM tests WHERE id = '{test}'"), "passed");
    }

    fn await_file(&self, name: &str) {
        wait_until(name, || self.folder().join(name).exists());
    }

    fn say(&self, name: &str) {
        std::fs::write(self.folder().join(name), "").unwrap();
    }

    fn log(&self, program: &str) -> String {
        std::fs::read_to_string(self.folder().join(format!("{program}.log"))).unwrap_or_default()
    }

    /// What monitor would say, of two loops that are at work.
    fn conflict(&self) -> coord_db::EventId {
        let now = self.db.now();
        let said = FileConflict {
            file_path: "shared.rs".to_owned(),
            loop_a: "one".parse().unwrap(),
            loop_b: "two".parse().unwrap(),
            time_a: now,
            time_b: now,
        };
        self.db.write(|tx| tx.publish(&NewEvent::new("monitor".parse().unwrap(), said))).unwrap()
    }
}

#[test]
fn without_pm_the_lesser_loop_pauses_itself_until_pm_is_back() {
    let world = World::new();
    world.add_loop("one", 1, &["t1"]);
    world.add_loop("two", 5, &["t2"]);
    let _heartbeat = world.start("heartbeat", &[]);
    let pm = world.start("pm-agent", &[]);
    let _one = world.start("coding-loop", &["one"]);
    let _two = world.start("coding-loop", &["two"]);
    world.await_file("at-one-t1");
    world.await_file("at-two-t2");
    pm.kill();
    world.await_lost("pm");
    let event = world.conflict();
    world.await_status("two", LoopStatus::Paused);
    let paused = world.events("loop_paused").pop().unwrap();
    assert_eq!(paused.caused_by.as_ref(), Some(&event), "the pause names what led to it");
    let reason = paused.payload["reason"].as_str().unwrap();
    assert!(reason.contains("one and two have both changed shared.rs") || reason.contains("shared.rs"), "{reason}");
    assert!(reason.contains("pm is not running"), "{reason}");
    assert_eq!(world.status("one"), LoopStatus::Running, "the other goes on");

    let _pm = world.start("pm-agent", &[]);
    world.await_status("two", LoopStatus::Running);
    world.await_found("pm");
    let resumed = world.events("loop_resumed").pop().unwrap();
    assert_eq!(resumed.caused_by.as_ref(), Some(&event));
    world.say("go-one");
    world.say("go-two");
    world.await_passed("t1");
    world.await_passed("t2");
    assert_eq!(world.events("loop_paused").len(), 1, "nobody paused a second time");
}

#[test]
fn without_pm_a_paused_loop_goes_on_when_the_other_has_ended() {
    let world = World::new();
    world.add_loop("one", 1, &["t1"]);
    world.add_loop("two", 5, &["t2"]);
    let _one = world.start("coding-loop", &["one"]);
    let _two = world.start("coding-loop", &["two"]);
    world.await_file("at-one-t1");
    world.await_file("at-two-t2");
    world.conflict();
    world.await_status("two", LoopStatus::Paused);
    world.say("go-one");
    world.await_passed("t1");
    world.await_status("two", LoopStatus::Running);
    world.say("go-two");
    world.await_passed("t2");
    assert_eq!(world.events("loop_paused").len(), 1);
}

#[test]
fn without_monitor_loops_rest_between_tests_until_it_is_back() {
    let world = World::new();
    world.add_loop("one", 1, &["t1", "t2", "t3"]);
    world.say("go-one");
    let _heartbeat = world.start("heartbeat", &[]);
    let monitor = world.start("monitor", &[]);
    let rested = "because monitor is not running";
    ends_when_passed(world.start("coding-loop", &["one", "--max-tests", "1"]), &world, "t1");
    assert!(!world.log("coding-loop").contains(rested), "{}", world.log("coding-loop"));
    monitor.kill();
    world.await_lost("monitor");
    ends_when_passed(world.start("coding-loop", &["one", "--max-tests", "1"]), &world, "t2");
    assert_eq!(world.log("coding-loop").matches(rested).count(), 1, "{}", world.log("coding-loop"));
    let monitor = world.start("monitor", &[]);
    world.await_found("monitor");
    ends_when_passed(world.start("coding-loop", &["one", "--max-tests", "1"]), &world, "t3");
    assert_eq!(world.log("coding-loop").matches(rested).count(), 1, "it rests no longer");
    monitor.terminate();
}

fn ends_when_passed(mut running: Process, world: &World, test: &str) {
    world.await_passed(test);
    running.wait();
}
