//! A question or an alert, as it is sent.

use coord_db::config::NotifyPart;
use serde_json::Value;

/// Maximum length of a sentence, in characters.
const MAX_SENTENCE: usize = 300;
/// Maximum length of the context, in characters.
const MAX_CONTEXT: usize = 1_000;

/// The message of a journal entry.
#[derive(Debug)]
pub(super) struct Message<'a>(&'a Value);

impl<'a> Message<'a> {
    pub(super) fn of(intent: &'a Value) -> Self {
        Self(intent)
    }

    fn text(&self, key: &str) -> &'a str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// The id of the question; none for an alert.
    pub(super) fn decision(&self) -> Option<&'a str> {
        self.0["decision_id"].as_str()
    }

    /// Its options: ids and descriptions.
    pub(super) fn options(&self) -> Vec<(&'a str, &'a str)> {
        let options = self.0["options"].as_array().into_iter().flatten();
        options
            .filter_map(|option| Some((option["id"].as_str()?, option["description"].as_str().unwrap_or_default())))
            .collect()
    }

    pub(super) fn can_be_answered(&self) -> bool {
        self.decision().is_some() && !self.options().is_empty()
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.text("kind") == "alert"
    }

    /// What it is about, without anything that an agent has written: the kind, the loop and the test.
    pub(super) fn title(&self) -> String {
        let kind = match self.decision() {
            Some(_) => format!("question: {}", self.text("decision_type")),
            None => format!("alert: {}", self.text("alert_type")),
        };
        let of = ["test_id", "loop_id"].into_iter().find_map(|key| self.0["context"][key].as_str());
        of.map_or(kind.clone(), |of| format!("{kind}, {of}")).replace('_', " ")
    }

    /// The parts that are to be sent.
    pub(super) fn body(&self, content: &[NotifyPart]) -> String {
        let mut parts = Vec::new();
        if content.contains(&NotifyPart::Summary) {
            let key = if self.decision().is_some() { "summary" } else { "message" };
            parts.push(beginning(self.text(key), MAX_SENTENCE));
        }
        if content.contains(&NotifyPart::Options) && self.decision().is_some() {
            parts.extend(self.options().into_iter().map(|(id, what)| beginning(&format!("{id}: {what}"), MAX_SENTENCE)));
            if let Some(default) = self.0["default_option"].as_str() {
                let due = self.0["due_at"].as_str().map(|due| format!(" at {due}")).unwrap_or_default();
                parts.push(format!("By default {default}{due}."));
            }
        }
        if content.contains(&NotifyPart::Context) && !self.0["context"].is_null() {
            parts.push(beginning(&self.0["context"].to_string(), MAX_CONTEXT));
        }
        if let Some(decision) = self.decision() {
            parts.push(format!("loopctl decide {}", coord_db::short_id(decision)));
        }
        parts.join("\n")
    }
}

/// The beginning of a text, in characters, with a mark where more follows.
pub(super) fn beginning(text: &str, max: usize) -> String {
    let beginning: String = text.chars().take(max).collect();
    if beginning.len() < text.len() { format!("{beginning}…") } else { beginning }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_listed_is_sent() {
        let intent = json!({
            "kind": "decision", "decision_id": "01a20887-a7a2-779d-8fa1-f77fbf3dff63", "decision_type": "test_blocked",
            "summary": "test t is blocked: secret words", "options": [{"id": "retry", "description": "try again"}],
            "default_option": "retry", "due_at": "2026-11-22T10:00:00Z", "context": {"test_id": "t", "output": "code"},
        });
        let message = Message::of(&intent);
        assert_eq!(message.title(), "question: test blocked, t");
        assert_eq!(message.body(&[]), "loopctl decide bf3dff63");
        let body = message.body(&[NotifyPart::Summary, NotifyPart::Options]);
        assert_eq!(
            body,
            "test t is blocked: secret words\nretry: try again\nBy default retry at 2026-11-22T10:00:00Z.\nloopctl decide bf3dff63"
        );
        assert!(message.body(&[NotifyPart::Context]).contains("code"));
    }

    #[test]
    fn an_alert_has_no_answer() {
        let intent = json!({"kind": "alert", "alert_type": "disk_full", "message": "x".repeat(400), "context": {}});
        let message = Message::of(&intent);
        assert!(!message.can_be_answered() && message.is_urgent());
        assert_eq!(message.title(), "alert: disk full");
        assert_eq!(message.body(&[NotifyPart::Summary]).chars().count(), 301);
    }
}
