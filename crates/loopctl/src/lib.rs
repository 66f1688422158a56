//! The human's command: shows everything, changes everything, holds no state of its own.
//!
//! `cli` says what can be asked, `exit` how it ends, `output` how it looks. A command reads in one snapshot or writes in
//! one transaction of `coord-db`; the rest is layout.
//!
//! Architecture invariant: nothing from the database is executed, and nothing from it reaches a terminal unescaped.

pub mod cli;
pub mod exit;
pub mod output;
mod project;
pub mod sentence;
pub mod when;

mod agents;
mod context;
mod deinit;
mod doctor;
mod exchange;
mod history;
mod import;
mod keep;
mod known_agents;
mod logs;
mod man;
mod place;
mod programs;
mod published;
mod see;
pub mod service;
mod setup;
mod share;
mod shell;
mod steer;
mod submit;
mod sync;
mod wait;
mod workspaces;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use context::Context;
use exit::{Failure, Outcome};

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    set_up_log();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Warnings of the floor go to stderr; `RUST_LOG` asks for more.
fn set_up_log() {
    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false).without_time();
    let _ = tracing_subscriber::registry().with(process_host::log_filter("warn")).with(layer).try_init();
}

fn run(cli: Cli) -> Outcome {
    if let Command::Completions { shell } = cli.command {
        return setup::completions(shell);
    }
    if let Command::ManPages { folder } = &cli.command {
        return man::write(folder);
    }
    let cx = Context::new(cli.global)?;
    match cli.command {
        Command::Init { repository } => setup::init(&cx, repository.as_deref()),
        Command::Deinit { yes, force } => deinit::run(&cx, yes, force),
        Command::Loop(command) => setup::loops(&cx, command),
        Command::Test(command) => setup::tests(&cx, command),
        Command::Completions { .. } | Command::ManPages { .. } => Ok(()),

        Command::Status { id, watch: false } => see::status::show(&cx, id.as_deref()),
        Command::Status { id, watch: true } => see::watch::run(&cx, id.as_deref()),
        Command::Logs { id, follow, attempt } => logs::show(&cx, &id, attempt, follow),
        Command::Health => see::health(&cx),
        Command::Timeline(args) => see::timeline::show(&cx, &args),
        Command::Why { event_id } => see::why::show(&cx, &event_id),
        Command::Tests { loop_id, status } => see::tests(&cx, loop_id.as_ref(), status),
        Command::Locks { all } => see::locks(&cx, all),
        Command::Deadlocks(args) => see::deadlocks::show(&cx, args.all),
        Command::Conflicts(args) => see::conflicts(&cx, args.all),
        Command::Stuck => see::stuck(&cx),
        Command::Regressions(args) if args.ledger => see::ledger::list(&cx),
        Command::Regressions(args) => see::regressions(&cx, args.all),
        Command::Checkpoints { loop_id, all } => see::checkpoints::show(&cx, loop_id.as_ref(), all),
        Command::Workspaces => see::workspaces::show(&cx),
        Command::Alerts(args) => see::alerts(&cx, args.all),
        Command::Summary { since } => see::summary::show(&cx, since),
        Command::Journal(args) => see::journal::run(&cx, &args),
        Command::Decisions(args) => see::decisions(&cx, args.all),

        Command::Pause { which, reason } => steer::pause(&cx, &which, reason.as_deref()),
        Command::Resume { which, reason } => steer::resume(&cx, &which, reason.as_deref()),
        Command::Skip { test, reason } => steer::skip(&cx, &test, reason.as_deref()),
        Command::Reset { test, force } => steer::reset(&cx, &test, force),
        Command::Sync => sync::sync(&cx),
        Command::Restart { loop_id, reason } => steer::restart(&cx, &loop_id, reason.as_deref()),
        Command::Rollback { loop_id, checkpoint, reason } => {
            steer::rollback(&cx, &loop_id, checkpoint.as_deref(), reason.as_deref())
        }
        Command::Priority { loop_id, priority, reason } => steer::priority(&cx, &loop_id, priority, reason.as_deref()),
        Command::ForceUnlock { loop_id, .. } => steer::force_unlock(&cx, loop_id.as_deref()),
        Command::Decide { decision, option, comment } => steer::decide(&cx, &decision, &option, comment.as_deref()),
        Command::AckAlert { id } => steer::ack_alert(&cx, &id),

        Command::Next { loop_id } => agents::next(&cx, &loop_id),
        Command::Submit { test } => submit::submit(&cx, &test),
        Command::GiveBack { test, category, reason } => agents::give_back(&cx, &test, category, reason.as_deref()),
        Command::Beat { loop_id, pid } => agents::beat(&cx, &loop_id, pid),
        Command::Lock(args) => agents::lock(&cx, args),
        Command::Renew { loop_id, token, ttl } => agents::renew(&cx, &loop_id, token, ttl),
        Command::Unlock { paths, all, loop_id, token } => agents::unlock(&cx, &loop_id, &paths, all, token),
        Command::Publish { event_type, source, payload, priority, correlation, caused_by } => {
            let source = source.unwrap_or_else(|| cx.actor());
            exchange::publish(&cx, source, &event_type, &payload, priority, correlation, caused_by)
        }
        Command::Subscribe { subscriber, end: true, .. } => exchange::unsubscribe(&cx, &subscriber),
        Command::Subscribe { subscriber, types, sources, .. } => {
            exchange::subscribe(&cx, &subscriber, &types, sources.as_deref())
        }
        Command::Poll { subscriber, limit, wait } => exchange::poll(&cx, &subscriber, limit, wait),
        Command::Ack { subscriber, events } => exchange::ack(&cx, &subscriber, &events),
        Command::Knowledge(command) => share::knowledge(&cx, command),
        Command::Own { path: Some(path), release: true, .. } => share::disown(&cx, &path),
        Command::Own { path, loop_id, resource_type, description, .. } => match (path, loop_id) {
            (Some(path), Some(loop_id)) => share::own(&cx, &path, &loop_id, resource_type, description.as_deref()),
            (_, loop_id) => share::owned(&cx, loop_id.as_ref()),
        },
        Command::Request(command) => share::request(&cx, command),
        Command::Migration(command) => share::migration(&cx, command),
        Command::Usage(command) => share::usage(&cx, command),
        Command::Ask(args) => share::ask(&cx, args),

        Command::Backup { file } => keep::backup(&cx, file.as_deref()),
        Command::Restore { file, store_only: false } => keep::restore(&cx, &file),
        Command::Restore { file, store_only: true } => keep::restore_store(&cx, &file),
        Command::Check => keep::check(&cx),
        Command::Dump => keep::dump(&cx),
        Command::Archive { older_than } => keep::archive(&cx, older_than),
        Command::Doctor { before_start, run_checks } => doctor::run(&cx, before_start, run_checks),
        Command::Service(command) => service::run(&cx, command),
    }
}

/// Reads what an argument of `-` stands for.
fn read_stdin() -> Outcome<String> {
    std::io::read_to_string(std::io::stdin().lock())
        .map_err(|error| Failure::usage(format!("standard input cannot be read as text: {error}")))
}
