//! Exponential back-off between retries while the database, the disk or the remote cannot be used.

use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use crate::{Stop, service, stop_requested};

const FIRST_MILLIS: u64 = 100;
const MAX_DOUBLINGS: u32 = 6;

/// Delays that grow from 0.1 to 6.4 seconds. The first failure of a series and its end are logged.
#[derive(Debug, Default)]
pub struct BackOff {
    failures: u32,
}

impl BackOff {
    /// Records a failure and returns the delay before the next try.
    pub fn after(&mut self, error: &dyn Display) -> Duration {
        if self.failures == 0 {
            tracing::warn!(%error, "cannot continue; trying again until the cause has ended");
        }
        let doublings = self.failures.min(MAX_DOUBLINGS);
        self.failures += 1;
        // Jitter, so that processes that failed together do not retry together.
        Duration::from_millis((FIRST_MILLIS << doublings) + fastrand::u64(0..50))
    }

    /// Records a success.
    pub fn recovered(&mut self) {
        if self.failures > 0 {
            tracing::info!("continuing: the cause has ended");
        }
        self.failures = 0;
    }

    /// True if the maximum delay has been reached.
    #[must_use]
    pub fn is_at_maximum(&self) -> bool {
        self.failures > MAX_DOUBLINGS
    }
}

/// Retries what a process needs for its start while the database is temporarily unavailable or the disk is full. The service
/// manager is informed.
///
/// # Errors
/// Any other error, and the last one if the process has to stop.
pub async fn patiently<T, E: Error + 'static>(
    stop: &mut Stop,
    is_temporary: impl Fn(&E) -> bool,
    mut body: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut back_off = BackOff::default();
    loop {
        match body() {
            Err(error) if is_temporary(&error) => {
                let wait = back_off.after(&error);
                service::still_starting(&coord_db::error_chain(&error));
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop_requested(stop) => return Err(error),
                }
            }
            Err(error) => return Err(error),
            Ok(value) => {
                back_off.recovered();
                return Ok(value);
            }
        }
    }
}
