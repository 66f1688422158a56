//! Runs one check in a check-out: a command whose exit status is the verdict, and which must not change tracked files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::call::{fields, to_path};
use crate::conversion::as_checked_out;
use crate::submodules::Files;
use crate::{CommitHash, Result, WorkTree};
use command_runner::hex;
use command_runner::keeper::KeeperId;
use command_runner::{CommandSpec, End, NotStartedKind, Outcome, run};

/// A check of the settings.
#[derive(Debug, Clone)]
pub struct CheckSpec {
    /// Its name, passed to the command as `CHECK_NAME`.
    pub name: String,
    /// argv.
    pub argv: Vec<String>,
    /// Time limit.
    pub timeout: Duration,
    /// The complete environment; `CHECK_NAME` is added.
    pub env: Vec<(String, OsString)>,
    /// The nice value, if any.
    pub nice: Option<i32>,
    /// The file for its output.
    pub log_path: Option<PathBuf>,
    /// Number of bytes kept.
    pub output_bytes: u64,
}

impl CheckSpec {
    /// A hash of its name, command, time limit and environment, without the variable that changes with each attempt
    /// (`ATTEMPT`), in hexadecimal. Two runs on the same files with the same hash are equivalent.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.name.as_bytes());
        self.argv.iter().for_each(|argument| part(argument.as_bytes()));
        part(b"");
        part(&self.timeout.as_millis().to_le_bytes());
        for (name, value) in self.env.iter().filter(|(name, _)| name != "ATTEMPT") {
            part(name.as_bytes());
            part(value.as_encoded_bytes());
        }
        hex(hash)
    }

    /// The command for running it in a folder.
    pub(crate) fn command(&self, folder: &Path) -> CommandSpec {
        let mut command = CommandSpec::new(self.argv.iter().map(OsString::from), folder);
        command.env.clone_from(&self.env);
        command.env.push(("CHECK_NAME".to_owned(), OsString::from(&self.name)));
        command.timeout = self.timeout;
        command.nice = self.nice;
        command.log_path.clone_from(&self.log_path);
        command.output_bytes = self.output_bytes;
        command
    }
}

/// The verdict of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckVerdict {
    /// Exit status 0.
    Pass,
    /// Another exit status, a timeout, or changed tracked files; with the reason.
    Fail(String),
    /// It could not run, or was killed by a signal: neither pass nor fail; with the reason.
    Error(String),
    /// The caller cancelled it.
    Cancelled,
}

/// The end of a run of a check, in more detail than its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckEnd {
    /// Exit status 0, and the tracked files are unchanged.
    Passed,
    /// Another exit status.
    Failed,
    /// It exceeded the time limit.
    TimedOut,
    /// Exit status 0, but tracked files were changed.
    ChangedFiles,
    /// The program does not exist; also if a shell reports that with exit status 127.
    Missing,
    /// The program is not executable; also if a shell reports that with exit status 126.
    NotExecutable,
    /// It could not be started for another reason.
    NotStarted,
    /// It was killed by a signal that this program did not send.
    Signaled,
    /// Its keeper was killed, so the result is unknown.
    Lost,
    /// The caller cancelled it.
    Cancelled,
}

/// One run of a check.
#[derive(Debug, Clone)]
pub struct CheckResult {
    /// The verdict.
    pub verdict: CheckVerdict,
    /// The end of the run.
    pub end: CheckEnd,
    /// Its exit code, if it exited.
    pub exit_code: Option<i32>,
    /// Its duration.
    pub duration: Duration,
    /// SHA-256 of the whole output, in hexadecimal.
    pub output_sha256: String,
    /// The end of the output.
    pub output_tail: String,
}

/// Runs a check in a clean check-out and cleans up after it. Untracked files that it leaves are removed; ignored ones
/// stay for the next check on the same files.
///
/// # Errors
/// [`Error::NotForChecks`].
///
/// [`Error::NotForChecks`]: crate::Error::NotForChecks
pub async fn run_check(
    spec: &CheckSpec,
    tree: &WorkTree,
    cancel: &mut watch::Receiver<bool>,
    on_keeper: impl FnOnce(KeeperId),
) -> Result<CheckResult> {
    tree.must_be_for_checks()?;
    let commit = tree.head()?;
    let outcome = run(&spec.command(tree.root()), cancel, on_keeper).await;
    let tampered = undo(tree, &commit, false)?;
    tree.renew_git()?;
    tree.note_submodules(&commit)?;
    Ok(result_of(spec, outcome, tampered))
}

/// Finds the changes of a check compared with its commit, in one call, and undoes them. Returns a description of
/// changed tracked files, including those in submodules if `submodules`.
pub(crate) fn undo(tree: &WorkTree, commit: &CommitHash, submodules: bool) -> Result<Option<String>> {
    let stdout = tree.status()?;
    let (mut tracked, mut rewritten, mut is_clean) = (Vec::new(), Vec::new(), true);
    for entry in fields(&stdout).filter(|entry| !entry.starts_with(b"#")) {
        is_clean = false;
        // Changed entries have eight fields before the path. Only our git writes the index, so there are no added or
        // unmerged entries.
        let words: Vec<&[u8]> = entry.splitn(9, |&byte| byte == b' ').collect();
        if let [b"1", _, kind, _, mode, now, _, _, path] = words.as_slice() {
            match kind.starts_with(b"N") {
                true if mode == now => rewritten.push(to_path(path)),
                false if !submodules => {}
                _ => tracked.push(to_path(path)),
            }
        }
    }
    let candidates: Vec<&Path> = rewritten.iter().map(PathBuf::as_path).collect();
    let same = as_checked_out(tree.git(), tree.root(), &tree.git_dir().join("compare.new"), commit, &candidates)?;
    rewritten.retain(|path| !same.contains(path));
    tracked.extend(rewritten);
    tracked.sort();
    let in_submodules = tree.changed_in_submodules(commit)?;
    is_clean &= in_submodules.is_empty();
    if submodules {
        tracked.extend(in_submodules.iter().cloned());
    }
    let tampered = if tree.is_at_other_commit(commit)? {
        Some("the commit under test".to_owned())
    } else {
        let names: Vec<String> = tracked.iter().map(|path| path.display().to_string()).collect();
        (!names.is_empty()).then(|| format!("tracked files: {}", names.join(", ")))
    };
    if !is_clean {
        tree.bring_to(commit)?;
        if !in_submodules.is_empty() {
            tree.fill_submodules(commit, Files::Reset)?;
        }
    }
    Ok(tampered)
}

/// The result of a check with this end and these changes of tracked files.
pub(crate) fn result_of(spec: &CheckSpec, outcome: Outcome, tampered: Option<String>) -> CheckResult {
    let (mut end, mut verdict) = verdict_of(spec, &outcome);
    if let (CheckVerdict::Pass, Some(what)) = (&verdict, tampered) {
        verdict = CheckVerdict::Fail(format!("check {} changed {what}", spec.name));
        end = CheckEnd::ChangedFiles;
    }
    CheckResult {
        verdict,
        end,
        exit_code: if let End::Exited(code) = outcome.end { Some(code) } else { None },
        duration: outcome.duration,
        output_sha256: outcome.output_sha256,
        output_tail: outcome.tail,
    }
}

fn verdict_of(spec: &CheckSpec, outcome: &Outcome) -> (CheckEnd, CheckVerdict) {
    let name = &spec.name;
    match &outcome.end {
        End::Exited(0) => (CheckEnd::Passed, CheckVerdict::Pass),
        End::Exited(code @ (126 | 127)) => {
            let (end, why) = match code {
                127 => (CheckEnd::Missing, "a program that it runs is missing"),
                _ => (CheckEnd::NotExecutable, "a program that it runs is not executable"),
            };
            (end, CheckVerdict::Error(format!("check {name} cannot run: {why} (exit code {code})")))
        }
        End::Exited(code) => (CheckEnd::Failed, CheckVerdict::Fail(format!("check {name} failed with exit code {code}"))),
        End::TimedOut => {
            let text = format!("check {name} exceeded its time limit of {} s", spec.timeout.as_secs());
            (CheckEnd::TimedOut, CheckVerdict::Fail(text))
        }
        End::Signaled(signal) => {
            (CheckEnd::Signaled, CheckVerdict::Error(format!("check {name} was killed by signal {signal}")))
        }
        End::Cancelled => (CheckEnd::Cancelled, CheckVerdict::Cancelled),
        End::Lost => (CheckEnd::Lost, CheckVerdict::Error(format!("check {name} was lost: its keeper was killed"))),
        End::NotStarted { kind, message } => {
            let (end, why) = match kind {
                NotStartedKind::Missing => (CheckEnd::Missing, format!("{} is missing", spec.argv[0])),
                NotStartedKind::NotExecutable => (CheckEnd::NotExecutable, format!("{} is not executable", spec.argv[0])),
                NotStartedKind::Other => (CheckEnd::NotStarted, message.clone()),
            };
            (end, CheckVerdict::Error(format!("check {name} cannot run: {why}")))
        }
    }
}
