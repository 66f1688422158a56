//! Short forms of ids: any beginning or end of one that no other row of its table has.
//!
//! Our ids are UUIDv7. Their beginnings are the time, which neighbours share; their ends are random, so an end of
//! [`SHORT_ID`] characters tells rows apart unless two of them collide, and then a longer one does.

use std::collections::BTreeMap;

use crate::{ReadTx, Result};

/// Length of a short form, in characters, where nothing collides.
pub const SHORT_ID: usize = 8;

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

/// The shortest end of `id`, not shorter than [`short_id`], that none of the others has.
fn unique_end<'a>(id: &'a str, others: &[String]) -> &'a str {
    let short = short_id(id);
    let from = (0..=id.len() - short.len()).rev().filter(|at| id.is_char_boundary(*at));
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
                 WHERE (id >= ?1 AND id < ?1 || char(1114111)) OR substr(id, -length(?1)) = ?1
                 ORDER BY id LIMIT ?2"
            ),
            rusqlite::params![given, i64::try_from(max).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )
    }

    /// A short form of each of some ids, by the whole id: the shortest end that no other id of the table has.
    pub fn short_ids<'a>(&self, of: IdOf, ids: impl Iterator<Item = &'a str>) -> Result<BTreeMap<String, String>> {
        let ids: Vec<&str> = ids.collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ends: Vec<&str> = ids.iter().map(|id| short_id(id)).filter(|end| end.len() == SHORT_ID).collect();
        let table = of.table();
        let others: Vec<String> = self.query(
            &format!("SELECT id FROM {table} WHERE substr(id, -{SHORT_ID}) IN (SELECT value FROM json_each(?1))"),
            [serde_json::Value::from(ends).to_string()],
            |row| row.get(0),
        )?;
        let mut by_end: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for other in &others {
            by_end.entry(short_id(other)).or_default().push(other.clone());
        }
        let none = Vec::new();
        let short = |id: &str| unique_end(id, by_end.get(short_id(id)).unwrap_or(&none)).to_owned();
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
        assert_eq!(unique_end(id, &[id.to_owned()]), "bf3dff63");
        assert_eq!(unique_end(id, &["01a20887-a7a2-779d-8fa1-f78fbf3dff63".to_owned()]), "7fbf3dff63");
        assert_eq!(unique_end(id, &["11a20887-a7a2-779d-8fa1-f77fbf3dff63".to_owned()]), id);
    }
}
