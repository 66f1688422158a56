//! Processes that a test starts, and what can be seen of others.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

pub use nix::sys::signal::Signal;

use crate::{BOUND, wait_for, wait_until};

/// Runs a command that must succeed; gives what it prints, without its end of line.
///
/// # Panics
/// If it cannot be run or fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// A process that is killed when the test ends, whichever way.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: Option<PathBuf>,
    leads_group: bool,
    ends_by: Signal,
}

impl Process {
    /// Starts a command.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}; build the workspace first"));
        Self { child, name, log: None, leads_group: false, ends_by: Signal::SIGKILL }
    }

    /// Starts a command whose stderr is appended to a file.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start_logged(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log");
        let mut process = Self::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file));
        process.log = Some(log.to_owned());
        process
    }

    /// As [`Self::start_logged`], in a process group of its own, all of which hears the signals.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start_group(command: &mut Command, log: &Path) -> Self {
        let mut process = Self::start_logged(command.process_group(0), log);
        process.leads_group = true;
        process
    }

    /// Ends it with this signal instead of SIGKILL when it is dropped: one that has others to end.
    #[must_use]
    pub fn ending_by(mut self, ends_by: Signal) -> Self {
        self.ends_by = ends_by;
        self
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.as_ref().and_then(|log| std::fs::read_to_string(log).ok()).unwrap_or_default()
    }

    /// Waits until it has logged this.
    ///
    /// # Panics
    /// If it does not within [`BOUND`](crate::BOUND).
    #[track_caller]
    pub fn until_logged(&self, part: &str) {
        wait_until(&format!("{part:?} in the log of {}", self.name), || self.log().contains(part));
    }

    /// Sends a signal.
    pub fn signal(&self, to_send: Signal) {
        if self.leads_group {
            let _ = nix::sys::signal::killpg(as_pid(self.pid()), to_send);
        } else {
            signal(self.pid(), to_send);
        }
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// If it does not within [`BOUND`](crate::BOUND).
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for(&format!("{} to end", self.name), || self.child.try_wait().expect("a child of this process"))
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// If it does not end within [`BOUND`](crate::BOUND).
    #[track_caller]
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// SIGKILL; the process has ended when this returns.
    pub fn kill(mut self) {
        self.ends_by = Signal::SIGKILL;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(self.ends_by);
        }
        if self.ends_by != Signal::SIGKILL && !ends_within(&mut self.child, BOUND) {
            self.signal(Signal::SIGKILL);
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, self.log());
        }
    }
}

/// Sends a signal to a process; one that has ended hears nothing.
pub fn signal(pid: u32, to_send: Signal) {
    let _ = nix::sys::signal::kill(as_pid(pid), to_send);
}

/// Gives a child this much time; true if it has ended.
///
/// # Panics
/// If it is no child of this process.
pub fn ends_within(child: &mut Child, time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        if child.try_wait().expect("a child of this process").is_some() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::park_timeout(Duration::from_micros(200));
    }
}

/// True if a process runs; one that has ended and was not waited for does not.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    state.is_some_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a process id"))
}
