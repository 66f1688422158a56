//! Where a phone can ring, and how its answers come back.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// The service that questions and critical alerts are sent through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotifyBy {
    /// None; only `notify.command`.
    #[serde(rename = "")]
    Command,
    /// ntfy.sh, or a server of one's own.
    Ntfy,
    /// A bot of Telegram.
    Telegram,
}

/// A part of a question or alert that is sent. Its kind, and the loop and test that it is about, always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotifyPart {
    /// The sentence that asks or warns, at most 300 characters of it.
    Summary,
    /// The options with their descriptions, and the default.
    Options,
    /// The context: what failed, with lines of output.
    Context,
}

/// A time of day, by the clock on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOfDay {
    /// 0 to 23.
    pub hour: i8,
    /// 0 to 59.
    pub minute: i8,
}

impl std::fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

/// `07:30`; empty: none.
fn time_of_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TimeOfDay>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let number = |digits: &str, end: i8| {
        let is_two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_two.then(|| digits.parse().ok()).flatten().filter(|number| *number < end)
    };
    let read = text.split_once(':').and_then(|(hour, minute)| Some((number(hour, 24)?, number(minute, 60)?)));
    match read {
        Some((hour, minute)) => Ok(Some(TimeOfDay { hour, minute })),
        None => {
            Err(D::Error::custom(format!("{text:?}; expected a time of day from 00:00 to 23:59, as in \"07:30\", or \"\"")))
        }
    }
}

section! {
    /// Where a phone can ring.
    NotifyConfig {
        /// argv, run for each decision and critical alert, with JSON on its standard input.
        command: Vec<String> = Vec::new(),
        /// The service, in place of a command.
        preset: NotifyBy = NotifyBy::Command,
        /// Its address; empty: that of the public service.
        server: String = String::new(),
        /// The topic of ntfy. Answers come back through the topic with `-answers` appended.
        topic: String = String::new(),
        /// The id of the Telegram chat; answers from others are ignored.
        chat: String = String::new(),
        /// The file with the access token, relative to the config file. Only its owner may read it.
        token_file: PathBuf = PathBuf::new(),
        /// The file with a token of ntfy that may only publish to the topic of answers, for the buttons; empty: they carry the
        /// access token.
        answer_token_file: PathBuf = PathBuf::new(),
        /// What is sent.
        content: Vec<NotifyPart> = vec![NotifyPart::Summary, NotifyPart::Options],
        /// Whether a question can be answered from the phone. With ntfy only while nobody reads the topics without the token.
        answers: bool = true,
        /// When the report since the last one is sent each day, by the local clock; none: never.
        #[serde(deserialize_with = "time_of_day")]
        report_at: Option<TimeOfDay> = None,
    }
}

impl NotifyBy {
    /// As the settings name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "",
            Self::Ntfy => "ntfy",
            Self::Telegram => "telegram",
        }
    }
}

impl NotifyPart {
    /// As the settings name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Summary => "summary",
            Self::Options => "options",
            Self::Context => "context",
        }
    }
}

impl NotifyConfig {
    /// True if nothing is sent anywhere.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.command.is_empty() && self.preset == NotifyBy::Command
    }

    /// The access token, from its file, which is relative to the folder of the settings; none where no file is named.
    ///
    /// # Errors
    /// Why the file cannot be used, in words.
    pub fn token(&self, folder: &Path) -> Result<Option<String>, String> {
        Self::token_in("notify.token_file", &self.token_file, folder)
    }

    /// The token that may only publish answers; none where no file is named.
    ///
    /// # Errors
    /// As [`NotifyConfig::token`].
    pub fn answer_token(&self, folder: &Path) -> Result<Option<String>, String> {
        Self::token_in("notify.answer_token_file", &self.answer_token_file, folder)
    }

    fn token_in(setting: &str, file: &Path, folder: &Path) -> Result<Option<String>, String> {
        if file.as_os_str().is_empty() {
            return Ok(None);
        }
        let file = folder.join(file);
        let read = || -> std::io::Result<(u32, String)> {
            Ok((std::fs::metadata(&file)?.permissions().mode(), std::fs::read_to_string(&file)?))
        };
        let shown = file.display();
        match read() {
            Err(error) => Err(format!("cannot read {setting} {shown}: {error}")),
            Ok((mode, _)) if mode & 0o077 != 0 => Err(format!("others can read the token in {shown}; use chmod 600 {shown}")),
            Ok((_, text)) if text.trim().is_empty() || text.trim().contains(char::is_whitespace) => {
                Err(format!("{shown} does not hold one token"))
            }
            Ok((_, text)) => Ok(Some(text.trim().to_owned())),
        }
    }

    /// A refusal names the key.
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.report_at.is_some() && self.is_silent() {
            return Err(("report_at", "notify.report_at is set; set notify.preset or notify.command too".to_owned()));
        }
        if self.preset != NotifyBy::Ntfy && !self.answer_token_file.as_os_str().is_empty() {
            return Err(("answer_token_file", "notify.answer_token_file is only for preset = \"ntfy\"".to_owned()));
        }
        if self.preset == NotifyBy::Command {
            return Ok(());
        }
        if !self.command.is_empty() {
            return Err(("command", "notify.command and notify.preset are set; keep one of them".to_owned()));
        }
        let is_name = |name: &str| {
            (1..=50).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if self.preset == NotifyBy::Ntfy && !is_name(&self.topic) {
            return Err(("topic", format!("notify.topic: {:?}; expected 1 to 50 letters, digits, - or _", self.topic)));
        }
        if self.preset == NotifyBy::Telegram {
            if self.chat.parse::<i64>().is_err() {
                return Err(("chat", format!("notify.chat: {:?}; expected the number of a chat", self.chat)));
            }
            if self.token_file.as_os_str().is_empty() {
                return Err((
                    "token_file",
                    "notify.token_file is empty; expected the file with the token of the bot".to_owned(),
                ));
            }
        }
        let is_address = |server: &str| server.starts_with("https://") || server.starts_with("http://");
        if !self.server.is_empty() && (!is_address(&self.server) || self.server.chars().any(char::is_whitespace)) {
            return Err((
                "server",
                format!("notify.server: {:?}; expected an address like https://ntfy.example.org", self.server),
            ));
        }
        Ok(())
    }
}
