//! Running one check on a worktree: a command whose exit code is the verdict, and which must leave the tracked files alone.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::keeper::KeeperId;
use crate::{CommandSpec, CommitHash, End, NotStartedKind, Outcome, WorkTree, run};

/// A check, as the configuration has it.
#[derive(Debug, Clone)]
pub struct CheckSpec {
    /// Its name; the command sees it as `CHECK_NAME`.
    pub name: String,
    /// argv.
    pub argv: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// The complete environment; `CHECK_NAME` is added.
    pub env: Vec<(String, OsString)>,
    /// A lower share of the machine, if any.
    pub nice: Option<i32>,
    /// Where its output is kept.
    pub log_path: Option<PathBuf>,
    /// How much of it.
    pub output_bytes: u64,
}

/// What a check said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckVerdict {
    /// Exit code 0.
    Pass,
    /// Another exit code, too long a run, or changed tracked files; in words.
    Fail(String),
    /// It could not be run, or was ended by a signal: neither pass nor fail; in words.
    Error(String),
    /// The caller stopped it.
    Cancelled,
}

/// One run of a check.
#[derive(Debug, Clone)]
pub struct CheckResult {
    /// What it said.
    pub verdict: CheckVerdict,
    /// Its exit code, if it exited.
    pub exit_code: Option<i32>,
    /// How long it took.
    pub duration: Duration,
    /// SHA-256 of the whole output, in hexadecimal.
    pub output_sha256: String,
    /// The end of the output.
    pub output_tail: String,
}

/// Runs a check in a clean worktree and cleans up after it. Untracked files that it leaves are removed, ignored ones stay
/// (build caches).
///
/// # Errors
/// If git cannot tell what the check has changed.
pub async fn run_check(
    spec: &CheckSpec,
    worktree: &WorkTree,
    cancel: &mut watch::Receiver<bool>,
    on_keeper: impl FnOnce(KeeperId),
) -> crate::Result<CheckResult> {
    let head = worktree.head()?;
    let mut command = CommandSpec::new(spec.argv.iter().map(OsString::from), worktree.root());
    command.env.clone_from(&spec.env);
    command.env.push(("CHECK_NAME".to_owned(), OsString::from(&spec.name)));
    command.timeout = spec.timeout;
    command.nice = spec.nice;
    command.log_path.clone_from(&spec.log_path);
    command.output_bytes = spec.output_bytes;
    let outcome = run(&command, cancel, on_keeper).await;
    let mut verdict = verdict_of(spec, &outcome);
    let tampered = tampered(worktree, &head)?;
    if let (CheckVerdict::Pass, Some(what)) = (&verdict, tampered) {
        verdict = CheckVerdict::Fail(format!("check {} changed {what}", spec.name));
    }
    worktree.restore_to(&head)?;
    Ok(CheckResult {
        verdict,
        exit_code: if let End::Exited(code) = outcome.end { Some(code) } else { None },
        duration: outcome.duration,
        output_sha256: outcome.output_sha256,
        output_tail: outcome.tail,
    })
}

pub(crate) fn verdict_of(spec: &CheckSpec, outcome: &Outcome) -> CheckVerdict {
    let name = &spec.name;
    match &outcome.end {
        End::Exited(0) => CheckVerdict::Pass,
        End::Exited(code) => CheckVerdict::Fail(format!("check {name} failed with exit code {code}")),
        End::TimedOut => CheckVerdict::Fail(format!("check {name} took longer than {} s", spec.timeout.as_secs())),
        End::Signaled(signal) => CheckVerdict::Error(format!("check {name} was ended by signal {signal}")),
        End::Cancelled => CheckVerdict::Cancelled,
        End::Lost => CheckVerdict::Error(format!("check {name} was lost: its keeper was killed")),
        End::NotStarted { kind, message } => CheckVerdict::Error(match kind {
            NotStartedKind::Missing => format!("check {name} cannot be run: {} is missing", spec.argv[0]),
            NotStartedKind::NotExecutable => format!("check {name} cannot be run: {} is not executable", spec.argv[0]),
            NotStartedKind::Other => format!("check {name} cannot be run: {message}"),
        }),
    }
}

/// What of the tracked state differs from how the check found it.
fn tampered(worktree: &WorkTree, head: &CommitHash) -> crate::Result<Option<String>> {
    if worktree.head()? != *head {
        return Ok(Some("the commit that it was to judge".to_owned()));
    }
    let repository = worktree.repository()?;
    let mut tracked = Vec::new();
    for path in worktree.changed_files()? {
        if repository.read_file_at(head, &path)?.is_some() {
            tracked.push(path.display().to_string());
        }
    }
    Ok((!tracked.is_empty()).then(|| format!("tracked files: {}", tracked.join(", "))))
}
