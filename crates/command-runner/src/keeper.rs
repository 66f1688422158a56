//! The keeper: a small process between this program and a command, so that no process of the command outlives this
//! program or its time limit.
//!
//! It is the same executable, started again with a hidden first argument; so each `main` that runs commands starts with
//! [`run_if_asked`]. The keeper adopts the descendants of the command ("child subreaper"), including daemons with their
//! own session. It holds a pipe from its parent. When the pipe closes, because the parent died or wants to stop, or on
//! SIGTERM, it stops the command: SIGTERM, a grace period, SIGKILL, until no descendant is left. It does the same for
//! processes left by a command that has ended by itself.
//!
//! It must never write anything but its reports to stdout, and never wait for its parent.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, kill_process_group, wait};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use crate::processes::{self, Process, to_pid};

/// The first argument that turns a program into a keeper.
pub const ARGUMENT: &str = "__keeper";

/// The environment variable that marks all descendants of a keeper: `PID.START_TIME` of the keeper.
pub const MARK: &str = "CODING_LOOPS_KEEPER";

/// Time between SIGTERM and SIGKILL for processes left by a command that has ended by itself.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);

/// Time after which processes that cannot be killed are given up (another user's, or stuck in the kernel).
const KILL_LIMIT: Duration = Duration::from_secs(10);

const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// The identity of a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperId {
    /// Its process id.
    pub pid: u32,
    /// Its start time in clock ticks since boot; valid only until the next boot.
    pub start_time: u64,
}

impl KeeperId {
    fn mark(self) -> String {
        format!("{}.{}", self.pid, self.start_time)
    }
}

/// The request to the keeper, as one line of JSON; the command's input follows it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) argv: Vec<OsString>,
    pub(crate) cwd: OsString,
    pub(crate) env: Vec<(String, OsString)>,
    pub(crate) stdin_bytes: u64,
    pub(crate) kill_after_millis: u64,
    pub(crate) nice: Option<i32>,
}

/// Why a command did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotStartedKind {
    /// The program does not exist.
    Missing,
    /// The file is not executable.
    NotExecutable,
    /// Another cause: missing folder, arguments too long, no memory.
    Other,
}

/// A report of the keeper, as one line of JSON.
#[derive(Serialize, Deserialize)]
pub(crate) enum Report {
    /// The keeper waits for its request.
    Ready(KeeperId),
    /// The command was started.
    Started,
    /// The command could not be started; the last report.
    NotStarted { kind: NotStartedKind, message: String },
    /// All processes have ended; the last report.
    Ended {
        /// The raw wait status of the command.
        status: Option<i32>,
        /// Whether the keeper stopped it.
        stopped: bool,
        /// Number of processes that could not be killed.
        survivors: u32,
    },
}

/// Becomes a keeper, and does not return, if the program was started as one. Must be the first statement of `main` in
/// every program that runs commands, before arguments are read or threads start.
pub fn run_if_asked() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == ARGUMENT) && args.next().is_none() {
        std::process::exit(i32::from(keep().is_none()));
    }
}

fn send(report: &Report) {
    // The death of the parent is detected elsewhere.
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let mut stdout = std::io::stdout().lock();
        drop(stdout.write_all(&line).and_then(|()| stdout.flush()));
    }
}

/// Runs the keeper; none if a required resource is missing.
fn keep() -> Option<()> {
    // Detach from the terminal and from signals to the parent's group. Fails only if that is already the case.
    let _ = rustix::process::setsid();
    nix::sys::prctl::set_child_subreaper(true).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let _guard = runtime.enter();
    // Before the first report: from then on signals mean a stop, and none is missed.
    let mut signals = Signals {
        child: signal(SignalKind::child()).ok()?,
        terminate: signal(SignalKind::terminate()).ok()?,
        interrupt: signal(SignalKind::interrupt()).ok()?,
        hangup: signal(SignalKind::hangup()).ok()?,
    };
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    let start_time = own.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let id = KeeperId { pid: std::process::id(), start_time };
    send(&Report::Ready(id));

    let control = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    let mut control = BufReader::new(File::from(control));
    let mut line = Vec::new();
    control.read_until(b'\n', &mut line).ok()?;
    let order: Order = serde_json::from_slice(&line).ok()?;
    let mut input = vec![0; usize::try_from(order.stdin_bytes).ok()?];
    control.read_exact(&mut input).ok()?;

    let kill_after = Duration::from_millis(order.kill_after_millis);
    let main = match start(&order, input, id) {
        Ok(pid) => pid,
        Err((kind, message)) => {
            send(&Report::NotStarted { kind, message });
            return Some(());
        }
    };
    send(&Report::Started);
    let control = pipe::Receiver::from_owned_fd(control.into_inner().into()).ok()?;
    let mut family = Family { main, main_status: None, empty: false };
    let report = runtime.block_on(family.watch(&mut signals, &control, kill_after));
    send(&report);
    Some(())
}

fn start(order: &Order, input: Vec<u8>, id: KeeperId) -> Result<u32, (NotStartedKind, String)> {
    let other = |message: String| (NotStartedKind::Other, message);
    let (program, args) = order.argv.split_first().ok_or((NotStartedKind::Missing, "the command is empty".to_owned()))?;
    if let Some(nice) = order.nice {
        // A higher nice value is always allowed; a lower one may not be, which is no reason to fail.
        let _ = rustix::process::setpriority_process(None, nice);
    }
    let output = || std::io::stderr().as_fd().try_clone_to_owned().map_err(|error| other(error.to_string()));
    let mut command = Command::new(program);
    command.args(args).current_dir(&order.cwd).process_group(0);
    command.env_clear().envs(order.env.iter().map(|(name, value)| (name, value))).env(MARK, id.mark());
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(output()?).stderr(output()?);
    if !std::path::Path::new(&order.cwd).is_dir() {
        return Err(other(format!("the folder {:?} does not exist", order.cwd)));
    }
    let mut child = command.spawn().map_err(|error| {
        let kind = match error.kind() {
            ErrorKind::NotFound => NotStartedKind::Missing,
            ErrorKind::PermissionDenied => NotStartedKind::NotExecutable,
            _ if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => NotStartedKind::NotExecutable,
            _ => NotStartedKind::Other,
        };
        (kind, format!("{}: {error}", program.to_string_lossy()))
    })?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that does not read its input must not block the keeper; the thread ends with the keeper.
        std::thread::spawn(move || drop(pipe.write_all(&input)));
    }
    // Not waited for through `child`: all children are collected in one place.
    Ok(child.id())
}

struct Signals {
    child: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

async fn closed(control: &pipe::Receiver) {
    let mut buffer = [0; 64];
    loop {
        if control.readable().await.is_err() {
            return;
        }
        match control.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}

/// The command and its descendants.
struct Family {
    main: u32,
    main_status: Option<i32>,
    empty: bool,
}

impl Family {
    async fn watch(&mut self, signals: &mut Signals, control: &pipe::Receiver, kill_after: Duration) -> Report {
        loop {
            self.collect();
            if self.main_status.is_some() {
                break;
            }
            tokio::select! {
                biased;
                _ = signals.child.recv() => {}
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.hangup.recv() => break,
                () = closed(control) => break,
            }
        }
        self.collect();
        let stopped = self.main_status.is_none();
        let grace = if stopped { kill_after } else { kill_after.min(LEFTOVER_GRACE) };
        if !self.empty {
            self.signal_all(Signal::TERM);
            // A stopped process would not handle the SIGTERM.
            self.signal_all(Signal::CONT);
        }
        let end = Instant::now() + grace;
        while !self.empty && Instant::now() < end {
            drop(tokio::time::timeout_at(end.into(), signals.child.recv()).await);
            self.collect();
        }
        let end = Instant::now() + KILL_LIMIT;
        while !self.empty && Instant::now() < end {
            self.signal_all(Signal::KILL);
            drop(tokio::time::timeout(KILL_INTERVAL, signals.child.recv()).await);
            self.collect();
        }
        let survivors = if self.empty { 0 } else { processes::own_children().len().max(1) };
        Report::Ended { status: self.main_status, stopped, survivors: u32::try_from(survivors).unwrap_or(u32::MAX) }
    }

    /// Collects all ended children, including adopted ones.
    fn collect(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if u32::try_from(pid.as_raw_nonzero().get()) == Ok(self.main) {
                        self.main_status = Some(status.as_raw());
                    }
                }
                Ok(None) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    // No child is left, and so no descendant, because each would have been adopted.
                    self.empty = true;
                    return;
                }
            }
        }
    }

    fn signal_all(&self, which: Signal) {
        // The group's id is the command's pid, which is safe only until it has been waited for.
        if self.main_status.is_none()
            && let Some(group) = to_pid(self.main)
        {
            let _ = kill_process_group(group, which);
        }
        let others = |process: &Process| self.main_status.is_some() || process.group != self.main;
        let family = processes::descendants(std::process::id());
        for &process in family.iter().filter(|process| others(process)) {
            let _ = processes::signal(process, which);
        }
        for pid in processes::own_children() {
            let seen = family.iter().any(|process| process.pid == pid);
            if let (false, Some(pid)) = (seen, to_pid(pid)) {
                let _ = rustix::process::kill_process(pid, which);
            }
        }
    }
}

/// Converts a raw wait status.
pub(crate) fn exit_status(raw: i32) -> ExitStatus {
    ExitStatus::from_raw(raw)
}

/// Kills the processes left by a run whose keeper was killed or has not finished: the keeper, if it still is the same
/// process, its descendants, and all processes with its mark. Returns the number of killed processes; zero if there are
/// none. Takes up to ten seconds and blocks the thread.
///
/// If the keeper itself has ended, a process that has left its family and removed the mark from its environment cannot
/// be identified and is left alone.
///
/// To be called only with an identity recorded since the last boot.
///
/// # Errors
/// If a process cannot be killed.
pub fn kill_leftover(pid: u32, start_time: u64) -> std::io::Result<usize> {
    let id = KeeperId { pid, start_time };
    let keeper = processes::read(pid).filter(|process| process.start_time == start_time && !process.zombie);
    if let Some(keeper) = keeper {
        // A stopped keeper starts nothing more, but still adopts the children of its descendants.
        processes::signal(keeper, Signal::STOP)?;
    }
    let mut killed = std::collections::BTreeSet::new();
    let end = Instant::now() + KILL_LIMIT;
    loop {
        let mut left = processes::with_variable(MARK, &id.mark());
        if keeper.is_some() {
            left.extend(processes::descendants(pid));
        }
        left.retain(|process| process.pid != std::process::id());
        if left.is_empty() {
            break;
        }
        let mut refused = None;
        for process in left {
            match processes::signal(process, Signal::KILL) {
                Ok(true) => drop(killed.insert((process.pid, process.start_time))),
                Ok(false) => {}
                Err(error) => refused = Some(error),
            }
        }
        if Instant::now() >= end {
            if let Some(keeper) = keeper {
                processes::signal(keeper, Signal::KILL)?;
            }
            return Err(refused.map_or_else(|| ErrorKind::TimedOut.into(), Into::into));
        }
        std::thread::park_timeout(KILL_INTERVAL);
    }
    if let Some(keeper) = keeper
        && processes::signal(keeper, Signal::KILL)?
    {
        killed.insert((pid, start_time));
        let lives = |now: Process| now.start_time == start_time && !now.zombie;
        while processes::read(pid).is_some_and(lives) && Instant::now() < end {
            std::thread::park_timeout(KILL_INTERVAL);
        }
    }
    Ok(killed.len())
}
