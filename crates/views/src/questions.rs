//! Questions to the human.

use coord_db::{Decision, DecisionStatus, Error, ReadTx, Timestamp};
use serde::Serialize;
use serde_json::Value;

use crate::when::span;

/// A question, and the answer that was given and is not applied yet.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Question {
    #[serde(flatten)]
    pub row: Decision,
    pub answered: Option<String>,
}

impl Question {
    /// Its state in words: when it resolves and how, or how it was resolved.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> String {
        use DecisionStatus as Status;
        let row = &self.row;
        let by_default = row.default_option.as_deref().map(|option| format!(" with the default {option}")).unwrap_or_default();
        match (row.status, row.due_at()) {
            (Status::Pending, _) if let Some(choice) = &self.answered => {
                format!("answered with {choice}; pm-agent applies it when it runs")
            }
            (Status::Pending, Some(due)) if due > now => format!("resolves in {}{by_default}", span(due.seconds_since(now))),
            (Status::Pending, Some(_)) => format!("due now{by_default}"),
            (Status::Pending, None) => "waits for your answer".to_owned(),
            (status, _) => format!("{status}: {}", row.choice.as_deref().unwrap_or("no choice")),
        }
    }
}

/// The questions among these rows, with answers that wait for pm.
pub fn questions(tx: &ReadTx<'_>, rows: Vec<Decision>) -> Result<Vec<Question>, Error> {
    let open = |row: &Decision| row.status == DecisionStatus::Pending;
    let answered = |row: &Decision| match open(row) {
        true => Ok::<_, Error>(tx.waiting_answer(row)?.and_then(|given| given.choice)),
        false => Ok(None),
    };
    rows.into_iter().map(|row| Ok(Question { answered: answered(&row)?, row })).collect()
}

/// The options of a question: their ids and descriptions.
#[must_use]
pub fn options(row: &Decision) -> Vec<(String, String)> {
    let describe = |id: &String| {
        let options = row.options.as_array().into_iter().flatten();
        let own = options.filter(|option| option.get("id").and_then(Value::as_str) == Some(id.as_str()));
        own.filter_map(|option| option.get("description").and_then(Value::as_str)).next().unwrap_or_default().to_owned()
    };
    row.option_ids().into_iter().map(|id| (id.clone(), describe(&id))).collect()
}
