//! ntfy: messages are published to a topic; buttons publish to the topic of answers.
//!
//! A reader of the topic sees what the buttons carry: the tokens of the answers, and the token with which they publish, which is
//! the access token unless there is one for that alone. So there are buttons only where both topics refuse a reader without the
//! access token.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use coord_db::Config;
use coord_db::config::NotifyConfig;
use serde_json::{Value, json};

use super::message::Message;
use super::token::answer_token;
use super::{LIMIT, Request, server};

const PUBLIC: &str = "https://ntfy.sh";
/// The app shows no more buttons.
const MAX_BUTTONS: usize = 3;
/// What an answer begins with.
const ANSWER: &str = "coding-loops-answer ";
/// How long one request listens.
const LISTENS: Duration = Duration::from_secs(55);

fn answers_topic(config: &NotifyConfig) -> String {
    format!("{}-answers", config.topic)
}

fn authorization(key: Option<&str>) -> Vec<String> {
    key.map(|key| format!("Authorization: Bearer {key}")).into_iter().collect()
}

/// `shown` is the token that buttons publish with; without one there are no buttons.
pub(super) fn message(config: &NotifyConfig, key: Option<&str>, message: &Message<'_>, shown: Option<&str>) -> Request {
    let server = server(config, PUBLIC);
    let button = |shown: &str, (option, _): &(&str, &str)| {
        let key = key.unwrap_or_default();
        json!({
            "action": "http", "label": option, "clear": true, "method": "POST",
            "url": format!("{server}/{}", answers_topic(config)),
            "headers": { "Authorization": format!("Bearer {shown}") },
            "body": format!("{ANSWER}{}", answer_token(key, message.decision().unwrap_or_default(), option)),
        })
    };
    let options = message.options();
    let buttons: Vec<Value> =
        shown.iter().flat_map(|shown| options.iter().take(MAX_BUTTONS).map(|option| button(shown, option))).collect();
    let body = json!({
        "topic": config.topic, "title": message.title(), "message": message.body(&config.content),
        "priority": message.priority(), "markdown": message.is_markdown(), "actions": buttons,
    });
    let mut headers = authorization(key);
    headers.push("Content-Type: application/json".to_owned());
    Request { url: format!("{server}/"), headers, body: Some(body.to_string()), limit: LIMIT }
}

/// For how long the answer of the server counts: questions often come several at a time.
const PROTECTED_FOR: Duration = Duration::from_secs(300);
/// Server and topic, what was found of them, and when.
static PROTECTED: Mutex<Option<(String, bool, Instant)>> = Mutex::new(None);

/// True if neither topic can be read without the access token, as the server has said within the last minutes.
pub(super) async fn is_protected(config: &Config) -> Result<bool, String> {
    let place = format!("{}/{}", server(&config.notify, PUBLIC), config.notify.topic);
    let known = PROTECTED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((known, is_protected, asked)) = known
        && known == place
        && asked.elapsed() < PROTECTED_FOR
    {
        return Ok(is_protected);
    }
    let is_protected = ask_protected(config).await?;
    *PROTECTED.lock().unwrap_or_else(PoisonError::into_inner) = Some((place, is_protected, Instant::now()));
    Ok(is_protected)
}

async fn ask_protected(config: &Config) -> Result<bool, String> {
    for topic in [config.notify.topic.clone(), answers_topic(&config.notify)] {
        let url = format!("{}/{topic}/auth", server(&config.notify, PUBLIC));
        let request = Request { url, headers: Vec::new(), body: None, limit: LIMIT };
        if !matches!(request.send(config).await?, (401 | 403, _)) {
            tracing::warn!(topic, "questions are sent without buttons: the topic can be read without the access token");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Listens for answers after the one with this id.
pub(super) fn listen(config: &NotifyConfig, key: &str, after: Option<&str>) -> Request {
    let url = format!("{}/{}/json?since={}", server(config, PUBLIC), answers_topic(config), after.unwrap_or("12h"));
    Request { url, headers: authorization(Some(key)), body: None, limit: LISTENS }
}

/// The id of a message that came, and the token if it is an answer.
pub(super) fn heard(line: &str) -> Option<(String, Option<String>)> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["event"].as_str() != Some("message") {
        return None;
    }
    let id = message["id"].as_str()?;
    // It becomes a part of the next address.
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let token = message["message"].as_str().and_then(|text| text.strip_prefix(ANSWER));
    Some((id.to_owned(), token.map(|token| token.trim().to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_have_a_token() {
        let heard_of = |line: &str| heard(line);
        assert_eq!(heard_of("{\"event\":\"open\",\"id\":\"a\"}"), None);
        assert_eq!(heard_of("no json"), None);
        assert_eq!(heard_of("{\"event\":\"message\",\"id\":\"../x\",\"message\":\"\"}"), None);
        assert_eq!(heard_of("{\"event\":\"message\",\"id\":\"a1\",\"message\":\"hello\"}"), Some(("a1".to_owned(), None)));
        let answer = "{\"event\":\"message\",\"id\":\"a1\",\"message\":\"coding-loops-answer 00ff\"}";
        assert_eq!(heard_of(answer), Some(("a1".to_owned(), Some("00ff".to_owned()))));
    }
}
