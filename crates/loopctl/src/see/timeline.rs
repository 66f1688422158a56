//! `loopctl timeline`: what happened, one line for each event.

use coord_db::wake::{Listener, SLOW_LOOK};
use coord_db::{Database, Error, Event, EventFilter, IdOf, ReadTx};
use views::ids::Short;
use views::sentence::{JsonEvent, json_events, sentence};
use views::text::safe;
use views::when::clock;

use crate::cli::TimelineArgs;
use crate::context::{Context, history};
use crate::exit::Outcome;
use crate::output::Paint;

/// Shown unless something else narrows the list.
const NEWEST: i64 = 100;
/// Shown of the past before following.
const BEFORE_FOLLOWING: i64 = 10;

/// `loopctl timeline`
///
/// # Errors
/// What the database reports.
pub fn show(cx: &Context, args: &TimelineArgs) -> Outcome {
    let db = cx.open()?;
    if args.follow {
        return follow(cx, &db, args);
    }
    let narrow = args.since.is_some() || args.correlation.is_some() || args.test.is_some();
    let limit = args.limit.or((!narrow).then_some(NEWEST));
    let wanted = filter(args, db.now(), limit);
    let live = db.read(|tx| tx.events(&wanted))?;
    let events = history(&db).events(live, &wanted)?;
    if cx.out.json {
        return cx.out.document(&json_events(&events));
    }
    if events.is_empty() && !cx.out.quiet {
        return cx.out.text("no events");
    }
    let short = db.read(|tx| short_ids(tx, &events))?;
    cx.out.text(&events.iter().map(|event| line(cx, event, &short)).collect::<String>())
}

fn filter(args: &TimelineArgs, now: coord_db::Timestamp, limit: Option<i64>) -> EventFilter {
    EventFilter {
        since: args.since.map(|since| since.resolve(now)),
        until: args.until.map(|until| until.resolve(now)),
        source: args.source.clone(),
        event_type: args.event_type.clone(),
        test_id: args.test.clone(),
        correlation_id: args.correlation.clone(),
        limit,
        after_position: None,
    }
}

fn follow(cx: &Context, db: &Database, args: &TimelineArgs) -> Outcome {
    let mut listener = Listener::new(db.path().unwrap_or(&cx.path));
    let print = |events: &[Event]| -> Outcome {
        let short = if cx.out.json { Short::default() } else { db.read(|tx| short_ids(tx, events))? };
        for event in events {
            if cx.out.json { cx.out.json_line(&JsonEvent::from(event))? } else { cx.out.text(&line(cx, event, &short))? }
        }
        Ok(())
    };
    let (events, mut position) = db.read(|tx| {
        let limit = args.limit.or(args.since.is_none().then_some(BEFORE_FOLLOWING));
        Ok::<_, Error>((tx.events(&filter(args, tx.now(), limit))?, tx.last_event_position()?))
    })?;
    print(&events)?;
    let mut version = None;
    loop {
        listener.wait(SLOW_LOOK);
        let seen = db.data_version()?;
        if version == Some(seen) {
            continue;
        }
        version = Some(seen);
        let events;
        (events, position) = db.read(|tx| {
            let news = EventFilter { since: None, limit: None, after_position: Some(position), ..filter(args, tx.now(), None) };
            Ok::<_, Error>((tx.events(&news)?, tx.last_event_position()?))
        })?;
        print(&events)?;
    }
}

fn short_ids(tx: &ReadTx<'_>, events: &[Event]) -> Result<Short, Error> {
    Short::of(tx, IdOf::Event, events.iter().map(|event| event.id.as_str()))
}

fn line(cx: &Context, event: &Event, short: &Short) -> String {
    let id = safe(short.get(event.id.as_str()));
    let head = format!("{:<18}  {:<20}", safe(&event.source), safe(&event.event_type));
    let time = clock(event.timestamp);
    let pad = " ".repeat(8_usize.saturating_sub(id.chars().count()) + 2);
    let before = " ".repeat(time.len() + id.chars().count() + pad.len() + head.chars().count() + 4);
    let id = cx.out.paint(Paint::BoldEnd(short.enough(event.id.as_str())), &id);
    let text = cx.out.folded(&before, Paint::Plain, &sentence(event));
    format!("{}  {id}{pad}{}  {}", cx.out.paint(Paint::Dim, &time), cx.out.paint(urgency(event), &head), text.trim_start())
}

/// The more urgent, the louder.
pub(super) fn urgency(event: &Event) -> Paint {
    match event.priority {
        ..=1 => Paint::Red,
        2 => Paint::Yellow,
        3 => Paint::Blue,
        _ => Paint::Plain,
    }
}
