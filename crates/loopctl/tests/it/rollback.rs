//! Whatever has happened in a workspace, a rollback gives back what the attempt began with, byte for byte, and loses nothing:
//! what was there can be gone back to, and what was committed is named by a ref of the store. The user's repository has none
//! of it.
//!
//! Random histories; `CODING_LOOPS_ROLLBACKS=100` sets how many, `CODING_LOOPS_SEED=N` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::Place;

const NAMES: &[&[u8]] = &[
    b"a.txt",
    b"b.txt",
    b"exec.sh",
    b"link",
    b"dir/sub.txt",
    b"dir/new",
    b"deep/er/file",
    b"sp ace ",
    b"-dash",
    b"q\"uo'te$(x)",
    b"new\nline",
    b"\xff\xfe latin",
    b"made.ign",
    b"build/cache",
    b".gitattributes",
];

/// Everything in a workspace: path → what it is.
type Content = BTreeMap<Vec<u8>, String>;

fn look(root: &Path) -> Content {
    let mut content = Content::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            let meta = path.symlink_metadata().unwrap();
            if name == b".git" {
                continue;
            }
            if meta.is_symlink() {
                content.insert(name, format!("-> {:?}", fs::read_link(&path).unwrap()));
            } else if meta.is_dir() {
                folders.push(path);
            } else {
                let executable = meta.permissions().mode() & 0o100 != 0;
                content.insert(name, format!("{executable} {:?}", fs::read(&path).unwrap().escape_ascii().to_string()));
            }
        }
    }
    content
}

/// What git ignores there, and what it does not. Without the rules nothing is ignored.
fn parted(content: Content) -> (Content, Content) {
    let rules = content.contains_key(&b".gitignore"[..]);
    content.into_iter().partition(|(name, _)| rules && (name.ends_with(b".ign") || name.starts_with(b"build/")))
}

fn git(folder: &Path, arguments: &[&str], input: &[u8]) -> (bool, String) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=n", "-c", "user.email=e@e", "-c", "core.editor=true"]).args(arguments).current_dir(folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn told(folder: &Path, arguments: &[&str]) -> BTreeSet<String> {
    let (good, said) = git(folder, arguments, b"");
    assert!(good, "{arguments:?}");
    said.lines().map(|line| line.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

fn clear(path: &Path) {
    if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        fs::remove_dir_all(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
}

/// Makes room for a file: no file or link on the way to it.
fn make_room(root: &Path, name: &Path) {
    let mut at = root.to_owned();
    for part in name.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        if at.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            fs::remove_file(&at).unwrap();
        }
        let _ = fs::create_dir(&at);
    }
    clear(&root.join(name));
}

fn step(random: &mut fastrand::Rng, root: &Path) -> String {
    let name = PathBuf::from(OsStr::from_bytes(NAMES[random.usize(..NAMES.len())]));
    let (path, number) = (root.join(&name), random.u16(..));
    let text = if name.ends_with(".gitattributes") { "* text eol=crlf\n".to_owned() } else { format!("{number}\nx\ny\n") };
    let run = |arguments: &[&str]| {
        git(root, arguments, b"");
        format!("git {arguments:?}")
    };
    match random.u8(..24) {
        0..=5 => {
            make_room(root, &name);
            fs::write(&path, text).unwrap();
            format!("write {name:?}")
        }
        6 => {
            clear(&path);
            format!("remove {name:?}")
        }
        7 => {
            make_room(root, &name);
            symlink(["a.txt", "/nowhere", "dir"][random.usize(..3)], &path).unwrap();
            format!("link {name:?}")
        }
        8 => {
            if let Ok(meta) = path.symlink_metadata()
                && meta.is_file()
            {
                let mode = if meta.permissions().mode() & 0o100 == 0 { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            format!("mode of {name:?}")
        }
        9 => {
            let _ = fs::rename(root.join("a.txt"), root.join("moved"));
            "rename".to_owned()
        }
        10 => {
            clear(&root.join("dir"));
            fs::write(root.join("dir"), "no folder any more\n").unwrap();
            "dir becomes a file".to_owned()
        }
        11 => {
            fs::create_dir_all(root.join("empty/folder")).unwrap();
            "empty folder".to_owned()
        }
        12..=13 => run(&["add", "--all"]),
        14..=15 => run(&["commit", "--quiet", "--all", "--message", &format!("c{number}")]),
        16 => run(&["commit", "--quiet", "--all", "--amend", "--message", "amended"]),
        17 => run(&["reset", "--quiet", ["--hard", "--soft", "--mixed"][random.usize(..3)], "HEAD~1"]),
        18 => run(&["checkout", "--quiet", "-b", &format!("side-{number}")]),
        19 => run(&["checkout", "--quiet", "--detach"]),
        20 => run(&["rm", "--quiet", "--cached", "b.txt"]),
        21 => {
            run(&["update-index", ["--assume-unchanged", "--skip-worktree"][random.usize(..2)], "a.txt"]);
            if root.join("a.txt").is_file() {
                fs::write(root.join("a.txt"), format!("hidden {number}\n")).unwrap();
            }
            "hide a.txt".to_owned()
        }
        22 => run(&["stash", "--include-untracked", "--quiet"]),
        _ => {
            // Somebody else's commit on the same lines, merged or rebased upon, with conflicts as likely as not.
            let (_, tree) = git(root, &["write-tree"], b"");
            let (_, blob) = git(root, &["hash-object", "-w", "--stdin"], format!("theirs {number}\n").as_bytes());
            let (_, tree) = git(root, &["ls-tree", &tree], b"")
                .1
                .lines()
                .filter(|line| !line.ends_with("\ta.txt"))
                .fold((true, format!("100644 blob {blob}\ta.txt\n")), |(good, text), line| (good, format!("{text}{line}\n")));
            let (_, tree) = git(root, &["mktree"], tree.as_bytes());
            let (good, commit) = git(root, &["commit-tree", &tree, "-p", "HEAD~1", "-m", "theirs"], b"");
            if good {
                run(&[["merge", "rebase", "cherry-pick"][random.usize(..3)], &commit]);
            }
            "theirs".to_owned()
        }
    }
}

fn one(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::bare();
    let main = place.repository();
    fs::create_dir(main.join("dir")).unwrap();
    for (name, text) in [
        ("a.txt", "a\nx\ny\n"),
        ("b.txt", "b\n"),
        ("exec.sh", "#!/bin/sh\n"),
        ("dir/sub.txt", "sub\n"),
        (".gitignore", "*.ign\nbuild/\n"),
    ] {
        fs::write(main.join(name), text).unwrap();
    }
    fs::set_permissions(main.join("exec.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("a.txt", main.join("link")).unwrap();
    place.git(&["add", "--all"]);
    place.git(&["commit", "--quiet", "--message", "second"]);
    place.run(&["init"]).ok();
    place.run(&["loop", "add", "a"]).ok();
    place.run(&["test", "add", "t1", "--loop", "a"]).ok();
    let workspace = place.json(&["next", "--loop", "a"])["worktree"].as_str().unwrap().to_owned();
    let root = Path::new(&workspace);
    let (_, began) = parted(look(root));

    let (mut steps, mut committed) = (Vec::new(), BTreeSet::new());
    for _ in 0..random.usize(4..16) {
        steps.push(step(&mut random, root));
        committed.insert(git(root, &["rev-parse", "HEAD"], b"").1);
    }
    let said = |what: &str| format!("{what}; CODING_LOOPS_SEED={seed}\n{}", steps.join("\n"));
    let mut left_all = look(root);
    let (mut ignored, _) = parted(left_all.clone());
    let sparse = git(root, &["ls-files", "-v"], b"").1.lines().any(|line| line.starts_with(['S', 's']));
    // Nothing beyond what has landed before; what is staged of files that are as they were is no work.
    let clean = (git(root, &["status", "--porcelain"], b"").1.is_empty() || parted(left_all.clone()).1 == began)
        && git(root, &["merge-base", "--is-ancestor", "HEAD", "origin/coding-loops/integration"], b"").0;
    // What git tracks is not ignored, whatever the rules say.
    let tracked = git(root, &["ls-files", "-z"], b"").1;
    let tracked: BTreeSet<&str> = tracked.split('\0').collect();
    ignored.retain(|name, _| !std::str::from_utf8(name).is_ok_and(|name| tracked.contains(name)));
    left_all.retain(|name, _| !ignored.contains_key(name));

    place.run(&["rollback", "a"]).ok();
    let (still_ignored, now) = parted(look(root));
    assert_eq!(now, began, "{}", said("the rollback"));
    // What becomes ignored again by the rules that come back stays as well.
    let stays = |name: &Vec<u8>| still_ignored.get(name);
    assert!(ignored.iter().all(|(name, what)| stays(name) == Some(what)), "{}", said("what is ignored stays"));
    let test = &place.json(&["status", "t1"])["test"];
    assert_eq!((&test["status"], &test["attempts"]), (&"pending".into(), &0.into()), "{}", said("the test is given back"));
    assert_eq!(place.json(&["timeline", "--type", "rollback_done"]).as_array().unwrap().len(), 1);

    let store = place.workspaces().join("store.git");
    let named = told(&store, &["rev-list", "--all"]);
    let lost: Vec<&String> = committed.difference(&named).collect();
    assert!(lost.is_empty(), "{}", said(&format!("commits that nothing names: {lost:?}")));

    // Every ref has its row, and the newest saved work is what was there.
    let rows = place.json(&["checkpoints", "--loop", "a"]);
    let saved = rows.as_array().unwrap().iter().find(|row| {
        let name = row["git_ref"].as_str().unwrap();
        row["checkpoint_type"] == "stash" && !name.ends_with("-branch") && !name.ends_with("-commits")
    });
    let of = |kind: &str| format!("refs/coding-loops/{kind}/");
    let refs = told(&store, &["for-each-ref", "--format=%(refname)", &of("saved"), &of("checkpoints")]);
    let known: BTreeSet<String> =
        rows.as_array().unwrap().iter().map(|row| row["git_ref"].as_str().unwrap().to_owned()).collect();
    assert_eq!(refs.into_iter().filter(|name| !name.is_empty()).collect::<BTreeSet<_>>(), known, "{}", said("refs and rows"));
    if let Some(saved) = saved {
        place.run(&["rollback", "a", "--checkpoint", saved["id"].as_str().unwrap()]).ok();
        // Git keeps a file's name and bytes; under its rules for line ends other bytes can be the same content.
        let rules = left_all.keys().any(|name| name == b".gitattributes");
        let mut back = look(root);
        back.retain(|name, _| !ignored.contains_key(name));
        // A file that is not to be there (as in a sparse checkout) is not one that was deleted.
        if !rules && !sparse {
            assert_eq!(back, left_all, "{}", said("going back to what was saved"));
        }
        place.run(&["rollback", "a"]).ok();
        assert_eq!(parted(look(root)).1, began, "{}", said("and back again"));
    } else {
        assert!(clean, "{}", said("nothing was saved"));
    }
    place.run(&["check"]).ok();
    let (_, user) = git(&main, &["status", "--porcelain"], b"");
    assert_eq!(user, "", "{}", said("the user's checkout"));
    let beyond = told(&main, &["for-each-ref", "--format=%(refname)"]);
    let beyond: Vec<_> = beyond.iter().filter(|name| !name.starts_with("refs/heads/")).collect();
    assert!(beyond.is_empty(), "{}", said(&format!("references of ours in the user's repository: {beyond:?}")));
}

#[test]
fn a_rollback_gives_back_every_byte_and_loses_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("CODING_LOOPS_SEED") {
        return one(seed);
    }
    let seeds: Vec<u64> = (0..number("CODING_LOOPS_ROLLBACKS").unwrap_or(8)).map(|_| fastrand::u64(..1_000_000)).collect();
    for seed in seeds {
        one(seed);
    }
}
