//! Notifies the service manager: ready, alive, stopping. Without a service manager nothing happens.
//!
//! Architecture invariant: only the working loop, and what it waits for, report that the process is alive, so that a loop that
//! hangs is detected.

use std::time::Duration;

use sd_notify::NotifyState;

/// Time allowed for one more try to start; reported again with each try.
const ONE_MORE_TRY: Duration = Duration::from_secs(30);

/// Reports that the process is ready, and does its work.
pub fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("")]);
}

/// Reports that the process is ready to take over from another one, and waits for that.
pub fn stands_by(why: &str) {
    let status = format!("stands by: {}", in_one_line(why));
    notify(&[NotifyState::Ready, NotifyState::Watchdog, NotifyState::Status(&status)]);
}

/// Resets the watchdog; called by the working loop in each round.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// Reports that the process is about to end.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Reports why the process is not ready yet, and extends the start timeout while it retries. One that stands by is ready, and is
/// watched by the watchdog.
pub fn still_starting(why: &str) {
    let status = format!("waiting: {}", in_one_line(why));
    let micros = u32::try_from(ONE_MORE_TRY.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(micros), NotifyState::Watchdog, NotifyState::Status(&status)]);
}

/// A line break would start another message.
fn in_one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Interval between two heartbeats: the setting, or less if the watchdog of the service manager requires it.
#[must_use]
pub fn beat_interval(beat_seconds: u64) -> Duration {
    interval(beat_seconds, sd_notify::watchdog_enabled())
}

fn interval(beat_seconds: u64, watchdog: Option<Duration>) -> Duration {
    let beat = Duration::from_secs(beat_seconds);
    watchdog.map_or(beat, |period| beat.min(period / 3))
}

fn notify(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_are_as_set_unless_the_watchdog_wants_more() {
        let seconds = Duration::from_secs;
        assert_eq!(interval(15, None), seconds(15));
        assert_eq!(interval(15, Some(seconds(60))), seconds(15));
        assert_eq!(interval(15, Some(seconds(30))), seconds(10));
        assert_eq!(interval(50, Some(seconds(3))), seconds(1));
    }
}
