//! Waiting without polling, for commands that have something to put in order when they are interrupted.

use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use coord_db::wake::{BLIND_LOOK, Ladder, SLOW_LOOK, Wake, Watcher};
use nix::sys::signal::{SigSet, Signal};

enum Report {
    Wake(Wake),
    Signal,
    Keys(Vec<u8>),
}

/// Why a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Woken {
    /// Something may have changed, or the time is over.
    Look,
    /// SIGINT, SIGTERM or SIGHUP came.
    Interrupted,
    /// Somebody typed.
    Keys(Vec<u8>),
}

/// Wakes on commits, and on signals or interruptions.
pub struct Waiter {
    reports: mpsc::Receiver<Report>,
    sender: mpsc::Sender<Report>,
    watcher: Option<Watcher>,
    ladder: Ladder,
}

/// Interrupts a wait from another thread.
#[derive(Clone)]
pub struct Interrupter(mpsc::Sender<Report>);

impl Interrupter {
    /// The current or next wait of its waiter ends, as by a signal.
    pub fn interrupt(&self) {
        let _ = self.0.send(Report::Signal);
    }
}

impl Waiter {
    /// Listens to one database and to signals, which no longer end the process by themselves. Make it before any other thread,
    /// so that no thread takes the signals.
    #[must_use]
    pub fn new(database: &Path) -> Self {
        let (sender, reports) = mpsc::channel();
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        if signals.thread_block().is_ok() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                while signals.wait().is_ok() {
                    if sender.send(Report::Signal).is_err() {
                        return;
                    }
                }
            });
        }
        Self::listening(database, sender, reports)
    }

    /// Listens to one database only. What interrupts it is another thread.
    #[must_use]
    pub fn without_signals(database: &Path) -> (Self, Interrupter) {
        let (sender, reports) = mpsc::channel();
        let interrupter = Interrupter(sender.clone());
        (Self::listening(database, sender, reports), interrupter)
    }

    fn listening(database: &Path, sender: mpsc::Sender<Report>, reports: mpsc::Receiver<Report>) -> Self {
        let wakes = sender.clone();
        let watcher = Watcher::new(database, move |wake| {
            let _ = wakes.send(Report::Wake(wake));
        })
        .ok();
        Self { reports, sender, watcher, ladder: Ladder::default() }
    }

    /// Wakes on what is typed as well, until standard input ends.
    pub fn read_keys(&self) {
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(read @ 1..) = std::io::stdin().lock().read(&mut buffer) {
                if sender.send(Report::Keys(buffer[..read].to_vec())).is_err() {
                    return;
                }
            }
        });
    }

    /// Returns when something may have changed or a signal came, after `most` at the latest.
    pub fn wait(&mut self, most: Duration) -> Woken {
        let most = most.min(if self.watcher.is_some() { SLOW_LOOK } else { BLIND_LOOK });
        let first = match self.reports.recv_timeout(self.ladder.timeout(most)) {
            Ok(report) => report,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Woken::Look,
        };
        let mut typed = Vec::new();
        for report in std::iter::once(first).chain(self.reports.try_iter()) {
            match report {
                Report::Wake(wake) => self.ladder.woken(wake),
                Report::Signal => return Woken::Interrupted,
                Report::Keys(bytes) => typed.extend(bytes),
            }
        }
        if typed.is_empty() { Woken::Look } else { Woken::Keys(typed) }
    }
}
