//! How the loops' tests went, as the events tell it: attempts begun, failed, passed, blocked.
//!
//! Kept in memory because an event never changes: each look reads only those that are new. A test that has passed is
//! forgotten, so what is kept grows with the unfinished tests.

use std::collections::BTreeMap;

use coord_db::{EventId, LastResult, ReadTx, Result, Test, TestMark, TestStatus, Timestamp};

/// Older events than so many are not read at the start.
const MOST_EVENTS_BACK: i64 = 200_000;
/// So many marks of one test are kept.
const MOST_MARKS: usize = 256;
const BATCH: usize = 2_000;
/// So many tests take no room worth looking for.
const FEW_TESTS: usize = 32;

/// What an event said about a test.
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

/// What the events tell about one loop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoopTrail {
    /// When one of its tests passed or was blocked last: the end of a story.
    pub settled_at: Option<Timestamp>,
    /// When it first began an attempt after that.
    pub began_at: Option<Timestamp>,
    /// How many attempts it has begun after that.
    pub begun: i64,
    /// When it went on after a pause last.
    pub resumed_at: Option<Timestamp>,
}

/// Failures of one test in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many since its last pass or reset.
    pub count: i64,
    /// When the first of them was, where known.
    pub since: Option<Timestamp>,
    /// The event that said the last one, where one did.
    pub last_event: Option<EventId>,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// What is remembered.
#[derive(Debug, Default)]
pub struct Trail {
    position: i64,
    tests: BTreeMap<String, Vec<Mark>>,
    loops: BTreeMap<String, LoopTrail>,
    /// With more tests than this it is looked which of them are over.
    tidy_above: usize,
}

impl Trail {
    /// Reads the events that are new.
    pub(crate) fn catch_up(&mut self, tx: &ReadTx<'_>) -> Result<()> {
        let last = tx.last_event_position()?;
        if last < self.position {
            *self = Self::default();
        }
        self.position = self.position.max(last - MOST_EVENTS_BACK);
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

    /// No event says that a test was skipped or deleted: so now and then it is looked, each time that twice as many are kept.
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

    fn add(&mut self, said: TestMark) {
        let of_loop = self.loops.entry(said.loop_id.clone()).or_default();
        let kind = match said.event_type.as_str() {
            "test_started" => {
                of_loop.began_at.get_or_insert(said.at);
                of_loop.begun += 1;
                Kind::Started
            }
            "test_failed" => Kind::Failed,
            "loop_resumed" => {
                of_loop.resumed_at = Some(said.at);
                return;
            }
            ending => {
                *of_loop = LoopTrail { settled_at: Some(said.at), began_at: None, begun: 0, ..*of_loop };
                if ending == "test_passed"
                    && let Some(test) = &said.test_id
                {
                    self.tests.remove(test);
                }
                return;
            }
        };
        let Some(test) = said.test_id else { return };
        let marks = self.tests.entry(test).or_default();
        if marks.len() >= MOST_MARKS {
            marks.remove(0);
        }
        let TestMark { event_id, at, loop_id, attempt, error, .. } = said;
        marks.push(Mark { kind, event_id, at, loop_id, attempt, error });
    }

    /// What the events tell about a loop.
    pub(crate) fn of_loop(&self, id: &str) -> LoopTrail {
        self.loops.get(id).cloned().unwrap_or_default()
    }

    /// The tests that the events call failed at least so often.
    pub(crate) fn failing(&self, least: i64) -> impl Iterator<Item = &str> {
        self.tests
            .iter()
            .filter(move |(_, marks)| {
                let failed = marks.iter().filter(|mark| mark.kind == Kind::Failed).count();
                i64::try_from(failed).is_ok_and(|failed| failed >= least)
            })
            .map(|(test, _)| test.as_str())
    }

    /// The event that began the attempt that runs now, and when. None if the events do not tell.
    pub(crate) fn started(&self, test: &Test) -> Option<(EventId, Timestamp)> {
        let last = self.tests.get(test.id.as_str())?.last()?;
        (last.kind == Kind::Started).then(|| (last.event_id.clone(), last.at))
    }

    /// When the attempt in hand began, as events and row have it. None if its end was said since, or nobody knows.
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

    /// The failures in a row of a test's own loop, since the last pass or reset.
    ///
    /// Every claim is either counted in `attempts` or given back, so the test's life since its last reset, which no event
    /// tells, reaches back over `attempts + give_backs` claims. A row that nobody keeps says nothing of a reset: then the
    /// events alone count. Where there are none, the row alone does.
    pub(crate) fn failures(&self, test: &Test) -> Failures {
        let marks = self.tests.get(test.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        if !marks.iter().any(|mark| mark.kind == Kind::Failed) {
            return by_row(test, !marks.is_empty());
        }
        let claims = test.attempts + test.give_backs;
        let newest = marks.iter().rev().find(|mark| mark.kind == Kind::Started).and_then(|mark| mark.attempt);
        let kept = if claims == 0 {
            // As a reset leaves it. One that was never claimed has no time, and one in progress has been claimed.
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
