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

mod agents;
mod context;
mod deinit;
mod doctor;
mod exchange;
mod hook;
mod ids;
mod import;
mod keep;
mod known_agents;
mod launch;
mod leasing;
mod logs;
mod man;
mod markdown;
mod mcp;
mod place;
mod pr;
mod presets;
mod programs;
mod see;
mod server;
pub mod service;
mod setup;
mod share;
mod shell;
mod steer;
mod submit;
mod sync;
mod wait;
mod web;
mod workplace;
mod workspaces;

use std::process::ExitCode;

use clap::FromArgMatches;

use cli::{Agent, Cli, Command, Drive, Exchange, Keep, MigrationCommand, RequestCommand, See, SetUp, Share, Steer};
use context::Context;
use exit::{Failure, Outcome};

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    cli::complete_if_asked();
    let cli = Cli::from_arg_matches(&cli::command().get_matches()).unwrap_or_else(|error| error.exit());
    set_up_log();
    if let Command::Agent(Agent::Hook(args)) = &cli.command {
        return hook::main(cli.global.clone(), args);
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Warnings of the database go to stderr; `RUST_LOG` asks for more.
fn set_up_log() {
    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false).without_time();
    let _ = tracing_subscriber::registry().with(process_host::log_filter("warn")).with(layer).try_init();
}

fn run(cli: Cli) -> Outcome {
    match cli.command {
        // These two need no place.
        Command::SetUp(SetUp::Completions { shell }) => setup::completions(shell),
        Command::SetUp(SetUp::ManPages { folder }) => man::write(&folder),
        Command::Agent(Agent::Mcp { loop_id, wait }) => mcp::serve(Context::new(cli.global)?, loop_id, wait),
        command => run_in(&Context::new(cli.global)?, command),
    }
}

fn run_in(cx: &Context, command: Command) -> Outcome {
    match command {
        Command::SetUp(command) => set_up(cx, command),
        Command::See(command) => see(cx, command),
        Command::Steer(command) => steer(cx, command),
        Command::Drive(command) => drive(cx, command),
        // These two are no commands of a person.
        Command::Agent(_) => Ok(()),
        Command::Share(command) => share(cx, command),
        Command::Exchange(command) => exchange(cx, command),
        Command::Keep(command) => keep(cx, command),
    }
}

fn set_up(cx: &Context, command: SetUp) -> Outcome {
    match command {
        SetUp::Init { repository, agent, database, remote } => {
            let chosen = setup::Chosen { agent: agent.as_deref(), database: database.as_deref(), remote: remote.as_deref() };
            setup::init(cx, repository.as_deref(), &chosen)
        }
        SetUp::Deinit { yes, force } => deinit::run(cx, yes, force),
        SetUp::Doctor { before_start, run_checks } => doctor::run(cx, before_start, run_checks),
        SetUp::Loop(command) => setup::loops(cx, command),
        SetUp::Test(command) => setup::tests(cx, command),
        SetUp::Up { demo, loops } => launch::up(cx, demo, loops.as_deref()),
        SetUp::Down => launch::down(cx),
        SetUp::Reload => launch::reload(cx),
        SetUp::Service(command) => service::run(cx, command),
        SetUp::Completions { .. } | SetUp::ManPages { .. } => Ok(()),
    }
}

fn see(cx: &Context, command: See) -> Outcome {
    match command {
        See::Status { id, watch: false } => see::status::show(cx, id.as_deref()),
        See::Status { id, watch: true } => see::watch::run(cx, id.as_deref()),
        See::Logs { id, follow, attempt } => logs::show(cx, &id, attempt, follow),
        See::Timeline(args) => see::timeline::show(cx, &args),
        See::Why { event_id } => see::why::show(cx, &event_id),
        See::Summary { since } => see::summary::show(cx, since),
        See::Report(args) => see::report::run(cx, &args),
        See::Loops => see::loops(cx),
        See::Tests(filter) => see::tests(cx, &filter),
        See::Stuck => see::stuck(cx),
        See::Decisions(args) => see::decisions(cx, args.all),
        See::Alerts(args) => see::alerts(cx, args.all),
        See::Conflicts(args) => see::conflicts(cx, args.all),
        See::Deadlocks(args) => see::deadlocks::show(cx, args.all),
        See::Landings(args) => see::landings::show(cx, args.all),
        See::Regressions(args) if args.ledger => see::ledger::list(cx),
        See::Regressions(args) => see::regressions(cx, args.all),
        See::Locks { all } => see::locks(cx, all),
        See::Checkpoints { loop_id, all } => see::checkpoints::show(cx, loop_id.as_ref(), all),
        See::Workspaces => see::workspaces::show(cx),
        See::Agents => see::agents::show(cx),
        See::Health => see::health(cx),
        See::Journal(args) => see::journal::run(cx, &args),
        See::Web(args) => web::serve(cx, args),
    }
}

fn steer(cx: &Context, command: Steer) -> Outcome {
    match command {
        Steer::Pause { which, reason } => steer::pause(cx, &which, reason.as_deref()),
        Steer::Resume { which, reason } => steer::resume(cx, &which, reason.as_deref()),
        Steer::Restart { loop_id, reason } => steer::restart(cx, &loop_id, reason.as_deref()),
        Steer::Rollback { loop_id, checkpoint, reason } => {
            steer::rollback(cx, &loop_id, checkpoint.as_deref(), reason.as_deref())
        }
        Steer::Priority { loop_id, priority, reason } => steer::priority(cx, &loop_id, priority, reason.as_deref()),
        Steer::Skip { test, reason } => steer::skip(cx, &test, reason.as_deref()),
        Steer::Reset { test, force } => steer::reset(cx, &test, force),
        Steer::Sync => sync::sync(cx),
        Steer::Pr(args) => pr::run(cx, &args),
        Steer::Decide { decision, option, comment } => steer::decide(cx, &decision, &option, comment.as_deref()),
        Steer::AckAlert { id } => steer::ack_alert(cx, &id),
        Steer::ForceUnlock { loop_id, .. } => steer::force_unlock(cx, loop_id.as_deref()),
    }
}

fn drive(cx: &Context, command: Drive) -> Outcome {
    match command {
        Drive::Next { loop_id } => agents::next(cx, &loop_id),
        Drive::Submit { test } => submit::submit(cx, &test),
        Drive::GiveBack { test, category, reason } => agents::give_back(cx, &test, category, reason.as_deref()),
        Drive::Beat { loop_id, pid } => agents::beat(cx, &loop_id, pid),
        Drive::Lock(args) => agents::lock(cx, args),
        Drive::Renew { loop_id, token, ttl } => agents::renew(cx, &loop_id, token, ttl),
        Drive::Unlock { paths, all, loop_id, token } => agents::unlock(cx, &loop_id, &paths, all, token),
    }
}

fn share(cx: &Context, command: Share) -> Outcome {
    match command {
        Share::Knowledge(command) => share::knowledge(cx, command),
        Share::Own { path: Some(path), release: true, .. } => share::disown(cx, &path),
        Share::Own { path, loop_id, resource_type, description, .. } => match (path, loop_id) {
            (Some(path), Some(loop_id)) => share::own(cx, &path, &loop_id, resource_type, description.as_deref()),
            (_, loop_id) => share::owned(cx, loop_id.as_ref()),
        },
        Share::Request(command) => share::request(cx, command),
        Share::Requests(filter) => share::request(cx, RequestCommand::List(filter)),
        Share::Migration(command) => share::migration(cx, command),
        Share::Migrations => share::migration(cx, MigrationCommand::List),
        Share::Usage(command) => share::usage(cx, command),
        Share::Ask(args) => share::ask(cx, args),
    }
}

fn exchange(cx: &Context, command: Exchange) -> Outcome {
    match command {
        Exchange::Publish { event_type, source, payload, priority, correlation, caused_by } => {
            let source = source.unwrap_or_else(|| cx.actor());
            exchange::publish(cx, source, &event_type, &payload, priority, correlation, caused_by.as_deref())
        }
        Exchange::Subscribe { subscriber, end: true, .. } => exchange::unsubscribe(cx, &subscriber),
        Exchange::Subscribe { subscriber, types, sources, .. } => {
            exchange::subscribe(cx, &subscriber, &types, sources.as_deref())
        }
        Exchange::Poll { subscriber, limit, wait } => exchange::poll(cx, &subscriber, limit, wait),
        Exchange::Ack { subscriber, events } => exchange::ack(cx, &subscriber, &events),
    }
}

fn keep(cx: &Context, command: Keep) -> Outcome {
    match command {
        Keep::Backup { file: Some(file), store_only: true } => keep::back_up_store(cx, &file),
        Keep::Backup { file, .. } => keep::backup(cx, file.as_deref()),
        Keep::Restore { file, store_only: false } => keep::restore(cx, &file),
        Keep::Restore { file, store_only: true } => keep::restore_store(cx, &file),
        Keep::MoveDatabase { address, dry_run } => server::move_database(cx, &address, dry_run),
        Keep::AfterFailover => server::after_failover(cx),
        Keep::Check => keep::check(cx),
        Keep::Dump => keep::dump(cx),
        Keep::Archive { older_than } => keep::archive(cx, older_than),
    }
}

/// Reads what an argument of `-` stands for.
fn read_stdin() -> Outcome<String> {
    std::io::read_to_string(std::io::stdin().lock())
        .map_err(|error| Failure::usage(format!("cannot read standard input as text: {error}")))
}
