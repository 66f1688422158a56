//! What the loops have learned and tell each other.

use super::{StringList, json};
use crate::payload::{KnowledgeConflict, KnowledgeRecorded};
use crate::{ActorId, Error, KnowledgeType, LoopId, NewEvent, ReadTx, Result, Test, Timestamp, WriteTx, new_id};

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
    /// To find it by.
    pub topic: Option<String>,
    /// In words.
    pub content: String,
    /// From 0 to 1.
    pub confidence: f64,
    /// Why it is believed.
    pub evidence: Option<String>,
    /// Globs of the files that it is about.
    pub affected_areas: Vec<String>,
}

impl ReadTx<'_> {
    /// What stands (is not superseded) and fits: a topic, a path that an area covers, and words, each if given; newest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn search_knowledge(&self, topic: Option<&str>, path: Option<&str>, words: &[String]) -> Result<Vec<Knowledge>> {
        let items = self.query(
            select!(
                Knowledge,
                "FROM knowledge WHERE superseded_by IS NULL AND (?1 IS NULL OR topic = ?1) ORDER BY created_at DESC, id DESC"
            ),
            [topic],
            Knowledge::from_row,
        )?;
        let fits = |item: &Knowledge| {
            let text = format!("{} {}", item.topic.as_deref().unwrap_or_default(), item.content).to_lowercase();
            path.is_none_or(|path| item.affected_areas.0.iter().any(|area| area_covers(area, path)))
                && words.iter().all(|word| text.contains(&word.to_lowercase()))
        };
        Ok(items.into_iter().filter(fits).collect())
    }

    /// What touches a test: its topic is the test's category, or an area overlaps the test's scope; or it is about everything.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn knowledge_for(&self, test: &Test, most_items: usize) -> Result<Vec<Knowledge>> {
        let touches = |item: &Knowledge| {
            item.affected_areas.0.is_empty()
                || item.topic.as_deref() == Some(test.category.as_str())
                || item.affected_areas.0.iter().any(|area| {
                    test.scope.0.iter().any(|scope| area == scope || area_covers(area, scope) || area_covers(scope, area))
                })
        };
        Ok(self.search_knowledge(None, None, &[])?.into_iter().filter(touches).take(most_items).collect())
    }

    /// One item.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn knowledge(&self, id: &str) -> Result<Knowledge> {
        self.query_opt(select!(Knowledge, "FROM knowledge WHERE id = ?1"), [id], Knowledge::from_row)?
            .ok_or_else(|| Error::not_found("knowledge", id))
    }
}

fn area_covers(area: &str, path: &str) -> bool {
    globset::Glob::new(area).is_ok_and(|glob| glob.compile_matcher().is_match(path))
        || (area.ends_with('/') && path.starts_with(area))
}

impl WriteTx<'_> {
    /// Records something learned and tells the loops. A decision on the topic of one that stands is also a conflict.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a confidence outside 0 to 1 or an area that is no glob.
    pub fn add_knowledge(&self, new: &NewKnowledge, by: &ActorId) -> Result<String> {
        if !(0.0..=1.0).contains(&new.confidence) {
            return Err(Error::Invalid(format!("confidence {} is not between 0 and 1", new.confidence)));
        }
        if let Some(loop_id) = &new.loop_id {
            self.loop_row(loop_id)?;
        }
        for area in &new.affected_areas {
            globset::Glob::new(area).map_err(|error| Error::Invalid(format!("area {area:?} is no glob: {error}")))?;
        }
        let standing = match (&new.topic, new.item_type) {
            (Some(topic), KnowledgeType::Decision) => self
                .search_knowledge(Some(topic), None, &[])?
                .into_iter()
                .find(|item| item.item_type == KnowledgeType::Decision && item.content != new.content),
            _ => None,
        };
        let id = new_id();
        self.execute(
            "INSERT INTO knowledge (id, loop_id, item_type, topic, content, confidence, evidence, affected_areas, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            rusqlite::params![
                id,
                new.loop_id,
                new.item_type,
                new.topic,
                new.content,
                new.confidence,
                new.evidence,
                json(&new.affected_areas),
                self.now()
            ],
        )?;
        let recorded = self.publish(&NewEvent::new(
            by.clone(),
            KnowledgeRecorded {
                knowledge_id: id.clone(),
                loop_id: new.loop_id.clone(),
                item_type: new.item_type.to_string(),
                topic: new.topic.clone(),
                content: new.content.clone(),
            },
        ))?;
        if let Some(standing) = standing {
            let payload = KnowledgeConflict {
                new_knowledge_id: id.clone(),
                existing_knowledge_id: standing.id,
                conflict_description: format!(
                    "two decisions stand on {:?}: {:?} and {:?}",
                    new.topic.as_deref().unwrap_or_default(),
                    standing.content,
                    new.content
                ),
            };
            self.publish(&NewEvent::new(by.clone(), payload).caused_by_id(Some(recorded)))?;
        }
        Ok(id)
    }

    /// One item takes another's place; the history stays.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] if it is superseded already.
    pub fn supersede_knowledge(&self, id: &str, by: &str) -> Result<()> {
        let item = self.knowledge(id)?;
        self.knowledge(by)?;
        if id == by {
            return Err(Error::Invalid("an item cannot take its own place".to_owned()));
        }
        if let Some(newer) = item.superseded_by {
            return Err(Error::Refused(format!("knowledge {id} is superseded by {newer} already")));
        }
        self.execute("UPDATE knowledge SET superseded_by = ?2 WHERE id = ?1", [id, by])?;
        Ok(())
    }
}
