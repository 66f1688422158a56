//! Agents under the real `bwrap`: what they may write, `loopctl` from inside, how they end, and that none starts without it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use system_tests::processes::World;
use test_support::{Signal, commit, git, is_alive, wait_until};

fn works() -> bool {
    let tried = Command::new("bwrap").args(["--die-with-parent", "--dev-bind", "/", "/", "true"]).output();
    let works = tried.is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: bwrap cannot be run here");
    }
    works
}

fn world(script: &str) -> World {
    let world = World::new();
    commit(world.repository(), "files", &[(".gitignore", "/coding-loops/\n"), ("shared", "one\n")]);
    let agent = world.folder().join("agent.sh");
    let loopctl = world.program("loopctl").get_program().to_string_lossy().into_owned();
    let script = script.replace("$FOLDER", &world.folder().to_string_lossy()).replace("$LOOPCTL", &loopctl);
    fs::write(&agent, script).unwrap();
    settings(&world, "sandbox = \"bwrap\"\n");
    for id in ["one", "two"] {
        assert!(world.loopctl(&["loop", "add", id]).status.success());
    }
    assert!(world.loopctl(&["test", "add", "t1", "--loop", "one", "--notes", "do it"]).status.success());
    world
}

fn settings(world: &World, more: &str) {
    world.settings(&format!(
        "[agent]\ncommand = [\"sh\", \"{}\"]\nkill_after_seconds = 5\nenvironment = [\"PATH\", \"HOME\"]\n{more}\
         [[gate.check]]\nname = \"file\"\ncommand = [\"sh\", \"-c\", \"test -f $TEST_ID && echo there\"]\n",
        world.folder().join("agent.sh").display()
    ));
}

fn once(world: &World) -> String {
    let mut command = world.program("coding-loop");
    command.args(["one", "--once"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).unwrap()
}

fn value(world: &World, sql: &str) -> String {
    test_support::sql(&world.path(), sql)
}

fn root(world: &World) -> PathBuf {
    world.folder().join("repository-loops")
}

#[test]
fn the_agent_writes_its_workspace_and_the_database_and_nothing_else_of_ours() {
    if !works() {
        return;
    }
    let world = world(
        "cat >/dev/null; exec 2>$FOLDER/errors
         try() { if ( : >>\"$1\" ) 2>/dev/null; then echo written; else echo refused; fi; }
         for file in ../../../repository/shared ../../../repository/.git/config ../../../repository/new ../../store.git/config \
             ../two/x ../../gates/x ../../state/one/state.json ../../../repository/coding-loops/config.toml here /tmp/x-$$ $FOLDER/elsewhere; do
             echo $file $(try $file) >>$FOLDER/result
         done
         rm -f /tmp/x-$$
         mount -o remount,bind,rw ../../../repository && : >>../../../repository/mounted
         git -c user.name=a -c user.email=a@b commit -q --allow-empty -m mine || exit 1
         \"$LOOPCTL\" lock shared --loop one >$FOLDER/locked || exit 1
         \"$LOOPCTL\" learn --loop one 'from inside' >>$FOLDER/locked || true
         \"$LOOPCTL\" status >/dev/null || exit 1
         cat shared >$FOLDER/shared
         echo x >$TEST_ID\n",
    );
    fs::create_dir_all(root(&world).join("loops/two")).unwrap();
    once(&world);
    assert_eq!(
        value(&world, "SELECT status || attempts FROM tests"),
        "passed1",
        "{}",
        value(&world, "SELECT last_error FROM tests")
    );
    let result = fs::read_to_string(world.folder().join("result")).unwrap();
    let written: Vec<&str> = result.lines().filter_map(|line| line.strip_suffix(" written")).collect();
    assert_eq!(written.len(), 3, "{result}");
    assert_eq!((written[0], result.lines().count()), ("here", 11), "{result}");
    let locked = fs::read_to_string(world.folder().join("locked")).unwrap();
    assert!(locked.starts_with("token "), "{locked}");
    assert_eq!(git(world.repository(), ["status", "--porcelain"]), "");
}

#[test]
fn a_file_that_is_leased_from_inside_is_as_others_have_landed_it() {
    if !works() {
        return;
    }
    let world = world(
        "cat >/dev/null; touch $FOLDER/begun; while [ ! -e $FOLDER/landed ]; do sleep 0.05; done
         \"$LOOPCTL\" lock shared --loop one >$FOLDER/locked || exit 1
         cat shared >$FOLDER/shared; echo three >>shared; echo x >$TEST_ID\n",
    );
    let one = world.start("coding-loop", &["one", "--once"]);
    wait_until("the agent", || world.folder().join("begun").exists());
    // As another loop's landing.
    let store = root(&world).join("store.git");
    let elsewhere = world.folder().join("elsewhere");
    git(world.folder(), ["clone", "--quiet", store.to_str().unwrap(), elsewhere.to_str().unwrap()]);
    fs::write(elsewhere.join("shared"), "two\n").unwrap();
    git(&elsewhere, ["commit", "--quiet", "-am", "landed"]);
    git(&store, ["fetch", "--quiet", elsewhere.to_str().unwrap(), "+HEAD:refs/heads/coding-loops/integration"]);
    fs::write(world.folder().join("landed"), "").unwrap();
    world.until("SELECT status || attempts FROM tests", "passed1");
    drop(one);
    assert_eq!(fs::read_to_string(world.folder().join("shared")).unwrap(), "two\n");
    let locked = fs::read_to_string(world.folder().join("locked")).unwrap();
    assert!(locked.contains("updated to what other loops have landed: shared"), "{locked}");
    assert_eq!(git(&store, ["show", "refs/heads/coding-loops/integration:shared"]), "two\nthree");
}

fn pids(world: &World) -> Vec<u32> {
    let text = fs::read_to_string(world.folder().join("pids")).unwrap_or_default();
    text.lines().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn the_agent_ends_with_its_loop_and_has_time_to_end_by_itself() {
    if !works() {
        return;
    }
    let agent = "cat >/dev/null; setsid sleep 600 & echo $! >>$FOLDER/pids; echo $$ >>$FOLDER/pids
        trap 'echo saved >$FOLDER/saved; exit 0' TERM; touch $FOLDER/begun; while :; do sleep 0.05; done\n";
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let world = world(agent);
        let one = world.start("coding-loop", &["one"]);
        wait_until("the agent", || world.folder().join("begun").exists());
        test_support::signal(one.pid(), signal);
        wait_until("everything to be gone", || pids(&world).iter().all(|&pid| !is_alive(pid)));
        assert_eq!(pids(&world).len(), 2);
        // Nobody reads what it prints once its loop has ended.
        let is_saved = world.folder().join("saved").exists();
        assert!(is_saved || signal == Signal::SIGKILL, "it was given its time");
    }
}

#[test]
fn exit_codes_and_signals_are_handed_through() {
    if !works() {
        return;
    }
    for (script, said) in [
        ("cat >/dev/null; echo why; exit 3", "the agent gave up: why"),
        ("cat >/dev/null; echo why; exit 7", "the agent exited with 7: why"),
        ("cat >/dev/null; kill -9 $$", "the agent was killed by signal 9"),
    ] {
        let world = world(&format!("{script}\n"));
        let mut command = world.program("coding-loop");
        assert!(command.args(["one", "--max-tests", "1"]).status().unwrap().success());
        assert_eq!(value(&world, "SELECT last_error FROM tests"), said);
    }
}

#[test]
fn an_agent_does_not_start_without_a_sandbox_that_works() {
    let world = world("touch $FOLDER/started; cat >/dev/null; echo x >$TEST_ID\n");
    // First one that fails, then none at all.
    let bin = world.folder().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("bwrap"), "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n").unwrap();
    assert!(Command::new("chmod").arg("+x").arg(bin.join("bwrap")).status().unwrap().success());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = world.program("coding-loop");
    command.args(["one", "--once"]).env("PATH", &path);
    command.output().unwrap();
    assert!(!world.folder().join("started").exists());
    assert_eq!(value(&world, "SELECT status || attempts FROM tests"), "pending0");
    let question = value(&world, "SELECT summary FROM decisions");
    assert!(
        question.contains("its sandbox does not work (setting up uid map: Permission denied); allow user namespaces"),
        "{question}"
    );
    let mut doctor = world.program("loopctl");
    let said = doctor.arg("doctor").env("PATH", &path).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("the sandbox of [agent] does not work: setting up uid map: Permission denied"), "{said}");
}

#[test]
fn a_sandbox_that_works_is_proposed() {
    if !works() {
        return;
    }
    let world = world("true\n");
    let doctor = || String::from_utf8(world.loopctl(&["doctor"]).stdout).unwrap();
    assert!(doctor().contains("in a sandbox (bwrap)"), "{}", doctor());
    settings(&world, "");
    assert!(doctor().contains("bwrap works on this machine"), "{}", doctor());
}
