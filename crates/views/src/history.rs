//! What the database has, and behind it what was archived: one list, each row once.

use std::collections::HashSet;
use std::hash::Hash;

use coord_db::{Archive, Database, Error, Event, EventFilter, EventId, IdOf, ReadTx};
use process_host::exit::describe;

use crate::ids;

/// The archive beside the database, if there is one that can be read.
#[derive(Debug)]
pub struct History {
    archive: Option<Archive>,
    /// Why what was archived cannot be shown.
    missing: Option<Error>,
}

impl History {
    /// Opens the archive. One that cannot be read is [`History::missing`], and the rows of the database are still shown.
    #[must_use]
    pub fn open(db: &Database) -> Self {
        match Archive::open(db) {
            Ok(archive) => Self { archive, missing: None },
            Err(error) => Self { archive: None, missing: Some(error) },
        }
    }

    /// Why archived rows are not shown, in words.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        Some(match self.missing.as_ref()? {
            Error::NoDatabase { path } => format!("the archive {} does not exist", path.display()),
            other => describe(other),
        })
    }

    /// What a row that is not found is answered with: that it may be in an archive that cannot be read.
    ///
    /// # Errors
    /// That of the archive.
    pub fn into_missing(self) -> Result<(), Error> {
        self.missing.map_or(Ok(()), Err)
    }

    /// Rows of the database with those of the archive before them.
    ///
    /// # Errors
    /// What the database reports.
    pub fn list<T, I: Eq + Hash>(
        &self,
        live: Vec<T>,
        read: impl Fn(&ReadTx<'_>) -> Result<Vec<T>, Error>,
        id: impl Fn(&T) -> I,
    ) -> Result<Vec<T>, Error> {
        let Some(archive) = &self.archive else { return Ok(live) };
        // The database is read first: what moves in between is in both.
        let mut rows = archive.read(|tx| read(tx))?;
        let known: HashSet<I> = live.iter().map(&id).collect();
        rows.retain(|old| !known.contains(&id(old)));
        rows.extend(live);
        Ok(rows)
    }

    /// Reads the database with the archived events among its own.
    ///
    /// # Errors
    /// What the database reports.
    pub fn read<T>(&self, db: &Database, body: impl FnOnce(&ReadTx<'_>) -> Result<T, Error>) -> Result<T, Error> {
        if self.archive.is_some() { db.read_with_archived_events(body) } else { db.read(body) }
    }

    /// The event with this id.
    ///
    /// # Errors
    /// What the database reports.
    pub fn event(&self, tx: &ReadTx<'_>, id: &str) -> Result<Option<Event>, Error> {
        match (tx.event(id)?, &self.archive) {
            (None, Some(archive)) => archive.read(|tx| tx.event(id)),
            (found, _) => Ok(found),
        }
    }

    /// The ids of events that may be meant by what was given.
    ///
    /// # Errors
    /// What the database reports.
    pub fn event_ids(&self, tx: &ReadTx<'_>, given: &str) -> Result<Vec<String>, Error> {
        let live = ids::candidates(tx, IdOf::Event, given)?;
        self.list(live, |tx| ids::candidates(tx, IdOf::Event, given), Clone::clone)
    }

    /// What an event led to, oldest first.
    ///
    /// # Errors
    /// What the database reports.
    pub fn effects_of(&self, tx: &ReadTx<'_>, id: &EventId) -> Result<Vec<Event>, Error> {
        let mut events = self.list(tx.effects_of(id)?, |tx| tx.effects_of(id), |event| event.id.clone())?;
        events.sort_by_key(|event| event.timestamp);
        Ok(events)
    }

    /// Events in the order of time, oldest first; of a limited list the newest.
    ///
    /// # Errors
    /// What the database reports.
    pub fn events(&self, live: Vec<Event>, filter: &EventFilter) -> Result<Vec<Event>, Error> {
        let Some(archive) = &self.archive else { return Ok(live) };
        let mut events = archive.read(|tx| tx.events(filter))?;
        if events.is_empty() {
            return Ok(live);
        }
        let known: HashSet<&EventId> = live.iter().map(|event| &event.id).collect();
        events.retain(|event| !known.contains(&event.id));
        events.extend(live);
        // Stable: what was committed in one moment stays in the order of commits.
        events.sort_by_key(|event| event.timestamp);
        if let Some(limit) = filter.limit {
            let surplus = events.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
            events.drain(..surplus);
        }
        Ok(events)
    }
}
