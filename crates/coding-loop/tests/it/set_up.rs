//! What a fresh clone lacks: set-up commands, files brought along, variables, through the real binary.

use std::fs;

use crate::common::{CHECK, World};
use coord_db::{ErrorCategory, TestStatus};

/// A world whose repository has these files too, committed.
fn world(agent: &str, rest: &str, files: &[(&str, &str)]) -> World {
    let world = World::new(agent, rest);
    for (name, text) in files {
        fs::write(world.repository.join(name), text).unwrap();
    }
    world.git(&["add", "--all"]);
    world.git(&["commit", "--quiet", "--amend", "--no-edit"]);
    world.add_loop("one");
    world
}

fn command(text: &str) -> String {
    format!("[[\"sh\", \"-c\", {text:?}]]")
}

fn lines(world: &World, name: &str) -> Vec<String> {
    fs::read_to_string(world.folder().join(name)).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn set_up_runs_where_its_inputs_have_changed() {
    let agent = "cat >/dev/null; cmp lock dep/made || exit 1; [ $TEST_ID = t2 ] && echo two >lock; echo x >$TEST_ID\n";
    let world = world(agent, "", &[("lock", "one\n"), (".gitignore", "/coding-loops/\ndep/\nmade-too\n")]);
    let script = format!(
        "mkdir -p dep; cp lock dep/made; echo generated >made-too; echo changed >>shared; echo said; pwd >>'{}'",
        world.folder().join("runs").display()
    );
    let check = "[[gate.check]]\nname = \"x\"\ncommand = [\"sh\", \"-c\", \"cmp lock dep/made && test -f $TEST_ID\"]\n";
    world.configure(|text| {
        let setup = command(&script);
        format!("{text}\n[workspace]\nsetup = {setup}\nsetup_inputs = [\"lock\"]\ncache = [\"dep/\", \"made-too\"]\n{check}")
    });
    for test in ["t1", "t2", "t3"] {
        world.add_test(test, "one");
        assert_eq!(world.once("one").status.code(), Some(0));
        assert_eq!(world.test(test).status, TestStatus::Passed, "{:?}", world.test(test).last_error);
        assert!(!world.git(&["ls-tree", "-r", "--name-only", "coding-loops/integration"]).contains("made"));
        let landed = world.git(&["show", "--name-only", "--format=", "coding-loops/integration"]);
        let expected = if test == "t2" { "lock\nt2" } else { test };
        assert_eq!(landed, expected, "what set-up leaves is nobody's change");
    }
    let [workspace, gate] = ["loops/one", "gates/one"].map(|folder| world.root().join(folder).display().to_string());
    let in_workspace = lines(&world, "runs").iter().filter(|line| **line == workspace).count();
    let in_gate = lines(&world, "runs").iter().filter(|line| **line == gate).count();
    assert_eq!((in_workspace, in_gate), (2, 2), "{:?}", lines(&world, "runs"));
    let log = fs::read_to_string(world.home.join("logs/one/setup.gate.log")).unwrap();
    assert_eq!(log, "said\n");
    world.assert_tidy();
    // Without the cache the gate has to make it each time.
    world.configure(|text| text.replace("\"dep/\", ", ""));
    world.add_test("t4", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t4").status, TestStatus::Passed, "{:?}", world.test("t4").last_error);
    assert_eq!(lines(&world, "runs").iter().filter(|line| **line == gate).count(), 3);
}

#[test]
fn set_up_that_fails_with_the_work_alone_is_the_works_fault() {
    let agent = "cat >/dev/null; echo bad >lock; echo x >$TEST_ID\n";
    let world = world(agent, CHECK, &[("lock", "good\n")]);
    let setup = command("echo looked; test \"$(cat lock)\" = good");
    world.configure(|text| format!("[workspace]\nsetup = {setup}\nsetup_inputs = [\"lock\"]\n{text}"));
    world.add_test("t1", "one");
    world.attempt("one");
    let test = world.test("t1");
    assert_eq!((test.attempts, test.error_category), (1, Some(ErrorCategory::Code)));
    let why = test.last_error.unwrap();
    assert!(why.starts_with("set-up command sh -c") && why.contains("it succeeds without this work\nlooked"), "{why}");
    world.assert_tidy();
}

#[test]
fn set_up_that_fails_at_the_base_stops_all_loops_and_asks_once() {
    let world = World::new("cat >/dev/null; echo ran >>$0.ran; echo x >$TEST_ID\n", CHECK);
    world.configure(|text| format!("[workspace]\nsetup = {}\n{text}", command("echo no compiler; exit 3")));
    for (id, test) in [("one", "t1"), ("two", "t2")] {
        world.add_loop(id);
        world.add_test(test, id);
    }
    for id in ["one", "two"] {
        assert_eq!(world.once(id).status.code(), Some(1));
    }
    for test in ["t1", "t2"].map(|test| world.test(test)) {
        assert_eq!((test.status, test.attempts), (TestStatus::Pending, 0), "{:?}", test.last_error);
    }
    assert!(!world.folder().join("agent.sh.ran").exists(), "no agent was paid");
    let asked = world.sql("SELECT summary FROM decisions WHERE status = 'open' OR status = 'pending'");
    assert_eq!(asked.lines().count(), 1, "{asked}");
    assert!(asked.contains("no compiler") && asked.contains("exit code 3"), "{asked}");
    // Mended and answered.
    world.configure(|text| text.replace("exit 3", "exit 0"));
    world.db.write(|tx| tx.lift_hold("setup")).unwrap();
    for (id, test) in [("one", "t1"), ("two", "t2")] {
        assert_eq!(world.once(id).status.code(), Some(0));
        assert_eq!(world.test(test).status, TestStatus::Passed, "{:?}", world.test(test).last_error);
    }
}

#[test]
fn a_network_that_does_not_answer_is_nobodys_fault() {
    let world = world("cat >/dev/null; echo x >$TEST_ID\n", CHECK, &[]);
    let script = "echo 'npm ERR! code ENOTFOUND'; exit 1";
    world.configure(|text| format!("[workspace]\nsetup = {}\n{text}", command(script)));
    world.add_test("t1", "one");
    world.attempt("one");
    let test = world.test("t1");
    assert_eq!((test.attempts, test.error_category), (0, Some(ErrorCategory::Transient)), "{:?}", test.last_error);
    assert_eq!(world.sql("SELECT count(*) FROM holds"), "0");
}

#[test]
fn ignored_files_are_brought_along_and_do_not_land() {
    let agent = "cat >/dev/null; cat .env local/deep/key odd/ä\\ b >$TEST_ID; test ! -e other\n";
    let check = "[[gate.check]]\nname = \"x\"\ncommand = [\"sh\", \"-c\", \"test -s .env && test -x local/deep/key && test ! -e other\"]\n";
    let ignore = "/coding-loops/\n.env\nlocal/\nother\nodd/\n";
    let files = [(".gitignore", ignore), (".worktreeinclude", "# private\nlocal/\n")];
    let world = world(agent, &format!("[workspace]\ncopy = [\".env\", \"odd/*\", \"shared\", \"*.db\"]\n{check}"), &files);
    let put = |name: &str, text: &str| {
        let path = world.repository.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put(".env", "A=1\n");
    put("local/deep/key", "k\n");
    put("odd/ä b", "o\n");
    put("other", "not asked for\n");
    std::process::Command::new("chmod").arg("+x").arg(world.repository.join("local/deep/key")).status().unwrap();
    std::os::unix::fs::symlink("deep/key", world.repository.join("local/link")).unwrap();
    // What is tracked is not ignored, whatever the patterns say.
    put("shared", "the user's own edit\n");
    world.add_test("t1", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
    assert_eq!(world.git(&["show", "coding-loops/integration:t1"]), "A=1\nk\no");
    assert_eq!(world.git(&["show", "--name-only", "--format=", "coding-loops/integration"]), "t1");
    let workspace = world.workspace("one");
    assert_eq!(fs::read_link(workspace.join("local/link")).unwrap().to_str(), Some("deep/key"));
    assert!(!workspace.join("coding-loops").exists());
    assert!(fs::read_to_string(workspace.join("shared")).unwrap().starts_with("1\n"));
    // As it is there now.
    put(".env", "A=2\n");
    world.add_test("t2", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert!(world.git(&["show", "coding-loops/integration:t2"]).starts_with("A=2"));
}

#[test]
fn set_up_and_checks_have_the_variables_for_their_folder() {
    let agent = "cat >/dev/null; echo x >$TEST_ID\n";
    let said = |place: &str| format!("echo $NAME $PORT $HERE $(pwd) >>../../../{place}");
    let check = format!(
        "[[gate.check]]\nname = \"x\"\ncommand = [\"sh\", \"-c\", {:?}]\n[[gate.check]]\nname = \"y\"\ncommand = [\"sh\", \"-c\", {:?}]\n",
        format!("{}; test -f $TEST_ID", said("own")),
        said("base"),
    );
    let world = world(agent, "", &[("lock", "one\n")]);
    world.configure(|text| {
        let text =
            text.replacen("[agent]\n", "[agent]\nset = { PORT = \"{port}\", NAME = \"{loop}\", HERE = \"{workspace}\" }\n", 1);
        format!("{text}\n[workspace]\nsetup = {}\n{check}", command(&said("setup")))
    });
    world.add_test("t1", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
    let port = world.sql("SELECT port FROM loop_ports");
    let root = world.root().canonicalize().unwrap();
    let line = |folder: &str| format!("one {port} {0} {0}", root.join(folder).display());
    for name in ["own", "base", "setup"] {
        assert!(
            !lines(&world, name).is_empty() && lines(&world, name).contains(&line("gates/one")),
            "{name}: {:?}",
            lines(&world, name)
        );
    }
    assert!(lines(&world, "setup").contains(&line("loops/one")), "{:?}", lines(&world, "setup"));
}

#[test]
fn an_agent_has_variables_and_a_port_of_its_own() {
    let agent = "cat >/dev/null; echo $PORT $NAME >$TEST_ID; test \"$HERE\" = \"$PWD\"\n";
    let set = "[loop.two.agent]\nset = { PORT = \"{port}\", NAME = \"other\", HERE = \"{workspace}\" }\n";
    let world = World::new(agent, &format!("{CHECK}{set}"));
    world.configure(|text| {
        text.replacen("[agent]\n", "[agent]\nset = { PORT = \"{port}\", NAME = \"{loop}-{x}\", HERE = \"{workspace}\" }\n", 1)
    });
    let mut said = Vec::new();
    for (id, test) in [("one", "t1"), ("two", "t2"), ("one", "t3")] {
        if world.db.read(|tx| tx.find_loop(id)).unwrap().is_none() {
            world.add_loop(id);
        }
        world.add_test(test, id);
        assert_eq!(world.once(id).status.code(), Some(0));
        assert_eq!(world.test(test).status, TestStatus::Passed, "{:?}", world.test(test).last_error);
        let text = world.git(&["show", &format!("coding-loops/integration:{test}")]);
        let (port, name) = text.split_once(' ').unwrap();
        said.push((port.parse::<u16>().unwrap(), name.to_owned()));
    }
    assert_eq!(said[0].1, "one-{x}");
    assert_eq!(said[1].1, "other");
    assert_eq!(said[0], said[2], "it stays");
    assert_ne!(said[0].0, said[1].0);
}
