//! The services under this machine's real systemd, in namespaces of their own. Skipped, and said so, where there are none.
//!
//! All in one go takes about half a minute, most of it waiting for watchdogs.

use std::path::Path;
use std::time::Instant;

use system_tests::systemd::Who::{Owner, Root};
use system_tests::systemd::{Machine, Who, disk};
use system_tests::{project, query, supervisors};
use test_support::{wait_for, wait_until};

/// Heartbeats that are late after three seconds; an agent that works until `~/go` exists.
const SETTINGS: &str = r#"
[agent]
command = ["sh", "-c", "touch \"$HOME/at-$TEST_ID\"; until [ -e \"$HOME/go\" ]; do sleep 0.1; done; touch \"$TEST_ID\""]
[[gate.check]]
name = "file"
command = ["sh", "-c", "test -f $TEST_ID"]
[heartbeat]
beat_seconds = 1
degraded_seconds = 3
dead_seconds = 600
"#;

/// Watchdogs that bark within the time of a test.
const WATCHDOG: &str = "[Service]\nWatchdogSec=6s\nRestartSec=100ms\n";

/// What a service in its sandbox can do, one word a line. `$1`: where to write, `$2`: its repository, `$3`: another's.
const PROBE: &str = r#"
exec >"$1" 2>/dev/null
cd /
[ -r "$2/README" ] && echo reads-repository
[ -e "$3" ] && echo sees-other-repository
[ -e /srv/home/.bashrc ] && echo sees-home
[ -e /etc/shadow ] && echo sees-etc
[ -e /var/lib ] && echo sees-machine
touch "$2/written" && echo writes-repository
touch /usr/local/written && echo writes-usr
touch "$2/coding-loops/written" && echo writes-folder
unshare --user true && echo makes-namespaces
(exec 3<>/dev/tcp/127.0.0.1/1) 2>&1 | grep -q refused && echo has-network
kill -0 1 && echo may-signal-init
exit 0
"#;

fn unit(name: &str, instance: &str) -> String {
    format!("coding-loops-{name}@{instance}.service")
}

fn services(instance: &str) -> Vec<String> {
    supervisors().iter().map(|name| unit(name, instance)).chain([unit("loop", &format!("{instance}:backend"))]).collect()
}

fn until_ready(machine: &Machine, who: Who, instance: &str) {
    for service in services(instance) {
        machine.until_property(who, &service, "ActiveState", "active");
    }
}

fn enable(machine: &Machine, who: Who, repository: &str, more: &[&str]) {
    let system: &[&str] = if who == Root { &["--system"] } else { &[] };
    machine.script(who, "cd \"/srv/home/$1\" && loopctl service enable \"${@:2}\"", &[&[repository], system, more].concat());
}

const HEALTHY: &str = "SELECT count(*) FROM component_health WHERE status = 'healthy'";
const LOST: &str = "SELECT count(*) FROM events WHERE event_type = 'component_degraded'";

#[test]
fn two_repositories_side_by_side_and_what_befalls_their_services() {
    let disk = disk();
    let Some(machine) = Machine::boot(disk.path()) else { return };
    machine.install(Root, &[]);
    let shop = machine.repository("shop", SETTINGS, &["backend"]);
    let quiet = machine.repository("two words", SETTINGS, &["backend"]);
    machine.script(
        Root,
        "mkdir /etc/systemd/system/coding-loops-.service.d && printf %s \"$1\" >/etc/systemd/system/coding-loops-.service.d/test.conf",
        &[WATCHDOG],
    );
    enable(&machine, Root, "shop", &[]);
    enable(&machine, Root, "two words", &[]);
    until_ready(&machine, Root, "shop");
    until_ready(&machine, Root, "two_words");
    for database in [&shop, &quiet] {
        machine.until_sql(database, HEALTHY, "6");
    }

    // Doctor ends with 1 where anything is a problem. Without a bus systemd answers root alone.
    let doctor = |folder: &str| machine.script(Root, "cd \"/srv/home/$1\" && loopctl doctor 2>&1 || true", &[folder]);
    let report = doctor("shop");
    assert!(report.contains("coding-loops@shop.target: all 6 are running"), "{report}");
    assert!(report.contains("all are running"), "{report}");

    logs_have_fields_and_priorities(&machine, &shop);
    a_killed_service_runs_again_and_heartbeat_has_seen_it(&machine, &shop);
    hung_services_are_restarted(&machine);

    let began = Instant::now();
    machine.ok(Root, &["systemctl", "stop", "coding-loops@shop.target"]);
    for service in services("shop") {
        machine.until_property(Root, &service, "ActiveState", "inactive");
    }
    println!("stopping the target took {:?}", began.elapsed());
    assert_eq!(query(&shop, "SELECT count(*) FROM component_health WHERE status <> 'unknown'").unwrap().trim(), "0");
    let report = doctor("shop");
    assert!(report.contains("of coding-loops@shop.target are not running"), "{report}");
    assert!(doctor("two words").contains("coding-loops@two_words.target: all 6 are running"));
    for service in services("two_words") {
        assert_eq!(machine.property(Root, &service, "ActiveState"), "active", "{service} is another repository's");
        assert_eq!(machine.property(Root, &service, "NRestarts"), "0", "{service}");
    }
    assert_eq!(query(&quiet, LOST).unwrap().trim(), "0", "nobody living is taken for lost: {}", machine.journal());
}

fn logs_have_fields_and_priorities(machine: &Machine, database: &Path) {
    let said = machine.entries(&["--unit", &unit("monitor", "shop"), "SYSLOG_IDENTIFIER=monitor"]);
    let ready = said.iter().find(|entry| entry["MESSAGE"].as_str().unwrap_or_default().contains("is ready"));
    let ready = ready.unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!(ready["PRIORITY"], "6");
    assert_eq!(ready["CODING_LOOPS_DATABASE"], "/srv/home/shop/coding-loops/coordination.db");

    // Settings that cannot be taken are an error of their own priority, and the old ones stay.
    let config = database.with_file_name("config.toml");
    std::fs::write(&config, "[heartbeat]\nbeat_seconds = \"often\"\n").unwrap();
    machine.ok(Root, &["systemctl", "reload", &unit("monitor", "shop")]);
    wait_for("the refusal in the journal", || {
        let warnings =
            machine.entries(&["--unit", &unit("monitor", "shop"), "--priority=warning", "SYSLOG_IDENTIFIER=monitor"]);
        (!warnings.is_empty()).then_some(())
    });
    std::fs::write(&config, SETTINGS).unwrap();
    machine.ok(Root, &["systemctl", "reload", &unit("monitor", "shop")]);
}

fn a_killed_service_runs_again_and_heartbeat_has_seen_it(machine: &Machine, database: &Path) {
    let service = unit("loop", "shop:backend");
    let before = machine.main_pid(Root, &service);
    machine.ok(Root, &["systemctl", "kill", "--kill-whom=main", "--signal=KILL", &service]);
    machine.until_property(Root, &service, "NRestarts", "1");
    machine.until_property(Root, &service, "ActiveState", "active");
    assert_ne!(machine.main_pid(Root, &service), before);
    machine.until_sql(database, "SELECT status FROM component_health WHERE component = 'backend'", "healthy");
    // What it does for the dead, it does from within its sandbox: proof that it can tell them from the living.
    let told = "SELECT DISTINCT json_extract(payload, '$.component') FROM events WHERE event_type = 'component_degraded'";
    wait_for("the death to be told, of this one only", || {
        let told = query(database, told)?;
        assert!(["", "backend"].contains(&told.trim()), "{told}\n{}", machine.journal());
        (query(database, "SELECT count(*) FROM events WHERE event_type = 'component_started' AND source = 'backend'")?.trim()
            == "2")
            .then_some(())
    });
}

/// One is stopped by a signal, two hang in a read within their own loop: settings that are a pipe which nobody writes to.
fn hung_services_are_restarted(machine: &Machine) {
    let stopped = unit("deadlock-detector", "shop");
    let hung = [unit("pm-agent", "shop"), unit("heartbeat", "shop"), unit("loop", "shop:backend")];
    let restarts = |unit: &str| machine.property(Root, unit, "NRestarts").parse::<u32>().unwrap();
    let before: Vec<u32> = hung.iter().map(|unit| restarts(unit)).collect();
    machine.ok(Root, &["systemctl", "kill", "--kill-whom=main", "--signal=STOP", &stopped]);
    machine.script(Owner, "cd /srv/home/shop/coding-loops && mv config.toml kept && mkfifo config.toml", &[]);
    for unit in &hung {
        machine.ok(Root, &["systemctl", "kill", "--kill-whom=main", "--signal=HUP", unit]);
    }
    wait_for("the watchdog to bark", || {
        let barked = [&stopped].into_iter().chain(&hung).all(|unit| {
            let log = machine.entries(&["--unit", unit, "_PID=1"]);
            log.iter().any(|entry| entry["MESSAGE"].as_str().unwrap_or_default().contains("Watchdog timeout"))
        });
        barked.then_some(())
    });
    machine.script(Owner, "cd /srv/home/shop/coding-loops && mv kept config.toml", &[]);
    // One that was started while the pipe was there still waits for it.
    machine.script(Root, "systemctl restart \"$@\"", &hung.iter().map(String::as_str).collect::<Vec<_>>());
    until_ready(machine, Root, "shop");
    assert!(restarts(&stopped) >= 1);
    assert_eq!(before, [0, 0, 1], "before, only the loop had been restarted");
}

#[test]
fn the_sandbox_keeps_a_service_out_of_everything_but_its_folder() {
    let disk = disk();
    let Some(machine) = Machine::boot(disk.path()) else { return };
    machine.install(Root, &[]);
    machine.install(Owner, &[]);
    machine.repository("shop", SETTINGS, &["backend"]);
    machine.repository("other", SETTINGS, &["backend"]);
    machine.script(Owner, "touch ~/.bashrc ~/shop/README ~/other/README", &[]);
    for folder in ["usr-local/bin", "home/.local/bin"] {
        std::fs::write(disk.path().join(folder).join("probe"), PROBE).unwrap();
    }
    for who in [Root, Owner] {
        let (folder, user, tools) = match who {
            Root => ("/etc/systemd/system", "--system", "/usr/local/bin"),
            Owner => ("/srv/home/.config/systemd/user", "--user", "/srv/home/.local/bin"),
        };
        enable(&machine, who, "shop", &["--no-start"]);
        for name in supervisors() {
            // Not ExecStartPre=: in a user's manager a second process cannot join the first one's namespaces.
            let probe = format!(
                "[Service]\nExecStart=\nExecStart=/usr/bin/bash -c 'bash {tools}/probe /srv/home/shop/coding-loops/probe-{name} /srv/home/shop /srv/home/other; exec {tools}/{name}'\n"
            );
            let text = "printf %s \"$2\" >\"$1.d/60-probe.conf\"";
            machine.script(who, text, &[&format!("{folder}/{}", unit(name, "shop")), &probe]);
        }
        machine.ok(who, &["systemctl", user, "daemon-reload"]);
        machine.ok(who, &["systemctl", user, "start", "coding-loops@shop.target"]);
        until_ready(&machine, who, "shop");
        let can = |name: &str| {
            let text =
                std::fs::read_to_string(disk.path().join("home/shop/coding-loops").join(format!("probe-{name}"))).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let confined: &[&str] =
            if who == Root { &["deadlock-detector", "pm-agent", "heartbeat"] } else { &["deadlock-detector", "pm-agent"] };
        for name in confined {
            assert_eq!(can(name), ["writes-folder"], "{name} of {who:?}");
        }
        assert_eq!(can("monitor"), ["reads-repository", "writes-folder"], "monitor of {who:?}");
        let checker = can("regression-checker");
        for word in ["sees-other-repository", "writes-repository", "writes-folder"] {
            assert!(checker.iter().any(|line| line == word), "it runs what the user's own tools need: {checker:?}");
        }
        assert!(!can("heartbeat").iter().any(|word| word == "makes-namespaces" || word == "has-network"));
        if who == Root {
            assert!(!checker.iter().any(|line| line == "writes-usr"), "{checker:?}");
        }
        machine.script(
            who,
            "cd /srv/home/shop && loopctl service disable \"$@\"",
            if who == Root { &["--system"] } else { &[] },
        );
    }
}

#[test]
fn a_users_services_come_back_after_a_boot_and_go_without_a_trace() {
    let disk = disk();
    let Some(machine) = Machine::boot(disk.path()) else { return };
    let database = machine.repository("shop", SETTINGS, &["backend"]);
    let files = "cd && find . \\( -path ./shop -o -path ./shop-loops \\) -prune -o -print | sort";
    let before = machine.script(Owner, files, &[]);
    let said = machine.install(Owner, &[]);
    assert!(said.contains("\nnext:\n") && said.contains("loopctl service enable"), "{said}");
    for page in ["loopctl", "loopctl-lock", "heartbeat", "coding-loop"] {
        let text = std::fs::read_to_string(disk.path().join(format!("home/.local/share/man/man1/{page}.1"))).unwrap();
        assert!(text.contains(".TH "), "{page}: {text}");
    }
    machine.script(
        Owner,
        "bash -n ~/.local/share/bash-completion/completions/loopctl && test -s ~/.local/share/zsh/site-functions/_loopctl",
        &[],
    );
    enable(&machine, Owner, "shop", &[]);
    until_ready(&machine, Owner, "shop");
    machine.until_sql(&database, HEALTHY, "6");
    machine.ok(Owner, &["systemctl", "--user", "kill", "--kill-whom=main", "--signal=KILL", &unit("heartbeat", "shop")]);
    machine.until_property(Owner, &unit("heartbeat", "shop"), "NRestarts", "1");
    for service in services("shop") {
        machine.ok(Owner, &["systemctl", "--user", "reload", &service]);
    }
    machine.shut_down();

    let machine = Machine::boot(disk.path()).expect("it has booted before");
    until_ready(&machine, Owner, "shop");
    machine.until_sql(&database, HEALTHY, "6");
    let refused = machine
        .run(Owner, &["bash", "-c", "/srv/home/.local/bin/monitor --once --db /srv/home/shop/coding-loops/coordination.db"]);
    assert_eq!(refused.status.code(), Some(1), "a second copy beside a service");
    machine.install(Owner, &["--uninstall"]);
    for service in services("shop") {
        assert_eq!(machine.property(Owner, &service, "ActiveState"), "inactive", "{service}");
    }
    let after = machine.script(Owner, "cd && find . \\( -path ./shop -o -path ./shop-loops \\) -prune -o -print | grep -v -x -F -e \"$1\" | while read -r f; do [ -d \"$f\" ] || echo \"$f\"; done", &[&before]);
    assert_eq!(after, "", "left behind");
    assert_eq!(query(&database, "SELECT id FROM loops").unwrap().trim(), "backend", "the data stays");
}

#[test]
fn an_installation_with_a_prefix_works_once_it_is_linked_and_minds_its_own_services() {
    let disk = disk();
    let Some(machine) = Machine::boot(disk.path()) else { return };
    machine.repository("shop", SETTINGS, &["backend"]);
    let prefix = ["--prefix", "/srv/home/opt"];
    let said = machine.install(Owner, &prefix);
    let link =
        said.lines().find_map(|line| line.trim().strip_prefix("systemctl --user link ")).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(link, "/srv/home/opt/share/systemd/user/coding-loops*");
    let outside = "find .config .local -name 'coding-loops*' 2>/dev/null || true";
    assert_eq!(machine.script(Owner, &format!("cd; {outside}"), &[]), "");
    let enable = "cd ~/shop && PATH=/srv/home/opt/bin:$PATH loopctl service enable";
    let refused = machine.run(Owner, &["bash", "-c", enable]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("systemd does not find the unit"), "{refused:?}");
    assert_eq!(machine.script(Owner, &format!("cd; {outside}"), &[]), "", "nothing is half enabled");

    machine.script(Owner, &format!("systemctl --user link {link}"), &[]);
    machine.script(Owner, enable, &[]);
    until_ready(&machine, Owner, "shop");
    assert!(machine.install(Owner, &prefix).contains("restarted: coding-loops-monitor@shop.service"));
    let said = machine.install(Owner, &[]);
    assert!(said.contains("Services run from another installation") && !said.contains("restarted"), "{said}");
    machine.install(Owner, &["--uninstall"]);
    for service in services("shop") {
        assert_eq!(machine.property(Owner, &service, "ActiveState"), "active", "{service} is of the other installation");
    }
    machine.install(Owner, &[&["--uninstall"][..], &prefix].concat());
    for service in services("shop") {
        assert_eq!(machine.property(Owner, &service, "ActiveState"), "inactive", "{service}");
    }
    assert_eq!(machine.script(Owner, &format!("cd; {outside}; find opt -type f"), &[]), "", "left behind");
}

#[test]
fn an_upgrade_over_a_running_system_loses_nothing() {
    let disk = disk();
    let Some(machine) = Machine::boot(disk.path()) else { return };
    machine.install(Root, &[]);
    let database = machine.repository("shop", SETTINGS, &["backend"]);
    machine.script(Owner, "cd ~/shop && loopctl --quiet test add T-1 --loop backend --spec go && loopctl --quiet test add T-2 --loop backend --spec on", &[]);
    enable(&machine, Root, "shop", &[]);
    until_ready(&machine, Root, "shop");
    machine.until_sql(&database, "SELECT status FROM tests WHERE id = 'T-1'", "in_progress");
    wait_until("the agent to be at work", || disk.path().join("home/at-T-1").exists());
    // Somebody who publishes all the while, and counts.
    let publish = "cd ~/shop; n=0; until [ -e ~/enough ]; do loopctl --quiet publish custom.tick --source human --payload '{}' >/dev/null && n=$((n+1)); done; echo $n";
    let writer = machine.command(Owner, &["bash", "-c", publish]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // A byte behind its end distinguishes a new program from an old one.
    machine.script(Root, "for p in /srv/new/*; do echo >>$p; done", &[]);
    let said = machine.install(Root, &[]);
    assert_eq!(said.matches("restarted: ").count(), 6, "{said}");
    until_ready(&machine, Root, "shop");
    for (service, program) in services("shop").iter().zip(supervisors().iter().chain([&"coding-loop"])) {
        let pid = machine.main_pid(Root, service);
        machine.script(Root, "cmp \"/proc/$1/exe\" \"/srv/new/$2\"", &[&pid, program]);
    }
    machine.script(Owner, "touch ~/enough ~/go", &[]);
    let written = String::from_utf8(writer.wait_with_output().unwrap().stdout).unwrap();
    machine.until_sql(&database, "SELECT count(*) FROM events WHERE event_type = 'custom.tick'", written.trim());
    machine.until_sql(&database, "SELECT count(*) FROM tests WHERE status = 'passed'", "2");
    assert_eq!(
        query(&database, "SELECT attempts FROM tests WHERE id = 'T-1'").unwrap().trim(),
        "1",
        "the upgrade cost no attempt"
    );
    let check = machine.run(Owner, &["loopctl", "--db", "/srv/home/shop/coding-loops/coordination.db", "check"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn a_service_brings_an_older_database_up_to_date() {
    let disk = disk();
    let Some(machine) = Machine::boot(disk.path()) else { return };
    machine.install(Root, &[]);
    let database = machine.repository("shop", SETTINGS, &["backend"]);
    let newest = query(&database, "PRAGMA user_version").unwrap();
    for file in ["coordination.db", "coordination.db-wal", "coordination.db-shm"] {
        let _ = std::fs::remove_file(database.with_file_name(file));
    }
    let first = std::fs::read_to_string(project().join("schema/migrations/0001_initial.sql")).unwrap();
    let rows = "INSERT INTO loops (id, name, priority, status) VALUES ('backend', 'b', 1, 'stopped');";
    let marks = "PRAGMA application_id = 0x634c6f50; PRAGMA user_version = 1;";
    std::fs::write(disk.path().join("old.sql"), format!("{first}\n{marks}\n{rows}")).unwrap();
    machine.script(
        Owner,
        "cd ~/shop/coding-loops && sqlite3 -bail coordination.db <\"$1\" && chmod 600 coordination.db",
        &["/srv/old.sql"],
    );
    enable(&machine, Root, "shop", &[]);
    until_ready(&machine, Root, "shop");
    machine.until_sql(&database, "PRAGMA user_version", newest.trim());
    assert_eq!(query(&database, "SELECT id FROM loops").unwrap().trim(), "backend");
    let backups = std::fs::read_dir(database.with_file_name("backups")).unwrap().count();
    assert_eq!(backups, 1, "the older one was kept");
}
