//! Questions, alerts and reports for a phone, and the answers that come back.
//!
//! What is sent is what `notify.content` lists. Requests are made by curl, whose settings, the token among them, reach it on
//! its standard input. An answer carries a token that only the receiver of the question knows; it is good for one option of
//! one open question.

pub(crate) mod answers;
mod message;
mod ntfy;
mod telegram;
mod token;

use std::time::Duration;

use command_runner::{CommandSpec, End, NotStartedKind};
use coord_db::Config;
use coord_db::config::{NotifyBy, NotifyConfig};
use serde_json::Value;

use message::{Message, beginning};

/// Time that curl has for a message.
const LIMIT: Duration = Duration::from_secs(20);
const KILL_AFTER: Duration = Duration::from_secs(2);

/// A request, as curl takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    url: String,
    headers: Vec<String>,
    body: Option<String>,
    limit: Duration,
}

impl Request {
    /// The settings of curl for it.
    fn settings(&self) -> String {
        let mut text = format!("silent\nshow-error\nno-buffer\nmax-time = {}\n", self.limit.as_secs());
        let mut option = |name: &str, value: &str| text.push_str(&format!("{name} = \"{}\"\n", quoted(value)));
        option("url", &self.url);
        for header in &self.headers {
            option("header", header);
        }
        if let Some(body) = &self.body {
            option("data-raw", body);
        }
        // The status follows the answer on a line of its own.
        option("write-out", "\n%{http_code}");
        text
    }

    fn command(&self, config: &Config) -> CommandSpec {
        let names = ["PATH", "HOME", "http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "CURL_CA_BUNDLE"];
        let env = names.iter().filter_map(|name| std::env::var_os(name).map(|value| ((*name).to_owned(), value))).collect();
        CommandSpec {
            env,
            stdin: self.settings().into_bytes(),
            timeout: self.limit + KILL_AFTER,
            kill_after: KILL_AFTER,
            ..CommandSpec::new(["curl", "--disable", "--config", "-"], std::path::absolute(&config.folder).unwrap_or_default())
        }
    }

    /// The status and the answer of the server.
    async fn send(&self, config: &Config) -> Result<(u16, String), String> {
        self.send_reading(config, |_| {}).await
    }

    /// As [`Request::send`], with the lines as they come. A stream that lasts until the limit has succeeded.
    async fn send_reading(&self, config: &Config, mut on_line: impl FnMut(&str)) -> Result<(u16, String), String> {
        let (_never, mut cancel) = tokio::sync::watch::channel(false);
        let (mut all, mut seen) = (Vec::new(), 0);
        let outcome = command_runner::run_reading(
            &self.command(config),
            &mut cancel,
            |_| {},
            |part| {
                if all.len() < MAX_ANSWER {
                    all.extend_from_slice(part);
                }
                while let Some(end) = all[seen..].iter().position(|byte| *byte == b'\n') {
                    on_line(&String::from_utf8_lossy(&all[seen..seen + end]));
                    seen += end + 1;
                }
            },
        )
        .await;
        let said = String::from_utf8_lossy(&all).into_owned();
        let (answer, status) = said.rsplit_once('\n').unwrap_or(("", said.as_str()));
        match (&outcome.end, status.trim().parse::<u16>()) {
            (End::Exited(0 | TIMED_OUT), Ok(status)) if status > 0 => Ok((status, answer.trim().to_owned())),
            (End::NotStarted { kind: NotStartedKind::Missing, .. }, _) => {
                Err("curl is not installed, and notify.preset needs it".to_owned())
            }
            (end, _) => Err(format!("curl: {end:?}: {}", outcome.tail.trim())),
        }
    }
}

/// The exit status of curl when the time is over.
const TIMED_OUT: i32 = 28;
/// Bytes of an answer that are kept.
const MAX_ANSWER: usize = 4 << 20;

/// Text between the quotes of curl's settings.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            other => quoted.push(other),
        }
    }
    quoted
}

fn server<'a>(config: &'a NotifyConfig, public: &'static str) -> &'a str {
    if config.server.is_empty() { public } else { config.server.trim_end_matches('/') }
}

/// Seconds between the tries of a message: a service that is out of order gets it later. A restart begins them again.
const PAUSES: [u64; 6] = [5, 30, 120, 600, 1_800, 3_600];

/// Sends the message of an entry; several times, if it may take long.
///
/// # Errors
/// What keeps it from being sent, in words.
pub(crate) async fn send(config: &Config, message: &Value, may_wait: bool) -> Result<(), String> {
    let mut pauses = PAUSES.iter().take(if may_wait { PAUSES.len() } else { 0 });
    loop {
        match (try_to_send(config, message).await, pauses.next()) {
            (Ok(status @ (408 | 429 | 500..)), Some(pause)) => {
                wait(Duration::from_secs(*pause), &format!("status {status}")).await
            }
            (Ok(200..=299), _) => return Ok(()),
            (Ok(status), _) => return Err(format!("the service answers with status {status}")),
            (Err(Failed::Now(why)), Some(pause)) => wait(Duration::from_secs(*pause), &why).await,
            (Err(Failed::Now(why) | Failed::ForGood(why)), _) => return Err(why),
        }
    }
}

async fn wait(pause: Duration, why: &str) {
    tracing::warn!(why, pause = pause.as_secs(), "the human was not notified; trying again");
    tokio::time::sleep(pause).await;
}

/// Why a message was not sent.
enum Failed {
    /// Another try may succeed.
    Now(String),
    /// The settings have to change first.
    ForGood(String),
}

/// Gives the status of the service.
async fn try_to_send(config: &Config, message: &Value) -> Result<u16, Failed> {
    let message = Message::of(message);
    let key = config.notify.token(&config.folder).map_err(Failed::ForGood)?;
    let request = match config.notify.preset {
        NotifyBy::Command => return Err(Failed::ForGood("notify.preset is no longer set".to_owned())),
        NotifyBy::Ntfy => {
            let may_answer = config.notify.answers
                && key.is_some()
                && message.can_be_answered()
                && ntfy::is_protected(config).await.map_err(Failed::Now)?;
            let own = if may_answer { config.notify.answer_token(&config.folder).map_err(Failed::ForGood)? } else { None };
            let shown = own.as_deref().or(key.as_deref());
            ntfy::message(&config.notify, key.as_deref(), &message, shown.filter(|_| may_answer))
        }
        NotifyBy::Telegram => telegram::message(&config.notify, key.as_deref().unwrap_or_default(), &message),
    };
    let (status, answer) = request.send(config).await.map_err(Failed::Now)?;
    if !(200..300).contains(&status) {
        tracing::debug!(
            service = host(&request.url),
            status,
            answer = beginning(&answer, 200),
            "the service refused the message"
        );
    }
    Ok(status)
}

/// An address without its path, which can hold a token.
fn host(url: &str) -> &str {
    let end = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_curl_hold_any_text() {
        let request = Request {
            url: "https://x/a\"b".to_owned(),
            headers: vec!["H: v".to_owned()],
            body: Some("{\"a\":\"\\n\"}\nurl = evil".to_owned()),
            limit: LIMIT,
        };
        let settings = request.settings();
        assert!(settings.contains("url = \"https://x/a\\\"b\"\nheader = \"H: v\"\n"), "{settings}");
        assert!(settings.contains("data-raw = \"{\\\"a\\\":\\\"\\\\n\\\"}\\nurl = evil\"\n"), "{settings}");
        assert_eq!(settings.lines().filter(|line| line.starts_with("url")).count(), 1);
        assert_eq!(host("https://api.telegram.org/botSECRET/sendMessage"), "https://api.telegram.org");
    }
}
