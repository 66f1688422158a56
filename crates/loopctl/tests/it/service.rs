//! The files that make a repository's programs services of systemd, where no systemd answers, or one that refuses.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{Place, Ran, ran};

/// A systemctl that finds no manager, as in a container.
const NO_BUS: &str = "echo 'Failed to connect to bus: No medium found' >&2; exit 1";

/// Runs `loopctl service` with its settings below `settings`, and a systemctl that does this; none where it is empty.
fn service(place: &Place, systemctl: &str, arguments: &[&str]) -> Ran {
    let tools = place.outside().join("tools");
    let _ = std::fs::remove_dir_all(&tools);
    std::fs::create_dir(&tools).unwrap();
    if !systemctl.is_empty() {
        let file = tools.join("systemctl");
        std::fs::write(&file, format!("#!/bin/sh\n{systemctl}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = place.command(&[&["service"], arguments].concat());
    command.env("XDG_CONFIG_HOME", place.outside().join("settings")).env("PATH", tools);
    ran(command.output().unwrap())
}

/// All files and links below the settings.
fn written(place: &Place) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![place.outside().join("settings")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn enable_without_a_manager_writes_nothing_and_says_what_to_do() {
    let place = Place::with_loops();
    for (systemctl, why) in [("", "systemctl cannot be run"), (NO_BUS, "Failed to connect to bus: No medium found")] {
        let said = service(&place, systemctl, &["enable"]).fails(1);
        let said = said.says("no systemd user manager answers").says(why).says("nothing was enabled");
        said.says("run everything without systemd with loopctl up").says("loginctl enable-linger");
        assert_eq!(written(&place), Vec::<PathBuf>::new());
    }
    service(&place, "echo not-found", &["enable"]).fails(1).says("install the units with scripts/install.sh");
    assert_eq!(written(&place), Vec::<PathBuf>::new());
}

#[test]
fn an_enable_that_fails_halfway_is_reverted() {
    let place = Place::with_loops();
    let refuses = "case \"$*\" in *'enable --now'*) echo 'Access denied' >&2; exit 1 ;; *show*) echo loaded ;; esac";
    service(&place, refuses, &["enable"]).fails(1).says("Access denied");
    let files = |place: &Place| written(place).into_iter().filter(|path| path.is_file()).collect::<Vec<_>>();
    assert_eq!(files(&place), Vec::<PathBuf>::new());

    // What was enabled before stays as it was.
    service(&place, "echo loaded", &["enable"]).ok();
    let before = drop_ins(&place.outside().join("settings/systemd/user"));
    assert!(!before.is_empty());
    let config = place.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap().replacen("command = []", "command = [\"true\"]", 1);
    std::fs::write(&config, text).unwrap();
    service(&place, refuses, &["enable"]).fails(1).says("Access denied");
    assert_eq!(drop_ins(&place.outside().join("settings/systemd/user")), before, "no unit of a loop is added");
}

#[test]
fn of_several_machines_each_enables_the_loops_that_run_there() {
    let place = Place::with_loops();
    let config = place.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap().replacen("command = []", "command = [\"true\"]", 1);
    std::fs::write(&config, text).unwrap();
    let loops_of = |options: &[&str]| -> Vec<String> {
        service(&place, "echo loaded", &[&["enable", "--no-start"], options].concat()).ok();
        let names = written(&place).into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let mut names: Vec<_> = names.filter(|name| name.contains("coding-loops-loop@") && name.ends_with(".d")).collect();
        names.sort();
        names
    };
    let all = loops_of(&[]);
    assert!(all.len() > 1, "{all:?}");
    let ids = place.json(&["loop", "list"]);
    let first = ids[0]["id"].as_str().unwrap();
    let one = loops_of(&["--loops", first]);
    assert!(one.len() == 1 && one[0].contains(first), "{one:?}");
    assert_eq!(loops_of(&["--loops", ""]), [""; 0]);
    service(&place, "echo loaded", &["enable", "--no-start", "--loops", "nobody"]).fails(4).says("nobody");
}

#[test]
fn without_a_manager_disable_removes_what_is_enabled_unless_it_runs() {
    let place = Place::with_loops();
    service(&place, "echo loaded", &["enable"]).ok();
    let wants = place.outside().join("settings/systemd/user/default.target.wants");
    std::fs::create_dir(&wants).unwrap();
    std::os::unix::fs::symlink("/nowhere/coding-loops@.target", wants.join("coding-loops@repo.target")).unwrap();
    place.run(&["beat", "--loop", "a", "--pid", &std::process::id().to_string()]).ok();
    let running = format!("a runs as pid {}; stop it first", std::process::id());
    service(&place, NO_BUS, &["disable"]).fails(1).says("Failed to connect to bus").says(&running);
    assert!(wants.exists());
    place.sql("UPDATE component_health SET status = 'unknown'");
    service(&place, NO_BUS, &["disable"]).ok();
    let left: Vec<PathBuf> = written(&place).into_iter().filter(|path| !path.ends_with("systemd/user")).collect();
    assert_eq!(left, [place.outside().join("settings/systemd")]);
}

/// Every drop-in below a folder.
fn drop_ins(units: &Path) -> BTreeMap<PathBuf, String> {
    let folders = std::fs::read_dir(units).unwrap().flatten().map(|entry| entry.path());
    let files = folders.filter(|folder| folder.is_dir()).map(|folder| folder.join("50-repository.conf"));
    files.map(|file| (file.clone(), std::fs::read_to_string(file).unwrap())).collect()
}

#[test]
fn files_of_an_older_version_are_written_again() {
    let place = Place::with_loops();
    let config = place.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap().replacen("command = []", "command = [\"true\"]", 1);
    std::fs::write(&config, text).unwrap();
    let settings = place.outside().join("settings");
    let service = |path: &str, arguments: &[&str]| {
        let mut command = place.command(&[&["service"], arguments].concat());
        ran(command.env("XDG_CONFIG_HOME", &settings).env("PATH", path).output().unwrap())
    };
    let here = std::env::var("PATH").unwrap();
    service(&format!("/opt/50% \"off\"/bin:{here}"), &["enable", "--no-start"]).ok();
    let units = settings.join("systemd/user");
    let written = drop_ins(&units);
    assert_eq!(written.len(), 8, "the target, five supervisors and two loops: {written:?}");
    let root = format!("\"{}\"", place.workspaces().display());
    let monitor = written.iter().find(|(file, _)| file.to_string_lossy().contains("monitor@")).unwrap().1;
    assert!(monitor.contains(&root), "{monitor}");

    for (file, text) in &written {
        let old: String = text
            .lines()
            .filter(|line| line.starts_with("Env") || !line.contains(&root))
            .map(|line| format!("{line}\n"))
            .collect();
        std::fs::write(file, old).unwrap();
    }
    // Another program's unit, and a repository that no longer exists.
    let lost = units.join("coding-loops-heartbeat@lost.service.d");
    std::fs::create_dir(&lost).unwrap();
    std::fs::write(lost.join("50-repository.conf"), "Environment=\"CODING_LOOPS_DB=/nowhere/coordination.db\"\n").unwrap();
    std::fs::remove_dir_all(place.workspaces()).unwrap();
    let said = service(&here, &["refresh"]).ok();
    assert!(said.stderr.contains("the files of coding-loops@lost.target stay as they are"), "{}", said.stderr);
    std::fs::remove_dir_all(lost).unwrap();
    assert_eq!(drop_ins(&units), written);
    assert!(place.workspaces().is_dir(), "a unit cannot start without it");
    place.run(&["init"]).ok();
}

#[test]
fn where_services_are_enabled_up_starts_nothing_and_names_them() {
    let place = Place::with_loops();
    service(&place, "echo loaded", &["enable", "--no-start"]).ok();
    let up = |command: &mut std::process::Command| {
        ran(command.env("XDG_CONFIG_HOME", place.outside().join("settings")).output().unwrap()).fails(1)
    };
    let said = up(&mut place.command(&["up"]));
    said.says("coding-loops@repo.target is enabled").says("loopctl service disable --name repo");
    service(&place, "echo loaded", &["disable"]).ok();
    // A program that was copied without its launcher.
    let alone = place.outside().join("alone/loopctl");
    std::fs::create_dir(alone.parent().unwrap()).unwrap();
    // By another process: what another thread starts meanwhile could have the open file, which nobody can run then.
    test_support::run(std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_loopctl")).arg(&alone));
    let said = up(std::process::Command::new(&alone).arg("up").current_dir(place.repository()).env_remove("CODING_LOOPS_DB"));
    said.says("alone/coding-loops-launch is missing").says("install it with scripts/install.sh");
}
