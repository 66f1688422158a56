//! Runs an agent or a check: an argument list, a complete environment, a time limit, bounded output.
//!
//! Nothing is ever passed to a shell, and nothing of this program's environment is inherited. The command runs under a
//! [`keeper`], so that no process of it outlives the call, even if the future is dropped or this process is killed.
//!
//! [`keeper`]: crate::keeper

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::keeper::{self, KeeperId, NotStartedKind, Order, Report};

/// Number of bytes of the end of the output in an outcome.
pub const TAIL_BYTES: usize = 4096;

/// Time limit for the start of a keeper on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Time that a keeper has in addition to `kill_after` to stop all processes before it is killed itself.
const STOP_SLACK: Duration = Duration::from_secs(15);

/// Time for which output is read while another process, which is not ours, holds the pipe open.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// A command with its limits.
#[derive(Clone, Debug)]
pub struct CommandSpec {
    /// The program and its arguments. A program without `/` is looked up in the `PATH` of `env`, one with `/` is relative
    /// to `cwd`.
    pub argv: Vec<OsString>,
    /// The folder to run in.
    pub cwd: PathBuf,
    /// The complete environment; the keeper adds only its mark.
    pub env: Vec<(String, OsString)>,
    /// The standard input of the command.
    pub stdin: Vec<u8>,
    /// Time limit. Time in which the machine is suspended does not count.
    pub timeout: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub kill_after: Duration,
    /// The file for its output, stdout and stderr merged; created with mode 0600, with missing folders.
    pub log_path: Option<PathBuf>,
    /// Number of bytes at the start of the output that the log keeps.
    pub output_bytes: u64,
    /// The nice value to run with.
    pub nice: Option<i32>,
    /// The program that acts as the keeper; this one by default. Needed only if this program's `main` does not call
    /// `run_if_asked`, as in a test harness.
    pub keeper: Option<PathBuf>,
}

impl CommandSpec {
    /// A command with an empty environment, no input, no log, a limit of an hour, and ten seconds to end after SIGTERM.
    pub fn new<A: Into<OsString>>(argv: impl IntoIterator<Item = A>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            cwd: cwd.into(),
            env: Vec::new(),
            stdin: Vec::new(),
            timeout: Duration::from_secs(3600),
            kill_after: Duration::from_secs(10),
            log_path: None,
            output_bytes: 10 * 1024 * 1024,
            nice: None,
            keeper: None,
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal, which this program did not send.
    Signaled(i32),
    /// It exceeded the time limit.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It was not started.
    NotStarted {
        /// The kind of the cause.
        kind: NotStartedKind,
        /// The cause as text.
        message: String,
    },
    /// Its keeper was killed, so the result is unknown; its processes have been killed.
    Lost,
}

/// The result of running a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The end of the command.
    pub end: End,
    /// Its duration.
    pub duration: Duration,
    /// The SHA-256 of its whole output, in hexadecimal digits.
    pub output_sha256: String,
    /// Number of bytes of its output.
    pub output_bytes: u64,
    /// The end of its output, at most [`TAIL_BYTES`], invalid UTF-8 replaced.
    pub tail: String,
    /// True if the log contains only a part of the output.
    pub log_cut: bool,
    /// The error that made the log incomplete.
    pub log_error: Option<String>,
    /// Number of processes that could not be killed: stuck in the kernel, or another user's.
    pub survivors: u32,
}

impl Outcome {
    /// True if it ended by itself with exit status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.end == End::Exited(0)
    }
}

/// Runs a command to its end.
///
/// It is stopped when `cancel` becomes (or is) true; dropping the sender has no effect. `on_keeper` is called once,
/// before the command starts, with the keeper to record, so that [`keeper::kill_leftover`] can clean up later. If the
/// log cannot be created, the command does not start.
pub async fn run(spec: &CommandSpec, cancel: &mut watch::Receiver<bool>, on_keeper: impl FnOnce(KeeperId)) -> Outcome {
    run_reading(spec, cancel, on_keeper, |_| {}).await
}

/// As [`run`], and calls `on_output` with each part of the output as it comes: all of it, whatever the log keeps.
pub async fn run_reading(
    spec: &CommandSpec,
    cancel: &mut watch::Receiver<bool>,
    on_keeper: impl FnOnce(KeeperId),
    mut on_output: impl FnMut(&[u8]),
) -> Outcome {
    let begin = Instant::now();
    let mut sink = match Sink::new(spec) {
        Ok(sink) => sink,
        Err(error) => {
            let message = format!("cannot create the log {:?}: {error}", spec.log_path.as_deref().unwrap_or(Path::new("")));
            return Sink::default().outcome(other(message), Duration::ZERO, 0);
        }
    };
    if *cancel.borrow_and_update() {
        return sink.outcome(End::Cancelled, Duration::ZERO, 0);
    }
    let (end, survivors) = match Running::start(spec, on_keeper).await {
        Ok(running) => running.finish(spec, cancel, &mut sink, &mut on_output).await,
        Err(end) => (end, 0),
    };
    sink.outcome(end, begin.elapsed(), survivors)
}

/// Formats a hash in hexadecimal digits, as in [`Outcome::output_sha256`].
#[must_use]
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn other(message: impl Into<String>) -> End {
    End::NotStarted { kind: NotStartedKind::Other, message: message.into() }
}

/// A keeper that has received its request.
struct Running {
    child: Child,
    id: KeeperId,
    control: Option<tokio::process::ChildStdin>,
    reports: Lines<BufReader<ChildStdout>>,
    output: tokio::process::ChildStderr,
}

impl Running {
    async fn start(spec: &CommandSpec, on_keeper: impl FnOnce(KeeperId)) -> Result<Self, End> {
        // Also correct if the file was replaced by a newer version since this process started.
        let program = spec.keeper.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let program = std::path::absolute(&program).unwrap_or(program);
        let mut command = Command::new(program);
        command.arg0("coding-loops-keeper").arg(keeper::ARGUMENT).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| other(format!("cannot start the keeper: {error}")))?;
        let (Some(control), Some(reports), Some(output)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(other("the keeper has no pipes"));
        };
        let mut reports = BufReader::new(reports).lines();
        let first = timeout(READY_LIMIT, reports.next_line()).await;
        let first = first.ok().and_then(Result::ok).flatten().and_then(|line| serde_json::from_str(&line).ok());
        let Some(Report::Ready(id)) = first else {
            drop(child.kill().await);
            return Err(other("the keeper did not answer; the program's main must start with run_if_asked"));
        };
        on_keeper(id);
        let mut running = Self { child, id, control: Some(control), reports, output };
        let order = Order {
            argv: spec.argv.clone(),
            cwd: spec.cwd.clone().into_os_string(),
            env: spec.env.clone(),
            stdin_bytes: spec.stdin.len() as u64,
            kill_after_millis: u64::try_from(spec.kill_after.as_millis()).unwrap_or(u64::MAX / 2),
            nice: spec.nice,
        };
        let mut message = serde_json::to_vec(&order).map_err(|error| other(error.to_string()))?;
        message.push(b'\n');
        message.extend_from_slice(&spec.stdin);
        if let Some(control) = &mut running.control {
            // A dead keeper is detected by its missing report.
            drop(control.write_all(&message).await);
        }
        Ok(running)
    }

    /// Reads output and reports until both have ended, and stops the command at its time limit.
    async fn finish(
        mut self,
        spec: &CommandSpec,
        cancel: &mut watch::Receiver<bool>,
        sink: &mut Sink,
        on_output: &mut impl FnMut(&[u8]),
    ) -> (End, u32) {
        let mut buffer = vec![0; 64 * 1024];
        let mut last_report = None;
        let mut stop: Option<End> = None;
        let (mut output_open, mut reports_open) = (true, true);
        let mut limit = pin!(sleep(spec.timeout));
        let mut drain = pin!(sleep(Duration::ZERO));
        while reports_open || output_open {
            tokio::select! {
                line = self.reports.next_line(), if reports_open => {
                    match line {
                        Ok(Some(line)) => match serde_json::from_str(&line) {
                            Ok(report @ (Report::NotStarted { .. } | Report::Ended { .. })) => last_report = Some(report),
                            Ok(Report::Ready(_) | Report::Started) | Err(_) => {}
                        },
                        Ok(None) | Err(_) => {
                            reports_open = false;
                            if last_report.is_none() {
                                self.clean_up().await;
                            }
                            drain.set(sleep(DRAIN_LIMIT));
                        }
                    }
                }
                count = self.output.read(&mut buffer), if output_open => match count {
                    Ok(0) | Err(_) => output_open = false,
                    Ok(count) => {
                        sink.take(&buffer[..count]);
                        on_output(&buffer[..count]);
                    }
                },
                () = &mut limit, if reports_open => {
                    if stop.is_none() {
                        stop = Some(End::TimedOut);
                        self.control = None;
                        limit.set(sleep(spec.kill_after.saturating_add(STOP_SLACK)));
                    } else {
                        drop(self.child.start_kill());
                        limit.set(sleep(STOP_SLACK));
                    }
                }
                () = cancelled(cancel), if stop.is_none() && reports_open => {
                    stop = Some(End::Cancelled);
                    self.control = None;
                    limit.set(sleep(spec.kill_after.saturating_add(STOP_SLACK)));
                }
                () = &mut drain, if !reports_open => output_open = false,
            }
        }
        drop(self.child.wait().await);
        match last_report {
            Some(Report::NotStarted { kind, message }) => (End::NotStarted { kind, message }, 0),
            Some(Report::Ended { status, stopped, survivors }) => {
                let end = match (stop, status.map(keeper::exit_status)) {
                    (Some(stop), _) if stopped => stop,
                    // Somebody else stopped the keeper.
                    _ if stopped => End::Cancelled,
                    (_, Some(status)) => match (status.code(), status.signal()) {
                        (Some(code), _) => End::Exited(code),
                        (None, Some(signal)) => End::Signaled(signal),
                        (None, None) => End::Lost,
                    },
                    (stop, None) => stop.unwrap_or(End::Lost),
                };
                (end, survivors)
            }
            _ => (stop.unwrap_or(End::Lost), 0),
        }
    }

    /// Cleans up after a keeper that died without a report.
    async fn clean_up(&mut self) {
        drop(self.child.start_kill());
        let id = self.id;
        tracing::warn!(pid = id.pid, "a keeper was killed; killing its processes");
        let killed = tokio::task::spawn_blocking(move || keeper::kill_leftover(id.pid, id.start_time)).await;
        if let Ok(Err(error)) = killed {
            tracing::error!(%error, pid = id.pid, "cannot kill the processes of a dead keeper");
        }
    }
}

async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|&cancelled| cancelled).await.is_err() {
        std::future::pending().await
    }
}

/// Receives the output.
#[derive(Default)]
struct Sink {
    log: Option<File>,
    log_room: u64,
    log_limit: u64,
    log_cut: bool,
    log_error: Option<String>,
    hash: Sha256,
    total: u64,
    tail: VecDeque<u8>,
}

impl Sink {
    fn new(spec: &CommandSpec) -> std::io::Result<Self> {
        let mut sink = Self { log_room: spec.output_bytes, log_limit: spec.output_bytes, ..Self::default() };
        if let Some(path) = &spec.log_path {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            sink.log = Some(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?);
        }
        Ok(sink)
    }

    fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.total += bytes.len() as u64;
        let end = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let excess = (self.tail.len() + end.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        self.tail.extend(end);
        if self.log.is_none() || self.log_cut {
            return;
        }
        let fits = usize::try_from(self.log_room).unwrap_or(usize::MAX).min(bytes.len());
        self.log_room -= fits as u64;
        self.write_log(&bytes[..fits]);
        if fits < bytes.len() {
            self.log_cut = true;
            self.write_log(format!("\n[output cut: only the first {} bytes are kept]\n", self.log_limit).as_bytes());
        }
    }

    fn write_log(&mut self, bytes: &[u8]) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.write_all(bytes)
        {
            // A full disk must not stop the command.
            self.log_error = Some(error.to_string());
            self.log = None;
        }
    }

    fn outcome(mut self, end: End, duration: Duration, survivors: u32) -> Outcome {
        if self.log_cut {
            self.write_log(format!("[{} bytes in all]\n", self.total).as_bytes());
        }
        let output_sha256 = hex(self.hash);
        let tail = String::from_utf8_lossy(self.tail.make_contiguous()).into_owned();
        Outcome {
            end,
            duration,
            output_sha256,
            output_bytes: self.total,
            tail,
            log_cut: self.log_cut,
            log_error: self.log_error,
            survivors,
        }
    }
}
