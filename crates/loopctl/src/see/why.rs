//! `loopctl why`: what led to an event, up to the root, and everything it led to.

use std::collections::HashSet;

use coord_db::{Error, Event, EventFilter, EventId, IdOf, ReadTx, short_id};
use serde_json::json;

use super::proofs::{self, Evidence};
use super::timeline::urgency;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::history::History;
use crate::ids::{self, Short};
use crate::output::Paint;
use crate::sentence::{JsonEvent, json_events, sentence};
use crate::text::safe;
use crate::when::clock;

struct Story {
    /// The root first.
    causes: Vec<Event>,
    event: Event,
    /// In the order of the tree; depth 1 is a direct effect.
    effects: Vec<(usize, Event)>,
    /// The id that the root names as its cause, if that event is gone.
    lost_cause: Option<EventId>,
    short: Short,
    /// What is behind the event, if it tells how an attempt ended.
    evidence: Option<Evidence>,
}

/// `loopctl why EVENT_ID`
///
/// # Errors
/// Exit 4 for an unknown event, 2 for the beginning of more than one id.
pub fn show(cx: &Context, given: &str) -> Outcome {
    let db = cx.open()?;
    let history = History::open(&db);
    let story = db.read(|tx| {
        let found = find(tx, &history, given)?;
        found.map(|event| look(tx, &history, event)).transpose().map_err(Failure::from)
    })?;
    let Some(story) = story else {
        history.into_missing()?;
        return Err(Failure::not_found("event", given));
    };
    if cx.out.json {
        let effect = |(depth, event): &(usize, Event)| {
            let mut row = json!(JsonEvent::from(event));
            row["depth"] = json!(depth);
            row
        };
        return cx.out.document(&json!({
            "evidence": story.evidence,
            "causes": json_events(&story.causes),
            "event": JsonEvent::from(&story.event),
            "effects": story.effects.iter().map(effect).collect::<Vec<_>>(),
        }));
    }
    cx.out.text(&tree(cx, &story))
}

fn find(tx: &ReadTx<'_>, history: &History, given: &str) -> Outcome<Option<Event>> {
    let found = history.event_ids(tx, given)?;
    // A commit or the trailer of one is no event's id, but may begin or end like one.
    if found.len() != 1
        && let Some(event) = of_landing(tx, history, given)?
    {
        return Ok(Some(event));
    }
    match ids::only(IdOf::Event, given, found)? {
        Some(id) => Ok(history.event(tx, &id)?),
        None => Ok(None),
    }
}

/// The event that tells how the attempt ended that a commit or a proof is of.
fn of_landing(tx: &ReadTx<'_>, history: &History, given: &str) -> Outcome<Option<Event>> {
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
fn of_sync(tx: &ReadTx<'_>, history: &History, given: &str) -> Outcome<Option<Event>> {
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

fn look(tx: &ReadTx<'_>, history: &History, event: Event) -> Result<Story, Error> {
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

fn tree(cx: &Context, story: &Story) -> String {
    let mut text = String::new();
    if let Some(id) = &story.lost_cause {
        let note = format!("(caused by {}, which is no longer in the database)", short_id(id.as_str()));
        text.push_str(&format!("{}\n", cx.out.paint(Paint::Dim, &safe(&note))));
    }
    let above = story.causes.len();
    for (depth, cause) in story.causes.iter().enumerate() {
        text.push_str(&line(cx, story, depth, cause));
    }
    text.push_str(&line(cx, story, above, &story.event));
    if let Some(evidence) = &story.evidence {
        text.push_str(&proofs::describe(cx, evidence, &"   ".repeat(above.min(DEEPEST) + 1)));
    }
    for (depth, effect) in &story.effects {
        text.push_str(&line(cx, story, above + depth, effect));
    }
    text
}

/// However deep a story is, its lines stay on the screen.
const DEEPEST: usize = 24;

fn line(cx: &Context, story: &Story, depth: usize, event: &Event) -> String {
    let branch = if depth == 0 { String::new() } else { format!("{}└─ ", "   ".repeat(depth.min(DEEPEST) - 1)) };
    let mark = if event.id == story.event.id { cx.out.paint(Paint::Bold, "▶ ") } else { String::new() };
    format!(
        "{branch}{mark}{} {}: {}  {}\n",
        cx.out.paint(urgency(event), &safe(&event.event_type)),
        cx.out.paint(Paint::Dim, &safe(&format!("by {} at {}", event.source, clock(event.timestamp)))),
        sentence(event),
        cx.out.paint(Paint::Dim, &safe(story.short.get(event.id.as_str())))
    )
}
