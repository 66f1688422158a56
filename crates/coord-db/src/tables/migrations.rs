//! Numbers for migrations of the users' own database: handed out in order, never twice.

use crate::{Error, LoopId, MigrationStatus, ReadTx, Result, Timestamp, WriteTx};

row! {
    /// A migration.
    Migration {
        number: i64, name: String, loop_id: Option<LoopId>, file_path: Option<String>, status: MigrationStatus,
        allocated_at: Timestamp, applied_at: Option<Timestamp>,
    }
}

impl ReadTx<'_> {
    /// All migrations, by number.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn migrations(&self) -> Result<Vec<Migration>> {
        self.query(select!(Migration, "FROM migrations ORDER BY number"), [], Migration::from_row)
    }
}

impl WriteTx<'_> {
    /// Hands out the next number.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown loop, [`Error::Invalid`] for an empty name.
    pub fn allocate_migration(&self, name: &str, loop_id: &LoopId, file: Option<&str>) -> Result<i64> {
        self.loop_row(loop_id)?;
        if name.is_empty() {
            return Err(Error::Invalid("a migration needs a name".to_owned()));
        }
        self.value(
            "INSERT INTO migrations (number, name, loop_id, file_path, allocated_at)
             VALUES ((SELECT coalesce(max(number), 0) + 1 FROM migrations), ?1, ?2, ?3, ?4) RETURNING number",
            rusqlite::params![name, loop_id, file, self.now()],
        )
    }

    /// A pending migration is applied, or has failed. Its number is never handed out again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] if it is not pending.
    pub fn end_migration(&self, number: i64, status: MigrationStatus) -> Result<()> {
        let row = self
            .query_opt(select!(Migration, "FROM migrations WHERE number = ?1"), [number], Migration::from_row)?
            .ok_or_else(|| Error::not_found("migration", number))?;
        if row.status != MigrationStatus::Pending || status == MigrationStatus::Pending {
            return Err(Error::Refused(format!("migration {number} is {}; it cannot become {status}", row.status)));
        }
        let applied_at = (status == MigrationStatus::Applied).then(|| self.now());
        self.execute(
            "UPDATE migrations SET status = ?2, applied_at = ?3 WHERE number = ?1",
            rusqlite::params![number, status, applied_at],
        )?;
        Ok(())
    }
}
