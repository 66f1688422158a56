//! Waiting for a fact, with a bound. The only place where tests poll.

use std::time::{Duration, Instant};

/// Maximum time for a fact to come about. Long enough for a busy machine: a wait of this length is a failure.
pub const BOUND: Duration = Duration::from_secs(120);

const POLL: Duration = Duration::from_millis(20);

/// Waits before the next question: longer than answers take, which often start a program, so that asking does not keep the processor
/// from what is waited for.
fn pause(asked: Instant) {
    std::thread::park_timeout(POLL.max(asked.elapsed() * 2));
}

/// Asks until there is an answer.
///
/// # Panics
/// If there is none within [`BOUND`].
#[track_caller]
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_for_within(BOUND, what, ask)
}

/// Asks until there is an answer, within another bound.
///
/// # Panics
/// If there is none within it.
#[track_caller]
pub fn wait_for_within<T>(bound: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + bound;
    loop {
        let asked = Instant::now();
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {bound:?} in vain for {what}");
        pause(asked);
    }
}

/// Asks until it is so.
///
/// # Panics
/// If it is not within [`BOUND`].
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}

/// Asks until the answer is this one; a failure shows the last answer.
///
/// # Panics
/// If it is not within [`BOUND`].
#[track_caller]
pub fn wait_until_equal(what: &str, expected: &str, mut ask: impl FnMut() -> String) {
    let deadline = Instant::now() + BOUND;
    loop {
        let asked = Instant::now();
        let found = ask();
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {found:?} instead of {expected:?} after {BOUND:?}");
        pause(asked);
    }
}
