//! Rework: what was spent again, or in vain, because of what a loop did to another's work.
//!
//! The rule, all of it derived from events, so that every charge can be looked up with `loopctl why`:
//! - The attempts of a test are what lies between one `test_started` of it and the next.
//! - An attempt that ended in a failure that is not its agent's own, or by an order to its loop (`force_release`,
//!   `rollback_triggered`, `restart_requested`, `pause_requested`), ended without a result. What led to that end is followed back
//!   along `caused_by` to the first event that names another loop: a `test_passed` that landed first or a `file_conflict`
//!   (a conflict), a `force_release` with a cycle (a deadlock: the other loops of the cycle in equal parts), a
//!   `regression_detected` (its blamed loop). That loop is charged with the attempt.
//! - After a `regression_detected`, the attempts at the regressed and at the blamed test up to their next pass are
//!   repeated: the blamed loop is charged with them, also if it is the one that makes them.
//! - Each attempt is charged once. Where no event names a loop, nobody is charged: a human's rollback, a crash, an agent
//!   that failed by itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{Event, EventId, LoopId, Payload, ReadTx, Result, TestId, Timestamp};

/// How far back a cause is followed.
const MAX_STEPS: usize = 16;

/// Why something had to be done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReworkCause {
    /// Another loop's work on the same files landed or was put first.
    Conflict,
    /// Its leases were taken so that a deadlock ends.
    Deadlock,
    /// What had passed was broken.
    Regression,
}

impl ReworkCause {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Deadlock => "deadlock",
            Self::Regression => "regression",
        }
    }
}

/// What one loop has spent on a test because of a loop: another, or, after a regression, also itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rework {
    /// On which test.
    pub test_id: TestId,
    /// Who spent it; none where the record of use names no loop.
    pub loop_id: Option<LoopId>,
    /// Who is charged with it.
    pub charged_to: LoopId,
    /// Why.
    pub cause: ReworkCause,
    /// The event that names the loop that is charged.
    pub event_id: EventId,
    /// When it was recorded last.
    pub recorded_at: Timestamp,
    /// Tokens.
    pub tokens_estimated: i64,
    /// Seconds.
    pub duration_seconds: i64,
}

/// Who is to blame, in equal parts, and which event says so.
#[derive(Debug, Clone)]
struct Blame {
    loops: Vec<LoopId>,
    cause: ReworkCause,
    event_id: EventId,
}

/// A mark in the story of a test or of a loop.
struct Mark {
    event_id: EventId,
    at: Timestamp,
    event_type: String,
    /// Whether a failure may be somebody else's doing.
    foreign: bool,
}

#[derive(Default)]
struct Attempts {
    marks: Vec<Mark>,
}

impl Attempts {
    /// The marks of the attempt that a moment falls into: from its start to the next.
    fn around(&self, at: Timestamp) -> &[Mark] {
        let starts = |mark: &&Mark| mark.event_type == "test_started";
        let begin = self.marks.iter().rposition(|mark| starts(&mark) && mark.at <= at);
        let Some(begin) = begin else { return &[] };
        let end = self.marks[begin + 1..].iter().position(|mark| starts(&mark)).map_or(self.marks.len(), |at| begin + 1 + at);
        &self.marks[begin..end]
    }
}

/// What one event says about who is to blame for its effect on a loop's work.
fn names(event: &Event, victim: Option<&LoopId>) -> Option<Blame> {
    let other = |id: &LoopId| Some(id) != victim;
    let (loops, cause): (Vec<LoopId>, _) = match event.parse().ok()? {
        Payload::TestPassed(said) => (vec![said.loop_id], ReworkCause::Conflict),
        Payload::FileConflict(said) => (vec![said.loop_a, said.loop_b], ReworkCause::Conflict),
        Payload::ForceRelease(said) => {
            let cycle: BTreeSet<LoopId> = said.cycle.iter().filter_map(|id| id.parse().ok()).collect();
            (cycle.into_iter().collect(), ReworkCause::Deadlock)
        }
        Payload::RegressionDetected(said) => (said.blamed_loop.into_iter().collect(), ReworkCause::Regression),
        _ => return None,
    };
    let loops: Vec<LoopId> = loops.into_iter().filter(other).collect();
    (!loops.is_empty()).then(|| Blame { loops, cause, event_id: event.id.clone() })
}

impl ReadTx<'_> {
    /// What was spent because of others since a moment, oldest first.
    pub fn rework(&self, since: Option<Timestamp>) -> Result<Vec<Rework>> {
        let tests = self.test_stories(since)?;
        let orders = self.order_stories(since)?;
        let regressions = self.blamed_regressions()?;
        type Record = (Option<LoopId>, TestId, Timestamp, i64, i64);
        let records: Vec<Record> = self.query(
            "SELECT loop_id, test_id, recorded_at, tokens_estimated, duration_seconds FROM usage
             WHERE test_id IS NOT NULL AND recorded_at >= coalesce(?1, '') ORDER BY recorded_at, id",
            [since],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )?;
        let none = Attempts::default();
        // The records of one attempt have one blame.
        let mut known: BTreeMap<(EventId, Option<LoopId>), Option<Blame>> = BTreeMap::new();
        let mut rework: Vec<Rework> = Vec::new();
        for (loop_id, test_id, at, tokens, seconds) in records {
            let story = tests.get(test_id.as_str()).unwrap_or(&none);
            let attempt = story.around(at);
            let Some(start) = attempt.first() else { continue };
            let key = (start.event_id.clone(), loop_id.clone());
            let blame = match known.get(&key) {
                Some(blame) => blame.clone(),
                None => {
                    let orders = loop_id.as_ref().and_then(|id| orders.get(id.as_str()));
                    let mut blame = self.blame_for_end(attempt, orders, at, loop_id.as_ref())?;
                    if blame.is_none() {
                        blame = blame_for_regression(&regressions, story, &test_id, start.at);
                    }
                    known.insert(key, blame.clone());
                    blame
                }
            };
            let Some(blame) = blame else { continue };
            let parts = blame.loops.len() as i64;
            for (place, charged_to) in blame.loops.into_iter().enumerate() {
                let part = |whole: i64| whole / parts + i64::from((place as i64) < whole % parts);
                let same = rework.iter_mut().rev().take(64).find(|row| {
                    row.test_id == test_id
                        && row.loop_id == loop_id
                        && row.charged_to == charged_to
                        && row.event_id == blame.event_id
                });
                if let Some(row) = same {
                    row.tokens_estimated += part(tokens);
                    row.duration_seconds += part(seconds);
                    row.recorded_at = at;
                    continue;
                }
                rework.push(Rework {
                    test_id: test_id.clone(),
                    loop_id: loop_id.clone(),
                    charged_to,
                    cause: blame.cause,
                    event_id: blame.event_id.clone(),
                    recorded_at: at,
                    tokens_estimated: part(tokens),
                    duration_seconds: part(seconds),
                });
            }
        }
        Ok(rework)
    }

    /// Who caused an attempt to fail.
    fn blame_for_end(
        &self,
        attempt: &[Mark],
        orders: Option<&Attempts>,
        recorded_at: Timestamp,
        loop_id: Option<&LoopId>,
    ) -> Result<Option<Blame>> {
        let ended = attempt.iter().find(|mark| mark.event_type != "test_started");
        let cause = match ended {
            Some(end) if end.foreign => &end.event_id,
            Some(_) => return Ok(None),
            None => {
                let begun = attempt.first().map_or(recorded_at, |start| start.at);
                let given =
                    orders.and_then(|orders| orders.marks.iter().find(|order| order.at >= begun && order.at <= recorded_at));
                match given {
                    Some(order) => &order.event_id,
                    None => return Ok(None),
                }
            }
        };
        let mut next = Some(cause.clone());
        for _ in 0..MAX_STEPS {
            let Some(event) = next.take().map(|id| self.event(id.as_str())).transpose()?.flatten() else { return Ok(None) };
            if let Some(blame) = names(&event, loop_id) {
                return Ok(Some(blame));
            }
            next = event.caused_by;
        }
        Ok(None)
    }

    /// Starts and ends of the attempts at each test, in the order of their commits.
    fn test_stories(&self, since: Option<Timestamp>) -> Result<BTreeMap<String, Attempts>> {
        // An attempt whose cost was recorded since then may have begun before.
        let since = since.map(|since| since.plus_seconds(-7 * 86_400));
        let rows: Vec<(String, Mark)> = self.query(
            "SELECT json_extract(payload, '$.test_id'), id, timestamp, event_type,
               CASE WHEN json_extract(payload, '$.error_category') IN ('conflict', 'transient', 'system', 'resource', 'dependency')
                 THEN 1 ELSE 0 END
             FROM events
             WHERE event_type IN ('test_started', 'test_failed', 'test_passed') AND timestamp >= coalesce(?1, '')
               AND json_type(payload, '$.test_id') = 'text'
             ORDER BY rowid",
            [since],
            |row| {
                let (event_id, at, event_type) = (row.get(1)?, row.get(2)?, row.get(3)?);
                Ok((row.get(0)?, Mark { event_id, at, event_type, foreign: row.get(4)? }))
            },
        )?;
        Ok(gather(rows))
    }

    /// Orders to each loop that end an attempt.
    fn order_stories(&self, since: Option<Timestamp>) -> Result<BTreeMap<String, Attempts>> {
        let since = since.map(|since| since.plus_seconds(-7 * 86_400));
        let rows: Vec<(String, Mark)> = self.query(
            "SELECT json_extract(payload, '$.loop_id'), id, timestamp, event_type FROM events
             WHERE event_type IN ('force_release', 'rollback_triggered', 'restart_requested', 'pause_requested')
               AND timestamp >= coalesce(?1, '') AND json_type(payload, '$.loop_id') = 'text'
             ORDER BY rowid",
            [since],
            |row| Ok((row.get(0)?, Mark { event_id: row.get(1)?, at: row.get(2)?, event_type: row.get(3)?, foreign: true })),
        )?;
        Ok(gather(rows))
    }

    /// Regressions that a loop is blamed for: when, which tests they make be done again, and the blame.
    fn blamed_regressions(&self) -> Result<Vec<(Timestamp, Vec<TestId>, Blame)>> {
        let mut found = Vec::new();
        let filter = crate::EventFilter { event_type: Some("regression_detected".to_owned()), ..Default::default() };
        for event in self.events(&filter)? {
            let Ok(Payload::RegressionDetected(said)) = event.parse() else { continue };
            let Some(blamed) = said.blamed_loop else { continue };
            let tests = [Some(said.test_id), said.blamed_test].into_iter().flatten().collect();
            let blame = Blame { loops: vec![blamed], cause: ReworkCause::Regression, event_id: event.id };
            found.push((event.timestamp, tests, blame));
        }
        Ok(found)
    }
}

fn gather(rows: Vec<(String, Mark)>) -> BTreeMap<String, Attempts> {
    let mut stories: BTreeMap<String, Attempts> = BTreeMap::new();
    for (key, mark) in rows {
        stories.entry(key).or_default().marks.push(mark);
    }
    stories
}

/// The last regression before an attempt that its test has not passed since.
fn blame_for_regression(
    regressions: &[(Timestamp, Vec<TestId>, Blame)],
    story: &Attempts,
    test: &TestId,
    begun: Timestamp,
) -> Option<Blame> {
    let passed =
        |from: Timestamp| story.marks.iter().any(|mark| mark.event_type == "test_passed" && mark.at > from && mark.at <= begun);
    let found = regressions.iter().rev().find(|(at, tests, _)| *at <= begun && tests.contains(test) && !passed(*at));
    found.map(|(_, _, blame)| blame.clone())
}
