//! The health of loops and supervisors.

use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::{Component, Config, Error, HealthStatus, ReadTx, Timestamp};
use serde::Serialize;

/// The processes that watch over the loops, by their ids in the data.
pub const SUPERVISORS: [&str; 5] = ["monitor", "deadlock-detector", "regression-checker", "pm", "heartbeat"];

/// The health of a component at this moment.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Health {
    #[serde(flatten)]
    pub row: Component,
    pub verdict: HealthStatus,
}

impl Health {
    /// The health of a component, with what the kernel knows of its process.
    #[must_use]
    pub fn of(row: Component, now: Timestamp, config: &Config) -> Self {
        let limits = &config.heartbeat;
        let mut verdict = row.verdict(now, limits.degraded_seconds, limits.dead_seconds);
        // Nobody may have looked since its end; the kernel knows.
        let gone = row.identity().as_ref().map(ProcessIdentity::liveness) == Some(Liveness::Gone);
        if gone && verdict != HealthStatus::Unknown {
            verdict = HealthStatus::Dead;
        }
        Self { row, verdict }
    }
}

/// The health of every component.
///
/// # Errors
/// What the database reports.
pub fn healths(tx: &ReadTx<'_>, config: &Config) -> Result<Vec<Health>, Error> {
    Ok(tx.components()?.into_iter().map(|row| Health::of(row, tx.now(), config)).collect())
}
