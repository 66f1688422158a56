//! Every supervisor notices that the settings have changed: broken ones are refused and said once, good ones hold without a
//! restart.

use coord_db::SUPERVISORS;
use coord_db::supervisors::Program;
use system_tests::binaries;
use test_support::{Process, Signal, World, new_loop, wait_for, wait_until};

#[test]
fn every_supervisor_refuses_broken_settings_and_takes_good_ones() {
    let world = World::new();
    let (db, config) = (&world.db, world.folder().join("config.toml"));
    let start = |program| world.daemon(binaries().join(program).to_str().unwrap());
    let daemons: Vec<Process> = SUPERVISORS.iter().map(|each| start(each.program)).collect();
    let pid_of = |id: &str| db.read(|tx| tx.component(id)).unwrap().and_then(|row| row.pid);
    let alerts = || {
        let open = db.read(|tx| tx.alerts(true)).unwrap();
        open.into_iter().filter(|alert| alert.message.contains("settings are invalid"))
    };
    let refused = |daemon: &Process| daemon.log().matches("the changed settings are invalid").count();
    let taken = |daemon: &Process| daemon.log().matches("settings reloaded").count();
    std::fs::write(&config, "[heartbeat]\nbeat_seconds = 1\ndegraded_seconds = 3\nsurprise = 1\n").unwrap();
    for daemon in &daemons {
        wait_until("the refusal", || refused(daemon) == 1);
    }
    let said = wait_for("the alert", || alerts().next());
    assert!(said.message.contains("config.toml:4") && said.message.contains("uses the previous settings"), "{}", said.message);
    assert_eq!(alerts().count(), 1, "one for all of them");
    // A loop that has been silent for half a minute is fine as yet.
    db.write(|tx| {
        tx.add_loop(&new_loop("quiet"))?;
        tx.beat(&"quiet".parse()?, coord_db::HealthStatus::Healthy, None)
    })
    .unwrap();
    // As editors do: another file is renamed over it.
    let good = "[heartbeat]\nbeat_seconds = 1\ndegraded_seconds = 3\n[database]\ndurability = \"full\"\n";
    std::fs::write(world.folder().join("config.toml.new"), good).unwrap();
    std::fs::rename(world.folder().join("config.toml.new"), &config).unwrap();
    for daemon in &daemons {
        wait_until("the new settings", || taken(daemon) >= 1);
    }
    wait_until("the alert to end", || alerts().next().is_none());
    // On a signal they read the same settings once more.
    daemons.iter().for_each(|daemon| daemon.signal(Signal::SIGHUP));
    for daemon in &daemons {
        wait_until("the signal", || taken(daemon) >= 2);
    }
    // The new limit holds: three seconds of silence are told, where sixty were allowed before.
    let silent = wait_for("the verdict", || db.read(|tx| tx.open_alert("component:quiet")).unwrap());
    assert!(silent.message.contains("no heartbeat for"), "{}", silent.message);
    for (Program { id, .. }, daemon) in SUPERVISORS.iter().zip(&daemons) {
        assert_eq!(pid_of(id), Some(i64::from(daemon.pid())), "{id} has not been restarted");
    }
    for (daemon, Program { program, .. }) in daemons.into_iter().zip(SUPERVISORS) {
        assert_eq!(daemon.terminate().code(), Some(0), "{program}");
    }
}
