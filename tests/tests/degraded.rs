//! Losing a supervisor degrades, never stops: real processes, the supervisor killed, its loss told once, what the loops do
//! then, and its end when the supervisor is back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coord_db::payload::FileConflict;
use coord_db::{Database, Event, EventFilter, LoopId, LoopStatus, NewEvent, NewLoop, NewTest, OpenOptions, TestStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{binaries, wait_for};

const BOUND: Duration = Duration::from_secs(60);

/// Waits for the word to go, then makes the file that its test is named after.
const AGENT: &str =
    "touch \"$FOLDER/at-$LOOP_ID-$TEST_ID\"\nwhile [ ! -e \"$FOLDER/go-$LOOP_ID\" ]; do sleep 0.1; done\ntouch \"$TEST_ID\"\n";

struct Process(Child);

impl Process {
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn terminate(mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

struct World {
    folder: tempfile::TempDir,
    repository: PathBuf,
    db: Database,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository");
        let home = repository.join("coding-loops");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(repository.join(".gitignore"), "/coding-loops/\n").unwrap();
        for arguments in [
            &["init", "--quiet", "--initial-branch", "main"][..],
            &["config", "user.email", "a@example.org"],
            &["config", "user.name", "A"],
            &["add", "--all"],
            &["commit", "--quiet", "--message", "begin"],
        ] {
            assert!(Command::new("git").args(arguments).current_dir(&repository).status().unwrap().success());
        }
        std::fs::write(folder.path().join("agent.sh"), AGENT).unwrap();
        let config = format!(
            "[agent]\ncommand = [\"sh\", \"{}\"]\nkill_after_seconds = 1\nenvironment = [\"PATH\", \"FOLDER\"]\n\
             [[gate.check]]\nname = \"file\"\ncommand = [\"sh\", \"-c\", \"test -f $TEST_ID\"]\n\
             [heartbeat]\nbeat_seconds = 1\n",
            folder.path().join("agent.sh").display()
        );
        std::fs::write(home.join("config.toml"), config).unwrap();
        let db = Database::create(&home.join("coordination.db"), &OpenOptions::default()).unwrap();
        Self { folder, repository, db }
    }

    fn add_loop(&self, id: &str, priority: i64, tests: &[&str]) {
        let loop_id: LoopId = id.parse().unwrap();
        let new = NewLoop { id: loop_id.clone(), name: String::new(), priority, branch: None };
        self.db.write(|tx| tx.add_loop(&new)).unwrap();
        for test in tests {
            let test = NewTest {
                id: test.parse().unwrap(),
                loop_id: loop_id.clone(),
                category: String::new(),
                max_attempts: 2,
                depends_on: None,
                automatable: true,
                notes: None,
                spec_content: None,
                scope: Vec::new(),
                allow_no_change: false,
            };
            assert_eq!(self.db.write(|tx| tx.import_tests(&[test])).unwrap(), []);
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn start(&self, program: &str, arguments: &[&str]) -> Process {
        let log = std::fs::File::options().create(true).append(true).open(self.path().join(format!("{program}.log"))).unwrap();
        let child = Command::new(binaries().join(program))
            .args(arguments)
            .current_dir(&self.repository)
            .env_remove("CODING_LOOPS_DB")
            .env("FOLDER", self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let process = Process(child);
        let pid = i64::from(process.0.id());
        wait_for(program, BOUND, || {
            let rows = self.db.read(|tx| tx.components()).unwrap();
            rows.iter().any(|row| row.pid == Some(pid)).then_some(())
        });
        process
    }

    fn events(&self, event_type: &str) -> Vec<Event> {
        let filter = EventFilter { event_type: Some(event_type.to_owned()), ..Default::default() };
        self.db.read(|tx| tx.events(&filter)).unwrap()
    }

    fn lost(&self, component: &str) -> usize {
        self.events("component_degraded").iter().filter(|event| event.payload["component"] == component).count()
    }

    fn await_lost(&self, component: &str) {
        wait_for("the loss to be told", BOUND, || (self.lost(component) == 1).then_some(()));
        let alert = self.db.read(|tx| tx.open_alert(&format!("component:{component}"))).unwrap().expect("an alert");
        assert!(alert.message.contains("start it again"), "{}", alert.message);
    }

    fn await_found(&self, component: &str) {
        wait_for("the loss to be over", BOUND, || {
            let open = self.db.read(|tx| tx.open_alert(&format!("component:{component}"))).unwrap();
            open.is_none().then_some(())
        });
        assert_eq!(self.lost(component), 1);
    }

    fn status(&self, id: &str) -> LoopStatus {
        self.db.read(|tx| tx.loop_row(&id.parse().unwrap())).unwrap().status
    }

    fn await_status(&self, id: &str, status: LoopStatus) {
        wait_for(&format!("{id} to be {status}"), BOUND, || (self.status(id) == status).then_some(()));
    }

    fn await_passed(&self, test: &str) {
        wait_for(&format!("{test} to pass"), BOUND, || {
            (self.db.read(|tx| tx.test(&test.parse().unwrap())).unwrap().status == TestStatus::Passed).then_some(())
        });
    }

    fn await_file(&self, name: &str) {
        wait_for(name, BOUND, || self.path().join(name).exists().then_some(()));
    }

    fn say(&self, name: &str) {
        std::fs::write(self.path().join(name), "").unwrap();
    }

    fn log(&self, program: &str) -> String {
        std::fs::read_to_string(self.path().join(format!("{program}.log"))).unwrap_or_default()
    }

    /// What monitor would say, of two loops that are at work.
    fn conflict(&self) -> coord_db::EventId {
        let now = self.db.clock().now();
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
    assert!(reason.contains("pm is not there"), "{reason}");
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
    world.start("coding-loop", &["one", "--max-tests", "1"]).terminate_when_done(&world, "t1");
    assert!(!world.log("coding-loop").contains(rested), "{}", world.log("coding-loop"));
    monitor.kill();
    world.await_lost("monitor");
    world.start("coding-loop", &["one", "--max-tests", "1"]).terminate_when_done(&world, "t2");
    assert_eq!(world.log("coding-loop").matches(rested).count(), 1, "{}", world.log("coding-loop"));
    let monitor = world.start("monitor", &[]);
    world.await_found("monitor");
    world.start("coding-loop", &["one", "--max-tests", "1"]).terminate_when_done(&world, "t3");
    assert_eq!(world.log("coding-loop").matches(rested).count(), 1, "it rests no longer");
    monitor.terminate();
}

impl Process {
    fn terminate_when_done(mut self, world: &World, test: &str) {
        world.await_passed(test);
        wait_for("the loop to end", BOUND, || self.0.try_wait().unwrap());
    }
}
