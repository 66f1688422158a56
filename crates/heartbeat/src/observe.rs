//! Observes the processes of components.
//!
//! A daemon holds a pidfd for each of them, so that a death wakes it at once. The wake is only a hint: the next look
//! decides, and without a pidfd a death is detected only then.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use coord_db::process::{Liveness, ProcessIdentity};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use supervisor::Waker;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// For each component with a process: its identity, and whether it is alive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// By component.
    pub processes: BTreeMap<String, (ProcessIdentity, Liveness)>,
}

/// The pidfds of a daemon.
#[derive(Debug, Default)]
pub struct Watches {
    waker: Option<Waker>,
    watched: BTreeMap<String, Watch>,
}

#[derive(Debug)]
struct Watch {
    identity: ProcessIdentity,
    /// None once the process has ended, or if the kernel refuses one.
    pidfd: Option<Rc<OwnedFd>>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Watches {
    /// Makes deaths wake the supervisor from now on. To be called on its thread, inside its runtime.
    pub fn attach(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    /// Checks each process, and watches those that are alive.
    pub fn look(&mut self, processes: BTreeMap<String, ProcessIdentity>) -> Observation {
        self.watched.retain(|component, watch| processes.get(component) == Some(&watch.identity));
        let mut observation = Observation::default();
        for (component, identity) in processes {
            let liveness = self.liveness(&component, &identity);
            observation.processes.insert(component, (identity, liveness));
        }
        observation
    }

    fn liveness(&mut self, component: &str, identity: &ProcessIdentity) -> Liveness {
        let Some(waker) = &self.waker else { return identity.liveness() };
        let watch = match self.watched.get_mut(component) {
            Some(watch) => watch,
            None => {
                let watch = Watch::begin(identity, waker);
                self.watched.entry(component.to_owned()).or_insert(watch)
            }
        };
        if watch.pidfd.as_deref().is_some_and(runs) {
            return Liveness::Alive;
        }
        // It has ended, or cannot be watched. No second pidfd is opened: one of a zombie would wake us forever.
        watch.pidfd = None;
        identity.liveness()
    }
}

impl Watch {
    fn begin(identity: &ProcessIdentity, waker: &Waker) -> Self {
        let pidfd = open(identity).map(Rc::new);
        let task = pidfd.clone().map(|pidfd| tokio::task::spawn_local(wake_when_ended(pidfd, waker.clone())));
        Self { identity: identity.clone(), pidfd, task }
    }
}

/// A pidfd for exactly this process, if it is provably alive in our pid namespace.
fn open(identity: &ProcessIdentity) -> Option<OwnedFd> {
    if identity.liveness() != Liveness::Alive {
        return None;
    }
    let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // The pid may have been reused before the pidfd was opened.
    (identity.liveness() == Liveness::Alive).then_some(pidfd)
}

fn runs(pidfd: &OwnedFd) -> bool {
    matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

// The successor of this function is unsafe, which this workspace forbids. Its requirements hold: the descriptor is
// owned, and stays open and unchanged while the `AsyncFd` lives.
#[allow(deprecated)]
async fn wake_when_ended(pidfd: Rc<OwnedFd>, waker: Waker) {
    match AsyncFd::with_interest(pidfd, Interest::READABLE) {
        Ok(pidfd) => {
            let _ = pidfd.readable().await;
            waker.wake();
        }
        Err(error) => tracing::debug!(%error, "cannot wait for a process; its end is detected at the next look"),
    }
}
