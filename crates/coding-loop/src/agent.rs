//! Runs the agent in its workspace under a keeper, reads its output as it comes, and leases files when it first changes
//! them.

use std::cell::RefCell;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use command_runner::{CommandSpec, Outcome};
use coord_db::config::PromptBy;
use coord_db::{ErrorCategory, FailedAttempt, NoChange, RunOf};
use crash_point::{Point, reach};
use git::Finding;
use tokio::sync::{Notify, watch};

use crate::agents::{Call, Report, Stream};
use crate::auto_lease::Changes;
use crate::context::{Attempt, Context};
use crate::control::{Interrupt, Waiter};
use crate::end::{End, Step, Stop};
use crate::workspace_report::WorkspaceReport;
use crate::{Error, Result, revert, run_end, runs};

/// Minimum time between two records of what the agent does.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

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
    // In a later round of the same attempt, all of this has been done.
    if attempt.runs == 0 {
        context.must_fail_before(attempt, waiter).await?;
        context.try_sandbox(attempt).await?;
        context.make_workspace_ready(attempt, waiter).await?;
    }
    let ended = run(context, attempt, waiter).await;
    if !matches!(ended, Err(Stop::End(End::Trouble(_) | End::Interrupted(_)) | Stop::Error(_))) {
        let works = || context.agent_works(attempt.test.last_attempt_at);
        waiter.until_usable(context, Some(attempt), works).await?;
    }
    ended
}

/// Runs the agent. A session that no longer exists is replaced by a new one.
async fn run(context: &Context<'_>, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<()> {
    let ran = run_once(context, attempt, waiter).await?;
    let is_lost = |ran: &Ran| ran.is_continued && ran.spent == 0 && !ran.outcome.success() && ran.is_refused();
    if !is_lost(&ran) {
        return judge(context, attempt, &ran, waiter).await;
    }
    tracing::warn!(reason = ran.report.reason(), "the agent cannot continue its session; starting a new one");
    attempt.session = None;
    let ran = run_once(context, attempt, waiter).await?;
    judge(context, attempt, &ran, waiter).await
}

/// A run of the agent that has ended by itself.
struct Ran {
    outcome: Outcome,
    report: Report,
    is_continued: bool,
    /// Tokens that it states.
    spent: i64,
}

impl Ran {
    /// True if it did not even begin: it has no session, or says that there is no such one.
    fn is_refused(&self) -> bool {
        let reason = self.report.reason().to_lowercase();
        let names_it = ["session", "conversation", "thread", "rollout"].iter().any(|word| reason.contains(word));
        names_it && self.report.status.is_none()
    }
}

fn specification(context: &Context<'_>, attempt: &Attempt, call: Call, prompt: String) -> Result<CommandSpec> {
    let agent = context.config.agent_of(&context.loop_id);
    let mut argv = call.argv;
    let stdin = match agent.prompt {
        PromptBy::Stdin => prompt.into_bytes(),
        PromptBy::Argument => {
            argv.push(prompt.into());
            Vec::new()
        }
    };
    let mut spec = CommandSpec::new(argv, attempt.workspace.root());
    spec.env = context.environment(&attempt.test);
    spec.env.extend(call.env);
    spec.env.extend(context.own_variables(attempt.workspace.root())?);
    context.guard(&mut spec.env)?;
    spec.stdin = stdin;
    spec.timeout = Duration::from_secs(agent.timeout_seconds);
    spec.kill_after = Duration::from_secs(agent.kill_after_seconds);
    spec.output_bytes = agent.output_bytes;
    Ok(spec)
}

/// Runs the agent to its end, or until the loop is interrupted.
async fn run_once(context: &Context<'_>, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<Ran> {
    let kind = context.config.agent_of(&context.loop_id).kind();
    let (call, prompt) = context.call(attempt)?;
    let prompt_bytes = prompt.len();
    let mut spec = specification(context, attempt, call.clone(), prompt)?;
    let program = spec.argv.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let log = format!("{}-{}", attempt.test.id, attempt.test.attempts);
    let continued = attempt.session.as_ref().map(|session| session.id.clone());
    let begin = || context.begin_run(Some(&attempt.test), RunOf::Agent, continued.as_deref(), &program, &log);
    let recorded = waiter.until_usable(context, Some(attempt), begin).await?;
    attempt.runs += 1;
    spec.log_path = Some(recorded.log.clone());
    context.enter_sandbox(attempt, &mut spec);
    let (cancel, mut cancelled) = watch::channel(false);
    let changes = Changes::of(&attempt.workspace);
    let mut has_changed = false;
    let on_keeper = |keeper| context.record_child(Some(keeper));
    tracing::info!(test = %attempt.test.id, attempt = attempt.test.attempts, continued = attempt.session.is_some(), "agent started");
    let (stream, news) = (RefCell::new(Stream::new(kind)), Notify::new());
    let on_output = |bytes: &[u8]| {
        let mut stream = stream.borrow_mut();
        let before = (stream.report.session.is_some(), stream.report.key_refused.is_some());
        stream.feed(bytes);
        if before != (stream.report.session.is_some(), stream.report.key_refused.is_some()) {
            news.notify_one();
        }
    };
    let mut running = pin!(command_runner::run_reading(&spec, &mut cancelled, on_keeper, on_output));
    let (mut interrupt, mut failure) = (None, None);
    let mut noted = Noted { session: continued.clone(), ..Noted::default() };
    let mut shown = WorkspaceReport::default();
    let mut outcome = loop {
        waiter.beat(context, Some(attempt));
        waiter.looked(context);
        // Nothing is lost while the database is unavailable: the changes are found again afterwards.
        shown.note(has_changed);
        match round(context, attempt, waiter, std::mem::take(&mut has_changed)) {
            Ok(None) => shown.send(context, attempt, false),
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
                failure = Some(error);
                cancel.send_replace(true);
                break running.await;
            }
        }
        noted.note(context, &recorded, &stream.borrow().report);
        if stream.borrow().report.key_refused.is_some() {
            // It would try the same key again for minutes.
            cancel.send_replace(true);
        }
        tokio::select! {
            outcome = &mut running => break outcome,
            () = changes.next() => has_changed = true,
            () = news.notified() => {}
            () = waiter.wait(context, PROGRESS_INTERVAL) => {}
        }
    };
    outcome.end = context.end_in_sandbox(outcome.end);
    shown.send(context, attempt, true);
    reach(Point::AgentEnded);
    let mut report = stream.replace(Stream::new(kind)).finish();
    if outcome.end == command_runner::End::Cancelled {
        // It may have been stopped before its first word. One that ends by itself without a word is not continued again.
        report.session = report.session.or(continued);
    }
    let stated = report.stated(&attempt.session.as_ref().map(|session| session.used.clone()).unwrap_or_default());
    let spent = stated.iter().map(|used| used.tokens).fold(0, i64::saturating_add);
    let bytes = outcome.output_bytes.saturating_add(prompt_bytes as u64);
    let used = context.priced(stated, report.model.as_deref().or(call.model()), bytes);
    let (seconds, how) = (i64::try_from(outcome.duration.as_secs()).unwrap_or(i64::MAX), runs::describe_end(&outcome.end));
    // If a stop is requested meanwhile, the next start reads the log.
    let record = || Ok(context.end_agent_run(&recorded, &report, &used, seconds, &how)?);
    if let Err(error) = waiter.until_usable(context, Some(attempt), record).await {
        return Err(failure.unwrap_or(error).into());
    }
    context.record_child(None);
    tracing::info!(test = %attempt.test.id, end = ?outcome.end, seconds = outcome.duration.as_secs(), tokens = spent, "agent ended");
    let is_continued = attempt.session.is_some();
    if let Some(id) = report.session.clone().filter(|_| context.managed && context.can_continue()) {
        attempt.session = Some(waiter.until_usable(context, Some(attempt), || context.session(&id)).await?);
    }
    match (interrupt, failure) {
        (Some(interrupt), _) => Err(interrupt.into()),
        (None, Some(failure)) => Err(failure.into()),
        (None, None) => Ok(Ran { outcome, report, is_continued, spent }),
    }
}

/// What was recorded of a running agent.
#[derive(Default)]
struct Noted {
    session: Option<String>,
    progress: Option<String>,
    at: Option<Instant>,
}

impl Noted {
    /// Records the session at once, and what the agent does at intervals.
    fn note(&mut self, context: &Context<'_>, run: &runs::Recorded, report: &Report) {
        let is_due = self.at.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL);
        let session = report.session.as_ref().or(self.session.as_ref());
        if self.session.as_ref() == session && (self.progress == report.progress || !is_due) {
            return;
        }
        if context.note_run(run, session.map(String::as_str), report.progress.as_deref()) {
            (self.session, self.progress) = (session.cloned(), report.progress.clone());
            self.at = Some(Instant::now());
        }
    }
}

/// Judges the end of a run.
async fn judge(context: &Context<'_>, attempt: &mut Attempt, ran: &Ran, waiter: &mut Waiter) -> Step<()> {
    let given_up = || Ok(context.db.read(|tx| tx.gave_up(&attempt.test.id))?);
    let given_up = waiter.until_usable(context, Some(attempt), given_up).await?;
    let seen = || context.see_work(&attempt.workspace, context.config.landing.file_bytes);
    let work = match waiter.until_usable(context, Some(attempt), seen).await {
        Err(Error::Git(git::Error::WorkspaceDamaged { .. })) => return Err(damaged(context)?.into()),
        seen => seen?,
    };
    let is_edit = |finding: &Finding| matches!(finding, Finding::EditedInSubmodule { .. });
    attempt.changed = !work.change.paths.is_empty() || work.findings.iter().any(is_edit);
    attempt.last_words = ran.report.reason();
    // Agents cannot choose their exit status.
    if let Some(reason) = given_up {
        return Err(Stop::failed(ErrorCategory::Spec, format!("the agent gave up: {reason}")));
    }
    let limit = context.config.agent_of(&context.loop_id).timeout_seconds;
    match run_end::judge(&ran.outcome, &ran.report, attempt.changed, limit, context.db.now()) {
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
