//! Snapshots of a workspace: what the agent has changed, whatever it did to its git.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::place::{OPTIONS, Place, change, look, names, show};
use git::{Error, Finding, SnapshotOptions};
use test_support::{git, write};

#[test]
fn files_are_found_and_no_change_is_none() {
    let place =
        Place::new(&[("a.txt", "one\n"), ("b.txt", "one\n"), ("src/c.rs", "one\n"), (".gitignore", "target/\n*.log\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    assert_eq!(look(&workspace), (vec![], vec![]));
    write(root, "a.txt", "two\n");
    fs::remove_file(root.join("b.txt")).unwrap();
    write(root, "new/d.txt", "new\n");
    write(root, "target/out", "built\n");
    write(root, "x.log", "said\n");
    let mut mode = fs::metadata(root.join("src/c.rs")).unwrap().permissions();
    mode.set_mode(0o755);
    fs::set_permissions(root.join("src/c.rs"), mode).unwrap();
    assert_eq!(look(&workspace), (vec!["a.txt".into(), "b.txt".into(), "new/d.txt".into(), "src/c.rs".into()], vec![]));
    let (snapshot, change) = change(&workspace);
    assert_eq!(names(&change.paths), ["a.txt", "b.txt", "new/d.txt", "src/c.rs"]);
    assert_eq!(change.tree, snapshot.tree);
    assert_eq!(show(&store, &change.tree, "new/d.txt").as_deref(), Some("new\n"));
    // Reverted by hand, it is no change.
    write(root, "a.txt", "one\n");
    write(root, "b.txt", "one\n");
    fs::remove_dir_all(root.join("new")).unwrap();
    fs::set_permissions(root.join("src/c.rs"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(look(&workspace), (vec![], vec![]));
}

#[test]
fn the_agents_git_makes_no_change() {
    let place = Place::new(&[("a.txt", "one\n"), ("b.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    write(root, "a.txt", "two\n");
    git(root, ["commit", "--quiet", "-am", "mine"]);
    assert_eq!(look(&workspace).0, ["a.txt"], "a commit hides nothing");
    git(root, ["checkout", "--quiet", "-b", "elsewhere"]);
    write(root, "b.txt", "two\n");
    git(root, ["stash"]);
    assert_eq!(look(&workspace).0, ["a.txt"], "what is stashed is not there");
    git(root, ["stash", "pop"]);
    git(root, ["update-index", "--assume-unchanged", "b.txt"]);
    fs::write(root.join(".git/info/exclude"), "*\n").unwrap();
    fs::write(root.join(".git/info/attributes"), "* text eol=crlf\n").unwrap();
    git(root, ["config", "core.excludesFile", "/dev/zero"]);
    write(root, "c.txt", "new\n");
    assert_eq!(look(&workspace).0, ["a.txt", "b.txt", "c.txt"]);
    fs::remove_file(root.join(".git/info/attributes")).unwrap();
    git(root, ["checkout", "--quiet", "-f", "origin/main"]);
    assert_eq!(look(&workspace).0, ["c.txt"], "a branch switch is what it does to the files");
    fs::remove_dir_all(root.join(".git")).unwrap();
    write(root, "a.txt", "three\n");
    assert_eq!(look(&workspace).0, ["a.txt", "c.txt"], "also without a git folder");
}

#[test]
fn a_hostile_config_runs_nothing() {
    let place = Place::new(&[("a.txt", "one\n"), (".gitattributes", "*.x filter=evil\n")]);
    let dir = place.dir.path().to_owned();
    let marker = dir.join("executed");
    let script = dir.join("evil.sh");
    fs::write(&script, format!("#!/bin/sh\ntouch '{}'\ncat\n", marker.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    // A submodule that the base has, and its own repository.
    let library = dir.join("library");
    fs::create_dir(&library).unwrap();
    git(&library, ["init", "--quiet"]);
    write(&library, "l.txt", "one\n");
    git(&library, ["add", "-A"]);
    git(&library, ["commit", "--quiet", "-m", "l"]);
    git(&place.root, ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", library.to_str().unwrap(), "vendor"]);
    place.commit(&[]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    let clone = || {
        fs::remove_dir_all(root.join("vendor")).unwrap();
        git(root, ["-c", "protocol.file.allow=always", "clone", "--quiet", library.to_str().unwrap(), "vendor"]);
    };
    clone();
    fs::create_dir(root.join("app")).unwrap();
    git(&root.join("app"), ["init", "--quiet"]);
    write(root, "app/main.rs", "fn main() {}\n");
    git(&root.join("app"), ["add", "-A"]);
    git(&root.join("app"), ["commit", "--quiet", "-m", "app"]);
    let hostile = |folder: &Path| {
        for (key, value) in [
            ("core.fsmonitor", script),
            ("core.sshCommand", script),
            ("core.alternateRefsCommand", script),
            ("filter.evil.clean", script),
            ("filter.evil.process", script),
            ("diff.external", script),
            ("core.pager", script),
            ("core.hooksPath", dir.to_str().unwrap()),
        ] {
            git(folder, ["config", key, value]);
        }
        fs::create_dir_all(folder.join(".git/hooks")).unwrap();
        for hook in ["post-checkout", "post-index-change", "reference-transaction", "pre-commit", "fsmonitor-watchman"] {
            fs::copy(script, folder.join(".git/hooks").join(hook)).unwrap();
            fs::copy(script, dir.join(hook)).unwrap();
        }
    };
    hostile(root);
    hostile(&root.join("vendor"));
    hostile(&root.join("app"));
    drop(fs::remove_file(&marker));
    write(root, "vendor/l.txt", "changed\n");
    write(root, "b.x", "filtered\n");
    write(root, "a.txt", "two\n");
    let (changed, findings) = look(&workspace);
    assert_eq!(changed, ["a.txt", "app/main.rs", "b.x"], "{findings:?}");
    workspace.follow_agent(&store.integration().unwrap().unwrap()).unwrap();
    workspace.reset_to(&store.integration().unwrap().unwrap()).unwrap();
    assert_eq!(look(&workspace).0, Vec::<String>::new());
    assert!(!marker.exists(), "something of the agent's config was executed");
    // The trap is real: an ordinary git falls into it.
    clone();
    hostile(&root.join("vendor"));
    write(root, "vendor/l.txt", "again\n");
    git(&root.join("vendor"), ["status"]);
    assert!(marker.exists());
}

#[test]
fn a_nested_repository_is_plain_files() {
    let place = Place::new(&[("a.txt", "one\n"), (".gitignore", "*.log\nbuild/\n")]);
    let workspace = place.workspace(&place.store(), "a");
    let root = workspace.root();
    for (folder, commit) in [("app", true), ("unborn", false), ("deep/in/it", true)] {
        write(root, format!("{folder}/main.rs"), "fn main() {}\n");
        write(root, format!("{folder}/said.log"), "x\n");
        write(root, format!("{folder}/build/out"), "x\n");
        write(root, format!("{folder}/.gitignore"), "own.tmp\n");
        write(root, format!("{folder}/own.tmp"), "x\n");
        write(root, format!("{folder}/src/lib.rs"), "\n");
        git(&root.join(folder), ["init", "--quiet"]);
        if commit {
            git(&root.join(folder), ["add", "main.rs"]);
            git(&root.join(folder), ["commit", "--quiet", "-m", "x"]);
        }
    }
    let (changed, findings) = look(&workspace);
    let of = |folder: &str| [".gitignore", "main.rs", "src/lib.rs"].map(|name| format!("{folder}/{name}"));
    let mut expected: Vec<String> = [of("app"), of("deep/in/it"), of("unborn")].concat();
    expected.sort();
    assert_eq!((changed, findings), (expected.clone(), vec![]));
    write(root, "app/main.rs", "fn main() { }\n");
    write(root, "app/more.rs", "\n");
    assert_eq!(look(&workspace).0.len(), expected.len() + 1);
    fs::remove_dir_all(root.join("app")).unwrap();
    assert_eq!(look(&workspace).0.len(), expected.len() - 3);
}

#[test]
fn a_submodules_commit_is_read_and_must_be_known() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let library = place.dir.path().join("library");
    fs::create_dir(&library).unwrap();
    git(&library, ["init", "--quiet"]);
    let commit = |text: &str| {
        write(&library, "l.txt", text);
        git(&library, ["add", "-A"]);
        git(&library, ["commit", "--quiet", "-m", text]);
    };
    commit("one\n");
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", library.to_str().unwrap(), "vendor"];
    git(&place.root, add);
    place.commit(&[]);
    commit("two\n");
    let workspace = place.workspace(&place.store(), "a");
    let root = workspace.root();
    git(root, ["submodule", "--quiet", "deinit", "-f", "vendor"]);
    assert_eq!(look(&workspace), (vec![], vec![]), "one that is not initialised is no change");
    git(root, ["-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init"]);
    assert_eq!(look(&workspace), (vec![], vec![]));
    let vendor = root.join("vendor");
    git(&vendor, ["-c", "protocol.file.allow=always", "fetch", "--quiet", "origin"]);
    write(&vendor, "l.txt", "dirty\n");
    let edited = Finding::EditedInSubmodule { path: "vendor".into(), files: vec!["l.txt".into()] };
    assert_eq!(look(&workspace), (vec![], vec![edited]), "what is not committed there is named");
    git(&vendor, ["checkout", "--quiet", "-f", "FETCH_HEAD"]);
    assert_eq!(look(&workspace), (vec!["vendor".into()], vec![]), "its remote has this commit");
    write(&vendor, "l.txt", "mine\n");
    git(&vendor, ["commit", "--quiet", "-am", "mine"]);
    let (changed, findings) = look(&workspace);
    assert_eq!(changed, ["vendor"]);
    assert!(matches!(&findings[..], [Finding::UnknownSubmoduleCommit { commit: Some(_), .. }]), "{findings:?}");
    // The user has it too.
    git(
        &place.root,
        ["-c", "protocol.file.allow=always", "-C", "vendor", "fetch", "--quiet", vendor.to_str().unwrap(), "HEAD"],
    );
    let options = SnapshotOptions { user: Some(&place.user), ..OPTIONS };
    assert_eq!(workspace.snapshot(&options).unwrap().findings, []);
    // Removed.
    fs::remove_dir_all(&vendor).unwrap();
    fs::remove_file(root.join(".gitmodules")).unwrap();
    assert_eq!(look(&workspace), (vec![".gitmodules".into(), "vendor".into()], vec![]));
    write(root, "vendor/plain.txt", "x\n");
    assert_eq!(look(&workspace).0, [".gitmodules", "vendor", "vendor/plain.txt"]);
}

#[test]
fn what_is_dirty_from_the_start_is_nobodys_change() {
    let place = Place::new(&[("dos.txt", "one\r\ntwo\r\n"), ("a.txt", "one\n"), ("lock", "1\n")]);
    // Normalised only from now on: the file is dirty in every fresh check-out.
    place.commit(&[(".gitattributes", "*.txt text\n")]);
    write(&place.root, ".gitattributes", "*.txt text=auto eol=lf\n*.up filter=up\n");
    git(&place.root, ["add", ".gitattributes"]);
    git(&place.root, ["commit", "--quiet", "-m", "attributes"]);
    let blob = fs::write(place.root.join("raw"), "one\r\ntwo\r\n")
        .map(|()| git(&place.root, ["hash-object", "-w", "--no-filters", "raw"]))
        .unwrap();
    git(&place.root, ["update-index", "--cacheinfo", &format!("100644,{},dos.txt", blob.trim())]);
    fs::remove_file(place.root.join("raw")).unwrap();
    // Whether git has normalised the file above depends on how old its index was then.
    git(&place.root, ["commit", "--quiet", "--allow-empty", "-m", "crlf in the repository"]);
    git(&place.root, ["config", "filter.up.clean", "tr a-z A-Z"]);
    git(&place.root, ["config", "filter.up.smudge", "tr A-Z a-z"]);
    let store = place.store();
    let base = store.integration().unwrap().unwrap();
    let workspace = git::Workspace::open_or_create(&store, &place.spec("a"), &base).unwrap().0;
    let root = workspace.root();
    // What set-up leaves.
    write(root, "lock", "2\n");
    write(root, "generated.txt", "made\n");
    workspace.snapshot_start(&OPTIONS).unwrap();
    assert_eq!(look(&workspace), (vec![], vec![]));
    // Touched without a change.
    let content = fs::read(root.join("dos.txt")).unwrap();
    assert_eq!(content, b"one\r\ntwo\r\n");
    fs::remove_file(root.join("dos.txt")).unwrap();
    write(root, "dos.txt", &content);
    assert_eq!(look(&workspace), (vec![], vec![]));
    write(root, "a.txt", "two\r\n");
    write(root, "new.up", "shout\n");
    let (_, change) = change(&workspace);
    assert_eq!(names(&change.paths), ["a.txt", "new.up"]);
    assert_eq!(show(&store, &change.tree, "a.txt").as_deref(), Some("two\n"));
    assert_eq!(show(&store, &change.tree, "new.up").as_deref(), Some("SHOUT\n"));
    assert_eq!(show(&store, &change.tree, "lock").as_deref(), Some("1\n"), "the base's, not set-up's");
    assert_eq!(show(&store, &change.tree, "generated.txt"), None);
    write(root, "dos.txt", "one\r\nthree\r\n");
    write(root, "generated.txt", "changed\n");
    assert_eq!(look(&workspace).0, ["a.txt", "dos.txt", "generated.txt", "new.up"]);
}

#[test]
fn what_git_cannot_store_fails_by_name() {
    let place = Place::new(&[("a.txt", "one\n"), ("pipe", "x\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    write(root, ".gitattributes", "*.utf working-tree-encoding=UTF-16\n");
    for name in ["bad.utf", "worse.utf"] {
        write(root, name, b"\xff\xfeq");
    }
    write(root, "good.txt", "x\n");
    write(root, "big.bin", vec![0; 2_000_000]);
    fs::remove_file(root.join("pipe")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let (changed, findings) = look(&workspace);
    assert_eq!(changed, [".gitattributes", "good.txt"]);
    let reported: Vec<String> = findings.iter().map(|finding| finding.path().to_string_lossy().into_owned()).collect();
    assert_eq!(reported, ["big.bin", "bad.utf", "pipe", "worse.utf"]);
    assert!(matches!(findings[0], Finding::TooLarge { bytes: 2_000_000, .. }), "{findings:?}");
    fs::remove_file(root.join("big.bin")).unwrap();
    fs::remove_file(root.join("bad.utf")).unwrap();
    fs::remove_file(root.join("worse.utf")).unwrap();
    fs::remove_file(root.join("pipe")).unwrap();
    assert_eq!(look(&workspace), (vec![".gitattributes".into(), "good.txt".into(), "pipe".into()], vec![]));
}

#[test]
fn what_git_leaves_out_without_an_error_fails_by_name() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let workspace = place.workspace(&place.store(), "a");
    // Names that some file system takes for `.git`.
    let never = [".git ", "d/.Git/x", "git~1"];
    for name in never.iter().chain(&["b.txt"]) {
        write(workspace.root(), name, "x\n");
    }
    let (changed, findings) = look(&workspace);
    assert_eq!(changed, ["b.txt"]);
    let reported: Vec<String> = findings.iter().map(|finding| finding.path().to_string_lossy().into_owned()).collect();
    assert_eq!(reported, never);
    assert!(findings.iter().all(|finding| matches!(finding, Finding::Unstorable { .. })), "{findings:?}");
}

#[test]
fn large_files_with_a_filter_are_taken() {
    let place = Place::new(&[(".gitattributes", "*.bin filter=short\n")]);
    git(&place.root, ["config", "filter.short.clean", "head -c 5"]);
    let workspace = place.workspace(&place.store(), "a");
    write(workspace.root(), "big.bin", vec![b'x'; 2_000_000]);
    assert_eq!(look(&workspace), (vec!["big.bin".into()], vec![]));
}

#[test]
fn what_may_not_land_is_found() {
    let place = Place::new(&[("a.txt", "one\n"), ("dir/b.txt", "one\n")]);
    let workspace = place.workspace(&place.store(), "a");
    let root = workspace.root();
    write(root, "coding-loops/config.toml", "x\n");
    symlink("a.txt", root.join("inside")).unwrap();
    symlink("../a.txt", root.join("dir/inside")).unwrap();
    symlink("gone", root.join("dangling")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("../../x", root.join("dir/up")).unwrap();
    symlink(".git/config", root.join("git")).unwrap();
    symlink("absolute", root.join("through")).unwrap();
    let (changed, findings) = look(&workspace);
    assert_eq!(changed.len(), 8);
    let reported: Vec<(bool, String)> = findings
        .iter()
        .map(|finding| (matches!(finding, Finding::LinkLeadsOut { .. }), finding.path().to_string_lossy().into_owned()))
        .collect();
    let expected =
        [(false, "coding-loops/config.toml"), (true, "absolute"), (true, "dir/up"), (true, "git"), (true, "through")];
    assert_eq!(reported, expected.map(|(link, name)| (link, name.to_owned())));
    // A folder replaced by a link to somewhere else: its files are gone, and nothing is read through it.
    fs::remove_dir_all(root.join("dir")).unwrap();
    symlink(&place.root, root.join("dir")).unwrap();
    let (changed, _) = look(&workspace);
    assert!(changed.contains(&"dir".to_owned()) && changed.contains(&"dir/b.txt".to_owned()), "{changed:?}");
    workspace.reset_to(&place.user.commit("main").unwrap()).unwrap();
    assert_eq!(fs::read_to_string(root.join("dir/b.txt")).unwrap(), "one\n");
    assert!(!place.root.join("b.txt").exists(), "nothing was written through the link");
}

#[test]
fn ignored_at_the_base_or_now() {
    let place = Place::new(&[(".gitignore", "node_modules/\n*.log\n"), ("kept.txt", "x\n")]);
    write(&place.root, "tracked.log", "one\n");
    git(&place.root, ["add", "-f", "tracked.log"]);
    place.commit(&[]);
    let workspace = place.workspace(&place.store(), "a");
    let root = workspace.root();
    write(root, "node_modules/m/index.js", "x\n");
    write(root, "tracked.log", "two\n");
    write(root, ".aider.chat.history.md", "x\n");
    write(root, ".claude/worktrees/w/f", "x\n");
    write(root, "x.swp", "x\n");
    assert_eq!(look(&workspace), (vec!["tracked.log".into()], vec![]), "what is tracked stays tracked");
    write(root, ".gitignore", "*.tmp\n");
    write(root, "y.tmp", "x\n");
    write(root, "said.log", "x\n");
    let (changed, findings) = look(&workspace);
    assert_eq!(changed, [".gitignore", "tracked.log"]);
    let ignored = |name: &str| Finding::IgnoredAtBase(PathBuf::from(name));
    assert_eq!(findings, [ignored("node_modules/m/index.js"), ignored("said.log")]);
    let all = SnapshotOptions { take_unignored: true, ..OPTIONS };
    assert_eq!(workspace.snapshot(&all).unwrap().changed.len(), 5);
}

#[test]
fn names_of_any_bytes() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let raw: &[&[u8]] = &[
        b"line\nbreak",
        b"tab\there",
        b"\xff\xfe",
        b"-rf",
        b":(top)x",
        b"quo\"te'",
        b"back\\slash",
        b" space ",
        b"*?[a]",
        "ü".as_bytes(),
    ];
    for name in raw {
        write(workspace.root(), Path::new(OsStr::from_bytes(name)), "x\n");
    }
    let snapshot = workspace.snapshot(&OPTIONS).unwrap();
    assert_eq!((snapshot.changed.len(), snapshot.findings), (raw.len(), vec![]));
    write(workspace.root(), ".GIT/config", "x\n");
    let (changed, findings) = look(&workspace);
    assert_eq!(changed.len(), raw.len());
    assert!(matches!(&findings[..], [Finding::Unstorable { .. }]), "{findings:?}");
    for name in raw {
        fs::remove_file(workspace.root().join(OsStr::from_bytes(name))).unwrap();
    }
    assert_eq!(look(&workspace).0, Vec::<String>::new());
}

#[test]
fn files_and_folders_that_change_places() {
    let place = Place::new(&[("a", "one\n"), ("d/e", "one\n"), ("l", "one\n")]);
    let workspace = place.workspace(&place.store(), "a");
    let root = workspace.root();
    fs::remove_file(root.join("a")).unwrap();
    write(root, "a/b", "x\n");
    fs::remove_dir_all(root.join("d")).unwrap();
    write(root, "d", "x\n");
    fs::remove_file(root.join("l")).unwrap();
    symlink("d", root.join("l")).unwrap();
    assert_eq!(look(&workspace), (["a", "a/b", "d", "d/e", "l"].map(String::from).to_vec(), vec![]));
}

#[test]
fn a_lost_workspace_is_an_error_by_name() {
    let place = Place::new(&[("a", "one\n")]);
    let workspace = place.workspace(&place.store(), "a");
    fs::rename(workspace.root(), place.dir.path().join("away")).unwrap();
    assert!(matches!(workspace.snapshot(&OPTIONS), Err(Error::WorkspaceDamaged { .. })));
    symlink(&place.root, workspace.root()).unwrap();
    assert!(matches!(workspace.snapshot(&OPTIONS), Err(Error::WorkspaceDamaged { .. })));
}

#[test]
fn a_snapshot_killed_in_the_middle_is_taken_again() {
    let place = Place::new(&[("a", "one\n")]);
    let workspace = place.workspace(&place.store(), "a");
    write(workspace.root(), "a", "two\n");
    let first = workspace.snapshot(&OPTIONS).unwrap();
    // Killed between the index and the record: the record names no tree.
    let state = place.spec("a").state;
    let text = fs::read_to_string(state.join("state.json")).unwrap();
    fs::write(state.join("state.json"), text.replace(&format!("\"index_tree\":\"{}\"", first.tree), "\"index_tree\":null"))
        .unwrap();
    fs::write(state.join("index.lock"), "").unwrap();
    assert_eq!(workspace.snapshot(&OPTIONS).unwrap(), first);
}

#[test]
fn rules_that_the_agent_changes_hide_nothing_and_let_nothing_in() {
    let place = Place::new(&[("a.txt", "one\n"), (".gitignore", "out/\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    write(root, ".gitignore", "notes*\nsp?ce/\n");
    write(root, "out/built", "built\n");
    write(root, "notes [1]", "kept\n");
    write(root, "sp ce/x", "kept\n");
    let saving = SnapshotOptions { take_unignored: true, ..OPTIONS };
    let expected = [".gitignore", "notes [1]", "out/built", "sp ce/x"];
    for _ in 0..2 {
        let (paths, findings) = look(&workspace);
        assert_eq!(paths, [".gitignore"]);
        assert_eq!(findings, [Finding::IgnoredAtBase("out/built".into())]);
        assert_eq!(names(&workspace.snapshot(&saving).unwrap().changed), expected, "nothing is lost where all is saved");
    }
    // Back under its rules, what lies there is what it was.
    write(root, ".gitignore", "out/\n");
    assert_eq!(look(&workspace).0, ["notes [1]", "sp ce/x"]);
}
