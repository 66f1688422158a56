//! Classifies the end of an agent's run by its exit status and its output. Pure.
//!
//! External causes (a limit of the account, a service that does not answer, a rejected key, a missing program) cost the
//! agent no attempt and put all loops that would be affected on hold. Success is only a claim, and an error printed
//! before exit status 0 does not refute it.

mod reset_time;

use std::path::Path;

use command_runner::{End as Ended, NotStartedKind, Outcome};
use coord_db::config::{AgentConfig, AgentKind};
use coord_db::{AgentTrouble, ErrorCategory, FailedAttempt, HoldKind, Timestamp};
use sha2::{Digest, Sha256};

use crate::agents::{Report, one_line};
use crate::end::End;

use reset_time::{is_plausible, reset_time};

/// The exit status with which an agent gives up.
const GIVES_UP: i32 = 3;
/// The exit statuses of a program whose own program was interrupted, killed or terminated.
const SIGNALLED: [i32; 3] = [130, 137, 143];
/// Number of last lines of a failed agent that are searched for the cause.
const LINES_OF_FAILURE: usize = 12;
/// Number of last lines that can refute the claim of an agent that has changed something.
const LINES_AFTER_CLAIM: usize = 3;

/// Identifies an account of an agent across loops: its kind and the keys that the settings give it, or for another command
/// the whole command line.
pub(crate) fn agent_name(agent: &AgentConfig) -> String {
    let kind = agent.kind();
    if kind != AgentKind::Generic {
        let keys = agent.set.iter().filter(|(name, _)| kind.key_variables().contains(&name.as_str()));
        let keys: Vec<&str> = keys.flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect();
        return if keys.is_empty() { kind.as_str().to_owned() } else { format!("{}-{}", kind.as_str(), digest(&keys)) };
    }
    let command = &agent.command;
    let program = command.first().map(String::as_str).unwrap_or_default();
    let name = Path::new(program).file_name().map_or_else(|| program.to_owned(), |name| name.to_string_lossy().into_owned());
    format!("{name}-{}", digest(&command.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn digest(words: &[&str]) -> String {
    Sha256::digest(words.join("\0")).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Classifies the end of a run; none if the agent claims success. `report` is what its output says; `changed` is true if
/// it left changes.
pub(crate) fn judge(outcome: &Outcome, report: &Report, changed: bool, timeout_seconds: u64, now: Timestamp) -> Option<End> {
    let reason = report.reason();
    let fail = |category, message: String| Some(End::Failed(FailedAttempt::new(category, message)));
    let trouble = |kind, reason: String, until| Some(End::Trouble(AgentTrouble { kind, reason, until }));
    if let Some(refused) = &report.key_refused {
        return trouble(HoldKind::Human, refused.clone(), None);
    }
    if report.is_over_budget {
        return fail(ErrorCategory::Resource, format!("the agent has used up its budget: {reason}"));
    }
    match &outcome.end {
        Ended::Exited(code) => {
            // An agent that gives up has worked; its output is about the work.
            if *code != GIVES_UP
                && let Some(found) = stated_trouble(report, *code, changed, now)
            {
                return Some(End::Trouble(found));
            }
            match (*code, &report.error, &report.called_off) {
                (0, Some(_), _) => fail(ErrorCategory::Code, format!("the agent exited with 0 after an error: {reason}")),
                (0, None, Some(why)) => fail(ErrorCategory::Code, format!("the agent aborted its run ({why}): {reason}")),
                (0, None, None) if report.lacks_result => {
                    fail(ErrorCategory::Transient, format!("the agent ended without a result: {reason}"))
                }
                (0, None, None) if !report.denied.is_empty() && !changed => {
                    let denied = report.denied.join(", ");
                    fail(
                        ErrorCategory::Code,
                        format!("the agent was not allowed to use {denied} and changed nothing: {reason}"),
                    )
                }
                (0, None, None) => None,
                (GIVES_UP, ..) => fail(ErrorCategory::Spec, format!("the agent gave up: {reason}")),
                (code, ..) if SIGNALLED.contains(&code) => {
                    fail(ErrorCategory::Transient, format!("the agent was killed by signal {}", code - 128))
                }
                (code, ..) => fail(ErrorCategory::Code, format!("the agent exited with {code}: {reason}")),
            }
        }
        Ended::TimedOut => fail(
            ErrorCategory::Code,
            format!("the agent exceeded its time limit of {timeout_seconds} s and was stopped: {reason}"),
        ),
        Ended::Signaled(signal) => fail(ErrorCategory::Transient, format!("the agent was killed by signal {signal}")),
        Ended::Lost => fail(ErrorCategory::Transient, "the agent was lost, because its keeper was killed".to_owned()),
        Ended::Cancelled => fail(ErrorCategory::Transient, "the agent was cancelled".to_owned()),
        Ended::NotStarted { kind: NotStartedKind::Other, message } => {
            fail(ErrorCategory::System, format!("cannot start the agent: {message}"))
        }
        Ended::NotStarted { message, .. } => trouble(
            HoldKind::Human,
            format!("cannot start its program ({message}); install it, or correct [agent] command in config.toml"),
            None,
        ),
    }
}

/// The external cause that an agent states, if any.
fn stated_trouble(output: &Report, code: i32, changed: bool, now: Timestamp) -> Option<AgentTrouble> {
    let trouble = |kind, reason: &str| {
        let until = if kind == HoldKind::Limit { reset_time(reason, now) } else { None };
        AgentTrouble { kind, reason: one_line(reason), until }
    };
    if let Some(text) = &output.error
        && let Some(kind) = kind_of_error(output.status, &text.to_lowercase())
    {
        let until = output.limit_until.flatten().filter(|until| is_plausible(*until, now));
        let found = trouble(kind, text);
        return Some(AgentTrouble { until: found.until.or(until.filter(|_| kind == HoldKind::Limit)), ..found });
    }
    if let Some(until) = output.limit_until.filter(|_| code != 0 || output.error.is_some()) {
        return Some(AgentTrouble {
            kind: HoldKind::Limit,
            reason: output.reason(),
            until: until.filter(|until| is_plausible(*until, now)),
        });
    }
    // The result that it states counts, and no text beside it.
    if code == 0 && output.has_result && output.error.is_none() {
        return None;
    }
    let lines = if code == 0 && changed { LINES_AFTER_CLAIM } else { LINES_OF_FAILURE };
    let mut last = output.lines.iter().rev().take(lines);
    last.find_map(|line| {
        let lower = line.to_lowercase();
        let kind = kind_of(&lower)?;
        // A claim is refuted only by phrases that do not occur at the start of a report about the work.
        // A single word does not explain the failure of an agent that has changed something either.
        let stands = if code == 0 || changed { is_statement_of_a_service(&lower) } else { is_statement(&lower) };
        stands.then(|| trouble(kind, line))
    })
    .or_else(|| {
        // The message of a shell about a missing program.
        let missing = code == 127 && !changed;
        let line =
            output.lines.iter().rev().find(|line| missing && (line.contains("not found") || line.starts_with("env: ")))?;
        Some(trouble(HoldKind::Human, line))
    })
}

/// True for a line that begins like an error message of an agent or a service.
fn is_statement(line: &str) -> bool {
    const BEGINNINGS: &[&str] = &[
        "error",
        "fatal",
        "you've hit",
        "you’ve hit",
        "you have hit",
        "you've reached",
        "you have reached",
        "usage limit",
        "rate limit",
        "claude usage limit",
        "claude ai usage limit",
        "429",
        "500",
        "502",
        "503",
        "504",
        "529",
        "stream error",
        "stream disconnected",
        "request failed",
        "connection",
        "invalid api key",
        "incorrect api key",
        "missing api key",
        "no api key",
        "not logged in",
        "please run /login",
        "quota",
        "unknown option",
        "unexpected argument",
        "unrecognized arguments",
        "overloaded",
        "--dangerously-skip-permissions",
        "unauthorized",
        "authentication",
    ];
    let line = line.trim_start_matches(|letter: char| !letter.is_alphanumeric() && letter != '-');
    // A line with a source location or a test name is a report about the work.
    let about_work = names_a_place(line) || line.contains("test_") || line.contains("assert");
    if is_statement_of_a_service(line) {
        return true;
    }
    !about_work && (BEGINNINGS.iter().any(|beginning| line.starts_with(beginning)) || line.contains("error:"))
}

/// True for a line that only the error handling of an agent prints. The whole phrase is compared, because a single word
/// may be about the work.
fn is_statement_of_a_service(line: &str) -> bool {
    const BEGINNINGS: &[&str] = &[
        "api error:",
        "api error (",
        "error: api error",
        "litellm.",
        "openai.",
        "anthropic.",
        "the api provider",
        "claude ai usage limit reached",
        "claude usage limit reached",
        "invalid api key ·",
        "rate limit reached",
        "rate limit exceeded",
        "ratelimit exceeded",
        "usage limit reached",
        "http 429",
        "overloaded_error",
    ];
    const OWN_LIMITS: &[&str] =
        &["you've hit your", "you’ve hit your", "you have hit your", "you've reached your", "you have reached your"];
    let line = line.trim_start_matches(|letter: char| !letter.is_alphanumeric());
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| line.starts_with(beginning));
    begins(BEGINNINGS) || begins(OWN_LIMITS) && line.contains("limit")
}

/// `src/a.rs:12`, `app.py:3:`.
fn names_a_place(line: &str) -> bool {
    line.split_whitespace().any(|word| {
        let mut parts = word.split(':');
        let file = parts.next().unwrap_or_default();
        let number = parts.next().unwrap_or_default();
        file.contains('.') && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) && !file.contains("//")
    })
}

/// The kind of external cause of a stated error. Beside a status, a number in the text says nothing.
fn kind_of_error(status: Option<i64>, text: &str) -> Option<HoldKind> {
    let by_text = kind_of(text);
    let Some(status) = status else { return by_text };
    kind_of_status(status).or(by_text.filter(|kind| *kind == HoldKind::Human))
}

/// The kind of external cause that an HTTP status states.
fn kind_of_status(status: i64) -> Option<HoldKind> {
    match status {
        429 => Some(HoldKind::Limit),
        401..=403 => Some(HoldKind::Human),
        408 | 500.. => Some(HoldKind::Outage),
        _ => None,
    }
}

/// The kind of external cause in a lower-case text.
fn kind_of(text: &str) -> Option<HoldKind> {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let status = |codes: &[&str]| text.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| codes.contains(&word));
    const HUMAN: &[&str] = &[
        "invalid api key",
        "incorrect api key",
        "api key not",
        "no api key",
        "missing api key",
        "api_key",
        "x-api-key",
        "please run /login",
        "run /login",
        "not logged in",
        "authentication_error",
        "authenticationerror",
        "unauthorized",
        "not able to authenticate",
        "oauth token has expired",
        "oauth token revoked",
        "credit balance",
        "unknown option",
        "unexpected argument",
        "unrecognized argument",
        "unknown argument",
        "no such option",
        "unknown flag",
        "cannot be used with root",
        "permission_error",
    ];
    const LIMIT: &[&str] = &[
        "hit your limit",
        "hit your usage limit",
        "usage limit",
        "rate limit",
        "rate_limit",
        "ratelimit",
        "rate limited",
        "too many requests",
        "quota",
        "resource_exhausted",
        "resource exhausted",
        "limit reached",
        "session limit",
        "weekly limit",
    ];
    const OUTAGE: &[&str] = &[
        "overloaded",
        "at capacity",
        "internal server error",
        "internalservererror",
        "bad gateway",
        "service unavailable",
        "serviceunavailable",
        "gateway timeout",
        "connection refused",
        "connection reset",
        "connection error",
        "connection timed out",
        "connection closed",
        "apiconnectionerror",
        "econnrefused",
        "econnreset",
        "etimedout",
        "enotfound",
        "eai_again",
        "getaddrinfo",
        "network error",
        "fetch failed",
        "stream disconnected",
        "could not resolve host",
        "request timed out",
        "temporarily unavailable",
    ];
    if has(&["quota exceeded. check your plan", "insufficient_quota"]) {
        Some(HoldKind::Human)
    } else if has(LIMIT) || status(&["429"]) {
        Some(HoldKind::Limit)
    } else if has(HUMAN) || status(&["401"]) {
        Some(HoldKind::Human)
    } else if has(OUTAGE) || status(&["500", "502", "503", "504", "529"]) {
        Some(HoldKind::Outage)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
