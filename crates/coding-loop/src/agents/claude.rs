//! Claude Code: `claude -p --output-format stream-json --verbose`.

use coord_db::{ModelUse, Timestamp};
use serde_json::{Value, json};

use super::tools::HOOK_SECONDS;
use super::usage::{cost, number, of_usage};
use super::{Adapter, Call, Report, Tools};

pub(super) struct Claude;

/// Number of times that it tries a request again.
const RETRIES: &str = "4";
/// Number of times that it may try a refused key again. It would go on for minutes.
const KEY_TRIES: i64 = 2;

impl Adapter for Claude {
    fn event(&self, event: &Value, report: &mut Report) {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).map(str::to_owned);
        match event["type"].as_str().unwrap_or_default() {
            "system" if event["subtype"] == "init" => {
                report.works_in(event["session_id"].as_str());
                report.model = text("/model").or_else(|| report.model.take());
            }
            "system" if event["subtype"] == "api_retry" => {
                let is_key = matches!(event["error_status"].as_i64(), Some(401 | 403));
                let words = || format!("the key is refused: {}", event["error"].as_str().unwrap_or("authentication failed"));
                report.key_refused = (is_key && event["attempt"].as_i64() >= Some(KEY_TRIES)).then(words);
            }
            "assistant" => message(event, report),
            "rate_limit_event" => {
                let info = &event["rate_limit_info"];
                let until = info["resetsAt"].as_i64().map(epoch);
                report.limit_until = (info["status"] == "rejected").then_some(until);
            }
            "result" => {
                report.has_result = true;
                let failed = event["is_error"] == true || text("/subtype").is_some_and(|subtype| subtype.starts_with("error"));
                let errors = event["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let errors = errors.collect::<Vec<_>>().join("; ");
                let words = text("/result")
                    .or_else(|| Some(errors).filter(|errors| !errors.is_empty()))
                    .or_else(|| text("/error/message"))
                    .or_else(|| text("/error"))
                    .or_else(|| text("/subtype"));
                report.error = failed.then(|| words.unwrap_or_else(|| "the agent gave no reason".to_owned()));
                report.is_over_budget = event["subtype"] == "error_max_budget_usd";
                report.status = event["api_error_status"].as_i64();
                report.called_off = text("/terminal_reason").filter(|reason| reason != "completed");
                report.say(text("/result"));
                report.works_in(event["session_id"].as_str());
                for denial in event["permission_denials"].as_array().into_iter().flatten() {
                    report.deny(denial["tool_name"].as_str().unwrap_or("a tool"));
                }
                sum(event, report);
            }
            _ => {}
        }
    }

    fn ends_with_result(&self) -> bool {
        true
    }

    fn resume(&self, call: &mut Call, session: &str) -> bool {
        if call.has(&["--resume", "-r", "--continue", "-c"]) {
            return false;
        }
        call.add(["--resume", session]);
        true
    }

    fn tool(&self, tool: &str) -> Option<String> {
        Some(format!("mcp__coding-loops__{tool}"))
    }

    fn equip(&self, call: &mut Call, tools: &Tools) {
        // What lasts is waited for by all loops of the account.
        call.set("CLAUDE_CODE_MAX_RETRIES", RETRIES);
        if let Some([program, arguments @ ..]) = tools.mcp.as_deref()
            && !call.has(&["--mcp-config", "--strict-mcp-config"])
        {
            let servers = json!({"mcpServers": {"coding-loops": {"command": program, "args": arguments}}});
            // Without the = it takes every word that follows, and the prompt may be one.
            call.add([format!("--mcp-config={servers}")]);
        }
        if let Some(command) = tools.hook("claude")
            && !call.has(&["--settings"])
        {
            let hook = json!({"type": "command", "command": command, "timeout": HOOK_SECONDS});
            let settings =
                json!({"hooks": {"PreToolUse": [{"matcher": "Edit|MultiEdit|Write|NotebookEdit", "hooks": [hook]}]}});
            call.add(["--settings".to_owned(), settings.to_string()]);
        }
    }

    fn limit_cost(&self, call: &mut Call, dollars: f64) {
        if !call.has(&["--max-budget-usd"]) {
            call.add(["--max-budget-usd".to_owned(), format!("{dollars:.4}")]);
        }
    }
}

fn message(event: &Value, report: &mut Report) {
    let message = &event["message"];
    let parts = message["content"].as_array();
    for part in parts.into_iter().flatten() {
        if part["type"] == "tool_use" {
            report.uses(part["name"].as_str().unwrap_or_default(), &part["input"]);
        }
    }
    let words = parts.into_iter().flatten().filter_map(|part| part["text"].as_str()).next_back();
    report.say(words.map(str::to_owned));
    // One message can come in several lines with the same use.
    let (Some(id), Some(used)) = (message["id"].as_str(), of_usage(&message["usage"])) else { return };
    let model = message["model"].as_str().map(str::to_owned);
    report.messages.insert(id.to_owned(), ModelUse { model, ..used });
}

/// The use of the whole run, with sub-agents.
fn sum(event: &Value, report: &mut Report) {
    let models = |name: &str| event[name].as_object();
    if let Some(models) = models("model_usage_since_last_result") {
        for (model, used) in models {
            let used = of_model(model, used);
            report.used.entry(model.clone()).and_modify(|sum| sum.add(&used)).or_insert(used);
        }
        return;
    }
    let Some(models) = models("modelUsage").filter(|models| !models.is_empty()) else {
        if let Some(used) = event.get("usage").and_then(of_usage) {
            let used = ModelUse { model: report.model.clone(), cost_microusd: cost(event, "total_cost_usd"), ..used };
            report.used = [(String::new(), used)].into();
        }
        return;
    };
    report.is_of_session = true;
    report.used = models.iter().map(|(model, used)| (model.clone(), of_model(model, used))).collect();
}

fn of_model(model: &str, used: &Value) -> ModelUse {
    let field = |name: &str| number(used, &[name]).unwrap_or(0);
    let used = ModelUse {
        model: Some(model.to_owned()),
        input: field("inputTokens"),
        output: field("outputTokens"),
        cache_read: field("cacheReadInputTokens"),
        cache_write: field("cacheCreationInputTokens"),
        cost_microusd: cost(used, "costUSD"),
        ..ModelUse::default()
    };
    used.counted()
}

/// Seconds or milliseconds since 1970, by magnitude.
fn epoch(number: i64) -> Timestamp {
    Timestamp::from_millis(if number > 100_000_000_000 { number } else { number.saturating_mul(1_000) })
}
