//! Short forms of ids: any beginning or end of one that no other row of its table has.
//!
//! Our ids are UUIDv7. Their beginnings are the time, which neighbours share; their ends are random, so an end of
//! [`SHORT_ID`] characters tells rows apart unless two of them collide, and then a longer one does.

use std::collections::BTreeMap;

use crate::{ReadTx, Result};

/// Length of a short form, in characters, where nothing collides.
pub const SHORT_ID: usize = 8;
/// The fewest characters that may stand for an id as its end.
pub const SHORTEST_END: usize = 4;

/// The short form of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortId {
    /// What is shown: no other id of the table has it.
    pub text: String,
    /// The number of characters at its end that would be enough to name it; 0 if it is not shortened.
    pub enough: usize,
}

/// What an id is the id of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum IdOf {
    Alert,
    ChangeRequest,
    Checkpoint,
    Decision,
    Event,
    JournalEntry,
    Knowledge,
    Proof,
}

impl IdOf {
    /// The name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::ChangeRequest => "change request",
            Self::Checkpoint => "checkpoint",
            Self::Decision => "decision",
            Self::Event => "event",
            Self::JournalEntry => "journal entry",
            Self::Knowledge => "knowledge item",
            Self::Proof => "proof",
        }
    }

    const fn table(self) -> &'static str {
        match self {
            Self::Alert => "alerts",
            Self::ChangeRequest => "change_requests",
            Self::Checkpoint => "checkpoints",
            Self::Decision => "decisions",
            Self::Event => "events",
            Self::JournalEntry => "transaction_log",
            Self::Knowledge => "knowledge",
            Self::Proof => "proofs",
        }
    }
}

/// Where the last group of eight characters of a UUID begins. A proof's id is that of its landing with a number after it.
const END_OF_UUID: usize = 36 - SHORT_ID;

/// The short form of an id as long as no other id has the same: the end of a UUID; other ids are not shortened.
#[must_use]
pub fn short_id(id: &str) -> &str {
    let bytes = id.as_bytes();
    let hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let is_uuid = bytes.len() >= 36
        && bytes[..36].iter().enumerate().all(|(at, byte)| if hyphen(at) { *byte == b'-' } else { byte.is_ascii_hexdigit() })
        && (bytes.len() == 36 || bytes.len() > 37 && bytes[36] == b'-' && bytes[37..].iter().all(u8::is_ascii_digit));
    if is_uuid { &id[END_OF_UUID..] } else { id }
}

/// The shortest end of `id`, not shorter than `shortest`, that none of the others has.
fn unique_end<'a>(id: &'a str, shortest: usize, others: &[String]) -> &'a str {
    let from = (0..=id.len().saturating_sub(shortest)).rev().filter(|at| id.is_char_boundary(*at));
    let is_unique = |end: &&str| !others.iter().any(|other| other != id && other.ends_with(end));
    from.map(|at| &id[at..]).find(is_unique).unwrap_or(id)
}

impl ReadTx<'_> {
    /// The ids that `given` may stand for: that id itself if there is one, else those that begin or end with it. At most
    /// `max`, in order.
    pub fn ids_like(&self, of: IdOf, given: &str, max: usize) -> Result<Vec<String>> {
        let table = of.table();
        let exact = self.query(&format!("SELECT id FROM {table} WHERE id = ?1"), [given], |row| row.get(0))?;
        if !exact.is_empty() || given.is_empty() {
            return Ok(exact);
        }
        self.query(
            &format!(
                "SELECT id FROM {table}
                 WHERE (id >= ?1 AND id < ?1 || '\u{10ffff}') OR substr(id, length(id) - length(?1) + 1) = ?1
                 ORDER BY id LIMIT ?2"
            ),
            params![given, i64::try_from(max).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )
    }

    /// A short form of each of some ids, by the whole id.
    pub fn short_ids<'a>(&self, of: IdOf, ids: impl Iterator<Item = &'a str>) -> Result<BTreeMap<String, ShortId>> {
        let ids: Vec<&str> = ids.collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let is_shortened = |id: &str| short_id(id).len() < id.len();
        // All that is shortened is ASCII; what others wrote may not be.
        let last = |id: &str| id.get(id.len().saturating_sub(SHORTEST_END)..).unwrap_or(id).to_owned();
        let ends: Vec<String> = ids.iter().filter(|id| is_shortened(id)).map(|id| last(id)).collect();
        let table = of.table();
        let others: Vec<String> = self.query(
            &format!(
                "SELECT id FROM {table} WHERE substr(id, length(id) - {SHORTEST_END} + 1) IN (SELECT value FROM json_each(?1))"
            ),
            [serde_json::Value::from(ends).to_string()],
            |row| row.get(0),
        )?;
        let mut by_end: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for other in others {
            by_end.entry(last(&other)).or_default().push(other);
        }
        let none = Vec::new();
        let short = |id: &str| {
            if !is_shortened(id) {
                return ShortId { text: id.to_owned(), enough: 0 };
            }
            let others = by_end.get(&last(id)).unwrap_or(&none);
            let text = unique_end(id, short_id(id).len(), others).to_owned();
            ShortId { text, enough: unique_end(id, SHORTEST_END, others).len() }
        };
        Ok(ids.into_iter().map(|id| (id.to_owned(), short(id))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_grow_until_they_are_unique() {
        let id = "01a20887-a7a2-779d-8fa1-f77fbf3dff63";
        assert_eq!(short_id(id), "bf3dff63");
        assert_eq!(short_id("01a20887-a7a2-779d-8fa1-f77fbf3dff63-12"), "bf3dff63-12");
        for whole in ["d-1", "01a20887-a7a2-779d-8fa1-f77fbf3dffxx", "01a20887-a7a2-779d-8fa1-f77fbf3dff63-", ""] {
            assert_eq!(short_id(whole), whole);
        }
        let end = |shortest: usize, other: &str| unique_end(id, shortest, &[id.to_owned(), other.to_owned()]);
        assert_eq!((end(SHORT_ID, id), end(SHORTEST_END, id)), ("bf3dff63", "ff63"));
        assert_eq!((end(SHORT_ID, "a3dff63"), end(SHORTEST_END, "a3dff63")), ("bf3dff63", "f3dff63"));
        assert_eq!(end(SHORT_ID, "01a20887-a7a2-779d-8fa1-f78fbf3dff63"), "7fbf3dff63");
        assert_eq!(end(SHORT_ID, "11a20887-a7a2-779d-8fa1-f77fbf3dff63"), id);
    }
}
