//! Numbers for migrations of the users' own database: handed out in order, never twice.
//!
//! | from | to | by |
//! | --- | --- | --- |
//! | (asked) | `pending` | a loop |
//! | `pending` | `applied`, `failed` | the loop that has the number, the human |
//!
//! The counter `migration_number` has the largest number ever allocated, even if its row was deleted. A number that
//! will not be used (it failed, its loop is dead or unknown, or its row is missing) is reported and never allocated again.

use crate::{ActorId, Error, LeasePath, LoopId, MigrationStatus, ReadTx, Result, Timestamp, WriteTx};

row! {
    /// A migration.
    Migration {
        number: i64, name: String, loop_id: Option<LoopId>, file_path: Option<String>, status: MigrationStatus,
        allocated_at: Timestamp, applied_at: Option<Timestamp>,
    }
}

/// Why a number stays unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnusedBecause {
    /// The migration failed.
    Failed,
    /// It is pending, and its loop is dead.
    LoopDead,
    /// It is pending, and its loop is not registered (any more).
    LoopGone,
    /// There is no row of this number (any more).
    RowGone,
}

/// A number that was handed out and, as things stand, will not be used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UnusedNumber {
    /// The number, or the first of a row of them.
    pub number: i64,
    /// The last of them; the number itself but for numbers whose rows are missing.
    pub last: i64,
    /// What it was for, where that is known.
    pub name: Option<String>,
    /// Whose it was, where that is known.
    pub loop_id: Option<String>,
    /// Why.
    pub because: UnusedBecause,
}

impl std::fmt::Display for UnusedNumber {
    /// A sentence: `number 4 failed and stays unused`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (number, holder) = (self.number, self.loop_id.as_deref().unwrap_or("nobody"));
        match self.because {
            UnusedBecause::Failed => write!(f, "number {number} failed and stays unused"),
            UnusedBecause::LoopDead => {
                write!(f, "number {number} is pending, but loop {holder} is dead; it stays unused unless {holder} comes back")
            }
            UnusedBecause::LoopGone => {
                write!(f, "number {number} is pending, but its loop ({holder}) is not registered; it stays unused")
            }
            UnusedBecause::RowGone if self.last > number => {
                write!(f, "numbers {number} to {} were allocated and their rows are missing; they stay unused", self.last)
            }
            UnusedBecause::RowGone => {
                write!(f, "number {number} was allocated and its row is missing; it stays unused")
            }
        }
    }
}

impl ReadTx<'_> {
    /// All migrations, by number.
    pub fn migrations(&self) -> Result<Vec<Migration>> {
        self.query(select!(Migration, "FROM migrations ORDER BY number"), [], Migration::from_row)
    }

    /// One migration.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn migration(&self, number: i64) -> Result<Migration> {
        self.query_opt(select!(Migration, "FROM migrations WHERE number = ?1"), [number], Migration::from_row)?
            .ok_or_else(|| Error::not_found("migration", number))
    }

    /// The largest number that was ever handed out or taken by another tool; 0 if none was.
    pub(crate) fn last_migration_number(&self) -> Result<i64> {
        self.value(
            "SELECT max(coalesce((SELECT value FROM counters WHERE name = 'migration_number'), 0),
                        coalesce((SELECT max(number) FROM migrations), 0))",
            [],
        )
    }

    /// The numbers that were handed out and, as things stand, will not be used, in order. Numbers without rows come as one
    /// where they follow each other.
    pub fn unused_migration_numbers(&self) -> Result<Vec<UnusedNumber>> {
        let known = self.query(
            "SELECT m.number, m.name, m.loop_id, m.status, l.status FROM migrations AS m
             LEFT JOIN loops AS l ON l.id = m.loop_id ORDER BY m.number",
            [],
            |row| {
                Ok((
                    row.get::<i64>(0)?,
                    row.get::<String>(1)?,
                    row.get::<Option<String>>(2)?,
                    row.get::<MigrationStatus>(3)?,
                    row.get::<Option<String>>(4)?,
                ))
            },
        )?;
        let gone =
            |number: i64, last: i64| UnusedNumber { number, last, name: None, loop_id: None, because: UnusedBecause::RowGone };
        let mut unused = Vec::new();
        let mut next = 1;
        for (number, name, loop_id, status, loop_status) in known {
            if number > next {
                unused.push(gone(next, number - 1));
            }
            next = number.saturating_add(1);
            let because = match (status, loop_status.as_deref()) {
                (MigrationStatus::Failed, _) => UnusedBecause::Failed,
                (MigrationStatus::Pending, None) => UnusedBecause::LoopGone,
                (MigrationStatus::Pending, Some("error")) => UnusedBecause::LoopDead,
                _ => continue,
            };
            unused.push(UnusedNumber { number, last: number, name: Some(name), loop_id, because });
        }
        let last = self.last_migration_number()?;
        if last >= next {
            unused.push(gone(next, last));
        }
        Ok(unused)
    }

    /// Of the migrations' numbers, those that a loop may use now: allocated to it and not failed.
    pub fn migration_numbers_of(&self, loop_id: &LoopId) -> Result<Vec<Migration>> {
        let mut all = self.migrations()?;
        all.retain(|row| row.loop_id.as_ref() == Some(loop_id) && row.status != MigrationStatus::Failed);
        Ok(all)
    }
}

impl WriteTx<'_> {
    /// Hands out the next number: one more than the largest there ever was.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown loop, [`Error::Invalid`] for an empty name or a file that is no path within the
    /// repository, [`Error::Refused`] if a number that has not failed has the file already.
    pub fn allocate_migration(&self, name: &str, loop_id: &LoopId, file: Option<&str>) -> Result<i64> {
        self.loop_row(loop_id)?;
        if name.trim().is_empty() {
            return Err(Error::Invalid("a migration needs a name".to_owned()));
        }
        let file = file.map(str::parse::<LeasePath>).transpose()?;
        if let Some(file) = &file {
            let taken: Option<i64> = self.query_opt(
                "SELECT number FROM migrations WHERE file_path = ?1 AND status <> 'failed' ORDER BY number LIMIT 1",
                [file],
                |row| row.get(0),
            )?;
            if let Some(number) = taken {
                let file = file.as_str();
                return Err(Error::Refused(format!("{file:?} is already the file of migration {number}; choose another file")));
            }
        }
        let number = self.last_migration_number()?.checked_add(1).ok_or_else(|| {
            Error::Refused("the largest possible migration number is allocated already; see loopctl migration list".to_owned())
        })?;
        self.execute(
            "INSERT INTO migrations (number, name, loop_id, file_path, allocated_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![number, name, loop_id, file, self.now()],
        )?;
        Ok(number)
    }

    /// A pending migration is applied, or has failed. Its number is never handed out again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] if it is not pending; [`Error::Refused`] for a loop that does not have it.
    pub fn end_migration(&self, number: i64, status: MigrationStatus, by: &ActorId) -> Result<()> {
        let row = self.migration(number)?;
        if !row.status.may_become(status) {
            return Err(Error::illegal("migration", number, row.status, format!("become {status}")));
        }
        if *by != ActorId::human() && row.loop_id.as_ref().map(LoopId::as_str) != Some(by.as_str()) {
            let holder = row.loop_id.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
            return Err(Error::Refused(format!(
                "migration {number} is allocated to {holder}; only {holder} or the human can end it, not {by}"
            )));
        }
        let applied_at = (status == MigrationStatus::Applied).then(|| self.now());
        self.execute(
            "UPDATE migrations SET status = ?2, applied_at = ?3 WHERE number = ?1",
            params![number, status, applied_at],
        )?;
        Ok(())
    }
}
