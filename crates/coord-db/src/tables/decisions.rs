//! Decisions: questions to the human, with options, a default and a time limit.

use serde_json::Value;

use crate::payload::{DecisionNeeded, DecisionOption, DecisionResolved, HumanMessage};
use crate::{ActorId, DecisionId, DecisionStatus, Error, Event, EventId, NewEvent, ReadTx, Result, TestId, Timestamp, WriteTx};

/// Maximum size of a question with its options, in bytes.
const MAX_QUESTION_BYTES: usize = 65_536;

row! {
    /// A decision.
    Decision {
        id: DecisionId, decision_type: String, summary: String, options: Value, default_option: Option<String>,
        context: Value, timeout_minutes: Option<i64>, status: DecisionStatus, requested_at: Timestamp,
        requested_by: Option<String>, decided_at: Option<Timestamp>, decided_by: Option<String>, choice: Option<String>,
        comment: Option<String>, fingerprint: Option<String>, expires_at: Option<Timestamp>, event_id: Option<EventId>,
    }
}

/// A question to be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDecision {
    /// `conflict`, `stuck`, `architecture`, … any word.
    pub decision_type: String,
    /// The question.
    pub summary: String,
    /// The answers; at least two, each with an id of its own.
    pub options: Vec<DecisionOption>,
    /// What happens if nobody answers in time.
    pub default_option: Option<String>,
    /// Details.
    pub context: Value,
    /// How long to wait for an answer; for ever if none.
    pub timeout_minutes: Option<i64>,
    /// Who asks.
    pub requested_by: ActorId,
    /// What names the matter; one question is open for it at a time.
    pub fingerprint: Option<String>,
}

/// An answer that was given and is not applied yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenAnswer {
    /// Who gave it.
    pub by: String,
    /// The option.
    pub choice: Option<String>,
    /// When.
    pub at: Timestamp,
    /// The event that holds it; none where only the row is left.
    pub event: Option<EventId>,
}

impl GivenAnswer {
    fn as_error(&self, decision: &Decision, status: DecisionStatus) -> Error {
        let (choice, by) = (self.choice.clone(), self.by.clone());
        Error::Settled { decision: decision.id.to_string(), status, choice, by, at: self.at }
    }
}

impl Decision {
    /// The answers that can be given. An option another tool wrote as a bare text stands for itself.
    #[must_use]
    pub fn option_ids(&self) -> Vec<String> {
        let id = |option: &Value| match option {
            Value::String(text) => Some(text.clone()),
            other => other.get("id").and_then(Value::as_str).map(str::to_owned),
        };
        self.options.as_array().map(|options| options.iter().filter_map(id).collect()).unwrap_or_default()
    }

    /// When it resolves by itself.
    #[must_use]
    pub fn due_at(&self) -> Option<Timestamp> {
        self.expires_at
            .or_else(|| self.timeout_minutes.map(|minutes| self.requested_at.plus_seconds(minutes.saturating_mul(60))))
    }
}

impl ReadTx<'_> {
    /// Decisions, open ones only or all, oldest first.
    pub fn decisions(&self, open_only: bool) -> Result<Vec<Decision>> {
        self.query(
            select!(Decision, "FROM decisions WHERE ?1 = 0 OR status = 'pending' ORDER BY requested_at, id"),
            [open_only],
            Decision::from_row,
        )
    }

    /// The decisions that were settled last, at most `limit`, newest first.
    pub fn settled_decisions(&self, limit: usize) -> Result<Vec<Decision>> {
        self.query(
            select!(Decision, "FROM decisions WHERE decided_at IS NOT NULL ORDER BY decided_at DESC, id LIMIT ?1"),
            [limit as i64],
            Decision::from_row,
        )
    }

    /// One decision.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn decision(&self, id: &DecisionId) -> Result<Decision> {
        self.query_opt(select!(Decision, "FROM decisions WHERE id = ?1"), [id], Decision::from_row)?
            .ok_or_else(|| Error::not_found("decision", id))
    }

    /// The last decision on each of these matters, settled or open, by matter. Matters that nobody has asked about are not
    /// in it.
    pub fn last_decisions_about(&self, fingerprints: &[String]) -> Result<Vec<Decision>> {
        if fingerprints.is_empty() {
            return Ok(Vec::new());
        }
        self.query(
            select!(
                Decision,
                "FROM decisions WHERE id IN (
                   SELECT (SELECT d.id FROM decisions AS d WHERE d.fingerprint = f.value ORDER BY d.requested_at DESC, d.id DESC LIMIT 1)
                   FROM json_each(?1) AS f)
                 ORDER BY fingerprint"
            ),
            [super::json(&fingerprints)],
            Decision::from_row,
        )
    }

    /// Decisions settled since a moment by a hand that did not say so (the `sqlite3` shell, say), oldest first.
    pub fn unannounced_decisions(&self, since: Timestamp, limit: usize) -> Result<Vec<Decision>> {
        self.query(
            select!(
                Decision,
                "FROM decisions WHERE status <> 'pending' AND decided_at >= ?1 AND json_type(context) = 'object'
                   AND json_type(context, '$.resolved_event') IS NULL
                 ORDER BY decided_at, id LIMIT ?2"
            ),
            params![since, limit as i64],
            Decision::from_row,
        )
    }

    /// Open decisions for which no journal entry `notify:decision:<id>` stands, oldest first.
    pub fn unnotified_decisions(&self, limit: usize) -> Result<Vec<Decision>> {
        self.query(
            select!(
                Decision,
                "FROM decisions WHERE status = 'pending'
                   AND NOT EXISTS (SELECT 1 FROM transaction_log AS j WHERE j.id = 'notify:decision:' || decisions.id)
                 ORDER BY requested_at, id LIMIT ?1"
            ),
            [limit as i64],
            Decision::from_row,
        )
    }

    /// Loops that a budget decision of `pm` has left paused, and that nobody has resumed since it was asked.
    pub fn loops_stopped_by_budget(&self) -> Result<Vec<String>> {
        self.query(
            "SELECT DISTINCT l.value FROM decisions AS d, json_each(d.context, '$.loops') AS l
             WHERE d.decision_type = 'budget' AND d.requested_by = 'pm' AND d.choice = 'stop' AND l.type = 'text'
               AND NOT EXISTS (SELECT 1 FROM events AS e WHERE e.event_type = 'resume_requested'
                               AND json_extract(e.payload, '$.loop_id') = l.value AND e.timestamp >= d.requested_at)
             ORDER BY l.value",
            [],
            |row| row.get(0),
        )
    }

    /// True if a question that names this test was asked or answered since a moment.
    pub fn asked_about_test_since(&self, test: &TestId, since: Timestamp) -> Result<bool> {
        self.value(
            "SELECT EXISTS (SELECT 1 FROM decisions WHERE fingerprint = 'test:' || ?1 AND decision_type <> 'stuck'
                              AND coalesce(decided_at, requested_at) >= ?2)
                 OR EXISTS (SELECT 1 FROM decisions
                            WHERE fingerprint >= 'protected:' || ?1 || ':' AND fingerprint < 'protected:' || ?1 || ';'
                              AND coalesce(decided_at, requested_at) >= ?2)
                 OR EXISTS (SELECT 1 FROM tests AS t JOIN loops AS l ON l.id = t.loop_id
                            JOIN decisions AS d ON d.fingerprint = 'hold:agent:' || l.agent
                            WHERE t.id = ?1 AND (d.status = 'pending' OR coalesce(d.decided_at, d.requested_at) >= ?2))",
            params![test, since],
        )
    }

    /// True if a question of this type was ever asked about a matter.
    pub fn was_asked(&self, fingerprint: &str, decision_type: &str) -> Result<bool> {
        self.value(
            "SELECT EXISTS (SELECT 1 FROM decisions WHERE fingerprint = ?1 AND decision_type = ?2)",
            [fingerprint, decision_type],
        )
    }

    /// Whether a decision of a type was ever made.
    pub fn has_decided(&self, decision_type: &str) -> Result<bool> {
        self.value("SELECT EXISTS (SELECT 1 FROM decisions WHERE decision_type = ?1 AND status <> 'pending')", [decision_type])
    }

    /// The answer to an open decision that pm will apply: the first that fits of those it has still to handle.
    pub fn waiting_answer(&self, decision: &Decision) -> Result<Option<GivenAnswer>> {
        let answers = self.query(
            "SELECT source, json_extract(payload, '$.choice'), timestamp, id FROM undelivered_events
             WHERE subscriber = 'pm' AND event_type = 'human_message' AND json_extract(payload, '$.decision_id') = ?1
               AND json_extract(payload, '$.message_type') = 'decision_response' AND json_type(payload, '$.choice') = 'text'
               AND source NOT IN (SELECT id FROM loops)
             ORDER BY priority, seq",
            [&decision.id],
            |row| Ok(GivenAnswer { by: row.get(0)?, choice: row.get(1)?, at: row.get(2)?, event: row.get(3)? }),
        )?;
        let options = decision.option_ids();
        // What is no option, pm will not apply.
        Ok(answers.into_iter().find(|answer| answer.choice.as_ref().is_some_and(|choice| options.contains(choice))))
    }

    /// An error that says how the decision was settled, if it was.
    fn refuse_settled(&self, decision: &Decision) -> Result<()> {
        if decision.status == DecisionStatus::Pending {
            return Ok(());
        }
        // The row knows `human`; the answer that was applied knows which one.
        let said = decision.context.get("resolved_event").and_then(Value::as_str);
        let source = self.query_opt(
            "SELECT a.source FROM events AS e JOIN events AS a ON a.id = e.caused_by
             WHERE e.id = ?1 AND a.event_type = 'human_message'",
            [said],
            |row| row.get(0),
        )?;
        let by = source.or_else(|| decision.decided_by.clone()).unwrap_or_else(|| "somebody".to_owned());
        let at = decision.decided_at.unwrap_or(decision.requested_at);
        Err(GivenAnswer { by, choice: decision.choice.clone(), at, event: None }.as_error(decision, decision.status))
    }

    /// The decision that is open for a matter.
    pub fn open_decision(&self, fingerprint: &str) -> Result<Option<Decision>> {
        self.query_opt(
            select!(Decision, "FROM decisions WHERE fingerprint = ?1 AND status = 'pending'"),
            [fingerprint],
            Decision::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Asks the human. If a question about the same matter is open, that one stands and its id is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty question, fewer than two options, two of one id, or a default that is none of them.
    pub fn ask(&self, new: &NewDecision, cause: Option<&Event>) -> Result<DecisionId> {
        if new.summary.trim().is_empty() || new.decision_type.trim().is_empty() {
            return Err(Error::Invalid("the question is empty; write what is to be decided".to_owned()));
        }
        let size =
            new.summary.len() + new.options.iter().map(|option| option.id.len() + option.description.len()).sum::<usize>();
        if size > MAX_QUESTION_BYTES {
            return Err(Error::Invalid(format!(
                "a question of {size} bytes is too long (maximum {MAX_QUESTION_BYTES}); write the details to a file and name it"
            )));
        }
        if new.options.len() < 2 {
            return Err(Error::Invalid("a decision needs at least two options".to_owned()));
        }
        for (at, option) in new.options.iter().enumerate() {
            let id = &option.id;
            if id.is_empty() || id.trim() != id || id.chars().any(char::is_control) {
                return Err(Error::Invalid(format!(
                    "option {id:?} is empty or not a single word; choose a name that can be typed"
                )));
            }
            if new.options[..at].iter().any(|other| other.id == *id) {
                return Err(Error::Invalid(format!("option {id:?} is named twice")));
            }
        }
        if let Some(default) = &new.default_option
            && !new.options.iter().any(|option| option.id == *default)
        {
            return Err(Error::Invalid(format!("the default {default:?} is not one of the options")));
        }
        if new.timeout_minutes.is_some_and(|minutes| minutes < 0) {
            return Err(Error::Invalid("the time limit must not be negative".to_owned()));
        }
        if let Some(fingerprint) = &new.fingerprint
            && let Some(open) = self.open_decision(fingerprint)?
        {
            return Ok(open.id);
        }
        let id = DecisionId::generate();
        let payload = DecisionNeeded {
            decision_id: id.clone(),
            decision_type: new.decision_type.clone(),
            summary: new.summary.clone(),
            options: new.options.clone(),
            default_option: new.default_option.clone(),
            timeout_minutes: new.timeout_minutes,
            context: new.context.clone(),
        };
        let event = self.publish(&NewEvent::new(new.requested_by.clone(), payload).caused_by_opt(cause))?;
        let expires_at = new.timeout_minutes.map(|minutes| self.now().plus_seconds(minutes.saturating_mul(60)));
        self.execute(
            "INSERT INTO decisions (id, decision_type, summary, options, default_option, context, timeout_minutes, requested_at,
               requested_by, fingerprint, expires_at, event_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                id,
                new.decision_type,
                new.summary,
                super::json(&new.options),
                new.default_option,
                new.context.to_string(),
                new.timeout_minutes,
                self.now(),
                new.requested_by,
                new.fingerprint,
                expires_at,
                event
            ],
        )?;
        Ok(id)
    }

    /// The human answers. The answer is an event; the asker's agent (`pm`) applies it, before any default: from here on it is
    /// the answer. Of two concurrent answers the first counts, and the other one is refused.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Settled`] if it is settled or answered already; [`Error::Invalid`] if the choice is no
    /// option; [`Error::Refused`] for a loop, which cannot answer for the human.
    pub fn answer(&self, id: &DecisionId, choice: &str, comment: Option<&str>, by: &ActorId, source: &str) -> Result<EventId> {
        let decision = self.decision(id)?;
        self.refuse_settled(&decision)?;
        let options = decision.option_ids();
        if !options.iter().any(|option| option == choice) {
            return Err(Error::Invalid(format!("{choice:?} is not an option of decision {id}; choose {}", options.join(", "))));
        }
        if self.find_loop(by.as_str())?.is_some() {
            return Err(Error::Refused(format!("loop {by} cannot answer decision {id}; the human must")));
        }
        if let Some(given) = self.waiting_answer(&decision)? {
            return Err(given.as_error(&decision, DecisionStatus::Pending));
        }
        let cause = match &decision.event_id {
            Some(event) => self.event(event.as_str())?,
            None => None,
        };
        let payload = HumanMessage {
            message_type: "decision_response".to_owned(),
            decision_id: Some(id.clone()),
            choice: Some(choice.to_owned()),
            comment: comment.map(str::to_owned),
            source: source.to_owned(),
        };
        self.publish(&NewEvent::new(by.clone(), payload).caused_by_opt(cause.as_ref()))
    }

    /// Settles a decision and says so. A choice makes it `decided` or `auto_resolved`, none `expired`. Time alone does not
    /// settle what the human has answered, even if pm has not got to the answer yet.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Settled`] if it is settled, or answered and not by the human now; [`Error::Invalid`] if
    /// the choice is no option.
    pub fn resolve_decision(
        &self,
        id: &DecisionId,
        choice: Option<&str>,
        by_human: bool,
        comment: Option<&str>,
        cause: Option<&Event>,
    ) -> Result<EventId> {
        let decision = self.decision(id)?;
        self.refuse_settled(&decision)?;
        if !by_human && let Some(given) = self.waiting_answer(&decision)? {
            return Err(given.as_error(&decision, DecisionStatus::Pending));
        }
        if let Some(choice) = choice
            && !decision.option_ids().iter().any(|option| option == choice)
        {
            return Err(Error::Invalid(format!("{choice:?} is not an option of decision {id}")));
        }
        let status = match (choice, by_human) {
            (Some(_), true) => DecisionStatus::Decided,
            (Some(_), false) => DecisionStatus::AutoResolved,
            (None, _) => DecisionStatus::Expired,
        };
        let decided_by = if by_human { "human" } else { "auto" };
        self.execute(
            "UPDATE decisions SET status = ?2, choice = ?3, decided_by = ?4, decided_at = ?5, comment = ?6 WHERE id = ?1",
            params![id, status, choice, decided_by, self.now(), comment],
        )?;
        let payload = DecisionResolved {
            decision_id: id.clone(),
            choice: choice.map(str::to_owned),
            decided_by: Some(decided_by.to_owned()),
            status: status.to_string(),
            comment: comment.map(str::to_owned),
        };
        let asked = match &decision.event_id {
            Some(event) => self.event(event.as_str())?,
            None => None,
        };
        let said = self.publish(&NewEvent::new(ActorId::trusted("pm"), payload).caused_by_opt(cause.or(asked.as_ref())))?;
        self.mark_announced(id, &said)?;
        Ok(said)
    }

    /// Publishes the result of a decision that another client has settled without an event.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] if it is open, or its result is published.
    pub fn announce_decision(&self, id: &DecisionId) -> Result<EventId> {
        let decision = self.decision(id)?;
        if decision.status == DecisionStatus::Pending {
            return Err(Error::Refused(format!("decision {id} is open; there is nothing to announce")));
        }
        if decision.context.get("resolved_event").is_some() {
            return Err(Error::Refused(format!("the result of decision {id} has been published already")));
        }
        let payload = DecisionResolved {
            decision_id: id.clone(),
            choice: decision.choice,
            decided_by: decision.decided_by,
            status: decision.status.to_string(),
            comment: decision.comment,
        };
        let said = self.publish(&NewEvent::new(ActorId::trusted("pm"), payload).caused_by_id(decision.event_id))?;
        self.mark_announced(id, &said)?;
        Ok(said)
    }

    /// Distinguishes a settled decision from one that another client has settled and pm has not applied.
    fn mark_announced(&self, id: &DecisionId, said: &EventId) -> Result<()> {
        self.execute(
            "UPDATE decisions SET context = json_set(context, '$.resolved_event', ?2)
             WHERE id = ?1 AND json_type(context) = 'object'",
            params![id, said],
        )?;
        Ok(())
    }
}
