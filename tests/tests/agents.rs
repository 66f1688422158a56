//! What `crates/coding-loop/README.md` shows, in order: its settings are loaded, its commands are typed in a repository with a
//! loop that is driven by hand.

use coord_db::Config;
use system_tests::binaries;
use system_tests::docs::{blocks, lines};
use system_tests::processes::World;

const DOCUMENT: &str = "crates/coding-loop/README.md";

#[test]
fn its_settings_are_valid_together() {
    let world = World::new();
    let settings: Vec<String> =
        blocks(DOCUMENT).into_iter().filter(|block| block.kind == "toml").map(|block| block.text).collect();
    assert!(settings.len() >= 3);
    world.settings(&settings.concat());
    let config = Config::load(&world.path(), None).unwrap();
    assert_eq!(config.gate.check.len(), 2);
    assert_eq!(config.workspace.setup, [["npm", "ci"]]);
    assert_eq!(config.agent_of(&"frontend".parse().unwrap()).command, ["my-agent", "--model", "small"]);
}

#[test]
fn its_commands_drive_a_loop_by_hand() {
    let world = World::new();
    world.settings("[[gate.check]]\nname = \"work\"\ncommand = [\"sh\", \"-c\", \"test -e src/$TEST_ID\"]\n");
    for arguments in [
        &["loop", "add", "backend"][..],
        &["loop", "add", "frontend"],
        &["test", "add", "T-1", "--loop", "backend"],
        &["test", "add", "T-2", "--loop", "backend"],
    ] {
        let made = world.loopctl(arguments);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let workspace = world.folder().join("repository-loops/loops/backend");
    let commands: Vec<String> =
        blocks(DOCUMENT).into_iter().filter(|block| block.kind == "bash").map(|block| block.text).collect();
    assert!(commands.iter().flat_map(|block| lines(block)).count() > 10);
    for block in commands {
        let mut shell = world.command("bash");
        let path = format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap_or_default());
        shell.args(["-euxo", "pipefail", "-c", &block]).current_dir(world.repository()).env("PATH", path);
        shell.env("LOOP", "backend").env("OTHER_LOOP", "frontend").env("TEST", "T-1").env("OTHER_TEST", "T-2");
        let output = shell.env("WORKSPACE", &workspace).output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "{block}{said}");
    }
    let asks = |sql: &str| world.sql(sql).unwrap();
    assert_eq!(asks("SELECT group_concat(status) FROM (SELECT status FROM tests ORDER BY id)"), "passed,pending");
    assert_eq!(asks("SELECT count(*) FROM events WHERE event_type = 'change_resolved'"), "1");
    assert_eq!(asks("SELECT count(*) FROM knowledge"), "1");
}
