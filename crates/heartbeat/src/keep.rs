//! Retention in the background: moves settled old rows to the archive, one batch at a time when nothing is due.

use coord_db::config::RetentionConfig;
use coord_db::{Archiver, Database, Error, Result, Timestamp};

/// Interval at which old rows are searched.
const EVERY_SECONDS: i64 = 3_600;

/// Runs the archiving. Its state is only a cache: a new process starts again from the database.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    looked_at: Option<Timestamp>,
    at_work: Option<Archiver>,
}

impl Keeper {
    /// Moves one batch if it is due. True if there is more. An error of the archive is logged and retried later; it
    /// must not prevent the health checks.
    pub(crate) fn step(&mut self, db: &Database, retention: &RetentionConfig) -> bool {
        self.try_step(db, retention).unwrap_or_else(|error| {
            tracing::warn!(error = coord_db::error_chain(&error), "cannot archive; trying again later");
            self.at_work = None;
            false
        })
    }

    fn try_step(&mut self, db: &Database, retention: &RetentionConfig) -> Result<bool> {
        if let Some(archiver) = &mut self.at_work {
            let more = archiver.step()?;
            if !more {
                tracing::info!(archived = ?archiver.archived(), "settled old rows archived");
                self.at_work = None;
            }
            return Ok(more);
        }
        let now = db.now();
        if self.looked_at.is_some_and(|at| now.seconds_since(at).abs() < EVERY_SECONDS) {
            return Ok(false);
        }
        self.looked_at = Some(now);
        // A server keeps all rows, and its backups are its own.
        if db.server().is_some() {
            return Ok(false);
        }
        let before = retention.archive_before(now);
        if db.read(|tx| Ok::<_, Error>(tx.in_clock_grace()? || !tx.has_events_before(before)?))? {
            return Ok(false);
        }
        self.at_work = Some(Archiver::new(db, before)?);
        Ok(true)
    }
}
