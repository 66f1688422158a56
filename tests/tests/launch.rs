//! `scripts/launch.sh`: what it starts on, and what it does not. `loopctl up` and `down`, which run and stop it.

use std::io::Read;
use std::process::Stdio;

use system_tests::processes::World;
use system_tests::{binaries, project};
use test_support::{Process, Signal, is_alive, signal, wait_until};

const SETTINGS: &str = "[[gate.check]]\nname = \"true\"\ncommand = [\"true\"]\n";
const HEALTHY: &str = "SELECT component, pid FROM component_health WHERE status = 'healthy' ORDER BY component";

/// One that runs until a signal stops it.
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
        assert!(is_alive(pid), "{pid} has ended");
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

/// `loopctl up` in the repository, with its words in a file.
fn up(world: &World, name: &str) -> Process {
    let mut command = world.command(binaries().join("loopctl"));
    command.arg("up").current_dir(world.repository()).stdin(Stdio::null());
    command.env_remove("CODING_LOOPS_BIN").env("XDG_CONFIG_HOME", world.folder().join("settings"));
    Process::start_logged(&mut command, &world.folder().join(name)).ending_by(Signal::SIGTERM)
}

/// The exit status of `loopctl down`, and what it says.
fn down(world: &World) -> (Option<i32>, String) {
    let output = world.loopctl(&["down"]);
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code(), said.trim().to_owned())
}

fn pids(world: &World) -> Vec<u32> {
    let rows = world.sql(HEALTHY).unwrap();
    rows.lines().filter_map(|line| line.split('|').nth(1)?.parse().ok()).collect()
}

/// A repository with a loop whose agent works for longer than any test.
fn busy() -> World {
    let world = World::new();
    world.settings(&format!("{SETTINGS}[agent]\ncommand = [\"sh\", \"-c\", \"cat >begun; exec sleep 600\"]\n"));
    for arguments in [&["loop", "add", "a"][..], &["test", "add", "t", "--loop", "a"]] {
        assert!(world.loopctl(arguments).status.success());
    }
    world
}

const STOPPED: &str = "stopped: a, pm, regression-checker, monitor, deadlock-detector, heartbeat";
const GIVEN_BACK: &str = "SELECT status || attempts FROM tests";

#[test]
fn down_stops_what_up_has_started_and_the_test_is_given_back() {
    let world = busy();
    assert_eq!(down(&world), (Some(0), "nothing runs".to_owned()));
    let mut launched = up(&world, "up.log");
    world.until("SELECT count(*) FROM component_health WHERE status = 'healthy'", "6");
    let begun = world.folder().join("repository-loops/loops/a/begun");
    wait_until("the agent", || begun.exists());
    let running = pids(&world);
    let refused = world.loopctl(&["deinit", "--yes"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("run loopctl down first"), "{refused:?}");
    assert_eq!(down(&world), (Some(0), STOPPED.to_owned()), "{}", launched.log());
    assert_eq!(launched.wait().code(), Some(143), "{}", launched.log());
    assert!(launched.log().contains("all stopped"), "{}", launched.log());
    assert!(running.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(world.sql(GIVEN_BACK).unwrap(), "pending0");
    assert_eq!(world.sql("SELECT count(*) FROM file_locks").unwrap(), "0");
}

#[test]
fn down_stops_what_has_lost_its_launcher_and_leaves_the_rest() {
    let world = busy();
    let launched = up(&world, "up.log");
    world.until("SELECT count(*) FROM component_health WHERE status = 'healthy'", "6");
    wait_until("the agent", || world.folder().join("repository-loops/loops/a/begun").exists());
    let running = pids(&world);
    launched.signal(Signal::SIGKILL);
    let settings = std::fs::read_to_string(world.home().join("config.toml")).unwrap();
    // Settings that cannot be read are no reason to let it run.
    std::fs::write(world.home().join("config.toml"), "[agent\n").unwrap();
    assert_eq!(down(&world), (Some(0), STOPPED.to_owned()));
    assert!(running.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(world.sql(GIVEN_BACK).unwrap(), "pending0");

    // What somebody else has started stays.
    std::fs::write(world.home().join("config.toml"), settings).unwrap();
    let monitor = world.supervisor("monitor");
    let expected = format!(
        "loopctl: loopctl up has started nothing here, but monitor runs as pid {}; stop it where it was started",
        monitor.pid()
    );
    assert_eq!(down(&world), (Some(1), expected));
    let mut launched = up(&world, "again.log");
    assert_eq!(launched.wait().code(), Some(1), "{}", launched.log());
    assert!(launched.log().contains("not started: monitor is running already"), "{}", launched.log());
    assert!(is_alive(monitor.pid()));
    monitor.terminate();
}

#[test]
fn up_works_on_the_database_and_the_settings_that_are_named() {
    let world = World::new();
    let config = world.folder().join("other.toml");
    let settings = |more: &str| {
        let text = format!("[repository]\npath = \"repository\"\n[heartbeat]\nbeat_seconds = 1\n{SETTINGS}{more}");
        std::fs::write(&config, text).unwrap();
    };
    settings("[agent]\ncommand = [\"no-such-agent\"]\n");
    let mut command = world.command(binaries().join("loopctl"));
    command.current_dir(world.folder()).args([
        "--db",
        "repository/coding-loops/coordination.db",
        "--config",
        "other.toml",
        "up",
    ]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && words.contains("no-such-agent is not on the PATH"), "{words}");
    settings("");
    let log = world.folder().join("up.log");
    let mut launched = Process::start_logged(&mut command, &log).ending_by(Signal::SIGTERM);
    world.until("SELECT count(*) FROM component_health WHERE status = 'healthy'", "5");
    let heartbeat = world.sql("SELECT pid FROM component_health WHERE component = 'heartbeat'").unwrap();
    let line = std::fs::read_to_string(format!("/proc/{heartbeat}/cmdline")).unwrap();
    assert!(line.contains("--config\0") && line.contains("/other.toml"), "{line:?}");
    assert_eq!(down(&world).0, Some(0));
    assert_eq!(launched.wait().code(), Some(143), "{}", launched.log());
}
