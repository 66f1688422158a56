//! The history of the loops' tests from the events: attempts started, failed, passed, blocked.
//!
//! It is cached because events never change: each pass reads only the new ones. Tests that have passed are removed, so
//! the cache grows only with the number of unfinished tests.

use std::collections::BTreeMap;

use coord_db::{EventId, LastResult, ReadTx, Result, Test, TestMark, TestStatus, Timestamp};

/// Maximum number of events read at the start; older ones are ignored.
const MAX_EVENTS_BACK: i64 = 200_000;
/// Maximum number of marks kept for one test.
const MAX_MARKS: usize = 256;
const BATCH: usize = 2_000;
/// Minimum number of cached tests before finished ones are looked for.
const FEW_TESTS: usize = 32;

/// What an event reports about a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Started,
    Failed,
}

#[derive(Debug, Clone)]
struct Mark {
    kind: Kind,
    event_id: EventId,
    at: Timestamp,
    loop_id: String,
    attempt: Option<i64>,
    error: Option<String>,
}

/// What the events report about one loop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoopTrail {
    /// Last time that one of its tests passed or was blocked.
    pub settled_at: Option<Timestamp>,
    /// Start of the first attempt after that.
    pub began_at: Option<Timestamp>,
    /// Number of attempts started after that.
    pub begun: i64,
    /// Last time that it was resumed after a pause.
    pub resumed_at: Option<Timestamp>,
}

/// Consecutive failures of one test.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// Number of failures since the last pass or reset.
    pub count: i64,
    /// Time of the first of them, if known.
    pub since: Option<Timestamp>,
    /// The event that reported the last failure, if there is one.
    pub last_event: Option<EventId>,
    /// The last error message.
    pub last_error: Option<String>,
}

/// The cached history.
#[derive(Debug, Default)]
pub struct Trail {
    position: i64,
    tests: BTreeMap<String, Vec<Mark>>,
    loops: BTreeMap<String, LoopTrail>,
    /// Number of cached tests above which finished ones are looked for.
    tidy_above: usize,
}

impl Trail {
    /// Reads the new events.
    pub(crate) fn catch_up(&mut self, tx: &ReadTx<'_>) -> Result<()> {
        let last = tx.last_event_position()?;
        if last < self.position {
            *self = Self::default();
        }
        self.position = self.position.max(last - MAX_EVENTS_BACK);
        while self.position < last {
            let marks = tx.test_marks_after(self.position, BATCH)?;
            let all = marks.len() < BATCH;
            for mark in marks {
                self.position = mark.position;
                self.add(mark);
            }
            if all {
                self.position = last;
            }
        }
        self.tidy(tx)
    }

    /// Removes finished tests. No event reports a skipped or deleted test, so the rows are read each time the cache has
    /// doubled.
    fn tidy(&mut self, tx: &ReadTx<'_>) -> Result<()> {
        if self.tests.len() <= self.tidy_above.max(FEW_TESTS) {
            return Ok(());
        }
        let mut over = Vec::new();
        for id in self.tests.keys() {
            if tx.find_test(id)?.is_none_or(|test| matches!(test.status, TestStatus::Passed | TestStatus::Skipped)) {
                over.push(id.clone());
            }
        }
        over.iter().for_each(|id| drop(self.tests.remove(id)));
        self.tidy_above = self.tests.len() * 2;
        Ok(())
    }

    fn add(&mut self, mark: TestMark) {
        let of_loop = self.loops.entry(mark.loop_id.clone()).or_default();
        let kind = match mark.event_type.as_str() {
            "test_started" => {
                of_loop.began_at.get_or_insert(mark.at);
                of_loop.begun += 1;
                Kind::Started
            }
            "test_failed" => Kind::Failed,
            "loop_resumed" => {
                of_loop.resumed_at = Some(mark.at);
                return;
            }
            ending => {
                *of_loop = LoopTrail { settled_at: Some(mark.at), began_at: None, begun: 0, ..*of_loop };
                if ending == "test_passed"
                    && let Some(test) = &mark.test_id
                {
                    self.tests.remove(test);
                }
                return;
            }
        };
        let Some(test) = mark.test_id else { return };
        let marks = self.tests.entry(test).or_default();
        if marks.len() >= MAX_MARKS {
            marks.remove(0);
        }
        let TestMark { event_id, at, loop_id, attempt, error, .. } = mark;
        marks.push(Mark { kind, event_id, at, loop_id, attempt, error });
    }

    /// The history of a loop.
    pub(crate) fn of_loop(&self, id: &str) -> LoopTrail {
        self.loops.get(id).cloned().unwrap_or_default()
    }

    /// The tests with at least this number of failures in the events.
    pub(crate) fn failing(&self, least: i64) -> impl Iterator<Item = &str> {
        self.tests
            .iter()
            .filter(move |(_, marks)| {
                let failed = marks.iter().filter(|mark| mark.kind == Kind::Failed).count();
                i64::try_from(failed).is_ok_and(|failed| failed >= least)
            })
            .map(|(test, _)| test.as_str())
    }

    /// The event that reported the start of the current attempt, and its time. None if the events do not show it.
    pub(crate) fn started(&self, test: &Test) -> Option<(EventId, Timestamp)> {
        let last = self.tests.get(test.id.as_str())?.last()?;
        (last.kind == Kind::Started).then(|| (last.event_id.clone(), last.at))
    }

    /// Start of the current attempt according to events and row. None if it has ended or is unknown.
    pub(crate) fn attempt_since(&self, test: &Test) -> Option<Timestamp> {
        if test.status != TestStatus::InProgress {
            return None;
        }
        match self.tests.get(test.id.as_str()).and_then(|marks| marks.last()) {
            Some(mark) if mark.kind == Kind::Started => Some(test.last_attempt_at.map_or(mark.at, |at| at.max(mark.at))),
            Some(failed) => test.last_attempt_at.filter(|at| *at > failed.at),
            None => test.last_attempt_at,
        }
    }

    /// The consecutive failures of a test in its own loop since the last pass or reset.
    ///
    /// Each claim of a test is counted in `attempts` or in `give_backs`, so the time since the last reset, for which
    /// there is no event, covers `attempts + give_backs` claims. If nobody maintains these columns, all events count.
    /// Without events, the row counts.
    pub(crate) fn failures(&self, test: &Test) -> Failures {
        let marks = self.tests.get(test.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        if !marks.iter().any(|mark| mark.kind == Kind::Failed) {
            return by_row(test, !marks.is_empty());
        }
        let claims = test.attempts + test.give_backs;
        let newest = marks.iter().rev().find(|mark| mark.kind == Kind::Started).and_then(|mark| mark.attempt);
        let kept = if claims == 0 {
            // The state after a reset. A test that was never claimed has no time, and one in progress has been claimed.
            test.status == TestStatus::Pending && test.last_attempt_at.is_some()
        } else {
            newest.is_none_or(|attempt| attempt <= test.attempts + 1)
        };
        let mut failures = Failures::default();
        let mut begun = 0;
        for mark in marks.iter().rev() {
            if kept && begun >= claims {
                break;
            }
            match mark.kind {
                Kind::Started => begun += 1,
                Kind::Failed if mark.loop_id == test.loop_id.as_str() => {
                    if failures.count == 0 {
                        failures.last_event = Some(mark.event_id.clone());
                        failures.last_error = mark.error.clone();
                    }
                    failures.count += 1;
                    failures.since = Some(mark.at);
                }
                Kind::Failed => {}
            }
        }
        failures
    }
}

fn by_row(test: &Test, begun: bool) -> Failures {
    if test.last_result != Some(LastResult::Fail) {
        return Failures::default();
    }
    let running = begun && test.status == TestStatus::InProgress;
    Failures {
        count: (test.attempts - i64::from(running)).max(0),
        since: test.last_attempt_at,
        last_event: None,
        last_error: test.last_error.clone(),
    }
}
