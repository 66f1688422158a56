//! `scripts/install.sh` for a user without a service manager: where files go, what it says, upgrade and removal. `systemd.rs`
//! has the same beside services.

use std::path::{Path, PathBuf};

use system_tests::installation::{Installation, programs};

/// All files and links below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_prefix_holds_all_of_it_and_what_is_recommended_is_there() {
    let installation = Installation::new();
    let prefix = installation.home().parent().unwrap().join("opt");
    let with_prefix = ["--prefix", prefix.to_str().unwrap()];
    let said = installation.installs(&with_prefix);
    assert_eq!(files(&installation.home()), Vec::<PathBuf>::new(), "nothing is outside of the prefix");
    let expected = format!(
        "\nnext:\n  export PATH=\"{0}/bin:$PATH\"\n  cd YOUR_REPOSITORY\n  loopctl init\n  loopctl up ",
        prefix.display()
    );
    assert!(said.contains(&expected), "{said}");
    assert!(said.ends_with("Services need a systemd --user manager, and none answers here.\n"), "{said}");
    for program in programs().chain(["coding-loops-launch"]) {
        let help = installation.command(prefix.join("bin").join(program)).arg("--help").output().unwrap();
        assert!(help.status.success() && !help.stdout.is_empty(), "{program}");
    }
    let unit = std::fs::read_to_string(prefix.join("share/systemd/user/coding-loops-monitor@.service")).unwrap();
    assert!(unit.contains(&format!("\nExecStart={}/bin/monitor\n", prefix.display())), "{unit}");
    assert!(!unit.contains("\nUser="), "{unit}");

    // Again, over an older version that had a file more, and one that was cut off.
    let installed = files(&prefix);
    let manifest = prefix.join("share/coding-loops/manifest");
    let former = prefix.join("bin/former");
    std::fs::write(&former, "").unwrap();
    let listed = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, format!("{listed}{}\n", former.display())).unwrap();
    std::fs::remove_file(prefix.join("bin/monitor")).unwrap();
    installation.installs(&with_prefix);
    assert_eq!(files(&prefix), installed);

    // Files of others stay, and so does an installation elsewhere.
    let other = installation.home().join(".local/bin/loopctl");
    std::fs::create_dir_all(other.parent().unwrap()).unwrap();
    std::fs::write(&other, "").unwrap();
    let refused = installation.install(&[]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && errors.contains("was not installed by this script"), "{errors}");
    let notes = prefix.join("share/notes");
    std::fs::write(&notes, "").unwrap();
    installation.installs(&["--uninstall", "--prefix", prefix.to_str().unwrap()]);
    assert_eq!((files(&prefix), files(&installation.home())), (vec![notes], vec![other]));
    assert!(!prefix.join("share/coding-loops").exists());
}

#[test]
fn without_a_prefix_units_go_where_systemd_looks() {
    let installation = Installation::new();
    installation.installs(&[]);
    let unit = "systemd/user/coding-loops@.target";
    assert!(installation.home().join(".local/share").join(unit).is_file());
    let data = installation.home().join("data");
    let script = system_tests::project().join("scripts/install.sh");
    let mut again = installation.command(script);
    let output = again.env("XDG_DATA_HOME", &data).env("CODING_LOOPS_BIN", installation.built()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(data.join(unit).is_file() && !installation.home().join(".local/share").join(unit).exists());
}
