//! Runs the agent in its workspace under a keeper, and leases files when it first changes them.

use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use command_runner::CommandSpec;
use coord_db::config::PromptBy;
use coord_db::{ErrorCategory, FailedAttempt, NoChange, RunOf};
use crash_point::{Point, reach};
use git::Finding;
use tokio::sync::watch;

use crate::auto_lease::Changes;
use crate::context::{Attempt, Context};
use crate::control::{Interrupt, Waiter};
use crate::end::{End, Step, Stop};
use crate::{Error, Result, prompt, revert, run_end, runs, tokens};

/// Performs the work of the attempt: a revert that was decided, or a run of the agent.
pub(crate) async fn work(context: &Context<'_>, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<()> {
    // Checked before the agent causes any cost.
    if let Some(why) = context.unverifiable(&attempt.test) {
        return Err(why.into());
    }
    if revert::take_back(context, attempt)? {
        return Ok(());
    }
    // The human has accepted that nothing changes: the present state goes to the gate.
    if attempt.test.no_change == NoChange::Accepted {
        return Ok(());
    }
    context.must_fail_before(attempt, waiter).await?;
    context.try_sandbox(attempt).await?;
    context.make_workspace_ready(attempt, waiter).await?;
    let ended = run(context, attempt, waiter).await;
    if !matches!(ended, Err(Stop::End(End::Trouble(_) | End::Interrupted(_)) | Stop::Error(_))) {
        context.agent_works(attempt.test.last_attempt_at)?;
    }
    ended
}

fn specification(context: &Context<'_>, attempt: &Attempt) -> Result<CommandSpec> {
    let agent = context.config.agent_of(&context.loop_id);
    let prompt = prompt::write(context, attempt)?;
    let mut argv: Vec<OsString> = agent.command.iter().map(OsString::from).collect();
    let stdin = match agent.prompt {
        PromptBy::Stdin => prompt.into_bytes(),
        PromptBy::Argument => {
            argv.push(prompt.into());
            Vec::new()
        }
    };
    let mut spec = CommandSpec::new(argv, attempt.workspace.root());
    spec.env = context.environment(&attempt.test);
    spec.env.extend(context.own_variables(attempt.workspace.root())?);
    spec.stdin = stdin;
    spec.timeout = Duration::from_secs(agent.timeout_seconds);
    spec.kill_after = Duration::from_secs(agent.kill_after_seconds);
    spec.output_bytes = agent.output_bytes;
    Ok(spec)
}

/// Runs the agent to its end, or until the loop is interrupted.
async fn run(context: &Context<'_>, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<()> {
    let mut spec = specification(context, attempt)?;
    let program = spec.argv.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let log = format!("{}-{}", attempt.test.id, attempt.test.attempts);
    let recorded = context.begin_run(Some(&attempt.test), RunOf::Agent, &program, &log)?;
    spec.log_path = Some(recorded.log.clone());
    context.enter_sandbox(attempt, &mut spec);
    let (cancel, mut cancelled) = watch::channel(false);
    let changes = Changes::of(&attempt.workspace);
    let mut has_changed = false;
    let on_keeper = |keeper| context.record_child(Some(keeper));
    tracing::info!(test = %attempt.test.id, attempt = attempt.test.attempts, "agent started");
    let mut running = pin!(command_runner::run(&spec, &mut cancelled, on_keeper));
    let mut interrupt = None;
    let mut outcome = loop {
        waiter.beat(context, Some(attempt));
        waiter.looked(context);
        // Nothing is lost while the database is unavailable: the changes are found again afterwards.
        match round(context, attempt, waiter, std::mem::take(&mut has_changed)) {
            Ok(None) => {}
            Ok(found) => {
                interrupt = found;
                cancel.send_replace(true);
                break running.await;
            }
            Err(error) if error.is_temporary() => {
                tracing::warn!(%error, "cannot use the database; the agent continues");
                has_changed = true;
            }
            Err(error) => {
                cancel.send_replace(true);
                context.end_run(&recorded, &runs::describe_end(&running.await.end));
                return Err(error.into());
            }
        }
        tokio::select! {
            outcome = &mut running => break outcome,
            () = changes.next() => has_changed = true,
            () = waiter.wait(context, Duration::from_secs(5)) => {}
        }
    };
    outcome.end = context.end_in_sandbox(outcome.end);
    reach(Point::AgentEnded);
    context.end_run(&recorded, &runs::describe_end(&outcome.end));
    context.record_child(None);
    let prompt_bytes = if spec.stdin.is_empty() { spec.argv.last().map_or(0, |prompt| prompt.len()) } else { spec.stdin.len() };
    let text = tokens::end_of_output(&outcome, spec.log_path.as_deref());
    attempt.tokens_spent = tokens::spent(prompt_bytes, &outcome, &text);
    tracing::info!(test = %attempt.test.id, end = ?outcome.end, seconds = outcome.duration.as_secs(), "agent ended");
    if let Some(interrupt) = interrupt {
        return Err(interrupt.into());
    }
    let given_up = context.db.read(|tx| tx.gave_up(&attempt.test.id))?;
    let work = match context.see_work(&attempt.workspace, context.config.landing.file_bytes) {
        Err(Error::Git(git::Error::WorkspaceDamaged { .. })) => return Err(damaged(context)?.into()),
        seen => seen?,
    };
    let is_edit = |finding: &Finding| matches!(finding, Finding::EditedInSubmodule { .. });
    attempt.changed = !work.change.paths.is_empty() || work.findings.iter().any(is_edit);
    attempt.last_words = run_end::reason_of(&text);
    // Agents cannot choose their exit status.
    if let Some(reason) = given_up {
        return Err(Stop::failed(ErrorCategory::Spec, format!("the agent gave up: {reason}")));
    }
    let limit = context.config.agent_of(&context.loop_id).timeout_seconds;
    match run_end::judge(&outcome, &text, attempt.changed, limit, context.db.clock().now()) {
        None => Ok(()),
        Some(end) => Err(Stop::End(end)),
    }
}

/// The agent has deleted or damaged its workspace. The first time may be an accident.
fn damaged(context: &Context<'_>) -> Result<FailedAttempt> {
    let before = context.db.read(|tx| tx.loop_row(&context.loop_id))?.vain_runs;
    let category = if before == 0 { ErrorCategory::Transient } else { ErrorCategory::Code };
    Ok(FailedAttempt::new(
        category,
        "the agent deleted or damaged its workspace; the workspace is created again for the next attempt",
    ))
}

fn round(context: &Context<'_>, attempt: &mut Attempt, waiter: &Waiter, has_changed: bool) -> Result<Option<Interrupt>> {
    if waiter.stopping() {
        return Ok(Some(Interrupt::stop()));
    }
    if let Some(interrupt) = context.orders(Some(attempt))? {
        return Ok(Some(interrupt));
    }
    context.retry_requests(attempt)?;
    context.serve_sandbox(attempt)?;
    if context.config.lease.automatic {
        // Files that cannot be leased are reported at landing, where it matters.
        match context.lease_changes(attempt, has_changed) {
            // The agent or its git may be writing at the moment.
            Err(Error::Git(error)) => tracing::debug!(%error, "cannot read the changes"),
            other => drop(other?),
        }
    }
    Ok(None)
}
