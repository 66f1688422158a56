//! What a script starts in the background ignores Ctrl-C: `launch.sh` says so, and ends in order by SIGTERM.

use std::process::Command;

use system_tests::processes::World;
use system_tests::{binaries, project};
use test_support::{Process, Signal, wait_until};

#[test]
fn sigterm_stops_all_where_ctrl_c_is_ignored() {
    let world = World::new();
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' INT; exec \"$0\"", &project().join("scripts/launch.sh").display().to_string()]);
    command.current_dir(world.repository()).env("CODING_LOOPS_BIN", binaries()).env_remove("CODING_LOOPS_DB");
    let mut launched = Process::start_logged(&mut command, &world.folder().join("launch.log")).ending_by(Signal::SIGTERM);
    wait_until("the supervisors", || launched.log().matches("is ready").count() == 5);
    launched.signal(Signal::SIGINT);
    launched.signal(Signal::SIGTERM);
    assert_eq!(launched.wait().code(), Some(143), "{}", launched.log());
    let said = launched.log();
    assert!(said.contains("Ctrl-C is ignored here") && said.contains("all stopped"), "{said}");
    assert_eq!(world.sql("SELECT count(*) FROM component_health WHERE status <> 'unknown'").as_deref(), Some("0"));
}
