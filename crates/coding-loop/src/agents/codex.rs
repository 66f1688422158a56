//! Codex: `codex exec --json -`.

use serde_json::{Value, json};

use super::tools::{HOOK_SECONDS, TOOL_SECONDS};
use super::usage::of_usage;
use super::{Adapter, Call, Report, Tools};

pub(super) struct Codex;

impl Adapter for Codex {
    fn event(&self, event: &Value, report: &mut Report) {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).map(str::to_owned);
        match event["type"].as_str().unwrap_or_default() {
            "thread.started" => report.works_in(event["thread_id"].as_str()),
            "turn.completed" => {
                report.has_result = true;
                report.error = None;
                if let Some(used) = event.get("usage").and_then(of_usage) {
                    report.is_of_session = true;
                    report.used = [(String::new(), used)].into();
                }
            }
            "turn.failed" | "error" => {
                report.has_result |= event["type"] == "turn.failed";
                let words = text("/error/message").or_else(|| text("/message")).or_else(|| text("/error"));
                report.error = words.map(|words| inner(&words)).or_else(|| report.error.take());
            }
            "item.started" | "item.updated" | "item.completed" => item(&event["item"], report),
            _ => {}
        }
    }

    fn ends_with_result(&self) -> bool {
        true
    }

    fn resume(&self, call: &mut Call, session: &str) -> bool {
        if call.has(&["resume"]) || !call.has(&["exec", "e"]) {
            return false;
        }
        // `resume` knows fewer options than `exec`.
        let sandbox = call.take(&["--sandbox", "-s"]);
        for option in ["-C", "--cd", "--add-dir", "--color"] {
            call.take(&[option]);
        }
        let reads_stdin = call.argv.pop_if(|last| last == "-").is_some();
        call.add_after(if call.has(&["exec"]) { "exec" } else { "e" }, ["resume"]);
        call.add(sandbox.into_iter().flat_map(|mode| ["-c".to_owned(), format!("sandbox_mode={}", json!(mode))]));
        call.add([session]);
        call.add(reads_stdin.then_some("-"));
        true
    }

    fn tool(&self, tool: &str) -> Option<String> {
        Some(format!("mcp__coding_loops__{tool}"))
    }

    fn equip(&self, call: &mut Call, tools: &Tools) {
        let after = if call.has(&["exec"]) { "exec" } else { "e" };
        if let Some([program, arguments @ ..]) = tools.mcp.as_deref() {
            let server = "mcp_servers.coding_loops";
            let settings = [
                format!("{server}.command={}", json!(program)),
                format!("{server}.args={}", json!(arguments)),
                format!("{server}.default_tools_approval_mode=\"approve\""),
                format!("{server}.tool_timeout_sec={TOOL_SECONDS}"),
            ];
            call.add_after(after, settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
        }
        if let Some(command) = tools.hook("codex") {
            let command = json!(command);
            let hook = format!("{{type=\"command\",command={command},timeout={HOOK_SECONDS}}}");
            let setting = format!("hooks.PreToolUse=[{{matcher=\"apply_patch|Edit|Write\",hooks=[{hook}]}}]");
            call.add_after(after, ["-c".to_owned(), setting]);
            // Without it, codex leaves out untrusted hooks silently.
            if !call.has(&["--dangerously-bypass-hook-trust"]) {
                call.add_after(after, ["--dangerously-bypass-hook-trust"]);
            }
        }
    }
}

fn item(item: &Value, report: &mut Report) {
    match item["type"].as_str().unwrap_or_default() {
        "agent_message" => report.say(item["text"].as_str().map(str::to_owned)),
        "command_execution" => report.uses("shell", item),
        "file_change" => {
            let files = item["changes"].as_array().into_iter().flatten();
            for path in files.filter_map(|change| change["path"].as_str()) {
                report.uses("edit", &json!({"path": path}));
            }
        }
        "mcp_tool_call" => report.uses(item["tool"].as_str().unwrap_or("a tool"), &item["arguments"]),
        _ => {}
    }
}

/// Codex wraps the service's message in one of its own, as JSON.
fn inner(words: &str) -> String {
    let parsed = serde_json::from_str::<Value>(words).ok();
    let message = parsed.as_ref().and_then(|value| value.pointer("/error/message")).and_then(Value::as_str);
    message.map_or_else(|| words.to_owned(), str::to_owned)
}
