//! Who a process is, and whether it is proven gone.
//!
//! A pid alone says nothing: it is reused, and it means something else in another pid namespace or on another host. Identity
//! is pid, start time, boot id, the pid namespace's inode and the host. An entry that is missing under /proc is no proof
//! (sandboxes hide them); only the kernel's own ESRCH is, another start time for the same pid, or a later boot of its host.

use std::fmt;
use std::sync::OnceLock;

use serde::Serialize;

/// A process for as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessIdentity {
    /// Its pid in its own namespace.
    pub pid: i64,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub pid_start_time: Option<i64>,
    /// Which boot it belongs to.
    pub boot_id: Option<String>,
    /// The inode of its pid namespace.
    pub pid_namespace: Option<i64>,
    /// The host that it runs on, as [`host`] names it. None in a row of an earlier version: then it is this host.
    pub host: Option<String>,
}

/// Whether a process is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Liveness {
    /// It runs.
    Alive,
    /// The kernel says that it has ended.
    Gone,
    /// It is not visible from here.
    Unknown,
}

/// This boot's id; empty where the kernel hides it.
#[must_use]
pub fn boot_id() -> &'static str {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned())
}

/// This host: its name, and the beginning of its machine id where it has one (`build-3/1a2b3c4d`); none if it has neither.
///
/// Neither is enough by itself: names repeat, and so do the machine ids of copied disk images. A host whose name changes is
/// another one, whose former processes are judged by their heartbeats.
#[must_use]
pub fn host() -> Option<&'static str> {
    static HOST: OnceLock<Option<String>> = OnceLock::new();
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    HOST.get_or_init(|| host_of(&read("/proc/sys/kernel/hostname"), &read("/etc/machine-id"))).as_deref()
}

/// The name of a host, without its machine id.
#[must_use]
pub fn host_name(host: &str) -> &str {
    host.split('/').next().unwrap_or(host)
}

fn host_of(name: &str, machine_id: &str) -> Option<String> {
    let name = name.trim();
    // Before the first boot of an image the file is empty, or says "uninitialized".
    let machine = machine_id.trim().get(..8).filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    match machine {
        Some(machine) => Some(format!("{name}/{machine}")),
        None => Some(name.to_owned()).filter(|name| !name.is_empty()),
    }
}

fn own_pid_namespace() -> Option<i64> {
    static NAMESPACE: OnceLock<Option<i64>> = OnceLock::new();
    *NAMESPACE.get_or_init(|| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata("/proc/self/ns/pid").ok().and_then(|meta| i64::try_from(meta.ino()).ok())
    })
}

/// When the process with this pid started, in clock ticks since boot; `None` if it cannot be seen.
#[must_use]
pub fn start_time(pid: i64) -> Option<i64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and may contain anything, further parentheses included.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_ascii_whitespace();
    // A zombie has ended; only its parent has not looked yet.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl ProcessIdentity {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        // Read once: a supervisor asks for each row that it looks at.
        static OWN: OnceLock<ProcessIdentity> = OnceLock::new();
        OWN.get_or_init(|| Self::of(i64::from(std::process::id()))).clone()
    }

    /// Another process of this machine and namespace, if it is visible.
    #[must_use]
    pub fn of(pid: i64) -> Self {
        Self {
            pid,
            pid_start_time: start_time(pid),
            boot_id: Some(boot_id().to_owned()).filter(|id| !id.is_empty()),
            pid_namespace: own_pid_namespace(),
            host: host().map(str::to_owned),
        }
    }

    /// Asks the kernel whether this very process still runs. A process of another host is never known to be gone.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        let boot = self.boot_id.as_deref().filter(|_| !boot_id().is_empty());
        // One boot is one kernel, whatever names its containers have.
        if boot != Some(boot_id()) {
            if self.is_elsewhere() {
                return Liveness::Unknown;
            }
            if boot.is_some() {
                return Liveness::Gone;
            }
        }
        if self.pid_namespace.is_some() && self.pid_namespace != own_pid_namespace() {
            return Liveness::Unknown;
        }
        if !exists(self.pid) {
            return Liveness::Gone;
        }
        match (self.pid_start_time, start_time(self.pid)) {
            (Some(then), Some(now)) if then != now => Liveness::Gone,
            (Some(_), Some(_)) => Liveness::Alive,
            // It exists but cannot be seen: a zombie, or hidden by a sandbox.
            (Some(_), None) if is_zombie(self.pid) => Liveness::Gone,
            (Some(_), None) => Liveness::Unknown,
            (None, _) => Liveness::Alive,
        }
    }
}

impl ProcessIdentity {
    /// True if it is known to run on another host.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.host.is_some() && self.host.as_deref() != host()
    }

    /// Its pid, with its host if that is another one: `77`, or `77 on build-3`.
    #[must_use]
    pub fn pid_and_host(&self) -> String {
        match &self.host {
            Some(host) if self.is_elsewhere() => format!("{} on {}", self.pid, host_name(host)),
            _ => self.pid.to_string(),
        }
    }
}

/// For people: `pid 77`, or `pid 77 on build-3`.
impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid_and_host())
    }
}

/// False only if the kernel answers ESRCH.
fn exists(pid: i64) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    !matches!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None), Err(nix::errno::Errno::ESRCH))
}

fn is_zombie(pid: i64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z') || rest.starts_with('X')))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_and_an_ended_one_is_not() {
        assert_eq!(ProcessIdentity::own().liveness(), Liveness::Alive);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let identity = ProcessIdentity::of(i64::from(child.id()));
        child.wait().unwrap();
        assert_eq!(identity.liveness(), Liveness::Gone);
    }

    #[test]
    fn a_reused_pid_is_another_process_and_a_foreign_namespace_cannot_be_judged() {
        let mut other = ProcessIdentity::own();
        other.pid_start_time = other.pid_start_time.map(|time| time - 1);
        assert_eq!(other.liveness(), Liveness::Gone);
        let mut foreign = ProcessIdentity::own();
        foreign.pid_namespace = Some(1);
        assert_eq!(foreign.liveness(), Liveness::Unknown);
        let mut earlier_boot = ProcessIdentity::own();
        earlier_boot.boot_id = Some("another".to_owned());
        assert_eq!(earlier_boot.liveness(), Liveness::Gone);
        earlier_boot.host = None;
        assert_eq!(earlier_boot.liveness(), Liveness::Gone, "as earlier versions wrote it");
    }

    #[test]
    fn a_process_of_another_host_is_unknown_and_named_with_its_host() {
        let own = ProcessIdentity::own();
        let host = Some("build-3/1a2b3c4d".to_owned());
        // Its pid may be that of a process here, and may be none.
        for pid in [own.pid, i64::from(i32::MAX)] {
            for boot_id in [Some("another".to_owned()), None] {
                let foreign = ProcessIdentity { pid, boot_id, host: host.clone(), ..own.clone() };
                assert_eq!(foreign.liveness(), Liveness::Unknown, "{foreign:?}");
                assert_eq!(foreign.to_string(), format!("pid {pid} on build-3"));
            }
        }
        // Another name on the same kernel is a container, whose pid namespace says whether it can be judged.
        let container = ProcessIdentity { host, ..own.clone() };
        let judged = if boot_id().is_empty() { Liveness::Unknown } else { Liveness::Alive };
        assert_eq!(container.liveness(), judged);
        assert_eq!(own.to_string(), format!("pid {}", own.pid));
    }

    #[test]
    fn a_host_is_named_by_what_it_has() {
        assert_eq!(host_of("a\n", "0123456789abcdef\n").as_deref(), Some("a/01234567"));
        assert_eq!(host_of("a\n", "uninitialized\n").as_deref(), Some("a"));
        assert_eq!(host_of("a", "").as_deref(), Some("a"));
        assert_eq!(host_of("", ""), None);
    }
}
