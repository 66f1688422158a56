//! `loopctl mcp` over pipes, with what real agents send, and with the environment that they give it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use test_support::{BOUND, wait_for, wait_until};

use crate::common::{Place, agents};

const CLAUDE: &str = include_str!("../fixtures/mcp-claude.jsonl");
const CODEX: &str = include_str!("../fixtures/mcp-codex.jsonl");
const GEMINI: &str = include_str!("../fixtures/mcp-gemini.jsonl");
const OPENCODE: &str = include_str!("../fixtures/mcp-opencode.jsonl");

const NOBODY_WAITS: &str = "SELECT (SELECT count(*) FROM wait_graph) + (SELECT count(*) FROM lease_requests)";

fn messages(recorded: &str) -> Vec<Value> {
    recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The server of one loop, and what an agent would see of it.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    unread: VecDeque<Value>,
    next: u64,
}

impl Server {
    fn start(place: &Place, loop_id: &str, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopctl"));
        command.arg("--db").arg(place.database()).args(["mcp", "--loop", loop_id]).args(more).env_clear();
        // What codex passes on.
        command.env("HOME", place.outside()).env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "C.UTF-8");
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (lines, output) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let input = child.stdin.take();
        Self { child, input, output, unread: VecDeque::new(), next: 100 }
    }

    /// A server that has been greeted as codex does.
    fn greeted(place: &Place, loop_id: &str, more: &[&str]) -> Self {
        let mut server = Self::start(place, loop_id, more);
        for message in messages(CODEX).into_iter().take(2) {
            server.send(&message);
        }
        assert_eq!(server.answer(&json!(0))["result"]["serverInfo"]["name"], "coding-loops");
        server
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.input.as_mut().unwrap(), "{message}").unwrap();
    }

    /// The next message that fits; others are kept. Every line is one of the protocol.
    #[track_caller]
    fn expect(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.unread.iter().position(&fits) {
            return self.unread.remove(at).unwrap();
        }
        loop {
            let line = self.output.recv_timeout(BOUND).unwrap_or_else(|error| panic!("{what}: {error}"));
            let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert_eq!(message["jsonrpc"], "2.0", "{line}");
            if fits(&message) {
                return message;
            }
            self.unread.push_back(message);
        }
    }

    #[track_caller]
    fn answer(&mut self, id: &Value) -> Value {
        self.expect("an answer", |message| message["id"] == *id)
    }

    /// Begins a call; gives its id.
    fn begin(&mut self, tool: &str, arguments: Value) -> Value {
        self.next += 1;
        let params = json!({ "name": tool, "arguments": arguments, "_meta": { "progressToken": self.next } });
        let id = json!(self.next);
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }));
        id
    }

    /// The end of a call: its text, and whether it succeeded.
    #[track_caller]
    fn end(&mut self, id: &Value) -> Result<String, String> {
        let answer = self.answer(id);
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        if answer["result"]["isError"] == true { Err(text) } else { Ok(text) }
    }

    #[track_caller]
    fn call(&mut self, tool: &str, arguments: Value) -> Result<String, String> {
        let id = self.begin(tool, arguments);
        self.end(&id)
    }

    /// The message of the next progress of a call.
    #[track_caller]
    fn progress(&mut self, id: &Value) -> String {
        let message = self.expect("progress", |message| {
            message["method"] == "notifications/progress" && message["params"]["progressToken"] == *id
        });
        message["params"]["message"].as_str().unwrap().to_owned()
    }

    fn cancel(&mut self, id: &Value) {
        self.send(
            &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id, "reason": "x" } }),
        );
    }

    /// Closes standard input; the server ends well, and has printed nothing but the protocol.
    #[track_caller]
    fn close(mut self) {
        drop(self.input.take());
        let status = wait_for("the server to end", || self.child.try_wait().unwrap());
        let mut errors = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut errors).unwrap();
        assert_eq!(status.code(), Some(0), "{errors}");
        assert!(errors.lines().all(|line| line.starts_with(" WARN ")), "{errors}");
        for line in self.output.iter() {
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["jsonrpc"], "2.0");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn the_programs_of_all_agents_find_and_call_the_tools() {
    let place = agents("");
    for (recorded, version) in [(CLAUDE, "2025-11-25"), (CODEX, "2025-06-18"), (GEMINI, "2025-06-18"), (OPENCODE, "2025-11-25")]
    {
        let mut server = Server::start(&place, "a", &[]);
        for message in messages(recorded) {
            let method = message["method"].as_str().unwrap().to_owned();
            if method == "notifications/cancelled" {
                continue;
            }
            server.send(&message);
            if method.starts_with("notifications/") {
                continue;
            }
            let answer = server.answer(&message["id"]);
            match method.as_str() {
                "server/discover" => assert!(answer["result"]["supportedVersions"].to_string().contains(version), "{answer}"),
                "initialize" => assert_eq!(answer["result"]["protocolVersion"], version),
                "tools/list" => {
                    let tools = answer["result"]["tools"].as_array().unwrap();
                    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
                    assert_eq!(names, ["context", "lock", "unlock", "ask", "learn", "request", "check", "give_up"]);
                }
                "tools/call" => {
                    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().starts_with("leased: calc.py"), "{answer}")
                }
                other => panic!("{other}"),
            }
        }
        server.close();
        assert_eq!(place.sql("SELECT locked_by, file_path, test_id FROM file_locks"), "a|calc.py|t-a");
        place.run(&["unlock", "--all", "--loop", "a"]).ok();
    }
}

#[test]
fn a_client_of_the_newest_protocol_needs_no_session() {
    let place = agents("");
    let mut server = Server::start(&place, "a", &[]);
    let probe = messages(CLAUDE).remove(0);
    server.send(&probe);
    assert!(server.answer(&probe["id"])["result"]["supportedVersions"].to_string().contains("2026-07-28"));
    let mut params = json!({ "name": "lock", "arguments": { "paths": ["calc.py"] } });
    params["_meta"] = probe["params"]["_meta"].clone();
    server.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }));
    assert!(server.end(&json!(1)).unwrap().starts_with("leased: calc.py"));
    server.close();
}

#[test]
fn what_is_wrong_from_the_start_is_an_exit_status_and_what_is_wrong_later_an_answer() {
    let place = agents("");
    place.run(&["--db", "/nowhere/coordination.db", "mcp", "--loop", "a"]).fails(3).says("no database at");
    place.run(&["mcp", "--loop", "nobody"]).fails(4).says("nobody");
    place.run_with("GET / HTTP/1.1\n", &["mcp", "--loop", "a"]).ok();
    place
        .run_with("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n", &["mcp", "--loop", "a"])
        .fails(1)
        .says("does not speak MCP");
    let mut server = Server::greeted(&place, "a", &[]);
    server.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "nothing" } }));
    assert!(server.answer(&json!(1))["error"]["message"].as_str().unwrap().contains("no tool nothing"));
    assert!(server.call("lock", json!({ "files": [] })).unwrap_err().contains("missing field `paths`"));
    assert!(server.call("lock", json!({ "paths": [] })).unwrap_err().contains("at least one path"));
    assert!(server.call("lock", json!({ "paths": ["../other"] })).unwrap_err().contains("is not a file in the workspace"));
    writeln!(server.input.as_mut().unwrap(), "this is no JSON").unwrap();
    std::fs::rename(place.database(), place.home().join("away")).unwrap();
    assert!(server.call("context", json!({})).unwrap_err().contains("no database at"));
    std::fs::rename(place.home().join("away"), place.database()).unwrap();
    assert!(server.call("context", json!({})).is_ok());
    server.close();
}

#[test]
fn the_context_has_the_test_the_rules_and_what_others_know_own_and_hold() {
    let place = agents("\"ci/**\"");
    place.run(&["own", "ui/", "--loop", "b"]).ok();
    place.run(&["lock", "docs/", "--loop", "b", "--reason", "rewrites them"]).ok();
    place.run(&["knowledge", "add", "Amounts are cents.", "--loop", "b"]).ok();
    let mut server = Server::greeted(&place, "a", &[]);
    server.call("lock", json!({ "paths": ["calc.py", "port:5432"] })).unwrap();
    let text = server.call("context", json!({})).unwrap();
    let workspace = place.workspaces().join("loops/a");
    for part in [
        format!("You are loop a and work in {}", workspace.display()),
        "Your test is t-a, attempt 1 of 3".to_owned(),
        "- suite: sh -c".to_owned(),
        "approval of the human: ci/**".to_owned(),
        "- ui/ (b)".to_owned(),
        "- docs/ (b until ".to_owned(),
        ": rewrites them".to_owned(),
        "Leased by you:\n- calc.py\n- port:5432\n".to_owned(),
        "Amounts are cents.".to_owned(),
    ] {
        assert!(text.contains(&part), "{part:?} is not in {text}");
    }
    server.close();
}

#[test]
fn a_lock_waits_with_progress_and_brings_what_others_have_landed() {
    let place = agents("");
    place.run(&["lock", "calc.py", "--loop", "b"]).ok();
    let mut server = Server::greeted(&place, "a", &[]);
    let waiting = server.begin("lock", json!({ "paths": ["calc.py"], "wait_seconds": 100 }));
    assert!(server.progress(&waiting).contains("calc.py is leased by b until"), "who, and until when");
    place.until("SELECT waiter || holder FROM wait_graph", "ab");
    // Other calls are answered meanwhile.
    server.call("context", json!({})).unwrap();
    std::fs::write(place.workspaces().join("loops/b/calc.py"), "one\ntwo\nthree\n").unwrap();
    place.run(&["submit", "t-b"]).ok();
    let text = server.end(&waiting).unwrap();
    assert!(text.contains("Updated to what others have landed meanwhile: calc.py"), "{text}");
    assert!(text.contains("+three"), "{text}");
    assert_eq!(std::fs::read_to_string(place.workspaces().join("loops/a/calc.py")).unwrap(), "one\ntwo\nthree\n");
    server.close();
}

#[test]
fn a_lock_of_a_changed_file_says_that_the_base_has_moved() {
    let place = agents("");
    let own = place.workspaces().join("loops/a/calc.py");
    std::fs::write(&own, "ONE\ntwo\n").unwrap();
    std::fs::write(place.workspaces().join("loops/b/calc.py"), "one\ntwo\nthree\n").unwrap();
    place.run(&["submit", "t-b"]).ok();
    let mut server = Server::greeted(&place, "a", &[]);
    let text = server.call("lock", json!({ "paths": [own.to_str().unwrap()] })).unwrap();
    assert!(text.contains("The base has moved: others have landed changes in calc.py, which you have changed too"), "{text}");
    assert!(text.contains("+three"), "{text}");
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "ONE\ntwo\n");
    // The command says so too.
    let locked = place.json(&["lock", "calc.py", "--loop", "a"]);
    assert_eq!((&locked["updated"], &locked["kept"]), (&json!([]), &json!(["calc.py"])));
    server.close();
}

#[test]
fn a_lock_that_is_not_granted_in_time_leaves_nothing_behind() {
    let place = agents("");
    place.run(&["lock", "calc.py", "--loop", "b"]).ok();
    place.run(&["own", "ui/", "--loop", "b"]).ok();
    let mut server = Server::greeted(&place, "a", &["--wait", "1"]);
    let refused = server.call("lock", json!({ "paths": ["calc.py", "free"] })).unwrap_err();
    assert!(refused.contains("calc.py is leased by b until") && refused.contains("other files"), "{refused}");
    let owned = server.call("lock", json!({ "paths": ["ui/menu"], "wait_seconds": 100 })).unwrap_err();
    assert!(owned.contains("ui/ is owned by b") && owned.contains("tool request"), "{owned}");
    assert_eq!(place.sql(NOBODY_WAITS), "0");
    assert_eq!(place.sql("SELECT group_concat(locked_by) FROM file_locks"), "b");
    server.close();
}

#[test]
fn whatever_ends_a_wait_withdraws_it_and_no_lease_of_the_loop() {
    let place = agents("");
    place.run(&["lock", "calc.py", "--loop", "b"]).ok();
    place.run(&["lock", "mine", "--loop", "a"]).ok();
    let waiting = |place: &Place| {
        let mut server = Server::greeted(place, "a", &[]);
        let id = server.begin("lock", json!({ "path": "calc.py", "wait_seconds": 600 }));
        server.progress(&id);
        place.until("SELECT count(*) FROM lease_requests", "1");
        (server, id)
    };
    // As opencode does it.
    let (mut server, id) = waiting(&place);
    server.cancel(&id);
    place.until(NOBODY_WAITS, "0");
    server.call("context", json!({})).unwrap();
    assert!(!server.unread.iter().any(|message| message["id"] == id), "a cancelled call has no answer");
    server.close();
    let (server, _) = waiting(&place);
    server.close();
    assert_eq!(place.sql(NOBODY_WAITS), "0");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (mut server, _) = waiting(&place);
        kill(Pid::from_raw(i32::try_from(server.child.id()).unwrap()), signal).unwrap();
        wait_for("the server to end", || server.child.try_wait().unwrap());
        assert_eq!(place.sql(NOBODY_WAITS), "0");
    }
    // Killed, it cannot; its place in the queue is free soon, because nobody renews it.
    let (mut server, _) = waiting(&place);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert_eq!(
        place
            .sql("SELECT count(*) FROM lease_requests WHERE wait_until <= strftime('%Y-%m-%d %H:%M:%f', 'now', '+30 seconds')"),
        "1"
    );
    assert_eq!(
        place.sql("SELECT group_concat(locked_by || ' ' || file_path) FROM (SELECT * FROM file_locks ORDER BY file_path)"),
        "b calc.py,a mine"
    );
}

#[test]
fn a_question_waits_for_the_human_and_is_asked_once() {
    let place = agents("");
    let mut server = Server::greeted(&place, "a", &[]);
    let question =
        json!({ "question": "Which format?", "options": ["iso=2026-11-27", "the American one"], "wait_seconds": 600 });
    let asked = server.begin("ask", question.clone());
    assert!(server.progress(&asked).contains("human"));
    place.until("SELECT count(*) FROM decisions WHERE status = 'pending'", "1");
    server.cancel(&asked);
    // The human may answer all the same, and the next call finds the answer.
    let mut once_more = question.clone();
    once_more["wait_seconds"] = json!(0);
    assert!(server.call("ask", once_more).unwrap().contains("no answer yet"));
    let again = server.begin("ask", question.clone());
    server.progress(&again);
    let id = place.sql("SELECT id FROM decisions");
    place.run(&["decide", &id, "iso", "--comment", "as in the logs"]).ok();
    assert_eq!(server.end(&again).unwrap(), "the human has decided: iso (2026-11-27)\nas in the logs");
    // As pm applies it.
    place.sql("UPDATE decisions SET status = 'decided', choice = 'iso', comment = 'as in the logs', decided_by = 'human', decided_at = requested_at");
    assert_eq!(server.call("ask", question).unwrap(), "the human has decided: iso (2026-11-27)\nas in the logs");
    assert_eq!(place.sql("SELECT count(*) FROM decisions"), "1");
    let wrong = server.call("ask", json!({ "question": "x", "options": ["a", "b"], "default": "c" })).unwrap_err();
    assert!(wrong.contains("is not one of the options"), "{wrong}");
    assert!(server.call("ask", json!({ "question": "x", "options": ["a"] })).unwrap_err().contains("at least two options"));
    server.close();
}

#[test]
fn unfinished_work_is_checked_as_the_gate_would_and_proves_nothing() {
    let place = agents("");
    let file = place.workspaces().join("loops/a/calc.py");
    let mut server = Server::greeted(&place, "a", &[]);
    assert!(server.call("check", json!({})).unwrap().contains("nothing has changed"));
    std::fs::write(&file, "bad\n").unwrap();
    let failing = server.begin("check", json!({}));
    assert_eq!(server.progress(&failing), "running check suite");
    let failed = server.end(&failing).unwrap_err();
    assert!(
        failed.contains("suite") && failed.contains("the file says: bad") && failed.contains("not run: second"),
        "{failed}"
    );
    std::fs::write(&file, "good\n").unwrap();
    assert_eq!(server.call("check", json!({})).unwrap(), "these checks pass: suite, second");
    assert_eq!(place.sql("SELECT count(*) FROM proofs"), "0");
    assert_eq!(
        place.sql("SELECT group_concat(json_extract(payload, '$.passed')) FROM (SELECT * FROM events WHERE event_type = 'work_checked' ORDER BY rowid)"),
        "0,1"
    );
    // What others have landed counts.
    std::fs::write(place.workspaces().join("loops/b/calc.py"), "theirs\n").unwrap();
    place.run(&["submit", "t-b"]).ok();
    let clash = server.call("check", json!({})).unwrap_err();
    assert!(clash.contains("conflict with this work in calc.py"), "{clash}");
    server.close();
}

#[test]
fn a_cancelled_check_leaves_no_process_and_no_lease() {
    let place = agents("");
    let mut config = std::fs::read_to_string(place.home().join("config.toml")).unwrap();
    let pid = place.outside().join("pid");
    config.push_str(&format!(
        "\n[[gate.check]]\nname = \"slow\"\nresources = [\"port:5432\"]\ncommand = [\"sh\", \"-c\", \"echo $$ > {}; exec sleep 1000\"]\n",
        pid.display()
    ));
    std::fs::write(place.home().join("config.toml"), config).unwrap();
    std::fs::write(place.workspaces().join("loops/a/calc.py"), "good\n").unwrap();
    let mut server = Server::greeted(&place, "a", &[]);
    let id = server.begin("check", json!({}));
    let running = wait_for("the check", || std::fs::read_to_string(&pid).ok()?.trim().parse::<u32>().ok());
    place.until("SELECT locked_by FROM file_locks WHERE file_path = 'port:5432'", "a");
    // The check-out is in use.
    assert!(server.call("check", json!({})).unwrap_err().contains("are running already"));
    server.cancel(&id);
    wait_until("the check to end", || !test_support::is_alive(running));
    place.until("SELECT count(*) FROM file_locks WHERE file_path = 'port:5432'", "0");
    server.close();
}

#[test]
fn what_is_learned_requested_and_released_is_in_the_database() {
    let place = agents("");
    place.run(&["own", "ui/", "--loop", "b"]).ok();
    let mut server = Server::greeted(&place, "a", &[]);
    let areas = place.workspaces().join("loops/a/src/**");
    let item =
        json!({ "content": "Amounts are cents.", "type": "warning", "topic": "money", "areas": areas.to_str().unwrap() });
    server.call("learn", item).unwrap();
    assert_eq!(
        place.sql("SELECT loop_id, item_type, topic, content, affected_areas FROM knowledge"),
        "a|warning|money|Amounts are cents.|[\"src/**\"]"
    );
    let wanted = json!({ "path": "ui/menu.js", "description": "a new entry" });
    assert!(server.call("request", wanted.clone()).unwrap().contains("is pending"));
    let id = place.sql("SELECT id FROM change_requests WHERE resource_path = 'ui/' AND requestor_loop = 'a'");
    place.run(&["request", "approve", &id]).ok();
    assert_eq!(server.call("request", wanted).unwrap(), "approved: you may change ui/");
    assert!(server.call("lock", json!({ "paths": ["ui/menu.js", "x"] })).is_ok());
    assert_eq!(server.call("unlock", json!({ "paths": ["x"] })).unwrap(), "released: x");
    assert!(server.call("unlock", json!({ "paths": ["x"] })).is_err());
    assert_eq!(place.sql("SELECT group_concat(file_path) FROM file_locks"), "ui/menu.js");
    server.close();
}

#[test]
fn giving_up_ends_an_attempt_by_hand_as_a_matter_of_the_specification() {
    let place = agents("");
    let mut server = Server::greeted(&place, "a", &[]);
    assert!(server.call("give_up", json!({ "reason": " " })).unwrap_err().contains("give the reason"));
    let said = server.call("give_up", json!({ "reason": "the two documents contradict each other" })).unwrap();
    assert!(said.contains("Stop now"), "{said}");
    assert_eq!(
        place.sql("SELECT status, error_category, last_error FROM tests WHERE id = 't-a'"),
        "pending|spec|the agent gave up: the two documents contradict each other"
    );
    assert!(server.call("give_up", json!({ "reason": "again" })).unwrap_err().contains("works on no test"));
    server.close();
}

#[test]
fn what_an_agent_writes_to_others_has_a_limit() {
    let place = agents("");
    let mut server = Server::greeted(&place, "a", &[]);
    let answers: Vec<String> = (0..27).map(|number| format!("answer {number}")).collect();
    let said = server.call("ask", json!({ "question": "which?", "options": answers })).unwrap_err();
    assert!(said.contains("at most 26 options"), "{said}");
    let said = server.call("ask", json!({ "question": "q".repeat(100_000), "options": ["a", "b"] })).unwrap_err();
    assert!(said.contains("is too long"), "{said}");
    // The next attempt reads this.
    server.call("give_up", json!({ "reason": "why ".repeat(100_000) })).unwrap();
    let length: usize = place.sql("SELECT length(last_error) FROM tests WHERE id = 't-a'").parse().unwrap();
    assert!(length < 3_000, "{length}");
    server.close();
}
