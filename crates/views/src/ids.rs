//! Ids as people type and read them: short forms.

use std::collections::BTreeMap;

use coord_db::{Error, IdOf, ReadTx, SHORTEST_END, ShortId};

/// The maximum number of candidates that are named.
pub const MAX_CANDIDATES: usize = 8;

/// The ids that may be meant, one more than are named at most.
///
/// # Errors
/// What the database reports.
pub fn candidates(tx: &ReadTx<'_>, of: IdOf, given: &str) -> Result<Vec<String>, Error> {
    let mut found = tx.ids_like(of, given, MAX_CANDIDATES + 1)?;
    if given.chars().count() < SHORTEST_END {
        found.retain(|id| id.starts_with(given));
    }
    Ok(found)
}

/// The short forms of some ids.
#[derive(Debug, Default)]
pub struct Short(BTreeMap<String, ShortId>);

impl Short {
    /// Of ids of one kind.
    ///
    /// # Errors
    /// What the database reports.
    pub fn of<'a>(tx: &ReadTx<'_>, of: IdOf, ids: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        Ok(Self(tx.short_ids(of, ids.into_iter())?))
    }

    /// With ids of another kind.
    ///
    /// # Errors
    /// What the database reports.
    pub fn and<'a>(mut self, tx: &ReadTx<'_>, of: IdOf, ids: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        self.0.extend(tx.short_ids(of, ids.into_iter())?);
        Ok(self)
    }

    /// The short form of an id; the whole id if it is not among them.
    #[must_use]
    pub fn get<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.get(id).map_or(id, |short| &short.text)
    }

    /// The number of characters at the end of the short form that are enough to name the id: they are shown in bold.
    #[must_use]
    pub fn enough(&self, id: &str) -> usize {
        self.0.get(id).map_or(0, |short| short.enough)
    }
}

/// The short form of one id.
///
/// # Errors
/// What the database reports.
pub fn short(tx: &ReadTx<'_>, of: IdOf, id: &str) -> Result<String, Error> {
    Ok(Short::of(tx, of, [id])?.get(id).to_owned())
}
