//! What a script starts in the background ignores Ctrl-C: `launch.sh` says so, and ends in order by SIGTERM.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::processes::World;
use system_tests::{binaries, project, wait_for};

const BOUND: Duration = Duration::from_secs(90);

#[test]
fn sigterm_stops_all_where_ctrl_c_is_ignored() {
    let world = World::new();
    let log = world.folder().join("launch.log");
    let file = std::fs::File::create(&log).unwrap();
    let mut launched = Command::new("bash")
        .args(["-c", "trap '' INT; exec \"$0\"", &project().join("scripts/launch.sh").display().to_string()])
        .current_dir(world.repository())
        .env("CODING_LOOPS_BIN", binaries())
        .env_remove("CODING_LOOPS_DB")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .unwrap();
    let send = |signal| kill(Pid::from_raw(i32::try_from(launched.id()).unwrap()), signal).unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    let ready = || said().matches("is ready").count() == 5;
    // A failure leaves no process behind either.
    let came_up = std::panic::catch_unwind(|| wait_for("the supervisors", BOUND, || ready().then_some(())));
    send(Signal::SIGINT);
    send(Signal::SIGTERM);
    let ended = wait_for("launch.sh to end", BOUND, || launched.try_wait().unwrap());
    assert!(came_up.is_ok(), "{}", said());
    assert_eq!(ended.code(), Some(143), "{}", said());
    assert!(said().contains("Ctrl-C is ignored here") && said().contains("all stopped"), "{}", said());
    assert_eq!(world.sql("SELECT count(*) FROM component_health WHERE status <> 'unknown'").as_deref(), Some("0"));
}
