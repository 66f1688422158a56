//! What a service manager is told: ready, alive, stopping. Without one there is nobody to tell, and nothing happens.
//!
//! Architecture invariant: that a process is alive is told by its working loop and by nothing else, so that a loop that
//! hangs is taken for hung.

use std::time::Duration;

use sd_notify::NotifyState;

/// How long one more try to start may take, told again with each try.
const ONE_MORE_TRY: Duration = Duration::from_secs(30);

/// The process is subscribed and beats.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The working loop has come round.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// The process is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The process is not ready yet and says why; it keeps trying, which is no reason to end it.
pub fn still_starting(why: &str) {
    // A line break would begin another message.
    let status = format!("waiting: {}", why.replace(['\n', '\r'], " "));
    let micros = u32::try_from(ONE_MORE_TRY.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(micros), NotifyState::Status(&status)]);
}

/// Between two beats: as the settings say, and often enough for the watchdog of a service manager, if there is one.
#[must_use]
pub fn beat_interval(beat_seconds: u64) -> Duration {
    interval(beat_seconds, sd_notify::watchdog_enabled())
}

fn interval(beat_seconds: u64, watchdog: Option<Duration>) -> Duration {
    let beat = Duration::from_secs(beat_seconds);
    watchdog.map_or(beat, |period| beat.min(period / 3))
}

fn tell(states: &[NotifyState<'_>]) {
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
