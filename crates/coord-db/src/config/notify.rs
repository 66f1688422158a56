//! Where a phone can ring, and how its answers come back.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

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
        /// What is sent.
        content: Vec<NotifyPart> = vec![NotifyPart::Summary, NotifyPart::Options],
        /// Whether a question can be answered from the phone. With ntfy only while nobody reads the topics without the token.
        answers: bool = true,
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
        if self.token_file.as_os_str().is_empty() {
            return Ok(None);
        }
        let file = folder.join(&self.token_file);
        let read = || -> std::io::Result<(u32, String)> {
            Ok((std::fs::metadata(&file)?.permissions().mode(), std::fs::read_to_string(&file)?))
        };
        let shown = file.display();
        match read() {
            Err(error) => Err(format!("cannot read notify.token_file {shown}: {error}")),
            Ok((mode, _)) if mode & 0o077 != 0 => Err(format!("others can read the token in {shown}; use chmod 600 {shown}")),
            Ok((_, text)) if text.trim().is_empty() || text.trim().contains(char::is_whitespace) => {
                Err(format!("{shown} does not hold one token"))
            }
            Ok((_, text)) => Ok(Some(text.trim().to_owned())),
        }
    }

    /// A refusal names the key.
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
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
