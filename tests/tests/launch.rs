//! `scripts/launch.sh`: what it starts on, and what it does not.

use std::io::Read;
use std::process::Stdio;

use system_tests::processes::World;
use system_tests::{binaries, project};
use test_support::{Process, Signal, is_alive, signal, wait_until};

const SETTINGS: &str = "[[gate.check]]\nname = \"true\"\ncommand = [\"true\"]\n";
const HEALTHY: &str = "SELECT component, pid FROM component_health WHERE status = 'healthy' ORDER BY component";

/// One that runs until it is told to stop.
fn launch(world: &World, stderr: Stdio) -> Process {
    let mut command = world.command(project().join("scripts/launch.sh"));
    command.current_dir(world.repository()).env("CODING_LOOPS_BIN", binaries());
    Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr)).ending_by(Signal::SIGTERM)
}

/// What one says that ends by itself, because nothing is started.
fn refused(world: &World) -> String {
    let mut launched = launch(world, Stdio::piped());
    let status = launched.wait();
    let mut words = String::new();
    launched.child().stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(status.code(), Some(1), "{words}");
    words
}

#[test]
fn a_second_launch_names_what_runs_and_leaves_it_alone() {
    let world = World::new();
    // A warning of doctor's stops nothing.
    world.settings(&format!("{SETTINGS}[loop.nobody.agent]\ncommand = [\"true\"]\n"));
    let first = launch(&world, Stdio::null());
    world.until("SELECT count(*) FROM component_health WHERE status = 'healthy'", "5");
    let running = world.sql(HEALTHY).unwrap();
    let heartbeat = running.lines().find_map(|line| line.strip_prefix("heartbeat|")).unwrap();

    let words = refused(&world);
    let expected = format!("not started: heartbeat is running already on this database as pid {heartbeat}");
    assert!(words.contains(&expected), "{words}");
    assert!(words.contains("[loop.nobody.agent] is for an unknown loop"), "{words}");
    assert_eq!(world.sql(HEALTHY).unwrap(), running);
    for pid in running.lines().filter_map(|line| line.split('|').nth(1)?.parse().ok()) {
        assert!(is_alive(pid), "{pid} is gone");
    }

    // Where only one of the first's is there, the second gives back what it has started.
    let pid = heartbeat.parse().unwrap();
    first.signal(Signal::SIGSTOP);
    signal(pid, Signal::SIGKILL);
    let words = refused(&world);
    assert!(words.contains("heartbeat is ready"), "{words}");
    assert!(words.contains("not started: deadlock-detector is running already on this database as pid "), "{words}");
    let others =
        |rows: &str| rows.lines().filter(|line| !line.starts_with("heartbeat|")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(others(&world.sql(HEALTHY).unwrap()), others(&running));
    first.signal(Signal::SIGCONT);
    wait_until("the first to start its heartbeat again", || world.sql(HEALTHY).is_some_and(|rows| rows.lines().count() == 5));
    assert_eq!(first.terminate().code(), Some(143));
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
