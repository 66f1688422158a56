//! Brings integration from the remote at which several machines meet: what they land reaches the store of this one only so.
//!
//! It must not block: a question to the remote lasts until its time limit. A passed test counts as lost only after a refresh that
//! began when its commit was missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use git::{Refreshed, Store};
use supervisor::Waker;

/// Interval at which the remote is asked while nothing is missed. People can push there too.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// Interval while the store lacks what has landed.
const ASK_FOR_MISSED: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Refresher {
    waker: Option<Waker>,
    running: Option<JoinHandle<git::Result<Refreshed>>>,
    began: Option<Instant>,
    /// When the last refresh that succeeded began.
    fresh_at: Option<Instant>,
    /// Since when the same commits are missed.
    missed_since: Option<Instant>,
    cut_off: Arc<AtomicBool>,
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.cut_off.store(true, Ordering::Relaxed);
    }
}

impl Refresher {
    /// Refreshes beside the supervisor from now on, and wakes it afterwards.
    pub(crate) fn attach(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    /// The commits that are missed are others than before.
    pub(crate) fn begin_to_miss(&mut self) {
        self.missed_since = None;
    }

    /// Refreshes if that is due. True if what is missed is missed at the remote too.
    pub(crate) fn look(&mut self, store: &Store, is_missed: bool) -> bool {
        if store.remote().is_none() {
            return true;
        }
        let missed_since = is_missed.then(|| *self.missed_since.get_or_insert_with(Instant::now));
        let is_settled = |fresh_at: Option<Instant>| missed_since.is_none_or(|since| fresh_at.is_some_and(|at| at >= since));
        self.end(self.waker.is_none());
        let pause = if is_settled(self.fresh_at) { ASK_EVERY } else { ASK_FOR_MISSED };
        if self.running.is_none()
            && self.began.is_none_or(|at| at.elapsed() >= pause || missed_since.is_some_and(|since| at < since))
        {
            self.begin(store);
            self.end(self.waker.is_none());
        }
        is_settled(self.fresh_at)
    }

    fn begin(&mut self, store: &Store) {
        let (store, waker) = (store.until(Arc::clone(&self.cut_off)), self.waker.clone());
        self.began = Some(Instant::now());
        self.running = Some(std::thread::spawn(move || {
            let refreshed = store.refresh();
            if let Some(waker) = waker {
                waker.wake();
            }
            refreshed
        }));
    }

    /// Takes the outcome of the refresh that runs, if it has ended or is to be waited for.
    fn end(&mut self, wait: bool) {
        let Some(running) = self.running.take_if(|running| wait || running.is_finished()) else { return };
        match running.join() {
            Ok(Ok(refreshed)) => {
                self.fresh_at = self.began;
                match refreshed {
                    Refreshed::Moved { to } => tracing::info!(commit = to.short(), "integration was brought from the remote"),
                    Refreshed::Diverged { .. } => {
                        tracing::warn!("the branch of integration was moved at the remote; the next loop asks about it")
                    }
                    Refreshed::NoRemote | Refreshed::Same => {}
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot bring integration from the remote; what is known of it is checked")
            }
            Err(_) => tracing::error!("the refresh from the remote failed"),
        }
    }
}
