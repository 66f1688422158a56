//! Reads processes from `/proc`, and sends signals that reach exactly the intended process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// The content of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// The pid of its parent.
    pub parent: u32,
    pub(crate) group: u32,
    /// With the pid it identifies a process until the next boot.
    pub start_time: u64,
    pub(crate) zombie: bool,
}

impl Process {
    /// The living process with this pid; none if it has ended or is hidden.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        read(pid).filter(|process| !process.zombie)
    }

    /// True while this process runs, and no other one with its pid.
    #[must_use]
    pub fn is_running(&self) -> bool {
        Self::find(self.pid).is_some_and(|process| process.start_time == self.start_time)
    }

    /// Waits until it has ended. False if it has not within this time.
    #[must_use]
    pub fn ends_within(&self, time: Duration) -> bool {
        let Some(Ok(handle)) = to_pid(self.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            return !self.is_running();
        };
        // A pidfd is readable once its process has ended. A signal of ours may end the wait early.
        let until = Instant::now() + time;
        while self.is_running() {
            let left = until.saturating_duration_since(Instant::now());
            let left =
                Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
            if matches!(poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&left)), Ok(0)) {
                return !self.is_running();
            }
        }
        true
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// If it belongs to another user.
    pub fn terminate(self) -> std::io::Result<bool> {
        Ok(signal(self, Signal::TERM)?)
    }

    /// Asks it to read its settings again, with SIGHUP. False if it has ended.
    ///
    /// # Errors
    /// If it belongs to another user.
    pub fn reload(self) -> std::io::Result<bool> {
        Ok(signal(self, Signal::HUP)?)
    }

    /// Kills it.
    ///
    /// # Errors
    /// If it belongs to another user.
    pub fn kill(self) -> std::io::Result<bool> {
        Ok(signal(self, Signal::KILL)?)
    }
}

/// The start time of a process in clock ticks since boot (field 22 of `/proc/PID/stat`); none if it is not visible.
/// Together with the pid it identifies a process until the next boot.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    read(pid).map(|process| process.start_time)
}

/// Reads one process; none if it has ended or is hidden.
pub(crate) fn read(pid: u32) -> Option<Process> {
    parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: u32, stat: &[u8]) -> Option<Process> {
    // The name may contain anything, including closing parentheses.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        pid,
        parent: words.get(1)?.parse().ok()?,
        group: words.get(2)?.parse().ok()?,
        start_time: words.get(19)?.parse().ok()?,
        zombie: matches!(*words.first()?, "Z" | "X"),
    })
}

/// All visible processes.
fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The living descendants of a process, in no order.
pub(crate) fn descendants(root: u32) -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    for process in pids().into_iter().filter_map(read) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([root]);
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        for &process in children.get(&parent).into_iter().flatten() {
            if seen.insert(process.pid) {
                next.push(process.pid);
                if !process.zombie {
                    found.push(process);
                }
            }
        }
    }
    found
}

/// The pids of this process's children, even if `/proc` hides other processes. These pids cannot have been reused,
/// because the children have not been waited for.
pub(crate) fn own_children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The living processes that were started with this environment variable.
pub(crate) fn with_variable(name: &str, value: &str) -> Vec<Process> {
    let wanted = format!("{name}={value}").into_bytes();
    with_environment(|entry| entry == wanted)
}

/// The living processes that were started with a matching environment entry.
fn with_environment(is_wanted: impl Fn(&[u8]) -> bool) -> Vec<Process> {
    let has = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(&is_wanted)
    };
    pids().into_iter().filter_map(read).filter(|process| !process.zombie && has(process)).collect()
}

/// The living processes that were started with a variable of this name, each with its value.
#[must_use]
pub fn started_with(name: &str) -> Vec<(Process, Vec<u8>)> {
    let prefix = format!("{name}=").into_bytes();
    let value = |process: Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).ok()?;
        let entry = environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(&prefix[..]))?;
        Some((process, entry.to_vec()))
    };
    pids().into_iter().filter_map(Process::find).filter_map(value).collect()
}

/// True if a visible living process was started with a matching environment entry (`NAME=VALUE`).
#[must_use]
pub fn is_any_started_with(is_wanted: impl Fn(&[u8]) -> bool) -> bool {
    !with_environment(is_wanted).is_empty()
}

/// Sends a signal to exactly this process, or none if its pid was reused. True if it was sent.
pub(crate) fn signal(process: Process, signal: Signal) -> Result<bool, Errno> {
    let Some(pid) = to_pid(process.pid) else {
        return Ok(false);
    };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(false),
        Err(Errno::NOSYS | Errno::INVAL) if start_time(process.pid) == Some(process.start_time) => {
            return gone_is_fine(kill_process(pid, signal));
        }
        Err(error) => return Err(error),
    };
    // The pidfd is open, so the pid and the pidfd refer to the same process now.
    if start_time(process.pid) != Some(process.start_time) {
        return Ok(false);
    }
    gone_is_fine(pidfd_send_signal(handle, signal))
}

pub(crate) fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn gone_is_fine(result: Result<(), Errno>) -> Result<bool, Errno> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_process_name_is_stepped_over() {
        let stat = b"42 (a) R 1 (b\n) S 7 9 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        let process = parse(42, stat).unwrap();
        assert_eq!((process.parent, process.group, process.start_time, process.zombie), (7, 9, 12345, false));
        assert!(parse(42, b"42 (a) S 1").is_none());
    }

    #[test]
    fn this_process_is_seen_and_another_start_time_is_not_it() {
        let me = read(std::process::id()).unwrap();
        assert_eq!(start_time(me.pid), Some(me.start_time));
        let other = Process { start_time: me.start_time + 1, ..me };
        assert_eq!(signal(other, Signal::KILL), Ok(false));
    }
}
