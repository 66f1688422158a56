//! The command line and exit codes of `coding-loop LOOP_ID [--once] [--max-tests N]`.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use coord_db::process::ProcessIdentity;
use coord_db::{ComponentId, Config, Database, LoopId, TestId};
use process_host::{Options, Reload, exit, fatal, patiently, reload, service, set_up_log, settings_accepted, stop_signal};

use crate::context::Context;
use crate::control::Waiter;
use crate::process::{Ended, Limits, prepare, work};
use crate::{Error, Result};

/// Run the agent of a loop on its queue of tests
///
/// Claims one test after another, runs the agent in the workspace of the loop, verifies the work and lands it. Runs until it is
/// stopped. The exit status is 1 if --once leaves tests that wait for an answer of yours.
#[derive(Debug, Parser)]
#[command(name = "coding-loop", version)]
#[command(after_help = "Examples:\n  coding-loop backend --once\n  coding-loop backend --max-tests 3 --once")]
struct CommandLine {
    /// The loop, as added with loopctl loop add
    loop_id: String,
    /// Exit when no test is ready
    #[arg(long)]
    once: bool,
    /// Exit after this number of attempts
    #[arg(long, value_name = "N")]
    max_tests: Option<u64>,
    #[command(flatten)]
    options: Options,
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
    set_up_log(line.options.log_format);
    match run(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fatal(env!("CARGO_PKG_NAME"), describe(&error));
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
    let (path, named) = (line.options.database(), line.options.config.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("cannot create an async runtime", error))?;
    runtime.block_on(async {
        let reload = Reload::listen(&path, named)?;
        let config = Config::load(&path, named)?;
        let mut stop = stop_signal()?;
        let db = patiently(&mut stop, Error::is_temporary, || Ok(Database::open(&path, &config.open_options())?)).await?;
        db.read(|tx| tx.loop_row(&loop_id))?;
        has_agent(&config, &loop_id, &path).map_err(coord_db::Error::Config)?;
        let context = patiently(&mut stop, Error::is_temporary, || Context::new(&db, &config, loop_id.clone(), true)).await?;
        let former = patiently(&mut stop, Error::is_temporary, || context.start(env!("CARGO_PKG_VERSION"))).await?;
        patiently(&mut stop, Error::is_outage, || {
            context.announce_agent(line.once)?;
            Ok(settings_accepted(&db, loop_id.as_str())?)
        })
        .await?;
        let mut waiter = Waiter::new(&context, stop);
        waiter.reload = Some(reload);
        waiter.beat(&context, None);
        tracing::info!(database = %path.display(), "loop {loop_id} is ready");
        service::ready();
        let limits = Limits { once: line.once, max_tests: line.max_tests };
        let result = work_on(&context, &mut waiter, limits, former.as_ref(), line).await;
        service::stopping();
        let reason = match &result {
            Ok(()) if waiter.stopping() => "stop requested".to_owned(),
            Ok(()) => "no test is left".to_owned(),
            Err(Error::Unfinished(why)) => why.clone(),
            Err(_) => "failed".to_owned(),
        };
        let stopped = db.write(|tx| {
            tx.check_runs_as(&ComponentId::from(&loop_id), &ProcessIdentity::own())?;
            tx.stop_loop(&loop_id, &reason)
        });
        if let Err(error) = stopped {
            tracing::warn!(%error, "cannot record the shutdown");
        }
        tracing::info!(reason, "loop {loop_id} stopped");
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

/// Works until the end, and reloads the settings when requested.
///
/// `former` is the current test of the previous process: work left in the workspace is saved under its name.
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
        tracing::warn!(%error, "cannot delete expired references, folders or logs; trying again at the next start");
    }
    let mut renewed: Option<Config> = None;
    loop {
        let ended = match &renewed {
            None => work(context, waiter, limits).await?,
            Some(config) => {
                let renew = || {
                    let context = Context::new(db, config, loop_id.clone(), true)?;
                    context.announce_agent(limits.once)?;
                    Ok(context)
                };
                let context = waiter.until_usable(context, None, renew).await?;
                waiter.configure(&context);
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
            match Context::new(db, config, loop_id.clone(), true) {
                // Says nothing about the settings.
                Err(error) if error.is_temporary() => Ok(()),
                made => made.map(drop).map_err(|error| coord_db::error_chain(&error)),
            }
        };
        if let Some(config) = reload(db, &path, line.options.config.as_deref(), loop_id.as_str(), usable) {
            if config.database != context.config.database {
                tracing::warn!("the changed [database] settings take effect after a restart of loop {loop_id}");
            }
            renewed = Some(config);
        }
    }
}
