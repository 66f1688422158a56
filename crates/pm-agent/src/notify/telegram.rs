//! A Telegram bot: questions carry their options as buttons; presses come back by long polling.

use std::time::Duration;

use coord_db::config::NotifyConfig;
use serde_json::{Value, json};

use super::message::Message;
use super::token::answer_token;
use super::{LIMIT, Request, server};

const PUBLIC: &str = "https://api.telegram.org";
/// How long one request waits for presses, in seconds.
const WAITS: u64 = 50;

/// A button that somebody has pressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Press {
    pub(super) id: String,
    pub(super) token: String,
}

fn call(config: &NotifyConfig, key: &str, method: &str, body: &Value, limit: Duration) -> Request {
    Request {
        url: format!("{}/bot{key}/{method}", server(config, PUBLIC)),
        headers: vec!["Content-Type: application/json".to_owned()],
        body: Some(body.to_string()),
        limit,
    }
}

pub(super) fn message(config: &NotifyConfig, key: &str, message: &Message<'_>) -> Request {
    let text = format!("{}\n{}", message.title(), message.body(&config.content));
    let mut body = json!({ "chat_id": config.chat, "text": text, "disable_web_page_preview": true });
    if config.answers && message.can_be_answered() {
        let button = |(option, _): (&str, &str)| json!([{ "text": option, "callback_data": answer_token(key, message.decision().unwrap_or_default(), option) }]);
        body["reply_markup"] = json!({ "inline_keyboard": message.options().into_iter().map(button).collect::<Vec<_>>() });
    }
    call(config, key, "sendMessage", &body, LIMIT)
}

/// Waits for presses from an offset on; those before it are forgotten by the server.
pub(super) fn updates(config: &NotifyConfig, key: &str, offset: i64) -> Request {
    let body = json!({ "timeout": WAITS, "offset": offset, "allowed_updates": ["callback_query"] });
    call(config, key, "getUpdates", &body, Duration::from_secs(WAITS + 10))
}

/// The presses in the configured chat, and the next offset.
pub(super) fn presses(config: &NotifyConfig, answer: &str, offset: i64) -> (Vec<Press>, i64) {
    let answer: Value = serde_json::from_str(answer).unwrap_or_default();
    let updates = answer["result"].as_array().cloned().unwrap_or_default();
    let next = updates.iter().filter_map(|update| update["update_id"].as_i64()).max().map_or(offset, |id| id.saturating_add(1));
    let press = |update: &Value| {
        let query = &update["callback_query"];
        let chat = query["message"]["chat"]["id"].as_i64()?;
        let is_ours = chat.to_string() == config.chat;
        is_ours.then_some(Press { id: query["id"].as_str()?.to_owned(), token: query["data"].as_str()?.to_owned() })
    };
    (updates.iter().filter_map(press).collect(), next)
}

/// Ends the wait of the app after a press, with a short text.
pub(super) fn confirm(config: &NotifyConfig, key: &str, press: &Press, text: &str) -> Request {
    call(config, key, "answerCallbackQuery", &json!({ "callback_query_id": press.id, "text": text }), LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presses_of_other_chats_are_ignored_and_forgotten() {
        let config = NotifyConfig { chat: "7".to_owned(), ..NotifyConfig::default() };
        let press = |update: i64, chat: i64| json!({"update_id": update, "callback_query": {"id": "q", "data": "t", "message": {"chat": {"id": chat}}}});
        let answer = json!({"ok": true, "result": [press(4, 7), press(5, 8), {"update_id": 6, "message": {}}]}).to_string();
        assert_eq!(presses(&config, &answer, 0), (vec![Press { id: "q".to_owned(), token: "t".to_owned() }], 7));
        assert_eq!(presses(&config, "not json", 3), (Vec::new(), 3));
    }
}
