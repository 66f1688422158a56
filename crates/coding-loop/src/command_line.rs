//! `coding-loop LOOP_ID [--once] [--max-tests N]`: its command line, its process, its exit codes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use coord_db::{Config, Database, LoopId, TestId};
use supervisor::{ConfigFile, LogFormat, exit, service};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::context::Context;
use crate::control::Waiter;
use crate::process::{Ended, Limits, prepare, work};
use crate::reload::Reload;
use crate::{Error, Result};

/// Drives one coding agent over its queue of tests.
#[derive(Debug, Parser)]
#[command(name = "coding-loop", version)]
struct CommandLine {
    /// The loop, as registered with loopctl loop add
    loop_id: String,
    /// Work until no test is ready, then exit; exit 1 if tests are left that wait for an answer of yours
    #[arg(long)]
    once: bool,
    /// Make this many attempts at most, then exit
    #[arg(long, value_name = "N")]
    max_tests: Option<u64>,
    /// The database [default: $CODING_LOOPS_DB, else coding-loops/coordination.db here or in a folder above]
    #[arg(long, value_name = "PATH")]
    db: Option<PathBuf>,
    /// The settings [default: config.toml beside the database]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// How to write the log to stderr
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

/// The command line.
#[must_use]
pub fn command() -> clap::Command {
    <CommandLine as clap::CommandFactory>::command()
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let line = CommandLine::parse();
    supervisor::set_up_log(line.log_format);
    match run(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            supervisor::fatal("coding-loop", describe(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Db(error) => exit::exit_code_of(error),
        _ => 1,
    }
}

fn describe(error: &Error) -> String {
    match error {
        Error::Db(error) => exit::describe(error),
        other => coord_db::error_chain(other),
    }
}

fn run(line: &CommandLine) -> Result<()> {
    let loop_id: LoopId = line.loop_id.parse()?;
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let path = coord_db::locate::database(line.db.as_deref(), &here);
    let config_file = ConfigFile::note(&path, line.config.as_deref());
    let config = Config::load(&path, line.config.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("cannot make a runtime", error))?;
    runtime.block_on(async {
        let (mut stop, reload) = (stop_signal()?, Reload::listen(config_file)?);
        let db = patiently(&mut stop, || Ok(Database::open(&path, &config.open_options())?)).await?;
        db.read(|tx| tx.loop_row(&loop_id))?;
        has_agent(&config, &loop_id, &path).map_err(coord_db::Error::Config)?;
        let context = patiently(&mut stop, || Context::new(&db, &config, loop_id.clone(), true)).await?;
        let former = patiently(&mut stop, || context.start(env!("CARGO_PKG_VERSION"))).await?;
        context.announce_agent(line.once)?;
        supervisor::settings_hold(&db, loop_id.as_str())?;
        let mut waiter = Waiter::new(&context, stop);
        waiter.reload = Some(reload);
        waiter.beat(&context, None);
        tracing::info!(database = %path.display(), "loop {loop_id} is ready");
        service::ready();
        let limits = Limits { once: line.once, max_tests: line.max_tests };
        let result = work_on(&context, &mut waiter, limits, former.as_ref(), line).await;
        service::stopping();
        let reason = match &result {
            Ok(()) if waiter.stopping() => "told to stop".to_owned(),
            Ok(()) => "nothing is left to do".to_owned(),
            Err(Error::Unfinished(why)) => why.clone(),
            Err(_) => "failed".to_owned(),
        };
        if let Err(error) = db.write(|tx| tx.stop_loop(&loop_id, &reason)) {
            tracing::warn!(%error, "cannot say goodbye");
        }
        tracing::info!(reason, "loop {loop_id} has stopped");
        result
    })
}

fn has_agent(config: &Config, loop_id: &LoopId, path: &Path) -> Result<(), String> {
    if !config.agent_of(loop_id).command.is_empty() {
        return Ok(());
    }
    Err(format!(
        "loop {loop_id} has no agent: set [agent] command in {}, or drive it by hand with loopctl next --loop {loop_id} and loopctl submit",
        Config::path_for(path).display()
    ))
}

/// Works to the end, with new settings whenever it is told to read them again and they are good.
///
/// `former` is the test that a former self had in hand: what it left in the workspace is saved under that name.
async fn work_on(
    context: &Context<'_>,
    waiter: &mut Waiter,
    mut limits: Limits,
    former: Option<&TestId>,
    line: &CommandLine,
) -> Result<()> {
    let (db, loop_id) = (context.db, &context.loop_id);
    let path = db.path().map(Path::to_owned).unwrap_or_default();
    prepare(context, waiter, former).await?;
    let pruned = context.prune_refs().and_then(|()| context.prune_folders()).and_then(|()| context.prune_logs());
    if let Err(error) = pruned {
        tracing::warn!(%error, "what is past its time stays for now");
    }
    let mut renewed: Option<Config> = None;
    loop {
        let ended = match &renewed {
            None => work(context, waiter, limits).await?,
            Some(config) => {
                let context = Context::new(db, config, loop_id.clone(), true)?;
                waiter.configure(&context);
                context.announce_agent(limits.once)?;
                work(&context, waiter, limits).await?
            }
        };
        let left = match ended {
            Ended::Done => return Ok(()),
            Ended::Unfinished(why) => return Err(Error::Unfinished(why)),
            Ended::Reload(left) => left,
        };
        limits.max_tests = left;
        let usable = |config: &Config| {
            has_agent(config, loop_id, &path)?;
            Context::new(db, config, loop_id.clone(), true).map(drop).map_err(|error| coord_db::error_chain(&error))
        };
        if let Some(config) = supervisor::reload(db, &path, line.config.as_deref(), loop_id.as_str(), usable) {
            if config.database != context.config.database {
                tracing::warn!("the settings of [database] have changed; loop {loop_id} takes them after a restart");
            }
            renewed = Some(config);
        }
    }
}

/// Tries until it goes well, while what stands in the way is a database that cannot be used for the moment, or a full disk.
async fn patiently<T>(stop: &mut watch::Receiver<bool>, mut body: impl FnMut() -> Result<T>) -> Result<T> {
    let mut failures: u32 = 0;
    loop {
        match body() {
            Err(error) if error.is_temporary() && !*stop.borrow() => {
                if failures == 0 {
                    tracing::warn!(%error, "waiting until the database can be used, there is room on the disk, and others have ended");
                }
                failures = (failures + 1).min(7);
                service::still_starting(&coord_db::error_chain(&error));
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(50 << failures)) => {}
                    _ = stop.changed() => {}
                }
            }
            ended => return ended,
        }
    }
}

/// Turns true once the process is told to end.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = signal(kind).map_err(|error| Error::io("cannot take signals", error))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            if signal.recv().await.is_some() {
                sender.send_replace(true);
            }
        });
    }
    // The tasks hold the sender; without them nobody could ever stop the loop.
    Ok(receiver)
}
