//! What led to an event, up to the root, and everything it led to.

use std::collections::HashSet;

use coord_db::{Error, Event, EventFilter, EventId, IdOf, ReadTx};

use crate::history::History;
use crate::ids::Short;
use crate::proofs::{self, Evidence};

/// An event with what led to it and what it led to.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Story {
    /// The root first.
    pub causes: Vec<Event>,
    pub event: Event,
    /// In the order of the tree; depth 1 is a direct effect.
    pub effects: Vec<(usize, Event)>,
    /// The id that the root names as its cause, if that event no longer exists.
    pub lost_cause: Option<EventId>,
    pub short: Short,
    /// What is behind the event, if it tells how an attempt ended.
    pub evidence: Option<Evidence>,
}

/// The newest event that tells how a test stands: how its last attempt ended, or that it has begun.
///
/// # Errors
/// What the database reports.
pub fn of_test(tx: &ReadTx<'_>, history: &History, test: &str) -> Result<Option<Event>, Error> {
    const TELLING: [&str; 6] =
        ["test_passed", "test_failed", "test_blocked", "regression_detected", "regression_cleared", "test_started"];
    if tx.find_test(test)?.is_none() {
        return Ok(None);
    }
    let filter = EventFilter { test_id: Some(test.to_owned()), ..EventFilter::default() };
    let events = history.events(tx.events(&filter)?, &filter)?;
    Ok(events.into_iter().rev().find(|event| TELLING.contains(&event.event_type.as_str())))
}

/// The event that tells how the attempt ended that a commit or a proof is of.
/// # Errors
/// What the database reports.
pub fn of_landing(tx: &ReadTx<'_>, history: &History, given: &str) -> Result<Option<Event>, Error> {
    let Some((test, commit)) = proofs::landing(tx, given)? else { return of_sync(tx, history, given) };
    let of_test = |event_type: &str| {
        let filter =
            EventFilter { event_type: Some(event_type.to_owned()), test_id: Some(test.to_string()), ..EventFilter::default() };
        history.events(tx.events(&filter)?, &filter)
    };
    let passed = of_test("test_passed")?.into_iter().rev().find(|event| event.payload["commit"].as_str() == Some(&commit));
    if passed.is_some() {
        return Ok(passed);
    }
    let proof = tx.proofs_of_commit(&commit)?.pop();
    Ok(of_test("test_failed")?
        .into_iter()
        .find(|event| proof.as_ref().is_some_and(|proof| event.timestamp >= proof.created_at)))
}

/// The event that tells how a commit came in that is the user's, or that has brought commits of the user's in.
fn of_sync(tx: &ReadTx<'_>, history: &History, given: &str) -> Result<Option<Event>, Error> {
    const SHORTEST: usize = 7;
    let filter = EventFilter { event_type: Some("synced".to_owned()), ..EventFilter::default() };
    let is_its = |event: &Event| {
        ["commit", "theirs"].iter().any(|key| event.payload[*key].as_str().is_some_and(|hash| hash.starts_with(given)))
    };
    if given.len() < SHORTEST {
        return Ok(None);
    }
    Ok(history.events(tx.events(&filter)?, &filter)?.into_iter().rev().find(is_its))
}

/// Reads the story of an event.
///
/// # Errors
/// What the database reports.
pub fn look(tx: &ReadTx<'_>, history: &History, event: Event) -> Result<Story, Error> {
    // A foreign writer can tie events in a ring; each is shown once.
    let mut seen: HashSet<EventId> = HashSet::from([event.id.clone()]);
    let mut causes = Vec::new();
    let mut lost_cause = None;
    let mut next = event.caused_by.clone();
    while let Some(id) = next {
        if !seen.insert(id.clone()) {
            break;
        }
        match history.event(tx, id.as_str())? {
            Some(cause) => {
                next = cause.caused_by.clone();
                causes.push(cause);
            }
            None => {
                lost_cause = Some(id);
                break;
            }
        }
    }
    causes.reverse();
    let mut effects = Vec::new();
    let mut open: Vec<(usize, Event)> = Vec::new();
    let push = |open: &mut Vec<(usize, Event)>, depth: usize, id: &EventId| -> Result<(), Error> {
        open.extend(history.effects_of(tx, id)?.into_iter().rev().map(|effect| (depth, effect)));
        Ok(())
    };
    push(&mut open, 1, &event.id)?;
    while let Some((depth, effect)) = open.pop() {
        if seen.insert(effect.id.clone()) {
            push(&mut open, depth + 1, &effect.id)?;
            effects.push((depth, effect));
        }
    }
    let evidence = proofs::behind(tx, &event)?;
    let shown = causes.iter().chain([&event]).chain(effects.iter().map(|(_, effect)| effect)).map(|event| event.id.as_str());
    let short = Short::of(tx, IdOf::Event, shown)?;
    Ok(Story { causes, event, effects, lost_cause, short, evidence })
}
