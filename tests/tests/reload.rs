//! Every supervisor notices that the settings have changed: broken ones are refused and said once, good ones hold without a
//! restart.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coord_db::{Database, OpenOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{binaries, wait_for};

const BOUND: Duration = Duration::from_secs(60);

struct Daemon(Child, PathBuf);

impl Daemon {
    fn start(program: &str, database: &Path) -> Self {
        let log = database.with_file_name(format!("{program}.log"));
        let child = Command::new(binaries().join(program))
            .arg("--db")
            .arg(database)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self(child, log)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.1).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_supervisor_refuses_broken_settings_and_takes_good_ones() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("coordination.db");
    let config = folder.path().join("config.toml");
    let db = Database::create(&database, &OpenOptions::default()).unwrap();
    let programs = [
        ("monitor", "monitor"),
        ("deadlock-detector", "deadlock-detector"),
        ("regression-checker", "regression-checker"),
        ("pm-agent", "pm"),
        ("heartbeat", "heartbeat"),
    ];
    let daemons: Vec<Daemon> = programs.iter().map(|(program, _)| Daemon::start(program, &database)).collect();
    let pid_of = |id: &str| db.read(|tx| tx.component(id)).unwrap().and_then(|row| row.pid);
    let alerts = || {
        let open = db.read(|tx| tx.alerts(true)).unwrap();
        open.into_iter().filter(|alert| alert.message.contains("settings are invalid"))
    };
    let refused = |daemon: &Daemon| daemon.log().matches("the changed settings are invalid").count();
    let taken = |daemon: &Daemon| daemon.log().matches("settings reloaded").count();
    for (_, id) in programs {
        wait_for(id, BOUND, || pid_of(id));
    }
    std::fs::write(&config, "[heartbeat]\nbeat_seconds = 1\ndegraded_seconds = 3\nsurprise = 1\n").unwrap();
    for daemon in &daemons {
        wait_for("the refusal", BOUND, || (refused(daemon) == 1).then_some(()));
    }
    let said = wait_for("the alert", BOUND, || alerts().next());
    assert!(said.message.contains("config.toml:4") && said.message.contains("uses the previous settings"), "{}", said.message);
    assert_eq!(alerts().count(), 1, "one for all of them");
    // A loop that has been silent for half a minute is fine as yet.
    db.write(|tx| {
        tx.add_loop(&coord_db::NewLoop { id: "quiet".parse()?, name: String::new(), priority: 5, branch: None })?;
        tx.beat(&"quiet".parse()?, coord_db::HealthStatus::Healthy, None)
    })
    .unwrap();
    // As editors do: another file is renamed over it.
    let good = "[heartbeat]\nbeat_seconds = 1\ndegraded_seconds = 3\n[database]\ndurability = \"full\"\n";
    std::fs::write(folder.path().join("config.toml.new"), good).unwrap();
    std::fs::rename(folder.path().join("config.toml.new"), &config).unwrap();
    for daemon in &daemons {
        wait_for("the new settings", BOUND, || (taken(daemon) >= 1).then_some(()));
    }
    wait_for("the alert to end", BOUND, || alerts().next().is_none().then_some(()));
    // Told to, they read the same once more.
    daemons.iter().for_each(|daemon| daemon.signal(Signal::SIGHUP));
    for daemon in &daemons {
        wait_for("the signal", BOUND, || (taken(daemon) >= 2).then_some(()));
    }
    // The new limit holds: three seconds of silence are told, where sixty were allowed before.
    let silent = wait_for("the verdict", BOUND, || db.read(|tx| tx.open_alert("component:quiet")).unwrap());
    assert!(silent.message.contains("no heartbeat for"), "{}", silent.message);
    for ((_, id), daemon) in programs.iter().zip(&daemons) {
        assert_eq!(pid_of(id), Some(i64::from(daemon.0.id())), "{id} has not been restarted");
    }
    for (mut daemon, (program, _)) in daemons.into_iter().zip(programs) {
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.0.wait().unwrap().code(), Some(0), "{program}");
    }
}
