//! The knowledge that is relevant to a test, within a number of bytes: for the agent that works on the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use super::full_text::Wanted;
use super::knowledge::{area_covers, beginnings, columns};
use super::{Knowledge, Test};
use crate::{KnowledgeType, ReadTx, Result};

/// Default size of the knowledge in a prompt, in bytes.
pub const KNOWLEDGE_CONTEXT_BYTES: usize = 12_000;
/// Maximum size of one item, in bytes; the text names the command that shows the rest.
const MAX_ITEM_BYTES: usize = 2_000;
/// How many items of each origin are weighed, the newest ones: what makes the cost independent of how much is known.
const MAX_CANDIDATES: usize = 300;
/// How many items are taken for their words alone.
const MAX_BY_WORDS: usize = 40;
/// A word that occurs in more items than this does not distinguish tests and is not searched for.
const COMMON_WORD_ITEMS: i64 = 300;
/// How many of a test's words are looked for.
const MAX_TEST_WORDS: usize = 24;
/// How many globs of a test's scope are looked at.
const MAX_SCOPES: usize = 64;
/// Kept free for the line that says what was left out.
const LEFT_OUT_BYTES: usize = 160;

/// What is known that touches a test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KnowledgeContext {
    /// The items in the text, the most relevant first.
    pub items: Vec<Knowledge>,
    /// How many more touch the test.
    pub left_out: usize,
    /// Whether even more may touch it than were counted.
    pub more: bool,
    /// What the agent reads: one list item for each, and what was left out. Empty if nothing is known.
    #[serde(skip)]
    pub text: String,
}

/// Why an item touches a test; the first reason is the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Area,
    Topic,
    Words,
    Everything,
}

/// The beginning of a glob without any wildcard, up to its last slash; the whole of it if it has none. As the view
/// `knowledge_scopes` has it.
fn literal_beginning(glob: &str) -> &str {
    match glob.find(['*', '?', '[', '{', '\\']) {
        None => glob,
        Some(at) => glob[..at].rfind('/').map_or("", |slash| &glob[..=slash]),
    }
}

fn overlap(area: &str, scope: &str) -> bool {
    area_covers(area, scope) || area_covers(scope, area)
}

/// What weighs more at the same relevance: what one must not do before what is nice to know.
const fn weight(item_type: KnowledgeType) -> u8 {
    match item_type {
        KnowledgeType::Warning => 0,
        KnowledgeType::Decision => 1,
        KnowledgeType::Pattern => 2,
        KnowledgeType::Fact => 3,
    }
}

/// The words that distinguish a test from others.
fn words_of(test: &Test) -> Vec<String> {
    let notes = test.notes.as_deref().unwrap_or_default();
    let spec: String = test.spec_content.as_deref().unwrap_or_default().chars().take(4_000).collect();
    let mut seen = BTreeSet::new();
    format!("{} {} {notes} {spec}", test.id, test.category)
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| word.chars().count() >= 4)
        .map(str::to_lowercase)
        .filter(|word| seen.insert(word.clone()))
        .take(MAX_TEST_WORDS)
        .collect()
}

/// One item as a list item. Further lines are indented, so that no content can pass for an item of its own.
fn list_item(item: &Knowledge) -> String {
    let by = item.loop_id.as_ref().map_or("human", |id| id.as_str());
    let topic = item.topic.as_deref().map(|topic| format!("{topic}: ")).unwrap_or_default();
    let mut content = item.content.trim();
    let mut rest = String::new();
    if content.len() > MAX_ITEM_BYTES {
        let cut = (0..=MAX_ITEM_BYTES).rev().find(|at| content.is_char_boundary(*at)).unwrap_or(0);
        rest = format!(" … ({} bytes more: loopctl knowledge history {})", content.len() - cut, item.id);
        content = &content[..cut];
    }
    let plain = |text: &str| -> String {
        let text: String =
            text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect();
        text.lines().collect::<Vec<_>>().join("\n  ")
    };
    format!("- {} ({by}) {}{}{rest}\n", item.item_type, plain(&topic), plain(content))
}

type Candidates = BTreeMap<i64, Reason>;

fn take(candidates: &mut Candidates, seq: i64, reason: Reason) {
    candidates.entry(seq).and_modify(|known| *known = reason.min(*known)).or_insert(reason);
}

impl ReadTx<'_> {
    /// The knowledge relevant to a test, in at most `max_bytes` of text, the most relevant first: items about its files, then those that
    /// has its category or id as topic, then what shares its words, then what is about everything; warnings before
    /// decisions, patterns and facts, then by confidence, the newest first.
    pub fn knowledge_context(&self, test: &Test, max_bytes: usize) -> Result<KnowledgeContext> {
        let (candidates, more) = self.candidates(test)?;
        let mut items = Vec::with_capacity(candidates.len());
        let sql = format!(
            "SELECT {}, n.seq FROM knowledge_numbers AS n CROSS JOIN knowledge AS k
             WHERE k.id = n.knowledge_id AND n.seq = ?1 AND k.superseded_by IS NULL",
            columns()
        );
        for (seq, reason) in candidates {
            let Some(item) = self.query_opt(&sql, [seq], Knowledge::from_row)? else { continue };
            let elsewhere = reason == Reason::Words && !test.scope.0.is_empty() && !item.affected_areas.0.is_empty();
            if !elsewhere {
                items.push((reason, seq, item));
            }
        }
        items.sort_by(|(reason, seq, item), (other_reason, other_seq, other)| {
            (reason, weight(item.item_type))
                .cmp(&(other_reason, weight(other.item_type)))
                .then(other.confidence.total_cmp(&item.confidence))
                .then(other_seq.cmp(seq))
        });
        let mut said = BTreeSet::new();
        let mut context = KnowledgeContext { items: Vec::new(), left_out: 0, more, text: String::new() };
        for (_, _, item) in items {
            // Identical items of several loops are included once.
            if !said.insert((item.topic.clone(), item.content.clone())) {
                continue;
            }
            let line = list_item(&item);
            if context.text.len() + line.len() + LEFT_OUT_BYTES <= max_bytes {
                context.text.push_str(&line);
                context.items.push(item);
            } else {
                context.left_out += 1;
            }
        }
        if context.left_out > 0 {
            let (number, least) = (context.left_out, if context.more { "at least " } else { "" });
            let _ = writeln!(
                context.text,
                "({least}{number} less relevant are left out; find them with: loopctl knowledge search WORDS or --path FILE)"
            );
            context.text.truncate(max_bytes);
        }
        Ok(context)
    }

    /// What may touch a test, and whether some of it was not looked at.
    fn candidates(&self, test: &Test) -> Result<(Candidates, bool)> {
        let mut candidates = Candidates::new();
        let mut more = false;
        let limit = MAX_CANDIDATES as i64;
        let mut looked: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
        let pair = |row: &crate::engine::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        for scope in test.scope.0.iter().take(MAX_SCOPES) {
            let scope = scope.strip_prefix("./").unwrap_or(scope);
            let beginning = literal_beginning(scope);
            for prefix in beginnings(beginning) {
                if !looked.contains_key(&prefix) {
                    let found = self.query(
                        "SELECT seq, area FROM knowledge_areas WHERE prefix = ?1 ORDER BY seq DESC LIMIT ?2",
                        params![prefix, limit],
                        pair,
                    )?;
                    looked.insert(prefix.clone(), found);
                }
            }
            let below = format!("{beginning}\u{0}");
            if beginning != scope || scope.ends_with('/') {
                // A scope that begins nowhere can touch anything: the newest are looked at.
                let found = if beginning.is_empty() {
                    self.query(
                        "SELECT seq, area FROM knowledge_areas WHERE +prefix <> '/'
                         ORDER BY seq DESC LIMIT ?1",
                        [limit],
                        pair,
                    )?
                } else {
                    self.query(
                        "SELECT seq, area FROM knowledge_areas WHERE prefix > ?1 AND prefix < ?1 || '\u{10ffff}'
                         ORDER BY seq DESC LIMIT ?2",
                        params![beginning, limit],
                        pair,
                    )?
                };
                looked.insert(below.clone(), found);
            }
            // Many items are about one area, and to compile a glob costs more than to find an item.
            let mut touched: BTreeMap<&str, bool> = BTreeMap::new();
            let places = beginnings(beginning).into_iter().chain([below]);
            for found in places.filter_map(|place| looked.get(&place)) {
                more |= found.len() == MAX_CANDIDATES;
                for (seq, area) in found {
                    if *touched.entry(area).or_insert_with(|| overlap(area, scope)) {
                        take(&mut candidates, *seq, Reason::Area);
                    }
                }
            }
        }
        for topic in [test.category.as_str(), test.id.as_str()].into_iter().filter(|topic| !topic.is_empty()) {
            let found: Vec<i64> = self.query(
                "SELECT n.seq FROM knowledge AS k CROSS JOIN knowledge_numbers AS n
                 WHERE n.knowledge_id = k.id AND k.topic = ?1 COLLATE NOCASE AND k.superseded_by IS NULL ORDER BY n.seq DESC LIMIT ?2",
                params![topic, limit],
                |row| row.get(0),
            )?;
            more |= found.len() == MAX_CANDIDATES;
            found.into_iter().for_each(|seq| take(&mut candidates, seq, Reason::Topic));
        }
        let mut telling = Vec::new();
        let full_text = self.full_text();
        for word in words_of(test) {
            let items: i64 = self.value(
                full_text.count_sql(),
                params![full_text.query(std::slice::from_ref(&word), Wanted::All), COMMON_WORD_ITEMS + 1],
            )?;
            if (1..=COMMON_WORD_ITEMS).contains(&items) {
                telling.push(word);
            }
        }
        if let Some(words) = full_text.query(&telling, Wanted::Any) {
            let found: Vec<i64> = self.query(full_text.best_sql(), params![words, MAX_BY_WORDS as i64], |row| row.get(0))?;
            found.into_iter().for_each(|seq| take(&mut candidates, seq, Reason::Words));
        }
        let everything: Vec<i64> = self.query(
            "SELECT seq FROM knowledge_areas WHERE prefix = '/' AND area = '' ORDER BY seq DESC LIMIT ?1",
            [limit],
            |row| row.get(0),
        )?;
        more |= everything.len() == MAX_CANDIDATES;
        everything.into_iter().for_each(|seq| take(&mut candidates, seq, Reason::Everything));
        Ok((candidates, more))
    }
}
