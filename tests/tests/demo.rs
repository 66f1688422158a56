//! The demo as a user starts it, once undisturbed and once with every process killed in turn: the outcome is the same.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord_db::{Database, OpenOptions};
use system_tests::installation::Installation;
use system_tests::{binaries, project, query};
use test_support::wait_for_within;

/// Runs the demo in a folder and gives its report and whether it succeeded. `meanwhile` runs beside it with the database's path,
/// and learns when the demo has ended.
fn demo(demo: &Path, mut launch: Command, meanwhile: impl FnOnce(&Path, &AtomicBool) + Send) -> (bool, String) {
    let database = demo.join("repository/coding-loops/coordination.db");
    let child = launch
        .arg("--demo")
        .env("CODING_LOOPS_DEMO_SECONDS", "400")
        .env_remove("CODING_LOOPS_DB")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| meanwhile(&database, &ended));
        let output = child.wait_with_output().unwrap();
        ended.store(true, Ordering::SeqCst);
        let text = format!("{}\n{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        (output.status.success(), text)
    })
}

/// Every process that names the folder on its command line or works in it.
fn processes_of(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if !name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let inside = std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if inside || command.contains(&*folder.to_string_lossy()) {
            found.push(format!("{} {command}", name.to_string_lossy()));
        }
    }
    found
}

fn assert_nothing_is_left(folder: &Path) {
    wait_for_within(Duration::from_secs(10), "all processes to end", || processes_of(folder).is_empty().then_some(()));
}

#[test]
fn the_demo_shows_and_resolves_every_incident() {
    // As it is installed.
    let installation = Installation::new();
    installation.installs(&[]);
    let home = installation.home();
    let launch = installation.command(home.join(".local/bin/coding-loops-launch"));
    let (success, report) = demo(&home.join("coding-loops-demo"), launch, |_, _| {});
    assert!(success, "{report}");
    assert!(!report.contains("MISSING"), "{report}");
    assert_nothing_is_left(&home);
}

/// The processes that the demo runs, as the database names them.
const PROCESSES: [&str; 8] =
    ["heartbeat", "deadlock-detector", "monitor", "regression-checker", "pm", "core", "store", "report"];

/// True while a process runs directly under another one.
fn has_child(parent: i32) -> bool {
    let stats = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let text = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = text.rsplit_once(") ")?.1.split(' ').map(str::to_owned);
        Some((fields.next()?, fields.next()?.parse::<i32>().ok()?))
    });
    stats.into_iter().any(|(state, of)| of == parent && state != "Z")
}

/// A loop dies in the same moment as the agent that the demo kills under it: it can tell nobody how the agent ended.
fn kill_with_its_agent(database: &Path, loop_id: &str, test: &str, ended: &AtomicBool) {
    let send = |pid, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    // In this process, to be there before the demo's director, who looks every 200 ms.
    let mut db = None;
    let found = wait_for_within(Duration::from_secs(200), "the agent to be at work", || {
        if ended.load(Ordering::SeqCst) {
            return Some(None);
        }
        db = db.take().or_else(|| Database::open(database, &OpenOptions::default()).ok());
        let rows = db.as_ref()?.read(|tx| Ok::<_, coord_db::Error>((tx.find_loop(loop_id)?, tx.component(loop_id)?))).ok()?;
        let (row, component) = (rows.0?, rows.1?);
        let pid = |pid: Option<i64>| pid.and_then(|pid| i32::try_from(pid).ok());
        let at_work = row.current_test_id.is_some_and(|at| at.as_str() == test);
        let (of_loop, keeper) = (pid(row.pid)?, pid(component.child_pid)?);
        (at_work && has_child(keeper)).then_some(Some((of_loop, keeper)))
    });
    let Some((of_loop, keeper)): Option<(i32, i32)> = found else { return };
    let _ = send(of_loop, nix::sys::signal::Signal::SIGSTOP);
    wait_for_within(Duration::from_secs(60), "the agent to be killed", || (!has_child(keeper)).then_some(()));
    let _ = send(of_loop, nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn killing_every_process_in_turn_leaves_the_outcome_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut order = PROCESSES;
    random.shuffle(&mut order);
    let mut killed = Vec::new();
    let place = folder.path().join("demo");
    let mut launch = Command::new(project().join("scripts/launch.sh"));
    launch.env("CODING_LOOPS_BIN", binaries()).env("CODING_LOOPS_DEMO", &place);
    let (success, report) = demo(&place, launch, |database, ended| {
        kill_with_its_agent(database, "core", "core-2-show", ended);
        wait_for_within(Duration::from_secs(200), "the first test to pass", || {
            let passed = query(database, "SELECT count(*) FROM tests WHERE status = 'passed'").filter(|rows| rows != "0\n");
            passed.map(drop).or_else(|| ended.load(Ordering::SeqCst).then_some(()))
        });
        for name in order {
            // A random moment: after a few further events.
            let events = |database: &Path| {
                query(database, "SELECT count(*) FROM events").and_then(|rows| rows.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            let moment = events(database) + random.u64(1..6);
            let pid = wait_for_within(Duration::from_secs(400), "the moment to kill", || {
                if ended.load(Ordering::SeqCst) {
                    return Some(None);
                }
                let row = query(
                    database,
                    &format!("SELECT pid FROM component_health WHERE component = '{name}' AND status = 'healthy'"),
                )?;
                let pid = row.trim().parse::<i32>().ok()?;
                (events(database) >= moment).then_some(Some(pid))
            });
            if let Some(pid) = pid {
                killed.push(name);
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    });
    assert!(success, "seed {seed}, order {order:?}\n{report}");
    assert_eq!(killed, order, "seed {seed}");
    assert_nothing_is_left(folder.path());
}
