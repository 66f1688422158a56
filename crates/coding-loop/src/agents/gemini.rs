//! Gemini CLI: `gemini --yolo --skip-trust -o stream-json`.

use coord_db::ModelUse;
use serde_json::{Value, json};

use super::tools::{HOOK_SECONDS, TOOL_SECONDS};
use super::usage::number;
use super::{Adapter, Call, Report, Tools};

pub(super) struct Gemini;

impl Adapter for Gemini {
    fn event(&self, event: &Value, report: &mut Report) {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).map(str::to_owned);
        match event["type"].as_str().unwrap_or_default() {
            "init" => {
                report.works_in(event["session_id"].as_str());
                report.model = text("/model").or_else(|| report.model.take());
            }
            "message" if event["role"] == "assistant" && event["delta"] == true => {
                let before = report.last_message.take().filter(|_| report.is_speaking).unwrap_or_default();
                report.say(text("/content").map(|more| before + &more));
                report.is_speaking = true;
                return;
            }
            "message" if event["role"] == "assistant" => report.say(text("/content")),
            "tool_use" => report.uses(event["tool_name"].as_str().unwrap_or_default(), &event["parameters"]),
            "error" if event["severity"] != "warning" => {
                report.error = text("/error/message").or_else(|| text("/message")).or_else(|| report.error.take());
            }
            "result" => {
                report.has_result = true;
                let failed = text("/status").is_some_and(|status| status != "success");
                let words = text("/error/message").or_else(|| text("/error")).or_else(|| text("/status"));
                report.error = if failed { words.or_else(|| report.error.take()) } else { None };
                sum(&event["stats"], report);
            }
            _ => {}
        }
        report.is_speaking = false;
    }

    fn line(&self, line: &str, report: &mut Report) {
        // A page of help follows.
        if line.starts_with("Unknown argument") || line.starts_with("When using Gemini API, you must specify") {
            report.error = Some(line.to_owned());
        }
        report.text(line);
    }

    fn ends_with_result(&self) -> bool {
        true
    }

    fn resume(&self, call: &mut Call, session: &str) -> bool {
        if call.has(&["--resume", "-r"]) {
            return false;
        }
        call.add(["--resume", session]);
        true
    }

    fn tool(&self, tool: &str) -> Option<String> {
        Some(format!("mcp_coding-loops_{tool}"))
    }

    fn equip(&self, call: &mut Call, tools: &Tools) {
        let mut settings = serde_json::Map::new();
        if let Some([program, arguments @ ..]) = tools.mcp.as_deref() {
            let server = json!({"command": program, "args": arguments, "trust": true, "timeout": TOOL_SECONDS * 1_000});
            settings.insert("mcpServers".to_owned(), json!({"coding-loops": server}));
        }
        if let Some(command) = tools.hook("gemini") {
            let hook = json!({"type": "command", "command": command, "timeout": HOOK_SECONDS * 1_000});
            let hooks = json!({"BeforeTool": [{"matcher": "write_file|replace", "hooks": [hook]}]});
            settings.insert("hooks".to_owned(), hooks);
        }
        if settings.is_empty() {
            return;
        }
        // Its system settings have to be root's, so it is given a home of its own: the user's settings with ours, and links
        // to the rest.
        let (home, file) = (tools.folder.join("gemini"), "settings.json");
        if let Some(own) = tools.home.as_ref().map(|home| home.join(FOLDER)) {
            let text = std::fs::read_to_string(own.join(file)).unwrap_or_default();
            let mut merged = serde_json::from_str::<Value>(&text).unwrap_or_else(|_| json!({}));
            merge(&mut merged, Value::Object(settings));
            call.files.push((home.join(FOLDER).join(file), merged.to_string()));
            call.links.push((home.join(FOLDER), own));
            call.set("GEMINI_CLI_HOME", home);
        }
    }
}

/// The folder of its settings in a home.
const FOLDER: &str = ".gemini";

/// Adds settings to others: objects are merged, lists are joined.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(more)) => into.extend(more),
        (into, more) => *into = more,
    }
}

/// The input of a model includes what was cached.
fn sum(stats: &Value, report: &mut Report) {
    let of = |model: Option<&String>, stats: &Value| {
        let field = |name: &str| number(stats, &[name]).unwrap_or(0);
        let (all, cached, output) = (field("input_tokens"), field("cached"), field("output_tokens"));
        // The rest of the total is thoughts and tools' prompts.
        let rest = field("total_tokens").saturating_sub(all.saturating_add(output)).max(0);
        let used = ModelUse {
            model: model.cloned(),
            input: number(stats, &["input"]).unwrap_or_else(|| all.saturating_sub(cached).max(0)),
            output: output.saturating_add(rest),
            cache_read: cached,
            ..ModelUse::default()
        };
        used.counted()
    };
    if !stats.is_object() {
        return;
    }
    let models = stats["models"].as_object().filter(|models| !models.is_empty());
    report.used = match models {
        Some(models) => models.iter().map(|(model, stats)| (model.clone(), of(Some(model), stats))).collect(),
        None => [(String::new(), of(report.model.as_ref(), stats))].into(),
    };
}
