//! Any other command. Output in the format of a known agent is understood, because the program may be a wrapper of one.

use serde_json::Value;

use super::claude::Claude;
use super::codex::Codex;
use super::gemini::Gemini;
use super::opencode::Opencode;
use super::usage::{of_text, of_usage};
use super::{Adapter, Report};

pub(super) struct Generic;

impl Adapter for Generic {
    fn event(&self, event: &Value, report: &mut Report) {
        let kind = event["type"].as_str().unwrap_or_default();
        match kind {
            "init" | "message" | "tool_use" if event.get("part").is_none() => Gemini.event(event, report),
            "result" if event.get("stats").or(event.get("status")).is_some() => Gemini.event(event, report),
            "text" | "tool_use" | "step_start" | "step_finish" => Opencode.event(event, report),
            "error" if event.get("sessionID").is_some() => Opencode.event(event, report),
            "error" if event.get("severity").is_some() => Gemini.event(event, report),
            "error" | "thread.started" | "turn.completed" | "turn.failed" | "item.started" | "item.updated"
            | "item.completed" => Codex.event(event, report),
            "system" | "assistant" | "rate_limit_event" | "result" => Claude.event(event, report),
            _ => {
                if let Some(used) = event.get("usage").and_then(of_usage) {
                    report.used = [(String::new(), used)].into();
                } else if kind.is_empty() {
                    report.text(&event.to_string());
                }
            }
        }
    }

    fn line(&self, line: &str, report: &mut Report) {
        of_text(line, report);
    }
}
