//! Running the agent: in its worktree, under a keeper, with its files leased as it first changes them.

use std::ffi::OsString;
use std::pin::pin;
use std::time::Duration;

use coord_db::config::PromptBy;
use coord_db::{ComponentId, ErrorCategory, FailedAttempt};
use crash_point::{Point, reach};
use tokio::sync::watch;
use work_tree::{CommandSpec, End, Outcome};

use crate::auto_lease::Changes;
use crate::context::{Attempt, Context};
use crate::control::{Interrupt, Waiter};
use crate::{Error, Result, prompt, tokens};

/// How the agent's part of an attempt ended.
pub(crate) enum AgentEnd {
    /// It says that it is done. No more than a claim.
    Claimed,
    Failed(FailedAttempt),
    Interrupted(Interrupt),
}

pub(crate) fn failed(category: ErrorCategory, message: impl Into<String>) -> FailedAttempt {
    FailedAttempt { category, message: message.into(), caused_by: None }
}

/// The last line that says something.
fn last_line(tail: &str) -> &str {
    tail.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing")
}

fn judge(outcome: &Outcome, timeout_seconds: u64) -> AgentEnd {
    let said = last_line(&outcome.tail);
    AgentEnd::Failed(match &outcome.end {
        End::Exited(0) => return AgentEnd::Claimed,
        End::Exited(code) => failed(ErrorCategory::Code, format!("the agent exited with {code}: {said}")),
        End::TimedOut => failed(ErrorCategory::Code, format!("the agent took longer than {timeout_seconds} s: {said}")),
        End::Signaled(signal) => failed(ErrorCategory::Transient, format!("the agent was ended by signal {signal}")),
        End::Lost => failed(ErrorCategory::Transient, "the agent was lost: its keeper was killed"),
        End::Cancelled => failed(ErrorCategory::Transient, "the agent was stopped from outside"),
        End::NotStarted { message, .. } => failed(ErrorCategory::System, format!("the agent cannot be started: {message}")),
    })
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
    let mut spec = CommandSpec::new(argv, attempt.worktree.root());
    spec.env = context.environment(&attempt.test);
    spec.stdin = stdin;
    spec.timeout = Duration::from_secs(agent.timeout_seconds);
    spec.kill_after = Duration::from_secs(agent.kill_after_seconds);
    spec.log_path = Some(context.logs().join(format!("{}-{}.log", attempt.test.id, attempt.test.attempts)));
    spec.output_bytes = agent.output_bytes;
    Ok(spec)
}

/// Runs the agent to its end, or until the loop is told otherwise.
pub(crate) async fn run(context: &Context<'_>, attempt: &mut Attempt, waiter: &mut Waiter) -> Result<AgentEnd> {
    let spec = specification(context, attempt)?;
    let (cancel, mut cancelled) = watch::channel(false);
    let changes = Changes::of(attempt.worktree.root());
    let id = ComponentId::from(&context.loop_id);
    let on_keeper = |keeper: work_tree::keeper::KeeperId| {
        let child = (i64::from(keeper.pid), i64::try_from(keeper.start_time).ok());
        if let Err(error) = context.db.write_quietly(|tx| tx.set_child(&id, Some(child))) {
            tracing::warn!(%error, "cannot write down the agent's process");
        }
    };
    tracing::info!(test = %attempt.test.id, attempt = attempt.test.attempts, "the agent begins");
    let mut running = pin!(work_tree::run(&spec, &mut cancelled, on_keeper));
    let mut interrupt = None;
    let outcome = loop {
        waiter.beat(context, Some(attempt));
        waiter.wakes.looked(context.db);
        // Nothing is lost while the database cannot be used: what was changed is seen again afterwards.
        match round(context, attempt, waiter) {
            Ok(None) => {}
            Ok(found) => {
                interrupt = found;
                cancel.send_replace(true);
                break running.await;
            }
            Err(error) if error.is_temporary() => tracing::warn!(%error, "the database cannot be used; the agent works on"),
            Err(error) => {
                cancel.send_replace(true);
                running.await;
                return Err(error);
            }
        }
        tokio::select! {
            outcome = &mut running => break outcome,
            () = changes.next() => {}
            () = waiter.wait(context, Duration::from_secs(5)) => {}
        }
    };
    reach(Point::AgentEnded);
    if let Err(error) = context.db.write_quietly(|tx| tx.set_child(&id, None)) {
        tracing::debug!(%error, "cannot write down that the agent has ended");
    }
    let told = if spec.stdin.is_empty() { spec.argv.last().map_or(0, |prompt| prompt.len()) } else { spec.stdin.len() };
    attempt.tokens_spent = tokens::spent(told, &outcome, spec.log_path.as_deref());
    tracing::info!(test = %attempt.test.id, end = ?outcome.end, seconds = outcome.duration.as_secs(), "the agent has ended");
    Ok(match interrupt {
        Some(interrupt) => AgentEnd::Interrupted(interrupt),
        None => judge(&outcome, context.config.agent_of(&context.loop_id).timeout_seconds),
    })
}

fn round(context: &Context<'_>, attempt: &mut Attempt, waiter: &Waiter) -> Result<Option<Interrupt>> {
    if waiter.stopping() {
        return Ok(Some(Interrupt::stop()));
    }
    if let Some(interrupt) = context.orders(Some(attempt))? {
        return Ok(Some(interrupt));
    }
    context.ask_again(attempt)?;
    if context.config.lease.automatic {
        // What cannot be leased is told at landing, where it matters.
        match context.lease_changes(attempt) {
            // The agent may be in the middle of something; so may its git.
            Err(Error::Git(error)) => tracing::debug!(%error, "cannot see what has changed"),
            other => drop(other?),
        }
    }
    Ok(None)
}
