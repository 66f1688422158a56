//! `loopctl why`: what led to an event, up to the root, and everything it led to.

use coord_db::{Event, IdOf, ReadTx, short_id};
use serde_json::json;
use views::history::History;
use views::sentence::{JsonEvent, json_events, sentence};
use views::story::{Story, look, of_landing, of_test};
use views::text::safe;
use views::when::clock;

use super::proofs;
use super::timeline::urgency;
use crate::context::{Context, history};
use crate::exit::{Failure, Outcome};
use crate::ids;
use crate::output::Paint;

/// `loopctl why EVENT|COMMIT|PROOF|TEST`
///
/// # Errors
/// Exit 4 for an unknown event, 2 for the beginning of more than one id.
pub fn show(cx: &Context, given: &str) -> Outcome {
    let db = cx.open()?;
    let history = history(&db);
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
    if let Some(event) = of_test(tx, history, given)? {
        return Ok(Some(event));
    }
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
        cx.out.paint(Paint::BoldEnd(story.short.enough(event.id.as_str())), &safe(story.short.get(event.id.as_str())))
    )
}
