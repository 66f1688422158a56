//! Knowledge that the loops share.
//!
//! `knowledge_words` (full text) and `knowledge_areas` (by folder) are kept by triggers, so that rows of other tools are
//! found as well. What a person or an agent searches for is always taken as words, never as a query language.

use std::collections::BTreeSet;

use super::full_text::Wanted;
use super::{StringList, json};
use crate::engine::ToParameter;
use crate::payload::{KnowledgeConflict, KnowledgeRecorded};
use crate::{ActorId, Error, KnowledgeType, LoopId, NewEvent, ReadTx, Result, Timestamp, WriteTx, new_id};

/// How long one item may be, in bytes: every loop reads it.
pub const MAX_KNOWLEDGE_BYTES: usize = 65_536;
/// How many decisions that stand on one topic a new one is held against, the newest ones.
const MAX_CONFLICTS: usize = 8;
/// Maximum number of items in a history.
const MAX_HISTORY: usize = 1000;

row! {
    /// An item of knowledge.
    Knowledge {
        id: String, loop_id: Option<LoopId>, item_type: KnowledgeType, topic: Option<String>, content: String, confidence: f64,
        evidence: Option<String>, affected_areas: StringList, superseded_by: Option<String>, created_at: Timestamp,
    }
}

/// Something learned.
#[derive(Debug, Clone)]
pub struct NewKnowledge {
    /// By whom; the human if none.
    pub loop_id: Option<LoopId>,
    /// What it is.
    pub item_type: KnowledgeType,
    /// To find it by; upper and lower case do not differ.
    pub topic: Option<String>,
    /// In words, at most [`MAX_KNOWLEDGE_BYTES`].
    pub content: String,
    /// From 0 to 1.
    pub confidence: f64,
    /// Why it is believed.
    pub evidence: Option<String>,
    /// Globs of the files that it is about, relative to the repository; `dir/` is the subtree. None: about everything.
    pub affected_areas: Vec<String>,
    /// Items that it supersedes; they must be current.
    pub supersedes: Vec<String>,
}

/// What is looked for. Everything that is given must fit.
#[derive(Debug, Clone)]
pub struct KnowledgeSearch {
    /// Words that must all stand in topic, content or evidence, in any form of the (English) word. Punctuation says nothing.
    pub words: Vec<String>,
    /// The topic; upper and lower case do not differ.
    pub topic: Option<String>,
    /// A file that one of the item's areas covers.
    pub path: Option<String>,
    /// What kind of item.
    pub item_type: Option<KnowledgeType>,
    /// Include superseded items.
    pub superseded: bool,
    /// Maximum number of items.
    pub limit: usize,
}

impl Default for KnowledgeSearch {
    fn default() -> Self {
        Self { words: Vec::new(), topic: None, path: None, item_type: None, superseded: false, limit: usize::MAX }
    }
}

/// The columns of `knowledge AS k`.
pub(super) fn columns() -> String {
    Knowledge::COLUMNS.split(", ").map(|name| format!("k.{name}")).collect::<Vec<_>>().join(", ")
}

/// The folders that lead to a path, and the path itself: where an area that covers it can begin.
pub(super) fn beginnings(path: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    all.extend(path.match_indices('/').map(|(at, _)| path[..=at].to_owned()));
    if !path.is_empty() && !path.ends_with('/') {
        all.push(path.to_owned());
    }
    all
}

/// True if a glob, or a folder that ends with `/`, covers a path.
pub(super) fn area_covers(area: &str, path: &str) -> bool {
    area == path
        || (area.ends_with('/') && path.starts_with(area))
        || (area.contains(['*', '?', '[', '{', '\\'])
            && globset::Glob::new(area).is_ok_and(|glob| glob.compile_matcher().is_match(path)))
}

impl ReadTx<'_> {
    /// What fits: with words the best match first, else the newest first.
    pub fn search_knowledge(&self, search: &KnowledgeSearch) -> Result<Vec<Knowledge>> {
        let full_text = self.full_text();
        let words = full_text.query(&search.words, Wanted::All);
        let beginnings = search.path.as_deref().map(|path| json(&beginnings(path)));
        let mut parameters: Vec<&dyn ToParameter> = Vec::new();
        let mut conditions = vec!["k.id = n.knowledge_id".to_owned()];
        let mut order = "n.seq DESC".to_owned();
        let from = if let Some(words) = &words {
            parameters.push(words);
            conditions.push("n.seq = knowledge_words.rowid".to_owned());
            // The first parameter, as both texts have it.
            conditions.push(full_text.condition().to_owned());
            order = format!("{}, n.seq DESC", full_text.weighted_rank());
            "knowledge_words CROSS JOIN knowledge_numbers AS n CROSS JOIN knowledge AS k"
        } else if search.topic.is_some() {
            "knowledge AS k CROSS JOIN knowledge_numbers AS n"
        } else {
            "knowledge_numbers AS n CROSS JOIN knowledge AS k"
        };
        // What no longer stands has no areas to be found by.
        if let (Some(beginnings), false, None, None) = (&beginnings, search.superseded, &words, &search.topic) {
            parameters.push(beginnings);
            conditions.push(format!(
                "n.seq IN (SELECT seq FROM knowledge_areas WHERE prefix IN (SELECT value FROM json_each(?{})))",
                parameters.len()
            ));
        }
        if let Some(topic) = &search.topic {
            parameters.push(topic);
            conditions.push(format!("k.topic = ?{} COLLATE NOCASE", parameters.len()));
        }
        if let Some(item_type) = &search.item_type {
            parameters.push(item_type);
            conditions.push(format!("k.item_type = ?{}", parameters.len()));
        }
        if !search.superseded {
            conditions.push("k.superseded_by IS NULL".to_owned());
        }
        let sql = format!("SELECT {} FROM {from} WHERE {} ORDER BY {order}", columns(), conditions.join(" AND "));
        let mut found = Vec::new();
        if search.limit == 0 {
            return Ok(found);
        }
        self.engine().each(&sql, &&parameters[..], |row| {
            let item = Knowledge::from_row(row)?;
            let fits =
                search.path.as_deref().is_none_or(|path| item.affected_areas.0.iter().any(|area| area_covers(area, path)));
            if fits {
                found.push(item);
            }
            Ok(found.len() < search.limit)
        })?;
        Ok(found)
    }

    /// One item.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn knowledge(&self, id: &str) -> Result<Knowledge> {
        self.query_opt(select!(Knowledge, "FROM knowledge WHERE id = ?1"), [id], Knowledge::from_row)?
            .ok_or_else(|| Error::not_found("knowledge", id))
    }

    /// How an item came to be what it is: everything whose place the one that stands today has taken, directly or not,
    /// oldest first, with the one that stands at the end.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn knowledge_history(&self, id: &str) -> Result<Vec<Knowledge>> {
        let mut newest = self.knowledge(id)?;
        let mut seen = BTreeSet::from([newest.id.clone()]);
        // Another client may have created a cycle, or a reference to a missing item.
        while let Some(newer) = &newest.superseded_by
            && seen.insert(newer.clone())
            && seen.len() <= MAX_HISTORY
        {
            match self.knowledge(newer) {
                Ok(newer) => newest = newer,
                Err(Error::NotFound { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        let mut seen = BTreeSet::from([newest.id.clone()]);
        let mut history = vec![newest];
        let mut at = 0;
        while at < history.len() && history.len() < MAX_HISTORY {
            let older = self.query(
                select!(Knowledge, "FROM knowledge WHERE superseded_by = ?1 ORDER BY created_at DESC, id DESC"),
                [&history[at].id],
                Knowledge::from_row,
            )?;
            history.extend(older.into_iter().filter(|item| seen.insert(item.id.clone())));
            at += 1;
        }
        history[1..].sort_by(|one, other| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
        history.reverse();
        Ok(history)
    }

    /// Decisions that stand on a topic, the newest first.
    fn standing_decisions(&self, topic: &str) -> Result<Vec<Knowledge>> {
        self.search_knowledge(&KnowledgeSearch {
            topic: Some(topic.to_owned()),
            item_type: Some(KnowledgeType::Decision),
            ..KnowledgeSearch::default()
        })
    }
}

fn area(text: &str) -> Result<String> {
    let area = text.strip_prefix("./").unwrap_or(text);
    if area.trim().is_empty() || area.starts_with('/') {
        return Err(Error::Invalid(format!("area {text:?} is not a glob of files in the repository; write it as src/**")));
    }
    globset::Glob::new(area).map_err(|error| Error::Invalid(format!("area {text:?} is not a glob: {error}")))?;
    Ok(area.to_owned())
}

impl WriteTx<'_> {
    /// Records knowledge and publishes it. A decision on the topic of other current ones, which it does
    /// not take, is also a conflict with each of them (with the newest eight, if there are more).
    ///
    /// # Errors
    /// [`Error::Invalid`] for no content or too much, a confidence outside 0 to 1, or an area that is no glob;
    /// [`Error::NotFound`] for an unknown loop or item; [`Error::Refused`] if an item to be superseded no longer stands.
    pub fn add_knowledge(&self, new: &NewKnowledge, by: &ActorId) -> Result<String> {
        if !(0.0..=1.0).contains(&new.confidence) {
            return Err(Error::Invalid(format!("confidence {} is not between 0 and 1", new.confidence)));
        }
        if new.content.trim().is_empty() {
            return Err(Error::Invalid("the content is empty; write what was learned".to_owned()));
        }
        let bytes = new.content.len().max(new.evidence.as_deref().map_or(0, str::len));
        if bytes > MAX_KNOWLEDGE_BYTES {
            return Err(Error::Invalid(format!(
                "an item of {bytes} bytes is too long (maximum {MAX_KNOWLEDGE_BYTES}); write it to a file and record the file's name"
            )));
        }
        if let Some(loop_id) = &new.loop_id {
            self.loop_row(loop_id)?;
        }
        let areas = new.affected_areas.iter().map(|text| area(text)).collect::<Result<Vec<_>>>()?;
        let topic = new.topic.as_deref().map(str::trim).filter(|topic| !topic.is_empty());
        let id = new_id();
        self.execute(
            "INSERT INTO knowledge (id, loop_id, item_type, topic, content, confidence, evidence, affected_areas, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![id, new.loop_id, new.item_type, topic, new.content, new.confidence, new.evidence, json(&areas), self.now()],
        )?;
        for old in &new.supersedes {
            self.supersede_knowledge(old, &id)?;
        }
        let recorded = self.publish(&NewEvent::new(
            by.clone(),
            KnowledgeRecorded {
                knowledge_id: id.clone(),
                loop_id: new.loop_id.clone(),
                item_type: new.item_type.to_string(),
                topic: topic.map(str::to_owned),
                content: new.content.clone(),
            },
        ))?;
        let (Some(topic), KnowledgeType::Decision) = (topic, new.item_type) else { return Ok(id) };
        let standing = self.standing_decisions(topic)?;
        for other in standing.into_iter().filter(|item| item.id != id && item.content != new.content).take(MAX_CONFLICTS) {
            let payload = KnowledgeConflict {
                new_knowledge_id: id.clone(),
                existing_knowledge_id: other.id,
                conflict_description: format!("two decisions stand on {topic:?}: {:?} and {:?}", other.content, new.content),
            };
            self.publish(&NewEvent::new(by.clone(), payload).caused_by_id(Some(recorded.clone())))?;
        }
        Ok(id)
    }

    /// One item supersedes another; the history is kept. Both must be current, so there can be no cycle.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] if either is superseded already.
    pub fn supersede_knowledge(&self, id: &str, by: &str) -> Result<()> {
        if id == by {
            return Err(Error::Invalid("an item cannot supersede itself".to_owned()));
        }
        let (old, new) = (self.knowledge(id)?, self.knowledge(by)?);
        for item in [&old, &new] {
            if let Some(newer) = &item.superseded_by {
                return Err(Error::Refused(format!(
                    "knowledge {} is superseded by {newer} already; see loopctl knowledge history {}",
                    item.id, item.id
                )));
            }
        }
        self.execute("UPDATE knowledge SET superseded_by = ?2 WHERE id = ?1", [id, by])?;
        Ok(())
    }
}
