//! `scripts/launch.sh`: what it starts on, and what it does not.

use std::io::Read;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::processes::{BOUND, World};
use system_tests::{binaries, project, wait_for};

const SETTINGS: &str = "[[gate.check]]\nname = \"true\"\ncommand = [\"true\"]\n";
const HEALTHY: &str = "SELECT component, pid FROM component_health WHERE status = 'healthy' ORDER BY component";

/// One that runs until it is told to stop.
struct Launched(Child);

impl Launched {
    fn new(world: &World, stderr: Stdio) -> Self {
        let mut command = world.command(project().join("scripts/launch.sh"));
        command.current_dir(world.repository()).env("CODING_LOOPS_BIN", binaries());
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal);
    }

    fn stop(&mut self) -> Option<i32> {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(Signal::SIGTERM);
        }
        self.0.wait().ok().and_then(|status| status.code())
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What one says that ends by itself, because nothing is started.
fn refused(world: &World) -> String {
    let mut launched = Launched::new(world, Stdio::piped());
    let status = wait_for("launch.sh to end by itself", BOUND, || launched.0.try_wait().unwrap());
    let mut words = String::new();
    launched.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(status.code(), Some(1), "{words}");
    words
}

#[test]
fn a_second_launch_names_what_runs_and_leaves_it_alone() {
    let world = World::new();
    // A warning of doctor's stops nothing.
    world.settings(&format!("{SETTINGS}[loop.nobody.agent]\ncommand = [\"true\"]\n"));
    let mut first = Launched::new(&world, Stdio::null());
    world.until("SELECT count(*) FROM component_health WHERE status = 'healthy'", "5");
    let running = world.sql(HEALTHY).unwrap();
    let heartbeat = running.lines().find_map(|line| line.strip_prefix("heartbeat|")).unwrap();

    let words = refused(&world);
    let expected = format!("not started: heartbeat is running already on this database as pid {heartbeat}");
    assert!(words.contains(&expected), "{words}");
    assert!(words.contains("[loop.nobody.agent] is for an unknown loop"), "{words}");
    assert_eq!(world.sql(HEALTHY).unwrap(), running);
    for pid in running.lines().filter_map(|line| line.split('|').nth(1)?.parse().ok()) {
        assert!(kill(Pid::from_raw(pid), None).is_ok(), "{pid} is gone");
    }

    // Where only one of the first's is there, the second gives back what it has started.
    let pid = heartbeat.parse().unwrap();
    first.signal(Signal::SIGSTOP);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let words = refused(&world);
    assert!(words.contains("heartbeat is ready"), "{words}");
    assert!(words.contains("not started: deadlock-detector is running already on this database as pid "), "{words}");
    let others =
        |rows: &str| rows.lines().filter(|line| !line.starts_with("heartbeat|")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(others(&world.sql(HEALTHY).unwrap()), others(&running));
    first.signal(Signal::SIGCONT);
    wait_for("the first to start its heartbeat again", BOUND, || {
        let rows = world.sql(HEALTHY)?;
        (rows.lines().count() == 5).then_some(())
    });
    assert_eq!(first.stop(), Some(143));
    world.until("SELECT count(*) FROM component_health WHERE status = 'healthy'", "0");
}

#[test]
fn where_work_cannot_start_nothing_is_started() {
    let world = World::new();
    world.settings(&format!("{SETTINGS}[agent]\ncommand = [\"sh\", \"-c\", \"no-such-agent <prompt\"]\n"));
    let words = refused(&world);
    assert!(words.contains("no-such-agent is not on the PATH, which [agent] needs"), "{words}");
    assert!(words.contains("work cannot start: 1 problem"), "{words}");
    assert_eq!(world.sql("SELECT count(*) FROM component_health").unwrap(), "0");
}
