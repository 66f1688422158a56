//! The keeper: a small process between us and a command, so that no process of the command outlives us or its time.
//!
//! It is the same executable, started again with a hidden first argument; so each `main` that runs commands begins with
//! [`run_if_asked`]. The keeper adopts whatever the command leaves behind (it is a "child subreaper"), also daemons with
//! a session of their own. It holds a pipe from its parent. When that closes, because the parent died or wants to stop,
//! or on SIGTERM, it stops the command: SIGTERM, a grace period, SIGKILL, until no descendant is left. It also does this
//! for what a command that has ended by itself leaves behind.
//!
//! It must never write to stdout anything but its reports, nor wait for its parent.

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

/// The first argument that makes a program a keeper.
pub const ARGUMENT: &str = "__keeper";

/// The environment variable that marks everything that a keeper has started: `PID.START_TIME` of the keeper.
pub const MARK: &str = "CODING_LOOPS_KEEPER";

/// What a command leaves behind when it ends by itself gets this long between SIGTERM and SIGKILL.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);

/// How long killing is tried before what cannot be killed is given up (another user's process, one stuck in the kernel).
const KILL_LIMIT: Duration = Duration::from_secs(10);

const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// Which process a keeper is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperId {
    /// Its process id.
    pub pid: u32,
    /// Its start time in clock ticks since boot. It means something only until the next boot.
    pub start_time: u64,
}

impl KeeperId {
    fn mark(self) -> String {
        format!("{}.{}", self.pid, self.start_time)
    }
}

/// What the keeper is told, as one line of JSON; the command's input follows it.
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
    /// There is no such program.
    Missing,
    /// It may not be executed, or is no program.
    NotExecutable,
    /// Something else: no such folder, arguments too long, no memory.
    Other,
}

/// What the keeper tells, each as one line of JSON.
#[derive(Serialize, Deserialize)]
pub(crate) enum Report {
    /// It is there and waits for its order.
    Ready(KeeperId),
    /// The command runs.
    Started,
    /// The command could not be started; the last report.
    NotStarted { kind: NotStartedKind, message: String },
    /// Everything has ended; the last report.
    Ended {
        /// The raw wait status of the command.
        status: Option<i32>,
        /// Whether the keeper stopped it.
        stopped: bool,
        /// How many processes could not be killed.
        survivors: u32,
    },
}

/// Becomes a keeper, and does not return, if the program was started as one. The first line of `main` in every program
/// that runs commands, before anything else looks at the arguments or starts a thread.
pub fn run_if_asked() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == ARGUMENT) && args.next().is_none() {
        std::process::exit(i32::from(keep().is_none()));
    }
}

fn tell(report: &Report) {
    // A parent that is gone is noticed elsewhere.
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let mut stdout = std::io::stdout().lock();
        drop(stdout.write_all(&line).and_then(|()| stdout.flush()));
    }
}

/// A keeper's life; none if something that it cannot do without is missing.
fn keep() -> Option<()> {
    // Away from the terminal and from signals to the parent's group. It fails only if that is so already.
    let _ = rustix::process::setsid();
    nix::sys::prctl::set_child_subreaper(true).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let _guard = runtime.enter();
    // Before the first report: from then on signals are taken as a wish to stop, and nothing is missed.
    let mut signals = Signals {
        child: signal(SignalKind::child()).ok()?,
        terminate: signal(SignalKind::terminate()).ok()?,
        interrupt: signal(SignalKind::interrupt()).ok()?,
        hangup: signal(SignalKind::hangup()).ok()?,
    };
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    let start_time = own.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let id = KeeperId { pid: std::process::id(), start_time };
    tell(&Report::Ready(id));

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
            tell(&Report::NotStarted { kind, message });
            return Some(());
        }
    };
    tell(&Report::Started);
    let control = pipe::Receiver::from_owned_fd(control.into_inner().into()).ok()?;
    let mut family = Family { main, main_status: None, empty: false };
    let report = runtime.block_on(family.watch(&mut signals, &control, kill_after));
    tell(&report);
    Some(())
}

fn start(order: &Order, input: Vec<u8>, id: KeeperId) -> Result<u32, (NotStartedKind, String)> {
    let other = |message: String| (NotStartedKind::Other, message);
    let (program, args) = order.argv.split_first().ok_or((NotStartedKind::Missing, "the command is empty".to_owned()))?;
    if let Some(nice) = order.nice {
        // Being nicer is always allowed; being less nice than the parent may not be, and is not worth failing for.
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
        // A command that does not read its input must not hold anything up; the thread ends with the keeper.
        std::thread::spawn(move || drop(pipe.write_all(&input)));
    }
    // Not waited for through `child`: all that ends here is collected in one place.
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

/// The command and all that descends from it.
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
            // A stopped process would not see the SIGTERM.
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

    /// Collects all children that have ended, adopted ones too.
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
                    // No child is left, and so no descendant: each would have been adopted.
                    self.empty = true;
                    return;
                }
            }
        }
    }

    fn signal_all(&self, which: Signal) {
        // The group's number is the command's pid, which is safe only until that has been waited for.
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

/// How a command ended, of the raw wait status.
pub(crate) fn exit_status(raw: i32) -> ExitStatus {
    ExitStatus::from_raw(raw)
}

/// Kills what a run has left behind when its keeper was killed too, or has not finished yet: the keeper if it still is the
/// process that it was, all that descends from it, and all that carries its mark. Gives the number of processes killed;
/// does nothing if there is none. Takes up to ten seconds, and blocks the thread.
///
/// Where the keeper itself is gone, a process that has left its family and dropped its environment cannot be told from
/// others and is left alone.
///
/// Only call it with an identity that was recorded since the last boot.
///
/// # Errors
/// If something is left that cannot be killed.
pub fn kill_leftover(pid: u32, start_time: u64) -> std::io::Result<usize> {
    let id = KeeperId { pid, start_time };
    let keeper = processes::read(pid).filter(|process| process.start_time == start_time && !process.zombie);
    if let Some(keeper) = keeper {
        // Held still, it starts nothing more and goes on adopting what its descendants leave.
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
