//! The files that make a repository's programs services of systemd, written where no systemd answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::{Place, ran};

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
    // Another program's unit, and a repository that is gone.
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
