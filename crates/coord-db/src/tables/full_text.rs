//! Full-text search over `knowledge_words`: the one thing that the engines say in different words.
//!
//! What is searched for is always taken as words, never as a query language: each engine gets them in a form in which nothing but
//! the words themselves counts.

use crate::ReadTx;
use crate::engine::Kind;

/// How many words of a search count.
const MAX_WORDS: usize = 64;

/// Which of the words have to stand in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    Any,
}

/// How an engine searches. The query is the first parameter of each text.
#[derive(Debug, Clone, Copy)]
pub(super) struct FullText(Kind);

impl ReadTx<'_> {
    pub(super) fn full_text(&self) -> FullText {
        FullText(self.engine().kind())
    }
}

impl FullText {
    /// Words as the parameter that a search takes; none if there is no word in them.
    pub(super) fn query(self, texts: &[String], wanted: Wanted) -> Option<String> {
        let words: Vec<&str> = texts
            .iter()
            .flat_map(|text| text.split(|character: char| character.is_whitespace() || character.is_control()))
            .filter(|word| word.chars().any(char::is_alphanumeric))
            .take(MAX_WORDS)
            .collect();
        let query = match self.0 {
            Kind::Sqlite => {
                let quoted: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect();
                quoted.join(if wanted == Wanted::All { " " } else { " OR " })
            }
            Kind::Postgres => serde_json::json!({ "any": wanted == Wanted::Any, "words": words }).to_string(),
        };
        (!words.is_empty()).then_some(query)
    }

    /// The condition that a row of `knowledge_words` has the words.
    pub(super) const fn condition(self) -> &'static str {
        match self.0 {
            Kind::Sqlite => "knowledge_words MATCH ?1",
            Kind::Postgres => "knowledge_words.words @@ knowledge_query(?1)",
        }
    }

    /// The order of rows that have the words, in which a topic counts most and evidence least.
    pub(super) const fn weighted_rank(self) -> &'static str {
        match self.0 {
            Kind::Sqlite => "bm25(knowledge_words, 4.0, 1.0, 0.5)",
            Kind::Postgres => "ts_rank('{0, 0.125, 0.25, 1}', knowledge_words.words, knowledge_query(?1)) DESC",
        }
    }

    /// How many rows have the words, counted up to the second parameter.
    pub(super) const fn count_sql(self) -> &'static str {
        match self.0 {
            Kind::Sqlite => {
                "SELECT count(*) FROM (SELECT 1 FROM knowledge_words WHERE knowledge_words MATCH ?1 LIMIT ?2) AS found"
            }
            Kind::Postgres => {
                "SELECT count(*) FROM (SELECT 1 FROM knowledge_words WHERE words @@ knowledge_query(?1) LIMIT ?2) AS found"
            }
        }
    }

    /// The rows that stand and have the words, best first, at most the second parameter.
    pub(super) const fn best_sql(self) -> &'static str {
        match self.0 {
            Kind::Sqlite => {
                "SELECT rowid FROM knowledge_words WHERE knowledge_words MATCH ?1
                   AND EXISTS (SELECT 1 FROM knowledge_areas AS a WHERE a.seq = knowledge_words.rowid)
                 ORDER BY rank LIMIT ?2"
            }
            Kind::Postgres => {
                "SELECT rowid FROM knowledge_words WHERE words @@ knowledge_query(?1)
                   AND EXISTS (SELECT 1 FROM knowledge_areas AS a WHERE a.seq = knowledge_words.rowid)
                 ORDER BY ts_rank(words, knowledge_query(?1)) DESC, rowid LIMIT ?2"
            }
        }
    }
}
