//! What agents and checks print is kept for every attempt, is seen while it is printed, and `status` names what runs.

use std::fs::File;

use serde_json::Value;
use system_tests::processes::World;
use test_support::wait_for;

/// Prints, then goes on once the test lets it; its first run waits for ever.
const AGENT: &str = "cat >/dev/null; n=$(cat FOLDER/n 2>/dev/null || echo 0); n=$((n+1)); echo $n >FOLDER/n\n\
    echo run $n begins; [ $n = 1 ] && exec sleep 600\n\
    while [ ! -e FOLDER/go ]; do sleep 0.05; done\n\
    printf 'caf\\303\\251 '; printf 'and no newline'; echo $n >\"$TEST_ID\"\n";

const CHECK: &str =
    "echo looking; while [ ! -e FOLDER/judge ]; do sleep 0.05; done; grep -q 3 $TEST_ID || { echo too early; exit 1; }";

fn world() -> World {
    let world = World::new();
    let folder = world.folder().display().to_string();
    let script = world.folder().join("agent.sh");
    std::fs::write(&script, AGENT.replace("FOLDER", &folder)).unwrap();
    world.settings(&format!(
        "[agent]\ncommand = [\"sh\", \"{}\"]\n[[gate.check]]\nname = \"a/b\"\ncommand = [\"sh\", \"-c\", \"{}\"]\n",
        script.display(),
        CHECK.replace("FOLDER", &folder)
    ));
    assert!(world.loopctl(&["loop", "add", "one"]).status.success());
    assert!(world.loopctl(&["test", "add", "t1", "--loop", "one"]).status.success());
    world
}

fn shown(world: &World, arguments: &[&str]) -> String {
    let output = world.loopctl(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_run_keeps_its_log_and_is_seen_while_it_runs() {
    let world = world();
    assert_eq!(world.loopctl(&["logs", "t1"]).status.code(), Some(1));
    assert_eq!(world.loopctl(&["logs", "nobody"]).status.code(), Some(4));

    // A run that is interrupted, and given back.
    let one = world.start("coding-loop", &["one"]);
    world.until("SELECT kind || name FROM runs WHERE ended_at IS NULL", "agentsh");
    let status = shown(&world, &["status"]);
    assert!(status.contains("agent sh, for "), "{status}");
    wait_for("the first line of the log", || shown(&world, &["logs", "t1"]).contains("run 1 begins").then_some(()));
    drop(one);
    world.until("SELECT count(*) FROM runs WHERE ended_at IS NULL", "1"); // Nobody saw it end.

    // It goes on as the same attempt, with a log of its own; somebody follows.
    let one = world.start("coding-loop", &["one"]);
    world.until("SELECT outcome FROM runs ORDER BY started_at LIMIT 1", "its loop was killed");
    let followed = world.folder().join("followed");
    let said = |words: &str| std::fs::read_to_string(&followed).unwrap().contains(words).then_some(());
    let mut command = world.program("loopctl");
    let mut follower = command.args(["logs", "-f", "t1"]).stdout(File::create(&followed).unwrap()).spawn().unwrap();
    wait_for("the agent to be followed", || said("\nrun 2 begins\n"));
    std::fs::write(world.folder().join("go"), "").unwrap();
    wait_for("the check to be followed", || said("\nlooking\n"));
    world.until("SELECT kind || name FROM runs WHERE ended_at IS NULL", "checka/b");
    let status = shown(&world, &["status"]);
    assert!(status.contains("check a/b, for "), "{status}");
    std::fs::write(world.folder().join("judge"), "").unwrap();
    world.until("SELECT status || attempts FROM tests", "passed2");
    assert!(wait_for("the follower to end", || follower.try_wait().unwrap()).success());
    for words in ["\ntoo early\n", "\nrun 3 begins\n", "\n== passed, after "] {
        assert!(said(words).is_some(), "{words:?}");
    }
    assert!(one.terminate().success());

    let first = shown(&world, &["logs", "t1", "--attempt", "1"]);
    assert!(first.contains("run 1 begins\n== its loop was killed, after ") && first.contains("run 2 begins"), "{first}");
    assert!(first.contains("café and no newline\n== exit code 0, after "), "{first}");
    assert!(
        first.contains("== t1, attempt 1, check a/b of one, started ") && first.contains("looking\ntoo early\n"),
        "{first}"
    );
    let newest = shown(&world, &["logs", "t1"]);
    assert!(newest.contains("run 3 begins") && !newest.contains("too early"), "{newest}");
    let of_loop = shown(&world, &["logs", "one"]);
    assert!(of_loop.starts_with("== t1, attempt 2, check a/b") && of_loop.contains("\nlooking\n"), "{of_loop}");
    assert_eq!(world.loopctl(&["logs", "t1", "--attempt", "7"]).status.code(), Some(1));
    let rows: Value = serde_json::from_str(&shown(&world, &["logs", "t1", "--attempt", "1", "--json"])).unwrap();
    for row in rows.as_array().unwrap() {
        assert!(std::path::Path::new(row["path"].as_str().unwrap()).is_file(), "{row}");
    }
    assert_eq!(rows.as_array().unwrap().len(), 3);

    // Logs go with their rows once they are past their time; a name that leads elsewhere leads nowhere.
    world.sql("UPDATE runs SET started_at = datetime('now', '-40 days')").unwrap();
    let kept = world.folder().join("kept.log");
    std::fs::write(&kept, "").unwrap();
    assert!(world.sql("UPDATE runs SET log = '../../../../kept.log'").is_none());
    assert!(world.start("coding-loop", &["one", "--once"]).wait().success());
    assert_eq!(world.sql("SELECT count(*) FROM runs").unwrap(), "0");
    let left = std::fs::read_dir(world.home().join("logs/one")).unwrap().flatten();
    let left: Vec<_> = left.filter(|entry| entry.path().extension().is_some_and(|end| end == "log")).collect();
    assert!(left.is_empty() && kept.exists(), "{left:?}");
}
