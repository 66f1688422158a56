//! Waiting between tries while something that is needed cannot be used.

use std::fmt::Display;
use std::time::Duration;

const FIRST_MILLIS: u64 = 100;
const MAX_DOUBLINGS: u32 = 6;

/// Growing waits, from a tenth of a second to six; the first failure of a row is logged, and so is the end of the row.
#[derive(Debug, Default)]
pub struct BackOff {
    failures: u32,
}

impl BackOff {
    /// How long to wait before the next try, after this failure.
    pub fn after(&mut self, error: &dyn Display) -> Duration {
        if self.failures == 0 {
            tracing::warn!(%error, "waiting until the database can be used again and there is room on the disk");
        }
        let doublings = self.failures.min(MAX_DOUBLINGS);
        self.failures += 1;
        // Several processes that failed together do not come back together.
        Duration::from_millis((FIRST_MILLIS << doublings) + fastrand::u64(0..50))
    }

    /// A try went well.
    pub fn recovered(&mut self) {
        if self.failures > 0 {
            tracing::info!("the database can be used again");
        }
        self.failures = 0;
    }

    /// Whether the longest wait has been reached.
    #[must_use]
    pub fn is_at_maximum(&self) -> bool {
        self.failures > MAX_DOUBLINGS
    }
}
