//! Changed settings are noticed and hold from the next attempt on; broken ones are refused and said.

use crate::common::{CHECK, World};
use coord_db::{TestId, TestStatus};
use test_support::{Process, wait_for, wait_until};

fn write_config(world: &World, agent: &str, rest: &str) {
    std::fs::write(world.folder().join("agent2.sh"), agent).unwrap();
    let script = world.folder().join("agent2.sh");
    let text = format!("[agent]\ncommand = [\"sh\", \"{}\"]\n[heartbeat]\nbeat_seconds = 2\n{rest}", script.display());
    replace(world, &text);
}

/// As editors do: another file is renamed over it.
fn replace(world: &World, text: &str) {
    let new = world.home.join("config.toml.new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, world.home.join("config.toml")).unwrap();
}

fn status(world: &World, test: &str, status: TestStatus) {
    wait_until("the test's status", || world.test(test).status == status);
}

fn alert(world: &World, fingerprint: &str) -> Option<String> {
    world.db.read(|tx| tx.open_alert(fingerprint)).unwrap().map(|alert| alert.message)
}

fn start(world: &World) -> Process {
    let running = world.start("one");
    wait_for("the loop to beat", || world.db.read(|tx| tx.component("one")).unwrap());
    running
}

#[test]
fn an_idle_loop_takes_new_settings_and_refuses_broken_ones() {
    let world = World::new(
        "echo first >> \"$FOLDER/runs\"; touch \"$TEST_ID\"",
        &format!("{CHECK}\n[loop.one.agent]\nenvironment = [\"PATH\", \"FOLDER\"]\n"),
    );
    world.add_loop("one");
    let running = start(&world);
    // Broken: refused and said, with the line; the loop works on as before.
    let good = std::fs::read_to_string(world.home.join("config.toml")).unwrap();
    std::fs::write(world.home.join("config.toml"), format!("{good}\n[lease]\nttl_seconds = \"long\"\n")).unwrap();
    let said = wait_for("the refusal", || alert(&world, "config"));
    assert!(said.contains("config.toml:") && said.contains("uses the previous settings"), "{said}");
    // One that leaves the loop without an agent is refused too.
    replace(&world, "[agent]\ncommand = []\n");
    wait_for("the second refusal", || alert(&world, "config:one").filter(|said| said.contains("has no agent")));
    // So is a missing file.
    std::fs::remove_file(world.home.join("config.toml")).unwrap();
    wait_for("the third refusal", || alert(&world, "config").filter(|said| said.contains("no longer exists")));
    world.add_test("t1", "one");
    status(&world, "t1", TestStatus::Passed);
    assert_eq!(std::fs::read_to_string(world.folder().join("runs")).unwrap(), "first\n");
    // Good: taken, and the alert is over.
    write_config(
        &world,
        "echo second >> '@/runs'; touch \"$TEST_ID\"".replace('@', &world.folder().display().to_string()).as_str(),
        CHECK,
    );
    let over = || alert(&world, "config").is_none() && alert(&world, "config:one").is_none();
    wait_until("the alerts to end", over);
    world.add_test("t2", "one");
    status(&world, "t2", TestStatus::Passed);
    assert_eq!(std::fs::read_to_string(world.folder().join("runs")).unwrap(), "first\nsecond\n");
    assert_eq!(running.terminate().code(), Some(0));
}

#[test]
fn an_attempt_keeps_the_settings_it_began_with() {
    let world = World::with_test(
        "touch \"$FOLDER/begun\"; while [ ! -e \"$FOLDER/go\" ]; do sleep 0.1; done; echo first >> \"$FOLDER/runs\"; touch \"$TEST_ID\"",
        &format!("{CHECK}\n[loop.one.agent]\nenvironment = [\"PATH\", \"FOLDER\"]\n"),
    );
    world.add_test("t2", "one");
    let running = start(&world);
    wait_for("the agent", || world.exists("begun"));
    write_config(
        &world,
        "echo second >> '@/runs'; touch \"$TEST_ID\"".replace('@', &world.folder().display().to_string()).as_str(),
        CHECK,
    );
    wait_for("the change to be noticed", || world.logged("the settings have changed"));
    std::fs::write(world.folder().join("go"), "").unwrap();
    status(&world, "t2", TestStatus::Passed);
    assert_eq!(std::fs::read_to_string(world.folder().join("runs")).unwrap(), "first\nsecond\n");
    let id: TestId = "t1".parse().unwrap();
    assert_eq!(world.db.read(|tx| tx.test(&id)).unwrap().attempts, 1, "the attempt was not broken off");
    assert_eq!(running.terminate().code(), Some(0));
    world.assert_tidy();
}
