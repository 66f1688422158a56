//! The only effect: sends a question, a critical alert or a report to the human, by the command of the settings, which gets it on its
//! standard input, or by a preset.

use std::path::{Path, PathBuf};
use std::time::Duration;

use command_runner::CommandSpec;
use coord_db::config::NotifyBy;
use coord_db::{Config, JournalEntry, Result, WriteTx};
use serde_json::Value;
use supervisor::LocalFuture;

/// The operation in the journal.
pub const OPERATION: &str = "notify";

/// Time limit of the command.
const LIMIT: Duration = Duration::from_secs(30);
const KILL_AFTER: Duration = Duration::from_secs(2);
/// Environment variables for desktop notifications, in addition to those for agents.
const ENVIRONMENT: [&str; 4] = ["DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"];

/// The result of the notify command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notified {
    /// The command ended with exit code 0.
    Succeeded,
    /// It failed, with the reason.
    Failed(String),
}

/// Runs the command once with the message of the entry, or sends it. A service that is out of order is tried again if it may
/// take long.
pub(crate) fn notify(config: &Config, database: &Path, entry: JournalEntry, may_wait: bool) -> LocalFuture<Notified> {
    let (config, database) = (config.clone(), database.to_owned());
    Box::pin(async move {
        match send(&config, &database, entry, may_wait).await {
            Ok(()) => Notified::Succeeded,
            Err(why) => Notified::Failed(why),
        }
    })
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

async fn send(config: &Config, database: &Path, entry: JournalEntry, may_wait: bool) -> std::result::Result<(), String> {
    if entry.operation != OPERATION {
        return Err(format!("unknown operation {:?}", entry.operation));
    }
    let mut message = entry.steps.intent;
    if message["kind"] == "report" {
        message["markdown"] =
            crate::report::text(config, (&absolute(database), &absolute(&config.folder)), &message).await?.into();
    }
    match config.notify.preset {
        NotifyBy::Command => run(config, database, &message).await,
        NotifyBy::Ntfy | NotifyBy::Telegram => crate::notify::send(config, &message, may_wait).await,
    }
}

async fn run(config: &Config, database: &Path, message: &Value) -> std::result::Result<(), String> {
    let argv = config.notify.command.clone();
    if argv.is_empty() {
        return Err("notify.command is no longer set".to_owned());
    }
    let names = config.agent.environment.iter().map(String::as_str).chain(ENVIRONMENT);
    let mut env: Vec<_> = names.filter_map(|name| std::env::var_os(name).map(|value| (name.to_owned(), value))).collect();
    env.push(("CODING_LOOPS_DB".to_owned(), absolute(database).into_os_string()));
    let spec = CommandSpec {
        env,
        stdin: format!("{message}\n").into_bytes(),
        timeout: LIMIT,
        kill_after: KILL_AFTER,
        ..CommandSpec::new(argv, absolute(&config.folder))
    };
    let (_never, mut cancel) = tokio::sync::watch::channel(false);
    let outcome = command_runner::run(&spec, &mut cancel, |_| {}).await;
    if outcome.success() { Ok(()) } else { Err(format!("{:?}: {}", outcome.end, outcome.tail.trim_end())) }
}

/// Completes the entry. There is no retry, because the question is in the database anyway.
pub(crate) fn record(tx: &WriteTx<'_>, entry: &JournalEntry, outcome: &Notified) -> Result<()> {
    if let Notified::Failed(why) = outcome {
        tracing::warn!(entry = %entry.id, why, "the human was not notified");
    }
    if tx.is_operation_open(&entry.id)? {
        tx.end_operation(&entry.id, *outcome == Notified::Succeeded)?;
    }
    Ok(())
}
