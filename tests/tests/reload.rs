//! SIGHUP to every supervisor: broken settings are refused and said, good ones hold without a restart.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coord_db::{Database, OpenOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{binaries, wait_for};

const BOUND: Duration = Duration::from_secs(60);

struct Daemon(Child);

impl Daemon {
    fn start(program: &str, database: &Path) -> Self {
        let child = Command::new(binaries().join(program))
            .arg("--db")
            .arg(database)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
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
    let alert = |id: &str| db.read(|tx| tx.open_alert(&format!("config:{id}"))).unwrap();
    for (_, id) in programs {
        wait_for(id, BOUND, || pid_of(id));
    }
    std::fs::write(&config, "[heartbeat]\nbeat_seconds = 1\ndegraded_seconds = 3\nsurprise = 1\n").unwrap();
    daemons.iter().for_each(|daemon| daemon.signal(Signal::SIGHUP));
    for (_, id) in programs {
        let alert = wait_for(id, BOUND, || alert(id));
        assert!(alert.message.contains("config.toml:4"), "{}", alert.message);
    }
    // A loop that has been silent for half a minute is fine as yet.
    db.write(|tx| {
        tx.add_loop(&coord_db::NewLoop { id: "quiet".parse()?, name: String::new(), priority: 5, branch: None })?;
        tx.beat(&"quiet".parse()?, coord_db::HealthStatus::Healthy, None)
    })
    .unwrap();
    std::fs::write(&config, "[heartbeat]\nbeat_seconds = 1\ndegraded_seconds = 3\n[database]\ndurability = \"full\"\n")
        .unwrap();
    daemons.iter().for_each(|daemon| daemon.signal(Signal::SIGHUP));
    for (_, id) in programs {
        wait_for(id, BOUND, || alert(id).is_none().then_some(()));
    }
    // The new limit holds: three seconds of silence are told, where sixty were allowed before.
    let silent = wait_for("the verdict", BOUND, || db.read(|tx| tx.open_alert("component:quiet")).unwrap());
    assert!(silent.message.contains("no beat for"), "{}", silent.message);
    for ((_, id), daemon) in programs.iter().zip(&daemons) {
        assert_eq!(pid_of(id), Some(i64::from(daemon.0.id())), "{id} has not been restarted");
    }
    for (mut daemon, (program, _)) in daemons.into_iter().zip(programs) {
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.0.wait().unwrap().code(), Some(0), "{program}");
    }
}
