//! Aider: `aider --yes-always … --message PROMPT`. It prints text, with rounded numbers, and on request its events with exact
//! ones.

use coord_db::ModelUse;
use coord_db::config::AgentKind;
use serde_json::Value;

use super::usage::{cost, number, of_text};
use super::{Adapter, Call, Report, Tools};

pub(super) struct Aider;

impl Adapter for Aider {
    fn event(&self, event: &Value, report: &mut Report) {
        if event["event"] != "message_send" {
            return;
        }
        let sent = &event["properties"];
        let model = sent["main_model"].as_str().map(str::to_owned);
        let field = |name: &str| number(sent, &[name]).unwrap_or(0);
        // A request that failed, with an estimate of Aider's own.
        if field("completion_tokens") == 0 {
            return;
        }
        let used = ModelUse {
            model: model.clone(),
            input: field("prompt_tokens"),
            output: field("completion_tokens"),
            // 0 is also what it says of a model without a known price.
            cost_microusd: cost(sent, "cost").filter(|cost| *cost > 0),
            ..ModelUse::default()
        };
        let used = used.counted();
        report.used.entry(model.unwrap_or_default()).and_modify(|sum| sum.add(&used)).or_insert(used);
    }

    fn line(&self, line: &str, report: &mut Report) {
        // This comes after its last words.
        if let Some(file) = line.strip_prefix("Applied edit to ") {
            report.progress = Some(format!("editing {file}"));
            return;
        }
        of_text(line, report);
        if line.contains("has hit a token limit!") {
            report.error = Some(line.to_owned());
        }
    }

    fn equip(&self, call: &mut Call, _tools: &Tools) {
        // Exact numbers, on its output and nowhere else; while it streams, they are estimates of its own.
        if !call.has(&["--analytics-log"]) {
            // Its prompt follows the last argument, and other programs may come before it.
            let options = ["--no-stream", "--no-analytics", "--analytics-log", "/dev/stdout"];
            let words: Vec<String> = call.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            // A program of another name passes options on; the first word after a shell is its script.
            let own = words.get(1).is_none_or(|word| word.starts_with("--")).then_some(1);
            if let Some(after) = AgentKind::find(&words).map(|(_, at)| at + 1).or(own) {
                call.argv.splice(after..after, options.map(Into::into));
            }
        }
    }
}
