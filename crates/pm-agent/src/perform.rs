//! The only effect: sends a question or a critical alert to the human, by the command of the settings, which gets it on its
//! standard input, or by a preset.

use std::path::Path;
use std::time::Duration;

use command_runner::CommandSpec;
use coord_db::config::NotifyBy;
use coord_db::{Config, JournalEntry, Result, WriteTx};
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
    let argv = config.notify.command.clone();
    if entry.operation != OPERATION {
        let why = format!("unknown operation {:?}", entry.operation);
        return Box::pin(async move { Notified::Failed(why) });
    }
    if config.notify.preset != NotifyBy::Command {
        let config = config.clone();
        return Box::pin(async move {
            match crate::notify::send(&config, &entry, may_wait).await {
                Ok(()) => Notified::Succeeded,
                Err(why) => Notified::Failed(why),
            }
        });
    }
    if argv.is_empty() {
        return Box::pin(async { Notified::Failed("notify.command is no longer set".to_owned()) });
    }
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let names = config.agent.environment.iter().map(String::as_str).chain(ENVIRONMENT);
    let mut env: Vec<_> = names.filter_map(|name| std::env::var_os(name).map(|value| (name.to_owned(), value))).collect();
    env.push(("CODING_LOOPS_DB".to_owned(), absolute(database).into_os_string()));
    let spec = CommandSpec {
        env,
        stdin: format!("{}\n", entry.steps.intent).into_bytes(),
        timeout: LIMIT,
        kill_after: KILL_AFTER,
        ..CommandSpec::new(argv, absolute(&config.folder))
    };
    Box::pin(async move {
        let (_never, mut cancel) = tokio::sync::watch::channel(false);
        let outcome = command_runner::run(&spec, &mut cancel, |_| {}).await;
        if outcome.success() {
            Notified::Succeeded
        } else {
            Notified::Failed(format!("{:?}: {}", outcome.end, outcome.tail.trim_end()))
        }
    })
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
