//! Waiting for a lock that another connection holds.
//!
//! SQLite's callback is a plain function, so the deadline is one for the process, and the start of a wait one for the thread.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

static DEADLINE_MILLIS: AtomicU64 = AtomicU64::new(5_000);
thread_local! {
    static WAITING_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
    /// A shorter deadline of this thread.
    static OWN_DEADLINE: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// How long a connection of this process waits for a lock.
pub(crate) fn deadline() -> Duration {
    Duration::from_millis(DEADLINE_MILLIS.load(Ordering::Relaxed))
}

pub(crate) fn set_deadline(deadline: Duration) {
    DEADLINE_MILLIS.store(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Runs something that waits for locks no longer than this.
pub(crate) fn within<T>(deadline: Duration, work: impl FnOnce() -> T) -> T {
    OWN_DEADLINE.set(Some(deadline));
    let result = work();
    OWN_DEADLINE.set(None);
    result
}

/// Has a connection wait for locks.
pub(crate) fn handle(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(on_busy))
}

/// Waits before another try for a lock. False once the deadline has passed. The wait does not grow and is jittered, which is
/// fair to all writers; SQLite's own growing wait starves some of them.
#[allow(clippy::disallowed_methods)]
pub(crate) fn on_busy(tries: i32) -> bool {
    if tries == 0 {
        WAITING_SINCE.set(Some(Instant::now()));
    }
    let deadline = OWN_DEADLINE.get().unwrap_or_else(deadline);
    if WAITING_SINCE.get().is_some_and(|since| since.elapsed() >= deadline) {
        return false;
    }
    std::thread::sleep(Duration::from_micros(fastrand::u64(50..150)));
    true
}
