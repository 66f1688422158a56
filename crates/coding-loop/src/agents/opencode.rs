//! OpenCode: `opencode run --format json`.

use coord_db::ModelUse;
use serde_json::{Value, json};

use super::usage::{cost, number};
use super::{Adapter, Call, Report, Tools};

pub(super) struct Opencode;

impl Adapter for Opencode {
    fn event(&self, event: &Value, report: &mut Report) {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).map(str::to_owned);
        report.works_in(event["sessionID"].as_str());
        match event["type"].as_str().unwrap_or_default() {
            "text" => report.say(text("/part/text")),
            "tool_use" => {
                report.uses(event.pointer("/part/tool").and_then(Value::as_str).unwrap_or_default(), input_of(event));
                // A refused permission is the error of its tool.
                let error = text("/part/state/error").unwrap_or_default();
                if error.contains("permission") || error.contains("rejected") {
                    report.deny(event.pointer("/part/tool").and_then(Value::as_str).unwrap_or("a tool"));
                }
            }
            "step_finish" => step(&event["part"], report),
            "error" => {
                let words = text("/error/data/message").or_else(|| text("/error/message")).or_else(|| text("/error/name"));
                report.status = event.pointer("/error/data/statusCode").and_then(Value::as_i64);
                report.error = words.or_else(|| text("/error")).or_else(|| report.error.take());
            }
            _ => {}
        }
    }

    fn line(&self, line: &str, report: &mut Report) {
        // It prints its help, and not the reason.
        if line == "Options:" && report.session.is_none() {
            report.error = Some("unknown argument: it printed its help".to_owned());
        }
        report.text(line);
    }

    fn resume(&self, call: &mut Call, session: &str) -> bool {
        if call.has(&["--session", "-s", "--continue", "-c"]) {
            return false;
        }
        call.add_after("run", ["--session", session]);
        true
    }

    fn tool(&self, tool: &str) -> Option<String> {
        Some(format!("coding-loops_{tool}"))
    }

    fn equip(&self, call: &mut Call, tools: &Tools) {
        // Otherwise it asks the model for a title, and states nothing of that.
        if !call.has(&["--title"]) {
            call.add_after("run", ["--title", tools.title.as_str()]);
        }
        const CONTENT: &str = "OPENCODE_CONFIG_CONTENT";
        if let Some(command) = &tools.mcp {
            let config = json!({"mcp": {"coding-loops": {"type": "local", "command": command, "enabled": true}}});
            call.set(CONTENT, config.to_string());
        }
    }
}

fn input_of(event: &Value) -> &Value {
    event.pointer("/part/state/input").unwrap_or(&Value::Null)
}

/// A step has its own use. Reasoning is part of the output.
fn step(part: &Value, report: &mut Report) {
    let tokens = &part["tokens"];
    if !tokens.is_object() {
        return;
    }
    let field = |value: &Value, name: &str| number(value, &[name]).unwrap_or(0);
    let (input, cache) = (field(tokens, "input"), &tokens["cache"]);
    let used = ModelUse {
        input,
        output: field(tokens, "output").saturating_add(field(tokens, "reasoning")),
        cache_read: field(cache, "read"),
        cache_write: field(cache, "write"),
        cost_microusd: cost(part, "cost"),
        ..ModelUse::default()
    };
    report.used.entry(String::new()).or_default().add(&used.counted());
}
