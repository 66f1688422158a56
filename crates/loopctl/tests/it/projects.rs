//! What `init` and `doctor` say of a project: how its work is verified, what it needs, what its checks run.

use crate::common::Place;
use test_support::commit;

/// A repository with these files, committed, and a database.
fn project(files: &[(&str, &str)]) -> (Place, String) {
    let place = Place::empty();
    commit(&place.repository(), "files", files);
    let said = place.run(&["init"]).ok().stdout;
    (place, said)
}

/// What `doctor --run-checks` says of the checks.
fn tried(place: &Place) -> (i32, String) {
    let report = place.run(&["doctor", "--run-checks"]);
    let lines: Vec<&str> = report.stdout.lines().collect();
    let about = |line: &&&str| line.get(8..).is_some_and(|rest| rest.starts_with("run ")) || line.starts_with("   ");
    let from = lines.iter().position(|line| line.get(8..).is_some_and(|rest| rest.starts_with("run "))).unwrap_or(lines.len());
    (report.code, lines[from..].iter().filter(about).copied().collect::<Vec<_>>().join("\n"))
}

fn has(program: &str) -> bool {
    let found = std::process::Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|output| output.status.success())
}

#[test]
fn what_was_found_is_said_and_written() {
    let package = r#"{"scripts": {"test": "jest"}, "devDependencies": {"jest": "29"}}"#;
    let (place, said) = project(&[("package.json", package), ("package-lock.json", "{}")]);
    for part in [
        "found package.json: work is verified by \"npm test\"",
        "set-up of each folder: \"npm ci --prefer-offline --no-audit --no-fund\", and again when package.json, package-lock.json change",
        "kept between runs: node_modules/",
        "try the checks with loopctl doctor --run-checks",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let doctor = place.run(&["doctor"]).stdout;
    assert!(doctor.contains("git does not ignore node_modules/"), "{doctor}");
    commit(&place.repository(), "files", &[(".gitignore", "node_modules/\n")]);
    assert!(!place.run(&["doctor"]).stdout.contains("does not ignore node_modules/"));
    let (_, said) = project(&[("pom.xml", "<project/>")]);
    assert!(said.contains("found pom.xml: a Maven build, usually verified by mvn -q test\nadd a [[gate.check]] to "), "{said}");
    assert!(!said.contains("no build files"));
    let (_, said) = project(&[("README.md", "x")]);
    assert!(said.contains("found no build files: add a [[gate.check]] to "), "{said}");
}

#[test]
fn checks_are_run_at_the_base_and_what_they_ran_is_shown() {
    let (place, _) = project(&[("Makefile", "test:\n\t@echo 'Ran 3 tests in 0.1s'\n")]);
    let (_, said) = tried(&place);
    assert!(said.contains("tests (make test): passes at ") && said.ends_with(", 3 tests"), "{said}");
    assert!(!place.workspaces().join("trial").exists() && !place.workspaces().join("trial.git").exists());
    commit(&place.repository(), "files", &[("Makefile", "test:\n")]);
    let (code, said) = tried(&place);
    assert_eq!(code, 1);
    assert!(said.contains("ran no test: make: Nothing to be done for 'test'."), "{said}");
    commit(&place.repository(), "files", &[("Makefile", "test:\n\t@echo one; echo two >&2; false\n")]);
    let (code, said) = tried(&place);
    assert_eq!(code, 1);
    assert!(said.contains("does not pass at ") && said.contains("\n                     two"), "{said}");
    // It runs what is committed, in a folder of its own, after the set-up.
    std::fs::write(place.repository().join("Makefile"), "test:\n\ttouch here\n").unwrap();
    let file = place.home().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("setup = []", "setup = [[\"sh\", \"-c\", \"echo broken; exit 4\"]]")).unwrap();
    let (code, said) = tried(&place);
    assert_eq!(code, 1);
    assert!(said.contains("set-up command sh -c echo broken; exit 4 failed with exit code 4"), "{said}");
    assert!(!place.repository().join("here").exists());
}

#[test]
fn npm_that_prints_its_help_is_no_test() {
    if !has("npm") {
        eprintln!("skipped: no npm");
        return;
    }
    let (place, _) = project(&[("package.json", r#"{"scripts": {"test": "npm help"}}"#)]);
    let (code, said) = tried(&place);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("ran no test: npm <command>"), "{said}");
}

#[test]
fn what_files_need_and_is_not_here_is_said() {
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize 9\n", 1);
    let (place, _) = project(&[(".gitattributes", "*.bin filter=lfs\n*.x filter=odd\n"), ("big.bin", pointer.as_str())]);
    let library = place.outside().join("library");
    std::fs::create_dir(&library).unwrap();
    let run = |arguments: &[&str]| place.git(&[&["-C", library.to_str().unwrap()], arguments].concat());
    run(&["init", "--quiet"]);
    run(&["-c", "user.name=n", "-c", "user.email=e@e", "commit", "--quiet", "--allow-empty", "-m", "l"]);
    place.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", library.to_str().unwrap(), "vendor"]);
    commit(&place.repository(), "files", &[]);
    place.git(&["config", "filter.odd.clean", "no-such-filter %f"]);
    let said = place.run(&["doctor"]).stdout;
    assert!(said.contains("the LFS objects of big.bin are missing; the files stay pointers"), "{said}");
    assert!(said.contains("the program of the git filter odd is not on the PATH"), "{said}");
    assert!(!said.contains("vendor at"), "{said}");
    place.git(&["submodule", "--quiet", "deinit", "-f", "vendor"]);
    std::fs::remove_dir_all(place.repository().join(".git/modules/vendor")).unwrap();
    let said = place.run(&["doctor"]).stdout;
    assert!(said.contains("vendor at ") && said.contains("fetch it with git submodule update --init --recursive"), "{said}");
}

#[test]
fn patterns_that_bring_nothing_along_are_named() {
    let (place, _) =
        project(&[(".gitignore", "*.env\ndep/\n"), ("tracked.txt", "x"), (".worktreeinclude", "# local\ndep/\nelsewhere/\n")]);
    let put = |name: &str| {
        let path = place.repository().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    };
    for name in ["a.env", "dep/made", "new.txt"] {
        put(name);
    }
    let file = place.home().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let copy = "copy = [\"*.env\", \"gone.env\", \"tracked.txt\", \"/new.txt\"]";
    assert!(text.contains("copy = []"));
    std::fs::write(&file, text.replace("copy = []", copy)).unwrap();
    let said = place.run(&["doctor"]).stdout;
    let named: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("warning copy ")).map(str::trim).collect();
    let expected = [
        "gone.env matches nothing in your checkout",
        "tracked.txt matches only tracked files, which every workspace has",
        "/new.txt matches files that git does not ignore, which are not copied",
        "elsewhere/ matches nothing in your checkout",
    ];
    assert_eq!(named, expected, "{said}");
}

#[test]
fn a_loop_that_is_driven_by_hand_works_in_a_folder_that_is_set_up() {
    let (place, _) = project(&[(".gitignore", "dep/\n")]);
    let file = place.home().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let set_up = |script: &str| {
        let text = text.replace("setup = []", &format!("setup = [[\"sh\", \"-c\", {script:?}]]"));
        std::fs::write(&file, text).unwrap();
    };
    set_up("mkdir -p dep; pwd >dep/made");
    place.run(&["loop", "add", "a"]).ok();
    for test in ["t1", "t2"] {
        place.run(&["test", "add", test, "--loop", "a"]).ok();
    }
    place.run(&["next", "--loop", "a"]).ok();
    let made = place.workspaces().join("loops/a/dep/made");
    assert_eq!(std::fs::read_to_string(&made).unwrap().trim(), place.workspaces().join("loops/a").to_str().unwrap());
    place.run(&["loop", "add", "b"]).ok();
    place.run(&["test", "add", "t3", "--loop", "b"]).ok();
    set_up("echo no compiler; exit 3");
    place.run(&["next", "--loop", "b"]).ok().says("failed with exit code 3: no compiler");
}

#[test]
fn repositories_that_loops_cannot_start_from_are_said_at_init() {
    let place = Place::empty();
    let said = place.run(&["init"]).ok().stdout;
    assert!(said.contains(" has no commit yet; create a first commit; loops start from it"), "{said}");
    place.run(&["doctor"]).fails(1);
    // A bare repository with linked worktrees beside it.
    let (place, _) = project(&[("a", "1\n")]);
    let above = place.outside().join("layout");
    std::fs::create_dir(&above).unwrap();
    let (bare, main) = (above.join(".bare"), above.join("main"));
    place.git(&["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
    std::fs::write(above.join(".git"), "gitdir: ./.bare\n").unwrap();
    place.git(&["-C", above.to_str().unwrap(), "worktree", "add", "--quiet", "-b", "work", main.to_str().unwrap()]);
    for folder in [&above, &main] {
        let said = place.run_in(folder, &["init"]).fails(1).stderr;
        assert!(said.contains(".bare is a bare repository and has no checkout; clone it"), "{said}");
        assert!(!folder.join("coding-loops").exists());
    }
}
