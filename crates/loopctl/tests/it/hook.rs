//! `loopctl hook` with the input that real agents give, and what they take for a no.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use test_support::wait_for;

use crate::common::{Place, Ran, agents, ran};

const CLAUDE: &str = include_str!("../fixtures/hooks-claude.jsonl");
const CODEX: &str = include_str!("../fixtures/hooks-codex.jsonl");
const GEMINI: &str = include_str!("../fixtures/hooks-gemini.jsonl");
const RECORDED: [(&str, &str); 3] = [("claude", CLAUDE), ("codex", CODEX), ("gemini", GEMINI)];

const LEASES: &str = "SELECT group_concat(locked_by || ' ' || file_path) FROM (SELECT * FROM file_locks ORDER BY file_path)";

fn workspace(place: &Place, loop_id: &str) -> PathBuf {
    place.workspaces().join("loops").join(loop_id)
}

/// A recorded input, in the workspace of a loop.
fn recorded(agent: &str, event: &str, tool: &str, folder: &Path) -> Value {
    let (_, lines) = RECORDED.iter().find(|(name, _)| *name == agent).unwrap();
    let fits = |given: &Value| given["hook_event_name"] == event && (tool.is_empty() || given["tool_name"] == tool);
    let found = lines.lines().map(|line| line.replace("/workspace", folder.to_str().unwrap()));
    found.map(|line| serde_json::from_str(&line).unwrap()).find(fits).unwrap_or_else(|| panic!("{agent} {event} {tool}"))
}

/// Before claude edits a file of the workspace.
fn edit(folder: &Path, file: &str) -> Value {
    let mut given = recorded("claude", "PreToolUse", "Edit", folder);
    given["tool_input"]["file_path"] = json!(folder.join(file).to_str().unwrap());
    given
}

fn stop(folder: &Path, session: &str) -> Value {
    let mut given = recorded("claude", "Stop", "", folder);
    given["session_id"] = json!(session);
    given
}

/// Starts the hook as the agents do: in the workspace, without our variables.
fn start(place: &Place, agent: &str, loop_id: &str, input: &str, more: &[&str]) -> Child {
    let database = place.database();
    let given = ["--db", database.to_str().unwrap(), "hook", agent, "--loop", loop_id];
    let mut command = place.command(&[&given, more].concat());
    command.current_dir(workspace(place, loop_id)).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", place.outside());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child
}

fn hook(place: &Place, agent: &str, loop_id: &str, input: &Value, more: &[&str]) -> Ran {
    ran(start(place, agent, loop_id, &input.to_string(), more).wait_with_output().unwrap())
}

/// A yes prints nothing.
#[track_caller]
fn yes(ran: Ran) {
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
}

#[test]
fn a_file_is_leased_before_each_agent_edits_it() {
    let place = agents("");
    let folder = workspace(&place, "a");
    for (agent, event, tool, file) in [
        ("claude", "PreToolUse", "Edit", "README.md"),
        ("claude", "PreToolUse", "Write", "h.py"),
        ("codex", "PreToolUse", "apply_patch", "h.py"),
        ("gemini", "BeforeTool", "write_file", "calc5.py"),
    ] {
        let input = recorded(agent, event, tool, &folder);
        yes(hook(&place, agent, "a", &input, &[]));
        assert_eq!(place.sql(LEASES), format!("a {file}"), "{agent} {tool}");
        assert_eq!(place.sql("SELECT test_id FROM file_locks"), "t-a");
        // While it is held, nothing is written.
        let before = place.sql("SELECT max(rowid) || (SELECT max(fencing_token) FROM file_locks) FROM events");
        yes(hook(&place, agent, "a", &input, &[]));
        assert_eq!(place.sql("SELECT max(rowid) || (SELECT max(fencing_token) FROM file_locks) FROM events"), before);
        place.run(&["unlock", "--all", "--loop", "a"]).ok();
    }
    // A lease on the folder is one on its files.
    place.run(&["lock", "src/", "--loop", "a"]).ok();
    yes(hook(&place, "claude", "a", &edit(&folder, "src/new/x.py"), &[]));
    assert_eq!(place.sql(LEASES), "a src/");
}

#[test]
fn what_is_no_edit_needs_no_lease() {
    let place = agents("");
    let folder = workspace(&place, "a");
    for (agent, lines) in RECORDED {
        for line in lines.lines() {
            let input: Value = serde_json::from_str(&line.replace("/workspace", folder.to_str().unwrap())).unwrap();
            let is_edit = ["Edit", "Write", "apply_patch", "write_file"].iter().any(|tool| input["tool_name"] == *tool)
                && ["PreToolUse", "BeforeTool"].iter().any(|event| input["hook_event_name"] == *event);
            if !is_edit {
                yes(hook(&place, agent, "a", &input, &[]));
            }
        }
    }
    assert_eq!(place.sql("SELECT count(*) FROM file_locks"), "0");
}

#[test]
fn what_cannot_land_is_not_leased() {
    let place = agents("");
    let folder = workspace(&place, "a");
    std::os::unix::fs::symlink("/tmp", folder.join("out")).unwrap();
    for file in ["/etc/passwd", "../b/calc.py", ".git/config", "x.log", "build/new/x", "Cargo.lock", "out/x"] {
        yes(hook(&place, "claude", "a", &edit(&folder, file), &[]));
        assert_eq!(place.sql("SELECT count(*) FROM file_locks"), "0", "{file}");
    }
    // Of a patch, the rest is.
    let mut patch = recorded("codex", "PreToolUse", "apply_patch", &folder);
    let command = "*** Begin Patch\n*** Update File: calc.py\n*** Add File: x.log\n*** Add File: src/é x.py\n*** End Patch\n";
    patch["tool_input"]["command"] = json!(command);
    yes(hook(&place, "codex", "a", &patch, &[]));
    assert_eq!(place.sql(LEASES), "a calc.py,a src/é x.py");
}

#[test]
fn a_file_that_another_loop_holds_is_refused_with_who_until_when_and_what_to_do() {
    let place = agents("");
    place.run(&["lock", "calc.py", "--loop", "b"]).ok();
    let folder = workspace(&place, "a");
    let refused = hook(&place, "claude", "a", &edit(&folder, "calc.py"), &["--wait", "0"]).fails(2);
    for part in ["calc.py is leased by b until", "loopctl lock calc.py --loop a --wait 600", "other files"] {
        assert!(refused.stderr.contains(part), "{part:?} is not in {}", refused.stderr);
    }
    assert_eq!(refused.stdout, "");
    let mut patch = recorded("codex", "PreToolUse", "apply_patch", &folder);
    patch["tool_input"]["command"] = json!("*** Begin Patch\n*** Add File: free.py\n*** Update File: calc.py\n*** End Patch\n");
    hook(&place, "codex", "a", &patch, &["--wait", "1"]).fails(2).says("calc.py is leased by b");
    let mut write = recorded("gemini", "BeforeTool", "write_file", &folder);
    write["tool_input"]["file_path"] = json!("calc.py");
    let denied = hook(&place, "gemini", "a", &write, &["--wait", "0"]).ok().json();
    assert_eq!(denied["decision"], "deny");
    assert!(denied["reason"].as_str().unwrap().contains("calc.py is leased by b until"), "{denied}");
    // All files of an edit or none.
    assert_eq!(place.sql(LEASES), "b calc.py");
    assert_eq!(place.sql("SELECT (SELECT count(*) FROM wait_graph) + (SELECT count(*) FROM lease_requests)"), "0");
    place.run(&["own", "ui/", "--loop", "b"]).ok();
    hook(&place, "claude", "a", &edit(&folder, "ui/x"), &["--wait", "60"]).fails(2).says("loopctl request create ui/ --loop a");
}

#[test]
fn an_edit_waits_and_is_made_on_what_others_have_landed() {
    let place = agents("");
    place.run(&["lock", "calc.py", "--loop", "b"]).ok();
    let folder = workspace(&place, "a");
    let input = edit(&folder, "calc.py");
    let waiting = start(&place, "claude", "a", &input.to_string(), &["--wait", "100"]);
    place.until("SELECT waiter || holder FROM wait_graph", "ab");
    std::fs::write(workspace(&place, "b").join("calc.py"), "one\ntwo\nthree\n").unwrap();
    place.run(&["submit", "t-b"]).ok();
    // The agent has read an older version.
    let once = ran(waiting.wait_with_output().unwrap()).fails(2);
    assert!(once.stderr.contains("Updated to what others have landed meanwhile: calc.py"), "{}", once.stderr);
    assert!(once.stderr.contains("+three"), "{}", once.stderr);
    assert_eq!(std::fs::read_to_string(folder.join("calc.py")).unwrap(), "one\ntwo\nthree\n");
    yes(hook(&place, "claude", "a", &input, &[]));
    assert_eq!(place.sql(LEASES), "a calc.py");
}

#[test]
fn an_agent_that_stops_waiting_leaves_no_request() {
    let place = agents("");
    place.run(&["lock", "calc.py", "--loop", "b"]).ok();
    let input = edit(&workspace(&place, "a"), "calc.py").to_string();
    let mut waiting = start(&place, "claude", "a", &input, &["--wait", "100"]);
    place.until("SELECT count(*) FROM lease_requests", "1");
    kill(Pid::from_raw(i32::try_from(waiting.id()).unwrap()), Signal::SIGTERM).unwrap();
    let status = wait_for("the hook to end", || waiting.try_wait().unwrap());
    assert_eq!(status.code(), Some(2));
    assert_eq!(place.sql("SELECT (SELECT count(*) FROM wait_graph) + (SELECT count(*) FROM lease_requests)"), "0");
}

#[test]
fn a_hook_that_fails_says_so_and_is_never_a_yes() {
    let place = agents("");
    let folder = workspace(&place, "a");
    let input = edit(&folder, "calc.py");
    let text = |text: &str| ran(start(&place, "claude", "a", text, &[]).wait_with_output().unwrap());
    text("").fails(2).says("failed, so this is refused").says("is not the JSON of a hook");
    text("not JSON").fails(2).says("is not the JSON of a hook");
    text(r#"{"hook_event_name": "Unheard"}"#).fails(2).says("\"Unheard\" is unknown");
    text(r#"{"hook_event_name": "PreToolUse", "tool_name": "Edit", "tool_input": {}}"#).fails(2).says("no file_path");
    hook(&place, "nobody", "a", &input, &[]).fails(2).says("invalid value 'nobody'");
    hook(&place, "claude", "a", &input, &["--what"]).fails(2).says("unexpected argument '--what'");
    // A loop that nobody has registered, without and with a folder.
    let nobody = |says: &str| {
        let given = edit(&workspace(&place, "nobody"), "x").to_string();
        let mut command = place.command(&["hook", "claude", "--loop", "nobody"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
        ran(child.wait_with_output().unwrap()).fails(2).says(says);
    };
    nobody("loop nobody has no workspace");
    std::fs::create_dir(workspace(&place, "nobody")).unwrap();
    nobody("nobody");
    for agent in ["claude", "codex", "gemini"] {
        let (event, tool) = match agent {
            "claude" => ("PreToolUse", "Edit"),
            "codex" => ("PreToolUse", "apply_patch"),
            _ => ("BeforeTool", "write_file"),
        };
        let input = recorded(agent, event, tool, &folder);
        let config = place.home().join("config.toml");
        let kept = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, "broken").unwrap();
        hook(&place, agent, "a", &input, &[]).fails(2).says("config.toml");
        std::fs::write(&config, kept).unwrap();
        std::fs::rename(place.database(), place.home().join("away")).unwrap();
        hook(&place, agent, "a", &input, &[]).fails(2).says("no database at");
        std::fs::write(place.database(), "a text that is no database").unwrap();
        hook(&place, agent, "a", &input, &[]).fails(2).says("file is not a database");
        std::fs::rename(place.home().join("away"), place.database()).unwrap();
    }
    place.run(&["pause", "a"]).ok();
    hook(&place, "claude", "a", &input, &[]).fails(2).says("is paused");
    assert_eq!(place.sql("SELECT count(*) FROM file_locks"), "0");
}

#[test]
fn a_hook_without_an_answer_is_a_no_before_the_agent_gives_up() {
    let place = agents("");
    // Its input never ends.
    let mut child = place
        .command(&["hook", "claude", "--loop", "a", "--wait", "0", "--checks", "0"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take();
    let ended = ran(child.wait_with_output().unwrap()).fails(2);
    assert!(ended.stderr.contains("has no answer after 10 s"), "{}", ended.stderr);
    drop(input);
}

#[test]
fn an_agent_is_sent_back_with_what_fails_and_not_for_ever() {
    let place = agents("");
    let folder = workspace(&place, "a");
    yes(hook(&place, "claude", "a", &stop(&folder, "s1"), &[]));
    std::fs::write(folder.join("calc.py"), "bad\n").unwrap();
    for round in ["round 1 of 2", "round 2 of 2"] {
        let sent = hook(&place, "claude", "a", &stop(&folder, "s1"), &["--checks", "100"]).fails(2);
        for part in [round, "suite", "the file says: bad", "not run: second"] {
            assert!(sent.stderr.contains(part), "{part:?} is not in {}", sent.stderr);
        }
    }
    let runs = || place.sql("SELECT count(*) FROM events WHERE event_type = 'work_checked'");
    yes(hook(&place, "claude", "a", &stop(&folder, "s1"), &["--checks", "100"]));
    assert_eq!(runs(), "2", "no check runs any more");
    // Another session has rounds of its own.
    let mut ended = recorded("gemini", "AfterAgent", "", &folder);
    ended["session_id"] = json!("s2");
    let sent = hook(&place, "gemini", "a", &ended, &["--checks", "100", "--rounds", "1"]).ok().json();
    assert_eq!(sent["decision"], "deny");
    assert!(sent["reason"].as_str().unwrap().contains("round 1 of 1"), "{sent}");
    yes(hook(&place, "gemini", "a", &ended, &["--checks", "100", "--rounds", "1"]));
    yes(hook(&place, "codex", "a", &recorded("codex", "Stop", "", &folder), &["--checks", "0"]));
    let codex = recorded("codex", "Stop", "", &folder);
    hook(&place, "codex", "a", &codex, &["--checks", "100"]).fails(2).says("round 1 of 2").says("the file says: bad");
    assert_eq!(runs(), "4");
    std::fs::write(folder.join("calc.py"), "good\n").unwrap();
    yes(hook(&place, "claude", "a", &stop(&folder, "s3"), &["--checks", "100"]));
    // The same files have passed.
    yes(hook(&place, "claude", "a", &stop(&folder, "s3"), &["--checks", "100"]));
    assert_eq!(runs(), "5");
    // The loop judges all the same.
    place.run(&["submit", "t-a"]).ok();
}

#[test]
fn checks_that_take_too_long_do_not_hold_the_agent_up() {
    let place = agents("");
    let folder = workspace(&place, "a");
    let config = place.home().join("config.toml");
    let pid = place.outside().join("pid");
    let slow = format!(
        "\n[[gate.check]]\nname = \"slow\"\ncommand = [\"sh\", \"-c\", \"echo $$ > {}; exec sleep 1000\"]\n",
        pid.display()
    );
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + &slow).unwrap();
    std::fs::write(folder.join("calc.py"), "good\n").unwrap();
    yes(hook(&place, "claude", "a", &stop(&folder, "s1"), &["--checks", "3"]));
    if let Ok(pid) = std::fs::read_to_string(&pid) {
        assert!(!test_support::is_alive(pid.trim().parse().unwrap()));
    }
    assert_eq!(place.sql("SELECT count(*) FROM events WHERE event_type = 'work_checked'"), "0");
}

#[test]
fn a_check_that_cannot_run_does_not_keep_the_agent_for_ever() {
    let place = agents("");
    let folder = workspace(&place, "a");
    std::fs::write(folder.join("calc.py"), "bad\n").unwrap();
    std::fs::rename(place.database(), place.home().join("away")).unwrap();
    hook(&place, "claude", "a", &stop(&folder, "s1"), &[]).fails(2).says("no database at");
    let mut again = stop(&folder, "s1");
    again["stop_hook_active"] = json!(true);
    hook(&place, "claude", "a", &again, &[]).ok().says("cannot check the work").says("no database at");
}
