//! Three machines with many loops, and clocks an hour apart, land a project over lines that break, a server that is killed, a writer
//! that stands still, and a push that arrives late.
//!
//! `FLEET_LOOPS=…` sets the number of loops of each machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use coord_db::{Database, Error, OpenOptions};
use system_tests::docs::blocks;
use system_tests::machines::{Fleet, PATIENCE};
use system_tests::{project, supervisors};
use test_support::{Line, run, wait_for_within};

const SETTINGS: &str = r#"
[agent]
command = ["sh", "-c", "cat > /dev/null; sleep 0.5; echo \"NAME = '$TEST_ID'\" > ledger/feature_$(echo $TEST_ID | tr - _).py"]
timeout_seconds = 60
kill_after_seconds = 2

[[gate.check]]
name = "build"
command = ["python3", "build.py"]

[heartbeat]
beat_seconds = 2
degraded_seconds = 10
dead_seconds = 20

[regression]
interval_seconds = 10
"#;

const MACHINES: [&str; 3] = ["anvil", "bellows", "crucible"];
/// The loops of each machine in a test run. Twelve loops and fifteen supervisors keep two processors from everything else.
const LOOPS_EACH: usize = 2;

fn files(folder: &Path, below: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, below, found);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let name = path.strip_prefix(below).unwrap().to_str().unwrap();
            let name = if name == "gitignore" { ".gitignore" } else { name };
            found.push((name.to_owned(), text));
        }
    }
}

/// The files of the demo's project.
fn project_files() -> Vec<(String, String)> {
    let demo = project().join("scripts/demo/project");
    let mut all = Vec::new();
    files(&demo, &demo, &mut all);
    all
}

fn loops_each() -> usize {
    let Ok(text) = std::env::var("FLEET_LOOPS") else { return LOOPS_EACH };
    text.parse().ok().filter(|number| *number >= 2).unwrap_or_else(|| panic!("FLEET_LOOPS is {text:?}; expected 2 or more"))
}

fn loops_of(machine: usize) -> Vec<String> {
    (1..=loops_each()).map(|n| format!("{}-{n}", MACHINES[machine])).collect()
}

struct Night {
    fleet: Fleet,
    rounds: usize,
    /// The highest fencing token that was seen.
    token: i64,
}

impl Night {
    fn new() -> Option<Self> {
        let all = project_files();
        let all: Vec<(&str, &str)> = all.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let mut fleet = Fleet::new(&MACHINES, &all, SETTINGS)?;
        for (machine, ahead) in fleet.machines.iter_mut().zip([0, 3600, -3600]) {
            machine.set_clock_ahead(ahead);
        }
        for machine in &fleet.machines {
            let _ = machine.loopctl(&["init", "--database", &fleet.address(machine), "--remote", "origin"]);
        }
        for machine in 0..MACHINES.len() {
            for id in loops_of(machine) {
                let _ = fleet.machines[machine].loopctl(&["loop", "add", &id]);
            }
        }
        for machine in &mut fleet.machines {
            for program in supervisors() {
                machine.start(program, &[]);
            }
        }
        for machine in 0..MACHINES.len() {
            for id in loops_of(machine) {
                fleet.machines[machine].start("coding-loop", &[&id]);
            }
        }
        Some(Self { fleet, rounds: 0, token: 0 })
    }

    /// Gives every loop another test.
    fn add_tests(&mut self) {
        self.rounds += 1;
        for machine in 0..MACHINES.len() {
            for id in loops_of(machine) {
                let test = format!("{id}-t{}", self.rounds);
                let _ = self.fleet.machines[0].loopctl(&["test", "add", &test, "--loop", &id]);
            }
        }
    }

    fn passed(&self, of: &str) -> usize {
        let sql = format!("SELECT count(*) FROM tests WHERE status = 'passed' AND id LIKE '{of}'");
        self.fleet.server.try_sql("fleet", &sql).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn until_passed(&self, what: &str, of: &str, number: usize) {
        wait_for_within(PATIENCE, what, || {
            let passed = self.passed(of);
            (passed >= number).then_some(()).or_else(|| {
                assert!(passed <= number, "{passed} of {number}");
                None
            })
        });
    }

    /// What has to be true at any moment.
    fn check_laws(&mut self, after: &str) {
        let token: i64 = self.fleet.sql("SELECT value FROM counters WHERE name = 'fencing_token'").parse().unwrap();
        assert!(token >= self.token, "{after}: tokens go back from {} to {token}", self.token);
        self.token = token;
        let passed = self.fleet.sql("SELECT id, commit_hash FROM tests WHERE status = 'passed'");
        for (test, commit) in passed.lines().filter_map(|line| line.split_once('|')) {
            assert!(self.fleet.has_landed(commit), "{after}: {test} has passed, and {commit} is not on integration");
        }
        let mut landed: BTreeMap<String, usize> = BTreeMap::new();
        for test in self.fleet.landed_tests() {
            *landed.entry(test).or_default() += 1;
        }
        let twice: Vec<_> = landed.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{after}: landed more than once: {twice:?}");
        let held =
            "SELECT count(*) FROM (SELECT 1 FROM file_locks GROUP BY fencing_token HAVING count(DISTINCT locked_by) > 1) AS t";
        assert_eq!(self.fleet.sql(held), "0", "{after}: a token of two holders");
    }

    /// An outage of the database costs no attempt.
    fn check_none_done_again(&self, of: &str) {
        let again = format!(
            "SELECT id, attempts, give_backs, last_error FROM tests WHERE id LIKE '{of}' AND (attempts > 1 OR give_backs > 0)"
        );
        assert_eq!(self.fleet.sql(&again), "");
    }

    /// The components of which somebody has said that their process has ended.
    fn said_to_have_ended(&self) -> BTreeSet<String> {
        let said = "SELECT payload::jsonb ->> 'component' FROM events WHERE event_type = 'component_degraded'
                    AND payload LIKE '%its process has ended%'";
        self.fleet.sql(said).lines().map(str::to_owned).collect()
    }
}

impl Drop for Night {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for query in [
                "SELECT component, status, last_heartbeat, host FROM component_health ORDER BY 1",
                "SELECT id, status, attempts, notes FROM tests WHERE status <> 'passed'",
                "SELECT id, test_id, state, queued_at FROM landings WHERE state IN ('queued', 'judging')",
                "SELECT file_path, locked_by, locked_at, expires_at FROM file_locks",
                "SELECT loop_id, paths, waiting_since FROM lease_requests",
                "SELECT component, operation, started_at, steps FROM transaction_log WHERE status = 'in_progress'",
                "SELECT severity, message FROM alerts WHERE closed_at IS NULL",
            ] {
                eprintln!("{}\n", self.fleet.server.try_sql("fleet", query).unwrap_or_else(|error| error));
            }
            let mut all = Command::new("ps");
            all.args(["-eo", "pid,ppid,stat,etimes,wchan:24,args", "--forest"]);
            eprintln!(
                "{}",
                run(&mut all).lines().map(|line| line.chars().take(200).collect()).collect::<Vec<String>>().join("\n")
            );
            for machine in &self.fleet.machines {
                eprintln!("{}", machine.logs());
            }
        }
    }
}

#[test]
fn three_machines_land_a_project_through_every_fault() {
    let Some(mut night) = Night::new() else { return };
    let each = loops_each();
    let all = each * MACHINES.len();

    // Undisturbed. Everyone sees everything.
    night.add_tests();
    night.until_passed("all loops to land", "%-t1", all);
    night.check_laws("undisturbed");
    for machine in &night.fleet.machines {
        let status = machine.rows(&["status"]);
        let hosts: Vec<&str> = status["hosts"].as_array().unwrap().iter().map(|host| host["name"].as_str().unwrap()).collect();
        assert_eq!(hosts, MACHINES, "on {}", machine.name);
        assert_eq!(status["loops"].as_array().unwrap().len(), all);
        let doctor = machine.command("loopctl").arg("doctor").output().unwrap();
        let warns = String::from_utf8_lossy(&doctor.stdout).contains("the clock of this host");
        assert_eq!(warns, machine.name != "anvil", "{} {}", machine.name, String::from_utf8_lossy(&doctor.stdout));
    }
    // Whatever the clocks of their machines say.
    let misjudged = "SELECT message FROM alerts WHERE alert_type IN ('stuck', 'digression', 'conflict')";
    assert_eq!(night.fleet.sql(misjudged), "");
    assert_eq!(night.fleet.sql("SELECT count(*) FROM component_health WHERE component LIKE 'heartbeat.%'"), "3");

    // A short outage of the line to the server: what was sent arrives late, a commit too.
    night.add_tests();
    night.fleet.machines[1].set_line_to_server(Line::Held);
    night.until_passed("the other machines to go on", "anvil-%-t2", each);
    night.check_laws("while a line holds back");
    night.fleet.machines[1].set_line_to_server(Line::Open);
    night.until_passed("all loops to land", "%-t2", all);
    night.check_laws("after a line held back");

    // The remote is away for one machine, between intent and push as likely as not.
    night.add_tests();
    night.fleet.machines[0].cut_line_to_remote(true);
    night.until_passed("the other machines to go on", "crucible-%-t3", each);
    night.check_laws("while the remote is away");
    night.fleet.machines[0].cut_line_to_remote(false);
    night.until_passed("all loops to land", "%-t3", all);
    night.check_laws("after the remote was away");

    // The server is killed, and comes back.
    night.add_tests();
    night.until_passed("some loops to land", "%-t4", 3);
    night.fleet.server.crash();
    night.check_laws("after the server was killed");
    night.until_passed("all loops to land", "%-t4", all);
    night.check_laws("after the server came back");
    night.check_none_done_again("%-t4");

    // A writer stands still with the lock, until the server takes it away.
    night.add_tests();
    night.until_passed("some loops to land", "%-t5", 2);
    let address = night.fleet.server.url("fleet");
    let (has_lock, lock) = std::sync::mpsc::channel();
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    let stalled = std::thread::spawn(move || {
        let options = OpenOptions { busy_deadline: PATIENCE, ..OpenOptions::default() };
        let db = Database::open(Path::new(&address), &options).unwrap();
        let backend = db.query_foreign("SELECT pg_backend_pid()").unwrap().remove(0).remove(0).unwrap();
        db.write(|_| {
            has_lock.send(backend).unwrap();
            let _ = waits.recv();
            Ok::<_, Error>(())
        })
    });
    let backend = lock.recv().unwrap();
    let is_there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {backend}");
    night.fleet.until("the writer's connection to be ended", &is_there, "0");
    night.until_passed("all loops to land", "%-t5", all);
    drop(go_on);
    assert!(stalled.join().unwrap().is_err(), "its transaction was ended");
    night.check_laws("after a writer stood still");
    night.check_none_done_again("%-t5");
    let halts = "SELECT message FROM alerts WHERE fingerprint LIKE 'train_halted:%' AND message LIKE '%database%'";
    assert_eq!(night.fleet.sql(halts), "", "a database that is away for a moment halts no train");

    // A machine is cut off while it lands, for so long that it is declared lost; nobody says that its processes have ended. What it did
    // meanwhile does not land beside what others do, and neither does the push that it had begun.
    let ended = night.said_to_have_ended();
    night.fleet.hold_back_a_push();
    night.add_tests();
    let lost = night.fleet.held_push();
    let (name, others) = (MACHINES[lost], [1, 2].map(|next| (lost + next) % MACHINES.len()));
    night.fleet.machines[lost].cut_off(true);
    let given_up = format!("SELECT count(*) FROM loops WHERE id LIKE '{name}-%' AND status = 'error'");
    night.fleet.until("the loops of the lost machine to be given up", &given_up, &each.to_string());
    for other in others {
        night.until_passed("the other machines to go on", &format!("{}-%-t6", MACHINES[other]), each);
    }
    assert_eq!(night.said_to_have_ended(), ended, "of a machine that is cut off nobody knows that");
    night.check_laws("while a machine is lost");
    night.fleet.let_the_push_arrive();
    night.check_laws("after a late push");
    // One of its loops is started elsewhere.
    let (moved, elsewhere) = (format!("{name}-1"), MACHINES[others[0]]);
    night.fleet.machines[others[0]].start("coding-loop", &[&moved]);
    let host = format!("SELECT split_part(host, '/', 1) FROM component_health WHERE component = '{moved}'");
    night.fleet.until("the loop to run elsewhere", &host, elsewhere);
    let last = format!("{moved}-moved");
    let _ = night.fleet.machines[others[0]].loopctl(&["test", "add", &last, "--loop", &moved]);
    night.until_passed("it to land there", &last, 1);
    night.fleet.machines[lost].cut_off(false);
    for id in &loops_of(lost)[1..] {
        night.fleet.machines[lost].start("coding-loop", &[id]);
    }
    night.until_passed("all loops to land", "%-t6", all);
    let ended = format!("{moved} runs as pid");
    wait_for_within(PATIENCE, "its former process to end", || night.fleet.machines[lost].logs().contains(&ended).then_some(()));
    night.check_laws("after a machine came back");
    assert_eq!(night.fleet.sql(&host), elsewhere);
}

#[test]
fn what_the_readme_says_of_several_machines_is_so() {
    let all = project_files();
    let all: Vec<(&str, &str)> = all.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let Some(mut fleet) = Fleet::new(&["anvil", "bellows"], &all, SETTINGS) else { return };
    let typed: Vec<_> = blocks("README.md").into_iter().filter(|block| block.heading == "Several machines").collect();
    assert_eq!(typed.len(), 2, "a block for each machine");
    for (number, block) in typed.iter().enumerate() {
        let address = fleet.address(&fleet.machines[number]);
        let machine = &mut fleet.machines[number];
        for line in block.text.lines() {
            match line.strip_prefix("loopctl up ") {
                Some(options) => {
                    let mut arguments = vec!["up"];
                    arguments.extend(options.split(' '));
                    machine.start("loopctl", &arguments);
                }
                None => drop(run(machine.command("/bin/sh").args(["-ec", line]).env("DATABASE", &address))),
            }
        }
    }
    let runs = "SELECT string_agg(component || ' ' || split_part(host, '/', 1), ',' ORDER BY component) FROM component_health
                WHERE component IN ('backend', 'frontend') AND status = 'healthy'";
    fleet.until("both loops to run", runs, "backend anvil,frontend bellows");
    for id in ["backend", "frontend"] {
        let _ = fleet.machines[1].loopctl(&["test", "add", &format!("{id}-01"), "--loop", id]);
    }
    let passed = "SELECT count(*) FROM tests WHERE status = 'passed'";
    fleet.until("the work of both machines to land", passed, "2");
    for machine in &fleet.machines {
        let text = machine.loopctl(&["status"]);
        assert!(text.contains("anvil") && text.contains("bellows"), "{text}");
        let _ = machine.loopctl(&["check"]);
    }
    // The first machine is lost: the copies that stand by on the second take over.
    fleet.machines[0].kill();
    let working = "SELECT count(*) FROM component_health WHERE status = 'healthy' AND host LIKE 'bellows%'
                   AND component IN ('monitor', 'pm', 'deadlock-detector', 'regression-checker')";
    fleet.until("the supervisors to be taken over", working, "4");
    let _ = fleet.machines[1].loopctl(&["test", "add", "frontend-02", "--loop", "frontend"]);
    fleet.until("work to land without the lost machine", passed, "3");
    let _ = fleet.machines[1].loopctl(&["after-failover"]);
    fleet.until("the loop to go on", "SELECT status FROM loops WHERE id = 'frontend'", "running");
    let stays = fleet.machines[1].loopctl(&["deinit"]);
    assert!(stays.contains("the branch coding-loops/integration and references below refs/coding-loops/"), "{stays}");
}

#[test]
fn the_monitor_of_one_machine_judges_what_a_workspace_of_another_shows() {
    let waits = tempfile::tempdir().unwrap();
    let go = waits.path().join("go");
    let settings = format!(
        r#"
[agent]
command = ["sh", "-c", "cat > /dev/null; touch $TEST_ID.a $TEST_ID.b $TEST_ID.c $TEST_ID.d; while [ ! -e {} ]; do sleep 0.1; done"]

[[gate.check]]
name = "build"
command = ["true"]

[lease]
automatic = false
"#,
        go.display()
    );
    let Some(mut fleet) = Fleet::new(&["anvil", "bellows"], &[("README", "")], &settings) else { return };
    for machine in &fleet.machines {
        let _ = machine.loopctl(&["init", "--database", &fleet.address(machine), "--remote", "origin"]);
    }
    let _ = fleet.machines[1].loopctl(&["loop", "add", "one"]);
    for test in ["first", "second"] {
        let _ = fleet.machines[0].loopctl(&["test", "add", test, "--loop", "one", "--scope", "src"]);
    }
    for machine in &mut fleet.machines {
        machine.start("heartbeat", &[]);
    }
    fleet.machines[0].start("monitor", &[]);
    fleet.machines[1].start("coding-loop", &["one"]);
    let alerts = "SELECT context::jsonb ->> 'files_outside' FROM alerts
                  WHERE alert_type = 'digression' AND context LIKE '%first%' AND closed_at IS";
    fleet.until("the digression to be found", &format!("{alerts} NULL"), "4");
    let reported = |test: &str| format!("SELECT count(*) FROM worktree_changes WHERE file_path LIKE '{test}.%'");
    assert_eq!(fleet.sql(&reported("first")), "4");
    std::fs::write(go, "").unwrap();
    fleet.until("the work to land", "SELECT count(*) FROM tests WHERE status = 'passed'", "2");
    fleet.until("the alert to be closed", &format!("{alerts} NOT NULL"), "4");
    assert_eq!(fleet.sql(&reported("first")), "0", "of an earlier attempt");
}
