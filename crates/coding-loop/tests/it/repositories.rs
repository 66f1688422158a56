//! Repositories as they are: each kind goes from its first test to a verified landing, or the loop says what is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{CHECK, World};
use coord_db::{ErrorCategory, TestStatus};
use test_support::run;

const AGENT: &str = "cat >/dev/null; echo x >$TEST_ID\n";

fn git_in(folder: &Path, arguments: &[&str]) -> String {
    run(Command::new("git").args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments).current_dir(folder))
}

/// A world whose repository is a clone of what it was, with three more commits and a folder.
fn cloned(options: &[&str]) -> (World, PathBuf) {
    let world = World::new(AGENT, CHECK);
    world.add_loop("one");
    let (source, home) = (world.folder().join("source"), world.folder().join("home"));
    fs::rename(&world.home, &home).unwrap();
    fs::rename(&world.repository, &source).unwrap();
    fs::create_dir_all(source.join("deep/folder")).unwrap();
    for text in ["one\n", "two\n", "three\n"] {
        fs::write(source.join("deep/folder/file"), text).unwrap();
        fs::write(source.join("other"), format!("other {text}")).unwrap();
        git_in(&source, &["add", "--all"]);
        git_in(&source, &["commit", "--quiet", "-m", text]);
    }
    for key in ["uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"] {
        git_in(&source, &["config", key, "true"]);
    }
    let url = format!("file://{}", source.display());
    let place = world.repository.to_str().unwrap();
    git_in(world.folder(), &[&["clone", "--quiet"], options, &[&url, place]].concat());
    fs::rename(&home, &world.home).unwrap();
    (world, source)
}

/// The next test lands, with its file and no other, and the user's checkout is as it was.
fn lands(world: &World, test: &str) {
    let before = (world.git(&["status", "--porcelain"]), fs::read(world.repository.join(".git/config")).ok());
    world.add_test(test, "one");
    let output = world.once("one");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(world.test(test).status, TestStatus::Passed, "{:?}", world.test(test).last_error);
    assert_eq!(world.git(&["show", "--name-only", "--format=", "coding-loops/integration"]), test);
    assert_eq!((world.git(&["status", "--porcelain"]), fs::read(world.repository.join(".git/config")).ok()), before);
}

/// What a loop says that cannot start.
fn refused(world: &World) -> String {
    world.add_test("t1", "one");
    let output = world.once("one");
    assert_ne!(output.status.code(), Some(0));
    assert_eq!((world.test("t1").status, world.test("t1").attempts), (TestStatus::Pending, 0));
    String::from_utf8(output.stderr).unwrap().lines().last().unwrap_or_default().to_owned()
}

#[test]
fn clones_that_hold_less_than_everything() {
    for options in [&["--depth=1"][..], &["--filter=blob:none"], &["--filter=tree:0"]] {
        let (world, source) = cloned(options);
        fs::rename(&source, source.with_extension("away")).unwrap();
        lands(&world, "t1");
        lands(&world, "t2");
        assert!(world.workspace("one").join("deep/folder/file").exists(), "{options:?}");
    }
    let (world, _) = cloned(&["--sparse"]);
    lands(&world, "t1");
    assert!(world.workspace("one").join("deep/folder/file").exists(), "agents and checks see all of it");
    assert!(!world.repository.join("deep").exists());
}

#[test]
fn a_partial_clone_that_lacks_files_says_how_to_get_them() {
    let (world, _) = cloned(&["--filter=blob:none", "--sparse"]);
    let said = refused(&world);
    assert!(said.contains("is a partial clone that lacks 1 files of "), "{said}");
    let remedy = said.rsplit_once("; fetch them with git ").unwrap().1.to_owned();
    git_in(&world.repository, &remedy.split(' ').collect::<Vec<_>>());
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed);
}

#[test]
fn without_a_commit_or_a_branch() {
    let (world, _) = cloned(&[]);
    world.git(&["checkout", "--quiet", "--detach", "HEAD~1"]);
    lands(&world, "t1");
    assert_eq!(world.git(&["show", "coding-loops/integration:other"]), "other two");

    let (world, _) = cloned(&[]);
    world.git(&["checkout", "--quiet", "--orphan", "new"]);
    let said = refused(&world);
    assert!(said.contains("has no commit; create the first commit and start the loop again"), "{said}");
}

#[test]
fn another_file_system_for_the_workspaces() {
    use std::os::unix::fs::MetadataExt;
    let device = |folder: &Path| folder.metadata().ok().map(|meta| meta.dev());
    let own = device(&std::env::temp_dir());
    let mut others = [Path::new("/dev/shm"), Path::new("/tmp"), Path::new(env!("CARGO_TARGET_TMPDIR"))].into_iter();
    let Some(other) = others.find(|folder| device(folder).is_some_and(|device| Some(device) != own)) else {
        eprintln!("skipped: no other file system");
        return;
    };
    let root = tempfile::TempDir::new_in(other).unwrap();
    let (world, _) = cloned(&[]);
    world.configure(|text| format!("[workspace]\nroot = {:?}\n{text}", root.path().join("ws")));
    lands(&world, "t1");
    assert!(root.path().join("ws/store.git").is_dir() && !world.root().exists());
}

#[test]
fn formats_of_their_own() {
    for option in ["--object-format=sha256", "--ref-format=reftable"] {
        let world = World::new(AGENT, CHECK);
        world.add_loop("one");
        fs::remove_dir_all(world.repository.join(".git")).unwrap();
        if !Command::new("git")
            .args(["init", "-q", "-b", "main", option])
            .current_dir(&world.repository)
            .status()
            .unwrap()
            .success()
        {
            eprintln!("skipped: this git knows no {option}");
            continue;
        }
        git_in(&world.repository, &["add", "--all"]);
        git_in(&world.repository, &["commit", "--quiet", "-m", "begin"]);
        lands(&world, "t1");
        lands(&world, "t2");
    }
}

#[test]
fn what_the_user_has_set_for_other_file_systems_changes_nothing_here() {
    let (world, _) = cloned(&[]);
    for (key, value) in [("core.ignorecase", "true"), ("core.filemode", "false"), ("core.symlinks", "false")] {
        world.git(&["config", key, value]);
    }
    lands(&world, "t0");
    fs::write(
        world.folder().join("agent.sh"),
        "cat >/dev/null; mv other Other; chmod +x shared; ln -s shared link; echo x >$TEST_ID\n",
    )
    .unwrap();
    world.add_test("t1", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
    let listed = world.git(&["ls-tree", "coding-loops/integration"]);
    let modes: Vec<String> =
        listed.lines().filter_map(|line| Some(format!("{} {}", line.split(' ').next()?, line.split('\t').nth(1)?))).collect();
    for expected in ["100644 Other", "100755 shared", "120000 link"] {
        assert!(modes.iter().any(|mode| mode == expected), "{expected}: {modes:?}");
    }
    assert!(!modes.iter().any(|mode| mode.ends_with(" other")));
    // Renamed by one, edited by the other.
    fs::write(world.folder().join("agent.sh"), "cat >/dev/null; echo more >>Other; echo x >$TEST_ID\n").unwrap();
    world.add_test("t2", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert!(world.git(&["show", "coding-loops/integration:Other"]).ends_with("more"));
}

#[test]
fn linked_worktrees_of_the_users_are_left_alone() {
    let (world, _) = cloned(&[]);
    let linked = world.folder().join("linked");
    world.git(&["worktree", "add", "--quiet", "-b", "feature", linked.to_str().unwrap()]);
    fs::write(linked.join("other"), "edited\n").unwrap();
    lands(&world, "t1");
    assert_eq!(git_in(&linked, &["status", "--porcelain"]), " M other");
    assert_eq!(world.git(&["worktree", "list"]).lines().count(), 2);
    // A loop that is started in one works for the same installation.
    world.add_test("t2", "one");
    let mut command = world.command("one");
    command.args(["--once", "--db"]).arg(world.home.join("coordination.db")).current_dir(&linked);
    assert!(command.status().unwrap().success());
    assert_eq!(world.test("t2").status, TestStatus::Passed);
}

#[test]
fn hooks_of_the_users_run_for_nobody_and_none_can_be_rewritten() {
    let (world, _) = cloned(&[]);
    let ran = world.folder().join("hook-ran");
    let hook = format!("#!/bin/sh\necho \"$0\" >>'{}'\nexit 1\n", ran.display());
    let hooks = world.repository.join(".husky");
    fs::create_dir_all(&hooks).unwrap();
    for folder in [&hooks, &world.repository.join(".git/hooks")] {
        for name in ["pre-commit", "post-checkout", "reference-transaction", "pre-push", "post-merge"] {
            use std::os::unix::fs::PermissionsExt;
            fs::write(folder.join(name), &hook).unwrap();
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    git_in(&world.repository, &["-c", "core.hooksPath=/dev/null", "add", ".husky"]);
    git_in(&world.repository, &["-c", "core.hooksPath=/dev/null", "commit", "--quiet", "-m", "hooks"]);
    world.git(&["config", "core.hooksPath", ".husky"]);
    drop(fs::remove_file(&ran));
    // What package managers do after an installation, in the workspace and at the gate.
    let rewrite = "git config core.hooksPath .own; h=$(git rev-parse --git-path hooks); mkdir -p $h; echo evil >$h/pre-commit; \
                   d=$(git rev-parse --git-common-dir)/hooks; mkdir -p $d; echo evil >$d/pre-commit; rm -rf .own";
    world.configure(|text| format!("[workspace]\nsetup = [[\"sh\", \"-c\", {rewrite:?}]]\n{text}"));
    fs::write(
        world.folder().join("agent.sh"),
        "cat >/dev/null; echo x >$TEST_ID; git add .; git -c core.hooksPath= commit -qm agent\n",
    )
    .unwrap();
    lands(&world, "t1");
    assert!(!ran.exists(), "{}", fs::read_to_string(&ran).unwrap_or_default());
    for folder in [hooks, world.repository.join(".git/hooks")] {
        assert_eq!(fs::read_to_string(folder.join("pre-commit")).unwrap(), hook);
    }
    assert_eq!(world.git(&["config", "core.hooksPath"]), ".husky");
    assert!(!world.root().join("store.git/hooks/pre-commit").exists());
}

#[test]
fn signing_that_waits_for_a_passphrase_is_nobodys_business_here() {
    let (world, _) = cloned(&[]);
    let signer = world.folder().join("signer.sh");
    fs::write(&signer, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    run(Command::new("chmod").arg("+x").arg(&signer));
    for (key, value) in [
        ("commit.gpgsign", "true"),
        ("tag.gpgsign", "true"),
        ("gpg.program", signer.to_str().unwrap()),
        ("user.signingkey", "x"),
    ] {
        world.git(&["config", key, value]);
    }
    fs::write(
        world.folder().join("agent.sh"),
        "cat >/dev/null; echo x >$TEST_ID; git add .; timeout 20 git commit -qm agent || exit 3\n",
    )
    .unwrap();
    lands(&world, "t1");
}

#[test]
fn what_lands_is_signed_where_that_is_set() {
    let (world, _) = cloned(&[]);
    let key = world.folder().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "a", "-f"]).arg(&key).output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no ssh-keygen");
        return;
    }
    world.git(&["config", "gpg.format", "ssh"]);
    world.git(&["config", "user.signingkey", key.to_str().unwrap()]);
    world.configure(|text| format!("[landing]\nsign = true\n{text}"));
    lands(&world, "t1");
    let commit = world.git(&["cat-file", "commit", "coding-loops/integration"]);
    assert!(commit.contains("gpgsig -----BEGIN SSH SIGNATURE-----"), "{commit}");
    assert!(commit.contains("\nTest: t1"), "{commit}");
    // A program that says no.
    world.git(&["config", "gpg.ssh.program", "false"]);
    world.add_test("t2", "one");
    world.attempt("one");
    let test = world.test("t2");
    assert_eq!((test.status, test.attempts), (TestStatus::Pending, 0), "{:?}", test.last_error);
    let why = test.last_error.unwrap();
    assert!(
        why.starts_with("cannot sign the commit: ") && why.ends_with("set sign = false in [landing] of config.toml"),
        "{why}"
    );
}

#[test]
fn a_repository_of_another_user_says_how_to_allow_it() {
    let (world, _) = cloned(&[]);
    let given = Command::new("chown").args(["-R", "12345"]).arg(world.repository.join(".git")).arg(&world.repository).status();
    let is_root = given.is_ok_and(|status| status.success());
    if !is_root {
        eprintln!("skipped: only root can give files away");
        return;
    }
    // Whatever this machine's own configuration trusts.
    let config = world.folder().join("gitconfig");
    fs::write(&config, "[user]\n\tname = a\n\temail = a@b\n").unwrap();
    world.add_test("t1", "one");
    let run = || world.command("one").arg("--once").env("GIT_CONFIG_GLOBAL", &config).env("GIT_CONFIG_NOSYSTEM", "1").output();
    let output = run().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let remedy = format!("git config --global --add safe.directory {}", world.repository.canonicalize().unwrap().display());
    assert!(said.contains("belongs to another user, so git does not read it") && said.contains(&remedy), "{said}");
    let directory = world.repository.canonicalize().unwrap();
    fs::write(&config, format!("[safe]\n\tdirectory = {}\n", directory.display())).unwrap();
    assert_eq!(run().unwrap().status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
}

fn set_agent(world: &World, script: &str) {
    fs::write(world.folder().join("agent.sh"), format!("cat >/dev/null; {script}; echo x >$TEST_ID\n")).unwrap();
}

/// Runs the next test of a loop to its pass.
fn passes(world: &World, test: &str, loop_id: &str) {
    world.add_test(test, loop_id);
    let output = world.once(loop_id);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(world.test(test).status, TestStatus::Passed, "{:?}", world.test(test).last_error);
}

fn utf_16(text: &str) -> Vec<u8> {
    [vec![0xff, 0xfe], text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat()
}

#[test]
fn files_that_are_stored_in_another_encoding() {
    let (world, _) = cloned(&[]);
    fs::write(world.repository.join(".gitattributes"), "*.u16 text working-tree-encoding=UTF-16 eol=crlf\n").unwrap();
    fs::write(world.repository.join("a.u16"), utf_16("one ü\r\n")).unwrap();
    git_in(&world.repository, &["add", "--all"]);
    git_in(&world.repository, &["commit", "--quiet", "-m", "utf-16"]);
    fs::write(world.folder().join("new.u16"), utf_16("two €\r\n")).unwrap();
    // The check sees what the agent sees.
    fs::write(world.folder().join("same"), utf_16("one ü\r\n")).unwrap();
    let check = format!(
        "iconv -f UTF-16 -t UTF-8 a.u16 | grep -q . && test -f $TEST_ID && cat {}/same >/dev/null",
        world.folder().display()
    );
    world.configure(|text| text.replace("test -f $TEST_ID && echo there", &check));
    lands(&world, "t1");
    set_agent(&world, "touch a.u16");
    passes(&world, "t2", "one");
    assert_eq!(world.git(&["show", "--name-only", "--format=", "coding-loops/integration"]), "t2", "touched and not changed");
    set_agent(&world, "cp ../../../new.u16 a.u16; cp ../../../new.u16 b.u16");
    passes(&world, "t3", "one");
    for name in ["a.u16", "b.u16"] {
        assert_eq!(world.git(&["show", &format!("coding-loops/integration:{name}")]), "two €", "stored as UTF-8");
        assert_eq!(fs::read(world.workspace("one").join(name)).unwrap(), utf_16("two €\r\n"));
    }
    // What is not in that encoding is named.
    set_agent(&world, "printf 'odd' >a.u16");
    world.add_test("t4", "one");
    world.once("one");
    let test = world.test("t4");
    assert_eq!(test.error_category, Some(ErrorCategory::Code));
    let why = test.last_error.unwrap();
    assert!(why.starts_with("git cannot store a.u16: "), "{why}");
}

#[test]
fn a_link_in_place_of_an_ignored_folder() {
    let (world, _) = cloned(&[]);
    fs::write(world.repository.join(".gitignore"), "/coding-loops/\nbuild/\n").unwrap();
    git_in(&world.repository, &["add", "--all"]);
    git_in(&world.repository, &["commit", "--quiet", "-m", "ignored"]);
    // The user has built there too.
    fs::create_dir_all(world.repository.join("build")).unwrap();
    fs::write(world.repository.join("build/mine"), "x").unwrap();
    world.add_loop("two");
    set_agent(&world, "mkdir -p build; echo x >build/made");
    passes(&world, "t1", "two");
    assert!(world.workspace("two").join("build/made").exists());
    // Out of the repository it does not land, within it does.
    set_agent(&world, "ln -s /tmp build");
    world.add_test("t2", "one");
    world.attempt("one");
    let why = world.test("t2").last_error.unwrap();
    assert!(why.starts_with("build is a symbolic link to /tmp, outside the repository"), "{why}");
    set_agent(&world, "rm -rf build; ln -s deep/folder build");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t2").status, TestStatus::Passed, "{:?}", world.test("t2").last_error);
    assert_eq!(world.git(&["show", "coding-loops/integration:build"]), "deep/folder");
    // The other loop's builds are in its way and are nobody's work.
    set_agent(&world, "cat build/file");
    passes(&world, "t3", "two");
    assert_eq!(world.git(&["show", "--name-only", "--format=", "coding-loops/integration"]), "t3");
    assert_eq!(fs::read_link(world.workspace("two").join("build")).unwrap(), Path::new("deep/folder"));
    assert!(world.repository.join("build/mine").exists());
    // And back: a folder in place of the link.
    set_agent(&world, "rm build; mkdir build; echo x >build/again");
    passes(&world, "t4", "one");
    assert_eq!(world.git(&["ls-tree", "-r", "--name-only", "coding-loops/integration", "build"]), "");
}

#[test]
fn large_files_with_the_real_git_lfs() {
    if !Command::new("git").args(["lfs", "version"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no git-lfs");
        return;
    }
    let (world, _) = cloned(&[]);
    world.git(&["lfs", "install", "--local", "--skip-smudge"]);
    for part in ["smudge", "process"] {
        let key = format!("filter.lfs.{part}");
        let value = world.git(&["config", &key]).replace(" --skip", "");
        world.git(&["config", &key, &value]);
    }
    fs::write(world.repository.join(".gitattributes"), "*.bin filter=lfs diff=lfs merge=lfs -text\n").unwrap();
    fs::write(world.repository.join("here.bin"), "here\n").unwrap();
    fs::write(world.repository.join("gone.bin"), "gone\n").unwrap();
    git_in(&world.repository, &["add", "--all"]);
    git_in(&world.repository, &["commit", "--quiet", "-m", "large"]);
    // The object of one of them was never fetched.
    let objects = world.repository.join(".git/lfs/objects");
    let object = |text: &str| {
        let pointer = world.git(&["show", &format!("HEAD:{text}.bin")]);
        let oid = pointer.lines().find_map(|line| line.strip_prefix("oid sha256:")).unwrap().to_owned();
        objects.join(&oid[..2]).join(&oid[2..4]).join(&oid)
    };
    fs::remove_file(object("gone")).unwrap();
    fs::write(world.repository.join("gone.bin"), format!("{}\n", world.git(&["show", "HEAD:gone.bin"]))).unwrap();
    world.configure(|text| {
        text.replace("test -f $TEST_ID", "test -f $TEST_ID && grep -qx 'here\\\\|two' here.bin && grep -q git-lfs gone.bin || { head -3 here.bin gone.bin; exit 1; }")
    });
    lands(&world, "t1");
    set_agent(&world, "echo two >here.bin");
    passes(&world, "t2", "one");
    assert_eq!(world.git(&["show", "--name-only", "--format=", "coding-loops/integration"]), "here.bin\nt2");
    let pointer = world.git(&["show", "coding-loops/integration:here.bin"]);
    assert!(pointer.starts_with("version https://git-lfs.github.com/spec/v1"), "{pointer}");
    // The user has the file too, once it is published.
    world.git(&["checkout", "--quiet", "coding-loops/integration", "--", "here.bin"]);
    assert_eq!(fs::read_to_string(world.repository.join("here.bin")).unwrap(), "two\n");
}

#[test]
fn names_of_any_bytes_are_shown_escaped() {
    let world = World::new(AGENT, CHECK);
    world.add_loop("one");
    set_agent(&world, "echo x >$(printf 'na\\377me')");
    world.add_test("t1", "one");
    world.attempt("one");
    let why = world.test("t1").last_error.unwrap();
    assert_eq!(why, "na\\xffme is not UTF-8 and cannot be leased; rename it");
    // Those that no terminal may see are as they are in the database.
    set_agent(&world, "mkdir -p ünï; echo x >ünï/$(printf '\\342\\200\\256x')");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
}

#[test]
fn fifty_seven_thousand_files() {
    let world = World::new(AGENT, CHECK);
    world.add_loop("one");
    let stream = world.folder().join("stream");
    let mut text =
        "commit refs/heads/main\ncommitter a <a@b> 1700000000 +0000\ndata 4\nmany\nfrom refs/heads/main^0\n".to_owned();
    for file in 0..57_000 {
        let content = format!("{file}\n");
        text += &format!("M 644 inline d{}/e{}/f{file}\ndata {}\n{content}", file / 1000, file / 50 % 20, content.len());
    }
    fs::write(&stream, text).unwrap();
    let mut import = Command::new("git");
    import.args(["fast-import", "--quiet"]).current_dir(&world.repository).stdin(fs::File::open(&stream).unwrap());
    assert!(import.status().unwrap().success());
    world.git(&["reset", "--quiet", "--hard"]);
    lands(&world, "t1");
    assert_eq!(world.git(&["ls-tree", "-r", "--name-only", "coding-loops/integration"]).lines().count(), 57_003);
}
