//! Loops as lanes on a time axis: what each of them did when, and the results.

use std::collections::BTreeMap;

use coord_db::{Error, Event, LoopId, ReadTx, Run, RunOf, TestId, Timestamp};
use serde::Serialize;

/// What a loop does during a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Its agent runs.
    Working,
    /// A check runs.
    Gate,
    /// It is in an attempt, and nothing runs: it waits for a lease, a permission, an answer or the head of integration.
    Waiting,
    /// It is paused.
    Paused,
}

/// A stretch of time in which a loop does one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Segment {
    pub from: Timestamp,
    /// The end of the period if it has not ended.
    pub to: Timestamp,
    pub doing: Doing,
    pub test: Option<TestId>,
    pub attempt: i64,
    /// True if it has not ended.
    pub open: bool,
}

/// The result of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Verified alone, and queued to land.
    Queued,
    /// Verified and landed.
    Landed,
    /// Failed.
    Failed,
    /// A test that had passed fails.
    Regressed,
}

/// The moment of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Mark {
    pub at: Timestamp,
    pub outcome: Outcome,
    pub test: Option<TestId>,
    pub attempt: i64,
}

/// One loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Lane {
    pub loop_id: LoopId,
    /// In the order of time; none overlaps another.
    pub segments: Vec<Segment>,
    pub marks: Vec<Mark>,
}

/// All loops over one period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Lanes {
    pub since: Timestamp,
    pub until: Timestamp,
    /// In the order of priority.
    pub lanes: Vec<Lane>,
}

impl Lanes {
    /// The same without the time in which nothing had happened yet.
    #[must_use]
    pub fn from_first_activity(mut self) -> Self {
        let begun = |lane: &Lane| [lane.segments.first().map(|segment| segment.from), lane.marks.first().map(|mark| mark.at)];
        if let Some(first) = self.lanes.iter().flat_map(begun).flatten().min() {
            // A margin, so that the first mark is not cut; and not so little that seconds fill the picture.
            let begin = first.plus_millis(-(self.until.millis_since(first) / 50));
            self.since = begin.min(self.until.plus_seconds(-60)).max(self.since);
        }
        self
    }
}

const TYPES: [&str; 7] =
    ["test_started", "test_failed", "landing_queued", "test_passed", "regression_detected", "loop_paused", "loop_resumed"];

/// Reads the lanes of all loops since a moment.
///
/// # Errors
/// What the database reports.
pub fn look(tx: &ReadTx<'_>, since: Timestamp) -> Result<Lanes, Error> {
    let until = tx.now();
    let loops: Vec<(LoopId, Option<TestId>)> = tx.loops()?.into_iter().map(|row| (row.id, row.current_test_id)).collect();
    let events = tx.events_of_types(&TYPES, since)?;
    let runs = tx.runs_since(since)?;
    Ok(Lanes { since, until, lanes: lanes(&loops, &events, &runs, (since, until)) })
}

/// A stretch that may reach beyond the period, with where its attempt ended.
struct Stretch<'a> {
    from: Timestamp,
    to: Option<Timestamp>,
    test: Option<&'a str>,
    attempt: i64,
}

fn lanes(
    loops: &[(LoopId, Option<TestId>)],
    events: &[Event],
    runs: &[Run],
    (since, until): (Timestamp, Timestamp),
) -> Vec<Lane> {
    let mut of_loop: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        // A regression belongs to the loop that broke the test.
        let key = if event.event_type == "regression_detected" { "blamed_loop" } else { "loop_id" };
        if let Some(id) = event.payload[key].as_str() {
            of_loop.entry(id).or_default().push(event);
        }
    }
    loops
        .iter()
        .map(|(id, current)| {
            let events = of_loop.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
            let own: Vec<&Run> = runs.iter().filter(|run| run.loop_id == *id).collect();
            let mut pieces: Vec<Segment> = Vec::new();
            let mut push = |stretch: &Stretch<'_>, doing: Doing| {
                let (from, to) = (stretch.from.max(since), stretch.to.unwrap_or(until).min(until));
                if from < to {
                    let test = stretch.test.and_then(|test| test.parse().ok());
                    pieces.push(Segment { from, to, doing, test, attempt: stretch.attempt, open: stretch.to.is_none() });
                }
            };
            for run in &own {
                let stretch = Stretch {
                    from: run.started_at,
                    to: run.ended_at,
                    test: run.test_id.as_ref().map(TestId::as_str),
                    attempt: run.attempt,
                };
                push(&stretch, if run.kind == RunOf::Agent { Doing::Working } else { Doing::Gate });
            }
            for stretch in attempts(events, &own, current.as_ref()) {
                push(&stretch, Doing::Waiting);
            }
            for stretch in pauses(events) {
                push(&stretch, Doing::Paused);
            }
            let marks = events.iter().filter_map(|event| mark(event)).collect();
            Lane { loop_id: id.clone(), segments: flatten(pieces), marks }
        })
        .collect()
}

/// The attempts of a loop. One ends with its outcome, with the next attempt, or with its last run if nobody recorded its end.
fn attempts<'a>(events: &[&'a Event], runs: &[&Run], current: Option<&TestId>) -> Vec<Stretch<'a>> {
    let mut attempts: Vec<Stretch<'a>> = Vec::new();
    for event in events {
        let open = attempts.last_mut().filter(|last| last.to.is_none());
        match event.event_type.as_str() {
            "test_started" => {
                if let Some(open) = open {
                    open.to = Some(event.timestamp);
                }
                let attempt = event.payload["attempt"].as_i64().unwrap_or(0);
                attempts.push(Stretch { from: event.timestamp, to: None, test: event.payload["test_id"].as_str(), attempt });
            }
            "test_failed" | "landing_queued" | "test_passed" => {
                if let Some(open) = open.filter(|open| open.test == event.payload["test_id"].as_str()) {
                    open.to = Some(event.timestamp);
                }
            }
            _ => {}
        }
    }
    if let Some(open) = attempts.last_mut().filter(|last| last.to.is_none())
        && open.test != current.map(TestId::as_str)
    {
        let ended = runs.iter().filter(|run| run.started_at >= open.from).filter_map(|run| run.ended_at).max();
        open.to = Some(ended.unwrap_or(open.from));
    }
    attempts
}

fn pauses<'a>(events: &[&'a Event]) -> Vec<Stretch<'a>> {
    let mut pauses: Vec<Stretch<'a>> = Vec::new();
    for event in events {
        let open = pauses.last_mut().filter(|last| last.to.is_none());
        match (event.event_type.as_str(), open) {
            ("loop_paused", None) => pauses.push(Stretch { from: event.timestamp, to: None, test: None, attempt: 0 }),
            ("loop_resumed" | "test_started", Some(open)) => open.to = Some(event.timestamp),
            _ => {}
        }
    }
    pauses
}

fn mark(event: &Event) -> Option<Mark> {
    let outcome = match event.event_type.as_str() {
        "landing_queued" => Outcome::Queued,
        "test_passed" => Outcome::Landed,
        "test_failed" => Outcome::Failed,
        "regression_detected" => Outcome::Regressed,
        _ => return None,
    };
    let test = event.payload["test_id"].as_str().and_then(|id| id.parse().ok());
    Some(Mark { at: event.timestamp, outcome, test, attempt: event.payload["attempt"].as_i64().unwrap_or(0) })
}

/// Pieces that overlap, as segments that do not: the earlier in [`Doing`]'s order covers the later.
fn flatten(mut pieces: Vec<Segment>) -> Vec<Segment> {
    let rank = |doing: Doing| match doing {
        Doing::Working => 0,
        Doing::Gate => 1,
        Doing::Waiting => 2,
        Doing::Paused => 3,
    };
    pieces.sort_by_key(|piece| (rank(piece.doing), piece.from));
    let mut segments: Vec<Segment> = Vec::new();
    for piece in pieces {
        let mut free = vec![piece];
        for taken in &segments {
            if free.iter().any(|piece| taken.from < piece.to && piece.from < taken.to) {
                free = free.into_iter().flat_map(|piece| without(piece, taken)).collect();
            }
        }
        segments.extend(free);
    }
    segments.sort_by_key(|segment| segment.from);
    segments
}

/// What of a piece lies outside another one.
fn without(piece: Segment, taken: &Segment) -> Vec<Segment> {
    if taken.to <= piece.from || piece.to <= taken.from {
        return vec![piece];
    }
    let mut left = Vec::new();
    if piece.from < taken.from {
        left.push(Segment { to: taken.from, open: false, ..piece.clone() });
    }
    if taken.to < piece.to {
        left.push(Segment { from: taken.to, ..piece });
    }
    left
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_support::sample_event;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn event(second: i64, event_type: &str, test: &str) -> Event {
        Event {
            timestamp: at(second),
            event_type: event_type.to_owned(),
            payload: json!({"loop_id": "a", "blamed_loop": "a", "test_id": test, "attempt": 1}),
            ..sample_event(&format!("e{second}"))
        }
    }

    fn run(kind: RunOf, test: &str, from: i64, to: Option<i64>) -> Run {
        Run {
            id: format!("r{from}"),
            loop_id: "a".parse().unwrap(),
            test_id: Some(test.parse().unwrap()),
            attempt: 1,
            kind,
            name: "n".to_owned(),
            log: "l".to_owned(),
            started_at: at(from),
            ended_at: to.map(at),
            outcome: None,
            session: None,
            session_used: None,
            progress: None,
        }
    }

    /// Lanes of the loop `a`, which works on a test now, as `W2-5`.
    fn drawn(current: Option<&str>, events: &[Event], runs: &[Run]) -> String {
        let loops = [("a".parse().unwrap(), current.map(|test| test.parse().unwrap()))];
        let lanes = lanes(&loops, events, runs, (at(10), at(100)));
        let draw = |segment: &Segment| {
            let letter = match segment.doing {
                Doing::Working => 'W',
                Doing::Gate => 'G',
                Doing::Waiting => '.',
                Doing::Paused => 'P',
            };
            let seconds = |time: Timestamp| time.seconds_since(at(0));
            format!("{letter}{}-{}{}", seconds(segment.from), seconds(segment.to), if segment.open { "+" } else { "" })
        };
        lanes[0].segments.iter().map(draw).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_attempt_is_work_checks_and_waits() {
        let events = [event(20, "test_started", "t"), event(60, "landing_queued", "t"), event(80, "test_passed", "t")];
        let runs = [run(RunOf::Agent, "t", 22, Some(40)), run(RunOf::Check, "t", 45, Some(60))];
        assert_eq!(drawn(None, &events, &runs), ".20-22 W22-40 .40-45 G45-60");
    }

    #[test]
    fn what_runs_now_is_open_and_what_nobody_ended_ends_with_its_last_run() {
        let events = [event(20, "test_started", "t")];
        assert_eq!(drawn(Some("t"), &events, &[run(RunOf::Agent, "t", 30, None)]), ".20-30 W30-100+");
        assert_eq!(drawn(Some("t"), &events, &[run(RunOf::Agent, "t", 30, Some(40))]), ".20-30 W30-40 .40-100+");
        assert_eq!(drawn(None, &events, &[run(RunOf::Agent, "t", 30, Some(40))]), ".20-30 W30-40");
        assert_eq!(drawn(None, &events, &[]), "");
    }

    #[test]
    fn the_period_cuts_and_a_pause_shows_where_nothing_else_does() {
        let events = [event(12, "loop_paused", "t"), event(30, "loop_resumed", "t")];
        assert_eq!(drawn(None, &events, &[run(RunOf::Check, "t", 2, Some(15))]), "G10-15 P15-30");
    }

    #[test]
    fn marks_are_the_results_of_attempts() {
        let events = [event(20, "test_failed", "t"), event(30, "regression_detected", "u"), event(40, "test_passed", "t")];
        let lanes = lanes(&[("a".parse().unwrap(), None)], &events, &[], (at(0), at(50)));
        let outcomes: Vec<Outcome> = lanes[0].marks.iter().map(|mark| mark.outcome).collect();
        assert_eq!(outcomes, [Outcome::Failed, Outcome::Regressed, Outcome::Landed]);
    }
}
